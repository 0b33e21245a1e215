"""`Job`: one unit of work, as a record and the connection to ask about it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar, overload

import attrs

from canfar_batch import explain, views
from canfar_batch.attempts import REMEMBERS, Found, bring, is_gone, own_output
from canfar_batch.errors import JobFailed, JobNotFound, PlatformError, WaitTimeout
from canfar_batch.failures import Failure, StuckPending
from canfar_batch.lease import SystemClock
from canfar_batch.lifecycle import (
    CancelAsked,
    Cancelled,
    Ended,
    Event,
    Evidence,
    GaveUp,
    Seen,
    apply,
    classify,
)
from canfar_batch.protocols import Clock, Platform
from canfar_batch.records import Attempt, ContainerInfo, JobRecord, JobState, Phase, Receipt
from canfar_batch.spec import JobSpec

Self = TypeVar("Self", bound="Job")

LOOKS = 3  #: so many genuine "not found", spread over the settle time, prove that a container is gone
BRINGS = 6  #: so often the log of a job that is over is asked for before its end is judged without
STOPPING = 120.0  #: seconds for which the platform may still show what it was told to remove


class Source(Protocol):
    """Where a job's news come from: the platform itself, or the batch that drives it."""

    @property
    def platform(self) -> Platform | None:
        """The platform, or None where there is no connection."""

    def refresh(self, record: JobRecord) -> JobRecord:
        """The record as it stands now."""

    def log(self, record: JobRecord) -> bytes:
        """All that the job itself printed in its newest attempt, so far."""

    def events(self, record: JobRecord) -> str:
        """What the platform noted about the newest attempt."""

    def cancel(self, record: JobRecord, timeout: float) -> JobRecord:
        """Stop the job; the record once it is stopped."""

    def wait(self, seconds: float) -> None:
        """Let so many seconds pass."""


