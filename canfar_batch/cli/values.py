"""Values of arguments, checked as they are read: numbers within limits, pairs, ranges."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


def pair(text: str) -> tuple[str, str]:
    """Read NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def number_range(text: str) -> tuple[str, range]:
    """Read FIELD=FIRST:END[:STEP]."""
    name, numbers = pair(text)
    try:
        parts = [int(part) for part in numbers.split(":")]
        found = range(*parts) if len(parts) in (2, 3) else range(0)
    except ValueError:  # not whole numbers, or a step of 0
        found = range(0)
    if not found:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not FIELD=FIRST:END or FIELD=FIRST:END:STEP, or it has no numbers"
        )
    return name, found


def whole_number(least: int) -> Callable[[str], int]:
    """Return a reader of whole numbers of at least *least*."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return number


def number_above(limit: float) -> Callable[[str], float]:
    """Return a reader of numbers above *limit*."""

    def number(text: str) -> float:
        value = _float(text)
        if not limit < value < math.inf:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number above {limit:g}")
        return value

    return number


def seconds(text: str) -> float:
    """Read a number of seconds, 0 or more."""
    value = _float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
