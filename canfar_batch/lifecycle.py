"""How a job changes: the events, and the states in which each may happen.

`apply` makes the next record of a job from an event, and `replaced` puts another definition in the place of a job. No
other module makes one record of a job from another.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import attrs

from canfar_batch.errors import TransitionError
from canfar_batch.failures import Deleted, Failure, ImagePull, LaunchRefused, Lost, StuckPending, Unwatched
from canfar_batch.records import (
    STATE_OF_PHASE,
    Attempt,
    JobRecord,
    JobState,
    LostRun,
    Phase,
    Receipt,
    Resources,
)
from canfar_batch.spec import JobSpec

# -- events -------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Event:
    """Something that happened to one job."""

    key: str
    at: datetime

    @property
    def kind(self) -> str:
        """The name of the class, which the ledger stores."""
        return type(self).__name__


@attrs.frozen(kw_only=True)
class Intended(Event):
    """A launch is about to be sent."""

    launch_name: str
    resources: Resources
    task: int | None = None  #: the job's number in a bundle, from 1; None if its container carries no other


@attrs.frozen(kw_only=True)
class Launched(Event):
    """The platform answered with an id."""

    id: str


@attrs.frozen(kw_only=True)
class Adopted(Event):
    """The platform's list shows a container of this attempt, whose existence was in doubt."""

    id: str


@attrs.frozen(kw_only=True)
class Deferred(Event):
    """The launch provably had no effect and may be sent again: it was not sent, or the platform was busy."""

    due: datetime
    why: str


@attrs.frozen(kw_only=True)
class PhaseChanged(Event):
    """The platform's status of the container changed, or its start time, or it was shown for the first time."""

    phase: Phase
    started_at: datetime | None = None  #: since when the container runs, if it is running
    start_time: datetime | None = None  #: as the platform gave it: it vanishes when the container is suspended
    expires_at: datetime | None = None


@attrs.frozen(kw_only=True)
class HeldUp(Event):
    """The job has waited so long, or in such a way, that it may never begin."""

    why: str


@attrs.frozen(kw_only=True)
class StopDecided(Event):
    """The container is about to be stopped, for a reason of the engine's own."""

    failure: Failure


@attrs.frozen(kw_only=True)
class Ended(Event):
    """The attempt ended."""

    succeeded: bool
    verified: bool = False
    failure: Failure | None = None
    receipt: Receipt | None = None
    log: Path | None = None
    log_is_cut: bool = False


@attrs.frozen(kw_only=True)
class EvidenceAdded(Event):
    """A log or receipt of an ended attempt became available later; the attempt's outcome stays what it is."""

    log: Path | None = None
    log_is_cut: bool = False
    receipt: Receipt | None = None
    failure: Failure | None = None  #: the failure by all the evidence
    verified: bool = False


@attrs.frozen(kw_only=True)
class Retrying(Event):
    """The retry policy asked for another attempt."""

    due: datetime
    resources: Resources


@attrs.frozen(kw_only=True)
class RetryExhausted(Event):
    """The retry policy gave the job up."""

    why: str = ""


@attrs.frozen(kw_only=True)
class CancelAsked(Event):
    """The user asked to cancel the job."""


@attrs.frozen(kw_only=True)
class Cancelled(Event):
    """The job was stopped, and the platform no longer knows its container."""

    receipt: Receipt | None = None
    log: Path | None = None


@attrs.frozen(kw_only=True)
class LateSuccess(Event):
    """A receipt that came late shows that the attempt succeeded."""

    receipt: Receipt


@attrs.frozen(kw_only=True)
class Collected(Event):
    """The job's result was collected."""

    result: Any = None
    stored: bool = True  #: False if the ledger cannot store it, so that it is None here


@attrs.frozen(kw_only=True)
class NotCollected(Event):
    """The job succeeded, and its result could not be collected."""

    why: str


@attrs.frozen(kw_only=True)
class Reopened(Event):
    """The user wants another attempt at a final job; earlier failures no longer count against it."""


@attrs.frozen(kw_only=True)
class Respecified(Event):
    """Resources, time-outs or the name were changed; they apply to later attempts."""

    spec: JobSpec
    resources: Resources
    name: str | None = None


