"""Single jobs: launches without an answer, absence, cancelling, and jobs that were found."""

import pytest
from alone import SETTLE, begin
from engine import always
from fakes import Fate

from canfar_batch import JobSpec, JobState, errors, failures
from canfar_batch.engine.finish import LOG_PATIENCE
from canfar_batch.records import Phase
from canfar_batch.setup import ABSENT_POLLS

# -- absence ------------------------------------------------------------------------------------------------------


def test_absence_counts_after_several_polls_and_the_settle_time():
    _, platform, job = begin(Fate(lasts=1000))
    job.refresh()
    platform.forget(job.id)
    for _ in range(ABSENT_POLLS + 2):
        assert job.refresh().state is JobState.RUNNING
    platform.clock.sleep(SETTLE)
    assert job.refresh().state is JobState.FAILED
    assert isinstance(job.failure, failures.Deleted)


def test_a_container_that_reappears_was_never_lost():
    _, platform, job = begin(Fate(lasts=1000))
    gone = [errors.JobNotFound("session x not found")] * 2
    platform.before["container"] = lambda: always(gone.pop())() if gone else None
    job.refresh().refresh()
    platform.clock.sleep(SETTLE)
    assert job.refresh().refresh().state is JobState.RUNNING
    platform.forget(job.id)
    assert job.refresh().refresh().refresh().state is JobState.RUNNING


def test_a_job_that_ended_unseen_is_reported_as_unwatched():
    _, platform, job = begin(Fate(lasts=60))
    job.refresh()
    platform.clock.sleep(5 * 3600)
    assert isinstance(job.wait().failure, failures.Unwatched)
    assert job.state is JobState.LOST
    assert "outputs" in job.explain()


# -- logs that are not available ----------------------------------------------------------------------------------


def test_a_broken_log_delays_the_verdict_but_not_for_ever():
    _, platform, job = begin(Fate(lasts=0, code=1))
    platform.before["logs"] = always(errors.PlatformBroken("no logs today"))
    end = platform.clock.ticks() + LOG_PATIENCE
    while platform.clock.ticks() < end:
        with pytest.raises(errors.PlatformBroken):
            job.refresh()
        platform.clock.sleep(60)
    assert job.refresh().state is JobState.FAILED
    assert isinstance(job.failure, failures.Unknown)
    with pytest.raises(errors.PlatformBroken, match="no logs today"):
        job.logs()
    del platform.before["logs"]
    assert job.logs() == ""  # the job printed nothing, as the platform reports now


def test_missing_events_do_not_matter_if_there_is_a_receipt():
    _, platform, job = begin(Fate(lasts=0, code=1))
    platform.before["events"] = always(errors.PlatformBroken("no events today"))
    assert job.refresh().failure == failures.ExitCode(1)


def test_raising_for_a_failure_needs_no_platform():
    _, platform, job = begin(Fate(lasts=0, code=1))
    platform.before["logs"] = always(errors.PlatformBroken("no logs today"))
    job.wait()
    with pytest.raises(errors.JobFailed, match="unavailable: no logs today"):
        job.raise_if_failed()


def test_nothing_is_raised_while_a_job_runs():
    _, _, job = begin()
    assert job.raise_if_failed() is job


# -- cancelling ---------------------------------------------------------------------------------------------------


def test_a_success_receipt_wins_over_a_cancel():
    _, platform, job = begin(Fate(lasts=100))
    log = platform.logs

    def ends_meanwhile(id):
        platform.clock.sleep(100)
        return log(id)

    platform.logs = ends_meanwhile
    assert job.cancel().state is JobState.SUCCEEDED


def test_a_cancel_that_cannot_be_sent_can_be_repeated():
    _, platform, job = begin(Fate(lasts=10_000))
    platform.before["cancel"] = always(errors.PlatformUnreachable("no route to it"))
    with pytest.raises(errors.WaitTimeout, match="no route to it"):
        job.cancel()
    assert not job.state.final
    del platform.before["cancel"]
    assert job.cancel().state is JobState.CANCELLED


def test_cancelling_a_forgotten_container_is_not_an_error():
    _, platform, job = begin(Fate(lasts=1000))
    platform.forget(job.id)
    assert job.cancel().state is JobState.CANCELLED


def test_a_pending_timeout_does_not_apply_to_a_running_job():
    _, platform, job = begin(Fate(queue=50, lasts=500), pending_timeout=100)
    assert job.wait().state is JobState.SUCCEEDED
    _, platform, job = begin(Fate(queue=500), pending_timeout=100)
    assert isinstance(job.wait().failure, failures.StuckPending)
    assert platform.all == {}


# -- found on the platform ----------------------------------------------------------------------------------------


def test_a_container_launched_elsewhere_is_a_job_of_unknown_command():
    session, _, job = begin(Fate(lasts=100), cores=2, ram=8)
    (found,) = session.jobs()
    assert found.spec.cmd == ("(unknown)",)
    assert (found.key, found.id, found.state) == (job.key, job.id, JobState.RUNNING)
    assert (found.spec.cores, found.spec.ram) == (2, 8)
    assert found.wait().exit_code == 0


def test_a_job_found_at_its_end_keeps_its_verdict_without_its_log():
    session, platform, _ = begin(Fate(lasts=0))
    (found,) = session.jobs()
    platform.before["logs"] = always(errors.PlatformBroken("no logs today"))
    with pytest.raises(errors.PlatformBroken):
        found.refresh()
    assert found.state is JobState.SUCCEEDED
    del platform.before["logs"]
    assert found.refresh().exit_code == 0


def test_an_unknown_status_changes_nothing():
    _, platform, job = begin(Fate(lasts=100))
    job.refresh()
    platform.phase = lambda container: Phase.OTHER
    assert job.refresh().state is JobState.RUNNING


def test_a_spec_is_launched_whole():
    session, _, _ = begin()
    job = session.launch(JobSpec("echo {not a field}", image="skaha/astroml", name="whole"))
    assert job.spec.name == "whole"
    with pytest.raises(errors.SpecError, match="put cores into it"):
        session.launch(job.spec, cores=2)
