"""A batch whose driver does not see the containers' files: uploaded, run, brought back, killed and resumed."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import until

from canfar_batch.local import LocalPlatform, faults

WORK = """
import pathlib, sys, time
data = pathlib.Path(sys.argv[1]).read_bytes()
deadline = time.monotonic() + 60
while len(sys.argv) > 3 and not pathlib.Path(sys.argv[3]).exists() and time.monotonic() < deadline:
    time.sleep(0.02)
pathlib.Path(sys.argv[2]).write_bytes(data[::-1])
"""
DRIVER = """
import sys
import canfar_batch as cb

cb.Session.nearby = property(lambda self: False)  # as on a machine that does not have the containers' disk
with cb.Session.connect() as session:
    spec = cb.JobSpec(
        "python work.py raw/{name}.fits {name}.out" + (" go" if "--wait" in sys.argv else ""),
        image="skaha/astroml:latest", cores=1, ram=1, outputs=["{name}.out"],
    )
    batch = session.batch(
        "laptop", inputs=cb.Inputs("work.py", "raw/*.fits", to="/arc/projects/mine"),
        collect=cb.Files(download="results"), monitor=cb.Listing((0.1, 0.3)), settle=1.0, home="batches",
    )
    batch.map(spec, key="{name}", name=[f"night{number:02}" for number in range(int(sys.argv[1]))])
    batch.run(progress=False).raise_if_failed()
    assert all(path.exists() for path in batch.results().values())
"""


@pytest.fixture
def platform():
    with LocalPlatform(cores=16, ram=64, storage_faults=faults.CAVERN_OIDC) as started:
        yield started


@pytest.fixture
def laptop(tmp_path):
    """A folder with scripts and 20 FITS files."""
    (tmp_path / "raw").mkdir()
    for number in range(20):
        (tmp_path / f"raw/night{number:02}.fits").write_bytes(os.urandom(30_000 + number))
    (tmp_path / "work.py").write_text(WORK)
    (tmp_path / "driver.py").write_text(DRIVER)
    return tmp_path


def hidden(folder):
    """The beginning of a command that does not see *folder*, by mounts of its own, if the system lets it have them."""
    for unshare in (["unshare", "-m"], ["unshare", "-rm"]):
        hide = [*unshare, "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(folder)]
        try:
            if subprocess.run([*hide, "true"], capture_output=True, check=False).returncode == 0:
                return hide
        except FileNotFoundError:
            break
    return []


def damaged(call):
    """An upload of which a byte has changed on the way: its digest is that of other content."""
    call.request.headers["digest"] = "md5=AAAAAAAAAAAAAAAAAAAAAA=="
    return call.proceed()


def drive(laptop, platform, *arguments):
    settings = {**os.environ, "CANFAR_URL": platform.url, "CANFAR_TOKEN": platform.token}
    command = [*hidden(platform.arc), sys.executable, "driver.py", *arguments]
    return subprocess.Popen(command, cwd=laptop, env=settings)


def check(laptop, count):
    for number in range(count):
        data = (laptop / f"raw/night{number:02}.fits").read_bytes()
        result = laptop / f"results/night{number:02}.out"
        assert hashlib.sha256(result.read_bytes()).digest() == hashlib.sha256(data[::-1]).digest()
    assert len(list((laptop / "results").iterdir())) == count


def test_twenty_files_come_back_with_one_damaged_on_the_way_and_the_driver_killed(platform, laptop):
    platform.faults.add(damaged, on="upload", where=lambda request: "night03.fits" in request.path, first=1)
    platform.faults.add(faults.corrupt(), on="download", where=lambda request: "night07.out" in request.path, first=1)
    first = drive(laptop, platform, "20")
    try:
        until(lambda: len(list(Path(laptop / "results").glob("*.out"))) >= 4, "no results came")
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    uploads = [each.path for each in platform.requests.recent if each.kind == "upload" and ".fits." in each.path]
    assert len(uploads) == 21, "each file was sent once, and the damaged one again"
    platform.requests.clear()
    assert drive(laptop, platform, "20").wait(100) == 0
    assert not [each for each in platform.requests.recent if each.kind == "upload" and ".fits" in each.path]
    check(laptop, 20)
    assert set(platform.starts.values()) == {1}, "a job ran twice"
    assert not list(platform.arc.rglob("*.part"))


def test_a_batch_that_was_left_alone_until_all_was_forgotten_has_lost_nothing(platform, laptop):
    first = drive(laptop, platform, "5", "--wait")
    try:
        until(lambda: [job.status for job in platform.jobs()] == ["Running"] * 5, "they do not run")
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    (platform.arc / "projects/mine/go").touch()
    assert platform.wait_idle(60)
    for job in platform.jobs():
        platform.forget(job.id)
    assert drive(laptop, platform, "5", "--wait").wait(100) == 0
    check(laptop, 5)
    assert set(platform.starts.values()) == {1}, "a job ran twice"


def test_the_page_for_laptops_keeps_its_word_on_one(platform, laptop):
    page = (Path(__file__).parents[2] / "docs/howto/laptop.md").read_text()
    first = page.partition("```python\n")[2].partition("```")[0]
    here = "import canfar_batch as cb\n\ncb.Session.nearby = property(lambda self: False)\n"
    (laptop / "driver.py").write_text(
        here + first.replace('"laptop",', '"laptop", home="batches", settle=1.0, monitor=cb.Listing((0.1, 0.3)),')
    )
    assert drive(laptop, platform).wait(60) == 0
    assert json.loads((laptop / "results/night1.json").read_text()) == {"bytes": 6000}
    (folder,) = (platform.arc / "home/local/canfar_batch").iterdir()
    assert {path.name for path in folder.iterdir()} == {"measure.py", "raw", "night1.json", "night2.json"}
