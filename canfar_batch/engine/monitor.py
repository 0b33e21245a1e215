"""Monitoring: polling the platform, and turning the differences from what is known into events."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any

import attrs

from canfar_batch.engine.cluster_events import Events
from canfar_batch.engine.context import Context
from canfar_batch.engine.evidence import stuck_pending
from canfar_batch.engine.finish import Finisher, Finishing
from canfar_batch.engine.verdict import image_trouble
from canfar_batch.errors import AccessDenied, CredentialError, JobNotFound, LedgerError, PlatformError, StrategyError
from canfar_batch.failures import Failure, TimedOut
from canfar_batch.lifecycle import BY_ABSENCE, Adopted, Event, PhaseChanged, apply, may_reappear
from canfar_batch.payload import launch_names
from canfar_batch.protocols import BatchView, MonitorStrategy, Observation, Platform
from canfar_batch.records import STATE_OF_PHASE, Attempt, ContainerInfo, JobRecord, JobState, Limits, Phase, Usage
from canfar_batch.setup import Outcome

log = logging.getLogger("canfar_batch")

SHORTEST_WAIT = 0.05  #: seconds between two polls at least, whatever a monitor wishes
TIMEOUT_MARGIN = 60.0  #: seconds beyond its time-out after which a job is stopped that its wrapper should have stopped
PULL_CHECK = 120.0  #: seconds of waiting after which a pending container's events are read, and again at twice that
_CLOCK_STEP = 60.0  #: seconds by which a clock may go back without a doubt
AWAY = 120.0  #: seconds without a poll after which a run's beginning was not seen, and an end may be forgotten
_ASKED_BY_ID = 5  #: containers that are asked for one by one if a list is empty against expectation
_DISOWNED = 2  #: of them, how many the platform must disown for the list to be believed

_LINGERS = 60.0  #: seconds that a bundle may take to end once all of its jobs have ended
_FEW = 1000  #: notes on containers that are kept in any case

_MAY_REAPPEAR = (JobState.WAITING, JobState.LOST, JobState.FAILED)


@attrs.frozen
class Poll:
    """One poll, to be made by a worker thread."""

    platform: Platform
    monitor: MonitorStrategy
    view: BatchView
    asks_limits: bool  #: whether to ask for the platform's limits as well

    def __call__(self) -> PollResult:
        """Ask the monitor strategy, check whether its answer can be believed, and ask for the limits once.

        Raises:
            StrategyError: The strategy returned something else than an `Observation`.
        """
        observation = self.monitor(self.platform, self.view)
        if not isinstance(observation, Observation):
            raise StrategyError(
                f"the monitor strategy {self.monitor!r} returned {observation!r}; it returns an Observation"
            )
        return PollResult(
            observation,
            self._is_good(observation),
            self._limits() if self.asks_limits else None,
            self._live(observation),
        )

    def _is_good(self, observation: Observation) -> bool:
        """An empty list while several jobs are active is believed only if the platform disowns two of them by id."""
        ids = list[str]()
        for job in self.view.active():
            id = job.id
            if id is None:
                continue
            if observation.containers.get(id) is not None:
                return True
            ids.append(id)
        ids = list(dict.fromkeys(ids))  # a bundle's jobs have one container
        if not observation.complete or len(ids) < _DISOWNED:
            return True
        disowned = 0
        for id in ids[:_ASKED_BY_ID]:
            try:
                self.platform.container(id)
                return False
            except JobNotFound:
                disowned += 1
        return disowned >= _DISOWNED

    def _limits(self) -> Limits | None:
        try:
            return self.platform.limits()
        except PlatformError:
            return None  # they serve to round a retry's memory up; the poll is worth more

    def _live(self, observation: Observation) -> Mapping[str, ContainerInfo]:
        found = (observation.containers.get(job.id) for job in self.view.active() if job.id is not None)
        return {info.id: info for info in found if info and info.phase is Phase.RUNNING and info.ram_in_use is not None}


@attrs.frozen
class PollResult:
    """What one poll found."""

    observation: Observation
    good: bool  #: whether it can be believed
    limits: Limits | None
    live: Mapping[str, ContainerInfo]  #: running containers that the platform measures, by id


class Monitor:
    """Polls the platform when the monitor strategy wishes, and compares.

    Attributes:
        in_flight: Whether a worker thread is polling.
        has_polled: Whether this driver has had a good poll.
        live: Running containers that the platform measures, by id, as of the newest poll.
        running: Ids of the containers that run, as of the newest poll.
        polls: How many polls gave an answer.
    """

    def __init__(self, context: Context, finisher: Finisher) -> None:
        self._context, self._journal, self._finisher = context, context.journal, finisher
        self.in_flight = False
        self.has_polled = context.launch_context.batch is None  # a single job has no driver before this one
        self.live: Mapping[str, ContainerInfo] = {}
        self.running: set[str] = set()
        self.polls = 0
        self._surplus: dict[str, int] = {}  # polls in a row that showed an unexpected container, by id
        self._dismissed: set[str] = set()  # ids of containers that need no attention: of others, or ended
        self._last_seen: dict[str, datetime] = {}  # when this driver last saw a container, by launch name
        self._memory: float | None = None  # seconds; as the newest poll shows it, if it was asked for
        self._check_pull_after: dict[str, float] = {}  # seconds of waiting after which events are read, by id

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to see."""
        context = self._context
        watching = context.clock.ticks() < context.schedule.watch_until
        is_paused = context.health.pause is not None and context.health.pause.by_platform  # a good poll lifts that
        return bool(self._journal.index.active) or watching or is_paused or not self.has_polled

    def watched(self) -> Iterator[JobRecord]:
        """Yield the jobs that have a container, or may have one, and are not known to have ended."""
        jobs, active = self._journal.jobs, self._journal.index.active
        return (jobs[key] for key in active if not self._finisher.has_ended(key))

    # -- one poll -------------------------------------------------------------------------------------------------

    def poll(self, make_view: Callable[[], BatchView]) -> None:
        """Have a worker thread poll if it is time to; its result is compared when it is drained."""
        context = self._context
        if self.in_flight or context.clock.ticks() < context.schedule.next_poll or not self.is_needed:
            return
        active, now = tuple(self.watched()), make_view()
        view = attrs.evolve(
            now,
            counts=dict(now.counts),
            launches=tuple(islice(reversed(now.launches), 1)),
            finishes=tuple(islice(reversed(now.finishes), 1)),
            refusals=tuple(islice(reversed(now.refusals), 1)),
            ready=lambda: (),
            active=lambda: active,
        )  # a copy, since a thread reads it: of the times, the newest suffices to show how quiet it is
        asks_limits = context.health.limits is None and context.launch_context.batch is not None
        work = Poll(context.platform, context.setup.strategies.monitor, view, asks_limits)
        context.pool.submit("poll", work, self._polled)
        self.in_flight = True

    def _polled(self, outcome: Outcome[PollResult]) -> None:
        context, self.in_flight = self._context, False
        if outcome.error is not None:
            self._poll_failed(outcome.error)
            return
        result = outcome.get()
        observation, health = result.observation, context.health
        health.limits, self.live = result.limits or health.limits, result.live
        context.schedule.poll_after(max(observation.wait, SHORTEST_WAIT))
        self._refuse_another_user()  # after each poll: the login may change while the batch runs
        if result.good:
            health.note_good_poll()
            if not self.has_polled:
                self._refuse_a_taken_name(observation)
        else:
            health.bad_polls += 1
        self._compare_all(observation, result.good)
        if result.good:
            context.schedule.last_contact = observation.at
            self.has_polled = True

    def _poll_failed(self, error: BaseException) -> None:
        """A poll that failed says nothing about any job."""
        health, schedule = self._context.health, self._context.schedule
        health.bad_polls += 1
        health.trouble = error if isinstance(error, Exception) else None
        if isinstance(error, StrategyError):
            raise error
        if isinstance(error, (CredentialError, AccessDenied)):
            health.pause_for(error)
        elif not isinstance(error, (PlatformError, TimeoutError, ConnectionError)):
            log.error("%s: the monitor failed; it is asked again", self._journal.name, exc_info=error)
        elif health.bad_polls == 3:
            health.say(f"the platform does not answer ({error}); jobs run on, and it is asked again and again")
        asked = getattr(error, "retry_after", None) or 0.0
        schedule.poll_after(max(asked, schedule.back_off(health.bad_polls)))

    def _refuse_another_user(self) -> None:
        """Raise if the user is another one: the platform would show none of this batch's containers."""
        ledger, user = self._context.ledger, self._context.platform.user
        if user is None or user == ledger.identity.user:
            return
        if ledger.identity.user is not None:
            raise LedgerError(f"batch {self._journal.name!r} is run by {ledger.identity.user}, and you are {user} here")
        ledger.note_user(user)

    def _refuse_a_taken_name(self, observation: Observation) -> None:
        """Raise if a new ledger meets containers of a batch with its name: the real ledger is elsewhere, or removed."""
        if self._context.launch_context.batch is None or any(job.attempts for job in self._journal.jobs.values()):
            return
        ours = launch_names.names_of_batch(self._journal.name)
        others = [info.name for info in filter(None, observation.containers.values()) if not info.phase.final]
        active = [name for name in others if ours.fullmatch(name)]
        if active:
            raise LedgerError(
                f"the platform already has {len(active)} containers of a batch called {self._journal.name!r}, such as "
                f"{active[0]}, and this batch is new: open it in its own home, give it another name, or cancel them "
                "first"
            )

    # -- comparing ------------------------------------------------------------------------------------------------

    def _compare_all(self, observation: Observation, good: bool) -> None:
        """Compare all that was seen with what is known, and record the differences in one transaction."""
        context, journal = self._context, self._journal
        self.polls += 1
        live = _live(observation)
        self.running = {info.id for info in live if info.phase is Phase.RUNNING}
        ours = self._ours(observation)
        by_name = {info.name: info for info in reversed(ours)}
        self._memory = None
        events: list[Event] = []
        for job in [journal.job(key) for key in journal.index.active if not self._finisher.is_open(key)]:
            if job.state.active:  # a result drained just before may have ended it
                events.extend(self._compare(job, observation, by_name, good))
        events.extend(self._unexpected(ours, by_name, observation.at))
        if observation.complete:
            context.health.usage = Usage.of(live, context.health.limits)
        journal.record(events)
        for key in [event.key for event in events if isinstance(event, Adopted)]:
            self._act_on(journal.job(key), by_name[journal.job(key).attempts[-1].launch_name])

    def _ours(self, observation: Observation) -> list[ContainerInfo]:
        """Return the containers that bear a launch name of this batch, but for ended ones that need no attention.

        The list may show many more containers than are active, and each is looked at once. One that bears no name of
        this batch when it is first seen never will, as names are recorded before they are sent.
        """
        seen, by_name = observation.containers, self._journal.index.by_name
        dismissed = self._dismissed
        if observation.complete and len(dismissed) > 2 * len(seen) + _FEW:
            dismissed.intersection_update(seen)
        if len(self._last_seen) > 2 * len(self._journal.index.active) + _FEW:
            self._forget_ended()
        ours = []
        for id, info in seen.items():
            if id in dismissed or info is None:
                continue
            if info.name in by_name:
                ours.append(info)
            else:
                dismissed.add(id)
        return ours

    def _forget_ended(self) -> None:
        """Forget when containers were seen whose jobs are not active any more."""
        attempts = (self._journal.job(key).last_attempt for key in self._journal.index.active)
        active = {attempt.launch_name for attempt in attempts if attempt is not None}
        self._last_seen = {name: at for name, at in self._last_seen.items() if name in active}

    def _compare(
        self, job: JobRecord, observation: Observation, by_name: dict[str, ContainerInfo], good: bool
    ) -> Iterator[Event]:
        attempt = job.attempts[-1]
        info = by_name.get(attempt.launch_name) if attempt.id is None else observation.containers.get(attempt.id)
        if info is not None:
            self._finisher.note_present(job)
            self._last_seen[attempt.launch_name] = observation.at
            if attempt.id is None:
                yield Adopted(key=job.key, at=observation.at, id=info.id)
            else:
                yield from self._present(job, info, observation.at)
            return
        shown = observation.complete or (attempt.id is not None and attempt.id in observation.containers)
        if job.cancelling and job.id is not None and shown and self._may_stop(job):
            self._finisher.begin(job, Finishing(phase=None, stopping=True))  # the platform's answer to that settles it
        elif good and shown and job.key not in self._context.traffic.in_flight:
            seen = attempt.launch_name in self._last_seen
            self._finisher.note_absent(job, watched=self._watched(job, observation), seen=seen)

    def _watched(self, job: JobRecord, observation: Observation) -> bool:
        """Return whether the platform was polled so recently that it cannot have forgotten an ended container.

        A clock that was set back between two runs makes that unknowable.
        """
        attempt = job.attempts[-1]
        last = self._last_seen.get(attempt.launch_name) or self._context.schedule.last_contact or attempt.seen_at
        gap = 0.0 if last is None else (observation.at - last).total_seconds()
        if gap <= AWAY:
            return gap >= -_CLOCK_STEP
        if self._memory is None:
            self._memory = self._remembered(observation)
        return gap < self._memory

    def _remembered(self, observation: Observation) -> float:
        """Return for how many seconds the platform is known to remember ended containers.

        Each deployment sets it, and no answer of the server shows it. If the platform has forgotten a container that
        the setting says it should know, the setting is wrong, and the oldest ended container that is listed decides.
        A container that a user has deleted looks forgotten, too.
        """
        most = self._context.setup.memory
        if not observation.complete:
            return most
        shown, forgotten = [0.0], [most]
        for job in self._journal.jobs.values():
            attempt = job.last_attempt
            if attempt is not None and attempt.id is not None and attempt.ended_at is not None:
                age = (observation.at - attempt.ended_at).total_seconds()
                if attempt.id in observation.containers:
                    shown.append(age)
                elif _ended_by_itself(attempt):
                    forgotten.append(age)
        return most if min(forgotten) >= most else max(shown)

    def _present(self, job: JobRecord, info: ContainerInfo, at: datetime) -> Iterator[Event]:
        """Yield the changes of a container that was expected, and act on them."""
        attempt, phase = job.attempts[-1], info.phase
        if attempt.task is not None and phase is Phase.RUNNING and not self._has_begun(job, info):
            phase = Phase.PENDING  # until it reports its own start
        state = STATE_OF_PHASE.get(phase)
        moved = info.started_at != attempt.start_time or (info.expires_at or attempt.expires_at) != attempt.expires_at
        if state is not None and (state is not job.state or moved or not attempt.shown):
            yield PhaseChanged(
                key=job.key, at=at, phase=phase,
                started_at=self._run_began(info, at) if attempt.task is None else attempt.started_at,
                start_time=info.started_at, expires_at=info.expires_at,
            )  # fmt: skip
        elif info.phase.final and _has_begun_again(attempt, info):
            began_again = PhaseChanged(
                key=job.key, at=at, phase=Phase.RUNNING, started_at=info.started_at,
                start_time=info.started_at, expires_at=info.expires_at,
            )  # fmt: skip
            yield began_again
            job = apply(job, began_again)  # receipts of the run before prove nothing about this one
        self._act_on(job, info)

    def _has_begun(self, job: JobRecord, info: ContainerInfo) -> bool:
        """Return whether a task runs in the present run of its container, which the platform may have begun again."""
        known = job.attempts[-1].start_time
        return job.state is JobState.RUNNING and (known is None or info.started_at in (None, known))

    def _may_stop(self, job: JobRecord) -> bool:
        """Return whether the container of *job* may be stopped for a cancel: no other job in it goes on."""
        return all(self._journal.job(key).cancelling for key in self._journal.index.companions(job))

    def _run_began(self, info: ContainerInfo, at: datetime) -> datetime | None:
        """Return since when a container runs: its start time only says when its pod was assigned, before any pull."""
        if info.phase is not Phase.RUNNING:
            return None
        last = self._context.schedule.last_contact
        was_away = last is None or (at - last).total_seconds() > AWAY
        return min(info.started_at or at, at) if was_away else at

    def _unexpected(
        self, ours: Sequence[ContainerInfo], by_name: Mapping[str, ContainerInfo], at: datetime
    ) -> Iterator[Event]:
        """Adopt unexpected containers of ours that resolve a doubt, and remove the others.

        A container is expected if its attempt is the job's newest and the job is active.
        """
        journal, surplus = self._journal, dict[str, int]()
        for info in ours:
            if info.name in journal.index.members:
                yield from self._unexpected_bundle(info, by_name[info.name] is info, at, surplus)
                continue
            key, number = journal.index.by_name[info.name]
            job = journal.job(key)
            newest = job.last_attempt is not None and job.last_attempt.number == number
            has_its_id = job.id in (None, info.id) or key in self._context.traffic.in_flight
            if (newest and job.state.active and has_its_id) or self._finisher.is_open(key):
                continue
            if newest and job.state in _MAY_REAPPEAR and may_reappear(job) and by_name[info.name] is info:
                yield Adopted(key=key, at=at, id=info.id)
            elif info.phase.final:
                self._dismissed.add(info.id)
            else:
                surplus[info.id] = self._surplus.get(info.id, 0) + 1
        self._surplus = surplus
        for id in [id for id, polls in surplus.items() if polls >= 2]:
            log.info("%s: container %s is one too many and is removed", journal.name, id)
            self._context.pool.submit("gather", partial(self._context.platform.cancel, id), _ignore)

    def _unexpected_bundle(
        self, info: ContainerInfo, is_first: bool, at: datetime, surplus: dict[str, int]
    ) -> Iterator[Event]:
        """Adopt an unexpected bundle if that resolves a doubt about all of its jobs, or count it as surplus."""
        members = self._journal.index.members[info.name]
        jobs = [self._journal.job(key) for key in members]
        newest = [job.last_attempt is not None and job.last_attempt.launch_name == info.name for job in jobs]
        in_flight = self._context.traffic.in_flight
        for job, is_newest in zip(jobs, newest, strict=True):
            has_its_id = job.id in (None, info.id) or job.key in in_flight
            if is_newest and ((job.state.active and has_its_id) or self._finisher.is_open(job.key)):
                return
            ended_at = job.attempts[-1].ended_at if is_newest and job.id == info.id else None
            if ended_at is not None and (at - ended_at).total_seconds() < _LINGERS:
                return  # all of its jobs have reported their ends, and it is about to end by itself
        if is_first and jobs and all(newest) and all(job.state in _MAY_REAPPEAR and may_reappear(job) for job in jobs):
            for job in jobs:
                yield Adopted(key=job.key, at=at, id=info.id)
        elif info.phase.final:
            self._dismissed.add(info.id)
        else:
            surplus[info.id] = self._surplus.get(info.id, 0) + 1

    # -- acting on a container ------------------------------------------------------------------------------------

    def _act_on(self, job: JobRecord, info: ContainerInfo) -> None:
        """Begin to finish a container that has ended, or that has to be stopped."""
        companions = self._journal.index.companions(job)
        if info.phase.final:
            if not any(self._finisher.has_ended(key) for key in companions):
                self._context.traffic.finishes.append(self._context.clock.now())
            self._finisher.begin(job, Finishing(phase=info.phase, expires_at=info.expires_at))
        elif job.cancelling and not self._may_stop(job):
            self._finisher.ask_to_stop(job)
        elif job.cancelling:
            self._finisher.begin(job, Finishing(phase=None, stopping=True))
        elif (failure := self._overdue(job, info)) is not None:
            self._finisher.stop(companions, failure)

    def _overdue(self, job: JobRecord, info: ContainerInfo) -> Failure | None:
        """Return the failure of a container that has taken too long, or None."""
        now, attempt = self._context.clock.now(), job.attempts[-1]
        if info.phase is Phase.RUNNING:
            in_bundle = attempt.task is not None  # others would be stopped with it; its wrapper sees to its time-out
            return None if in_bundle else _ran_too_long(job, now)
        if info.phase is Phase.PENDING and attempt.launched_at is not None:
            if (failure := stuck_pending(job, now)) is not None:
                return failure
            self._check_pull(job, info.id, (now - attempt.launched_at).total_seconds())
        return None

    def _check_pull(self, job: JobRecord, id: str, waited: float) -> None:
        """Read the events of a container that has waited long: its image may not be available."""
        if waited > self._check_pull_after.get(id, PULL_CHECK):
            self._check_pull_after[id] = waited * 2
            events = partial(self._context.platform.events, id)
            self._context.pool.submit("gather", events, partial(self._act_on_events, job))

    def _act_on_events(self, job: JobRecord, outcome: Outcome[str | None]) -> None:
        failure = image_trouble(Events.read(outcome.value)) if outcome.value else None
        current = self._journal.job(job.key)
        if failure is not None and current.state is JobState.PENDING and current.id == job.id:
            self._finisher.stop(self._journal.index.companions(current), failure)


