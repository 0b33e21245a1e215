"""How a job changes."""

import gc
from datetime import datetime, timedelta, timezone
from pathlib import Path

import attrs
import pytest

from canfar_batch import failures as why
from canfar_batch.errors import TransitionError
from canfar_batch.lifecycle import (
    ALLOWED,
    Adopted,
    CancelAsked,
    Cancelled,
    Collected,
    Deferred,
    Ended,
    Event,
    EvidenceAdded,
    HeldUp,
    Intended,
    LateSuccess,
    Launched,
    NotCollected,
    PhaseChanged,
    Reopened,
    Respecified,
    RetryExhausted,
    Retrying,
    StopDecided,
    apply,
    replaced,
)
from canfar_batch.records import JobRecord, JobState, LostRun, Phase, Receipt, Resources
from canfar_batch.spec import JobSpec

AT = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
LATER = AT + timedelta(minutes=5)
SPEC = JobSpec("fit", image="skaha/astroml")
SMALL, BIG = Resources(ram=1), Resources(ram=2)
DONE = Receipt(exit_code=0, started_at=AT, finished_at=LATER)

PLANNED = JobRecord(key="a", index=0, spec=SPEC, filled=SPEC.fill(key="a"))


def event(kind, **fields):
    """An event of job a, its other fields filled in."""
    usual = {
        Intended: {"launch_name": "a-1", "resources": SMALL},
        Launched: {"id": "abcd1234"},
        Adopted: {"id": "wxyz9876"},
        Deferred: {"due": LATER, "why": "not now"},
        PhaseChanged: {"phase": Phase.RUNNING},
        Ended: {"succeeded": False, "failure": why.Lost()},
        Retrying: {"due": LATER, "resources": BIG},
        LateSuccess: {"receipt": DONE},
        NotCollected: {"why": "no such file"},
        HeldUp: {"why": "it is too large"},
        StopDecided: {"failure": why.StuckPending()},
        Respecified: {"spec": SPEC, "resources": BIG},
    }
    return kind(**{"key": "a", "at": AT, **usual.get(kind, {}), **fields})


def after(*kinds, job=PLANNED):
    """The record after these events, each a class or a whole event."""
    for kind in kinds:
        job = apply(job, kind if isinstance(kind, Event) else event(kind))
    return job


FAILED_FOR_GOOD = event(Ended, failure=why.ExitCode(1))
SUCCESS = event(Ended, succeeded=True, failure=None, receipt=DONE, verified=True)

#: a history that leads to each state, with an attempt given up for absence alone if possible
IN = {
    JobState.PLANNED: PLANNED,
    JobState.LAUNCHING: after(Intended),
    JobState.PENDING: after(Intended, Launched),
    JobState.RUNNING: after(Intended, Launched, PhaseChanged),
    JobState.WAITING: after(Intended, Launched, Ended),
    JobState.SUCCEEDED: after(Intended, Launched, SUCCESS),
    JobState.FAILED: after(Intended, event(Ended, failure=why.LaunchRefused()), RetryExhausted),
    JobState.LOST: after(Intended, Launched, Ended, RetryExhausted),
    JobState.CANCELLED: after(Intended, Launched, CancelAsked, Cancelled),
}


def pairs(allowed):
    return [
        pytest.param(kind, state, id=f"{kind.__name__}-{state}")
        for kind in ALLOWED
        for state in JobState
        if (state in ALLOWED[kind]) is allowed
    ]


def test_every_event_has_its_allowed_states():
    gc.collect()  # the classes from which attrs made those with slots
    assert set(ALLOWED) == set(Event.__subclasses__())
    assert set(IN) == set(JobState)
    assert all(job.state is state for state, job in IN.items())


@pytest.mark.parametrize(("kind", "state"), pairs(allowed=True))
def test_allowed_events_are_applied(kind, state):
    job = apply(IN[state], event(kind))
    assert job.key == "a"
    assert [attempt.number for attempt in job.attempts] == list(range(1, len(job.attempts) + 1))


@pytest.mark.parametrize(("kind", "state"), pairs(allowed=False))
def test_other_events_are_refused_by_name(kind, state):
    with pytest.raises(TransitionError, match=f"{kind.__name__} cannot happen to job 'a', which is {state}"):
        apply(IN[state], event(kind))


def test_an_event_of_another_job_is_refused():
    with pytest.raises(TransitionError, match="'b' was applied to 'a'"):
        apply(PLANNED, event(Intended, key="b"))


def test_records_do_not_change():
    assert after(Intended).attempts
    assert not PLANNED.attempts


