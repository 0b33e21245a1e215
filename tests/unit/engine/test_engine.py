"""The loop, and the ways to hold it, on a clock that does not sleep."""

import gc
import heapq
import random
import re
import sqlite3

import pytest
from engine import SLOW, SPEC, abandon, always, kinds, raising, states
from fakes import Fate

from canfar_batch import errors
from canfar_batch.engine.launch import Launch, Permit, Post
from canfar_batch.records import JobState
from canfar_batch.store import database
from canfar_batch.strategies import AtOnce, Throttle, Window

S = JobState


# -- the straight path ----------------------------------------------------------------------------------------------


def test_every_job_ends_and_results_stand_in_plan_order(world):
    world.platform.fate = lambda request: Fate(lasts=random.Random(request.name).uniform(1, 500))
    batch = world.planned(50)
    batch.run(progress=False)
    assert set(states(batch)) == {S.SUCCEEDED}
    assert list(batch.results()) == [f"j{n}" for n in range(50)]
    assert all(path.is_file() for path in batch.results().values())
    for key in batch.results():
        assert [kind for kind in kinds(batch, key) if kind != "PhaseChanged"] == [
            "Intended", "Launched", "Ended", "Collected",
        ]  # fmt: skip


def test_the_intent_is_in_the_ledger_before_the_launch_is_sent(world):
    batch, seen = world.planned(3), []

    def look_into_the_file():
        with sqlite3.connect(batch.home / "ledger.db") as db:
            seen.append(db.execute("SELECT launch_name FROM attempt WHERE id IS NULL").fetchall())
        db.close()

    world.platform.before["launch"] = look_into_the_file
    batch.run(progress=False)
    assert [len(names) for names in seen] == [3, 3, 3]
    assert {name for names in seen for (name,) in names} == set(world.platform.launched)


@pytest.mark.parametrize("n", [1, 300])
def test_a_poll_is_one_request_however_many_the_jobs(world, n):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(n, launch=AtOnce())
    world.turn(batch, 60)
    before = world.platform.calls.copy()
    batch.observe()
    assert world.platform.calls - before == {"containers": 1}


def test_the_first_large_batch_on_a_remote_platform_asks_once_for_word_to_its_operators(world, capsys, monkeypatch):
    monkeypatch.setattr("canfar_batch.store.home.Home.refuse_if_fleeting", lambda home: None)
    asked = []
    for jobs, address in ((100, "https://a"), (101, "https://b"), (101, "https://b"), (101, "local")):
        world.planned(jobs, name=f"n{jobs}-{address[-1]}", address=address, launch=AtOnce()).run()
        asked.append("support@canfar.net" in capsys.readouterr().err)
    assert asked == [False, True, False, False]


def test_observers_receive_only_events_in_the_ledger_and_one_that_fails_changes_nothing(world):
    stored = []

    def listen(event):
        with sqlite3.connect(batch.home / "ledger.db") as db:
            stored.append(db.execute("SELECT count(*) FROM event WHERE kind = ?", (event.kind,)).fetchone()[0])
        db.close()
        raise RuntimeError("an observer's own trouble")

    batch = world.planned(2, observers=[listen])
    batch.run(progress=False)
    assert stored
    assert all(stored)
    assert states(batch) == [S.SUCCEEDED] * 2


def ideal(lasts, size):
    """When the last of these jobs ends if each begins, in order, at the moment at which a place is free."""
    places = [0.0] * size
    for seconds in lasts:
        heapq.heappush(places, heapq.heappop(places) + seconds)
    return max(places)


def pareto(rng, jobs):
    return [min(rng.paretovariate(1.1) * 200, 8000.0) for _ in range(jobs)]


def lognormal(rng, jobs):
    return [rng.lognormvariate(5.5, 1.0) for _ in range(jobs)]


def least(lasts, size):
    """What no schedule can beat, whatever it knows of the jobs."""
    return max(*lasts, sum(lasts) / size)


