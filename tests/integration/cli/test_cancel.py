"""Jobs are left running, and stopped."""

from __future__ import annotations

import re
import signal

from integration.cli.conftest import Command

from canfar_batch import cli


def test_ctrl_c_detaches_and_the_jobs_run_on_until_they_are_cancelled(running, command: Command):
    assert "run by process" in command("status", "slow").out
    running.send_signal(signal.SIGINT)
    assert running.wait(20) == cli.DETACHED
    assert "its jobs run on" in running.stderr.read()

    ended = command("status", "slow")
    assert (ended.code, "2 running" in ended.out, "no process runs it" in ended.out) == (0, True, True)
    assert command("logs", "slow", "1").out == "begun 1\n", "a log that is not saved yet comes from the platform"

    ended = command("cancel", "slow", "--json")
    assert (ended.code, len(ended.json["cancelled"])) == (0, 2)
    assert command("status", "slow", "--json").json["counts"] == {"cancelled": 2}
    assert "every job was final already" in command("cancel", "slow").out


def test_cancelled_jobs_are_stopped_by_the_process_that_runs_them(running, command: Command):
    ended = command("cancel", "slow")
    assert ended.code == 0
    assert re.search(r"2 jobs: process \d+ on .* runs the batch and stops them", ended.out)
    assert running.wait(30) == cli.SOME_FAILED
    assert command("status", "slow", "--json").json["counts"] == {"cancelled": 2}


def test_a_cancel_that_cannot_be_delivered_is_stored(running, platform, command: Command, monkeypatch):
    running.send_signal(signal.SIGINT)
    running.wait(20)
    monkeypatch.setenv("CANFAR_TOKEN", "not.the.token")
    ended = command("cancel", "slow", "--timeout", "1")
    assert ended.code == 2
    monkeypatch.setenv("CANFAR_TOKEN", platform.token)
    assert command("run", "slow", "--quiet", "--json").json["counts"] == {"cancelled": 2}
