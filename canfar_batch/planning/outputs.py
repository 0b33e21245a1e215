"""The files of a batch's jobs: outputs, and what its collector reads, so that no two jobs have the same file."""

from __future__ import annotations

import bisect
import fnmatch
import glob
import itertools
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from canfar_batch.errors import PlanError
from canfar_batch.fields.keys import folded
from canfar_batch.fields.patterns import literal_prefix, may_match_one_name
from canfar_batch.records import JobRecord, JobState
from canfar_batch.spec import literal_path

_FEW_PATTERNS = 1000  #: patterns with which each new file or pattern of the folder is compared
_FEW_FILES = 10_000  #: files of one folder with which each new pattern is compared


@attrs.define
class OutputClaims:
    """The outputs of a batch's jobs, and the files that its collector reads: no two jobs have the same file.

    Paths are compared as the driver's machine resolves them (links, ``..``), and without regard to case and to how
    accented letters are composed, because some disks do not distinguish them. Patterns are compared within a folder.
    A job that has a folder has all that is in it.

    Attributes:
        reads: Returns the files that the collector reads for a job, or patterns of them.
    """

    reads: Callable[[JobRecord], tuple[str, ...]] = attrs.field(default=lambda _: ())
    _jobs: dict[str, JobRecord] = attrs.field(factory=dict)  #: those that are in here, by key
    _folders: dict[str, _Folder] = attrs.field(factory=dict)  #: by their path, folded
    _inside: dict[str, tuple[str, ...]] = attrs.field(factory=dict)  #: jobs with files below a path; two are enough
    _links: _Links = attrs.field(factory=lambda: _Links())

    def updated(self, jobs: Mapping[str, JobRecord]) -> OutputClaims:
        """Bring the claims up to date with the batch's *jobs*."""
        for key in [key for key in self._jobs if key not in jobs]:
            self._forget(key)
        for job in jobs.values():
            key, before = job.key, self._jobs.get(job.key)
            if before is job or (before is None and not job.filled.outputs and not self.reads(job)):
                continue
            if before is not None and (before.filled != job.filled or _holds(before) != _holds(job)):
                self._forget(key)
            self._jobs[key] = job
            if _holds(job):
                for claim in self._claims(job):
                    self._add(claim, key)
        return self

    def check(self, wanted: Sequence[JobRecord]) -> None:
        """Check that the *wanted* jobs have no file in common with each other or with the known jobs.

        Raises:
            PlanError: Two jobs have the same file, or may have; the message names both.
        """
        renewed = {job.key for job in wanted}
        fresh = OutputClaims(reads=self.reads, links=self._links)
        for job in wanted:
            for claim in self._claims(job):
                for claims in (fresh, self):
                    ignored = {job.key} if claims is fresh else renewed
                    other = claims._folder(claim).find(claim.name, literal=claim.literal, ignored=ignored)
                    if other is not None:
                        raise PlanError(_same_file(other, job.key, claim))
                    other = claims._around(claim, ignored) or claims._within(claim, ignored)
                    if other is not None:
                        raise PlanError(_same_folder(other, job.key, claim))
                fresh._add(claim, job.key)

    def _add(self, claim: _Claim, key: str) -> None:
        self._folder(claim).add(claim.name, key, literal=claim.literal)
        for path in _ancestors(claim.folder):
            known = self._inside.get(path, ())
            if key in known or len(known) > 1:
                continue
            self._inside[path] = (*known, key)

    def _around(self, claim: _Claim, ignored: Collection[str]) -> str | None:
        """Return the key of a job that has a folder in which *claim* is; None if there is none."""
        for path in _ancestors(claim.folder):
            parent, _, name = path.rpartition("/")
            folder = self._folders.get(parent or "/")
            key = folder.owner(name) if folder is not None else None
            if key is not None and key not in ignored:
                return key
        return None

    def _within(self, claim: _Claim, ignored: Collection[str]) -> str | None:
        """Return the key of a job that has files in the folder *claim*; None if there is none."""
        path = f"{claim.folder.rstrip('/')}/{claim.name}"
        known = self._inside.get(path, ()) if claim.literal else ()
        if len(known) < 2 and all(key in ignored for key in known):
            return None
        folders = (folder for at, folder in self._folders.items() if at == path or at.startswith(f"{path}/"))
        return next((key for folder in folders for key in folder.owners if key not in ignored), None)

    def _folder(self, claim: _Claim) -> _Folder:
        return self._folders.setdefault(claim.folder, _Folder())

    def _claims(self, job: JobRecord) -> Iterator[_Claim]:
        """Yield the files of a job."""
        workdir, outputs = job.filled.workdir or "", job.filled.outputs
        for written in (*outputs, *(read for read in self.reads(job) if read not in outputs)):
            path = literal_path(written)
            folder, name = self._links.resolve(workdir, path or written, literal=path is not None)
            yield _Claim(
                text=written, folder=folded(folder), name=folded(name), literal=path is not None,
                declared=written in outputs,
            )  # fmt: skip

    def _forget(self, key: str) -> None:
        for claim in self._claims(self._jobs.pop(key)):
            self._folder(claim).remove(claim.name, key, literal=claim.literal)


