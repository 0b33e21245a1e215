"""Make the pictures of the documentation, from a batch that really runs: `python docs/make_pictures.py`.

Sixty jobs run on this machine, for about half a minute: most fit a star, one needs more memory than it asks for, some
fail. They run in a terminal (tmux), whose screen is read meanwhile; a headless Chromium takes the pictures.

`--look FOLDER` makes many more pictures in that folder, for inspection: every view, narrow and wide, light and dark, of
batches of several sizes. The larger ones run on a platform in memory, where hours pass in seconds; tens of thousands of
jobs (`--sizes 50000`) still take some minutes.
"""

from __future__ import annotations

import argparse
import html
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from browser import PROGRAM, Tab, chromium  # noqa: E402 (found above)
from fakes import FakeClock, FakePlatform, Fate, InlinePool  # noqa: E402
from PIL import Image  # noqa: E402 (comes with matplotlib)

import canfar_batch as cb  # noqa: E402
from canfar_batch.batch import Batch, prepare  # noqa: E402
from canfar_batch.records import LaunchRequest  # noqa: E402
from canfar_batch.setup import Setup, Strategies  # noqa: E402

SHOWN = "~/survey"  # stands for the temporary folder in which the pictures' batch runs
SIZES = (5, 500)
WINDOWS = {"narrow": 400, "wide": 1400}

FIT = """
import sys, time

star, order = int(sys.argv[1]), int(sys.argv[2])
print("fitting star", star, "with order", order, flush=True)
spectrum = b"x" * (2**20 * (1100 if star == 31 else 20 + 9 * (star % 11)))
if star % 23 == 7:
    time.sleep(0.8)
    sys.exit(f"star {star}: the fit did not converge")
for step in range(3 + star * 7 % 11):
    time.sleep(0.3)
print("chi square", 1 + star / 100)
"""
SURVEY = """
import canfar_batch as cb

fit = cb.JobSpec("python3 fit.py {star} {order}", image="skaha/astroml:latest", cores=1, ram=1)
platform = cb.LocalPlatform(cores=12, ram=64)
with platform, cb.Session.connect(platform.url, token=platform.token) as session:
    batch = session.batch("survey", launch=cb.Window(14), retry=cb.Retry(2, grow_ram=2, pause=1))
    batch.map(fit, key="star-{star}", star=range(60), order=[3 + n % 3 for n in range(60)])
    print(batch.run())
"""
TERMINAL = """<!DOCTYPE html><html lang=en><meta charset=utf-8><title>terminal</title><style>
body { margin: 0; background: #0f1419; width: fit-content }
pre { margin: 0; padding: 18px 22px; color: #d8dee9; font: 14px/1.45 "DejaVu Sans Mono", monospace }
b { color: #8fbf7f; font-weight: normal }
</style><pre>"""

# -- the pictures that are published --------------------------------------------------------------------------------


class Terminal:
    """A terminal in which the survey runs; it ends with the `with`."""

    def __init__(self, folder: Path, columns: int = 92) -> None:
        self._socket = folder / "tmux"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CANFAR_", "TMUX"))}
        command = f"{shlex.quote(sys.executable)} survey.py; echo THE END; exec sleep 600"
        size = ("-x", str(columns), "-y", "60")
        self._tmux("-f", "/dev/null", "new-session", "-d", *size, "-s", "run", "-c", str(folder), command, env=kept)

    def _tmux(self, *arguments: str, env: dict[str, str] | None = None) -> str:
        command = ["tmux", "-u", "-S", str(self._socket), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout

    def screen(self) -> str:
        return self._tmux("capture-pane", "-p", "-J", "-t", "run").rstrip()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["tmux", "-S", str(self._socket), "kill-server"], check=False, capture_output=True)


def published(folder: Path, tab: Tab, into: Path) -> None:
    """Make the pictures of README and docs."""
    (folder / "fit.py").write_text(FIT)
    (folder / "survey.py").write_text(SURVEY)
    os.chdir(folder)  # the batch's home is in the working directory
    with Terminal(folder) as terminal:
        deadline = time.monotonic() + 120
        seen = running = ""
        while "THE END" not in (screen := terminal.screen()):
            if time.monotonic() > deadline:
                raise SystemExit(f"the batch does not end:\n{screen}")
            seen = screen
            if not running and _finished(seen) >= 34:
                running = seen
                with cb.open("survey") as batch:
                    sharp(tab, notebook_view(folder, "running", batch), into / "batch-running.png", 880, at_most=480)
            time.sleep(0.1)
    lines = screen.removesuffix("THE END").replace(str(folder), SHOWN).rstrip()
    prompt = f"<b>{SHOWN} $</b> python survey.py\n"
    page = folder / "terminal.html"
    page.write_text(f"{TERMINAL}{prompt}{html.escape(lines)}\n<b>{SHOWN} $</b> </pre>")
    sharp(tab, page, into / "terminal.png", 860)
    with cb.open("survey") as batch:
        sharp(tab, notebook_view(folder, "job", batch["star-31"]), into / "job.png", 880)
        made = batch.report().to_html(folder / "report.html")
        made.write_text(made.read_text().replace(str(folder), SHOWN))
        sharp(tab, made, into / "report.png", 1280, at_most=1300)
        batch.timeline(into / "timeline.png")
    for picture in into.glob("*.png"):
        smaller(picture)
    if tab.complaints:
        raise SystemExit(str(tab.complaints))


