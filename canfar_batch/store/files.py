"""Files in a batch's directory: written in one piece, private to the user, and on a disk whose locks work."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

from canfar_batch.errors import HomeError


def write_file(path: Path, content: bytes) -> None:
    """Put *content* in place at once: nobody ever sees half of it, and nobody else may read it (0600).

    It is not forced to the disk: what must outlive a power cut is in the ledger.

    Raises:
        HomeError: It cannot be written, for want of room or rights.
    """
    with file_errors(path):
        fd, temporary = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(content)
            Path(temporary).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            raise


@contextlib.contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turn the system's complaints about *path* into ours."""
    try:
        yield
    except HomeError:
        raise
    except OSError as error:
        raise HomeError(
            f"{path} cannot be written: {error.strerror or error}. Nothing that was recorded is lost: make room or "
            "mend the rights, and run the script again"
        ) from error


def open_private(path: Path) -> None:
    """Make *path* if it is not there, for the user's eyes only (0600).

    Raises:
        HomeError: It cannot be made.
    """
    with file_errors(path):
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def probe_locking(directory: Path) -> None:
    """Make sure that the disk under *directory* keeps two processes apart, for the ledger relies on it.

    Raises:
        HomeError: Its locks do not work, or do nothing.
    """
    probe = directory / ".lock-probe"
    open_private(probe)
    try:
        with probe.open("rb+") as one, probe.open("rb+") as other:
            _lock(one.fileno())
            try:
                _lock(other.fileno())
            except BlockingIOError:
                return
            if _OPEN_FILE_LOCKS:
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
_OPEN_FILE_LOCKS = hasattr(fcntl, "F_OFD_SETLK")


def _lock(fd: int) -> None:
    if not _OPEN_FILE_LOCKS:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    whole_file = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, whole_file)