@attrs.frozen(kw_only=True)
class _Claim:
    """A file of a job, or a pattern of files."""

    text: str  #: as the job has it
    folder: str  #: resolved and folded
    name: str  #: in the folder, folded
    literal: bool  #: whether it is one file
    declared: bool  #: whether the job writes it; else its collector reads it


def _same_file(one: str, other: str, claim: _Claim) -> str:
    if claim.literal and claim.declared:
        return (
            f"the jobs {one!r} and {other!r} would both write the output {claim.text!r}: put a field into its path (or "
            "into workdir) so that each job has its own; if all jobs may write it, leave it out of outputs"
        )
    what = "outputs" if claim.declared else "results"
    return (
        f"the jobs {one!r} and {other!r} may have the same files as {what}: {claim.text!r} also matches those of "
        f"{one!r}. Give each job a folder of its own, as 'cat/{{key}}/*.cat', or put a character after the field that "
        "no value has, as 'cat/{key}_*.cat'"
    )


def _same_folder(one: str, other: str, claim: _Claim) -> str:
    return (
        f"the jobs {one!r} and {other!r} would share files: {claim.text!r} of {other!r} is in a folder that {one!r} "
        "has, or the other way round. Declare the files themselves, or give each job a folder of its own"
    )


def _ancestors(folder: str) -> Iterator[str]:
    """Yield the path of a folder and of those around it, except the root."""
    while folder.strip("/"):
        yield folder
        folder = folder.rpartition("/")[0]


