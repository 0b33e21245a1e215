"""Threads, processes and a batch: who may use it when, and what the others see."""

import asyncio
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from engine import SLOW, SPEC, ledger_of, states
from fakes import Fate

from canfar_batch import errors
from canfar_batch.batch import Batch
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


# -- one thread at a time -------------------------------------------------------------------------------------------


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


# -- two batches of one home in one process -------------------------------------------------------------------------


def test_a_batch_that_is_opened_again_takes_over_from_the_one_before(world):
    first = world.batch(same_process=True)
    first.map(SPEC, key="j{n}", n=[0, 1])
    first.observe()
    second = world.batch(same_process=True)
    assert second.run(progress=False).ok
    assert not ledger_of(first).driving
    assert first["j0"].refresh().state is S.SUCCEEDED


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


def test_closing_a_batch_in_a_fork_leaves_the_parent_driving(world, monkeypatch):
    batch = world.planned(1)
    batch.observe()
    with monkeypatch.context() as patch:
        patch.setattr("canfar_batch.batch.batch.os.getpid", lambda: -1)
        batch.close()
    assert batch.run(progress=False).ok


# -- in the background ----------------------------------------------------------------------------------------------


def test_start_runs_the_batch_and_wait_returns_the_report(world):
    batch = world.planned(3)
    batch.start()
    assert batch.wait(20).ok
    assert states(batch) == [S.SUCCEEDED] * 3
    assert batch.driven_by is None


def test_a_started_batch_can_be_read_planned_and_cancelled(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(2)
    batch.start()
    batch.add(SPEC, key="more", n=9)
    assert sum(batch.counts.values()) == len(batch.records) == 3
    assert sorted(batch.cancel()) == ["j0", "j1", "more"]
    batch.wait(20)
    assert states(batch) == [S.CANCELLED] * 3


def test_a_started_batch_refuses_a_second_loop(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(1)
    batch.start()
    for call in (lambda: batch.run(progress=False), lambda: next(batch.as_completed()), batch.delete):
        with pytest.raises(errors.BatchBusy, match=r"wait\(\) waits for its end, and stop\(\) ends it"):
            call()
    batch.stop()


def test_stop_leaves_the_jobs_running_and_start_goes_on(world):
    batch = world.planned(2)
    batch.start()
    batch.stop()
    assert batch.driven_by is None
    batch.start()
    assert batch.wait(20).ok
    assert len(world.platform.launched) == 2


def test_a_wait_that_takes_too_long_has_a_report_and_stops_nothing(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(1)
    batch.start()
    with pytest.raises(errors.WaitTimeout, match="it goes on") as caught:
        batch.wait(timeout=0)
    assert sum(caught.value.report.counts.values()) == 1
    batch.cancel()
    assert batch.wait(20).counts == {S.CANCELLED: 1}


def test_an_error_of_the_thread_is_raised_by_wait(world):
    world.platform.fate = lambda request: Fate(code=1)
    batch = world.planned(20)
    batch.start(stop_alike=2)
    with pytest.raises(errors.BatchPaused):
        batch.wait(20)


def test_waiting_for_what_was_not_started_says_what_starts_it(world):
    with pytest.raises(errors.NotDriven, match=r"start\(\) runs it in a thread, run\(\) in this one"):
        world.planned(1).wait()


def test_closing_a_started_batch_ends_its_thread(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(1)
    batch.start()
    batch.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "canfar_batch-test"]


def test_a_started_batch_of_a_closed_session_ends_with_an_error(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(1)
    batch.start()
    world.platform.closed = True
    with pytest.raises(errors.AlreadyClosed, match="the session that batch 'test' belongs to was closed"):
        batch.wait(20)


def test_many_threads_may_plan_while_a_batch_runs_in_the_background(world):
    world.platform.fate = lambda request: SLOW if "-j0-" in request.name else Fate()
    batch = world.planned(1)
    batch.start()
    with ThreadPoolExecutor(4) as pool:
        keys = list(pool.map(lambda number: batch.add(SPEC, key=f"more{number}", n=number).key, range(40)))
    batch.cancel(["j0"])
    batch.wait(20)
    assert len(batch.succeeded) == 40
    assert sorted(batch.keys()) == sorted(["j0", *keys])
    assert [record.index for record in batch.records] == list(range(41))


def test_a_batch_that_is_opened_again_stops_the_thread_of_the_one_before(world):
    world.platform.fate = lambda request: SLOW
    first = world.batch(same_process=True)
    first.map(SPEC, key="j{n}", n=[0])
    first.start()
    second = world.batch(same_process=True)
    second.observe()
    assert not ledger_of(first).driving
    assert ledger_of(second).driving


# -- jobs that no process drives ------------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", [lambda job: job.wait(), lambda job: list(job.follow())])
def test_a_wait_for_a_job_that_is_not_driven_says_what_drives_it(world, wait):
    job = world.batch().add(SPEC, key="a", n=1)
    with pytest.raises(errors.NotDriven, match=r"'a' is planned, .* batch\.run\(\) or batch\.start\(\) drives it"):
        wait(job)
    with pytest.raises(errors.NotDriven, match=r"session\.batch\('test'\)\.run\(\) drives it"):
        wait(Batch.open("test", world.root)["a"])


def test_a_wait_for_a_job_drives_the_batch_if_this_process_does(world):
    batch = world.planned(2)
    batch.observe()
    assert batch["j1"].wait().ok


def test_a_wait_for_a_job_of_a_started_batch_returns_at_its_end(world):
    batch = world.planned(2)
    batch.start()
    assert batch["j1"].wait(timeout=20).done
    batch.wait(20)


def test_a_wait_for_a_job_ends_if_the_batch_is_paused(world):
    world.platform.fate = lambda request: Fate(code=1)
    batch = world.planned(20)
    with pytest.raises(errors.BatchPaused):
        world.turn(batch, 1000)
    with pytest.raises(errors.BatchPaused):
        batch["j19"].wait()


# -- other processes ------------------------------------------------------------------------------------------------


def test_pickling_a_handle_says_what_to_do_instead(world):
    batch = world.planned(1)
    with pytest.raises(TypeError, match=r"open it in the other process with canfar_batch\.open\('test', "):
        pickle.dumps(batch)
    with pytest.raises(TypeError, match=r"send job\.record"):
        pickle.dumps(batch["j0"])
    assert pickle.loads(pickle.dumps(batch["j0"].record)) == batch["j0"].record


def test_a_login_of_another_account_stops_the_run_and_loses_no_job(world):
    world.platform.fate = lambda request: SLOW
    world.platform.user = "alice"
    batch = world.planned(2)
    world.turn(batch, 30)
    world.platform.user, world.platform.shown = "bob", lambda shown: []
    with pytest.raises(errors.LedgerError, match="is run by alice, and you are bob here"):
        batch.run(progress=False)
    assert states(batch) == [S.RUNNING] * 2
    assert len(world.platform.launched) == 2
