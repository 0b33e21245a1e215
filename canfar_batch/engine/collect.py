"""Fetching what jobs made, from a pool, so that no launch waits for a result."""

from __future__ import annotations

from functools import partial

from canfar_batch.engine.context import Drive
from canfar_batch.engine.pool import Outcome
from canfar_batch.errors import CanfarBatchError
from canfar_batch.lifecycle import Collected, NotCollected
from canfar_batch.protocols import ResultCollector
from canfar_batch.records import JobRecord
from canfar_batch.store.schema import storable


class Collecting:
    """Has the collector fetch each success's result, once.

    Attributes:
        results: What was fetched and the ledger cannot keep, by key.
        busy: The keys of the jobs whose result is being fetched.
    """

    def __init__(self, drive: Drive, collect: ResultCollector, results: dict[str, object]) -> None:
        self._drive, self._collect = drive, collect
        self.results = results
        self.busy: set[str] = set()

    def fetch_all(self) -> None:
        """Fetch what succeeded and was not fetched yet."""
        drive = self._drive
        for key in [key for key in drive.roster.uncollected if key not in self.busy]:
            self.fetch(drive.ledger.jobs[key])

    def fetch(self, job: JobRecord) -> None:
        """Have the collector fetch what *job* made."""
        self.busy.add(job.key)
        work = partial(self._collect, self._drive.around.placed(job), self._drive.platform)
        if getattr(self._collect, "serial", False):
            self._fetched(job, Outcome.of(work))
        else:
            self._drive.crew.submit("collect", work, partial(self._fetched, job))

    def _fetched(self, job: JobRecord, outcome: Outcome[object]) -> None:
        self.busy.discard(job.key)
        now = self._drive.clock.now()
        if outcome.error is not None:
            error = outcome.error
            words = str(error) if isinstance(error, CanfarBatchError) else f"{type(error).__name__}: {error}"
            words = words.encode(errors="backslashreplace").decode()  # a file's name need not be text
            self._drive.remember([NotCollected(key=job.key, at=now, why=words)])
            return
        kept = storable(outcome.value)
        if not kept:
            self.results[job.key] = outcome.value
        self._drive.remember([Collected(key=job.key, at=now, result=outcome.value if kept else None, stored=kept)])