# With Pareto's tail the longest job may begin last, and whoever cannot know that in advance cannot reach the least.
@pytest.mark.parametrize(
    ("drawn", "jobs", "size", "bound", "seed"),
    [
        (pareto, 200, 10, ideal, 0),
        (pareto, 200, 10, ideal, 1),
        (lognormal, 300, 5, least, 1),
        (lognormal, 250, 4, least, 6),
    ],
)
def test_a_window_is_never_exceeded_and_never_idle(world, drawn, jobs, size, bound, seed):
    lasts = drawn(random.Random(seed), jobs)
    world.platform.fate = lambda request: Fate(lasts=lasts[int(re.search(r"-j(\d+)-", request.name)[1])])
    running = []
    world.platform.after["launch"] = lambda: running.append(world.platform.running)
    world.planned(jobs, launch=Window(size)).run(progress=False)
    assert max(running) == size
    look = world.clock.seconds / world.platform.calls["containers"]
    assert world.clock.seconds <= 1.05 * bound(lasts, size) + look


def test_a_place_that_a_refusal_frees_is_filled_at_once(world):
    world.platform.before["launch"] = raising(*[errors.PlatformRefused("no such image", status=400)] * 2)
    batch = world.planned(6, launch=Window(2))
    world.turn(batch, 1)
    assert [job.state for job in batch][:4] == [S.FAILED, S.FAILED, S.PENDING, S.PENDING]


# -- ways to hold the loop ------------------------------------------------------------------------------------------


