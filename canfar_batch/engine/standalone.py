"""Single jobs, which belong to no batch: the same engine, over a ledger in memory that holds one job."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

import attrs

from canfar_batch.engine.attempts import LaunchContext, own_output
from canfar_batch.engine.context import Setup, Strategies
from canfar_batch.engine.engine import Engine
from canfar_batch.engine.planning import label
from canfar_batch.engine.pool import Pool
from canfar_batch.engine.verdict import Evidence, classify
from canfar_batch.errors import (
    CredentialError,
    LaunchInDoubt,
    PlatformError,
    PlatformUnreachable,
    TransitionError,
    WaitTimeout,
)
from canfar_batch.failures import Failure
from canfar_batch.lifecycle import Ended, Event, Intended, Launched, PhaseChanged, RetryExhausted, apply
from canfar_batch.payload import launch_names
from canfar_batch.protocols import Clock, MonitorStrategy, Platform, Stop
from canfar_batch.records import ContainerInfo, JobRecord, JobState, Phase
from canfar_batch.spec import JobSpec
from canfar_batch.store.home import Home
from canfar_batch.store.ledger import Identity
from canfar_batch.store.memory import MemoryLedger

JUDGING = 60.0  #: seconds to look for the evidence about a container that had ended before anyone asked


@attrs.frozen(kw_only=True)
class Surroundings:
    """What the single jobs of one session share."""

    platform: Platform
    monitor: MonitorStrategy
    clock: Clock
    settle: float
    grace: float
    memory: float
    shared: bool
    pool: Callable[[], Pool]  #: makes a pool for one job; the pools share the threads of the session


class Standalone:
    """The source of one single job's news: an engine that drives this job alone."""

    def __init__(self, surroundings: Surroundings, record: JobRecord, *, ended_before: Phase | None = None) -> None:
        self._surroundings = surroundings
        self._key = record.key
        identity = Identity(name=record.key, platform=surroundings.platform.url, user=None, token="")
        self._ledger = MemoryLedger(identity, last_contact=surroundings.clock.now())
        self._ledger.plan([record])
        self._ended_before = ended_before

    @functools.cached_property
    def _engine(self) -> Engine:
        """The engine, made when it is first needed: most jobs that a list shows are never asked about."""
        around = self._surroundings
        strategies = Strategies(
            launch=lambda view: view.ready(), monitor=around.monitor, retry=_never, collect=lambda job, platform: None
        )
        setup = Setup(
            platform=around.platform,
            strategies=strategies,
            clock=around.clock,
            archive=_temporary_home(self),
            settle=around.settle,
            grace=around.grace,
            memory=around.memory,
            shared=around.shared,
            launch_context=LaunchContext(shared=around.shared),
            quiet=True,
            pool=around.pool,
        )
        return Engine(setup, self._ledger)

    # -- launching ------------------------------------------------------------------------------------------------

    @classmethod
    def launch(cls, surroundings: Surroundings, spec: JobSpec) -> tuple[Standalone, JobRecord]:
        """Launch *spec* as a single job.

        Raises:
            SpecError: It cannot be sent.
            PlatformRefused: The platform refused it; nothing runs.
            LaunchInDoubt: No clear answer came, and the platform's list could not settle whether the job exists.
        """
        name = launch_names.single_launch_name(spec.fill().name or label(spec))
        made = cls(surroundings, JobRecord(key=name, index=0, spec=spec, filled=spec.fill(key=name)))
        return made, made._launched()

    def _launched(self) -> JobRecord:
        engine = self._engine
        engine.launch()
        if self._record.state is JobState.LAUNCHING:
            self._settle()
        if self._record.id is None and engine.launch_error is not None:
            raise engine.launch_error
        return self._record

    def _settle(self) -> None:
        """Find out from the platform's list whether the launch that got no answer happened.

        Raises:
            LaunchInDoubt: The list does not show it, or cannot be read.
        """
        engine, clock, settle = self._engine, self._engine.setup.clock, self._engine.setup.settle
        doubt = engine.launch_error
        if not isinstance(doubt, LaunchInDoubt):
            doubt = LaunchInDoubt(f"{doubt}", launch_name=self._record.attempts[-1].launch_name)
        deadline = clock.ticks() + settle * 4
        for _ in engine.drive(lambda: self._record.state is not JobState.LAUNCHING, deadline=deadline):
            if isinstance(engine.trouble, CredentialError):
                raise _still_in_doubt(doubt, f"it cannot be asked ({engine.trouble})") from doubt
        if self._record.state is JobState.LAUNCHING:
            raise _still_in_doubt(doubt, f"its list is not available ({engine.trouble})") from doubt
        if self._record.id is None:
            raise _still_in_doubt(doubt, f"its list did not show it for {settle:g} s") from doubt

    # -- the source of a `Job` ------------------------------------------------------------------------------------

    @property
    def platform(self) -> Platform:
        """The platform."""
        return self._engine.platform

    @property
    def _record(self) -> JobRecord:
        return self._ledger.jobs[self._key]

    def refresh(self, record: JobRecord, *, timeout: float = math.inf) -> JobRecord:
        """Ask about the container, and gather the evidence if it has ended.

        Raises:
            PlatformUnreachable: No answer came within *timeout* seconds.
            PlatformError: No clear answer came.
            CredentialError: The platform did not accept the credential.
        """
        if self._record.state.final:
            return self._record
        if self._ended_before is not None:
            return self._judged(self._ended_before, timeout)
        answered = self._engine.observe(timeout=timeout)
        self._raise_trouble()
        if not answered and not self._record.state.final:
            raise PlatformUnreachable(f"{self.platform.url} has not answered within {timeout:.3g} s")
        return self._record

    def require_driver(self, record: JobRecord) -> None:
        """Do nothing: whoever asks about a single job drives it."""

    def _judged(self, phase: Phase, timeout: float) -> JobRecord:
        """Return the record of a job that had ended before it was asked about; by its status alone if nothing else."""
        deadline = self._engine.setup.clock.ticks() + min(JUDGING, timeout)
        self._engine.finish(self._key, phase)
        for _ in self._engine.drive(lambda: self._record.state.final, deadline=deadline):
            pass
        self._raise_trouble()
        return self._record if self._record.state.final else _by_status(self._record, phase)

    def _raise_trouble(self) -> None:
        """Raise the error that keeps the engine from knowing how the job stands, if there is one."""
        trouble = self._engine.trouble or self._engine.trouble_at_end(self._key)
        if trouble is not None and not self._record.state.final:
            raise trouble

    def log(self, record: JobRecord) -> bytes:
        """Return the log as it was when the job ended, else as it is."""
        return newest_log(self._record, self.platform)

    def events(self, record: JobRecord) -> str:
        """Return the events as they were when the job ended, else as they are."""
        return newest_events(self._record, self._engine.setup.archive, self.platform)

    def cancel(self, record: JobRecord, timeout: float) -> JobRecord:
        """Stop the job unless it has ended, and return its record.

        Raises:
            WaitTimeout: The platform still shows it after *timeout* seconds.
        """
        engine = self._engine
        deadline = engine.setup.clock.ticks() + timeout
        with contextlib.suppress(PlatformError):
            self.refresh(record, timeout=timeout)
        engine.cancel([self._key])
        for _ in engine.drive(lambda: self._record.state.final, deadline=deadline):
            pass
        if not self._record.state.final:
            trouble = engine.trouble or engine.trouble_at_end(self._key)
            why = f": {trouble}" if trouble else ""
            raise WaitTimeout(
                f"the platform still shows {self._record.id} {timeout:g} s after it was asked to stop it{why}"
            )
        return self._record

    def wait(self, seconds: float) -> None:
        """Sleep for *seconds*, or until the platform answers."""
        self._engine.wait(seconds)

    def renew(self, record: JobRecord) -> None:
        """Ask the platform to extend the lifetime of the job's container.

        Raises:
            PlatformError: The platform refused, or no clear answer came.
        """
        renew_container(self._record, self.platform)


