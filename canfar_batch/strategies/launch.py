"""Who goes next. Each decides from the view alone, so that it survives a restart and needs no clock to test."""

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
    """Launch all there is, as fast as the platform takes it: its queue holds what it has no room for.

    ```python
    batch = session.batch("fits", launch=cb.AtOnce())
    ```
    """

    def __call__(self, view: BatchView) -> Sequence[Bundle]:
        """As many as can be sent at this moment."""
        return _loads(view.ready(at_most=view.room))


@attrs.frozen
class Window:
    """Keep at most *size* jobs active: as one ends, the next is launched. This is the default.

    ```python
    batch = session.batch("fits", launch=cb.Window(32))
    ```

    Args:
        size: How many at once.

    Raises:
        ValueError: *size* is not above 0.
    """

    size: int = attrs.field(default=16, validator=_positive)

    def __call__(self, view: BatchView) -> Sequence[Bundle]:
        """As many as the window has room for."""
        return _loads(view.ready(at_most=self.size - view.containers))


@attrs.frozen
class Chunks:
    """Launch *size* jobs, wait until all of them are over, pause, and go on with the next: the way of the user guide.

    `Window` keeps the platform busier: here one slow job holds up the next chunk.

    ```python
    batch = session.batch("fits", launch=cb.Chunks(3, pause=30))
    ```

    Args:
        size: How many in a chunk.
        pause: Seconds between the end of one chunk and the next.

    Raises:
        ValueError: *size* is not above 0, or *pause* is below 0.
    """

    size: int = attrs.field(validator=_positive)
    pause: float = attrs.field(default=30.0, validator=attrs.validators.ge(0))  #: seconds between two chunks

    def __call__(self, view: BatchView) -> Sequence[Bundle] | Pick:
        """What is left of the chunk that was begun, else the next chunk."""
        ready = view.ready(at_most=self.size)
        if not ready:
            return []
        number = self._number(ready[0])
        begun = {self._number(job) for job in view.active()}
        if begun - {number} or (not begun and (_judged(view) or _waiting(view) > _retries(view))):
            return []  # another chunk is not over, or one of its jobs waits for a verdict or for another attempt
        if not begun and view.finishes:
            left = (view.finishes[-1] + timedelta(seconds=self.pause) - view.now).total_seconds()
            if left > 0:
                return Pick(again=left)
        return _loads(job for job in ready if self._number(job) == number)

    def _number(self, job: JobRecord) -> int:
        return job.index // self.size


@attrs.frozen
class Throttle:
    """Launch at most so many jobs a second, of those that another strategy picks.

    ```python
    batch = session.batch("fits", launch=cb.Throttle(0.5, then=cb.Window(100)))  # one every two seconds
    ```

    Args:
        per_second: Jobs a second.
        then: Who picks; `AtOnce()` unless said otherwise.

    Raises:
        ValueError: *per_second* is not above 0.
    """

    per_second: float = attrs.field(validator=_positive)
    then: LaunchStrategy = attrs.field(factory=AtOnce, kw_only=True)

    def __call__(self, view: BatchView) -> Pick:
        """What the other strategy picks, cut to the rate."""
        quota = math.ceil(self.per_second)
        span = quota / self.per_second  # seconds: in which so many launches keep the rate exactly
        since = view.now - timedelta(seconds=span)
        recent = [at for at in view.launches if at > since]
        answer = self.then(view)
        pick = answer if isinstance(answer, Pick) else Pick(answer)
        chosen = list(pick.loads)[: max(0, quota - len(recent))]
        if len(chosen) == len(pick.loads):
            return Pick(chosen, pick.again)
        spent = [*recent, *[view.now] * len(chosen)]
        again = (spent[-quota] - since).total_seconds()
        return Pick(chosen, max(0.01, again))


@attrs.frozen(kw_only=True)
class Adaptive:
    """A window that finds its own size: it grows while jobs finish, and halves when the platform refuses.

    Additive increase, multiplicative decrease, as TCP does it. It does not grow while half of its containers still
    wait for the platform to begin them, and it leaves alone what the user's other containers take.

    ```python
    batch = session.batch("fits", launch=cb.Adaptive())
    ```
    """

    start: int = attrs.field(default=8, validator=_positive)
    lowest: int = attrs.field(default=1, validator=_positive)
    highest: int = attrs.field(default=128, validator=_positive)  #: of all of the user's containers together
    calm: float = attrs.field(default=30.0, validator=_positive)  #: seconds for which several refusals count as one

    def __call__(self, view: BatchView) -> Sequence[Bundle]:
        """As many as the present window has room for."""
        return _loads(view.ready(at_most=self.window(view) - view.containers))

    def window(self, view: BatchView) -> int:
        """How many containers this batch should have at this moment."""
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


def _loads(jobs: Iterable[JobRecord]) -> list[Bundle]:
    return [Bundle(job) for job in jobs]


def _waiting(view: BatchView) -> int:
    return view.counts.get(JobState.WAITING, 0)


def _retries(view: BatchView) -> int:
    return sum(job.state is JobState.WAITING for job in view.ready()) if _waiting(view) else 0


def _judged(view: BatchView) -> bool:
    """Whether a container was seen at its end, and what that means for its job is not known yet."""
    return any(view.counts.get(state, 0) for state in ACTIVE)


_fits: Sequence[LaunchStrategy] = (AtOnce(), Window(1), Chunks(1), Throttle(1), Adaptive())
