"""The ledger: what it keeps, whom it lets in, and what it does when the disk does not."""

import multiprocessing
import sqlite3
import stat
from datetime import timedelta
from pathlib import Path

import attrs
import pytest
from fakes import EPOCH, FakeClock

from canfar_batch import errors, failures
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
from canfar_batch.records import JobRecord, JobState, Phase, Receipt, Resources
from canfar_batch.spec import JobSpec
from canfar_batch.store import ledger
from canfar_batch.store.home import Home
from canfar_batch.store.ledger import Identity, Ledger
from canfar_batch.store.schema import storable

SPEC = JobSpec(
    ["fit", "a b", "{n}"], image="skaha/astroml", env={"A": "é\n", "B": "="}, cores=2, ram=8, outputs=["o/{n}"],
    workdir="/arc/x", timeout=10.0, pending_timeout=5.0, name="n-{n}",
)  # fmt: skip
IDENTITY = Identity(name="test", platform="local", user="me", token="0123456789abcdef")


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "batches" / "test")


@pytest.fixture
def made(home, clock):
    book = Ledger.create(home, IDENTITY, clock=clock)
    book.acquire()
    book.plan([record(n) for n in range(3)])
    yield book
    book._db.close()


def record(n):
    fields = {"n": n, "odd": [1.5, None, {"é": "\udc80"}]}
    return JobRecord(key=f"j{n}", index=n, spec=SPEC, filled=SPEC.fill({"n": n}), fields=fields)


def reopened(home, clock):
    return Ledger.open(home, clock=clock, writable=False)


def live(book, home):
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


# -- what it keeps ------------------------------------------------------------------------------------------------


def test_every_field_of_every_record_is_read_back_as_it_was(made, home, clock):
    live(made, home)
    again = reopened(home, clock)
    assert list(again.jobs) == list(made.jobs)
    for key, job in made.jobs.items():
        for field in attrs.fields(JobRecord):
            assert getattr(again.jobs[key], field.name) == getattr(job, field.name), field.name
    assert (again.identity, again.created) == (IDENTITY, clock.now())
    again.close()


def test_history_tells_every_event_in_order_with_its_attempt(made, home, clock):
    live(made, home)
    lines = list(made.history("j0"))
    assert [(line.kind, line.attempt) for line in lines] == [
        ("Intended", 1), ("Launched", 1), ("PhaseChanged", 1), ("Ended", 1), ("Retrying", 1),
    ]  # fmt: skip
    assert lines[3].body["failure"]["kind"] == "MissingOutput"
    assert len(list(made.history())) == 11


def test_a_transaction_is_all_or_nothing(made, home, clock):
    before = dict(made.jobs)
    at = clock.now()
    good = Intended(key="j0", at=at, launch_name="t", resources=Resources())
    with pytest.raises(errors.TransitionError):
        made.record([good, Launched(key="j1", at=at, id="abcd1234")])
    made._db.execute("CREATE TEMP TRIGGER t BEFORE INSERT ON attempt BEGIN SELECT raise(ABORT, 'no'); END")
    with pytest.raises(errors.LedgerError):
        made.record([good])
    assert made.jobs == before
    assert dict(reopened(home, clock).jobs) == before
    assert list(made.history()) == []


def test_a_job_of_the_same_name_but_for_its_case_is_no_second_job(made):
    twin = attrs.evolve(record(7), key="J0")
    with pytest.raises(errors.LedgerError):
        made.plan([twin])
    assert "J0" not in made.jobs


def test_dropped_jobs_are_gone_and_the_others_keep_their_place(made, home, clock):
    made.drop(["j1"])
    assert list(reopened(home, clock).jobs) == ["j0", "j2"]


@pytest.mark.parametrize("value", [None, 1, 1.5, "é", [1, {"a": None}], {"p": Path("x")}, [Path("a")], "x" * 60_000])
def test_what_json_can_hold_is_stored(value):
    assert storable(value)


def test_numbers_of_numpy_are_stored_as_plain_ones():
    numpy = pytest.importorskip("numpy")
    assert storable({"n": numpy.int64(4472832130942575104), "flux": numpy.float32(1.5), "ok": numpy.bool_(True)})
    assert not storable(numpy.zeros(3))


