"""Write the table of layers into `explanation/layers.md`.

    python docs/make_layers.py

The layers and rules come from the import-linter contracts in `pyproject.toml`, and the sentence for each module or
folder is the first one of its docstring. A test fails if the page and the contracts differ.
"""

import ast
import re
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "canfar_batch"
PAGE = ROOT / "docs" / "explanation" / "layers.md"
BLOCK = re.compile(r"(?<=<!-- generated: layers -->\n).*?(?=<!-- end -->)", re.DOTALL)


def contracts() -> list[dict]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return settings["tool"]["importlinter"]["contracts"]


def layers() -> list[list[str]]:
    """Return the public names in each layer, from the top layer to the bottom one."""
    (contract,) = (contract for contract in contracts() if contract.get("containers") == ["canfar_batch"])
    named = ([name.strip(" ()") for name in layer.split("|")] for layer in contract["layers"])
    public = ([name for name in layer if not name.startswith("_")] for layer in named)
    return [layer for layer in public if layer]


def place(name: str) -> Path:
    """Return the file that holds the docstring of a module or folder of the package."""
    folder = PACKAGE / name / "__init__.py"
    return folder if folder.exists() else PACKAGE / f"{name}.py"


def sentence(name: str) -> str:
    """Return the first sentence of the docstring of a module or folder, on one line."""
    text = ast.get_docstring(ast.parse(place(name).read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(text.partition("\n\n")[0].split()).replace("|", r"\|")
    return re.split(r"(?<=[.!?])\s+(?=[A-Z`])", paragraph)[0]


def block() -> str:
    """Return the generated part of the page."""
    lines = ["| layer | module or folder | purpose |", "|---|---|---|"]
    for number, layer in enumerate(layers(), 1):
        for name in layer:
            shown = f"{name}/" if place(name).name == "__init__.py" else f"{name}.py"
            lines.append(f"| {number} | `{shown}` | {sentence(name)} |")
    rules = [f"- {contract['name']}." for contract in contracts()]
    return "\n".join([*lines, "", "The contracts, as the linter names them:", "", *rules, ""])


def main() -> None:
    PAGE.write_text(BLOCK.sub(lambda _: block(), PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
