"""What a user sees when the network or the platform has a bad day, and how often anything was sent."""

import base64
import socket

import attrs
import pytest
from integration.rest.conftest import REQUEST, TOKEN
from integration.rest.scripted import (
    Server,
    cut_short,
    data,
    drip,
    flood,
    hang_up,
    page,
    reply,
    reset,
    stall,
)

from canfar_batch import errors

ID = "abcd1234"
ENTRY = {"id": ID, "name": "b-1", "status": "Running", "type": "headless"}
KUBERNETES = (
    "unexpected exception: java.lang.RuntimeException: io.kubernetes.client.openapi.ApiException: Message: \n"
    'HTTP response code: 404 jobs.batch "skaha-headless-ann-q1w2e3r4" not found'
)
UNAVAILABLE = reply(503, "temporarily unavailable: null", Retry_After="7")
RATE = reply(429, "slow down", Retry_After="11", service=False)


def raised(call, *args):
    with pytest.raises(errors.CanfarBatchError) as caught:
        call(*args)
    return caught.value


# -- a create -------------------------------------------------------------------------------------------------------

# step, class of the error, words in its text, whether the same would fail again (None: not in doubt)
CREATES = {
    "reset after the request": (reset, errors.LaunchInDoubt, ["not known", "ended the connection"], False),
    "hung up after the request": (hang_up, errors.LaunchInDoubt, ["not known", "ended the connection"], False),
    "400 for an unknown image": (
        reply(400, "No authentication provided for unknown or private image. x\n"),
        errors.PlatformRefused,
        ["No authentication provided", "half hour", "first tag", "CANFAR_REGISTRY__SECRET"],
        None,
    ),
    "400 for a foreign registry": (
        reply(400, "session image 'x' must come from one of [images.canfar.net]\n"),
        errors.PlatformRefused,
        ["must come from one of", "Push the image"],
        None,
    ),
    "400 for resources": (
        reply(400, "Invalid value for 'cores': 99\n"),
        errors.PlatformRefused,
        ["'cores'", "limits()"],
        None,
    ),
    "400 without the service's headers": (
        reply(400, "Missing parameter 'image'\n", service=False),
        errors.PlatformRefused,
        ["Missing parameter", "too large"],
        None,
    ),
    "403": (
        reply(403, "Not authorized to use the skaha system\n"),
        errors.AccessDenied,
        ["Not authorized to use the skaha system", "support@canfar.net"],
        None,
    ),
    "404 of the service": (reply(404, "no such storage\n"), errors.PlatformRefused, ["no such storage"], None),
    "404 of a proxy": (
        reply(404, "404 page not found\n", service=False),
        errors.LaunchInDoubt,
        ["not known", "404 page not found", "CANFAR_URL"],
        False,
    ),
    "404 of a web server": (page(404, "HTTP Status 404 - Not Found"), errors.LaunchInDoubt, ["HTTP Status 404"], False),
    "405 of the service": (reply(405, "unsupported: HTTP POST", service=False), errors.PlatformRefused, ["HTTP"], None),
    "409": (reply(409, "conflict\n"), errors.PlatformBusy, ["conflict", "again later"], None),
    "413 of a proxy": (page(413, "Request Entity Too Large"), errors.LaunchInDoubt, ["Too Large", "files"], True),
    "429": (RATE, errors.PlatformBusy, ["slow down", "11 s"], None),
    "500 because Kubernetes took nothing": (
        reply(500, KUBERNETES),
        errors.NotMade,
        ["skaha-headless-ann-q1w2e3r4", "Kubernetes did not take the job"],
        True,
    ),
    "500 because YAML could not be read": (
        reply(500, "unexpected exception: while parsing a block mapping"),
        errors.PlatformRefused,
        ["while parsing a block mapping"],
        None,
    ),
    "500 of another kind": (
        reply(500, "unexpected exception: java.io.IOException: Broken pipe", service=False),
        errors.LaunchInDoubt,
        ["The platform failed", "Broken pipe", "support@canfar.net"],
        False,
    ),
    "502": (page(502, "Bad Gateway"), errors.LaunchInDoubt, ["not known", "Bad Gateway", "502"], False),
    "503 of the service": (UNAVAILABLE, errors.PlatformBusy, ["temporarily unavailable", "7 s"], None),
    "503 of a proxy": (
        reply(503, "no available server\n", service=False),
        errors.LaunchInDoubt,
        ["no available server"],
        False,
    ),
    "504": (reply(504, "Gateway Timeout", service=False), errors.LaunchInDoubt, ["Gateway Timeout"], False),
    "a page with 200": (page(200, "Down for maintenance"), errors.LaunchInDoubt, ["Down for maintenance"], False),
    "a page with 403": (page(403, "Forbidden"), errors.LaunchInDoubt, ["Forbidden"], True),
    "an id that is no id": (reply(200, "ABCD-123\n"), errors.LaunchInDoubt, ["Not an id", "ABCD-123"], False),
    "an id in JSON": (data({"sessionId": ID}), errors.LaunchInDoubt, ["Not an id", ID], False),
    "an empty 200": (reply(200, ""), errors.LaunchInDoubt, ["Not an id"], False),
    "an id cut short": (cut_short(reply(200, "abcd1234\n"), -4), errors.LaunchInDoubt, ["before the whole"], False),
    "nothing of HTTP": (b"220 mail.example.org ESMTP\r\n\r\n", errors.LaunchInDoubt, ["not known"], False),
    "no end": (flood(reply(200, "", length=10**9)), errors.LaunchInDoubt, ["larger than"], False),
    "a redirect": (reply(307, "", Location="https://elsewhere.example/"), errors.LaunchInDoubt, ["elsewhere"], True),
}


