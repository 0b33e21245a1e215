"""The ledger's file: disks that fail, files that are locked, damaged or half written."""

import contextlib
import multiprocessing
import os
import resource
import signal
import sqlite3
import stat

import pytest
from ledgers import live, record, reopened

from canfar_batch import errors
from canfar_batch.batch import Batch
from canfar_batch.lifecycle import (
    Intended,
)
from canfar_batch.records import Resources
from canfar_batch.store import database
from canfar_batch.store.ledger import Ledger


def interrupt(*_):
    raise KeyboardInterrupt


def other_driver(home, clock):
    return Ledger.open(home, clock=clock, writable=True)


# -- failing disks, damaged files -------------------------------------------------------------------------------


def test_a_full_disk_stops_the_writer_and_loses_nothing(made, db, home, clock):
    live(made, home)
    before = dict(made.jobs)
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(errors.HomeError, match="Nothing that was recorded is lost"):
        made.plan([record(n) for n in range(10, 2000)])
    assert made.jobs == before
    db.execute("PRAGMA max_page_count = 1000000")
    made.plan([record(10)])
    assert list(reopened(home, clock).jobs) == ["j0", "j1", "j2", "j10"]


def test_a_file_that_stays_locked_is_reported(made, db, home):
    db.execute("PRAGMA busy_timeout = 1")
    writer = sqlite3.connect(home.ledger, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    with pytest.raises(errors.HomeError, match="lock"):
        made.plan([record(4)])
    writer.execute("ROLLBACK")
    writer.close()
    made.plan([record(4)])


def test_a_missing_batch_cannot_be_opened(home, clock):
    with pytest.raises(errors.UnknownBatch):
        reopened(home, clock)


def test_the_home_is_private_to_its_owner(made, home):
    for place in (home.path, home.logs, home.receipts):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert stat.S_IMODE(home.ledger.stat().st_mode) == 0o600


def test_a_failed_commit_changes_nothing(made, db, home, clock):
    """A reader that stays keeps the writer from its commit."""
    db.execute("PRAGMA busy_timeout = 1")
    reader = sqlite3.connect(home.ledger, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM job").fetchall()
    with pytest.raises(errors.HomeError, match="in the middle of reading or writing"):
        made.plan([record(4)])
    reader.close()
    assert list(made.jobs) == ["j0", "j1", "j2"]
    made.plan([record(4)])
    assert list(reopened(home, clock).jobs) == ["j0", "j1", "j2", "j4"]


def test_a_commit_waits_for_a_reader_that_ends(made, db, home, monkeypatch):
    db.execute("PRAGMA busy_timeout = 1")
    reader = sqlite3.connect(home.ledger, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM job").fetchall()
    tries, commit = [], db

    class Counted:
        def execute(self, statement):
            tries.append(statement)
            if len(tries) == 3:
                reader.execute("COMMIT")
            return commit.execute(statement)

    commit.execute("BEGIN IMMEDIATE")
    commit.execute("UPDATE job SET state = 'running' WHERE place = 0")
    database.commit(Counted())
    assert tries == ["COMMIT"] * 3
    reader.close()


def test_an_interrupt_ends_the_wait_for_a_locked_file(made, home, clock):
    writer = sqlite3.connect(home.ledger, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    usual = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            made.plan([record(4)])
    finally:
        signal.signal(signal.SIGALRM, usual)
        writer.close()
    assert list(made.jobs) == ["j0", "j1", "j2"]
    made.plan([record(4)])


@contextlib.contextmanager
def files_at_most(size):
    """Let no file of this process grow beyond *size* bytes, as on a disk without room."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


@pytest.mark.parametrize("room", [0, 4096, 20_000])
def test_a_write_that_the_disk_refuses_is_reported_and_loses_nothing(made, home, clock, room):
    live(made, home)
    before = dict(made.jobs)
    with files_at_most(room), pytest.raises(errors.HomeError, match="Nothing that was recorded is lost") as caught:
        made.plan([record(n) for n in range(10, 2000)])
    assert "run the script again" in str(caught.value)
    assert made.jobs == before
    assert reopened(home, clock).jobs == before
    made.plan([record(10)])
    assert list(reopened(home, clock).jobs) == ["j0", "j1", "j2", "j10"]


def _die_in_a_transaction(path):
    db = database.connect(path, writable=True)
    db.execute("PRAGMA cache_size = 1")  # so that changes reach the file before the commit
    db.execute("BEGIN IMMEDIATE")
    db.execute("UPDATE job SET state = 'failed', fields = fields || '          '")
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("writable", [True, False])
def test_what_a_killed_driver_left_half_written_is_undone(made, home, clock, writable):
    made.plan([record(n) for n in range(3, 300)])
    before, raw = dict(made.jobs), home.ledger.read_bytes()
    made.close()
    child = multiprocessing.get_context("fork").Process(target=_die_in_a_transaction, args=(home.ledger,))
    child.start()
    child.join()
    assert home.ledger.read_bytes() != raw
    book = Ledger.open(home, clock=clock, writable=writable)
    assert book.jobs == before
    book.close()


def test_every_commit_is_on_the_disk(made, db):
    synchronous, journal = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "journal_mode"))
    assert (synchronous, journal) == (2, "persist"), "full, and with a journal whose end is synced as well"


def test_a_write_protected_ledger_is_reported_with_the_remedy(made, db, home, clock):
    db.execute("PRAGMA query_only = ON")  # the error of a read-only disk
    with pytest.raises(errors.HomeError, match="write-protected: fix the permissions"):
        made.plan([record(4)])
    db.execute("PRAGMA query_only = OFF")
    assert list(made.jobs) == ["j0", "j1", "j2"]
    made.plan([record(4)])


def test_a_ledger_on_a_read_only_disk_can_be_read(made, home, clock):
    live(made, home)
    before = dict(made.jobs)
    made.close()
    home.ledger.chmod(0o400)
    home.path.chmod(0o500)
    reader = reopened(home, clock)
    assert reader.jobs == before
    with pytest.raises(errors.HomeError, match="write-protected"):
        reader.acquire()
    reader.close()
    home.path.chmod(0o700)


def test_a_file_that_is_not_a_ledger_is_reported_as_damaged(made, db, home, clock):
    db.close()
    home.ledger.write_bytes(b"this is not a ledger" * 1000)
    with pytest.raises(errors.LedgerError, match=r"damaged.*put an earlier copy of it in its place"):
        reopened(home, clock)


@pytest.mark.parametrize("cut", [100, 4096, 10_000])
def test_a_ledger_cut_short_is_reported_as_damaged(made, db, home, clock, cut):
    live(made, home)
    db.close()
    home.ledger.write_bytes(home.ledger.read_bytes()[:cut])
    with pytest.raises((errors.LedgerError, errors.HomeError)) as caught:
        reopened(home, clock)
    assert str(home.ledger) in str(caught.value)


def test_a_ledger_with_any_page_damaged_is_reported_or_read_whole(made, home, clock):
    """Overwrite one page at a time; pages that only writers use may go unnoticed by a reader."""
    live(made, home)
    before, jobs = home.ledger.read_bytes(), dict(made.jobs)
    made.close()
    noticed = 0
    for page in range(len(before) // 4096):
        torn = before[: page * 4096] + b"\xa5" * 4096 + before[(page + 1) * 4096 :]
        home.ledger.write_bytes(torn)
        try:
            reader = reopened(home, clock)
        except errors.LedgerError:
            noticed += 1
        else:
            assert reader.jobs == jobs
            reader.close()
    assert noticed >= 5


def test_a_writer_that_meets_a_damaged_page_changes_nothing_in_memory(made, home, clock):
    at = clock.now()
    made.plan([record(n) for n in range(3, 300)])
    made.close()
    raw = bytearray(home.ledger.read_bytes())
    root = sqlite3.connect(home.ledger).execute("SELECT rootpage FROM sqlite_master WHERE name = 'event'").fetchone()[0]
    raw[(root - 1) * 4096 : root * 4096] = b"\xa5" * 4096
    home.ledger.write_bytes(raw)
    book = other_driver(home, clock)
    book.acquire()
    before = dict(book.jobs)
    with pytest.raises(errors.LedgerError, match="damaged"):
        book.record([Intended(key="j0", at=at, launch_name="t", resources=Resources())])
    assert book.jobs == before
    book.close()


@pytest.mark.parametrize(
    "mischief",
    [
        "UPDATE job SET filled = '{'",
        "UPDATE job SET state = 'bogus'",
        "UPDATE job SET spec = 99",
        "UPDATE spec SET body = '{}'",
        "UPDATE spec SET body = '[]'",
        "UPDATE attempt SET intended_at = 'never'",
        "UPDATE attempt SET ended_at = 1e300",
        "UPDATE attempt SET failure = '[]'",
        "DELETE FROM meta WHERE name = 'schema'",
    ],
)
def test_a_ledger_with_nonsense_in_it_is_reported_as_damaged(world, mischief):
    batch = world.planned(1)
    batch.run(progress=False)
    batch.close()
    with sqlite3.connect(batch.home / "ledger.db") as db:
        db.execute(mischief)
    with pytest.raises(errors.LedgerError, match="is damaged"):
        Batch.open("test", world.root)
