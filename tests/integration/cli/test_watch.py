"""The progress of batches that other processes run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

from integration.cli.conftest import Command, process


def test_watching_a_final_batch_prints_its_report(there: Command):
    ended = there("watch", "count")
    assert ended.code == 1
    assert ended.out == there("report", "count").out


def test_a_batch_is_watched_until_its_jobs_are_final(running, tmp_path: Path, command: Command):
    with contextlib.ExitStack() as ends:
        watching = process(tmp_path, "watch", "slow", "--every", "0.05", "--json")
        follower = process(tmp_path, "logs", "slow", "1", "-f", env=dict(os.environ))
        for one in (watching, follower):
            ends.callback(one.communicate)
            ends.callback(one.kill)
        assert watching.stderr.readline() == "slow 0/2 | 2 running\n"
        assert follower.stdout.readline() == "begun 1\n"
        command("cancel", "slow")
        assert json.loads(watching.stdout.read())["counts"] == {"cancelled": 2}


def test_watching_a_batch_that_no_process_runs_says_how_to_resume_it(running, command: Command):
    running.send_signal(signal.SIGINT)
    running.wait(20)
    ended = command("watch", "slow")
    assert ended.code == 0
    assert "no process runs it; to resume it: canfar-batch run slow" in ended.err
    command("cancel", "slow")


def test_watching_all_batches_that_no_process_runs_ends_at_once(there: Command):
    ended = there("watch", "--json")
    assert (ended.code, [row["batch"] for row in ended.json]) == (0, ["count"])