@pytest.mark.parametrize("case", CREATES)
def test_create_that_fails_is_sent_once_and_says_why(case, connect, naps, nothing_leaks):
    step, kind, words, same_again = CREATES[case]
    with Server([step]) as server:
        error = raised(connect(server).launch, REQUEST)
        assert type(error) is kind
        assert [text for text in words if text not in str(error)] == []
        assert getattr(error, "launch_name", "b-1") == "b-1"
        assert getattr(error, "same_again", None) is same_again
        assert len(server.requests) == 1
        assert naps == []
    nothing_leaks(error)


def test_create_without_an_answer_is_in_doubt_and_sent_once(connect, nothing_leaks):
    with Server([stall]) as server:
        error = raised(connect(server, create=0.8).launch, REQUEST)
        assert type(error) is errors.LaunchInDoubt
        assert len(server.requests) == 1
    nothing_leaks(error)


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\n", reply(200, "", length=1000)], ids=["headers", "body"])
def test_create_whose_answer_drips_is_given_up_in_time(start, connect, nothing_leaks):
    with Server([drip(start)]) as server:
        error = raised(connect(server, create=0.8).launch, REQUEST)
        assert type(error) is errors.LaunchInDoubt
        assert "took longer than 0.8 s" in str(error)
        assert len(server.requests) == 1
    nothing_leaks(error)


def test_create_reset_before_it_was_read_is_in_doubt(connect, nothing_leaks):
    with Server(accept=[reset]) as server:
        error = raised(connect(server).launch, REQUEST)
        assert type(error) in (errors.LaunchInDoubt, errors.NotSent)  # whether a byte was on its way is for the kernel
        assert server.requests == []
        assert server.accepted == 1
    nothing_leaks(error)


def test_create_to_a_closed_port_was_provably_not_sent(connect, nothing_leaks):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    error = raised(connect(f"http://127.0.0.1:{port}/skaha/v1").launch, REQUEST)
    assert type(error) is errors.NotSent
    assert "refuses the connection" in str(error)
    nothing_leaks(error)


def test_create_to_an_unknown_host_was_provably_not_sent(connect, monkeypatch):
    def unknown(*_args, **_more):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    error = raised(connect("https://skaha.example/skaha/v1").launch, REQUEST)
    assert type(error) is errors.NotSent
    assert "https://skaha.example is not a known host name here" in str(error)


def test_create_never_uses_a_kept_connection(connect):
    with Server([reply(200, "a log"), reply(200, f"{ID}\n"), reply(200, "zzzz9999\n")]) as server:
        platform = connect(server)
        assert platform.logs(ID) == b"a log"
        assert platform.launch(REQUEST) == ID
        assert platform.launch(REQUEST) == "zzzz9999"
        assert len({each.connection for each in server.requests}) == 3


def test_create_sends_a_form_in_the_body_and_nothing_empty(connect):
    with Server([reply(200, f"{ID}\n")]) as server:
        connect(server).launch(REQUEST)
        (request,) = server.requests
    assert request.target == "/skaha/v1/session"
    assert request.headers["content-type"] == "application/x-www-form-urlencoded; charset=UTF-8"
    assert dict(request.form) == {
        "type": "headless", "name": "b-1", "image": "images.canfar.net/skaha/x:1", "cores": "2", "ram": "4", "cmd": "ls"
    }  # fmt: skip
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["user-agent"] == "canfar_batch/test"
    assert "x-skaha-registry-auth" not in request.headers


# -- questions ------------------------------------------------------------------------------------------------------

