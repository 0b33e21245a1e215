"""Ledgers for tests: their jobs and events, and the SQLite connections that they open."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from unittest import mock

import attrs
from fakes import EPOCH

from canfar_batch import failures
from canfar_batch.lifecycle import (
    Collected,
    Ended,
    Intended,
    Launched,
    NotCollected,
    PhaseChanged,
    Respecified,
    Retrying,
)
from canfar_batch.protocols import Clock
from canfar_batch.records import JobRecord, Phase, Receipt, Resources
from canfar_batch.spec import JobSpec
from canfar_batch.store import database
from canfar_batch.store.home import Home
from canfar_batch.store.ledger import Identity, Ledger

SPEC = JobSpec(
    ["fit", "a b", "{n}"], image="skaha/astroml", env={"A": "é\n", "B": "="}, cores=2, ram=8, outputs=["o/{n}"],
    workdir="/arc/x", timeout=10.0, pending_timeout=5.0, name="n-{n}",
)  # fmt: skip
IDENTITY = Identity(name="test", platform="local", user="me", token="0123456789abcdef")


@contextlib.contextmanager
def connections() -> Iterator[list[sqlite3.Connection]]:
    """Collect the connections that are opened inside, the newest last."""
    opened: list[sqlite3.Connection] = []
    connect = database.connect

    def noted(path: Path, *, writable: bool) -> sqlite3.Connection:
        opened.append(connect(path, writable=writable))
        return opened[-1]

    with mock.patch.object(database, "connect", noted):
        yield opened


@contextlib.contextmanager
def statements(db: sqlite3.Connection) -> Iterator[list[str]]:
    """Collect the SQL statements that the connection executes inside."""
    executed: list[str] = []
    db.set_trace_callback(executed.append)
    try:
        yield executed
    finally:
        db.set_trace_callback(None)


def hurry(db: sqlite3.Connection) -> None:
    """Let the connection not wait for the disk: no test cuts the power."""
    db.execute("PRAGMA synchronous = OFF")


def record(n: int) -> JobRecord:
    """Return the record of the job j*n*."""
    fields = {"n": n, "odd": [1.5, None, {"é": "\udc80"}]}
    return JobRecord(key=f"j{n}", index=n, spec=SPEC, filled=SPEC.fill({"n": n}), fields=fields)


def reopened(home: Home, clock: Clock) -> Ledger:
    """Open the ledger to read it."""
    return Ledger.open(home, clock=clock, writable=False)


def live(book: Ledger, home: Home) -> None:
    """Record events of every kind of value."""
    at = EPOCH + timedelta(seconds=0.123456)
    receipt = Receipt(
        exit_code=3, started_at=at, finished_at=at + timedelta(seconds=9), cpu_seconds=1.5, peak_ram=0.7, ram_limit=8.0,
        oom_kills=2, timed_out=True, stopped_by="TERM", host="node", outputs={"o/1": 7, "d": None}, missing=("o/2",),
        trouble="no-sleep",
    )  # fmt: skip
    missing = failures.MissingOutput(message="é", missing=("o/2",), inferred=True)
    book.record([
        Intended(key="j0", at=at, launch_name="t-j0-1", resources=Resources(cores=2, ram=8, gpus=1)),
        Launched(key="j0", at=at, id="abcd1234"),
        PhaseChanged(key="j0", at=at, phase=Phase.RUNNING, started_at=at),
        Ended(key="j0", at=at, succeeded=False, verified=True, failure=missing, receipt=receipt,
              log=home.log("j0", 1)),
        Retrying(key="j0", at=at, due=at + timedelta(hours=1), resources=Resources(ram=16)),
        Intended(key="j1", at=at, launch_name="t-j1-1", resources=Resources()),
        Launched(key="j1", at=at, id="abcd1235"),
        Ended(key="j1", at=at, succeeded=True, receipt=receipt),
        Collected(key="j1", at=at, result={"path": Path("a/b"), "n": [1, 2.5, None, "é"]}),
        Respecified(key="j2", at=at, spec=attrs.evolve(SPEC, ram=16), resources=Resources(ram=16), name="other"),
    ])  # fmt: skip
    book.record([NotCollected(key="j1", at=at, why="gone")])