def _finished(screen: str) -> int:
    return max((int(number) for number in re.findall(r"(\d+)/60", screen)), default=0)


def sharp(tab: Tab, page: Path, picture: Path, width: int, *, at_most: int = 3000) -> None:
    """Take a picture with two dots for each of the page's, so that its letters are sharp on every screen."""
    page.write_text(page.read_text().replace(str(page.parent), SHOWN))
    tab.call("Emulation.setDeviceMetricsOverride", width=width, height=100, deviceScaleFactor=2, mobile=False)
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
    tab.open(page)
    tab.picture(picture, at_most=at_most)


def smaller(picture: Path) -> None:
    """Reduce a picture to 128 colours; the difference is not visible."""
    with Image.open(picture) as image:
        few = image.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    few.save(picture, optimize=True)


# -- many more, for inspection --------------------------------------------------------------------------------------


def on_this_machine(folder: Path) -> Iterator[Batch]:
    """Yield a batch of two dozen jobs twice: while they run, and when all are final."""
    (folder / "fit.py").write_text(FIT)
    spec = cb.JobSpec("python3 fit.py {star} 3", image="skaha/astroml:latest", cores=1, ram=1, workdir=str(folder))
    with cb.Session.connect("local") as session:
        batch = session.batch("stars", home=folder, launch=cb.Window(8))
        batch.map(spec, star=range(24), key="star-{star}")
        final = iter(batch.as_completed())
        for _ in range(10):
            next(final)
        yield batch
        for _ in final:
            pass
        yield batch


def in_memory(folder: Path, count: int) -> Batch:
    """Return a batch of *count* jobs of some minutes each, a few of which failed."""
    clock, draw = FakeClock(), random.Random(count)

    def fate(request: LaunchRequest) -> Fate:
        drawn, lasts, queue = draw.random(), draw.lognormvariate(6, 0.6), draw.uniform(2, 60)
        if drawn < 0.02:
            return Fate(queue=queue, lasts=lasts, code=137, oom_kills=1, log=b"reading the cube\n")
        if drawn < 0.03:
            return Fate(queue=queue, lasts=lasts, code=2, log=b"fit.py: error: unrecognized arguments: --sgima\n")
        return Fate(queue=queue, lasts=lasts, log=b"done\n")

    strategies = Strategies(
        launch=cb.Window(min(2000, max(3, count // 8))), monitor=cb.Listing(every=(30, 60)), retry=cb.Retry(2),
        collect=lambda job, platform: None,
    )  # fmt: skip

    def setup(directory: Path) -> Setup:
        return Setup(
            platform=FakePlatform(clock, fate), strategies=strategies, clock=clock,
            pool=lambda: InlinePool(clock),
        )  # fmt: skip

    batch = prepare(f"calib-{count}", setup=setup, address="local", home=folder)
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
    """Write the notebook views of *shown* as a page."""
    views = "".join(thing._repr_html_() for thing in shown)  # type: ignore[attr-defined]
    file = folder / f"{name}.html"
    file.write_text(f"<!DOCTYPE html><html lang=en><meta charset=utf-8><title>{name}</title><body>{views}")
    return file


def take(tab: Tab, page: Path, into: Path, name: str) -> None:
    for window, width in WINDOWS.items():
        for dark in (False, True):
            tab.show(width=width, dark=dark)
            tab.open(page)
            tab.picture(into / f"{name}-{window}-{'dark' if dark else 'light'}.png", at_most=3000)
    if tab.complaints:
        raise SystemExit(f"{page}: {tab.complaints}")


def to_look_at(folder: Path, tab: Tab, into: Path, sizes: list[int]) -> None:
    for moment, batch in zip(("running", "final"), on_this_machine(folder), strict=True):
        report, job = batch.report(), batch["star-7"]
        take(tab, notebook_view(folder, moment, batch, report, job), into, f"views-{moment}")
        take(tab, batch.report().to_html(folder / "report.html"), into, f"report-{moment}")
        batch.timeline(into / f"timeline-{moment}.png")
    for count in sizes:
        batch = in_memory(folder, count)
        take(tab, notebook_view(folder, str(count), batch, batch.report()), into, f"views-{count}")
        take(tab, batch.report().to_html(), into, f"report-{count}")
        batch.timeline(into / f"timeline-{count}.png")
        batch.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--into", type=Path, default=ROOT / "docs" / "pictures", help="the folder of the published pictures"
    )
    parser.add_argument("--look", type=Path, metavar="FOLDER", help="make the pictures for inspection, in this folder")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="of the batches in memory")
    options = parser.parse_args()
    if PROGRAM is None or shutil.which("tmux") is None:
        raise SystemExit("this needs Chromium and tmux")
    into = (options.look or options.into).resolve()
    into.mkdir(parents=True, exist_ok=True)
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="survey-", dir=Path.home()) as place, chromium() as tab:
        if options.look:
            to_look_at(Path(place), tab, into, options.sizes)
        else:
            published(Path(place), tab, into)
        os.chdir(before)
    print(f"{len(list(into.glob('*.png')))} pictures in {into}")


if __name__ == "__main__":
    main()
