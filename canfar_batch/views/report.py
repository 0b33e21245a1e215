"""`Report`: the counts, failures, times and resources of a batch."""

from __future__ import annotations

import math
import os
import statistics
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import attrs

from canfar_batch.containers import offered_at_least
from canfar_batch.errors import BatchFailed
from canfar_batch.failures import Failure, Unknown
from canfar_batch.records import GIVEN_UP, Attempt, JobRecord, JobState, Limits, Resources
from canfar_batch.text import count, gib, printable
from canfar_batch.views import explain, html
from canfar_batch.views.attempt_times import Times, run_seconds
from canfar_batch.views.format import TIMES, asked_for, counts, duration, first_few, rounded
from canfar_batch.views.masking import secret_values, without_secrets
from canfar_batch.views.terminal import clip, wrapped

Self = TypeVar("Self", bound="Report")

COLUMNS = 80  #: width of a printed report
HEADROOM = 1.2  #: a suggestion is at least this multiple of the peak
MEANINGFUL = 10.0  #: seconds; shorter runs say little about CPU use, because starting is most of them
_DEFAULT_CORES = 1.0  # the platform's default for a job that asks for no cores, if the platform was not asked
_EXAMPLES = 5  # keys that are kept for each cause
_SHOWN = 8  # causes, and kinds of requests, that are printed
_RETRY = "batch.retry_failed() and batch.run() launch"


class ReportPath(type(Path())):  # type: ignore[misc] # the base is PosixPath or WindowsPath
    """The path of a written report. A notebook shows it as a link."""

    def _repr_html_(self) -> str:
        # notebooks open links that are relative to the notebook's folder, which is the working directory
        address = urllib.parse.quote(os.path.relpath(self).replace(os.sep, "/"))
        return f'<a href="{html.text(address)}" target="_blank">{html.text(self)}</a>'


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


