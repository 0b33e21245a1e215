"""How a job changes: the events, the states in which each may happen, and the verdict on an ended attempt.

`apply` is the only place where a `JobRecord` becomes another one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import attrs

from canfar_batch.errors import TransitionError
from canfar_batch.failures import (
    DeadlineExceeded,
    DiskFull,
    Evicted,
    ExitCode,
    Failure,
    ImagePull,
    Killed,
    LaunchRefused,
    Lost,
    MissingOutput,
    OutOfMemory,
    StartError,
    TimedOut,
    Unknown,
    Unwatched,
)
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
class Seen(Event):
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
class GaveUp(Event):
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
class Proved(Event):
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
    """The user wants another go at a job that was over; what failed before no longer counts against it."""


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
    Seen: frozenset({_PE, _R}),
    Ended: frozenset({_L, _PE, _R}),
    Retrying: frozenset({_W}),
    GaveUp: frozenset({_W}),
    CancelAsked: frozenset({_P, _L, _PE, _R, _W}),
    Cancelled: frozenset({_P, _L, _PE, _R, _W}),
    Proved: frozenset({_LOST, _FAILED, _OFF, _W}),
    Collected: frozenset({_OK}),
    NotCollected: frozenset({_OK}),
    Reopened: frozenset({_FAILED, _LOST, _OFF}),
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


def overruled_by_presence(job: JobRecord) -> bool:
    """True where the newest attempt was given up for absence alone, and no newer one was launched."""
    attempt = job.attempt
    return attempt is not None and (not attempt.over or isinstance(attempt.failure, BY_ABSENCE))


def overruled_by_receipt(job: JobRecord) -> bool:
    """True where the receipt of a success would: the newest attempt was given up for absence, or stopped unheard."""
    attempt = job.attempt
    if attempt is None or not attempt.over:
        return False
    stopped = attempt.failure is None and not attempt.succeeded and not attempt.verified
    return stopped or isinstance(attempt.failure, BY_ABSENCE)


def _newest(job: JobRecord, **changes: Any) -> tuple[Attempt, ...]:
    return (*job.attempts[:-1], attrs.evolve(job.attempts[-1], **changes))


def _intended(job: JobRecord, event: Intended) -> JobRecord:
    number = job.attempts[-1].number + 1 if job.attempts else 1
    attempt = Attempt(number=number, launch_name=event.launch_name, resources=event.resources, intended_at=event.at)
    return attrs.evolve(job, state=JobState.LAUNCHING, attempts=(*job.attempts, attempt), due=None)


def _launched(job: JobRecord, event: Launched) -> JobRecord:
    attempts = _newest(job, id=event.id, launched_at=event.at, seen_at=event.at)
    return attrs.evolve(job, state=JobState.PENDING, attempts=attempts)


def _adopted(job: JobRecord, event: Adopted) -> JobRecord:
    if not overruled_by_presence(job):
        raise TransitionError(f"job {job.key!r} has no attempt in doubt that {event.id!r} could be")
    attempts = _newest(
        job, id=event.id, launched_at=job.attempts[-1].launched_at or event.at, seen_at=event.at,
        ended_at=None, succeeded=None, failure=None,
    )  # fmt: skip
    return attrs.evolve(job, state=JobState.PENDING, attempts=attempts, due=None)


def _deferred(job: JobRecord, event: Deferred) -> JobRecord:
    earlier = job.attempts[:-1]
    return attrs.evolve(job, state=JobState.WAITING if earlier else JobState.PLANNED, attempts=earlier, due=event.due)


def _seen(job: JobRecord, event: Seen) -> JobRecord:
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


def _gave_up(job: JobRecord, event: GaveUp) -> JobRecord:
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


def _proved(job: JobRecord, event: Proved) -> JobRecord:
    if not overruled_by_receipt(job):
        raise TransitionError(f"how job {job.key!r} ended is known already")
    attempts = _newest(job, succeeded=True, verified=True, failure=None, receipt=event.receipt)
    return attrs.evolve(job, state=JobState.SUCCEEDED, attempts=attempts, due=None)


def _collected(job: JobRecord, event: Collected) -> JobRecord:
    return attrs.evolve(job, result=event.result, kept=event.kept, collected=True, collect_error=None)


def _not_collected(job: JobRecord, event: NotCollected) -> JobRecord:
    return attrs.evolve(job, collected=True, collect_error=event.why)


def _reopened(job: JobRecord, event: Reopened) -> JobRecord:
    return attrs.evolve(
        job, state=JobState.WAITING if job.attempts else JobState.PLANNED, due=event.at, forgiven=len(job.attempts)
    )


def _respecified(job: JobRecord, event: Respecified) -> JobRecord:
    filled = attrs.evolve(job.filled, name=event.name)
    return attrs.evolve(job, spec=event.spec, resources=event.resources, filled=filled)


_APPLY: Mapping[type[Event], Callable[[JobRecord, Any], JobRecord]] = {
    Intended: _intended,
    Launched: _launched,
    Adopted: _adopted,
    Deferred: _deferred,
    Seen: _seen,
    Ended: _ended,
    Retrying: _retrying,
    GaveUp: _gave_up,
    CancelAsked: _cancel_asked,
    Cancelled: _cancelled,
    Proved: _proved,
    Collected: _collected,
    NotCollected: _not_collected,
    Reopened: _reopened,
    Respecified: _respecified,
}

# -- the verdict --------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Evidence:
    """Everything known about the end of one attempt. Only a final phase or proven absence says *that* it ended."""

    phase: Phase | None  #: the platform's final word; None where the container is proven absent
    receipt: Receipt | None = None  #: the end receipt, from a file or the log
    began: Receipt | None = None  #: the start receipt, likewise
    log: bytes = attrs.field(default=b"", repr=False)  #: the job's own output
    events: str = ""
    watched: bool = True  #: False where nobody looked for longer than the platform remembers
    stopped_for: Failure | None = None  #: why we stopped it, where we did


@attrs.frozen(kw_only=True)
class Verdict:
    """How an attempt ended."""

    succeeded: bool
    verified: bool = False
    failure: Failure | None = None


def classify(evidence: Evidence) -> Verdict:
    """The verdict by the evidence ladder: receipt, then the platform's word, then absence."""
    if evidence.receipt is not None and evidence.receipt.exit_code is not None:
        return _by_receipt(evidence.receipt, evidence.receipt.exit_code, evidence)
    if evidence.phase is Phase.COMPLETED:
        return Verdict(succeeded=True)
    if evidence.stopped_for is not None:
        return Verdict(succeeded=False, failure=evidence.stopped_for)
    if evidence.phase is Phase.FAILED:
        return Verdict(succeeded=False, failure=_without_receipt(evidence))
    return Verdict(succeeded=False, failure=_absent(evidence))


