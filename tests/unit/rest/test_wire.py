import json
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canfar_batch import errors
from canfar_batch.records import LaunchRequest, Phase, Resources
from canfar_batch.rest import answers, wire
from canfar_batch.rest.answers import Answer
from canfar_batch.rest.rows import parse_cores, parse_phase, parse_time

NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
HEADLESS = {
    "id": "abcd1234", "userid": "ann", "runAsUID": "1", "runAsGID": "1", "supplementalGroups": [1], "type": "headless",
    "image": "images.canfar.net/skaha/x:1", "status": "Running", "name": "job-1", "connectURL": "",
    "isFixedResources": True, "requestedGPUCores": "0", "requestedRAM": "4.29", "requestedCPUCores": "2",
    "startTime": "2025-04-10T15:45Z", "expiryTime": "2025-04-24T15:45:00Z", "ramInUse": "1.07",
    "cpuCoresInUse": "0.500",
}  # fmt: skip


def answer(status=200, body="", kind="text/plain", **headers):
    known = {"content-type": kind} | {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status=status, headers=known, body=body.encode() if isinstance(body, str) else body)


def listed(*entries):
    return wire.read_containers(answer(body=json.dumps(entries), kind="application/json;charset=utf-8"))


# -- containers -------------------------------------------------------------------------------------------------------


def test_a_container_of_the_newest_release_is_read_whole():
    (container,) = listed(HEADLESS)
    assert (container.id, container.name, container.phase, container.status) == (
        "abcd1234",
        "job-1",
        Phase.RUNNING,
        "Running",
    )
    assert container.started_at == datetime(2025, 4, 10, 15, 45, tzinfo=timezone.utc)
    assert container.expires_at - container.started_at == timedelta(days=14)
    assert (container.cores, container.ram, container.gpus, container.cores_in_use) == (2.0, 4.0, 0, 0.5)
    assert container.ram_in_use == pytest.approx(0.9965, abs=1e-4)


def test_a_container_of_an_old_release_is_read_too():
    nothing = dict.fromkeys(("startTime", "expiryTime", "ramInUse", "cpuCoresInUse", "requestedGPUCores"), "<none>")
    (container,) = listed({**HEADLESS, **nothing, "requestedRAM": "4G", "status": "Succeeded"})
    assert (container.phase, container.ram, container.started_at, container.gpus) == (Phase.COMPLETED, 4.0, None, 0)


def test_all_but_the_id_may_be_missing_or_odd():
    (bare,) = listed({"id": "abcd1234"})
    assert (bare.phase, bare.cores, bare.ram, bare.name) == (Phase.OTHER, None, None, "")
    (odd,) = listed({name: ["?"] for name in HEADLESS} | {"id": "abcd1234"})
    assert (odd.started_at, odd.cores, odd.ram, odd.gpus) == (None, None, None, 0)


@given(
    st.dictionaries(
        st.sampled_from(list(HEADLESS)), st.none() | st.text() | st.integers() | st.floats() | st.booleans()
    )
)
def test_no_value_of_any_field_breaks_the_list(values):
    odd, good = listed({**HEADLESS, **values, "id": "zzzz9999"}, HEADLESS)
    assert repr(odd)
    assert good.phase is Phase.RUNNING


def test_an_entry_without_an_id_is_left_out_and_logged(caplog):
    assert [each.id for each in listed({"status": "Running", "type": "notebook"}, HEADLESS)] == ["abcd1234"]
    assert "without an id" in caplog.text


@pytest.mark.parametrize(
    ("word", "phase"),
    [
        ("Pending", Phase.PENDING), ("running", Phase.RUNNING), ("Completed", Phase.COMPLETED),
        ("Succeeded", Phase.COMPLETED), ("Failed", Phase.FAILED), ("Failed (BackoffLimitExceeded)", Phase.FAILED),
        ("Error", Phase.FAILED), ("Terminating", Phase.OTHER), ("Unknown", Phase.OTHER), ("", Phase.OTHER),
        ("FailureTarget (x)", Phase.OTHER), ("Failing", Phase.OTHER), ("Complete", Phase.COMPLETED),
    ],
)  # fmt: skip
def test_the_words_of_all_releases_are_known(word, phase):
    assert parse_phase(word) is phase


@pytest.mark.parametrize("gib", [1, 2, 4, 6, 8, 10, 12, 16, 24, 28, 32, 44, 48, 56, 80, 92, 112, 140, 170, 192, 512])
def test_ram_that_was_asked_for_comes_back_as_it_was(gib):
    (container,) = listed({**HEADLESS, "requestedRAM": f"{gib * 2**30 / 1e9:.2f}"})
    assert container.ram == gib


