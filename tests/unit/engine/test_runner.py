"""The loop: what it does on good days and bad, on a clock that does not sleep."""

import base64
import gc
import heapq
import random
import re
import shutil
import sqlite3
from datetime import timedelta

import attrs
import pytest
from engine import SPEC, World, abandon, always, raising
from fakes import Fate

from canfar_batch import errors, failures
from canfar_batch.batch import Batch
from canfar_batch.engine.launch import MOST_IN_FLIGHT, Post
from canfar_batch.lifecycle import Cancelled
from canfar_batch.protocols import Again
from canfar_batch.records import JobState, Phase
from canfar_batch.spec import JobSpec, Secret
from canfar_batch.store import ledger
from canfar_batch.strategies import AtOnce, Files, Logs, OneByOne, Retry, Serial, Throttle, Window, never

S = JobState
SLOW = Fate(lasts=1e6)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def doubt(**more):
    return errors.LaunchInDoubt("no answer", launch_name="?", **more)


def states(batch):
    return [job.state for job in batch]


def kinds(batch, key="j0"):
    return [line.kind for line in batch.history(key)]


# -- the straight path --------------------------------------------------------------------------------------------


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
def test_a_look_is_one_question_however_many_the_jobs(world, n):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(n, launch=AtOnce())
    world.turn(batch, 60)
    before = world.platform.calls.copy()
    batch.observe()
    assert world.platform.calls - before == {"containers": 1}


def test_before_the_first_large_batch_the_platform_asks_for_word_once_and_only_where_it_is_not_local(
    world, capsys, monkeypatch
):
    monkeypatch.setattr("canfar_batch.store.home.Home.refuse_if_fleeting", lambda home: None)
    told = []
    for jobs, address in ((100, "https://a"), (101, "https://b"), (101, "https://b"), (101, "local")):
        world.planned(jobs, name=f"n{jobs}-{address[-1]}", address=address, launch=AtOnce()).run()
        told.append("support@canfar.net" in capsys.readouterr().err)
    assert told == [False, True, False, False]


def test_observers_hear_only_what_is_in_the_ledger_and_one_that_fails_changes_nothing(world):
    heard = []

    def listen(event):
        with sqlite3.connect(batch.home / "ledger.db") as db:
            heard.append(db.execute("SELECT count(*) FROM event WHERE kind = ?", (event.kind,)).fetchone()[0])
        db.close()
        raise RuntimeError("an observer's own trouble")

    batch = world.planned(2, observers=[listen])
    batch.run(progress=False)
    assert heard
    assert all(heard)
    assert states(batch) == [S.SUCCEEDED] * 2


def ideal(lasts, size):
    """When the last of these jobs ends if each begins, in order, at the moment at which a place is free."""
    places = [0.0] * size
    for seconds in lasts:
        heapq.heappush(places, heapq.heappop(places) + seconds)
    return max(places)


def pareto(dice, jobs):
    return [min(dice.paretovariate(1.1) * 200, 8000.0) for _ in range(jobs)]


def lognormal(dice, jobs):
    return [dice.lognormvariate(5.5, 1.0) for _ in range(jobs)]


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


# -- launches and their answers -----------------------------------------------------------------------------------


def test_a_launch_whose_answer_is_lost_is_adopted_by_its_name(world):
    world.platform.after["launch"] = raising(doubt())
    batch = world.planned(1)
    batch.run(progress=False)
    assert (states(batch), len(world.platform.launched)) == ([S.SUCCEEDED], 1)
    assert "Adopted" in kinds(batch)


def test_a_launch_that_never_appears_is_over_after_three_good_looks_and_the_settle_time(world):
    world.platform.before["launch"] = raising(doubt())
    batch = world.planned(1)
    world.turn(batch, 115)
    assert states(batch) == [S.LAUNCHING]
    batch.run(progress=False)
    first, second = batch["j0"].attempts
    assert isinstance(first.failure, failures.LaunchRefused)
    assert (first.ended_at - first.intended_at).total_seconds() >= 120
    assert (states(batch), second.number) == ([S.SUCCEEDED], 2)


@pytest.mark.parametrize(("same_again", "attempts"), [(False, 4), (True, 2)])
def test_launches_that_never_appear_are_tried_again_three_times_and_once_if_the_answer_says_it_is_in_vain(
    world, same_again, attempts
):
    world.platform.before["launch"] = always(doubt(same_again=same_again))
    batch = world.planned(1)
    batch.run(progress=False)
    assert states(batch) == [S.FAILED]
    assert [attempt.number for attempt in batch["j0"].attempts] == [*range(1, attempts + 1)]


def test_a_container_that_comes_late_is_taken_back_if_nothing_newer_was_launched(world):
    held = []
    make = world.platform.make
    world.platform.make = lambda request: held.append(request) or "0"
    world.platform.after["launch"] = raising(doubt())
    batch = world.planned(1, retry=Retry(pause=600.0))
    world.turn(batch, 180)
    assert states(batch) == [S.WAITING]
    world.platform.make = make
    make(held[0])
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED]
    assert [attempt.number for attempt in batch["j0"].attempts] == [1]


def test_a_container_that_comes_late_is_removed_if_a_newer_one_was_launched(world):
    world.platform.fate = lambda request: Fate(lasts=400)
    held, make = [], world.platform.make
    world.platform.make = lambda request: held.append(request) or "0"
    world.platform.after["launch"] = raising(doubt())
    batch = world.planned(1)
    world.turn(batch, 120)
    world.platform.make = make
    world.turn(batch, 60)
    assert len(batch["j0"].attempts) == 2
    late = make(held[0])
    batch.run(progress=False)
    assert late not in world.platform.all
    assert states(batch) == [S.SUCCEEDED]