def test_run_stops_after_its_timeout_with_a_report(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(2)
    with pytest.raises(TimeoutError) as stopped:
        batch.run(progress=False, timeout=100)
    assert 100 <= world.clock.seconds < 101
    assert stopped.value.report is not None
    assert not batch._ledger.driving


def test_as_completed_yields_each_job_once_when_it_is_final(world):
    world.platform.fate = lambda request: Fate(lasts=random.Random(request.name).uniform(1, 90))
    batch = world.planned(12, launch=Window(5))
    keys = [(job.key, job.state) for job in batch.as_completed()]
    assert sorted(keys) == sorted((f"j{n}", S.SUCCEEDED) for n in range(12))
    assert len(list(world.planned(12).as_completed())) == 12


def test_the_stages_alone_do_what_run_does(world):
    world.platform.fate = lambda request: Fate(receipt="-j1-" not in request.name, log=b"done\n")
    batch = world.planned(3, launch=Window(2))
    for _ in range(200):
        batch.observe()
        batch.launch()
        batch.collect()
        world.clock.sleep(5)
        if batch.done:
            break
    assert states(batch) == [S.SUCCEEDED] * 3
    assert all(batch.results().values())


def test_observe_follows_up_a_torn_log(world):
    batch = world.planned(1)
    whole, times = world.platform.printed, iter(range(100))
    world.platform.printed = lambda c: whole(c) if next(times) >= 2 else whole(c).partition(b" end ")[0]
    batch.launch()
    for _ in range(10):
        world.clock.sleep(10)
        batch.observe()
    assert states(batch) == [S.SUCCEEDED]


def test_ctrl_c_detaches_and_the_same_script_goes_on(world):
    world.platform.fate = lambda request: Fate(lasts=100)
    batch = world.planned(3)
    world.turn(batch, 30)
    batch._engine.wait = always(KeyboardInterrupt())
    with pytest.raises(errors.Detached, match="Run the same script again"):
        batch.run(progress=False)
    assert {job.state for job in batch} <= {S.PENDING, S.RUNNING}
    again = world.planned(3)
    again.run(progress=False)
    assert (states(again), len(world.platform.launched)) == ([S.SUCCEEDED] * 3, 3)


def test_waiting_is_never_nothing_in_a_circle(world):
    """A strategy's wish that falls into a back-off must not make the loop spin."""

    world.platform.before["launch"] = raising(*[errors.PlatformBusy("later", retry_after=500.0)] * 3)
    batch = world.planned(20, launch=Throttle(per_second=0.5))
    steps, step = 0, batch.step
    while not batch.done and steps < 2000:
        batch._engine.wait(step())
        steps += 1
    assert states(batch) == [S.SUCCEEDED] * 20


def test_a_laptop_that_slept_goes_on_unless_another_took_over(world):
    world.platform.fate = lambda request: Fate(lasts=1300)
    batch = world.planned(20, launch=Window(2))
    world.turn(batch, 30)
    world.clock.sleep(1290)
    batch.run(progress=False)
    assert (set(states(batch)), len(world.platform.launched)) == ({S.SUCCEEDED}, 20)


def test_a_driver_that_lost_its_lease_stops_before_the_next_post_and_the_next_write(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(10, launch=Window(2))
    world.turn(batch, 30)
    other = world.batch()
    other._ledger.acquire(takeover=True)
    sent = world.platform.calls["launch"]
    with pytest.raises(errors.LeaseLost):
        post_of(batch)()
    with pytest.raises(errors.LeaseLost):
        batch._engine.cancel(["j0"])
    assert world.platform.calls["launch"] == sent
    other.close()


def test_the_lease_is_checked_without_a_connection_unless_another_process_wrote(world, monkeypatch):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(10, launch=Window(2))
    world.turn(batch, 30)
    connect, connected = database.connect, []
    monkeypatch.setattr(database, "connect", lambda *args, **given: connected.append(args) or connect(*args, **given))
    assert batch._ledger.still_mine(batch._ledger.generation)
    assert not connected
    other = world.batch()
    other._ledger.ask("cancel", ["j0"])
    other.close()
    connected.clear()
    assert batch._ledger.still_mine(batch._ledger.generation)
    assert connected
    world.turn(batch, 5)
    connected.clear()
    assert batch._ledger.still_mine(batch._ledger.generation)
    assert not connected


def test_a_post_of_an_earlier_run_is_not_sent_by_a_later_one(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(2, launch=Window(1))
    with pytest.raises(TimeoutError):
        batch.run(progress=False, timeout=10)
    world.turn(batch, 5)
    old = post_of(batch)
    batch._engine.release()
    world.turn(batch, 5)
    with pytest.raises(errors.LeaseLost):
        old()


def post_of(batch):
    """The launch of job j0, as a worker thread would send it."""
    ledger = batch._ledger
    launch = Launch(jobs=(ledger.jobs["j0"],), parallel=1, resources=ledger.jobs["j0"].resources)
    return Post(launch, batch._engine.launch_context, batch._engine.platform, Permit(ledger))


# -- after a crash --------------------------------------------------------------------------------------------------


def test_a_driver_that_died_is_replaced_at_once(world):
    world.platform.fate = lambda request: Fate(lasts=300)
    batch = world.planned(5)
    world.turn(batch, 50)
    abandon(batch)
    again = world.planned(5)
    again.run(progress=False)
    assert (states(again), len(world.platform.launched)) == ([S.SUCCEEDED] * 5, 5)


def test_a_batch_that_was_thrown_away_in_this_process_keeps_no_one_waiting(world):
    world.platform.fate = lambda request: Fate(lasts=300)
    batch = world.planned(2)
    world.turn(batch, 50)
    del batch
    gc.collect()
    again = world.planned(2)
    again.run(progress=False)
    assert (states(again), len(world.platform.launched)) == ([S.SUCCEEDED] * 2, 2)


def test_planning_does_not_keep_the_batch_from_others(world):
    batch = world.planned(2)
    other = world.planned(2)
    other.run(progress=False)
    assert batch.run(progress=False).ok
    assert states(batch) == [S.SUCCEEDED] * 2
    assert len(world.platform.launched) == 2


def test_jobs_may_be_added_while_the_batch_runs(world):
    batch = world.planned(2)
    for job in batch.as_completed():
        if job.key in ("j0", "j1"):
            batch.map(SPEC, key="j{n}", n=[2, 3])
    assert states(batch) == [S.SUCCEEDED] * 4