@pytest.mark.parametrize(
    ("text", "cores"),
    [("2", 2), ("0.500", 0.5), ("500m", 0.5), ("3123456789n", 3.123456789), (3, 3), ("x", None), ("", None)],
)
def test_cores_come_in_several_units(text, cores):
    assert parse_cores(text) == (None if cores is None else pytest.approx(cores))


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2025-04-10T15:45Z", datetime(2025, 4, 10, 15, 45, tzinfo=timezone.utc)),
        ("2025-04-10T15:45:01.123456789Z", datetime(2025, 4, 10, 15, 45, 1, 123456, tzinfo=timezone.utc)),
        ("2025-04-10T08:45-07:00", datetime(2025, 4, 10, 15, 45, tzinfo=timezone.utc)),
        ("2025-04-10T15:45", datetime(2025, 4, 10, 15, 45, tzinfo=timezone.utc)),
        ("0001-01-01T00:00+14:00", None), ("yesterday", None), (None, None), (5, None), ("", None),
    ],
)  # fmt: skip
def test_times_are_read_leniently(text, time):
    assert parse_time(text) == time


@pytest.mark.parametrize(
    "body",
    ["", "{}", "[1]", '[{"id": "abcd', "null", "<html>", "[" * 100_000, '["\ud800'.encode("utf-8", "surrogatepass")],
)
def test_what_is_no_list_of_containers_is_broken(body):
    with pytest.raises(errors.PlatformBroken):
        wire.read_containers(answer(body=body, kind="application/json"))


# -- launching --------------------------------------------------------------------------------------------------------


def form(**fields):
    request = LaunchRequest(**{"name": "n-1", "image": "i", "resources": Resources(), **fields})
    return parse_qsl(wire.launch_form(request).decode("ascii"), keep_blank_values=True, strict_parsing=True)


def test_what_is_not_asked_for_is_not_sent():
    assert form() == [("type", "headless"), ("name", "n-1"), ("image", "i")]
    assert form(cmd="", args="", resources=Resources(gpus=0)) == form()


def test_numbers_are_sent_as_whole_ones_and_variables_each():
    sent = form(resources=Resources(cores=2, ram=16, gpus=1), env=(("A", "1"), ("B", "ü &=+%")))
    assert sent[3:] == [("cores", "2"), ("ram", "16"), ("gpus", "1"), ("env", "A=1"), ("env", "B=ü &=+%")]


@given(st.text(), st.text())
def test_every_text_survives_the_form(cmd, args):
    try:
        (cmd + args).encode()
    except UnicodeEncodeError:
        return
    sent = dict(form(cmd=cmd, args=args))
    assert (sent.get("cmd", ""), sent.get("args", "")) == (cmd, args)


@pytest.mark.parametrize("body", ["abcd1234\n", "abcd1234", " a1b2c3d4\r\n"])
def test_an_id_is_an_id(body):
    assert wire.read_launch(answer(body=body), "n") == body.strip()


@pytest.mark.parametrize(
    ("body", "kind"),
    [("abcd1234", "text/html"), ("abcd1234", ""), ("abcd123", "text/plain"), ("ABCD1234", "text/plain"),
     ("abcd1234 x", "text/plain"), ('"abcd1234"', "text/plain"), ("\uff41bcd1234", "text/plain"), ("", "text/plain")],
)  # fmt: skip
def test_what_is_no_id_leaves_the_launch_in_doubt(body, kind):
    with pytest.raises(errors.LaunchInDoubt) as caught:
        wire.read_launch(answer(body=body, kind=kind), "n")
    assert caught.value.launch_name == "n"


@given(
    st.integers(201, 599), st.binary(max_size=60), st.sampled_from(["text/plain", "text/html", "application/json", ""])
)
def test_every_answer_to_a_create_is_a_refusal_or_a_doubt(status, body, kind):
    with pytest.raises((errors.PlatformRefused, errors.PlatformBusy, errors.LaunchInDoubt)) as caught:
        wire.read_launch(Answer(status=status, headers={"content-type": kind}, body=body), "n")
    if status >= 500 or status < 400:  # none of these can be the service's documented no
        assert isinstance(caught.value, errors.LaunchInDoubt) or (status == 503 and body.startswith(b"temporarily"))


# -- judging ----------------------------------------------------------------------------------------------------------