@pytest.mark.parametrize("value", [(1,), {1: 2}, float("nan"), b"x", {1}, "x" * 70_000, object()])
def test_what_would_come_back_as_something_else_is_not_stored(value):
    assert not storable(value)


# -- many readers, one writer -------------------------------------------------------------------------------------


def _read(place, answers):
    book = Ledger.open(Home(place), clock=FakeClock(), writable=False)
    answers.put([job.state.value for job in book.jobs.values()])
    book.close()


def test_another_process_reads_what_was_last_committed_while_one_writes(made, home, clock):
    spawned = multiprocessing.get_context("fork")
    answers = spawned.Queue()
    with made._writing():
        made._db.execute("UPDATE job SET state = 'running'")
        child = spawned.Process(target=_read, args=(home.path, answers))
        child.start()
        assert answers.get(timeout=30) == ["planned"] * 3
        child.join()
    made._db.execute("UPDATE job SET state = 'planned'")


def test_a_reader_may_not_write(made, home, clock):
    reader = reopened(home, clock)
    with pytest.raises(errors.BatchBusy, match="reading only"):
        reader.record([Intended(key="j0", at=clock.now(), launch_name="t", resources=Resources())])
    with pytest.raises(errors.HomeError):
        reader.acquire(takeover=True)
    reader.close()


def test_requests_are_left_by_anybody_and_forgotten_once_answered(made, home, clock):
    other = reopened(home, clock)
    other.ask("cancel", ["j1"])
    other.ask("cancel", None)
    asked = made.requests()
    assert [(kind, keys) for _, kind, keys in asked] == [("cancel", ["j1"]), ("cancel", None)]
    made.answered(number for number, _, _ in asked)
    assert made.requests() == []


# -- one driver ---------------------------------------------------------------------------------------------------


def other_driver(home, clock):
    return Ledger.open(home, clock=clock, writable=True)


def test_a_second_driver_is_refused_and_told_who_drives_and_for_how_long(made, home, clock):
    clock.sleep(100)
    with pytest.raises(errors.BatchBusy, match=r"run by process \d+ on .* another 500 s"):
        other_driver(home, clock).acquire()


def test_a_holder_that_lives_no_more_is_replaced_at_once(made, home, clock):
    made._db.execute("UPDATE lease SET pid = 4194303, born = 'x'")
    other = other_driver(home, clock)
    other.acquire()
    assert other.driving


def test_a_holder_on_another_host_is_waited_for_until_its_lease_is_over(made, home, clock):
    made._db.execute("UPDATE lease SET host = 'elsewhere', boot = 'x', pid = 4194303")
    other = other_driver(home, clock)
    clock.sleep(599)
    with pytest.raises(errors.BatchBusy):
        other.acquire()
    clock.sleep(2)
    other.acquire()


def test_takeover_is_for_those_who_know_better_and_the_old_driver_stops(made, home, clock):
    other = other_driver(home, clock)
    assert made.still_mine(made.generation)
    other.acquire(takeover=True)
    assert not made.still_mine(made.generation)
    with pytest.raises(errors.LeaseLost):
        made.record([Intended(key="j0", at=clock.now(), launch_name="t", resources=Resources())])
    assert not made.driving
    assert other.jobs["j0"].state is JobState.PLANNED


def test_a_lease_that_ran_out_sends_nothing_and_may_be_renewed_if_nobody_took_it(made, clock):
    clock.sleep(601)
    assert not made.still_mine(made.generation)
    made.renew()
    assert made.still_mine(made.generation)


def test_renewing_is_no_write_before_a_tenth_of_the_term_is_used(made, clock):
    clock.sleep(30)
    made.renew(clock.now())
    assert made.looked is None
    clock.sleep(40)
    made.renew(clock.now())
    assert made.looked == clock.now()


def test_what_a_later_driver_wrote_is_read_when_the_lease_comes_back(made, home, clock):
    made.release()
    other = other_driver(home, clock)
    other.acquire()
    other.plan([record(5)])
    other.release()
    made.acquire()
    assert list(made.jobs) == ["j0", "j1", "j2", "j5"]


