"""Result collectors: each fetches a job's result. A collector is any callable that takes the job and the platform."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import glob
import json
import logging
import mmap
import os
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path, PurePosixPath
from typing import Any

import attrs

from canfar_batch.errors import CanfarBatchError, CollectError, PlatformError
from canfar_batch.fields.keys import file_name
from canfar_batch.fields.templates import Template
from canfar_batch.payload.calls import Outcome, outcome_path
from canfar_batch.protocols import Platform, RemoteStorage, ResultCollector, files_read, is_serial, storage_of
from canfar_batch.records import JobRecord
from canfar_batch.spec import literal, literal_path
from canfar_batch.storage.names import is_remote
from canfar_batch.strategies.roles import check_player

log = logging.getLogger("canfar_batch")


@attrs.frozen
class Logs:
    """The result is the path of the saved log. This is the default.

    ```python
    batch = session.batch("fits", collect=cb.Logs())
    ```
    """

    def __call__(self, job: JobRecord, platform: Platform) -> Path:
        """Return the path of the last attempt's log.

        Raises:
            CollectError: No log was saved.
        """
        attempt = job.last_attempt
        if attempt is None or attempt.log is None:
            raise CollectError(f"no log of job {job.key} was saved")
        return attempt.log


@attrs.frozen(init=False)
class Files:
    """The result is the path of the job's output file, or the list of them if there are several.

    Files that this machine sees are checked and stay in their place. Those that only the container sees are taken from
    its receipt, and with *download* brought here from the platform's storage, each proved to be whole.

    ```python
    batch = session.batch("fits", collect=cb.Files("cat/{key}_*.cat"))
    ```

    A file belongs to one job, so patterns of two jobs that may match the same file are refused when the jobs are
    planned. A pattern is safe if each job has a folder of its own (`"cat/{key}/*.cat"`), or if something follows the
    field that no value contains (`"cat/{key}_*.cat"`; `"cat/{key}*.cat"` would give the files of `fit-10` to `fit-1`).

    Args:
        patterns: Paths or patterns, relative to the job's working directory; by default the spec's outputs. They may
            hold fields, as in the command. A pattern finds declared outputs, and files that were written during the
            job's attempt.
        download: A folder here, into which files go that this machine does not see, by their paths relative to the
            job's working directory. It may hold fields: `"results/{key}"`.
    """

    patterns: tuple[str, ...]  #: relative to the job's working directory; by default the spec's outputs
    download: str | None = None
    _taken: dict[Path, str] = attrs.field(factory=dict, eq=False, repr=False)  #: what each file here was brought from

    def __init__(self, *patterns: str, download: str | os.PathLike[str] | None = None) -> None:
        self.__attrs_init__(patterns, None if download is None else os.fspath(download))

    def reads(self, job: JobRecord) -> tuple[str, ...]:
        """Return the patterns, filled with the fields of *job*, or its outputs."""
        return tuple(_filled(job, pattern) for pattern in self.patterns) or job.filled.outputs

    def __call__(self, job: JobRecord, platform: Platform) -> Path | list[Path]:
        """Return the path, or the paths.

        Raises:
            CollectError: A file is missing.
        """
        patterns = self.reads(job)
        if not patterns:
            raise CollectError(f"job {job.key} declares no outputs: name them in JobSpec(outputs=…) or Files(…)")
        found = [path for pattern in patterns for path in _files(job, pattern, platform)]
        if self.download is not None:
            folder = Path(Template.read(self.download).fill(_fields(job)))
            found = [self._brought(job, platform, path, folder) for path in found]
        single = len(patterns) == 1 and literal_path(patterns[0]) is not None
        return found[0] if single else found

    def _brought(self, job: JobRecord, platform: Platform, path: Path, folder: Path) -> Path:
        """Return where a file is here, brought from the storage unless this machine sees it."""
        if path.is_absolute() and path.exists():
            return path
        remote, directory = _remote(job, platform, path), Path(job.filled.workdir or "")
        inside = path.relative_to(directory) if path.is_relative_to(directory) else Path(path.name)
        target = folder / inside
        if self._taken.setdefault(target, remote) != remote:
            raise CollectError(
                f"{target} is the file of another job already ({self._taken[target]}): write "
                f"Files(download={str(folder / '{key}')!r})"
            )
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            here = _storage(job, platform).download(remote, target)
        except (CanfarBatchError, OSError) as error:
            raise CollectError(f"{remote} of job {job.key} could not be brought here: {error}") from error
        _check_size(job, path, here.stat().st_size)
        return here


@attrs.frozen
class Json:
    """The result is the value in the job's JSON file or, if it declares none, in the last JSON line of its log.

    The file is *pattern*, or the first declared output that ends in `.json`. In the log it is the last line or, if that
    is not JSON, the last one that is a JSON object or list, so that messages may follow it.

    ```python
    batch = session.batch("fits", collect={"catalogue": cb.Files(), "quality": cb.Json("{key}/quality.json")})
    ```

    Args:
        pattern: A path or pattern, relative to the job's working directory; it may hold fields, and matches one file
            of each job, as for `Files`.
    """

    pattern: str | None = None

    def reads(self, job: JobRecord) -> tuple[str, ...]:
        """Return the path or pattern of the file; nothing if the value is in the log."""
        declared = next((output for output in job.filled.outputs if output.endswith(".json")), None)
        pattern = declared if self.pattern is None else _filled(job, self.pattern)
        return () if pattern is None else (pattern,)

    def __call__(self, job: JobRecord, platform: Platform) -> Any:
        """Return the parsed value.

        Raises:
            CollectError: The file or line is missing, there are several files, or it is not valid JSON.
        """
        patterns = self.reads(job)
        if not patterns:
            return _json_of_log(job, platform)
        paths = _files(job, patterns[0], platform)
        if len(paths) > 1:
            shown = ", ".join(map(str, paths[:2]))
            more = f" and {len(paths) - 2} more" if len(paths) > 2 else ""
            raise CollectError(
                f"{len(paths)} files of job {job.key} match {patterns[0]}: {shown}{more}; Json() takes one, so name it "
                "in full or by a narrower pattern"
            )
        raw = _read(job, paths[0], platform)
        try:
            return _parsed(raw)
        except (ValueError, RecursionError) as error:
            raise CollectError(f"{paths[0]} of job {job.key} is not valid JSON: {error}{_quoted(raw)}") from error


@attrs.frozen
class LastLine:
    """The result is the last line of the job's log that is not blank, as text.

    ```python
    batch = session.batch("fits", collect=cb.LastLine())
    ```
    """

    def __call__(self, job: JobRecord, platform: Platform) -> str:
        """Return the line without blanks at its ends.

        Raises:
            CollectError: The job printed nothing, or no log was saved.
        """
        return _last_line(job, platform).decode(errors="replace").strip()


def _filled(job: JobRecord, pattern: str) -> str:
    """Return *pattern* with the fields of *job*; wildcards in a value match only themselves."""
    return Template.read(pattern).fill(_fields(job), literal)


def _fields(job: JobRecord) -> dict[str, Any]:
    return {"key": job.key, "index": job.index, **job.fields}


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs of a JSON object as a dict, unless a name occurs twice, of which all but one would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} occurs more than once")
    return found


@attrs.frozen
class Returned:
    """The result is the return value of the job's function. This is the default for a `Function`.

    ```python
    batch = session.batch("fits", collect={"fit": cb.Returned(), "files": cb.Files()})
    ```

    Args:
        home: The batch's directory; `Session.batch` fills it in.
    """

    home: Path | None = attrs.field(default=None, kw_only=True)

    def __call__(self, job: JobRecord, platform: Platform) -> Any:
        """Return the value.

        Raises:
            CollectError: The job calls no function, or the value cannot be read here.
        """
        attempt = job.last_attempt
        if job.spec.function is None or attempt is None or self.home is None:
            raise CollectError(f"job {job.key} calls no Python function, so it returned nothing")
        path = outcome_path(self.home, file_name(job.key), attempt.number)
        outcome = Outcome.in_file(path, attempt.run_name)
        if outcome is None or not outcome.returned:
            raise CollectError(
                f"what job {job.key} returned is not in {path}: the file is missing or damaged, and so was the log"
            )
        return outcome.value()


@attrs.frozen
class Usual:
    """The collector of a batch that was given none: return values of functions, logs of commands.

    Args:
        home: The batch's directory.
    """

    home: Path

    def __call__(self, job: JobRecord, platform: Platform) -> Any:
        """Return the value, or the path of the log.

        Raises:
            CollectError: There is none.
        """
        return (Logs() if job.spec.function is None else Returned(home=self.home))(job, platform)


@attrs.frozen
class Several:
    """The result is a dict, each value fetched by the collector of that name."""

    parts: Mapping[str, ResultCollector] = attrs.field(hash=False)

    @property
    def serial(self) -> bool:
        """Whether one of the parts must be called in the thread that drives the batch; then all are."""
        return any(is_serial(part) for part in self.parts.values())

    def reads(self, job: JobRecord) -> tuple[str, ...]:
        """Return the paths or patterns of the files that the parts read."""
        return tuple(pattern for part in self.parts.values() for pattern in files_read(part, job))

    def __call__(self, job: JobRecord, platform: Platform) -> dict[str, object]:
        """Return the results of all parts.

        Raises:
            CollectError: A part failed; the error has the results of the others.
        """
        results: dict[str, object] = {}
        failed: dict[str, Exception] = {}
        for name, collect in self.parts.items():
            try:
                results[name] = collect(job, platform)
            except Exception as error:
                failed[name] = error
        if failed:
            causes = "; ".join(f"{name}: {error}" for name, error in failed.items())
            raise CollectError(causes, partial=results) from next(iter(failed.values()))
        return results


@attrs.frozen
class Serial:
    """A collector that is called in the thread that drives the batch, one job at a time; the batch waits for it.

    Other collectors are called in worker threads, several at once.

    ```python
    batch = session.batch("fits", collect=cb.Serial(lambda job, platform: job.exit_code))
    ```

    Args:
        collect: The collector to call.
    """

    collect: ResultCollector
    serial: bool = attrs.field(default=True, init=False)

    def reads(self, job: JobRecord) -> tuple[str, ...]:
        """Return the paths or patterns of the files that the collector reads."""
        return files_read(self.collect, job)

    def __call__(self, job: JobRecord, platform: Platform) -> object:
        """Return the result of the collector."""
        return self.collect(job, platform)


def as_collector(
    collect: ResultCollector | Mapping[str, ResultCollector] | Callable[[JobRecord], object] | None,
    home: Path | None = None,
) -> ResultCollector:
    """Return *collect*, a `Several` if it is a dict of collectors, or the usual one if it is None.

    Args:
        collect: What the user gave.
        home: The batch's directory, if there is one.

    Raises:
        StrategyError: It, or a value of the dict, is not a collector.
    """
    if collect is None:
        return Logs() if home is None else Usual(home)
    if isinstance(collect, (Mapping, Several)):
        parts = collect.parts if isinstance(collect, Several) else collect
        return Several({name: as_collector(part, home) for name, part in parts.items()})
    if isinstance(collect, Serial):
        return Serial(as_collector(collect.collect, home))
    if isinstance(collect, Returned):
        return attrs.evolve(collect, home=home)
    return check_player(collect, "collect", "Json()")  # type: ignore[no-any-return]


def _files(job: JobRecord, pattern: str, platform: Platform | None) -> list[Path]:
    """Return the files that match *pattern*: those seen here, those that the receipt names, or those on the storage."""
    directory = Path(job.filled.workdir or "")
    # never in the current directory: its files may belong to another run
    seen = directory.is_absolute() or Path(pattern).is_absolute()
    here = sorted(glob.glob(pattern, root_dir=directory)) if seen else []  # noqa: PTH207 (takes no absolute pattern)
    plain = literal_path(pattern)
    found = [directory / name for name in here]
    if own := _own_of(job, found, pattern, _when_here):
        return own
    receipt = job.last_attempt.receipt if job.last_attempt else None
    outputs = receipt.outputs if receipt else {}
    named = [Path(path) for path in outputs if path == plain or (plain is None and _matches(path, pattern))]
    if named:
        return [directory / path for path in named]
    if there := _on_storage(job, pattern, platform):
        return there
    where = f"below {directory}" if seen else "that this machine sees"
    raise CollectError(f"job {job.key} left no {plain or pattern} {where}, and its receipt names none")


def _matches(path: str, pattern: str) -> bool:
    """Return whether a path matches a pattern as it would on a disk: each part the part in its place."""
    parts, patterns = PurePosixPath(path).parts, PurePosixPath(pattern).parts
    return len(parts) == len(patterns) and all(
        fnmatch.fnmatchcase(part, one) and (not part.startswith(".") or one.startswith("."))
        for part, one in zip(parts, patterns, strict=True)
    )


def _on_storage(job: JobRecord, pattern: str, platform: Platform | None) -> list[Path]:
    """Return the files of a job that match *pattern* on the platform's storage, as containers see them.

    Raises:
        CollectError: The storage cannot be asked.
    """
    storage = None if platform is None else storage_of(platform)
    if storage is None or platform is None:
        return []
    plain = literal_path(pattern)
    try:
        place = _remote(job, platform, Path(job.filled.workdir or "") / (plain or pattern))
    except CollectError:
        return []  # it is not below /arc
    try:
        paths = [PurePosixPath(place)] if plain is not None else storage.glob(place)
        there = {Path(path): found for path in paths if (found := storage.find(path)) and not found.is_folder}
    except (CanfarBatchError, OSError) as error:
        raise CollectError(f"{place} of job {job.key} cannot be looked for on the storage: {error}") from error
    return _own_of(job, list(there), pattern, lambda path: there[path].modified_at)


def _own_of(job: JobRecord, found: list[Path], pattern: str, when: Callable[[Path], datetime | None]) -> list[Path]:
    """Return those of the files that may be the job's; one that is named in full is taken in any case."""
    own = [path for path in found if _is_own(job, path, when)]
    if found and not own and literal_path(pattern) is not None:
        log.warning("%s was not written by job %s: it was there before, or was changed since", found[0], job.key)
        return found
    return own


