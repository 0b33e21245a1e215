"""Containers and what the platform offers: launch requests and answers, as frozen values."""

from __future__ import annotations

import bisect
import enum
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Protocol

import attrs

from canfar_batch.errors import SpecError
from canfar_batch.text import show_as_printed

GIB = 1024**3


class Phase(str, enum.Enum):
    """The state of a container, whatever words the platform's release uses for it."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"  #: ended with exit code 0
    FAILED = "failed"  #: ended in any other way
    OTHER = "other"  #: being stopped, or a word that we do not know; never final

    @property
    def final(self) -> bool:
        """True for the two phases of a container that has ended."""
        return self in (Phase.COMPLETED, Phase.FAILED)


class _Asks(Protocol):
    @property
    def cores(self) -> int | None: ...
    @property
    def ram(self) -> int | None: ...
    @property
    def gpus(self) -> int | None: ...


@attrs.frozen(kw_only=True)
class Resources:
    """The resources that a job asks for; None leaves one to the platform."""

    cores: int | None = None
    ram: int | None = None  #: GiB
    gpus: int | None = None

    def times(self, count: int) -> Resources:
        """Return *count* times these resources."""

        def scaled(value: int | None) -> int | None:
            return None if value is None else value * count

        return self if count == 1 else Resources(cores=scaled(self.cores), ram=scaled(self.ram), gpus=scaled(self.gpus))


@attrs.frozen(kw_only=True)
class LaunchRequest:
    """Everything that one launch sends; `cmd`, `args` and `env` are encoded for the server's templating."""

    name: str
    image: str
    resources: Resources
    cmd: str | None = attrs.field(default=None, repr=False)
    args: str | None = attrs.field(default=None, repr=False)
    env: tuple[tuple[str, str], ...] = attrs.field(default=(), repr=False)
    secrets: tuple[str, ...] = attrs.field(default=(), repr=False)  #: values in the request that must not be shown


@attrs.frozen(kw_only=True)
class ContainerInfo:
    """One container as the platform described it in one answer."""

    id: str
    name: str  #: lower case, as the platform returns it
    phase: Phase
    status: str  #: the platform's own word for the phase
    type: str = "headless"
    image: str = ""
    started_at: datetime | None = None
    expires_at: datetime | None = None
    cores: float | None = None  #: asked for; None for flexible jobs
    ram: float | None = None  #: asked for, GiB; None for flexible jobs
    gpus: int = 0
    cores_in_use: float | None = None
    ram_in_use: float | None = None  #: GiB


@attrs.frozen(kw_only=True)
class Limits:
    """The resources that the platform offers to one job."""

    cores: tuple[int, ...]
    ram: tuple[int, ...]  #: GiB
    gpus: tuple[int, ...]
    default_cores: float  #: what a job that asks for no cores gets at first
    default_ram: float  #: what a job that asks for no RAM gets at first, GiB

    def __str__(self) -> str:
        most = [
            f"{max(options):,} {unit}"
            for options, unit in ((self.cores, "cores"), (self.ram, "GiB"), (self.gpus, "GPUs"))
            if options
        ]
        cores = "core" if self.default_cores == 1 else "cores"
        default = f"{self.default_cores:g} {cores}, {self.default_ram:g} GiB by default"
        return f"up to {', '.join(most)} for one job; {default}" if most else default

    _repr_pretty_ = show_as_printed

    def check(self, asked: _Asks) -> None:
        """Check that the platform offers the cores, RAM and GPUs that *asked*, a spec or `Resources`, asks for.

        Raises:
            SpecError: It does not offer them; the message names the nearest that it offers.
        """
        problems = [
            _not_offered(name, unit, value, options)
            for name, unit, value, options in (
                ("cores", "cores", asked.cores, self.cores),
                ("ram", "GiB", asked.ram, self.ram),
                ("gpus", "GPUs", asked.gpus, self.gpus),
            )
            # a platform that lists no cores or no RAM has not said what it offers; one without GPUs has none
            if value is not None and value not in options and (options or name == "gpus")
        ]
        if problems:
            raise SpecError("; ".join(problems))


def offered_at_least(options: Sequence[int], need: float) -> int | None:
    """Return the smallest of *options* that is at least *need*, or None."""
    return min((option for option in options if option >= need), default=None)


def _not_offered(name: str, unit: str, value: int, options: Sequence[int]) -> str:
    if not options:
        return f"{name}={value} is not offered; this platform has none, so leave {name} out"
    ordered = sorted(options)
    place = bisect.bisect(ordered, value)
    nearest = ordered[max(0, place - 1) : place + 1]
    verb = "is" if len(nearest) == 1 else "are"
    return f"{name}={value} is not offered; the nearest {verb} {' and '.join(map(str, nearest))} {unit}"


@attrs.frozen(kw_only=True)
class Usage:
    """What the user's containers of every kind use at this moment."""

    pending: int
    running: int
    cores: float  #: asked for by fixed containers, platform defaults for flexible ones
    ram: float  #: GiB, counted in the same way
    interactive: int  #: how many of the active containers are notebooks, desktops and the like

    @classmethod
    def of(cls, containers: Iterable[ContainerInfo], limits: Limits | None = None) -> Usage:
        """Add up what *containers* use; those that ended use nothing."""
        pending, running = Phase.PENDING, Phase.RUNNING  # a list may have thousands that ended
        active = [info for info in containers if info.phase is running or info.phase is pending]
        cores, ram = (limits.default_cores, limits.default_ram) if limits else (0.0, 0.0)
        return cls(
            pending=sum(info.phase is Phase.PENDING for info in active),
            running=sum(info.phase is Phase.RUNNING for info in active),
            cores=sum(cores if info.cores is None else info.cores for info in active),
            ram=sum(ram if info.ram is None else info.ram for info in active),
            interactive=sum(info.type != "headless" for info in active),
        )

    def __str__(self) -> str:
        return (
            f"{self.running:,} running, {self.pending:,} pending ({self.interactive:,} interactive), "
            f"{self.cores:g} cores, {self.ram:g} GiB"
        )

    _repr_pretty_ = show_as_printed

    @property
    def active(self) -> int:
        """Containers that are pending or running."""
        return self.pending + self.running


@attrs.frozen(kw_only=True)
class Image:
    """A container image that the platform lists."""

    id: str
    kinds: tuple[str, ...] = ()
    digest: str = ""
