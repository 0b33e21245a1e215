"""One batch has one driver: a second one gets an error, and takes over once the first has ended."""

import contextlib
import os
import signal
import sqlite3

import pytest
from crash.drivers import PATIENCE, World, driver, eventually

from canfar_batch.errors import HomeError
from canfar_batch.records import JobState
from canfar_batch.store import database


@pytest.fixture
def long(tmp_path):
    """A batch that takes some seconds, most of it not launched for a while."""
    return World.make(tmp_path / "long", jobs=12, seconds=[0.4] * 12, window=3, settle=3.0)


def begun(world, count=1):
    return eventually(lambda: sum(world.starts().values()) >= count)


def stop_between_writes(process, world):
    """Stop a driver, but not in the middle of a transaction, which would block every other process."""
    for _ in range(100):
        process.send_signal(signal.SIGSTOP)
        assert eventually(lambda: stopped(process.pid))
        if not locked(world.ledger):
            return
        process.send_signal(signal.SIGCONT)
    raise AssertionError("it writes all the time")


def locked(path):
    with contextlib.closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as db:
        try:
            db.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            return True
        return False


def stopped(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"


def test_a_second_driver_gets_an_error_that_names_the_first_and_changes_nothing(platform, long):
    with driver(platform, long) as first:
        assert begun(long)
        stop_between_writes(first, long)  # so that it is not through before the second one begins
        other = str(long.directory / "other")
        with driver(platform, long, output=other) as second:
            assert second.wait(PATIENCE) == 3
        first.send_signal(signal.SIGCONT)
        with open(other) as file:
            said = file.read()
        assert "ended by BatchBusy" in said
        assert f"process {first.pid} on" in said
        assert first.wait(PATIENCE) == 0
    assert long.verdict().good, long.story()


def test_a_driver_that_was_killed_is_followed_at_once(platform, long):
    with driver(platform, long) as first:
        assert begun(long, 3)
        first.kill()
        first.wait(PATIENCE)
    with driver(platform, long) as second:
        assert second.wait(PATIENCE) == 0, long.output
    assert long.verdict().good, long.story()


def test_a_killed_driver_whose_parent_has_not_waited_for_it_is_followed_as_well(platform, long):
    with driver(platform, long) as first:
        assert begun(long)
        first.kill()
        os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)  # dead, and still in the table of processes
        with driver(platform, long) as second:
            assert second.wait(PATIENCE) == 0, long.output
    assert long.verdict().good, long.story()


def test_a_driver_that_slept_through_a_takeover_stops_and_launches_nothing(platform, long):
    with driver(platform, long, output=str(long.directory / "slept")) as first:
        assert begun(long, 2)
        stop_between_writes(first, long)
        with driver(platform, long) as refused:
            assert refused.wait(PATIENCE) == 3  # other processes cannot know that it has ended
        with driver(platform, long, takeover=True) as second:
            assert begun(long, 5)
            created = platform.requests.accepted
            first.send_signal(signal.SIGCONT)
            assert first.wait(PATIENCE) == 3
            assert second.wait(PATIENCE) == 0, long.output
    with open(long.directory / "slept") as file:
        assert "ended by LeaseLost" in file.read()
    assert created.total() < 12
    assert platform.requests.accepted.total() == 12, "each job was launched once, by whichever driver"
    assert long.verdict().good, long.story()


def test_a_takeover_while_the_other_driver_waits_for_an_answer_finds_what_it_launched(platform, long):
    platform.hold()
    with driver(platform, long) as first:
        assert eventually(lambda: platform.requests.counts["create"] >= 3)
        stop_between_writes(first, long)
        with driver(platform, long, takeover=True) as second:
            platform.release()
            assert second.wait(PATIENCE) == 0, long.output
    with long.batch() as batch:
        assert batch.counts == {JobState.SUCCEEDED: 12}
    assert long.verdict().good, long.story()


def test_a_ledger_that_stays_locked_is_an_error_that_names_the_holder(tmp_path):
    locked = sqlite3.OperationalError("database is locked")
    with pytest.raises(HomeError, match="in the middle of reading or writing"), database.errors(tmp_path):
        raise locked
