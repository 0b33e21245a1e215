"""Jobs as frozen values: their states, attempts and receipts, and the platform's answers (from `containers`).

A record never changes and never does I/O; `lifecycle` makes the next one from an event.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from canfar_batch.containers import (
    GIB,
    ContainerInfo,
    Image,
    LaunchRequest,
    Limits,
    Phase,
    Resources,
    Usage,
    offered_at_least,
)
from canfar_batch.failures import Failure
from canfar_batch.payload.receipts import mark
from canfar_batch.spec import Filled, JobSpec

__all__ = [
    "ACTIVE",
    "FINAL",
    "GIB",
    "STATE_OF_PHASE",
    "Attempt",
    "ContainerInfo",
    "Image",
    "JobRecord",
    "JobState",
    "LaunchRequest",
    "Limits",
    "LostRun",
    "Phase",
    "Receipt",
    "Resources",
    "Usage",
    "offered_at_least",
    "resources_of",
]


class JobState(str, enum.Enum):
    """The state of a job. The last four are final.

    ```python
    batch = session.batch("fits")
    batch.map(spec, n=[1, 2, 3])
    assert batch.counts[cb.JobState.PLANNED] == 3
    assert not any(job.state.final for job in batch)
    ```
    """

    PLANNED = "planned"  #: known to this batch only
    LAUNCHING = "launching"  #: the launch was sent, or is about to be, and has no answer yet
    PENDING = "pending"  #: the platform has accepted the job and not started it yet
    RUNNING = "running"
    WAITING = "waiting"  #: an attempt ended; another may be due later
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"  #: how it ended is unknown
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """True if the job will not change any more by itself."""
        return self in FINAL

    @property
    def active(self) -> bool:
        """True while a container exists for the job, or may exist."""
        return self in ACTIVE

    def __str__(self) -> str:
        return self.value

    def __repr__(self) -> str:
        return repr(self.value)  # so that counts read well


GIVEN_UP = (JobState.FAILED, JobState.LOST)  #: the states that count as failures, as `Batch.failed` shows them
FINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.LOST, JobState.CANCELLED})
ACTIVE = frozenset({JobState.LAUNCHING, JobState.PENDING, JobState.RUNNING})

#: the state of a job whose container is in a phase that is not final; other phases say nothing about the job
STATE_OF_PHASE: Mapping[Phase, JobState] = MappingProxyType(
    {Phase.PENDING: JobState.PENDING, Phase.RUNNING: JobState.RUNNING}
)


@attrs.frozen(kw_only=True)
class Receipt:
    """The wrapper's report from inside the container, on the job's command.

    Times are by the container's clock. A value is None if the container could not find it out.
    """

    exit_code: int | None = None  #: None in a start receipt: the command has not ended
    started_at: datetime | None = None
    finished_at: datetime | None = None
    cpu_seconds: float | None = None
    peak_ram: float | None = None  #: GiB, file cache included: an upper bound
    ram_limit: float | None = None  #: GiB
    oom_kills: int | None = None  #: processes that the kernel killed for lack of memory
    timed_out: bool = False  #: the command was stopped for its time-out, whatever its exit code
    stopped_by: str | None = None  #: the signal that the container itself was sent, such as `"TERM"`
    host: str | None = None
    ran_in: str | None = None  #: `driver` (the driver's directory), `own` (the spec's workdir) or `home`
    outputs: Mapping[str, int | None] = attrs.field(factory=dict, converter=MappingProxyType, hash=False)  #: bytes
    unchanged: tuple[str, ...] = ()  #: outputs that existed before the command began and were not changed by it
    missing: tuple[str, ...] = ()  #: declared outputs that were not there
    trouble: str | None = None  #: why the command could not be begun, if it could not

    def __reduce__(self) -> tuple[Callable[[dict[str, Any]], Receipt], tuple[dict[str, Any]]]:
        values = attrs.asdict(self, recurse=False)  # a mappingproxy cannot be pickled
        return _receipt, ({**values, "outputs": dict(self.outputs)},)

    @property
    def ended(self) -> bool:
        """True for an end receipt, False for a start receipt."""
        return self.exit_code is not None

    @property
    def empty(self) -> tuple[str, ...]:
        """Outputs of 0 bytes, and directories with nothing in them."""
        return tuple(path for path, size in self.outputs.items() if size == 0)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Receipt:
        """Make the receipt from the fields that `payload.receipts` read."""

        def moment(name: str) -> datetime | None:
            seconds = fields.get(name)
            try:
                return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc)
            except (ValueError, OverflowError, OSError):
                return None  # not a time that a container's clock can have

        def gib(name: str) -> float | None:
            size = fields.get(name)
            return None if size is None else size / GIB

        return cls(
            exit_code=fields.get("exit_code"),
            started_at=moment("started_at"),
            finished_at=moment("finished_at"),
            cpu_seconds=fields.get("cpu_seconds"),
            peak_ram=gib("peak_bytes") or None,  # every process uses memory: 0 means that it was not measured
            ram_limit=gib("limit_bytes"),
            oom_kills=fields.get("oom_kills"),
            timed_out=bool(fields.get("timed_out")),
            stopped_by=fields.get("stopped_by") or None,
            host=fields.get("host"),
            ran_in=fields.get("workdir"),
            outputs=fields.get("outputs") or {},
            unchanged=tuple(fields.get("unchanged") or ()),
            missing=tuple(fields.get("missing") or ()),
            trouble=fields.get("trouble") or None,
        )


def _receipt(values: dict[str, Any]) -> Receipt:
    return Receipt(**values)


@attrs.frozen
class LostRun:
    """A run of a container that the platform stopped; the container began again from the start."""

    began: datetime
    ended: datetime

    @property
    def seconds(self) -> float:
        """The time that it took; 0 if the clocks differ so much that it is not known."""
        return max(0.0, (self.ended - self.began).total_seconds())


def _few(paths: tuple[str, ...]) -> str:
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return ", ".join(paths[:3]) + more


@attrs.frozen(kw_only=True)
class Attempt:
    """One launch of a job, from the intent to launch it until its end."""

    number: int  #: from 1
    launch_name: str  #: unique; the only part of a launch that the platform returns
    resources: Resources
    intended_at: datetime  #: when the launch was recorded, just before it was sent
    id: str | None = None  #: the platform's name for it; None until the platform answered
    launched_at: datetime | None = None  #: when the platform's answer came
    started_at: datetime | None = (
        None  #: when its present or last run began: by its receipt, else as first seen running
    )
    start_time: datetime | None = None  #: the platform's start time of the present run: of its pod, before any pull
    expires_at: datetime | None = None  #: when the platform ends the present run
    restarts: int = 0  #: runs of this container that the platform stopped and began again from the start
    lost_seconds: float = 0.0  #: time that those runs took
    lost_runs: tuple[LostRun, ...] = ()  #: those runs, oldest first
    shown: bool = False  #: whether the platform ever showed its container
    held_up: str | None = None  #: why it may wait for ever, if that is so
    stopped_for: Failure | None = None  #: why the engine decided to stop it, if it did
    seen_at: datetime | None = None  #: when the platform last reported it
    ended_at: datetime | None = None  #: when its end became known
    succeeded: bool | None = None  #: None until it has ended
    verified: bool = False  #: True if a receipt shows how it ended
    receipt: Receipt | None = None
    failure: Failure | None = None
    log: Path | None = None  #: the file to which its log was saved; None if it was not available
    log_is_cut: bool = False  #: whether the log's beginning was missing
    outputs_unchecked: bool = False  #: whether it succeeded without a receipt that lists its declared outputs
    task: int | None = None  #: its number in the bundle that its container carries, from 1; None if it is alone

    @property
    def run_name(self) -> str:
        """The name of this one run: the launch name, which the jobs of a bundle share, and the task's number."""
        return mark(self.launch_name, self.task)

    @property
    def has_run(self) -> bool:
        """Whether there is proof that its command ran at some time."""
        return self.started_at is not None or self.restarts > 0

    @property
    def is_suspended(self) -> bool:
        """Whether the platform stopped it to make room, and will start it again from the beginning."""
        return not self.ended and self.restarts > 0 and self.started_at is None

    @property
    def is_held_up(self) -> bool:
        """Whether it waits, and may wait for ever."""
        return self.held_up is not None and not self.ended and not self.has_run

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader should know about this attempt, as sentences without a full stop."""
        found: list[str] = []
        if self.held_up is not None and self.is_held_up:
            found.append(self.held_up)
        if self.outputs_unchecked and not self.verified:
            found.append("whether its declared outputs are there is not known: no receipt reports them")
        receipt = self.receipt
        if receipt is not None and self.succeeded:
            is_complete = receipt.outputs and not receipt.missing and not receipt.unchanged
            there = ", and its outputs are there" if is_complete else ""
            if receipt.timed_out:
                found.append(f"its time-out stopped it; it ended with 0{there}")
            elif receipt.stopped_by is not None:
                found.append(f"it was asked to stop ({receipt.stopped_by}); it ended with 0{there}")
            if receipt.missing:
                found.append(f"declared outputs that were not there: {_few(receipt.missing)}")
            if receipt.oom_kills:
                found.append(f"{receipt.oom_kills} of its processes were killed for lack of memory")
            if receipt.unchanged:
                found.append(f"outputs that were there before and were not written: {_few(receipt.unchanged)}")
            if receipt.empty:
                found.append(f"outputs that are empty: {_few(receipt.empty)}")
        if self.ended and self.log is None and self.has_run and self.id is not None:
            found.append("its log was not available")
        if self.log_is_cut:
            found.append("the beginning of its log is missing: the node had rotated it away")
        return tuple(found)

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
    """Everything known about one job at one moment."""

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
    expected: float | None = None  #: seconds that it is expected to run, if that is known
    cancelling: bool = False  #: a cancel was asked for and is not confirmed yet
    attempts_before_reopen: int = 0  #: the job was reopened after this many attempts, which no longer count against it
    result: Any = attrs.field(default=None, hash=False)
    stored: bool = True  #: False if the result was fetched and the ledger cannot store it, so that it is None here
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
        attempts = self.attempts
        return attempts[-1].id if attempts else None

    @property
    def failure(self) -> Failure | None:
        """Why the newest attempt failed, if it did."""
        return self.last_attempt.failure if self.last_attempt else None


def resources_of(spec: JobSpec) -> Resources:
    """Return the resources that *spec* asks for."""
    return shared_resources(spec.cores, spec.ram, spec.gpus)


@functools.lru_cache(maxsize=1000)
def shared_resources(cores: int | None, ram: int | None, gpus: int | None) -> Resources:
    """Return one value for all jobs that ask for the same, which saves memory."""
    return Resources(cores=cores, ram=ram, gpus=gpus)
