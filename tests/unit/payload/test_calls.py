"""The outcome of a call: read whole or not at all, from a file or from lines of a log."""

import base64
import hashlib
import json
import pickle
import zlib

import pytest

from canfar_batch.errors import CollectError
from canfar_batch.payload import runner, wrapper
from canfar_batch.payload.calls import Outcome, OutcomeLines, call_words, shown_call
from canfar_batch.payload.receipts import LogSplitter

NAME = "b-fit-0-1"


def outcome(value, *, launch=NAME, returned=True):
    packed = zlib.compress(pickle.dumps(value))
    header = {"launch": launch, "returned": returned, "sha256": hashlib.sha256(packed).hexdigest()}
    return json.dumps(header).encode() + b"\n" + packed


def lines(raw, size=40):
    text = base64.b64encode(raw).decode()
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    return [f"outcome {number}/{len(pieces)} {piece}" for number, piece in enumerate(pieces, 1)]


def test_the_runner_writes_lines_that_the_wrappers_reader_knows():
    assert runner.MARK == wrapper.MARK
    raw, splitter = outcome((1, "a")), LogSplitter(NAME)
    log = "before\n" + "".join(f"\n{runner.MARK} {NAME} {line} #{NAME}\n" for line in lines(raw)) + "after\n"
    assert splitter.feed(log.encode()) + splitter.finish() == b"before\nafter\n"
    assert Outcome.read(splitter.outcome).value() == (1, "a")


@pytest.mark.parametrize("at", [0, 5, 60, -1])
def test_a_damaged_outcome_is_none(at):
    raw = bytearray(outcome([1, 2, 3]))
    raw[at] ^= 1
    read = Outcome.read(bytes(raw))
    assert read is None or read.launch_name != NAME or not read.returned


@pytest.mark.parametrize("raw", [b"", b"\n", b"{}\n", b"[1]\nx", b'{"launch": 1}\n', b"\xff\n\xff"])
def test_what_is_no_outcome_is_none(raw):
    assert Outcome.read(raw) is None


def test_an_outcome_of_another_launch_does_not_count(tmp_path):
    (tmp_path / "o").write_bytes(outcome(1, launch="other"))
    assert Outcome.in_file(tmp_path / "o", NAME) is None
    assert Outcome.in_file(tmp_path / "missing", NAME) is None


def test_a_value_that_cannot_be_read_here_is_an_error_of_ours(tmp_path):
    packed = zlib.compress(b"cno_such_module\nThing\n.")
    header = {"launch": NAME, "returned": True, "sha256": hashlib.sha256(packed).hexdigest()}
    with pytest.raises(CollectError, match="ModuleNotFoundError"):
        Outcome.read(json.dumps(header).encode() + b"\n" + packed).value()


def test_of_several_runs_the_newest_whole_outcome_counts():
    first, second = lines(outcome("first")), lines(outcome("second"))
    found = OutcomeLines()
    for line in [*first, *second[:-1]]:  # the second run was stopped while it reported
        assert found.take(line)
    assert Outcome.read(found.outcome).value() == "first"
    for line in second:
        found.take(line)
    assert Outcome.read(found.outcome).value() == "second"
    assert not found.take("start key=k")
    assert found.take("outcome torn")  # of ours, and of no use


def test_a_call_is_shown_as_people_write_it():
    assert shown_call((*call_words("python3", "fit-3fa91c20e1"), "x=1.5", "y=@ab")) == "fit(x=1.5, y=@ab)"
    assert shown_call(("/bin/sh", "-c", "echo", "a", "b-c")) is None
