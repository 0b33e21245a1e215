"""How the service shows its containers: JSON fields, logs, events, statistics."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterable
from typing import Any

from canfar_batch.local.answers import json_text
from canfar_batch.local.containers import FINAL, GIB, RUNNING, Container, Event

DEADLINE = dt.timedelta(days=14)  #: how long a headless job may take
GB = 1_000_000_000


class Shown:
    """The printed JSON of containers, kept until something changes that it tells."""

    def __init__(self, connect_base: str) -> None:
        self._connect_base = connect_base
        self._kept: dict[Container, tuple[object, str, str]] = {}

    def one(self, container: Container) -> str:
        """A container's JSON object."""
        return self._shown(container)[1]

    def many(self, containers: Iterable[Container]) -> list[str]:
        """Objects indented as elements of an array."""
        return [self._shown(container)[2] for container in containers]

    def forget(self, known: int) -> None:
        """Drop what is kept of containers that are gone, once they outnumber the *known* ones."""
        if len(self._kept) > 2 * known + 100:
            self._kept.clear()

    def _shown(self, container: Container) -> tuple[object, str, str]:
        use = usage(container)
        version = (container.changes, container.status, tuple(use.values()))
        kept = self._kept.get(container)
        if kept is None or kept[0] != version:
            text = json_text(session(container, self._connect_base, use))
            kept = (version, text, "  " + text.replace("\n", "\n  "))
            self._kept[container] = kept
        return kept


def session(container: Container, connect_base: str, use: dict[str, str]) -> dict[str, Any]:
    """Everything that the service tells about a session; what has no value is left out."""
    order, resources = container.order, container.order.resources
    headless = order.type == "headless"
    shown: dict[str, Any] = {
        "id": order.id,
        "userid": container.user,
        "runAsUID": str(os.getuid()),
        "runAsGID": str(os.getgid()),
        "supplementalGroups": [],
        "image": order.image,
        "type": order.type,
        "status": container.status,
        "name": order.name,
    }
    if container.started is not None:
        shown["startTime"] = java_time(container.started)
        shown["expiryTime"] = f"{container.started + DEADLINE:%Y-%m-%dT%H:%M:%SZ}"
    shown["connectURL"] = "" if headless else f"{connect_base}/session/{order.type}/{order.id}/"
    if resources.fixed:
        shown["requestedRAM"] = f"{resources.ram * GIB / GB:.2f}"
        shown["requestedCPUCores"] = quantity(resources.cores)
    shown["requestedGPUCores"] = str(resources.gpus)
    shown.update(use)
    shown["isFixedResources"] = resources.fixed
    return shown


def public_session(container: Container) -> dict[str, str]:
    """What anyone may know of a session."""
    shown = {"userid": container.user, "type": container.order.type, "status": container.status}
    if container.started is not None:
        shown["startTime"] = java_time(container.started)
    return shown


def usage(container: Container) -> dict[str, str]:
    """What a running container uses, as far as it is measured."""
    if container.status != RUNNING or container.account is None:
        return {}
    measured = container.account.usage
    return {"ramInUse": f"{measured.memory / GB:.2f}", "cpuCoresInUse": f"{measured.cores:.3f}"}


def java_time(time: dt.datetime) -> str:
    """A time as Java's OffsetDateTime prints it: without its seconds when they are zero."""
    return f"{time:%Y-%m-%dT%H:%M:%SZ}" if time.second else f"{time:%Y-%m-%dT%H:%MZ}"


def quantity(cores: float) -> str:
    """Cores as the service prints them."""
    return str(int(cores)) if cores == int(cores) else f"{cores:.3f}"


def event_table(events: Iterable[Event]) -> str:
    """Events as kubectl prints them in columns."""
    rows = [("TYPE", "REASON", "MESSAGE", "FIRST-TIME", "LAST-TIME")]
    for event in events:
        time = f"{event.time:%Y-%m-%dT%H:%M:%SZ}" if event.time else "<none>"
        rows.append((event.type, event.reason, event.message, time, time))
    if len(rows) == 1:
        return "<none>\n"
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ("".join(cell.ljust(width + 3) for cell, width in zip(row, widths, strict=False)) + row[4] for row in rows)
    return "\n".join(lines) + "\n"


def stats(containers: Iterable[Container], cores: float, ram: float) -> dict[str, Any]:
    """The view ``stats``: what is asked for in all, and what there is."""
    active = [container for container in containers if container.pod and container.status not in FINAL]
    asked_cores = sum(container.order.resources.cores for container in active)
    asked_ram = sum(container.order.resources.ram for container in active)
    whole_ram = f"{ram * GIB / GB:.2f}G"
    return {
        "cores": {
            "requestedCPUCores": asked_cores,
            "cpuCoresAvailable": cores,
            "maxCPUCores": {"cpuCores": cores, "withRam": whole_ram},
        },
        "ram": {
            "requestedRAM": f"{asked_ram * GIB / GB:.2f}G",
            "ramAvailable": whole_ram,
            "maxRAM": {"ram": whole_ram, "withCPUCores": cores},
        },
    }
