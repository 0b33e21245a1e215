"""The rows of a list of containers: checked at once, parsed when used.

A list of 10,000 rows is read at every look, and most of its rows are of no interest: they are not the batch's, or have
not changed. So a row becomes a `ContainerInfo` whose fields are parsed when they are first asked for.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

import attrs

from canfar_batch.containers import GIB, ContainerInfo, Phase

log = logging.getLogger("canfar_batch.rest")

Row = Mapping[str, Any]


class ListedContainer(ContainerInfo):
    """A container in a list, equal to the `ContainerInfo` of the same values; its fields are parsed when first used."""

    __slots__ = ("_row",)
    _row: Row

    def __getattr__(self, name: str) -> Any:
        # Python asks here for a slot that is still empty
        parse = _FIELDS.get(name)
        if parse is None:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        value = parse(self._row)
        object.__setattr__(self, name, value)
        return value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ContainerInfo):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in _FIELDS)

    def __hash__(self) -> int:
        return ContainerInfo.__hash__(self)


def parse_rows(entries: list[Any]) -> list[ContainerInfo]:
    """Return the containers in a list of JSON values.

    A row without an id is left out and logged. A row that occurs twice counts once.

    Raises:
        ValueError: An entry is not an object, or two rows with the same id contradict each other.
    """
    # this loop runs over all rows of all looks; the descriptors set a slot of a frozen value directly
    set_row, set_id = ListedContainer.__dict__["_row"].__set__, ContainerInfo.__dict__["id"].__set__
    set_name, set_phase = ContainerInfo.__dict__["name"].__set__, ContainerInfo.__dict__["phase"].__set__
    new, kind = object.__new__, ListedContainer
    found: dict[str, ContainerInfo] = {}
    for row in entries:
        if type(row) is not dict:
            raise ValueError("the list holds something other than containers")
        id = row.get("id")
        if type(id) is not str or not id:
            log.warning("The platform listed a container without an id (type %r)", row.get("type"))
            continue
        if id in found:
            if found[id]._row != row:  # type: ignore[attr-defined]
                raise ValueError(f"the list contradicts itself about container {id}")
            continue
        info = found[id] = new(kind)
        set_row(info, row)
        set_id(info, id)
        name, status = row.get("name"), row.get("status")
        if type(name) is str and type(status) is str and name != _NONE:  # as always; else they are parsed when used
            set_name(info, name)
            set_phase(info, parse_phase(status))
    return list(found.values())


def parse_row(row: Row) -> ContainerInfo:
    """Return the container that a row with an id describes."""
    return ContainerInfo(**{name: parse(row) for name, parse in _FIELDS.items()})


# -- values -----------------------------------------------------------------------------------------------------------

_NONE = "<none>"  #: releases before 1.0 wrote this for a missing value

#: the status words of all releases; of `Failed (BackoffLimitExceeded)` the first word counts
_PHASES = {
    "pending": Phase.PENDING,
    "suspended": Phase.PENDING,
    "running": Phase.RUNNING,
    "completed": Phase.COMPLETED,
    "complete": Phase.COMPLETED,
    "succeeded": Phase.COMPLETED,
    "failed": Phase.FAILED,
    "error": Phase.FAILED,
}


@lru_cache(maxsize=256)
def parse_phase(status: str) -> Phase:
    """Return the phase that a release's status word stands for."""
    word = re.match(r"[a-z]*", status.strip().lower())
    return _PHASES.get(word[0] if word else "", Phase.OTHER)


def parse_time(text: object) -> datetime | None:
    """Return a time, UTC; the service leaves out seconds that are zero. None if it is not a time."""
    return _parse_time(text) if isinstance(text, str) else None


@lru_cache(maxsize=16_384)  # the times of a container are the same at every look
def _parse_time(text: str) -> datetime | None:
    from dateutil.parser import isoparse  # imported when a time is read: it costs as much as all of `rest`

    try:
        moment = isoparse(text.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None


_CORE_UNITS = {"": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
#: release 0.25 wrote `4G` for 4Gi
_SIZE_UNITS = {"k": 2**10 / GIB, "m": 2**20 / GIB, "g": 1.0, "t": 1024.0}


def parse_cores(text: object) -> float | None:
    """Return a number of cores: `2`, `"0.500"`, `"500m"`, `"3123456789n"`."""
    match = re.fullmatch(r"([0-9.eE+-]+?)([mun]?)", str(text).strip()) if isinstance(text, (str, int, float)) else None
    value = parse_number(match[1]) if match else None
    return None if match is None or value is None else value * _CORE_UNITS[match[2]]


def parse_gib(text: object) -> float | None:
    """Return a size in GiB; a number without a unit means decimal gigabytes."""
    match = re.fullmatch(r"([0-9.]+)\s*(?:([kmgt])i?b?)?", str(text).strip().lower())
    value = parse_number(match[1]) if match else None
    if match is None or value is None:
        return None
    return value * (_SIZE_UNITS[match[2]] if match[2] else 1e9 / GIB)


def parse_requested_gib(text: object) -> float | None:
    """Return a size in GiB, as `parse_gib`, but as it was asked for: 4 GiB come back as "4.29" GB."""
    value = parse_gib(text)
    if value is not None and abs(value - round(value)) < 0.006:  # two digits are rounded to 0.005 GB
        return float(round(value))
    return value


def parse_number(value: object) -> float | None:
    """Return a finite number; None if it is not one."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _value(row: Row, key: str) -> Any:
    value = row.get(key)
    return None if value in (None, _NONE, "") else value


def _text(row: Row, key: str, default: str = "") -> str:
    value = _value(row, key)
    return default if value is None else str(value)


#: how each field of a `ContainerInfo` is parsed from a row
_FIELDS: dict[str, Callable[[Row], Any]] = {
    "id": lambda row: _text(row, "id"),
    "name": lambda row: _text(row, "name"),
    "phase": lambda row: parse_phase(_text(row, "status")),
    "status": lambda row: _text(row, "status"),
    "type": lambda row: _text(row, "type", "headless").lower(),
    "image": lambda row: _text(row, "image"),
    "started_at": lambda row: parse_time(_value(row, "startTime")),
    "expires_at": lambda row: parse_time(_value(row, "expiryTime")),
    "cores": lambda row: parse_cores(_value(row, "requestedCPUCores")),
    "ram": lambda row: parse_requested_gib(_value(row, "requestedRAM")),
    "gpus": lambda row: int(parse_cores(_value(row, "requestedGPUCores")) or 0),
    "cores_in_use": lambda row: parse_cores(_value(row, "cpuCoresInUse")),
    "ram_in_use": lambda row: parse_gib(_value(row, "ramInUse")),
}
assert _FIELDS.keys() == {field.name for field in attrs.fields(ContainerInfo)}
