"""What happened when: every attempt from its launch to its end, and how many waited and ran at each moment.

Here is what a drawing needs to know; `plot` and `svg` draw it.
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

#: how an attempt can have ended, in the order of a legend; the last is not over
OUTCOMES = ("succeeded", "failed", "lost", "cancelled", "running")
WRONG = ("failed", "lost", "cancelled")  #: those of them that somebody may want to look into

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
    started: float | None  #: None where it never ran
    ended: float  #: or now, where it is not over


@attrs.frozen(kw_only=True)
class Level:
    """How many attempts waited and ran, from one moment on."""

    at: float  #: seconds since the first launch
    pending: int
    running: int


@attrs.frozen(kw_only=True)
class Timeline:
    """All attempts of a batch, on one scale of time."""

    origin: datetime  #: when the first was launched, UTC
    length: float  #: seconds from then to the last end, or to now; always more than 0
    keys: tuple[str, ...]  #: of the jobs that were launched, by row
    spans: tuple[Span, ...]

    @classmethod
    def of(cls, jobs: Iterable[JobRecord], now: datetime) -> Timeline:
        """The attempts of *jobs*; those that are not over last until *now*."""
        launched = sorted((job for job in jobs if job.attempts), key=lambda job: (_launch(job.attempts[0]), job.index))
        origin = min((_launch(attempt) for job in launched for attempt in job.attempts), default=now)
        spans = [_span(row, attempt, origin, now) for row, job in enumerate(launched) for attempt in job.attempts]
        return cls(
            origin=origin.astimezone(timezone.utc),
            length=max([1.0, *(span.ended for span in spans)]),
            keys=tuple(job.key for job in launched),
            spans=tuple(spans),
        )

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Those that occur, in the order of a legend."""
        return tuple(self.counts)

    @property
    def counts(self) -> Mapping[str, int]:
        """How many attempts had each outcome, likewise."""
        found = Counter(span.outcome for span in self.spans)
        return {outcome: found[outcome] for outcome in OUTCOMES if found[outcome]}

    @property
    def wrong(self) -> int:
        """How many attempts went wrong."""
        return sum(count for outcome, count in self.counts.items() if outcome in WRONG)

    def ends(self, bins: int) -> Mapping[str, list[int]]:
        """How many attempts went wrong in each of so many equal parts of the time, by outcome; those that occur."""
        counted = {outcome: [0] * bins for outcome in WRONG if outcome in self.outcomes}
        for span in self.spans:
            if span.outcome in counted:
                counted[span.outcome][min(bins - 1, int(span.ended / self.length * bins))] += 1
        return counted

    def lanes(self, lanes: int, columns: int) -> Iterator[dict[str, list[float]]]:
        """What the jobs did, where there are too many for a row each: lane by lane, which part did what in each column.

        A lane stands for as many jobs as any other, or one more, and a column for a stretch of time. The parts of a
        cell are of the time that its jobs had: `"waiting"` and the outcomes together make 1 where all of them were
        waiting or running throughout.
        """
        by_lane: list[list[Span]] = [[] for _ in range(lanes)]
        for span in self.spans:
            by_lane[span.row * lanes // len(self.keys)].append(span)
        sizes = Counter(row * lanes // len(self.keys) for row in range(len(self.keys)))
        scale = columns / self.length
        for lane, spans in enumerate(by_lane):
            shares: dict[str, _Shares] = {}
            for span in spans:
                begun = span.ended if span.started is None else span.started
                shares.setdefault("waiting", _Shares(columns)).add(span.launched * scale, begun * scale)
                shares.setdefault(span.outcome, _Shares(columns)).add(begun * scale, span.ended * scale)
            yield {what: share.summed(sizes[lane]) for what, share in shares.items()}

    def levels(self) -> list[Level]:
        """How many waited and ran, each time that changed."""
        changes: dict[float, list[int]] = {}
        for span in self.spans:
            begun = span.ended if span.started is None else span.started
            for at, pending, running in ((span.launched, 1, 0), (begun, -1, 1), (span.ended, 0, -1)):
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
        """Moments to mark on the scale: seconds since the first launch, and how to call them."""
        for unit, (size, steps) in _STEPS.items():
            for step in steps:
                if self.length / (size * step) <= at_most:
                    return [(n * step * size, f"{n * step:g} {unit}" if n else "0") for n in self._until(size * step)]
        step = self.length / at_most
        return [(n * step, f"{n * step / 86400:,.0f} d") for n in range(at_most + 1)]

    def _until(self, step: float) -> range:
        return range(math.floor(self.length / step + 1e-9) + 1)


class _Shares:
    """How much of each column is covered, summed over stretches; a long stretch costs no more than a short one."""

    def __init__(self, columns: int) -> None:
        self._parts = [0.0] * columns  # of columns where a stretch begins or ends
        self._steps = [0] * (columns + 1)  # how many more, or fewer, cover a column whole than the one before

    def add(self, start: float, end: float) -> None:
        """One stretch more, in columns."""
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
        """What covers each column, over *whole*."""
        return [(part + steps) / whole for part, steps in zip(self._parts, itertools.accumulate(self._steps))]  # noqa: B905


def mixed(timeline: Timeline, lanes: int, columns: int, colours: Mapping[str, str]) -> bytes:
    """The lanes as a picture, four bytes (red, green, blue, opacity) for each cell, row by row.

    Each colour has the part of a cell that is its due: what is rare is faint, and hides nothing.

    Args:
        timeline: What to draw.
        lanes: Rows of the picture.
        columns: Columns of it.
        colours: `"#rrggbb"` of the outcomes and of `"waiting"`.
    """
    inks = {what: bytes.fromhex(colour[1:]) for what, colour in colours.items()}
    drawn = bytearray()
    for shares in timeline.lanes(lanes, columns):
        layers = [(*inks[what], share) for what, share in shares.items()]
        line = bytearray(4 * columns)
        for column in range(columns):
            red = green = blue = covered = 0.0
            for r, g, b, share in layers:
                if part := share[column]:
                    red, green, blue, covered = red + r * part, green + g * part, blue + b * part, covered + part
            if covered > 0:
                shade = (red / covered, green / covered, blue / covered, 255 * min(1.0, covered))
                line[4 * column : 4 * column + 4] = bytes(min(255, round(value)) for value in shade)
        drawn += line
    return bytes(drawn)


def _launch(attempt: Attempt) -> datetime:
    """When it was launched: when the answer came, unless it was heard so late that the attempt had begun by then."""
    answered, begun = attempt.launched_at, attempt.started_at
    late = answered is not None and begun is not None and begun < answered
    return attempt.intended_at if answered is None or late else answered


def _span(row: int, attempt: Attempt, origin: datetime, now: datetime) -> Span:
    """One attempt. Two clocks that differ make no negative lengths."""
    launched = (_launch(attempt) - origin).total_seconds()
    end = attempt.finished_at if attempt.ended else now
    ended = max(launched, ((end or now) - origin).total_seconds())
    started = None
    if attempt.started_at is not None:
        started = min(max(launched, (attempt.started_at - origin).total_seconds()), ended)
    return Span(
        row=row, number=attempt.number, outcome=_outcome(attempt), launched=launched, started=started, ended=ended
    )


def _outcome(attempt: Attempt) -> str:
    if not attempt.ended:
        return "running"
    if attempt.succeeded:
        return "succeeded"
    if attempt.failure is None:
        return "cancelled"
    return "lost" if isinstance(attempt.failure, (Lost, Unwatched)) else "failed"