def _when_here(path: Path) -> datetime | None:
    return datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)


#: seconds by which the clock of a disk may differ from the container's, whole seconds of file times included
_CLOCK_TOLERANCE = 2.0


def _is_own(job: JobRecord, path: Path, when: Callable[[Path], datetime | None]) -> bool:
    """Return whether *path* may be the job's: it declares it, or the file was written during its attempt."""
    attempt = job.last_attempt
    receipt = attempt.receipt if attempt else None
    if receipt is None or receipt.started_at is None or receipt.finished_at is None:
        return True
    directory = Path(job.filled.workdir or "")
    if any(directory / output == path for output in receipt.outputs):
        return True
    try:
        written = when(path)
    except OSError:
        return False
    if written is None:
        return True  # nothing speaks against it
    tolerance = timedelta(seconds=_CLOCK_TOLERANCE)
    return receipt.started_at - tolerance <= written <= receipt.finished_at + tolerance


def _quoted(raw: bytes) -> str:
    """Return the beginning of what is not JSON, if it is short enough to help."""
    return f": {raw.decode(errors='replace')!r}" if len(raw) <= 200 else ""


def _remote(job: JobRecord, platform: Platform, path: Path) -> str:
    """Return where a job's file is on the storage.

    Raises:
        CollectError: That is not known.
    """
    if not path.is_absolute() and platform.user:
        path = Path("/arc/home") / platform.user / path  # where a job without a place of its own begins
    if not is_remote(path):
        raise CollectError(f"{path} of job {job.key} is not below /arc, so it cannot be brought from there")
    return str(path)


