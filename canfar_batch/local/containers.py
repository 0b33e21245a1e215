"""One container: the request, its pods, its state."""

from __future__ import annotations

import datetime as dt
import secrets
import string
import time
from pathlib import Path

import attrs

from canfar_batch.local.cgroups import Account
from canfar_batch.local.templating import Bundle

GIB = 1 << 30
POSIX_ID = 10_000  #: the number of the platform's first user
DEADLINE = 14 * 24 * 3600.0  #: seconds that one run of a headless container may take
RENEWED = 4 * 24 * 3600.0  #: seconds that remain at least after a renewal

PENDING, RUNNING, COMPLETED, FAILED = "Pending", "Running", "Completed", "Failed"
FINAL = frozenset({COMPLETED, FAILED})

_POD_LETTERS = string.ascii_lowercase + string.digits


@attrs.frozen
class Resources:
    """Cores and RAM (GiB), as requested and as limited."""

    cores: float = 1.0
    cores_limit: float = 8.0
    ram: float = 4.0
    ram_limit: float = 32.0
    gpus: int = 0
    fixed: bool = False  #: whether RAM was asked for; the service calls such sessions fixed
    refused: bool = False  #: whether the cluster refuses every pod of it: above a maximum by a fraction


@attrs.frozen
class Order:
    """A create request that was accepted."""

    id: str
    name: str  #: the label: in lower case, cut if it was too long
    type: str
    image: str
    bundle: Bundle = attrs.field(factory=Bundle)
    resources: Resources = attrs.field(factory=Resources)


@attrs.frozen
class Event:
    """An event of a pod, as Kubernetes reports it."""

    type: str  #: Normal or Warning
    reason: str
    message: str
    time: dt.datetime | None  #: None for the scheduler, which leaves its times out


@attrs.frozen
class ContainerInfo:
    """A snapshot of one container, for tests; the service shows only part of it."""

    id: str
    name: str
    status: str
    starts: int  #: how often a pod was made for it
    exit_code: int | None
    pid: int | None
    peak: int  #: bytes
    cpu_seconds: float
    oom_kills: int
    pods: int = 0  #: pods that exist: two while an old one has its grace time


@attrs.define(eq=False)
class Pod:
    """One run of a container. Code that changes it holds the cluster's lock."""

    name: str
    number: int  #: from 1
    log: Path
    events: list[Event] = attrs.field(factory=list)
    pid: int | None = None
    account: Account | None = None
    exit_code: int | None = None
    is_running: bool = False  #: whether its process was started and has not ended
    kill_at: float | None = None  #: the end of SIGTERM's grace, by the monotonic clock
    is_leaving: bool = False  #: whether it is removed when its process ends
    decides: bool = True  #: whether its end decides the container's status
    may_succeed: bool = True  #: whether exit code 0 makes the container Completed
    is_silent: bool = False  #: whether its node does not report: its end is not noticed
    hidden_until: float = 0.0  #: its log is empty until then, by the monotonic clock
    rotated_at: int = 0  #: bytes at the beginning of the log that were rotated away
    created: float = attrs.field(factory=time.monotonic)  #: by the monotonic clock, as the next
    clock: float | None = None  #: the start of its process

    def report(self, reason: str, message: str, *, is_warning: bool = False, is_timed: bool = True) -> None:
        """Note an event."""
        self.events.append(Event("Warning" if is_warning else "Normal", reason, message, now() if is_timed else None))


@attrs.define(eq=False)
class Container:
    """One container and its changing state. Code that changes it holds the cluster's lock."""

    order: Order
    job: str  #: the name of its Kubernetes Job
    user: str
    uid: int = POSIX_ID  #: the user's number, and that of the user's own group
    status: str = PENDING
    started: dt.datetime | None = None
    deadline: float = DEADLINE  #: seconds from the start of a run to its end by the platform
    pods: list[Pod] = attrs.field(factory=list)  #: those that exist, latest last
    runs: int = 0
    exit_code: int | None = None
    is_deleted: bool = False
    is_suspended: bool = False
    is_resuming: bool = False  #: whether it is queued again as soon as its old pod is gone
    changes: int = 0  #: counts what could alter how it is shown

    @property
    def id(self) -> str:
        """The id that the service gave it."""
        return self.order.id

    @property
    def pod(self) -> Pod | None:
        """The latest pod, if any exists."""
        return self.pods[-1] if self.pods else None

    @property
    def is_active(self) -> bool:
        """Whether the Job counts an active pod."""
        return bool(self.pods) and self.status not in FINAL and not self.is_suspended

    def new_pod_name(self) -> str:
        """Return a name for its next pod."""
        return f"{self.job}-{''.join(secrets.choice(_POD_LETTERS) for _ in range(5))}"

    def info(self) -> ContainerInfo:
        """Return a snapshot."""
        pod = self.pod
        usage = pod.account.usage if pod is not None and pod.account is not None else None
        return ContainerInfo(
            id=self.id,
            name=self.order.name,
            status=self.status,
            starts=self.runs,
            exit_code=self.exit_code,
            pid=pod.pid if pod is not None else None,
            peak=usage.peak if usage else 0,
            cpu_seconds=usage.cpu_usec / 1e6 if usage else 0.0,
            oom_kills=usage.oom_kills if usage else 0,
            pods=len(self.pods),
        )


def now() -> dt.datetime:
    """Return the time in UTC, in whole seconds as Kubernetes keeps it."""
    return dt.datetime.now(dt.timezone.utc).replace(microsecond=0)
