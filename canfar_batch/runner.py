"""The loop: strategies decide, it acts, the ledger remembers.

One `step` is: hear what the threads brought, look at the platform, decide about what failed, launch, fetch results.
Threads talk to the platform; the calling thread alone owns the ledger. An event is in the ledger before anyone hears
of it. `docs/explanation/loop.md` tells why each step is as it is.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any

import attrs

from canfar_batch import encoding
from canfar_batch.attempts import Found, Surroundings, bring, is_gone, receipt_files, request_for_job
from canfar_batch.errors import (
    AccessDenied,
    CanfarBatchError,
    CredentialError,
    HomeError,
    JobNotFound,
    LaunchInDoubt,
    LeaseLost,
    LedgerError,
    NotSent,
    PlatformBusy,
    PlatformError,
    PlatformRefused,
    SpecError,
)
from canfar_batch.failures import Failure, LaunchRefused, StuckPending, TimedOut
from canfar_batch.ledger import Ledger, storable
from canfar_batch.lifecycle import (
    Adopted,
    CancelAsked,
    Cancelled,
    Collected,
    Deferred,
    Ended,
    Event,
    GaveUp,
    Intended,
    Launched,
    NotCollected,
    Proved,
    Retrying,
    Seen,
    apply,
    classify,
    image_trouble,
    overruled_by_presence,
    overruled_by_receipt,
)
from canfar_batch.protocols import (
    Again,
    BatchView,
    Clock,
    LaunchStrategy,
    MonitorStrategy,
    Observer,
    Pick,
    Platform,
    ResultCollector,
    RetryPolicy,
    Sighting,
)
from canfar_batch.records import ContainerInfo, JobRecord, JobState, Limits, Phase, Resources, Usage
from canfar_batch.roster import Roster
from canfar_batch.workers import Crew, Outcome

log = logging.getLogger("canfar_batch")

GOOD_LOOKS = 3  #: so many answers without a container, spread over the settle time, prove that it is gone
IN_FLIGHT = 32  #: launches whose answer is awaited at once: what a crash can leave in doubt
ALIKE = 5  #: so many jobs that fail alike before any success pause the batch
REMEMBERS = 3600.0  #: seconds for which the platform remembers a container that is over (skaha, launch template)
BRINGS = 12  #: tries to fetch the log of a container that is over: some minutes, where the platform breaks at it
SHORTEST = 0.05  #: seconds between two looks at least, whatever a monitor wishes
SLOWEST = 300.0  #: seconds between two tries at most, however often they failed
GRACE = 60.0  #: seconds beyond a job's time-out before the driver stops what its own wrapper should have stopped
PULL_CHECK = 120.0  #: seconds of waiting after which a pending container's events are read, and again at twice that


@attrs.define
class _Absence:
    """A container that should be there and was not seen."""

    since: float
    looks: int = 0
    watched: bool = True


@attrs.define
class _Ending:
    """An attempt whose end is being looked into."""

    phase: Phase | None
    stopped_for: Failure | None = None
    stopping: bool = False  #: True where the container is to be removed, not only read
    watched: bool = True
    tries: int = 0
    due: float | None = None  #: when to try again; None while a thread is at it
    found: Found | None = None  #: what was brought so far; the next try may find less


class Runner:
    """Drives one batch, step by step.

    Attributes:
        results: What collectors returned and the ledger cannot keep, by key.
        paused: Why nothing is launched at the moment, or None.
        paused_for_platform: True where an answer of the platform ends the pause.
        looked: When the platform was last heard of, by this driver or one before it.
    """

    def __init__(
        self,
        *,
        platform: Platform,
        ledger: Ledger,
        around: Surroundings,
        launch: LaunchStrategy,
        monitor: MonitorStrategy,
        retry: RetryPolicy,
        collect: ResultCollector,
        clock: Clock,
        crew: Crew,
        settle: float,
        observers: Sequence[Observer] = (),
        results: dict[str, object] | None = None,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self.platform, self.ledger, self.around = platform, ledger, around
        self.launch, self.monitor, self.retry, self.collect = launch, monitor, retry, collect
        self.clock, self.crew, self.settle = clock, crew, settle
        self.observers = list(observers)
        self.roster = Roster(ledger.jobs)
        self.results = {} if results is None else results
        self._generation = ledger.generation
        self._proofs_sought: float | None = None
        self.looked: datetime | None = ledger.looked
        self.paused: str | None = None
        self.paused_for_platform = False
        self.stop_alike: int | None = ALIKE
        self._dice = dice
        self._limits: Limits | None = None
        self._usage: Usage | None = None
        self._hearing = False
        self._heard: list[Event] = []
        self._draft: dict[str, JobRecord] = {}
        # looking
        self._looking = False
        self._looked_once = False
        self._next_look = 0.0
        self._bad_looks = 0
        self._unseen: dict[str, _Absence] = {}
        self._surplus: dict[str, int] = {}
        self._past: set[str] = set()  # ids of containers that are over and settled: no look need bother with them
        self._pull_checked: dict[str, float] = {}
        # launching
        self._posting: set[str] = set()
        self._same_again: set[str] = set()
        self._setbacks = 0
        self._launch_after = 0.0
        self._launch_again: float | None = None
        self._launches: deque[datetime] = deque(maxlen=4096)
        self._finishes: deque[datetime] = deque(maxlen=4096)
        self._refusals: deque[datetime] = deque(maxlen=4096)
        # ending
        self._ending: dict[str, _Ending] = {}
        self._collecting: set[str] = set()
        self._alike: tuple[str, set[str]] = ("", set())
        self._succeeded = self.roster.counts[JobState.SUCCEEDED] > 0
        self._watch_until = 0.0
        doubts = [at for job in ledger.jobs.values() if (at := self._in_doubt_since(job)) is not None]
        if doubts:
            left = settle - (clock.now() - max(doubts)).total_seconds()
            self._watch_until = clock.ticks() + min(settle, left)

    # -- one step -------------------------------------------------------------------------------------------------

    def step(self) -> float:
        """Do all that can be done now; how many seconds until there is more to do.

        Raises:
            LeaseLost: Another driver has taken over.
            HomeError: The home cannot be written.
        """
        self.ledger.renew(self.looked)
        self._hear()
        self._heed_requests()
        self._heed_late_receipts()
        self._look()
        self._pursue_endings()
        self._decide_all()
        self._send()
        heard = self._hear()
        self._fetch_results()  # last: what was heard just now must not lie until the next step
        return 0.0 if heard else self.wait()  # a place that was just heard to be free is filled at once

    @property
    def done(self) -> bool:
        """True once every job is final, every result fetched, and no launch in doubt."""
        busy = self._posting or self._ending or self._collecting or self.roster.uncollected
        hopes = self.roster.unproved and self._proofs_sought is None
        return not self.roster.unfinished and not busy and not hopes and self.clock.ticks() >= self._watch_until

    def wait(self) -> float:
        """Seconds until the next step has something to do; less where a thread brings something."""
        if self.done or self.stuck:
            return 0.0
        now, moments = self.clock.ticks(), [self.clock.ticks() + 60.0]
        if self._to_see() and not self._looking:
            moments.append(self._next_look)
        if self.paused is None and len(self._posting) < IN_FLIGHT:
            due = self.roster.next_due(self.clock.now())
            if due is not None:
                moments.append(max(self._launch_after, now + (due - self.clock.now()).total_seconds()))
            if self._launch_again is not None:
                moments.append(max(self._launch_after, self._launch_again))
            if self._launch_after > now:
                moments.append(self._launch_after)
        moments.extend(ending.due for ending in self._ending.values() if ending.due is not None)
        if self._watch_until > now:
            moments.append(self._watch_until)
        return max(0.0, min(moments) - now)

    def say(self, message: str) -> None:
        """Tell the user something that is worth an interruption."""
        log.warning("%s: %s", self.ledger.identity.name, message)

    def _hear(self) -> int:
        """Take in the threads' answers, and how many; what follows from all of them becomes one transaction."""
        self._hearing = True
        try:
            return self.crew.hear()
        finally:
            self._hearing = False
            self._draft = {}
            heard, self._heard = self._heard, []
            self.remember(heard)

    def _job(self, key: str) -> JobRecord:
        """The job's record, what was just heard of it included."""
        return self._draft.get(key) or self.ledger.jobs[key]

    def remember(self, events: Iterable[Event]) -> None:
        """Put *events* in the ledger, then tell the observers."""
        if self._hearing:
            for event in events:
                self._draft[event.key] = apply(self._job(event.key), event)
                self._heard.append(event)
            return
        changes = self.ledger.record(events)
        for change in changes:
            self.roster.update(change.before, change.after)
            log.debug("%s: %s: %s", self.ledger.identity.name, change.event.key, change.event.kind)
        for observer in self.observers:
            for change in changes:
                try:
                    observer(change.event)
                except Exception:
                    log.exception("an observer failed; the batch goes on")

    def view(self) -> BatchView:
        """What strategies may know at this moment."""
        now = self.clock.now()
        return BatchView(
            now=now,
            counts=self.roster.counts,
            containers=sum(1 for key in self.roster.active if not self._seen_over(key)),
            room=max(0, IN_FLIGHT - len(self._posting)),
            launches=self._launches,
            finishes=self._finishes,
            refusals=self._refusals,
            limits=self._limits,
            usage=self._usage,
            ready=lambda: self.roster.ready(now),
            active=self._watched_jobs,
        )

    def _watched_jobs(self) -> Iterator[JobRecord]:
        return (self.ledger.jobs[key] for key in self.roster.active if not self._seen_over(key))

    def _seen_over(self, key: str) -> bool:
        ending = self._ending.get(key)
        return ending is not None and ending.phase is not None

    # -- what other processes ask for -----------------------------------------------------------------------------

    def _heed_requests(self) -> None:
        requests = self.ledger.requests()
        for _, kind, keys in requests:
            if kind == "cancel":
                self.cancel(keys)
        if requests:
            self.ledger.answered(number for number, _, _ in requests)

    def resume(self) -> None:
        """Launch again after a pause, and look once more for late receipts."""
        self.paused, self._alike = None, ("", set())
        self._proofs_sought = None

    @property
    def stuck(self) -> bool:
        """True where nothing will happen any more before the user has mended what paused the batch."""
        busy = self.roster.active or self._posting or self._ending or self._collecting
        return self.paused is not None and not self.paused_for_platform and not busy

    def cancel(self, keys: Iterable[str] | None) -> None:
        """Mark these jobs (None: all) to be stopped; what was never launched is over at once."""
        now, events = self.clock.now(), list[Event]()
        for key in list(self.ledger.jobs if keys is None else keys):
            job = self.ledger.jobs.get(key)
            if job is None or job.state.final or job.cancelling:
                continue
            events.append(CancelAsked(key=key, at=now))
            if not job.state.active:
                events.append(Cancelled(key=key, at=now))
        self.remember(events)
        self._next_look = min(self._next_look, self.clock.ticks())

    def _heed_late_receipts(self) -> None:
        """Look, now and then, whether what ended unheard has left a receipt after all."""
        now = self.clock.ticks()
        if self._proofs_sought is not None and now - self._proofs_sought < SLOWEST:
            return
        self._proofs_sought = now
        self.remember(filter(None, [self._late_proof(self.ledger.jobs[key]) for key in self.roster.unproved]))

    # -- the stages alone -----------------------------------------------------------------------------------------

    def observe_now(self) -> None:
        """Look at the platform, whatever the monitor wished, and follow up what is seen."""
        self.ledger.renew(self.looked)
        self._hear()
        self._heed_requests()
        self._heed_late_receipts()
        self._next_look = self.clock.ticks()
        self._look()
        self._pursue_endings()
        self._until(lambda: not self._looking and not self._at_work())

    def launch_now(self) -> int:
        """Let the strategy pick, and wait for the answers; how many launches were sent."""
        if not self._looked_once:
            self.observe_now()
        self._decide_all()
        before = len(self._posting)
        self._send()
        sent = len(self._posting) - before
        self._until(lambda: not self._posting)
        return sent

    def collect_now(self, jobs: Iterable[JobRecord]) -> None:
        """Fetch these jobs' results, and wait for them."""
        for job in jobs:
            self.fetch_result(job)
        self._until(lambda: not self._collecting)

    def _at_work(self) -> bool:
        """True while a thread looks into an end."""
        return any(ending.due is None for ending in self._ending.values())

    def _until(self, over: Callable[[], bool]) -> None:
        self._hear()
        while not over():
            self.crew.wait(1.0)
            self.ledger.renew(self.looked)
            self._hear()

    # -- looking --------------------------------------------------------------------------------------------------

    def _to_see(self) -> bool:
        return bool(self.roster.active) or self.clock.ticks() < self._watch_until or not self._looked_once

    def _look(self) -> None:
        if self._looking or self.clock.ticks() < self._next_look or not self._to_see():
            return
        self._looking = True
        active = tuple(self._watched_jobs())
        view = self.view()
        frozen = attrs.evolve(
            view,
            counts=dict(view.counts),
            launches=tuple(islice(reversed(view.launches), 1)),
            finishes=tuple(islice(reversed(view.finishes), 1)),
            refusals=tuple(islice(reversed(view.refusals), 1)),
            ready=lambda: (),
            active=lambda: active,
        )  # a copy, for a thread will read it: of the histories, the newest is enough to tell how quiet it is
        self.crew.submit("look", partial(self._look_out, frozen), self._saw)

    def _look_out(self, view: BatchView) -> tuple[Sighting, bool, Limits | None]:
        """In a thread: one look, whether it can be trusted, and the platform's limits the first time."""
        sighting = self.monitor(self.platform, view)
        return sighting, self._is_good(sighting, view), self._limits or self._ask_limits()

    def _ask_limits(self) -> Limits | None:
        try:
            return self.platform.limits()
        except PlatformError:
            return None  # they serve to round a retry's memory up; a look is worth more

    def _is_good(self, sighting: Sighting, view: BatchView) -> bool:
        """An empty list while several jobs are active is believed only if the platform disowns two of them by id."""
        ids = [job.id for job in view.active() if job.id is not None]
        if not sighting.complete or len(ids) < 2 or any(sighting.seen.get(id) is not None for id in ids):
            return True
        disowned = 0
        for id in ids[:5]:
            try:
                self.platform.container(id)
                return False
            except JobNotFound:
                disowned += 1
        return disowned >= 2

    def _saw(self, outcome: Outcome[tuple[Sighting, bool, Limits | None]]) -> None:
        self._looking = False
        now = self.clock.ticks()
        if outcome.error is not None:
            self._saw_nothing(outcome)
            return
        sighting, good, limits = outcome.get()
        self._limits = limits or self._limits
        self._bad_looks = 0 if good else self._bad_looks + 1
        self._next_look = now + max(sighting.wait, SHORTEST)
        if good and self.paused is not None and self.paused_for_platform:
            self.paused = None
            self.say("the platform answers again; going on")
        if good and not self._looked_once:
            self._refuse_a_taken_name(sighting)
        self._compare_all(sighting, good)
        if good:
            self.looked = sighting.at
            self._looked_once = True

    def _saw_nothing(self, outcome: Outcome[Any]) -> None:
        """A look that failed says nothing about any job."""
        self._bad_looks += 1
        if isinstance(outcome.error, (CredentialError, AccessDenied)):
            self._pause_for(outcome.error)
        elif not isinstance(outcome.error, (PlatformError, TimeoutError, ConnectionError)):
            log.error("%s: the monitor failed; it is asked again", self.ledger.identity.name, exc_info=outcome.error)
        elif self._bad_looks == 3:
            self.say(f"the platform does not answer ({outcome.error}); jobs run on, and it is asked again and again")
        asked = getattr(outcome.error, "retry_after", None) or 0.0
        self._next_look = self.clock.ticks() + max(asked, self._back_off(self._bad_looks))

    def _pause_for(self, error: CanfarBatchError) -> None:
        if self.paused is None:
            self.say(f"nothing is launched until this is mended: {error}")
            self.paused, self.paused_for_platform = str(error), True
        self._next_look = min(self._next_look, self.clock.ticks() + self._back_off(self._bad_looks))

    def _back_off(self, times: int) -> float:
        """Seconds to wait after so many failures in a row: doubling, and never the same for two drivers."""
        return float(min(SLOWEST, 5.0 * 2 ** min(times, 8)) * (0.5 + self._dice() / 2))

    def _compare_all(self, sighting: Sighting, good: bool) -> None:
        """Hold what was seen against what is known; differences become events, all in one transaction."""
        gap = None if self.looked is None else (sighting.at - self.looked).total_seconds()
        watched = gap is None or gap < REMEMBERS
        by_name: dict[str, ContainerInfo] = {}
        for info in sighting.seen.values():
            if info is not None and info.id not in self._past and info.name in self.roster.by_name:
                by_name.setdefault(info.name, info)
        events: list[Event] = []
        for job in [self._job(key) for key in self.roster.active if key not in self._ending]:
            if job.state.active:  # what was heard just before this look may have ended it
                events.extend(self._compare(job, sighting, by_name, good, watched))
        events.extend(self._unexpected(by_name, sighting))
        if sighting.complete:
            self._usage = Usage.of(filter(None, sighting.seen.values()), self._limits)
        self.remember(events)
        for key in [event.key for event in events if isinstance(event, Adopted)]:
            self._judge_presence(self._job(key), by_name[self._job(key).attempts[-1].launch_name])

    def _refuse_a_taken_name(self, sighting: Sighting) -> None:
        """A new ledger, and containers of a batch of this name: its real ledger is elsewhere, or was removed."""
        if any(job.attempts for job in self.ledger.jobs.values()):
            return
        ours = encoding.names_of_batch(self.ledger.identity.name)
        others = [info.name for info in filter(None, sighting.seen.values()) if not info.phase.final]
        active = [name for name in others if ours.fullmatch(name)]
        if active:
            raise LedgerError(
                f"the platform already has {len(active)} containers of a batch called {self.ledger.identity.name!r}, "
                f"as {active[0]}, and this batch is new: open it where its home is, give it another name, or cancel "
                "them first"
            )

    def _compare(
        self, job: JobRecord, sighting: Sighting, by_name: dict[str, ContainerInfo], good: bool, watched: bool
    ) -> Iterator[Event]:
        attempt = job.attempts[-1]
        info = by_name.get(attempt.launch_name) if attempt.id is None else sighting.seen.get(attempt.id)
        if info is not None:
            self._unseen.pop(job.key, None)
            if attempt.id is None:
                yield Adopted(key=job.key, at=sighting.at, id=info.id)
            else:
                yield from self._presence(job, info, sighting.at)
            return
        told = sighting.complete or (attempt.id is not None and attempt.id in sighting.seen)
        if not good or not told or job.key in self._posting:
            return
        absence = self._unseen.setdefault(job.key, _Absence(since=self.clock.ticks(), watched=watched))
        absence.looks += 1
        if absence.looks >= GOOD_LOOKS and self.clock.ticks() - absence.since >= self.settle:
            self._begin_end(job, _Ending(phase=None, watched=absence.watched))

    def _presence(self, job: JobRecord, info: ContainerInfo, at: datetime) -> Iterator[Event]:
        """A container of ours was seen: what has changed."""
        attempt = job.attempts[-1]
        state = {Phase.PENDING: JobState.PENDING, Phase.RUNNING: JobState.RUNNING}.get(info.phase)
        news = state is not None and (state is not job.state or (attempt.started_at is None and info.started_at))
        if news:
            yield Seen(key=job.key, at=at, phase=info.phase, started_at=info.started_at)
        self._judge_presence(job, info)

    def _judge_presence(self, job: JobRecord, info: ContainerInfo) -> None:
        """Begin what a container that is there calls for: reading its end, or stopping it."""
        if info.phase.final:
            self._finishes.append(self.clock.now())
            self._begin_end(job, _Ending(phase=info.phase))
        elif job.cancelling:
            self._begin_end(job, _Ending(phase=None, stopping=True))
        elif (late := self._overdue(job, info)) is not None:
            self._begin_end(job, _Ending(phase=None, stopping=True, stopped_for=late))

    def _overdue(self, job: JobRecord, info: ContainerInfo) -> Failure | None:
        """Why a container has taken too long, if it has."""
        now, attempt, spec = self.clock.now(), job.attempts[-1], job.spec
        if info.phase is Phase.RUNNING:
            self._pull_checked.pop(job.key, None)
            began = info.started_at or attempt.started_at
            if spec.timeout is not None and began is not None:
                ran = (now - began).total_seconds()
                if ran > spec.timeout + GRACE:
                    return TimedOut(
                        message=f"it ran for {ran:.0f} s; its timeout is {spec.timeout:.0f} s", inferred=True
                    )
        elif info.phase is Phase.PENDING and attempt.launched_at is not None:
            waited = (now - attempt.launched_at).total_seconds()
            if spec.pending_timeout is not None and waited > spec.pending_timeout:
                return StuckPending(
                    message=f"it waited {waited:.0f} s to begin; {spec.pending_timeout:.0f} s were allowed"
                )
            if waited > self._pull_checked.get(job.key, PULL_CHECK):
                self._pull_checked[job.key] = waited * 2
                self.crew.submit("gather", partial(self.platform.events, info.id), partial(self._heard_events, job))
        return None

    def _heard_events(self, job: JobRecord, outcome: Outcome[str]) -> None:
        trouble = image_trouble(outcome.value) if outcome.value else None
        current = self._job(job.key)
        if trouble is not None and current.state is JobState.PENDING and current.id == job.id:
            self._begin_end(current, _Ending(phase=None, stopping=True, stopped_for=trouble))

    def _unexpected(self, by_name: dict[str, ContainerInfo], sighting: Sighting) -> Iterator[Event]:
        """Containers of ours that should not be there: taken back where a doubt is resolved by them, else removed."""
        odd: dict[str, int] = {}
        for info in sighting.seen.values():
            if info is None or info.id in self._past or info.name not in self.roster.by_name:
                continue
            key, number = self.roster.by_name[info.name]
            job = self._job(key)
            newest = job.attempt is not None and job.attempt.number == number
            expected = newest and job.state.active and (job.id in (None, info.id) or key in self._posting)
            if expected or key in self._ending:
                continue
            waits = job.state in (JobState.WAITING, JobState.LOST, JobState.FAILED)
            if newest and waits and overruled_by_presence(job) and by_name[info.name] is info:
                yield Adopted(key=key, at=sighting.at, id=info.id)
            elif info.phase.final:
                self._past.add(info.id)
            else:
                odd[info.id] = self._surplus.get(info.id, 0) + 1
        self._surplus = odd
        for id in [id for id, looks in odd.items() if looks >= 2]:
            log.info("%s: container %s is one too many and is removed", self.ledger.identity.name, id)
            self.crew.submit("gather", partial(self.platform.cancel, id), lambda outcome: None)

    # -- ending ---------------------------------------------------------------------------------------------------

    def _begin_end(self, job: JobRecord, ending: _Ending) -> None:
        if job.key in self._ending:
            return
        self._ending[job.key] = ending
        self._pursue(job, ending)

    def _pursue(self, job: JobRecord, ending: _Ending) -> None:
        ending.due, ending.tries = None, ending.tries + 1
        self.crew.submit("gather", partial(self._bring, job, ending), partial(self._brought, job, ending))

    def _pursue_endings(self) -> None:
        now = self.clock.ticks()
        for key, ending in list(self._ending.items()):
            if ending.due is not None and ending.due <= now:
                self._pursue(self.ledger.jobs[key], ending)

    def _bring(self, job: JobRecord, ending: _Ending) -> Found | None:
        """In a thread: the evidence about an attempt's end; None where the container is there after all."""
        id = job.id
        if ending.phase is None and not ending.stopping and id is not None and not is_gone(self.platform, id):
            return None
        found = bring(self.platform, job, phase=ending.phase, home=self.around.home).beside(ending.found)
        ending.found = found
        if ending.stopping and id is not None and (found.trouble is None or ending.tries >= GOOD_LOOKS):
            self.platform.cancel(id)
            if not is_gone(self.platform, id):
                return found
            began, ended = receipt_files(self.around.home, job.key, job.attempts[-1].number)  # it may just have ended
            return attrs.evolve(found, gone=True, began=began or found.began, ended=ended or found.ended)
        return found

    def _brought(self, job: JobRecord, ending: _Ending, outcome: Outcome[Found | None]) -> None:
        current = self._job(job.key)
        if not current.state.active or current.attempts[-1].launch_name != job.attempts[-1].launch_name:
            self._ending.pop(job.key, None)
            return
        if outcome.error is not None and not isinstance(outcome.error, HomeError):
            if isinstance(outcome.error, CredentialError):
                self._pause_for(outcome.error)
            elif not isinstance(outcome.error, PlatformError):
                log.error("%s: the end of %s", self.ledger.identity.name, job.key, exc_info=outcome.error)
            ending.due = self.clock.ticks() + self._back_off(min(ending.tries, 4))
            return
        found = outcome.get()
        if found is None:
            del self._ending[job.key]
            self._unseen.pop(job.key, None)
            return
        stays = ending.stopping and not found.gone and job.id is not None
        torn = ending.phase is not None and found.torn
        if stays or (torn and ending.tries < (BRINGS if found.trouble else GOOD_LOOKS)):
            ending.due = self.clock.ticks() + min(60.0 if torn else 30.0, 2.0 ** min(ending.tries, 8))
            return
        del self._ending[job.key]
        self._unseen.pop(job.key, None)
        self.remember(self._end(current, ending, found))

    def _end(self, job: JobRecord, ending: _Ending, found: Found) -> Iterator[Event]:
        """The events that an attempt's end consists of: its verdict, and what follows from it."""
        now = self.clock.now()
        if job.id is None and found.began is None and found.ended is None:
            why = "no answer came to the launch, and the platform's list does not show it"
            failure: Failure = LaunchRefused(message=why, again=job.key not in self._same_again, inferred=True)
            ended = Ended(key=job.key, at=now, succeeded=False, failure=failure)
            self._watch_until = max(self._watch_until, self.clock.ticks() + self.settle)
        else:
            evidence = attrs.evolve(
                found.evidence(ending.phase, watched=ending.watched), stopped_for=ending.stopped_for
            )
            verdict = classify(evidence)
            ended = Ended(
                key=job.key, at=now, succeeded=verdict.succeeded, verified=verdict.verified, failure=verdict.failure,
                receipt=found.ended or found.began, log=found.saved,
            )  # fmt: skip
        if job.cancelling and not ended.succeeded:
            yield Cancelled(key=job.key, at=now, receipt=ended.receipt, log=ended.log)
            return
        yield ended
        after = apply(job, ended)
        self._compare_with_others(after)
        if after.state is JobState.WAITING:
            yield self._decision(after)

    def _in_doubt_since(self, job: JobRecord) -> datetime | None:
        """When the newest launch was given up without an answer, so that its container may yet appear."""
        attempt = job.attempt
        refused = attempt is None or (isinstance(attempt.failure, LaunchRefused) and not attempt.failure.inferred)
        return attempt.ended_at if attempt is not None and attempt.id is None and not refused else None

    # -- deciding -------------------------------------------------------------------------------------------------

    def _decide_all(self) -> None:
        """Ask about what a driver that was killed left undecided."""
        undecided = [self.ledger.jobs[key] for key in self.roster.undecided]
        self.remember([self._decision(job) for job in undecided])

    def _decision(self, job: JobRecord) -> Event:
        now, failure = self.clock.now(), job.attempts[-1].failure
        if failure is None:
            return Cancelled(key=job.key, at=now)
        answer = self.retry(job, failure)
        if isinstance(answer, Again):
            asked = self._offered(answer.resources or job.resources)
            if answer.resources not in (None, asked) and asked == job.attempts[-1].resources:
                return GaveUp(key=job.key, at=now, why=f"{failure.cause}, and the platform offers no more than it had")
            return Retrying(key=job.key, at=now, due=now + timedelta(seconds=answer.after), resources=asked)
        return GaveUp(key=job.key, at=now, why=answer.why)

    def _offered(self, wished: Resources) -> Resources:
        """*wished*, its memory rounded up to what the platform offers, and down to the most that it offers."""
        options = self._limits.ram if self._limits else ()
        if wished.ram is None or not options or wished.ram in options:
            return wished
        fitting = [option for option in sorted(options) if option >= wished.ram]
        return attrs.evolve(wished, ram=fitting[0] if fitting else max(options))

    def _compare_with_others(self, job: JobRecord) -> None:
        """Pause a batch whose first jobs all fail alike: the next thousand would as well."""
        self._succeeded = self._succeeded or job.state is JobState.SUCCEEDED
        if self._succeeded or self.stop_alike is None:
            return
        cause = job.failure.cause if job.failure else ""
        keys = self._alike[1] if cause == self._alike[0] else set()
        self._alike = (cause, {*keys, job.key})
        if len(self._alike[1]) >= self.stop_alike and self.paused is None:
            count = len(self._alike[1])
            self.paused = f"the first {count} jobs to end all failed alike, so no more are launched: {job.failure}"
            self.paused_for_platform = False
            self.say(self.paused)

    # -- launching ------------------------------------------------------------------------------------------------

    def _send(self) -> None:
        """Let the strategy pick, write the intents down, then post them."""
        now = self.clock.ticks()
        if not self._looked_once or self.paused is not None:
            return  # what is there comes first: a launch of the last driver may have come to be
        if now < self._launch_after or len(self._posting) >= IN_FLIGHT:
            return
        view = self.view()
        answer = self.launch(view)
        pick = answer if isinstance(answer, Pick) else Pick(answer)
        self._launch_again = None if pick.again is None else now + pick.again
        picked = dict.fromkeys(job.key for load in pick.loads for job in load.jobs)
        chosen = (self.ledger.jobs[key] for key in picked if self.roster.is_ready(key, view.now))
        events: list[Event] = []
        for job in islice(chosen, view.room):
            proof = self._late_proof(job)
            events.append(proof or self._intent(job, view.now))
        self.remember(events)
        for event in events:
            if isinstance(event, Intended):
                for known in (self._unseen, self._pull_checked):
                    known.pop(event.key, None)  # of the attempt before
                self._same_again.discard(event.key)
                self._posting.add(event.key)
                self._launches.append(view.now)
                job = self.ledger.jobs[event.key]
                self.crew.submit("launch", partial(self._post, job), partial(self._posted, job))

    def _intent(self, job: JobRecord, now: datetime) -> Intended:
        number = job.attempts[-1].number + 1 if job.attempts else 1
        identity = self.ledger.identity
        name = encoding.launch_name(
            identity.name, job.filled.name or job.key, token=identity.token, index=job.index, attempt=number
        )
        return Intended(key=job.key, at=now, launch_name=name, resources=job.resources)

    def _late_proof(self, job: JobRecord) -> Proved | None:
        """The receipt of an attempt that ended unheard, if it has come meanwhile and says success."""
        if job.attempt is None or not overruled_by_receipt(job):
            return None
        _, end = receipt_files(self.around.home, job.key, job.attempt.number)
        if end is None or end.exit_code != 0 or end.missing:
            return None
        return Proved(key=job.key, at=self.clock.now(), receipt=end)

    def _post(self, job: JobRecord) -> str:
        """In a thread: send one launch, if this driver may still do so."""
        try:
            request = request_for_job(job, self.around)
        except Exception as error:
            raise SpecError(f"job {job.key} cannot be sent: {error}") from error
        if not self.ledger.still_mine(self._generation):
            raise LeaseLost("the lease ran out, or another driver has taken this batch over")
        return self.platform.launch(request)

    def _posted(self, job: JobRecord, outcome: Outcome[str]) -> None:
        """An answer to a launch came, or the certainty that none will."""
        self._posting.discard(job.key)
        now = self.clock.now()
        current = self._job(job.key)
        if current.state is not JobState.LAUNCHING:
            return  # a look found the container before its answer came
        try:
            id = outcome.get()
        except (NotSent, PlatformBusy, CredentialError, LeaseLost) as error:
            if isinstance(error, CredentialError):
                self._pause_for(error)
            self._set_back(getattr(error, "retry_after", None))
            due = now + timedelta(seconds=max(0.0, self._launch_after - self.clock.ticks()))
            self.remember([Deferred(key=job.key, at=now, due=due, why=str(error))])
            if current.cancelling:
                self.remember([Cancelled(key=job.key, at=now)])
        except LaunchInDoubt as error:
            log.info("%s: %s is in doubt: %s", self.ledger.identity.name, job.key, error)
            self._set_back(error.retry_after)
            if error.same_again:
                self._same_again.add(job.key)
            self._next_look = min(self._next_look, self.clock.ticks() + 5.0)
        except (PlatformRefused, SpecError) as error:
            if current.cancelling:
                self.remember([Cancelled(key=job.key, at=now)])
                return
            failure = LaunchRefused(message=str(error), again=False)
            ended = Ended(key=job.key, at=now, succeeded=False, failure=failure)
            after = apply(current, ended)
            self._compare_with_others(after)
            self.remember([ended, self._decision(after)])
        except Exception as error:
            log.warning("%s: the launch of %s is in doubt: %r", self.ledger.identity.name, job.key, error)
            self._set_back(None)
        else:
            self._setbacks = 0
            self.remember([Launched(key=job.key, at=now, id=id)])

    def _set_back(self, asked: float | None) -> None:
        """The platform is not well or not willing: launch more slowly the longer that lasts."""
        self._refusals.append(self.clock.now())
        if self.clock.ticks() >= self._launch_after:  # one wave of launches is one setback, however many it had
            self._setbacks += 1
            pause = max(asked or 0.0, self._back_off(self._setbacks - 1))
            self._launch_after = self.clock.ticks() + pause

    # -- results --------------------------------------------------------------------------------------------------

    def _fetch_results(self) -> None:
        for key in [key for key in self.roster.uncollected if key not in self._collecting]:
            self.fetch_result(self.ledger.jobs[key])

    def fetch_result(self, job: JobRecord) -> None:
        """Have the collector fetch what *job* made."""
        self._collecting.add(job.key)
        work = partial(self.collect, job, self.platform)
        if getattr(self.collect, "serial", False):
            self._fetched(job, Outcome.of(work))
        else:
            self.crew.submit("collect", work, partial(self._fetched, job))

    def _fetched(self, job: JobRecord, outcome: Outcome[object]) -> None:
        self._collecting.discard(job.key)
        now = self.clock.now()
        if outcome.error is not None:
            error = outcome.error
            words = str(error) if isinstance(error, CanfarBatchError) else f"{type(error).__name__}: {error}"
            words = words.encode(errors="backslashreplace").decode()  # a file's name need not be text
            self.remember([NotCollected(key=job.key, at=now, why=words)])
            return
        kept = storable(outcome.value)
        if not kept:
            self.results[job.key] = outcome.value
        self.remember([Collected(key=job.key, at=now, result=outcome.value if kept else None)])
