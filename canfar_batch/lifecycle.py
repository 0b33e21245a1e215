"""How a job changes: the events, and the states in which each may happen.

`apply` is the only place where a `JobRecord` becomes another one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import attrs

from canfar_batch.errors import TransitionError
from canfar_batch.failures import Failure, LaunchRefused, Lost, Unwatched
from canfar_batch.records import Attempt, JobRecord, JobState, Phase, Receipt, Resources
from canfar_batch.spec import JobSpec

# -- events -------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Event:
    """Something that happened to one job."""

    key: str
    at: datetime

    @property
    def kind(self) -> str:
        """The name of the class, as the ledger stores it."""
        return type(self).__name__


@attrs.frozen(kw_only=True)
class Intended(Event):
    """A launch is about to be sent."""

    launch_name: str
    resources: Resources


@attrs.frozen(kw_only=True)
class Launched(Event):
    """The platform answered with an id."""

    id: str


@attrs.frozen(kw_only=True)
class Adopted(Event):
    """The platform's list shows a container of this attempt, of whose existence we were not sure."""

    id: str


@attrs.frozen(kw_only=True)
class Deferred(Event):
    """The launch provably came to nothing and may be sent again: it never left, or the platform said "not now"."""

    due: datetime
    why: str


@attrs.frozen(kw_only=True)
class PhaseChanged(Event):
    """The platform's word for the container changed."""

    phase: Phase
    started_at: datetime | None = None


@attrs.frozen(kw_only=True)
class Ended(Event):
    """The attempt is over, and this is how."""

    succeeded: bool
    verified: bool = False
    failure: Failure | None = None
    receipt: Receipt | None = None
    log: Path | None = None


@attrs.frozen(kw_only=True)
class Retrying(Event):
    """The retry policy said: again."""

    due: datetime
    resources: Resources


@attrs.frozen(kw_only=True)
class RetryExhausted(Event):
    """The retry policy said: stop."""

    why: str = ""


@attrs.frozen(kw_only=True)
class CancelAsked(Event):
    """Somebody wants the job stopped."""


@attrs.frozen(kw_only=True)
class Cancelled(Event):
    """The job is stopped, and the platform no longer knows its container."""

    receipt: Receipt | None = None
    log: Path | None = None


@attrs.frozen(kw_only=True)
class LateSuccess(Event):
    """A receipt that came late says that the attempt succeeded after all."""

    receipt: Receipt


@attrs.frozen(kw_only=True)
class Collected(Event):
    """The job's result was fetched."""

    result: Any = None
    kept: bool = True  #: False where the ledger cannot keep it, so that it is not in here either


@attrs.frozen(kw_only=True)
class NotCollected(Event):
    """The job succeeded, and its result could not be fetched."""

    why: str


@attrs.frozen(kw_only=True)
class Reopened(Event):
    """The user wants another attempt at a final job; earlier failures no longer count against it."""


@attrs.frozen(kw_only=True)
class Respecified(Event):
    """Resources, time-outs or the name were changed; they hold for the attempts to come."""

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
    Ended: frozenset({_L, _PE, _R}),
    Retrying: frozenset({_W}),
    RetryExhausted: frozenset({_W}),
    CancelAsked: frozenset({_P, _L, _PE, _R, _W}),
    Cancelled: frozenset({_P, _L, _PE, _R, _W}),
    LateSuccess: frozenset({_LOST, _FAILED, _OFF, _W}),
    Collected: frozenset({_OK}),
    NotCollected: frozenset({_OK}),
    Reopened: frozenset({_OK, _FAILED, _LOST, _OFF}),
    Respecified: frozenset(JobState),
}

#: the failures that rest on absence alone, so that a container or receipt that turns up later overrules them
BY_ABSENCE = (Lost, Unwatched, LaunchRefused)

E = TypeVar("E", bound=Event)


def apply(job: JobRecord, event: Event) -> JobRecord:
    """The record after *event*.

    Raises:
        TransitionError: The event cannot happen to a job in this state.
    """
    if job.key != event.key:
        raise TransitionError(f"an event of {event.key!r} was applied to {job.key!r}")
    if job.state not in ALLOWED[type(event)]:
        raise TransitionError(f"{event.kind} cannot happen to job {job.key!r}, which is {job.state}")
    return _APPLY[type(event)](job, event)


def may_reappear(job: JobRecord) -> bool:
    """True where the newest attempt was given up for absence alone, and no newer one was launched."""
    attempt = job.last_attempt
    return attempt is not None and (not attempt.ended or isinstance(attempt.failure, BY_ABSENCE))


def may_be_overturned(job: JobRecord) -> bool:
    """True where the receipt of a success would: the newest attempt was given up for absence, or stopped unheard."""
    attempt = job.last_attempt
    if attempt is None or not attempt.ended:
        return False
    stopped = attempt.failure is None and not attempt.succeeded and not attempt.verified
    return stopped or isinstance(attempt.failure, BY_ABSENCE)


def _newest(job: JobRecord, **changes: Any) -> tuple[Attempt, ...]:
    return (*job.attempts[:-1], attrs.evolve(job.attempts[-1], **changes))


