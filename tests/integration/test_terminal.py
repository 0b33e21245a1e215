"""A batch in a real terminal: the live line never wraps."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
    pytest.mark.timeout(120),
]

SCRIPT = """\
import canfar_batch as cb

with cb.Session.connect("local") as session:
    batch = session.batch("a-batch-with-a-name-that-is-long-enough-to-need-room", launch=cb.Window(6))
    spec = cb.JobSpec("sleep {seconds}", image="skaha/astroml:latest", cores=1, ram=1)
    batch.map(spec, seconds=[0.1 + n % 4 / 10 for n in range(24)])
    batch.add(cb.JobSpec(["sh", "-c", "echo " + "long " * 60 + ">&2; exit 3"], image="skaha/astroml:latest"), key="bad")
    report = batch.run()
    print(report)
    print("THE END", flush=True)
"""


class Terminal:
    """A terminal of *columns* columns."""

    def __init__(self, columns: int, folder: Path) -> None:
        self.columns = columns
        self.place = tempfile.TemporaryDirectory(prefix="canfar-batch-")  # a socket's path must be short
        (folder / "run.py").write_text(SCRIPT)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CANFAR_", "TMUX"))}
        command = f"{shlex.quote(sys.executable)} run.py; exec sleep 600"
        self._tmux(
            "-f", "/dev/null", "new-session", "-d", "-x", str(columns), "-y", "100", "-s", "run", "-c", str(folder),
            command, env=kept,
        )  # fmt: skip

    def _tmux(self, *arguments: str, env: dict[str, str] | None = None) -> str:
        command = ["tmux", "-u", "-S", f"{self.place.name}/tmux", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout

    def screen(self) -> list[str]:
        """The lines of the screen; a line that the terminal wrapped counts as two."""
        return self._tmux("capture-pane", "-p", "-S", "-", "-t", "run").rstrip("\n").split("\n")

    def joined(self) -> list[str]:
        """The lines as they were written, unwrapped."""
        return self._tmux("capture-pane", "-p", "-J", "-S", "-", "-t", "run").rstrip().split("\n")

    def close(self) -> None:
        subprocess.run(["tmux", "-S", f"{self.place.name}/tmux", "kill-server"], check=False, capture_output=True)
        self.place.cleanup()


@pytest.fixture
def terminals(tmp_path):
    """A narrow and a wide terminal, in which the same run begins."""
    opened = []
    for columns in (80, 160):
        folder = tmp_path / str(columns)
        folder.mkdir()
        opened.append(Terminal(columns, folder))
    yield opened
    for terminal in opened:
        terminal.close()


def watched_to_the_end(terminals: list[Terminal]) -> list[set[str]]:
    """Every live line that was seen, by terminal."""
    lives: list[set[str]] = [set() for _ in terminals]
    deadline = time.monotonic() + 90
    going = True
    while going:
        screens = [terminal.screen() for terminal in terminals]
        assert time.monotonic() < deadline, "\n".join(line for screen in screens for line in screen)
        for seen, screen in zip(lives, screens, strict=True):
            seen.update(line for line in screen if "/25" in line)
        going = any("THE END" not in screen for screen in screens)
        time.sleep(0.05)
    return lives


def test_a_run_is_shown_without_broken_lines(terminals):
    for terminal, lives in zip(terminals, watched_to_the_end(terminals), strict=True):
        assert len(lives) >= 2  # it lives
        assert all(len(line) < terminal.columns for line in lives), lives
        screen, written = terminal.screen(), terminal.joined()
        assert sum("/25" in line for line in written) == 1, written  # each line took the place of the one before
        (last,) = (line for line in written if "/25" in line)
        assert "25/25" in last
        assert "1 failed" in last
        opening = "\n".join(screen[: screen.index(last)])
        assert "0 jobs known, 25 new" in " ".join(opening.split())  # broken between words, if at all
        report = written[written.index(last) + 1 :]
        assert all(len(line.rstrip()) <= 80 for line in report)
        assert any("exit code 3" in line for line in report)
