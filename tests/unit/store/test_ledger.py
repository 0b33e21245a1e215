"""The ledger: its contents, its one writer, and interrupts."""

import contextlib
import itertools
import multiprocessing
import os
import sqlite3
import sys
from pathlib import Path

import attrs
import pytest
from fakes import FakeClock
from ledgers import IDENTITY, SPEC, live, record, reopened, statements

from canfar_batch import errors, failures
from canfar_batch.lifecycle import (
    Deferred,
    Ended,
    Intended,
    Launched,
)
from canfar_batch.records import JobRecord, JobState, Resources
from canfar_batch.store import database
from canfar_batch.store.home import Home
from canfar_batch.store.ledger import Ledger

# -- storing ----------------------------------------------------------------------------------------------------


def test_every_field_of_every_record_is_read_back_unchanged(made, home, clock):
    live(made, home)
    again = reopened(home, clock)
    assert list(again.jobs) == list(made.jobs)
    for key, job in made.jobs.items():
        for field in attrs.fields(JobRecord):
            assert getattr(again.jobs[key], field.name) == getattr(job, field.name), field.name
    assert (again.identity, again.created) == (IDENTITY, clock.now())
    again.close()


def test_history_lists_every_event_in_order_with_its_attempt(made, home, clock):
    live(made, home)
    lines = list(made.history("j0"))
    assert [(line.kind, line.attempt) for line in lines] == [
        ("Intended", 1), ("Launched", 1), ("PhaseChanged", 1), ("Ended", 1), ("Retrying", 1),
    ]  # fmt: skip
    assert lines[3].body["failure"]["kind"] == "MissingOutput"
    assert len(list(made.history())) == 11


def test_a_transaction_is_all_or_nothing(made, db, home, clock):
    before = dict(made.jobs)
    at = clock.now()
    good = Intended(key="j0", at=at, launch_name="t", resources=Resources())
    with pytest.raises(errors.TransitionError):
        made.record([good, Launched(key="j1", at=at, id="abcd1234")])
    db.execute("CREATE TEMP TRIGGER t BEFORE INSERT ON attempt BEGIN SELECT raise(ABORT, 'no'); END")
    with pytest.raises(errors.LedgerError):
        made.record([good])
    assert made.jobs == before
    assert dict(reopened(home, clock).jobs) == before
    assert list(made.history()) == []


def test_a_snapshot_shows_the_jobs_of_its_moment_and_shares_what_is_packed(made, clock):
    before, snapshot = list(made.jobs.values()), made.jobs.snapshot()
    made.record([Intended(key="j0", at=clock.now(), launch_name="t", resources=Resources())])
    assert list(snapshot) == before
    assert (len(snapshot), snapshot[1], list(snapshot[1:])) == (3, before[1], before[1:])
    assert made.jobs.snapshot()[0].state is JobState.LAUNCHING
    assert snapshot[0] is not snapshot[0]  # made when it is asked for, so that no record stays in memory


def test_a_key_that_differs_in_case_only_is_refused(made):
    twin = attrs.evolve(record(7), key="J0")
    with pytest.raises(errors.LedgerError):
        made.plan([twin])
    assert "J0" not in made.jobs


def test_dropped_jobs_leave_the_others_in_their_places(made, home, clock):
    made.drop(["j1"])
    assert list(reopened(home, clock).jobs) == ["j0", "j2"]


def test_an_event_of_an_unknown_job_changes_nothing(made, clock):
    event = Intended(key="j0", at=clock.now(), launch_name="t", resources=Resources())
    with pytest.raises(KeyError, match="j9"):
        made.record([event, attrs.evolve(event, key="j9")])
    assert made.jobs["j0"].attempts == ()


def test_an_attempt_that_never_left_is_removed(made, home, clock):
    at = clock.now()
    made.record([Intended(key="j0", at=at, launch_name="t", resources=Resources())])
    made.record([Deferred(key="j0", at=at, due=at, why="busy")])
    assert reopened(home, clock).jobs["j0"] == made.jobs["j0"]
    assert made.jobs["j0"].attempts == ()


