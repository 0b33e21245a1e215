"""A batch that a thread of this process drives."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from engine import SLOW, SPEC, ledger_of, states
from fakes import Fate

from canfar_batch import errors
from canfar_batch.records import JobState

S = JobState


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


def test_a_started_batch_shows_its_progress_if_asked_to(world, capsys):
    batch = world.planned(3)
    batch.start(progress=True)
    batch.wait(20)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("batch test in ")
    assert lines[-1].startswith("test 3/3 | 3 succeeded")
    quiet = world.batch("other")
    quiet.start()
    quiet.wait(20)
    assert capsys.readouterr().err == "", "outside notebooks it is silent unless asked"
