"""What happened when: every attempt from its launch to its end, and how many waited and ran at each moment.

Here is what a drawing needs to know; `plot` and `svg` draw it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone

import attrs

from canfar_batch.failures import Lost, Unwatched
from canfar_batch.records import Attempt, JobRecord

#: how an attempt can have ended, in the order of a legend; the last is not over
OUTCOMES = ("succeeded", "failed", "lost", "cancelled", "running")

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
        found = {span.outcome for span in self.spans}
        return tuple(outcome for outcome in OUTCOMES if outcome in found)

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


def _launch(attempt: Attempt) -> datetime:
    """When it was launched: when the answer came, unless it was heard so late that the attempt had begun by then."""
    answered, begun = attempt.launched_at, attempt.started_at
    late = answered is not None and begun is not None and begun < answered
    return attempt.intended_at if answered is None or late else answered


def _span(row: int, attempt: Attempt, origin: datetime, now: datetime) -> Span:
    """One attempt. Two clocks that differ make no negative lengths."""
    launched = (_launch(attempt) - origin).total_seconds()
    end = attempt.finished_at if attempt.over else now
    ended = max(launched, ((end or now) - origin).total_seconds())
    started = None
    if attempt.started_at is not None:
        started = min(max(launched, (attempt.started_at - origin).total_seconds()), ended)
    return Span(
        row=row, number=attempt.number, outcome=_outcome(attempt), launched=launched, started=started, ended=ended
    )


def _outcome(attempt: Attempt) -> str:
    if not attempt.over:
        return "running"
    if attempt.succeeded:
        return "succeeded"
    if attempt.failure is None:
        return "cancelled"
    return "lost" if isinstance(attempt.failure, (Lost, Unwatched)) else "failed"
