"""The figures of a report, gathered job by job: a batch may have a million, and each record is looked at once."""

from __future__ import annotations

import math
import statistics
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs

from canfar_batch.containers import offered_at_least
from canfar_batch.failures import Failure, Unknown
from canfar_batch.records import GIVEN_UP, Attempt, JobRecord, JobState, Limits, Resources
from canfar_batch.text import printable
from canfar_batch.views import explain
from canfar_batch.views.attempt_times import Times, run_seconds
from canfar_batch.views.masking import secret_values, without_secrets

HEADROOM = 1.2  #: a suggestion is at least this multiple of the peak
MEANINGFUL = 10.0  #: seconds; shorter runs say little about CPU use, because starting is most of them
_DEFAULT_CORES = 1.0  # the platform's default for a job that asks for no cores, if the platform was not asked
_EXAMPLES = 5  # keys that are kept for each cause


@attrs.frozen(kw_only=True)
class Cause:
    """Jobs that failed for the same reason."""

    cause: str  #: the reason in a few words: `"exit code 2"`, `"out of memory"`
    count: int  #: jobs that failed for it
    message: str  #: of the first job in `keys`: the line of its log, or of the platform's answer, that explains most
    advice: str  #: what to do about it; empty if there is no advice
    keys: tuple[str, ...]  #: the keys of some of the jobs; a job with a message comes first
    inferred: int = 0  #: jobs whose cause no receipt reported: it was concluded from logs, events or silence
    log: Path | None = None  #: the saved log of the first job in `keys`

    def as_dict(self) -> dict[str, Any]:
        """Return the cause as values that JSON can hold."""
        return {**attrs.asdict(self), "keys": list(self.keys), "log": None if self.log is None else str(self.log)}


@attrs.frozen(kw_only=True)
class Spread:
    """A summary of lengths of time, in seconds."""

    total: float
    median: float
    longest: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread | None:
        """Return the summary of *seconds*; None if there are none."""
        if not seconds:
            return None
        return cls(total=math.fsum(seconds), median=statistics.median(seconds), longest=max(seconds))


@attrs.frozen(kw_only=True)
class Use:
    """Resource use of the attempts that asked for the same resources."""

    asked: Resources
    attempts: int  #: attempts that began to run
    peak_ram: float | None  #: the highest of any attempt, GiB, file cache included: an upper bound
    cpu_share: float | None  #: CPU time divided by cores and run time, all attempts together; 1 is full use
    ran_out: int  #: attempts that ran out of memory, as their receipts report
    likely_ran_out: int  #: further attempts that were killed without a report, most likely because memory ran out
    suggestion: str  #: what to ask for instead, as `"ram=4 would do"`; empty if the request was right

    def as_dict(self) -> dict[str, Any]:
        """Return the use as values that JSON can hold."""
        return attrs.asdict(self)


# -- gathering ----------------------------------------------------------------------------------------------------


def _seconds() -> array[float]:
    return array("d")


