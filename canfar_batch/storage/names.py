"""Names of files on the storage: the ways to write one, and what cannot be stored."""

from __future__ import annotations

import os
import re
from pathlib import PurePosixPath

from canfar_batch.errors import StorageError

MOUNT = "/arc"  #: where containers see the storage
_SCHEME = re.compile(r"(?:arc:|vos://cadc\.nrc\.ca[~!]arc)/*")


def remote_path(text: str | os.PathLike[str]) -> str:
    """Return the path below the storage's root that *text* means: `/arc/home/you/a.fits` is `/home/you/a.fits`.

    Args:
        text: A path as containers see it; or as other clients write it, `arc:home/you/a.fits`.

    Raises:
        StorageError: It is not a path on the storage.
    """
    given = os.fspath(text)
    found = _SCHEME.match(given)
    if found:
        given = f"{MOUNT}/{given[found.end() :]}"
    if given != MOUNT and not given.startswith(f"{MOUNT}/"):
        raise StorageError(
            f"{given!r} is not a place on the platform's storage: it must begin with {MOUNT}/, "
            f"such as {MOUNT}/home/you/ or {MOUNT}/projects/group/"
        )
    parts = [part for part in given[len(MOUNT) :].split("/") if part not in ("", ".")]
    if ".." in parts:
        raise StorageError(f"{given!r} holds '..': write the path without it")
    return "".join(f"/{part}" for part in parts)


def is_remote(text: str | os.PathLike[str]) -> bool:
    """Return whether *text* is a path on the storage."""
    given = os.fspath(text)
    return given == MOUNT or given.startswith(f"{MOUNT}/") or _SCHEME.match(given) is not None


def container_path(path: str) -> PurePosixPath:
    """Return where containers see the file of a path below the storage's root."""
    return PurePosixPath(f"{MOUNT}{path}")


def has_pattern(text: str) -> bool:
    """Return whether a path is a pattern for several."""
    return any(letter in text for letter in "*?[")


def repaired(name: str) -> str:
    """Return a name that the storage service can keep, like *name*: other letters become underscores."""
    return re.sub(r"[^\w.+,:~@=()'-]", "_", name)
