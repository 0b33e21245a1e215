"""The package as users install it: sdist and wheel are built, checked, installed, and run."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: what the build needs of the clone; a whole clone may hold gigabytes of other files
SOURCES = ("canfar_batch", "pyproject.toml", "README.md", "LICENSE")


def run(*words, **more):
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=110, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the sdist, and the wheel that is built from it."""
    clone, folder = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, clone / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, clone)
    return folder


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The environment of a Python that finds the installed wheel before this clone, and its folder."""
    (wheel,) = built.glob("*.whl")
    site = tmp_path_factory.mktemp("site")
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CANFAR_", "PYTEST_"))}
    return {**kept, "PYTHONPATH": str(site)}, site


def test_the_distributions_pass_the_checks_of_a_package_index(built):
    files = sorted(built.iterdir())
    assert [path.suffix for path in files] == [".whl", ".gz"]
    run(sys.executable, "-m", "twine", "check", "--strict", *files)


def test_the_wheel_has_every_file_of_the_package_and_no_other(built):
    (wheel,) = built.glob("*.whl")
    own = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "canfar_batch").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == own
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml"} <= names


def test_the_quickstart_runs_with_the_wheel(installed, tmp_path):
    environment, site = installed
    where = run(
        sys.executable, "-c", "import canfar_batch; print(canfar_batch.__file__)", env=environment, cwd=tmp_path
    )
    assert Path(where.strip()).is_relative_to(site)
    for script in (ROOT / "examples").glob("*.py"):
        shutil.copy(script, tmp_path)
    assert "9 succeeded, 1 failed" in run(sys.executable, "quickstart.py", env=environment, cwd=tmp_path)


def test_the_command_and_the_plugin_come_with_the_wheel(installed, tmp_path):
    environment, site = installed
    assert "usage: canfar-batch" in run(site / "bin/canfar-batch", "--help", env=environment, cwd=tmp_path)
    (found,) = distributions(name="canfar_batch", path=[str(site)])
    assert {(point.group, point.name) for point in found.entry_points} == {
        ("console_scripts", "canfar-batch"), ("pytest11", "canfar_batch"),
    }  # fmt: skip
