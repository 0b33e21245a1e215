"""The roles that make up a batch. Read this first: most classes of the package play one of them.

A *launch strategy* picks the next jobs, a *monitor strategy* polls the platform, a *retry policy* decides about another
attempt, a *result collector* fetches the result of a job, an *observer* receives the events. Each is one callable, so a
function, a lambda or a small frozen class fits. The sixth role is the *platform*, on which containers run.

Some members are optional: `CloseablePlatform`, `BundlingStrategy`, `SerialCollector` and `FileCollector` declare them,
and `close`, `is_closed`, `container_resources`, `is_serial` and `files_read` use them if they exist.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from itertools import islice
from pathlib import Path, PurePosixPath
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
from canfar_batch.storage import Progress, RemoteFile


@runtime_checkable
class Platform(Protocol):
    """Where containers run. Safe to call from many threads; every method may raise `PlatformError` and
    `CredentialError`. An answer that did not come is an error, never an empty result.
    """

    @property
    def url(self) -> str:
        """The address that identifies this platform."""

    @property
    def user(self) -> str | None:
        """The user's name on the platform; None until the platform has given it."""

    @property
    def expires_at(self) -> datetime | None:
        """When the credential expires; None if it does not, or if that is unknown."""

    def launch(self, request: LaunchRequest) -> str:
        """Send one launch, once, and return the container's id.

        Raises:
            PlatformRefused: It was refused, so nothing was made; `may_pass` is False if the same request would
                certainly be refused again.
            PlatformBusy: Nothing was made, and a later try may succeed. `NotMade` if it failed inside the platform.
            NotSent: It provably never left this machine.
            CredentialError: There is no good credential, so nothing was made.
            LaunchInDoubt: Anything else: a container may have been made, or may yet be.
        """

    def containers(self, kind: str | None = "headless") -> list[ContainerInfo]:
        """Return all of the user's containers of this kind (None: of all kinds), with one request."""

    def container(self, id: str) -> ContainerInfo:
        """Return one container.

        Raises:
            JobNotFound: The service itself answered that it does not know this id. No other answer proves absence.
        """

    def logs(self, id: str) -> bytes:
        """Return the container's output up to now.

        It is empty if the container has printed nothing, and also if the platform has no log to give: it answers alike
        for a container that waits, one that it has forgotten, and one whose node is silent. So an empty log proves
        nothing. A transfer that was cut is a `PlatformError`.
        """

    def stream_logs(self, id: str) -> Iterator[bytes]:
        """Yield the same as `logs`, in pieces of bounded size. The first piece is requested when it is asked for.

        A transfer that was cut raises `PlatformError` after the pieces that came before.
        """

    def events(self, id: str) -> str | None:
        """Return what the cluster noted about the container's pod.

        Returns:
            Text with a heading and a line for each event; "" if there is a pod without events (or with several pods,
            which the platform cannot show); None if the container has no pod: it waits in the queue, or its pod was
            removed, or the platform does not know it.
        """

    def renew(self, id: str) -> None:
        """Ask the platform to extend the life of a running container.

        The platform does so only in the last days of its life; `container(id).expires_at` shows the outcome.

        Raises:
            PlatformRefused: No container with this id is running.
        """

    def cancel(self, id: str) -> None:
        """Ask to stop and remove the container. No answer proves that this happened: poll again."""

    def limits(self) -> Limits:
        """Return what one job may ask for."""

    def images(self, kind: str | None = "headless") -> list[Image]:
        """Return the images that the platform lists."""

    def stats(self) -> Mapping[str, Any]:
        """Return the cluster's totals, as the platform gives them."""

    def within(self, seconds: float | None) -> AbstractContextManager[None]:
        """Bound the requests that this thread makes in a ``with`` block to this many seconds in all; None: no bound.

        A launch is not bounded, as that would leave it in doubt.
        """


class CloseablePlatform(Platform, Protocol):
    """A platform that holds connections, and can be closed."""

    @property
    def closed(self) -> bool:
        """True after `close`."""

    def close(self) -> None:
        """Give the connections back."""


