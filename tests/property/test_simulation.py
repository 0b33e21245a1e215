"""Whatever a platform, its cluster, the drivers and the user do in a simulated history, every promise holds."""

import subprocess
import sys
from pathlib import Path

import pytest
from simulate import main

SIMULATE = Path(__file__).parents[1] / "simulate.py"


@pytest.mark.parametrize("first", [0, 100])  # in two parts, so that two processes may share them
def test_every_promise_holds_in_two_hundred_histories(first, capsys):
    assert main(["--histories", "100", "--first", str(first)]) == 0, capsys.readouterr().out


def test_a_seed_plays_the_identical_history_in_another_process():
    runs = [
        subprocess.run(
            [sys.executable, SIMULATE, "--seed", "10", "--tell"],
            capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": hashed},
        ).stdout
        for hashed in ("1", "2")
    ]  # fmt: skip
    assert "the last driver" in runs[0]
    assert runs[0] == runs[1]


def test_a_broken_promise_is_reported_with_its_seed(monkeypatch, capsys):
    def broken(*given, **named):
        raise AssertionError("made up")

    monkeypatch.setattr("simulation.history.check_batch", broken)
    assert main(["--histories", "2", "--first", "7"]) == 1
    assert "seed 7: AssertionError: made up" in capsys.readouterr().out
