"""Processes as the operating system shows them: in /proc on Linux, by ``ps`` elsewhere."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

LINUX = sys.platform.startswith("linux")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK_USEC = 1_000_000 // os.sysconf("SC_CLK_TCK")
_STRANGERS_AGAIN = 1.0  #: seconds after which other processes are checked again, since ids are reused


class Process(NamedTuple):
    """One process at the time of a sample."""

    pid: int
    parent: int
    session: int  #: its session, or its group if sessions cannot be seen
    started: int  #: distinguishes it from an earlier process of the same id; 0 if unknown
    resident: int  #: bytes
    peak: int  #: bytes; the maximum so far, if the system knows it
    cpu_usec: int  #: includes children that it waited for
    user_usec: int


class Table:
    """Finds the processes of jobs among all others, sample by sample."""

    def __init__(self, mark: bytes) -> None:
        self._mark = mark
        self._strangers: set[int] = set()
        self._strangers_since = 0.0

    def forget_strangers(self) -> None:
        """Check every process again: a job has begun, and one of them may belong to it."""
        self._strangers.clear()

    def sample(
        self, jobs: Mapping[int, Mapping[int, int]]
    ) -> tuple[dict[int, list[Process]], list[tuple[Process, bytes]]]:
        """Assign processes to jobs.

        Args:
            jobs: By the id of a job's first process, the processes of the last sample with their start times.

        Returns:
            The processes of each job, including those that left its session; and the strays: processes that no known
            process has started, with the part of their environment after the mark.
        """
        if time.monotonic() - self._strangers_since > _STRANGERS_AGAIN:
            self._strangers_since = time.monotonic()
            self._strangers.clear()
        known = {pid: (leader, started) for leader, members in jobs.items() for pid, started in members.items()}
        owners: dict[int, int] = {}
        unknown: list[Process] = []
        found: dict[int, list[Process]] = {}
        for process in processes(self._strangers):
            owner, started = known.get(process.pid, (0, 0))
            if owner and started == process.started:
                owners[process.pid] = owner
            elif process.session in jobs:
                owners[process.pid] = process.session
            else:
                unknown.append(process)
                continue
            found.setdefault(owners[process.pid], []).append(process)
        return found, self._adopt(unknown, owners, found)

    def _adopt(
        self, unknown: list[Process], owners: dict[int, int], found: dict[int, list[Process]]
    ) -> list[tuple[Process, bytes]]:
        """Assign the children of a job's processes to the job, also those in a session of their own."""
        adopted = True
        while adopted and unknown:
            rest = [process for process in unknown if process.parent not in owners]
            adopted = len(rest) < len(unknown)
            for process in unknown:
                if process.parent in owners:
                    owners[process.pid] = owners[process.parent]
                    found[owners[process.pid]].append(process)
            unknown = rest
        strays = []
        for process in unknown:
            mark = environment_after(process.pid, self._mark)
            if mark is None:
                self._strangers.add(process.pid)
            else:
                strays.append((process, mark))
        return strays


def processes(skip: set[int]) -> Iterable[Process]:
    """Yield every process except the ids in *skip*."""
    return _from_proc(skip) if LINUX else from_ps(skip)


def _from_proc(skip: set[int]) -> Iterable[Process]:
    for name in os.listdir("/proc"):  # noqa: PTH208 - called many times per second
        if name[0] <= "9" and name.isdigit() and int(name) not in skip:
            process = _process(int(name))
            if process is not None:
                yield process


def _process(pid: int) -> Process | None:
    stat = _read(f"/proc/{pid}/stat")
    if not stat:
        return None
    # the command's name comes first, in parentheses, and may contain parentheses
    fields = stat[stat.rindex(b")") + 2 :].split(b" ")
    user, system, children_user, children_system = map(int, fields[11:15])
    resident = int(fields[21]) * _PAGE
    return Process(
        pid=pid,
        parent=int(fields[1]),
        session=int(fields[3]),
        started=int(fields[19]),
        resident=resident,
        peak=max(resident, _peak(pid)) if resident else 0,
        cpu_usec=(user + system + children_user + children_system) * _TICK_USEC,
        user_usec=(user + children_user) * _TICK_USEC,
    )


def _peak(pid: int) -> int:
    status = _read(f"/proc/{pid}/status")
    at = status.find(b"VmHWM:")
    return int(status[at + 6 : status.index(b"kB", at)]) * 1024 if at >= 0 else 0


def started(pid: int) -> int | None:
    """Return when the process *pid* started, in the units of `Process.started`; None if it does not exist."""
    if LINUX:
        stat = _read(f"/proc/{pid}/stat")
        return int(stat[stat.rindex(b")") + 2 :].split(b" ")[19]) if stat else None
    with contextlib.suppress(OSError):
        os.kill(pid, 0)
        return 0
    return None


def proportional(process: Process) -> int:
    """Return the resident bytes of a process; shared ones count in part, or in full if the shares are unknown."""
    rollup = _read(f"/proc/{process.pid}/smaps_rollup") if LINUX else b""
    at = rollup.find(b"\nPss:")
    return int(rollup[at + 5 : rollup.index(b"kB", at)]) * 1024 if at >= 0 else process.resident


def environment_after(pid: int, mark: bytes) -> bytes | None:
    """Return the text after *mark* in the environment of a process, up to the value's end; None without *mark*."""
    if not LINUX:
        return None  # `ps` shows no environments: a process that leaves both group and parents is not found
    _, found, rest = _read(f"/proc/{pid}/environ").partition(mark)
    return rest.partition(b"\0")[0] if found else None


def _read(path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        content = os.read(descriptor, 1 << 16)
        while len(content) and len(content) % 4096 == 0:  # environments come in pages
            more = os.read(descriptor, 1 << 20)
            if not more:
                break
            content += more
        return content
    except OSError:
        return b""  # it ended just now, or belongs to another user
    finally:
        os.close(descriptor)


def from_ps(skip: set[int]) -> Iterable[Process]:
    """Yield every process as ``ps`` prints it, on any POSIX system."""
    command = ["ps", "-axo", "pid=,ppid=,pgid=,rss=,time="]
    text = subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603 - fixed words
    for line in text.splitlines():
        words = line.split()
        if len(words) == 5 and int(words[0]) not in skip:
            pid, parent, group, kilobytes = map(int, words[:4])
            cpu = _clock_usec(words[4])
            yield Process(pid, parent, group, 0, kilobytes * 1024, kilobytes * 1024, cpu, cpu)


def _clock_usec(text: str) -> int:
    """Convert ``[[days-]hours:]minutes:seconds[.hundredths]`` to microseconds."""
    days, _, clock = text.rpartition("-")
    seconds = 0.0
    for part in clock.split(":"):
        seconds = seconds * 60 + float(part)
    return round((int(days or 0) * 86400 + seconds) * 1_000_000)
