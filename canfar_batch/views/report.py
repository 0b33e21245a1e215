"""`Report`: the counts, failures, times and resources of a batch."""

from __future__ import annotations

import math
import os
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import attrs

from canfar_batch.errors import BatchFailed
from canfar_batch.records import GIVEN_UP, JobRecord, JobState, Limits
from canfar_batch.text import count, gib, printable
from canfar_batch.views import html
from canfar_batch.views.figures import Cause, Figures, Spread, Use
from canfar_batch.views.format import TIMES, asked_for, counts, duration, first_few, rounded
from canfar_batch.views.terminal import clip, wrapped

Self = TypeVar("Self", bound="Report")

COLUMNS = 80  #: width of a printed report
_SHOWN = 8  # causes, and kinds of requests, that are printed
_RETRY = "batch.retry_failed() and batch.run() launch"


class ReportPath(type(Path())):  # type: ignore[misc] # the base is PosixPath or WindowsPath
    """The path of a written report. A notebook shows it as a link."""

    def _repr_html_(self) -> str:
        # notebooks open links that are relative to the notebook's folder, which is the working directory
        address = urllib.parse.quote(os.path.relpath(self).replace(os.sep, "/"))
        return f'<a href="{html.text(address)}" target="_blank">{html.text(self)}</a>'


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
    core_hours: float  #: cores asked for x run time, over all attempts and the runs that the platform stopped
    estimated: bool  #: True if some attempts asked for no cores and are counted with the platform's default
    uses: tuple[Use, ...]  #: by request; the one with the most attempts first
    _page: Callable[[Report, Path], None] | None = attrs.field(default=None, repr=False, eq=False)
    _exception: Callable[[], BaseException | None] | None = attrs.field(default=None, repr=False, eq=False)

    def __reduce__(self) -> tuple[Callable[[dict[str, Any]], Report], tuple[dict[str, Any]]]:
        """Pickle the figures alone: the page and the exception need the batch, which is a file here."""
        values = attrs.asdict(self, recurse=False)
        return _from_figures, ({name: value for name, value in values.items() if not name.startswith("_")},)

    @classmethod
    def of(
        cls,
        name: str,
        jobs: Iterable[JobRecord],
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
        figures = Figures(now=now, limits=limits, gone=gone or {})
        for job in jobs:
            figures.add(job)
        return cls(
            name=name,
            home=home,
            made_at=now,
            counts={state: figures.counts[state] for state in JobState if figures.counts[state]},
            failures=figures.failures.causes(),
            not_collected=figures.not_collected.causes(),
            warnings=figures.warnings.counted(),
            restarts=figures.restarts,
            lost_seconds=math.fsum(figures.lost),
            unverified=figures.unverified,
            attempts=figures.attempts,
            retries=dict(figures.retries.most_common()),
            recovered=figures.recovered,
            began_at=figures.began_at,
            ended_at=figures.ended_at if all(state.final for state in figures.counts) else None,
            waiting=Spread.of(figures.waited),
            running=Spread.of(figures.ran),
            core_hours=math.fsum(figures.core_seconds) / 3600,
            estimated=figures.estimated,
            uses=figures.uses(),
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


# -- wording ------------------------------------------------------------------------------------------------------


def _from_figures(values: dict[str, Any]) -> Report:
    return Report(**values)


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
