"""The type checker accepts users' code and finds its mistakes."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="the type checker comes with the extra `test`")

ROOT = Path(__file__).parents[2]


def test_user_code_is_typed_and_mistakes_are_found():
    command = [sys.executable, "-m", "mypy", "--strict", "tests/typing"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_is_marked_as_typed():
    assert (ROOT / "canfar_batch/py.typed").is_file()