GOOD = data([ENTRY])
SOMETIMES = {
    "reset after the request": reset,
    "hung up": hang_up,
    "429 with a wait": RATE,
    "500": reply(500, "unexpected exception: java.lang.NullPointerException"),
    "502": page(502, "Bad Gateway"),
    "503 of the service": UNAVAILABLE,
    "503 of a proxy": reply(503, "no available server", service=False),
    "504": reply(504, "Gateway Timeout", service=False),
    "404 of a proxy": reply(404, "404 page not found", service=False),
    "a page with 200": page(200, "Sign in"),
    "JSON cut short": reply(200, '[{"id": "abcd', "application/json"),
    "a body shorter than promised": cut_short(GOOD, -10),
    "no JSON at all": reply(200, "all is well", "application/json"),
    "an object instead of a list": data({"id": ID}),
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "401 as the login service is down": reply(
        401, "BUG: Cannot access OIDC .well-known/openid-configuration end point", service=False
    ),
}


@pytest.mark.parametrize("case", SOMETIMES)
def test_question_that_fails_once_is_asked_again(case, connect, naps, nothing_leaks):
    with Server([SOMETIMES[case], GOOD]) as server:
        (container,) = connect(server).containers()
        assert container.id == ID
        assert len(server.requests) == 2
        assert len(naps) == 1
    nothing_leaks()


def test_question_that_stalls_is_asked_again(connect):
    with Server([stall], always=GOOD) as server:
        assert connect(server, read=0.2).containers()[0].id == ID


@pytest.mark.parametrize(
    "start", [b"HTTP/1.1 200 OK\r\nX: ", reply(200, "", length=10**6), b"HTTP/1.1 100 Continue\r\nX: "]
)
def test_answer_that_drips_is_ended(start, connect):
    with Server([drip(start)], always=GOOD) as server:
        assert connect(server, total=0.3).containers()[0].id == ID


def test_question_reset_before_it_was_read_is_asked_again(connect):
    with Server([GOOD], accept=[reset]) as server:
        assert connect(server).containers()[0].id == ID


ALWAYS = {
    "reset": (reset, errors.PlatformUnreachable, ["ended the connection"]),
    "502": (page(502, "Bad Gateway"), errors.PlatformBroken, ["502: Bad Gateway", "web page"]),
    "503 of the service": (UNAVAILABLE, errors.PlatformBusy, ["temporarily unavailable: null", "7 s"]),
    "503 of a proxy": (page(503, "503 Service Unavailable"), errors.PlatformBroken, ["503 Service Unavailable"]),
    "404 of a proxy": (page(404, "Not Found"), errors.PlatformBroken, ["CANFAR_URL", "other than the platform"]),
    "another 404": (reply(404, "session zzzz9999 not found"), errors.PlatformBroken, ["zzzz9999"]),
    "500": (reply(500, "unexpected exception: x"), errors.PlatformBroken, ["unexpected exception: x", "support@"]),
    "a page with 200": (page(200, "Sign in here"), errors.PlatformBroken, ["a web page came", "Sign in here"]),
    "another container": (data({**ENTRY, "id": "zzzz9999"}), errors.PlatformBroken, ["another container"]),
}


@pytest.mark.parametrize("case", ALWAYS)
def test_question_that_fails_every_time_is_given_up_after_four_attempts(case, connect, naps, nothing_leaks):
    step, kind, words = ALWAYS[case]
    with Server(always=step) as server:
        error = raised(connect(server).container, ID)
        assert type(error) is kind
        assert [text for text in words if text not in str(error)] == []
        assert len(server.requests) == 4
    nothing_leaks(error)


FINAL = {
    "404 of the service": (reply(404, f"session {ID} not found\n"), errors.JobNotFound, [ID, "forgot"]),
    "403": (reply(403, "No POSIX Principal"), errors.AccessDenied, ["No POSIX Principal", "support@canfar.net"]),
    "400": (reply(400, "canfar.net/id label value bad"), errors.PlatformRefused, ["label value"]),
    "a redirect": (
        reply(302, "", Location="https://elsewhere.example/login?token=1"),
        errors.PlatformBroken,
        ["redirects to https://elsewhere.example/login"],
    ),
    "no end": (flood(reply(200, "[", "application/json", length=10**12)), errors.PlatformBroken, ["10,000,000 bytes"]),
}


@pytest.mark.parametrize("case", FINAL)
def test_question_with_a_final_answer_is_not_repeated(case, connect, naps, nothing_leaks):
    step, kind, words = FINAL[case]
    with Server([step]) as server:
        error = raised(connect(server).container, ID)
        assert isinstance(error, kind)
        assert [text for text in words if text not in str(error)] == []
        assert "token=1" not in str(error)
        assert len(server.requests) == 1
        assert naps == []
    nothing_leaks(error)


def test_only_the_beginning_of_an_endless_error_is_read(connect):
    with Server([flood(reply(403, "no. ", length=10**12))]) as server:
        error = raised(connect(server, error=1000).containers)
        assert type(error) is errors.AccessDenied
        assert "no. " in error.server_text


