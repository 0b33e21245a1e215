"""What the platform shows, held against what is known; differences become events."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any

import attrs

from canfar_batch.engine.attempts import PLATFORM_MEMORY, stuck
from canfar_batch.engine.context import Drive
from canfar_batch.engine.finish import Ending, Endings
from canfar_batch.engine.pool import Outcome
from canfar_batch.engine.verdict import image_trouble
from canfar_batch.errors import AccessDenied, CredentialError, JobNotFound, LedgerError, PlatformError, StrategyError
from canfar_batch.failures import Failure, TimedOut
from canfar_batch.lifecycle import Adopted, Event, PhaseChanged, may_reappear
from canfar_batch.payload import launch_names
from canfar_batch.protocols import BatchView, MonitorStrategy, Observation
from canfar_batch.records import ContainerInfo, JobRecord, JobState, Limits, Phase, Usage

log = logging.getLogger("canfar_batch")

SHORTEST = 0.05  #: seconds between two looks at least, whatever a monitor wishes
GRACE = 60.0  #: seconds beyond a job's time-out before the driver stops what its own wrapper should have stopped
PULL_CHECK = 120.0  #: seconds of waiting after which a pending container's events are read, and again at twice that

_STATES = {Phase.PENDING: JobState.PENDING, Phase.RUNNING: JobState.RUNNING}
_GIVEN_UP = (JobState.WAITING, JobState.LOST, JobState.FAILED)


class Lookout:
    """Looks at the platform as the monitor strategy wishes, and compares.

    Attributes:
        under_way: True while a thread looks.
        looked_once: Whether this driver has had a good look yet.
    """

    def __init__(self, drive: Drive, monitor: MonitorStrategy, endings: Endings) -> None:
        self._drive, self._monitor, self._endings = drive, monitor, endings
        self.under_way = False
        self.looked_once = False
        self._surplus: dict[str, int] = {}
        self._past: set[str] = set()  # ids of containers that are over and settled: no look need bother with them
        self._pull_checked: dict[str, float] = {}  # by container: when its events are read again, in seconds of waiting

    @property
    def needed(self) -> bool:
        """Whether there is anything to see."""
        drive = self._drive
        return bool(drive.roster.active) or drive.clock.ticks() < drive.watch_until or not self.looked_once

    def watched(self) -> Iterator[JobRecord]:
        """The jobs that have a container, or may have one, and are not known to be over."""
        drive = self._drive
        return (drive.ledger.jobs[key] for key in drive.roster.active if not self._endings.seen_over(key))

    # -- one look -------------------------------------------------------------------------------------------------

    def look(self, view: Callable[[], BatchView]) -> None:
        """Have a thread look, if it is time to; what it saw is compared when it is heard."""
        if self.under_way or self._drive.clock.ticks() < self._drive.next_look or not self.needed:
            return
        self.under_way = True
        active = tuple(self.watched())
        now = view()
        frozen = attrs.evolve(
            now,
            counts=dict(now.counts),
            launches=tuple(islice(reversed(now.launches), 1)),
            finishes=tuple(islice(reversed(now.finishes), 1)),
            refusals=tuple(islice(reversed(now.refusals), 1)),
            ready=lambda: (),
            active=lambda: active,
        )  # a copy, for a thread will read it: of the histories, the newest is enough to tell how quiet it is
        self._drive.crew.submit("look", partial(self._look_out, frozen), self._saw)

    def _look_out(self, view: BatchView) -> tuple[Observation, bool, Limits | None]:
        """In a thread: one look, whether it can be trusted, and the platform's limits the first time."""
        observation = self._monitor(self._drive.platform, view)
        if not isinstance(observation, Observation):
            raise StrategyError(
                f"the monitor strategy {self._monitor!r} returned {observation!r}; it returns a Observation"
            )
        return observation, self._is_good(observation, view), self._drive.limits or self._ask_limits()

    def _ask_limits(self) -> Limits | None:
        try:
            return self._drive.platform.limits()
        except PlatformError:
            return None  # they serve to round a retry's memory up; a look is worth more

    def _is_good(self, observation: Observation, view: BatchView) -> bool:
        """An empty list while several jobs are active is believed only if the platform disowns two of them by id."""
        ids = [job.id for job in view.active() if job.id is not None]
        if not observation.complete or len(ids) < 2 or any(observation.containers.get(id) is not None for id in ids):
            return True
        disowned = 0
        for id in ids[:5]:
            try:
                self._drive.platform.container(id)
                return False
            except JobNotFound:
                disowned += 1
        return disowned >= 2

    def _saw(self, outcome: Outcome[tuple[Observation, bool, Limits | None]]) -> None:
        drive, self.under_way = self._drive, False
        if outcome.error is not None:
            self._saw_nothing(outcome)
            return
        observation, good, limits = outcome.get()
        drive.limits = limits or drive.limits
        drive.bad_looks = 0 if good else drive.bad_looks + 1
        drive.next_look = drive.clock.ticks() + max(observation.wait, SHORTEST)
        if good and drive.paused is not None and drive.paused_for_platform:
            drive.paused = None
            drive.say("the platform answers again; going on")
        if good and not self.looked_once:
            self._refuse_another_user()
            self._refuse_a_taken_name(observation)
        self._compare_all(observation, good)
        if good:
            drive.looked = observation.at
            self.looked_once = True

    def _saw_nothing(self, outcome: Outcome[Any]) -> None:
        """A look that failed says nothing about any job."""
        drive, error = self._drive, outcome.error
        drive.bad_looks += 1
        if isinstance(error, StrategyError):
            raise error
        if isinstance(error, (CredentialError, AccessDenied)):
            drive.pause_for(error)
        elif not isinstance(error, (PlatformError, TimeoutError, ConnectionError)):
            log.error("%s: the monitor failed; it is asked again", drive.name, exc_info=error)
        elif drive.bad_looks == 3:
            drive.say(f"the platform does not answer ({error}); jobs run on, and it is asked again and again")
        asked = getattr(error, "retry_after", None) or 0.0
        drive.next_look = drive.clock.ticks() + max(asked, drive.back_off(drive.bad_looks))

    def _refuse_another_user(self) -> None:
        """The platform shows each user their own containers: to anybody else, all of this batch's would be lost."""
        ledger, user = self._drive.ledger, self._drive.platform.user
        if user is None or user == ledger.identity.user:
            return
        if ledger.identity.user is not None:
            raise LedgerError(f"batch {self._drive.name!r} is run by {ledger.identity.user}, and you are {user} here")
        ledger.note_user(user)

    def _refuse_a_taken_name(self, observation: Observation) -> None:
        """A new ledger, and containers of a batch of this name: its real ledger is elsewhere, or was removed."""
        if any(job.attempts for job in self._drive.ledger.jobs.values()):
            return
        ours = launch_names.names_of_batch(self._drive.name)
        others = [info.name for info in filter(None, observation.containers.values()) if not info.phase.final]
        active = [name for name in others if ours.fullmatch(name)]
        if active:
            raise LedgerError(
                f"the platform already has {len(active)} containers of a batch called {self._drive.name!r}, as "
                f"{active[0]}, and this batch is new: open it where its home is, give it another name, or cancel them "
                "first"
            )

    # -- comparing ------------------------------------------------------------------------------------------------

    def _compare_all(self, observation: Observation, good: bool) -> None:
        """Hold what was seen against what is known; differences become events, all in one transaction."""
        drive = self._drive
        gap = None if drive.looked is None else (observation.at - drive.looked).total_seconds()
        watched = gap is None or gap < PLATFORM_MEMORY
        by_name = self._ours(observation)
        events: list[Event] = []
        for job in [drive.job(key) for key in drive.roster.active if key not in self._endings.under_way]:
            if job.state.active:  # what was heard just before this look may have ended it
                events.extend(self._compare(job, observation, by_name, good, watched))
        events.extend(self._unexpected(by_name, observation))
        if observation.complete:
            drive.usage = Usage.of(filter(None, observation.containers.values()), drive.limits)
        drive.remember(events)
        for key in [event.key for event in events if isinstance(event, Adopted)]:
            self._judge_presence(drive.job(key), by_name[drive.job(key).attempts[-1].launch_name])

    def _ours(self, observation: Observation) -> dict[str, ContainerInfo]:
        """The containers that bear a launch name of this batch, by it."""
        ours: dict[str, ContainerInfo] = {}
        for info in observation.containers.values():
            if info is not None and info.id not in self._past and info.name in self._drive.roster.by_name:
                ours.setdefault(info.name, info)
        return ours

    def _compare(
        self, job: JobRecord, observation: Observation, by_name: dict[str, ContainerInfo], good: bool, watched: bool
    ) -> Iterator[Event]:
        attempt = job.attempts[-1]
        info = by_name.get(attempt.launch_name) if attempt.id is None else observation.containers.get(attempt.id)
        if info is not None:
            self._endings.present(job)
            if attempt.id is None:
                yield Adopted(key=job.key, at=observation.at, id=info.id)
            else:
                yield from self._presence(job, info, observation.at)
            return
        told = observation.complete or (attempt.id is not None and attempt.id in observation.containers)
        if good and told and job.key not in self._drive.posting:
            self._endings.absent(job, watched=watched)

    def _presence(self, job: JobRecord, info: ContainerInfo, at: datetime) -> Iterator[Event]:
        """A container of ours was seen: what has changed."""
        attempt, state = job.attempts[-1], _STATES.get(info.phase)
        news = state is not None and (state is not job.state or (attempt.started_at is None and info.started_at))
        if news:
            yield PhaseChanged(key=job.key, at=at, phase=info.phase, started_at=info.started_at)
        self._judge_presence(job, info)

    def _unexpected(self, by_name: dict[str, ContainerInfo], observation: Observation) -> Iterator[Event]:
        """Containers of ours that should not be there: taken back where a doubt is resolved by them, else removed."""
        drive, odd = self._drive, dict[str, int]()
        for info in observation.containers.values():
            if info is None or info.id in self._past or info.name not in drive.roster.by_name:
                continue
            key, number = drive.roster.by_name[info.name]
            job = drive.job(key)
            newest = job.last_attempt is not None and job.last_attempt.number == number
            expected = newest and job.state.active and (job.id in (None, info.id) or key in drive.posting)
            if expected or key in self._endings.under_way:
                continue
            missed = newest and job.state in _GIVEN_UP and may_reappear(job)
            if missed and by_name[info.name] is info:
                yield Adopted(key=key, at=observation.at, id=info.id)
            elif info.phase.final:
                self._past.add(info.id)
            else:
                odd[info.id] = self._surplus.get(info.id, 0) + 1
        self._surplus = odd
        for id in [id for id, looks in odd.items() if looks >= 2]:
            log.info("%s: container %s is one too many and is removed", drive.name, id)
            drive.crew.submit("gather", partial(drive.platform.cancel, id), lambda outcome: None)

    # -- what a container calls for -------------------------------------------------------------------------------

    def _judge_presence(self, job: JobRecord, info: ContainerInfo) -> None:
        """Begin what a container that is there calls for: reading its end, or stopping it."""
        if info.phase.final:
            self._drive.finishes.append(self._drive.clock.now())
            self._endings.begin(job, Ending(phase=info.phase))
        elif job.cancelling:
            self._endings.begin(job, Ending(phase=None, stopping=True))
        elif (late := self._overdue(job, info)) is not None:
            self._endings.begin(job, Ending(phase=None, stopping=True, stopped_for=late))

    def _overdue(self, job: JobRecord, info: ContainerInfo) -> Failure | None:
        """Why a container has taken too long, if it has."""
        now, attempt, spec = self._drive.clock.now(), job.attempts[-1], job.spec
        if info.phase is Phase.RUNNING:
            # since when it was seen to run, by the clock that tells *now*: the container's may be another
            known = job.state is JobState.RUNNING and attempt.seen_at is not None
            ran = (now - attempt.seen_at).total_seconds() if known and attempt.seen_at else 0.0
            if spec.timeout is not None and ran > spec.timeout + GRACE:
                return TimedOut(message=f"it ran for {ran:.0f} s; its timeout is {spec.timeout:.0f} s", inferred=True)
        elif info.phase is Phase.PENDING and attempt.launched_at is not None:
            if (late := stuck(job, now)) is not None:
                return late
            self._ask_why_it_waits(job, info.id, (now - attempt.launched_at).total_seconds())
        return None

    def _ask_why_it_waits(self, job: JobRecord, id: str, waited: float) -> None:
        if waited > self._pull_checked.get(id, PULL_CHECK):
            self._pull_checked[id] = waited * 2
            events = partial(self._drive.platform.events, id)
            self._drive.crew.submit("gather", events, partial(self._heard_events, job))

    def _heard_events(self, job: JobRecord, outcome: Outcome[str | None]) -> None:
        trouble = image_trouble(outcome.value) if outcome.value else None
        current = self._drive.job(job.key)
        if trouble is not None and current.state is JobState.PENDING and current.id == job.id:
            self._endings.begin(current, Ending(phase=None, stopping=True, stopped_for=trouble))