@pytest.mark.parametrize(
    "error", [errors.NotSent("no route"), errors.PlatformBusy("later", retry_after=77.0), errors.LeaseLost("slept")]
)
def test_what_was_not_taken_is_sent_again_later_as_the_same_attempt(world, error):
    world.platform.before["launch"] = raising(error)
    batch = world.planned(1)
    batch.run(progress=False)
    assert [attempt.number for attempt in batch["j0"].attempts] == [1]
    asked = [line.at for line in batch.history("j0") if line.kind == "Intended"]
    assert len(asked) == 2
    assert (asked[1] - asked[0]).total_seconds() >= (getattr(error, "retry_after", None) or 2.5)
    assert states(batch) == [S.SUCCEEDED]


def test_a_platform_that_is_busy_for_an_hour_is_asked_ever_more_rarely(world):
    world.platform.before["launch"] = always(errors.PlatformBusy("later"))
    batch = world.planned(500, launch=AtOnce())
    world.turn(batch, 3600)
    waves = world.platform.calls["launch"] / MOST_IN_FLIGHT
    assert waves < 30
    assert set(states(batch)) == {S.PLANNED}
    del world.platform.before["launch"]
    batch.run(progress=False)
    assert set(states(batch)) == {S.SUCCEEDED}


@pytest.mark.parametrize("error", [errors.PlatformRefused("bad", status=400), errors.AccessDenied("no", status=403)])
def test_what_is_refused_is_refused_for_good(world, error):
    world.platform.before["launch"] = always(error)
    batch = world.planned(2)
    batch.run(progress=False)
    assert (states(batch), world.platform.calls["launch"]) == ([S.FAILED] * 2, 2)
    assert isinstance(batch["j0"].failure, failures.LaunchRefused)


def test_a_batch_with_refused_jobs_ends_at_once_when_it_is_run_again(world):
    world.platform.before["launch"] = always(errors.PlatformRefused("bad", status=400))
    world.planned(2).run(progress=False)
    now = world.clock.seconds
    world.planned(2).run(progress=False)
    assert world.clock.seconds == now


def test_an_expired_credential_pauses_the_batch_which_says_so_and_goes_on(world, caplog):
    world.platform.before["launch"] = raising(errors.CredentialExpired("log in again"))
    world.platform.before["containers"] = raising(None, *[errors.CredentialExpired("log in again")] * 4)
    batch = world.planned(3)
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 3
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any("log in again" in line for line in told)
    assert any("going on" in line for line in told)


def test_a_launch_that_cannot_be_written_down_for_the_platform_fails_that_job_alone(world):
    batch = world.planned(1, JobSpec("fit {n}", image="skaha/astroml"))
    batch.map(JobSpec("fit {big}", image="skaha/astroml"), key="big", big=["x" * 3_000_000])
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED, S.FAILED]
    assert isinstance(batch["big"].failure, failures.LaunchRefused)


def test_an_unheard_of_error_of_a_launch_leaves_it_in_doubt(world):
    world.platform.after["launch"] = raising(RuntimeError("what is this"))
    batch = world.planned(2)
    batch.run(progress=False)
    assert (states(batch), len(world.platform.launched)) == ([S.SUCCEEDED] * 2, 2)


def test_a_strategy_may_pick_twice_and_what_is_not_ready(world):
    def greedy(view):
        from canfar_batch.protocols import Bundle

        return [Bundle(job) for job in [*view.active(), *view.ready(), *view.ready()]]

    batch = world.planned(5, launch=greedy)
    batch.run(progress=False)
    assert (states(batch), len(world.platform.launched)) == ([S.SUCCEEDED] * 5, 5)


def test_two_containers_of_one_name_become_one(world):
    world.platform.fate = lambda request: Fate(lasts=300)
    make = world.platform.make

    def twice(request):
        make(request)
        return make(request)

    world.platform.make = twice
    batch = world.planned(1)
    looks = []
    world.platform.before["cancel"] = lambda: looks.append(world.platform.calls["containers"])
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED]
    assert len(world.platform.all) == 1
    assert looks[0] >= 3, "the look before the launch, and two that show both"


# -- looks that lie, fail, or show less ---------------------------------------------------------------------------


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


def test_a_look_and_an_end_that_are_heard_together_do_not_collide(world):
    """A list from before an end, heard just after it, speaks of a job that is over."""
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


def test_a_monitor_that_raises_what_nobody_expects_is_asked_again(world, caplog):
    looks = iter(range(10**6))

    def moody(platform, view):
        if next(looks) in (0, 3):
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


# -- ends and their evidence --------------------------------------------------------------------------------------


def test_a_preempted_container_that_is_restarted_is_not_over(world):
    world.platform.fate = lambda request: Fate(lasts=500)
    batch = world.planned(1)
    world.turn(batch, 30)
    (container,) = world.platform.all.values()
    world.platform.write_receipts(batch.home, "j0", 1, container.request.name, code=143)
    world.turn(batch, 200)
    assert states(batch) == [S.RUNNING]
    world.platform.write_receipts(batch.home, "j0", 1, container.request.name, code=0)
    batch.run(progress=False)
    assert (states(batch), len(batch["j0"].attempts)) == ([S.SUCCEEDED], 1)


