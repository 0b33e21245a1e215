"""The guide's program for many files: one job for each file, at most three at a time.

    python examples/parallel_files.py data/obs*.fits

Without CANFAR_URL=local it runs on CANFAR; then the files and this folder must be below /arc.
"""

import sys
from pathlib import Path

import canfar_batch as cb

if len(sys.argv) < 2:
    print("usage: python parallel_files.py FILE [FILE...]", file=sys.stderr)
    sys.exit(2)

process = cb.JobSpec(
    ["python", Path(__file__).with_name("process_data.py").resolve(), "{path}", "results/processed_{path.name}"],
    image="skaha/astroconda:latest",
    cores=2,
    ram=4,
    outputs=["results/processed_{path.name}"],
)

with cb.Session.connect() as session:
    # the guide waits for each group of three, like Chunks(3, pause=30); a window starts a file as soon as one is done
    batch = session.batch("parallel-files", launch=cb.Window(3), collect=cb.Files())
    batch.map(process, path=map(Path, sys.argv[1:]))
    report = batch.run()

print(report)
sys.exit(0 if report.ok else 1)
