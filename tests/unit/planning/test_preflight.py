"""What would go wrong with a batch, found before anything is launched."""

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from engine import SPEC, always
from fakes import Fate

from canfar_batch import errors
from canfar_batch.planning.preflight import Preflight, inspect
from canfar_batch.records import JobState
from canfar_batch.spec import JobSpec


def found(world, spec=SPEC, *, shared=False, **fields):
    batch = world.batch()
    batch.map(spec, **(fields or {"n": [1]}))
    return inspect(batch.records, world.platform, shared=shared, now=world.clock.now()).warnings


def test_a_good_batch_has_no_warnings(world):
    text = str(world.planned(3).preflight())
    assert text.startswith("preflight of 3 jobs: all well\nChecked: resources, images, credential, sizes of commands")
    assert "Not checked: files and folders (this machine does not see those of the containers), whether" in text


def test_a_warning_is_reported_once(world, caplog):
    batch = world.batch()
    batch.map(JobSpec("fit {n}", image="skaha/astrml:latest"), n=[1])
    assert "is not in the platform's list" in str(batch.preflight())
    assert caplog.text == ""
    world.platform.fate = lambda request: Fate(code=1)
    with pytest.raises(errors.JobFailed):
        batch.preflight(trial=True)
    assert caplog.text.count("is not in the platform's list") == 1  # as the result is lost


def test_an_image_that_is_not_listed_is_a_warning_with_a_guess(world):
    (warning,) = found(world, JobSpec("fit {n}", image="skaha/astrml:latest"))
    assert "did you mean images.canfar.net/skaha/astroml:latest?" in warning


def test_unknown_images_are_only_a_warning(world):
    world.platform.before["images"] = always(errors.PlatformBroken("no"))
    (warning,) = found(world)
    assert "could not be checked" in warning


def test_unknown_limits_are_only_a_warning(world):
    world.platform.before["limits"] = always(errors.PlatformUnreachable("no answer"))
    (warning,) = found(world)
    assert warning == "whether the platform offers these resources could not be checked: no answer"


@pytest.mark.parametrize("question", ["limits", "images"])
def test_a_credential_that_is_refused_ends_the_preflight(world, question):
    world.platform.before[question] = always(errors.CredentialRefused("log in again"))
    with pytest.raises(errors.CredentialRefused, match=r"log in again\. If this worked before, .* an outage\.$"):
        found(world)


@pytest.mark.parametrize("question", ["limits", "images"])
@pytest.mark.parametrize(
    "error", [errors.PlatformRefused("no (400)", status=400), errors.AccessDenied("no", status=403)]
)
def test_a_refused_question_is_a_warning_that_mentions_an_outage(world, question, error):
    world.platform.before[question] = always(error)
    (warning,) = found(world)
    assert "could not be checked" in warning
    assert "If this worked before, the platform may be having an outage." in warning


def test_resources_that_are_not_offered_are_refused(world):
    batch = world.batch()
    batch.map(JobSpec("fit {n}", image="skaha/astroml", ram=7), n=[1])
    with pytest.raises(errors.SpecError, match="ram"):
        batch.preflight()


def test_a_credential_that_ends_before_the_jobs_is_a_warning(world):
    world.platform.expires_at = world.clock.now() + timedelta(hours=2)
    assert found(world) == ()
    (warning,) = found(world, JobSpec("fit {n} x", image="skaha/astroml", timeout=3 * 3600))
    assert "credential ends" in warning


