"""Launching: each intent is recorded before it is sent, each answer as it comes; doubts are left to the next polls."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from itertools import islice

import attrs

from canfar_batch.engine.context import Context
from canfar_batch.engine.job_index import shape_of
from canfar_batch.engine.launch_requests import (
    JobNotSendable,
    LaunchContext,
    bring_functions,
    request_for,
    request_for_bundle,
    size_of,
)
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
from canfar_batch.payload.encode import most_in_script
from canfar_batch.planning.preflight import check_container
from canfar_batch.protocols import BatchView, Bundle, LaunchStrategy, Pick, Platform
from canfar_batch.records import JobRecord, JobState, Resources
from canfar_batch.setup import Outcome
from canfar_batch.store.memory import LedgerLike
from canfar_batch.text import count as counted

log = logging.getLogger("canfar_batch")

#: launches that are recorded and not answered, of which the pool sends 32 at once: a crash leaves no more in doubt
MOST_IN_FLIGHT = 64
_TEXT_OF_WRAPPER = 16 * 1024  #: bytes of a bundle's script beside its commands
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


@attrs.frozen(kw_only=True)
class Launch:
    """The launch of one container, with the jobs that it carries."""

    jobs: tuple[JobRecord, ...]
    parallel: int
    resources: Resources  #: what the container asks for
    files: bool = False  #: whether commands may travel as a file in the home


@attrs.frozen
class Post:
    """One launch to be sent by a worker thread, if this driver may still send it."""

    launch: Launch
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
        launch, lead = self.launch, self.launch.jobs[0]
        bring_functions(launch.jobs, self.context)
        try:
            if lead.attempts[-1].task is None:
                request = request_for(lead, self.context, launch.resources)
            else:
                request = request_for_bundle(
                    launch.jobs, self.context, parallel=launch.parallel, resources=launch.resources, files=launch.files
                )
        except JobNotSendable:
            raise
        except Exception as error:
            if self.context.batch is None:
                raise
            raise JobNotSendable(lead.key, error) from error
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
        # recorded, or to be in the present transaction, and not sent yet
        self._intended: list[tuple[Bundle, list[Intended]]] = []
        self._announced_waits = self._announced_size = False
        self._recoveries = 0  # of the platform's list that a probe has followed
        self._doubted: set[str] = set()  # keys of the jobs whose launch got no clear answer
        self._ask_again: float | None = None  # when the strategy wants to be asked again, in the clock's ticks
        self.error: Exception | None = None
        self.patience = Patience(context.schedule, context.health, self._journal.index.accepted)

    @property
    def room(self) -> int:
        """The number of launches that may be sent now."""
        return max(0, MOST_IN_FLIGHT - self._context.traffic.posts)

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

    def longest(self, now: datetime) -> Iterator[JobRecord]:
        """Yield the jobs that the strategy may pick at *now*, those that are expected to run longest first."""
        return self.patience.without_held(self._journal.index.longest(now))

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
        jobs = self._journal.jobs
        in_flight = [jobs[key] for key in context.traffic.in_flight]
        ready = {bundle.jobs[0].key: bundle for bundle in self._ready_parts(pick.bundles, view.now)}
        leads = (bundle.jobs[0] for bundle in ready.values())
        for lead in list(islice(self.patience.admitted(leads, in_flight), view.room)):
            bundle = self._fitting(ready[lead.key])
            self._check_bundle(bundle)
            intents = self._intents(bundle, view.now)
            if intents:
                self._intended.append((bundle, intents))

    def _ready_parts(self, bundles: Iterable[Bundle], now: datetime) -> Iterator[Bundle]:
        """Yield what of each bundle may be launched now; a job that is in several belongs to the first."""
        jobs, index, taken = self._journal.jobs, self._journal.index, set[str]()
        for bundle in bundles:
            keys = [key for key in dict.fromkeys(job.key for job in bundle.jobs) if key not in taken]
            ready = [jobs[key] for key in keys if index.is_ready(key, now)]
            taken.update(keys)
            if ready:
                yield attrs.evolve(bundle, jobs=tuple(ready))

    def _intents(self, bundle: Bundle, now: datetime) -> list[Intended]:
        """Record that *bundle* is about to be sent; jobs of which a late receipt reports a success are left out."""
        late = {job.key: self._late_success(job) for job in bundle.jobs}
        left = [job for job in bundle.jobs if late[job.key] is None]
        intents = list[Intended]()
        if left:
            name, is_alone = self._context.launch_context.launch_name(left[0]), len(left) == 1
            intents = [
                Intended(
                    key=job.key, at=now, launch_name=name, task=None if is_alone else number,
                    resources=bundle.resources if is_alone and bundle.resources else job.resources,
                )
                for number, job in enumerate(left, 1)
            ]  # fmt: skip
        self._journal.record([*filter(None, late.values()), *intents])
        return intents

    def _fitting(self, bundle: Bundle) -> Bundle:
        """Return as much of *bundle* as one launch can carry: commands may be too large to be sent together."""
        if len(bundle.jobs) == 1 or self._may_send_files(bundle.jobs):
            return bundle
        room, count = most_in_script() - _TEXT_OF_WRAPPER, 0
        for job in bundle.jobs:
            room -= size_of(job, self._context.launch_context)
            if room < 0:
                break
            count += 1
        if count < len(bundle.jobs) and not self._announced_size:
            self._announced_size = True
            if any(job.filled.secrets for job in bundle.jobs):
                why = "a Secret is never written to a file, by which they would travel whole"
            else:
                why = "they travel whole, as a file, where containers see the batch's home"
            self._context.health.say(
                f"the commands of {len(bundle.jobs)} jobs are too large for one launch, so bundles are made smaller, "
                f"of about {counted(max(1, count), 'job')}: {why}"
            )
        return attrs.evolve(bundle, jobs=bundle.jobs[: max(1, count)])

    def _may_send_files(self, jobs: Sequence[JobRecord]) -> bool:
        """Return whether commands may travel as a file: containers see the home, and no secret would be written."""
        context = self._context.launch_context
        sees_home = context.shared or self._context.traffic.home_is_seen
        return context.home is not None and sees_home and not any(job.filled.secrets for job in jobs)

    def _check_bundle(self, bundle: Bundle) -> None:
        """Refuse a bundle that one container cannot carry.

        Raises:
            StrategyError: Its jobs do not fit together.
            SpecError: The platform does not offer the resources that the container would ask for.
        """
        lead = bundle.jobs[0]
        if len(bundle.jobs) == 1:
            return
        for job in bundle.jobs:
            if shape_of(job) != shape_of(lead):
                raise StrategyError(
                    f"the launch strategy {self._strategy!r} put {lead.key} and {job.key} in one bundle, and they have "
                    "different images or resources"
                )
            if not job.spec.receipt:
                raise StrategyError(
                    f"the launch strategy {self._strategy!r} put {job.key} in a bundle, and it has receipt=False"
                )
        limits = self._context.health.limits
        if limits is not None:
            check_container(limits, bundle.asks_for)

    def send(self) -> None:
        """Send the launches whose intents are in the ledger by now."""
        intended, self._intended = self._intended, []
        for bundle, events in intended:
            records = [(self._journal.jobs[event.key], event) for event in events]
            jobs = [
                job for job, event in records
                if job.last_attempt is not None and job.last_attempt.launch_name == event.launch_name
            ]  # fmt: skip
            if jobs:
                self._permit.is_given = True
                self._send(attrs.evolve(bundle, jobs=tuple(jobs)), events[0].at)

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

    def _send(self, bundle: Bundle, now: datetime) -> None:
        context, jobs = self._context, bundle.jobs
        context.traffic.in_flight.update(job.key for job in jobs)
        context.traffic.posts += 1
        context.traffic.launches.append(now)
        launch = Launch(
            jobs=jobs, parallel=bundle.parallel, files=self._may_send_files(jobs),
            resources=bundle.asks_for if len(jobs) > 1 else jobs[0].attempts[-1].resources,
        )  # fmt: skip
        post = Post(launch, context.launch_context, context.platform, self._permit)
        context.pool.submit("launch", post, partial(self._answered, jobs))

    # -- answers --------------------------------------------------------------------------------------------------

    def _answered(self, sent: Sequence[JobRecord], outcome: Outcome[str]) -> None:
        """Record the answer to a launch, or leave the launch to the next polls if there was no clear one."""
        context = self._context
        context.traffic.in_flight.difference_update(job.key for job in sent)
        context.traffic.posts -= 1
        newest = [self._journal.job(job.key) for job in sent]
        jobs = [job for job in newest if job.state is JobState.LAUNCHING]
        if not jobs:
            found = next((job for job in newest if job.id is not None), None)
            if found is not None:  # a poll found the container before the answer came
                self.patience.note_acceptance(found)
            return
        lead = jobs[0]
        if isinstance(outcome.error, Exception):
            self.error = outcome.error
        try:
            id = outcome.get()
        except (CredentialError, PlatformRefused, NotMade) as error:
            self._refused(jobs, error)
        except (NotSent, PlatformBusy, LeaseLost) as error:
            if isinstance(error, HeldBack):
                due = self.patience.next_probe
            else:
                due = self.patience.note_busy(error)
                self._note_setback()
            self._defer(jobs, due, error)
        except JobNotSendable as error:
            others = [job for job in jobs if job.key != error.key]
            self._refuse([job for job in jobs if job.key == error.key], error)
            self._defer(others, context.clock.ticks(), error)
        except SpecError as error:
            self._refuse(jobs, error)
        except LaunchInDoubt as error:
            log.info("%s: %s is in doubt: %s", self._journal.name, lead.key, error)
            context.traffic.doubts[lead.attempts[-1].launch_name] = error
            self._note_doubt(lead, error)
            context.schedule.poll_within(SOON)
        except Exception as error:
            log.warning("%s: the launch of %s is in doubt: %r", self._journal.name, lead.key, error)
            self._note_doubt(lead, error)
        else:
            self.patience.note_acceptance(lead)
            now = context.clock.now()
            self._journal.record([Launched(key=job.key, at=now, id=id) for job in jobs])

    def _refused(self, jobs: Sequence[JobRecord], error: CredentialError | PlatformRefused | NotMade) -> None:
        """Nothing was made. Try again later if the refusal may pass, else give the jobs up."""
        job = jobs[0]
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
            self._refuse(jobs, error)
        else:
            self._note_setback()
            self._defer(jobs, due, error)

    def _defer(self, jobs: Sequence[JobRecord], due: float, error: CanfarBatchError) -> None:
        """Nothing was made: launch the jobs again at *due*, in the clock's ticks."""
        clock = self._context.clock
        now = clock.now()
        at = now + timedelta(seconds=max(0.0, due - clock.ticks()))
        events: list[Event] = [Deferred(key=job.key, at=now, due=at, why=str(error)) for job in jobs]
        events += [Cancelled(key=job.key, at=now) for job in jobs if job.cancelling]
        self._journal.record(events)

    def _refuse(self, jobs: Sequence[JobRecord], error: CanfarBatchError) -> None:
        """Nothing was made, and the same request would be refused again."""
        now, events = self._context.clock.now(), list[Event]()
        for job in jobs:
            if job.cancelling:
                events.append(Cancelled(key=job.key, at=now))
                continue
            failure = LaunchRefused(message=str(error), again=False)
            ended = Ended(key=job.key, at=now, succeeded=False, failure=failure)
            events += [ended, self._retrier.decide(apply(job, ended))]
        self._journal.record(events)

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
