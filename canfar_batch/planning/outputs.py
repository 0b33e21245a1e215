"""The outputs of a batch's jobs, so that no two jobs write the same file."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from canfar_batch.errors import PlanError
from canfar_batch.records import JobRecord, JobState
from canfar_batch.spec import literal_path

_FEW_PATTERNS = 100  #: patterns of one folder with which each new file is compared
_FEW_FILES = 10_000  #: files of one folder with which each new pattern is compared


@attrs.define
class OutputClaims:
    """The outputs of a batch's jobs, so that no two jobs write the same file.

    Paths are compared as the driver's machine resolves them (symbolic links, ``..``) and without regard to case,
    because some disks do not distinguish it. Two different patterns are not compared with each other.
    """

    _jobs: dict[str, JobRecord] = attrs.field(factory=dict)  #: those that are in here, by key
    _files: dict[str, dict[str, str]] = attrs.field(factory=dict)  #: folder → name → key
    _patterns: dict[str, dict[str, str]] = attrs.field(factory=dict)  #: folder → pattern → key
    _folders: dict[tuple[str, str], str] = attrs.field(factory=dict)  #: resolved, by workdir and folder as written

    def updated(self, jobs: Mapping[str, JobRecord]) -> OutputClaims:
        """Bring the claims up to date with the batch's *jobs*."""
        for key in [key for key in self._jobs if key not in jobs]:
            self._forget(key)
        for job in jobs.values():
            key, before = job.key, self._jobs.get(job.key)
            if before is job or (before is None and not job.filled.outputs):
                continue
            if before is not None and (before.filled != job.filled or _holds(before) != _holds(job)):
                self._forget(key)
            self._jobs[key] = job
            if _holds(job):
                for _, folder, name, literal in self._places(job):
                    self._table(literal).setdefault(folder, {}).setdefault(name, key)
        return self

    def check(self, wanted: Sequence[JobRecord]) -> None:
        """Check that the *wanted* jobs have no output in common with each other or with the known jobs.

        Raises:
            PlanError: Two jobs would write the same file; the message names both.
        """
        renewed = {job.key for job in wanted}
        fresh = OutputClaims(folders=self._folders)
        for job in wanted:
            for output, folder, name, literal in self._places(job):
                for claims in (fresh, self):
                    other = claims._claimed(folder, name, literal=literal)
                    if other is None or other == job.key or (claims is self and other in renewed):
                        continue
                    raise PlanError(
                        f"the jobs {other!r} and {job.key!r} would both write the output {output!r}: put a field into "
                        "its path (or into workdir) so that each job has its own; if all jobs may write it, leave it "
                        "out of outputs"
                    )
                fresh._table(literal).setdefault(folder, {})[name] = job.key

    def _claimed(self, folder: str, name: str, *, literal: bool) -> str | None:
        """Return the key of the job that has this output, or None."""
        files, patterns = self._files.get(folder, {}), self._patterns.get(folder, {})
        if (key := (files if literal else patterns).get(name)) is not None:
            return key
        if literal and len(patterns) <= _FEW_PATTERNS:
            return next((key for pattern, key in patterns.items() if fnmatch.fnmatchcase(name, pattern)), None)
        if not literal and len(files) <= _FEW_FILES:
            matches = re.compile(fnmatch.translate(name)).match
            return next((key for file, key in files.items() if matches(file)), None)
        return None

    def _table(self, literal: bool) -> dict[str, dict[str, str]]:
        return self._files if literal else self._patterns

    def _places(self, job: JobRecord) -> Iterator[tuple[str, str, str, bool]]:
        """Yield each output with its folder, its name there, and whether it is one file."""
        for output in job.filled.outputs:
            path = literal_path(output)
            folder, _, name = (path or output).rpartition("/")
            if output.startswith("/") and not folder:
                folder = "/"
            yield output, self._folder(job.filled.workdir or "", folder), name.casefold(), path is not None

    def _folder(self, workdir: str, folder: str) -> str:
        written = (workdir, folder)
        if written not in self._folders:
            self._folders[written] = os.path.realpath(Path(workdir, folder)).casefold()
        return self._folders[written]

    def _forget(self, key: str) -> None:
        for _, folder, name, literal in self._places(self._jobs.pop(key)):
            table = self._table(literal)
            if table.get(folder, {}).get(name) == key:
                del table[folder][name]


def _holds(job: JobRecord) -> bool:
    """Return whether the job's outputs are its own: it will write them, or has written them."""
    return not job.state.final or job.state is JobState.SUCCEEDED