@attrs.define(kw_only=True)
class Figures:
    """What is counted over all jobs of a batch; `add` takes one job after the other."""

    now: datetime  #: the present time; running attempts count until then
    limits: Limits | None  #: what the platform offers
    gone: Mapping[str, Sequence[Path]]  #: outputs of succeeded jobs that no longer exist, by key
    counts: Counter[JobState] = attrs.field(factory=Counter)
    failures: _Causes = attrs.field(factory=lambda: _Causes())
    not_collected: _Causes = attrs.field(factory=lambda: _Causes())
    warnings: _Warnings = attrs.field(factory=lambda: _Warnings())
    retries: Counter[str] = attrs.field(factory=Counter)
    unverified: int = 0
    recovered: int = 0
    attempts: int = 0
    restarts: int = 0
    lost: array[float] = attrs.field(factory=_seconds)
    waited: array[float] = attrs.field(factory=_seconds)
    ran: array[float] = attrs.field(factory=_seconds)
    core_seconds: array[float] = attrs.field(factory=_seconds)
    estimated: bool = False
    began_at: datetime | None = None
    ended_at: datetime | None = None
    _uses: dict[Resources, _Usage] = attrs.field(factory=dict)

    def add(self, job: JobRecord) -> None:
        """Count one more job."""
        state = job.state
        self.counts[state] += 1
        attempts = job.attempts
        last = attempts[-1] if attempts else None
        if state in GIVEN_UP:
            self.failures.add(job, job.failure or Unknown(message="no reason is known"))
        elif state is JobState.SUCCEEDED:
            if job.collect_error is not None:
                self.not_collected.add(job, _NotCollected(message=job.collect_error))
            self.unverified += last is not None and not last.verified
            self.recovered += len(attempts) > 1
        for warning in (*(last.warnings if last is not None else ()), *_of_results(job, self.gone)):
            self.warnings.add(warning, job)
        self.retries.update(map(_end_of, attempts[:-1]))
        for attempt in attempts:
            self._add_attempt(attempt)

    def _add_attempt(self, attempt: Attempt) -> None:
        self.attempts += 1
        if attempt.restarts:
            self.restarts += attempt.restarts
            self.lost.append(attempt.lost_seconds)
            self._use_cores(attempt, attempt.lost_seconds)
        asked = attempt.intended_at
        self.began_at = asked if self.began_at is None else min(self.began_at, asked)
        has_begun = attempt.started_at is not None
        if not (attempt.ended or has_begun):
            return
        times = Times.of(attempt, self.now)
        if attempt.ended:
            self.ended_at = times.ended if self.ended_at is None else max(self.ended_at, times.ended)
        if has_begun:
            if attempt.launched_at is not None:
                self.waited.append(times.waited)
            ran = run_seconds(attempt, self.now) or 0.0
            self.ran.append(ran)
            self._use_cores(attempt, ran)
            self._uses.setdefault(attempt.resources, _Usage()).add(attempt)

    def _use_cores(self, attempt: Attempt, seconds: float) -> None:
        self.core_seconds.append(_cores(attempt.resources, self.limits) * seconds)
        self.estimated = self.estimated or attempt.resources.cores is None

    def uses(self) -> tuple[Use, ...]:
        """Return the use of resources by request; the one with the most attempts first."""
        found = [usage.use(asked, self.limits) for asked, usage in self._uses.items()]
        return tuple(sorted(found, key=lambda use: -use.attempts))


@attrs.define
class _Warnings:
    """Warnings about jobs; names and numbers in them make no difference."""

    _first: dict[str, str] = attrs.field(factory=dict)
    _counts: Counter[str] = attrs.field(factory=Counter)

    def add(self, warning: str, job: JobRecord) -> None:
        kind = warning.partition(": ")[0]
        self._counts[kind] += 1
        self._first.setdefault(kind, f"{warning} ({job.key})")

    def counted(self) -> dict[str, int]:
        """Return the number of jobs by the first warning of each kind, the most frequent kind first."""
        return {self._first[kind]: number for kind, number in self._counts.most_common()}


def _of_results(job: JobRecord, gone: Mapping[str, Sequence[Path]]) -> Iterator[str]:
    """Yield the warnings about the result of a job."""
    if job.key in gone:
        yield f"outputs that no longer exist: {gone[job.key][0]}"
    if not job.stored and job.spec.function is None:  # a function's return value is in a file
        yield "results that only this process has, since they are not JSON or larger than 64 KiB"


@attrs.frozen(kw_only=True)
class _NotCollected(Failure):
    """The error of a collector: not a failure of the job, but reported in the same way."""

    label = "result not collected"


@attrs.define
class _Group:
    """Jobs that failed for the same cause, with messages of the same kind."""

    job: JobRecord  #: the first of those that explain most
    failure: Failure  #: its failure
    keys: list[str] = attrs.field(factory=list)  #: of the first jobs
    count: int = 0
    inferred: int = 0

    def add(self, job: JobRecord, failure: Failure) -> None:
        self.count += 1
        self.inferred += explain.is_supposition(failure)
        if len(self.keys) < _EXAMPLES:
            self.keys.append(job.key)
        if _explains(job, failure) > _explains(self.job, self.failure):
            self.job, self.failure = job, failure

    def cause(self) -> Cause:
        others = [key for key in self.keys if key != self.job.key]
        return Cause(
            cause=self.failure.cause,
            count=self.count,
            message=printable(without_secrets(self.failure.headline, secret_values([self.job]))),
            advice=explain.advice(self.failure),
            keys=(self.job.key, *others)[:_EXAMPLES],
            inferred=self.inferred,
            log=_log(self.job),
        )