class RemoteStorage(Protocol):
    """Files on the platform's storage, by paths as containers see them: `/arc/home/you/a.fits`."""

    def download(self, remote: str | os.PathLike[str], local: str | os.PathLike[str], *, digest: bool = True) -> Path:
        """Bring a file or folder here, proved to be whole, or without *digest* by its size alone; return where it is.

        Raises:
            FileNotFoundError: The storage itself answered that there is none.
        """

    def upload(self, local: str | os.PathLike[str], remote: str | os.PathLike[str]) -> PurePosixPath:
        """Bring a file or folder there, proved to be whole; return where containers see it."""

    def read(self, remote: str | os.PathLike[str]) -> bytes:
        """Return the content of a small file.

        Raises:
            FileNotFoundError: The storage itself answered that there is none.
        """

    def write(self, remote: str | os.PathLike[str], data: bytes) -> None:
        """Store a small file, and make its folders."""

    def find(self, remote: str | os.PathLike[str]) -> RemoteFile | None:
        """Return the file or folder; None if there is none."""

    def glob(self, pattern: str | os.PathLike[str]) -> Sequence[PurePosixPath]:
        """Return the files and folders that match a pattern; `*` does not match a slash."""

    def contents(self, remote: str | os.PathLike[str]) -> Mapping[str, RemoteFile]:
        """Return the files and folders in a folder by their names; nothing if there is no such folder."""

    def send(self, files: Mapping[str, Path], *, progress: Callable[[Progress], object] | None = None) -> None:
        """Bring files there, by the paths that they get, each proved to be whole; those that are there are skipped."""


def storage_of(platform: Platform) -> RemoteStorage | None:
    """Return the storage of the platform; None if it has none that can be reached from here."""
    found: RemoteStorage | None = getattr(platform, "storage", None)
    return found


def close(platform: Platform) -> None:
    """Close the platform if it can be closed."""
    closing = getattr(platform, "close", None)
    if closing is not None:
        closing()


def is_closed(platform: Platform) -> bool:
    """Return whether the platform was closed; False for one that cannot be closed."""
    return bool(getattr(platform, "closed", False))


def _several(jobs: JobRecord | Iterable[JobRecord]) -> tuple[JobRecord, ...]:
    return (jobs,) if isinstance(jobs, JobRecord) else tuple(jobs)


@attrs.frozen
class Bundle:
    """The jobs that one container carries: one, unless a bundling strategy says more.

    They have one image and ask for the same resources.
    """

    jobs: tuple[JobRecord, ...] = attrs.field(converter=_several)
    parallel: int = attrs.field(default=1, validator=attrs.validators.gt(0), kw_only=True)  #: how many run at a time
    #: what the container asks for; None for the resources of as many jobs as run at a time
    resources: Resources | None = attrs.field(default=None, kw_only=True)

    @property
    def asks_for(self) -> Resources:
        """What the container asks for."""
        return self.resources or self.jobs[0].resources.times(min(self.parallel, len(self.jobs)))


@attrs.frozen
class Pick:
    """A launch strategy's choice: the bundles to launch now, and the seconds after which to ask it again.

    A job stands for the bundle that contains only this job.
    """

    bundles: Sequence[Bundle | JobRecord] = ()
    again: float | None = None


def _nothing() -> Iterator[JobRecord]:
    return iter(())


@attrs.frozen(kw_only=True)
class BatchView:
    """A batch as strategies see it; a new one is made for each call.

    The cost of iterating is proportional to the jobs taken, not to those in the batch.
    """

    now: datetime
    counts: Mapping[JobState, int]
    containers: int  #: those that exist or may exist: launches without an answer included, ended ones not
    room: int = 32  #: how many containers can be launched at this moment; return jobs beyond that again next time
    launches: Sequence[datetime] = ()  #: when each launch was sent, the newest last; a few thousand at most
    finishes: Sequence[datetime] = ()
    refusals: Sequence[datetime] = ()  #: when the platform was busy, or gave no clear answer
    limits: Limits | None = None  #: as last received
    usage: Usage | None = None  #: as last received: all of the user's containers, including this batch's
    typical: float | None = None  #: seconds that finished jobs took, on average; None before the first
    backlog: float | None = None  #: seconds that all jobs still to be launched are expected to run; None if unknown
    doubt: bool = False  #: True if there may be containers whose id is unknown, so that a list is needed
    _ready: Callable[[], Iterable[JobRecord]] = attrs.field(default=_nothing, repr=False)
    _active: Callable[[], Iterable[JobRecord]] = attrs.field(default=_nothing, repr=False)
    _longest: Callable[[], Iterable[JobRecord]] | None = attrs.field(default=None, repr=False)

    def ready(self, at_most: int | None = None, *, longest_first: bool = False) -> list[JobRecord]:
        """Return the next jobs that may be launched now; none if *at_most* is 0 or less.

        Args:
            at_most: How many to return; None for all.
            longest_first: Whether those come first that are expected to run longest, instead of the order of the plan.
        """
        order = self._longest if longest_first and self._longest is not None else self._ready
        return list(islice(order(), None if at_most is None else max(0, at_most)))

    def active(self) -> Iterator[JobRecord]:
        """Iterate over the jobs that have a container, or may have one, and have not ended."""
        return iter(self._active())