def test_completed_without_a_receipt_is_a_success_and_said_to_be_unverified(world):
    world.platform.fate = lambda request: Fate(receipt=False)
    batch = world.planned(1)
    batch.run(progress=False)
    assert (states(batch), batch["j0"].attempts[-1].verified) == ([S.SUCCEEDED], False)


def test_a_receipt_file_weighs_more_than_the_log_and_the_platforms_word(world):
    batch = world.planned(1)
    world.turn(batch, 1)
    world.platform.write_receipts(batch.home, "j0", 1, world.platform.launched[0], code=3)
    batch.run(progress=False)
    assert (states(batch), batch["j0"].failure) == (
        [S.FAILED],
        failures.ExitCode(3, message=batch["j0"].failure.message),
    )


def test_what_vanished_with_a_receipt_file_is_judged_by_it(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(1)
    world.turn(batch, 30)
    world.platform.write_receipts(batch.home, "j0", 1, world.platform.launched[0])
    world.platform.all.clear()
    batch.run(progress=False)
    assert (states(batch), len(world.platform.launched)) == ([S.SUCCEEDED], 1)


def test_what_vanished_without_a_word_is_lost_and_launched_again(world):
    fates = iter([SLOW, Fate()])
    world.platform.fate = lambda request: next(fates)
    batch = world.planned(1)
    world.turn(batch, 30)
    world.platform.all.clear()
    batch.run(progress=False)
    assert isinstance(batch["j0"].attempts[0].failure, failures.Lost)
    assert (states(batch), len(batch["j0"].attempts)) == ([S.SUCCEEDED], 2)


def test_what_ended_while_nobody_looked_is_unwatched_and_not_launched_again(world):
    batch = world.planned(1)
    world.turn(batch, 3)
    batch.close()
    world.clock.sleep(4000)
    again = world.planned(1)
    again.run(progress=False)
    assert states(again) == [S.LOST]
    assert isinstance(again["j0"].failure, failures.Unwatched)
    assert len(world.platform.launched) == 1


def test_a_late_receipt_turns_a_loss_into_a_success(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(1, retry=never)
    world.turn(batch, 30)
    world.platform.all.clear()
    batch.run(progress=False)
    assert states(batch) == [S.LOST]
    world.platform.write_receipts(batch.home, "j0", 1, world.platform.launched[0])
    batch.run(progress=False)
    assert (states(batch), len(world.platform.launched)) == ([S.SUCCEEDED], 1)
    assert batch.results()["j0"] is not None


def test_a_late_receipt_before_the_next_attempt_spares_that_attempt(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(1, retry=Retry(pause=300.0))
    world.turn(batch, 30)
    world.platform.all.clear()
    world.turn(batch, 200)
    assert states(batch) == [S.WAITING]
    world.platform.write_receipts(batch.home, "j0", 1, world.platform.launched[0])
    batch.run(progress=False)
    assert (states(batch), len(world.platform.launched)) == ([S.SUCCEEDED], 1)


def test_a_torn_log_is_fetched_again(world):
    batch = world.planned(1)
    whole, times = world.platform._log, iter(range(100))
    world.platform._log = lambda c: whole(c) if next(times) >= 2 else whole(c).partition(b" end ")[0]
    batch.run(progress=False)
    assert batch["j0"].attempts[-1].verified
    assert world.platform.calls["logs"] == 3


def test_logs_that_break_for_hours_do_not_hold_a_verdict_up_for_ever(world):
    world.platform.before["logs"] = always(errors.PlatformBroken("no logs today"))
    batch = world.planned(2)
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 2
    assert not batch["j0"].attempts[-1].verified
    assert 120 < world.clock.seconds < 1800


def test_a_receipt_that_says_what_cannot_be_ends_no_run(world):
    batch = world.planned(1)
    world.turn(batch, 1)
    name = world.platform.launched[0]
    world.platform.write_receipts(batch.home, "j0", 1, name)
    (batch.home / "receipts" / "j0.1.end").exists()
    for path in (batch.home / "receipts").iterdir():
        path.write_text(path.read_text().replace("finished=2", "finished=99999999999999999999"))
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED]


def test_an_image_that_cannot_be_pulled_is_found_out_and_stopped(world):
    world.platform.fate = lambda request: Fate(queue=1e6)
    world.platform.noted = "Warning   Failed   Failed to pull image   1   2\n"
    batch = world.planned(1, retry=never)
    batch.run(progress=False)
    assert isinstance(batch["j0"].failure, failures.ImagePull)
    assert world.clock.seconds < 600
    assert not world.platform.all


def test_events_that_cannot_be_had_stop_nothing(world):
    world.platform.fate = lambda request: Fate(queue=300)
    world.platform.before["events"] = always(errors.JobNotFound("session x not found."))
    batch = world.planned(2)
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 2


def test_what_pends_too_long_is_stopped_and_launched_again(world):
    fates = iter([Fate(queue=1e6), Fate()])
    world.platform.fate = lambda request: next(fates)
    batch = world.planned(1, JobSpec("fit {n}", image="skaha/astroml", pending_timeout=100))
    batch.run(progress=False)
    assert isinstance(batch["j0"].attempts[0].failure, failures.StuckPending)
    assert (states(batch), len(world.platform.all)) == ([S.SUCCEEDED], 1)


def test_what_runs_beyond_its_timeout_is_stopped_by_the_driver_at_last(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(1, JobSpec("fit {n}", image="skaha/astroml", timeout=100))
    batch.run(progress=False)
    assert isinstance(batch["j0"].failure, failures.TimedOut)
    assert (states(batch), world.platform.all) == ([S.FAILED], {})


# -- failing alike ------------------------------------------------------------------------------------------------


def test_five_that_fail_alike_before_any_success_pause_the_batch(world):
    world.platform.fate = lambda request: Fate(code=2)
    batch = world.planned(50, launch=Window(3))
    with pytest.raises(errors.BatchPaused, match="5 jobs to end all failed alike") as stopped:
        batch.run(progress=False)
    assert stopped.value.report is not None
    assert len(world.platform.launched) <= 8
    assert batch.run(progress=False, stop_alike=None)
    assert set(states(batch)) == {S.FAILED}


def test_a_pause_for_failing_alike_outlives_a_credential_that_comes_back(world):
    world.platform.fate = lambda request: Fate(code=2)
    batch = world.planned(50, launch=Window(5))
    looks = iter(range(10**6))
    expired = errors.CredentialExpired("log in")
    world.platform.before["containers"] = lambda: always(expired)() if next(looks) % 4 == 3 else None
    with pytest.raises(errors.BatchPaused):
        batch.run(progress=False)
    assert len(world.platform.launched) <= 10


def test_after_a_success_failing_alike_pauses_nothing(world):
    world.platform.fate = lambda request: Fate(code=0 if "-j0-" in request.name else 2)
    batch = world.planned(20, launch=Window(1))
    batch.run(progress=False)
    assert batch.counts == {S.SUCCEEDED: 1, S.FAILED: 19}


# -- cancelling ---------------------------------------------------------------------------------------------------


def test_cancel_stops_what_is_planned_pending_and_running(world):
    world.platform.fate = lambda request: SLOW if "-j0-" in request.name else Fate(queue=1e6)
    batch = world.planned(4, launch=Window(2))
    world.turn(batch, 30)
    assert states(batch) == [S.RUNNING, S.PENDING, S.PLANNED, S.PLANNED]
    assert batch.cancel() == ["j0", "j1", "j2", "j3"]
    assert (states(batch), world.platform.all) == ([S.CANCELLED] * 4, {})
    batch.run(progress=False)
    assert len(world.platform.launched) == 2


def test_cancel_sweeps_a_launch_that_is_in_doubt(world):
    world.platform.fate = lambda request: SLOW
    held, make = [], world.platform.make
    world.platform.make = lambda request: held.append(request) or "0"
    world.platform.after["launch"] = raising(doubt())
    batch = world.planned(1)
    world.turn(batch, 10)
    batch.cancel(wait=False)
    world.turn(batch, 150)
    assert states(batch) == [S.CANCELLED]
    make(held[0])
    batch.run(progress=False)
    assert (states(batch), world.platform.all) == ([S.CANCELLED], {})


@pytest.mark.parametrize(
    "error", [errors.PlatformBusy("later"), errors.NotSent("no"), errors.PlatformRefused("bad", status=400)]
)
def test_cancel_while_a_launch_is_under_way_that_comes_to_nothing(world, error):
    def while_sending():
        batch._ledger.ask("cancel", ["j0"])
        batch.cancel(["j0"], wait=False, timeout=0)
        raise error

    world.platform.before["launch"] = while_sending
    batch = world.planned(1, retry=Retry(classes=failures.LaunchRefused))
    batch.run(progress=False, timeout=4000)
    assert (states(batch), world.platform.calls["launch"]) == ([S.CANCELLED], 1)


def test_a_success_that_is_told_while_cancelling_wins(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(1)
    world.turn(batch, 30)
    world.platform.write_receipts(batch.home, "j0", 1, world.platform.launched[0])
    batch.cancel()
    assert states(batch) == [S.SUCCEEDED]


def test_a_success_whose_receipt_comes_after_the_cancel_wins_too(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(1)
    world.turn(batch, 30)
    batch.cancel()
    assert states(batch) == [S.CANCELLED]
    world.platform.write_receipts(batch.home, "j0", 1, world.platform.launched[0])  # a network disk took its time
    batch.run(progress=False)
    assert (states(batch), world.platform.calls["launch"]) == ([S.SUCCEEDED], 1)


def test_a_cancel_that_cannot_get_through_says_why(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(1)
    world.turn(batch, 30)
    world.platform.before["containers"] = always(errors.CredentialExpired("your token is over: canfar login"))
    with pytest.raises(errors.WaitTimeout, match="still being stopped after 600 s: your token is over: canfar login"):
        batch.cancel(timeout=600)
    world.platform.before.clear()
    batch.run(progress=False)  # the wish was recorded
    assert (states(batch), world.platform.all) == ([S.CANCELLED], {})


def test_evidence_that_the_first_try_of_a_cancel_found_outlives_its_lost_answer(world):
    world.platform.fate = lambda request: Fate(lasts=31)
    batch = world.planned(1)
    world.turn(batch, 30)
    world.platform.shown = lambda shown: [attrs.evolve(info, phase=Phase.RUNNING) for info in shown]
    world.clock.sleep(5)  # it is over, and the list does not say so yet; its log does
    world.platform.after["cancel"] = raising(errors.PlatformBroken("the answer to DELETE is lost"))
    batch.cancel()
    assert states(batch) == [S.SUCCEEDED]
    assert b"end" not in batch["j0"].attempts[-1].log.read_bytes()


def test_a_container_that_refuses_to_go_for_a_day_ends_no_run(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(1)
    world.turn(batch, 30)
    cancel = world.platform.cancel
    world.platform.cancel = lambda id: None
    batch.cancel(wait=False)
    world.turn(batch, 40_000)
    assert states(batch) == [S.RUNNING]
    world.platform.cancel = cancel
    batch.run(progress=False)
    assert states(batch) == [S.CANCELLED]


def test_another_batch_object_asks_the_driver_to_cancel(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(2)
    world.turn(batch, 30)
    other = world.batch()
    assert other.cancel(["j1"]) == ["j1"]
    world.turn(batch, 60)
    assert states(batch) == [S.RUNNING, S.CANCELLED]
    other.close()


# -- ways to hold the loop ----------------------------------------------------------------------------------------


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
    world.platform.fate = lambda request: Fate(receipt="-j1-" not in request.name)
    batch = world.planned(3, launch=Window(2))
    for _ in range(60):
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
    whole, times = world.platform._log, iter(range(100))
    world.platform._log = lambda c: whole(c) if next(times) >= 2 else whole(c).partition(b" end ")[0]
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
    from canfar_batch.strategies import Throttle

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
    return Post(ledger.jobs["j0"], batch._engine.launch_context, batch._engine.platform, ledger, ledger.generation)


# -- a batch of that name, elsewhere ------------------------------------------------------------------------------


def test_a_new_ledger_refuses_a_name_whose_containers_run_already(world, tmp_path):
    world.platform.fate = lambda request: SLOW
    world.turn(world.planned(2), 20)
    world.root = tmp_path / "elsewhere"
    other = world.planned(2)
    with pytest.raises(errors.LedgerError, match="already has 2 containers"):
        other.run(progress=False)
    assert len(world.platform.launched) == 2


# -- again --------------------------------------------------------------------------------------------------------


def test_retry_failed_opens_what_failed_with_more_memory(world):
    world.platform.fate = lambda request: Fate(code=0 if (request.resources.ram or 0) >= 16 else 9)
    batch = world.planned(3, JobSpec("fit {n}", image="skaha/astroml", ram=4))
    batch.run(progress=False)
    assert states(batch) == [S.FAILED] * 3
    assert batch.retry_failed(cause="out of memory") == []
    assert batch.retry_failed(["j1"], ram=16) == ["j1"]
    batch.run(progress=False)
    assert states(batch) == [S.FAILED, S.SUCCEEDED, S.FAILED]
    assert batch.retry_failed(cause="ExitCode", ram=16, name="again") == ["j0", "j2"]
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 3
    assert "again" in batch["j0"].attempts[-1].launch_name
    with pytest.raises(errors.SpecError, match="cmd"):
        batch.retry_failed(cmd="other")


def test_a_job_that_is_opened_again_before_its_pause_is_over_goes_at_once(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(1, retry=Retry(pause=600.0))
    world.turn(batch, 30)
    world.platform.all.clear()
    world.turn(batch, 200)
    assert states(batch) == [S.WAITING]
    batch.cancel()
    batch.retry_failed(["j0"])
    world.turn(batch, 20)
    assert batch["j0"].state.active


def test_memory_grows_to_what_is_offered_and_no_further(world):
    asked = []
    world.platform.fate = lambda request: asked.append(request.resources.ram) or Fate(code=137, oom_kills=1)
    spec = JobSpec("fit {n}", image="skaha/astroml", ram=8)
    batch = world.planned(1, spec, retry=Retry(again=9, at_most=9, grow_ram=1.5))
    batch.run(progress=False)
    assert asked == [8, 16, 32, 64]
    assert states(batch) == [S.FAILED]


# -- results ------------------------------------------------------------------------------------------------------


def test_a_collector_that_raises_leaves_a_success_and_collect_repeats_it(world):
    moody = raising(OSError("no such file \udce9"), ValueError("what"))

    def fetch(job, platform):
        moody()
        return job.key

    batch = world.planned(2, collect=fetch)
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 2
    assert batch.results(missing="-") == {"j0": "-", "j1": "-"}
    assert batch.collect(["j0"]) == {"j0": "j0"}
    assert not batch._ledger.driving
    with pytest.raises(errors.JobNotFound):
        batch.collect(["nobody"])


@pytest.mark.parametrize("value", [(1, 2), {1: 2}, float("nan"), object(), "x" * 70_000, {"deep": {3}}])
def test_results_that_the_ledger_cannot_keep_are_kept_in_memory_and_fetched_again_later(world, value):
    batch = world.planned(1, collect=lambda job, platform: value)
    batch.run(progress=False)
    assert batch.results()["j0"] is value
    assert world.planned(1, collect=lambda job, platform: value).results()["j0"] is value


def test_a_result_that_cannot_be_fetched_again_is_missing_alone(world):
    world.planned(2, collect=lambda job, platform: {1, 2}).run(progress=False)

    def broken(job, platform):
        raise ValueError("not today")

    assert world.planned(2, collect=broken).results(missing="-") == {"j0": "-", "j1": "-"}


def test_collectors_may_be_several_and_serial(world):
    import threading

    threads = []
    collect = {"log": Logs(), "mine": Serial(lambda job, platform: threads.append(threading.current_thread()))}
    batch = world.planned(2, collect=collect)
    batch.run(progress=False)
    assert set(batch.results()["j0"]) == {"log", "mine"}
    assert set(threads) == {threading.main_thread()}
    assert batch._engine.setup.strategies.collect.serial


def test_a_job_without_declared_outputs_has_no_files(world):
    batch = world.planned(1, collect=Files())
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED]
    assert "declares no outputs" in batch._ledger.jobs["j0"].collect_error


# -- after a crash ------------------------------------------------------------------------------------------------


def test_a_driver_that_died_is_replaced_at_once(world):
    world.platform.fate = lambda request: Fate(lasts=300)
    batch = world.planned(5)
    world.turn(batch, 50)
    abandon(batch)
    again = world.planned(5)
    again.run(progress=False)
    assert (states(again), len(world.platform.launched)) == ([S.SUCCEEDED] * 5, 5)


def test_a_batch_that_was_thrown_away_in_this_process_keeps_nobody_waiting(world):
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
    assert batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 2
    assert len(world.platform.launched) == 2


def test_jobs_may_be_added_while_the_batch_runs(world):
    batch = world.planned(2)
    for job in batch.as_completed():
        if job.key in ("j0", "j1"):
            batch.map(SPEC, key="j{n}", n=[2, 3])
    assert states(batch) == [S.SUCCEEDED] * 4
    assert timedelta(0) < timedelta(seconds=world.clock.seconds)


# -- secrets ------------------------------------------------------------------------------------------------------


def test_a_secret_reaches_the_job_and_no_file_of_the_batch(world, monkeypatch):
    monkeypatch.setenv("MY_KEY", "hush-hush")
    batch = world.planned(1, JobSpec("fit {n}", image="skaha/x", env={"A": Secret("MY_KEY")}, receipt=False))
    again = attrs.evolve(batch["j0"].spec, ram=4)  # also what is told when a spec changes
    batch.map(again, key="j{n}", n=[0])
    sent, make = [], world.platform.make
    world.platform.make = lambda request: sent.append(request) or make(request)
    batch.run(progress=False)
    (request,) = sent
    assert (request.secrets, "hush" in repr(request)) == (("hush-hush",), False)
    assert ("A", "hush-hush") in request.env
    assert "(the secret $MY_KEY)" in batch.preview() + str(batch["j0"].spec)
    batch.report().to_html()
    texts = [path.read_bytes() for path in batch.home.rglob("*") if path.is_file()]
    assert len(texts) >= 3
    assert not [text for text in texts if b"hush" in text or base64.b64encode(b"hush-hush")[:10] in text]


def test_a_renewed_secret_is_no_other_job(world, monkeypatch):
    spec = JobSpec("fit {n}", image="skaha/x", env={"A": Secret("MY_KEY")})
    for value in ("old", "new"):
        monkeypatch.setenv("MY_KEY", value)
        world.planned(1, spec).run(progress=False)
    assert len(world.platform.launched) == 1


def test_a_secret_that_is_not_set_is_missed_before_anything_is_planned_or_launched(world, monkeypatch):
    spec = JobSpec("fit {n}", image="skaha/x", env={"A": Secret("MY_KEY")})
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(errors.SpecError, match="MY_KEY"):
        world.planned(1, spec)
    monkeypatch.setenv("MY_KEY", "x")
    batch = world.planned(1, spec)
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(errors.SpecError, match="MY_KEY"):
        batch.run(progress=False)
    with pytest.raises(errors.SpecError, match="MY_KEY"):
        next(batch.as_completed())
    assert (states(batch), world.platform.launched) == ([S.PLANNED], [])


# -- planning while nobody drives ---------------------------------------------------------------------------------


def test_one_more_job_is_one_transaction(world):
    batch = world.planned(1)
    written = []
    batch._ledger._db.set_trace_callback(written.append)
    batch.add(SPEC, key="one-more", n=7)
    batch._ledger._db.set_trace_callback(None)
    assert written.count("COMMIT") == written.count("BEGIN IMMEDIATE") == 1


def test_a_plan_that_cannot_be_written_leaves_nothing_of_it_to_be_seen(world, monkeypatch):
    batch = world.planned(2)
    changed = attrs.evolve(SPEC, ram=8)

    def full(self, events):
        raise errors.HomeError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(type(batch._ledger), "record", full)
        with pytest.raises(errors.HomeError, match="no room"):
            batch.map(changed, key="j{n}", n=range(4))
    assert [job.key for job in batch] == ["j0", "j1"]
    batch.map(changed, key="j{n}", n=range(4))
    assert [job.spec.ram for job in batch] == [8] * 4


def test_what_another_process_planned_meanwhile_is_heeded(world):
    batch, other = world.planned(1), world.batch()
    other.map(SPEC, key="j{n}", n=[1, 2])
    batch.add(SPEC, key="mine", n=3)
    other.add(SPEC, key="theirs", n=4)
    assert [job.key for job in other] == ["j0", "j1", "j2", "mine", "theirs"]
    assert [job.key for job in world.batch()] == ["j0", "j1", "j2", "mine", "theirs"]


def test_a_plan_is_not_changed_under_another_driver(world):
    batch = world.planned(1)
    world.platform.fate = lambda request: SLOW
    world.turn(batch, 10)
    with pytest.raises(errors.BatchBusy):
        world.batch().add(SPEC, key="more", n=1)
    assert world.batch(name="test")._ledger.jobs.keys() == {"j0"}


# -- what happened to people ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("refused", [lambda b: b.drop(["typo"]), lambda b: b.retry_failed(["typo"])])
def test_after_a_change_that_was_refused_other_processes_are_still_heard(world, refused):
    batch = world.planned(4)
    with pytest.raises(LookupError):
        refused(batch)
    with world.planned(4) as other:
        other.run(progress=False)
        other.add(SPEC, key="theirs", n=9)
    batch.add(SPEC, key="mine", n=10)
    batch.run(progress=False)
    assert [job.key for job in batch] == ["j0", "j1", "j2", "j3", "theirs", "mine"]
    assert len(world.platform.launched) == 6


def test_a_stale_plan_fails_loudly_and_overwrites_nothing(world):
    batch, other = world.planned(1), world.batch()
    other.add(SPEC, key="theirs", n=1)
    batch._ledger.generation += 1  # as if nothing had happened meanwhile
    with pytest.raises(errors.LedgerError):
        batch.add(SPEC, key="mine", n=2)
    assert [job.key for job in world.batch()] == ["j0", "theirs"]


def test_an_interrupt_while_a_batch_is_read_leaves_no_half_of_it(world, monkeypatch):
    world.planned(20).close()
    batch, read = world.batch(), ledger.job_from
    monkeypatch.setattr(ledger, "job_from", lambda row, *more: interrupt() if row["place"] == 7 else read(row, *more))
    with pytest.raises(errors.Detached):
        batch.run(progress=False)
    monkeypatch.undo()
    assert len(batch) == 20
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 20


def test_an_interrupt_as_a_transaction_begins_leaves_none_open(world, monkeypatch):
    batch, patiently = world.planned(2), ledger._patiently

    def begun(db, statement):
        patiently(db, statement)
        if statement.startswith("BEGIN"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "_patiently", begun)
        with pytest.raises(errors.Detached):
            batch.run(progress=False)
    world.batch().add(SPEC, key="theirs", n=9)
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 3


def interrupt():
    raise KeyboardInterrupt


def test_a_batch_is_run_by_one_user(world, monkeypatch):
    world.platform.fate = lambda request: SLOW
    monkeypatch.setattr(type(world.platform), "user", None, raising=False)
    with world.planned(2) as batch:
        monkeypatch.setattr(type(world.platform), "user", "alice", raising=False)
        world.turn(batch, 10)
    assert world.batch()._ledger.identity.user == "alice"
    monkeypatch.setattr(type(world.platform), "user", None, raising=False)
    theirs = world.planned(2)  # a session does not know its user before the first answer
    monkeypatch.setattr(type(world.platform), "user", "bob", raising=False)
    with pytest.raises(errors.LedgerError, match="is run by alice, and you are bob here"):
        theirs.run(progress=False)
    assert len(world.platform.launched) == 2


def test_a_cancel_of_all_is_of_those_that_are_there(world):
    batch = world.planned(1)
    batch.run(progress=False)
    with Batch.open("test", world.root) as reader:
        assert reader.cancel() == []
    batch.map(SPEC, key="later{n}", n=range(2))
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 3


def test_one_script_may_not_say_twice_what_a_job_is(world):
    batch = world.planned(2)
    with pytest.raises(errors.SpecChanged, match="'j0' was planned a moment ago as another job: cmd was"):
        batch.map(JobSpec("stack {n}", image="skaha/x"), key="j{n}", n=range(2))
    batch.replicas(SPEC_ALONE, 3)
    with pytest.raises(errors.SpecChanged, match=r"'replica-1' .* env differs in REPLICA_COUNT"):
        batch.replicas(SPEC_ALONE, 2)
    changed = world.batch()
    changed.map(JobSpec("stack {n}", image="skaha/x"), key="j{n}", n=range(2))  # a script that was edited
    assert [job.spec.words[0] for job in changed][:2] == ["stack", "stack"]


SPEC_ALONE = JobSpec("fit", image="skaha/x")


def test_one_by_one_finds_a_taken_name_too(world):
    world.platform.fate = lambda request: SLOW
    with world.planned(3) as batch:
        world.turn(batch, 10)
    shutil.rmtree(batch.home)
    with pytest.raises(errors.LedgerError, match="already has 3 containers"):
        world.planned(3, monitor=OneByOne()).run(progress=False)
    assert len(world.platform.launched) == 3


def test_one_by_one_takes_back_what_appears_late(world):
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


def test_who_sets_the_clock_back_delays_nothing(world, monkeypatch):
    batch = world.planned(10, launch=Throttle(1.0))
    world.turn(batch, 3)
    now = type(world.clock).now
    monkeypatch.setattr(type(world.clock), "now", lambda clock: now(clock) - timedelta(hours=1))
    began = world.clock.seconds
    batch.run(progress=False)
    assert world.clock.seconds - began < 300


def test_a_cancel_that_nobody_waits_for_is_told_to_the_platform(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(3)
    world.turn(batch, 30)
    batch.close()
    batch = world.batch()
    batch.cancel(wait=False)
    assert world.platform.calls["cancel"] == 3
    assert batch.driver is None


def test_after_a_cancel_the_batch_is_free_again_unless_it_was_driven(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(2)
    batch.cancel(["j0"])
    assert batch.driver is None
    world.turn(batch, 10)
    batch.cancel()
    assert batch.driver is not None


def test_a_loop_that_is_held_by_hand_ends_where_the_batch_is_paused(world):
    world.platform.fate = lambda request: Fate(code=1)
    batch = world.planned(20, launch=Window(2))
    with pytest.raises(errors.BatchPaused, match="failed alike"):
        world.turn(batch, 1000)
    for stage in (batch.step, batch.launch, lambda: batch.preflight(trial=True)):
        with pytest.raises(errors.BatchPaused):
            stage()
    world.platform.fate = lambda request: Fate()
    batch.retry_failed()
    while not batch.done:
        batch._engine.wait(batch.step())
    assert states(batch) == [S.SUCCEEDED] * 20


def test_as_completed_ends_where_a_job_that_it_told_of_is_dropped(world):
    batch = world.planned(3)
    batch.cancel(["j2"])
    told = []
    for job in batch.as_completed():
        told.append(job.key)
        if job.key == "j2":
            batch.retry_failed(["j2"])
            batch.drop(["j2"])
    assert sorted(told) == ["j0", "j1", "j2"]


def test_a_retry_may_have_a_name_of_its_own(world):
    world.platform.fate = lambda request: Fate(code=1)
    batch = world.planned(1)
    batch.run(progress=False)
    batch.retry_failed(name="again-{n}-{key}")
    batch.run(progress=False)
    assert "-again-0-j0-" in world.platform.launched[-1]


@pytest.mark.parametrize(
    ("role", "strategy", "words"),
    [
        ("launch", lambda view: None, r"launch strategy .* returned None; it returns a list of jobs or Bundles"),
        ("launch", lambda view: [1], r"launch strategy .* returned \[1\]"),
        ("retry", lambda job, failure: True, r"retry policy .* returned True; it returns Again\(…\) or Stop\(…\)"),
        ("monitor", lambda platform, view: None, r"monitor strategy .* returned None; it returns an Observation"),
    ],
)
def test_a_strategy_that_answers_nonsense_is_named(world, role, strategy, words):
    world.platform.fate = lambda request: Fate(code=1)
    batch = world.planned(1, **{role: strategy})
    with pytest.raises(errors.StrategyError, match=words):
        batch.run(progress=False)


def test_a_launch_strategy_may_return_jobs(world):
    batch = world.planned(3, launch=lambda view: view.ready(at_most=2))
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 3


@pytest.mark.parametrize("after", [-1.0, float("nan"), float("inf")])
def test_a_pause_is_a_number_of_seconds(after):
    with pytest.raises(ValueError, match="after"):
        Again(after=after)


@pytest.mark.parametrize(
    "use",
    [
        lambda batch: batch.run(), lambda batch: batch.add(SPEC, key="x", n=7), lambda batch: batch.history(),
        lambda batch: batch.driver, lambda batch: batch.report(), lambda batch: batch.cancel(),
        lambda batch: batch.step(),
    ],
)  # fmt: skip
def test_a_closed_batch_says_that_it_is(world, use):
    batch = world.planned(1)
    batch.close()
    with pytest.raises(errors.AlreadyClosed, match="was closed; open it again"):
        use(batch)


def test_a_batch_of_a_closed_session_says_so(world):
    batch = world.planned(1)
    world.platform.closed = True
    with pytest.raises(errors.AlreadyClosed, match="the session that batch 'test' belongs to was closed"):
        batch.run(progress=False)


def test_a_fork_of_the_driver_does_not_drive(world, monkeypatch):
    batch = world.planned(1)
    batch.step()
    monkeypatch.setattr("canfar_batch.store.ledger.os.getpid", lambda: -1)
    assert not batch._ledger.driving
    assert not batch._ledger.still_mine(batch._ledger.generation)
    with pytest.raises(errors.BatchBusy):
        batch._ledger.record([Cancelled(key="j0", at=world.clock.now())])


def test_a_time_out_while_jobs_are_told_of_has_a_report(world):
    world.platform.fate = lambda request: SLOW
    with pytest.raises(errors.WaitTimeout) as caught:
        list(world.planned(1).as_completed(timeout=10))
    assert caught.value.report.counts == {S.RUNNING: 1}


def test_finished_jobs_need_no_secret(world, monkeypatch):
    spec = JobSpec("fit {n}", image="skaha/x", env={"A": Secret("MY_KEY")})
    monkeypatch.setenv("MY_KEY", "x")
    world.planned(1, spec).run(progress=False)
    monkeypatch.delenv("MY_KEY")
    assert world.planned(1, spec).run(progress=False).ok


def test_a_batch_whose_jobs_are_all_over_is_reported_and_not_paused(world):
    world.platform.fate = lambda request: Fate(code=1)
    report = world.planned(8, launch=AtOnce()).run(progress=False)
    assert report.counts == {S.FAILED: 8}


def test_a_pause_says_how_to_go_on(world):
    world.platform.fate = lambda request: Fate(code=1)
    with pytest.raises(errors.BatchPaused, match=r"Fix the cause, then retry_failed\(\) and run\(\)"):
        world.planned(20, launch=Window(2)).run(progress=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"memory": 3}, r"there is no memory \(did you mean ram\?\); cores, gpus, name"),
        ({"core": 3}, r"there is no core \(did you mean cores\?\)"),
        ({"image": "x"}, r"image is part of what the job is; cores"),
    ],
)
def test_what_cannot_be_changed_for_a_retry_is_told(world, change, words):
    with pytest.raises(errors.SpecError, match=words):
        world.planned(1).retry_failed(**change)


def test_a_batch_that_is_not_there_is_held_against_those_that_are(world):
    world.planned(1, name="sky").close()
    with pytest.raises(errors.UnknownBatch, match=r"no batch in .*skyy; .* has sky\. Batches are looked for"):
        Batch.open("skyy", world.root)


def test_an_interrupt_before_the_engine_is_made_leaves_the_batch_free(world, monkeypatch):
    batch = world.planned(1)
    with monkeypatch.context() as patch:
        patch.setattr("canfar_batch.engine.engine._Stages", lambda *given: interrupt())
        with pytest.raises(errors.Detached):
            batch.run(progress=False)
    assert batch.driver is None
    world.batch().run(progress=False)
    assert len(world.platform.launched) == 1
