"""What an engine is set up with: the platform, the strategies, the settings, and the threads that it works with."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Generic, Protocol, TypeVar

import attrs

from canfar_batch.protocols import (
    Clock,
    LaunchStrategy,
    MonitorStrategy,
    Observer,
    Platform,
    ResultCollector,
    RetryPolicy,
)
from canfar_batch.records import Attempt
from canfar_batch.storage import Inputs

SETTLE = 120.0  #: seconds for which a container must be absent before it counts as gone: a create's time-out, and 30
GRACE = 35.0  #: seconds for which a container may live on after `Failed` or a delete (Kubernetes: 30)
MEMORY = 3600.0  #: seconds for which the platform remembers an ended container (skaha's launch template)
LONG_WAIT = 3600.0  #: seconds of waiting after which a job is reported to wait for long
OUTAGE = 2100.0  #: seconds for which an ill service of the platform may make it refuse what it accepted before
ABSENT_POLLS = 3  #: polls that must miss a container, spread over the settle time, before it counts as gone
ALIKE = 5  #: jobs that must be given up for one cause, before any success, to pause the batch

T = TypeVar("T")


@attrs.frozen
class Outcome(Generic[T]):
    """The result of a piece of work: a value, or the exception that it raised."""

    value: T | None = None
    error: BaseException | None = None

    def get(self) -> T:
        """Return the value.

        Raises:
            BaseException: The work raised it.
        """
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # there is a value if there is no error

    @classmethod
    def of(cls, work: Callable[[], T], caught: type[BaseException] = Exception) -> Outcome[T]:
        """Do *work* and return its outcome; exceptions other than *caught* are raised."""
        try:
            return cls(value=work())
        except caught as error:
            return cls(error=error)


class Pool(Protocol):
    """Threads that work for one engine."""

    def submit(self, queue: str, work: Callable[[], T], then: Callable[[Outcome[T]], None]) -> None:
        """Have *work* done by a thread of *queue*; `drain` calls *then* with its outcome."""

    def drain(self) -> int:
        """Call back for all work that is done by now, and return how many callbacks were made.

        If a callback raises, the remaining results wait for the next call.
        """

    def wait(self, seconds: float) -> None:
        """Sleep for *seconds*, or until there is a result to drain."""

    def close(self) -> None:
        """Start no more work. Work in progress is not waited for."""


@attrs.frozen(kw_only=True)
class Strategies:
    """The four strategies that a batch is driven by."""

    launch: LaunchStrategy
    monitor: MonitorStrategy
    retry: RetryPolicy
    collect: ResultCollector


@attrs.frozen(kw_only=True)
class Setup:
    """Everything that an engine needs beside the ledger and the home."""

    platform: Platform
    strategies: Strategies
    clock: Clock
    settle: float = SETTLE  #: seconds for which a container must be absent before it counts as gone
    grace: float = GRACE  #: seconds for which a container may live on after `Failed` or a delete
    memory: float = MEMORY  #: seconds for which the platform remembers an ended container
    long_wait: float = LONG_WAIT  #: seconds of waiting after which a job is reported to wait for long
    platform_began: datetime | None = None  #: when the platform began, if it lives only as long as the session
    inputs: Inputs | None = None  #: the files to bring to the platform before the first launch
    shared: bool = False  #: whether containers are known to see this machine's files
    is_single: bool = False  #: whether it drives one job that belongs to no batch, whose troubles the caller reports
    observers: Sequence[Observer] = ()
    pool: Callable[[], Pool] | None = None  #: makes the pool of threads that talk to the platform; None for the usual
    random: Callable[[], float] = random.random  #: from 0 to 1, so that no two drivers poll in step

    def has_replaced(self, attempt: Attempt) -> bool:
        """Return whether the platform is a newer one than that which *attempt* was launched on, and that has ended."""
        began, launched = self.platform_began, attempt.launched_at or attempt.intended_at
        return began is not None and launched < began
