"""Measure the views of a batch of 100,000 jobs that have run: opening it, its HTML, its report page, its DataFrame.

    python benchmarks/views.py             # 100,000 jobs
    python benchmarks/views.py 10000

A hundred jobs run on a platform in memory; their rows in the ledger are then copied under other keys, so that the batch
is made in seconds. Times are seconds of processor time on one core, the best of three in turns. The DataFrame needs
pandas. The goals for 100,000 jobs are 1 s for the HTML, and 3 s each for the page and the DataFrame.
"""

from __future__ import annotations

import resource
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

RUN = 100  #: jobs that really run
GOALS = {"_repr_html_": 1.0, "report page": 3.0, "DataFrame": 3.0}


def make(place: Path, jobs: int) -> None:
    """Make the batch `test` below *place*."""
    from engine import World
    from fakes import Fate

    from canfar_batch.strategies import Window

    world = World(place, lambda request: Fate(queue=5.0, lasts=60.0, log=b"chi2 = 1.7\n"))
    batch = world.planned(RUN, launch=Window(RUN))
    batch.run(progress=False)
    home = batch.home
    batch.close()
    db = sqlite3.connect(home / "ledger.db")
    changed = {
        "place": ":step + place", "key": "key || '-' || :step", "launch_name": "launch_name || :step",
        "id": "id || :step",
    }  # fmt: skip
    for table in ("job", "attempt"):
        columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
        values = ", ".join(changed.get(column, column) for column in columns)
        names = ", ".join(columns)
        query = f"INSERT INTO {table} ({names}) SELECT {values} FROM {table} WHERE place < {RUN}"
        db.executemany(query, ({"step": step} for step in range(RUN, jobs, RUN)))
    db.commit()
    db.close()


def seconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def main() -> None:
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        make(place, jobs)
        import pandas as pd  # noqa: F401 (so that its import is not measured)

        from canfar_batch import open as open_batch

        calls = {
            "opening": lambda: open_batch("test", place),
            "_repr_html_": lambda: open_batch("test", place)._repr_html_(),
            "report page": lambda: open_batch("test", place).report().to_html(place / "report.html"),
            "DataFrame": lambda: open_batch("test", place).to_dataframe(),
        }
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(3):
            for name, call in calls.items():
                times[name].append(seconds(call))
    best = {name: min(taken) for name, taken in times.items()}
    for name, taken in best.items():
        own = taken - (best["opening"] if name != "opening" else 0.0)
        goal = f" (goal {GOALS[name]:g} s)" if name in GOALS else ""
        print(f"{name:12} {own:6.2f} s{goal}")
    print(f"{jobs:,} jobs; peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
