"""The use of resources by jobs, measured from outside and shown to them in files like a cgroup's (version 2).

One thread samples the processes of every running job. A kernel would count each page and each tick; a sampler sees the
processes at the time of the sample, and can miss one that lives for a shorter time than the interval.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import attrs

from canfar_batch.local import procfs
from canfar_batch.local.procfs import Process

MIB = 1 << 20
YOUNG = 2.0  #: seconds for which a new job is sampled as often as possible
OFTEN, SELDOM = 0.02, 0.05  #: seconds between two samples, while any job is young, and later
AFTERWARDS = 3.0  #: seconds for which strays are searched for after the end of the last job


@attrs.define
class Usage:
    """The resources that one run of a job has used so far."""

    memory: int = 0  #: bytes
    peak: int = 0  #: bytes
    cpu_usec: int = 0
    user_usec: int = 0
    oom_kills: int = 0
    cores: float = 0.0  #: the number of cores that were busy lately


class Cgroup:
    """One job's directory of accounts, like the one that a container finds under ``/sys/fs/cgroup``."""

    def __init__(self, directory: Path, *, memory_max: int, cores_max: float) -> None:
        self.directory = directory
        self._written: dict[str, str] = {}
        directory.mkdir(parents=True, exist_ok=True)
        self._write("memory.max", f"{memory_max}\n")
        self._write("cpu.max", f"{round(cores_max * 100_000)} 100000\n")
        self.show(Usage())

    def show(self, usage: Usage) -> None:
        """Write the files whose content has changed."""
        self._write("memory.current", f"{usage.memory}\n")
        self._write("memory.peak", f"{usage.peak}\n")
        self._write("memory.events", f"low 0\nhigh 0\nmax 0\noom {usage.oom_kills}\noom_kill {usage.oom_kills}\n")
        system = usage.cpu_usec - usage.user_usec
        self._write("cpu.stat", f"usage_usec {usage.cpu_usec}\nuser_usec {usage.user_usec}\nsystem_usec {system}\n")

    def _write(self, name: str, text: str) -> None:
        if self._written.get(name) == text:
            return
        # a reader must never see half a number: the kernel's files are whole as well
        new = self.directory / f".{name}"
        with contextlib.suppress(OSError):  # the job was forgotten meanwhile
            new.write_text(text)
            new.replace(self.directory / name)
            self._written[name] = text


class Account:
    """The processes of one running job, and their use of resources."""

    def __init__(self, leader: int, cgroup: Cgroup, *, memory_max: int, mark: bytes, oom: str) -> None:
        self.leader = leader
        self.mark = mark
        self.usage = Usage()
        self.members: dict[int, int] = {}  #: start times by process id
        self._cgroup = cgroup
        self._memory_max = memory_max
        self._oom = oom
        self._began = time.monotonic()
        self._last_sum = 0
        self._last_cpu = (self._began, 0)
        self._share = _Share()
        self._condemned: set[int] = set()

    @property
    def young(self) -> bool:
        """Whether the job began a moment ago."""
        return time.monotonic() - self._began < YOUNG

    def take(self, processes: list[Process]) -> None:
        """Account for *processes*, which must be all of the job."""
        self.members = {process.pid: process.started for process in processes}
        usage = self.usage
        resident = self._share.of(processes)
        # a process that forks counts twice for an instant: a sum is believed when two samples have it
        twice = min(resident, self._last_sum)
        self._last_sum = resident
        usage.memory = resident
        usage.peak = max(usage.peak, twice, *(process.peak for process in processes))
        self._take_cpu(processes)
        if self._oom != "off":
            usage.peak = min(usage.peak, self._memory_max)
            if max(twice, *(process.resident for process in processes)) > self._memory_max:
                self._out_of_memory(processes)
        self._cgroup.show(usage)

    def _take_cpu(self, processes: list[Process]) -> None:
        usage = self.usage
        # a process's account includes children that it waited for; the maximum covers those it has not waited for
        usage.cpu_usec = max(usage.cpu_usec, sum(process.cpu_usec for process in processes))
        usage.user_usec = min(usage.cpu_usec, max(usage.user_usec, sum(process.user_usec for process in processes)))
        now, (then, before) = time.monotonic(), self._last_cpu
        if now - then >= 0.2:
            usage.cores = (usage.cpu_usec - before) / 1e6 / (now - then)
            self._last_cpu = (now, usage.cpu_usec)

    def _out_of_memory(self, processes: list[Process]) -> None:
        if self._condemned & self.members.keys():
            return  # the last victim has not given its memory back yet
        victim = max(processes, key=lambda process: process.resident)
        self.usage.oom_kills += 1
        self._cgroup.show(self.usage)  # before the kill: a parent that waits for the victim may read it at once
        victims = [process.pid for process in processes] if self._oom == "group" else [victim.pid]
        self._condemned = set(victims)
        for pid in victims:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


