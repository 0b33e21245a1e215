"""What became of a batch: how many, how long, how much, and why some did not make it."""

from __future__ import annotations

import math
import os
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import attrs

from canfar_batch.errors import BatchFailed
from canfar_batch.failures import Failure, Killed, OutOfMemory, Unknown
from canfar_batch.records import Attempt, JobRecord, JobState, Limits, Resources
from canfar_batch.views import explain, html
from canfar_batch.views.terminal import clip, printable, wrapped

Self = TypeVar("Self", bound="Report")

COLUMNS = 80  #: of the terminal that a printed report fits
HEADROOM = 1.2  #: so many times what was used is what a suggestion leaves room for
MEANINGFUL = 10.0  #: seconds; what ran shorter says little about CPU use, for its start is most of it
_DEFAULT_CORES = 1.0  # what the platform gives a job that asks for none, where it was not asked itself
_EXAMPLES = 5  # keys that are kept for each cause
_SHOWN = 8  # causes, and kinds of resources, that are printed

_TIMES = "\N{MULTIPLICATION SIGN}"

_LOSERS = (JobState.FAILED, JobState.LOST)


@attrs.frozen(kw_only=True)
class Cause:
    """The jobs that have one trouble in common."""

    cause: str  #: in the words of the report: `"exit code 2"`, `"out of memory"`
    count: int
    message: str  #: of the job that is named first: the line of its log, or the platform's words, that tell most
    advice: str  #: what to do about it; empty where nobody knows
    keys: tuple[str, ...]  #: a few of them, one that says why before those that do not
    log: Path | None = None  #: the saved log of the job that is named first

    def as_dict(self) -> dict[str, Any]:
        """The same, as JSON can say it."""
        return {**attrs.asdict(self), "keys": list(self.keys), "log": None if self.log is None else str(self.log)}


@attrs.frozen(kw_only=True)
class Spread:
    """Lengths of time in short, seconds."""

    total: float
    median: float
    longest: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread | None:
        """What *seconds* have in common; None where there are none."""
        if not seconds:
            return None
        return cls(total=math.fsum(seconds), median=statistics.median(seconds), longest=max(seconds))


@attrs.frozen(kw_only=True)
class Use:
    """What the attempts that asked for the same resources made of them."""

    asked: Resources
    attempts: int  #: that began to run
    peak_ram: float | None  #: GiB, the most of any attempt, file cache included: an upper bound
    cpu_share: float | None  #: CPU time over cores and time taken, all attempts together; 1 is all that was there
    ran_out: int  #: attempts that ended for want of memory, as known or supposed
    suggestion: str  #: what to ask for instead, as `"ram=4 would do"`; empty where what was asked is right

    def as_dict(self) -> dict[str, Any]:
        """The same, as JSON can say it."""
        return attrs.asdict(self)


