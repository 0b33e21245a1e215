"""Payloads, launch names and receipts, without a shell."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from canfar_batch.errors import SpecError
from canfar_batch.payload import wrapper
from canfar_batch.payload.encode import OUTER, Payload, encode_exec, encode_plain, encode_wrapped, is_plain
from canfar_batch.payload.launch_names import launch_name, single_launch_name, token_tag
from canfar_batch.payload.receipts import parse_receipt, receipt_paths, split_log

NAME = "calib-ngc1275-k3x9z1-1f-2"


# -- plain ------------------------------------------------------------------------------------------------------------


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


# -- payloads ---------------------------------------------------------------------------------------------------------


def script(payload: Payload) -> str:
    assert payload.args is not None
    words = payload.args.split(" ")
    assert (payload.cmd, words[:3]) == ("/bin/sh", ["-c", OUTER, "job"])
    return base64.b64decode("".join(words[3:]), validate=True).decode("utf-8", "surrogateescape")


def test_a_payload_has_only_characters_that_the_server_keeps():
    payload = encode_exec(["prog", "a b"])
    assert re.fullmatch(r"-c \S+ job ey[A-Za-z0-9+/]+", payload.args.replace("\t", ""))
    assert not set(OUTER) & set(" $\"\\\n'")
    assert payload.env == ()


def test_the_exec_form_has_no_wrapper():
    text = script(encode_exec(["prog", "it's"], {"A": "b c"}))
    assert text.rstrip(" ") == "{ export A='b c'\nexec 'prog' 'it'\\''s'\n}"


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing_in_the_wrapper():
    found = subprocess.run(
        ["shellcheck", Path(wrapper.__file__).with_name("wrapper.sh")], capture_output=True, text=True, check=False
    )
    assert (found.stdout, found.returncode) == ("", 0)


def test_the_wrapper_is_sent_without_its_comments():
    text = script(encode_wrapped(["prog"], launch_name=NAME, key="k"))
    assert wrapper.BODY in text
    assert not [line for line in text.splitlines() if line.startswith(("#", " "))]
    assert len(text) < 8192


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


# -- names ------------------------------------------------------------------------------------------------------------


def test_a_launch_name_can_be_recognised():
    name = launch_name("Calib 2026", "NGC_1275-1a2b3c4d", token="secret", index=37, attempt=2)
    assert re.fullmatch(rf"calib-2026-ngc-1275-1a2b3c4d-[a-z0-9]*{token_tag('secret')}-11-2", name)
    assert "secret" not in name


def test_long_names_are_cut_to_a_label():
    name = launch_name("b" * 99, "k" * 99, token="t", index=36**6, attempt=999)
    assert len(name) <= 63
    assert name.endswith(f"{token_tag('t')}-1000000-999")


def test_a_name_that_begins_with_a_digit_gets_a_letter():
    assert launch_name("2026", "7", token="t", index=0, attempt=1).startswith("b-2026-7-")
    assert launch_name("", "é", token="t", index=0, attempt=1).startswith("batch-job-")


def test_a_single_launch_has_eight_random_characters():
    assert single_launch_name("python fit.py 7", unique="abcd1234") == "python-fit-py-7-abcd1234"
    assert re.fullmatch(r"job-[a-z0-9]{8}", single_launch_name("***"))


# -- receipts ---------------------------------------------------------------------------------------------------------

FACTS = "key=k attempt=2 id=abcd1234 host=h started=10.5 workdir=home limit=1024 quota=150000 period=100000"
RESULTS = "finished=12 code=3 cpu0=1000000us cpu=3500000us oom0=1 oom=2 peak=77 told= late= trouble="
START = f"#canfar_batch {NAME} start {FACTS}"
END = f"#canfar_batch {NAME} end {FACTS} {RESULTS}"


def line(text: str) -> bytes:
    return f"\n{text} #{NAME}\n".encode()


def listed(*items: bytes) -> str:
    return base64.b64encode(b"".join(item + b"\0" for item in items)).decode()


def test_a_receipt_is_read_into_plain_values():
    encoded = listed(b"f12 a b\n.cat", b"f caf\xff", b"f0@1700000000 d", b"n2 *.cat", b"n0 none")
    raw = b"".join(
        [
            line(START),
            b"own",
            line(f"#canfar_batch {NAME} outputs {encoded[:20]}"),
            line(f"#canfar_batch {NAME} outputs {encoded[20:]}"),
            line(f"{END} outputs=2"),
        ]
    )
    own, start, end = split_log(raw, NAME)
    assert own == b"own"
    assert (start["kind"], start["exit_code"], start["started_at"]) == ("start", None, 10.5)
    assert set(start) == set(end)
    assert end == {
        "kind": "end",
        "launch_name": NAME,
        "key": "k",
        "attempt": 2,
        "id": "abcd1234",
        "host": "h",
        "started_at": 10.5,
        "finished_at": 12.0,
        "exit_code": 3,
        "signal": None,
        "stopped_by": None,
        "timed_out": False,
        "cpu_seconds": 2.5,
        "peak_bytes": 77,
        "oom_kills": 1,
        "limit_bytes": 1024,
        "limit_cores": 1.5,
        "workdir": "home",
        "outputs": {"a b\n.cat": 12, "caf\udcff": None, "d": 0},
        "written": {"d": 1700000000.0},
        "found": {"*.cat": 2, "none": 0},
        "missing": ["none"],
        "trouble": None,
    }


def test_an_end_belongs_to_the_start_before_it():
    first = line(START) + b"one" + line(f"{END} outputs=0")
    own, start, end = split_log(first + line(START.replace("10.5", "20.5")) + b"two", NAME)
    assert (own, start["started_at"], end) == (b"onetwo", 20.5, None)
    own, start, end = split_log(first + first.replace(b"code=3", b"code=0"), NAME)
    assert (own, end["exit_code"]) == (b"oneone", 0)


def test_an_incomplete_list_of_outputs_is_left_out():
    raw = line(START) + line(f"#canfar_batch {NAME} outputs {listed(b'n0 none')}") + line(f"{END} outputs=2")
    _, _, end = split_log(raw, NAME)
    assert (end["exit_code"], end["outputs"], end["missing"]) == (3, {}, [])


@pytest.mark.parametrize("item", [b"", b"f", b"fx 1", b"n", b"n-1 x", b"nn x", b"f1@x y", b"f9e9 y", b"\xff"])
def test_a_damaged_list_of_outputs_is_left_out(item):
    raw = line(START) + line(f"#canfar_batch {NAME} outputs {listed(item)}") + line(f"{END} outputs=1")
    _, _, end = split_log(raw, NAME)
    assert (end["exit_code"], end["outputs"], end["found"]) == (3, {}, {})


def test_numbers_that_make_no_sense_are_unknown():
    garbage = f"#canfar_batch {NAME} end attempt=x code=-1 started={'9' * 400} finished=1e999 oom=nan oom0=1 peak=."
    _, _, end = split_log(line(garbage), NAME)
    unknown = ("attempt", "exit_code", "started_at", "finished_at", "oom_kills", "peak_bytes")
    assert [end[name] for name in unknown] == [None] * 6


def test_a_long_line_of_marks_is_read_once():
    raw = f"#canfar_batch {NAME} ".encode() * 200_000 + b"\nown"
    assert split_log(raw, NAME) == (raw, None, None)


def test_a_log_without_its_beginning_still_has_its_end():
    raw = (line(START) + b"own" + line(f"{END} outputs=0"))[30:]
    own, start, end = split_log(raw, NAME)
    assert (own, start, end["exit_code"]) == (b"own", None, 3)


def test_an_incomplete_receipt_line_is_left_out():
    raw = line(START) + b"own" + line(f"{END} outputs=0")[:60]
    assert split_log(raw, NAME)[0] == b"own"
    assert split_log(raw, NAME)[2] is None


def test_lines_of_another_launch_are_the_jobs_own():
    other = (line(START) + line(f"{END} outputs=0")).replace(NAME.encode(), b"calib-ngc1275-k3x9z1-1f-1")
    own, _, end = split_log(line(START) + other + line(f"{END} outputs=0"), NAME)
    assert own == other
    assert end["attempt"] == 2


@pytest.mark.parametrize("raw", [b"", b"\n", b"just output", b"#canfar_batch", b"\xff\xfe"])
def test_a_log_without_receipts_is_the_jobs_own(raw):
    assert split_log(raw, NAME) == (raw, None, None)
    assert parse_receipt(raw) is None


def test_each_attempt_has_its_own_receipt_files():
    assert receipt_paths("/arc/b/", "a.1", 2) == ("/arc/b/receipts/a.1.2.start", "/arc/b/receipts/a.1.2.end")
