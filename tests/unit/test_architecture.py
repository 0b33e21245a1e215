"""Rules of the architecture, and of the tests, that import-linter cannot check."""

import ast
import re
from pathlib import Path

import pytest

import canfar_batch
from canfar_batch import engine

PACKAGE = Path(canfar_batch.__file__).parent
TESTS = Path(__file__).parents[1]
UNIT = TESTS / "unit"

#: tests of the package as a whole
OF_THE_PACKAGE = ("architecture", "docs_site", "public_names", "templates", "typing")

#: modules and folders whose tests are not in their place: they need several parts, real processes, or HTTP
ELSEWHERE = {
    "cli": "integration/cli",
    "containers.py": "unit/test_spec.py",
    "dask.py": "integration/test_dask.py",
    "failures.py": "unit/engine/test_verdict.py",
    "records.py": "property/test_lifecycle.py",
    "setup.py": "unit/engine/test_engine.py",
    "engine/evidence.py": "unit/engine/test_finish.py",
    "engine/stages.py": "unit/engine/test_engine.py",
    "engine/cluster_events.py": "unit/engine/test_verdict.py",
    "engine/job_index.py": "property/test_job_index.py",
    "engine/log_reasons.py": "unit/engine/test_verdict.py",
    "engine/pool.py": "contract/test_pool.py",
    "fields/arguments.py": "unit/functions/test_function.py",
    "fields/converters.py": "unit/test_spec.py",
    "fields/environment.py": "unit/test_spec.py",
    "fields/image_names.py": "unit/test_spec.py",
    "fields/patterns.py": "unit/planning/test_outputs.py",
    "fields/shell_syntax.py": "unit/fields/test_shell.py",
    "functions/archive.py": "integration/test_functions.py",
    "functions/image_python.py": "integration/test_functions.py",
    "local": "integration/local",
    "payload/runner.py": "integration/test_functions.py",
    "pytest_plugin.py": "integration/test_docs.py",
    "planning/warn.py": "unit/planning/test_rows.py",
    "rest": "integration/rest",
    "storage": "integration/test_storage.py",
    "strategies/roles.py": "unit/strategies/test_collect.py",
    "store/jobs.py": "unit/store/test_ledger.py",
    "views/messages.py": "unit/batch/test_driven.py",
    "views/notebook.py": "unit/views/test_html.py",
    "views/transfer_line.py": "integration/test_storage.py",
    "views/terminal.py": "integration/test_terminal.py",
    "views/timeline_mpl.py": "unit/views/test_timeline.py",
    "views/timeline_svg.py": "unit/views/test_timeline.py",
}

#: private names of argparse and of notebooks, which have no public equivalent
FOREIGN = {
    "_SubParsersAction", "_actions", "_exit", "_group_actions", "_ipython_key_completions_", "_repr_html_",
    "_subparsers",
}  # fmt: skip


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


def test_every_unit_test_has_the_place_of_the_module_that_it_tests():
    places = {file.relative_to(UNIT) for file in UNIT.rglob("test_*.py")}
    places -= {Path(f"test_{name}.py") for name in OF_THE_PACKAGE}
    tested = sorted(place.with_name(place.name.removeprefix("test_")) for place in places)
    assert [str(place) for place in tested if not (PACKAGE / place).is_file()] == []


def test_every_module_has_tests_in_its_place_or_in_a_named_one():
    lacking = []
    for module in (path.relative_to(PACKAGE) for path in modules(".")):
        has_own = (UNIT / module.with_name(f"test_{module.name}")).is_file()
        is_named = any(str(place) in ELSEWHERE for place in (module, *module.parents))
        if not (has_own or is_named or module.name.startswith("_") or module.parts[0] == "templates"):
            lacking.append(str(module))
    assert lacking == []
    assert [place for place in ELSEWHERE.values() if not (TESTS / place).exists()] == []


#: calls whose first arguments name what they change or read
PATCHES = ("setattr", "delattr", "getattr", "hasattr", "patch", "object")
PRIVATE = re.compile(r"(?:^|\.)_(?!_)\w+$")


def private(tree):
    """Yield the private names of other objects that a file uses."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                yield node.attr
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in PATCHES:
            words = [word.value for word in node.args[:2] if isinstance(word, ast.Constant)]
            yield from (word for word in words if isinstance(word, str) and PRIVATE.search(word))
        elif isinstance(node, ast.ImportFrom):
            yield from (one.name for one in node.names if one.name.startswith("_") and not one.name.startswith("__"))


@pytest.mark.parametrize(
    "folder", sorted({path.parent for path in TESTS.rglob("*.py")} - {UNIT / "engine"}), ids=lambda folder: folder.name
)
def test_tests_outside_the_engines_use_public_names(folder):
    used = {f"{path.name}: {name}" for path in folder.glob("*.py") for name in private(ast.parse(path.read_text()))}
    assert [one for one in sorted(used) if one.partition(": ")[2] not in FOREIGN] == []
