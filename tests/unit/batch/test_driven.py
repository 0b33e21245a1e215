"""How a batch is driven: runs, steps, time-outs, pauses, and what a run reports."""

from __future__ import annotations

import base64
import shutil

import pytest
from engine import SLOW, SPEC, World, engine_of, ledger_of, states
from fakes import Fate, failing

from canfar_batch import errors
from canfar_batch.batch import Batch
from canfar_batch.lifecycle import Cancelled
from canfar_batch.records import JobState
from canfar_batch.spec import JobSpec, Secret
from canfar_batch.strategies import AtOnce, Files, Window

S = JobState


def interrupt():
    raise KeyboardInterrupt


# -- what happened to users ---------------------------------------------------------------------------------------


def test_step_raises_when_the_batch_is_paused(world):
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
        engine_of(batch).wait(batch.step())
    assert states(batch) == [S.SUCCEEDED] * 20


def test_as_completed_ends_though_a_yielded_job_is_dropped(world):
    batch = world.planned(3)
    batch.cancel(["j2"])
    told = []
    for job in batch.as_completed():
        told.append(job.key)
        if job.key == "j2":
            batch.retry_failed(["j2"])
            batch.drop(["j2"])
    assert sorted(told) == ["j0", "j1", "j2"]


def test_a_fork_of_the_driver_does_not_drive(world, monkeypatch):
    batch = world.planned(1)
    batch.step()
    monkeypatch.setattr("canfar_batch.store.ledger.os.getpid", lambda: -1)
    assert not ledger_of(batch).driving
    assert not ledger_of(batch).still_mine(ledger_of(batch).generation)
    with pytest.raises(errors.BatchBusy):
        ledger_of(batch).record([Cancelled(key="j0", at=world.clock.now())])


def test_the_time_out_of_as_completed_has_a_report(world):
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


def test_a_batch_whose_jobs_are_all_final_is_not_paused(world):
    world.platform.fate = lambda request: Fate(code=1)
    report = world.planned(8, launch=AtOnce()).run(progress=False)
    assert report.counts == {S.FAILED: 8}


def test_a_pause_says_how_to_go_on(world):
    world.platform.fate = lambda request: Fate(code=1)
    with pytest.raises(errors.BatchPaused, match=r"Fix the cause .* retry_failed\(\)\), then run\(\)"):
        world.planned(20, launch=Window(2)).run(progress=False)


def test_an_interrupt_while_the_engine_gets_ready_leaves_the_batch_free(world):
    batch = world.planned(1, pool=interrupt)
    with pytest.raises(errors.Detached):
        batch.run(progress=False)
    assert batch.driven_by is None
    world.batch().run(progress=False)
    assert len(world.platform.launched) == 1


# -- jobs that no process drives ----------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", [lambda job: job.wait(), lambda job: list(job.follow())])
def test_a_wait_for_a_job_that_is_not_driven_says_what_drives_it(world, wait):
    job = world.batch().add(SPEC, key="a", n=1)
    with pytest.raises(errors.NotDriven, match=r"'a' is planned, .* batch\.run\(\) or batch\.start\(\) drives it"):
        wait(job)
    with pytest.raises(errors.NotDriven, match=r"session\.batch\('test'\)\.run\(\) drives it"):
        wait(Batch.open("test", world.root)["a"])


def test_a_wait_for_a_job_drives_the_batch_if_this_process_does(world):
    batch = world.planned(2)
    batch.observe()
    assert batch["j1"].wait().ok


def test_a_wait_for_a_job_of_a_started_batch_returns_at_its_end(world):
    batch = world.planned(2)
    batch.start()
    assert batch["j1"].wait(timeout=20).done
    batch.wait(20)


def test_a_wait_for_a_job_ends_if_the_batch_is_paused(world):
    world.platform.fate = lambda request: Fate(code=1)
    batch = world.planned(20)
    with pytest.raises(errors.BatchPaused):
        world.turn(batch, 1000)
    with pytest.raises(errors.BatchPaused):
        batch["j19"].wait()


# -- other processes ----------------------------------------------------------------------------------------------


def test_a_login_of_another_account_stops_the_run_and_loses_no_job(world):
    world.platform.fate = lambda request: SLOW
    world.platform.user = "alice"
    batch = world.planned(2)
    world.turn(batch, 30)
    world.platform.user, world.platform.shown = "bob", lambda shown: []
    with pytest.raises(errors.LedgerError, match="is run by alice, and you are bob here"):
        batch.run(progress=False)
    assert states(batch) == [S.RUNNING] * 2
    assert len(world.platform.launched) == 2


