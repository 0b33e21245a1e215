"""What a place for files must offer, and a file there as a value."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import BinaryIO, Protocol

import attrs

EMPTY_MD5 = "d41d8cd98f00b204e9800998ecf8427e"


@attrs.frozen(kw_only=True)
class RemoteFile:
    """A file or folder as the storage describes it."""

    path: str  #: below the root: `/home/you/a.fits`
    is_folder: bool = False
    size: int = 0  #: bytes; of a folder, 0
    md5: str | None = None  #: 32 hexadecimal digits; None if the storage knows none
    modified: str | None = None  #: when it changed last, in the storage's own words

    @property
    def modified_at(self) -> datetime | None:
        """When it changed last; None if the storage's words are no time."""
        try:
            found = datetime.fromisoformat(str(self.modified))
        except ValueError:
            return None
        return found if found.tzinfo else found.replace(tzinfo=timezone.utc)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]


@attrs.frozen(kw_only=True)
class Content:
    """The content of a file on its way."""

    pieces: Iterator[bytes] = attrs.field(repr=False)
    start: int = 0  #: the place of the first byte: 0 if the storage does not give a part of a file
    md5: str | None = None  #: of the whole file, by the answer itself


class Space(Protocol):
    """A place where files are kept. Paths begin with a slash. Every method may raise `StorageError`."""

    @property
    def where(self) -> str:
        """The address, for people."""

    def trouble_with(self, name: str) -> str | None:
        """Return why one part of a path cannot be used here, in words; None if it can."""

    def find(self, path: str) -> RemoteFile | None:
        """Return the file or folder of *path*; None if there is none."""

    def children(self, path: str) -> list[RemoteFile]:
        """Return all files and folders in a folder."""

    def make_folder(self, path: str) -> None:
        """Make a folder, whose parent exists, unless it exists."""

    def read(self, path: str, start: int = 0) -> Content:
        """Return the content of a file, from *start* on if that is possible."""

    def write(self, path: str, source: BinaryIO, size: int, md5: str) -> None:
        """Store *size* bytes of *source* as a file whose folder exists; what is left after an error is undefined."""

    def digest(self, path: str) -> str | None:
        """Return the MD5 of a stored file, for which all of it may be read again; None if that cannot be known."""

    def move(self, old: str, new: str) -> None:
        """Rename a file; *new* must not exist."""

    def delete(self, path: str) -> None:
        """Delete a file; if there is none, do nothing."""
