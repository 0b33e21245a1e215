"""Who stands where: the jobs of a batch sorted by what is to be done with them, so that a look costs what changed."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime

from canfar_batch.records import JobRecord, JobState


class Roster:
    """Indexes over the records of a batch; `update` keeps them true.

    Attributes:
        counts: How many jobs are in each state.
        active: The keys of the jobs that have a container or may have one, the longest active first.
        undecided: The keys of the jobs whose last attempt failed and about which no policy was asked yet.
        uncollected: The keys of the jobs that succeeded and whose result was not fetched yet.
        by_name: For every launch name of every attempt, the job's key and the attempt's number.
        by_id: Likewise for every id that the platform gave.
    """

    def __init__(self, jobs: Mapping[str, JobRecord]) -> None:
        self._jobs = jobs
        self.counts: Counter[JobState] = Counter()
        self.active: dict[str, None] = {}
        self.undecided: dict[str, None] = {}
        self.uncollected: dict[str, None] = {}
        self.by_name: dict[str, tuple[str, int]] = {}
        self.by_id: dict[str, tuple[str, int]] = {}
        self._ready: list[tuple[int, str]] = []  # a heap in plan order; entries that are no longer true are skipped
        self._due: list[tuple[datetime, int, str]] = []  # a heap by time; likewise
        self._queued: set[str] = set()
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
        for attempt in after.attempts[-1:] if before is not None else after.attempts:
            self.by_name[attempt.launch_name] = (after.key, attempt.number)
            if attempt.id is not None:
                self.by_id[attempt.id] = (after.key, attempt.number)
        if _launchable(after) and after.key not in self._queued:
            self._enqueue(after)

    def forget(self, job: JobRecord) -> None:
        """Take out a job that was never launched."""
        self.counts[job.state] -= 1

    def ready(self, now: datetime) -> Iterator[JobRecord]:
        """The jobs that may be launched at *now*, in plan order; what is taken costs, the rest does not."""
        self._promote(now)
        taken: list[tuple[int, str]] = []
        try:
            while self._ready:
                place, key = heapq.heappop(self._ready)
                job = self._jobs.get(key)
                if job is None or not _launchable(job):
                    self._queued.discard(key)
                    continue
                if job.due is not None and job.due > now:
                    heapq.heappush(self._due, (job.due, place, key))
                    continue
                taken.append((place, key))
                yield job
        finally:
            for entry in taken:
                heapq.heappush(self._ready, entry)

    def next_due(self, now: datetime) -> datetime | None:
        """When the next job that waits for its time may be launched; None where none waits."""
        self._promote(now)
        while self._due:
            due, place, key = self._due[0]
            job = self._jobs.get(key)
            if job is not None and _launchable(job) and job.due == due:
                return due
            heapq.heappop(self._due)
            self._requeue(place, key, job)
        return None

    def _enqueue(self, job: JobRecord) -> None:
        self._queued.add(job.key)
        if job.due is None:
            heapq.heappush(self._ready, (job.index, job.key))
        else:
            heapq.heappush(self._due, (job.due, job.index, job.key))

    def _promote(self, now: datetime) -> None:
        while self._due and self._due[0][0] <= now:
            _, place, key = heapq.heappop(self._due)
            self._requeue(place, key, self._jobs.get(key), now)

    def _requeue(self, place: int, key: str, job: JobRecord | None, now: datetime | None = None) -> None:
        if job is None or not _launchable(job):
            self._queued.discard(key)
        elif job.due is not None and (now is None or job.due > now):
            heapq.heappush(self._due, (job.due, place, key))
        else:
            heapq.heappush(self._ready, (place, key))


def _launchable(job: JobRecord) -> bool:
    return job.state is JobState.PLANNED or (job.state is JobState.WAITING and job.due is not None)


def _member(keys: dict[str, None], key: str, belongs: bool) -> None:
    if belongs:
        keys.setdefault(key)
    else:
        keys.pop(key, None)
