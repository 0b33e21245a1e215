"""The ledger's tables: their documentation, earlier versions of them, and values that they can store."""

import contextlib
import math
import re
import sqlite3
from collections import namedtuple
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fakes import EPOCH, FakeClock

from canfar_batch import errors
from canfar_batch.failures import ExitCode
from canfar_batch.records import JobState, Resources
from canfar_batch.store import database, schema
from canfar_batch.store.home import Home
from canfar_batch.store.lease import Holder
from canfar_batch.store.ledger import Identity, Ledger
from canfar_batch.store.schema import result_from, result_text, storable

HOME = Home(Path("/batches/test"))
IDENTITY = Identity(name="test", platform="local", user="me", token="0123456789abcdef")
DOCUMENTED = Path(__file__).parents[3] / "docs" / "reference" / "ledger.md"


@pytest.fixture
def made(connected, home):
    book = Ledger.create(home, IDENTITY, clock=FakeClock())
    yield book
    book.close()


def opened(home, writable):
    return Ledger.open(home, clock=FakeClock(), writable=writable)


# -- documentation ------------------------------------------------------------------------------------------------


def test_the_documented_tables_are_the_real_ones(made, home):
    """docs/reference/ledger.md names every table and every column, and no others."""
    text = DOCUMENTED.read_text()
    documented, table = {}, None
    for line in text.splitlines():
        if line.startswith("## `"):
            table = documented.setdefault(line.split("`")[1], [])
        elif line.startswith("| `") and table is not None:
            table.append(line.split("`")[1])
    assert documented == columns(home)
    assert f"version {schema.VERSION}" in text


def test_every_row_of_the_table_meta_is_documented(made, db):
    """docs/reference/ledger.md names every row, and no others."""
    documented = DOCUMENTED.read_text().partition("one row for each of")[2].partition("\n\n")[0]
    assert set(re.findall("`([a-z]+)`", documented)) == {row[0] for row in db.execute("SELECT name FROM meta")}


def columns(home):
    with contextlib.closing(sqlite3.connect(home.ledger)) as db:
        names = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: [row[1] for row in db.execute(f"PRAGMA table_info({name})")] for name in names}


# -- earlier and later versions -----------------------------------------------------------------------------------


@pytest.fixture
def earlier(home):
    """The home of a ledger with the tables of version 1."""
    home.prepare()
    with sqlite3.connect(home.ledger) as db:
        db.executescript(Path(__file__).with_name("ledger-version-1.sql").read_text())
    db.close()
    return home


def test_a_ledger_of_version_1_is_migrated_with_its_jobs_and_events(earlier, made_columns):
    book = opened(earlier, writable=True)
    jobs = book.jobs
    assert [(key, job.state) for key, job in jobs.items()] == [
        ("j0", JobState.SUCCEEDED), ("j1", JobState.WAITING), ("j2", JobState.SUCCEEDED), ("j3", JobState.PLANNED),
    ]  # fmt: skip
    assert jobs["j0"].result == earlier.log("j0", 1)
    assert jobs["j0"].last_attempt.receipt.finished_at == EPOCH + timedelta(seconds=25)
    assert (jobs["j1"].attempts_before_reopen, jobs["j1"].failure) == (1, ExitCode(3))
    assert jobs["j3"].spec.env == {"BAND": "r"}
    assert {job.resources for job in jobs.values()} == {Resources(ram=4)}
    kinds = {key: [line.kind for line in book.history(key)] for key in jobs}
    assert kinds == {
        "j0": ["Intended", "Launched", "PhaseChanged", "Ended", "Collected"],
        "j1": ["Intended", "Launched", "PhaseChanged", "Ended", "RetryExhausted", "Reopened"],
        "j2": ["Intended", "Launched", "PhaseChanged", "Ended", "RetryExhausted", "LateSuccess", "Collected"],
        "j3": [],
    }
    assert book.last_contact.replace(microsecond=0) == EPOCH + timedelta(seconds=215)
    assert book.workdir == earlier.path.parent.parent
    assert (book.identity.user, book.created) == ("fake", EPOCH)
    assert columns(earlier) == made_columns
    book.close()
    again = opened(earlier, writable=False)
    assert again.jobs == jobs
    again.close()


@pytest.fixture
def made_columns(tmp_path):
    home = Home(tmp_path / "new")
    Ledger.create(home, IDENTITY, clock=FakeClock()).close()
    return columns(home)