def _by_receipt(receipt: Receipt, code: int, evidence: Evidence) -> Verdict:
    words = telling_line(evidence.log)
    if receipt.trouble == "workdir":
        message = "its working directory could not be entered in the container"
        return Verdict(succeeded=False, verified=True, failure=StartError(message=message))
    if code == 0 and receipt.missing:
        message = "the command ended with 0, but these outputs are not there: " + ", ".join(receipt.missing)
        return Verdict(succeeded=False, verified=True, failure=MissingOutput(message=message, missing=receipt.missing))
    if code == 0:
        return Verdict(succeeded=True, verified=True)
    failure: Failure = ExitCode(code, message=words or _MEANING.get(code, ""))
    if receipt.timed_out:
        failure = TimedOut(message="it ran longer than its timeout and was stopped")
    elif receipt.oom_kills:
        peak = f", its peak was {receipt.peak_ram:.1f} GiB" if receipt.peak_ram else ""
        failure = OutOfMemory(message=f"the kernel killed a process for want of memory{peak}")
    elif receipt.stopped_by is not None and evidence.stopped_for is not None:
        failure = evidence.stopped_for
    elif receipt.stopped_by is not None:
        failure = _taken_away(evidence, f"the container was told to stop ({receipt.stopped_by}) by the platform")
    elif _DISK_FULL.search(evidence.log[-_TAIL:]):
        failure = DiskFull(message=words, inferred=True)
    return Verdict(succeeded=False, verified=True, failure=failure)


