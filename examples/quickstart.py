"""Run a batch from beginning to end: ten FITS images that astropy ships, one of them damaged on purpose.

    python examples/quickstart.py

Run it again, and it resumes: final jobs are not launched again. It runs on this machine, or on the platform in
CANFAR_URL if that is set; on CANFAR, start it in a folder below /arc.
"""

import os
from pathlib import Path

from images import some_images

import canfar_batch as cb

median = cb.JobSpec(
    ["python", Path(__file__).with_name("process_data.py").resolve(), "{path}", "quickstart/{path.name}"],
    image="skaha/astroml:latest",
    cores=1,
    ram=2,
    outputs=["quickstart/{path.name}"],
)

with cb.Session.connect(os.environ.get("CANFAR_URL", "local")) as session:
    retry = cb.Retry(1, exit_codes=1, pause=1)  # retry once after a second, even if the script itself fails
    batch = session.batch("quickstart", launch=cb.Window(3), retry=retry, collect=cb.Files())
    batch.map(median, key="{path.stem}", path=some_images("images"))
    report = batch.run()

print(batch, report, sep="\n\n", end="\n\n")
for key, path in batch.results(missing="-").items():
    print(f"{key:<16} {path}")
