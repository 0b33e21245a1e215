"""Clocks: the machine's own, and one that is not affected when the machine's date is changed."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Protocol


class Clock(Protocol):
    """A source of time, which tests replace."""

    def now(self) -> datetime:
        """Return the time of day, aware, UTC."""

    def ticks(self) -> float:
        """Return seconds since an arbitrary moment; they never go back, and count while the machine sleeps."""


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        """Return the time of day, aware, UTC."""
        return datetime.now(timezone.utc)

    def ticks(self) -> float:
        """Return seconds since the machine started, including its sleep if the system counts it."""
        return _ticks()


def _choose_ticks() -> Callable[[], float]:
    # CLOCK_MONOTONIC stops while a Linux laptop sleeps, and a lease must not; on other systems it counts sleep.
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic if clock is None else lambda: time.clock_gettime(clock)


_ticks = _choose_ticks()


class SteadyClock:
    """The time that another clock showed once, advanced by its ticks, so that setting the clock has no effect."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began, self._began_ticks = clock.now(), clock.ticks()

    def now(self) -> datetime:
        """Return the time, aware, UTC."""
        return self._began + timedelta(seconds=self.ticks() - self._began_ticks)

    def ticks(self) -> float:
        """Return the ticks of the other clock, in seconds."""
        return self._clock.ticks()