def test_an_event_writes_only_what_it_changed(made, db, clock):
    at = clock.now()
    made.record([
        Intended(key="j0", at=at, launch_name="t1", resources=Resources()),
        Launched(key="j0", at=at, id="abcd1234"),
        Ended(key="j0", at=at, succeeded=False, failure=failures.Lost()),
        Intended(key="j0", at=at, launch_name="t2", resources=Resources()),
    ])  # fmt: skip
    with statements(db) as written:
        made.record([Launched(key="j0", at=at, id="abcd1235")])
    assert sum(statement.startswith("INSERT INTO attempt") for statement in written) == 1
    assert [s.partition(" SET ")[0] for s in written if s.startswith(("UPDATE job", "INSERT INTO job"))] == [
        "UPDATE job"
    ]


def test_a_replaced_job_keeps_its_place(made, home, clock):
    made.plan([attrs.evolve(record(1), fields={"n": 100})])
    assert list(reopened(home, clock).jobs) == ["j0", "j1", "j2"]
    assert reopened(home, clock).jobs["j1"].fields == {"n": 100}


@pytest.mark.parametrize("key", ["NGC 1234", "M31(R)", "a/b", "..", "J0534+2200", "é" * 100])
def test_any_printable_key_is_stored(made, home, clock, key):
    made.plan([attrs.evolve(record(3), key=key)])
    made.record([
        Intended(key=key, at=clock.now(), launch_name="t", resources=Resources()),
        Launched(key=key, at=clock.now(), id="abcd1234"),
        Ended(key=key, at=clock.now(), succeeded=True, log=home.log(key, 1)),
    ])  # fmt: skip
    assert reopened(home, clock).jobs[key] == made.jobs[key]
    assert made.find(key.upper()) == made.jobs[key]


# -- the version of the jobs --------------------------------------------------------------------------------------


def test_the_version_grows_with_every_change_of_the_jobs(made, clock):
    versions = [made.version]
    made.record([Intended(key="j0", at=clock.now(), launch_name="t", resources=Resources())])
    versions.append(made.version)
    made.plan([record(3)])
    versions.append(made.version)
    made.drop(["j3"])
    versions.append(made.version)
    assert versions == sorted(set(versions))


def test_the_version_stays_if_no_job_changes(made, clock):
    version, jobs = made.version, made.jobs
    made.record([])
    made.note_user("me")
    clock.sleep(100)
    made.renew(clock.now())
    made.answered([])
    made.reload()
    assert (made.version, made.jobs is jobs) == (version, True)


def test_a_reload_raises_the_version_only_if_a_job_was_changed(made, home, clock):
    reader = reopened(home, clock)
    version, jobs = reader.version, reader.jobs
    made.ask("cancel", None)
    reader.reload()
    assert (reader.version, reader.jobs is jobs) == (version, True)
    made.plan([record(3)])
    reader.reload()
    assert reader.version > version
    assert list(reader.jobs) == ["j0", "j1", "j2", "j3"]
    assert reader.next_place == 4
    reader.close()


def test_reloading_reads_no_job_if_no_one_has_written(made, connected, home, clock):
    reader = reopened(home, clock)
    with statements(connected[-1]) as read:
        reader.reload()
    assert not [statement for statement in read if "FROM job" in statement]
    reader.close()


# -- interrupts ---------------------------------------------------------------------------------------------------


def interrupt(*_):
    raise KeyboardInterrupt


def test_an_interrupt_before_a_commit_changes_nothing(made, home, clock, monkeypatch):
    version = made.version
    monkeypatch.setattr(database, "commit", interrupt)
    with pytest.raises(KeyboardInterrupt):
        made.plan([record(6)])
    monkeypatch.undo()
    assert (made.version, list(made.jobs)) == (version, ["j0", "j1", "j2"])
    assert list(reopened(home, clock).jobs) == ["j0", "j1", "j2"]
    made.plan([record(6)])
    assert list(reopened(home, clock).jobs) == ["j0", "j1", "j2", "j6"]