# -- what may happen when -----------------------------------------------------------------------------------------

_P, _L, _PE, _R, _W = JobState.PLANNED, JobState.LAUNCHING, JobState.PENDING, JobState.RUNNING, JobState.WAITING
_FAILED, _LOST, _OK, _OFF = JobState.FAILED, JobState.LOST, JobState.SUCCEEDED, JobState.CANCELLED

ALLOWED: Mapping[type[Event], frozenset[JobState]] = {
    Intended: frozenset({_P, _W}),
    Launched: frozenset({_L}),
    Adopted: frozenset({_L, _W, _LOST, _FAILED}),
    Deferred: frozenset({_L}),
    PhaseChanged: frozenset({_PE, _R}),
    HeldUp: frozenset({_PE}),
    StopDecided: frozenset({_PE, _R}),
    Ended: frozenset({_L, _PE, _R}),
    Retrying: frozenset({_W}),
    RetryExhausted: frozenset({_W}),
    CancelAsked: frozenset({_P, _L, _PE, _R, _W}),
    Cancelled: frozenset({_P, _L, _PE, _R, _W}),
    LateSuccess: frozenset({_LOST, _FAILED, _OFF, _W}),
    EvidenceAdded: frozenset({_OK, _LOST, _FAILED, _OFF, _W}),
    Collected: frozenset({_OK}),
    NotCollected: frozenset({_OK}),
    Reopened: frozenset({_OK, _FAILED, _LOST, _OFF}),
    Respecified: frozenset(JobState),
}

#: the failures that rest on absence alone, so that a container or receipt that turns up later overrules them
BY_ABSENCE = (Lost, Unwatched, Deleted, LaunchRefused)

E = TypeVar("E", bound=Event)


def apply(job: JobRecord, event: Event) -> JobRecord:
    """Return the record of *job* after *event*.

    Raises:
        TransitionError: The event cannot happen to a job in this state.
    """
    if job.key != event.key:
        raise TransitionError(f"an event of {event.key!r} was applied to {job.key!r}")
    if job.state not in ALLOWED[type(event)]:
        raise TransitionError(f"{event.kind} cannot happen to job {job.key!r}, which is {job.state}")
    return _APPLY[type(event)](job, event)


def may_reappear(job: JobRecord) -> bool:
    """Return whether a container of the newest attempt may still be found: it was given up for absence alone."""
    attempt = job.last_attempt
    return attempt is not None and (not attempt.ended or isinstance(attempt.failure, BY_ABSENCE))


def may_be_overturned(job: JobRecord) -> bool:
    """Return whether a late success receipt may still change the outcome.

    It may if the newest attempt was given up for absence, or cancelled before it reported.
    """
    attempt = job.last_attempt
    if attempt is None or not attempt.ended:
        return False
    stopped = attempt.failure is None and not attempt.succeeded and not attempt.verified
    return stopped or isinstance(attempt.failure, BY_ABSENCE)


def may_be_replaced(job: JobRecord) -> bool:
    """Return whether another definition may take the place of the job: it never was launched, or has no success."""
    return not job.attempts or (job.state.final and job.state is not JobState.SUCCEEDED)


def replaced(job: JobRecord, by: JobRecord) -> JobRecord:
    """Return *by*, another definition of the same job, in the place of *job*, whose attempts and state stay.

    Raises:
        TransitionError: The job is active or succeeded.
    """
    if not may_be_replaced(job):
        raise TransitionError(f"job {job.key!r} is {job.state}, so no other definition can take its place")
    return attrs.evolve(by, key=job.key, index=job.index, attempts=job.attempts, state=job.state)


# the same as `attrs.evolve`, in a third of its time: these run several times for each event
_JOB_NAMES = tuple(field.name for field in attrs.fields(JobRecord))
_ATTEMPT_NAMES = tuple(field.name for field in attrs.fields(Attempt))
_job_values, _attempt_values = operator.attrgetter(*_JOB_NAMES), operator.attrgetter(*_ATTEMPT_NAMES)


def _changed(job: JobRecord, **changes: Any) -> JobRecord:
    values = dict(zip(_JOB_NAMES, _job_values(job)))  # noqa: B905 (one value for each name)
    values.update(changes)
    return JobRecord(**values)


