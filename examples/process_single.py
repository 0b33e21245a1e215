"""Run one job from beginning to end: process a FITS cube that astropy ships, and print the outcome.

    python examples/process_single.py

It runs on this machine, or on the platform in CANFAR_URL if that is set; on CANFAR, start it in a folder below /arc.
"""

import os
import shutil
from pathlib import Path

from astropy.io.fits.util import get_testdata_filepath

import canfar_batch as cb

HERE = Path(__file__).resolve().parent

cube = shutil.copy(get_testdata_filepath("arange.fits"), "cube.fits")

with cb.Session.connect(os.environ.get("CANFAR_URL", "local")) as session:
    job = session.launch(
        ["python", HERE / "process_data.py", cube, "median.fits"],
        image="skaha/astroml:latest",
        cores=1,
        ram=2,
        outputs=["median.fits"],
    )
    job.wait().raise_if_failed()
    print(f"log:         {job.logs().strip()}")
    print(f"exit code:   {job.exit_code}")
    print(f"peak memory: {'unknown' if job.peak_ram is None else f'{job.peak_ram:.2f} GiB'}")
    print(f"outputs:     {', '.join(f'{name} ({size} bytes)' for name, size in job.outputs.items())}")
