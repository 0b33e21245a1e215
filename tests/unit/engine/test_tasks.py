"""The evidence about one job of a bundle whose container the platform has begun again."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import attrs
import pytest
from fakes import EPOCH, FakePlatform

from canfar_batch.engine.tasks import Companions, ContainerAnswers, gather_task, read_reports
from canfar_batch.payload.receipts import mark, receipt_paths
from canfar_batch.payload.wrapper import MARK
from canfar_batch.records import Attempt, JobRecord, Phase, Resources
from canfar_batch.spec import JobSpec
from canfar_batch.store.home import Home

AGAIN = 100.0  #: seconds after which the container was begun again


@pytest.fixture
def home(tmp_path):
    (tmp_path / "receipts").mkdir()
    (tmp_path / "running").mkdir()
    return Home(tmp_path)


@pytest.fixture
def answers():
    platform = FakePlatform()
    return ContainerAnswers(platform, platform.clock.ticks)


def task(number, *, restarts=1):
    """The record of a task that was seen to run before its container was begun again."""
    spec = JobSpec("fit", image="a/b")
    attempt = Attempt(
        number=1, launch_name="x", resources=Resources(), intended_at=EPOCH, id="f1", task=number, restarts=restarts,
        start_time=EPOCH + timedelta(seconds=AGAIN),
    )  # fmt: skip
    return JobRecord(key=f"j{number}", index=number, spec=spec, filled=spec.fill(), attempts=(attempt,))


def lines(job, begin, *, code=0, told=""):
    name = mark("x", job.attempts[-1].task)
    facts = f"key={job.key} attempt=1 started={EPOCH.timestamp() + begin:.3f}"
    end = f"end {facts} finished={EPOCH.timestamp() + begin + 5:.3f} code={code} told={told} late= trouble= outputs=0"
    return f"{MARK} {name} start {facts} #{name}\n", f"{MARK} {name} {end} #{name}\n"


def write(home, job, begin, *, ended=True, **how):
    """Leave the files of a task that began *begin* seconds after the container's first start."""
    start, end = map(Path, receipt_paths(str(home.path), job.key, 1))
    first, last = lines(job, begin, **how)
    start.write_text(first)
    if ended:
        end.write_text(last)


def reported(answers, home, job):
    start, end = read_reports(answers, [job], since=0.0, receipt_home=home).receipts[job.key]
    return (start is not None, end and end.exit_code)


@pytest.mark.parametrize(
    ("begin", "how", "found"),
    [
        (10, {"ended": False}, (False, None)),  # it ran in the first run, and waits for its turn in the second
        (10, {}, (False, 0)),  # the second run does not repeat it
        (10, {"code": 3}, (False, 3)),
        (10, {"code": 143, "told": "TERM"}, (False, None)),  # the second run repeats it
        (110, {"ended": False}, (True, None)),
        (110, {"code": 143, "told": "TERM"}, (True, 143)),
    ],
)
def test_the_reports_of_a_container_that_was_begun_again(answers, home, begin, how, found):
    write(home, task(1), begin, **how)
    assert reported(answers, home, task(1)) == found


def test_an_end_that_is_older_than_a_later_start_of_the_task_does_not_count(answers, home):
    write(home, task(1), 10)
    Path(receipt_paths(str(home.path), "j1", 1)[0]).write_text(lines(task(1), 110)[0])
    assert reported(answers, home, task(1)) == (True, None)


@pytest.mark.parametrize(("companion", "not_begun"), [(110, True), (10, False)])
def test_a_task_of_the_run_before_has_not_begun_if_others_have(answers, home, companion, not_begun):
    write(home, task(1), 10, ended=False)
    write(home, task(2), companion)
    others = Companions(starts=(Path(receipt_paths(str(home.path), "j2", 1)[0]),))
    found = gather_task(
        answers, task(1), others, phase=Phase.FAILED, ended=False, since=0.0, archive=home, receipt_home=home
    )
    assert (found.began, found.ended, found.not_begun) == (None, None, not_begun)


def test_the_clock_of_a_container_may_be_behind_if_its_log_shows_its_run(home):
    platform = FakePlatform()
    job = task(1)
    text = f"{MARK} x start tasks=1 #x\n{lines(job, -3600)[0]}"
    platform.stream_logs = lambda id: iter([text.encode()])
    answers = ContainerAnswers(platform, platform.clock.ticks)
    assert reported(answers, None, job) == (True, None)


def test_without_a_restart_the_clocks_are_not_compared(answers, home):
    job = task(1, restarts=0)
    write(home, job, -3600, ended=False)
    assert reported(answers, home, job) == (True, None)
    assert Companions(starts=(Path(receipt_paths(str(home.path), "j1", 1)[0]),)).have_begun(
        attrs.evolve(job.attempts[-1], task=2)
    )
