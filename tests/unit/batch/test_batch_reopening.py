"""Jobs that run again: by request, since their command changed, or since their outputs were deleted."""

import base64

import pytest
from engine import SLOW, SPEC, kinds, states
from fakes import Fate

from canfar_batch import errors
from canfar_batch.batch import Batch
from canfar_batch.payload.wrapper import MARK
from canfar_batch.records import JobState
from canfar_batch.spec import JobSpec
from canfar_batch.strategies import Files

S = JobState
OTHER = JobSpec("better {n}", image="skaha/astroml")


def failing(*numbers):
    """A platform's fate: jobs whose command ends with one of *numbers* fail, if the command is `fit`."""

    def fate(request):
        return Fate(code=int(any(f"-j{number}-" in request.name for number in numbers)))

    return fate


@pytest.fixture
def half_failed(world):
    """A batch of which j0 failed and j1 succeeded, as a finished script left it."""
    world.platform.fate = failing(0)
    with world.planned(2) as batch:
        batch.run(progress=False)
    world.platform.fate = lambda request: Fate()
    return world


# -- rerun ----------------------------------------------------------------------------------------------------------


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


# -- a command that changed -----------------------------------------------------------------------------------------


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


# -- nothing to do --------------------------------------------------------------------------------------------------


def test_a_run_in_which_all_is_final_says_what_opens_jobs_again(world, capsys):
    world.platform.fate = failing(0)
    with world.planned(3, launch=lambda view: [job for job in view.ready() if job.key != "j2"]) as batch:
        batch.cancel(["j2"])
        batch.run()
    assert "Nothing new was launched" not in capsys.readouterr().err
    world.planned(3).run()
    said = capsys.readouterr().err
    assert "Nothing new was launched: all 3 jobs are final from an earlier run." in said
    assert "retry_failed() reopens the 1 failed job." in said
    assert "rerun(keys) reopens the 1 cancelled job." in said


# -- outputs that were deleted --------------------------------------------------------------------------------------

MAKES = JobSpec("fit {n}", image="skaha/astroml", outputs=["out{n}.txt"])


@pytest.fixture
def made(world, tmp_path, monkeypatch):
    """A batch of two jobs whose outputs this machine sees, after its run."""
    monkeypatch.chdir(tmp_path)
    log = world.platform.printed

    def log_with_outputs(container):
        name = "out0.txt" if "-j0-" in container.request.name else "out1.txt"
        (tmp_path / name).touch()
        listed = base64.b64encode(f"o1 {name}\0f0 {name}\0".encode()).decode()
        line = f"\n{MARK} {container.request.name} outputs {listed} #{container.request.name}\n".encode()
        start, mark, end = log(container).rpartition(f"\n{MARK}".encode())
        return start + line + mark + end.replace(b"outputs=0", b"outputs=1")

    world.platform.printed = log_with_outputs
    batch = world.batch(shared=True, collect=Files())
    batch.map(MAKES, key="j{n}", n=[0, 1])
    assert batch.run(progress=False).ok
    assert list(batch["j1"].outputs) == ["out1.txt"]
    return batch


def test_a_run_warns_of_deleted_outputs_and_says_what_makes_them_again(made, tmp_path, caplog):
    made.run(progress=False)
    assert "no longer exist" not in caplog.text
    (tmp_path / "out1.txt").unlink()
    made.run(progress=False)
    assert "outputs of 1 succeeded job no longer exist, such as" in caplog.text
    assert "rerun(missing_outputs=True) and run() make them again" in caplog.text


def test_rerun_opens_the_jobs_whose_outputs_were_deleted(made, tmp_path):
    assert made.rerun(missing_outputs=True) == []
    (tmp_path / "out1.txt").unlink()
    assert made.rerun("j0", missing_outputs=True) == []
    assert made.rerun(missing_outputs=True) == ["j1"]
    made.run(progress=False)
    assert made.results() == {"j0": tmp_path / "out0.txt", "j1": tmp_path / "out1.txt"}


def test_a_deleted_output_is_not_collected(made, tmp_path):
    (tmp_path / "out1.txt").unlink()
    with pytest.raises(errors.CollectError, match=r"out1\.txt of job 'j1' no longer exists: rerun\('j1'\) and run\(\)"):
        made.collect(["j1"])


def test_outputs_that_this_machine_does_not_see_are_not_missed(made, world, tmp_path, caplog):
    (tmp_path / "out1.txt").unlink()
    made.close()
    batch = world.batch(shared=False)
    batch.run(progress=False)
    assert "no longer exist" not in caplog.text
    assert batch.rerun(missing_outputs=True) == []


def test_retry_failed_without_any_failure_opens_nothing(world):
    batch = world.planned(1)
    batch.run(progress=False)
    assert batch.retry_failed(cause="out of memory") == []


def test_planning_the_same_job_again_is_not_a_change(half_failed):
    batch = half_failed.batch()
    batch.map(SPEC, key="j{n}", n=[0, 1])
    assert states(batch) == [S.FAILED, S.SUCCEEDED]