def test_closed_port_is_named_after_four_attempts(connect, naps, nothing_leaks):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    error = raised(connect(f"http://127.0.0.1:{port}/skaha/v1").containers)
    assert isinstance(error, errors.PlatformUnreachable)
    assert isinstance(error, ConnectionError)
    assert f"http://127.0.0.1:{port} refuses the connection" in str(error)
    assert naps == [0.5, 1.0, 2.0]
    nothing_leaks(error)


def test_redirect_does_not_take_the_token_to_another_origin(connect):
    with Server(always=GOOD) as other:
        where = reply(307, "", Location=f"{other.url}/session")
        with Server([where, where]) as server:
            platform = connect(server)
            raised(platform.containers)
            raised(platform.launch, REQUEST)
        assert other.requests == []


def test_retry_after_of_the_server_is_kept(connect, naps):
    with Server([reply(429, "x", Retry_After="120"), GOOD]) as server:
        connect(server).containers()
    assert naps == [120.5]


def test_wait_of_more_than_two_minutes_is_left_to_the_caller(connect, naps):
    with Server([reply(429, "x", Retry_After="121")]) as server:
        error = raised(connect(server).containers)
    assert type(error) is errors.PlatformBusy
    assert error.retry_after == 121
    assert naps == []


def test_cancel_is_repeated_until_it_is_accepted(connect):
    with Server([page(502, "Bad Gateway"), reset, reply(200, "")]) as server:
        connect(server).cancel(ID)
        assert [each.method for each in server.requests] == ["DELETE"] * 3


def test_cancel_of_an_unknown_container_is_no_error_in_old_releases(connect):
    with Server([reply(404, f"session {ID} not found")]) as server:
        connect(server).cancel(ID)


@pytest.mark.parametrize(
    "id", ["", "/", "..", "ABCD1234", "abcd123", "abcd12345", "abcd1234/", "abcd123\n", "ab?view=x"]
)
def test_malformed_id_is_never_sent(id, connect):
    with Server(always=reply(200, "")) as server:
        platform = connect(server)
        for call in (platform.cancel, platform.container, platform.logs, platform.events):
            assert isinstance(raised(call, id), errors.JobNotFound)
        assert server.requests == []


TABLE = "TYPE   REASON   MESSAGE   FIRST-TIME   LAST-TIME\nNormal   Started   Started container x   <nil>   <nil>\n"


def test_events_have_three_values(connect):
    with Server([reply(200, TABLE), reply(200, "<none>\n"), reply(404, f"session {ID} not found.\n")]) as server:
        platform = connect(server)
        assert [platform.events(ID) for _ in range(3)] == [TABLE, "", None]


@pytest.mark.parametrize("trouble", [reply(200, ""), reply(200, "error: the server doesn't have a resource type x\n"),
                                     reply(404, "not found\n\n"), page(404, "Not Found")])  # fmt: skip
def test_an_answer_that_is_not_of_events_is_asked_for_again_and_is_never_nothing(trouble, connect):
    with Server([trouble, reply(200, TABLE), trouble, trouble, trouble, trouble]) as server:
        platform = connect(server)
        assert platform.events(ID) == TABLE
        assert type(raised(platform.events, ID)) is errors.PlatformBroken


def test_page_is_not_a_log_but_a_log_may_look_like_a_page(connect):
    with Server([page(200, "Sign in"), reply(200, b"<html>printed by the job\xff")]) as server:
        assert connect(server).logs(ID) == b"<html>printed by the job\xff"


def test_statistics_are_asked_for_once(connect, naps):
    with Server([UNAVAILABLE]) as server:
        assert isinstance(raised(connect(server).stats), errors.PlatformBusy)
    assert naps == []


def test_limits_and_images_are_remembered(connect):
    context = {"cores": {"options": [1, 2], "defaultRequest": 1}, "memoryGB": {"options": [4], "default": 4}}
    listed = data([{"id": "images.canfar.net/a/b:1", "types": ["headless"]}])
    with Server([data(context), listed]) as server:
        platform = connect(server)
        assert platform.limits() == platform.limits()
        assert platform.images() == platform.images()
        assert [each.target for each in server.requests] == ["/skaha/v1/context", "/skaha/v1/image?type=headless"]
        assert platform.user == "ann"


# -- a job's own secrets --------------------------------------------------------------------------------------------


def test_launch_that_is_quoted_back_shows_no_secret_of_the_job(connect, nothing_leaks):
    secret = "hush-4c0ffee-9d1b7e55aa21"
    coded = base64.b64encode(f"export A='{secret}'".encode()).decode()
    with Server([reply(400, f"cannot use {coded} or {secret}\n")]) as server:
        request = attrs.evolve(REQUEST, args=coded, secrets=(secret,))
        error = raised(connect(server).launch, request)
    assert "cannot use" in str(error)
    assert "[secret]" in str(error)
    nothing_leaks(error, secrets=(secret, base64.b64encode(secret.encode()).decode()[4:24]))
