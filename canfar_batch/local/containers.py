"""What the platform knows about one container: what was asked for, where it stands, what happened to it."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path

from canfar_batch.local.cgroups import Account
from canfar_batch.local.templating import Bundle

GIB = 1 << 30

PENDING, RUNNING, COMPLETED, FAILED = "Pending", "Running", "Completed", "Failed"
FINAL = frozenset({COMPLETED, FAILED})


@dataclasses.dataclass(frozen=True)
class Resources:
    """Cores and RAM (GiB), as requested and as limited."""

    cores: float = 1.0
    cores_limit: float = 8.0
    ram: float = 4.0
    ram_limit: float = 32.0
    gpus: int = 0
    fixed: bool = False  #: whether RAM was asked for, which is what the service calls fixed


@dataclasses.dataclass(frozen=True)
class Order:
    """A create request that was accepted."""

    id: str
    name: str  #: the label: in lower case, cut where it was too long
    type: str
    image: str
    bundle: Bundle = dataclasses.field(default_factory=Bundle)
    resources: Resources = dataclasses.field(default_factory=Resources)


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that Kubernetes reported about the pod."""

    type: str  #: Normal or Warning
    reason: str
    message: str
    time: dt.datetime | None  #: None for the scheduler, which leaves its times out


@dataclasses.dataclass(frozen=True)
class ContainerInfo:
    """A snapshot of one container, for tests: also what the service never tells."""

    id: str
    name: str
    status: str
    starts: int  #: how often its process was started
    exit_code: int | None
    pid: int | None
    peak: int  #: bytes
    cpu_seconds: float
    oom_kills: int


@dataclasses.dataclass(eq=False)
class Container:
    """One container and its changing state. Whoever changes it holds the cluster's lock."""

    order: Order
    job: str  #: the name of its Kubernetes Job
    user: str
    status: str = PENDING
    started: dt.datetime | None = None
    exit_code: int | None = None
    runs: int = 0
    pod: bool = False  #: whether a pod exists: not while it is queued
    pid: int | None = None
    account: Account | None = None
    log: Path | None = None
    events: list[Event] = dataclasses.field(default_factory=list)
    kill_at: float | None = None  #: when SIGTERM's grace ends, by the monotonic clock
    deleted: bool = False
    preempted: bool = False
    changes: int = 0  #: counts what could alter how it is shown

    @property
    def id(self) -> str:
        """The id that the service gave it."""
        return self.order.id

    def report(self, reason: str, message: str, *, type_: str = "Normal", timed: bool = True) -> None:
        """Note an event of its pod."""
        self.events.append(Event(type_, reason, message, now() if timed else None))

    def info(self) -> ContainerInfo:
        """A snapshot."""
        usage = self.account.usage if self.account else None
        return ContainerInfo(
            id=self.id,
            name=self.order.name,
            status=self.status,
            starts=self.runs,
            exit_code=self.exit_code,
            pid=self.pid,
            peak=usage.peak if usage else 0,
            cpu_seconds=usage.cpu_usec / 1e6 if usage else 0.0,
            oom_kills=usage.oom_kills if usage else 0,
        )


def now() -> dt.datetime:
    """The time in UTC, in whole seconds as Kubernetes keeps it."""
    return dt.datetime.now(dt.timezone.utc).replace(microsecond=0)