def _storage(job: JobRecord, platform: Platform) -> RemoteStorage:
    storage = storage_of(platform)
    if storage is None:
        raise CollectError(f"the files of job {job.key} cannot be brought here: this platform has no storage")
    return storage


def _check_size(job: JobRecord, path: Path, size: int) -> None:
    """Compare the size of a file that was brought here with the one that the job reported.

    Raises:
        CollectError: It differs.
    """
    receipt = job.last_attempt.receipt if job.last_attempt else None
    directory = Path(job.filled.workdir or "")
    for name, reported in (receipt.outputs if receipt else {}).items():
        if directory / name == path and reported is not None and reported != size:
            raise CollectError(
                f"{path} of job {job.key} has {size:,} bytes on the storage, and had {reported:,} at the job's end: "
                "something has changed it since"
            )


def _read(job: JobRecord, path: Path, platform: Platform | None = None) -> bytes:
    try:
        if platform is not None and not (path.is_absolute() and path.exists()) and storage_of(platform) is not None:
            data = _storage(job, platform).read(_remote(job, platform, path))
            _check_size(job, path, len(data))
            return data
        if not path.is_absolute():  # the file of this name here is another one
            raise FileNotFoundError(errno.ENOENT, "its place in the container is not known")
        return path.read_bytes()
    except (OSError, PlatformError) as error:
        why = getattr(error, "strerror", None) or error
        raise CollectError(
            f"{path} of job {job.key} cannot be read from here ({why}); if only the containers see it, let the job "
            "print the JSON as its last line, and collect it with Json(), which takes it from the log"
        ) from error


