"""What would go wrong with a batch, found before anything is launched."""

from datetime import timedelta

import pytest
from engine import SPEC, World, always
from fakes import Fate

from canfar_batch import errors
from canfar_batch.engine.preflight import inspect
from canfar_batch.records import JobState
from canfar_batch.spec import JobSpec


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def found(world, spec=SPEC, *, shared=False, **fields):
    batch = world.batch()
    batch.map(spec, **(fields or {"n": [1]}))
    return inspect(batch.records, world.platform, shared=shared, now=world.clock.now()).warnings


def test_a_batch_without_trouble_has_no_warnings(world):
    assert str(world.planned(3).preflight()) == "preflight of 3 jobs: all well"


def test_an_image_that_is_not_listed_is_a_warning_with_a_guess(world):
    (told,) = found(world, JobSpec("fit {n}", image="skaha/astrml:latest"))
    assert "did you mean images.canfar.net/skaha/astroml:latest?" in told


def test_images_that_cannot_be_listed_block_nothing(world):
    world.platform.before["images"] = always(errors.PlatformBroken("no"))
    (told,) = found(world)
    assert "could not be checked" in told


def test_limits_that_cannot_be_had_block_nothing(world):
    world.platform.before["limits"] = always(errors.PlatformUnreachable("no answer"))
    (told,) = found(world)
    assert told == "whether the platform offers these resources could not be checked: no answer"


@pytest.mark.parametrize("question", ["limits", "images"])
def test_a_credential_that_is_refused_ends_the_preflight(world, question):
    world.platform.before[question] = always(errors.CredentialRefused("log in again"))
    with pytest.raises(errors.CredentialRefused, match="log in again"):
        found(world)


def test_resources_that_are_not_offered_are_refused(world):
    batch = world.batch()
    batch.map(JobSpec("fit {n}", image="skaha/astroml", ram=7), n=[1])
    with pytest.raises(errors.SpecError, match="ram"):
        batch.preflight()


def test_a_credential_that_ends_before_the_jobs_is_a_warning(world):
    world.platform.expires_at = world.clock.now() + timedelta(hours=2)
    assert found(world) == ()
    (told,) = found(world, JobSpec("fit {n} x", image="skaha/astroml", timeout=3 * 3600))
    assert "credential ends" in told


def test_inputs_and_folders_are_looked_for_where_they_can_be_seen(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.fits").touch()
    spec = JobSpec("fit {path}", image="skaha/astroml", outputs=["cat/{path}.cat"])
    paths = [str(tmp_path / "here.fits"), str(tmp_path / "gone.fits")]
    assert found(world, spec, path=paths) == ()
    told = found(world, spec, shared=True, path=paths)
    assert any("gone.fits is not there" in line for line in told)
    assert not any("path=" in line and "here.fits" in line for line in told)


def test_many_warnings_of_a_kind_are_counted(world, tmp_path):
    told = found(world, SPEC, shared=True, n=[f"{tmp_path}/no/{n}" for n in range(20)])
    assert len(told) == 6
    assert told[-1] == "… and 15 more of that kind"


def test_what_ran_already_is_not_looked_at(world):
    batch = world.planned(2)
    batch.run(progress=False)
    assert batch.preflight().jobs == 0


def test_a_trial_runs_one_job_and_stops_a_batch_that_would_fail(world):
    world.platform.fate = lambda request: Fate(code=1, log=b"ValueError: no such column\n")
    batch = world.planned(5)
    with pytest.raises(errors.JobFailed, match="no such column"):
        batch.preflight(trial=True)
    assert len(world.platform.launched) == 1


def test_a_trial_that_succeeds_leaves_the_rest_to_run(world):
    batch = world.planned(5)
    batch.preflight(trial=True)
    assert batch.counts == {JobState.PLANNED: 4, JobState.SUCCEEDED: 1}
    batch.run(progress=False)
    assert len(world.platform.launched) == 5


def test_a_batch_that_is_open_for_reading_has_no_platform_to_ask(world):
    from canfar_batch.batch import Batch

    world.planned(1)
    with pytest.raises(errors.ReadOnlyBatch, match="open for reading"):
        Batch.open("test", world.root).preflight()
