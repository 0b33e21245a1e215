"""How the service shows its containers: JSON fields, logs, events, statistics."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from canfar_batch.local.answers import json_text
from canfar_batch.local.containers import GIB, RUNNING, Container, Event, Pod
from canfar_batch.local.creation import Limits, shown_ram

GB = 1_000_000_000


class Shown:
    """The printed JSON of containers, kept until something in it changes.

    Args:
        connect_base: The URL below which interactive sessions are found.
        metrics_delay: Seconds from the start of a container until its use is shown; None shows none.
    """

    def __init__(self, connect_base: str, metrics_delay: float | None = 0.0) -> None:
        self._connect_base = connect_base
        self._metrics_delay = metrics_delay
        self._kept: dict[Container, tuple[object, str, str]] = {}

    def one(self, container: Container) -> str:
        """Return a container's JSON object."""
        return self._shown(container)[1]

    def many(self, containers: Iterable[Container]) -> list[str]:
        """Return objects indented as elements of an array."""
        return [self._shown(container)[2] for container in containers]

    def forget(self, known: int) -> None:
        """Drop the texts of containers that no longer exist, once they outnumber the *known* ones."""
        if len(self._kept) > 2 * known + 100:
            self._kept.clear()

    def _shown(self, container: Container) -> tuple[object, str, str]:
        use = usage(container, self._metrics_delay)
        version = (container.changes, container.status, container.started, tuple(use.values()))
        kept = self._kept.get(container)
        if kept is None or kept[0] != version:
            text = json_text(session(container, self._connect_base, use))
            kept = (version, text, "  " + text.replace("\n", "\n  "))
            self._kept[container] = kept
        return kept


def session(container: Container, connect_base: str, use: dict[str, str]) -> dict[str, Any]:
    """Return all that the service shows of a session; fields without a value are left out."""
    order, resources = container.order, container.order.resources
    is_headless = order.type == "headless"
    shown: dict[str, Any] = {
        "id": order.id,
        "userid": container.user,
        "runAsUID": str(container.uid),
        "runAsGID": str(container.uid),
        "supplementalGroups": [],
        "image": order.image,
        "type": order.type,
        "status": container.status,
        "name": order.name,
    }
    if container.started is not None:
        expires = container.started + dt.timedelta(seconds=round(container.deadline))
        shown["startTime"] = java_time(container.started)
        shown["expiryTime"] = f"{expires:%Y-%m-%dT%H:%M:%SZ}"
    shown["connectURL"] = "" if is_headless else f"{connect_base}/session/{order.type}/{order.id}/"
    if resources.fixed:
        shown["requestedRAM"] = shown_ram(resources.ram)
        shown["requestedCPUCores"] = quantity(resources.cores)
    shown["requestedGPUCores"] = str(resources.gpus)
    shown.update(use)
    shown["isFixedResources"] = resources.fixed
    return shown


def public_session(container: Container) -> dict[str, str]:
    """Return what the service shows of a session to every user."""
    shown = {"userid": container.user, "type": container.order.type, "status": container.status}
    if container.started is not None:
        shown["startTime"] = java_time(container.started)
    return shown


def usage(container: Container, delay: float | None = 0.0) -> dict[str, str]:
    """Return the use of a running container, if it has run for *delay* seconds; None for *delay* shows none."""
    pod = container.pod
    if delay is None or container.status != RUNNING or pod is None or pod.account is None or pod.clock is None:
        return {}
    if time.monotonic() - pod.clock < delay:
        return {}
    measured = pod.account.usage
    return {"ramInUse": f"{measured.memory / GB:.2f}", "cpuCoresInUse": f"{measured.cores:.3f}"}


def java_time(time: dt.datetime) -> str:
    """Return a time as Java's OffsetDateTime prints it: without its seconds if they are zero."""
    return f"{time:%Y-%m-%dT%H:%M:%SZ}" if time.second else f"{time:%Y-%m-%dT%H:%MZ}"


def quantity(cores: float) -> str:
    """Return cores as the service prints them."""
    return str(int(cores)) if cores == int(cores) else f"{cores:.3f}"


def read_log(pods: Sequence[Pod]) -> bytes:
    """Return the logs of pods, one after the other, as the service serves them."""
    return b"".join(map(_read_log, pods))


def _read_log(pod: Pod) -> bytes:
    if time.monotonic() < pod.hidden_until:
        return b""
    try:
        return pod.log.read_bytes()[pod.rotated_at :]
    except FileNotFoundError:
        return b""  # not started yet, or forgotten just now


def event_table(events: Iterable[Event]) -> str:
    """Return events as kubectl prints them in columns."""
    rows = [("TYPE", "REASON", "MESSAGE", "FIRST-TIME", "LAST-TIME")]
    for event in events:
        time = f"{event.time:%Y-%m-%dT%H:%M:%SZ}" if event.time else "<nil>"
        rows.append((event.type, event.reason, event.message, time, time))
    if len(rows) == 1:
        return NO_EVENTS
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ("".join(cell.ljust(width + 3) for cell, width in zip(row, widths, strict=False)) + row[4] for row in rows)
    return "\n".join(lines) + "\n"


NO_EVENTS = "<none>\n"  #: also the answer while a container has two pods: their names match no event


def context(limits: Limits, max_interactive: int) -> dict[str, Any]:
    """Return what a container may ask for."""
    asked = limits.requested
    return {
        "cores": _context_of(limits.default_cores, asked.cores_limit, limits.cores, asked.cores),
        "gpus": {"options": list(limits.gpus)},
        "memoryGB": _context_of(limits.default_ram, asked.ram_limit, limits.ram, asked.ram),
        # a string if the service reads it from a file, a number if it comes with the LimitRange
        "maxInteractiveSessions": max_interactive if limits.is_limit_range else str(max_interactive),
    }


def _context_of(default: float, limit: float, options: Iterable[int], request: float) -> dict[str, Any]:
    return {
        "default": int(default),
        "defaultLimit": int(limit),
        "options": list(options),
        "defaultRequest": int(request),
    }


@attrs.frozen
class ClusterSize:
    """The cores and the RAM (GiB) of a cluster."""

    cores: float
    ram: float


def stats(containers: Iterable[Container], size: ClusterSize, limits: Limits) -> dict[str, Any]:
    """Return the view ``stats``: the sums that containers asked for, and the capacity."""
    active = [container for container in containers if container.is_active]
    asked_cores = sum(container.order.resources.cores for container in active)
    asked_ram = sum(container.order.resources.ram for container in active)
    if limits.is_limit_range:
        most_cores, most_ram = float(max(limits.cores)), f"{max(limits.ram)}G"  # GiB, whatever the unit says
    else:
        most_cores, most_ram = limits.requested.cores_limit, f"{limits.requested.ram_limit:g}Gi"
    return {
        "cores": {
            "requestedCPUCores": float(asked_cores),
            "cpuCoresAvailable": float(size.cores),
            "maxCPUCores": {"cpuCores": most_cores, "withRam": most_ram},
        },
        "ram": {
            "requestedRAM": _gigabytes(asked_ram),
            "ramAvailable": _gigabytes(size.ram),
            "maxRAM": {"ram": most_ram, "withCPUCores": most_cores},
        },
    }


def _gigabytes(gib: float) -> str:
    """Return GiB in units of 10⁹ bytes with up to three digits, as in `51.54G` and `274.878G`."""
    return f"{gib * GIB / GB:.3f}".rstrip("0").rstrip(".") + "G"
