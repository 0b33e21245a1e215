"""Every answer that the real service gave while one of its neighbours was ill, played over HTTP.

The answer alone cannot show an outage. So a refusal must arrive with class, status and text, for the engine to decide
by history; and it must never pass for absence, an empty result, or a launch in doubt.
"""

import json
from pathlib import Path

import pytest
from integration.rest.conftest import REQUEST
from integration.rest.scripted import Server, page, reply

from canfar_batch import errors

ID = "abcd1234"
RECORDED = json.loads((Path(__file__).parents[2] / "contract" / "parity" / "outages.json").read_text())
ANSWERS = {
    f"{number} {row['service']} {row['fault']} {row['request']}": row
    for number, row in enumerate(RECORDED)
    if row.get("status", 200) != 200
}
QUESTIONS = {
    "list": lambda platform: platform.containers(),
    "read one": lambda platform: platform.container(ID),
    "logs": lambda platform: platform.logs(ID),
    "streamed logs": lambda platform: list(platform.stream_logs(ID)),
    "events": lambda platform: platform.events(ID),
    "renew": lambda platform: platform.renew(ID),
    "cancel": lambda platform: platform.cancel(ID),
}


def played(row, *, signed=True):
    headers = {name.replace("-", "_"): values[0] for name, values in row["headers"].items() if name != "content-type"}
    if signed:
        headers["Server"] = "OpenCADC/cadc-rest"
    return reply(row["status"], row["text"], row["headers"]["content-type"][0], service=False, **headers)


def raised(call, *args):
    with pytest.raises(errors.CanfarBatchError) as caught:
        call(*args)
    return caught.value


def text_of(row):
    return " ".join(row["text"].split())


def is_login_outage(row):
    return row["status"] == 401 and row["text"].startswith("BUG: Cannot access OIDC")


def expected_of_a_create(row):
    if is_login_outage(row) or row["status"] == 503:
        return errors.PlatformBusy
    return {
        400: errors.PlatformRefused,
        401: errors.CredentialRefused,
        403: errors.AccessDenied,
        404: errors.PlatformRefused,
        500: errors.NotMade,
    }[row["status"]]


def expected_of_a_question(row):
    kind = expected_of_a_create(row)
    return errors.PlatformBroken if row["status"] in (404, 500) else kind


@pytest.mark.parametrize("case", ANSWERS)
def test_create_is_known_to_have_made_nothing(case, connect, nothing_leaks):
    row = ANSWERS[case]
    with Server([played(row)]) as server:
        error = raised(connect(server).launch, REQUEST)
        assert len(server.requests) == 1
    assert type(error) is expected_of_a_create(row)
    assert (error.status, error.server_text) == (row["status"], text_of(row))
    if isinstance(error, errors.PlatformRefused):
        assert error.may_pass
    if isinstance(error, errors.NotMade):
        assert not error.same_again
    nothing_leaks(error)


@pytest.mark.parametrize("case", ANSWERS)
def test_create_is_judged_alike_behind_a_proxy_that_strips_headers(case, connect):
    row = ANSWERS[case]
    with Server([played(row, signed=False)]) as server:
        error = raised(connect(server).launch, REQUEST)
    # `not found` may then be a proxy's own
    assert type(error) is (errors.LaunchInDoubt if row["status"] == 404 else expected_of_a_create(row))


@pytest.mark.parametrize("case", ANSWERS)
def test_question_is_an_error_and_never_an_absence(case, connect):
    row = ANSWERS[case]
    for signed in (True, False):
        with Server(always=played(row, signed=signed)) as server:
            platform = connect(server)
            for ask in QUESTIONS.values():
                error = raised(ask, platform)
                assert type(error) is expected_of_a_question(row)
                assert (error.status, error.server_text) == (row["status"], text_of(row))


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("text", ["not found\n\n", "session zzzz9999 not found\n", "404 page not found", ""])
def test_an_absent_container_is_one_text(text, question, connect):
    with Server(always=reply(404, text)) as server:
        assert type(raised(QUESTIONS[question], connect(server))) is errors.PlatformBroken


def test_neighbour_that_hangs_leaves_a_create_in_doubt(connect):
    def say_nothing(conn, server):
        server.stopped.wait(30)

    with Server([say_nothing]) as server:
        assert type(raised(connect(server, create=0.3).launch, REQUEST)) is errors.LaunchInDoubt


