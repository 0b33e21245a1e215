"""A batch as a mapping of jobs, its estimates, notifications and end."""

import sys

import pytest
from engine import SLOW, SPEC, states
from fakes import Fate

import canfar_batch as cb
from canfar_batch import errors
from canfar_batch.batch import Batch
from canfar_batch.records import JobState

S = JobState


# -- a mapping ------------------------------------------------------------------------------------------------------


def test_a_batch_reads_like_a_mapping_of_jobs(world):
    world.platform.fate = lambda request: Fate(code=int("-j1-" in request.name))
    batch = world.planned(3)
    batch.run(progress=False)
    assert batch.keys() == batch._ipython_key_completions_() == ["j0", "j1", "j2"]
    assert [job.key for job in batch] == [job.key for job in batch.jobs] == batch.keys()
    assert [job.key for job in batch[1:]] == ["j1", "j2"]
    assert [job.key for job in batch.succeeded] == ["j0", "j2"]
    assert [job.key for job in batch.failed] == ["j1"]
    assert batch.get("j2").key == "j2"
    assert (batch.get("j9"), batch.get("j9", 0)) == (None, 0)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("j11", "has no job 'j11'; did you mean 'j1'"),
        ("zzz", r"has no job 'zzz'; batch\.keys\(\) lists those that it has"),
        (0, "has no job 0; keys are texts, and batch.jobs is a list"),
    ],
)
def test_an_unknown_key_is_a_key_error_that_names_near_ones(world, key, words):
    with pytest.raises(KeyError, match=words) as caught:
        world.planned(2)[key]
    assert isinstance(caught.value, errors.UnknownJob)


def test_a_job_has_its_outcome_run_time_and_log_file(world):
    world.platform.fate = lambda request: Fate(lasts=40, code=int("-j1-" in request.name), log=b"hello\n")
    batch = world.planned(2)
    before = batch["j0"]
    batch.run(progress=False)
    after, failed = batch["j0"], batch["j1"]
    assert (before.done, before.ok, before.run_seconds, before.log) == (False, False, None, None)
    assert (after.done, after.ok, after.run_seconds) == (True, True, 40.0)
    assert (failed.done, failed.ok) == (True, False)
    assert after.log.read_text() == after.logs() == "hello\n"


@pytest.mark.parametrize(
    "call",
    [
        lambda batch: batch.run(), lambda batch: batch.start(), lambda batch: batch.step(),
        lambda batch: batch.add(SPEC, n=7), lambda batch: batch.retry_failed(), lambda batch: batch.rerun(),
        lambda batch: batch.delete(), lambda batch: batch.collect(), lambda batch: batch.preflight(),
        lambda batch: batch.renew(), lambda batch: next(batch.as_completed()),
    ],
)  # fmt: skip
def test_a_read_only_batch_names_the_call_that_opens_it_for_running(world, call):
    world.planned(1).close()
    with pytest.raises(errors.ReadOnlyBatch, match=r"session\.batch\('test'\) opens it for running"):
        call(Batch.open("test", world.root))


# -- estimates ------------------------------------------------------------------------------------------------------


def test_the_estimate_takes_the_given_time_or_the_median_so_far(world):
    batch = world.planned(4, launch=lambda view: view.ready(at_most=2 - len(view.launches)))
    assert "core-hours are unknown until one has run" in batch.preview(0)
    assert batch.preflight(seconds=1800).estimate.core_hours == 2.0
    assert "4 jobs to run: 2 core-hours if each takes 1.8e+03 s (as given)" in str(batch.preflight(seconds=1800))
    world.platform.fate = lambda request: Fate(lasts=360)
    world.turn(batch, 500)
    estimate = batch.preflight().estimate
    assert (estimate.jobs, estimate.seconds, estimate.is_measured) == (2, 360.0, True)
    assert "2 jobs to run: 0.2 core-hours if each takes 360 s (the median so far)" in batch.preview(0)
    batch.close()
    assert "0.2 core-hours" in Batch.open("test", world.root).preview(0)


# -- notifications --------------------------------------------------------------------------------------------------


def test_a_function_is_called_with_the_report_at_the_end(world):
    reports = []
    report = world.planned(2).run(progress=False, notify=reports.append)
    assert [one.counts for one in reports] == [report.counts]


def test_a_function_is_called_once_when_the_run_is_paused(world):
    world.platform.fate = lambda request: Fate(code=1)
    reports = []
    with pytest.raises(errors.BatchPaused):
        world.planned(20).run(progress=False, stop_alike=2, notify=reports.append)
    (report,) = reports
    assert report.counts[S.PLANNED] > 0


def test_a_started_batch_notifies_too(world):
    reports = []
    batch = world.planned(1)
    batch.start(notify=reports.append)
    batch.wait(20)
    assert len(reports) == 1


def test_a_command_finds_name_outcome_and_report_in_its_environment(world, tmp_path):
    code = (
        "import os, pathlib; pathlib.Path('told').write_text('|'.join(os.environ['CANFAR_BATCH_' + name] "
        "for name in ('NAME', 'OUTCOME', 'REPORT')))"
    )
    command = [sys.executable, "-c", f"import os; os.chdir({str(tmp_path)!r}); {code}"]
    report = world.planned(1).run(progress=False, notify=command)
    assert (tmp_path / "told").read_text() == f"test|ended|{report}"


@pytest.mark.parametrize(
    "notify", [lambda report: 1 / 0, "no-such-program-here", [sys.executable, "-c", "raise SystemExit(3)"]]
)
def test_a_notification_that_fails_is_logged_and_changes_nothing(world, caplog, notify):
    assert world.planned(1).run(progress=False, notify=notify).ok
    assert "test: the notification" in caplog.text


def test_a_notification_is_a_function_or_a_command(world):
    batch = world.planned(1)
    for wrong in (5, [], [5]):
        with pytest.raises(TypeError, match="give a function of the report, or a command"):
            batch.run(notify=wrong)
    assert states(batch) == [S.PLANNED]


# -- the end --------------------------------------------------------------------------------------------------------


def test_delete_removes_the_home(world):
    batch = world.planned(1)
    batch.run(progress=False)
    assert cb.batches(world.root) == ["test"]
    batch.delete()
    assert (cb.batches(world.root), batch.home.exists()) == ([], False)


def test_delete_is_refused_while_jobs_are_active_or_another_process_drives(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(1)
    world.turn(batch, 30)
    other = world.batch()
    with pytest.raises(errors.BatchBusy):
        other.delete()
    with pytest.raises(errors.PlanError, match=r"1 active job, such as 'j0': cancel\(\) before"):
        batch.delete()
    batch.cancel()
    batch.delete()
    assert not batch.home.exists()


def test_renew_asks_for_every_running_job(world, caplog):
    world.platform.fate = lambda request: SLOW
    batch, asked = world.planned(2), []
    world.platform.renew = asked.append
    assert batch.renew() == []
    world.turn(batch, 30)
    assert batch.renew() == ["j0", "j1"]
    batch["j0"].renew()
    assert asked == [batch["j0"].id, batch["j1"].id, batch["j0"].id]

    def refuse(id):
        raise errors.PlatformRefused("not yet")

    world.platform.renew = refuse
    assert batch.renew() == []
    assert "the lifetime of j1 was not extended: not yet" in caplog.text
    batch.cancel()
    with pytest.raises(errors.TransitionError, match="so it has no container"):
        batch["j0"].renew()
