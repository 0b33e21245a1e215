"""Who stands where: the jobs of a batch sorted by what is to be done with them, so that a look costs what changed."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone

from canfar_batch.lifecycle import may_be_overturned
from canfar_batch.records import JobRecord, JobState

_GIVEN_UP = (JobState.LOST, JobState.FAILED, JobState.CANCELLED)
_NEVER = datetime.max.replace(tzinfo=timezone.utc)


class JobIndex:
    """Indexes over the records of a batch; `update` keeps them true.

    Attributes:
        counts: How many jobs are in each state.
        active: The keys of the jobs that have a container or may have one, the longest active first.
        undecided: The keys of the jobs whose last attempt failed and about which no policy was asked yet.
        uncollected: The keys of the jobs that succeeded and whose result was not fetched yet.
        unproved: The keys of the jobs that were given up for absence alone, or stopped without a word of how they
            ended, so that a late receipt overrules that.
        by_name: For every launch name of every attempt, the job's key and the attempt's number.
        by_id: Likewise for every id that the platform gave.
    """

    def __init__(self, jobs: Mapping[str, JobRecord]) -> None:
        self._jobs = jobs
        self.counts: Counter[JobState] = Counter()
        self.active: dict[str, None] = {}
        self.undecided: dict[str, None] = {}
        self.uncollected: dict[str, None] = {}
        self.unproved: dict[str, None] = {}
        self.by_name: dict[str, tuple[str, int]] = {}
        self.by_id: dict[str, tuple[str, int]] = {}
        self._ready: list[tuple[int, str]] = []  # a heap in plan order; entries that are no longer true are skipped
        self._due: list[tuple[datetime, int, str]] = []  # a heap by time; likewise
        self._queued: dict[str, datetime | None] = {}  # which entry of a job is true: in which heap, and for when
        for job in jobs.values():
            self.update(None, job)

    @property
    def unfinished(self) -> int:
        """How many jobs are not final."""
        return sum(count for state, count in self.counts.items() if not state.final)

    def update(self, before: JobRecord | None, after: JobRecord) -> None:
        """Sort *after* into its places, and *before* out of its own."""
        if before is not None:
            self.counts[before.state] -= 1
        self.counts[after.state] += 1
        _member(self.active, after.key, after.state.active)
        _member(self.undecided, after.key, after.state is JobState.WAITING and after.due is None)
        _member(self.uncollected, after.key, after.state is JobState.SUCCEEDED and not after.collected)
        _member(self.unproved, after.key, after.state in _GIVEN_UP and may_be_overturned(after))
        for attempt in after.attempts[-1:] if before is not None else after.attempts:
            self.by_name[attempt.launch_name] = (after.key, attempt.number)
            if attempt.id is not None:
                self.by_id[attempt.id] = (after.key, attempt.number)
        if not _launchable(after):
            self._queued.pop(after.key, None)
        elif after.key not in self._queued or self._queued[after.key] != after.due:
            self._enqueue(after.due, after.index, after.key)

    def forget(self, job: JobRecord) -> None:
        """Take out a job that was never launched."""
        self.counts[job.state] -= 1
        self._queued.pop(job.key, None)

    def ready(self, now: datetime) -> Iterator[JobRecord]:
        """The jobs that may be launched at *now*, in plan order; what is taken costs, the rest does not."""
        self._promote(now)
        taken: dict[str, int] = {}
        try:
            while self._ready:
                place, key = heapq.heappop(self._ready)
                if key not in taken and self._stands(None, key):
                    taken[key] = place
                    yield self._jobs[key]
        finally:
            for key, place in taken.items():
                heapq.heappush(self._ready, (place, key))

    def is_ready(self, key: str, now: datetime) -> bool:
        """Whether this job may be launched at *now*."""
        due = self._queued.get(key, _NEVER)
        return due is None or due <= now

    def next_due(self, now: datetime) -> datetime | None:
        """When the next job that waits for its time may be launched; None where none waits."""
        self._promote(now)
        return self._due[0][0] if self._due else None

    def _enqueue(self, due: datetime | None, place: int, key: str) -> None:
        self._queued[key] = due
        if due is None:
            heapq.heappush(self._ready, (place, key))
        else:
            heapq.heappush(self._due, (due, place, key))

    def _promote(self, now: datetime) -> None:
        """Move what is due by now among the ready, and let go of what is no longer true."""
        while self._due and (self._due[0][0] <= now or not self._stands(self._due[0][0], self._due[0][2])):
            due, place, key = heapq.heappop(self._due)
            if self._stands(due, key):
                self._enqueue(None, place, key)

    def _stands(self, due: datetime | None, key: str) -> bool:
        """Whether an entry of the heaps is still true."""
        return key in self._queued and self._queued[key] == due


def _launchable(job: JobRecord) -> bool:
    return job.state is JobState.PLANNED or (job.state is JobState.WAITING and job.due is not None)


def _member(keys: dict[str, None], key: str, belongs: bool) -> None:
    if belongs:
        keys.setdefault(key)
    else:
        keys.pop(key, None)
