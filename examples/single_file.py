"""The guide's single-file program: launch one job for one file, wait, and print its log.

    python examples/single_file.py observation1.fits processed1.fits

Without CANFAR_URL=local it runs on CANFAR; then both paths and this folder must be below /arc.
"""

import sys
from pathlib import Path

import canfar_batch as cb

if len(sys.argv) != 3:
    print("usage: python single_file.py INPUT OUTPUT", file=sys.stderr)
    sys.exit(2)

source, target = sys.argv[1:]
script = Path(__file__).resolve().with_name("process_data.py")

with cb.Session.connect() as session:
    job = session.launch(["python", script, source, target], image="skaha/astroconda:latest", cores=2, ram=4)
    print(f"launched {job.name} as {job.id}")
    print(job.wait().raise_if_failed().logs())
