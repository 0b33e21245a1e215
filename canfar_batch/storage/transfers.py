"""Bringing files to the storage and back: repeated, resumed, proved, and never half there under their own name."""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import glob
import hashlib
import logging
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import TypeVar

import attrs

from canfar_batch.errors import (
    CanfarBatchError,
    LocalMissing,
    NameRefused,
    PlatformBroken,
    PlatformBusy,
    PlatformUnreachable,
    RemoteMissing,
    StorageError,
    TransferDamaged,
)
from canfar_batch.storage.names import container_path, has_pattern, remote_path, repaired
from canfar_batch.storage.space import EMPTY_MD5, Content, RemoteFile, Space
from canfar_batch.text import count

log = logging.getLogger("canfar_batch")

T = TypeVar("T")
ATTEMPTS = 4  #: how often a file is sent or fetched before it is given up
AT_ONCE = 4  #: files on their way at the same time
_FEW = 3  #: files in one folder, of which each is looked for alone
_PIECE = 1024 * 1024
_LARGEST_READ = 64 * 1024 * 1024  #: bytes of a file that is read into memory


@attrs.frozen(kw_only=True)
class Progress:
    """How far a transfer of files is."""

    files: int  #: done, those that were there already included
    of_files: int
    bytes: int
    of_bytes: int
    skipped: int  #: files that were there already

    def __str__(self) -> str:
        done = f"{self.files} of {self.of_files} files, {self.bytes / 1e6:,.1f} of {self.of_bytes / 1e6:,.1f} MB"
        return f"{done}, {self.skipped} unchanged" if self.skipped else done


Report = Callable[[Progress], object]


