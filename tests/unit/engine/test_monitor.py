"""Monitoring: polls that are right, wrong, late or missing."""

import shutil
from datetime import timedelta

import attrs
import pytest
from engine import SLOW, always, doubt, raising, states
from fakes import Fate

from canfar_batch import errors, failures
from canfar_batch.records import JobState, Phase
from canfar_batch.spec import JobSpec
from canfar_batch.strategies import OneByOne, Throttle, never

S = JobState

# -- polls that lie, fail, or show less ---------------------------------------------------------------------------


def test_an_hour_without_an_answer_fails_no_job_and_asks_little(world):
    world.platform.fate = lambda request: Fate(lasts=7200)
    batch = world.planned(20)
    world.turn(batch, 100)
    world.platform.before["containers"] = always(errors.PlatformBroken("a proxy's page"))
    before = world.platform.calls.total()
    world.turn(batch, 3500)
    assert world.platform.calls.total() - before <= 60
    assert {job.state for job in batch if job.attempts} <= {S.PENDING, S.RUNNING}
    del world.platform.before["containers"]
    batch.run(progress=False)
    assert set(states(batch)) == {S.SUCCEEDED}


@pytest.mark.parametrize("jobs", [1, 5])
@pytest.mark.parametrize("lie", [lambda _: [], lambda shown: shown[1:], lambda shown: shown[:-1]])
def test_lists_that_leave_out_what_runs_end_no_job(world, jobs, lie):
    world.platform.fate = lambda request: Fate(lasts=900)
    batch = world.planned(jobs)
    world.turn(batch, 20)
    world.platform.shown = lie
    world.turn(batch, 600)
    world.platform.shown = lambda shown: shown
    batch.run(progress=False)
    assert (set(states(batch)), len(world.platform.launched)) == ({S.SUCCEEDED}, jobs)


def test_a_stale_list_after_an_end_changes_nothing(world):
    world.platform.fate = lambda request: Fate(lasts=50)
    batch = world.planned(3)
    world.turn(batch, 45)
    old = world.platform.containers()
    old = [info for info in old if info.phase is Phase.RUNNING]
    flip = iter(range(10**6))
    world.platform.shown = lambda shown: old if next(flip) % 2 else shown
    batch.run(progress=False)
    assert (states(batch), len(world.platform.launched)) == ([S.SUCCEEDED] * 3, 3)


def test_a_poll_and_an_end_that_arrive_together_do_not_collide(world):
    """A list from before an end may arrive after it, and still show the job."""
    world.platform.fate = lambda request: Fate(lasts=50 if "-j0-" in request.name else 500)
    batch = world.planned(2)
    world.turn(batch, 45)
    stale = world.platform.containers()
    world.clock.sleep(10)
    batch.observe()
    answers = [stale]
    world.platform.shown = lambda shown: answers.pop() if answers else shown
    batch.observe()
    assert answers == []
    assert states(batch) == [S.SUCCEEDED, S.RUNNING]
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 2


def test_a_monitor_that_raises_an_unexpected_error_is_asked_again(world, caplog):
    polls = iter(range(10**6))

    def moody(platform, view):
        if next(polls) in (0, 3):
            raise ValueError("a page that no monitor understands")
        from canfar_batch.strategies import Listing

        return Listing()(platform, view)

    batch = world.planned(3, monitor=moody)
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 3
    assert "the monitor failed" in caplog.text


def test_one_by_one_ends_the_batch_too(world):
    world.platform.fate = lambda request: Fate(lasts=100)
    world.platform.before["container"] = raising(*[None, errors.PlatformBroken("hm")] * 4)
    batch = world.planned(4, monitor=OneByOne())
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 4


def test_running_may_become_pending_and_run_again(world):
    world.platform.fate = lambda request: Fate(lasts=100)
    batch = world.planned(1)
    for queue in (0, 90, 0):
        (container,) = world.platform.all.values() or [None]
        if container:
            container.fate = Fate(queue=queue, lasts=100)
        world.turn(batch, 30)
    batch.run(progress=False)
    phases = [line.body["phase"] for line in batch.history("j0") if line.kind == "PhaseChanged"]
    assert phases == ["running", "pending", "running"]
    assert states(batch) == [S.SUCCEEDED]


# -- a batch of that name, elsewhere ------------------------------------------------------------------------------


