"""Print the logs of jobs."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator

from canfar_batch.batch import Batch
from canfar_batch.cli.batches import find_job
from canfar_batch.cli.output import FINE, LOG_LINES, print_bytes, print_result
from canfar_batch.errors import JobNotFound
from canfar_batch.job import Job
from canfar_batch.records import Attempt
from canfar_batch.session import Session
from canfar_batch.store.log_files import read_lines_from_end


def show_logs(options: argparse.Namespace) -> int:
    """Print a job's log, follow it, or print the end of every failed job's."""
    if options.failed:
        return _show_failed_logs(options)
    with Batch.open(options.name, options.home) as batch:
        job = find_job(batch, options.key)
        number = options.attempt if options.attempt is not None else job.attempt
        if options.follow and not job.state.final:
            return _follow(batch, job, number, options.url)
        log = _log(batch, job, number, options.url, options.tail)
    if options.json:
        print_result(options, {"key": job.key, "attempt": number, "log": log.decode(errors="replace")}, "")
    else:
        print_bytes(log)
    return FINE


def _show_failed_logs(options: argparse.Namespace) -> int:
    """Print the end of each failed job's log, under a heading with its key and cause."""
    lines = LOG_LINES if options.tail is None else options.tail
    with Batch.open(options.name, options.home) as batch:
        ends = []
        for job in batch.failed:
            saved = job.attempts[-1].log if job.attempts else None
            log = read_lines_from_end(saved, lines) if saved is not None and saved.exists() else b""
            ends.append((job, log))
    if options.json:
        data = [{"key": job.key, "attempt": job.attempt, "log": log.decode(errors="replace")} for job, log in ends]
        print_result(options, data, "")
        return FINE
    for job, log in ends:
        cause = f": {job.failure.cause}" if job.failure is not None else ""
        sys.stdout.write(f"==> {job.key} (attempt {job.attempt}{cause}) <==\n")
        print_bytes(log if log.endswith(b"\n") or not log else log + b"\n")
    return FINE


def _follow(batch: Batch, job: Job, number: int, url: str | None) -> int:
    """Print the lines of a running attempt as they come."""
    with _running_job(batch, job, number, url) as running:
        for line in running.follow():
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
    return FINE


def _log(batch: Batch, job: Job, number: int, url: str | None, lines: int | None) -> bytes:
    """The log of an attempt, or its last lines: the saved one, or from the platform while it runs."""
    saved = _attempt(job, number).log
    if saved is not None and saved.exists():
        return saved.read_bytes() if lines is None else read_lines_from_end(saved, lines)
    with _running_job(batch, job, number, url) as running:
        log = running.logs(encoding=None)
    return log if lines is None else b"".join(log.splitlines(keepends=True)[-lines or len(log) + 1 :])


def _attempt(job: Job, number: int) -> Attempt:
    found = next((attempt for attempt in job.attempts if attempt.number == number), None)
    if found is None:
        raise JobNotFound(f"job {job.key} has no attempt {number}; it has {len(job.attempts)}")
    return found


@contextlib.contextmanager
def _running_job(batch: Batch, job: Job, number: int, url: str | None) -> Iterator[Job]:
    """The running attempt of a job, with a connection to its platform."""
    chosen = _attempt(job, number)
    if chosen.ended or chosen.id is None:
        raise JobNotFound(f"no log of job {job.key}, attempt {number}, was saved")
    if batch.address == "local":
        raise JobNotFound(
            f"job {job.key} still runs on another process's platform; its log can be read when it has ended"
        )
    with Session.connect_for(batch, url) as session:
        yield session.job(chosen.id)
