"""One thread and one process at a time use a batch."""

import asyncio
import os
import threading

import pytest
from engine import SPEC, ledger_of, states

from canfar_batch import Batch, errors
from canfar_batch.records import JobState

S = JobState


def in_thread(call):
    """Do *call* in a thread, and return its value or exception."""
    outcome = []

    def work():
        try:
            outcome.append(call())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=work, name="other")
    thread.start()
    thread.join(20)
    return outcome[0]


class Barrier:
    """Stops the platform in the middle of a poll, until it is opened."""

    def __init__(self, platform):
        self.reached, self.open = threading.Event(), threading.Event()
        platform.before["containers"] = self

    def __call__(self):
        self.reached.set()
        assert self.open.wait(20)


@pytest.fixture
def busy(world):
    """A batch that another thread runs, and the barrier that holds it up."""
    batch, barrier = world.planned(2), Barrier(world.platform)
    thread = threading.Thread(target=lambda: batch.run(progress=False), name="runner")
    thread.start()
    assert barrier.reached.wait(20)
    yield batch, barrier
    barrier.open.set()
    thread.join(20)


# -- one thread at a time -----------------------------------------------------------------------------------------


def test_a_batch_runs_in_another_thread_than_it_was_opened_in(world):
    batch = world.planned(2)
    report = asyncio.run(asyncio.to_thread(batch.run, False))
    assert report.ok
    assert states(batch) == [S.SUCCEEDED] * 2


def test_a_second_thread_gets_an_error_that_names_what_the_first_does(busy):
    batch, _ = busy
    calls = (
        lambda: batch.run(progress=False), batch.step, batch.observe, batch.launch, batch.collect, batch.retry_failed,
        lambda: batch.add(SPEC, key="more", n=9), lambda: next(batch.as_completed()), batch.delete, batch.start,
    )  # fmt: skip
    for call in calls:
        with pytest.raises(errors.BatchBusy, match=r"in use by run\(\) in thread runner"):
            call()


def test_a_second_thread_may_read_meanwhile(busy):
    batch, barrier = busy
    assert [line.kind for line in batch.history()] == []
    assert batch.driven_by == f"process {os.getpid()} on {os.uname().nodename}"
    assert len(batch.report().counts) == len(batch.counts) == 1
    assert batch["j0"].refresh().state is S.PLANNED
    barrier.open.set()


def test_a_second_thread_may_cancel(busy):
    batch, barrier = busy
    assert batch.cancel(["j0"]) == ["j0"]
    barrier.open.set()


# -- two batches of one home in one process -----------------------------------------------------------------------


def test_a_batch_that_is_opened_again_takes_over_from_the_one_before(world):
    first = world.batch(same_process=True)
    first.map(SPEC, key="j{n}", n=[0, 1])
    first.observe()
    second = world.batch(same_process=True)
    assert second.run(progress=False).ok
    assert not ledger_of(first).driving
    assert first["j0"].refresh().state is S.SUCCEEDED


def test_a_batch_that_does_not_drive_shows_what_another_one_has_recorded(world):
    first = world.batch(same_process=True)
    first.map(SPEC, key="j{n}", n=[0, 1])
    reader = Batch.open("test", world.root)
    second = world.batch(same_process=True)
    second.add(SPEC, key="j2", n=2)
    second.run(progress=False)
    for other in (first, reader):
        assert other.report().counts == {S.SUCCEEDED: 3}
        assert len(other.to_rows()) == len(other.results()) == 3
        assert other["j2"].state is S.SUCCEEDED
        other.close()
        assert len(other.results()) == 3


def test_a_batch_does_not_take_over_from_one_that_is_inside_a_call(world):
    first = world.batch(same_process=True)
    first.map(SPEC, key="j{n}", n=[0])
    caught = []

    def run_the_second():
        if not caught:
            caught.append(in_thread(lambda: world.batch(same_process=True).run(progress=False)))

    world.platform.before["containers"] = run_the_second
    assert first.run(progress=False).ok
    assert isinstance(caught[0], errors.BatchBusy)
    assert "through another Batch of this process" in str(caught[0])


def test_another_process_is_still_refused(world):
    batch = world.planned(1)
    batch.observe()
    with pytest.raises(errors.BatchBusy, match=r"is being run by|runs the batch already"):
        world.batch().run(progress=False)