# -- nothing to do ------------------------------------------------------------------------------------------------


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


def script(request):
    return base64.b64decode("".join(request.args.split(" ")[3:])).decode()


MAKES = JobSpec("fit {n}", image="skaha/astroml", outputs=["out{n}.txt"])


def seeing(world, n=1, spec=MAKES, **given):
    """A batch whose containers see the driver's files, as a script opens and plans it."""
    batch = world.batch(shared=True, **given)
    batch.map(spec, key="j{n}", n=range(n))
    return batch


@pytest.fixture
def made_in(world, tmp_path, monkeypatch):
    """The directory in which a batch of one job was made, and ran."""
    place = tmp_path / "first"
    place.mkdir()
    monkeypatch.chdir(place)
    (place / "out0.txt").touch()
    with seeing(world, collect=Files()) as batch:
        batch.run(progress=False)
        assert batch.results() == {"j0": place / "out0.txt"}
    return place


# -- where jobs run -----------------------------------------------------------------------------------------------


def test_a_batch_keeps_the_directory_in_which_it_was_made(world, made_in, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (made_in / "out1.txt").touch()
    requests, make = [], world.platform.make
    world.platform.make = lambda request: requests.append(request) or make(request)
    batch = seeing(world, 2, collect=Files())
    batch.run(progress=False)
    both = {"j0": made_in / "out0.txt", "j1": made_in / "out1.txt"}
    assert batch.results() == batch.collect(["j0", "j1"]) == both
    assert [f"cb_driver='{made_in}'" in script(request) for request in requests] == [True]


def test_preflight_and_results_use_the_directory_the_batch_was_made_in(world, made_in, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (made_in / "here.fits").touch()
    spec = JobSpec("fit {path}", image="skaha/astroml", outputs=["cat/{index}.txt"])
    batch = seeing(world, collect=lambda job, platform: {job.filled.workdir})
    batch.map(spec, path=["./here.fits", "./gone.fits"])
    told = "\n".join(batch.preflight().warnings)
    assert ("here.fits" in told, "path=./gone.fits is not there" in told) == (False, True)
    batch.run(progress=False)
    with seeing(world, collect=lambda job, platform: {job.filled.workdir}) as closed:
        pass
    assert list(closed.results("missing").values())[1:] == [{str(made_in)}] * 2


@pytest.fixture
def reported(capsys):
    """What a run of a batch reports."""

    def run(batch):
        with batch:
            batch.run()
        return capsys.readouterr().err

    return run


def test_a_run_in_another_directory_reports_where_jobs_run(world, made_in, tmp_path, monkeypatch, reported):
    assert str(made_in) not in reported(seeing(world, 2))
    monkeypatch.chdir(tmp_path)
    assert f"Jobs run in {made_in}" in reported(seeing(world, 3))


def test_a_run_does_not_report_where_jobs_run_if_it_makes_no_difference(
    world, made_in, tmp_path, monkeypatch, reported
):
    monkeypatch.chdir(tmp_path)
    batch = world.batch()  # containers do not see its directory
    batch.add(MAKES, n=7)
    assert "Jobs run in" not in reported(batch)
    own = world.batch("own", shared=True)
    own.add(JobSpec("fit", image="skaha/astroml", workdir="/arc/own"))
    monkeypatch.chdir(made_in)
    assert "Jobs run in" not in reported(own)


def test_a_directory_that_was_removed_gives_way_to_the_present_one(world, made_in, tmp_path, monkeypatch, reported):
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(made_in)
    batch = seeing(world, 2)
    assert engine_of(batch).launch_context.workdir == tmp_path
    assert f"{made_in}, in which the batch was made, no longer exists" in reported(batch)


def test_a_project_that_was_moved_with_its_batches_goes_on_where_it_is(tmp_path, monkeypatch):
    (tmp_path / "old").mkdir()
    monkeypatch.chdir(tmp_path / "old")
    World(tmp_path / "old" / "batches").batch().close()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").rename(tmp_path / "new")
    assert engine_of(World(tmp_path / "new" / "batches").batch()).launch_context.workdir == tmp_path / "new"
