import base64
import string
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from canfar_batch.rest.redaction import Secrets
from canfar_batch.text import MASK

TOKEN = "a+b/c=d&e.f-g_h~i0123456789"
WORDS = st.text(string.printable, max_size=40)
TOKENS = st.text(string.ascii_letters + string.digits + "+/=&.-_~%", min_size=16, max_size=60)


def redact(text, secrets):
    return Secrets(*secrets).redact(text)


def b64(text):
    return base64.b64encode(text.encode()).decode()


@given(WORDS, TOKENS, WORDS)
@example("Authorization: Bearer ", TOKEN, "!")
def test_no_spelling_of_a_secret_survives(before, token, after):
    for spelled in (token, quote(token, safe=""), token.upper(), token.encode().hex(), token[:14], token[-13:]):
        assert spelled not in redact(f"{before}{spelled}{after}", [token])


@given(st.text(string.ascii_letters, max_size=20), TOKENS, st.text(string.ascii_letters, max_size=20))
def test_no_base64_that_holds_a_secret_survives(before, token, after):
    coded = b64(before + token + after)
    shown = redact(f"got {coded}.", [token])
    assert shown.startswith("got ")
    # what holds nothing but the secret, in base64
    first, last = len(before) * 4 // 3 + 2, len(before + token) * 4 // 3 - 2
    assert not any(coded[i : i + 12] in shown for i in range(first, last - 12))


@given(st.text(max_size=200))
def test_text_without_secrets_is_unchanged(text):
    assert redact(text, ["zq-never-in-any-text-0123456789"]) == text or "bearer" in text.lower() or "eyJ" in text


def test_unknown_jwt_and_bearer_are_masked():
    jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
    assert redact(f"bad token {jwt}!", []) == f"bad token {MASK}!"
    assert redact("authorization: bearer QWERTY-987654321 x", []) == f"authorization: bearer {MASK} x"


def test_short_secrets_are_masked_whole():
    assert redact("password hunter2, or HUNTER2", ["hunter2"]) == f"password {MASK}, or {MASK}"
    assert redact("abc", ["", "ab"]) == "abc"


def test_one_mask_stands_for_one_secret():
    assert redact(f"<{TOKEN}> <{TOKEN}>", [TOKEN]) == f"<{MASK}> <{MASK}>"


def test_newest_secrets_are_remembered_and_not_shown():
    secrets = Secrets(*(f"secret-number-{n:05d}-of-many" for n in range(200)))
    assert "00199" not in secrets.redact("it is secret-number-00199-of-many")
    assert "secret-number" not in repr(secrets)


def test_error_that_quotes_a_secret_anywhere_is_not_a_cause():
    secrets = Secrets(TOKEN)
    inner = ValueError(f"no such header: {TOKEN}")
    outer = RuntimeError("failed", inner)
    behind = KeyError("x")
    behind.__context__ = inner
    assert secrets.clean(outer) is None
    assert secrets.clean(behind) is None
    fine = OSError("reset")
    fine.__cause__ = fine
    assert secrets.clean(fine) is fine


@pytest.mark.parametrize("text", ["İ" * 30 + TOKEN, "ß" + TOKEN + "ﬃ"])
def test_letters_that_change_length_do_not_shift_the_mask(text):
    assert redact(text, [TOKEN]) == text.replace(TOKEN, MASK)