def test_a_new_ledger_refuses_a_name_whose_containers_run_already(world, tmp_path):
    world.platform.fate = lambda request: SLOW
    world.turn(world.planned(2), 20)
    world.root = tmp_path / "elsewhere"
    other = world.planned(2)
    with pytest.raises(errors.LedgerError, match="already has 2 containers"):
        other.run(progress=False)
    assert len(world.platform.launched) == 2


@pytest.mark.parametrize("has_receipt", [True, False])
def test_a_container_that_began_between_two_polls_is_not_stopped_for_its_waiting(world, has_receipt):
    world.platform.fate = lambda request: Fate(queue=10, lasts=200, receipt=has_receipt, log=b"step 1\n")
    silent = {True: Phase.PENDING, False: Phase.RUNNING}  # the node of a running container is silent at first
    world.platform.shown = lambda infos: [
        info if info.phase.final else attrs.evolve(info, phase=silent[world.clock.seconds < 120]) for info in infos
    ]
    batch = world.planned(1, JobSpec("fit {n}", image="skaha/astroml", pending_timeout=60, receipt=has_receipt))
    world.turn(batch, 90)
    assert batch["j0"].attempts[-1].has_run
    batch.run(progress=False)
    assert (states(batch), len(world.platform.launched)) == ([S.SUCCEEDED], 1)
    assert world.platform.calls["cancel"] == 0


# -- what happened to users ---------------------------------------------------------------------------------------


def test_one_by_one_finds_a_taken_name_too(world):
    world.platform.fate = lambda request: SLOW
    with world.planned(3) as batch:
        world.turn(batch, 10)
    shutil.rmtree(batch.home)
    with pytest.raises(errors.LedgerError, match="already has 3 containers"):
        world.planned(3, monitor=OneByOne()).run(progress=False)
    assert len(world.platform.launched) == 3


def test_one_by_one_removes_a_container_that_appears_late(world):
    held, make = [], world.platform.make
    world.platform.make = lambda request: held.append(request) or "0"
    world.platform.after["launch"] = raising(doubt())
    batch = world.planned(1, monitor=OneByOne(), retry=never)
    world.turn(batch, 200)
    make(held[0])
    batch.run(progress=False)
    assert (states(batch), world.platform.calls["launch"]) == ([S.SUCCEEDED], 1)


def test_a_job_is_not_overdue_because_the_clocks_differ(world):
    spec = JobSpec("fit {n}", image="skaha/x", timeout=300.0)
    world.platform.fate = lambda request: Fate(lasts=200)
    hour = timedelta(hours=1)
    world.platform.shown = lambda shown: [
        attrs.evolve(info, started_at=info.started_at and info.started_at - hour) for info in shown
    ]
    batch = world.planned(2, spec)
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 2


def test_setting_the_clock_back_delays_nothing(world, monkeypatch):
    batch = world.planned(10, launch=Throttle(1.0))
    world.turn(batch, 3)
    now = type(world.clock).now
    monkeypatch.setattr(type(world.clock), "now", lambda clock: now(clock) - timedelta(hours=1))
    began = world.clock.seconds
    batch.run(progress=False)
    assert world.clock.seconds - began < 300


# -- what one driver saw, another knows -------------------------------------------------------------------------------


def test_a_queued_job_that_is_deleted_while_no_driver_runs_is_not_launched_again(world):
    world.platform.fate = lambda request: Fate(queue=1e6)
    batch = world.planned(1)
    world.turn(batch, 60)
    batch.close()
    world.platform.all.clear()
    world.clock.sleep(60)
    again = world.planned(1)
    again.run(progress=False)
    assert [type(attempt.failure) for attempt in again.records[0].attempts] == [failures.Deleted]


def test_a_restart_that_no_poll_showed_is_counted_when_the_run_has_ended(world):
    world.platform.fate = lambda request: Fate(lasts=200)
    batch = world.planned(1)
    world.turn(batch, 30)
    (container,) = world.platform.all.values()
    world.clock.sleep(120)
    container.born = world.clock.ticks()  # stopped and begun again
    world.clock.sleep(300)
    batch.run(progress=False)
    (attempt,) = batch.records[0].attempts
    assert (attempt.succeeded, attempt.restarts, len(attempt.lost_runs)) == (True, 1, 1)
    assert 100 < attempt.lost_seconds < 160
