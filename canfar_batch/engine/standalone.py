"""A single job, which belongs to no batch: its record, and its news straight from the platform."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

import attrs

from canfar_batch.engine.attempts import (
    ABSENT_POLLS,
    PLATFORM_MEMORY,
    Absence,
    Found,
    bring,
    conclusion,
    is_gone,
    own_output,
    stuck,
)
from canfar_batch.engine.verdict import Evidence, classify
from canfar_batch.errors import JobNotFound, WaitTimeout
from canfar_batch.failures import Failure
from canfar_batch.lifecycle import CancelAsked, Ended, Event, PhaseChanged, RetryExhausted, apply
from canfar_batch.protocols import Clock, Platform
from canfar_batch.records import Attempt, ContainerInfo, JobRecord, JobState, Phase
from canfar_batch.spec import JobSpec

BRINGS = 6  #: so often the log of a job that is over is asked for before its end is judged without
STOPPING = 120.0  #: seconds for which the platform may still show what it was told to remove


@attrs.define
class Direct:
    """The news of a single job, straight from the platform.

    What is fetched at the job's end is kept, for the platform forgets it an hour later.
    """

    platform: Platform
    clock: Clock
    settle: float  #: seconds over which a container must be absent to be believed gone
    sleep: Callable[[float], None] = time.sleep
    _absence: Absence | None = None
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
        late = stuck(record, self.clock.now()) if record.state is JobState.PENDING else None
        return record if late is None else self._stop(record, STOPPING, stopped_for=late)

    def _missed(self, record: JobRecord) -> JobRecord:
        """The platform says that it knows no such container. Once is no proof."""
        if self._absence is None:
            seen = record.attempts[-1].seen_at
            away = timedelta() if seen is None else self.clock.now() - seen
            self._absence = Absence(self.clock.ticks(), watched=away.total_seconds() < PLATFORM_MEMORY)
        self._absence.looks += 1
        if not self._absence.proven(self.clock.ticks(), self.settle):
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
        for _ in range(ABSENT_POLLS - 1):
            if phase is None or found.trouble is not None or not found.torn:
                break
            self.sleep(1.0)
            found = bring(self.platform, record, phase=phase, home=None)
        return found

    def _judged(
        self, record: JobRecord, found: Found, phase: Phase | None, stopped_for: Failure | None = None
    ) -> JobRecord:
        watched = self._absence is None or self._absence.watched
        self._found, now = found, self.clock.now()
        ended = conclusion(record, found, phase=phase, watched=watched, stopped_for=stopped_for, at=now)
        after = apply(record, ended)
        return apply(after, RetryExhausted(key=record.key, at=now)) if after.state is JobState.WAITING else after

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
        return "" if record.id is None else self.platform.events(record.id) or ""

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
    event: Event = PhaseChanged(key=record.key, at=at, phase=info.phase, started_at=info.started_at)
    return apply(record, event)


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
    return ended if verdict.succeeded else apply(ended, RetryExhausted(key=record.key, at=at))


def launched(spec: JobSpec, *, launch_name: str, id: str, at: datetime) -> JobRecord:
    """The record of a single job that was just launched."""
    base = JobRecord(key=launch_name, index=0, spec=spec, filled=spec.fill(key=launch_name))
    attempt = Attempt(
        number=1, launch_name=launch_name, resources=base.resources, intended_at=at, launched_at=at, seen_at=at, id=id
    )
    return attrs.evolve(base, state=JobState.PENDING, attempts=(attempt,))