def _newest(job: JobRecord, **changes: Any) -> tuple[Attempt, ...]:
    attempt = job.attempts[-1]
    values = dict(zip(_ATTEMPT_NAMES, _attempt_values(attempt)))  # noqa: B905 (one value for each name)
    values.update(changes)
    return (*job.attempts[:-1], Attempt(**values))


def _intended(job: JobRecord, event: Intended) -> JobRecord:
    attempt = Attempt(
        number=job.next_number,
        launch_name=event.launch_name,
        resources=event.resources,
        intended_at=event.at,
        task=event.task,
    )
    return _changed(job, state=JobState.LAUNCHING, attempts=(*job.attempts, attempt), due=None)


def _launched(job: JobRecord, event: Launched) -> JobRecord:
    attempts = _newest(job, id=event.id, launched_at=event.at, seen_at=event.at)
    return _changed(job, state=JobState.PENDING, attempts=attempts)


def _adopted(job: JobRecord, event: Adopted) -> JobRecord:
    if not may_reappear(job):
        raise TransitionError(
            f"job {job.key!r} has no attempt in doubt to which the container {event.id!r} could belong"
        )
    attempts = _newest(
        job, id=event.id, launched_at=job.attempts[-1].launched_at or event.at, seen_at=event.at, shown=True,
        ended_at=None, succeeded=None, failure=None,
    )  # fmt: skip
    return _changed(job, state=JobState.PENDING, attempts=attempts, due=None)


def _deferred(job: JobRecord, event: Deferred) -> JobRecord:
    earlier = job.attempts[:-1]
    return _changed(job, state=JobState.WAITING if earlier else JobState.PLANNED, attempts=earlier, due=event.due)


def _phase_changed(job: JobRecord, event: PhaseChanged) -> JobRecord:
    state = STATE_OF_PHASE.get(event.phase)
    if state is None:
        raise TransitionError(f"{event.phase.value!r} is not a state of a job")
    run = _run(job.attempts[-1], event)
    if state is JobState.RUNNING and isinstance(job.attempts[-1].stopped_for, (StuckPending, ImagePull)):
        run["stopped_for"] = None  # it has begun after all
    return _changed(job, state=state, attempts=_newest(job, seen_at=event.at, shown=True, **run))


def _run(attempt: Attempt, event: PhaseChanged) -> dict[str, Any]:
    """Return what changes about the present run of a container.

    The start time vanishes when the platform suspends a container, and is later when it begins again (Kueue;
    production-like.md §2). A row `Running` without a start time is shown for a moment while it is being suspended.
    """
    if event.phase is Phase.RUNNING and event.start_time is None and attempt.start_time is not None:
        return {"started_at": attempt.started_at or event.started_at}
    vanished = attempt.start_time is not None and event.start_time is None
    began_again = None not in (attempt.start_time, event.start_time) and event.start_time > attempt.start_time  # type: ignore[operator]
    changes: dict[str, Any] = {
        "start_time": event.start_time,
        "expires_at": event.expires_at or attempt.expires_at,
        "started_at": attempt.started_at or event.started_at,
    }
    if (vanished or began_again) and attempt.started_at is not None:
        lost = LostRun(attempt.started_at, (event.start_time if began_again else event.at) or event.at)
        changes["restarts"] = attempt.restarts + 1
        changes["lost_seconds"] = attempt.lost_seconds + lost.seconds
        changes["lost_runs"] = (*attempt.lost_runs, lost)
        changes["started_at"] = event.started_at
    return changes


def _held_up(job: JobRecord, event: HeldUp) -> JobRecord:
    return _changed(job, attempts=_newest(job, held_up=event.why))


def _stop_decided(job: JobRecord, event: StopDecided) -> JobRecord:
    return _changed(job, attempts=_newest(job, stopped_for=event.failure))


