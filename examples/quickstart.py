"""A batch from end to end: ten FITS images that ship with astropy, one of them damaged on purpose, three at a time.

    python examples/quickstart.py

Run it again: it goes on where it stopped, and does nothing twice. It runs on this machine. With CANFAR_URL set it runs
there; start it from a folder below /arc then.
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
    retry = cb.Retry(1, exit_codes=1, pause=1)  # once more, a second later, also if the script itself fails
    batch = session.batch("quickstart", launch=cb.Window(3), retry=retry, collect=cb.Files())
    batch.map(median, key="{path.stem}", path=some_images("images"))
    report = batch.run()

print(batch, report, sep="\n\n", end="\n\n")
for key, path in batch.results(missing="-").items():
    print(f"{key:<16} {path}")
