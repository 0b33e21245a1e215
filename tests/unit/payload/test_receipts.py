"""Receipts, read from a log and from files."""

from __future__ import annotations

import base64

import pytest

from canfar_batch.payload.receipts import parse_receipt, receipt_paths, split_log

NAME = "calib-ngc1275-k3x9z1-1f-2"


FACTS = "key=k attempt=2 id=abcd1234 host=h started=10.5 workdir=home limit=1024 quota=150000 period=100000"


RESULTS = "finished=12 code=3 cpu0=1000000us cpu=3500000us oom0=1 oom=2 peak=77 told= late= trouble="


START = f"#canfar_batch {NAME} start {FACTS}"


END = f"#canfar_batch {NAME} end {FACTS} {RESULTS}"


def line(text: str) -> bytes:
    return f"\n{text} #{NAME}\n".encode()


def listed(*items: bytes) -> str:
    return base64.b64encode(b"".join(item + b"\0" for item in items)).decode()


def test_a_receipt_is_read_into_plain_values():
    encoded = listed(b"f12 a b\n.cat", b"f caf\xff", b"f0@1700000000 d", b"ud", b"uno output", b"n2 *.cat", b"n0 none")
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
        "unchanged": ["d"],
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
