"""Retrying: pauses after failures, and jobs that are opened again."""

import pytest
from engine import SLOW, always, states
from fakes import Fate

from canfar_batch import errors
from canfar_batch.records import JobState
from canfar_batch.spec import JobSpec
from canfar_batch.strategies import Retry, Window

S = JobState


# -- failing alike --------------------------------------------------------------------------------------------------


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


# -- again ----------------------------------------------------------------------------------------------------------


def test_retry_failed_opens_what_failed_with_more_memory(world):
    world.platform.fate = lambda request: Fate(code=0 if (request.resources.ram or 0) >= 16 else 9)
    batch = world.planned(3, JobSpec("fit {n}", image="skaha/astroml", ram=4))
    batch.run(progress=False)
    assert states(batch) == [S.FAILED] * 3
    with pytest.raises(errors.PlanError, match=r"'out of memory'; the causes are: 'exit code 9' \(3\)"):
        batch.retry_failed(cause="out of memory")
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
