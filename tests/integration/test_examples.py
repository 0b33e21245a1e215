"""The examples run unchanged on the local platform, with the results that they announce."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

np = pytest.importorskip("numpy", reason="the examples need numpy; the extra `examples` brings it")
fits = pytest.importorskip("astropy.io.fits", reason="the examples need astropy; the extra `examples` brings it")

EXAMPLES = Path(__file__).parents[2] / "examples"
PROCESS_DATA = EXAMPLES / "process_data.py"


def run(script, *arguments, **env):
    """Run an example as a user does."""
    return subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.fixture
def process():
    """The script's `main`, called as the command line calls it."""
    return runpy.run_path(str(PROCESS_DATA))["main"]


@pytest.fixture
def here(away_from_home):
    return away_from_home


def write(path, *hdus):
    fits.HDUList(list(hdus)).writeto(path)
    return str(path)


def cube(*shape, dtype="f4"):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


# -- process_data.py --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 4), (5, 3, 4), (1, 5, 3, 4)])
@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8"])
def test_the_median_is_over_the_first_axis(process, here, shape, dtype):
    data = cube(*shape, dtype=dtype)
    assert process([write(here / "in.fits", fits.PrimaryHDU(data)), "out.fits"]) == 0
    assert np.array_equal(fits.getdata("out.fits"), np.median(data, axis=0))


def test_an_image_behind_an_empty_primary_hdu_is_found(process, here):
    table = fits.BinTableHDU.from_columns([fits.Column("a", "J", array=[1])])
    source = write(here / "in.fits", fits.PrimaryHDU(), table, fits.ImageHDU(cube(3, 4)))
    assert process([source, "out.fits"]) == 0
    assert fits.getdata("out.fits").shape == (4,)


def test_a_compressed_image_is_found(process, here):
    data = cube(30, 40, dtype="i4")
    source = write(here / "in.fits", fits.PrimaryHDU(), fits.CompImageHDU(data))
    assert process([source, "out.fits"]) == 0
    assert np.array_equal(fits.getdata("out.fits"), np.median(data, axis=0))


def test_pixels_without_a_value_are_left_out(process, here, recwarn):
    data = cube(3, 2)
    data[0, 0], data[:, 1] = np.nan, np.nan
    assert process([write(here / "in.fits", fits.PrimaryHDU(data)), "out.fits"]) == 0
    assert np.array_equal(fits.getdata("out.fits"), [3.0, np.nan], equal_nan=True)
    assert [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)] == []


def test_the_header_is_kept_without_the_axis_that_was_removed(process, here):
    hdu = fits.PrimaryHDU(cube(5, 3, 4, dtype="i2"))
    hdu.header.update(OBJECT="M31", CTYPE1="RA---TAN", CTYPE3="FREQ", CRVAL3=1.4e9, CD1_1=0.1, CD3_3=1e6)
    assert process([write(here / "in.fits", hdu), "out.fits"]) == 0
    header = fits.getheader("out.fits")
    assert (header["OBJECT"], header["CTYPE1"], header["CD1_1"]) == ("M31", "RA---TAN", 0.1)
    assert not {"CTYPE3", "CRVAL3", "CD3_3", "NAXIS3", "BZERO"} & set(header)
    assert "median over the first axis of in.fits" in str(header["HISTORY"])


def test_the_output_is_replaced_and_its_folder_made(process, here):
    source = write(here / "in.fits", fits.PrimaryHDU(cube(3, 4)))
    assert process([source, "deep/er/out.fits"]) == process([source, "deep/er/out.fits"]) == 0
    assert [path.name for path in Path("deep/er").iterdir()] == ["out.fits"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"", "Empty or corrupt"),
        (b"no fits", "SIMPLE"),
        ("table", "no image with two or more axes"),
        ("spectrum", "no image with two or more axes"),
    ],
)
def test_what_cannot_be_processed_is_said_and_leaves_nothing(process, here, capsys, content, words):
    if isinstance(content, bytes):
        (here / "in.fits").write_bytes(content)
    elif content == "table":
        write(here / "in.fits", fits.PrimaryHDU(), fits.BinTableHDU.from_columns([fits.Column("a", "J", array=[1])]))
    elif content == "spectrum":
        write(here / "in.fits", fits.PrimaryHDU(cube(9)))
    assert process(["in.fits", "out.fits"]) == 1
    assert words in capsys.readouterr().err
    assert not Path("out.fits").exists()


def test_a_run_that_cannot_write_keeps_the_old_output_and_leaves_no_part(process, here, monkeypatch):
    source = write(here / "in.fits", fits.PrimaryHDU(cube(3, 4)))
    Path("out.fits").write_text("old")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert process([source, "out.fits"]) == 1
    assert Path("out.fits").read_text() == "old"
    assert sorted(path.name for path in here.iterdir()) == ["in.fits", "out.fits"]


def test_a_wrong_call_is_answered_with_the_right_one():
    done = run(PROCESS_DATA, "only-one")
    assert done.returncode == 2
    assert "usage: python process_data.py INPUT OUTPUT" in done.stderr


# -- the ones that launch jobs ----------------------------------------------------------------------------------------


def test_the_quickstart_processes_a_cube_that_ships_with_astropy(here):
    done = run(EXAMPLES / "process_single.py")
    assert done.returncode == 0, done.stderr
    assert "processed cube.fits -> median.fits, shape (10, 11)" in done.stdout
    assert "exit code:   0" in done.stdout
    assert "peak memory: 0." in done.stdout
    assert np.array_equal(fits.getdata("median.fits"), np.median(fits.getdata("cube.fits"), axis=0))


def test_the_single_file_program_shows_the_jobs_log(here):
    write(here / "observation1.fits", fits.PrimaryHDU(cube(3, 4)))
    done = run(EXAMPLES / "single_file.py", "observation1.fits", "processed1.fits", CANFAR_URL="local")
    assert done.returncode == 0, done.stderr
    assert "launched process-data-" in done.stdout
    assert "processed observation1.fits -> processed1.fits" in done.stdout
    assert fits.getdata("processed1.fits").shape == (4,)


def test_the_single_file_program_says_why_it_failed(here):
    done = run(EXAMPLES / "single_file.py", "missing.fits", "processed1.fits", CANFAR_URL="local")
    assert done.returncode == 1
    assert "JobFailed" in done.stderr
    assert "No such file or directory: 'missing.fits'" in done.stderr


def test_every_example_is_in_the_list_of_them():
    listed = (EXAMPLES / "README.md").read_text()
    assert [
        path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb") and f"]({path.name})" not in listed
    ] == []


def test_every_example_is_run_by_a_test():
    tests = "".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))
    assert [path.name for path in EXAMPLES.rglob("*.py") if path.name not in tests] == []
