"""Launching: each intent is recorded before it is sent, each answer as it comes; doubts are left to the next polls."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from itertools import islice

import attrs

from canfar_batch.engine.attempts import LaunchContext, request_for
from canfar_batch.engine.context import Context
from canfar_batch.engine.patience import ANNOUNCED_WAIT, Patience
from canfar_batch.engine.retry import Retrier
from canfar_batch.errors import (
    CanfarBatchError,
    CredentialError,
    LaunchInDoubt,
    LeaseLost,
    NotMade,
    NotSent,
    PlatformBusy,
    PlatformRefused,
    SpecError,
    StrategyError,
    add_outage_hint,
)
from canfar_batch.failures import LaunchRefused
from canfar_batch.lifecycle import Cancelled, Deferred, Ended, Event, Intended, LateSuccess, Launched, apply
from canfar_batch.protocols import BatchView, Bundle, LaunchStrategy, Pick, Platform
from canfar_batch.records import JobRecord, JobState
from canfar_batch.setup import Outcome
from canfar_batch.store.memory import LedgerLike

log = logging.getLogger("canfar_batch")

#: launches that are recorded and not answered, of which the pool sends 32 at once: a crash leaves no more in doubt
MOST_IN_FLIGHT = 64
SOON = 5.0  #: seconds until the platform's list is asked about a launch that got no answer


class HeldBack(NotSent):
    """A launch was recorded and then held back, because the platform had refused another one."""


class Permit:
    """Whether a launch that is recorded may be sent; worker threads check it just before they send one.

    Attributes:
        is_given: Whether launching goes on. The calling thread changes it.
    """

    def __init__(self, ledger: LedgerLike) -> None:
        self._ledger = ledger
        self._generation = ledger.generation  # of the lease under which intents are recorded
        self.is_given = True

    def check(self) -> None:
        """Return if a launch may be sent now.

        Raises:
            HeldBack: Launching has stopped.
            LeaseLost: Another driver has taken over.
        """
        if not self.is_given:
            raise HeldBack("it was not sent, since the platform refused another launch")
        if not self._ledger.still_mine(self._generation):
            raise LeaseLost("the lease ran out, or another driver has taken this batch over")


@attrs.frozen
class Post:
    """One launch to be sent by a worker thread, if this driver may still send it."""

    job: JobRecord
    context: LaunchContext
    platform: Platform
    permit: Permit

    def __call__(self) -> str:
        """Send the launch, and return the container's id.

        Raises:
            HeldBack: Launching has stopped.
            LeaseLost: Another driver has taken over.
            SpecError: The job cannot be sent at all.
            PlatformError: As `Platform.launch` says.
        """
        try:
            request = request_for(self.job, self.context)
        except Exception as error:
            if self.context.batch is None:
                raise
            raise SpecError(f"job {self.job.key} cannot be sent: {error}") from error
        self.permit.check()
        return self.platform.launch(request)


class Launcher:
    """Lets the launch strategy pick jobs, and launches them.

    Attributes:
        error: Why the newest launch that did not succeed failed or is in doubt.
        patience: Decides about refused launches.
    """

    def __init__(
        self, context: Context, retrier: Retrier, late_success: Callable[[JobRecord], LateSuccess | None]
    ) -> None:
        self._context, self._journal, self._retrier = context, context.journal, retrier
        self._strategy = context.setup.strategies.launch
        self._late_success = late_success
        self._permit = Permit(context.ledger)
        self._intended: list[Intended] = []  # recorded, or to be in the present transaction, and not sent yet
        self._announced_waits = False
        self._recoveries = 0  # of the platform's list that a probe has followed
        self._doubted: set[str] = set()  # keys of the jobs whose launch got no clear answer
        self._ask_again: float | None = None  # when the strategy wants to be asked again, in the clock's ticks
        self.error: Exception | None = None
        self.patience = Patience(context.schedule, context.health, self._journal.index.accepted)

    @property
    def room(self) -> int:
        """The number of launches that may be sent now."""
        return max(0, MOST_IN_FLIGHT - len(self._context.traffic.in_flight))

    @contextmanager
    def only(self, key: str) -> Iterator[None]:
        """Launch this job and no other while inside."""
        usual, self._strategy = self._strategy, _only(key)
        try:
            yield
        finally:
            self._strategy = usual

    def ready(self, now: datetime) -> Iterator[JobRecord]:
        """Yield the jobs that the strategy may pick at *now*, in plan order."""
        return self.patience.without_held(self._journal.index.ready(now))

    def next_due(self) -> float | None:
        """Return when something may be launched, in the clock's ticks; None if nothing is foreseen."""
        if self._context.health.pause is not None or not self.room:
            return None
        clock = self._context.clock
        now, moments = clock.ticks(), list[float]()
        due = self._journal.index.next_due(clock.now())
        if due is not None:
            moments.append(now + (due - clock.now()).total_seconds())
        if self._ask_again is not None:
            moments.append(self._ask_again)
        moments += [moment for moment in self.patience.next_probes() if moment > now]
        return max(self.patience.next_probe, min(moments)) if moments else None

    def try_now(self) -> None:
        """Launch as if nothing had been refused."""
        self.patience.forget()

    def launch(self, make_view: Callable[[], BatchView]) -> None:
        """Let the strategy pick, record the intents, then send them."""
        self.intend(make_view)
        self.send()

    def intend(self, make_view: Callable[[], BatchView]) -> None:
        """Let the strategy pick, and record the intents; `send` sends them once they are in the ledger."""
        context, now = self._context, self._context.clock.ticks()
        if context.health.recoveries != self._recoveries:
            self._recoveries = context.health.recoveries
            self.patience.probe_now()
        self._note_adopted()
        if context.health.pause is not None or not self.room:
            return
        view = make_view()
        self._announce_waits(view)
        pick = self._pick(view)
        self._ask_again = None if pick.again is None else now + pick.again
        picked = dict.fromkeys(job.key for bundle in pick.bundles for job in bundle.jobs)
        jobs, index = self._journal.jobs, self._journal.index
        in_flight = [jobs[key] for key in context.traffic.in_flight]
        ready = (jobs[key] for key in picked if index.is_ready(key, view.now))
        chosen = islice(self.patience.admitted(ready, in_flight), view.room)
        events = [self._late_success(job) or self._intent(job, view.now) for job in chosen]
        self._journal.record(events)
        self._intended += [event for event in events if isinstance(event, Intended)]

    def send(self) -> None:
        """Send the launches whose intents are in the ledger by now."""
        intended, self._intended = self._intended, []
        for event in intended:
            job = self._journal.jobs[event.key]
            if job.last_attempt is not None and job.last_attempt.launch_name == event.launch_name:
                self._permit.is_given = True
                self._send(job, event.at)

    def _note_adopted(self) -> None:
        """Note the launches in doubt that a poll has found: the platform accepts launches, whatever it answers."""
        for key in list(self._doubted):
            job = self._journal.jobs.get(key)
            if job is None or job.state is not JobState.LAUNCHING:
                self._doubted.discard(key)
                if job is not None and job.id is not None:
                    self.patience.note_acceptance(job)

    def _announce_waits(self, view: BatchView) -> None:
        """Say once that nothing will be launched for long, as a new driver does not know what an earlier one said."""
        if self._announced_waits:
            return
        self._announced_waits = True
        due = self._journal.index.next_due(view.now)
        if due is None or self._journal.index.active or view.ready(at_most=1):
            return
        if (due - view.now).total_seconds() >= ANNOUNCED_WAIT:
            until = due.astimezone().strftime("%H:%M")
            self._context.health.say(f"all jobs that are left wait for their next launch, the first until {until}")

    def _pick(self, view: BatchView) -> _Picked:
        """Return what the strategy wants now; a job stands for the bundle that consists of it."""
        answer = self._strategy(view)
        pick = answer if isinstance(answer, Pick) else Pick(answer)
        try:
            bundles = [each if isinstance(each, Bundle) else Bundle(_record(each)) for each in pick.bundles]
        except TypeError as error:
            raise StrategyError(
                f"the launch strategy {self._strategy!r} returned {answer!r}; it returns a list of jobs or Bundles, "
                "such as view.ready(at_most=3), or a Pick of them"
            ) from error
        return _Picked(bundles, pick.again)

    def _intent(self, job: JobRecord, now: datetime) -> Event:
        name = self._context.launch_context.launch_name(job)
        return Intended(key=job.key, at=now, launch_name=name, resources=job.resources)

    def _send(self, job: JobRecord, now: datetime) -> None:
        context = self._context
        context.traffic.in_flight.add(job.key)
        context.traffic.launches.append(now)
        post = Post(job, context.launch_context, context.platform, self._permit)
        context.pool.submit("launch", post, partial(self._answered, job))

    # -- answers --------------------------------------------------------------------------------------------------

    def _answered(self, job: JobRecord, outcome: Outcome[str]) -> None:
        """Record the answer to a launch, or leave the launch to the next polls if there was no clear one."""
        context = self._context
        context.traffic.in_flight.discard(job.key)
        current = self._journal.job(job.key)
        if current.state is not JobState.LAUNCHING:
            if current.id is not None:  # a poll found the container before the answer came
                self.patience.note_acceptance(current)
            return
        if isinstance(outcome.error, Exception):
            self.error = outcome.error
        try:
            id = outcome.get()
        except (CredentialError, PlatformRefused, NotMade) as error:
            self._refused(current, error)
        except (NotSent, PlatformBusy, LeaseLost) as error:
            if isinstance(error, HeldBack):
                due = self.patience.next_probe
            else:
                due = self.patience.note_busy(error)
                self._note_setback()
            self._defer(current, due, error)
        except SpecError as error:
            self._refuse(current, error)
        except LaunchInDoubt as error:
            log.info("%s: %s is in doubt: %s", self._journal.name, job.key, error)
            context.traffic.doubts[current.attempts[-1].launch_name] = error
            self._note_doubt(current, error)
            context.schedule.poll_within(SOON)
        except Exception as error:
            log.warning("%s: the launch of %s is in doubt: %r", self._journal.name, job.key, error)
            self._note_doubt(current, error)
        else:
            self.patience.note_acceptance(current)
            self._journal.record([Launched(key=job.key, at=context.clock.now(), id=id)])

    def _refused(self, job: JobRecord, error: CredentialError | PlatformRefused | NotMade) -> None:
        """Nothing was made. Try again later if the refusal may pass, else give the job up."""
        was_accepted = self.patience.may_pass(job)
        if not was_accepted:
            add_outage_hint(error)
        if isinstance(error, NotMade):
            may_pass = not error.same_again or was_accepted
        elif isinstance(error, PlatformRefused):
            may_pass = error.may_pass and was_accepted
        else:
            may_pass = True  # the credential is refused, not the job
        due = self.patience.retry_time(job, error) if may_pass else None
        if due is None:
            if may_pass:
                error.args = (f"{error} It was refused again and again, while other launches were accepted.",)
            self._refuse(job, error)
        else:
            self._note_setback()
            self._defer(job, due, error)

    def _defer(self, job: JobRecord, due: float, error: CanfarBatchError) -> None:
        """Nothing was made: launch the job again at *due*, in the clock's ticks."""
        clock = self._context.clock
        at = clock.now() + timedelta(seconds=max(0.0, due - clock.ticks()))
        self._journal.record([Deferred(key=job.key, at=clock.now(), due=at, why=str(error))])
        if job.cancelling:
            self._journal.record([Cancelled(key=job.key, at=clock.now())])

    def _refuse(self, job: JobRecord, error: CanfarBatchError) -> None:
        """Nothing was made, and the same request would be refused again."""
        now = self._context.clock.now()
        if job.cancelling:
            self._journal.record([Cancelled(key=job.key, at=now)])
            return
        failure = LaunchRefused(message=str(error), again=False)
        ended = Ended(key=job.key, at=now, succeeded=False, failure=failure)
        self._journal.record([ended, self._retrier.decide(apply(job, ended))])

    def _note_doubt(self, job: JobRecord, error: Exception) -> None:
        """No clear answer came: the job stays as it is until polls have shown whether its container exists."""
        self._doubted.add(job.key)
        self.patience.note_doubt(job, error)
        self._note_setback()

    def _note_setback(self) -> None:
        """Let strategies know that a launch was not accepted, and hold launches back that are not sent yet."""
        self._context.traffic.refusals.append(self._context.clock.now())
        self._permit.is_given = self.patience.why is None


@attrs.frozen
class _Picked:
    bundles: list[Bundle]
    again: float | None


def _record(job: object) -> JobRecord:
    if not isinstance(job, JobRecord):
        raise TypeError(f"{job!r} is not a job")
    return job


def _only(key: str) -> LaunchStrategy:
    def pick(view: BatchView) -> list[Bundle]:
        return [Bundle(job) for job in view.ready() if job.key == key]

    return pick