def found_on_platform(surroundings: Surroundings, info: ContainerInfo) -> tuple[Standalone, JobRecord]:
    """Return the job of a container that was not launched from here; its command is not known.

    The record of one that has ended says how by its status alone, until it is refreshed.
    """
    spec = JobSpec(
        ["(unknown)"],
        image=info.image or "unknown",
        cores=None if info.cores is None else max(1, round(info.cores)),
        ram=None if info.ram is None else max(1, round(info.ram)),
        gpus=info.gpus or None,
    )
    key, now = info.name, surroundings.clock.now()
    record = JobRecord(key=key, index=0, spec=spec, filled=spec.fill(key=key))
    launched_at = info.started_at or now
    events: list[Event] = [
        Intended(key=key, at=launched_at, launch_name=info.name, resources=record.resources),
        Launched(key=key, at=launched_at, id=info.id),
    ]
    if info.phase in (Phase.PENDING, Phase.RUNNING):
        events.append(PhaseChanged(key=key, at=now, phase=info.phase, started_at=info.started_at))
    for event in events:
        record = apply(record, event)
    if not info.phase.final:
        return Standalone(surroundings, record), record
    return Standalone(surroundings, record, ended_before=info.phase), _by_status(record, info.phase)


def _by_status(record: JobRecord, phase: Phase) -> JobRecord:
    """Return the record of a job that has ended, by the platform's status alone."""
    at = record.attempts[-1].seen_at or record.attempts[-1].intended_at
    verdict = classify(Evidence(phase=phase))
    ended = apply(record, Ended(key=record.key, at=at, succeeded=verdict.succeeded, failure=verdict.failure))
    return ended if verdict.succeeded else apply(ended, RetryExhausted(key=record.key, at=at))


