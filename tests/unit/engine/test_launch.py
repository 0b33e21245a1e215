"""Launching: intents, answers, refusals and doubts."""

import pytest
from engine import always, doubt, kinds, raising, states
from fakes import Fate

from canfar_batch import errors, failures
from canfar_batch.engine.launch import MOST_IN_FLIGHT
from canfar_batch.records import JobState
from canfar_batch.spec import JobSpec
from canfar_batch.strategies import AtOnce, Retry

S = JobState


def test_a_launch_whose_answer_is_lost_is_adopted_by_its_name(world):
    world.platform.after["launch"] = raising(doubt())
    batch = world.planned(1)
    batch.run(progress=False)
    assert (states(batch), len(world.platform.launched)) == ([S.SUCCEEDED], 1)
    assert "Adopted" in kinds(batch)


def test_a_launch_that_never_appears_has_ended_after_three_good_polls_and_the_settle_time(world):
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
    assert world.platform.calls["launch"] < MOST_IN_FLIGHT + 30
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
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any("log in again" in line for line in warnings)
    assert any("going on" in line for line in warnings)


def test_a_launch_that_cannot_be_written_down_for_the_platform_fails_that_job_alone(world):
    batch = world.planned(1, JobSpec("fit {n}", image="skaha/astroml"))
    batch.map(JobSpec("fit {big}", image="skaha/astroml"), key="big", big=["x" * 3_000_000])
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED, S.FAILED]
    assert isinstance(batch["big"].failure, failures.LaunchRefused)


def test_an_unknown_error_of_a_launch_leaves_it_in_doubt(world):
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
    polls = []
    world.platform.before["cancel"] = lambda: polls.append(world.platform.calls["containers"])
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED]
    assert len(world.platform.all) == 1
    assert polls[0] >= 3, "the poll before the launch, and two that show both"


def test_a_driver_that_finds_only_jobs_that_wait_says_so(world, caplog):
    world.platform.before["launch"] = raising(errors.PlatformBusy("later", retry_after=500.0))
    batch = world.planned(1)
    world.turn(batch, 20)
    assert "the platform asks to wait 8 min before the next launch" in caplog.text
    batch.close()
    caplog.clear()
    again = world.planned(1)
    world.turn(again, 20)
    assert "all jobs that are left wait for their next launch, the first until" in caplog.text


@pytest.mark.parametrize(
    ("role", "strategy", "words"),
    [
        ("launch", lambda view: None, r"launch strategy .* returned None; it returns a list of jobs or Bundles"),
        ("launch", lambda view: [1], r"launch strategy .* returned \[1\]"),
        ("retry", lambda job, failure: True, r"retry policy .* returned True; it returns Again\(…\) or Stop\(…\)"),
        ("monitor", lambda platform, view: None, r"monitor strategy .* returned None; it returns an Observation"),
    ],
)
def test_a_strategy_that_returns_nonsense_is_named(world, role, strategy, words):
    world.platform.fate = lambda request: Fate(code=1)
    batch = world.planned(1, **{role: strategy})
    with pytest.raises(errors.StrategyError, match=words):
        batch.run(progress=False)


def test_a_launch_strategy_may_return_jobs(world):
    batch = world.planned(3, launch=lambda view: view.ready(at_most=2))
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 3
