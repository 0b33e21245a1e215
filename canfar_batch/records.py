"""What a job is, as frozen values: its states, its attempts, its receipt, and what the platform says of it.

A record never changes and never asks anybody; `lifecycle` makes the next one from an event.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from canfar_batch.failures import Failure
from canfar_batch.spec import Filled, JobSpec

GIB = 1024**3


class JobState(str, enum.Enum):
    """Where a job stands. The last four are final.

    ```python
    batch = session.batch("fits")
    batch.map(spec, n=[1, 2, 3])
    assert batch.counts[cb.JobState.PLANNED] == 3
    assert not any(job.state.final for job in batch)
    ```
    """

    PLANNED = "planned"  #: known to us alone
    LAUNCHING = "launching"  #: sent, or about to be; no answer yet
    PENDING = "pending"  #: the platform has it; it does not run yet
    RUNNING = "running"
    WAITING = "waiting"  #: an attempt is over; another may be due later
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"  #: nobody can say how it ended
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """True once nothing more will happen to the job by itself."""
        return self in FINAL

    @property
    def active(self) -> bool:
        """True while a container exists for the job, or may exist."""
        return self in ACTIVE

    def __str__(self) -> str:
        return self.value

    def __repr__(self) -> str:
        return repr(self.value)  # so that counts read well


FINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.LOST, JobState.CANCELLED})
ACTIVE = frozenset({JobState.LAUNCHING, JobState.PENDING, JobState.RUNNING})


class Phase(str, enum.Enum):
    """What the platform says of a container, whatever words its release uses."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"  #: over, exit code 0
    FAILED = "failed"  #: over, anything else
    OTHER = "other"  #: being stopped, or a word that we do not know; never final

    @property
    def final(self) -> bool:
        """True for the two words that say that the container is over."""
        return self in (Phase.COMPLETED, Phase.FAILED)


@attrs.frozen(kw_only=True)
class Resources:
    """What a job asks for; None leaves it to the platform."""

    cores: int | None = None
    ram: int | None = None  #: GiB
    gpus: int | None = None


@attrs.frozen(kw_only=True)
class LaunchRequest:
    """All that one launch sends: `cmd`, `args` and `env` as the server's templating leaves them whole."""

    name: str
    image: str
    resources: Resources
    cmd: str | None = attrs.field(default=None, repr=False)
    args: str | None = attrs.field(default=None, repr=False)
    env: tuple[tuple[str, str], ...] = attrs.field(default=(), repr=False)
    secrets: tuple[str, ...] = attrs.field(default=(), repr=False)  #: in it somewhere, and to be shown to nobody


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
    """What the platform offers for one job."""

    cores: tuple[int, ...]
    ram: tuple[int, ...]  #: GiB
    gpus: tuple[int, ...]
    default_cores: float  #: what a job that asks for no cores is given to begin with
    default_ram: float  #: GiB, likewise


@attrs.frozen(kw_only=True)
class Usage:
    """What the user's containers of every kind take at this moment."""

    pending: int
    running: int
    cores: float  #: asked for by fixed containers, platform defaults for flexible ones
    ram: float  #: GiB, likewise
    interactive: int  #: how many of the active ones are notebooks, desktops and the like

    @classmethod
    def of(cls, containers: Iterable[ContainerInfo], limits: Limits | None = None) -> Usage:
        """What *containers* take; those that are over take nothing."""
        active = [info for info in containers if info.phase in (Phase.PENDING, Phase.RUNNING)]
        cores, ram = (limits.default_cores, limits.default_ram) if limits else (0.0, 0.0)
        return cls(
            pending=sum(info.phase is Phase.PENDING for info in active),
            running=sum(info.phase is Phase.RUNNING for info in active),
            cores=sum(cores if info.cores is None else info.cores for info in active),
            ram=sum(ram if info.ram is None else info.ram for info in active),
            interactive=sum(info.type != "headless" for info in active),
        )

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