def test_a_reader_does_not_migrate_and_says_how_to(earlier):
    before = earlier.ledger.read_bytes()
    with pytest.raises(errors.LedgerError, match=r"earlier version; open it once with Session\.batch\(\)"):
        opened(earlier, writable=False)
    assert earlier.ledger.read_bytes() == before


def test_a_migration_that_fails_leaves_the_earlier_version(earlier, monkeypatch):
    script = f"{schema.MIGRATIONS[2]} INSERT INTO nowhere VALUES (1);"
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", {**schema.MIGRATIONS, 2: script})
        with pytest.raises(errors.HomeError):
            opened(earlier, writable=True)
    book = opened(earlier, writable=True)
    assert len(book.jobs) == 4
    book.close()


def test_a_ledger_is_not_migrated_while_an_earlier_version_drives_it(earlier):
    me = Holder.me()
    with sqlite3.connect(earlier.ledger) as db:
        db.execute(
            "UPDATE lease SET holder = ?, host = ?, boot = ?, pid = ?, born = ?",
            (me.id, me.host, me.boot, me.pid, me.born),
        )
        db.execute("UPDATE lease SET until_ticks = 1e12, until = 1e12")
    db.close()
    with pytest.raises(errors.BatchBusy):
        opened(earlier, writable=True)
    with sqlite3.connect(earlier.ledger) as db:
        assert db.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone() == ("1",)
    db.close()


def test_a_migration_that_another_process_finished_is_not_repeated(earlier, monkeypatch):
    transaction = database.transaction

    def after_the_other(db, path):
        monkeypatch.undo()
        opened(earlier, writable=True).close()  # between our look at the version and our transaction
        return transaction(db, path)

    monkeypatch.setattr(database, "transaction", after_the_other)
    book = opened(earlier, writable=True)
    assert database.transaction is transaction
    assert len(book.jobs) == 4
    book.close()


def test_a_ledger_of_a_later_version_is_refused(home, made, db):
    db.execute("UPDATE meta SET value = '99' WHERE name = 'schema'")
    with pytest.raises(errors.LedgerError, match=r"later version of canfar_batch .*install the version that wrote it"):
        opened(home, writable=False)


# -- results ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        *(None, 1, 1.5, "é", [1, {"a": None}], {"p": Path("x")}, [Path("a")], "x" * 60_000, float("inf"), 10**30),
        *((1, ("a", Path("b"))), [()], {"when": datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone.utc)}),
        *(date(2026, 1, 2), Decimal("0.10"), {}, {"": 1}, "\udc80"),
    ],
)
def test_results_are_read_as_they_were_stored(value):
    assert storable(value) is True
    read = result_from(result_text(value, HOME), HOME)
    assert (read, type(read)) == (value, type(value))


def test_a_result_that_is_not_a_number_is_stored():
    for nan in (float("nan"), np.float32("nan")):
        assert storable({"flux": nan}) is True
        assert math.isnan(result_from(result_text({"flux": nan}, HOME), HOME)["flux"])


@pytest.mark.parametrize(
    "value",
    [np.int64(4472832130942575104), np.float32(0.5), np.float64(2.5), np.bool_(True), np.str_("a"), [np.bool_(True)],
     {"n": np.array(7)}, (np.uint64(2**64 - 1),)],
)  # fmt: skip
def test_numbers_of_numpy_are_stored_as_those_of_python(value):
    assert storable(value) is True  # a bool of NumPy would not fit into the ledger
    assert result_from(result_text(value, HOME), HOME) == value


@pytest.mark.parametrize(
    "value",
    [
        *({1: 2}, {None: 1}, b"x", {1}, "x" * 70_000, object(), np.zeros(3), 1j, Fraction(1, 3), np.ma.masked),
        *({"$path": "x"}, {"$tuple": [1]}, namedtuple("Pair", "a b")(1, 2), np.datetime64("2026-01-02", "ns")),
        *(np.longdouble("0.1"), pd.NaT, pd.NA, pd.Timestamp("2026-01-02 03:04:05.123456789")),
    ],
)
def test_results_that_json_would_change_are_not_storable(value):
    assert storable(value) is False


def test_a_value_whose_comparison_fails_is_not_stored():
    class Strange:
        def __eq__(self, other):
            raise AttributeError("no such thing")

    assert not storable((1, Strange()))
