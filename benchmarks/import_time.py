"""Time imports relative to `import requests` in the same run; the limit is 1.15 for the package, 2.0 for `Session`.

Each import is timed inside a new interpreter, without the interpreter's own start. The imports take turns, so that
other work on the machine slows all of them equally; the median counts.

    python benchmarks/import_time.py [--rounds 20]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

REQUESTS = "import requests"
LIMITS = {"import canfar_batch": 1.15, "from canfar_batch import Session": 2.0}
STATEMENTS = (REQUESTS, *LIMITS, "from canfar_batch import JobSpec")


def seconds(statement: str) -> float:
    """Return the time of *statement* in a new interpreter, in seconds."""
    code = f"import time; began = time.perf_counter(); {statement}; print(time.perf_counter() - began)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="number of measurements of each (default: %(default)s)")
    rounds = parser.parse_args().rounds
    for statement in STATEMENTS:
        seconds(statement)  # fills the disk cache
    times: dict[str, list[float]] = {statement: [] for statement in STATEMENTS}
    for _ in range(rounds):
        for statement in STATEMENTS:
            times[statement].append(seconds(statement))
    medians = {statement: statistics.median(taken) for statement, taken in times.items()}
    for statement, median in medians.items():
        print(f"{statement:34} {median * 1e3:7.1f} ms   {median / medians[REQUESTS]:5.2f} times `{REQUESTS}`")
    over = [statement for statement, limit in LIMITS.items() if medians[statement] > limit * medians[REQUESTS]]
    for statement in over:
        print(f"`{statement}` takes more than {LIMITS[statement]} times `{REQUESTS}`")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
