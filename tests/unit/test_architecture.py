"""Rules of the architecture that import-linter cannot check."""

import ast
from pathlib import Path

import pytest

import canfar_batch
from canfar_batch import engine

PACKAGE = Path(canfar_batch.__file__).parent


def modules(folder):
    return sorted((PACKAGE / folder).rglob("*.py"))


def test_the_engine_shows_one_class():
    named = ast.parse((PACKAGE / "engine" / "__init__.py").read_text()).body
    names = [alias.asname or alias.name for node in named if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert names == ["Engine"]
    assert engine.Engine.__module__ == "canfar_batch.engine.engine"


@pytest.mark.parametrize("path", modules("views"), ids=lambda path: path.name)
def test_views_touch_no_disk(path):
    """What they show is given to them; the package's own assets are read by `importlib.resources`."""
    called = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    on_files = {"open", "read_bytes", "write_text", "write_bytes", "exists", "is_file", "stat", "mkdir", "iterdir"}
    names = {func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "") for func in called}
    assert names & on_files == set()
