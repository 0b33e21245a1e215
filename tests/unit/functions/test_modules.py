"""Modules beside a script travel with its function; Python's and installed ones do not."""

import sys

import pytest

from canfar_batch.errors import SpecError
from canfar_batch.functions import modules
from canfar_batch.functions.digest import identify
from canfar_batch.functions.modules import is_local, sources


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "cbt_tools.py").write_text("import cbt_constants\ndef twice(x):\n    return 2 * x\n")
    (tmp_path / "cbt_constants.py").write_text("C = 1\n")
    (tmp_path / "cbt_package" / "inner").mkdir(parents=True)
    (tmp_path / "cbt_package" / "inner" / "deep.py").write_text("D = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("cbt_")]:
        del sys.modules[name]


def test_the_users_modules_are_local_and_others_are_not(folder):
    assert [name for name in ("cbt_tools", "cbt_package", "json", "sys", "pytest", "no_such") if is_local(name)] == [
        "cbt_tools", "cbt_package",
    ]  # fmt: skip


def test_sources_keep_their_places(folder):
    assert dict(sources("cbt_tools")).keys() == {"cbt_tools.py"}
    assert dict(sources("cbt_package")) == {"cbt_package/inner/deep.py": b"D = 1\n"}


def test_modules_are_found_through_other_modules_and_imports_inside_functions(folder):
    import cbt_tools

    def uses_a_module(x):
        return cbt_tools.twice(x)

    def imports_inside(x):
        from cbt_package.inner.deep import D

        return D + x

    assert identify(uses_a_module).modules == ("cbt_constants", "cbt_tools")
    assert identify(imports_inside).modules == ("cbt_package",)
    before = identify(uses_a_module).digest
    (folder / "cbt_constants.py").write_text("C = 2\n")
    assert identify(uses_a_module).digest != before


def test_a_package_that_is_too_large_to_travel_is_refused(folder, monkeypatch):
    monkeypatch.setattr(modules, "MOST_SOURCE", 4)
    with pytest.raises(SpecError, match=r"cbt_tools in .* install it in the image"):
        list(sources("cbt_tools"))