class Storage:
    """Files on the platform's storage, by paths as containers see them: `/arc/home/you/a.fits`. Thread-safe.

    Args:
        space: Where the files are.
        sleep: Waits for a number of seconds between two attempts.
    """

    def __init__(self, space: Space, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self.space, self._sleep = space, sleep
        self._folders: set[str] = set()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Storage {self.space.where}>"

    # -- looking --------------------------------------------------------------------------------------------------

    def find(self, remote: str | os.PathLike[str]) -> RemoteFile | None:
        """Return the file or folder of *remote*; None if there is none."""
        return self.space.find(self._usable(remote_path(remote)))

    def glob(self, pattern: str | os.PathLike[str]) -> list[PurePosixPath]:
        """Return the files and folders that match *pattern*, sorted; `*` does not match a slash."""
        path = remote_path(pattern)
        found = [""]
        for part in path.split("/")[1:]:
            if not has_pattern(part):
                found = [f"{folder}/{part}" for folder in found]
                continue
            found = [child.path for folder in found for child in self._children(folder) if _matches(child.name, part)]
        kept = found if has_pattern(path.rpartition("/")[2]) else [each for each in found if self.space.find(each)]
        return [container_path(each) for each in sorted(kept)]

    def read(self, remote: str | os.PathLike[str]) -> bytes:
        """Return the content of a small file, proved as by `download`.

        Raises:
            RemoteMissing: It is not there.
            TransferDamaged: It did not arrive whole.
            StorageError: It has more than 64 MiB, or cannot be had.
        """
        path = self._usable(remote_path(remote))

        def once() -> bytes:
            info = self._file(path)
            if info.size > _LARGEST_READ:
                raise StorageError(f"{container_path(path)} has {info.size:,} bytes: download() it")
            _refuse_remains(info)
            content = self.space.read(path) if info.size else Content(pieces=iter(()))
            data = b"".join(_bounded(content.pieces, _LARGEST_READ))
            digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
            _check(info, len(data), digest, content.md5)
            self._read_again(info, digest, content.md5)
            return data

        return self._repeat(once, f"reading {container_path(path)}")

    def write(self, remote: str | os.PathLike[str], data: bytes) -> None:
        """Store a small file, proved as by `upload`, and make its folders."""
        with tempfile.TemporaryDirectory(prefix="canfar_batch-") as folder:
            local = Path(folder) / "data"
            local.write_bytes(data)
            path = self._usable(remote_path(remote))
            self._make_folders(path.rpartition("/")[0])
            self._send(local, path, lambda size, was_there: None)

    def contents(self, remote: str | os.PathLike[str]) -> dict[str, RemoteFile]:
        """Return the files and folders in a folder by their names; nothing if there is no such folder."""
        path = self._usable(remote_path(remote))
        found = self._repeat(lambda: self.space.find(path), f"looking at {container_path(path)}")
        if found is None or not found.is_folder:
            return {}
        return {child.name: child for child in self._children(path)}

    # -- to the storage -------------------------------------------------------------------------------------------

    def upload(
        self,
        local: str | os.PathLike[str],
        remote: str | os.PathLike[str],
        *,
        repair: bool = False,
        progress: Report | None = None,
    ) -> PurePosixPath:
        """Bring a file, a folder, or the files that match a pattern to the storage; return where containers see it.

        Args:
            local: A file, a folder or a pattern.
            remote: Where to: a new name, or a folder if it ends in a slash, or exists. What a folder or a pattern holds
                is put into the folder *remote*.
            repair: Whether letters in names that the storage cannot keep become underscores. Otherwise such names are
                refused before anything is sent.
            progress: Receives a `Progress` now and then.

        Raises:
            LocalMissing: There is nothing of the name *local*.
            NameRefused: The storage cannot keep a name.
            StorageError: A file could not be brought there whole; nothing half is left under its name.
        """
        pairs, target = self._outgoing(Path(local), remote, repair=repair)
        if len(pairs) != 1:
            self._make_folders(target)
        self._send_all(pairs, progress)
        return container_path(target)

    def send(self, files: Mapping[str, Path], *, progress: Report | None = None) -> None:
        """Bring files to the storage, as `upload` does, by the paths that they get there.

        Raises:
            NameRefused: The storage cannot keep a name; nothing was sent.
            StorageError: A file could not be brought there whole; nothing half is left under its name.
        """
        pairs = [(local, remote_path(remote)) for remote, local in files.items()]
        self._refuse_names(name for _, name in pairs)
        self._send_all(pairs, progress)

    def _send_all(self, pairs: Sequence[tuple[Path, str]], progress: Report | None) -> None:
        folders = Counter(name.rpartition("/")[0] for _, name in pairs)
        for folder in sorted(folders):
            self._make_folders(folder)
        # one question about a folder instead of one about each file
        listed = {folder: self._listed(folder) for folder, count in folders.items() if count > _FEW}
        sizes = [each.stat().st_size for each, _ in pairs]

        def send(pair: tuple[Path, str], done: Callable[[int, bool], None]) -> None:
            self._send(*pair, done, listed.get(pair[1].rpartition("/")[0]))

        self._all(pairs, sizes, send, progress)

    def _listed(self, folder: str) -> dict[str, RemoteFile]:
        return {child.path: child for child in self._children(folder)}

    def _outgoing(
        self, local: Path, remote: str | os.PathLike[str], *, repair: bool
    ) -> tuple[list[tuple[Path, str]], str]:
        """Return the files to send with their paths, and the path of the whole."""
        target = remote_path(remote)
        into = str(remote).endswith("/")
        if local.is_dir():
            target = f"{target}/{local.name}" if into else target
            found = sorted(path for path in local.rglob("*") if path.is_file())
            pairs = [(path, f"{target}/{path.relative_to(local).as_posix()}") for path in found]
        elif local.is_file():
            existing = None if into else self.space.find(self._usable(target))
            if into or (existing is not None and existing.is_folder):
                target = f"{target}/{local.name}"
            pairs = [(local, target)]
        elif has_pattern(str(local)):
            found = [Path(name) for name in sorted(glob.glob(str(local))) if Path(name).is_file()]  # noqa: PTH207
            pairs = [(path, f"{target}/{path.name}") for path in found]
        else:
            raise LocalMissing(f"there is no file or folder {local}")
        if not pairs and not local.is_dir():
            raise LocalMissing(f"no file matches {local}")
        if repair:
            pairs = [(path, "/".join(map(repaired, name.split("/")))) for path, name in pairs]
            target = "/".join(map(repaired, target.split("/")))
        self._refuse_names(name for _, name in pairs)
        if len({name for _, name in pairs}) < len(pairs):
            raise NameRefused("two files would get the same name on the storage")
        return pairs, target

    def _refuse_names(self, paths: Iterable[str]) -> None:
        bad = [(path, trouble) for path in paths if (trouble := self._trouble(path))]
        if bad:
            shown = "; ".join(f"{container_path(path)}: {trouble}" for path, trouble in bad[:5])
            more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
            raise NameRefused(
                f"the storage cannot keep {count(len(bad), 'name')}: {shown}{more}. Rename them, or let "
                "repair=True put underscores there"
            )

    def _send(
        self,
        local: Path,
        path: str,
        done: Callable[[int, bool], None],
        listed: Mapping[str, RemoteFile] | None = None,
    ) -> None:
        """Send one file; *listed* is what its folder held a moment ago."""

        def once() -> bool:
            nonlocal listed
            before = _stamp(local)
            digest = _digest(local)
            existing = self.space.find(path) if listed is None else listed.get(path)
            listed = None  # a second attempt asks
            if existing is not None and existing.is_folder:
                raise StorageError(f"{container_path(path)} is a folder, so no file can have its name")
            if existing is not None and self._is_whole(existing, before[0], digest):
                return False
            self._store(local, path, before[0], digest, existing)
            if _stamp(local) != before:
                raise TransferDamaged(f"{local} changed while it was sent; what is stored may be no state that it had")
            return True

        try:
            sent = self._repeat(once, f"sending {local} to {container_path(path)}")
        except OSError as error:
            if isinstance(error, CanfarBatchError):
                raise
            raise StorageError(f"{local} cannot be read: {error.strerror or error}") from error
        done(local.stat().st_size, not sent)

    def _store(self, local: Path, path: str, size: int, digest: str, existing: RemoteFile | None) -> None:
        """Store a file under a temporary name, prove it, and give it its own name."""
        folder, _, name = path.rpartition("/")
        temporary = f"{folder}/.{name}.{digest[:12]}.part"
        waiting = self.space.find(temporary)  # of an earlier try, which was stopped before it could rename it
        if waiting is None or not self._is_whole(waiting, size, digest):
            try:
                with local.open("rb") as source:
                    self.space.write(temporary, source, size, digest)
                self._prove(temporary, size, digest)
            except BaseException:
                with contextlib.suppress(StorageError, PlatformUnreachable, PlatformBroken, PlatformBusy):
                    self.space.delete(temporary)
                raise
        if existing is not None:
            self.space.delete(path)
        self.space.move(temporary, path)
        self._prove(path, size, digest)

    def _prove(self, path: str, size: int, digest: str) -> None:
        stored = self.space.find(path)
        if stored is None:
            raise TransferDamaged(f"{container_path(path)} is not there after it was stored: under another name?")
        if not self._is_whole(stored, size, digest, trust_size=stored.md5 is None):
            raise TransferDamaged(
                f"{container_path(path)} was stored with {stored.size:,} bytes, MD5 {stored.md5}, instead of "
                f"{size:,} bytes, MD5 {digest}"
            )

    def _is_whole(self, stored: RemoteFile, size: int, digest: str, *, trust_size: bool = False) -> bool:
        """Return whether a stored file has this content; *trust_size* takes its size for proof if no MD5 can be had."""
        if stored.size != size:
            return False
        known = stored.md5 or self.space.digest(stored.path)
        return trust_size if known is None else known == digest

    def _make_folders(self, path: str) -> None:
        parts = path.split("/")
        for depth in range(2, len(parts) + 1):
            folder = "/".join(parts[:depth])
            with self._lock:
                if folder in self._folders:
                    continue
            self._repeat(functools.partial(self._make_folder, folder), f"making {container_path(folder)}")
            with self._lock:
                self._folders.add(folder)

    def _make_folder(self, path: str) -> None:
        found = self.space.find(path)
        if found is not None and not found.is_folder:
            raise StorageError(f"{container_path(path)} is a file, so nothing can be put into it")
        if found is None:
            self.space.make_folder(path)

    # -- from the storage -----------------------------------------------------------------------------------------

    def download(
        self,
        remote: str | os.PathLike[str],
        local: str | os.PathLike[str],
        *,
        digest: bool = True,
        progress: Report | None = None,
    ) -> Path:
        """Bring a file, a folder, or the files that match a pattern from the storage; return where it is here.

        Args:
            remote: A file, a folder or a pattern.
            local: Where to: a new name, or a folder if it ends in a slash, or exists. What a folder or a pattern holds
                is put into the folder *local*.
            digest: Whether the content must have the MD5 that the storage knows; a file of which it knows none, as of
                those that jobs wrote, is read twice. A job that overwrites a file in its place leaves the old MD5: then
                only the size can be compared.
            progress: Receives a `Progress` now and then.

        Raises:
            RemoteMissing: There is nothing of the name *remote*.
            TransferDamaged: A file did not arrive whole, or changed each time while it was read.
            StorageError: It cannot be had. Nothing half is left under its name.
        """
        pairs, target = self._incoming(remote, local)
        sizes = [info.size for info, _ in pairs]
        self._all(pairs, sizes, lambda pair, done: self._fetch(pair[0].path, pair[1], done, digest=digest), progress)
        return target

    def _incoming(
        self, remote: str | os.PathLike[str], local: str | os.PathLike[str]
    ) -> tuple[list[tuple[RemoteFile, Path]], Path]:
        path, target = remote_path(remote), Path(local)
        into = str(local).endswith(("/", os.sep))
        if has_pattern(path):
            found = [self.space.find(self._usable(remote_path(each))) for each in self.glob(remote)]
            pairs = [(info, target / info.name) for info in found if info is not None and not info.is_folder]
            if not pairs:
                raise RemoteMissing(f"no file on the storage matches {container_path(path)}")
            target.mkdir(parents=True, exist_ok=True)
            return pairs, target
        info = self.space.find(self._usable(path))
        if info is None:
            raise RemoteMissing(f"{container_path(path)} is not on the storage")
        if info.is_folder:
            target = target / info.name if into else target
            pairs = [(each, target / each.path[len(path) + 1 :]) for each in self._below(path)]
            target.mkdir(parents=True, exist_ok=True)
            return pairs, target
        if into or target.is_dir():
            target /= info.name
        return [(info, target)], target

    def _below(self, path: str) -> Iterator[RemoteFile]:
        for child in self._children(path):
            if child.is_folder:
                yield from self._below(child.path)
            elif not (child.name.startswith(".") and child.name.endswith(".part")):
                yield child

    def _children(self, path: str) -> list[RemoteFile]:
        return self._repeat(lambda: self.space.children(path), f"listing {container_path(path)}")

    def _fetch(self, path: str, local: Path, done: Callable[[int, bool], None], *, digest: bool) -> None:
        def once() -> tuple[int, bool]:
            info = self._file(path)
            _refuse_remains(info)
            if _is_here(local, info):
                return info.size, True
            local.parent.mkdir(parents=True, exist_ok=True)
            part = local.with_name(f".{local.name}.{_version(info)}.part")
            content_md5 = self._receive(info, part)
            found = _digest(part) if digest else None
            try:
                _check(info, part.stat().st_size, found, content_md5)
                if found is not None:
                    self._read_again(info, found, content_md5)
            except TransferDamaged:
                if part.stat().st_size >= info.size:  # else the rest may come with the next try
                    part.unlink()
                raise
            after = self.space.find(path)
            if after != info:
                part.unlink()
                raise TransferDamaged(f"{container_path(path)} changed while it was read")
            part.replace(local)
            _remember(local, info)
            return info.size, False

        try:
            size, was_here = self._repeat(once, f"fetching {container_path(path)}")
        except OSError as error:
            if isinstance(error, CanfarBatchError):
                raise
            raise StorageError(f"{local} cannot be written: {error.strerror or error}") from error
        done(size, was_here)

    def _read_again(self, info: RemoteFile, found: str, sent: str | None) -> None:
        """Read a file of which the storage has no MD5 a second time, as nothing else shows a byte that changed.

        Raises:
            TransferDamaged: Its MD5 is not *found* this time.
        """
        if info.md5 is not None or sent is not None or info.size == 0:
            return
        again = hashlib.md5(usedforsecurity=False)
        for piece in self.space.read(info.path).pieces:
            again.update(piece)
        if again.hexdigest() != found:
            raise TransferDamaged(f"{container_path(info.path)} was not the same when it was read a second time")

    def _receive(self, info: RemoteFile, part: Path) -> str | None:
        """Fetch what is missing of a file; return the MD5 that came with it."""
        have = part.stat().st_size if part.exists() else 0
        if info.size == 0 or have > info.size:
            part.write_bytes(b"")
            have = 0
        if have == info.size:
            return None
        content = self.space.read(info.path, have)
        with part.open("r+b" if part.exists() else "wb") as file:
            file.truncate(content.start)
            file.seek(content.start)
            for piece in content.pieces:
                file.write(piece)
        return content.md5

    def _file(self, path: str) -> RemoteFile:
        info = self.space.find(path)
        if info is None:
            raise RemoteMissing(f"{container_path(path)} is not on the storage")
        if info.is_folder:
            raise StorageError(f"{container_path(path)} is a folder")
        return info

    # -- common ---------------------------------------------------------------------------------------------------

    def _usable(self, path: str) -> str:
        """Return *path*, unless the storage would take it for another one.

        Raises:
            NameRefused: It would.
        """
        trouble = self._trouble(path)
        if trouble:
            raise NameRefused(f"{container_path(path)}: {trouble}")
        return path

    def _trouble(self, path: str) -> str | None:
        return next((trouble for part in path.split("/") if (trouble := self.space.trouble_with(part))), None)

    def _all(
        self,
        items: Sequence[T],
        sizes: Sequence[int],
        act: Callable[[T, Callable[[int, bool], None]], None],
        report: Report | None,
    ) -> None:
        """Do all transfers, some at a time; the first error is raised after those on their way have ended."""
        state = Progress(files=0, of_files=len(items), bytes=0, of_bytes=sum(sizes), skipped=0)
        lock = threading.Lock()

        def done(size: int, was_skipped: bool) -> None:
            nonlocal state
            with lock:
                state = attrs.evolve(
                    state, files=state.files + 1, bytes=state.bytes + size, skipped=state.skipped + was_skipped
                )
                if report is not None:
                    report(state)

        failed: list[BaseException] = []

        def one(item: T) -> None:
            if failed:
                return
            try:
                act(item, done)
            except BaseException as error:
                failed.append(error)

        if len(items) <= 1:
            for item in items:
                act(item, done)
            return
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="canfar_batch-transfer") as pool:
            list(pool.map(one, items))
        if failed:
            raise failed[0]

    def _repeat(self, act: Callable[[], T], doing: str) -> T:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return act()
            except (TransferDamaged, PlatformUnreachable, PlatformBroken, PlatformBusy) as error:
                if attempt == ATTEMPTS or not getattr(error, "may_pass", True):
                    if isinstance(error, StorageError):
                        raise
                    raise StorageError(f"{doing} failed {attempt} times: {error}") from error
                log.info("%s: %s; trying again", doing, error)
                self._sleep(min(30.0, 0.5 * 2**attempt))
        raise AssertionError("unreachable")


