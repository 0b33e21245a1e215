"""Clocks: the machine's own, and one that no change of the machine's date can disturb."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Protocol


class Clock(Protocol):
    """The time, as a thing that tests can hold still."""

    def now(self) -> datetime:
        """The time of day, aware, UTC."""

    def ticks(self) -> float:
        """Seconds from an arbitrary moment; never goes back, and counts while the machine sleeps."""


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        """The time of day, aware, UTC."""
        return datetime.now(timezone.utc)

    def ticks(self) -> float:
        """Seconds since the machine started, its sleep included where the system can tell."""
        return _ticks()


def _choose_ticks() -> Callable[[], float]:
    # CLOCK_MONOTONIC stands still while a Linux laptop sleeps, and a lease must not; elsewhere it counts sleep.
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic if clock is None else lambda: time.clock_gettime(clock)


_ticks = _choose_ticks()


class SteadyClock:
    """The time as another clock told it once, and since then by its ticks: whoever sets the clock changes nothing."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began, self._began_ticks = clock.now(), clock.ticks()

    def now(self) -> datetime:
        """The time, aware, UTC."""
        return self._began + timedelta(seconds=self.ticks() - self._began_ticks)

    def ticks(self) -> float:
        """Seconds, as the other clock counts them."""
        return self._clock.ticks()