def _last_line(job: JobRecord, platform: Platform) -> bytes:
    """Return the last line of the log that is not blank; only the end of the file is read, for logs may be large."""
    path = Logs()(job, platform)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            end = len(text)
            while end and text[end - 1 : end].isspace():
                end -= 1
            line = text[text.rfind(b"\n", 0, end) + 1 : end]
    except ValueError:  # an empty file cannot be mapped
        line = b""
    except OSError as error:
        raise CollectError(f"the log of job {job.key}, {path}, cannot be read: {error.strerror}") from error
    if not line.strip():
        raise CollectError(f"job {job.key} printed nothing")
    return line.strip().splitlines()[-1]  # a progress bar may precede it


def _json_of_log(job: JobRecord, platform: Platform) -> Any:
    """Return the value of the log's last line or, if that is not JSON, of the last one that is an object or a list."""
    last = _last_line(job, platform)
    try:
        return _parsed(last)
    except (ValueError, RecursionError) as error:
        for line in reversed(_read(job, Logs()(job, platform)).splitlines()):
            if line.lstrip()[:1] in (b"{", b"["):
                with contextlib.suppress(ValueError, RecursionError):
                    return _parsed(line)
        raise CollectError(
            f"no line of the log of job {job.key} is a JSON object or list, and its last line is not valid JSON: "
            f"{error}{_quoted(last)}; print one JSON value as the last line, or name a file: Json('quality.json')"
        ) from error


def _parsed(raw: bytes) -> Any:
    return json.loads(raw, object_pairs_hook=_without_duplicates)


_fits: tuple[ResultCollector, ...] = (Logs(), Files(), Json(), Several({}), Serial(Logs()), LastLine())
