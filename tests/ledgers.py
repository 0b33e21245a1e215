"""The SQLite connections that ledgers open: to count their statements, and to play processes and disks that fail."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from canfar_batch.store import database


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
