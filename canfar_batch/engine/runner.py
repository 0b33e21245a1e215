"""The loop: strategies decide, it acts, the ledger remembers.

One `step` is: hear what the threads brought, look at the platform, decide about what failed, launch, fetch results.
Each stage has its room in `loop/`. Threads talk to the platform; the calling thread alone owns the ledger. An event is
in the ledger before anyone hears of it. `docs/explanation/loop.md` tells why each step is as it is.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from canfar_batch.engine.attempts import LaunchContext
from canfar_batch.engine.collect import Collecting
from canfar_batch.engine.context import Drive
from canfar_batch.engine.finish import Endings
from canfar_batch.engine.launch import Launching
from canfar_batch.engine.monitor import Lookout
from canfar_batch.engine.pool import Pool
from canfar_batch.engine.retry import Decisions
from canfar_batch.failures import LaunchRefused
from canfar_batch.lifecycle import CancelAsked, Cancelled, Event
from canfar_batch.protocols import (
    BatchView,
    Clock,
    LaunchStrategy,
    MonitorStrategy,
    Observer,
    Platform,
    ResultCollector,
    RetryPolicy,
)
from canfar_batch.records import JobRecord
from canfar_batch.store.ledger import Ledger

LONGEST = 60.0  #: seconds between two steps at most: the lease is renewed and requests are heeded at each


class Runner:
    """Drives one batch, step by step.

    Attributes:
        drive: What the stages share: the ledger, the jobs by what is to be done with them, pauses.
        decisions: What comes after a failure.
        launching: Who goes next, and the sending.
    """

    def __init__(
        self,
        *,
        platform: Platform,
        ledger: Ledger,
        around: LaunchContext,
        launch: LaunchStrategy,
        monitor: MonitorStrategy,
        retry: RetryPolicy,
        collect: ResultCollector,
        clock: Clock,
        crew: Pool,
        settle: float,
        observers: Sequence[Observer] = (),
        results: dict[str, object] | None = None,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self.drive = Drive(
            platform=platform, ledger=ledger, around=around, clock=clock, crew=crew, settle=settle,
            observers=list(observers), dice=dice,
        )  # fmt: skip
        self.decisions = Decisions(self.drive, retry)
        self._endings = Endings(self.drive, self.decisions)
        self._lookout = Lookout(self.drive, monitor, self._endings)
        self.launching = Launching(self.drive, launch, self.decisions, self._endings.late_proof)
        self._collecting = Collecting(self.drive, collect, {} if results is None else results)
        doubts = [at for job in ledger.jobs.values() if (at := _in_doubt_since(job)) is not None]
        if doubts:
            self.drive.watch_for(min(settle, settle - (clock.now() - max(doubts)).total_seconds()))

    # -- one step -------------------------------------------------------------------------------------------------

    def step(self) -> float:
        """Do all that can be done now; how many seconds until there is more to do.

        Raises:
            LeaseLost: Another driver has taken over.
            HomeError: The home cannot be written.
        """
        self._heed()
        self._lookout.look(self.view)
        self._endings.pursue()
        self.decisions.all_due()
        self._send()
        heard = self.drive.hear()
        self._collecting.fetch_all()  # last: what was heard just now must not lie until the next step
        return 0.0 if heard else self.wait()  # a place that was just heard to be free is filled at once

    def _heed(self) -> None:
        """Take in what threads, other processes and late receipts tell."""
        self.drive.ledger.renew(self.drive.looked)
        self.drive.hear()
        self._heed_requests()
        self._endings.seek_late_receipts()

    def _send(self) -> None:
        if self._lookout.looked_once:  # what is there comes first: a launch of the last driver may have come to be
            self.launching.send(self.view)

    @property
    def done(self) -> bool:
        """True once every job is final, every result fetched, and no launch in doubt."""
        roster = self.drive.roster
        if roster.unfinished or roster.uncollected or self._busy or self._endings.hopes:
            return False
        return self.drive.clock.ticks() >= self.drive.watch_until

    @property
    def stuck(self) -> bool:
        """True where nothing will happen any more before the user has mended what paused the batch."""
        drive = self.drive
        waits = drive.paused is not None and not drive.paused_for_platform
        return waits and drive.roster.unfinished > 0 and not drive.roster.active and not self._busy

    @property
    def awaiting(self) -> bool:
        """True while a thread is about to bring something."""
        return self._lookout.under_way or self._endings.at_work or bool(self.drive.posting or self._collecting.busy)

    def told_to_stop(self, key: str) -> bool:
        """Whether the platform was told to stop this job, as far as there is anything that it could be told of."""
        job = self.drive.ledger.jobs[key]
        return (job.id is None and key not in self.drive.posting) or self._endings.told_to_stop(key)

    @property
    def _busy(self) -> bool:
        return bool(self.drive.posting or self._endings.under_way or self._collecting.busy)

    def wait(self) -> float:
        """Seconds until the next step has something to do; less where a thread brings something."""
        if self.done or self.stuck:
            return 0.0
        drive, now = self.drive, self.drive.clock.ticks()
        moments = [now + LONGEST]
        if self._lookout.needed and not self._lookout.under_way:
            moments.append(drive.next_look)
        if (launch := self.launching.next_wish()) is not None:
            moments.append(launch)
        moments.extend(ending.due for ending in self._endings.under_way.values() if ending.due is not None)
        if drive.watch_until > now:
            moments.append(drive.watch_until)
        return max(0.0, min(moments) - now)

    def view(self) -> BatchView:
        """What strategies may know at this moment."""
        drive, now = self.drive, self.drive.clock.now()
        return BatchView(
            now=now,
            counts=drive.roster.counts,
            containers=sum(1 for key in drive.roster.active if not self._endings.seen_over(key)),
            room=self.launching.room,
            launches=drive.launches,
            finishes=drive.finishes,
            refusals=drive.refusals,
            limits=drive.limits,
            usage=drive.usage,
            doubt=not self._lookout.looked_once or drive.clock.ticks() < drive.watch_until,
            ready=lambda: drive.roster.ready(now),
            active=self._lookout.watched,
        )

    # -- what the user and other processes ask for ----------------------------------------------------------------

    def _heed_requests(self) -> None:
        requests = self.drive.ledger.requests()
        for _, kind, keys in requests:
            if kind == "cancel":
                self.cancel(keys)
        if requests:
            self.drive.ledger.answered(number for number, _, _ in requests)

    def resume(self) -> None:
        """Launch again after a pause, and look once more for late receipts."""
        self.drive.paused = None
        self.decisions.start_over()
        self._endings.seek_anew()

    def cancel(self, keys: Iterable[str] | None) -> None:
        """Mark these jobs (None: all) to be stopped; what was never launched is over at once."""
        drive, now, events = self.drive, self.drive.clock.now(), list[Event]()
        for key in list(drive.ledger.jobs if keys is None else keys):
            job = drive.ledger.jobs.get(key)
            if job is None or job.state.final or job.cancelling:
                continue
            events.append(CancelAsked(key=key, at=now))
            if not job.state.active:
                events.append(Cancelled(key=key, at=now))
        drive.remember(events)
        drive.look_within(0.0)

    # -- the stages alone -----------------------------------------------------------------------------------------

    def observe_now(self) -> None:
        """Look at the platform, whatever the monitor wished, and follow up what is seen."""
        self._heed()
        self.drive.look_within(0.0)
        self._lookout.look(self.view)
        self._endings.pursue()
        self.drive.heard_until(lambda: not self._lookout.under_way and not self._endings.at_work)

    def launch_now(self) -> int:
        """Let the strategy pick, and wait for the answers; how many launches were sent."""
        if not self._lookout.looked_once:
            self.observe_now()
        self.decisions.all_due()
        before = len(self.drive.posting)
        self._send()
        sent = len(self.drive.posting) - before
        self.drive.heard_until(lambda: not self.drive.posting)
        return sent

    def collect_now(self, jobs: Iterable[JobRecord]) -> None:
        """Fetch these jobs' results, and wait for them."""
        for job in jobs:
            self._collecting.fetch(job)
        self.drive.heard_until(lambda: not self._collecting.busy)


def _in_doubt_since(job: JobRecord) -> datetime | None:
    """When the newest launch was given up without an answer, so that its container may yet appear."""
    attempt = job.last_attempt
    refused = attempt is None or (isinstance(attempt.failure, LaunchRefused) and not attempt.failure.inferred)
    return attempt.ended_at if attempt is not None and attempt.id is None and not refused else None