def _ended(job: JobRecord, event: Ended) -> JobRecord:
    attempts = _newest(
        job,
        ended_at=event.at,
        succeeded=event.succeeded,
        verified=event.verified,
        failure=event.failure,
        receipt=event.receipt,
        log=event.log,
        log_is_cut=event.log_is_cut,
        outputs_unchecked=event.succeeded and not event.verified and bool(job.filled.outputs),
        started_at=_started(job.attempts[-1], event.receipt),
    )
    state = JobState.SUCCEEDED if event.succeeded else JobState.WAITING
    return _changed(job, state=state, attempts=attempts, due=None, cancelling=False)


def _started(attempt: Attempt, receipt: Receipt | None) -> datetime | None:
    return (receipt.started_at if receipt else None) or attempt.started_at


def _retrying(job: JobRecord, event: Retrying) -> JobRecord:
    return _changed(job, due=event.due, resources=event.resources)


def _retry_exhausted(job: JobRecord, event: RetryExhausted) -> JobRecord:
    if job.failure is None:
        raise TransitionError(f"job {job.key!r} has no failure, so it cannot be given up")
    lost = isinstance(job.failure, (Lost, Unwatched))
    return _changed(job, state=JobState.LOST if lost else JobState.FAILED, due=None)


def _cancel_asked(job: JobRecord, event: CancelAsked) -> JobRecord:
    return _changed(job, cancelling=True)


def _cancelled(job: JobRecord, event: Cancelled) -> JobRecord:
    attempts, receipt = job.attempts, event.receipt
    if job.state.active:
        attempts = _newest(
            job, ended_at=event.at, succeeded=False, receipt=receipt, log=event.log,
            verified=receipt is not None and receipt.ended, started_at=_started(job.attempts[-1], receipt),
        )  # fmt: skip
    return _changed(job, state=JobState.CANCELLED, attempts=attempts, due=None, cancelling=False)


def _late_success(job: JobRecord, event: LateSuccess) -> JobRecord:
    if not may_be_overturned(job):
        raise TransitionError(f"how job {job.key!r} ended is known already")
    attempts = _newest(job, succeeded=True, verified=True, failure=None, receipt=event.receipt)
    return _changed(job, state=JobState.SUCCEEDED, attempts=attempts, due=None)


def _evidence_added(job: JobRecord, event: EvidenceAdded) -> JobRecord:
    attempt = job.last_attempt
    if attempt is None or not attempt.ended:
        raise TransitionError(f"job {job.key!r} has no ended attempt that more could be known about")
    attempts = _newest(
        job,
        log=event.log or attempt.log,
        log_is_cut=event.log_is_cut if event.log else attempt.log_is_cut,
        receipt=event.receipt or attempt.receipt,
        failure=attempt.failure and (event.failure or attempt.failure),
        verified=attempt.verified or event.verified,
    )
    return _changed(job, attempts=attempts)


def _collected(job: JobRecord, event: Collected) -> JobRecord:
    return _changed(job, result=event.result, stored=event.stored, collected=True, collect_error=None)


def _not_collected(job: JobRecord, event: NotCollected) -> JobRecord:
    return _changed(job, collected=True, collect_error=event.why)


def _reopened(job: JobRecord, event: Reopened) -> JobRecord:
    return _changed(
        job,
        state=JobState.WAITING if job.attempts else JobState.PLANNED,
        due=event.at,
        attempts_before_reopen=len(job.attempts),
        collected=False,
        result=None,
        collect_error=None,
    )


def _respecified(job: JobRecord, event: Respecified) -> JobRecord:
    filled = attrs.evolve(job.filled, name=event.name)
    return _changed(job, spec=event.spec, resources=event.resources, filled=filled)


_APPLY: Mapping[type[Event], Callable[[JobRecord, Any], JobRecord]] = {
    Intended: _intended,
    Launched: _launched,
    Adopted: _adopted,
    Deferred: _deferred,
    PhaseChanged: _phase_changed,
    HeldUp: _held_up,
    StopDecided: _stop_decided,
    Ended: _ended,
    Retrying: _retrying,
    RetryExhausted: _retry_exhausted,
    CancelAsked: _cancel_asked,
    Cancelled: _cancelled,
    LateSuccess: _late_success,
    EvidenceAdded: _evidence_added,
    Collected: _collected,
    NotCollected: _not_collected,
    Reopened: _reopened,
    Respecified: _respecified,
}
