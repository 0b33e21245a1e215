"""Launch strategies: which jobs go next. Each decides from the view alone, so it survives a restart."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import attrs

from canfar_batch.protocols import BatchView, Bundle, LaunchStrategy, Pick
from canfar_batch.records import ACTIVE, JobRecord, JobState

_positive: Any = attrs.validators.gt(0)


@attrs.frozen
class AtOnce:
    """Launch all jobs, as fast as the platform accepts them; those that it has no room for wait in its queue.

    ```python
    batch = session.batch("fits", launch=cb.AtOnce())
    ```
    """

    def __call__(self, view: BatchView) -> Sequence[Bundle]:
        """Return as many jobs as can be sent now."""
        return _bundles(view.ready(at_most=view.room))


@attrs.frozen
class Window:
    """Keep at most *size* jobs active: as one ends, the next is launched. This is the default.

    ```python
    batch = session.batch("fits", launch=cb.Window(32))
    ```

    Args:
        size: The number of jobs.

    Raises:
        ValueError: *size* is not above 0.
    """

    size: int = attrs.field(default=16, validator=_positive)

    def __call__(self, view: BatchView) -> Sequence[Bundle]:
        """Return as many jobs as the window has room for."""
        return _bundles(view.ready(at_most=self.size - view.containers))


@attrs.frozen
class Chunks:
    """Launch *size* jobs, wait until all of them have ended, pause, and launch the next, as the user guide shows.

    `Window` keeps the platform busier: here one slow job delays the next chunk.

    ```python
    batch = session.batch("fits", launch=cb.Chunks(3, pause=30))
    ```

    Args:
        size: The number of jobs in a chunk.
        pause: Seconds between the end of one chunk and the next.

    Raises:
        ValueError: *size* is not above 0, or *pause* is below 0.
    """

    size: int = attrs.field(validator=_positive)
    pause: float = attrs.field(default=30.0, validator=attrs.validators.ge(0))  #: seconds between two chunks

    def __call__(self, view: BatchView) -> Sequence[Bundle] | Pick:
        """Return the rest of the current chunk, or the next chunk."""
        ready = view.ready(at_most=self.size)
        if not ready:
            return []
        number = self._number(ready[0])
        begun = {self._number(job) for job in view.active()}
        if begun - {number} or (not begun and (_judged(view) or _waiting(view) > _retries(view))):
            return []  # another chunk has not ended, or one of its jobs waits for its verdict or another attempt
        if not begun and view.finishes:
            left = (view.finishes[-1] + timedelta(seconds=self.pause) - view.now).total_seconds()
            if left > 0:
                return Pick(again=left)
        return _bundles(job for job in ready if self._number(job) == number)

    def _number(self, job: JobRecord) -> int:
        return job.index // self.size


@attrs.frozen
class Throttle:
    """Launch at most *per_second* jobs a second, of those that another strategy picks.

    ```python
    batch = session.batch("fits", launch=cb.Throttle(0.5, then=cb.Window(100)))  # one every two seconds
    ```

    Args:
        per_second: Jobs a second.
        then: The strategy that picks; by default `AtOnce()`.

    Raises:
        ValueError: *per_second* is not above 0.
    """

    per_second: float = attrs.field(validator=_positive)
    then: LaunchStrategy = attrs.field(factory=AtOnce, kw_only=True)

    def __call__(self, view: BatchView) -> Pick:
        """Return the other strategy's pick, cut to the rate."""
        quota = math.ceil(self.per_second)
        span = quota / self.per_second  # seconds in which *quota* launches keep the rate exactly
        since = view.now - timedelta(seconds=span)
        recent = [at for at in view.launches if at > since]
        answer = self.then(view)
        pick = answer if isinstance(answer, Pick) else Pick(answer)
        chosen = list(pick.bundles)[: max(0, quota - len(recent))]
        if len(chosen) == len(pick.bundles):
            return Pick(chosen, pick.again)
        spent = [*recent, *[view.now] * len(chosen)]
        again = (spent[-quota] - since).total_seconds()
        return Pick(chosen, max(0.01, again))


@attrs.frozen(kw_only=True)
class Adaptive:
    """A window that finds its own size: it grows as jobs end, and halves if the platform refuses.

    Additive increase, multiplicative decrease, as in TCP. It does not grow while half of its containers wait to be
    started, and it leaves room for the user's other containers.

    ```python
    batch = session.batch("fits", launch=cb.Adaptive())
    ```
    """

    start: int = attrs.field(default=8, validator=_positive)
    lowest: int = attrs.field(default=1, validator=_positive)
    highest: int = attrs.field(default=128, validator=_positive)  #: counts all of the user's containers
    calm: float = attrs.field(default=30.0, validator=_positive)  #: seconds in which several refusals count as one

    def __call__(self, view: BatchView) -> Sequence[Bundle]:
        """Return as many jobs as the present window has room for."""
        return _bundles(view.ready(at_most=self.window(view) - view.containers))

    def window(self, view: BatchView) -> int:
        """Return the number of containers that this batch should have now."""
        size = float(self.start)
        halved = None
        history = heapq.merge(((at, False) for at in view.finishes), ((at, True) for at in view.refusals))
        for at, refused in history:
            if not refused:
                size = min(size + 2 / size, float(self.highest))
            elif halved is None or (at - halved).total_seconds() > self.calm:
                size, halved = max(float(self.lowest), size / 2), at
        if view.counts.get(JobState.PENDING, 0) > size / 2:
            size = min(size, float(max(view.containers, self.lowest)))
        others = max(0, view.usage.active - view.containers) if view.usage is not None else 0
        return int(max(self.lowest, min(size, self.highest - others)))


def _bundles(jobs: Iterable[JobRecord]) -> list[Bundle]:
    return [Bundle(job) for job in jobs]


def _waiting(view: BatchView) -> int:
    return view.counts.get(JobState.WAITING, 0)


def _retries(view: BatchView) -> int:
    return sum(job.state is JobState.WAITING for job in view.ready()) if _waiting(view) else 0


def _judged(view: BatchView) -> bool:
    """Return whether an ended container waits for its verdict."""
    return any(view.counts.get(state, 0) for state in ACTIVE)


_fits: Sequence[LaunchStrategy] = (AtOnce(), Window(1), Chunks(1), Throttle(1), Adaptive())
