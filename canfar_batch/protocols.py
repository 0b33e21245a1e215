"""The roles. Read this first: everything else is somebody who plays one of them.

A batch is held together by five roles. A *launch strategy* picks who goes next, a *monitor strategy* looks at the
platform, a *retry policy* says what deserves another attempt, a *result collector* fetches what a job made, an
*observer* hears what happened. Each is one callable, so a function, a lambda or a small frozen class fits. The
*platform* is the sixth: where containers run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import attrs

from canfar_batch.clock import Clock as Clock
from canfar_batch.failures import Failure
from canfar_batch.lifecycle import Event
from canfar_batch.records import (
    ContainerInfo,
    Image,
    JobRecord,
    JobState,
    LaunchRequest,
    Limits,
    Resources,
    Usage,
)


@runtime_checkable
class Platform(Protocol):
    """Where containers run. Safe to call from many threads; every method may raise `PlatformError` and
    `CredentialError`.
    """

    @property
    def url(self) -> str:
        """The address that tells this platform from others."""

    @property
    def user(self) -> str | None:
        """Who we are there; None until the platform has said so."""

    @property
    def expires_at(self) -> datetime | None:
        """When our credential ends; None where it does not, or cannot be known."""

    def launch(self, request: LaunchRequest) -> str:
        """Send one launch, once, and return the id.

        Raises:
            PlatformRefused: It was refused, so nothing was made; `PlatformBusy` where a later try may do.
            NotSent: It provably never left.
            LaunchInDoubt: Anything else: it may have been made, or may yet be.
        """

    def containers(self, kind: str | None = "headless") -> list[ContainerInfo]:
        """All of the user's containers of this kind (None: of all kinds) in one question."""

    def container(self, id: str) -> ContainerInfo:
        """One container.

        Raises:
            JobNotFound: The service itself said that it knows none of this id.
        """

    def logs(self, id: str) -> bytes:
        """All that the container printed so far. Empty also where the platform knows no such container."""

    def events(self, id: str) -> str:
        """What the cluster noted about the container, as text; empty where there is nothing."""

    def cancel(self, id: str) -> None:
        """Ask that the container be stopped and removed. No answer proves that it was: look again."""

    def limits(self) -> Limits:
        """What one job may ask for."""

    def images(self, kind: str | None = "headless") -> list[Image]:
        """The images that the platform lists."""

    def stats(self) -> Mapping[str, Any]:
        """The cluster's totals, as the platform gives them."""


def _several(jobs: JobRecord | Iterable[JobRecord]) -> tuple[JobRecord, ...]:
    return (jobs,) if isinstance(jobs, JobRecord) else tuple(jobs)


@attrs.frozen
class Bundle:
    """The jobs that one container carries: one, unless a bundling strategy says more."""

    jobs: tuple[JobRecord, ...] = attrs.field(converter=_several)


@attrs.frozen
class Pick:
    """What a launch strategy wants: these loads now, and to be asked again after so many seconds.

    A job stands for the load that consists of it.
    """

    loads: Sequence[Bundle | JobRecord] = ()
    again: float | None = None


def _nothing() -> Iterator[JobRecord]:
    return iter(())


@attrs.frozen(kw_only=True)
class BatchView:
    """What a strategy may know of a batch; made anew for each question.

    Iterating costs what is taken, not what the batch holds.
    """

    now: datetime
    counts: Mapping[JobState, int]
    containers: int  #: that exist or may exist: launches without an answer are counted, those seen at their end are not
    room: int = 32  #: how many launches will be taken up at this moment; what is picked beyond must be picked again
    launches: Sequence[datetime] = ()  #: when each was sent, the newest last; a few thousand at most
    finishes: Sequence[datetime] = ()
    refusals: Sequence[datetime] = ()  #: when the platform said "not now", or gave no clear answer
    limits: Limits | None = None  #: as last heard
    usage: Usage | None = None  #: as last heard: all of the user's containers, this batch's among them
    doubt: bool = False  #: True where there may be containers whose id is not known, so that a list must be asked for
    _ready: Callable[[], Iterable[JobRecord]] = attrs.field(default=_nothing, repr=False)
    _active: Callable[[], Iterable[JobRecord]] = attrs.field(default=_nothing, repr=False)

    def ready(self, at_most: int | None = None) -> list[JobRecord]:
        """The next jobs that may be launched now, in plan order; none if *at_most* is 0 or less."""
        return list(islice(self._ready(), None if at_most is None else max(0, at_most)))

    def active(self) -> Iterator[JobRecord]:
        """The jobs that have a container, or may have one, and are not known to be over."""
        return iter(self._active())


@attrs.frozen(kw_only=True)
class Observation:
    """One look at the platform: what was seen, when, and when to look again."""

    containers: Mapping[
        str, ContainerInfo | None
    ]  #: by id; None where the platform itself said that it knows no such id
    at: datetime  #: when it was seen, UTC
    wait: float = attrs.field(validator=attrs.validators.ge(0))  #: seconds until the next look
    complete: bool = (
        True  #: True where every container of the user would be in `containers`, so that absence means something
    )


@attrs.frozen(kw_only=True)
class Again:
    """A retry policy's yes: after so many seconds, with these resources (None: the same).

    Raises:
        ValueError: *after* is no number of seconds.
    """

    after: float = attrs.field(default=0.0, validator=[attrs.validators.ge(0), attrs.validators.lt(math.inf)])
    resources: Resources | None = None


@attrs.frozen
class Stop:
    """A retry policy's no, and why."""

    why: str = ""


class LaunchStrategy(Protocol):
    """Decides who is launched next. Pure: it looks at the view and nothing else."""

    def __call__(self, view: BatchView, /) -> Sequence[Bundle | JobRecord] | Pick: ...


class MonitorStrategy(Protocol):
    """Looks at the platform. Brings facts with the time they were seen, never verdicts."""

    def __call__(self, platform: Platform, view: BatchView, /) -> Observation: ...


class RetryPolicy(Protocol):
    """Decides whether a failed job gets another attempt. Pure."""

    def __call__(self, job: JobRecord, failure: Failure, /) -> Again | Stop: ...


class ResultCollector(Protocol):
    """Fetches what a job made; called at least once per success, in a worker thread."""

    def __call__(self, job: JobRecord, platform: Platform, /) -> object: ...


class Observer(Protocol):
    """Hears what happened, once it is in the ledger. What it raises is logged and changes nothing."""

    def __call__(self, event: Event, /) -> object: ...