def _without_receipt(evidence: Evidence) -> Failure:
    """A final `Failed` that no end receipt explains."""
    events, words = evidence.events, telling_line(evidence.log)
    began = evidence.began is not None
    if not began and not evidence.log and _NOT_STARTED.search(events):
        return StartError(message=_line_with(_NOT_STARTED, events), inferred=True)
    if not began and not evidence.log and _PULL.search(events):
        return ImagePull(message=_line_with(_PULL, events), inferred=True)
    if _TAKEN.search(events) or _EPHEMERAL.search(events) or _DEADLINE.search(events):
        return _taken_away(evidence, "the platform took the container away")
    if not began and _NO_WRAPPER.search(evidence.log[-_TAIL:]):
        return StartError(message=words, inferred=True)
    if began:
        message = "it began and was killed before it could report; memory beyond what was asked is the likely cause"
        return Killed(message=message, inferred=True)
    return Unknown(message=words or "the platform gives no reason, and there is no log", inferred=True)


def _taken_away(evidence: Evidence, message: str) -> Failure:
    if _EPHEMERAL.search(evidence.events):
        return DiskFull(message=_line_with(_EPHEMERAL, evidence.events), inferred=True)
    if _DEADLINE.search(evidence.events):
        return DeadlineExceeded(message=_line_with(_DEADLINE, evidence.events), inferred=True)
    return Evicted(message=_line_with(_TAKEN, evidence.events) or message, inferred=True)


def _absent(evidence: Evidence) -> Failure:
    if evidence.watched:
        return Lost(message="the platform stopped knowing the job, and nothing says how it ended", inferred=True)
    message = "it was gone when the watch was taken up again: it ended unseen, or was removed, and left no receipt"
    return Unwatched(message=message, inferred=True)


_TAIL = 65536  # bytes of a log in which signs are looked for: enough for any traceback, never the whole of 10 MB
_DISK_FULL = re.compile(rb"No space left on device|Disk quota exceeded", re.IGNORECASE)
_NO_WRAPPER = re.compile(rb"base64: (not found|command not found|inaccessible)|/bin/sh: .*not found", re.IGNORECASE)
_NOT_STARTED = re.compile(r"executable file not found|exec: |exec format error|OCI runtime|StartError", re.IGNORECASE)
_PULL = re.compile(r"ErrImagePull|ImagePullBackOff|InvalidImageName|Failed to pull image", re.IGNORECASE)
_PULLED = re.compile(r"Successfully pulled|already present on machine|Started container", re.IGNORECASE)
_TAKEN = re.compile(r"Evicted|Preempt|NodeLost|NodeNotReady|TaintManagerEviction|NodeShutdown", re.IGNORECASE)
_EPHEMERAL = re.compile(r"ephemeral.storage|DiskPressure", re.IGNORECASE)
_DEADLINE = re.compile(r"DeadlineExceeded", re.IGNORECASE)

#: what an exit code commonly means (POSIX shells: 126, 127, 128 + n for signal n)
_MEANING = {
    126: "the command was found but may not be executed",
    127: "command not found: is the program in the image, and in its PATH?",
    134: "the program aborted (SIGABRT)",
    136: "arithmetic error (SIGFPE)",
    137: "killed (SIGKILL), often for want of memory",
    139: "the program crashed (SIGSEGV)",
    143: "told to stop (SIGTERM)",
}

_TELLING = re.compile(
    rb"(Error|Exception|Interrupt|Exit)\b|error|fatal|cannot|not found|denied|No such|failed|Killed", re.IGNORECASE
)


def telling_line(log: bytes) -> str:
    """The line of a log that best says what went wrong: the last that names an error, else the last of all."""
    lines = [line.strip() for line in log[-_TAIL:].splitlines() if line.strip()]
    telling = next((line for line in reversed(lines) if _TELLING.search(line)), lines[-1] if lines else b"")
    return telling.decode(errors="replace")[:300]


def image_trouble(events: str) -> ImagePull | None:
    """The failure that *events* of a pending container speak of, where its image cannot be fetched."""
    if _PULLED.search(events) or not _PULL.search(events):
        return None  # a registry that failed once may have served since
    return ImagePull(message=_line_with(_PULL, events), inferred=True)


def _line_with(pattern: re.Pattern[str], text: str) -> str:
    """The first line of *text* in which *pattern* occurs, its columns folded."""
    line = next((line for line in text.splitlines() if pattern.search(line)), "")
    return re.sub(r"\s{2,}", "  ", line).strip()[:300]