class _Share:
    """Resident memory in which the pages that forked workers share with their parent count once."""

    def __init__(self) -> None:
        self._ratio = 1.0
        self._measured = (0.0, 0)

    def of(self, processes: list[Process]) -> int:
        resident = sum(process.resident for process in processes)
        if sum(process.resident > 32 * MIB for process in processes) < 2:
            return resident
        when, size = self._measured
        # the exact share takes a walk over every page table: not at each sample
        if time.monotonic() - when > 0.25 or resident > 1.2 * size:
            self._ratio = min(1.0, sum(map(procfs.proportional, processes)) / resident)
            self._measured = (time.monotonic(), resident)
        return int(resident * self._ratio)


class Sampler:
    """The thread that keeps the accounts of all running jobs, and ends processes that outlive their job."""

    def __init__(self, mark: bytes) -> None:
        self._table = procfs.Table(mark)
        self._live: set[bytes] = set()
        self._accounts: list[Account] = []
        self._sweep_until = 0.0
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="local-platform-sampler", daemon=True)

    def start(self) -> None:
        """Begin to sample."""
        self._thread.start()

    def stop(self) -> None:
        """Stop sampling, and wait for the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def expect(self, mark: bytes) -> None:
        """Spare processes that carry *mark*: their job is about to begin."""
        with self._changed:
            self._live.add(mark)

    def add(self, account: Account) -> None:
        """Keep *account* from now on; its first sample is taken at once."""
        with self._changed:
            self._accounts.append(account)
            self._table.forget_strangers()
            self._look()
            self._changed.notify_all()

    def end(self, mark: bytes, account: Account | None = None, *, killed: bool = False) -> None:
        """Kill the remaining processes of the job of *mark*, which has ended.

        Args:
            mark: The text in the environment of its processes.
            account: Its account, if it has begun.
            killed: Whether it was killed, so that more than strays may remain: a kernel would have killed all at once.
        """
        if account is not None:
            _kill_members(account)  # at once: when many jobs begin, the lock is taken for seconds
        with self._changed:
            if killed:
                self._look()
            self._live.discard(mark)
            if account is None:
                return
            self._accounts.remove(account)
            self._sweep_until = time.monotonic() + AFTERWARDS
            self._table.forget_strangers()
            self._changed.notify_all()
        with contextlib.suppress(OSError):
            os.killpg(account.leader, signal.SIGKILL)
        _kill_members(account)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._accounts or self._stopping or time.monotonic() < self._sweep_until):
                    self._changed.wait()
                if self._stopping:
                    return
                began = time.monotonic()
                self._look()
                young = any(account.young for account in self._accounts)
            cost = time.monotonic() - began
            # a slow sample (many processes, or `ps`) is repeated less often: never more than a fifth of one core
            pause = max(OFTEN if young else SELDOM, 4 * cost)
            with self._changed:
                if not self._stopping:
                    self._changed.wait(pause)

    def _look(self) -> None:
        found, strays = self._table.sample({account.leader: account.members for account in self._accounts})
        for account in self._accounts:
            processes = found.get(account.leader)
            if processes:
                account.take(processes)
        for process, mark in strays:
            if mark in self._live:
                for account in self._accounts:
                    if account.mark == mark:
                        account.members[process.pid] = process.started
            elif procfs.started(process.pid) == process.started:
                with contextlib.suppress(OSError):
                    os.kill(process.pid, signal.SIGKILL)


def _kill_members(account: Account) -> None:
    """Kill the processes of a job that the last sample found, but for its first, which has ended."""
    for pid, started in list(account.members.items()):
        if pid != account.leader and procfs.started(pid) == started:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
