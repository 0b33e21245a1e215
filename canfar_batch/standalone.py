"""Single jobs, which belong to no batch: the same engine, over a ledger in memory that holds one job."""

from __future__ import annotations

import atexit
import functools
import itertools
import math
import os
import shutil
import tempfile
import weakref
from pathlib import Path

import attrs

from canfar_batch.engine import Engine
from canfar_batch.errors import (
    CredentialError,
    CredentialRefused,
    LaunchInDoubt,
    PlatformError,
    PlatformUnreachable,
    WaitTimeout,
)
from canfar_batch.failures import Failure
from canfar_batch.job import newest_events, newest_log, renew_container
from canfar_batch.lifecycle import Event, Intended, Launched, PhaseChanged, apply
from canfar_batch.payload import launch_names
from canfar_batch.planning.naming import label
from canfar_batch.protocols import MonitorStrategy, Platform, Stop
from canfar_batch.records import ContainerInfo, JobRecord, JobState, Phase
from canfar_batch.setup import Setup, Strategies
from canfar_batch.spec import JobSpec
from canfar_batch.store.files import make_folder
from canfar_batch.store.home import Home
from canfar_batch.store.ledger import Identity
from canfar_batch.store.memory import MemoryLedger

JUDGING = 60.0  #: seconds to look for the evidence about a container that had ended before anyone asked


class Standalone:
    """The source of one single job's news: an engine that drives this job alone."""

    def __init__(self, setup: Setup, record: JobRecord, *, ended_before: Phase | None = None) -> None:
        """Prepare the source.

        Args:
            setup: What the engine is set up with; the single jobs of a session share it.
            record: The job.
            ended_before: The final status of the job's container, if it had ended before anyone asked about it.
        """
        self._setup = attrs.evolve(setup, is_single=True)
        self._key = record.key
        identity = Identity(name=record.key, platform=setup.platform.url, user=None, token="")
        self._ledger = MemoryLedger(identity, last_contact=setup.clock.now())
        self._ledger.plan([record])
        self._ended_before = ended_before

    @functools.cached_property
    def _engine(self) -> Engine:
        """The engine, made when it is first needed: most jobs that a list shows are never asked about."""
        return Engine(self._setup, self._ledger, _temporary_home(self))

    # -- launching ------------------------------------------------------------------------------------------------

    @classmethod
    def launch(cls, setup: Setup, spec: JobSpec) -> tuple[Standalone, JobRecord]:
        """Launch *spec* as a single job.

        Raises:
            SpecError: It cannot be sent.
            PlatformRefused: The platform refused it; nothing runs.
            LaunchInDoubt: No clear answer came, and the platform's list could not settle whether the job exists.
        """
        name = launch_names.single_launch_name(spec.filled_name() or label(spec))
        made = cls(setup, JobRecord(key=name, index=0, spec=spec, filled=spec.fill(key=name)))
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
        engine, clock, settle = self._engine, self._setup.clock, self._setup.settle
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

    def exception(self, record: JobRecord) -> None:
        """Return None: a single job calls no function."""

    def require_driver(self, record: JobRecord) -> None:
        """Do nothing: whoever asks about a single job drives it."""

    def _judged(self, phase: Phase, timeout: float) -> JobRecord:
        """Return the record of a job that had ended before it was asked about; by its status alone if nothing else."""
        deadline = self._setup.clock.ticks() + min(JUDGING, timeout)
        self._engine.finish(self._key, phase)
        for _ in self._engine.drive(lambda: self._record.state.final, deadline=deadline):
            pass
        self._raise_trouble()
        return self._record if self._record.state.final else Engine.ended_by_status(self._record, phase)

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
        return newest_events(self._record, self._engine.archive, self.platform)

    def cancel(self, record: JobRecord, timeout: float) -> JobRecord:
        """Stop the job unless it has ended, and return its record.

        Raises:
            WaitTimeout: The platform still shows it after *timeout* seconds.
        """
        engine = self._engine
        deadline = self._setup.clock.ticks() + timeout
        try:
            self.refresh(record, timeout=timeout)
        except PlatformError:
            pass
        except CredentialRefused as error:
            if not error.was_accepted:
                raise
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


def single_strategies(monitor: MonitorStrategy) -> Strategies:
    """Return the strategies that a single job is driven by: it is launched at once, never again, and has no result."""
    return Strategies(
        launch=lambda view: view.ready(), monitor=monitor, retry=_never, collect=lambda job, platform: None
    )


def _never(job: JobRecord, failure: Failure) -> Stop:
    return Stop("a single job is not launched again")


def found_on_platform(setup: Setup, info: ContainerInfo) -> tuple[Standalone, JobRecord]:
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
    key, now = info.name, setup.clock.now()
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
        return Standalone(setup, record), record
    return Standalone(setup, record, ended_before=info.phase), Engine.ended_by_status(record, info.phase)


@attrs.frozen(slots=False)
class _TemporaryHome(Home):
    """The home of a single job: a temporary directory that is made when it is first needed."""

    @functools.cached_property
    def logs(self) -> Path:
        """The directory for the logs of ended attempts."""
        make_folder(self.path / "logs")
        return self.path / "logs"


def _temporary_home(owner: object) -> Home:
    """Return a home whose directory is removed with *owner*, by the process that made it."""
    pid = os.getpid()
    home = _TemporaryHome(_temporary_directory(pid) / f"{next(_numbers)}")

    def remove() -> None:
        if os.getpid() == pid and "logs" in home.__dict__:  # it was made, and not by the parent of a fork
            shutil.rmtree(home.path, ignore_errors=True)

    weakref.finalize(owner, remove)
    return home


_numbers = itertools.count()


@functools.lru_cache(maxsize=1)
def _temporary_directory(pid: int) -> Path:
    """Return the directory of the homes that the process *pid* has made; it is removed when the process ends."""
    directory = Path(tempfile.mkdtemp(prefix="canfar_batch-"))

    def remove() -> None:
        if os.getpid() == pid:
            shutil.rmtree(directory, ignore_errors=True)

    atexit.register(remove)
    return directory


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
