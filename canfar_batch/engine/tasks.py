"""Tasks: the jobs of a bundle, and the evidence about each, which all of them find in one container."""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs

from canfar_batch.engine.cluster_events import Events
from canfar_batch.engine.evidence import (
    Gathered,
    Runs,
    is_gone,
    outcome_of,
    read_receipt,
    save_log,
    to_receipt,
    with_remote,
)
from canfar_batch.engine.log_reasons import TAIL
from canfar_batch.engine.remote_home import RemoteHome
from canfar_batch.errors import CanfarBatchError, PlatformError
from canfar_batch.payload.receipts import BundleLogSplitter
from canfar_batch.protocols import Platform
from canfar_batch.records import Attempt, JobRecord, Phase, Receipt
from canfar_batch.store.files import file_errors, tail
from canfar_batch.store.home import Home

_KEPT = 16  #: answers about containers that are kept for the other tasks
_PIECE = 65536  #: bytes


class RawLog:
    """A container's whole log, in a file without a name, so that several threads may read it."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        file = tempfile.TemporaryFile()  # noqa: SIM115 (closed with this object)
        weakref.finalize(self, file.close)
        self._file, self.size = file, 0
        for piece in pieces:
            file.write(piece)
            self.size += len(piece)
        file.flush()

    def __iter__(self) -> Iterator[bytes]:
        at = 0
        while piece := os.pread(self._file.fileno(), _PIECE, at):
            at += len(piece)
            yield piece


@attrs.define
class _Answer:
    lock: threading.Lock = attrs.field(factory=threading.Lock)
    at: float | None = None  #: when it was asked for, in the clock's ticks
    value: Any = None


class ContainerAnswers:
    """Answers about containers, each asked for once though all jobs of a bundle need it. Safe in many threads."""

    def __init__(self, platform: Platform, ticks: Callable[[], float]) -> None:
        self._platform, self._ticks = platform, ticks
        self._lock = threading.Lock()
        self._answers: dict[tuple[str, str], _Answer] = {}

    def log(self, id: str, since: float) -> RawLog:
        """Return the container's log as of *since*, in ticks, or later."""
        log: RawLog = self._ask("log", id, since, lambda: RawLog(self._platform.stream_logs(id)))
        return log

    def events(self, id: str, since: float) -> str | None:
        """Return the container's events as of *since*, in ticks, or later."""
        events: str | None = self._ask("events", id, since, lambda: self._platform.events(id))
        return events

    def cancel(self, id: str, since: float) -> None:
        """Ask the platform to remove the container, unless it was asked since *since*, in ticks."""
        self._ask("cancel", id, since, lambda: self._platform.cancel(id))

    def reported(self, id: str, since: float, remote: RemoteHome) -> frozenset[str]:
        """Return the names of the receipts on the storage as of *since*, in ticks, or later."""
        names: frozenset[str] = self._ask("reported", id, since, remote.reported)
        return names

    def is_gone(self, id: str, since: float) -> bool:
        """Return whether the service says that it knows no such container, as of *since*, in ticks, or later."""
        gone: bool = self._ask("gone", id, since, lambda: is_gone(self._platform, id))
        return gone

    def _ask(self, kind: str, id: str, since: float, ask: Callable[[], Any]) -> Any:
        with self._lock:
            answer = self._answers.pop((kind, id), None) or _Answer()
            self._answers[kind, id] = answer  # the newest last
            while len(self._answers) > _KEPT:
                del self._answers[next(iter(self._answers))]
        with answer.lock:
            if answer.at is None or answer.at < since:
                at = self._ticks()
                answer.value = ask()
                answer.at = at
            return answer.value


@attrs.frozen(kw_only=True)
class Companions:
    """The other jobs of a bundle, by the files of their start receipts."""

    starts: tuple[Path, ...] = ()

    def have_begun(self, attempt: Attempt) -> bool:
        """Return whether a receipt in the home shows that one of them began in the present run of *attempt*."""
        if not attempt.restarts:
            return any(path.exists() for path in self.starts)
        found = (read_receipt(path) for path in self.starts)
        return any(Runs().with_receipts(start).present_start(attempt) for start in found)


