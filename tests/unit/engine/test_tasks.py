"""The evidence about one job of a bundle, also if the platform has begun its container again."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import attrs
import pytest
from fakes import EPOCH, FakePlatform

from canfar_batch import errors
from canfar_batch.engine.tasks import Companions, ContainerAnswers, RawLog, gather_task, read_reports
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


# -- answers that the jobs of a container share ---------------------------------------------------------------------


def test_an_answer_is_asked_for_once_until_a_newer_one_is_wanted():
    platform = FakePlatform()
    answers = ContainerAnswers(platform, platform.clock.ticks)
    for since in (0.0, 0.0, 0.0):
        answers.log("f1", since)
    assert platform.calls["logs"] == 1
    platform.clock.sleep(10)
    answers.log("f1", 5.0)
    answers.log("f1", 5.0)
    assert platform.calls["logs"] == 2
    answers.log("f2", 5.0)
    assert platform.calls["logs"] == 3


def test_an_answer_that_did_not_come_is_asked_for_again():
    platform = FakePlatform()
    answers = ContainerAnswers(platform, platform.clock.ticks)
    refusals = [errors.PlatformBroken("not now")]

    def refuse():
        if refusals:
            raise refusals.pop()

    platform.before["events"] = refuse
    with pytest.raises(errors.PlatformBroken):
        answers.events("f1", 0.0)
    assert answers.events("f1", 0.0) is None


def test_jobs_in_several_threads_share_one_answer():
    platform, gate, asked = FakePlatform(), threading.Event(), []

    def slow():
        asked.append(1)
        gate.wait(10)

    platform.before["logs"] = slow
    answers = ContainerAnswers(platform, platform.clock.ticks)
    found = []
    threads = [threading.Thread(target=lambda: found.append(answers.log("f1", 0.0))) for _ in range(8)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join()
    assert (len(asked), len({id(log) for log in found})) == (1, 1)


def test_only_the_newest_answers_are_kept():
    platform = FakePlatform()
    answers = ContainerAnswers(platform, platform.clock.ticks)
    for number in range(40):
        answers.log(f"f{number}", 0.0)
    answers.log("f39", 0.0)
    assert platform.calls["logs"] == 40
    answers.log("f0", 0.0)
    assert platform.calls["logs"] == 41


def test_a_raw_log_can_be_read_again_and_by_several():
    log = RawLog([b"a" * 70_000, b"b" * 70_000])
    first, second = iter(log), iter(log)
    assert next(first) == next(second)
    assert b"".join(log) == b"a" * 70_000 + b"b" * 70_000
    assert log.size == 140_000


# -- what one job of a bundle left ----------------------------------------------------------------------------------


def shipped(*jobs, own="hello\n"):
    """The log of a container that does not see the home, in which these jobs ran one after the other."""
    text = f"{MARK} x start tasks={len(jobs)} #x\n"
    for place, job in enumerate(jobs):
        name = mark("x", job.attempts[-1].task)
        start, end = lines(job, 10 * place)
        text += f"\n{start}\n{MARK} {name} log #{name}\n{own}\n{MARK} {name} logend #{name}\n\n{end}"
    return text.encode()


def gathered(platform, home, job, *others, ended=False, receipt_home=None):
    answers = ContainerAnswers(platform, platform.clock.ticks)
    starts = tuple(Path(receipt_paths(str(home.path), other.key, 1)[0]) for other in others)
    return gather_task(
        answers, job, Companions(starts=starts), phase=Phase.COMPLETED, ended=ended, since=0.0, archive=home,
        receipt_home=receipt_home,
    )  # fmt: skip


def test_each_job_gets_its_part_of_the_containers_log(home):
    platform, one, two = FakePlatform(), task(1, restarts=0), task(2, restarts=0)
    home.logs.mkdir()
    platform.stream_logs = lambda id: iter([shipped(one, two)])
    for job in (one, two):
        found = gathered(platform, home, job)
        assert (found.ended.exit_code, found.log, found.log_is_cut) == (0, b"hello\n", False)
        assert home.log(job.key, 1).read_bytes() == b"hello\n"


def test_a_log_that_the_container_left_in_the_home_is_moved_to_the_others(home):
    platform, job = FakePlatform(), task(1, restarts=0)
    home.logs.mkdir()
    write(home, job, 0)
    home.running_log("x.1").write_bytes(b"own\n")
    found = gathered(platform, home, job, receipt_home=home)
    assert (found.log, home.log("j1", 1).read_bytes(), platform.calls["logs"]) == (b"own\n", b"own\n", 0)
    assert not home.running_log("x.1").exists()


def test_a_job_that_is_not_in_the_log_of_others_has_not_begun(home):
    platform, one, two = FakePlatform(), task(1, restarts=0), task(2, restarts=0)
    home.logs.mkdir()
    platform.stream_logs = lambda id: iter([shipped(one)])
    found = gathered(platform, home, two)
    assert (found.not_begun, found.log, found.trouble) == (True, None, None)
    assert not home.log("j2", 1).exists()


def test_a_log_that_is_not_available_is_trouble_and_no_proof(home):
    platform, job = FakePlatform(), task(1, restarts=0)
    home.logs.mkdir()

    def refuse(id):
        raise errors.PlatformBroken("not now")

    platform.stream_logs = refuse
    found = gathered(platform, home, job)
    assert isinstance(found.trouble, errors.PlatformBroken)
    assert (found.not_begun, found.began, found.ended) == (False, None, None)


# -- receipts on the storage ------------------------------------------------------------------------------------------


class Remote:
    """A folder on the storage."""

    def __init__(self, home, *jobs, trouble=None):
        self.there, self.trouble, self.home = jobs, trouble, home

    def fetch(self, job, home):
        if self.trouble:
            raise self.trouble
        if job in self.there:
            write(self.home, job, 10)

    def reported(self):
        if self.trouble:
            raise self.trouble
        return frozenset(Path(receipt_paths("", job.key, 1)[0]).name for job in self.there)


@pytest.mark.parametrize("there", [True, False])
def test_a_container_that_was_forgotten_is_judged_by_the_storage(home, there):
    platform, one, two = FakePlatform(), task(1, restarts=0), task(2, restarts=0)
    home.logs.mkdir()
    answers = ContainerAnswers(platform, platform.clock.ticks)
    others = Companions(starts=(Path(receipt_paths(str(home.path), "j1", 1)[0]),))
    found = gather_task(
        answers, two, others, phase=None, ended=False, since=0.0, archive=home, receipt_home=home,
        remote=Remote(home, one, two) if there else Remote(home, one),
    )  # fmt: skip
    assert (found.ended is not None, found.not_begun, found.unread) == (there, not there, False)


def test_a_storage_that_cannot_be_asked_proves_nothing(home):
    platform, one, two = FakePlatform(), task(1, restarts=0), task(2, restarts=0)
    home.logs.mkdir()
    write(home, one, 10)
    answers = ContainerAnswers(platform, platform.clock.ticks)
    others = Companions(starts=(Path(receipt_paths(str(home.path), "j1", 1)[0]),))
    found = gather_task(
        answers, two, others, phase=None, ended=False, since=0.0, archive=home, receipt_home=home,
        remote=Remote(home, trouble=errors.StorageError("away")),
    )  # fmt: skip
    assert (found.unread, found.not_begun) == (True, False)
