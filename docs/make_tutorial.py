"""Run the tutorial and save it with its outputs: `python docs/make_tutorial.py`.

The outputs are saved in the notebook, so that readers of the site and of the repository see results. The names of the
machine's folders are removed.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbclient
import nbformat

NOTEBOOK = Path(__file__).with_name("tutorial.ipynb")
SHOWN = "~/tutorial"  # replaces the folder in which the notebook ran
PACKAGES = re.compile(r"(?:/[\w.+-]+)+/site-packages\b")  # of any environment: one may build on another


def run(folder: Path) -> nbformat.NotebookNode:
    """Execute the notebook in *folder*, and return it with its outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell failed.
    """
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CANFAR_")}
    nbclient.NotebookClient(
        notebook, timeout=120, record_timing=False, resources={"metadata": {"path": str(folder)}}
    ).execute(env={**kept, "IPYTHONDIR": str(folder / ".ipython")})
    return notebook


def cleaned(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Return the notebook as it is saved."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata = {}
            cell.outputs = list(joined(cell.outputs))
            for output in cell.outputs:
                if "text" in output:
                    output.text = without_places(output.text, folder)
                    continue
                output.metadata = {}
                for kind, content in output.data.items():
                    if kind.startswith("text/"):
                        output.data[kind] = without_places(content, folder)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def joined(outputs: list[nbformat.NotebookNode]) -> Iterator[nbformat.NotebookNode]:
    """Yield the outputs with the pieces of each stream joined: stderr, then stdout, then the rest."""
    for stream in ("stderr", "stdout"):
        if pieces := [output for output in outputs if output.get("name") == stream]:
            pieces[0].text = "".join(piece.text for piece in pieces)
            yield pieces[0]
    yield from (output for output in outputs if "data" in output)


def without_places(text: str, folder: Path) -> str:
    """Return the text without the names of the machine's folders."""
    return PACKAGES.sub("site-packages", text.replace(str(folder), SHOWN))


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="tutorial-", dir=Path.home()) as place:
        folder = Path(place).resolve()
        done = cleaned(run(folder), folder)
    nbformat.validate(done)
    nbformat.write(done, NOTEBOOK)
    print(f"{NOTEBOOK}: {NOTEBOOK.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    main()
