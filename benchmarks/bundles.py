"""How much bundles save: small tasks in bundles against one task for each container, and uneven tasks.

    python benchmarks/bundles.py             # 600 tasks of 0.1 s; then uneven tasks with known durations
    python benchmarks/bundles.py 200 0.1     # so many tasks, of so many seconds

The local platform runs 3 containers at a time, and each takes 2 s to start. One task for each container is measured on
fewer tasks of the same run, as a rate. The ideal of the uneven tasks is the start of one container and their seconds,
shared out evenly over all tasks that run at a time.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import canfar_batch as cb
from canfar_batch.strategies import Bundle

CONTAINERS = 3
START = 2.0  #: seconds that a container takes to start
PARALLEL = 4
GOALS = {"throughput": 20.0, "uneven": 1.15}


def main() -> int:
    """Run the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="?", type=int, default=600)
    parser.add_argument("seconds", nargs="?", type=float, default=0.1)
    given = parser.parse_args()
    logging.disable(logging.WARNING)  # of a home in a temporary directory
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        with (
            cb.LocalPlatform(cores=CONTAINERS * PARALLEL, ram=64, pull=START) as platform,
            cb.Session.connect(platform.url, token=platform.token) as session,
        ):
            alone = given.tasks // 50 or 1
            baseline = alone / run(session, "alone", [given.seconds] * alone, cb.Window(CONTAINERS))
            bundle = Bundle(tasks=-(-given.tasks // CONTAINERS), parallel=PARALLEL, then=cb.Window(CONTAINERS))
            rate = given.tasks / run(session, "bundled", [given.seconds] * given.tasks, bundle)
            print(f"one task per container: {baseline:6.2f} tasks/s ({alone} tasks)")
            print(f"bundles:                {rate:6.2f} tasks/s ({given.tasks} tasks), {rate / baseline:.1f} times")
            uneven = [round(seconds, 2) for seconds in random.Random(1).choices((0.5, 1.0, 2.0, 4.0, 8.0), k=120)]
            minutes = sum(uneven) / 60 / CONTAINERS / PARALLEL
            by_time = Bundle(minutes=minutes, parallel=PARALLEL, then=cb.Window(CONTAINERS, longest_first=True))
            took = run(session, "uneven", uneven, by_time)
            ideal = START + max(max(uneven), sum(uneven) / CONTAINERS / PARALLEL)
            print(f"uneven tasks:           {took:6.2f} s, ideal {ideal:.2f} s, {took / ideal:.2f} times")
    missed = rate / baseline < GOALS["throughput"] or took / ideal > GOALS["uneven"]
    return int(missed)


def run(session: cb.Session, name: str, seconds: list[float], launch: object) -> float:
    """Run tasks that sleep for *seconds*; return how long all of them took."""
    batch = session.batch(name, launch=launch, home=Path("homes"), monitor=cb.Listing(every=(0.25, 0.5)))
    spec = cb.JobSpec("sleep {s}", image="skaha/terminal:latest", cores=1, ram=1, expect=lambda s: s)
    batch.map(spec, key="t{n}", n=range(len(seconds)), s=seconds)
    begun = time.monotonic()
    batch.run(progress=False).raise_if_failed()
    took = time.monotonic() - begun
    batch.close()
    return took


if __name__ == "__main__":
    sys.exit(main())
