"""Bundles: following the jobs of containers that carry several of them, each by its own reports."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from functools import partial

import attrs

from canfar_batch.engine.context import Context
from canfar_batch.engine.finish import Finisher, Finishing
from canfar_batch.engine.tasks import TaskReports, read_reports
from canfar_batch.lifecycle import Event, PhaseChanged
from canfar_batch.records import JobRecord, JobState, Phase, Receipt
from canfar_batch.setup import Outcome

_SECONDS_PER_MB = 5.0  #: pause between two reads of a log that has to be read as a whole
_LONGEST_PAUSE = 120.0  #: seconds


@attrs.define
class _Reading:
    in_flight: bool = False
    next: float = 0.0  #: when the reports may be read again, in the clock's ticks


class BundleWatch:
    """Reads what the jobs of running bundles report, after each poll."""

    def __init__(self, context: Context, finisher: Finisher) -> None:
        self._context, self._journal, self._finisher = context, context.journal, finisher
        self._readings: dict[str, _Reading] = {}  # by launch name

    @property
    def in_flight(self) -> bool:
        """Whether reports are being read."""
        return any(reading.in_flight for reading in self._readings.values())

    def read(self, running: Collection[str]) -> None:
        """Start to read the reports of the bundles whose containers, given by their ids, run."""
        index, now = self._journal.index, self._context.clock.ticks()
        launches = self._context.launch_context
        self.tidy()
        for name, keys in index.bundles.items():
            reading = self._readings.setdefault(name, _Reading())  # also of one that ends unread, to be tidied up after
            jobs = [self._journal.job(key) for key in keys if not self._finisher.is_open(key)]
            jobs = [job for job in jobs if job.state.active]
            if not jobs or jobs[0].id not in running:
                continue
            if reading.in_flight or now < reading.next:
                continue
            reading.in_flight = True
            # receipts on the storage would take a request for each job; the log has them all
            seen = None if launches.remote is not None else launches.home
            work = partial(read_reports, self._finisher.answers, jobs, since=now, receipt_home=seen)
            self._context.pool.submit("gather", work, partial(self._read, name, jobs))

    def tidy(self) -> None:
        """Remove what the driver has left in the home for bundles whose jobs have all ended."""
        for name in self._readings.keys() - self._journal.index.bundles.keys():
            if not self._readings[name].in_flight:
                del self._readings[name]
                self._tidy(name)

    def _read(self, name: str, jobs: list[JobRecord], outcome: Outcome[TaskReports]) -> None:
        reading = self._readings.setdefault(name, _Reading())
        reading.in_flight = False
        if outcome.value is None:
            reading.next = self._context.clock.ticks() + self._context.schedule.back_off(0)
            return  # an answer that did not come says nothing
        reports, events = outcome.value, list[Event]()
        if reports.in_files:
            self._context.traffic.home_is_seen = True
        else:
            pause = min(_LONGEST_PAUSE, reports.size / 1e6 * _SECONDS_PER_MB)
            reading.next = self._context.clock.ticks() + pause
        ended = list[JobRecord]()
        for asked in jobs:
            job = self._journal.job(asked.key)
            start, end = reports.receipts[job.key]
            is_same = job.last_attempt is not None and job.last_attempt.run_name == asked.attempts[-1].run_name
            if not is_same or not job.state.active or self._finisher.is_open(job.key):
                continue
            if end is not None and ended_by_itself(end, cancelling=job.cancelling):
                ended.append(job)
            elif start is not None and job.state is JobState.PENDING:
                events.append(self._begun(job, start))
        self._journal.record(events)
        for job in ended:
            self._finisher.begin(job, Finishing(phase=None, reported=True))

    def _begun(self, job: JobRecord, start: Receipt) -> PhaseChanged:
        attempt, now = job.attempts[-1], self._context.clock.now()
        began = start.started_at or now
        return PhaseChanged(
            key=job.key, at=now, phase=Phase.RUNNING, started_at=began, start_time=attempt.start_time,
            expires_at=attempt.expires_at,
        )  # fmt: skip

    def _tidy(self, name: str) -> None:
        """Remove what the driver has left in the home for a bundle whose jobs have all ended."""
        home = self._context.launch_context.home
        if home is None:
            return
        with contextlib.suppress(OSError):
            home.script(name).unlink(missing_ok=True)
            for key in self._journal.index.members.get(name, {}):
                attempt = self._journal.jobs[key].last_attempt
                if attempt is not None and attempt.launch_name == name:
                    home.stop_request(attempt.run_name).unlink(missing_ok=True)


def ended_by_itself(end: Receipt, *, cancelling: bool) -> bool:
    """Return whether a task has ended for good, though its container runs on.

    A task that was told to stop may be part of a container that ends, or that the platform begins again.
    """
    return end.stopped_by is None or cancelling
