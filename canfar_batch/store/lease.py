"""One batch, one driver: who holds a batch, and whether that process can still be alive."""

from __future__ import annotations

import os
import secrets
import socket
import weakref
from pathlib import Path

import attrs

TERM = 600.0  #: seconds that a lease lasts unless it is renewed


@attrs.frozen(kw_only=True)
class Holder:
    """A process that drives, or drove, a batch."""

    id: str
    host: str
    boot: str  #: which run of the machine, and which process namespace in it; "" where that cannot be told
    pid: int
    born: str  #: when the process started, in the system's own count; "" where that cannot be told

    @classmethod
    def me(cls) -> Holder:
        """This process, under a new random id; alive for as long as somebody keeps the value."""
        pid = os.getpid()
        made = cls(id=secrets.token_hex(8), host=socket.gethostname(), boot=_boot(), pid=pid, born=_born(pid))
        _kept[made.id] = made
        return made

    def provably_gone(self) -> bool:
        """True only where it is certain that the process lives no more.

        A process of another host, or of another container on this host, may live: nothing here can tell.
        """
        if self.host != socket.gethostname():
            return False
        here = _boot()
        if here and self.boot:
            boot, _, space = self.boot.partition("/")
            boot_now, _, space_now = here.partition("/")
            if boot != boot_now:
                return True
            if space != space_now:
                return False
        if self.pid == os.getpid() and self.born == _born(self.pid):
            return self.id not in _kept  # a notebook's cell was run again, and the batch before was thrown away
        if not _exists(self.pid):
            return True
        return bool(self.born) and _born(self.pid) not in ("", self.born)


_kept: weakref.WeakValueDictionary[str, Holder] = weakref.WeakValueDictionary()  #: the holders in this process


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return _state(pid) != "Z"  # a zombie runs nothing any more


def _boot() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat behind the command's name, which may itself hold blanks and brackets."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _state(pid: int) -> str:
    fields = _stat(pid)
    return fields[0] if fields else ""


def _born(pid: int) -> str:
    fields = _stat(pid)
    return fields[19] if len(fields) > 19 else ""
