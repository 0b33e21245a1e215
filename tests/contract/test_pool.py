"""What every `Pool` promises: the pool of threads, the one of tests, and the one whose threads are shared."""

from __future__ import annotations

import threading
import time

import pytest
from fakes import FakeClock, InlinePool

from canfar_batch.engine.pool import ENOUGH, ThreadPool, Workers
from canfar_batch.setup import Pool

PATIENCE = 20.0  #: seconds after which a pool that does not deliver counts as broken


@pytest.fixture(params=["threads", "inline", "shared"])
def pool(request):
    made = {
        "threads": ThreadPool,
        "inline": lambda: InlinePool(FakeClock()),
        "shared": lambda: ThreadPool(shared=Workers()),
    }[request.param]()
    yield made
    made.close()


@pytest.fixture
def threads():
    made = ThreadPool({"launch": 2, "poll": 1})
    yield made
    made.close()


def drained(pool: Pool, count: int) -> None:
    """Drain until *count* callbacks were made."""
    deadline = time.monotonic() + PATIENCE
    while count > 0 and time.monotonic() < deadline:
        pool.wait(0.05)
        count -= pool.drain()
    assert count == 0


def test_work_is_done_and_its_value_delivered(pool):
    values = []
    pool.submit("launch", lambda: 6 * 7, lambda outcome: values.append(outcome.get()))
    assert values == [], "callbacks are made by drain alone"
    drained(pool, 1)
    assert values == [42]


def test_an_exception_is_delivered_as_the_outcome(pool):
    outcomes = []
    pool.submit("poll", lambda: 1 / 0, outcomes.append)
    drained(pool, 1)
    assert isinstance(outcomes[0].error, ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        outcomes[0].get()


def test_answers_that_follow_one_another_are_drained_together(monkeypatch):
    monkeypatch.setattr("canfar_batch.engine.pool.GATHERING", PATIENCE)
    threads, released = ThreadPool({"launch": 32}), threading.Event()
    for _ in range(8):
        threads.submit("launch", released.wait, lambda outcome: None)
    for _ in range(ENOUGH):
        threads.submit("launch", lambda: None, lambda outcome: None)
    threads.wait(PATIENCE)
    assert threads.drain() >= ENOUGH
    released.set()
    threads.close()


def test_callbacks_are_made_in_the_draining_thread(pool):
    names = []
    pool.submit("launch", lambda: None, lambda outcome: names.append(threading.current_thread()))
    drained(pool, 1)
    assert names == [threading.current_thread()]


def test_results_after_a_callback_that_raises_wait_for_the_next_drain(pool):
    values = []

    def raise_first(outcome):
        values.append("raised")
        raise ValueError("a callback failed")

    pool.submit("poll", lambda: None, raise_first)
    pool.submit("poll", lambda: None, lambda outcome: values.append("second"))
    with pytest.raises(ValueError, match="a callback failed"):
        drained(pool, 1)
    drained(pool, 1)
    assert values == ["raised", "second"]


def test_draining_nothing_calls_nothing(pool):
    assert pool.drain() == 0


def test_work_may_be_submitted_by_a_callback(pool):
    values = []

    def again(outcome):
        pool.submit("poll", lambda: "second", lambda outcome: values.append(outcome.get()))

    pool.submit("poll", lambda: "first", again)
    drained(pool, 2)
    assert values == ["second"]


def test_a_queue_has_no_more_threads_than_its_limit(threads):
    lock, running, most = threading.Lock(), 0, 0
    gate = threading.Semaphore(0)

    def work():
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        gate.acquire()
        with lock:
            running -= 1

    for _ in range(6):
        threads.submit("launch", work, lambda outcome: None)
    for _ in range(6):
        gate.release()
    drained(threads, 6)
    assert most <= 2


def test_a_queue_that_is_busy_does_not_delay_another(threads):
    gate, values = threading.Event(), []
    for _ in range(2):
        threads.submit("launch", gate.wait, lambda outcome: None)
    threads.submit("poll", lambda: "seen", lambda outcome: values.append(outcome.get()))
    drained(threads, 1)
    assert values == ["seen"]
    gate.set()
    drained(threads, 2)


def test_a_closed_pool_starts_no_more_work(threads):
    begun, gate, done = threading.Event(), threading.Event(), []

    def first():
        begun.set()
        gate.wait()

    threads.submit("poll", first, lambda outcome: None)
    threads.submit("poll", lambda: done.append("second"), lambda outcome: None)
    assert begun.wait(PATIENCE)
    threads.close()
    gate.set()
    drained(threads, 1)
    assert done == []


def test_waiting_ends_as_soon_as_there_is_a_result(threads):
    threads.submit("poll", lambda: None, lambda outcome: None)
    threads.wait(PATIENCE * 10)  # the test's own time-out is shorter
    assert threads.drain() == 1


def test_pools_share_threads_and_each_gets_its_own_results():
    workers = Workers({"launch": 2})
    first, second = ThreadPool(shared=workers), ThreadPool(shared=workers)
    values = []
    first.submit("launch", lambda: "one", lambda outcome: values.append(outcome.get()))
    second.submit("launch", lambda: "two", lambda outcome: values.append(outcome.get()))
    drained(second, 1)
    assert values == ["two"]
    first.close()
    drained(first, 1)
    assert values == ["two", "one"]
    workers.close()


@pytest.mark.parametrize("ended_by", ["fork", "close"])
def test_shared_threads_that_ended_are_replaced(monkeypatch, ended_by):
    workers = Workers({"launch": 1})
    pool, values = ThreadPool(shared=workers), []
    pool.submit("launch", lambda: None, values.append)
    drained(pool, 1)
    if ended_by == "close":
        workers.close()
    else:
        monkeypatch.setattr("canfar_batch.engine.pool.os.getpid", lambda: -1)  # a fork has no threads of its parent
    pool.submit("launch", lambda: None, values.append)
    drained(pool, 1)
    assert len(values) == 2
    workers.close()
