"""Payloads: what is sent as it is, what is encoded, and what cannot be sent."""

from __future__ import annotations

import base64
import re

import pytest

from canfar_batch.errors import SpecError
from canfar_batch.payload.encode import OUTER, Payload, encode_exec, encode_plain, encode_wrapped, is_plain

NAME = "calib-ngc1275-k3x9z1-1f-2"

# -- plain --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "word", ["python", "/arc/home/x.py", "--n=5", "a@b%c+d:e,f", "1e3", "017", "0x1f", "2026-01-01", "yes"]
)
def test_plain_words_are_sent_unchanged(word):
    assert is_plain(["prog", word])
    assert encode_exec(["prog", word], {"A": "b"}) == Payload("prog", word, (("A", "b"),))


def test_without_arguments_args_is_not_sent():
    assert encode_exec(["prog"]) == Payload("prog", None, ())


@pytest.mark.parametrize(
    "word",
    [
        "",
        " ",
        "a b",
        "a\n",
        '"',
        "'",
        "\\",
        "$X",
        "y",
        "Y",
        "n",
        "N",
        "0o17",
        "-0o7",
        "0X1F",
        "0B1",
        "1e5_0",
        "1_000",
        ".5_0",
        "é",
        "*",
        "~",
    ],
)
def test_words_that_the_server_would_change_are_not_plain(word):
    assert not is_plain(["prog", word])
    assert not is_plain(["prog"], {"A": word})
    with pytest.raises(SpecError, match="not plain"):
        encode_plain(["prog", word])


@pytest.mark.parametrize(
    "name", ["YES", "no", "True", "null", "y", "N", "HOME", "PWD", "OMP_NUM_THREADS", "skaha_sessionid"]
)
def test_names_that_the_server_renames_or_sets_are_not_plain(name):
    assert not is_plain(["prog"], {name: "x"})
    assert not is_plain(["prog"], {"A": "a=b"})


def script(payload: Payload) -> str:
    assert payload.args is not None
    words = payload.args.split(" ")
    assert (payload.cmd, words[:3]) == ("/bin/sh", ["-c", OUTER, "job"])
    return base64.b64decode("".join(words[3:]), validate=True).decode("utf-8", "surrogateescape")


# -- payloads -----------------------------------------------------------------------------------------------------


def test_a_payload_has_only_characters_that_the_server_keeps():
    payload = encode_exec(["prog", "a b"])
    assert re.fullmatch(r"-c \S+ job ey[A-Za-z0-9+/]+", payload.args.replace("\t", ""))
    assert not set(OUTER) & set(" $\"\\\n'")
    assert payload.env == ()


def test_the_exec_form_has_no_wrapper():
    text = script(encode_exec(["prog", "it's"], {"A": "b c"}))
    assert text.rstrip(" ") == "{ export A='b c'\nexec 'prog' 'it'\\''s'\n}"


@pytest.mark.parametrize(
    "encode", [encode_exec, lambda argv, env=(): encode_wrapped(argv, env, launch_name=NAME, key="k")]
)
@pytest.mark.parametrize(
    ("argv", "env", "words"),
    [
        ([], {}, "no command"),
        ([""], {}, "begins with ''"),
        (["-x"], {}, "begins with '-x'"),
        (["prog", "a\0"], {}, "argument 1 contains a NUL"),
        (["prog"], {"A": "\0"}, "the variable A contains a NUL"),
        (["prog"], {"A B": ""}, "'A B' cannot name an environment variable"),
        (
            ["prog", "x" * 131_072],
            {},
            "argument 1 is 131,072 bytes long; Linux takes less than 128 KiB in one: write it to a file",
        ),
        (["prog"], {"A": "é" * 70_000}, "the variable A is 140,002 bytes long"),
        (["prog", *["x" * 100_000] * 11], {}, "write them to a file"),
        (["prog", "\ud800"], {}, "cannot be encoded"),
    ],
)
def test_commands_that_cannot_be_started_are_refused(encode, argv, env, words):
    with pytest.raises(SpecError) as refused:
        encode(argv, env)
    assert words in str(refused.value)


def test_whole_seconds_stay_whole_and_long_ones_become_so():
    for timeout, text in ((3600.0, "3600"), (5, "5"), (12.25, "13"), (0.25, "0.250"), (1e-9, "0.001")):
        assert f"cb_timeout='{text}'" in script(encode_wrapped(["prog"], launch_name=NAME, key="k", timeout=timeout))
