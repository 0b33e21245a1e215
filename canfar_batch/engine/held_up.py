"""Jobs that may wait for ever: the platform queues a job that is larger than the cluster can take without a word."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from canfar_batch.engine.context import Context
from canfar_batch.lifecycle import Event, HeldUp
from canfar_batch.records import JobRecord, JobState, Resources

LEAST_WAIT = 300.0  #: seconds that a job has waited at least before it is compared with others
_EVERY = 60.0  #: seconds between two searches at most

#: why a job may wait for ever; reports group jobs by the words before the colon
OVERTAKEN = "it may be larger than the cluster can take: it waits, while smaller jobs launched later have begun"
WAITED_LONG = "it has waited for long: the platform does not say why, nor whether the cluster can take it at all"


class HeldUpJobs:
    """Finds the jobs that may wait for ever, records it, and logs it once for each size."""

    def __init__(self, context: Context) -> None:
        self._context, self._index = context, context.journal.index
        self._next = 0.0  # search, in the clock's ticks
        self._said: set[tuple[Resources, str]] = set()

    def search(self) -> None:
        """Search, now and then."""
        now, long_wait = self._context.clock.ticks(), self._context.setup.long_wait
        if now < self._next:
            return
        self._next = now + min(_EVERY, max(long_wait / 10, 0.1))
        self._context.journal.record(list(self._found(self._context.clock.now(), long_wait)))

    def _found(self, now: datetime, long_wait: float) -> Iterator[Event]:
        for key in self._index.active:
            job = self._context.journal.job(key)
            attempt = job.attempts[-1]
            if job.state is not JobState.PENDING or attempt.has_run or attempt.launched_at is None:
                continue
            waited = (now - attempt.launched_at).total_seconds()
            why = self._reason(job, waited, long_wait)
            if why is not None and why != attempt.held_up and attempt.held_up != OVERTAKEN:
                self._say(job, why)
                yield HeldUp(key=key, at=now, why=why)

    def _reason(self, job: JobRecord, waited: float, long_wait: float) -> str | None:
        if waited >= min(LEAST_WAIT, long_wait) and self._is_overtaken(job):
            return OVERTAKEN
        return WAITED_LONG if waited >= long_wait else None

    def _say(self, job: JobRecord, why: str) -> None:
        if (job.resources, why) not in self._said:
            self._said.add((job.resources, why))
            self._context.health.say(
                f"job {job.key} ({_text(job.resources)}): {why}. If it goes on waiting, cancel it and ask for less"
            )

    def _is_overtaken(self, job: JobRecord) -> bool:
        launched_at = job.attempts[-1].launched_at
        if launched_at is None or any(_fits_in(job.resources, begun) for begun in self._index.begun):
            return False
        return any(_fits_in(begun, job.resources) and at > launched_at for begun, at in self._index.begun.items())


def _fits_in(small: Resources, large: Resources) -> bool:
    """Return whether *small* asks for no more than *large*; a default counts as less than any number."""
    pairs = ((small.cores, large.cores), (small.ram, large.ram), (small.gpus, large.gpus))
    return all((one or 0) <= (other or 0) for one, other in pairs)


def _text(resources: Resources) -> str:
    parts = ((resources.cores, "cores"), (resources.ram, "GiB of memory"), (resources.gpus, "GPUs"))
    return ", ".join(f"{number} {name}" for number, name in parts if number) or "default resources"
