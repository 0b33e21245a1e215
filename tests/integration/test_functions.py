"""Python functions as jobs, on the local platform: what comes back, and by which way."""

import linecache
import math
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import canfar_batch as cb
from canfar_batch import failures
from canfar_batch.local import faults

IMAGE = "skaha/astroml:latest"
HOME = "batches"  # named, since a temporary folder is refused as a default
PYTHON = sys.executable  # the one of this environment, whatever PATH says


CELL = """\
import os, sys

class Star:
    def __init__(self, name):
        self.name = name

    def __eq__(self, other):
        return self.name == other.name


SCALE = 3


def model(x, kind="a", more=None):
    print('working on', x)
    if x == 2:
        raise ValueError("bad x")
    if x == 3:
        return Star("Vega"), (x, kind)
    if x == 4:
        return lambda y: y + SCALE
    if x == 5:
        sys.exit(7)
    if x == 6:
        return (n for n in range(3))
    if x == 7:
        return os.urandom(3_000_000)
    return x * SCALE, kind, more
"""


def run_cell(text):
    """Run *text* as a notebook runs a cell, and return its names."""
    space = {"__name__": "__main__"}
    linecache.cache["<cell>"] = (len(text), None, text.splitlines(keepends=True), "<cell>")
    exec(compile(text, "<cell>", "exec"), space)
    return space


SPACE = run_cell(CELL)
Star, model = SPACE["Star"], SPACE["model"]


@pytest.fixture
def session(local_platform, session_on):
    platform = local_platform()
    session = session_on(platform)
    session.platform_here = platform
    return session


def call(session, *columns, **more):
    return session.map(cb.Function(model, image=IMAGE, python=PYTHON), *columns, home=HOME, progress=False, **more)


def test_return_values_come_back_as_they_were(session):
    results = call(session, [1, 3, 4], ["a", (1, 2), math.nan], [Path("x"), None, {"k": [1.5]}])
    assert results[0] == (3, "a", Path("x"))
    assert results[1] == (Star("Vega"), (3, (1, 2)))
    assert results[2](1) == 4
    batch = session.batch(session.batches()[0], home=HOME)
    assert batch.jobs[0].logs() == "working on 1\n"
    assert batch.jobs[0].fields == {"x": 1, "kind": "a", "more": "x"}
    assert cb.open(batch.name, HOME).results()[batch.keys()[1]][1] == (3, (1, 2))  # without a connection


def test_an_exception_comes_back_with_its_traceback(session):
    with pytest.raises(cb.BatchFailed, match=r"1 x ValueError .*\n +ValueError: bad x") as caught:
        call(session, [1, 2])
    assert isinstance(caught.value.__cause__, ValueError)
    assert 'raise ValueError("bad x")' in str(caught.value.__cause__.__cause__)
    assert call(session, [1, 2], missing="none") == [(3, "a", None), "none"]  # nothing is run again
    (job,) = session.batch(session.batches()[0], home=HOME).failed
    assert job.attempt == 1
    assert isinstance(job.failure, failures.Raised)
    assert 'File "<cell>", line' in job.failure.message
    assert "Traceback" in job.failure.message
    with pytest.raises(cb.JobFailed) as caught:
        job.raise_if_failed()
    assert isinstance(caught.value.__cause__, ValueError)


def test_calls_that_end_otherwise_are_explained(session):
    call(session, [5, 6], missing=None)
    exited, unpicklable = session.batch(session.batches()[0], home=HOME).failed
    assert exited.exit_code == 7
    assert type(exited.failure) is failures.ExitCode
    assert unpicklable.failure.headline.startswith("TypeError: the return value, a generator, cannot be pickled")


@pytest.fixture
def laptop(session, monkeypatch):
    """A session whose driver and containers have no disk in common."""
    monkeypatch.setattr(cb.Session, "nearby", False)
    return session


@pytest.mark.parametrize("launch", [2, cb.Bundle(tasks=3, parallel=2)], ids=["alone", "bundled"])
def test_from_a_laptop_all_travels_by_the_storage(laptop, launch):
    batch = laptop.batch("far", home=HOME, launch=launch, monitor=cb.Listing(every=(0.2, 1)))
    large = os.urandom(2_000_000)
    columns = {"x": [1, 2, 3, 7], "more": [large, None, None, large]}
    batch.map(cb.Function(model, image=IMAGE, python=PYTHON), **columns)
    batch.run(progress=False)
    first, raised, star, seven = batch.jobs
    results = batch.results()
    assert results[first.key] == (3, "a", large)
    assert results[star.key] == (Star("Vega"), (3, "a"))
    assert len(results[seven.key]) == 3_000_000, "larger than a log can carry"
    assert first.logs() == "working on 1\n"
    assert "bad x" in raised.failure.message
    assert isinstance(raised.failure, failures.Raised)
    sent = [each.path for each in laptop.platform_here.requests.recent if each.kind == "upload"]
    assert sum("/functions/" in path for path in sent) == 2, "the function and the value, once each"
    assert "outcome 1/" not in "".join(job.logs() for job in batch.jobs)