def gather_task(
    answers: ContainerAnswers,
    job: JobRecord,
    companions: Companions,
    *,
    phase: Phase | None,
    ended: bool,
    since: float,
    archive: Home,
    receipt_home: Home | None,
    remote: RemoteHome | None = None,
) -> Gathered:
    """Fetch the evidence about the newest attempt of a job in a bundle, and save its log.

    Args:
        answers: The answers of the platform about the container.
        job: The job.
        companions: The other jobs of the bundle.
        phase: The platform's final status of the container; None if it is absent, runs on, or is about to be stopped.
        ended: Whether the job's own receipt reports its end, so that what ended the container does not matter.
        since: How old the answers may be, in the clock's ticks.
        archive: The directory that the log is saved in.
        receipt_home: The directory in which the container may have left files, if any.
        remote: The folder on the storage where it may have left them instead.

    Raises:
        HomeError: The log cannot be written.
    """
    attempt = job.attempts[-1]
    runs = Runs.in_files(receipt_home, job)
    if attempt.id is None:
        runs, unread = with_remote(runs, remote, job, archive)
        outcome, missed = outcome_of(job, archive, None, remote)
        began, end = runs.present_start(attempt), runs.end_of_task(attempt)
        return Gathered(began=began, ended=end, outcome=outcome, unread=unread or missed)
    saved, log, events = archive.log(job.key, attempt.number), None, Events()
    trouble: PlatformError | None = None
    is_cut = others_began = False
    logged: bytes | None = None
    has_end = runs.end_of_task(attempt) is not None
    if _take_over_log(receipt_home, attempt.run_name, saved) or (has_end and saved.exists()):
        log = tail(saved, TAIL)
    if log is None or not has_end:
        splitter = BundleLogSplitter(attempt.launch_name, attempt.task)
        try:
            raw = answers.log(attempt.id, since)
            size, own = save_log(raw, splitter, saved, keep_empty=False) if log is None else _only_read(raw, splitter)
            runs = runs.with_log(to_receipt(splitter.start), to_receipt(splitter.end))
            has_end, logged = has_end or splitter.end is not None, splitter.outcome
            others_began = splitter.has_beginning and bool(splitter.tasks)
            if log is None and size and attempt.task in splitter.tasks:
                log, is_cut = own, not splitter.is_whole and splitter.end is not None
            elif log is None and saved.exists() and saved.stat().st_size == 0:
                saved.unlink()
        except PlatformError as error:
            trouble = error
    unread = missed = False
    if not ended and runs.end_of_task(attempt) is None:
        runs, unread = with_remote(runs, remote, job, archive)
    began, end = runs.present_start(attempt), runs.end_of_task(attempt)
    if began is None and end is None and not others_began and remote is not None and not unread:
        others_began, unread = _others_began(answers, remote, companions, attempt, since)
    not_begun = began is None and end is None and not unread and (others_began or companions.have_begun(attempt))
    outcome, missed = outcome_of(job, archive, logged, remote)
    if not ended and end is None and not not_begun:
        try:
            events = Events.read(answers.events(attempt.id, since))
        except PlatformError as error:
            trouble = trouble or error
    return Gathered(
        log=log, log_is_cut=is_cut, log_has_end=has_end, began=began, ended=end, events=events,
        pod_is_gone=events.pod is False, saved=saved if log is not None and saved.exists() else None, trouble=trouble,
        not_begun=not_begun, outcome=outcome, unread=unread or missed,
    )  # fmt: skip


def _others_began(
    answers: ContainerAnswers, remote: RemoteHome, companions: Companions, attempt: Attempt, since: float
) -> tuple[bool, bool]:
    """Return whether the storage shows that other jobs of the bundle began, and whether it could not be asked.

    After a restart, that says nothing about the present run.
    """
    if attempt.restarts or attempt.id is None:
        return False, False
    try:
        started = answers.reported(attempt.id, since, remote)
    except (CanfarBatchError, OSError):
        return False, True
    return any(path.name in started for path in companions.starts), False


def _take_over_log(home: Home | None, run_name: str, saved: Path) -> bool:
    """Move the log of a task from where its container wrote it to where logs are saved; return whether it was there."""
    if home is None:
        return False
    running = home.running_log(run_name)
    if not running.exists():
        return False
    with file_errors(saved):
        running.replace(saved)
    return True


def _only_read(raw: RawLog, splitter: BundleLogSplitter) -> tuple[int, None]:
    for piece in raw:
        splitter.feed(piece)
    splitter.finish()
    return raw.size, None


# -- while the container runs -------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class TaskReports:
    """What the tasks of one bundle have reported by now."""

    receipts: dict[
        str, tuple[Receipt | None, Receipt | None]
    ]  #: start of each job's present run and its end, by its key
    in_files: bool  #: whether the container leaves files in the home
    size: int = 0  #: bytes of the log that was read


def read_reports(
    answers: ContainerAnswers, jobs: Iterable[JobRecord], *, since: float, receipt_home: Home | None
) -> TaskReports:
    """Return what the *jobs* of one bundle have reported: in files if the container sees the home, else in its log.

    Raises:
        PlatformError: The log was not available.
    """
    jobs = list(jobs)
    runs = {job.key: Runs.in_files(receipt_home, job) for job in jobs}
    in_files, size = any(one.starts or one.ends for one in runs.values()), 0
    attempt = jobs[0].attempts[-1]
    if not in_files and attempt.id is not None:
        raw = answers.log(attempt.id, since)
        splitter, size = BundleLogSplitter(attempt.launch_name), raw.size
        _only_read(raw, splitter)
        for job in jobs:
            start, end = map(to_receipt, splitter.receipts_of(job.attempts[-1].task or 0))
            runs[job.key] = runs[job.key].with_log(start, end)
    found_of = {job.key: _reported(runs[job.key], job.attempts[-1]) for job in jobs}
    return TaskReports(receipts=found_of, in_files=in_files, size=size)


def _reported(runs: Runs, attempt: Attempt) -> tuple[Receipt | None, Receipt | None]:
    return runs.present_start(attempt), runs.end_of_task(attempt)
