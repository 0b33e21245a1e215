"""The holder of a batch's lease: the one process that drives it, and whether that process may still be alive."""

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
    """A process that drives a batch, or drove it."""

    id: str
    host: str
    boot: str  #: the boot of the host, and the process namespace on it; "" if unknown
    pid: int
    born: str  #: when the process started, in the kernel's own count; "" if unknown

    @classmethod
    def me(cls) -> Holder:
        """Return this process under a new random id, which counts as alive for as long as the value is referenced."""
        pid = os.getpid()
        made = cls(id=secrets.token_hex(8), host=socket.gethostname(), boot=_boot(), pid=pid, born=_born(pid))
        _alive[made.id] = made
        return made

    def is_this_process(self) -> bool:
        """Return whether the holder is this process, perhaps through another `Batch` of it."""
        here = (socket.gethostname(), _boot(), os.getpid(), _born(os.getpid()))
        return (self.host, self.boot, self.pid, self.born) == here

    def provably_gone(self) -> bool:
        """Return True only if the process certainly no longer runs.

        A process of another host, or of another container on this host, may run: there is no way to see it from here.
        """
        if self.host != socket.gethostname():
            return False
        here = _boot()
        if here and self.boot:
            boot, _, namespace = self.boot.partition("/")
            boot_now, _, namespace_now = here.partition("/")
            if boot != boot_now:
                return True
            if namespace != namespace_now:
                return False
        if self.is_this_process():
            return self.id not in _alive  # a notebook cell was run again, and its earlier batch thrown away
        if not _exists(self.pid):
            return True
        return bool(self.born) and _born(self.pid) not in ("", self.born)


_alive: weakref.WeakValueDictionary[str, Holder] = weakref.WeakValueDictionary()  #: the holders in this process


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return _state(pid) != "Z"  # a zombie runs no code any more


def _boot() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat after the command's name, which may itself hold blanks and brackets."""
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
