"""Make the pictures of the documentation anew, from batches that really run: `python docs/make_pictures.py`.

Two dozen jobs run on this machine; larger batches run on a platform in memory, where hours pass in seconds. Tens of
thousands of jobs, as by `--sizes 50000`, take some minutes all the same. A headless Chromium takes the pictures:
narrow and wide, in the light and in the dark.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from browser import PROGRAM, Tab, chromium  # noqa: E402 (found above)
from fakes import FakeClock, FakePlatform, Fate, InlineCrew  # noqa: E402

import canfar_batch as cb  # noqa: E402
from canfar_batch.batch import Batch, Strategies  # noqa: E402
from canfar_batch.records import LaunchRequest  # noqa: E402

SIZES = (5, 500)
WINDOWS = {"narrow": 400, "wide": 1400}
SCRIPT = """
import sys, time

star = int(sys.argv[1])
print("fitting star", star, flush=True)
spectrum = bytearray(star * 2_000_000)
time.sleep(0.2 + star % 5 / 8)
if star in (7, 17):
    sys.exit(f"star {star}: the fit did not converge")
print("chi square", 1 + star / 100)
"""


def on_this_machine(folder: Path) -> Iterator[Batch]:
    """Two dozen jobs: once while they run, and once they are over."""
    (folder / "fit.py").write_text(SCRIPT)
    spec = cb.JobSpec("python3 fit.py {star}", image="skaha/astroml:latest", cores=1, ram=1, workdir=str(folder))
    with cb.Session.connect("local") as session:
        batch = session.batch("stars", home=folder, launch=cb.Window(8))
        batch.map(spec, star=range(24), key="star-{star}")
        crew = iter(batch.as_completed())
        for _ in range(10):
            next(crew)
        yield batch
        for _ in crew:
            pass
        yield batch


def in_memory(folder: Path, count: int) -> Batch:
    """So many jobs of some minutes each, of which a few fail."""
    clock, dice = FakeClock(), random.Random(count)

    def fate(request: LaunchRequest) -> Fate:
        drawn, lasts, queue = dice.random(), dice.lognormvariate(6, 0.6), dice.uniform(2, 60)
        if drawn < 0.02:
            return Fate(queue=queue, lasts=lasts, code=137, oom_kills=1, log=b"reading the cube\n")
        if drawn < 0.03:
            return Fate(queue=queue, lasts=lasts, code=2, log=b"fit.py: error: unrecognized arguments: --sgima\n")
        return Fate(queue=queue, lasts=lasts, log=b"done\n")

    batch = Batch.prepare(
        f"calib-{count}",
        platform=FakePlatform(clock, fate),
        strategies=Strategies(
            launch=cb.Window(min(2000, max(3, count // 8))), monitor=cb.Listing(every=(30, 60)), retry=cb.Retry(2),
            collect=lambda job, platform: None,
        ),
        address="local", home=folder, clock=clock, settle=120.0, shared=False, crew=InlineCrew(clock),
    )  # fmt: skip
    spec = cb.JobSpec("python calib.py {path} --sigma {sigma}", image="skaha/astroml:latest", cores=2, ram=8)
    numbers = range(count)
    batch.map(
        spec,
        key="obs-{path.stem}",
        path=[Path(f"raw/{n:05d}.fits") for n in numbers],
        sigma=[n % 50 / 10 for n in numbers],
    )
    batch.run(progress=False, stop_alike=None)
    return batch


def notebook_view(folder: Path, name: str, *shown: object) -> Path:
    """What a notebook shows of these, as a page."""
    views = "".join(thing._repr_html_() for thing in shown)  # type: ignore[attr-defined]
    file = folder / f"{name}.html"
    file.write_text(f"<!DOCTYPE html><html lang=en><meta charset=utf-8><title>{name}</title><body>{views}")
    return file


def take(tab: Tab, page: Path, into: Path, name: str) -> None:
    for window, width in WINDOWS.items():
        for dark in (False, True):
            tab.look(width=width, dark=dark)
            tab.open(page)
            tab.picture(into / f"{name}-{window}-{'dark' if dark else 'light'}.png", at_most=3000)
    if tab.complaints:
        raise SystemExit(f"{page}: {tab.complaints}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, default=ROOT / "docs" / "pictures")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="of the batches in memory")
    options = parser.parse_args()
    if PROGRAM is None:
        raise SystemExit("there is no Chromium on this machine")
    into = options.into
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, chromium() as tab:
        folder = Path(place)
        for moment, batch in zip(("running", "over"), on_this_machine(folder), strict=True):
            report, job = batch.summary(), batch["star-7"]
            take(tab, notebook_view(folder, moment, batch, report, job), into, f"views-{moment}")
            take(tab, batch.report(folder / "report.html"), into, f"report-{moment}")
            batch.timeline(into / f"timeline-{moment}.png")
        for count in options.sizes:
            batch = in_memory(folder, count)
            take(tab, notebook_view(folder, str(count), batch, batch.summary()), into, f"views-{count}")
            take(tab, batch.report(), into, f"report-{count}")
            batch.timeline(into / f"timeline-{count}.png")
            batch.close()
    print(f"{len(list(into.glob('*.png')))} pictures in {into}")


if __name__ == "__main__":
    main()
