"""Which files a batch's inputs are."""

from pathlib import Path

import pytest

import canfar_batch as cb
from canfar_batch import errors
from canfar_batch.storage import as_inputs


@pytest.fixture
def base(tmp_path):
    for name in ("calib.py", "raw/a.fits", "raw/b.fits", "raw/notes.txt", "raw/deep/c.fits", "odd[1].fits", "b/ledger"):
        path = tmp_path / "work" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "outside.txt").touch()
    return tmp_path / "work"


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (["calib.py"], ["calib.py"]),
        (["raw/*.fits", "calib.py"], ["raw/a.fits", "raw/b.fits", "calib.py"]),
        (["raw"], ["raw/a.fits", "raw/b.fits", "raw/deep/c.fits", "raw/notes.txt"]),
        (["**/*.fits"], ["odd[1].fits", "raw/a.fits", "raw/b.fits", "raw/deep/c.fits"]),
        (["odd[1].fits"], ["odd[1].fits"]),
        (["raw/../calib.py", "calib.py"], ["calib.py"]),
        ([Path("raw/a.fits")], ["raw/a.fits"]),
    ],
)
def test_files_keep_their_paths_relative_to_the_working_directory(base, patterns, found):
    files = cb.Inputs(*patterns).find(base)
    assert list(files) == found
    assert all(path == base / name for name, path in files.items())


def test_a_file_may_be_named_in_full(base):
    assert list(cb.Inputs(base / "raw" / "*.fits").find(base)) == ["raw/a.fits", "raw/b.fits"]


def test_the_batchs_own_folder_is_never_an_input(base):
    assert "b/ledger" not in cb.Inputs(".").find(base, leave_out=base / "b")
    assert "calib.py" in cb.Inputs(".").find(base, leave_out=base / "b")


@pytest.mark.parametrize("pattern", ["none.py", "raw/*.dat", "b"])
def test_what_does_not_exist_is_refused(base, pattern):
    with pytest.raises(errors.LocalMissing, match="does not exist"):
        cb.Inputs(pattern).find(base, leave_out=base / "b")


@pytest.mark.parametrize("pattern", ["../outside.txt", "/etc/hosts"])
def test_what_is_outside_of_the_working_directory_is_refused(base, pattern):
    with pytest.raises(errors.PlanError, match="outside of the working directory"):
        cb.Inputs(pattern).find(base)


def test_a_list_or_one_name_stands_for_inputs():
    assert as_inputs(["a", Path("b")]) == cb.Inputs("a", "b")
    assert as_inputs("a") == as_inputs(Path("a")) == cb.Inputs("a")
    assert as_inputs(None) is None
    assert cb.Inputs("a", to="arc:projects/x/").to == "/arc/projects/x"


@pytest.mark.parametrize("given", [[], 3, [3], {"a": "b"}])
def test_anything_else_is_refused(given):
    with pytest.raises(errors.PlanError, match="inputs="):
        as_inputs(given)


def test_a_folder_that_is_not_on_the_storage_is_refused():
    with pytest.raises(errors.StorageError, match="must begin with /arc/"):
        cb.Inputs("a", to="/data/x")
