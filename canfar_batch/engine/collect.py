"""Collecting: fetching the results of jobs that succeeded, in a pool, so that no launch waits for a result."""

from __future__ import annotations

import contextlib
from functools import partial

from canfar_batch.engine.context import Context
from canfar_batch.engine.evidence import outcome_of
from canfar_batch.errors import CanfarBatchError, CollectError
from canfar_batch.fields.arguments import is_plain
from canfar_batch.fields.environment import readable, without_values
from canfar_batch.lifecycle import Collected, Event, NotCollected
from canfar_batch.protocols import is_serial
from canfar_batch.records import JobRecord
from canfar_batch.setup import Outcome
from canfar_batch.store.schema import storable


class Collector:
    """Has the result collector fetch the result of each success, once.

    Attributes:
        results: Results that the ledger cannot store, by key.
        in_flight: Keys of the jobs whose result is being fetched.
    """

    def __init__(self, context: Context, results: dict[str, object]) -> None:
        self._context, self._journal = context, context.journal
        self._collect = context.setup.strategies.collect
        self.results = results
        self.in_flight: set[str] = set()

    def collect_all(self) -> None:
        """Start to fetch the results that have not been fetched yet."""
        index, jobs = self._journal.index, self._journal.jobs
        for key in [key for key in index.uncollected if key not in self.in_flight]:
            self.collect(jobs[key])

    def collect(self, job: JobRecord) -> None:
        """Start to fetch the result of *job*."""
        self.in_flight.add(job.key)
        work = partial(self._fetch, self._context.launch_context.placed(job))
        if is_serial(self._collect):
            self._collected(job, Outcome.of(work))
        else:
            self._context.pool.submit("collect", work, partial(self._collected, job))

    def _fetch(self, job: JobRecord) -> object:
        """In a worker thread: fetch the result, and first what the job's function returned if it is on the storage."""
        remote = self._context.launch_context.remote
        if remote is not None and job.spec.function is not None:
            with contextlib.suppress(CanfarBatchError, OSError):  # the collector reports what is missing
                outcome_of(job, self._context.archive, None, remote)
        return self._collect(job, self._context.platform)

    def _collected(self, job: JobRecord, outcome: Outcome[object]) -> None:
        self.in_flight.discard(job.key)
        now = self._context.clock.now()
        error = outcome.error
        kept = error.partial if isinstance(error, CollectError) else None
        events: list[Event] = []
        if error is None or kept is not None:
            value = outcome.value if error is None else kept
            stored = (job.spec.function is None or is_plain(value)) and storable(value)
            if not stored:
                self.results[job.key] = value
            events.append(Collected(key=job.key, at=now, result=value if stored else None, stored=stored))
        if error is not None:
            events.append(
                NotCollected(key=job.key, at=now, why=without_values(_as_text(error), readable(job.filled.secrets)))
            )
        self._journal.record(events)


def _as_text(error: BaseException) -> str:
    text = str(error) if isinstance(error, CanfarBatchError) else f"{type(error).__name__}: {error}"
    return text.encode(errors="backslashreplace").decode()  # a file's name need not be text
