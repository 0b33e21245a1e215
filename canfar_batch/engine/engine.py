"""The engine: strategies decide, it acts, the ledger remembers.

One `Engine.step` drains the results of worker threads, polls the platform, decides about failures, launches, and
starts to fetch results: `stages` calls one module of this folder after the other. Threads talk to the platform; the
calling thread alone changes state and writes the ledger. `docs/explanation/loop.md` explains why each step is as it is.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import attrs

from canfar_batch.engine.finish import Finishing
from canfar_batch.engine.inputs import folder_of_inputs
from canfar_batch.engine.launch_requests import LaunchContext
from canfar_batch.engine.pool import Workers
from canfar_batch.engine.remote_home import RemoteHome
from canfar_batch.engine.stages import Stages
from canfar_batch.engine.verdict import Evidence, classify
from canfar_batch.errors import AlreadyClosed, CanfarBatchError, HomeError, LeaseLost
from canfar_batch.lifecycle import Ended, Event, RetryExhausted
from canfar_batch.lifecycle import apply as after
from canfar_batch.planning.compare import Plan
from canfar_batch.planning.estimate import Estimate, estimate_cost
from canfar_batch.planning.gone import SeenFiles
from canfar_batch.planning.preflight import ComingFiles, Preflight, inspect
from canfar_batch.protocols import Observer, Platform, is_closed
from canfar_batch.records import ContainerInfo, JobRecord, JobState, Limits, Phase
from canfar_batch.setup import ALIKE, Setup
from canfar_batch.store.home import Home
from canfar_batch.store.ledger import Identity
from canfar_batch.store.memory import LedgerLike

log = logging.getLogger("canfar_batch")


@attrs.define
class Turn:
    """One turn of the loop."""

    wait: float  #: seconds until the next, unless a worker thread delivers something sooner

    def shorten(self, seconds: float) -> None:
        """Wait for at most *seconds*."""
        self.wait = min(self.wait, seconds)


class Engine:
    """Drives the jobs of one ledger on one platform, while it holds the ledger's lease.

    Attributes:
        setup: The platform, the strategies and the settings.
        archive: The directory that logs and events are saved in.
        results: Results that the ledger cannot store, by key.
    """

    def __init__(self, setup: Setup, ledger: LedgerLike, archive: Home) -> None:
        self.setup = setup
        self.archive = archive
        self.results: dict[str, object] = {}
        self._ledger = ledger
        self._stages: Stages | None = None
        self._remote: RemoteHome | None = None
        self._storage_trouble: str | None = None  # why the storage could not be used, if that is so
        self._inputs_in: str | None = None  # the folder of the inputs, once it is known
        self._limits: Limits | None = None  # as the platform gave them to the last run

    # -- holding the lease ----------------------------------------------------------------------------------------

    @property
    def is_driving(self) -> bool:
        """Whether this engine drives at this moment."""
        return self._stages is not None

    @property
    def platform(self) -> Platform:
        """The platform."""
        return self.setup.platform

    @property
    def launch_context(self) -> LaunchContext:
        """The data that all launches share: jobs run in the directory the batch was made in, unless that is gone."""
        if self.setup.is_single:
            return LaunchContext(shared=self.setup.shared)
        stored, identity = self._ledger.workdir, self._ledger.identity
        return LaunchContext(
            batch=identity.name,
            token=identity.token,
            home=self.archive,
            workdir=stored if stored is not None and stored.is_dir() else Path.cwd(),
            shared=self.setup.shared,
            remote=self._remote,
            inputs=self._folder_of_inputs(identity),
        )

    def acquire(self, *, takeover: bool = False) -> None:
        """Take the lease and get ready to drive, unless that is so already.

        Raises:
            BatchBusy: Another driver may be alive.
            AlreadyClosed: The session was closed.
        """
        self._acquired(takeover=takeover)

    def release(self) -> None:
        """Stop driving. The next driver settles what threads learn from now on."""
        stages, self._stages = self._stages, None
        last_contact = None
        if stages is not None:
            self._limits = stages.context.health.limits or self._limits
            last_contact = stages.context.schedule.last_contact
            stages.bundles.tidy()
            stages.context.pool.close()
        if self._ledger.driving:
            with contextlib.suppress(HomeError, LeaseLost):  # the error that ended the run is raised, not this one
                self._ledger.release(last_contact)

    @contextlib.contextmanager
    def held(self, *, takeover: bool = False) -> Iterator[Engine]:
        """Drive inside; release at the end, unless this engine was driving before."""
        was_driving = self._ledger.driving and self._stages is not None
        self._acquired(takeover=takeover)
        try:
            yield self
        finally:
            if not was_driving:
                self.release()

    def _acquired(self, *, takeover: bool = False) -> Stages:
        if is_closed(self.platform):
            raise AlreadyClosed(
                f"the session that batch {self._ledger.identity.name!r} belongs to was closed; open the batch in a new "
                "one, by session.batch()"
            )
        if self._stages is None or not self._ledger.driving:
            self._ledger.acquire(takeover=takeover)
            if not self.setup.shared and not self.setup.is_single and self._remote is None:
                self._prepare_remote()
            self._stages = Stages(
                self.setup, self._ledger, self.archive, launch_context=self.launch_context, results=self.results,
                storage_trouble=self._storage_trouble,
            )  # fmt: skip
        return self._stages

    def _prepare_remote(self) -> None:
        """Make a folder for the batch on the platform's storage; the batch does without one if that fails."""
        try:
            self._remote = RemoteHome.prepare(self.platform, self._ledger.identity.token)
        except (CanfarBatchError, OSError) as error:
            self._storage_trouble = str(error)  # the error itself would keep this engine alive
            log.info("%s: the platform's storage is not used: %s", self._ledger.identity.name, self._storage_trouble)

    def _folder_of_inputs(self, identity: Identity) -> str | None:
        """Return the folder in which jobs find their inputs, if containers do not see the driver's files."""
        if self._inputs_in is None and not self.setup.shared:
            default = None if self._remote is None else self._remote.inputs_of(identity.name, identity.token)
            self._inputs_in = folder_of_inputs(self.setup.inputs, self.archive, default)
        return self._inputs_in

    # -- state ----------------------------------------------------------------------------------------------------

    @property
    def is_done(self) -> bool:
        """Whether every job is final, every result fetched, and no launch in doubt; False while not driving."""
        return self._stages is not None and self._stages.is_done

    @property
    def is_stuck(self) -> bool:
        """Whether nothing more will happen until the user has fixed what paused the batch."""
        return self._stages is not None and self._stages.is_stuck

    @property
    def has_work_in_flight(self) -> bool:
        """Whether a worker thread is about to deliver something."""
        return self._stages is not None and self._stages.has_work_in_flight

    @property
    def paused(self) -> str | None:
        """Why nothing is launched for now; None if launching goes on."""
        if self._stages is None:
            return None
        pause = self._stages.context.health.pause
        return self._stages.launcher.patience.why if pause is None else pause.why

    @property
    def trouble(self) -> Exception | None:
        """Why the newest poll failed; None after a good one."""
        return self._stages.context.health.trouble if self._stages else None

    def trouble_at_end(self, key: str) -> Exception | None:
        """Return why the evidence about the end of this job's attempt is not available, if that is so."""
        return self._stages.finisher.trouble(key) if self._stages else None

    @property
    def launch_error(self) -> Exception | None:
        """Why the newest launch that did not succeed failed or is in doubt."""
        return self._stages.launcher.error if self._stages else None

    @property
    def counts(self) -> Mapping[JobState, int] | None:
        """The number of jobs in each state; None while not driving."""
        return self._stages.context.journal.index.counts if self._stages else None

    @property
    def limits(self) -> Limits | None:
        """What one job may ask for, as last received."""
        return self._stages.context.health.limits if self._stages else self._limits

    @property
    def live(self) -> Mapping[str, ContainerInfo]:
        """Running containers that the platform measures, by id, as of the newest poll; empty while not driving."""
        return self._stages.monitor.live if self._stages else {}

    # -- the loop -------------------------------------------------------------------------------------------------

    def step(self) -> float:
        """Do all that can be done now, and return the seconds until there is more to do.

        Raises:
            LeaseLost: Another driver has taken over.
            HomeError: The home cannot be written.
        """
        with self._undivided() as stages:
            return stages.step()

    def drive(
        self,
        until: Callable[[], bool] | None = None,
        *,
        deadline: float | None = None,
        step: Callable[[], float] | None = None,
        wait: Callable[[float], None] | None = None,
    ) -> Iterator[Turn]:
        """Step and wait, again and again, and yield after each step.

        Ends when *until* is true (by default when all is done), when the batch is stuck, or at the deadline: the
        caller checks which.

        Args:
            until: The condition to end on.
            deadline: When to end, in ticks of the setup's clock.
            step: Called for each step in place of `step`, which it calls, to do more in the same turn of the thread.
            wait: Called for each wait in place of `wait`, to let other threads use the engine meanwhile.
        """
        ticks = self.setup.clock.ticks
        finished, step, wait = until or (lambda: self.is_done), step or self.step, wait or self.wait
        while not finished() and not self.is_stuck and (deadline is None or ticks() < deadline):
            turn = Turn(step())
            yield turn
            if not finished():
                wait(turn.wait if deadline is None else min(turn.wait, deadline - ticks()))

    def wait(self, seconds: float) -> None:
        """Sleep for *seconds*, or until a worker thread delivers something."""
        with self._undivided() as stages:
            stages.context.pool.wait(seconds)

    def rest(self, seconds: float) -> None:
        """Sleep as `wait` does; unlike `wait`, take no lease. Only for the thread that drives."""
        stages = self._stages
        if stages is not None:
            stages.context.pool.wait(seconds)
        else:
            time.sleep(seconds)

    @contextlib.contextmanager
    def _undivided(self) -> Iterator[Stages]:
        """Stop driving if what is done inside is interrupted, since it may have been left half done."""
        stages = self._acquired()
        try:
            yield stages
        except Exception:
            raise
        except BaseException:
            self.release()
            raise

    # -- the stages alone -----------------------------------------------------------------------------------------

    def observe(self, *, timeout: float = math.inf) -> bool:
        """Poll the platform now, whatever the monitor wishes, and follow up what is seen.

        Args:
            timeout: Seconds to wait for the platform's answers.

        Returns:
            Whether all answers came in time; those that come later are processed by the next call.
        """
        with self._undivided() as stages:
            return stages.observe(timeout)

    def launch(self) -> int:
        """Let the strategy pick, wait for the answers, and return how many launches were sent."""
        with self._undivided() as stages:
            return stages.launch()

    def collect(self, jobs: Iterable[JobRecord]) -> None:
        """Fetch the results of *jobs*, and wait for them."""
        with self._undivided() as stages:
            stages.collect(jobs)

    # -- what the user asks for -----------------------------------------------------------------------------------

    def resume(self, *, stop_alike: int | None = ALIKE) -> None:
        """Launch again after a pause, count failures from zero, and look again for late receipts.

        Args:
            stop_alike: Failures of one cause, before any success, that pause the batch; None for never.
        """
        stages = self._acquired()
        stages.retrier.stop_alike = stop_alike
        stages.resume()

    def cancel(self, keys: Iterable[str]) -> None:
        """Mark jobs to be stopped by the next steps; those that have no container are cancelled at once."""
        self._acquired().cancel(keys)

    def finish(self, key: str, phase: Phase) -> None:
        """Look into the end of this job's attempt, of which *phase* is the platform's final status."""
        stages = self._acquired()
        stages.finisher.begin(stages.context.journal.jobs[key], Finishing(phase=phase, found_ended=True))

    def cancel_sent(self, key: str) -> bool:
        """Return whether a cancel was delivered for this job, or it has no container to cancel."""
        return self._acquired().cancel_sent(key)

    @staticmethod
    def ended_by_status(job: JobRecord, phase: Phase) -> JobRecord:
        """Return the record of a job whose container ended before anyone watched it, by the platform's status alone."""
        at = job.attempts[-1].seen_at or job.attempts[-1].intended_at
        verdict = classify(Evidence(phase=phase))
        ended = after(job, Ended(key=job.key, at=at, succeeded=verdict.succeeded, failure=verdict.failure))
        return ended if verdict.succeeded else after(ended, RetryExhausted(key=job.key, at=at))

    @staticmethod
    def workers(queues: Mapping[str, int]) -> Workers:
        """Return threads that several engines may share, whose `pool` a setup takes.

        Args:
            queues: How many threads do each kind of work: `launch`, `poll`, `gather` and `collect`.
        """
        return Workers(queues)

    @contextlib.contextmanager
    def only(self, key: str) -> Iterator[None]:
        """Launch this job and no other while inside."""
        with self.held(), self._acquired().launcher.only(key):
            yield

    @contextlib.contextmanager
    def subscribed(self, observer: Observer) -> Iterator[None]:
        """Report every event to *observer* while inside."""
        observers = self._acquired().context.journal.observers
        observers.append(observer)
        try:
            yield
        finally:
            observers.remove(observer)

    def result(self, job: JobRecord) -> object:
        """Return a result that the ledger could not store; it is fetched again if this process has not got it.

        Raises:
            Exception: The collector failed.
        """
        if job.key not in self.results:
            self.results[job.key] = self.setup.strategies.collect(self.launch_context.placed(job), self.platform)
        return self.results[job.key]

    def preflight(self, *, seconds: float | None = None) -> Preflight:
        """Look for what would go wrong, before anything is launched.

        Args:
            seconds: Seconds that each job is assumed to run, for the estimate of the cost.
        """
        if self.setup.inputs is not None and self._remote is None and not self.setup.shared:
            self._prepare_remote()  # which names the folder of the inputs
        context = self.launch_context
        jobs = [context.placed(job) for job in self._ledger.jobs.values()]
        found = inspect(
            jobs, self.platform, shared=self.setup.shared, now=self.setup.clock.now(),
            launch=self.setup.strategies.launch,
            coming=ComingFiles.of(self.setup.inputs, context.workdir, context.inputs, leave_out=self.archive.path),
        )  # fmt: skip
        return attrs.evolve(found, estimate=self.estimate(seconds=seconds))

    def estimate(self, *, seconds: float | None = None) -> Estimate:
        """Return the cost of the jobs that are not launched yet."""
        default = None if self.limits is None else self.limits.default_cores
        return estimate_cost(list(self._ledger.jobs.values()), seconds=seconds, default_cores=default)

    def gone_outputs(self) -> dict[str, list[Path]]:
        """Return the outputs of succeeded jobs that no longer exist, by key."""
        return self.seen_files().gone_outputs(list(self._ledger.jobs.values()))

    def seen_files(self) -> SeenFiles:
        """Return the files of the jobs, as far as this machine sees them."""
        context = self.launch_context
        home = None if context.home is None else context.home.path
        return SeenFiles(home=home, workdir=context.workdir, shared=context.shared)

    # -- changing the plan ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def planning(self) -> Iterator[None]:
        """Hold the right to change the plan; all changes inside are one transaction if no one drives.

        Raises:
            BatchBusy: Another driver may be alive.
        """
        if self._ledger.driving:
            yield
        else:
            with self._ledger.visit():
                yield

    def apply(self, plan: Plan) -> None:
        """Add and change jobs as planned; inside `planning`."""
        if plan.fresh:
            before = {job.key: self._ledger.jobs.get(job.key) for job in plan.fresh}
            self._ledger.plan(plan.fresh)
            if self._stages is not None:
                for job in plan.fresh:
                    self._stages.context.journal.index.update(before[job.key], job)
        self.record(plan.changes)

    def record(self, events: Iterable[Event]) -> None:
        """Record events that the user caused; inside `planning`."""
        if self._stages is not None:
            self._stages.context.journal.record(events)
        else:
            self._ledger.record(events)

    def reopen(self, events: Iterable[Event]) -> None:
        """Record *events* that open jobs again, and forget the results of these jobs; inside `planning`."""
        opened = list(events)
        self.record(opened)
        for event in opened:
            self.results.pop(event.key, None)
        if self.is_driving:
            self.resume()

    def drop(self, jobs: Iterable[JobRecord]) -> None:
        """Remove jobs that were never launched; inside `planning`."""
        chosen = list(jobs)
        self._ledger.drop(job.key for job in chosen)
        if self._stages is not None:
            for job in chosen:
                self._stages.context.journal.index.forget(job)
