"""What the stages of the loop share: one driver's hold on one batch."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime

import attrs

from canfar_batch.engine.attempts import LaunchContext
from canfar_batch.engine.job_index import JobIndex
from canfar_batch.engine.pool import Pool
from canfar_batch.errors import CanfarBatchError
from canfar_batch.lifecycle import Event, apply
from canfar_batch.protocols import Clock, Observer, Platform
from canfar_batch.records import JobRecord, Limits, Usage
from canfar_batch.store.ledger import Ledger

log = logging.getLogger("canfar_batch")

SLOWEST = 300.0  #: seconds between two tries at most, however often they failed
_KEPT = 4096  #: moments of the past that strategies may see


def _moments() -> deque[datetime]:
    return deque(maxlen=_KEPT)


@attrs.define(kw_only=True)
class Drive:
    """One driver's hold on one batch: its ledger, its helpers, and what was heard of the platform.

    Threads talk to the platform; the calling thread alone remembers. An event is in the ledger before any observer
    hears of it.
    """

    platform: Platform
    ledger: Ledger
    around: LaunchContext
    clock: Clock
    crew: Pool
    settle: float  #: seconds for which a container must be absent to be believed gone
    observers: list[Observer]
    dice: Callable[[], float] = random.random  #: from 0 to 1, so that no two drivers ask in step

    roster: JobIndex = attrs.field(init=False)
    generation: int = attrs.field(init=False)  #: of the lease that this driver holds
    posting: set[str] = attrs.field(factory=set)  #: the keys of the jobs whose launch awaits its answer
    hopeless: set[str] = attrs.field(factory=set)  #: launch names whose answer said: the same will fail again
    looked: datetime | None = None  #: when the platform was last heard of, by this driver or one before it
    next_look: float = 0.0  #: when to look again, in the clock's ticks
    bad_looks: int = 0  #: in a row, up to now
    watch_until: float = 0.0  #: until then, launches that came to nothing are looked for
    limits: Limits | None = None  #: as last heard
    usage: Usage | None = None
    launches: deque[datetime] = attrs.field(factory=_moments)
    finishes: deque[datetime] = attrs.field(factory=_moments)
    refusals: deque[datetime] = attrs.field(factory=_moments)
    paused: str | None = None  #: why nothing is launched at the moment
    paused_for_platform: bool = False  #: True where an answer of the platform ends the pause

    #: the events of what is being heard, until all of it is; None where nothing is
    _letters: list[Event] | None = attrs.field(default=None, init=False)
    _draft: dict[str, JobRecord] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self.roster = JobIndex(self.ledger.jobs)
        self.generation = self.ledger.generation
        self.looked = self.ledger.last_contact

    # -- remembering ----------------------------------------------------------------------------------------------

    def job(self, key: str) -> JobRecord:
        """The job's record, what was just heard of it included."""
        return self._draft.get(key) or self.ledger.jobs[key]

    def remember(self, events: Iterable[Event]) -> None:
        """Put *events* in the ledger, then tell the observers."""
        if self._letters is not None:
            for event in events:
                self._draft[event.key] = apply(self.job(event.key), event)
                self._letters.append(event)
            return
        changes = self.ledger.record(events)
        for change in changes:
            self.roster.update(change.before, change.after)
            log.debug("%s: %s: %s", self.name, change.event.key, change.event.kind)
        for observer in self.observers:
            for change in changes:
                try:
                    observer(change.event)
                except Exception:
                    log.exception("an observer failed; the batch goes on")

    def hear(self) -> int:
        """Take in the threads' answers, and how many; what follows from all of them becomes one transaction."""
        self._letters = []
        try:
            return self.crew.hear()
        finally:
            heard, self._letters, self._draft = self._letters, None, {}
            self.remember(heard)

    def heard_until(self, over: Callable[[], bool]) -> None:
        """Go on hearing until that is so."""
        self.hear()
        while not over():
            self.crew.wait(1.0)
            self.ledger.renew(self.looked)
            self.hear()

    # -- pausing --------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The batch's name."""
        return self.ledger.identity.name

    def say(self, message: str) -> None:
        """Tell the user something that is worth an interruption."""
        log.warning("%s: %s", self.name, message)

    def pause(self, why: str, *, for_platform: bool = False) -> None:
        """Launch nothing for now; what runs is followed."""
        self.paused, self.paused_for_platform = why, for_platform

    def pause_for(self, error: CanfarBatchError) -> None:
        """Launch nothing until the platform takes our credential again, which the next looks will tell."""
        if self.paused is None:
            self.say(f"nothing is launched until this is mended: {error}")
            self.pause(str(error), for_platform=True)
        self.look_within(self.back_off(self.bad_looks))

    def look_within(self, seconds: float) -> None:
        """Look again in so many seconds, or sooner."""
        self.next_look = min(self.next_look, self.clock.ticks() + seconds)

    def back_off(self, times: int) -> float:
        """Seconds to wait after so many failures in a row: doubling, and never the same for two drivers."""
        return float(min(SLOWEST, 5.0 * 2 ** min(times, 8)) * (0.5 + self.dice() / 2))

    def watch_for(self, seconds: float) -> None:
        """Look for launches that came to nothing for so long, at least."""
        self.watch_until = max(self.watch_until, self.clock.ticks() + seconds)
