"""Jobs that may be larger than the cluster can take: the platform queues them without a word, for ever."""

from __future__ import annotations

from collections.abc import Iterator

from canfar_batch.engine.context import Context
from canfar_batch.records import JobRecord, JobState, Resources

LEAST_WAIT = 300.0  #: seconds that a job has waited before anything is said of it
_EVERY = 60.0  #: seconds between two searches


class OversizedJobs:
    """Warns, once for each size, of jobs that wait while smaller ones that were launched later have begun."""

    def __init__(self, context: Context) -> None:
        self._context, self._index = context, context.journal.index
        self._next = 0.0  # search, in the clock's ticks
        self._said: set[Resources] = set()

    def warn(self) -> None:
        """Search, now and then, and log a warning."""
        now = self._context.clock.ticks()
        if now < self._next or not self._index.begun:
            return
        self._next = now + _EVERY
        for job in self._waiting():
            if job.resources not in self._said and self._is_overtaken(job):
                self._said.add(job.resources)
                self._context.health.say(
                    f"job {job.key} ({_text(job.resources)}) waits, while smaller jobs that were launched later have "
                    "begun: it may be larger than the cluster can take. The platform does not say so; if it goes on "
                    "waiting, cancel it and ask for less"
                )

    def _waiting(self) -> Iterator[JobRecord]:
        """Yield the jobs that have waited for long."""
        now = self._context.clock.now()
        for key in self._index.active:
            job = self._context.journal.job(key)
            launched_at = job.attempts[-1].launched_at or now
            if job.state is JobState.PENDING and (now - launched_at).total_seconds() >= LEAST_WAIT:
                yield job

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
