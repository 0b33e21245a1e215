"""`Inputs`: the files that a batch's jobs need, which are brought to the storage before the first launch."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from canfar_batch.errors import LocalMissing, PlanError
from canfar_batch.storage.names import container_path, has_pattern, remote_path


@attrs.frozen(init=False)
class Inputs:
    """The files that a batch's jobs need, for `Session.batch(inputs=…)`; a list of patterns is the same without *to*.

    Where containers see this machine's files, nothing is copied. Elsewhere the files are brought to a folder of the
    batch, by their paths relative to the working directory, and jobs without an absolute `workdir` run in that folder:
    a command names its files in the same way everywhere.

    ```python
    batch = session.batch("fits", inputs=cb.Inputs("calib.py", "raw/*.fits", to="/arc/projects/mygroup/fits"))
    ```

    Args:
        patterns: Files, folders and patterns, inside the working directory; `**` matches any depth.
        to: The folder, as containers see it; by default `canfar_batch/<batch>-<6 letters>` in your home on `/arc`.

    Raises:
        PlanError: No pattern was given.
        StorageError: *to* is not a path below `/arc`.
    """

    patterns: tuple[str, ...]
    to: str | None

    def __init__(self, *patterns: str | os.PathLike[str], to: str | os.PathLike[str] | None = None) -> None:
        if not patterns:
            raise PlanError('inputs= names no file: write inputs=["calib.py", "raw/*.fits"]')
        folder = None if to is None else str(container_path(remote_path(to)))
        self.__attrs_init__(tuple(os.fspath(each) for each in patterns), folder)

    def find(self, base: Path, *, leave_out: Path | None = None) -> Mapping[str, Path]:
        """Return the files by their paths relative to *base*, in the order of the patterns.

        Args:
            base: The working directory.
            leave_out: A folder whose files are never inputs: the batch's own.

        Raises:
            LocalMissing: Nothing has the name, or matches the pattern.
            PlanError: A file is outside of *base*.
        """
        found: dict[str, Path] = {}
        for pattern in self.patterns:
            place = Path(os.path.normpath(base / pattern))
            if not place.is_relative_to(base):
                raise PlanError(
                    f"the input {pattern} is outside of the working directory {base}, so no path means the same here "
                    "and in a container: run the script from a folder that holds all inputs, or upload() it and name "
                    "its path below /arc"
                )
            chosen = [each for each in _below(place) if leave_out is None or not each.is_relative_to(leave_out)]
            if not chosen:
                raise LocalMissing(f"the input {pattern} does not exist in {base}, or holds no file")
            found.update((each.relative_to(base).as_posix(), each) for each in chosen)
        return found


def as_inputs(given: Inputs | str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None) -> Inputs | None:
    """Return what the user gave as `Inputs`: one pattern, or several.

    Raises:
        PlanError: It is neither.
    """
    if given is None or isinstance(given, Inputs):
        return given
    several = [given] if isinstance(given, (str, os.PathLike)) else given
    if not isinstance(several, (list, tuple)) or not all(isinstance(each, (str, os.PathLike)) for each in several):
        raise PlanError(f'inputs={given!r} is not a list of files: write inputs=["calib.py", "raw/*.fits"]')
    return Inputs(*several)


def _below(place: Path) -> Iterator[Path]:
    """Yield the files of a name or pattern, sorted; a folder stands for all files in it."""
    if place.exists() or not has_pattern(str(place)):
        matches = [place] if place.exists() else []
    else:
        matches = [Path(name) for name in sorted(glob.glob(str(place), recursive=True))]  # noqa: PTH207
    for match in matches:
        if match.is_dir():
            yield from sorted(each for each in match.rglob("*") if each.is_file())
        else:
            yield match
