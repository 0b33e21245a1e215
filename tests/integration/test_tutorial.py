"""The tutorial runs from end to end unchanged, and the site shows the output of such a run."""

import re
import runpy
from pathlib import Path

import nbformat
import pytest

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOK = DOCS / "tutorial.ipynb"

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def maker():
    return runpy.run_path(str(DOCS / "make_tutorial.py"))


@pytest.fixture(scope="module")
def kept():
    return nbformat.read(NOTEBOOK, as_version=4)


def kinds(notebook):
    """What each cell shows, in kind."""
    return [
        {tuple(sorted(output.get("data", ["printed"]))) for output in cell.outputs}
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def printed(notebook):
    return "".join(
        output.get("text", "")
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.get("name") != "stderr"
    )


def test_the_tutorial_runs_and_shows_what_is_kept_of_it(maker, kept, tmp_path):
    done = maker["cleaned"](maker["run"](tmp_path), tmp_path)
    assert kinds(done) == kinds(kept), "run python docs/make_tutorial.py"

    said = printed(done)
    assert "succeeded 0\nraw/exp00.fits: " in said  # the first job
    assert "... and 10 more" in said  # a batch
    assert "Cause: exit code 1" in said  # a failure, explained
    assert "opened again: ['exp07']" in said
    assert "True 13 attempts in all" in said  # mended
    assert "13 attempts: none was launched again" in said  # resumed
    (table,) = (
        output.data["text/plain"]
        for cell in done.cells[-8:]
        for output in cell.get("outputs", ())
        if "exp11" in str(output.get("data", ""))
    )
    stars = {line.split()[0]: int(line.split()[1]) for line in table.splitlines()[1:]}
    assert list(stars) == [f"exp{number:02d}" for number in range(12)]
    assert stars["exp00"] < stars["exp05"]  # 10 s against 320 s


def test_what_is_kept_shows_results_and_no_place_of_the_machine_on_which_it_ran(kept):
    text = NOTEBOOK.read_text()
    assert [cell.execution_count for cell in kept.cells if cell.cell_type == "code"] == list(
        range(1, len(kinds(kept)) + 1)
    )
    assert "image/png" in text
    assert "cb-view" in text
    assert re.findall(r"/(?:tmp|home|root|Users)/[^ \"\\\\]*", text) == []
