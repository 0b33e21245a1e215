"""The stages of the loop, and one step through them: receive, poll, judge, retry, launch, collect."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import datetime

from canfar_batch.clock import SteadyClock
from canfar_batch.engine.bundles import BundleWatch
from canfar_batch.engine.collect import Collector
from canfar_batch.engine.context import Context, Health, Journal, Schedule, Traffic
from canfar_batch.engine.finish import Finisher
from canfar_batch.engine.held_up import HeldUpJobs
from canfar_batch.engine.inputs import InputStage
from canfar_batch.engine.launch import Launcher
from canfar_batch.engine.launch_requests import LaunchContext
from canfar_batch.engine.monitor import Monitor
from canfar_batch.engine.pool import ThreadPool
from canfar_batch.engine.retry import Retrier
from canfar_batch.failures import LaunchRefused
from canfar_batch.lifecycle import CancelAsked, Cancelled, Event
from canfar_batch.protocols import BatchView
from canfar_batch.records import JobRecord
from canfar_batch.setup import Setup
from canfar_batch.store.home import Home
from canfar_batch.store.memory import LedgerLike

ANSWER_DUE = 1.0  #: seconds between two steps at most while a launch is in flight, for callers that sleep between them
LONGEST_WAIT = 60.0  #: seconds between two steps at most: each renews the lease and reads the requests of others


class Stages:
    """The stages of the loop, for as long as one driver holds the lease."""

    def __init__(
        self,
        setup: Setup,
        ledger: LedgerLike,
        archive: Home,
        *,
        launch_context: LaunchContext,
        results: dict[str, object],
        storage_trouble: str | None = None,
    ) -> None:
        clock = SteadyClock(setup.clock)
        schedule = Schedule(clock=clock, random=setup.random, last_contact=ledger.last_contact)
        self.context = context = Context(
            setup=setup,
            ledger=ledger,
            archive=archive,
            launch_context=launch_context,
            clock=clock,
            pool=(setup.pool or ThreadPool)(),
            journal=Journal(ledger, setup.observers),
            schedule=schedule,
            health=Health(name=ledger.identity.name, schedule=schedule, quiet=setup.is_single),
            traffic=Traffic(),
        )
        self.retrier = Retrier(context)
        self.finisher = Finisher(context, self.retrier)
        self.monitor = Monitor(context, self.finisher)
        self.bundles = BundleWatch(context, self.finisher)
        self._read_at = 0  # the poll after which the reports of bundles were read
        self.inputs = InputStage(context, storage_trouble)
        self.launcher = Launcher(context, self.retrier, self.finisher.late_success)
        self.collector = Collector(context, results)
        self.held_up = HeldUpJobs(context)
        doubts = [at for job in ledger.jobs.values() if (at := _in_doubt_since(job)) is not None]
        if doubts:
            schedule.watch_for(min(setup.settle, setup.settle - (clock.now() - max(doubts)).total_seconds()))

    # -- one step -------------------------------------------------------------------------------------------------

    def step(self) -> float:
        """Do all that can be done now, and return the seconds until there is more to do."""
        self._take_in(then=self._intend)
        self.launcher.send()
        self.monitor.poll(self.view)
        self._read_bundles()
        self.finisher.pursue_due()
        self.retrier.decide_all()
        self.held_up.search()
        self._launch()
        drained = 0 if self.context.traffic.in_flight else self.context.drain()
        self.collector.collect_all()  # last: a success that was just drained does not wait for the next step
        if self.context.traffic.in_flight:
            return min(ANSWER_DUE, self._next_due())  # `wait` returns with the first answers, to be recorded together
        return 0.0 if drained else self._next_due()  # a place that was just freed is filled at once

    def _take_in(self, then: Callable[[], None] | None = None) -> None:
        """Take in what threads, other processes and late receipts report; *then* as for `Context.drain`."""
        self.context.ledger.renew(self.context.schedule.last_contact)
        self.context.drain(then)
        self._carry_out_requests()
        self.finisher.seek_late_receipts()
        self.finisher.seek_late_logs()

    def _read_bundles(self) -> None:
        """Read what the jobs of bundles report, once after each poll."""
        if self.monitor.polls != self._read_at:
            self._read_at = self.monitor.polls
            self.bundles.read(self.monitor.running)

    def _intend(self) -> None:
        """Record further launches, in the transaction that records the answers to earlier ones: a disk is slow."""
        if self.monitor.has_polled and self.inputs.are_there():
            self.launcher.intend(self.view)

    def _launch(self) -> None:
        # a launch of the last driver may have succeeded: the first poll shows it
        if self.monitor.has_polled and self.inputs.are_there():
            self.launcher.launch(self.view)

    def _next_due(self) -> float:
        """Return the seconds until the next step has something to do."""
        if self.is_done or self.is_stuck:
            return 0.0
        schedule, now = self.context.schedule, self.context.clock.ticks()
        moments = [now + LONGEST_WAIT]
        if self.monitor.is_needed and not self.monitor.in_flight:
            moments.append(schedule.next_poll)
        if schedule.watch_until > now:
            moments.append(schedule.watch_until)
        launch_due = None if self.inputs.in_flight else self.launcher.next_due()
        moments.extend(due for due in (launch_due, self.finisher.next_due()) if due is not None)
        return max(0.0, min(moments) - now)

    def view(self) -> BatchView:
        """Return what strategies may know at this moment."""
        context, now = self.context, self.context.clock.now()
        index, health, traffic = context.journal.index, context.health, context.traffic
        return BatchView(
            now=now,
            counts=index.counts,
            containers=self._count_containers(),
            room=self.launcher.room,
            launches=traffic.launches,
            finishes=traffic.finishes,
            refusals=traffic.refusals,
            limits=health.limits,
            usage=health.usage,
            doubt=not self.monitor.has_polled or context.clock.ticks() < context.schedule.watch_until,
            typical=index.typical,
            backlog=index.backlog,
            ready=lambda: self.launcher.ready(now),
            longest=lambda: self.launcher.longest(now),
            active=self.monitor.watched,
        )

    def _count_containers(self) -> int:
        """Return how many containers exist or may exist and have not ended: one for all jobs of a bundle."""
        index, finisher = self.context.journal.index, self.finisher
        count = len(index.active) - finisher.count_ended(index.active)
        for keys in index.bundles.values():
            going_on = sum(not finisher.has_ended(key) for key in keys)
            count -= max(0, going_on - 1)
        return count

    # -- state ----------------------------------------------------------------------------------------------------

    @property
    def is_done(self) -> bool:
        """Whether every job is final, every result fetched, and no launch in doubt."""
        index = self.context.journal.index
        if (
            index.unfinished
            or index.uncollected
            or self._is_busy
            or self.finisher.owes_search
            or self.finisher.owes_logs
        ):
            return False
        return self.context.clock.ticks() >= self.context.schedule.watch_until

    @property
    def is_stuck(self) -> bool:
        """Whether nothing more will happen until the user has fixed what paused the batch."""
        pause, index = self.context.health.pause, self.context.journal.index
        waits_for_user = pause is not None and not pause.by_platform
        return waits_for_user and index.unfinished > 0 and not index.active and not self._is_busy

    @property
    def has_work_in_flight(self) -> bool:
        """Whether a worker thread is about to deliver something."""
        in_flight = self.context.traffic.in_flight or self.collector.in_flight
        stages = (self.monitor, self.finisher, self.bundles, self.inputs)
        return bool(in_flight) or any(stage.in_flight for stage in stages)

    @property
    def _is_busy(self) -> bool:
        in_flight = self.context.traffic.in_flight or self.collector.in_flight or self.inputs.in_flight
        return bool(in_flight) or self.finisher.busy

    def cancel_sent(self, key: str) -> bool:
        """Return whether a cancel was delivered for this job, or it has no container to cancel."""
        has_container = self.context.journal.jobs[key].id is not None or key in self.context.traffic.in_flight
        return not has_container or self.finisher.cancel_sent(key)

    # -- what the user and other processes ask for ----------------------------------------------------------------

    def _carry_out_requests(self) -> None:
        requests = self.context.ledger.requests()
        for _, kind, keys in requests:
            if kind == "cancel":
                self.cancel(keys)
        if requests:
            self.context.ledger.answered(number for number, _, _ in requests)

    def cancel(self, keys: Iterable[str] | None) -> None:
        """Mark jobs (None: all) to be stopped; those that have no container are cancelled at once."""
        jobs, now, events = self.context.journal.jobs, self.context.clock.now(), list[Event]()
        for key in list(jobs if keys is None else keys):
            job = jobs.get(key)
            if job is None or job.state.final or job.cancelling:
                continue
            events.append(CancelAsked(key=key, at=now))
            if not job.state.active:
                events.append(Cancelled(key=key, at=now))
        self.context.journal.record(events)
        self.context.schedule.poll_within(0.0)

    def resume(self) -> None:
        """Launch again after a pause, count failures from zero, and look again for late receipts."""
        self.context.health.pause = None
        self.launcher.try_now()
        self.retrier.start_over()
        self.finisher.seek_again()

    # -- the stages alone -----------------------------------------------------------------------------------------

    def observe(self, timeout: float = math.inf) -> bool:
        """Poll now, and follow up what is seen; return whether all answers came within *timeout* seconds."""
        deadline = self.context.clock.ticks() + timeout
        self._take_in()
        self.context.schedule.poll_within(0.0)
        self.monitor.poll(self.view)
        self.finisher.pursue_due()
        if not self.context.drain_until(lambda: not self.monitor.in_flight, deadline=deadline):
            return False
        self.finisher.pursue_due()
        self._read_bundles()
        answered = self.context.drain_until(
            lambda: not self.bundles.in_flight and not self.finisher.in_flight, deadline=deadline
        )
        self.held_up.search()
        return answered

    def launch(self) -> int:
        """Launch what the strategy picks, wait for the answers, and return how many launches were sent."""
        if not self.monitor.has_polled:
            self.observe()
        self.retrier.decide_all()
        self.inputs.are_there()
        self.context.drain_until(lambda: not self.inputs.in_flight)
        in_flight = self.context.traffic.in_flight
        before = len(in_flight)
        self._launch()
        sent = len(in_flight) - before
        self.context.drain_until(lambda: not in_flight)
        return sent

    def collect(self, jobs: Iterable[JobRecord]) -> None:
        """Fetch the results of *jobs*, and wait for them."""
        for job in jobs:
            self.collector.collect(job)
        self.context.drain_until(lambda: not self.collector.in_flight)


def _in_doubt_since(job: JobRecord) -> datetime | None:
    """Return when the newest launch was given up without an answer, so that its container may yet appear."""
    attempt = job.last_attempt
    if attempt is None or attempt.id is not None:
        return None
    refused = isinstance(attempt.failure, LaunchRefused) and not attempt.failure.inferred
    return None if refused else attempt.ended_at
