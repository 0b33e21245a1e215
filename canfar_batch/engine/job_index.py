"""Indexes over a batch's jobs, so that one turn of the loop costs the number of changes, not of jobs."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any, TypeVar

from canfar_batch.lifecycle import may_be_overturned
from canfar_batch.records import Attempt, JobRecord, JobState, Resources

K = TypeVar("K")
Shape = tuple[str, Resources]  #: an image and resources, which the platform checks before it accepts a launch

_ENDED_BADLY = (JobState.LOST, JobState.FAILED, JobState.CANCELLED)
_SAMPLE = 1000  # successes whose durations are averaged
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
        members: The jobs that a bundle was launched with, and the numbers of their attempts, by its launch name.
        bundles: Keys of the active jobs of each bundle, by its launch name.
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
        self.members: dict[str, dict[str, int]] = {}
        self.bundles: dict[str, dict[str, None]] = {}
        self.accepted: dict[Shape, datetime] = {}
        self.begun: dict[Resources, datetime] = {}
        self._ready: list[tuple[int, str]] = []  # a heap in plan order; outdated entries are skipped
        self._longest: list[tuple[float, int, str]] | None = None  # the same, the longest first; made when asked for
        self._durations: deque[float] = deque(maxlen=_SAMPLE)  # seconds that the newest successes ran
        self._work = 0.0  # seconds that the queued jobs are expected to run, as far as known
        self._unknown = 0  # how many queued jobs have no expectation
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
            if attempt.has_run:
                _note_newest(self.begun, attempt.resources, attempt)
        self._update_bundles(before, after)
        if after.state is JobState.SUCCEEDED and (before is None or before.state is not JobState.SUCCEEDED):
            self._note_duration(after.attempts[-1])
        if not _is_launchable(after):
            self._unqueue(after)
        elif after.key not in self._queued or self._queued[after.key] != after.due:
            if after.key not in self._queued:
                self._count_work(after, 1)
            self._enqueue(after.due, after.index, after.key, after.expected)

    def _unqueue(self, job: JobRecord) -> None:
        if job.key in self._queued:
            del self._queued[job.key]
            self._count_work(job, -1)

    def _count_work(self, job: JobRecord, sign: int) -> None:
        self._work += sign * (job.expected or 0.0)
        self._unknown += sign * (job.expected is None)

    def _note_duration(self, attempt: Attempt) -> None:
        if attempt.receipt is not None and attempt.started_at is not None and attempt.finished_at is not None:
            self._durations.append(max(0.0, (attempt.finished_at - attempt.started_at).total_seconds()))

    @property
    def typical(self) -> float | None:
        """Seconds that the newest successes ran, on average; None before the first."""
        return sum(self._durations) / len(self._durations) if self._durations else None

    @property
    def backlog(self) -> float | None:
        """Seconds that all jobs still to be launched are expected to run; None if unknown."""
        if self._unknown and self.typical is None:
            return None
        return max(0.0, self._work) + self._unknown * (self.typical or 0.0)

    def _update_bundles(self, before: JobRecord | None, after: JobRecord) -> None:
        was = before.last_attempt if before is not None else None
        if was is not None and was.task is not None:
            keys = self.bundles.get(was.launch_name, {})
            keys.pop(after.key, None)
            if not keys:
                self.bundles.pop(was.launch_name, None)
            if len(after.attempts) < len(before.attempts if before is not None else ()):  # it had no effect
                self.members.get(was.launch_name, {}).pop(after.key, None)
        for attempt in after.attempts[-1:] if before is not None else after.attempts:
            if attempt.task is not None:
                self.members.setdefault(attempt.launch_name, {})[after.key] = attempt.number
        newest = after.last_attempt
        if newest is not None and newest.task is not None and after.state.active:
            self.bundles.setdefault(newest.launch_name, {})[after.key] = None

    def companions(self, job: JobRecord) -> list[str]:
        """Return the keys of the active jobs in the container of *job*'s newest attempt, its own included."""
        attempt = job.last_attempt
        if attempt is None or attempt.task is None:
            return [job.key]
        return list(self.bundles.get(attempt.launch_name, {job.key: None}))

    def forget(self, job: JobRecord) -> None:
        """Remove a job that was never launched."""
        self.counts[job.state] -= 1
        self._unqueue(job)

    def ready(self, now: datetime) -> Iterator[JobRecord]:
        """Yield the jobs that may be launched at *now*, in plan order.

        Lazy: the cost is proportional to the jobs consumed.
        """
        self._promote(now)
        return self._taken(self._ready)

    def longest(self, now: datetime) -> Iterator[JobRecord]:
        """Yield the same jobs, those that are expected to run longest first, and those without expectation last."""
        self._promote(now)
        if self._longest is None:
            ready = (self._jobs[key] for key, due in self._queued.items() if due is None)
            self._longest = [(-(job.expected or 0.0), job.index, job.key) for job in ready]
            heapq.heapify(self._longest)
        return self._taken(self._longest)

    def _taken(self, heap: list[Any]) -> Iterator[JobRecord]:
        """Yield the jobs of the valid entries of *heap*, which stay in it; the last item of an entry is a key."""
        taken: dict[str, Any] = {}
        try:
            while heap:
                entry = heapq.heappop(heap)
                key = entry[-1]
                if key not in taken and self._is_valid(None, key):
                    taken[key] = entry
                    yield self._jobs[key]
        finally:
            for entry in taken.values():
                heapq.heappush(heap, entry)

    def is_ready(self, key: str, now: datetime) -> bool:
        """Return whether this job may be launched at *now*."""
        due = self._queued.get(key, _NEVER)
        return due is None or due <= now

    def next_due(self, now: datetime) -> datetime | None:
        """Return when the next waiting job may be launched; None if none waits for a time after *now*."""
        self._promote(now)
        return self._due[0][0] if self._due else None

    def _enqueue(self, due: datetime | None, place: int, key: str, expected: float | None) -> None:
        self._queued[key] = due
        if due is None:
            heapq.heappush(self._ready, (place, key))
            if self._longest is not None:
                heapq.heappush(self._longest, (-(expected or 0.0), place, key))
        else:
            heapq.heappush(self._due, (due, place, key))

    def _promote(self, now: datetime) -> None:
        """Move the entries that are due by *now* to the ready heap, and drop outdated ones."""
        while self._due and (self._due[0][0] <= now or not self._is_valid(self._due[0][0], self._due[0][2])):
            due, place, key = heapq.heappop(self._due)
            if self._is_valid(due, key):
                self._enqueue(None, place, key, self._jobs[key].expected)

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