def test_an_attempt_begins_with_the_intent_to_launch():
    job = after(Intended)
    assert (job.last_attempt.number, job.last_attempt.launch_name, job.last_attempt.intended_at) == (1, "a-1", AT)
    assert job.id is None
    assert after(Intended, Launched).id == "abcd1234"


def test_a_deferred_launch_leaves_no_attempt():
    assert after(Intended, Deferred) == attrs.evolve(PLANNED, due=LATER)
    job = after(Intended, Launched, Ended, Retrying, Intended, Deferred)
    assert (job.state, len(job.attempts), job.due) == (JobState.WAITING, 1, LATER)


def test_a_container_may_go_back_into_the_queue():
    job = after(Intended, Launched, PhaseChanged, event(PhaseChanged, phase=Phase.PENDING))
    assert job.state is JobState.PENDING


@pytest.mark.parametrize("phase", [Phase.COMPLETED, Phase.FAILED, Phase.OTHER])
def test_a_final_phase_is_not_a_phase_of_a_job(phase):
    with pytest.raises(TransitionError):
        apply(IN[JobState.RUNNING], event(PhaseChanged, phase=phase))


def test_the_start_time_is_by_the_containers_clock():
    started = AT + timedelta(seconds=7)
    job = after(Intended, Launched, event(PhaseChanged, started_at=started), PhaseChanged)
    assert job.last_attempt.started_at == started
    assert after(SUCCESS, job=job).last_attempt.started_at == DONE.started_at
    assert after(SUCCESS, job=job).last_attempt.finished_at == DONE.finished_at


def test_a_failed_attempt_waits_for_a_decision():
    job = after(Intended, Launched, FAILED_FOR_GOOD)
    assert (job.state, job.due, job.last_attempt.ended) == (JobState.WAITING, None, True)
    assert after(RetryExhausted, job=job).state is JobState.FAILED
    again = after(Retrying, job=job)
    assert (again.state, again.due, again.resources) == (JobState.WAITING, LATER, BIG)


@pytest.mark.parametrize("failure", [why.Lost(), why.Unwatched()])
def test_an_unknown_end_is_lost_not_failed(failure):
    assert after(Intended, Launched, event(Ended, failure=failure), RetryExhausted).state is JobState.LOST


@pytest.mark.parametrize("state", [JobState.LOST, JobState.FAILED, JobState.WAITING])
def test_a_late_receipt_turns_lost_into_succeeded(state):
    job = apply(IN[state], event(LateSuccess))
    assert (job.state, job.failure, job.last_attempt.verified) == (JobState.SUCCEEDED, None, True)


def test_a_late_receipt_does_not_overturn_an_observed_failure():
    with pytest.raises(TransitionError):
        after(Intended, Launched, Ended, Retrying, Intended, LateSuccess)
    with pytest.raises(TransitionError, match="is known already"):
        after(Intended, Launched, FAILED_FOR_GOOD, LateSuccess)


def test_a_late_receipt_overturns_a_cancel_without_a_report():
    stopped = after(Intended, Launched, CancelAsked, Cancelled)
    job = apply(stopped, event(LateSuccess))
    assert (job.state, job.last_attempt.succeeded, job.last_attempt.receipt) == (JobState.SUCCEEDED, True, DONE)
    reported = event(Cancelled, receipt=attrs.evolve(DONE, exit_code=143))
    for known in (after(Cancelled), after(Intended, Launched, CancelAsked, reported)):
        with pytest.raises(TransitionError, match="is known already"):
            apply(known, event(LateSuccess))


def test_a_container_found_later_is_adopted_unless_its_failure_was_seen():
    job = after(Intended, Launched, Ended, RetryExhausted, Adopted)
    assert (job.state, job.id, job.failure, job.last_attempt.ended) == (JobState.PENDING, "wxyz9876", None, False)
    with pytest.raises(TransitionError, match="no attempt in doubt"):
        after(Intended, Launched, FAILED_FOR_GOOD, RetryExhausted, Adopted)


def test_a_cancelled_job_keeps_what_its_container_reported():
    receipt = Receipt(exit_code=143, started_at=AT, finished_at=LATER)
    job = after(Intended, Launched, CancelAsked, event(Cancelled, receipt=receipt, log=Path("a.1.log")))
    assert (job.cancelling, job.last_attempt.receipt, job.last_attempt.verified) == (False, receipt, True)
    assert job.last_attempt.log == Path("a.1.log")