def _refuse_remains(info: RemoteFile) -> None:
    """Refuse an empty file that has the MD5 of other content: an upload of it failed.

    Raises:
        StorageError: It is such a file.
    """
    if info.size == 0 and info.md5 not in (None, EMPTY_MD5):
        raise StorageError(
            f"{container_path(info.path)} is empty, although the storage knows the MD5 of other content: an upload to "
            "it failed and left this. Upload it again, or delete it"
        )


def _check(info: RemoteFile, size: int, digest: str | None, sent: str | None) -> None:
    """Compare what arrived with what the storage has.

    Raises:
        TransferDamaged: It differs.
    """
    if size != info.size:
        raise TransferDamaged(f"{size:,} of {info.size:,} bytes of {container_path(info.path)} arrived")
    for known in (info.md5, sent):
        if digest is not None and known is not None and known != digest:
            raise TransferDamaged(
                f"{container_path(info.path)} arrived with MD5 {digest} instead of {known}. If that stays so, a job "
                "has overwritten the file in its place, and the storage's MD5 is of the old content: download it with "
                "digest=False, which compares the size alone"
            )


def _is_here(local: Path, info: RemoteFile) -> bool:
    """Return whether the file is here already: with the same MD5, or without one, as an earlier download left it."""
    try:
        status = local.stat()
    except OSError:
        return False
    if status.st_size != info.size:
        return False
    if info.md5 is not None:
        return _digest(local) == info.md5
    return info.modified is not None and _times(info) == status.st_mtime_ns


def _remember(local: Path, info: RemoteFile) -> None:
    """Give a file the time by which `_is_here` knows it again, if the storage has no MD5 of it."""
    if info.md5 is None and info.modified is not None:
        os.utime(local, ns=(_times(info), _times(info)))


def _times(info: RemoteFile) -> int:
    """Return a time in ns that stands for this version of a file: its own to the second, then the version's digest."""
    seconds = 0
    with contextlib.suppress(ValueError):
        seconds = int(datetime.fromisoformat(str(info.modified)).replace(tzinfo=timezone.utc).timestamp())
    return seconds * 10**9 + int(_version(info), 16) % 10**9


def _version(info: RemoteFile) -> str:
    text = f"{info.path}\n{info.size}\n{info.md5}\n{info.modified}"
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:12]


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _digest(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _bounded(pieces: Iterator[bytes], most: int) -> Iterator[bytes]:
    for piece in pieces:
        most -= len(piece)
        if most < 0:
            raise TransferDamaged("more came than the storage has")
        yield piece


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) and not (name.startswith(".") and not pattern.startswith("."))