# -- 500s of a create -------------------------------------------------------------------------------------------------

API = "unexpected exception: java.lang.RuntimeException: io.kubernetes.client.openapi.ApiException: Message: "
QUEUE_AWAY = f'{API}\nHTTP response code: 404 … jobs.batch "skaha-headless-ann-q1w2e3r4" not found'
NOT_MADE = {
    "the queue is away": (QUEUE_AWAY, True),
    "a replica is poisoned": (
        "unexpected exception: java.lang.NoClassDefFoundError: Could not initialize class "
        "org.opencadc.skaha.session.PostAction$ResourceSpecification",
        False,
    ),
    "a replica is being poisoned": ("unexpected exception: java.lang.ExceptionInInitializerError", False),
    "Redis hangs": (
        "unexpected exception: redis.clients.jedis.exceptions.JedisConnectionException: "
        "java.net.SocketTimeoutException: Read timed out",
        False,
    ),
    "Redis is full": (
        "unexpected exception: redis.clients.jedis.exceptions.JedisDataException: ERR max number of clients reached",
        False,
    ),
    "the API server is away": (
        f"{API}java.net.ConnectException: Failed to connect to /127.0.0.1:16443\nHTTP response code: 0",
        False,
    ),
}


@pytest.mark.parametrize("case", NOT_MADE)
def test_create_that_failed_before_anything_was_made_says_so_in_the_servers_words(case, connect):
    text, same_again = NOT_MADE[case]
    with Server([reply(500, text)]) as server:
        error = raised(connect(server).launch, REQUEST)
        assert len(server.requests) == 1
    assert type(error) is errors.NotMade
    assert error.same_again is same_again
    assert " ".join(text.split()) in str(error)


IN_DOUBT = {
    "the job could not be read back": f"{API}java.net.SocketTimeoutException: timeout\nHTTP response code: 0",
    "the API server fails": f"{API}Internal error\nHTTP response code: 500",
    "something unknown": "unexpected exception: java.lang.NullPointerException",
    "a proxy quotes the service": "upstream said: jobs.batch x not found",
}


@pytest.mark.parametrize("case", IN_DOUBT)
def test_create_that_may_have_made_something_is_in_doubt(case, connect):
    with Server([reply(500, IN_DOUBT[case], service=False)]) as server:
        assert type(raised(connect(server).launch, REQUEST)) is errors.LaunchInDoubt


def test_page_with_500_leaves_a_create_in_doubt(connect):
    with Server([page(500, "HTTP Status 500 - Internal Server Error")]) as server:
        assert type(raised(connect(server).launch, REQUEST)) is errors.LaunchInDoubt


CERTAIN = [
    (400, "Missing parameter 'image'\n"),
    (400, "session image 'x' must come from one of [images.canfar.net]\n"),
    (400, "name can only contain alpha-numeric chars and '-'\n"),
    (400, "Illegal group reference\n"),
    (400, "No group with name {X}\n"),
    (400, "canfar.net/name label value cannot be blank\n"),
    (400, "Invalid session type: x\n"),
    (400, "named capturing group has 0 length name\n"),
    (500, "unexpected exception: java.lang.IndexOutOfBoundsException: No group 1"),
    (405, "unsupported: HTTP POST\n"),
    (500, "unexpected exception: while parsing a block mapping"),
    (500, "unexpected exception: special characters are not allowed"),
]


@pytest.mark.parametrize(("status", "text"), CERTAIN)
def test_refusal_that_is_about_the_request_will_not_pass(status, text, connect):
    with Server([reply(status, text)]) as server:
        error = raised(connect(server).launch, REQUEST)
    assert type(error) is errors.PlatformRefused
    assert not error.may_pass


def test_renewal_of_a_container_that_does_not_run_is_refused(connect):
    text = f"No active job for user PosixPrincipal [uidNumber=10000,10000,ann] with session {ID}\n"
    with Server([reply(200, ""), reply(400, text)]) as server:
        platform = connect(server)
        platform.renew(ID)
        error = raised(platform.renew, ID)
        first = server.requests[0]
    assert (first.method, first.path, first.form) == ("POST", f"/skaha/v1/session/{ID}", [("action", "renew")])
    assert first.headers["content-type"] == "application/x-www-form-urlencoded; charset=UTF-8"
    assert type(error) is errors.PlatformRefused
    assert error.may_pass  # it may be suspended, and run again