def test_inputs_and_folders_are_checked_on_a_shared_disk(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.fits").touch()
    spec = JobSpec("fit {path}", image="skaha/astroml", outputs=["cat/{path}.cat"])
    paths = [str(tmp_path / "here.fits"), str(tmp_path / "gone.fits")]
    assert found(world, spec, path=paths) == ()
    warnings = found(world, spec, shared=True, path=paths)
    assert any("gone.fits is not there" in line for line in warnings)
    assert not any("path=" in line and "here.fits" in line for line in warnings)


@pytest.fixture
def here(world, tmp_path, monkeypatch):
    """Look for a spec's files in an empty directory that containers see too."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return lambda spec, **fields: found(world, spec, shared=True, **fields)


@pytest.mark.parametrize("path", ["raw/img.fits[1]", "raw/img.fits[SCI,2]", "raw/img.fits+1", "raw/img.fits[1][1:9,*]"])
def test_an_extension_of_a_fits_file_is_no_part_of_its_name(here, path):
    Path("raw").mkdir()
    spec = JobSpec("fit {path}", image="skaha/astroml")
    (warning,) = here(spec, path=[path])
    assert f"path={path} is not there" in warning
    Path("raw/img.fits").touch()
    assert here(spec, path=[path]) == ()


@pytest.mark.parametrize("name", ["gone.fits", "gone.fits.gz", "gone.csv", Path("gone.h5"), "gone.FITS"])
def test_a_bare_file_name_is_checked(here, name):
    (warning,) = here(JobSpec("fit {path}", image="skaha/astroml"), path=[name])
    assert f"path={name} is not there" in warning
    Path(name).touch()
    assert here(JobSpec("fit {path}", image="skaha/astroml"), path=[name]) == ()


@pytest.mark.parametrize("cmd", ["python anlyse.py {n}", "./run.sh {n}", "python -u anlyse.py {n}", "bash run.sh {n}"])
def test_a_script_that_is_not_there_is_a_warning(here, cmd):
    (warning,) = here(JobSpec(cmd, image="skaha/astroml"), n=[1, 2])
    assert "its script" in warning
    assert "is not there (looked for in" in warning


def test_a_script_with_the_line_ends_of_windows_is_a_warning(here):
    Path("run.sh").write_bytes(b"#!/bin/sh\r\necho\r\n")
    (warning,) = here(JobSpec("./run.sh {n}", image="skaha/astroml"), n=[1])
    assert "dos2unix" in warning
    Path("run.sh").write_bytes(b"#!/bin/sh\necho\n")
    assert here(JobSpec("./run.sh {n}", image="skaha/astroml"), n=[1]) == ()


def test_modules_and_programs_are_not_checked(here):
    for cmd in ("python -m a.py {n}", "python -c 'x.py' {n}", "fit {n}", "python /opt/x.py {n}"):
        assert here(JobSpec(cmd, image="skaha/astroml"), n=[1]) == ()


def test_a_working_directory_that_is_not_there_is_a_warning(here):
    spec = JobSpec("fit {n}", image="skaha/astroml", workdir="work/{n}")
    assert [line for line in here(spec, n=[1, 2]) if "its workdir" in line and "nothing makes it" in line]
    for name in "12":
        Path("work", name).mkdir(parents=True)
    assert here(spec, n=[1, 2]) == ()


def test_the_result_lists_what_was_checked(world, here, tmp_path):
    Path("raw").mkdir()
    Path("raw/a.fits").touch()
    batch = world.batch()
    batch.map(JobSpec("fit {path}", image="skaha/astroml", outputs="{path.stem}.cat"), path=[Path("raw/a.fits")])
    result = inspect(batch.records, world.platform, shared=True, now=world.clock.now())
    assert result.checked[-3:] == ("1 working directory", "1 input path", "1 output folder")
    assert result.unchecked == ("whether the image has the program",)


def test_a_command_that_is_too_large_is_refused(world):
    with pytest.raises(errors.SpecError, match=r"job k: argument 1 is 200,000 bytes long"):
        found(world, JobSpec(["fit", "{n}"], image="skaha/astroml"), n=["x" * 200_000], key="k")


def test_variables_that_nothing_fills_in_are_warned_of(world):
    with pytest.warns(UserWarning, match="no shell fills in"):
        (warning,) = found(world, JobSpec("fit {n}", image="skaha/astroml", env={"OUT": "$HOME/out"}), n=[1])
    assert "no shell fills in $HOME" in warning


def test_many_warnings_of_a_kind_are_counted(world, tmp_path):
    warnings = found(world, SPEC, shared=True, n=[f"{tmp_path}/no/{n}" for n in range(20)])
    assert len(warnings) == 6
    assert warnings[-1] == "… and 15 more of that kind"


def test_jobs_that_ran_are_not_checked(world):
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


def test_a_batch_open_for_reading_cannot_be_checked(world):
    from canfar_batch.batch import Batch

    world.planned(1)
    with pytest.raises(errors.ReadOnlyBatch, match="open for reading"):
        Batch.open("test", world.root).preflight()


class FakeStorage:
    """A storage that knows these files and folders."""

    def __init__(self, *files, folders=()):
        self.kinds = {**dict.fromkeys(files, False), **dict.fromkeys(folders, True)}
        self.trouble = None

    def find(self, path):
        if self.trouble is not None:
            raise self.trouble
        kind = self.kinds.get(str(path))
        return None if kind is None else SimpleNamespace(is_folder=kind)


REMOTE = JobSpec(
    "python fit.py raw/{n}.fits", image="skaha/astroml", workdir="/arc/projects/mine", outputs=["cat/{n}.cat"]
)


@pytest.mark.parametrize("shared", [False, True])
def test_files_that_only_the_storage_has_are_looked_for_there(world, shared):
    there = FakeStorage("/arc/projects/mine/fit.py", folders=["/arc/projects/mine"])
    world.platform.storage = there
    (warning,) = found(world, REMOTE, shared=shared)
    assert warning.endswith("the folder of its output cat/1.cat is not there, unless the job makes it")
    there.kinds["/arc/projects/mine/cat"] = True
    assert found(world, REMOTE, shared=shared) == ()
    del there.kinds["/arc/projects/mine/fit.py"]
    (warning,) = found(world, REMOTE, shared=shared)
    assert "its script fit.py is not there" in warning


def test_an_outage_of_the_storage_is_no_missing_file(world):
    world.platform.storage = FakeStorage()
    world.platform.storage.trouble = errors.PlatformUnreachable("no answer")
    assert found(world, REMOTE) == ()


def test_a_notebook_shows_the_result_as_print_does():
    pretty = pytest.importorskip("IPython.lib.pretty").pretty
    found = Preflight(("a is missing",), 1)
    assert pretty(found) == str(found)


@pytest.mark.parametrize(
    ("command", "is_missing"),
    [
        ("fit {path}", True), ("fit --input={path}", True), ("fit {path}[1]", True), ("fit -o x,{path}", True),
        ("fit raw/{path}", False), ("fit {path}.bak", False), ("fit {path.stem}", False),
    ],
)  # fmt: skip
def test_a_name_is_an_input_if_it_is_a_word_of_the_command(world, tmp_path, monkeypatch, command, is_missing):
    monkeypatch.chdir(tmp_path)
    told = found(world, JobSpec(command, image="skaha/astroml"), shared=True, path=[Path("a.fits")])
    assert any("path=a.fits is not there" in warning for warning in told) == is_missing
