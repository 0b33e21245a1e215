"""Connections to a ledger's SQLite file: how they are opened, how long they wait, and what their errors mean."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from canfar_batch.errors import AlreadyClosed, HomeError, LedgerError

LOCK_TIMEOUT = 300.0  #: seconds to wait for a file that another process has locked (a backup, a reader that stays)
_SLICE = 1.0  # seconds that SQLite waits by itself; only between two of these does Python notice a Ctrl-C


def connect(path: Path, *, writable: bool) -> sqlite3.Connection:
    """Open the file at *path*, whose rows then have their columns by name."""
    if writable:
        db = _open(path, "rw")
        # Rollback journal: WAL needs memory shared by all readers, which network disks lack. The journal is kept and
        # its header cleared and synced, so that a power cut cannot bring back a journal that was deleted.
        db.execute("PRAGMA journal_mode = PERSIST")
        db.execute("PRAGMA journal_size_limit = 1048576")
        db.execute("PRAGMA synchronous = FULL")
        return db
    db = _open(path, "ro")
    try:
        patiently(db, "SELECT 1 FROM sqlite_master")
    except sqlite3.OperationalError as error:
        db.close()
        if "locked" in str(error):
            raise
        # A driver was killed in the middle of a transaction. A reader may not roll it back, so a writer does it.
        with contextlib.closing(connect(path, writable=True)) as writer:
            patiently(writer, "SELECT 1 FROM sqlite_master")
        db = _open(path, "ro")
    return db


def _open(path: Path, mode: str) -> sqlite3.Connection:
    # any thread may use the connection: `engine.turns` lets one do so at a time
    db = sqlite3.connect(
        f"{path.as_uri()}?mode={mode}", uri=True, timeout=_SLICE, isolation_level=None, check_same_thread=False
    )
    db.row_factory = sqlite3.Row
    return db


def patiently(db: sqlite3.Connection, statement: str) -> None:
    """Execute *statement*, which takes a lock or gives it up; wait `LOCK_TIMEOUT` for others that have the file."""
    for slices_left in reversed(range(int(LOCK_TIMEOUT / _SLICE))):
        try:
            db.execute(statement).fetchone()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or not slices_left:
                raise
        else:
            return


@contextlib.contextmanager
def reading(db: sqlite3.Connection, path: Path) -> Iterator[None]:
    """Run the block in a read transaction, so that everything read in it belongs to one moment.

    Inside another transaction the block is part of that one.

    Raises:
        HomeError: The file cannot be read.
        LedgerError: The file is damaged.
    """
    with errors(path):
        if db.in_transaction:
            yield
            return
        try:
            db.execute("BEGIN")
            patiently(db, "SELECT 1 FROM sqlite_master")  # takes the lock
            yield
        finally:
            db.commit()  # ends the transaction if it began


@contextlib.contextmanager
def transaction(db: sqlite3.Connection, path: Path) -> Iterator[None]:
    """Run the block in a write transaction: everything written in it is on the disk after the block, or nothing.

    Raises:
        HomeError: The file cannot be written; nothing has changed.
        LedgerError: The file is damaged; nothing has changed.
    """
    with errors(path):
        try:
            patiently(db, "BEGIN IMMEDIATE")  # inside the try: a Ctrl-C may arrive as soon as the transaction has begun
            yield
            commit(db)
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise


def commit(db: sqlite3.Connection) -> None:
    """End a write transaction; its changes are on the disk afterwards."""
    patiently(db, "COMMIT")


# -- errors -------------------------------------------------------------------------------------------------------

_KEPT = "Nothing that was recorded is lost"
#: what SQLite's message contains, and what to do about it
_REMEDIES = (
    ("full", "make room on the disk, or in your quota, and run the script again"),
    ("readonly", "it is write-protected: fix the permissions of the file and its directory, and run the script again"),
    ("unable to open", "fix the permissions of the file and its directory, and run the script again"),
    ("disk I/O", "the disk failed, is full, or is not mounted any more: check it, and run the script again"),
    ("", "make room or fix the permissions, and run the script again"),
)


@contextlib.contextmanager
def errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors about the ledger at *path* into ours."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        reason = str(error)
        if isinstance(error, sqlite3.ProgrammingError) and "closed" in reason:
            raise AlreadyClosed(f"the batch in {path.parent} was closed; open it again to go on") from error
        if "locked" in reason:
            raise HomeError(
                f"{path} is locked by another process, which is in the middle of reading or writing it. {_KEPT}: let "
                "that process go on, or end it, and run the script again"
            ) from error
        if isinstance(error, sqlite3.OperationalError):
            remedy = next(advice for words, advice in _REMEDIES if words in reason)
            raise HomeError(f"{path} cannot be used: {reason}. {_KEPT}: {remedy}") from error
        raise damaged(path, reason) from error


def damaged(path: Path, reason: str) -> LedgerError:
    """Return the error for a ledger that is unreadable, or whose contents contradict each other."""
    return LedgerError(
        f"{path} is damaged, is not a ledger, or was written by another program ({reason}); put an earlier copy of it "
        "in its place, or give the batch another name"
    )
