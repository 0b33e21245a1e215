"""Measure the cost of the engine: run 10,000 jobs, plan 100,000 jobs, open a batch of 100,000 jobs.

    python benchmarks/engine.py            # all parts
    python benchmarks/engine.py run 10000  # one part: run, plan or reopen

The platform is in memory and its clock does not wait, so only the engine and its ledger are measured. Each part runs in
its own process. Times are seconds of processor time on one core. To compare machines, each time is also given as the
number of small SQLite commits that the same machine makes in that time.
The limit for 10,000 jobs is 60 s and 150 MB.
"""

from __future__ import annotations

import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

PARTS = {"run": 10_000, "plan": 100_000, "reopen": 100_000}


def run(place: Path, jobs: int) -> float:
    """Return the seconds to launch, follow and collect *jobs* jobs, 100 at a time.

    The platform keeps no commands, whose 9 KB each would be most of the memory.
    """
    import attrs
    from engine import World
    from fakes import Fate

    from canfar_batch.strategies import Window

    world = World(place, lambda request: Fate(queue=5.0, lasts=60.0))
    make = world.platform.make
    world.platform.make = lambda request: make(attrs.evolve(request, cmd="", args=""))  # type: ignore[method-assign]
    batch = world.planned(jobs, launch=Window(100))
    begun = time.process_time()
    batch.run(progress=False)
    assert len(world.platform.launched) == jobs
    return time.process_time() - begun


def plan(place: Path, jobs: int) -> float:
    """Return the seconds to plan *jobs* jobs."""
    from engine import World

    begun = time.process_time()
    World(place).planned(jobs)
    return time.process_time() - begun


def reopen(place: Path, jobs: int) -> float:
    """Return the seconds to open a batch of *jobs* jobs."""
    from engine import World

    from canfar_batch.batch import Batch

    World(place).planned(jobs).close()
    begun = time.process_time()
    assert len(Batch.open("test", place)) == jobs
    return time.process_time() - begun


def commit_seconds(place: Path, commits: int = 2000) -> float:
    """Return the processor time of one small transaction, in seconds."""
    db = sqlite3.connect(place / "baseline.db", isolation_level=None)
    db.execute("CREATE TABLE t (a, b)")
    begun = time.process_time()
    for number in range(commits):
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO t VALUES (?, ?)", (number, "x" * 200))
        db.execute("COMMIT")
    db.close()
    return (time.process_time() - begun) / commits


def main() -> None:
    if len(sys.argv) < 2:
        for part in PARTS:
            subprocess.run([sys.executable, __file__, part], check=True)
        return
    part = sys.argv[1]
    jobs = int(sys.argv[2]) if len(sys.argv) > 2 else PARTS[part]
    with tempfile.TemporaryDirectory() as directory:
        unit = commit_seconds(Path(directory))
        begun = time.perf_counter()
        seconds = {"run": run, "plan": plan, "reopen": reopen}[part](Path(directory), jobs)
        wall = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{part:6} {jobs:7,} jobs: {seconds:6.1f} s of processor time ({wall:.1f} s in all), "
        f"{seconds / unit / jobs:.2f} commits for each job; peak {peak:.0f} MB"
    )


if __name__ == "__main__":
    main()
