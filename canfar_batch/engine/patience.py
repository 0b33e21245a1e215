"""Patience: launches that the platform does not take now are tried again, one at a time, until one is accepted.

If a service that the platform depends on is ill (groups, login, image list, storage, queue), the platform refuses
launches in the words of that service. The words do not show whether the request or an outage is the cause. The history
does: a launch of the same shape was accepted before. A platform that is busy or gives no clear answers is probed in
the same way, whatever the history.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TypeVar

import attrs

from canfar_batch.engine.context import Health, Schedule
from canfar_batch.engine.job_index import Shape, shape_of
from canfar_batch.errors import CanfarBatchError, CredentialError
from canfar_batch.records import JobRecord
from canfar_batch.setup import OUTAGE

K = TypeVar("K")

MOST_PATIENCE = 21_600.0  #: seconds after which a refusal is final if there is no other launch to compare with
_LEAST_TRIES = 3
_SAY_EVERY = 900.0  #: seconds between two warnings that launching has stopped
ANNOUNCED_WAIT = 60.0  #: seconds; a longer wait is announced
_LATER = 1.0  #: seconds by which a refused shape is tried later than others, so that a probe takes another shape first


@attrs.frozen(kw_only=True)
class _Refusals:
    """The refusals of one job, or of one shape, since its last acceptance. Times are the clock's ticks."""

    first: int  #: place of the first refusal in the order of answers
    last: int  #: place of the newest
    since: float  #: time of the first
    due: float  #: when the next try is due
    tries: int = 1
    alone_since: float | None = None  #: since when it is refused while others are accepted


@attrs.frozen(kw_only=True)
class _Stop:
    """Launching has stopped, except for probes."""

    why: str
    due: float  #: when the next probe is due, in the clock's ticks
    probes: int = 0  #: probes that were not accepted
    is_said: bool = False  #: whether a warning was logged