@attrs.frozen(kw_only=True)
class Observation:
    """One poll of the platform: the containers, the time, and when to poll again."""

    containers: Mapping[str, ContainerInfo | None]  #: by id; None if the platform itself reported the id as unknown
    at: datetime  #: time of the poll, UTC
    wait: float = attrs.field(validator=attrs.validators.ge(0))  #: seconds until the next poll
    complete: bool = True  #: True if `containers` has every container of the user, so that absence means something


@attrs.frozen(kw_only=True)
class Again:
    """A retry policy's answer: another attempt, *after* this many seconds, with these resources (None: the same).

    Raises:
        ValueError: *after* is not a finite number of seconds of at least 0.
    """

    after: float = attrs.field(default=0.0, validator=[attrs.validators.ge(0), attrs.validators.lt(math.inf)])
    resources: Resources | None = None


@attrs.frozen
class Stop:
    """A retry policy's answer: no other attempt, and why."""

    why: str = ""


class LaunchStrategy(Protocol):
    """Decides which jobs are launched next. Pure: it uses only the view."""

    def __call__(self, view: BatchView, /) -> Sequence[Bundle | JobRecord] | Pick: ...


class BundlingStrategy(LaunchStrategy, Protocol):
    """A launch strategy whose containers may carry several jobs."""

    def container_resources(self, job: Resources) -> Resources:
        """Return what a container asks for at most that carries jobs with these resources."""


def container_resources(strategy: LaunchStrategy, job: Resources) -> Resources | None:
    """Return what a container asks for at most that carries jobs with these resources; None if it carries one job."""
    ask = getattr(strategy, "container_resources", None)
    if ask is not None:
        found: Resources = ask(job)
        return found
    inner = getattr(strategy, "then", None)
    return None if inner is None else container_resources(inner, job)


class MonitorStrategy(Protocol):
    """Polls the platform. It returns facts with their time, never verdicts."""

    def __call__(self, platform: Platform, view: BatchView, /) -> Observation: ...


class RetryPolicy(Protocol):
    """Decides whether a failed job gets another attempt. Pure."""

    def __call__(self, job: JobRecord, failure: Failure, /) -> Again | Stop: ...


class ResultCollector(Protocol):
    """Fetches the result of a job; called at least once per success, in a worker thread."""

    def __call__(self, job: JobRecord, platform: Platform, /) -> object: ...


class SerialCollector(ResultCollector, Protocol):
    """A result collector that may have to be called in the driver's own thread, one job at a time."""

    @property
    def serial(self) -> bool:
        """True if it must be called in the driver's own thread."""


def is_serial(collector: ResultCollector) -> bool:
    """Return whether the collector must be called in the driver's own thread; False unless it says so."""
    return bool(getattr(collector, "serial", False))


class FileCollector(ResultCollector, Protocol):
    """A result collector that reads files, and names them, so that no two jobs get the same ones."""

    def reads(self, job: JobRecord, /) -> tuple[str, ...]:
        """Return the paths or patterns of the files, relative to the job's working directory."""


def files_read(collector: ResultCollector, job: JobRecord) -> tuple[str, ...]:
    """Return the paths or patterns of the files in which the collector finds the job's result, as far as it says."""
    reads = getattr(collector, "reads", None)
    return () if reads is None else tuple(reads(job))


class Observer(Protocol):
    """Receives each event after it is in the ledger. An exception that it raises is logged and changes nothing."""

    def __call__(self, event: Event, /) -> object: ...
