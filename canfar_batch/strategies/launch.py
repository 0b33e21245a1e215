"""Launch strategies: which jobs go next. Each decides from the view alone, so it survives a restart."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import attrs

from canfar_batch import protocols
from canfar_batch.protocols import BatchView, LaunchStrategy, Pick
from canfar_batch.records import ACTIVE, JobRecord, JobState, Resources
from canfar_batch.strategies.roles import above

_jobs = above(0, "a number of jobs, at least 1")
_seconds = above(0, "a number of seconds, above 0")
_rate = above(0, "a number of jobs per second, above 0")
_maybe_positive: Any = attrs.validators.optional(attrs.validators.gt(0))


@attrs.frozen
class AtOnce:
    """Launch all jobs, as fast as the platform accepts them; those that it has no room for wait in its queue.

    ```python
    batch = session.batch("fits", launch=cb.AtOnce())
    ```
    """

    def __call__(self, view: BatchView) -> Sequence[protocols.Bundle]:
        """Return as many jobs as can be sent now."""
        return _bundles(view.ready(at_most=view.room))


@attrs.frozen
class Window:
    """Keep at most *size* containers active: as one ends, the next is launched. This is the default.

    ```python
    batch = session.batch("fits", launch=cb.Window(32))
    ```

    Args:
        size: The number of containers: of jobs, unless bundles carry several.
        longest_first: Launch those jobs first that are expected to run longest (`JobSpec(expect=…)`), so that no long
            one is left for the end.

    Raises:
        ValueError: *size* is not above 0.
    """

    size: int = attrs.field(default=16, validator=_jobs)
    longest_first: bool = attrs.field(default=False, kw_only=True)

    def __call__(self, view: BatchView) -> Sequence[protocols.Bundle]:
        """Return as many jobs as the window has room for."""
        return _bundles(view.ready(at_most=self.size - view.containers, longest_first=self.longest_first))


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

    size: int = attrs.field(validator=_jobs)
    pause: float = attrs.field(default=30.0, validator=attrs.validators.ge(0))  #: seconds between two chunks

    def __call__(self, view: BatchView) -> Sequence[protocols.Bundle] | Pick:
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

    per_second: float = attrs.field(validator=_rate)
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

    start: int = attrs.field(default=8, validator=_jobs)
    lowest: int = attrs.field(default=1, validator=_jobs)
    highest: int = attrs.field(default=128, validator=_jobs)  #: counts all of the user's containers
    calm: float = attrs.field(default=30.0, validator=_seconds)  #: seconds in which several refusals count as one

    def __call__(self, view: BatchView) -> Sequence[protocols.Bundle]:
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


@attrs.frozen(kw_only=True)
class Bundle:
    """Let one container carry many jobs, which saves the time that containers take to start.

    Each job keeps its key, exit code, log, receipt and retries. Jobs with another image or other resources go into
    other bundles; a job with `receipt=False` goes alone.

    ```python
    batch = session.batch("fits", launch=cb.Bundle(tasks=50, parallel=4, then=cb.Window(16)))
    ```

    Args:
        tasks: Jobs in one container at most; by default 50, or with *minutes* as many as take so long.
        minutes: Minutes that one container is to run: bundles are filled by the time that their jobs are expected to
            take (`JobSpec(expect=…)`, or what finished jobs took), evenly. While nothing is known, a bundle has as many
            jobs as run at a time.
        parallel: Jobs that run at a time in one container.
        cores: Cores that a container asks for; by default, *parallel* times those of a job.
        ram: GiB that a container asks for; by default, *parallel* times those of a job.
        gpus: GPUs that a container asks for; by default, *parallel* times those of a job.
        then: The strategy that picks: how many containers, and when.

    Raises:
        ValueError: A number is not above 0.
    """

    tasks: int | None = attrs.field(default=None, validator=_maybe_positive)
    minutes: float | None = attrs.field(default=None, validator=_maybe_positive)
    parallel: int = attrs.field(default=1, validator=attrs.validators.gt(0))
    cores: int | None = attrs.field(default=None, validator=_maybe_positive)
    ram: int | None = attrs.field(default=None, validator=_maybe_positive)
    gpus: int | None = attrs.field(default=None, validator=_maybe_positive)
    then: LaunchStrategy = attrs.field(factory=Window)

    def __call__(self, view: BatchView) -> Pick:
        """Return as many bundles as the other strategy picks jobs."""
        answer = self.then(_one_container_each(view))
        pick = answer if isinstance(answer, Pick) else Pick(answer)
        leads = [job for each in pick.bundles for job in (each.jobs if isinstance(each, protocols.Bundle) else [each])]
        return Pick(self._filled(leads, view), pick.again)

    def container_resources(self, job: Resources) -> Resources:
        """Return what a container asks for that carries jobs with these resources."""
        usual = job.times(self.parallel)
        return Resources(
            cores=self.cores or usual.cores, ram=self.ram or usual.ram,
            gpus=usual.gpus if self.gpus is None else self.gpus,
        )  # fmt: skip

    def _filled(self, leads: Sequence[JobRecord], view: BatchView) -> list[protocols.Bundle]:
        """Return as many bundles as there are *leads*, of the jobs that are next in the order of these."""
        if not leads:
            return []
        seconds, most = self._seconds(len(leads), view), self._most(view)
        longest_first = _wants_longest_first(self.then)
        room = most * len(leads)
        groups: dict[object, list[_Filling]] = {}
        fillings: list[_Filling] = []
        for job in view.ready(at_most=room, longest_first=longest_first):
            kind = (job.spec.image, job.resources) if job.spec.receipt else job.key
            mine = groups.setdefault(kind, [])
            need = job.expected if job.expected is not None else view.typical or 0.0
            open_ones = [one for one in mine if one.has_room(need, seconds, most if job.spec.receipt else 1)]
            if len(fillings) < len(leads) and (not open_ones or longest_first):
                filling = _Filling()
                fillings.append(filling)
                mine.append(filling)
            elif open_ones:
                filling = min(open_ones, key=lambda one: one.seconds) if longest_first else open_ones[0]
            else:
                continue
            filling.add(job, need)
        return [self._bundle(filling.jobs) for filling in fillings]

    def _bundle(self, jobs: Sequence[JobRecord]) -> protocols.Bundle:
        is_given = (self.cores, self.ram, self.gpus) != (None, None, None)
        resources = self.container_resources(jobs[0].resources) if is_given else None
        return protocols.Bundle(jobs, parallel=self.parallel, resources=resources)

    def _most(self, view: BatchView) -> int:
        """Return how many jobs a bundle may have."""
        if self.minutes is None:
            return self.tasks or _TASKS
        if view.backlog is None:  # nothing is known yet
            return min(self.parallel, self.tasks or self.parallel)
        return self.tasks or _MOST_TASKS

    def _seconds(self, picked: int, view: BatchView) -> float:
        """Return how many seconds the jobs of a bundle are to take in all, one after the other.

        If there are more bundles than places, their number is a multiple of the places, so that all end together.
        """
        if self.minutes is None or view.backlog is None:
            return math.inf
        places = max(1, picked + view.containers)
        bundles = max(1, math.ceil(view.backlog / (self.minutes * 60.0 * self.parallel)))
        if bundles > places:
            bundles = math.ceil(bundles / places) * places
        return view.backlog / bundles * (1 + 1e-9)


_TASKS = 50  # jobs of a bundle by default
_MOST_TASKS = 1000  # jobs of a bundle that is filled by time


@attrs.define
class _Filling:
    """A bundle that is being filled."""

    jobs: list[JobRecord] = attrs.field(factory=list)
    seconds: float = 0.0

    def has_room(self, need: float, seconds: float, most: int) -> bool:
        return len(self.jobs) < most and (not self.jobs or self.seconds + need / 2 <= seconds)

    def add(self, job: JobRecord, need: float) -> None:
        self.jobs.append(job)
        self.seconds += need


def _one_container_each(view: BatchView) -> BatchView:
    """Return *view* as a strategy is to see it that counts containers: a bundle is pending until a job of it runs."""
    if not view.counts.get(JobState.PENDING, 0):
        return view
    running, pending = set[str](), set[str]()
    for job in view.active():
        if job.attempts:
            (running if job.state is JobState.RUNNING else pending).add(job.attempts[-1].launch_name)
    counts = {**view.counts, JobState.PENDING: len(pending - running)}
    return attrs.evolve(view, counts=counts)


def _wants_longest_first(strategy: LaunchStrategy) -> bool:
    """Return whether a strategy, or the one that it asks, launches first what is expected to run longest."""
    inner = getattr(strategy, "then", None)
    return bool(getattr(strategy, "longest_first", False)) or (inner is not None and _wants_longest_first(inner))


def _bundles(jobs: Iterable[JobRecord]) -> list[protocols.Bundle]:
    return [protocols.Bundle(job) for job in jobs]


def _waiting(view: BatchView) -> int:
    return view.counts.get(JobState.WAITING, 0)


def _retries(view: BatchView) -> int:
    return sum(job.state is JobState.WAITING for job in view.ready()) if _waiting(view) else 0


def _judged(view: BatchView) -> bool:
    """Return whether an ended container waits for its verdict."""
    return any(view.counts.get(state, 0) for state in ACTIVE)


_fits: Sequence[LaunchStrategy] = (AtOnce(), Window(1), Chunks(1), Throttle(1), Adaptive(), Bundle(tasks=1))
