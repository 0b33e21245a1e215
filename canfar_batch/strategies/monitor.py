"""Monitor strategies: how to poll the platform. They return facts, never verdicts."""

from __future__ import annotations

import random
from collections.abc import Sequence

import attrs

from canfar_batch.errors import JobNotFound, PlatformError
from canfar_batch.protocols import BatchView, MonitorStrategy, Observation, Platform
from canfar_batch.records import ContainerInfo


def _pair(value: tuple[float, float]) -> tuple[float, float]:
    fast, slow = value
    return float(fast), float(slow)


def _two_waits(_: object, attribute: attrs.Attribute[tuple[float, float]], value: tuple[float, float]) -> None:
    fast, slow = value
    if not 0 < fast <= slow:
        raise ValueError(f"{attribute.name}={value!r}: give two positive numbers of seconds, the shorter first")


@attrs.frozen
class Listing:
    """One request for all jobs: often while jobs start or end, less often if none does. This is the default.

    The pause is a tenth of the time since the last launch or end, within the two bounds.

    ```python
    batch = session.batch("fits", monitor=cb.Listing(every=(5, 120)))
    ```

    Args:
        every: The shortest and the longest pause between two polls, in seconds.

    Raises:
        ValueError: The times are not positive, or the longer comes first.
    """

    every: tuple[float, float] = attrs.field(default=(5.0, 60.0), converter=_pair, validator=_two_waits)  #: seconds

    def __call__(self, platform: Platform, view: BatchView) -> Observation:
        """Return all of the user's headless containers."""
        seen = {info.id: info for info in platform.containers()}
        return Observation(containers=seen, at=view.now, wait=self._wait(view))

    def _wait(self, view: BatchView) -> float:
        fast, slow = self.every
        news = [times[-1] for times in (view.launches, view.finishes) if times]
        quiet = (view.now - max(news)).total_seconds() if news else 0.0
        return min(slow, max(fast, quiet / 10)) * _jitter()


@attrs.frozen
class OneByOne:
    """One request for each job, for platforms whose list cannot be trusted: a hundred jobs, a hundred requests.

    The list is read only at first, and while a launch is in doubt, as only its name is known then.

    ```python
    batch = session.batch("fits", monitor=cb.OneByOne(every=60))
    ```

    Args:
        every: Seconds between two polls.
        failures: The number of failed requests that ends a poll. A poll without any answer has failed, too.

    Raises:
        ValueError: *every* or *failures* is not above 0.
    """

    every: float = attrs.field(default=30.0, validator=attrs.validators.gt(0))  #: seconds
    failures: int = attrs.field(default=3, validator=attrs.validators.gt(0))  #: failed requests that end a poll

    def __call__(self, platform: Platform, view: BatchView) -> Observation:
        """Return each active job's container."""
        jobs = list(view.active())
        seen: dict[str, ContainerInfo | None] = {}
        asked = set[str]()  # a bundle's jobs have one container
        doubt, failed = view.doubt or any(job.id is None for job in jobs), 0
        trouble: PlatformError | None = None
        if doubt:
            seen.update((info.id, info) for info in platform.containers())
        for job in jobs:
            if job.id is None or job.id in asked:
                continue
            asked.add(job.id)
            try:
                seen[job.id] = _one(platform, job.id)
            except PlatformError as error:
                failed, trouble = failed + 1, error
                if failed == self.failures:
                    raise
        if trouble is not None and not seen and not doubt:
            raise trouble
        return Observation(containers=seen, at=view.now, wait=self.every * _jitter(), complete=doubt)


def _one(platform: Platform, id: str) -> ContainerInfo | None:
    try:
        return platform.container(id)
    except JobNotFound:
        return None


def _jitter() -> float:
    """Return a factor that spreads the polls of drivers that started together."""
    return random.uniform(0.9, 1.1)  # noqa: S311 (no secret)


_fits: Sequence[MonitorStrategy] = (Listing(), OneByOne())
