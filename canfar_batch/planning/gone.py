"""Files of succeeded jobs that no longer exist: declared outputs, and paths in results."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from canfar_batch.records import JobRecord, JobState
from canfar_batch.storage.names import MOUNT, is_remote


@attrs.frozen(kw_only=True)
class SeenFiles:
    """The files of a batch's jobs, as far as this machine sees them; each directory is read once.

    Reading a directory once matters on a network disk, so this is made again for each question about all jobs.
    """

    home: Path | None  #: the batch's directory
    workdir: Path  #: the directory in which jobs run, if containers see it
    shared: bool = False  #: whether containers are known to see this machine's files
    _listings: dict[Path, frozenset[str]] = attrs.field(factory=dict, init=False)

    def gone_outputs(self, jobs: Iterable[JobRecord]) -> dict[str, list[Path]]:
        """Return the outputs that succeeded jobs made and that no longer exist, by key.

        Outputs of containers whose files this machine does not see are left out.
        """
        gone: dict[str, list[Path]] = {}
        for job in jobs:
            if missing := [path for path in self._outputs(job) if not self._has(path)]:
                gone[job.key] = missing
        return gone

    def without_gone(self, job: JobRecord, result: Any, missing: Any) -> tuple[Any, Path | None]:
        """Return the result of *job* without paths that are gone, and one of those paths; None if there is none.

        *missing* takes the place of each such path, and of each list that holds one.
        """
        if isinstance(result, Path):
            is_gone = self._is_visible(job, result) and not self._has(Path(os.path.normpath(result)))
            return (missing, result) if is_gone else (result, None)
        if isinstance(result, (list, tuple)):
            lost = next((lost for item in result if (lost := self.without_gone(job, item, missing)[1])), None)
            return (result, None) if lost is None else (missing, lost)
        if isinstance(result, dict):
            found = {name: self.without_gone(job, item, missing) for name, item in result.items()}
            lost = next((lost for _, lost in found.values() if lost is not None), None)
            return (result, None) if lost is None else ({name: item for name, (item, _) in found.items()}, lost)
        return result, None

    def _outputs(self, job: JobRecord) -> list[Path]:
        """Return the paths of the outputs that *job* made, if this machine sees the files of its container."""
        if not job.spec.outputs or job.state is not JobState.SUCCEEDED:
            return []  # most jobs declare none: their receipts need not be parsed
        receipt = job.last_attempt.receipt if job.last_attempt else None
        if receipt is None or not self._sees_files_of(job):
            return []
        directory = self.workdir / (job.filled.workdir or "")
        return list(filter(_is_mounted, (directory / os.path.normpath(output) for output in receipt.outputs)))

    def _sees_files_of(self, job: JobRecord) -> bool:
        receipt = job.last_attempt.receipt if job.last_attempt else None
        ran_in = receipt.ran_in if receipt else None
        return ran_in == "driver" or (self.shared and ran_in != "home")

    def _is_visible(self, job: JobRecord, path: Path) -> bool:
        """Return whether this machine would see *path* if it existed."""
        is_in_home = self.home is not None and path.is_relative_to(self.home)
        return path.is_absolute() and (is_in_home or (self._sees_files_of(job) and _is_mounted(path)))

    def _has(self, path: Path) -> bool:
        if path.parent not in self._listings:
            try:
                self._listings[path.parent] = frozenset(entry.name for entry in path.parent.iterdir())
            except OSError:
                self._listings[path.parent] = frozenset()
        return path.name in self._listings[path.parent] or not path.name  # the root has no name


def _is_mounted(path: Path) -> bool:
    """Return whether this machine sees *path*, if it is on the platform's storage: a local platform has its own."""
    return not is_remote(path) or Path(MOUNT).is_dir()
