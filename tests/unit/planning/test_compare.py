"""A plan, compared with the jobs that the batch has."""

from __future__ import annotations

import pytest
from engine import SLOW, SPEC, commands, states
from fakes import failing

from canfar_batch import errors
from canfar_batch.batch import Batch
from canfar_batch.records import JobState
from canfar_batch.spec import JobSpec

PLACED = JobSpec("fit {n} {index}", image="skaha/astroml")


# -- again --------------------------------------------------------------------------------------------------------


def test_the_same_plan_again_changes_nothing(world):
    batch = world.planned(5)
    before = batch.records
    assert batch.map(SPEC, key="j{n}", n=range(5)) == [f"j{n}" for n in range(5)]
    assert world.planned(5).records == before
    assert batch.history() == []


def test_rows_added_in_front_do_not_change_the_others(world):
    batch = world.batch()
    batch.map(PLACED, key="j{n}", n=[1, 2])
    batch.map(PLACED, key="j{n}", n=[0, 1, 2])
    assert commands(batch) == ["fit 1 0", "fit 2 1", "fit 0 2"]


def test_a_changed_job_that_ran_is_refused_with_old_and_new_value(world):
    batch = world.planned(2)
    batch.run(progress=False)
    with pytest.raises(errors.SpecChanged, match=r"image was 'skaha/astroml' and is now 'skaha/other'"):
        batch.map(JobSpec("fit {n}", image="skaha/other"), key="j{n}", n=range(2))
    with pytest.raises(errors.SpecChanged, match=r"cmd was 'fit 0' and is now 'fit 0 -v'"):
        batch.map(JobSpec("fit {n} -v", image="skaha/astroml"), key="j{n}", n=range(2))
    with pytest.raises(errors.SpecChanged, match="env differs in TOKEN") as refused:
        batch.map(JobSpec("fit {n}", image="skaha/astroml", env={"TOKEN": "hush"}), key="j{n}", n=range(2))
    assert "hush" not in str(refused.value)


def test_a_refused_change_leaves_the_plan_unchanged(world):
    batch = world.planned(1)
    batch.run(progress=False)
    with pytest.raises(errors.SpecChanged):
        batch.map(JobSpec("other {n}", image="skaha/astroml"), key="j{n}", n=[5, 0])
    assert list(batch.results()) == ["j0"]


def test_a_job_that_was_never_launched_is_replaced_in_its_place(world):
    world.planned(3).close()
    batch = world.batch()  # of the script as it was changed
    batch.map(JobSpec("new {n}", image="skaha/astroml"), key="j{n}", n=[1])
    assert commands(batch) == ["fit 0", "new 1", "fit 2"]
    batch.run(progress=False)
    assert {job.state for job in batch} == {JobState.SUCCEEDED}


def test_changed_resources_apply_to_later_attempts(world):
    batch = world.planned(1)
    batch.run(progress=False)
    batch.map(JobSpec("fit {n}", image="skaha/astroml", ram=16, timeout=5, name="late-{n}"), key="j{n}", n=[0])
    job = world.batch().records[0]
    assert (job.resources.ram, job.spec.timeout, job.filled.name) == (16, 5.0, "late-0")
    assert job.attempts[0].resources.ram is None


S = JobState


OTHER = JobSpec("better {n}", image="skaha/astroml")


# -- a command that changed ---------------------------------------------------------------------------------------


def test_a_job_that_failed_is_opened_again_with_its_new_command(half_failed, capsys):
    batch = half_failed.batch()
    batch.map(OTHER, key="j{n}", n=[0])
    batch.run()
    assert "1 job that had not succeeded has another command now: reopened" in capsys.readouterr().err
    job = batch["j0"]
    assert (job.state, job.attempt, job.record.filled.argv) == (S.SUCCEEDED, 2, ("better", "0"))
    assert [attempt.number for attempt in Batch.open("test", half_failed.root)["j0"].attempts] == [1, 2]


def test_a_job_that_succeeded_keeps_its_command(half_failed):
    with pytest.raises(errors.SpecChanged, match=r"'j1' is succeeded, as another job: cmd was .*rerun\(\) it"):
        half_failed.batch().map(OTHER, key="j{n}", n=[1])


def test_a_job_that_is_active_keeps_its_command(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(1)
    world.turn(batch, 30)
    batch.close()
    with pytest.raises(errors.SpecChanged, match=r"'j0' is running, .*wait for it, or cancel\(\) it"):
        world.batch().map(OTHER, key="j{n}", n=[0])


def test_a_new_command_of_one_job_leaves_the_other_failures_alone(world):
    world.platform.fate = failing(0, 1)
    with world.planned(2) as batch:
        batch.run(progress=False)
    batch = world.batch()
    batch.map(OTHER, key="j{n}", n=[0])
    assert states(batch) == [S.WAITING, S.FAILED]


# -- outputs that were deleted ------------------------------------------------------------------------------------


def test_planning_the_same_job_again_is_not_a_change(half_failed):
    batch = half_failed.batch()
    batch.map(SPEC, key="j{n}", n=[0, 1])
    assert states(batch) == [S.FAILED, S.SUCCEEDED]


# -- plans that make no sense -------------------------------------------------------------------------------------


def test_a_job_cancelled_before_its_launch_runs_if_its_command_changes(world):
    batch = world.planned(1)
    batch.cancel()
    again = world.batch()
    again.map(JobSpec("other {n}", image="skaha/astroml"), key="j{n}", n=[0])
    assert again.run(progress=False).ok
    assert again["j0"].record.filled.argv == ("other", "0")