def test_an_interrupted_write_is_read_anew(made, monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Ledger, "_commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made.plan([record(6)])
    monkeypatch.undo()
    made.release()
    made.jobs["ghost"] = record(9)
    made.acquire()
    assert list(made.jobs) == ["j0", "j1", "j2"]


# -- bad days -----------------------------------------------------------------------------------------------------


def test_a_full_disk_stops_the_writer_and_loses_nothing(made, home, clock):
    live(made, home)
    before = dict(made.jobs)
    pages = made._db.execute("PRAGMA page_count").fetchone()[0]
    made._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(errors.HomeError, match="Nothing that was recorded is lost"):
        made.plan([record(n) for n in range(10, 2000)])
    assert made.jobs == before
    made._db.execute("PRAGMA max_page_count = 1000000")
    made.plan([record(10)])
    assert list(reopened(home, clock).jobs) == ["j0", "j1", "j2", "j10"]


def test_a_file_that_is_locked_for_a_while_is_waited_for(made, home, monkeypatch):
    made._db.execute("PRAGMA busy_timeout = 1")
    reader = sqlite3.connect(home.ledger, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM job").fetchone()
    tries, wait = [], made._db

    class Patient:
        def execute(self, *words):
            tries.append(words)
            if len(tries) == 3:
                reader.execute("COMMIT")
            return wait.execute(*words)

    wait.execute("BEGIN IMMEDIATE")
    wait.execute("UPDATE job SET state = 'running' WHERE place = 0")
    ledger._patiently(Patient(), "COMMIT")
    assert len(tries) == 3
    reader.close()


def test_a_file_that_stays_locked_is_said_to_be(made, home):
    made._db.execute("PRAGMA busy_timeout = 1")
    writer = sqlite3.connect(home.ledger, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    with pytest.raises(errors.HomeError, match="lock"):
        made.plan([record(4)])
    writer.execute("ROLLBACK")
    writer.close()
    made.plan([record(4)])


def test_tables_of_a_later_version_are_refused(made, home, clock):
    made._db.execute("UPDATE meta SET value = '99' WHERE name = 'schema'")
    with pytest.raises(errors.LedgerError, match="later version"):
        reopened(home, clock)


def test_tables_of_an_earlier_version_are_led_up_step_by_step(made, home, clock, monkeypatch):
    monkeypatch.setattr(ledger, "SCHEMA", 4)
    steps = {2: "CREATE TABLE one (x);", 3: "INSERT INTO one VALUES (7);"}
    monkeypatch.setattr(ledger, "_MIGRATIONS", steps)
    with pytest.raises(errors.LedgerError, match="earlier version"):
        reopened(home, clock)
    other = other_driver(home, clock)
    assert other._db.execute("SELECT x FROM one").fetchone()[0] == 7
    assert other._meta("schema") == "4"


def test_a_damaged_file_is_said_to_be_one(made, home, clock):
    made._db.close()
    home.ledger.write_bytes(b"this is no ledger" * 1000)
    with pytest.raises(errors.LedgerError, match="damaged"):
        reopened(home, clock)


def test_where_no_batch_is_there_is_none_to_open(home, clock):
    with pytest.raises(errors.UnknownBatch):
        reopened(home, clock)


def test_the_home_is_for_its_owner_alone(made, home):
    for place in (home.path, home.logs, home.receipts):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert stat.S_IMODE(home.ledger.stat().st_mode) == 0o600


def test_the_documented_tables_are_the_real_ones(made):
    """docs/reference/ledger.md names every table and every column, and no others."""
    words = (Path(__file__).parents[3] / "docs" / "reference" / "ledger.md").read_text()
    told, table = {}, None
    for line in words.splitlines():
        if line.startswith("## `"):
            table = told.setdefault(line.split("`")[1], [])
        elif line.startswith("| `") and table is not None:
            table.append(line.split("`")[1])
    names = [row[0] for row in made._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    real = {name: [row[1] for row in made._db.execute(f"PRAGMA table_info({name})")] for name in names}
    assert told == real
    assert f"version {ledger.SCHEMA}" in words
