"""What showing the progress of a batch costs: 10,000 jobs through the engine, with a terminal to draw on.

    python benchmarks/progress.py        # 10,000 jobs
    python benchmarks/progress.py 1000   # or as many as that

The platform is in memory and its clock does not wait: beside the drawing there is the engine's own work alone. What is
measured is the processor time inside `Progress`, as a part of that of the whole run.
Limit: a hundredth.
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
    """One that counts what is drawn upon it."""

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