def test_a_run_that_the_platform_stopped_is_kept_with_its_times():
    def seen(phase, at, start=None):
        began = at if phase is Phase.RUNNING else None
        return event(PhaseChanged, at=at, phase=phase, started_at=began, start_time=start)

    times = [AT + timedelta(seconds=number) for number in range(100)]
    job = after(Intended, Launched, seen(Phase.RUNNING, times[2], AT), seen(Phase.PENDING, times[30]))
    assert job.last_attempt.lost_runs == (LostRun(times[2], times[30]),)
    assert job.last_attempt.is_suspended
    job = apply(job, seen(Phase.RUNNING, times[50], times[50]))
    job = apply(job, seen(Phase.RUNNING, times[80], times[70]))  # suspended and resumed between two polls
    assert job.last_attempt.lost_runs == (LostRun(times[2], times[30]), LostRun(times[50], times[70]))
    assert (job.last_attempt.restarts, job.last_attempt.lost_seconds) == (2, 48.0)


def test_a_success_without_a_receipt_says_that_outputs_were_not_checked():
    spec = attrs.evolve(SPEC, outputs=("out.fits",))
    job = after(Intended, Launched, job=attrs.evolve(PLANNED, spec=spec, filled=spec.fill(key="a")))
    done = apply(job, event(Ended, succeeded=True, failure=None))
    assert "declared outputs" in done.last_attempt.warnings[0]
    assert apply(done, event(EvidenceAdded, receipt=DONE, verified=True)).last_attempt.warnings == ()
    plain = after(Intended, Launched, event(Ended, succeeded=True, failure=None))
    assert plain.last_attempt.warnings == ()


def test_a_run_that_was_shown_only_while_it_was_suspended_has_run():
    shown = [
        event(PhaseChanged, phase=Phase.PENDING, start_time=AT),
        event(PhaseChanged, phase=Phase.RUNNING, started_at=LATER),  # without a start time, for a moment
        event(PhaseChanged, phase=Phase.PENDING),
    ]
    attempt = after(Intended, Launched, *shown).last_attempt
    assert (attempt.has_run, attempt.restarts, attempt.is_suspended) == (True, 1, True)


def test_a_start_receipt_does_not_verify_an_end():
    job = after(Intended, Launched, CancelAsked, event(Cancelled, receipt=Receipt(started_at=AT)))
    assert not job.last_attempt.verified


def test_cancelling_an_unlaunched_job_adds_no_attempt():
    assert after(CancelAsked, Cancelled).attempts == ()


def test_earlier_attempts_of_a_reopened_job_do_not_count():
    job = after(Intended, Launched, FAILED_FOR_GOOD, RetryExhausted, Reopened)
    assert (job.state, job.attempts_before_reopen, job.due) == (JobState.WAITING, 1, AT)
    assert after(CancelAsked, Cancelled, Reopened).state is JobState.PLANNED


def test_only_a_failed_attempt_can_be_given_up():
    with pytest.raises(TransitionError, match="no failure"):
        after(Intended, Launched, CancelAsked, Cancelled, Reopened, RetryExhausted)


def test_results_and_collect_errors_are_recorded():
    job = IN[JobState.SUCCEEDED]
    assert apply(job, event(Collected, result=[1])).result == [1]
    failed = apply(job, event(NotCollected))
    assert (failed.state, failed.collect_error) == (JobState.SUCCEEDED, "no such file")
    assert apply(failed, event(Collected, result=[1])).collect_error is None


# -- another definition -------------------------------------------------------------------------------------------

OTHER = JobRecord(key="A", index=7, spec=SPEC, filled=JobSpec("other", image="skaha/astroml").fill(key="A"))


@pytest.mark.parametrize("state", [JobState.PLANNED, JobState.FAILED, JobState.LOST, JobState.CANCELLED])
def test_another_definition_takes_the_place_and_the_history_of_a_job_without_success(state):
    job = replaced(IN[state], OTHER)
    assert (job.key, job.index, job.state) == ("a", 0, state)
    assert (job.attempts, job.filled) == (IN[state].attempts, OTHER.filled)


@pytest.mark.parametrize("state", [*map(JobState, ("launching", "pending", "running", "waiting", "succeeded"))])
def test_a_job_that_is_active_or_succeeded_is_not_replaced(state):
    with pytest.raises(TransitionError, match=f"is {state}, so no other definition can take its place"):
        replaced(IN[state], OTHER)


@pytest.mark.parametrize(
    ("failure", "kept"), [(why.StuckPending(), False), (why.ImagePull(), False), (why.TimedOut(), True)]
)
def test_a_stop_for_waiting_is_void_once_the_job_has_begun(failure, kept):
    decided = event(StopDecided, failure=failure)
    pending = event(PhaseChanged, phase=Phase.PENDING)
    assert after(Intended, Launched, decided, pending).attempts[-1].stopped_for == failure
    assert (after(Intended, Launched, decided, PhaseChanged).attempts[-1].stopped_for is not None) is kept
