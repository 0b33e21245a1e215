"""Indexes over a batch's jobs, so that one turn of the loop costs the number of changes, not of jobs."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import TypeVar

from canfar_batch.lifecycle import may_be_overturned
from canfar_batch.records import Attempt, JobRecord, JobState, Resources

K = TypeVar("K")
Shape = tuple[str, Resources]  #: an image and resources, which the platform checks before it accepts a launch

_ENDED_BADLY = (JobState.LOST, JobState.FAILED, JobState.CANCELLED)
_NEVER = datetime.max.replace(tzinfo=timezone.utc)


class JobIndex:
    """Indexes over the records of a batch, which `update` and `forget` keep up to date.

    Attributes:
        counts: The number of jobs in each state.
        active: Keys of the jobs that have a container or may have one, the longest active first.
        undecided: Keys of the jobs whose newest attempt failed and for which no retry policy was asked yet.
        uncollected: Keys of the jobs that succeeded and whose result was not fetched yet.
        overturnable: Keys of the jobs whose outcome a late receipt may still change.
        without_log: Keys of the jobs whose newest attempt ended without its log.
        by_name: The job's key and the attempt's number, by launch name.
        by_id: The job's key and the attempt's number, by the platform's id.
        accepted: The time of the newest launch that the platform accepted, by its shape.
        begun: The time of the newest launch whose container has run, by its resources.
    """

    def __init__(self, jobs: Mapping[str, JobRecord]) -> None:
        self._jobs = jobs
        self.counts: Counter[JobState] = Counter()
        self.active: dict[str, None] = {}
        self.undecided: dict[str, None] = {}
        self.uncollected: dict[str, None] = {}
        self.overturnable: dict[str, None] = {}
        self.without_log: dict[str, None] = {}
        self.by_name: dict[str, tuple[str, int]] = {}
        self.by_id: dict[str, tuple[str, int]] = {}
        self.accepted: dict[Shape, datetime] = {}
        self.begun: dict[Resources, datetime] = {}
        self._ready: list[tuple[int, str]] = []  # a heap in plan order; outdated entries are skipped
        self._due: list[tuple[datetime, int, str]] = []  # a heap by time; outdated entries are skipped
        self._queued: dict[str, datetime | None] = {}  # a job's valid entry: its due time, or None if it is ready
        for job in jobs.values():
            self.update(None, job)

    @property
    def unfinished(self) -> int:
        """The number of jobs that are not final."""
        return sum(count for state, count in self.counts.items() if not state.final)

    def update(self, before: JobRecord | None, after: JobRecord) -> None:
        """Replace *before* (None if the job is new) by *after*."""
        if before is not None:
            self.counts[before.state] -= 1
        self.counts[after.state] += 1
        _set_member(self.active, after.key, after.state.active)
        _set_member(self.undecided, after.key, after.state is JobState.WAITING and after.due is None)
        _set_member(self.uncollected, after.key, after.state is JobState.SUCCEEDED and not after.collected)
        _set_member(self.overturnable, after.key, after.state in _ENDED_BADLY and may_be_overturned(after))
        _set_member(self.without_log, after.key, _lacks_log(after))
        for attempt in after.attempts[-1:] if before is not None else after.attempts:
            place = self.by_name.get(attempt.launch_name)
            if place is None:
                place = self.by_name[attempt.launch_name] = (after.key, attempt.number)
            if attempt.id is not None:
                self.by_id[attempt.id] = place
                if attempt.number > after.attempts_before_reopen:  # an earlier one may have had another image
                    _note_newest(self.accepted, (after.spec.image, attempt.resources), attempt)
        if after.state is JobState.RUNNING:
            _note_newest(self.begun, after.attempts[-1].resources, after.attempts[-1])
        if not _is_launchable(after):
            self._queued.pop(after.key, None)
        elif after.key not in self._queued or self._queued[after.key] != after.due:
            self._enqueue(after.due, after.index, after.key)

    def forget(self, job: JobRecord) -> None:
        """Remove a job that was never launched."""
        self.counts[job.state] -= 1
        self._queued.pop(job.key, None)

    def ready(self, now: datetime) -> Iterator[JobRecord]:
        """Yield the jobs that may be launched at *now*, in plan order.

        Lazy: the cost is proportional to the jobs consumed.
        """
        self._promote(now)
        taken: dict[str, int] = {}
        try:
            while self._ready:
                place, key = heapq.heappop(self._ready)
                if key not in taken and self._is_valid(None, key):
                    taken[key] = place
                    yield self._jobs[key]
        finally:
            for key, place in taken.items():
                heapq.heappush(self._ready, (place, key))

    def is_ready(self, key: str, now: datetime) -> bool:
        """Return whether this job may be launched at *now*."""
        due = self._queued.get(key, _NEVER)
        return due is None or due <= now

    def next_due(self, now: datetime) -> datetime | None:
        """Return when the next waiting job may be launched; None if none waits for a time after *now*."""
        self._promote(now)
        return self._due[0][0] if self._due else None

    def _enqueue(self, due: datetime | None, place: int, key: str) -> None:
        self._queued[key] = due
        if due is None:
            heapq.heappush(self._ready, (place, key))
        else:
            heapq.heappush(self._due, (due, place, key))

    def _promote(self, now: datetime) -> None:
        """Move the entries that are due by *now* to the ready heap, and drop outdated ones."""
        while self._due and (self._due[0][0] <= now or not self._is_valid(self._due[0][0], self._due[0][2])):
            due, place, key = heapq.heappop(self._due)
            if self._is_valid(due, key):
                self._enqueue(None, place, key)

    def _is_valid(self, due: datetime | None, key: str) -> bool:
        """Return whether an entry of the heaps is the job's newest."""
        return key in self._queued and self._queued[key] == due


def shape_of(job: JobRecord) -> Shape:
    """Return the shape of *job*'s next launch, or of the one in flight."""
    return job.spec.image, job.resources


def _note_newest(times: dict[K, datetime], key: K, attempt: Attempt) -> None:
    at = attempt.launched_at or attempt.intended_at
    times[key] = max(at, times.get(key, at))


def _is_launchable(job: JobRecord) -> bool:
    return job.state is JobState.PLANNED or (job.state is JobState.WAITING and job.due is not None)


def _lacks_log(job: JobRecord) -> bool:
    attempt = job.last_attempt
    return attempt is not None and attempt.ended and attempt.id is not None and attempt.log is None


def _set_member(keys: dict[str, None], key: str, is_member: bool) -> None:
    if is_member:
        keys.setdefault(key)
    else:
        keys.pop(key, None)