class Job:
    """One unit of work, run as one headless container at a time.

    Its attributes are what was last heard and never ask anybody; its methods may. Times are aware UTC datetimes of
    the container's clock, memory is in GiB.
    """

    def __init__(self, record: JobRecord, source: Source) -> None:
        self._record = record
        self._source = source

    # -- what was last heard --------------------------------------------------------------------------------------

    @property
    def record(self) -> JobRecord:
        """Everything that is known, as one frozen value."""
        return self._record

    @property
    def key(self) -> str:
        """Our name for the job, the same for ever."""
        return self._record.key

    @property
    def fields(self) -> Mapping[str, Any]:
        """The values that its template was filled with."""
        return self._record.fields

    @property
    def id(self) -> str | None:
        """The platform's name for the newest attempt; None until the platform has given one."""
        return self._record.id

    @property
    def name(self) -> str | None:
        """The launch name of the newest attempt, as the platform's portal shows it."""
        return self._record.attempt.launch_name if self._record.attempt else None

    @property
    def state(self) -> JobState:
        """Where the job stands."""
        return self._record.state

    @property
    def spec(self) -> JobSpec:
        """What it runs. The command of a job that was only found on the platform reads `(unknown)`."""
        return self._record.spec

    @property
    def attempt(self) -> int:
        """The number of the newest attempt, from 1; 0 before the first."""
        return self._record.attempt.number if self._record.attempt else 0

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """All attempts, oldest first."""
        return self._record.attempts

    @property
    def receipt(self) -> Receipt | None:
        """What the wrapper around the command reported, if anything."""
        return self._record.attempt.receipt if self._record.attempt else None

    @property
    def exit_code(self) -> int | None:
        """The command's own exit code; None while it runs, and where nothing reported it."""
        return self.receipt.exit_code if self.receipt else None

    @property
    def peak_ram(self) -> float | None:
        """Most memory that was in use, GiB, file cache included: an upper bound. None where unknown."""
        return self.receipt.peak_ram if self.receipt else None

    @property
    def cpu_seconds(self) -> float | None:
        """CPU time used, seconds. None where unknown."""
        return self.receipt.cpu_seconds if self.receipt else None

    @property
    def started_at(self) -> datetime | None:
        """When the newest attempt began to run."""
        return self._record.attempt.started_at if self._record.attempt else None

    @property
    def finished_at(self) -> datetime | None:
        """When the newest attempt was over."""
        return self._record.attempt.finished_at if self._record.attempt else None

    @property
    def failure(self) -> Failure | None:
        """Why the newest attempt failed, if it did."""
        return self._record.failure

    @property
    def outputs(self) -> Mapping[str, int | None]:
        """The declared outputs that were found at the end, and their sizes in bytes (None where unknown)."""
        return self.receipt.outputs if self.receipt else {}

    @property
    def result(self) -> Any:
        """What the batch's collector made of the job; None before that, and for single jobs."""
        return self._record.result

    # -- asking ---------------------------------------------------------------------------------------------------

    def refresh(self: Self) -> Self:
        """Ask how the job stands, once; the job itself.

        Raises:
            PlatformError: No clear answer came; nothing is changed by that.
        """
        self._record = self._source.refresh(self._record)
        return self

    def wait(self: Self, timeout: float | None = None, poll: float = 5.0) -> Self:
        """Ask until the job is over, also where the platform has forgotten it; the job itself.

        An answer that does not come is waited for: it says nothing about the job.

        Args:
            timeout: Seconds to wait at most; None waits for as long as it takes.
            poll: Seconds between two questions at most; the first follow each other sooner.

        Raises:
            WaitTimeout: The job was still active after *timeout* seconds. It runs on. Also a `TimeoutError`.
            CredentialError: The platform no longer accepts who we are.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        for pause in _pauses(poll):
            trouble = ""
            try:
                self.refresh()
            except PlatformError as error:
                trouble = f"; the platform's last answer: {error}"
                pause = max(pause, error.retry_after or 0.0)
            if self.state.final:
                break
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise WaitTimeout(f"job {self.key} is still {self.state} after {timeout:g} s; it runs on{trouble}")
            self._source.wait(pause if left is None else min(pause, left))
        return self

    def raise_if_failed(self: Self) -> Self:
        """Raise if the job is over and did not succeed; else the job itself.

        Raises:
            JobFailed: It did not succeed; the message says why, what to do, and shows the end of its log.
        """
        if not self.state.final or self.state is JobState.SUCCEEDED:
            return self
        tail = "\n".join(f"  | {line}" for line in self._log_or_nothing().splitlines()[-10:])
        raise JobFailed(self._explain("") + (f"\nThe end of its log:\n{tail}" if tail else ""))

    @overload
    def logs(self, encoding: str = "utf-8") -> str: ...
    @overload
    def logs(self, encoding: None) -> bytes: ...
    def logs(self, encoding: str | None = "utf-8") -> str | bytes:
        """All that the job itself printed in its newest attempt, so far.

        The saved log is read first, where there is one. Bytes that are not text in *encoding* become U+FFFD;
        ``encoding=None`` gives the job's own bytes exactly.

        Raises:
            PlatformError: The log was not saved, and the platform gave no clear answer.
        """
        raw = self._source.log(self._record)
        return raw if encoding is None else raw.decode(encoding, errors="replace")

    def follow(self, poll: float = 2.0) -> Iterator[str]:
        """The job's lines as they come, until it is over.

        A job that the platform begins again from the start is followed from its start.

        Args:
            poll: Seconds between two questions at most; each fetches the whole log, for the platform gives no part.
        """
        shown = b""
        for pause in _pauses(poll):
            try:
                over = self.refresh().state.final
                log = self._source.log(self._record)
            except PlatformError:
                over, log = False, b""
            whole = log if over else log[: log.rfind(b"\n") + 1]
            if whole and not (whole.startswith(shown) or shown.startswith(whole)):
                shown = b""
            if len(whole) > len(shown):
                yield from _lines(whole[len(shown) :])
                shown = whole
            if over:
                return
            self._source.wait(pause)

    def events(self) -> str:
        """What the platform noted about the newest attempt, as text; empty where there is nothing.

        Raises:
            PlatformError: They were not saved, and the platform gave no clear answer.
        """
        return self._source.events(self._record)

    def explain(self) -> str:
        """One paragraph: what happened, and what to do about it."""
        return self._explain(self._or_nothing(self.events))

    def support_report(self, expected: str | None = None, project: str | None = None) -> str:
        """All that a request to support@canfar.net should contain; no secret is in it.

        Args:
            expected: What you expected to happen.
            project: The project that the work belongs to.
        """
        platform = self._source.platform
        return explain.support_report(
            self._record,
            platform=platform.url if platform else "not connected",
            user=platform.user if platform else None,
            log=self._log_or_nothing(),
            events=self._or_nothing(self.events),
            expected=expected,
            project=project,
        )

    def cancel(self: Self, timeout: float = 120.0) -> Self:
        """Stop the job, and wait until the platform no longer knows it; the job itself.

        A job that turns out to have succeeded stays so.

        Args:
            timeout: Seconds to wait for the confirmation.

        Raises:
            WaitTimeout: The platform still shows it after *timeout* seconds.
            PlatformError: No clear answer came.
        """
        self._record = self._source.cancel(self._record, timeout)
        return self

    # -- showing --------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        cause = f", {self.failure.cause}" if self.failure else ""
        code = f", exit code {self.exit_code}" if self.exit_code == 0 else ""
        return f"<Job {self.key} {self.state}{cause or code}, id={self.id}>"

    def _repr_html_(self) -> str:
        return views.job(self._record, SystemClock().now())

    def _explain(self, events: str) -> str:
        return explain.explain_job(self._record, events, SystemClock().now())

    def _log_or_nothing(self) -> str:
        return self._or_nothing(self.logs)

    @staticmethod
    def _or_nothing(ask: Callable[[], str]) -> str:
        try:
            return ask()
        except PlatformError as error:
            return f"(not to be had: {error})"


def _pauses(longest: float) -> Iterator[float]:
    """Seconds to let pass between two questions: few at first, for many a job is over soon."""
    pause = 0.25
    while True:
        yield min(pause, longest)
        pause = min(pause * 2, longest)


def _lines(text: bytes) -> list[str]:
    """*text* as lines that end where the job ended them; the bar of a progress meter stays one line."""
    return [line.removesuffix("\r") for line in text.decode(errors="replace").removesuffix("\n").split("\n")]


# -- single jobs --------------------------------------------------------------------------------------------------


@attrs.define
class _Absence:
    """A container that should be there and was not seen."""

    since: float
    watched: bool  #: False where nobody looked for longer than the platform remembers
    looks: int = 0


@attrs.define
class Direct:
    """The news of a single job, straight from the platform.

    What is fetched at the job's end is kept, for the platform forgets it an hour later.
    """

    platform: Platform
    clock: Clock
    settle: float  #: seconds over which a container must be absent to be believed gone
    sleep: Callable[[float], None] = time.sleep
    _absence: _Absence | None = None
    _found: Found | None = None  #: what was brought back at the job's end
    _brings: int = 0  #: so often it was tried

    def refresh(self, record: JobRecord) -> JobRecord:
        """Ask about the container, and gather the evidence once it is over."""
        if record.id is None or self._found is not None:
            return record
        if record.state.final:  # the platform's list said that it is over, and nobody asked how yet
            phase = Phase.COMPLETED if record.state is JobState.SUCCEEDED else Phase.FAILED
            return self._end(_reopened(record), phase)
        try:
            info = self.platform.container(record.id)
        except JobNotFound:
            return self._missed(record)
        self._absence = None
        if info.phase.final:
            return self._end(record, info.phase)
        record = _heard(record, info, self.clock.now())
        stuck = _stuck(record, self.clock.now())
        return record if stuck is None else self._stop(record, STOPPING, stopped_for=stuck)

    def _missed(self, record: JobRecord) -> JobRecord:
        """The platform says that it knows no such container. Once is no proof."""
        if self._absence is None:
            seen = record.attempts[-1].seen_at
            away = timedelta() if seen is None else self.clock.now() - seen
            self._absence = _Absence(self.clock.ticks(), watched=away.total_seconds() < REMEMBERS)
        self._absence.looks += 1
        if self._absence.looks < LOOKS or self.clock.ticks() - self._absence.since < self.settle:
            return record
        return self._end(record, None)

    def _end(self, record: JobRecord, phase: Phase | None) -> JobRecord:
        """The record of a job that is known to be over."""
        found = self._bring(record, phase)
        self._brings += 1
        if found.trouble is not None and found.ended is None and self._brings < BRINGS:
            raise found.trouble
        return self._judged(record, found, phase)

    def _bring(self, record: JobRecord, phase: Phase | None) -> Found:
        """What can be had of log, receipts and events; looked for again where a log has a beginning and no end."""
        found = bring(self.platform, record, phase=phase, home=None)
        for _ in range(LOOKS - 1):
            if phase is None or found.trouble is not None or not found.torn:
                break
            self.sleep(1.0)
            found = bring(self.platform, record, phase=phase, home=None)
        return found

    def _judged(
        self, record: JobRecord, found: Found, phase: Phase | None, stopped_for: Failure | None = None
    ) -> JobRecord:
        watched = self._absence is None or self._absence.watched
        verdict = classify(attrs.evolve(found.evidence(phase, watched=watched), stopped_for=stopped_for))
        self._found = found
        now, receipt = self.clock.now(), found.ended or found.began
        if record.cancelling and not verdict.succeeded:
            return apply(record, Cancelled(key=record.key, at=now, receipt=receipt))
        after = apply(
            record,
            Ended(
                key=record.key,
                at=now,
                succeeded=verdict.succeeded,
                verified=verdict.verified,
                failure=verdict.failure,
                receipt=receipt,
            ),
        )
        return after if verdict.succeeded else apply(after, GaveUp(key=record.key, at=now))

    def log(self, record: JobRecord) -> bytes:
        """The log as it was when the job ended, else as it is."""
        if self._found is not None and self._found.log is not None:
            return self._found.log
        if record.id is None:
            return b""
        return own_output(self.platform.logs(record.id), record.attempts[-1].launch_name)

    def events(self, record: JobRecord) -> str:
        """The events as they were when the job ended, else as they are."""
        if self._found is not None:
            return self._found.events
        return "" if record.id is None else self.platform.events(record.id)

    def cancel(self, record: JobRecord, timeout: float) -> JobRecord:
        """Stop the job, unless it turns out to be over."""
        record = self.refresh(record)
        if record.state.final:
            return record
        return self._stop(apply(record, CancelAsked(key=record.key, at=self.clock.now())), timeout)

    def _stop(self, record: JobRecord, timeout: float, stopped_for: Failure | None = None) -> JobRecord:
        """Save what can be had, for it goes with the container; remove that, and ask until it is gone."""
        found = self._bring(record, None)
        if record.id is not None:
            self._remove(record.id, timeout)
        return self._judged(record, found, None, stopped_for)

    def _remove(self, id: str, timeout: float) -> None:
        deadline = self.clock.ticks() + timeout
        self.platform.cancel(id)
        while not is_gone(self.platform, id):
            if self.clock.ticks() > deadline:
                raise WaitTimeout(f"the platform still shows {id} {timeout:g} s after it was told to stop it")
            self.sleep(min(2.0, timeout / 10))
            self.platform.cancel(id)

    def wait(self, seconds: float) -> None:
        """Sleep."""
        self.sleep(seconds)


def _heard(record: JobRecord, info: ContainerInfo, at: datetime) -> JobRecord:
    if info.phase not in (Phase.PENDING, Phase.RUNNING):
        return record
    event: Event = Seen(key=record.key, at=at, phase=info.phase, started_at=info.started_at)
    return apply(record, event)


def _stuck(record: JobRecord, at: datetime) -> Failure | None:
    """Why a job has waited too long to begin, if it has."""
    attempt, allowed = record.attempts[-1], record.spec.pending_timeout
    if record.state is not JobState.PENDING or attempt.launched_at is None or allowed is None:
        return None
    waited = (at - attempt.launched_at).total_seconds()
    if waited <= allowed:
        return None
    return StuckPending(message=f"it waited {waited:.0f} s to begin; {allowed:.0f} s were allowed")


def _reopened(record: JobRecord) -> JobRecord:
    attempt = attrs.evolve(record.attempts[-1], succeeded=None, ended_at=None, failure=None)
    return attrs.evolve(record, state=JobState.PENDING, attempts=(*record.attempts[:-1], attempt))


def found_on_platform(info: ContainerInfo, at: datetime) -> JobRecord:
    """The record of a container that was not launched from here: its command is not to be had."""
    spec = JobSpec(
        ["(unknown)"],
        image=info.image or "unknown",
        cores=None if info.cores is None else max(1, round(info.cores)),
        ram=None if info.ram is None else max(1, round(info.ram)),
        gpus=info.gpus or None,
    )
    base = JobRecord(key=info.name, index=0, spec=spec, filled=spec.fill(key=info.name))
    attempt = Attempt(
        number=1,
        launch_name=info.name,
        resources=base.resources,
        intended_at=info.started_at or at,
        launched_at=info.started_at,
        id=info.id,
        started_at=info.started_at,
        seen_at=at,
    )
    state = JobState.RUNNING if info.phase is Phase.RUNNING else JobState.PENDING
    record = attrs.evolve(base, state=state, attempts=(attempt,))
    if not info.phase.final:
        return record
    verdict = classify(Evidence(phase=info.phase))
    ended = apply(record, Ended(key=record.key, at=at, succeeded=verdict.succeeded, failure=verdict.failure))
    return ended if verdict.succeeded else apply(ended, GaveUp(key=record.key, at=at))


def launched(spec: JobSpec, *, launch_name: str, id: str, at: datetime) -> JobRecord:
    """The record of a single job that was just launched."""
    base = JobRecord(key=launch_name, index=0, spec=spec, filled=spec.fill(key=launch_name))
    attempt = Attempt(
        number=1, launch_name=launch_name, resources=base.resources, intended_at=at, launched_at=at, seen_at=at, id=id
    )
    return attrs.evolve(base, state=JobState.PENDING, attempts=(attempt,))
