"""The recipes for Snakemake, run by Snakemake itself, which has an environment of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from environments import environment_with
from pages import ROOT, files

import canfar_batch as cb

pytestmark = [pytest.mark.soak, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def programs(request, tmp_path_factory):
    return environment_with("snakemake", request, tmp_path_factory)


@pytest.fixture
def workflow(programs, away_from_home, monkeypatch):
    """Run one of the recipes' workflows in a folder with two nights."""
    for name, text in files(ROOT / "docs/howto/recipes.md"):
        Path(name).write_text(text)
    Path("raw").mkdir()
    for night in ("n1", "n2"):
        Path(f"raw/{night}.txt").write_text("b\na\n")
    paths = [Path(sys.executable).parent, programs, os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, paths)))
    monkeypatch.setenv("CANFAR_URL", "local")
    monkeypatch.setenv("CANFAR_BATCH_HOME", str(away_from_home / "batches"))

    def run(name):
        words = [programs / "snakemake", "-s", name, "-j", "2", "--quiet"]
        return subprocess.run(words, capture_output=True, text=True, timeout=110)

    return run


def attempts():
    found = []
    for name in cb.batches():
        with cb.open(name) as batch:
            found += [job.attempt for job in batch]
    return found


@pytest.mark.parametrize("name", ["Snakefile", "Snakefile.each"])
def test_outputs_are_made_once_and_again_if_they_are_gone(workflow, name):
    for gone, wanted in ((None, [1, 1]), (None, [1, 1]), ("n2", [1, 2])):
        if gone:
            Path(f"out/{gone}.out").unlink()
        done = workflow(name)
        assert done.returncode == 0, done.stderr
        assert [Path(f"out/{night}.out").read_text() for night in ("n1", "n2")] == ["a\nb\n"] * 2
        both = name == "Snakefile" and gone  # Snakemake deletes all outputs of a rule before it makes them again
        assert sorted(attempts()) == ([2, 2] if both else wanted)


@pytest.mark.parametrize("name", ["Snakefile", "Snakefile.each"])
def test_a_job_that_fails_stops_the_workflow(workflow, name):
    Path("raw/n2.txt").unlink()
    Path("raw/n2.txt").mkdir()  # cannot be sorted
    done = workflow(name)
    assert done.returncode == 1
    assert "exit code 2" in done.stdout + done.stderr
