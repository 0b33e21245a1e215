"""How long attempts waited and ran, although their times come from two clocks.

The driver's clock says when an attempt was launched and when its end became known; the container's clock says when the
command began and ended. A difference between times of two clocks is wrong by the difference of the clocks, so a length
is taken from one clock if it can be, and container times are moved if they contradict the driver's.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import attrs

from canfar_batch.records import Attempt


@attrs.frozen(kw_only=True)
class Times:
    """One attempt on the driver's clock: launched <= started <= ended."""

    launched: datetime
    started: datetime | None  #: None if it never began, as far as is known
    ended: datetime  #: the end, or now if the attempt has not ended
    lost: tuple[tuple[datetime, datetime], ...] = ()  #: runs that the platform stopped and began again

    @classmethod
    def of(cls, attempt: Attempt, now: datetime) -> Times:
        """Return the times of *attempt*; an attempt that has not ended lasts until *now* (the driver's clock)."""
        asked, latest = attempt.intended_at, max(attempt.intended_at, _known_end(attempt, now))
        begun, done = attempt.started_at, _container_end(attempt)
        if begun is None:
            return cls._with_lost_runs(attempt, _launched(attempt, latest), None, latest)
        ran = None if done is None else max(timedelta(), done - begun)
        started, ended = begun, latest if ran is None else begun + ran
        if not asked <= started <= ended <= latest:  # the clocks differ
            is_ahead = ran is not None and started > asked
            started = max(asked, latest - ran) if is_ahead and ran is not None else asked
            ended = latest if ran is None else min(latest, started + ran)
        return cls._with_lost_runs(attempt, _launched(attempt, started), started, ended)

    @classmethod
    def _with_lost_runs(cls, attempt: Attempt, launched: datetime, started: datetime | None, ended: datetime) -> Times:
        """Return the times with the lost runs, which lie one after the other before the last start."""
        limit, lost = launched, []
        for run in attempt.lost_runs:
            begin = min(max(run.began, limit), started or ended)
            limit = min(max(run.ended, begin), started or ended)
            lost.append((begin, limit))
        return cls(launched=launched, started=started, ended=ended, lost=tuple(lost))

    @property
    def waited(self) -> float:
        """Seconds from the launch to the start, or to the end if it never began; without the runs that were lost."""
        lost = sum((ended - began for began, ended in self.lost), timedelta())
        return ((self.started or self.ended) - self.launched - lost).total_seconds()

    @property
    def ran(self) -> float | None:
        """Seconds from the start to the end; None if it never began."""
        return None if self.started is None else (self.ended - self.started).total_seconds()


def run_seconds(attempt: Attempt, now: datetime) -> float | None:
    """Return the run time in seconds, by the container's clock alone if it recorded the start and the end."""
    begun, done = attempt.started_at, _container_end(attempt)
    if begun is not None and done is not None:
        return max(0.0, (done - begun).total_seconds())
    return Times.of(attempt, now).ran


def _known_end(attempt: Attempt, now: datetime) -> datetime:
    """The moment by which the attempt had ended, on the driver's clock; now if it has not."""
    return (attempt.ended_at or attempt.finished_at or now) if attempt.ended else now


def _container_end(attempt: Attempt) -> datetime | None:
    return attempt.receipt.finished_at if attempt.receipt is not None else None


def _launched(attempt: Attempt, begun: datetime) -> datetime:
    """The time of the platform's answer, unless it came so late that the attempt had begun before it."""
    answered = attempt.launched_at
    return attempt.intended_at if answered is None or answered > begun else answered
