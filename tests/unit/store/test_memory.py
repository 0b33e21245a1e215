"""The ledger in memory behaves as the one in a file does, for its one driver."""

import pytest
from fakes import EPOCH
from ledgers import IDENTITY, live, record

from canfar_batch import errors
from canfar_batch.lifecycle import Intended, Launched
from canfar_batch.records import JobState, Resources
from canfar_batch.store.memory import MemoryLedger


@pytest.fixture
def memory():
    book = MemoryLedger(IDENTITY, last_contact=EPOCH)
    book.plan([record(n) for n in range(3)])
    return book


def test_events_make_the_same_records_as_in_a_file(memory, made, home):
    live(memory, home)
    live(made, home)
    assert memory.jobs == made.jobs


def test_a_transaction_is_all_or_nothing(memory):
    before = dict(memory.jobs)
    good = Intended(key="j0", at=EPOCH, launch_name="t", resources=Resources())
    with pytest.raises(errors.TransitionError):
        memory.record([good, Launched(key="j1", at=EPOCH, id="abcd1234")])
    assert memory.jobs == before
    (change,) = memory.record([good])
    assert (change.before, change.after) == (before["j0"], memory.jobs["j0"])
    assert change.after.state is JobState.LAUNCHING


def test_jobs_can_be_dropped(memory):
    memory.drop(["j1"])
    assert list(memory.jobs) == ["j0", "j2"]


def test_a_fork_does_not_drive(memory, monkeypatch):
    memory.acquire()
    assert memory.driving
    monkeypatch.setattr("canfar_batch.store.memory.os.getpid", lambda: -1)
    assert not memory.driving
