"""The user's own modules, beside a script or a notebook: their source files travel with a function that needs them."""

from __future__ import annotations

import functools
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from canfar_batch.errors import SpecError

MOST_SOURCE = 4 << 20  #: bytes of source files of one package that travel with a function


def is_local(name: str) -> bool:
    """Return whether the top-level module *name* is the user's own: not of Python, nor of an installed package."""
    place = _place(name)
    return place is not None and not any(place.is_relative_to(folder) for folder in _installed())


def sources(name: str) -> Iterator[tuple[str, bytes]]:
    """Yield the source files of the user's module or package *name*, each with its path in an archive.

    Raises:
        SpecError: They are too many to travel with a function.
    """
    place = _place(name)
    if place is None:
        return
    size = 0
    for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
        content = file.read_bytes()
        size += len(content)
        if size > MOST_SOURCE:
            raise SpecError(
                f"the function uses the package {name} in {place}, whose source files take more than "
                f"{MOST_SOURCE >> 20} MiB: install it in the image instead, or import less"
            )
        yield file.relative_to(place.parent).as_posix(), content


@functools.cache
def _installed() -> tuple[Path, ...]:
    """Return the folders of Python itself and of installed packages."""
    paths = sysconfig.get_paths()
    named = [paths[kind] for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
    more = [entry for entry in sys.path if entry.rstrip("/").endswith(("site-packages", "dist-packages"))]
    return tuple({Path(entry).resolve() for entry in (*named, *more)})


def _place(name: str) -> Path | None:
    """Return the file of a top-level module, or the folder of a package, without importing it; None if it has none."""
    module = sys.modules.get(name)
    file, folders = getattr(module, "__file__", None), getattr(module, "__path__", None)
    if module is None:
        try:
            found = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            return None
        if found is None or not (found.has_location or found.submodule_search_locations):
            return None
        file, folders = found.origin if found.has_location else None, found.submodule_search_locations
    if folders:
        return Path(next(iter(folders))).resolve()
    return Path(file).resolve() if file and file.endswith(".py") else None
