"""The data of a timeline: every attempt from its launch to its end, and how many waited and ran at each moment.

`timeline_mpl` and `timeline_svg` draw it. What they share is here: when rows get names, lines or colours by share,
which ends are marked, the legend, and the order of drawing.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone

import attrs

from canfar_batch.failures import Lost, Unwatched
from canfar_batch.records import Attempt, JobRecord
from canfar_batch.text import count
from canfar_batch.views.attempt_times import Times
from canfar_batch.views.format import timestamp

#: the outcomes of attempts, in the order of a legend; the last has not ended
OUTCOMES = ("succeeded", "failed", "lost", "cancelled", "running")
RESTARTED = "stopped and begun again"  #: the label of runs whose work was lost, in a legend
WRONG = ("failed", "lost", "cancelled")  #: the outcomes that a person may want to look into
DRAWN = ("succeeded", "running", "cancelled", "lost", "failed")  #: the order of drawing: failures on top
WAITING = "#8d96a0"  #: the colour of waiting

NAMED = 40  #: jobs up to which each has a row with its name
LINED = 400  #: jobs up to which each has a line; more share rows, in which colours are mixed by their shares
MARKED = 1000  #: ends up to which they are marked on lines
SPARSE = 200  #: ends up to which they are marked on shared rows
FEW = 60  #: ends up to which their marks are large
BINS = 120  #: parts of the time in which attempts that went wrong are counted

_STEPS: Mapping[str, tuple[float, Sequence[float]]] = {  # unit: seconds in it, and steps that are easy to count in
    "s": (1, (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30)),
    "min": (60, (1, 2, 5, 10, 20)),
    "h": (3600, (0.5, 1, 2, 3, 6, 12)),
    "d": (86400, (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)),
}


@attrs.frozen(kw_only=True)
class Span:
    """One attempt, in seconds since the first launch."""

    row: int  #: of its job; rows are in the order of the jobs' first launches
    number: int  #: of the attempt, from 1
    outcome: str  #: one of `OUTCOMES`
    launched: float
    started: float | None  #: None if it never ran
    ended: float  #: or now, if it has not ended
    lost: tuple[tuple[float, float], ...] = ()  #: the runs that the platform stopped and began again: from, to

    @property
    def begun(self) -> float:
        """The end of its wait: its last start, or its end if it never ran."""
        return self.ended if self.started is None else self.started

    @property
    def waits(self) -> tuple[tuple[float, float], ...]:
        """When it waited: from its launch to its first run, and between two runs."""
        starts = (*(start for start, _ in self.lost), self.begun)
        ends = (self.launched, *(end for _, end in self.lost))
        return tuple((end, start) for end, start in zip(ends, starts, strict=True))


@attrs.frozen(kw_only=True)
class Level:
    """The numbers of attempts that wait and run, from one moment on."""

    at: float  #: seconds since the first launch
    pending: int
    running: int


@attrs.frozen(kw_only=True)
class Timeline:
    """All attempts of a batch on one time scale."""

    origin: datetime  #: the first launch, UTC
    length: float  #: seconds from the first launch to the last end, or to now; at least 1
    keys: tuple[str, ...]  #: the keys of the launched jobs, by row
    spans: tuple[Span, ...]

    @classmethod
    def of(cls, jobs: Iterable[JobRecord], now: datetime) -> Timeline:
        """Return the attempts of *jobs*; attempts that have not ended last until *now*."""
        timed = [(job, [Times.of(attempt, now) for attempt in job.attempts]) for job in jobs if job.attempts]
        timed.sort(key=lambda one: (one[1][0].launched, one[0].index))
        origin = min((times.launched for _, all_times in timed for times in all_times), default=now)
        spans = [
            _span(row, attempt, times, origin)
            for row, (job, all_times) in enumerate(timed)
            for attempt, times in zip(job.attempts, all_times)  # noqa: B905 (equal: one is made of the other)
        ]
        return cls(
            origin=origin.astimezone(timezone.utc),
            length=max([1.0, *(span.ended for span in spans)]),
            keys=tuple(job.key for job, _ in timed),
            spans=tuple(spans),
        )

    @property
    def outcomes(self) -> tuple[str, ...]:
        """The outcomes that occur, in the order of a legend."""
        return tuple(self.counts)

    @property
    def counts(self) -> Mapping[str, int]:
        """The number of attempts with each outcome, in the order of a legend."""
        found = Counter(span.outcome for span in self.spans)
        return {outcome: found[outcome] for outcome in OUTCOMES if found[outcome]}

    @property
    def wrong(self) -> int:
        """The number of attempts that went wrong."""
        return sum(number for outcome, number in self.counts.items() if outcome in WRONG)

    @property
    def is_named(self) -> bool:
        """Whether each job has a row with its name."""
        return len(self.keys) <= NAMED

    @property
    def is_dense(self) -> bool:
        """Whether several jobs share a row, because there are too many for a line each."""
        return len(self.keys) > LINED

    @property
    def marks_ends(self) -> bool:
        """Whether ends of attempts that went wrong are marked: all or none, so that no outcome seems more frequent."""
        return 0 < self.wrong <= (SPARSE if self.is_dense else MARKED)

    @property
    def since(self) -> str:
        """The first launch, as the label of the time scale."""
        return f"{timestamp(self.origin)} UTC"

    @property
    def title(self) -> str:
        """The numbers of attempts and jobs."""
        return f"{count(len(self.spans), 'attempt')} of {count(len(self.keys), 'job')}"

    def sharing(self, at_most: int) -> tuple[int, int]:
        """Return into how many rows, *at_most* that many, the jobs fit, and how many jobs share one."""
        jobs = -(-len(self.keys) // at_most)
        return -(-len(self.keys) // jobs), jobs

    def legend(self) -> list[tuple[str, str]]:
        """Return the outcomes that occur, each with its label."""
        return [
            (outcome, f"{number:,} {'still running' if outcome == 'running' else outcome}")
            for outcome, number in self.counts.items()
        ] + ([("restarted", f"{lost:,} {RESTARTED}")] if (lost := self.lost_runs) else [])

    @property
    def lost_runs(self) -> int:
        """The number of runs that the platform stopped and began again."""
        return sum(len(span.lost) for span in self.spans)

    def with_outcome(self, outcome: str) -> list[Span]:
        """Return the attempts with this outcome."""
        return [span for span in self.spans if span.outcome == outcome]

    def stacked_ends(self, bins: int = BINS) -> list[tuple[str, list[int], list[int]]]:
        """Return, for each outcome in `ends`, the lower and the upper edge of its part of a stacked histogram."""
        stack, base = [], [0] * bins
        for outcome, numbers in self.ends(bins).items():
            top = [below + number for below, number in zip(base, numbers)]  # noqa: B905 (equal)
            stack.append((outcome, base, top))
            base = top
        return stack

    def ends(self, bins: int) -> Mapping[str, list[int]]:
        """Return how many attempts went wrong in each of *bins* equal parts of the time, by outcome."""
        counted = {outcome: [0] * bins for outcome in WRONG if outcome in self.outcomes}
        for span in self.spans:
            if span.outcome in counted:
                counted[span.outcome][min(bins - 1, int(span.ended / self.length * bins))] += 1
        return counted

    def lanes(self, lanes: int, columns: int) -> Iterator[dict[str, list[float]]]:
        """Yield, for each lane, which share of each column its jobs spent waiting and with each outcome.

        Each lane stands for the same number of jobs, or one more, and each column for a stretch of time. The shares of
        `"waiting"` and the outcomes add up to 1 if all jobs of the lane waited or ran throughout the column.

        Args:
            lanes: Rows of the picture; at most the number of jobs.
            columns: Columns of the picture.
        """
        by_lane: list[list[Span]] = [[] for _ in range(lanes)]
        for span in self.spans:
            by_lane[span.row * lanes // len(self.keys)].append(span)
        sizes = Counter(row * lanes // len(self.keys) for row in range(len(self.keys)))
        scale = columns / self.length
        for lane, spans in enumerate(by_lane):
            shares: dict[str, _Shares] = {}
            for span in spans:
                for begin, end in span.waits:
                    shares.setdefault("waiting", _Shares(columns)).add(begin * scale, end * scale)
                for begin, end in span.lost:
                    shares.setdefault("restarted", _Shares(columns)).add(begin * scale, end * scale)
                shares.setdefault(span.outcome, _Shares(columns)).add(span.begun * scale, span.ended * scale)
            yield {what: share.summed(sizes[lane]) for what, share in shares.items()}

    def levels(self) -> list[Level]:
        """Return how many attempts waited and ran, at each moment when that changed."""
        changes: dict[float, list[int]] = {}
        for span in self.spans:
            stops = ((at, 1, -1) for _, at in span.lost)
            starts = ((at, -1, 1) for at in (*(at for at, _ in span.lost), span.begun))
            for at, pending, running in ((span.launched, 1, 0), *starts, *stops, (span.ended, 0, -1)):
                change = changes.setdefault(at, [0, 0])
                change[0] += pending
                change[1] += running
        return list(self._summed(changes))

    def _summed(self, changes: Mapping[float, Sequence[int]]) -> Iterator[Level]:
        pending = running = 0
        for at in sorted(changes):
            pending, running = pending + changes[at][0], running + changes[at][1]
            yield Level(at=at, pending=pending, running=running)

    def ticks(self, at_most: int = 8) -> list[tuple[float, str]]:
        """Return moments to mark on the scale: seconds since the first launch, and a label."""
        for unit, (size, steps) in _STEPS.items():
            for step in steps:
                if self.length / (size * step) <= at_most:
                    return [(n * step * size, f"{n * step:g} {unit}" if n else "0") for n in self._until(size * step)]
        step = self.length / at_most
        return [(n * step, f"{n * step / 86400:,.0f} d") for n in range(at_most + 1)]

    def _until(self, step: float) -> range:
        return range(math.floor(self.length / step + 1e-9) + 1)


class _Shares:
    """The share of each column that stretches of time cover; a long stretch costs no more than a short one."""

    def __init__(self, columns: int) -> None:
        self._parts = [0.0] * columns  # of the columns in which a stretch begins or ends
        self._steps = [0] * (columns + 1)  # change in the number of stretches that cover a whole column

    def add(self, start: float, end: float) -> None:
        """Add a stretch, in columns."""
        last = len(self._parts) - 1
        first, final = min(last, int(start)), min(last, int(end))
        if first == final:
            self._parts[first] += end - start
            return
        self._parts[first] += first + 1 - start
        self._parts[final] += end - final
        self._steps[first + 1] += 1
        self._steps[final] -= 1

    def summed(self, whole: int) -> list[float]:
        """Return the covered share of each column, divided by *whole*."""
        return [(part + steps) / whole for part, steps in zip(self._parts, itertools.accumulate(self._steps))]  # noqa: B905


def mixed(timeline: Timeline, lanes: int, columns: int, colours: Mapping[str, str]) -> bytes:
    """Return the lanes as a picture, four bytes (red, green, blue, opacity) for each cell, row by row.

    The colours of a cell are mixed by their shares: a rare outcome is faint, and hides nothing.

    Args:
        timeline: The timeline.
        lanes: Rows of the picture.
        columns: Columns of the picture.
        colours: `"#rrggbb"` for each outcome.
    """
    inks = {what: bytes.fromhex(colour[1:]) for what, colour in {**colours, "waiting": WAITING}.items()}
    drawn = bytearray()
    for shares in timeline.lanes(lanes, columns):
        layers = [inks[what] for what in shares]
        shades: dict[tuple[float, ...], bytes] = {}  # neighbours have the same colour more often than not
        for parts in zip(*shares.values()):  # noqa: B905 (one share for each column)
            shade = shades.get(parts)
            if shade is None:
                shade = shades[parts] = _shade(layers, parts)
            drawn += shade
        if not layers:
            drawn += bytes(4 * columns)
    return bytes(drawn)


def _shade(inks: Sequence[bytes], parts: Sequence[float]) -> bytes:
    """Return the colour of one cell, of which each ink covers a part."""
    covered = math.fsum(parts)
    if covered <= 0:
        return bytes(4)
    mixture = [sum(ink[at] * part for ink, part in zip(inks, parts)) / covered for at in range(3)]  # noqa: B905
    return bytes(min(255, round(value)) for value in (*mixture, 255 * min(1.0, covered)))


def _span(row: int, attempt: Attempt, times: Times, origin: datetime) -> Span:
    def since(moment: datetime) -> float:
        return (moment - origin).total_seconds()

    return Span(
        row=row,
        number=attempt.number,
        outcome=_outcome(attempt),
        launched=since(times.launched),
        started=None if times.started is None else since(times.started),
        ended=since(times.ended),
        lost=tuple((since(began), since(ended)) for began, ended in times.lost),
    )


def _outcome(attempt: Attempt) -> str:
    if not attempt.ended:
        return "running"
    if attempt.succeeded:
        return "succeeded"
    if attempt.failure is None:
        return "cancelled"
    return "lost" if isinstance(attempt.failure, (Lost, Unwatched)) else "failed"
