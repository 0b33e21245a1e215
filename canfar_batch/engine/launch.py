"""Sending launches: the intent is written down first, the answer as it comes, and doubt is left to the next looks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from itertools import islice

from canfar_batch.engine.attempts import request_for_job
from canfar_batch.engine.context import Drive
from canfar_batch.engine.pool import Outcome
from canfar_batch.engine.retry import Decisions
from canfar_batch.errors import (
    CredentialError,
    LaunchInDoubt,
    LeaseLost,
    NotSent,
    PlatformBusy,
    PlatformRefused,
    SpecError,
    StrategyError,
)
from canfar_batch.failures import LaunchRefused
from canfar_batch.lifecycle import Cancelled, Deferred, Ended, Event, Intended, LateSuccess, Launched, apply
from canfar_batch.payload import launch_names
from canfar_batch.protocols import BatchView, Bundle, LaunchStrategy, Pick
from canfar_batch.records import JobRecord, JobState

log = logging.getLogger("canfar_batch")

IN_FLIGHT = 32  #: launches whose answer is awaited at once: what a crash can leave in doubt
SOON = 5.0  #: seconds until the platform's list is asked about a launch that got no answer


class Launching:
    """Lets the launch strategy pick, and sends what it picks.

    Attributes:
        strategy: Who is launched next.
    """

    def __init__(
        self,
        drive: Drive,
        strategy: LaunchStrategy,
        decisions: Decisions,
        late_proof: Callable[[JobRecord], LateSuccess | None],
    ) -> None:
        self.strategy = strategy
        self._drive, self._decisions, self._late_proof = drive, decisions, late_proof
        self._setbacks = 0
        self._not_before = 0.0  # in the clock's ticks
        self._again: float | None = None  # when the strategy wishes to be asked again, likewise

    @property
    def room(self) -> int:
        """How many launches may be sent now."""
        return max(0, IN_FLIGHT - len(self._drive.posting))

    def next_wish(self) -> float | None:
        """When something may be launched, in the clock's ticks; None where nothing is foreseen."""
        if self._drive.paused is not None or not self.room:
            return None
        now, moments = self._drive.clock.ticks(), list[float]()
        due = self._drive.roster.next_due(self._drive.clock.now())
        if due is not None:
            moments.append(max(self._not_before, now + (due - self._drive.clock.now()).total_seconds()))
        if self._again is not None:
            moments.append(max(self._not_before, self._again))
        if self._not_before > now:
            moments.append(self._not_before)
        return min(moments, default=None)

    def send(self, look_around: Callable[[], BatchView]) -> None:
        """Let the strategy pick, write the intents down, then post them."""
        drive, now = self._drive, self._drive.clock.ticks()
        if drive.paused is not None or now < self._not_before or not self.room:
            return
        view = look_around()
        loads, again = self._picked(view)
        self._again = None if again is None else now + again
        picked = dict.fromkeys(job.key for load in loads for job in load.jobs)
        chosen = (drive.ledger.jobs[key] for key in picked if drive.roster.is_ready(key, view.now))
        events: list[Event] = [
            self._late_proof(job) or self._intent(job, view.now) for job in islice(chosen, view.room)
        ]
        drive.remember(events)
        for event in events:
            if isinstance(event, Intended):
                drive.posting.add(event.key)
                drive.launches.append(view.now)
                job = drive.ledger.jobs[event.key]
                drive.crew.submit("launch", partial(self.post, job), partial(self._posted, job))

    def _picked(self, view: BatchView) -> tuple[list[Bundle], float | None]:
        """What the strategy wants now, and when to ask again; a job stands for the load that consists of it."""
        answer = self.strategy(view)
        pick = answer if isinstance(answer, Pick) else Pick(answer)
        try:
            loads = [each if isinstance(each, Bundle) else Bundle(_record(each)) for each in pick.loads]
        except TypeError as error:
            raise StrategyError(
                f"the launch strategy {self.strategy!r} returned {answer!r}; it returns a list of jobs or Loads, as "
                "view.ready(at_most=3) is one, or a Pick of them"
            ) from error
        return loads, pick.again

    def _intent(self, job: JobRecord, now: datetime) -> Intended:
        number = job.attempts[-1].number + 1 if job.attempts else 1
        identity = self._drive.ledger.identity
        name = launch_names.launch_name(
            identity.name, job.filled.name or job.key, token=identity.token, index=job.index, attempt=number
        )
        return Intended(key=job.key, at=now, launch_name=name, resources=job.resources)

    def post(self, job: JobRecord) -> str:
        """In a thread: send one launch, if this driver may still do so; the container's id.

        Raises:
            LeaseLost: It may not.
            SpecError: It cannot be sent at all.
            PlatformError: As `Platform.launch` says.
        """
        try:
            request = request_for_job(job, self._drive.around)
        except Exception as error:
            raise SpecError(f"job {job.key} cannot be sent: {error}") from error
        if not self._drive.ledger.still_mine(self._drive.generation):
            raise LeaseLost("the lease ran out, or another driver has taken this batch over")
        return self._drive.platform.launch(request)

    def _posted(self, job: JobRecord, outcome: Outcome[str]) -> None:
        """An answer to a launch came, or the certainty that none will."""
        drive = self._drive
        drive.posting.discard(job.key)
        current = drive.job(job.key)
        if current.state is not JobState.LAUNCHING:
            return  # a look found the container before its answer came
        try:
            id = outcome.get()
        except (NotSent, PlatformBusy, CredentialError, LeaseLost) as error:
            self._not_now(current, error)
        except LaunchInDoubt as error:
            log.info("%s: %s is in doubt: %s", drive.name, job.key, error)
            self._set_back(error.retry_after)
            if error.same_again:
                drive.hopeless.add(current.attempts[-1].launch_name)
            drive.look_within(SOON)
        except (PlatformRefused, SpecError) as error:
            self._refused(current, error)
        except Exception as error:
            log.warning("%s: the launch of %s is in doubt: %r", drive.name, job.key, error)
            self._set_back(None)
        else:
            self._setbacks = 0
            drive.remember([Launched(key=job.key, at=drive.clock.now(), id=id)])

    def _not_now(self, job: JobRecord, error: Exception) -> None:
        """Nothing was made, and nobody says that nothing ever will be: later."""
        if isinstance(error, CredentialError):
            self._drive.pause_for(error)
        self._set_back(getattr(error, "retry_after", None))
        now = self._drive.clock.now()
        due = now + timedelta(seconds=max(0.0, self._not_before - self._drive.clock.ticks()))
        self._drive.remember([Deferred(key=job.key, at=now, due=due, why=str(error))])
        if job.cancelling:
            self._drive.remember([Cancelled(key=job.key, at=now)])

    def _refused(self, job: JobRecord, error: Exception) -> None:
        """Nothing was made, and the same would be refused again."""
        now = self._drive.clock.now()
        if job.cancelling:
            self._drive.remember([Cancelled(key=job.key, at=now)])
            return
        failure = LaunchRefused(message=str(error), again=False)
        ended = Ended(key=job.key, at=now, succeeded=False, failure=failure)
        after = apply(job, ended)
        self._decisions.compare_with_others(after)
        self._drive.remember([ended, self._decisions.about(after)])

    def _set_back(self, asked: float | None) -> None:
        """The platform is not well or not willing: launch more slowly the longer that lasts."""
        drive = self._drive
        drive.refusals.append(drive.clock.now())
        if drive.clock.ticks() >= self._not_before:  # one wave of launches is one setback, however many it had
            self._setbacks += 1
            pause = max(asked or 0.0, drive.back_off(self._setbacks - 1))
            self._not_before = drive.clock.ticks() + pause


def _record(job: object) -> JobRecord:
    if not isinstance(job, JobRecord):
        raise TypeError(f"{job!r} is no job")
    return job