@attrs.frozen(kw_only=True)
class Report:
    """Counts, failures, times and resources of a batch at one moment. Times are aware, UTC; lengths of time in seconds.

    ```python
    import canfar_batch as cb

    fit = cb.JobSpec("python fit.py {n}", image="skaha/astroml:latest", cores=1, ram=1)
    with cb.Session.connect() as session:
        batch = session.batch("reported")
        batch.map(fit, n=[1, 2, 3])
        report = batch.run()
    print(report)  # as text; a notebook shows it as HTML
    print(report.ok, report.wall_time, "s")
    report.raise_if_failed()
    ```
    """

    name: str
    home: Path
    made_at: datetime
    counts: Mapping[JobState, int] = attrs.field(hash=False)  #: jobs in each state; states without jobs are left out
    failures: tuple[Cause, ...]  #: of the jobs that failed or were lost; the most frequent first
    not_collected: tuple[Cause, ...]  #: of the jobs that succeeded but whose result could not be collected
    warnings: Mapping[str, int] = attrs.field(hash=False)  #: what to know of jobs, and how many it concerns
    restarts: int  #: runs that the platform stopped and began again
    lost_seconds: float  #: seconds that those runs took
    unverified: int  #: jobs that succeeded according to the platform, without a receipt
    attempts: int
    retries: Mapping[str, int] = attrs.field(
        hash=False
    )  #: attempts that were followed by another, by the cause of their end
    recovered: int  #: jobs that succeeded after an earlier attempt failed
    began_at: datetime | None  #: time of the first launch
    ended_at: datetime | None  #: time of the last end; None while jobs are unfinished
    waiting: Spread | None  #: from the launch to the start of each attempt
    running: Spread | None  #: from the start to the end of each attempt, or to now
    core_hours: float  #: cores asked for x run time, over all attempts
    estimated: bool  #: True if some attempts asked for no cores and are counted with the platform's default
    uses: tuple[Use, ...]  #: by request; the one with the most attempts first
    _page: Callable[[Report, Path], None] | None = attrs.field(default=None, repr=False, eq=False)
    _exception: Callable[[], BaseException | None] | None = attrs.field(default=None, repr=False, eq=False)

    @classmethod
    def of(
        cls,
        name: str,
        jobs: Sequence[JobRecord],
        *,
        home: Path,
        now: datetime,
        limits: Limits | None = None,
        gone: Mapping[str, Sequence[Path]] | None = None,
        page: Callable[[Report, Path], None] | None = None,
        exception: Callable[[], BaseException | None] | None = None,
    ) -> Report:
        """Return the report on *jobs*.

        Args:
            name: The batch's name.
            jobs: All its jobs.
            home: Its directory.
            now: The present time; running attempts count until then.
            limits: What the platform offers, to suggest only that; without it, whole GiB and cores are suggested.
            gone: Outputs of succeeded jobs that no longer exist, by key.
            page: A function that writes the report to a path as a page, for `to_html`.
            exception: A function that returns the first exception that a job's function raised.
        """
        counted = Counter(job.state for job in jobs)
        attempts = [attempt for job in jobs for attempt in job.attempts]
        succeeded = [job for job in jobs if job.state is JobState.SUCCEEDED]
        begun = [attempt for attempt in attempts if attempt.started_at is not None]
        ran = [(attempt, run_seconds(attempt, now) or 0.0) for attempt in begun]
        ends = [Times.of(attempt, now).ended for attempt in attempts if attempt.ended]
        return cls(
            name=name,
            home=home,
            made_at=now,
            counts={state: counted[state] for state in JobState if counted[state]},
            failures=_causes(
                (job, job.failure or Unknown(message="no reason is known")) for job in jobs if job.state in GIVEN_UP
            ),
            not_collected=_causes(
                (job, _NotCollected(message=job.collect_error)) for job in succeeded if job.collect_error is not None
            ),
            warnings=_warnings(jobs, gone or {}),
            restarts=sum(attempt.restarts for attempt in attempts),
            lost_seconds=math.fsum(attempt.lost_seconds for attempt in attempts),
            unverified=sum(job.last_attempt is not None and not job.last_attempt.verified for job in succeeded),
            attempts=len(attempts),
            retries=_retries(jobs),
            recovered=sum(len(job.attempts) > 1 for job in succeeded),
            began_at=min((attempt.intended_at for attempt in attempts), default=None),
            ended_at=max(ends, default=None) if all(job.state.final for job in jobs) else None,
            waiting=Spread.of([Times.of(attempt, now).waited for attempt in begun if attempt.launched_at is not None]),
            running=Spread.of([seconds for _, seconds in ran]),
            core_hours=math.fsum(_cores(attempt, limits) * seconds for attempt, seconds in ran) / 3600,
            estimated=any(attempt.resources.cores is None for attempt in begun),
            uses=_uses(begun, limits),
            page=page,
            exception=exception,
        )

    def to_html(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Write the report as one HTML page that needs no other file, and return its path.

        A notebook shows the path as a link.

        Args:
            path: Where to write it; by default `report.html` in the batch's home.

        Raises:
            HomeError: The file cannot be written.
        """
        target = self.home / "report.html" if path is None else Path(path).absolute()
        if self._page is None:
            raise TypeError("this report was made without its jobs, so it cannot be written as a page")
        self._page(self, target)
        return ReportPath(target)

    # -- questions ------------------------------------------------------------------------------------------------

    @property
    def jobs(self) -> int:
        """The number of jobs."""
        return sum(self.counts.values())

    @property
    def unfinished(self) -> int:
        """The number of jobs that are not final."""
        return sum(number for state, number in self.counts.items() if not state.final)

    @property
    def ok(self) -> bool:
        """True if every job succeeded and every result was collected."""
        return self.counts.get(JobState.SUCCEEDED, 0) == self.jobs and not self.not_collected

    @property
    def wall_time(self) -> float | None:
        """Seconds from the first launch to the last end, or to now if jobs are unfinished; None before any launch."""
        if self.began_at is None:
            return None
        return max(0.0, ((self.ended_at or self.made_at) - self.began_at).total_seconds())

    def raise_if_failed(self: Self) -> Self:
        """Raise if a final job did not succeed or a result could not be collected; else return the report.

        Raises:
            BatchFailed: The message lists the causes. Its own cause is an exception of a function, if one was raised.
        """
        parts = [
            *([f"{_total(self.failures):,} failed"] if self.failures else []),
            *([f"{self.counts[JobState.CANCELLED]:,} cancelled"] if JobState.CANCELLED in self.counts else []),
            *([f"{count(_total(self.not_collected), 'result')} not collected"] if self.not_collected else []),
        ]
        if parts:
            causes = [line for cause in (*self.failures, *self.not_collected) for line in _paragraph(cause)]
            text = "\n".join([f"batch {self.name}, {count(self.jobs, 'job')}: {', '.join(parts)}", *causes])
            raise BatchFailed(text) from self._exception() if self._exception else None
        return self

    def as_dict(self) -> dict[str, Any]:
        """Return the report as values that JSON can hold."""
        return {
            "name": self.name,
            "home": str(self.home),
            "made_at": self.made_at.isoformat(),
            "ok": self.ok,
            "jobs": self.jobs,
            "counts": {state.value: number for state, number in self.counts.items()},
            "failures": [cause.as_dict() for cause in self.failures],
            "not_collected": [cause.as_dict() for cause in self.not_collected],
            "warnings": dict(self.warnings),
            "restarts": self.restarts,
            "lost_seconds": self.lost_seconds,
            "unverified": self.unverified,
            "attempts": self.attempts,
            "retries": dict(self.retries),
            "recovered": self.recovered,
            "began_at": self.began_at and self.began_at.isoformat(),
            "ended_at": self.ended_at and self.ended_at.isoformat(),
            "wall_time": self.wall_time,
            "waiting": self.waiting and attrs.asdict(self.waiting),
            "running": self.running and attrs.asdict(self.running),
            "core_hours": self.core_hours,
            "core_hours_estimated": self.estimated,
            "uses": [use.as_dict() for use in self.uses],
        }

    # -- showing --------------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        return self.printed()

    def printed(self, retry: str = _RETRY) -> str:
        """Return the report as `print` shows it.

        Args:
            retry: What launches failed jobs again, and the verb.
        """
        return "\n\n".join(filter(None, ("\n".join(self._head()), self.why(), "\n".join(self._figures(retry)))))

    def why(self) -> str:
        """Return why jobs failed and results are missing, by cause; empty if nothing is wrong."""
        failed, missing = _total(self.failures), _total(self.not_collected)
        parts = (
            _listed(f"Why {count(failed, 'job')} failed:", self.failures),
            _listed(f"Why {count(missing, 'result')} could not be collected:", self.not_collected),
        )
        return "\n\n".join("\n".join(lines) for lines in parts if lines)

    def next_steps(self, retry: str = _RETRY) -> str:
        """Return what to do with a batch whose jobs are all final and did not all succeed; empty for any other.

        Args:
            retry: As for `printed`.
        """
        failed = sum(self.counts.get(state, 0) for state in GIVEN_UP)
        if self.unfinished or not failed:
            return ""
        them = "it" if failed == 1 else "them"
        return f"fix the cause, then {retry} {them} again"

    def _repr_html_(self) -> str:
        """Return the report as HTML, for a notebook."""
        took = "" if self.wall_time is None else f"in {duration(self.wall_time)}"
        unfinished = f"{self.unfinished:,} unfinished" if self.unfinished else ""
        return html.view(
            html.title(f"Batch {self.name}: {count(self.jobs, 'job')}", ", ".join(filter(None, (took, unfinished)))),
            html.bar({state.value: number for state, number in self.counts.items()}),
            html_causes(self.failures),
            html_causes(self.not_collected),
            html.facts((title or "", html.text(text)) for title, text in self._facts() if text),
        )

    def _head(self) -> list[str]:
        took = "" if self.wall_time is None else f" in {duration(self.wall_time)}"
        unfinished = f", {self.unfinished:,} unfinished" if self.unfinished else ""
        lines = [clip(f"Batch {self.name}: {count(self.jobs, 'job')}{took}{unfinished}", COLUMNS)]
        if self.counts:
            lines += wrapped(counts(self.counts), COLUMNS, first="  ")
        return lines

    def _figures(self, retry: str) -> list[str]:
        facts = [(title, text) for title, text in self._facts(retry) if text]
        margin = max(len(title) for title, _ in facts) + 4
        return [line for title, text in facts for line in wrapped(text, COLUMNS, first=f"  {title:<{margin - 2}}")]

    def _facts(self, retry: str = _RETRY) -> Iterator[tuple[str, str]]:
        yield "next", self.next_steps(retry)
        yield "waiting", _spread(self.waiting)
        yield "running", _spread(self.running)
        if self.running is not None:
            guess = ", estimated: some asked for no cores" if self.estimated else ""
            yield "core-hours", f"{rounded(self.core_hours)}{guess}"
        uses = list(filter(None, map(_use, self.uses)))
        for place, text in enumerate(uses[:_SHOWN]):
            yield "resources" if place == 0 else "", text
        if len(uses) > _SHOWN:
            yield "", f"and {count(len(uses) - _SHOWN, 'other request')}"
        if self.retries:
            why = ", ".join(f"{number:,} {cause}" for cause, number in list(self.retries.items())[:_SHOWN])
            saved = f"; {count(self.recovered, 'job')} succeeded after a retry" if self.recovered else ""
            yield "retries", f"{sum(self.retries.values()):,} ({why}){saved}"
        if self.unverified:
            successes = count(self.unverified, "success", "successes")
            yield "unverified", f"{successes} according to the platform, without a receipt"
        for place, (warning, number) in enumerate(list(self.warnings.items())[:_SHOWN]):
            yield "warnings" if place == 0 else "", f"{count(number, 'job')}: {printable(warning)}"
        if self.restarts:
            again = f"{count(self.restarts, 'run')} stopped by the platform and begun again"
            yield "restarts", f"{again}, {duration(self.lost_seconds)} lost"
        yield "home", printable(str(self.home))


# -- gathering ----------------------------------------------------------------------------------------------------


def _warnings(jobs: Iterable[JobRecord], gone: Mapping[str, Sequence[Path]]) -> dict[str, int]:
    """Return the warnings about jobs, the most frequent first; names and numbers make no difference."""
    first: dict[str, str] = {}
    counted: Counter[str] = Counter()
    for job in jobs:
        for warning in (*(job.last_attempt.warnings if job.last_attempt else ()), *_of_results(job, gone)):
            kind = warning.partition(": ")[0]
            counted[kind] += 1
            first.setdefault(kind, f"{warning} ({job.key})")
    return {first[kind]: number for kind, number in counted.most_common()}


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


def _causes(failed: Iterable[tuple[JobRecord, Failure]]) -> tuple[Cause, ...]:
    """Failures grouped by cause and by the kind of their message, the most frequent first."""
    groups: dict[str, list[tuple[JobRecord, Failure]]] = {}
    for job, failure in failed:
        groups.setdefault(failure.group, []).append((job, failure))
    causes = [_cause(group) for group in groups.values()]
    return tuple(sorted(causes, key=lambda cause: -cause.count))


def _cause(group: Sequence[tuple[JobRecord, Failure]]) -> Cause:
    job, failure = max(group, key=_explains)  # of equals, the first
    others = [other.key for other, _ in group[:_EXAMPLES] if other is not job]
    return Cause(
        cause=failure.cause,
        count=len(group),
        message=printable(without_secrets(failure.headline, secret_values([job]))),
        advice=explain.advice(failure),
        keys=(job.key, *others)[:_EXAMPLES],
        inferred=sum(explain.is_supposition(other) for _, other in group),
        log=_log(job),
    )


def _explains(failed: tuple[JobRecord, Failure]) -> tuple[bool, bool]:
    """How much a failed job explains: a message counts most, then a saved log."""
    job, failure = failed
    return bool(failure.message), _log(job) is not None


def _log(job: JobRecord) -> Path | None:
    return job.last_attempt.log if job.last_attempt is not None else None


def _retries(jobs: Iterable[JobRecord]) -> dict[str, int]:
    """The number of attempts that were followed by another, by the cause of their end, the most frequent first."""
    ended = (attempt for job in jobs for attempt in job.attempts[:-1])
    return dict(Counter(map(_end_of, ended)).most_common())


def _end_of(attempt: Attempt) -> str:
    if attempt.failure is not None:
        return attempt.failure.cause
    return "rerun after a success" if attempt.succeeded else "cancelled"


def _cores(attempt: Attempt, limits: Limits | None) -> float:
    if attempt.resources.cores is not None:
        return attempt.resources.cores
    return limits.default_cores if limits is not None else _DEFAULT_CORES


# -- resources asked for and used ---------------------------------------------------------------------------------


def _uses(begun: Iterable[Attempt], limits: Limits | None) -> tuple[Use, ...]:
    groups: dict[Resources, list[Attempt]] = {}
    for attempt in begun:
        groups.setdefault(attempt.resources, []).append(attempt)
    uses = [_use_of(asked, attempts, limits) for asked, attempts in groups.items()]
    return tuple(sorted(uses, key=lambda use: -use.attempts))


def _use_of(asked: Resources, attempts: Sequence[Attempt], limits: Limits | None) -> Use:
    peaks = [a.receipt.peak_ram for a in attempts if a.receipt is not None and a.receipt.peak_ram is not None]
    peak = max(peaks, default=None)
    short_of_memory = [a.failure for a in attempts if a.failure is not None and explain.is_out_of_memory(a.failure)]
    likely = sum(failure.inferred for failure in short_of_memory)
    clocked = [(cpu, ran) for cpu, ran in map(_cpu, attempts) if cpu is not None and ran > 0]
    cores = _cores(attempts[0], limits)
    ran_in_all = math.fsum(ran for _, ran in clocked)
    busy = math.fsum(cpu for cpu, _ in clocked) / ran_in_all / cores if ran_in_all >= MEANINGFUL else None
    most = max((cpu / ran for cpu, ran in clocked if ran >= MEANINGFUL), default=None)
    ram_tip = _more_ram(asked, limits) if short_of_memory else _less_ram(asked, peak, limits)
    return Use(
        asked=asked,
        attempts=len(attempts),
        peak_ram=peak,
        cpu_share=busy,
        ran_out=len(short_of_memory) - likely,
        likely_ran_out=likely,
        suggestion=", ".join(filter(None, (ram_tip, _fewer_cores(asked, most, limits)))),
    )


def _cpu(attempt: Attempt) -> tuple[float | None, float]:
    """An attempt's CPU time and run time in seconds, both from its receipt."""
    receipt = attempt.receipt
    if receipt is None or receipt.started_at is None or receipt.finished_at is None:
        return None, 0.0
    return receipt.cpu_seconds, (receipt.finished_at - receipt.started_at).total_seconds()


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


# -- wording ------------------------------------------------------------------------------------------------------


def _listed(heading: str, causes: Sequence[Cause]) -> list[str]:
    """Causes as a list: how many jobs, the cause, their keys, the reason, and the advice."""
    if not causes:
        return []
    lines = [heading, *(line for cause in causes[:_SHOWN] for line in _paragraph(cause))]
    rest = causes[_SHOWN:]
    if rest:
        lines.append(f"  {_total(rest):,} x {count(len(rest), 'other cause')}")
    return lines


def _paragraph(cause: Cause) -> Iterator[str]:
    yield from wrapped(
        f"{cause.count:,} x {cause.cause}{inferred(cause)} {_examples(cause)}",
        COLUMNS, first="  ", rest="    ", at_most=3,
    )  # fmt: skip
    if cause.message:
        yield from wrapped(cause.message, COLUMNS, first="    ", at_most=3)
    if cause.advice:
        yield from wrapped(cause.advice, COLUMNS, first="    -> ")


def html_causes(causes: Sequence[Cause]) -> str:
    """Return causes as a list in HTML: how many jobs, the cause, their keys, the reason, and the advice."""
    if not causes:
        return ""
    items = [
        f"<li><b>{cause.count:,} {TIMES} {html.text(cause.cause)}</b>{html.text(inferred(cause))} "
        f'<span class="cb-faint">{html.text(_examples(cause))}</span>'
        f"{_html_line(cause.message)}{_html_line(cause.advice and f'→ {cause.advice}')}</li>"
        for cause in causes[:_SHOWN]
    ]
    rest = causes[_SHOWN:]
    if rest:
        items.append(f"<li>{_total(rest):,} {TIMES} {count(len(rest), 'other cause')}</li>")
    return f'<ul class="cb-causes">{"".join(items)}</ul>'


def _html_line(text: str) -> str:
    return f"<br>{html.text(clip(text, 400))}" if text else ""


def inferred(cause: Cause) -> str:
    """Return a note on how many jobs of *cause* have it by inference, to follow its name; empty if none has."""
    if not cause.inferred:
        return ""
    return ", inferred" if cause.inferred == cause.count else f", {cause.inferred:,} of them inferred"


def _examples(cause: Cause) -> str:
    return f"({first_few(cause.keys, cause.count)})"


def _spread(spread: Spread | None) -> str:
    return "" if spread is None else f"median {duration(spread.median)}, longest {duration(spread.longest)}"


def _out_of_memory(use: Use) -> str:
    """How many attempts ran out of memory: those whose receipts say so, apart from those for which it is likely."""
    if use.ran_out and use.likely_ran_out:
        return f"{use.ran_out:,} ran out of memory, {use.likely_ran_out:,} more likely did"
    if use.likely_ran_out:
        return f"{use.likely_ran_out:,} likely ran out of memory"
    return f"{use.ran_out:,} ran out of memory" if use.ran_out else ""


def _use(use: Use) -> str:
    found = []
    if use.peak_ram is not None:
        found.append(f"peak {gib(use.peak_ram)}")
    if use.cpu_share is not None:
        found.append(f"CPU {use.cpu_share:.0%} busy")
    if short := _out_of_memory(use):
        found.append(short)
    hint = f" ({use.suggestion})" if use.suggestion else ""
    return f"{asked_for(use.asked)} asked: {', '.join(found)}{hint}" if found else ""


def _total(causes: Iterable[Cause]) -> int:
    return sum(cause.count for cause in causes)
