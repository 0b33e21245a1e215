"""Waiting for what other threads and processes do: for an event, never for a number of seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], otherwise: object = "it never came true", *, within: float = 60.0) -> T:
    """Ask until *condition* gives something true, and return that; fail after *within* seconds."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.01)
    return value
