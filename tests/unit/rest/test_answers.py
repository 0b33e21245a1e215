"""The judgement on an answer: its origin, its proof, and its text."""

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canfar_batch.rest import answers
from canfar_batch.rest.answers import Answer

NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


def answer(status=200, body="", kind="text/plain", **headers):
    known = {"content-type": kind} | {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status=status, headers=known, body=body.encode() if isinstance(body, str) else body)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("30", 30), ("0", 0), ("1.5", 1.5), (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90),
     (format_datetime(NOW - timedelta(hours=1), usegmt=True), 0), ("soon", None), ("", None), ("-5", None),
     ("9" * 40, None), ("Mon, 99 Foo 2026", None)],
)  # fmt: skip
def test_retry_after_is_a_number_or_a_date(header, seconds):
    assert answers.retry_after(answer(503, retry_after=header), NOW) == seconds


def test_text_is_plain_short_and_without_markup():
    page = "<!DOCTYPE html><html><head><title>503 Down</title><script>x='<b>'</script></head>be&nbsp;back<br>soon"
    assert answer(503, page, "text/html").text == "503 Down be back soon"
    assert answer(500, "a\x1b[31m red\n\n\tb\x00").text == "a [31m red b"
    assert len(answer(500, "x " * 5000).text) == answers.TEXT_LIMIT


@given(st.binary(max_size=3000))
def test_any_body_has_a_text(body):
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
def test_refused_credential_is_recognised(given, yes):
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
def test_answers_of_the_service_and_of_proxies_are_distinguished(given, yes):
    assert answers.is_service(given) is yes


def test_user_is_the_name_in_the_header():
    assert answer(x_vo_authenticated="ann").user == "ann"
    assert answer(x_vo_authenticated="").user is None
    assert answer(x_vo_authenticated="a b").user is None
    assert answer().user is None


@pytest.mark.parametrize(
    ("given", "yes"),
    [
        (answer(200, "[]", "application/json"), True),
        (answer(404, "session abcd1234 not found", x_vo_authenticated="ann"), True),
        (answer(200, "<html>Sign in", "text/html"), False),
        (answer(404, "404 page not found"), False),
        (answer(503, "temporarily unavailable: null"), False),
    ],
)
def test_accepted_credential_is_recognised(given, yes):
    assert answers.is_accepted(given) is yes
