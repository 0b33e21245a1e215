"""A process that survives the platform's process and ends the processes of its jobs.

A platform starts this file as a process of its own and reports, over a pipe, which process groups begin and end. When
the pipe breaks, because the platform stopped or was killed, every remaining group is ended: SIGTERM, a moment, then
SIGKILL. It lives in a session of its own, so that Ctrl-C in the terminal does not reach it. Runs without the package
and without site-packages, to start within milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator

GRACE = 2.0  #: seconds between SIGTERM and SIGKILL
CHECK = 1.0  #: seconds between two checks of whether the platform's process still lives


def remaining_groups(platform: int) -> set[int]:
    """Follow the platform's reports until it ends; return the groups that were not reported as ended."""
    groups: set[int] = set()
    pending = b""
    # a fork of the platform's process may hold the pipe open after its death: so its process is watched as well
    while os.getppid() == platform:
        readable, _, _ = select.select([0], [], [], CHECK)
        if not readable:
            continue
        part = os.read(0, 65536)
        if not part:
            break
        *lines, pending = (pending + part).split(b"\n")
        for line in lines:
            (groups.add if line[:1] == b"+" else groups.discard)(int(line[1:]))
    return groups


def marked(mark: bytes) -> Iterator[int]:
    """Yield every process whose environment contains *mark*, if the system shows environments (Linux)."""
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib costs more than the rest of this program
            if name.isdigit() and int(name) != os.getpid():
                with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as environ:  # noqa: PTH123
                    if mark in environ.read():
                        yield int(name)


def end(groups: set[int], mark: bytes) -> None:
    """End the groups, and the processes that carry the mark: a daemon leaves its group, but not its environment."""
    living = _signalled(groups, mark, signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    while living and time.monotonic() < deadline:
        time.sleep(0.02)
        living = _signalled(groups, mark, 0)
    # a killed process may be counted for a moment, until its new parent notices its end
    deadline = time.monotonic() + 0.5
    while _signalled(groups, mark, signal.SIGKILL) and time.monotonic() < deadline:
        time.sleep(0.02)


def _signalled(groups: set[int], mark: bytes, number: int) -> bool:
    found = False
    for send, ids in ((os.killpg, groups), (os.kill, marked(mark))):
        for process in ids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                send(process, number)
                found = True
    return found


def main(platform: str, mark: str, scratch: str) -> None:
    """Wait for the end of the process *platform*, and clean up after it, the directory *scratch* included."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end(remaining_groups(int(platform)), mark.encode())
    if scratch:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