def _intended(job: JobRecord, event: Intended) -> JobRecord:
    attempt = Attempt(
        number=job.next_number, launch_name=event.launch_name, resources=event.resources, intended_at=event.at
    )
    return attrs.evolve(job, state=JobState.LAUNCHING, attempts=(*job.attempts, attempt), due=None)


def _launched(job: JobRecord, event: Launched) -> JobRecord:
    attempts = _newest(job, id=event.id, launched_at=event.at, seen_at=event.at)
    return attrs.evolve(job, state=JobState.PENDING, attempts=attempts)


def _adopted(job: JobRecord, event: Adopted) -> JobRecord:
    if not may_reappear(job):
        raise TransitionError(f"job {job.key!r} has no attempt in doubt that {event.id!r} could be")
    attempts = _newest(
        job, id=event.id, launched_at=job.attempts[-1].launched_at or event.at, seen_at=event.at,
        ended_at=None, succeeded=None, failure=None,
    )  # fmt: skip
    return attrs.evolve(job, state=JobState.PENDING, attempts=attempts, due=None)


def _deferred(job: JobRecord, event: Deferred) -> JobRecord:
    earlier = job.attempts[:-1]
    return attrs.evolve(job, state=JobState.WAITING if earlier else JobState.PLANNED, attempts=earlier, due=event.due)


def _seen(job: JobRecord, event: PhaseChanged) -> JobRecord:
    if event.phase not in (Phase.PENDING, Phase.RUNNING):
        raise TransitionError(f"{event.phase.value!r} is not a state of a job")
    state = JobState.RUNNING if event.phase is Phase.RUNNING else JobState.PENDING
    started = event.started_at or job.attempts[-1].started_at
    return attrs.evolve(job, state=state, attempts=_newest(job, seen_at=event.at, started_at=started))


def _ended(job: JobRecord, event: Ended) -> JobRecord:
    attempts = _newest(
        job,
        ended_at=event.at,
        succeeded=event.succeeded,
        verified=event.verified,
        failure=event.failure,
        receipt=event.receipt,
        log=event.log,
        started_at=_started(job.attempts[-1], event.receipt),
    )
    state = JobState.SUCCEEDED if event.succeeded else JobState.WAITING
    return attrs.evolve(job, state=state, attempts=attempts, due=None, cancelling=False)


def _started(attempt: Attempt, receipt: Receipt | None) -> datetime | None:
    return (receipt.started_at if receipt else None) or attempt.started_at


def _retrying(job: JobRecord, event: Retrying) -> JobRecord:
    return attrs.evolve(job, due=event.due, resources=event.resources)


def _retry_exhausted(job: JobRecord, event: RetryExhausted) -> JobRecord:
    if job.failure is None:
        raise TransitionError(f"job {job.key!r} has no failure to be given up for")
    lost = isinstance(job.failure, (Lost, Unwatched))
    return attrs.evolve(job, state=JobState.LOST if lost else JobState.FAILED, due=None)


def _cancel_asked(job: JobRecord, event: CancelAsked) -> JobRecord:
    return attrs.evolve(job, cancelling=True)


def _cancelled(job: JobRecord, event: Cancelled) -> JobRecord:
    attempts, receipt = job.attempts, event.receipt
    if job.state.active:
        attempts = _newest(
            job, ended_at=event.at, succeeded=False, receipt=receipt, log=event.log,
            verified=receipt is not None and receipt.ended, started_at=_started(job.attempts[-1], receipt),
        )  # fmt: skip
    return attrs.evolve(job, state=JobState.CANCELLED, attempts=attempts, due=None, cancelling=False)


def _late_success(job: JobRecord, event: LateSuccess) -> JobRecord:
    if not may_be_overturned(job):
        raise TransitionError(f"how job {job.key!r} ended is known already")
    attempts = _newest(job, succeeded=True, verified=True, failure=None, receipt=event.receipt)
    return attrs.evolve(job, state=JobState.SUCCEEDED, attempts=attempts, due=None)


def _collected(job: JobRecord, event: Collected) -> JobRecord:
    return attrs.evolve(job, result=event.result, kept=event.kept, collected=True, collect_error=None)


def _not_collected(job: JobRecord, event: NotCollected) -> JobRecord:
    return attrs.evolve(job, collected=True, collect_error=event.why)


def _reopened(job: JobRecord, event: Reopened) -> JobRecord:
    return attrs.evolve(
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
    return attrs.evolve(job, spec=event.spec, resources=event.resources, filled=filled)


_APPLY: Mapping[type[Event], Callable[[JobRecord, Any], JobRecord]] = {
    Intended: _intended,
    Launched: _launched,
    Adopted: _adopted,
    Deferred: _deferred,
    PhaseChanged: _seen,
    Ended: _ended,
    Retrying: _retrying,
    RetryExhausted: _retry_exhausted,
    CancelAsked: _cancel_asked,
    Cancelled: _cancelled,
    LateSuccess: _late_success,
    Collected: _collected,
    NotCollected: _not_collected,
    Reopened: _reopened,
    Respecified: _respecified,
}
