"""The examples of batches run unchanged on the local platform, with the results that they announce."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import canfar_batch as cb
from canfar_batch import failures

np = pytest.importorskip("numpy", reason="the examples need numpy; the extra `examples` brings it")
fits = pytest.importorskip("astropy.io.fits", reason="the examples need astropy; the extra `examples` brings it")

EXAMPLES = Path(__file__).parents[2] / "examples"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(away_from_home: Path) -> Run:
    """Run an example as a user does, in an empty folder."""

    def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, EXAMPLES / script, *map(str, arguments)],
            env={**os.environ, "CANFAR_URL": "local"}, capture_output=True, text=True, timeout=100,
        )  # fmt: skip

    return run


@pytest.fixture
def observations(away_from_home: Path) -> list[str]:
    """Three images, of which the second is damaged."""
    for number in (1, 2, 3):
        fits.PrimaryHDU(np.arange(12.0).reshape(3, 4) * number).writeto(f"obs{number}.fits")
    Path("obs2.fits").write_text("no image")
    return ["obs1.fits", "obs2.fits", "obs3.fits"]


@pytest.fixture
def opened(away_from_home: Path) -> Iterator[Callable[[str], cb.Batch]]:
    """Open batches that close with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda name: stack.enter_context(cb.open(name))


def most_at_once(batch: cb.Batch) -> int:
    """Return how many commands ran at the same time, by their own receipts."""
    begun = [(attempt.receipt.started_at, 1) for job in batch for attempt in job.attempts]
    ended = [(attempt.receipt.finished_at, -1) for job in batch for attempt in job.attempts]
    return max(itertools.accumulate(step for _, step in sorted(begun + ended)))


# -- quickstart.py ------------------------------------------------------------------------------------------------


def test_the_quickstart_processes_each_good_image_once(run: Run, opened):
    first = run("quickstart.py")
    assert first.returncode == 0, first.stderr
    assert "Batch quickstart: 10 jobs in " in first.stdout
    assert "9 succeeded, 1 failed" in first.stdout
    assert "OSError: Empty or corrupt FITS" in first.stdout
    assert "retries     1 (1 exit code 1)" in first.stdout
    batch = opened("quickstart")
    assert batch.counts == {cb.JobState.SUCCEEDED: 9, cb.JobState.FAILED: 1}
    for key, path in batch.results().items():
        source = Path("images", f"{key}.fits")
        assert (path is None) == (source.stat().st_size == 1000)
        assert path is None or np.array_equal(fits.getdata(path), np.median(fits.getdata(source), axis=0))
    assert most_at_once(batch) <= 3

    again = run("quickstart.py")
    assert again.returncode == 0, again.stderr
    assert "10 jobs known, 0 new" in again.stderr
    assert again.stdout == first.stdout, "it prints the same"
    later = opened("quickstart")
    assert [len(job.attempts) for job in later] == [
        2 if job.key in {j.key for j in batch.failed} else 1 for job in later
    ]
    assert later.history() == batch.history(), "nothing happened to any job"


def test_the_quickstart_makes_its_images_once_and_one_is_damaged(away_from_home: Path):
    some_images = runpy.run_path(str(EXAMPLES / "images.py"))["some_images"]
    assert some_images("some") == some_images("some")
    assert [path.name for path in away_from_home.iterdir()] == ["some"]
    assert sorted(path.stat().st_size == 1000 for path in Path("some").iterdir()) == [False] * 9 + [True]


# -- the guide's programs -----------------------------------------------------------------------------------------


def test_parallel_files_are_processed_and_collected_with_their_sizes(run: Run, observations: list[str]):
    done = run("parallel_files.py", *observations)
    assert done.returncode == 1, "one of the files is not an image"
    assert "2 succeeded, 1 failed" in done.stdout
    assert np.array_equal(fits.getdata("results/processed_obs3.fits"), [12.0, 15.0, 18.0, 21.0])

    done = run("collect_results.py", "parallel-files")
    assert done.returncode == 0, done.stderr
    size = Path("results/processed_obs1.fits").stat().st_size
    assert "found 2 result files:" in done.stdout
    assert f"  results/processed_obs1.fits: {size:,} bytes" in done.stdout
    assert "obs2" in done.stdout


