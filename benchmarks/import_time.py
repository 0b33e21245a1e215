"""What `import canfar_batch` costs, held against `import requests` in the same run: at most 1.15 times as much.

Each import is timed inside a fresh interpreter, without that one's own start. The imports take turns, so that what
else the machine does slows all alike; the median counts.

    python benchmarks/import_time.py [--rounds 20]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

LIMIT = 1.15
REQUESTS = "import requests"
STATEMENTS = (REQUESTS, "import canfar_batch", "from canfar_batch import Session", "from canfar_batch import JobSpec")


def seconds(statement: str) -> float:
    """How long *statement* takes in a new interpreter."""
    code = f"import time; began = time.perf_counter(); {statement}; print(time.perf_counter() - began)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="how often each is measured (default: %(default)s)")
    rounds = parser.parse_args().rounds
    for statement in STATEMENTS:
        seconds(statement)  # once for the disk
    times: dict[str, list[float]] = {statement: [] for statement in STATEMENTS}
    for _ in range(rounds):
        for statement in STATEMENTS:
            times[statement].append(seconds(statement))
    medians = {statement: statistics.median(taken) for statement, taken in times.items()}
    for statement, median in medians.items():
        print(f"{statement:34} {median * 1e3:7.1f} ms   {median / medians[REQUESTS]:5.2f} times `{REQUESTS}`")
    ratio = medians["import canfar_batch"] / medians[REQUESTS]
    print(f"\n`import canfar_batch` costs {ratio:.2f} times `{REQUESTS}`; the limit is {LIMIT}")
    return 0 if ratio <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
