"""Messages of a batch to its user: at the start of a run, at an interruption, and about deleted outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs

from canfar_batch.records import GIVEN_UP, JobRecord, JobState
from canfar_batch.text import count

MANY = 100  #: jobs from which on CANFAR's guide asks for a message to support@canfar.net before the first batch

NOT_SHARED = (
    "Containers do not see this directory, so receipts come back in logs alone: do not stay away longer than an hour "
    "after a job's end, or it is marked LOST (Unwatched)."
)


@attrs.frozen(kw_only=True)
class Opening:
    """The facts that are reported at the start of a run."""

    name: str
    home: Path
    jobs: int
    new: int  #: jobs that this process planned first
    reopened: int  #: jobs that this process opened again, since their command is another one now
    unasked: int  #: jobs that this process did not plan, although it planned others
    shared: bool  #: whether containers see this machine's files
    local: bool  #: whether the platform runs in this process
    reports: bool = False  #: whether receipts come by way of the platform's storage
    moved: str | None = None  #: where jobs run, if not in the directory of this run
    counts: Mapping[JobState, int]

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterable[str]:
        first = f"batch {self.name} in {self.home}: {self.jobs - self.new} jobs known, {self.new} new"
        yield first + (f", {self.unasked} no longer asked for (they stay)" if self.unasked else "")
        if self.reopened:
            verb = "has" if self.reopened == 1 else "have"
            yield f"{count(self.reopened, 'job')} that had not succeeded {verb} another command now: reopened."
        if self.jobs and sum(count for state, count in self.counts.items() if state.final) == self.jobs:
            yield nothing_new(self.counts)
        if self.moved is not None:
            yield self.moved
        if not self.shared and not self.reports:
            yield NOT_SHARED
        if self.new and self.jobs > MANY and not self.local:
            yield "CANFAR asks users to write to support@canfar.net before batches as large as this."


def nothing_new(counts: Mapping[JobState, int]) -> str:
    """Return the message for a run in which all jobs are final already."""
    failed = sum(counts.get(state, 0) for state in GIVEN_UP)
    cancelled = counts.get(JobState.CANCELLED, 0)
    parts = [f"Nothing new was launched: all {sum(counts.values())} jobs are final from an earlier run."]
    if failed:
        parts.append(f"retry_failed() reopens the {count(failed, 'failed job')}.")
    if cancelled:
        parts.append(f"rerun(keys) reopens the {count(cancelled, 'cancelled job')}.")
    return " ".join(parts)


def gone(keys: int, example: Path) -> str:
    """Return the warning that the outputs of this many succeeded jobs no longer exist."""
    return (
        f"outputs of {count(keys, 'succeeded job')} no longer exist, such as {example}: rerun(missing_outputs=True) "
        "and run() make them again"
    )


def gone_results(keys: int, example: Path) -> str:
    """Return the warning that paths in the results of this many jobs no longer exist."""
    return (
        f"files in the results of {count(keys, 'job')} no longer exist, such as {example}, so they are left out; "
        "rerun(missing_outputs=True) and run() make declared outputs again"
    )


def not_failed(job: JobRecord, jobs: int) -> str:
    """Return the warning that jobs were named to be retried and did not fail, such as *job*."""
    advice = f"rerun({job.key!r}) launches it again" if job.state.final else "it is not final"
    return f"{count(jobs, 'named job')} did not fail, such as {job.key!r}, which is {job.state}: {advice}"


def moved(*, made_in: Path | None, now_in: Path, runs_in: Path | None, jobs: Iterable[JobRecord]) -> str | None:
    """Return where jobs run, if that is not the directory of this run; None if it is, or if no job cares.

    Args:
        made_in: The directory that the batch was made in; None if unknown.
        now_in: The directory of this run.
        runs_in: The directory that jobs run in; None if containers do not see this machine's files.
        jobs: The batch's jobs.
    """
    if made_in is None or made_in == now_in or runs_in is None:
        return None
    if all(Path(job.filled.workdir or "").is_absolute() for job in jobs if not job.state.final):
        return None
    if made_in == runs_in:
        return f"Jobs run in {made_in}, in which the batch was made, not in the directory of this run."
    return f"{made_in}, in which the batch was made, no longer exists: jobs run in {runs_in}."


def fate(*, local: bool) -> str:
    """Return what happens to the jobs while no one drives them."""
    if local:  # this process started the platform, and ends it
        return "its jobs end with this session, and the next run launches them again"
    return "its jobs run on"


def how_to_resume(name: str) -> str:
    """Return how to go on with the batch."""
    return f"Run the same script again to go on; canfar_batch.open({name!r}) reads the batch meanwhile."
