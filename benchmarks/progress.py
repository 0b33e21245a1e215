"""Measure the cost of showing progress: 10,000 jobs through the engine, with a terminal.

    python benchmarks/progress.py        # 10,000 jobs
    python benchmarks/progress.py 1000   # another number of jobs

The platform is in memory and its clock does not wait, so only the engine works besides the drawing. The figure is the
processor time inside `Progress` as a part of the processor time of the whole run; the limit is 1 %.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))


class Terminal(io.StringIO):
    """A terminal that counts how often a line is drawn."""

    drawn = 0

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.drawn += text.count("\r")
        return len(text)


def measured(method: Any, spent: list[float]) -> Any:
    def timed(*arguments: Any, **named: Any) -> Any:
        begun = time.thread_time()
        try:
            return method(*arguments, **named)
        finally:
            spent[0] += time.thread_time() - begun
            spent[1] += 1

    return timed


def main() -> None:
    from engine import World
    from fakes import Fate

    from canfar_batch.strategies import Window
    from canfar_batch.views.progress import Progress

    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    spent, terminal = [0.0, 0], Terminal()
    parts = {name: measured(getattr(Progress, name), spent) for name in ("update", "say", "__exit__")}
    with tempfile.TemporaryDirectory() as directory, mock.patch.multiple(Progress, **parts):
        world = World(Path(directory), lambda request: Fate(queue=5.0, lasts=60.0))
        batch = world.planned(jobs, launch=Window(100))
        with mock.patch("sys.stderr", terminal), mock.patch.dict("os.environ", {"TERM": "xterm-256color"}):
            begun = time.process_time()
            batch.run()
            whole = time.process_time() - begun
    print(
        f"{jobs:,} jobs: {whole:.1f} s of processor time, of which {spent[0]:.3f} s in {spent[1]:,} calls of progress, "
        f"{spent[0] / whole:.2%}; drawn {terminal.drawn:,} times"
    )


if __name__ == "__main__":
    main()
