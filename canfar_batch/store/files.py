"""Files in a batch's directory: written in one piece, readable by the user alone, on a disk whose locks work."""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from canfar_batch.errors import CanfarBatchError, HomeError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def check_system() -> None:
    """Refuse a system without the file locks that keep two drivers apart.

    Raises:
        HomeError: This is such a system, Windows for example.
    """
    if fcntl is None:
        raise HomeError(
            "a batch needs the file locks of Linux or macOS; on Windows, run Python inside WSL "
            "(the Windows Subsystem for Linux)"
        )


# -- writing ------------------------------------------------------------------------------------------------------


def write_file(path: Path, content: bytes) -> None:
    """Replace the file at *path* with *content*, so that no reader ever sees a part of it.

    Only the user can read the file (0600). It is not forced to the disk: what must survive a power cut is in the
    ledger.

    Raises:
        HomeError: The file cannot be written. The old file is unchanged.
    """
    write_stream(path, [content])


def write_stream(path: Path, chunks: Iterable[bytes]) -> int:
    """Replace the file at *path* with *chunks*, of which one at a time is in memory; return the size in bytes.

    An exception raised by *chunks* is passed on unchanged, and leaves the old file.

    Raises:
        HomeError: The file cannot be written. The old file is unchanged.
    """
    size = 0
    with stream_to(path) as write:
        for chunk in chunks:
            write(chunk)
            size += len(chunk)
    return size


@contextlib.contextmanager
def stream_to(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Give a function that appends bytes to a new file, which replaces the file at *path* when the block ends.

    If the block raises, the old file stays and the new one is removed.

    Raises:
        HomeError: The file cannot be written.
    """
    with file_errors(path):
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
    file = os.fdopen(descriptor, "wb")

    def write(content: bytes) -> None:
        with file_errors(path):
            file.write(content)

    try:
        yield write
        with file_errors(path):
            file.close()
            Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            file.close()
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


def tail(path: Path, size: int) -> bytes:
    """Return the last *size* bytes of a file, or all of it if it is shorter.

    Raises:
        HomeError: There is no such file, or it cannot be read.
    """
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - size))
            return file.read(size)
    except OSError as error:
        raise HomeError(f"{path} cannot be read: {error.strerror or error}") from error


@contextlib.contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turn the system's errors about writing *path* into ours."""
    try:
        yield
    except CanfarBatchError:
        raise
    except OSError as error:
        raise HomeError(
            f"{path} cannot be written: {error.strerror or error}. Nothing that was recorded is lost: make room or "
            "fix the permissions, and run the script again"
        ) from error


def make_folder(path: Path) -> None:
    """Make the directory *path* unless it exists, for the user alone (0700).

    Raises:
        HomeError: It cannot be made.
    """
    with file_errors(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)


def open_private(path: Path) -> None:
    """Create *path* unless it exists, readable by the user alone (0600).

    Raises:
        HomeError: The file cannot be created.
    """
    with file_errors(path):
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


# -- locks --------------------------------------------------------------------------------------------------------


def probe_locking(directory: Path) -> None:
    """Check that the disk of *directory* refuses a second lock on a locked file, because the ledger relies on it.

    Raises:
        HomeError: The disk does not support locks, or grants two at once.
    """
    probe = directory / ".lock-probe"
    open_private(probe)
    try:
        with probe.open("rb+") as one, probe.open("rb+") as other:
            try_lock(one.fileno())
            try:
                try_lock(other.fileno())
            except BlockingIOError:
                return
            if OPEN_FILE_LOCKS:
                raise HomeError(f"the disk of {directory} grants two locks on one file; keep the batch on another disk")
    except OSError as error:
        if isinstance(error, HomeError):
            raise
        raise HomeError(
            f"the disk of {directory} cannot lock files ({error}); keep the batch on another disk"
        ) from error
    finally:
        probe.unlink(missing_ok=True)


#: locks that belong to an open file, not to a process, so that one process can try both sides (Linux)
OPEN_FILE_LOCKS = hasattr(fcntl, "F_OFD_SETLK")


def try_lock(descriptor: int) -> None:
    """Lock a whole file, or raise OSError at once."""
    if not OPEN_FILE_LOCKS:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    whole_file = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, whole_file)