@contextlib.contextmanager
def interrupt_at_line(number):
    """Interrupt the code of `canfar_batch.store` when it comes to its line of this number, counted as they are run.

    The list that is given holds the place, once that has happened.
    """
    lines, reached = itertools.count(1), []

    def trace(frame, event, argument):
        if "canfar_batch/store/" not in frame.f_code.co_filename:
            return None
        if event == "line" and next(lines) == number:
            sys.settrace(None)
            reached.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield reached
    except KeyboardInterrupt:
        assert reached
    finally:
        sys.settrace(before)


# an interrupt between the opening of a file and its `with` leaves it to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_at_any_line_of_a_write_leaves_file_and_memory_alike(tmp_path, clock):
    for number in itertools.count(1):
        home = Home(tmp_path / f"{number}" / "test")
        book = Ledger.create(home, IDENTITY, clock=clock)
        book.acquire()
        book.plan([record(n) for n in range(3)])
        version = book.version
        with interrupt_at_line(number) as reached:
            book.plan([record(6)])
        book.release()
        book.acquire()
        reader = reopened(home, clock)
        assert list(book.jobs) == list(reader.jobs), reached
        if "j6" in book.jobs:
            assert (book.find("J6"), book.next_place, book.version > version) == (book.jobs["j6"], 7, True), reached
        else:
            assert (list(book.jobs), book.find("J6"), book.next_place) == (["j0", "j1", "j2"], None, 3), reached
        reader.close()
        book.close()
        if not reached:
            break
    assert number > 20


def test_an_interrupt_while_the_lease_is_taken_leaves_it_to_the_next(made, home, clock, monkeypatch):
    made.release()
    monkeypatch.setattr(Ledger, "reload", interrupt)
    with pytest.raises(KeyboardInterrupt):
        made.acquire()
    monkeypatch.undo()
    assert not made.driving
    other = other_driver(home, clock)
    other.acquire()
    assert other.driving
    other.close()


# -- visits -------------------------------------------------------------------------------------------------------


def test_what_a_visit_writes_is_in_memory_and_in_the_file_once_it_ends(made, home, clock):
    made.release()
    at = clock.now()
    with made.visit():
        made.plan([record(3)])
        made.record([Intended(key="j3", at=at, launch_name="t", resources=Resources())])
        made.record([Launched(key="j3", at=at, id="abcd1234")])
        assert "j3" not in made.jobs
    assert made.jobs["j3"].id == "abcd1234"
    assert reopened(home, clock).jobs == made.jobs
    assert made.lease() is None


def test_a_visit_may_change_and_drop_what_it_planned(made, home, clock):
    made.release()
    with made.visit():
        made.plan([record(3), record(4)])
        made.plan([attrs.evolve(record(3), fields={"n": 30})])
        made.drop(["j4", "j0"])
    assert list(made.jobs) == ["j1", "j2", "j3"]
    assert made.jobs["j3"].fields == {"n": 30}
    assert reopened(home, clock).jobs == made.jobs


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_visit_that_fails_changes_nothing(made, home, clock, error):
    made.release()
    version, generation = made.version, made.generation

    def fail():
        with made.visit():
            made.plan([attrs.evolve(record(3), spec=attrs.evolve(SPEC, ram=99))])
            made.drop(["j0"])
            raise error

    with pytest.raises(error):
        fail()
    assert (made.version, made.generation, list(made.jobs)) == (version, generation, ["j0", "j1", "j2"])
    assert reopened(home, clock).jobs == made.jobs
    with made.visit():
        made.plan([attrs.evolve(record(3), spec=attrs.evolve(SPEC, ram=99))])
    assert reopened(home, clock).jobs["j3"].spec.ram == 99


