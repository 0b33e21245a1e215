"""Requests become forms, answers become records."""

import json
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canfar_batch import errors
from canfar_batch.records import LaunchRequest, Resources
from canfar_batch.rest import wire
from canfar_batch.rest.answers import Answer


def answer(status=200, body="", kind="text/plain", **headers):
    known = {"content-type": kind} | {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status=status, headers=known, body=body.encode() if isinstance(body, str) else body)


# -- launching --------------------------------------------------------------------------------------------------------


def form(**fields):
    request = LaunchRequest(**{"name": "n-1", "image": "i", "resources": Resources(), **fields})
    return parse_qsl(wire.launch_form(request).decode("ascii"), keep_blank_values=True, strict_parsing=True)


def test_absent_values_are_not_sent():
    assert form() == [("type", "headless"), ("name", "n-1"), ("image", "i")]
    assert form(cmd="", args="", resources=Resources(gpus=0)) == form()


def test_numbers_are_sent_as_integers_and_variables_one_by_one():
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
def test_launch_is_answered_with_an_id(body):
    assert wire.read_launch(answer(body=body), "n") == body.strip()


@pytest.mark.parametrize(
    ("body", "kind"),
    [("abcd1234", "text/html"), ("abcd1234", ""), ("abcd123", "text/plain"), ("ABCD1234", "text/plain"),
     ("abcd1234 x", "text/plain"), ('"abcd1234"', "text/plain"), ("\uff41bcd1234", "text/plain"), ("", "text/plain")],
)  # fmt: skip
def test_malformed_id_leaves_the_launch_in_doubt(body, kind):
    with pytest.raises(errors.LaunchInDoubt) as caught:
        wire.read_launch(answer(body=body, kind=kind), "n")
    assert caught.value.launch_name == "n"


@given(
    st.integers(201, 599), st.binary(max_size=60), st.sampled_from(["text/plain", "text/html", "application/json", ""])
)
def test_every_other_answer_to_a_create_is_a_refusal_or_a_doubt(status, body, kind):
    with pytest.raises((errors.PlatformRefused, errors.PlatformBusy, errors.LaunchInDoubt)) as caught:
        wire.read_launch(Answer(status=status, headers={"content-type": kind}, body=body), "n")
    if status >= 500 or status < 400:  # none of these can be the service's documented no
        assert isinstance(caught.value, errors.LaunchInDoubt) or (status == 503 and body.startswith(b"temporarily"))


# -- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    ["", "{}", "[1]", '[{"id": "abcd', "null", "<html>", "[" * 100_000, '["\ud800'.encode("utf-8", "surrogatepass")],
)
def test_malformed_list_is_an_error(body):
    with pytest.raises(errors.PlatformBroken):
        wire.read_containers(answer(body=body, kind="application/json"))


def test_only_the_services_own_text_makes_a_container_unknown():
    for body in ("session abcd1234 not found", "session abcd1234 not found.\n"):
        with pytest.raises(errors.JobNotFound):
            wire.read_container(answer(404, body), "abcd1234")
    for body in ("404 page not found", "session zzzz1234 not found", "", "the session abcd1234 not found"):
        with pytest.raises(errors.PlatformBroken):
            wire.read_container(answer(404, body), "abcd1234")
    with pytest.raises(errors.PlatformBroken):
        wire.read_container(answer(404, "<html>session abcd1234 not found</html>", "text/html"), "abcd1234")


def test_limits_are_read_in_both_forms():
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
def test_limits_without_options_are_an_error(body):
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