def test_the_monitor_follows_a_batch_to_its_end(run: Run, away_from_home: Path):
    with cb.Session.connect("local") as session, session.batch("planned") as batch:
        batch.grid(cb.JobSpec("sh -c 'exit {code}'", image="skaha/astroml"), key="job-{code}", code=[0, 3])
    done = run("monitor_jobs.py", "planned")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert {line.split(";")[0] for line in lines[:2]} == {"job-0 succeeded", "job-3 failed (exit code 3)"}
    assert lines[1].endswith("; 1 succeeded, 1 failed")
    assert lines[2].startswith("1 failed: 1 exit code 3")


def test_the_sweep_runs_every_combination_once(run: Run):
    done = run("parameter_sweep.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" peaks\n") == 18
    with open("sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({(row["threshold"], row["sigma"], row["method"]) for row in rows}) == 18
    assert all(int(row["result_peaks"]) > 0 for row in rows)


def test_the_check_shows_usage_and_problems_and_launches_nothing(run: Run, opened):
    done = run("check_resources.py", "python", "process.py", "no/such.fits")
    assert done.returncode == 0, done.stderr
    assert "in use: 0 running, 0 pending" in done.stdout
    assert "command  python process.py no/such.fits" in done.stdout
    assert opened("check-resources").counts == {cb.JobState.PLANNED: 1}


def test_the_robust_launcher_retries_until_the_command_succeeds(run: Run):
    done = run("robust_launch.py", "sh", "-c", "test -e done || { touch done; exit 75; }; echo fetched")
    assert done.returncode == 0, done.stderr
    assert "1 job succeeded after a retry" in done.stdout
    assert done.stdout.endswith("\nfetched\n\n")


def test_the_robust_launcher_says_why_it_gave_up(run: Run, opened):
    done = run("robust_launch.py", "sh", "-c", "echo server gone; exit 75")
    assert done.returncode == 1
    assert "JobFailed" in done.stderr
    assert "server gone" in done.stderr
    (job,) = opened("robust-launch")
    assert [attempt.failure.code for attempt in job.attempts] == [75, 75, 75]


@pytest.mark.parametrize(
    "script", ["check_resources", "collect_results", "monitor_jobs", "parallel_files", "robust_launch", "single_file"]
)
def test_an_example_without_arguments_shows_its_usage(script, away_from_home, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{script}.py"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / f"{script}.py"))
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"usage: python {script}.py ")
    assert list(away_from_home.iterdir()) == [], "nothing was begun"


def test_the_analysis_runs_without_canfar_batch():
    done = subprocess.run(
        [sys.executable, EXAMPLES / "analysis_with_params.py", "--threshold=0.5", "--sigma=3", "--method=gaussian"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert json.loads(done.stdout)["peaks"] == 10, "the number of lines that were put into the spectrum"


@pytest.mark.parametrize("obedient", [True, False], ids=["ends when asked", "killed"])
def test_jobs_that_end_with_the_local_platform_are_launched_by_the_next_run(tmp_path, obedient):
    trap = "trap 'exit 3' TERM" if obedient else "trap '' TERM"
    command = f"{trap}; test -e go || while :; do sleep 0.05; done"
    spec = cb.JobSpec(["sh", "-c", command], image="skaha/astroml:latest", workdir=tmp_path)
    with cb.Session.connect("local") as session, session.batch("ends", home=tmp_path) as batch:
        batch.map(spec, key="j{n}", n=[1])
        while batch.jobs[0].state is not cb.JobState.RUNNING:
            batch.step()
            time.sleep(0.05)
    (tmp_path / "go").touch()
    with cb.Session.connect("local") as session, session.batch("ends", home=tmp_path) as batch:
        batch.run(progress=False, timeout=60)
        (job,) = batch.jobs
        assert (job.state, len(job.attempts)) == (cb.JobState.SUCCEEDED, 2)
        assert isinstance(job.attempts[0].failure, failures.Evicted)
