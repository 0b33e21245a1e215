"""The log of a container that carries several jobs, without a shell."""

import random

import pytest

from canfar_batch.payload.receipts import BundleLogSplitter, mark, parse_receipt
from canfar_batch.payload.wrapper import MARK

NAME = "calib-ngc1275-k3x9z1-1f-2"


def line(task, text):
    name = mark(NAME, task)
    return f"\n{MARK} {name} {text} #{name}\n".encode()


def end(task, code=0, began=5):
    return line(task, f"end key=k attempt=1 started={began} finished=9 code={code} user=1m2.5s sys=0m0,25s outputs=0")


RAW = b"".join(
    [
        line(None, "start tasks=3"), line(1, "start key=k started=5"), line(2, "start key=k started=6"),
        line(2, "log"), b"two\n", line(3, "start key=k started=7"), b"more", line(2, "logend"), end(2, 3, 6),
        line(1, "log"), line(1, "logend"), end(1), line(3, "log"), b"unfinish",
    ]
)  # fmt: skip


def split(raw, task=None, step=None):
    splitter = BundleLogSplitter(NAME, task)
    pieces = [raw[at : at + step] for at in range(0, len(raw), step)] if step else [raw]
    return b"".join(map(splitter.feed, pieces)) + splitter.finish(), splitter


@pytest.mark.parametrize("step", [None, 1, 7, 100])
def test_the_output_and_receipts_of_each_task_are_found(step):
    own, splitter = split(RAW, 2, step)
    assert (own, splitter.is_whole, splitter.has_beginning) == (b"two\nmore", True, True)
    assert (splitter.start["started_at"], splitter.end["exit_code"]) == (6, 3)
    assert splitter.end["cpu_seconds"] == 62.75
    own, splitter = split(RAW, 3, step)
    assert (own, splitter.is_whole, splitter.end) == (b"unfinish", False, None)
    own, splitter = split(RAW, None, step)
    assert (own, splitter.tasks) == (b"", [1, 2, 3])
    assert splitter.receipts_of(1)[1]["exit_code"] == 0
    assert splitter.receipts_of(4) == (None, None)


def test_a_log_that_has_lost_its_beginning_is_recognised():
    for cut in random.Random(1).sample(range(1, len(RAW)), 60):
        own, splitter = split(RAW[cut:], 2)
        assert b"two\nmore".endswith(own)
        assert splitter.is_whole == (own == b"two\nmore" and splitter.is_whole)
        assert MARK.encode() not in own


def test_a_task_of_another_bundle_is_not_ours():
    other = RAW.replace(NAME.encode(), NAME.encode() + b"0")
    assert split(other, 1)[1].tasks == []


def test_a_receipt_file_names_its_task():
    assert parse_receipt(end(7, 4))["launch_name"] == f"{NAME}.7"
