"""Outputs of succeeded jobs that were deleted."""

import base64

import pytest

from canfar_batch import errors
from canfar_batch.payload.wrapper import MARK
from canfar_batch.spec import JobSpec
from canfar_batch.strategies import Files

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


def test_outputs_on_a_storage_that_this_machine_does_not_mount_are_not_missed(made, monkeypatch, caplog):
    monkeypatch.setattr("canfar_batch.planning.gone.MOUNT", "/nowhere")
    monkeypatch.setattr("canfar_batch.planning.gone.is_remote", lambda path: True)
    for path in made.results().values():
        path.unlink()
    made.run(progress=False)
    assert "no longer exist" not in caplog.text
    assert made.rerun(missing_outputs=True) == []


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


def test_the_report_counts_a_rerun_of_a_success_as_such(made):
    made.rerun("j0")
    report = made.run(progress=False)
    assert report.retries == {"rerun after a success": 1}


def test_retrying_a_job_that_succeeded_says_what_runs_it_again(world, caplog):
    batch = world.planned(1)
    batch.run(progress=False)
    assert batch.retry_failed("j0") == []
    assert "1 named job did not fail, such as 'j0', which is succeeded: rerun('j0') launches it again" in caplog.text
