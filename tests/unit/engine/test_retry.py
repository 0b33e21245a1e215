"""Retrying: pauses after failures, and jobs that are opened again."""

import re

import pytest
from engine import SLOW, always, states
from fakes import Fate

from canfar_batch import errors, failures
from canfar_batch.records import JobState
from canfar_batch.spec import JobSpec
from canfar_batch.strategies import AtOnce, Retry, Window, never

S = JobState


# -- failing alike --------------------------------------------------------------------------------------------------


def test_five_that_fail_alike_before_any_success_pause_the_batch(world):
    world.platform.fate = lambda request: Fate(code=2)
    batch = world.planned(50, launch=Window(3))
    with pytest.raises(errors.BatchPaused, match="5 jobs to end all failed alike") as stopped:
        batch.run(progress=False)
    assert stopped.value.report is not None
    assert len(world.platform.launched) <= 8
    assert batch.run(progress=False, stop_alike=None).counts == {S.FAILED: 50}
    assert set(states(batch)) == {S.FAILED}


def test_a_pause_for_failing_alike_outlives_a_credential_that_comes_back(world):
    world.platform.fate = lambda request: Fate(code=2)
    batch = world.planned(50, launch=Window(5))
    polls = iter(range(10**6))
    expired = errors.CredentialExpired("log in")
    world.platform.before["containers"] = lambda: always(expired)() if next(polls) % 4 == 3 else None
    with pytest.raises(errors.BatchPaused):
        batch.run(progress=False)
    assert len(world.platform.launched) <= 10


def failing(messages, code=1):
    """Jobs whose logs end with these messages; all others succeed, and take longer."""

    def fate(request):
        number = int(re.search(r"-j(\d+)-", request.name)[1])
        if number >= len(messages):
            return Fate(lasts=200)
        return Fate(code=code, log=f"{messages[number]}\n".encode(), lasts=1)

    return fate


def test_different_errors_of_one_exit_code_are_not_alike(world):
    errors_seen = ["OSError: truncated", "KeyError: EXPTIME", "ValueError: no WCS", "no stars found", "IndexError: 3"]
    world.platform.fate = failing(errors_seen)
    batch = world.planned(40)
    batch.run(progress=False)
    assert batch.counts == {S.SUCCEEDED: 35, S.FAILED: 5}


def test_one_error_about_different_files_is_alike(world):
    world.platform.fate = failing([f"KeyError: '/data/{n}.fits'" for n in range(50)])
    batch = world.planned(50, launch=Window(3))
    with pytest.raises(errors.BatchPaused, match="KeyError"):
        batch.run(progress=False)
    assert len(world.platform.launched) <= 8


def test_attempts_that_will_be_retried_pause_nothing(world):
    began = world.clock.seconds
    world.platform.fate = lambda request: Fate(code=75 if world.clock.seconds < began + 20 else 0, lasts=2)
    batch = world.planned(12, launch=AtOnce(), retry=Retry(5, exit_codes={75}, pause=10))
    batch.run(progress=False)
    assert batch.counts == {S.SUCCEEDED: 12}
    assert len(world.platform.launched) > 12


def test_failures_of_the_platform_pause_nothing(world):
    slow = iter([SLOW] * 6)
    world.platform.fate = lambda request: next(slow, None) or Fate()
    batch = world.planned(12, launch=Window(6), retry=never)
    world.turn(batch, 20)
    world.platform.all.clear()
    batch.run(progress=False)
    assert batch.counts == {S.SUCCEEDED: 6, S.FAILED: 6}


def test_a_success_lifts_the_pause(world, caplog):
    world.platform.fate = lambda request: Fate(lasts=100) if "-j5-" in request.name else Fate(code=2, lasts=1)
    batch = world.planned(12, launch=Window(6))
    batch.run(progress=False)
    assert batch.counts == {S.SUCCEEDED: 1, S.FAILED: 11}
    said = [record.getMessage() for record in caplog.records]
    assert any("failed alike" in line for line in said)
    assert any("a job has succeeded" in line for line in said)


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


def test_a_job_that_is_opened_again_during_its_pause_is_launched_at_once(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(1, retry=Retry(pause=600.0, classes=failures.Deleted))
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


# -- the end of an embedded local platform ----------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [Retry(0), Retry(2)])
def test_the_end_of_an_embedded_platform_costs_no_attempt(world, policy):
    world.platform.fate = lambda request: SLOW
    for began in range(4):  # the user presses Ctrl-C three times, and each session starts a platform of its own
        batch = world.batch(retry=policy, platform_began=world.clock.now())
        batch.map(JobSpec("fit {n}", image="skaha/astroml"), key="j{n}", n=range(1))
        world.platform.fate = lambda request, last=began == 3: Fate(code=3) if last else SLOW
        world.turn(batch, 400)
        batch.close()
        world.platform.all.clear()
        world.clock.sleep(10)
    kinds = [type(attempt.failure) for attempt in batch.records[0].attempts]
    assert kinds == [failures.Interrupted] * 3 + [failures.ExitCode]


def test_never_launches_nothing_again_even_then(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(1, retry=never)
    world.turn(batch, 60)
    batch.close()
    world.platform.all.clear()
    world.clock.sleep(10)
    again = world.planned(1, retry=never, platform_began=world.clock.now())
    again.run(progress=False)
    assert (states(again), len(world.platform.launched)) == ([S.FAILED], 1)