def test_only_the_services_own_words_make_a_container_unknown():
    for body in ("session abcd1234 not found", "session abcd1234 not found.\n"):
        with pytest.raises(errors.JobNotFound):
            wire.read_container(answer(404, body), "abcd1234")
    for body in ("404 page not found", "session zzzz1234 not found", "", "the session abcd1234 not found"):
        with pytest.raises(errors.PlatformBroken):
            wire.read_container(answer(404, body), "abcd1234")
    with pytest.raises(errors.PlatformBroken):
        wire.read_container(answer(404, "<html>session abcd1234 not found</html>", "text/html"), "abcd1234")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("30", 30), ("0", 0), ("1.5", 1.5), (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90),
     (format_datetime(NOW - timedelta(hours=1), usegmt=True), 0), ("soon", None), ("", None), ("-5", None),
     ("9" * 40, None), ("Mon, 99 Foo 2026", None)],
)  # fmt: skip
def test_retry_after_is_a_number_or_a_date(header, seconds):
    assert answers.retry_after(answer(503, retry_after=header), NOW) == seconds


def test_words_are_plain_short_and_without_markup():
    page = "<!DOCTYPE html><html><head><title>503 Down</title><script>x='<b>'</script></head>be&nbsp;back<br>soon"
    assert answer(503, page, "text/html").text == "503 Down be back soon"
    assert answer(500, "a\x1b[31m red\n\n\tb\x00").text == "a [31m red b"
    assert len(answer(500, "x " * 5000).text) == answers.TEXT_LIMIT


@given(st.binary(max_size=3000))
def test_words_can_be_had_of_anything(body):
    words = answer(500, body, "text/html").text
    assert words.isprintable()
    assert len(words) <= answers.TEXT_LIMIT


@pytest.mark.parametrize(
    ("given", "yes"),
    [
        (answer(401, "Token has expired"), True),
        (answer(400, "cannot get group memberships for anonymous\n"), True),
        (answer(400, "Missing parameter 'image'"), False),
        (answer(401, "Cannot validate token using user info endpoint"), True),
        (answer(401, "BUG: Cannot access OIDC .well-known/openid-configuration end point"), False),
        (answer(403, "Not authorized to use the skaha system"), False),
    ],
)
def test_a_refused_credential_is_recognised(given, yes):
    assert answers.is_unauthorised(given) is yes


@pytest.mark.parametrize(
    ("given", "yes"),
    [
        (answer(503, "temporarily unavailable: null"), True),
        (answer(500, "unexpected exception: java.lang.X"), True),
        (answer(400, "anything", x_vo_authenticated="ann"), True),
        (answer(404, "x", server="OpenCADC/cadc-rest"), True),
        (answer(503, "no available server"), False),
        (answer(502, "Bad Gateway"), False),
        (answer(404, "404 page not found"), False),
        (answer(500, "Internal Server Error"), False),
        (answer(503, "<html>temporarily unavailable: null", "text/html"), False),
    ],
)
def test_the_service_and_what_stands_before_it_are_told_apart(given, yes):
    assert answers.is_service(given) is yes


def test_who_we_are_is_taken_from_the_answer_if_it_is_a_name():
    assert answer(x_vo_authenticated="ann").user == "ann"
    assert answer(x_vo_authenticated="").user is None
    assert answer(x_vo_authenticated="a b").user is None
    assert answer().user is None


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_limits_are_read_in_both_of_their_shapes():
    context = {
        "cores": {"default": 1, "defaultRequest": 1, "defaultLimit": 8, "options": [2, 1, 16]},
        "memoryGB": {"default": 4, "options": ["8", 4]},
        "gpus": {"options": []},
        "maxInteractiveSessions": "3",
    }
    limits = wire.read_limits(answer(body=json.dumps(context), kind="application/json"))
    assert (limits.cores, limits.ram, limits.gpus) == ((1, 2, 16), (4, 8), ())
    assert (limits.default_cores, limits.default_ram) == (1.0, 4.0)


@pytest.mark.parametrize("body", ["{}", '{"cores": 1}', "[]", '{"cores": {"options": 5}}'])
def test_limits_without_options_are_broken(body):
    with pytest.raises(errors.PlatformBroken):
        wire.read_limits(answer(body=body, kind="application/json"))


def test_images_are_read_leniently():
    body = json.dumps([{"id": "a:1", "types": ["headless"], "digest": "sha256:0"}, {"id": "b:2"}, {"types": []}, 5])
    listed = wire.read_images(answer(body=body, kind="application/json"))
    assert [(each.id, each.kinds, each.digest) for each in listed] == [
        ("a:1", ("headless",), "sha256:0"),
        ("b:2", (), ""),
    ]


def test_events_tell_none_from_no_pod():
    assert wire.read_events(answer(body="<none>\n"), "abcd1234") == ""
    assert wire.read_events(answer(404, "session abcd1234 not found."), "abcd1234") is None
    assert wire.read_events(answer(body="TYPE   REASON"), "abcd1234") == "TYPE   REASON"
