"""The notebook that shows everything runs from end to end, with the extras and without them."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbclient is not installed")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")

NOTEBOOK = Path(__file__).parents[2] / "examples" / "see_it.ipynb"
EXTRAS = ("astropy", "matplotlib", "pandas")

pytestmark = pytest.mark.timeout(180)

BLOCKER = f"""\
import sys

class Blocker:
    \"\"\"Makes the extras fail to import, as if they were not installed.\"\"\"

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def outputs(folder: Path, **environment: str) -> list[dict]:
    """The outputs of the notebook's cells, in order."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # it is stored without outputs
    client = nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}})
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CANFAR_")}
    client.execute(env={**kept, "IPYTHONDIR": str(folder / ".ipython"), "HOME": str(folder), **environment})
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def shown(outputs: list[dict], kind: str) -> list[str]:
    return [output["data"][kind] for output in outputs if kind in output.get("data", {})]


def printed(outputs: list[dict]) -> str:
    return "".join(output.get("text", "") for output in outputs)


def check_what_needs_no_extra(cells: list[dict], folder: Path) -> None:
    pages = shown(cells, "text/html")
    views = [page for page in pages if 'class="cb-view"' in page]
    session, running, progress, report, batch, job = views
    assert "24 of 24 final" in progress
    assert "Session" in session
    assert "memory now" in running
    assert "2</b> failed" in report
    assert "star-7" in batch
    assert "the fit did not converge" in job
    assert "2 failed: 2 exit code 1" in printed(cells)
    assert (folder / "batches" / "see-it" / "report.html").read_text().count("</script>") == 2


def test_the_notebook_runs_with_the_extras(tmp_path):
    for extra in EXTRAS:
        pytest.importorskip(extra)
    cells = outputs(tmp_path)
    check_what_needs_no_extra(cells, tmp_path)
    assert len(shown(cells, "image/png")) == 1
    assert len(shown(cells, "text/html")) == 8  # six views, a DataFrame and a Table
    assert "pip install" not in printed(cells)


def check_that_missing_extras_are_named(cells: list[dict]) -> None:
    assert shown(cells, "image/png") == []
    for library in ("pandas", "astropy", "matplotlib"):
        assert printed(cells).count(f"pip install {library} ") == 1


def test_the_notebook_runs_without_the_extras_and_names_them(tmp_path):
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text(BLOCKER)
    cells = outputs(tmp_path, PYTHONPATH=str(blocked))
    check_what_needs_no_extra(cells, tmp_path)
    check_that_missing_extras_are_named(cells)


@pytest.mark.bare
def test_the_notebook_runs_in_an_environment_without_extras(tmp_path):
    assert not [name for name in (*EXTRAS, "numpy") if find_spec(name)]
    cells = outputs(tmp_path)
    check_what_needs_no_extra(cells, tmp_path)
    check_that_missing_extras_are_named(cells)
