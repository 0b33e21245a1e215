"""A file system of fsspec as a place for files: local folders, object stores, other clients."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from typing import Any, BinaryIO

from canfar_batch.errors import StorageError
from canfar_batch.storage.space import Content, RemoteFile

_PIECE = 1024 * 1024


class FsspecSpace:
    """The files below *root* of an fsspec file system.

    Args:
        fs: The file system.
        root: The folder in it that stands for `/arc`.
    """

    def __init__(self, fs: Any, root: str = "") -> None:
        self._fs, self._root = fs, root.rstrip("/")

    @property
    def where(self) -> str:
        """The kind of file system, and the folder."""
        return f"{type(self._fs).__name__} {self._root or '/'}"

    def trouble_with(self, name: str) -> str | None:
        """Return None: every name is left to the file system."""
        return None

    def find(self, path: str) -> RemoteFile | None:
        """Return the file or folder of *path*; None if there is none."""
        with self._errors(path):
            self._fs.invalidate_cache()
            try:
                return self._described(self._fs.info(self._place(path)), path)
            except FileNotFoundError:
                return None

    def children(self, path: str) -> list[RemoteFile]:
        """Return all files and folders in a folder."""
        with self._errors(path):
            self._fs.invalidate_cache()
            found = self._fs.ls(self._place(path), detail=True)
        named = [(info, str(info["name"]).rstrip("/").rpartition("/")[2]) for info in found]
        return [self._described(info, f"{path}/{name}") for info, name in named]

    def make_folder(self, path: str) -> None:
        """Make a folder, unless it exists."""
        with self._errors(path):
            self._fs.makedirs(self._place(path), exist_ok=True)

    def read(self, path: str, start: int = 0) -> Content:
        """Return the content of a file, from *start* on."""
        return Content(pieces=self._pieces(path, start), start=start)

    def _pieces(self, path: str, start: int) -> Iterator[bytes]:
        with self._errors(path), self._fs.open(self._place(path), "rb") as file:
            if start:
                file.seek(start)
            while piece := file.read(_PIECE):
                yield piece

    def write(self, path: str, source: BinaryIO, size: int, md5: str) -> None:
        """Store a file."""
        with self._errors(path), self._fs.open(self._place(path), "wb") as file:
            shutil.copyfileobj(source, file, _PIECE)

    def digest(self, path: str) -> str | None:
        """Return the MD5 of what is stored, by reading it again."""
        digest = hashlib.md5(usedforsecurity=False)
        for piece in self._pieces(path, 0):
            digest.update(piece)
        return digest.hexdigest()

    def move(self, old: str, new: str) -> None:
        """Rename a file."""
        with self._errors(old):
            self._fs.mv(self._place(old), self._place(new))

    def delete(self, path: str) -> None:
        """Delete a file; if there is none, do nothing."""
        with self._errors(path), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._place(path))

    def _place(self, path: str) -> str:
        return f"{self._root}{path}" or "/"

    @staticmethod
    def _described(info: Any, path: str) -> RemoteFile:
        is_folder = info.get("type") == "directory"
        modified = info.get("mtime", info.get("LastModified", info.get("created")))
        return RemoteFile(
            path=path, is_folder=is_folder, size=0 if is_folder else int(info.get("size") or 0),
            modified=None if modified is None else str(modified),
        )  # fmt: skip

    @contextlib.contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        try:
            yield
        except StorageError:
            raise
        except Exception as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise StorageError(f"{self.where}: {path}: {error}") from error