def _has_begun_again(attempt: Attempt, info: ContainerInfo) -> bool:
    """Return whether a run was seen, and the final status is that of a later one, which no poll showed."""
    moved = None not in (attempt.start_time, info.started_at) and info.started_at > attempt.start_time  # type: ignore[operator]
    return moved and attempt.has_run


def _ran_too_long(job: JobRecord, now: datetime) -> TimedOut | None:
    """Return the failure of a job that its wrapper should have stopped for its time-out, or None.

    Counted since it was seen to run, by this machine's clock; the container's may differ.
    """
    timeout, seen_at = job.spec.timeout, job.attempts[-1].seen_at
    if timeout is None or seen_at is None or job.state is not JobState.RUNNING:
        return None
    ran = (now - seen_at).total_seconds()
    if ran <= timeout + TIMEOUT_MARGIN:
        return None
    return TimedOut(message=f"it ran for {ran:.0f} s; its timeout is {timeout:.0f} s", inferred=True)


def _live(observation: Observation) -> list[ContainerInfo]:
    """Return the containers that are pending or running."""
    pending, running = Phase.PENDING, Phase.RUNNING  # a list may have thousands that ended
    seen = observation.containers.values()
    return [info for info in seen if info is not None and (info.phase is running or info.phase is pending)]


def _ended_by_itself(attempt: Attempt) -> bool:
    return attempt.succeeded or (attempt.failure is not None and not isinstance(attempt.failure, BY_ABSENCE))


def _ignore(outcome: Outcome[Any]) -> None:
    """Do nothing: the next poll shows whether it worked."""