@attrs.define
class _Causes:
    """Failures grouped by cause and by the kind of their message."""

    _groups: dict[str, _Group] = attrs.field(factory=dict)

    def add(self, job: JobRecord, failure: Failure) -> None:
        group = self._groups.get(failure.group)
        if group is None:
            group = self._groups[failure.group] = _Group(job, failure)
        group.add(job, failure)

    def causes(self) -> tuple[Cause, ...]:
        """Return the causes, the most frequent first."""
        return tuple(sorted((group.cause() for group in self._groups.values()), key=lambda cause: -cause.count))


def _explains(job: JobRecord, failure: Failure) -> tuple[bool, bool]:
    """Return how much a failed job explains: a message counts most, then a saved log."""
    return bool(failure.message), _log(job) is not None


def _log(job: JobRecord) -> Path | None:
    return job.last_attempt.log if job.last_attempt is not None else None


def _end_of(attempt: Attempt) -> str:
    if attempt.failure is not None:
        return attempt.failure.cause
    return "rerun after a success" if attempt.succeeded else "cancelled"


def _cores(asked: Resources, limits: Limits | None) -> float:
    if asked.cores is not None:
        return asked.cores
    return limits.default_cores if limits is not None else _DEFAULT_CORES


# -- resources asked for and used ---------------------------------------------------------------------------------


@attrs.define
class _Usage:
    """Attempts that asked for the same resources."""

    attempts: int = 0
    peak: float | None = None
    ran_out: int = 0
    likely_ran_out: int = 0
    cpu: array[float] = attrs.field(factory=_seconds)
    ran: array[float] = attrs.field(factory=_seconds)
    most: float | None = None  #: cores that the busiest attempt used

    def add(self, attempt: Attempt) -> None:
        self.attempts += 1
        receipt, failure = attempt.receipt, attempt.failure
        if failure is not None and explain.is_out_of_memory(failure):
            self.ran_out += not failure.inferred
            self.likely_ran_out += failure.inferred
        if receipt is None:
            return
        if receipt.peak_ram is not None:
            self.peak = max(self.peak or 0.0, receipt.peak_ram)
        if receipt.cpu_seconds is None or receipt.started_at is None or receipt.finished_at is None:
            return
        ran = (receipt.finished_at - receipt.started_at).total_seconds()
        if ran > 0:
            self.cpu.append(receipt.cpu_seconds)
            self.ran.append(ran)
        if ran >= MEANINGFUL:
            self.most = max(self.most or 0.0, receipt.cpu_seconds / ran)

    def use(self, asked: Resources, limits: Limits | None) -> Use:
        """Return the use of these attempts, which asked for *asked*."""
        ran = math.fsum(self.ran)
        short_of_memory = self.ran_out + self.likely_ran_out
        ram_tip = _more_ram(asked, limits) if short_of_memory else _less_ram(asked, self.peak, limits)
        return Use(
            asked=asked,
            attempts=self.attempts,
            peak_ram=self.peak,
            cpu_share=math.fsum(self.cpu) / ran / _cores(asked, limits) if ran >= MEANINGFUL else None,
            ran_out=self.ran_out,
            likely_ran_out=self.likely_ran_out,
            suggestion=", ".join(filter(None, (ram_tip, _fewer_cores(asked, self.most, limits)))),
        )


def _less_ram(asked: Resources, peak: float | None, limits: Limits | None) -> str:
    if asked.ram is None or peak is None:
        return ""
    enough = _offered(peak * HEADROOM, limits.ram if limits is not None else ())
    return f"ram={enough} would do" if enough is not None and enough < asked.ram else ""


def _more_ram(asked: Resources, limits: Limits | None) -> str:
    if asked.ram is None:
        return "set ram="
    more = _offered(asked.ram * 2, limits.ram if limits is not None else ())
    return f"try ram={more}" if more is not None else "no more is offered: split the work"


def _fewer_cores(asked: Resources, used: float | None, limits: Limits | None) -> str:
    if asked.cores is None or used is None:
        return ""
    enough = _offered(used * HEADROOM, limits.cores if limits is not None else ())
    return f"cores={enough} would do" if enough is not None and enough < asked.cores else ""


def _offered(amount: float, options: Sequence[int]) -> int | None:
    """The smallest option that is not less than *amount*; a whole number if the options are unknown."""
    if not options:
        return max(1, math.ceil(amount))
    return offered_at_least(options, amount)