@attrs.frozen(kw_only=True)
class Report:
    """What became of a batch, as things stood when it was made. Times are aware, UTC; lengths of time in seconds.

    ```python
    import canfar_batch as cb

    fit = cb.JobSpec("python fit.py {n}", image="skaha/astroml:latest", cores=1, ram=1)
    with cb.Session.connect() as session:
        batch = session.batch("reported")
        batch.map(fit, n=[1, 2, 3])
        report = batch.run()
    print(report)  # in words; a notebook shows it as HTML
    print(report.ok, report.wall_time, "s")
    report.raise_if_failed()
    ```
    """

    name: str
    home: Path
    made_at: datetime
    counts: Mapping[JobState, int] = attrs.field(hash=False)  #: jobs in each state that any job is in
    failures: tuple[Cause, ...]  #: of the jobs that failed or were lost, the most frequent first
    not_collected: tuple[Cause, ...]  #: of the jobs that succeeded and whose result could not be fetched
    unverified: int  #: jobs that succeeded by the platform's word alone, with no receipt
    attempts: int
    retries: Mapping[str, int] = attrs.field(hash=False)  #: attempts that were followed by another, by what ended them
    recovered: int  #: jobs that succeeded after an attempt had not
    began_at: datetime | None  #: when the first launch was written down
    ended_at: datetime | None  #: when the last attempt ended; None while something is still to be done
    waiting: Spread | None  #: from each launch to its start
    running: Spread | None  #: of each attempt, those that still run included
    core_hours: float  #: cores asked for x time, all attempts, whatever became of them
    estimated: bool  #: True where some attempts asked for no cores and are counted with the platform's default
    uses: tuple[Use, ...]  #: by what was asked for, the most attempts first
    _page: Callable[[Report, Path], None] | None = attrs.field(default=None, repr=False, eq=False)

    @classmethod
    def of(
        cls,
        name: str,
        jobs: Sequence[JobRecord],
        *,
        home: Path,
        now: datetime,
        limits: Limits | None = None,
        page: Callable[[Report, Path], None] | None = None,
    ) -> Report:
        """The report on *jobs*.

        Args:
            name: The batch's name.
            jobs: All its jobs.
            home: Its directory.
            now: The time, until which what runs is counted.
            limits: What the platform offers, for better suggestions; without it, whole GiB and cores are suggested.
            page: Writes the report as a page to a path, for `to_html`.
        """
        counted = Counter(job.state for job in jobs)
        attempts = [attempt for job in jobs for attempt in job.attempts]
        succeeded = [job for job in jobs if job.state is JobState.SUCCEEDED]
        begun = [attempt for attempt in attempts if attempt.started_at is not None]
        ends = [attempt.finished_at for attempt in attempts if attempt.finished_at is not None]
        return cls(
            name=name,
            home=home,
            made_at=now,
            counts={state: counted[state] for state in JobState if counted[state]},
            failures=_causes(
                (job, job.failure or Unknown(message="nothing says why")) for job in jobs if job.state in _LOSERS
            ),
            not_collected=_causes(
                (job, _NotCollected(message=job.collect_error)) for job in succeeded if job.collect_error is not None
            ),
            unverified=sum(job.last_attempt is not None and not job.last_attempt.verified for job in succeeded),
            attempts=len(attempts),
            retries=_retries(jobs),
            recovered=sum(len(job.attempts) > 1 for job in succeeded),
            began_at=min((attempt.intended_at for attempt in attempts), default=None),
            ended_at=max(ends, default=None) if all(job.state.final for job in jobs) else None,
            waiting=Spread.of([_waited(attempt) for attempt in begun if attempt.launched_at is not None]),
            running=Spread.of([_ran(attempt, now) for attempt in begun]),
            core_hours=math.fsum(_cores(attempt, limits) * _ran(attempt, now) for attempt in begun) / 3600,
            estimated=any(attempt.resources.cores is None for attempt in begun),
            uses=_uses(begun, limits),
            page=page,
        )

    def to_html(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Write the report as one HTML page that needs no other file, and return the page's path.

        Args:
            path: Where to write it; by default `report.html` in the batch's home.

        Raises:
            HomeError: The file cannot be written.
        """
        target = self.home / "report.html" if path is None else Path(path).absolute()
        if self._page is None:
            raise TypeError("this report was made without its jobs, so it cannot be written as a page")
        self._page(self, target)
        return target

    # -- asking ---------------------------------------------------------------------------------------------------

    @property
    def jobs(self) -> int:
        """How many jobs the batch has."""
        return sum(self.counts.values())

    @property
    def unfinished(self) -> int:
        """How many of them are not final."""
        return sum(count for state, count in self.counts.items() if not state.final)

    @property
    def ok(self) -> bool:
        """True where every job succeeded and every result was fetched."""
        return self.counts.get(JobState.SUCCEEDED, 0) == self.jobs and not self.not_collected

    @property
    def wall_time(self) -> float | None:
        """Seconds from the first launch to the last end, or to now where that is still to come; None before any."""
        if self.began_at is None:
            return None
        return max(0.0, ((self.ended_at or self.made_at) - self.began_at).total_seconds())

    def raise_if_failed(self: Self) -> Self:
        """Raise if a job is over and did not succeed, or a result could not be fetched; else the report itself.

        Raises:
            BatchFailed: The message groups what went wrong by cause.
        """
        parts = [
            *([f"{_total(self.failures):,} failed"] if self.failures else []),
            *([f"{self.counts[JobState.CANCELLED]:,} cancelled"] if JobState.CANCELLED in self.counts else []),
            *([f"{_count(_total(self.not_collected), 'result')} not collected"] if self.not_collected else []),
        ]
        if parts:
            causes = [line for cause in (*self.failures, *self.not_collected) for line in _paragraph(cause)]
            raise BatchFailed(
                "\n".join([f"batch {self.name}, {_count(self.jobs, 'job')}: {', '.join(parts)}", *causes])
            )
        return self

    def as_dict(self) -> dict[str, Any]:
        """All of it, as JSON can say it."""
        return {
            "name": self.name,
            "home": str(self.home),
            "made_at": self.made_at.isoformat(),
            "ok": self.ok,
            "jobs": self.jobs,
            "counts": {state.value: count for state, count in self.counts.items()},
            "failures": [cause.as_dict() for cause in self.failures],
            "not_collected": [cause.as_dict() for cause in self.not_collected],
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
        return "\n\n".join(filter(None, ("\n".join(self._head()), self.why(), "\n".join(self._figures()))))

    def why(self) -> str:
        """Why jobs failed and results are missing, by cause; empty where all is well."""
        failed, lacking = _total(self.failures), _total(self.not_collected)
        parts = (
            _listed(f"Why {_count(failed, 'job')} failed:", self.failures),
            _listed(f"Why {_count(lacking, 'result')} could not be collected:", self.not_collected),
        )
        return "\n\n".join("\n".join(lines) for lines in parts if lines)

    def _repr_html_(self) -> str:
        """The same in a notebook."""
        took = "" if self.wall_time is None else f"in {explain.span(self.wall_time)}"
        going = f"{self.unfinished:,} still to do" if self.unfinished else ""
        return html.view(
            html.title(f"Batch {self.name}: {_count(self.jobs, 'job')}", ", ".join(filter(None, (took, going)))),
            html.bar({state.value: count for state, count in self.counts.items()}),
            html_causes(self.failures),
            html_causes(self.not_collected),
            html.facts((title or "", html.text(said)) for title, said in self._facts() if said),
        )

    def _head(self) -> list[str]:
        took = "" if self.wall_time is None else f" in {explain.span(self.wall_time)}"
        going = f", {self.unfinished:,} still to do" if self.unfinished else ""
        lines = [clip(f"Batch {self.name}: {_count(self.jobs, 'job')}{took}{going}", COLUMNS)]
        if self.counts:
            lines += wrapped(", ".join(f"{n:,} {state}" for state, n in self.counts.items()), COLUMNS, first="  ")
        return lines

    def _figures(self) -> list[str]:
        facts = [(title, text) for title, text in self._facts() if text]
        margin = max(len(title) for title, _ in facts) + 4
        return [line for title, text in facts for line in wrapped(text, COLUMNS, first=f"  {title:<{margin - 2}}")]

    def _facts(self) -> Iterator[tuple[str, str]]:
        yield "waiting", _spread(self.waiting)
        yield "running", _spread(self.running)
        if self.running is not None:
            guess = ", estimated: some asked for no cores" if self.estimated else ""
            yield "core-hours", f"{_rounded(self.core_hours)}{guess}"
        told = list(filter(None, map(_use, self.uses)))
        for place, text in enumerate(told[:_SHOWN]):
            yield "resources" if place == 0 else "", text
        if len(told) > _SHOWN:
            yield "", f"and {_count(len(told) - _SHOWN, 'other request')}"
        if self.retries:
            why = ", ".join(f"{count:,} {cause}" for cause, count in list(self.retries.items())[:_SHOWN])
            saved = f"; {_count(self.recovered, 'job')} succeeded by them" if self.recovered else ""
            yield "retries", f"{sum(self.retries.values()):,} ({why}){saved}"
        if self.unverified:
            yield "unverified", f"{_count(self.unverified, 'success', 'es')} by the platform's word, without a receipt"
        yield "home", printable(str(self.home))


# -- gathering ----------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class _NotCollected(Failure):
    """What the collector said: no failure of the job, but told like one."""

    label = "result not collected"


def _causes(troubles: Iterable[tuple[JobRecord, Failure]]) -> tuple[Cause, ...]:
    """What went wrong, grouped by cause and by what was said of it, the most frequent first."""
    groups: dict[str, list[tuple[JobRecord, Failure]]] = {}
    for job, failure in troubles:
        groups.setdefault(explain.trouble(failure), []).append((job, failure))
    causes = [_cause(group) for group in groups.values()]
    return tuple(sorted(causes, key=lambda cause: -cause.count))


def _cause(group: Sequence[tuple[JobRecord, Failure]]) -> Cause:
    job, failure = max(group, key=_tells)  # of equals, the first
    others = [other.key for other, _ in group[:_EXAMPLES] if other is not job]
    return Cause(
        cause=failure.cause,
        count=len(group),
        message=printable(explain.without_secrets(failure.message)),
        advice=explain.advice(failure),
        keys=(job.key, *others)[:_EXAMPLES],
        log=_log(job),
    )


def _tells(trouble: tuple[JobRecord, Failure]) -> tuple[bool, bool]:
    job, failure = trouble
    return bool(failure.message), _log(job) is not None


def _log(job: JobRecord) -> Path | None:
    return job.last_attempt.log if job.last_attempt is not None else None


def _retries(jobs: Iterable[JobRecord]) -> dict[str, int]:
    """What ended the attempts that were followed by another, the most frequent first."""
    ended = (attempt.failure for job in jobs for attempt in job.attempts[:-1])
    return dict(Counter("cancelled" if failure is None else failure.cause for failure in ended).most_common())


def _waited(attempt: Attempt) -> float:
    """Seconds from launch to start; two clocks that differ make no negative time."""
    assert attempt.launched_at is not None
    assert attempt.started_at is not None
    return max(0.0, (attempt.started_at - attempt.launched_at).total_seconds())


def _ran(attempt: Attempt, now: datetime) -> float:
    """Seconds from start to end, or to now."""
    assert attempt.started_at is not None
    return max(0.0, ((attempt.finished_at or now) - attempt.started_at).total_seconds())


def _cores(attempt: Attempt, limits: Limits | None) -> float:
    if attempt.resources.cores is not None:
        return attempt.resources.cores
    return limits.default_cores if limits is not None else _DEFAULT_CORES


# -- what was asked, and what was used ----------------------------------------------------------------------------


def _uses(begun: Iterable[Attempt], limits: Limits | None) -> tuple[Use, ...]:
    groups: dict[Resources, list[Attempt]] = {}
    for attempt in begun:
        groups.setdefault(attempt.resources, []).append(attempt)
    uses = [_use_of(asked, attempts, limits) for asked, attempts in groups.items()]
    return tuple(sorted(uses, key=lambda use: -use.attempts))


def _use_of(asked: Resources, attempts: Sequence[Attempt], limits: Limits | None) -> Use:
    peaks = [a.receipt.peak_ram for a in attempts if a.receipt is not None and a.receipt.peak_ram is not None]
    peak = max(peaks, default=None)
    ran_out = sum(isinstance(attempt.failure, (OutOfMemory, Killed)) for attempt in attempts)
    clocked = [(cpu, ran) for cpu, ran in map(_cpu, attempts) if cpu is not None and ran > 0]
    cores = _cores(attempts[0], limits)
    ran_in_all = math.fsum(ran for _, ran in clocked)
    busy = math.fsum(cpu for cpu, _ in clocked) / ran_in_all / cores if ran_in_all >= MEANINGFUL else None
    most = max((cpu / ran for cpu, ran in clocked if ran >= MEANINGFUL), default=None)
    tips = (_more_ram(asked, limits) if ran_out else _less_ram(asked, peak, limits), _fewer_cores(asked, most, limits))
    return Use(
        asked=asked,
        attempts=len(attempts),
        peak_ram=peak,
        cpu_share=busy,
        ran_out=ran_out,
        suggestion=", ".join(filter(None, tips)),
    )


def _cpu(attempt: Attempt) -> tuple[float | None, float]:
    """An attempt's CPU time and run time, seconds, both as its receipt tells them."""
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
        return "say ram="
    more = _offered(asked.ram * 2, limits.ram if limits is not None else ())
    return f"try ram={more}" if more is not None else "no more is offered: split the work"


def _fewer_cores(asked: Resources, used: float | None, limits: Limits | None) -> str:
    if asked.cores is None or used is None:
        return ""
    enough = _offered(used * HEADROOM, limits.cores if limits is not None else ())
    return f"cores={enough} would do" if enough is not None and enough < asked.cores else ""


def _offered(amount: float, options: Sequence[int]) -> int | None:
    """The least that is offered and not less than *amount*; a whole number where nobody said what is offered."""
    if not options:
        return max(1, math.ceil(amount))
    return min((option for option in options if option >= amount), default=None)


# -- wording ------------------------------------------------------------------------------------------------------


def _listed(heading: str, causes: Sequence[Cause]) -> list[str]:
    """Causes as a list: how often, what, which jobs, why, and what to do."""
    if not causes:
        return []
    lines = [heading, *(line for cause in causes[:_SHOWN] for line in _paragraph(cause))]
    rest = causes[_SHOWN:]
    if rest:
        lines.append(f"  {_total(rest):,} x {_count(len(rest), 'other cause')}")
    return lines


def _paragraph(cause: Cause) -> Iterator[str]:
    yield from wrapped(
        f"{cause.count:,} x {cause.cause} {_examples(cause)}", COLUMNS, first="  ", rest="    ", at_most=3
    )
    if cause.message:
        yield from wrapped(cause.message, COLUMNS, first="    ", at_most=3)
    if cause.advice:
        yield from wrapped(cause.advice, COLUMNS, first="    -> ")


def html_causes(causes: Sequence[Cause]) -> str:
    """Causes as a list in HTML: how often, what, which jobs, why, and what to do."""
    if not causes:
        return ""
    items = [
        f"<li><b>{cause.count:,} {_TIMES} {html.text(cause.cause)}</b> "
        f'<span class="cb-faint">{html.text(_examples(cause))}</span>'
        f"{_html_line(cause.message)}{_html_line(cause.advice and f'→ {cause.advice}')}</li>"
        for cause in causes[:_SHOWN]
    ]
    rest = causes[_SHOWN:]
    if rest:
        items.append(f"<li>{_total(rest):,} {_TIMES} {_count(len(rest), 'other cause')}</li>")
    return f'<ul class="cb-causes">{"".join(items)}</ul>'


def _html_line(said: str) -> str:
    return f"<br>{html.text(clip(said, 400))}" if said else ""


def _examples(cause: Cause) -> str:
    more = cause.count - len(cause.keys)
    return f"({', '.join(cause.keys)}{f' and {more:,} more' if more else ''})"


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return ""
    return f"median {explain.span(spread.median)}, longest {explain.span(spread.longest)}"


def _use(use: Use) -> str:
    found = []
    if use.peak_ram is not None:
        found.append(f"peak {_gib(use.peak_ram)}")
    if use.cpu_share is not None:
        found.append(f"CPU {use.cpu_share:.0%} busy")
    if use.ran_out:
        found.append(f"{use.ran_out:,} ran out of memory")
    hint = f" ({use.suggestion})" if use.suggestion else ""
    return f"{asked_for(use.asked)} asked: {', '.join(found)}{hint}" if found else ""


def asked_for(asked: Resources) -> str:
    """What was asked for, in words."""
    if asked == Resources():
        return "nothing"
    cores = "default cores" if asked.cores is None else _count(asked.cores, "core")
    ram = "default memory" if asked.ram is None else f"{asked.ram} GiB"
    return f"{cores}, {ram}" + (f", {_count(asked.gpus, 'GPU')}" if asked.gpus else "")


def _gib(amount: float) -> str:
    return f"{amount:.1f} GiB" if amount >= 0.1 else f"{amount * 1024:.0f} MiB"


def _rounded(amount: float) -> str:
    if amount >= 100:
        return f"{amount:,.0f}"
    return f"{amount:.1f}" if amount >= 1 else f"{amount:.2g}"


def _total(causes: Iterable[Cause]) -> int:
    return sum(cause.count for cause in causes)


def _count(number: int, what: str, ending: str = "s") -> str:
    return f"{number:,} {what}{ending if number != 1 else ''}"
