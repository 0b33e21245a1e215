"""The command line as a whole: mistakes, help, and output."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from integration.cli.conftest import IMAGE, ON_THIS_MACHINE, Command, process


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["run", "x", "--preview", "--", "echo"],
            "no image was given: name one, for example: --image skaha/astroml:latest",
        ),
        (["run", "x", "--preview", *IMAGE], "no command was given: put it after --, for example"),
        (["run", "x", "--preview", *IMAGE, "--", "a > b"], "say shell=True"),
        (["run", "x", "--preview", *IMAGE, "--each", "p=*.fits", "--", "a"], r"no file matches '\*\.fits'; quote"),
        (["run", "x", "--preview", *IMAGE, "--rows", "no.csv", "--", "a"], r"no\.csv cannot be read as a table"),
        (["run", "x", "--preview", *IMAGE, "--grid", "n=1", "--", "a {m}"], "m"),
        (["run", "x", *ON_THIS_MACHINE], "batch 'x' is empty: name what to run"),
        (["run", "../x", *ON_THIS_MACHINE, *IMAGE, "--", "a"], "cannot be a batch's name"),
        (["run", "x", *ON_THIS_MACHINE, *IMAGE, "--ram", "99999", "--", "a"], "ram=99999 is not offered"),
        (["run", "x", "--window", "0"], "'0' is not a whole number of at least 1"),
        (["run", "x", "--env", "A"], "'A' is not NAME=VALUE"),
        (["run", "x", "--rate", "0"], "'0' is not a number above 0"),
        (["run", "x", "--grow-ram", "nan"], "'nan' is not a number above 1"),
        (["run", "x", "--preview", *IMAGE, "--cores", "nan", "--", "a"], "cores=nan is not a positive number"),
        (["run", "x", *ON_THIS_MACHINE, *IMAGE, "--timeout", "nan", "--", "a"], "timeout=nan is not a positive number"),
        (["run", "x", *ON_THIS_MACHINE, *IMAGE, "--grid", "n=1", "--", "a {m}"], "unknown field {m}"),
        (["run", "x", *ON_THIS_MACHINE, *IMAGE, "--grid", "n=1,2", "--key", "k", "--", "a"], "more than one row"),
        (["run", "x", *ON_THIS_MACHINE, *IMAGE, "--secret", "UNSET_IT_IS", "--", "a"], "UNSET_IT_IS"),
        (["run", "x", "--range", "n=5"], "'n=5' is not FIELD=FIRST:END"),
        (["run", "x", "--range", "n=5:5"], "or it has no numbers"),
        (["run", "x", "--range", "n=1:9:0"], "is not FIELD=FIRST:END"),
        (["run", "x", "--preview", *IMAGE, "--grid", "n=1", "--replicas", "2", "--", "a"], "cannot be combined"),
        (["run", "x", "--preview", *IMAGE, "--each", "p=*", "--rows", "t.csv", "--", "a"], "--each and --rows cannot"),
        (["retry", "nope"], "there is no batch in .*nope"),
        (["watch", "nope"], "there is no batch in .*nope"),
        (["cancel", "x", "--timeout", "nan"], "'nan' is not a number of at least 0"),
        (["ls", "--home", "afile"], "afile is not a directory; pass --home DIR"),
        (["status", "nope"], "there is no batch in .*nope"),
        (["report", "nope", "--json"], "there is no batch in .*nope"),
        (["ls", "--", "x"], "only run and start take a command after --"),
        (["run", "x", *IMAGE, "--", "true"], "(?i)credential|login"),
    ],
)
def test_a_mistake_is_reported_in_one_line_with_advice(command: Command, words: Sequence[str], says: str, monkeypatch):
    monkeypatch.setenv("HOME", os.getcwd())
    Path("afile").touch()
    ended = command(*words)
    assert ended.code == 2
    assert ended.out == ""
    last = ended.err.rstrip("\n").splitlines()[-1]
    assert re.match("canfar-batch.*: error: ", last)
    assert re.search(says, last)
    assert "Traceback" not in ended.err
    assert (
        not Path("batches/x").exists() or "--ram" in words
    )  # the platform's limits are checked after the batch was made


@pytest.mark.parametrize("name", ["run", "ls", "status", "watch", "logs", "failures", "retry", "cancel", "report"])
def test_every_command_explains_itself(command: Command, name: str):
    ended = command(name, "--help")
    assert ended.code == 0
    assert "--json" in ended.out
    assert "130 after Ctrl-C" in ended.out


def test_the_package_runs_as_a_module(ran: Path):
    done = subprocess.run(
        [sys.executable, "-m", "canfar_batch", "ls", "--json"], cwd=ran, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)[0]["batch"] == "count"


def test_a_closed_pipe_is_not_an_error(ran: Path):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "canfar_batch", "report", "count"], cwd=ran, stdout=writing, stderr=subprocess.PIPE,
        timeout=60,
    )  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_characters_that_the_output_lacks_are_not_an_error(ran: Path):
    words = ["run", "x", *IMAGE, "--preview", "--grid", "n=1,2,3,4", "--", "echo", "\u00e9 {n}"]
    done = process(ran, *words, env={"PYTHONIOENCODING": "ascii"})
    out, err = done.communicate(timeout=60)
    assert (done.returncode, err) == (0, "")
    assert "\\xe9" in out
    assert "... and 1 more" in out
