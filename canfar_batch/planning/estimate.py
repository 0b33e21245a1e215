"""The cost of the jobs of a batch that are not launched yet."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

import attrs

from canfar_batch.records import JobRecord, JobState
from canfar_batch.text import count

_FLEXIBLE_CORES = 1.0  #: cores that a job without a fixed number is counted with, if the platform's default is unknown


@attrs.frozen(kw_only=True)
class Estimate:
    """The cost of the jobs that are planned or will be tried again.

    Attributes:
        jobs: The number of these jobs.
        core_hours: Core-hours that they take together; None if no time is known.
        seconds: Seconds that each is assumed to run; None if no time is known.
        is_measured: Whether *seconds* is the median of jobs that succeeded, not a given number.
    """

    jobs: int
    core_hours: float | None
    seconds: float | None
    is_measured: bool

    def __str__(self) -> str:
        jobs = f"{count(self.jobs, 'job')} to run"
        if self.core_hours is None or self.seconds is None:
            return f"{jobs}; core-hours are unknown until one has run, or with seconds="
        source = "the median so far" if self.is_measured else "as given"
        return f"{jobs}: {self.core_hours:.3g} core-hours if each takes {self.seconds:.3g} s ({source})"


def estimate_cost(
    jobs: Iterable[JobRecord], *, seconds: float | None = None, default_cores: float | None = None
) -> Estimate:
    """Return the cost of the jobs that are not launched yet.

    Args:
        jobs: All jobs of the batch.
        seconds: Seconds that each job runs; by default the median of those that succeeded.
        default_cores: Cores that the platform gives to a job without a fixed number.
    """
    jobs = list(jobs)
    waiting = [job for job in jobs if job.state in (JobState.PLANNED, JobState.WAITING)]
    measured = seconds is None
    if seconds is None:
        seconds = statistics.median(times) if (times := list(_run_seconds(jobs))) else None
    cores = sum(job.resources.cores or default_cores or _FLEXIBLE_CORES for job in waiting)
    core_hours = None if seconds is None else cores * seconds / 3600
    return Estimate(jobs=len(waiting), core_hours=core_hours, seconds=seconds, is_measured=measured)


def _run_seconds(jobs: Iterable[JobRecord]) -> Iterable[float]:
    for job in jobs:
        attempt = job.last_attempt
        if job.state is not JobState.SUCCEEDED or attempt is None:
            continue
        if attempt.started_at is not None and attempt.finished_at is not None:
            yield (attempt.finished_at - attempt.started_at).total_seconds()
