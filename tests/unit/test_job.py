"""`Job`: its attributes, and waiting for it."""

import copy
import pickle
from datetime import timezone

import attrs
import made
import pytest
from alone import begin
from engine import always
from fakes import Fate

from canfar_batch import Job, JobState, errors
from canfar_batch.records import Receipt


def recorded_naps(platform):
    """The seconds of every sleep from now on."""
    naps, sleep = [], platform.clock.sleep
    platform.clock.sleep = lambda seconds: (naps.append(seconds), sleep(seconds))
    return naps


def test_attributes_do_no_io():
    _, platform, job = begin()
    asked = sum(platform.calls.values())
    attributes = [name for name in dir(Job) if isinstance(getattr(Job, name), property)]
    assert {name: getattr(job, name) for name in attributes}.keys() >= {"state", "exit_code", "failure", "outputs"}
    assert repr(job).startswith("<Job run-")
    assert sum(platform.calls.values()) == asked


def test_a_job_goes_from_pending_over_running_to_its_end():
    _, platform, job = begin(Fate(queue=30, lasts=30))
    assert job.refresh().state is JobState.PENDING
    assert job.started_at is None
    platform.clock.sleep(40)
    assert job.refresh().state is JobState.RUNNING
    assert job.started_at.tzinfo is timezone.utc
    assert job.exit_code is None
    platform.clock.sleep(40)
    assert job.refresh().state is JobState.SUCCEEDED
    assert job.exit_code == 0


def test_a_final_job_is_not_asked_about_again():
    _, platform, job = begin()
    job.wait()
    asked = sum(platform.calls.values())
    job.refresh().wait().raise_if_failed().logs()
    job.events()
    assert sum(platform.calls.values()) == asked


def test_the_outcome_is_kept_after_the_platform_forgets():
    _, platform, job = begin(Fate(code=3, log=b"no convergence\n"))
    job.wait()
    platform.forget(job.id)
    assert (job.refresh().state, job.logs(), job.exit_code) == (JobState.FAILED, "no convergence\n", 3)


def test_the_first_polls_follow_each_other_sooner():
    _, platform, job = begin(Fate(lasts=60))
    naps = recorded_naps(platform)
    job.wait(poll=3.0)
    assert naps[:6] == [0.25, 0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_wait_respects_the_platforms_retry_after():
    _, platform, job = begin(Fate(lasts=1))
    naps = recorded_naps(platform)
    busy = [errors.PlatformBusy("not now", retry_after=300.0)]
    platform.before["container"] = lambda: always(busy.pop())() if busy else None
    job.wait(poll=3.0)
    assert naps == [300.0]


def test_a_wait_that_times_out_shows_the_platforms_last_error():
    _, platform, job = begin()
    platform.before["container"] = always(errors.PlatformUnreachable("no route to it"))
    with pytest.raises(errors.WaitTimeout, match=r"is still pending after 0 s; it runs on; .*: no route to it"):
        job.wait(timeout=0)


def test_a_wait_ends_if_the_credential_expires():
    _, platform, job = begin()
    platform.before["container"] = always(errors.CredentialExpired("log in again"))
    with pytest.raises(PermissionError):
        job.wait()


REFUSED = errors.CredentialRefused("it is refused (401). Run canfar auth login.", status=401, was_accepted=True)
QUESTIONS = ("containers", "container", "logs", "events", "cancel")


def refuse(platform, seconds, error=REFUSED):
    """Refuse the credential for every request, for so many seconds from now on."""
    end = platform.clock.seconds + seconds

    def fail():
        if platform.clock.seconds < end:
            raise error

    for call in QUESTIONS:
        platform.before[call] = fail


@pytest.mark.parametrize("seconds", [5, 1800])
@pytest.mark.parametrize("lasts", [1, 60, 4000])
def test_a_wait_outlasts_a_credential_that_is_refused_for_a_while(caplog, seconds, lasts):
    _, platform, job = begin(Fate(lasts=lasts), forget_after=1e6)
    refuse(platform, seconds)
    assert job.wait().state is JobState.SUCCEEDED
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 2
    assert "canfar auth login" in said[0]
    assert platform.calls["container"] + platform.calls["containers"] < 60 + lasts / 4


def test_lines_are_followed_though_the_credential_is_refused_for_a_while():
    _, platform, job = begin(Fate(lasts=60, log=b"one\ntwo\n"))
    refuse(platform, 30)
    assert list(job.follow()) == ["one", "two"]


@pytest.mark.parametrize("ask", [Job.wait, lambda job: list(job.follow())], ids=["wait", "follow"])
def test_a_credential_that_stays_refused_ends_a_wait_with_the_command_that_renews_it(ask):
    _, platform, job = begin(Fate(lasts=1e5))
    refuse(platform, 1e6)
    with pytest.raises(errors.CredentialRefused, match="canfar auth login"):
        ask(job)
    assert 2100 <= platform.clock.seconds < 3000


def test_a_credential_that_was_never_accepted_ends_a_wait_at_once():
    _, platform, job = begin(Fate(lasts=1e5))
    refuse(platform, 1e6, errors.CredentialRefused("log in", status=401))
    with pytest.raises(errors.CredentialRefused):
        job.wait()
    assert platform.clock.seconds < 1


@pytest.mark.parametrize("seconds", [5, 60])
def test_a_cancel_outlasts_a_credential_that_is_refused_for_a_while(seconds):
    _, platform, job = begin(Fate(lasts=1e5))
    refuse(platform, seconds)
    assert job.cancel(timeout=600).state is JobState.CANCELLED
    assert not platform.all


def test_a_wait_that_is_interrupted_can_be_taken_up_again():
    _, platform, job = begin(Fate(lasts=100))
    platform.clock.sleep, sleep = always(KeyboardInterrupt()), platform.clock.sleep
    with pytest.raises(KeyboardInterrupt):
        job.wait()
    assert job.state is JobState.RUNNING
    platform.clock.sleep = sleep
    assert job.wait().state is JobState.SUCCEEDED


def test_the_record_of_a_job_can_be_pickled_and_copied():
    ended = attrs.evolve(made.attempt(), receipt=Receipt(exit_code=0, outputs={"a.cat": 5}))
    record = made.job("a", ended)
    for again in (pickle.loads(pickle.dumps(record)), copy.deepcopy(record)):
        assert again == record
        assert again.last_attempt.receipt.outputs == {"a.cat": 5}