@attrs.frozen(kw_only=True)
class Receipt:
    """What the wrapper around the job's command reported from inside the container.

    Times are of the container's clock. None where the container could not tell.
    """

    exit_code: int | None = None  #: None in a start receipt: the command is not over
    started_at: datetime | None = None
    finished_at: datetime | None = None
    cpu_seconds: float | None = None
    peak_ram: float | None = None  #: GiB, file cache included: an upper bound
    ram_limit: float | None = None  #: GiB
    oom_kills: int | None = None
    timed_out: bool = False
    stopped_by: str | None = None  #: the signal that the container itself was sent, as `"TERM"`
    host: str | None = None
    workdir: str | None = None  #: where it ran: `driver` (in the driver's directory), `own` (in the spec's) or `home`
    outputs: Mapping[str, int | None] = attrs.field(factory=dict, converter=MappingProxyType, hash=False)  #: bytes
    missing: tuple[str, ...] = ()  #: declared outputs that were not there
    trouble: str | None = None  #: why the command could not be begun, where it could not

    @property
    def ended(self) -> bool:
        """True for an end receipt, False for a start receipt."""
        return self.exit_code is not None

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Receipt:
        """The receipt in what `encoding.parse_receipt` read."""

        def moment(name: str) -> datetime | None:
            seconds = fields.get(name)
            return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc)

        def gib(name: str) -> float | None:
            size = fields.get(name)
            return None if size is None else size / GIB

        return cls(
            exit_code=fields.get("exit_code"),
            started_at=moment("started_at"),
            finished_at=moment("finished_at"),
            cpu_seconds=fields.get("cpu_seconds"),
            peak_ram=gib("peak_bytes") or None,  # nothing runs in no memory: a 0 was not measured
            ram_limit=gib("limit_bytes"),
            oom_kills=fields.get("oom_kills"),
            timed_out=bool(fields.get("timed_out")),
            stopped_by=fields.get("stopped_by") or None,
            host=fields.get("host"),
            workdir=fields.get("workdir"),
            outputs=fields.get("outputs") or {},
            missing=tuple(fields.get("missing") or ()),
            trouble=fields.get("trouble") or None,
        )


@attrs.frozen(kw_only=True)
class Attempt:
    """One launch of a job, from the intent to launch it until its end."""

    number: int  #: from 1
    launch_name: str  #: unique; the only thing of ours that the platform gives back
    resources: Resources
    intended_at: datetime  #: when the launch was written down, just before it was sent
    id: str | None = None  #: the platform's name for it; None until the platform answered
    launched_at: datetime | None = None  #: when the platform's answer came
    started_at: datetime | None = None  #: when it began to run, by the container's clock or else the platform's
    seen_at: datetime | None = None  #: when the platform was last heard of it
    ended_at: datetime | None = None  #: when its end became known here
    succeeded: bool | None = None  #: None while it is not over
    verified: bool = False  #: True where a receipt says how it ended
    receipt: Receipt | None = None
    failure: Failure | None = None
    log: Path | None = None  #: where its log was saved

    @property
    def ended(self) -> bool:
        """True once the attempt has ended."""
        return self.succeeded is not None

    @property
    def finished_at(self) -> datetime | None:
        """When its command ended, by the container's clock; else when its end became known."""
        if self.receipt is not None and self.receipt.finished_at is not None:
            return self.receipt.finished_at
        return self.ended_at


@attrs.frozen(kw_only=True)
class JobRecord:
    """Everything known of one job at one moment."""

    key: str
    index: int  #: place in the plan, from 0
    spec: JobSpec
    filled: Filled
    fields: Mapping[str, Any] = attrs.field(factory=dict, hash=False)
    state: JobState = JobState.PLANNED
    attempts: tuple[Attempt, ...] = ()
    resources: Resources = attrs.field(
        default=attrs.Factory(lambda self: resources_of(self.spec), takes_self=True)
    )  #: what the next attempt will ask for
    due: datetime | None = None  #: when the next attempt may be launched
    cancelling: bool = False  #: a cancel was asked for and is not confirmed yet
    attempts_before_reopen: int = (
        0  #: so many first attempts no longer count against the job: it was reopened after them
    )
    result: Any = attrs.field(default=None, hash=False)
    kept: bool = True  #: False where the result was fetched and is no JSON, or too large, so that it is None here
    collected: bool = False
    collect_error: str | None = None

    @property
    def last_attempt(self) -> Attempt | None:
        """The newest attempt, or None before the first launch."""
        return self.attempts[-1] if self.attempts else None

    @property
    def next_number(self) -> int:
        """The number of the next attempt, from 1."""
        return self.attempts[-1].number + 1 if self.attempts else 1

    @property
    def id(self) -> str | None:
        """The platform's name for the newest attempt."""
        return self.last_attempt.id if self.last_attempt else None

    @property
    def failure(self) -> Failure | None:
        """Why the newest attempt failed, if it did."""
        return self.last_attempt.failure if self.last_attempt else None


def resources_of(spec: JobSpec) -> Resources:
    """What *spec* asks for."""
    return Resources(cores=spec.cores, ram=spec.ram, gpus=spec.gpus)
