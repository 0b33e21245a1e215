"""Jobs that are opened again: which, and with which changes."""

import pytest
from engine import SLOW, kinds, states
from fakes import Fate

from canfar_batch import errors
from canfar_batch.records import JobState

# -- what happened to users ---------------------------------------------------------------------------------------


def test_a_retry_may_have_a_name_of_its_own(world):
    world.platform.fate = lambda request: Fate(code=1)
    batch = world.planned(1)
    batch.run(progress=False)
    batch.retry_failed(name="again-{n}-{key}")
    batch.run(progress=False)
    assert "-again-0-j0-" in world.platform.launched[-1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"memory": 3}, r"a spec has no memory \(did you mean ram\?\); cores, gpus, name"),
        ({"core": 3}, r"a spec has no core \(did you mean cores\?\)"),
        ({"image": "x"}, r"image is part of the job's identity; cores"),
    ],
)
def test_a_change_that_a_retry_cannot_make_is_refused_by_name(world, change, words):
    with pytest.raises(errors.SpecError, match=words):
        world.planned(1).retry_failed(**change)


S = JobState


# -- rerun --------------------------------------------------------------------------------------------------------


def test_rerun_opens_a_job_that_succeeded(world):
    batch = world.planned(2, collect=lambda job, platform: job.last_attempt.number)
    batch.run(progress=False)
    assert batch.rerun("j1", ram=8) == ["j1"]
    assert states(batch) == [S.SUCCEEDED, S.WAITING]
    batch.run(progress=False)
    assert batch.results() == {"j0": 1, "j1": 2}
    assert batch["j1"].attempts[-1].resources.ram == 8
    assert "Reopened" in kinds(batch, "j1")


def test_rerun_fetches_results_again_that_the_ledger_cannot_store(world):
    batch = world.planned(1, collect=lambda job, platform: {job.last_attempt.number})
    batch.run(progress=False)
    assert batch.results() == {"j0": {1}}
    batch.rerun()
    assert batch.results() == {"j0": None}
    batch.run(progress=False)
    assert batch.results() == {"j0": {2}}


def test_rerun_opens_every_final_job_unless_some_are_named(half_failed):
    batch = half_failed.batch()
    assert batch.rerun() == ["j0", "j1"]
    assert states(batch) == [S.WAITING] * 2


def test_rerun_refuses_a_named_job_that_is_active_or_unknown(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(1)
    world.turn(batch, 30)
    with pytest.raises(errors.PlanError, match=r"'j0' is running: wait for it, or cancel\(\) it first"):
        batch.rerun("j0")
    assert batch.rerun() == []
    with pytest.raises(errors.UnknownJob):
        batch.rerun("j9")


# -- outputs that were deleted ------------------------------------------------------------------------------------


def test_retry_failed_without_any_failure_opens_nothing(world):
    batch = world.planned(1)
    batch.run(progress=False)
    assert batch.retry_failed(cause="out of memory") == []