class Patience:
    """Decides when a refused launch is tried again, and when a refusal is final."""

    def __init__(self, schedule: Schedule, health: Health, accepted: Collection[Shape]) -> None:
        self._schedule, self._clock, self._health = schedule, schedule.clock, health
        self._accepted = accepted
        self._order = itertools.count()  # of answers, since many can come at one tick
        self._last_acceptance = -1
        self._jobs: dict[str, _Refusals] = {}
        self._shapes: dict[Shape, _Refusals] = {}
        self._stop: _Stop | None = None
        self._say_after = 0.0  # in the clock's ticks

    @property
    def why(self) -> str | None:
        """Why launching has stopped; None if it goes on."""
        return None if self._stop is None else self._stop.why

    def may_pass(self, job: JobRecord) -> bool:
        """Return whether a refusal of *job* may pass: a launch of its shape was accepted before."""
        return shape_of(job) in self._accepted

    def probe_now(self) -> None:
        """Let the next probe be due, since the platform has just recovered in another respect."""
        if self._stop is not None:
            self._stop = attrs.evolve(self._stop, due=min(self._stop.due, self._clock.ticks()))

    def forget(self) -> None:
        """Go on as if nothing had been refused."""
        self._jobs, self._shapes, self._stop = {}, {}, None

    # -- which jobs may be launched -------------------------------------------------------------------------------

    @property
    def next_probe(self) -> float:
        """The time, in ticks, at which the next probe is due while launching has stopped; else 0."""
        return 0.0 if self._stop is None else self._stop.due

    def next_probes(self) -> list[float]:
        """Return the times, in ticks, at which refused launches are tried again."""
        dues = [refusals.due for refusals in self._shapes.values()]
        return dues if self._stop is None else [*dues, self._stop.due]

    def without_held(self, jobs: Iterator[JobRecord]) -> Iterator[JobRecord]:
        """Yield *jobs* without those whose shape is not due for another try."""
        return filter(lambda job: not self._is_held(job), jobs) if self._shapes else jobs

    def admitted(self, jobs: Iterable[JobRecord], in_flight: Collection[JobRecord]) -> Iterator[JobRecord]:
        """Yield those of *jobs* that may be launched now: all of them, but a refused shape by one job at a time.

        While launching has stopped, yield one job, and only if no launch is in flight and a probe is due.
        """
        if self._stop is not None:
            if not in_flight and self._stop.due <= self._clock.ticks():
                untried_first = sorted((job for job in jobs if not self._is_held(job)), key=self._last_refusal)
                yield from untried_first[:1]
            return
        probed = {shape_of(job) for job in in_flight}
        for job in jobs:
            shape = shape_of(job)
            if shape in self._shapes:
                if shape in probed or self._is_held(job):
                    continue
                probed.add(shape)
            yield job

    def _is_held(self, job: JobRecord) -> bool:
        refusals = self._shapes.get(shape_of(job))
        return refusals is not None and self._clock.ticks() < refusals.due

    def _last_refusal(self, job: JobRecord) -> int:
        refusals = self._jobs.get(job.key)
        return -1 if refusals is None else refusals.last

    # -- answers --------------------------------------------------------------------------------------------------

    def note_acceptance(self, job: JobRecord) -> None:
        """Go on launching: the platform accepted *job*."""
        self._last_acceptance = next(self._order)
        self._jobs.pop(job.key, None)
        self._shapes.pop(shape_of(job), None)
        if self._stop is not None:
            if self._stop.is_said:
                self._health.say("the platform accepts launches again; going on")
            self._stop = None

    def retry_time(self, job: JobRecord, error: CanfarBatchError) -> float | None:
        """Return when the refused *job* is to be tried again, in ticks; None if the refusal is final."""
        place, now = next(self._order), self._clock.ticks()
        if isinstance(error, CredentialError):
            return self._stop_launching(f"nothing is launched until this is fixed: {error}").due
        key, shape = job.key, shape_of(job)
        alone = self._is_alone(key, self._jobs)
        shape_alone = self._is_alone(shape, self._shapes)
        if not alone and not shape_alone:
            stop = self._stop_launching(
                f"the platform refuses launches like those that it accepted before, which may be an outage: {error} "
                "One launch is tried again and again, and the rest follow once it is accepted"
            )
            self._jobs[key] = _again(self._jobs.get(key), place, now, stop.due, alone=False)
            self._shapes[shape] = _again(self._shapes.get(shape), place, now, stop.due + _LATER, alone=False)
            return None if self._is_final(self._jobs[key], now) else stop.due
        mine, its = self._jobs.get(key), self._shapes.get(shape)
        tries = max(refusals.tries for refusals in (mine, its) if refusals is not None)
        due = now + self._schedule.back_off(tries)
        self._jobs[key] = mine = _again(mine, place, now, due, alone=alone)
        if shape_alone:
            self._shapes[shape] = its = _again(its, place, now, due, alone=True)
        if self._is_final(mine, now) or (shape_alone and its is not None and self._is_final(its, now)):
            del self._jobs[key]
            return None
        return due

    def note_busy(self, error: CanfarBatchError) -> float:
        """Stop launching: the platform cannot take launches now. Return when the next probe is due, in ticks."""
        asked = getattr(error, "retry_after", None) or 0.0
        if asked >= ANNOUNCED_WAIT and self._stop is None:
            self._health.say(f"the platform asks to wait {asked / 60:.0f} min before the next launch")
        why = f"the platform takes no launches now: {error} One launch is tried again and again, and the rest follow"
        return self._stop_launching(f"{why} once it is accepted", at_once=False, asked=asked).due

    def note_doubt(self, job: JobRecord, error: Exception) -> None:
        """Stop launching: no clear answer came to the launch of *job*."""
        place, now = next(self._order), self._clock.ticks()
        stop = self._stop_launching(
            f"the platform gives no clear answers to launches, which may be an outage: {error} One launch is tried "
            "again and again, and the rest follow once it is accepted",
            at_once=False,
            asked=getattr(error, "retry_after", None) or 0.0,
        )
        self._jobs[job.key] = _again(self._jobs.get(job.key), place, now, stop.due, alone=False)

    def _stop_launching(self, why: str, *, at_once: bool = True, asked: float = 0.0) -> _Stop:
        """Stop launching, or wait longer for the next probe if this was one.

        Args:
            why: The warning.
            at_once: Whether to log it now; else once a probe has failed.
            asked: The seconds that the platform asked to wait.
        """
        stop, now = self._stop, self._clock.ticks()
        if stop is None:
            stop = _Stop(why=why, due=now + max(asked, self._schedule.back_off(0)))
        elif now >= stop.due:
            probes, at_once = stop.probes + 1, True
            stop = attrs.evolve(stop, probes=probes, due=now + max(asked, self._schedule.back_off(probes)))
        else:  # a launch that was in flight at the stop is no probe
            stop = attrs.evolve(stop, due=max(stop.due, now + asked))
        # reported once, though every other launch is accepted; not at all if failed polls have reported it already
        if at_once and not stop.is_said and now >= self._say_after and self._health.pause is None:
            self._health.say(stop.why)
            self._say_after = now + _SAY_EVERY
            stop = attrs.evolve(stop, is_said=True)
        self._stop = stop
        return stop

    def _is_alone(self, one: K, refused: Mapping[K, _Refusals]) -> bool:
        """Return whether *one* was refused before, and everything else was accepted at the last try."""
        mine = refused.get(one)
        if mine is None or self._last_acceptance < mine.first:
            return False
        return not any(other.last > self._last_acceptance for key, other in refused.items() if key != one)

    def _is_final(self, refusals: _Refusals, now: float) -> bool:
        if refusals.alone_since is not None and refusals.tries >= _LEAST_TRIES:
            return now - refusals.alone_since >= OUTAGE
        return len(self._jobs) == 1 and now - refusals.since >= MOST_PATIENCE


def _again(before: _Refusals | None, place: int, now: float, due: float, *, alone: bool) -> _Refusals:
    """Return the refusals with one more."""
    if before is None:
        return _Refusals(first=place, last=place, since=now, due=due, alone_since=now if alone else None)
    alone_since = (before.alone_since if before.alone_since is not None else now) if alone else None
    return attrs.evolve(before, last=place, due=due, tries=before.tries + 1, alone_since=alone_since)