def test_a_visit_is_refused_while_another_process_drives(made, home, clock):
    other = other_driver(home, clock)
    with pytest.raises(errors.BatchBusy), other.visit():
        raise AssertionError("it began")
    other.close()


# -- many readers, one writer -------------------------------------------------------------------------------------


def _read(place, answers):
    book = Ledger.open(Home(place), clock=FakeClock(), writable=False)
    answers.put([job.state.value for job in book.jobs.values()])
    book.close()


def test_a_reader_sees_the_last_commit_while_another_process_writes(made, home, clock):
    spawned = multiprocessing.get_context("fork")
    answers = spawned.Queue()
    with contextlib.closing(sqlite3.connect(home.ledger, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE job SET state = 'running'")
        child = spawned.Process(target=_read, args=(home.path, answers))
        child.start()
        assert answers.get(timeout=30) == ["planned"] * 3
        child.join()


def test_a_reader_cannot_write(made, home, clock):
    reader = reopened(home, clock)
    with pytest.raises(errors.BatchBusy, match="can only read it"):
        reader.record([Intended(key="j0", at=clock.now(), launch_name="t", resources=Resources())])
    with pytest.raises(errors.HomeError):
        reader.acquire(takeover=True)
    reader.close()


def test_any_process_may_leave_requests_and_answered_ones_are_removed(made, home, clock):
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


def test_a_second_driver_is_refused_with_the_name_of_the_first(made, db, home, clock):
    db.execute("UPDATE lease SET pid = ?, born = ''", (os.getppid(),))
    clock.sleep(100)
    with pytest.raises(errors.BatchBusy, match=r"run by process \d+ on .* another 500 s"):
        other_driver(home, clock).acquire()


def test_a_second_driver_in_one_process_gets_an_error_that_says_how_to_close_the_first(made, home, clock):
    with pytest.raises(errors.BatchBusy, match=r"this very process runs the batch already.*close\(\) it"):
        other_driver(home, clock).acquire()


def test_a_holder_that_ended_is_replaced_at_once(made, db, home, clock):
    db.execute("UPDATE lease SET pid = 4194303, born = 'x'")
    other = other_driver(home, clock)
    other.acquire()
    assert other.driving


def test_a_holder_on_another_host_keeps_the_lease_until_it_expires(made, db, home, clock):
    db.execute("UPDATE lease SET host = 'elsewhere', boot = 'x', pid = 4194303")
    other = other_driver(home, clock)
    clock.sleep(599)
    with pytest.raises(errors.BatchBusy):
        other.acquire()
    clock.sleep(2)
    other.acquire()


def test_a_takeover_stops_the_old_driver(made, home, clock):
    other = other_driver(home, clock)
    assert made.still_mine(made.generation)
    other.acquire(takeover=True)
    assert not made.still_mine(made.generation)
    with pytest.raises(errors.LeaseLost):
        made.record([Intended(key="j0", at=clock.now(), launch_name="t", resources=Resources())])
    assert not made.driving
    assert other.jobs["j0"].state is JobState.PLANNED


def test_an_expired_lease_launches_nothing_and_may_be_renewed(made, clock):
    clock.sleep(601)
    assert not made.still_mine(made.generation)
    made.renew()
    assert made.still_mine(made.generation)


def test_renewing_writes_only_after_a_tenth_of_the_term(made, clock):
    clock.sleep(30)
    made.renew(clock.now())
    assert made.last_contact is None
    clock.sleep(40)
    made.renew(clock.now())
    assert made.last_contact == clock.now()


def test_acquiring_reads_what_a_later_driver_wrote(made, home, clock):
    made.release()
    other = other_driver(home, clock)
    other.acquire()
    other.plan([record(5)])
    other.release()
    made.acquire()
    assert list(made.jobs) == ["j0", "j1", "j2", "j5"]
