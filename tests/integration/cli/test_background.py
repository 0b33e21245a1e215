"""Batches that run in the background."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from integration.cli.conftest import IMAGE, Command, process

from canfar_batch.local import LocalPlatform


@pytest.fixture
def reached(platform: LocalPlatform, command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs one command, which finds the platform in its environment."""
    monkeypatch.setenv("CANFAR_URL", platform.url)
    monkeypatch.setenv("CANFAR_TOKEN", platform.token)
    return command


def test_start_plans_here_and_runs_in_a_process_that_needs_no_terminal(reached: Command, tmp_path: Path):
    words = ["--home", "homes", *IMAGE, "--range", "n=1:3", "--notify", "echo $CANFAR_BATCH_OUTCOME >told"]
    ended = reached("start", "back", *words, "--json", "--", "sh", "-c", "until test -e go; do sleep 0.1; done")
    assert ended.code == 0
    pid, log = ended.json["pid"], Path(ended.json["log"])
    assert os.getsid(pid) == pid, "its session has no terminal"
    again = reached("start", "back", "--home", "homes")
    assert (again.code, "canfar-batch watch back shows it" in again.err) == (2, True)
    watching = process(tmp_path, "watch", "--home", "homes", "--every", "0.05", "--json")
    assert re.match(r"batch +jobs +state", watching.stderr.readline())
    Path("go").touch()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    (row,) = json.loads(watching.communicate(timeout=30)[0])
    assert row["counts"] == {"succeeded": 2}
    assert "2 succeeded" in log.read_text()
    assert Path("told").read_text() == "ended\n"


def test_start_says_what_is_wrong_before_anything_is_in_the_background(reached: Command, monkeypatch):
    ended = reached("start", "back", "--home", "homes", *IMAGE, "--", "python", "{path}")
    assert (ended.code, "{path} is a field" in ended.err) == (2, True)
    monkeypatch.setattr(sys, "executable", shutil.which("sh"))  # a Python that cannot run it
    ended = reached("start", "back", "--home", "homes", *IMAGE, "--", "true")
    assert ended.code == 2
    assert re.search(r"process \d+ ended with exit code \d+; the end of .*run\.log: .*canfar_batch", ended.err)