def newest_log(record: JobRecord, platform: Platform | None) -> bytes:
    """Return the saved log of the newest attempt, else the platform's; empty if there is neither."""
    attempt = record.last_attempt
    if attempt is None:
        return b""
    if attempt.log is not None and attempt.log.exists():
        return attempt.log.read_bytes()
    if platform is None or attempt.id is None:
        return b""
    return own_output(platform.logs(attempt.id), attempt.launch_name)


def renew_container(record: JobRecord, platform: Platform) -> None:
    """Ask the platform to extend the lifetime of the container of *record*'s newest attempt.

    Raises:
        PlatformError: The platform refused, or no clear answer came.
        TransitionError: The job has no container.
    """
    if record.id is None or not record.state.active:
        raise TransitionError(f"job {record.key!r} is {record.state}, so it has no container whose lifetime could grow")
    platform.renew(record.id)


def newest_events(record: JobRecord, archive: Home, platform: Platform | None) -> str:
    """Return the saved events of the newest attempt, else the platform's; empty if there is neither."""
    attempt = record.last_attempt
    if attempt is None:
        return ""
    saved = archive.events(record.key, attempt.number)
    if saved.exists():
        return saved.read_text()
    if platform is None or attempt.id is None or attempt.ended:
        return ""
    return platform.events(attempt.id) or ""


def _never(job: JobRecord, failure: Failure) -> Stop:
    return Stop("a single job is not launched again")


def _temporary_home(owner: object) -> Home:
    """Return a home in a temporary directory that is removed with *owner*, by the process that made it."""
    home, pid = Home(Path(tempfile.mkdtemp(prefix="canfar_batch-"))), os.getpid()

    def remove() -> None:
        if os.getpid() == pid:  # not by a fork
            shutil.rmtree(home.path, ignore_errors=True)

    weakref.finalize(owner, remove)
    home.logs.mkdir(mode=0o700)
    return home


def _still_in_doubt(doubt: LaunchInDoubt, why: str) -> LaunchInDoubt:
    return LaunchInDoubt(
        f"{doubt} The platform was asked whether the job exists: {why}. Its launch name is {doubt.launch_name}; look "
        "for it in session.jobs() before you launch it again",
        launch_name=doubt.launch_name,
        status=doubt.status,
        server_text=doubt.server_text,
        retry_after=doubt.retry_after,
        same_again=doubt.same_again,
    )
