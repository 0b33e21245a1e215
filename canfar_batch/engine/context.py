"""What the stages of the engine share: the setup, the journal, the schedule, the platform's health and the traffic."""

from __future__ import annotations

import contextlib
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime

import attrs

from canfar_batch.engine.job_index import JobIndex
from canfar_batch.engine.launch_requests import LaunchContext
from canfar_batch.errors import CanfarBatchError, LaunchInDoubt
from canfar_batch.lifecycle import Event, Launched, apply
from canfar_batch.protocols import Clock, Observer, Platform
from canfar_batch.records import JobRecord, Limits, Usage
from canfar_batch.setup import Pool, Setup
from canfar_batch.store.home import Home
from canfar_batch.store.ledger import Change
from canfar_batch.store.memory import LedgerLike

log = logging.getLogger("canfar_batch")

LONGEST_PAUSE = 300.0  #: seconds between two tries at most, however often they failed
_REMEMBERED = 4096  #: launches, ends and refusals whose times strategies may see


class Journal:
    """Records events in the ledger, then reports them to the observers.

    The calling thread alone uses it. While the results of worker threads are processed, events are buffered and
    written in one transaction (`in_one_transaction`); `job` includes what is buffered.

    Attributes:
        index: The jobs by what can be done with them.
        observers: Called with each event once it is in the ledger.
    """

    def __init__(self, ledger: LedgerLike, observers: Iterable[Observer]) -> None:
        self._ledger = ledger
        self.index = JobIndex(ledger.jobs)
        self.observers = list(observers)
        self._buffer: list[Change] | None = None
        self._drafts: dict[str, JobRecord] = {}  # records as they will be once the buffer is written

    @property
    def name(self) -> str:
        """The batch's name."""
        return self._ledger.identity.name

    @property
    def jobs(self) -> Mapping[str, JobRecord]:
        """Every job's record by its key, as of the last transaction."""
        return self._ledger.jobs

    def job(self, key: str) -> JobRecord:
        """Return the job's record, buffered events included."""
        return self._drafts.get(key) or self._ledger.jobs[key]

    @property
    def holds_only_launches(self) -> bool:
        """Whether all buffered events are answers to launches, which free no place; False while none are buffered."""
        return self._buffer is not None and all(isinstance(change.event, Launched) for change in self._buffer)

    def record(self, events: Iterable[Event]) -> None:
        """Write *events* to the ledger, then report them to the observers."""
        if self._buffer is None:
            self._note(self._ledger.record(events))
            return
        for event in events:
            before = self.job(event.key)
            self._drafts[event.key] = after = apply(before, event)
            self._buffer.append(Change(event=event, before=before, after=after))

    def _note(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self.index.update(change.before, change.after)
            log.debug("%s: %s: %s", self.name, change.event.key, change.event.kind)
        self._report(changes)

    @contextlib.contextmanager
    def in_one_transaction(self) -> Iterator[None]:
        """Buffer the events recorded inside, and write them in one transaction at the end."""
        self._buffer = []
        try:
            yield
        finally:
            changes, self._buffer, self._drafts = self._buffer, None, {}
            self._ledger.write(changes)
            self._note(changes)

    def _report(self, changes: Sequence[Change]) -> None:
        for observer in list(self.observers):
            for change in changes:
                try:
                    observer(change.event)
                except Exception:
                    log.exception("an observer failed; the batch goes on")


@attrs.define(kw_only=True)
class Schedule:
    """When to poll the platform again, and for how long to watch for launches in doubt. Times are the clock's ticks."""

    clock: Clock
    random: Callable[[], float]
    last_contact: datetime | None = None  #: when this driver, or one before it, last had an answer
    next_poll: float = 0.0
    watch_until: float = 0.0  #: until then, launches that seem to have come to nothing are looked for

    def poll_within(self, seconds: float) -> None:
        """Poll again in *seconds*, or sooner."""
        self.next_poll = min(self.next_poll, self.clock.ticks() + seconds)

    def poll_after(self, seconds: float) -> None:
        """Poll again in *seconds*."""
        self.next_poll = self.clock.ticks() + seconds

    def watch_for(self, seconds: float) -> None:
        """Watch for launches in doubt for at least *seconds*."""
        self.watch_until = max(self.watch_until, self.clock.ticks() + seconds)

    def back_off(self, failures: int) -> float:
        """Return the seconds to wait after *failures* in a row: doubling, jittered, at most `LONGEST_PAUSE`."""
        return float(min(LONGEST_PAUSE, 5.0 * 2 ** min(failures, 8)) * (0.5 + self.random() / 2))


@attrs.frozen(kw_only=True)
class Pause:
    """Why nothing is launched for now."""

    why: str
    by_platform: bool = False  #: whether a good answer from the platform lifts it; else the user has to


@attrs.define(kw_only=True)
class Health:
    """What is known of the platform, and whether launching is paused."""

    name: str  #: the batch's, for messages
    schedule: Schedule
    quiet: bool = False  #: whether messages are logged for information only
    pause: Pause | None = None
    bad_polls: int = 0  #: in a row
    trouble: Exception | None = None  #: why the newest poll failed; None after a good one
    recoveries: int = 0  #: good polls that followed a failed one
    limits: Limits | None = None  #: as last received
    usage: Usage | None = None  #: as last received

    def say(self, message: str) -> None:
        """Log something that is worth the user's attention."""
        log.log(logging.INFO if self.quiet else logging.WARNING, "%s: %s", self.name, message)

    def pause_for(self, error: CanfarBatchError) -> None:
        """Launch nothing until the platform accepts the credential again, which the next polls show."""
        if self.pause is None:
            self.say(f"nothing is launched until this is fixed: {error}")
            self.pause = Pause(why=str(error), by_platform=True)
        self.schedule.poll_within(self.schedule.back_off(self.bad_polls))

    def note_good_poll(self) -> None:
        """Note that the platform has answered, and lift a pause that waited for it."""
        self.recoveries += self.trouble is not None
        self.bad_polls, self.trouble = 0, None
        if self.pause is not None and self.pause.by_platform:
            self.pause = None
            self.say("the platform answers again; going on")


def _times() -> deque[datetime]:
    return deque(maxlen=_REMEMBERED)


@attrs.define(kw_only=True)
class Traffic:
    """Launches in flight, and the times of recent launches, ends and refusals."""

    in_flight: set[str] = attrs.field(factory=set)  #: keys of the jobs whose launch has no answer yet
    home_is_seen: bool = False  #: whether a bundle has left files in the home
    posts: int = 0  #: launches without an answer: one for all jobs of a bundle
    doubts: dict[str, LaunchInDoubt] = attrs.field(factory=dict)  #: why launches are in doubt, by launch name
    launches: deque[datetime] = attrs.field(factory=_times)
    finishes: deque[datetime] = attrs.field(factory=_times)
    refusals: deque[datetime] = attrs.field(factory=_times)


@attrs.frozen(kw_only=True)
class Context:
    """What the stages share while one driver holds the batch. Only the calling thread changes it."""

    setup: Setup
    ledger: LedgerLike
    archive: Home  #: the directory that logs and events are saved in
    launch_context: LaunchContext
    clock: Clock  #: steady: no change of the machine's date disturbs it
    pool: Pool
    journal: Journal
    schedule: Schedule
    health: Health
    traffic: Traffic

    @property
    def platform(self) -> Platform:
        """The platform."""
        return self.setup.platform

    def drain(self, then: Callable[[], None] | None = None) -> int:
        """Process the results of worker threads in one transaction, and return how many there were.

        Args:
            then: Called in the same transaction, if it holds nothing but answers to launches.
        """
        with self.journal.in_one_transaction():
            count = self.pool.drain()
            if then is not None and count and self.journal.holds_only_launches:
                then()
            return count

    def drain_until(self, condition: Callable[[], bool], *, deadline: float = math.inf) -> bool:
        """Process the results of worker threads until *condition* is true, and return whether it is.

        Args:
            condition: The condition to end on.
            deadline: When to give up, in the clock's ticks.
        """
        self.drain()
        while not condition():
            left = deadline - self.clock.ticks()
            if left <= 0:
                return False
            self.pool.wait(min(1.0, left))
            self.ledger.renew(self.schedule.last_contact)
            self.drain()
        return True
