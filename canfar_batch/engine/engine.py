"""Who drives a batch in this process: takes the lease, makes the engine, and gives both back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from canfar_batch.clock import SteadyClock
from canfar_batch.engine.attempts import LaunchContext
from canfar_batch.engine.pool import Pool, ThreadPool
from canfar_batch.engine.runner import Runner
from canfar_batch.errors import AlreadyClosed, HomeError, LeaseLost
from canfar_batch.protocols import (
    BatchView,
    Bundle,
    Clock,
    LaunchStrategy,
    MonitorStrategy,
    Observation,
    Observer,
    Platform,
    ResultCollector,
    RetryPolicy,
)
from canfar_batch.records import ContainerInfo, Limits, Phase
from canfar_batch.store.home import Home
from canfar_batch.store.ledger import Ledger


@attrs.frozen(kw_only=True)
class Strategies:
    """The four parts that a batch is driven by."""

    launch: LaunchStrategy
    monitor: MonitorStrategy
    retry: RetryPolicy
    collect: ResultCollector


@attrs.define(kw_only=True)
class Driver:
    """Drives one batch from this process; holds the lease while it does, and only then."""

    home: Home
    ledger: Ledger
    platform: Platform
    strategies: Strategies
    clock: Clock
    crew: Pool | None = None  #: who talks to the platform; None for threads
    settle: float = 120.0  #: seconds for which a container must be absent to be believed gone
    shared: bool = False  #: True where containers are known to see this machine's files
    observers: Sequence[Observer] = ()

    runner: Runner | None = attrs.field(default=None, init=False)  #: the engine, while the batch is driven here
    results: dict[str, object] = attrs.field(factory=dict, init=False)  #: those that the ledger cannot keep, by key
    _limits: Limits | None = attrs.field(default=None, init=False)  # as the platform told the last run
    _live: Mapping[str, ContainerInfo] = attrs.field(factory=dict, init=False)

    @property
    def limits(self) -> Limits | None:
        """What one job may ask for, as last heard."""
        return self._limits if self.runner is None else self.runner.drive.limits

    @property
    def live(self) -> Mapping[str, ContainerInfo]:
        """What the platform last said of running containers that it measures, by id; empty where nothing runs here."""
        return {} if self.runner is None else self._live

    @property
    def around(self) -> LaunchContext:
        """Where jobs run: in the directory in which the batch was made, unless that is gone."""
        kept, identity = self.ledger.workdir, self.ledger.identity
        return LaunchContext(
            batch=identity.name,
            token=identity.token,
            home=self.home,
            workdir=kept if kept is not None and kept.is_dir() else Path.cwd(),
            shared=self.shared,
        )

    def take(self, *, takeover: bool = False) -> Runner:
        """The engine, with the lease held; made when it is first needed.

        Raises:
            BatchBusy: Another driver may live.
            AlreadyClosed: The session was closed.
        """
        if getattr(self.platform, "closed", False):
            raise AlreadyClosed(
                f"the session that batch {self.ledger.identity.name!r} belongs to was closed; open the batch in a new "
                "one, by session.batch()"
            )
        if not self.ledger.driving:
            self.ledger.acquire(takeover=takeover)
            self.runner = None
        if self.runner is None:
            self.runner = Runner(
                platform=self.platform,
                ledger=self.ledger,
                around=self.around,
                launch=self.strategies.launch,
                monitor=self._look,
                retry=self.strategies.retry,
                collect=self.strategies.collect,
                clock=SteadyClock(self.clock),
                crew=self.crew or ThreadPool(),
                settle=self.settle,
                observers=self.observers,
                results=self.results,
            )
        return self.runner

    def give_back(self) -> None:
        """Stop driving. What threads hear from now on is settled by the next driver."""
        runner, self.runner = self.runner, None
        looked = None
        if runner is not None:
            self._limits, looked = runner.drive.limits or self._limits, runner.drive.looked
            runner.drive.crew.close()
        if self.ledger.driving:
            with contextlib.suppress(HomeError, LeaseLost):  # what ended the run is told, not what came of that
                self.ledger.release(looked)

    @contextlib.contextmanager
    def for_now(self) -> Iterator[Runner]:
        """The engine for what is done inside; given back at the end, unless the batch was driven before."""
        driving = self.ledger.driving
        runner = self.take()
        try:
            yield runner
        finally:
            if not driving:
                self.give_back()

    @contextlib.contextmanager
    def planning(self) -> Iterator[Runner | None]:
        """The right to change the plan, for a moment, and the engine if it runs."""
        if self.ledger.driving:
            yield self.runner
        else:
            with self.ledger.visit():
                yield None

    @contextlib.contextmanager
    def alone(self, key: str) -> Iterator[Runner]:
        """The engine for now, which launches this job and no other."""
        with self.for_now() as runner:
            usual, runner.launching.strategy = runner.launching.strategy, _only(key)
            try:
                yield runner
            finally:
                runner.launching.strategy = usual

    def _look(self, platform: Platform, view: BatchView) -> Observation:
        """One look, as the monitor strategy does it; what it tells of the use of resources is kept for display."""
        observation = self.strategies.monitor(platform, view)
        seen = filter(None, (observation.containers.get(job.id) for job in view.active() if job.id is not None))
        self._live = {info.id: info for info in seen if info.phase is Phase.RUNNING and info.ram_in_use is not None}
        return observation


def _only(key: str) -> LaunchStrategy:
    def pick(view: BatchView) -> list[Bundle]:
        return [Bundle(job) for job in view.ready() if job.key == key]

    return pick
