"""A batch over a platform in memory, for tests of the engine."""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
import ledgers
from fakes import FakeClock, FakePlatform, Fate, InlinePool

from canfar_batch.batch import Batch, prepare
from canfar_batch.batch.planned import opened
from canfar_batch.engine import Engine
from canfar_batch.errors import LaunchInDoubt
from canfar_batch.records import JobState, LaunchRequest
from canfar_batch.setup import Setup, Strategies
from canfar_batch.spec import JobSpec
from canfar_batch.store.home import Home
from canfar_batch.store.ledger import Ledger
from canfar_batch.strategies import Listing, Logs, Retry, Window, as_collector

SPEC = JobSpec("fit {n}", image="skaha/astroml")
SLOW = Fate(lasts=1e6)


@attrs.frozen
class Parts:
    """What a batch is made of, which tests look at and disturb."""

    engine: Engine
    ledger: Ledger
    db: sqlite3.Connection


_parts: weakref.WeakKeyDictionary[Batch, Parts] = weakref.WeakKeyDictionary()


class World:
    """One clock, one platform, and batches in one directory."""

    def __init__(self, root: Path, fate: Callable[[LaunchRequest], Fate] = lambda request: Fate()) -> None:
        self.root = root
        self.clock = FakeClock()
        self.platform = FakePlatform(self.clock, fate)

    def batch(self, name: str = "test", *, same_process: bool = False, **given: Any) -> Batch:
        """Return the batch, as a new script would open it, or (same_process) another cell of one notebook."""
        collect = as_collector(given.pop("collect", Logs()))
        parts = {"launch": Window(16), "monitor": Listing(), "retry": Retry(2), "collect": collect}
        strategies = Strategies(**{role: given.pop(role, part) for role, part in parts.items()})
        platform, settle = given.pop("platform", self.platform), given.pop("settle", 120.0)
        pool = given.pop("pool", lambda: InlinePool(self.clock))
        shared, observers = given.pop("shared", False), given.pop("observers", ())
        more = {name: given.pop(name) for name in ("long_wait", "platform_began", "inputs", "random") if name in given}

        def setup(directory: Path) -> Setup:
            return Setup(
                platform=platform, strategies=strategies, clock=self.clock, settle=settle, shared=shared,
                observers=observers, pool=pool, **more,
            )  # fmt: skip

        built: list[tuple[Engine, Ledger]] = []

        def engine(setup: Setup, ledger: Ledger, archive: Home) -> Engine:
            built.append((Engine(setup, ledger, archive), ledger))
            return built[-1][0]

        with ledgers.connections() as files, mock.patch("canfar_batch.batch.batch.Engine", engine):
            made = prepare(name, setup=setup, address=given.pop("address", "local"), home=self.root)
        _parts[made] = Parts(*built[-1], files[-1])
        ledgers.hurry(files[-1])
        if not same_process:
            opened.discard(made)
        assert not given, given
        return made

    def planned(self, n: int = 1, spec: JobSpec = SPEC, **given: Any) -> Batch:
        """A batch of *n* jobs, with keys j0, j1, …"""
        batch = self.batch(**given)
        batch.map(spec, key="j{n}", n=range(n))
        return batch

    def turn(self, batch: Batch, seconds: float) -> None:
        """Drive *batch* for so long."""
        end = self.clock.seconds + seconds
        while self.clock.seconds < end:
            wait = batch.step()
            engine_of(batch).wait(min(wait or 1.0 * batch.done, end - self.clock.seconds))


def engine_of(batch: Batch) -> Engine:
    """Return the engine that drives *batch*."""
    return _parts[batch].engine


def ledger_of(batch: Batch) -> Ledger:
    """Return the ledger of *batch*."""
    return _parts[batch].ledger


def connection_of(batch: Batch) -> sqlite3.Connection:
    """Return the SQLite connection of *batch*."""
    return _parts[batch].db


def abandon(batch: Batch) -> None:
    """Leave *batch* as if its process had been killed: it gives nothing back, and its holder no longer lives."""
    db = connection_of(batch)
    if ledger_of(batch).driving:
        db.execute("UPDATE lease SET host = (SELECT host FROM lease), pid = 4194303, born = 'x'")
    db.close()


def raising(*errors: Exception | None) -> Callable[[], None]:
    """Raise these, one a call (None: not this time), and nothing more after them."""
    left = list(errors)

    def call() -> None:
        error = left.pop(0) if left else None
        if error is not None:
            raise error

    return call


def always(error: Exception) -> Callable[[], None]:
    """Raise *error* at every call."""

    def call(*_: object) -> None:
        raise error

    return call


def states(batch: Batch) -> list[JobState]:
    """The state of each job, in plan order."""
    return [job.state for job in batch]


def commands(batch: Batch) -> list[str]:
    """The command of each job, its words separated by blanks."""
    return [" ".join(job.filled.argv) for job in batch.records]


def kinds(batch: Batch, key: str = "j0") -> list[str]:
    """The kinds of a job's events, oldest first."""
    return [line.kind for line in batch.history(key)]


def doubt(**more: Any) -> LaunchInDoubt:
    """The error of a launch that got no answer."""
    return LaunchInDoubt("no answer", launch_name="?", **more)