def test_a_result_that_is_damaged_on_its_way_is_fetched_again(laptop):
    faulty = laptop.platform_here.faults
    squares = run_cell("def f(x):\n    return x * x")["f"]
    faulty.add(faults.corrupt(), on="download", where=lambda request: "/results/" in request.path, first=1)
    batch = laptop.batch("damaged", home=HOME, monitor=cb.Listing(every=(0.2, 1)))
    batch.map(cb.Function(squares, image=IMAGE, python=PYTHON), x=[1, 2])
    batch.run(progress=False)
    assert list(batch.results().values()) == [1, 4]


def test_without_shared_storage_all_travels_with_the_launch_and_the_log(laptop, monkeypatch):
    monkeypatch.setattr(type(laptop.platform), "storage", None)
    spec = cb.Function(model, image=IMAGE, python=PYTHON)
    batch = laptop.batch("blind", home=HOME, launch=2, monitor=cb.Listing(every=(0.2, 1)))
    batch.map(spec, x=[1, 2, 3, 7], more=[tuple(range(5000)), None, None, None])
    (batch.home / "token").write_text("the container does not see this home\n")
    batch.run(progress=False)
    first, raised, star, large = batch.jobs
    results = batch.results()
    assert results[first.key][2] == tuple(range(5000))
    assert results[star.key] == (Star("Vega"), (3, "a"))
    assert first.logs() == "working on 1\n"
    assert "bad x" in raised.failure.message
    assert "Traceback" in raised.failure.message
    assert "1,048,576 can go through the log" in large.failure.message


def test_many_calls_share_containers(session):
    squares = run_cell("def f(x):\n    return (x, x * x)")["f"]
    spec = cb.Function(squares, image=IMAGE, python=PYTHON)
    assert session.map(spec, range(101), home=HOME, progress=False) == [(x, x * x) for x in range(101)]
    batch = cb.open(spec.name, HOME)
    assert len({job.id for job in batch.jobs}) == 51
    assert batch.results() == {job.key: (x, x * x) for x, job in enumerate(batch.jobs)}


def test_a_bundle_brings_back_exceptions_too(session):
    batch = session.batch("bundled", home=HOME, launch=cb.Bundle(tasks=3, parallel=2))
    batch.map(cb.Function(model, image=IMAGE, python=PYTHON), x=[1, 2, 3])
    batch.run(progress=False)
    assert batch.results()[batch.keys()[2]] == (Star("Vega"), (3, "a"))
    with pytest.raises(cb.JobFailed) as caught:
        batch.jobs[1].raise_if_failed()
    assert isinstance(caught.value.__cause__, ValueError)


def test_modules_beside_the_script_travel_too(session, tmp_path, monkeypatch):
    (tmp_path / "cbt_helper.py").write_text("import cbt_second\ndef twice(x):\n    return 2 * x * cbt_second.ONE\n")
    (tmp_path / "cbt_second.py").write_text("ONE = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    uses = run_cell("import cbt_helper\ndef f(x):\n    return cbt_helper.twice(x)")["f"]
    assert session.map(cb.Function(uses, image=IMAGE, python=PYTHON), [1, 2], home=HOME, progress=False) == [2, 4]


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_another_version_of_python_is_an_error_before_the_first_launch(session, tmp_path):
    other = script(tmp_path / "python", "echo canfar_batch: Python 2.7")
    for python, words in [(other, "has 2.7, and this is Python 3"), ("/no/such/python", "has no Python")]:
        batch = session.batch(f"python-{len(words)}", home=HOME)
        batch.map(cb.Function(model, image=IMAGE, python=python), x=range(3))
        with pytest.raises(cb.SpecError, match=words):
            batch.run(progress=False)
        assert batch.counts == {cb.JobState.PLANNED: 3}


def test_an_image_that_gives_no_answer_stops_nothing_and_each_call_checks(session, tmp_path):
    silent = script(tmp_path / "python", f'case $1 in -c) exit 3;; esac; exec {PYTHON} "$@"')
    batch = session.batch("silent", home=HOME)
    batch.map(cb.Function(model, image=IMAGE, python=silent), x=[1])
    batch.run(progress=False)
    assert batch.jobs[0].ok


SCRIPT = """
import sys, time
import canfar_batch as cb
from pathlib import Path
def slow(x, folder):
    (Path(folder) / f"ran-{x}-{time.time_ns()}").touch()
    while x == 2 and not (Path(folder) / "go").exists():
        time.sleep(0.05)
    return x * 10
with cb.Session.connect(sys.argv[1], token=sys.argv[2]) as session:
    spec = cb.Function(slow, image="skaha/astroml:latest", python=sys.executable)
    print(session.map(spec, [1, 2, 3], [sys.argv[3]] * 3, home=sys.argv[3] + "-home", progress=False), flush=True)
"""


def test_a_killed_script_goes_on_where_it_stopped(local_platform, tmp_path):
    platform = local_platform()
    ran = tmp_path / "ran"
    ran.mkdir()
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), platform.url, platform.token, str(ran)]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list(ran.iterdir())) != 3:
        assert first.poll() is None
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    (ran / "go").touch()
    again = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert again.stdout.strip() == "[10, 20, 30]"
    assert len(list(ran.glob("ran-*"))) == 3