@attrs.define
class _Folder:
    """The names in one folder that jobs have as outputs, and patterns of names."""

    _files: dict[str, str] = attrs.field(factory=dict)  #: the job's key, by name
    _patterns: dict[str, str] = attrs.field(factory=dict)  #: the job's key, by pattern
    _beginnings: dict[str, list[str]] = attrs.field(factory=dict)  #: patterns, by their literal beginning
    _ordered: list[str] = attrs.field(factory=list)  #: the literal beginnings

    def add(self, name: str, key: str, *, literal: bool) -> None:
        """Let the job *key* have a name or pattern, unless another job has it already."""
        table = self._files if literal else self._patterns
        if name in table:
            return
        table[name] = key
        if not literal:
            beginning = literal_prefix(name)
            if beginning not in self._beginnings:
                bisect.insort(self._ordered, beginning)
            self._beginnings.setdefault(beginning, []).append(name)

    def remove(self, name: str, key: str, *, literal: bool) -> None:
        """Take a name or pattern away from the job *key*, if it has it."""
        table = self._files if literal else self._patterns
        if table.get(name) != key:
            return
        del table[name]
        if not literal:
            beginning = literal_prefix(name)
            self._beginnings[beginning].remove(name)
            if not self._beginnings[beginning]:
                del self._beginnings[beginning]
                self._ordered.remove(beginning)

    @property
    def owners(self) -> Iterator[str]:
        """The keys of the jobs that have files in here; those with several come more than once."""
        return itertools.chain(self._files.values(), self._patterns.values())

    def owner(self, name: str) -> str | None:
        """Return the key of the job that has the file or folder *name*; None if there is none."""
        return self._files.get(name)

    def find(self, name: str, *, literal: bool, ignored: Collection[str]) -> str | None:
        """Return the key of a job that has, or may have, a file that matches *name*; None if there is none."""
        same = (self._files if literal else self._patterns).get(name)
        if same is not None and same not in ignored:
            return same
        own = glob.escape(name) if literal else name
        for pattern in itertools.islice(self._candidates(name, literal=literal), _FEW_PATTERNS):
            if self._patterns[pattern] not in ignored and may_match_one_name(own, pattern):
                return self._patterns[pattern]
        if not literal and len(self._files) <= _FEW_FILES:
            matches = re.compile(fnmatch.translate(name)).match
            return next((key for file, key in self._files.items() if key not in ignored and matches(file)), None)
        return None

    def _candidates(self, name: str, *, literal: bool) -> Iterator[str]:
        """Yield the patterns whose literal beginning agrees with that of *name*."""
        if not self._patterns:
            return
        beginning = name if literal else literal_prefix(name)
        for end in range(len(beginning) + 1):
            yield from self._beginnings.get(beginning[:end], ())
        if not literal:
            for longer in itertools.islice(self._ordered, bisect.bisect_right(self._ordered, beginning), None):
                if not longer.startswith(beginning):
                    return
                yield from self._beginnings[longer]


@attrs.define
class _Links:
    """The places that paths lead to on the driver's machine; each folder is read once."""

    _resolved: dict[tuple[str, str], str] = attrs.field(factory=dict)  #: folders, by workdir and folder as written
    _entries: dict[str, dict[str, tuple[str, str]]] = attrs.field(factory=dict)  #: by folder: where its links lead
    _inodes: dict[tuple[int, int], tuple[str, str]] = attrs.field(factory=dict)  #: the first name of each file

    def resolve(self, workdir: str, path: str, *, literal: bool) -> tuple[str, str]:
        """Return the folder and the name of *path*, symbolic and hard links followed."""
        folder, _, name = path.rstrip("/").rpartition("/")
        if path.startswith("/") and not folder:
            folder = "/"
        written = (workdir, folder)
        if written not in self._resolved:
            self._resolved[written] = os.path.realpath(Path(workdir, folder))
        place = (self._resolved[written], name)
        for _ in range(2 if literal else 0):  # a symbolic link leads to a file, whose first name may be another
            place = self._links_in(place[0]).get(place[1], place)
        return place

    def _links_in(self, folder: str) -> dict[str, tuple[str, str]]:
        if folder not in self._entries:
            self._entries[folder] = links = dict[str, tuple[str, str]]()
            try:
                device = os.stat(folder).st_dev  # noqa: PTH116 (as os.scandir, which reads inodes without a question)
                for entry in os.scandir(folder):
                    if entry.is_symlink():
                        links[entry.name] = os.path.split(os.path.realpath(entry.path))
                    else:
                        first = self._inodes.setdefault((device, entry.inode()), (folder, entry.name))
                        if first != (folder, entry.name):
                            links[entry.name] = first
            except OSError:
                pass  # it is not there, or not on this machine
        return self._entries[folder]


def _holds(job: JobRecord) -> bool:
    """Return whether the job's outputs are its own: it will write them, or has written them."""
    return not job.state.final or job.state is JobState.SUCCEEDED
