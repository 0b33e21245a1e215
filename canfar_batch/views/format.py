"""Numbers, times and sizes as text: one way for every view."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone

from canfar_batch.records import ContainerInfo, JobState, Resources
from canfar_batch.text import count, gib

TIMES = "\N{MULTIPLICATION SIGN}"  #: between a number and what there are so many of
EXACT = 2**53  #: the largest integer up to which a float, or a browser's number, is exact


def duration(length: timedelta | float) -> str:
    """Return a length of time (seconds if it is a number) as `"0.4 s"`, `"42 s"`, `"3 min"` or `"2 h 05 min"`."""
    seconds = length.total_seconds() if isinstance(length, timedelta) else length
    if seconds < 0.95:
        return f"{max(seconds, 0):.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def rounded(number: float) -> str:
    """Return a number with the digits that a person needs: `"1,234"`, `"31.4"`, `"0.25"`, `"under 0.001"`."""
    if number >= 100:
        return f"{number:,.0f}"
    if 0 < number < 0.001:
        return "under 0.001"
    return f"{number:.1f}" if number >= 1 else f"{number:.2g}"


def counts(states: Mapping[JobState, int]) -> str:
    """Return the number of jobs in each state: `"5 planned, 3 running"`."""
    return ", ".join(f"{number:,} {state.value}" for state, number in states.items())


def first_few(names: Iterable[str], total: int) -> str:
    """Return some names, and how many of *total* are left out: `"a, b and 3 more"`."""
    shown = list(names)
    more = total - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")


def timestamp(moment: datetime) -> str:
    """Return a moment as `"2026-11-22 12:00:00"`, in UTC."""
    return f"{moment.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S}"


def memory(asked: Resources) -> str:
    """Return the memory that was asked for."""
    return "the platform's default memory" if asked.ram is None else f"{asked.ram} GiB"


def asked_for(asked: Resources) -> str:
    """Return the resources that were asked for: `"2 cores, 8 GiB, 1 GPU"`."""
    cores = "default cores" if asked.cores is None else count(asked.cores, "core")
    ram = "default memory" if asked.ram is None else f"{asked.ram} GiB"
    return f"{cores}, {ram}" + (f", {count(asked.gpus, 'GPU')}" if asked.gpus else "")


def in_use(containers: Iterable[ContainerInfo]) -> str:
    """Return what running containers use together, as `"31.4 cores, 118 GiB"`; empty if it is not reported."""
    known = list(containers)
    busy = [info.cores_in_use for info in known if info.cores_in_use is not None]
    ram = [info.ram_in_use for info in known if info.ram_in_use is not None]
    return ", ".join([f"{rounded(sum(busy))} cores"] * bool(busy) + [gib(sum(ram))] * bool(ram))
