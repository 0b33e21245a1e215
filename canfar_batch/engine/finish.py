"""Finishing: gathering the evidence about attempts that ended, and recording the verdict on each."""

from __future__ import annotations

import logging
import math
from collections.abc import Container, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import attrs

from canfar_batch.engine.context import LONGEST_PAUSE, Context
from canfar_batch.engine.evidence import (
    Absence,
    Gathered,
    Runs,
    end_event,
    evidence_of,
    for_ledger,
    gather,
    is_explained,
    is_gone,
    is_half,
    lacks_log,
)
from canfar_batch.engine.job_index import shape_of
from canfar_batch.engine.retry import Retrier
from canfar_batch.engine.tasks import Companions, ContainerAnswers, gather_task
from canfar_batch.engine.verdict import Verdict, classify, explains_no_start
from canfar_batch.errors import (
    CanfarBatchError,
    CredentialError,
    HomeError,
    JobNotFound,
    LaunchInDoubt,
    PlatformError,
)
from canfar_batch.failures import Deleted, Failure, LaunchRefused, NotBegun, StuckPending, Unknown
from canfar_batch.fields.keys import file_name
from canfar_batch.lifecycle import (
    Cancelled,
    Ended,
    Event,
    EvidenceAdded,
    LateSuccess,
    PhaseChanged,
    StopDecided,
    apply,
    may_be_overturned,
)
from canfar_batch.payload.receipts import receipt_paths
from canfar_batch.records import JobRecord, JobState, Phase
from canfar_batch.setup import ABSENT_POLLS, Outcome
from canfar_batch.store.files import write_file

log = logging.getLogger("canfar_batch")

LOG_PATIENCE = 600.0  #: seconds to try to fetch a log that the platform does not give
LATE_LOGS_EVERY = 60.0  #: seconds between two tries to fetch the logs of attempts that ended without one
UNREAD_TRIES = 8  #: how often the storage is asked for the receipts of one attempt, if it cannot be asked
_TOGETHER = 0.5  #: seconds within which the jobs of a bundle that end share the platform's answers
_FEW = 1000  #: notes on containers that are kept in any case
_AT_ONCE = 8  #: late logs that are fetched at a time


@attrs.frozen(kw_only=True)
class Finishing:
    """An attempt whose end is being looked into. Changed by the calling thread alone, by making a new one."""

    phase: Phase | None  #: the platform's final status; None if the container is absent, or has to be stopped
    stopping: bool = False  #: whether the container has to be removed, not only read
    stopped_for: Failure | None = None
    watched: bool = True
    seen: bool = False  #: whether this driver saw the container before it was absent
    expires_at: datetime | None = None  #: as the final status gave it
    reported: bool = False  #: whether the job's own receipt reports its end, while its container carries others on
    found_ended: bool = False  #: whether it had ended before anyone asked, so that no more is to come
    since: float = 0.0  #: when the end was first seen, in the clock's ticks
    tries: int = 0
    due: float | None = None  #: when to try again, in the clock's ticks; None while a worker thread is at it
    gathered: Gathered | None = None  #: found so far; the next try may find less


@attrs.frozen(kw_only=True)
class FinishRequest:
    """What a worker thread needs to look into the end of one attempt."""

    job: JobRecord
    finishing: Finishing
    at: float  #: the clock's ticks
    companions: Companions = attrs.field(factory=Companions)


class Finisher:
    """Looks into the ends of attempts, and records a verdict on each."""

    def __init__(self, context: Context, retrier: Retrier) -> None:
        self._context, self._journal, self._retrier = context, context.journal, retrier
        self._open: dict[str, Finishing] = {}  # by the job's key
        self._absences: dict[str, Absence] = {}  # by run name
        self._asked_to_stop: set[str] = set()  # run names of the tasks whose bundle was asked to stop them
        self._asking_to_stop: set[str] = set()  # run names of those for which the request is on its way
        self._asked_at: dict[tuple[str, bool], float] = {}  # by id: how old its answers may be, in the clock's ticks
        self.answers = ContainerAnswers(context.platform, context.clock.ticks)
        self._late_receipts_sought: float | None = None
        self._fetches_late_receipts = False  # whether a worker thread is at it
        self._late_logs_sought: float | None = None
        self._late_logs: set[str] = set()  # keys of the jobs whose log is being fetched late
        self._logs_are_gone: set[str] = set()  # launch names of the attempts whose log the platform does not have

    # -- whether it ended -----------------------------------------------------------------------------------------

    def is_open(self, key: str) -> bool:
        """Return whether the end of this job's attempt is being looked into."""
        return key in self._open

    def has_ended(self, key: str) -> bool:
        """Return whether the platform reported a final status of this job's container."""
        finishing = self._open.get(key)
        return finishing is not None and finishing.phase is not None

    def count_ended(self, keys: Container[str]) -> int:
        """Return how many of the jobs with these *keys* have a container with a final status."""
        return sum(1 for key, finishing in self._open.items() if finishing.phase is not None and key in keys)

    def cancel_sent(self, key: str) -> bool:
        """Return whether the platform was asked to remove this job's container."""
        attempt = self._journal.job(key).last_attempt
        if attempt is not None and attempt.run_name in self._asked_to_stop:
            return True
        finishing = self._open.get(key)
        gathered = finishing.gathered if finishing else None
        return gathered is not None and gathered.cancel_sent is not None

    def trouble(self, key: str) -> Exception | None:
        """Return why the evidence about this job's end is not available, if that is so."""
        gathered = self._open[key].gathered if key in self._open else None
        return None if gathered is None else gathered.trouble or gathered.cancel_error

    @property
    def busy(self) -> bool:
        """Whether any end is being looked into."""
        return bool(self._open)

    @property
    def in_flight(self) -> bool:
        """Whether a worker thread is looking into an end."""
        return any(finishing.due is None for finishing in self._open.values())

    def next_due(self) -> float | None:
        """Return when the next try is due, in the clock's ticks; None if there is none."""
        return min((one.due for one in self._open.values() if one.due is not None), default=None)

    def note_present(self, job: JobRecord) -> None:
        """Forget an absence: the newest attempt's container was seen."""
        self._absences.pop(job.attempts[-1].run_name, None)

    def note_absent(self, job: JobRecord, *, watched: bool, seen: bool) -> None:
        """Count a good poll that missed the container of *job*'s newest attempt.

        Args:
            job: The job.
            watched: False if no one polled for so long that the platform may have forgotten the container.
            seen: Whether this driver saw the container before.
        """
        now, name = self._context.clock.ticks(), job.attempts[-1].run_name
        before = self._absences.get(name)
        absence = before.missed_again() if before else Absence(since=now, watched=watched, seen=seen)
        self._absences[name] = absence
        if absence.is_proven(now, self._context.setup.settle):
            stopped_for = job.attempts[-1].stopped_for
            self.begin(job, Finishing(phase=None, stopped_for=stopped_for, watched=absence.watched, seen=absence.seen))

    def begin(self, job: JobRecord, finishing: Finishing) -> None:
        """Look into the end of *job*'s newest attempt, unless that has begun."""
        if job.key not in self._open:
            now = self._context.clock.ticks()
            self._pursue(job, attrs.evolve(finishing, since=now - self._context.setup.grace * finishing.found_ended))

    def stop(self, keys: Iterable[str], failure: Failure) -> None:
        """Decide to stop a container, which carries the jobs with these *keys*, for a reason.

        The decision is recorded first, so that another driver knows whose work the end is; `pursue_due` carries it out.
        """
        at, now = self._context.clock.now(), self._context.clock.ticks()
        jobs = [self._journal.job(key) for key in keys if key not in self._open]
        decided = [StopDecided(key=job.key, at=at, failure=failure) for job in jobs if job.state.active]
        self._journal.record(decided)
        for key in (event.key for event in decided):
            self._open[key] = Finishing(phase=None, stopping=True, stopped_for=failure, since=now, due=now)

    def ask_to_stop(self, job: JobRecord) -> None:
        """Ask a bundle to stop one of its tasks. The request reaches it only if it sees the home."""
        home, name = self._context.launch_context.home, job.attempts[-1].run_name
        remote = self._context.launch_context.remote
        if name in self._asked_to_stop or name in self._asking_to_stop:
            return
        if remote is not None:
            self._asking_to_stop.add(name)
            self._context.pool.submit("gather", partial(remote.ask_to_stop, name), partial(self._asked, name))
            return
        if home is not None:
            write_file(home.stop_request(name), b"")
        self._asked_to_stop.add(name)

    def _asked(self, run_name: str, outcome: Outcome[None]) -> None:
        self._asking_to_stop.discard(run_name)
        if outcome.error is None:
            self._asked_to_stop.add(run_name)
        else:  # the next poll asks again
            log.info("%s: %s could not be asked to stop: %s", self._journal.name, run_name, outcome.error)

    # -- how it ended ---------------------------------------------------------------------------------------------

    def pursue_due(self) -> None:
        """Try again to find out about the ends whose next try is due."""
        now = self._context.clock.ticks()
        for key, finishing in list(self._open.items()):
            if finishing.due is not None and finishing.due <= now:
                self._pursue(self._journal.jobs[key], finishing)

    def _pursue(self, job: JobRecord, finishing: Finishing) -> None:
        current = attrs.evolve(finishing, due=None, tries=finishing.tries + 1)
        self._open[job.key] = current
        request = FinishRequest(job=job, finishing=current, at=self._since(job, current), companions=self._others(job))
        self._context.pool.submit("gather", partial(self._gather, request), partial(self._gathered, job))

    def _since(self, job: JobRecord, finishing: Finishing) -> float:
        """Return the time, in ticks, as of which answers are wanted: one for all jobs of a bundle that end together."""
        now, attempt = self._context.clock.ticks(), job.attempts[-1]
        if attempt.task is None or attempt.id is None:
            return now
        key = (attempt.id, finishing.phase is not None)
        if now - self._asked_at.get(key, -math.inf) > _TOGETHER:
            if len(self._asked_at) > _FEW:
                self._asked_at.clear()
            self._asked_at[key] = now
        return self._asked_at[key]

    def _others(self, job: JobRecord) -> Companions:
        home, attempt = self._context.launch_context.home, job.attempts[-1]
        if home is None or attempt.task is None:
            return Companions()
        members = self._journal.index.members.get(attempt.launch_name, {})
        paths = (
            receipt_paths(str(home.path), file_name(key), number)[0]
            for key, number in members.items()
            if key != job.key
        )
        return Companions(starts=tuple(map(Path, paths)))

    def _found(self, request: FinishRequest, phase: Phase | None) -> Gathered:
        job, context = request.job, self._context
        receipt_home, remote = context.launch_context.home, context.launch_context.remote
        if job.attempts[-1].task is None:
            return gather(
                context.platform, job, phase=phase, archive=context.archive, receipt_home=receipt_home, remote=remote
            )
        found = gather_task(
            self.answers, job, request.companions, phase=phase, ended=request.finishing.reported, since=request.at,
            archive=context.archive, receipt_home=receipt_home, remote=remote,
        )  # fmt: skip
        was_stopped = found.ended is not None and found.ended.stopped_by is not None
        stopped_for_user = request.finishing.reported and job.cancelling and was_stopped
        return attrs.evolve(found, cancel_sent=request.at) if stopped_for_user else found

    def _gather(self, request: FinishRequest) -> Gathered | None:
        """In a worker thread: gather the evidence about an end; None if the container is there after all."""
        job, finishing = request.job, request.finishing
        platform, id, in_bundle = self._context.platform, job.id, job.attempts[-1].task is not None
        if finishing.phase is None and not finishing.stopping and not finishing.reported and id is not None:
            try:
                info = platform.container(id)
            except JobNotFound:
                pass
            else:
                if not info.phase.final:
                    return None
                finishing = attrs.evolve(finishing, phase=info.phase)  # a list left it out; its own answer counts
        found = self._found(request, finishing.phase)
        found = attrs.evolve(found.merged_with(finishing.gathered), phase=finishing.phase)
        if not finishing.stopping or id is None:
            return found
        # what waits for too long may have begun, and only its log would show that
        is_waiting = isinstance(finishing.stopped_for, StuckPending)
        if found.trouble is not None and (is_waiting or finishing.tries < ABSENT_POLLS):
            return found
        if _is_not_stuck(finishing, found):
            return found
        try:
            if in_bundle:
                self.answers.cancel(id, request.at)
            else:
                platform.cancel(id)
            sent = found.cancel_sent if found.cancel_sent is not None else request.at
            found = attrs.evolve(found, cancel_sent=sent)
            if not (self.answers.is_gone(id, request.at) if in_bundle else is_gone(platform, id)):
                return found
            found = attrs.evolve(found, is_gone=True)
            if found.ended is not None:
                return found
            after = self._found(request, None)
            return after.merged_with(found)  # it may just have ended, or live for its grace time
        except (PlatformError, CredentialError) as error:
            return attrs.evolve(found, cancel_error=error)

    def _gathered(self, job: JobRecord, outcome: Outcome[Gathered | None]) -> None:
        current, finishing = self._journal.job(job.key), self._open[job.key]
        if not current.state.active or current.attempts[-1].run_name != job.attempts[-1].run_name:
            del self._open[job.key]
            return
        if outcome.error is not None and not isinstance(outcome.error, HomeError):
            self._try_later(job, finishing, outcome.error)
            return
        found = outcome.get()
        if found is not None:
            finishing = attrs.evolve(finishing, gathered=found, phase=found.phase)
            if _is_not_stuck(finishing, found):
                del self._open[job.key]
                self._journal.record([_has_begun(current, found, self._context.clock.now())])
                return
            if found.cancel_error is not None:
                self._try_later(job, finishing, found.cancel_error)
                return
            pause = self._pause_before_more(current, finishing, found)
            if finishing.reported and found.ended is None:
                del self._open[job.key]  # the platform has begun the container again meanwhile
                return
            if pause is not None:
                self._open[job.key] = attrs.evolve(finishing, due=self._context.clock.ticks() + pause)
                return
        del self._open[job.key]
        self.note_present(job)
        if found is not None:
            self._journal.record(self._end(current, finishing, found))

    def _pause_before_more(self, job: JobRecord, finishing: Finishing, found: Gathered) -> float | None:
        """Return the seconds until another try may find more, or see the container gone; None if this is all."""
        now, setup = self._context.clock.ticks(), self._context.setup
        pause = min(60.0, 2.0 ** min(finishing.tries, 8))
        if finishing.stopping and job.id is not None and not found.is_gone:
            return min(30.0, pause)
        if found.unread and finishing.tries < UNREAD_TRIES:
            return pause
        if finishing.reported and found.ended is not None and is_half(job, found):
            return pause if finishing.tries < ABSENT_POLLS else None
        if finishing.phase is None and not finishing.stopping:
            return None
        if found.not_begun and found.trouble is None:
            return None  # else its receipt may be late, and the log, which is not available, would show its run
        left = finishing.since + setup.grace - now
        if finishing.phase is not None and lacks_log(job, found):
            if is_explained(job, found):  # it never began, or was stopped at its beginning: no log will come
                return min(pause, left) if left > 0 else None
            patience = setup.grace if finishing.found_ended and found.trouble is None else LOG_PATIENCE
            if now - finishing.since < patience or finishing.tries < ABSENT_POLLS:
                return pause
        if finishing.phase is not None and is_half(job, found) and finishing.tries < ABSENT_POLLS:
            return pause
        if _may_still_report(job, finishing, found):
            if found.cancel_sent is not None:
                left = found.cancel_sent + setup.grace - now
            return min(pause, left) if left > 0 else None
        return None

    def _try_later(self, job: JobRecord, finishing: Finishing, error: BaseException) -> None:
        if isinstance(error, CredentialError):
            self._context.health.pause_for(error)
        elif not isinstance(error, CanfarBatchError):
            log.error("%s: looking into the end of %s failed", self._journal.name, job.key, exc_info=error)
        pause = self._context.schedule.back_off(min(finishing.tries, 4))
        self._open[job.key] = attrs.evolve(finishing, due=self._context.clock.ticks() + pause)

    def _end(self, job: JobRecord, finishing: Finishing, found: Gathered) -> Iterator[Event]:
        """Yield the events that end an attempt: the verdict, and the decision that follows from it."""
        now = self._known_end(finishing, found)
        if job.id is None and found.began is None and found.ended is None:
            self._context.schedule.watch_for(self._context.setup.settle)
            ended: Event = self._never_came(job, now)
        else:
            verdict = self._verdict(job, finishing, found, now)
            if job.attempts[-1].task is not None and found.ended is None:
                verdict = _verdict_on_task(verdict, found, finishing)
            ended = end_event(job, found, verdict, now)
        yield ended
        after = apply(job, ended)
        if after.state is JobState.SUCCEEDED:
            self._retrier.note_success()
        if after.state is JobState.WAITING:
            yield self._retrier.decide(after)

    def _known_end(self, finishing: Finishing, found: Gathered) -> datetime:
        """Return when the end became known; a search for a receipt that never came is no part of the run."""
        now = self._context.clock.now()
        if finishing.phase is None or finishing.found_ended or found.ended is not None:
            return now
        return now - timedelta(seconds=max(0.0, self._context.clock.ticks() - finishing.since))

    def _verdict(self, job: JobRecord, finishing: Finishing, found: Gathered, now: datetime) -> Verdict:
        """Return the verdict; a doubtful success becomes a failure if the retry policy wants to act on the doubt."""
        verdict = classify(
            evidence_of(
                job,
                found,
                phase=finishing.phase,
                watched=finishing.watched,
                stopped_for=finishing.stopped_for,
                at=now,
                seen=finishing.seen,
                replaced=self._context.setup.has_replaced(job.attempts[-1]),
                expires_at=finishing.expires_at,
            )
        )
        if verdict.doubt is None or not self._retrier.wants_again(job, verdict.doubt):
            return verdict
        return attrs.evolve(verdict, succeeded=False, failure=verdict.doubt)

    def _never_came(self, job: JobRecord, now: datetime) -> Event:
        """Return the event that ends a launch that got no clear answer and never appeared in a list."""
        doubt = self._context.traffic.doubts.get(job.attempts[-1].launch_name)
        if job.cancelling:
            return Cancelled(key=job.key, at=now)
        was_accepted = shape_of(job) in self._journal.index.accepted
        again = doubt is None or not doubt.same_again or was_accepted
        failure = LaunchRefused(message=_why_it_never_came(doubt), again=again, inferred=True)
        return Ended(key=job.key, at=now, succeeded=False, failure=failure)

    # -- receipts that come late ----------------------------------------------------------------------------------

    @property
    def owes_search(self) -> bool:
        """Whether a late receipt could change a verdict, and none was looked for yet."""
        never_sought = bool(self._journal.index.overturnable) and self._late_receipts_sought is None
        return never_sought or self._fetches_late_receipts

    def seek_late_receipts(self) -> None:
        """Look, now and then, for the receipts of attempts that ended without one."""
        now = self._context.clock.ticks()
        if self._late_receipts_sought is None or now - self._late_receipts_sought >= LONGEST_PAUSE:
            self._late_receipts_sought = now
            jobs = self._journal.jobs
            found = [self.late_success(jobs[key]) for key in self._journal.index.overturnable]
            self._journal.record(filter(None, found))
            self._fetch_late_receipts()

    def _fetch_late_receipts(self) -> None:
        """Start to fetch the receipts from the storage that were not there, or could not be fetched, at the end."""
        remote, index = self._context.launch_context.remote, self._journal.index
        jobs = [self._journal.jobs[key] for key in index.overturnable]
        if remote is not None and jobs and not self._fetches_late_receipts:
            self._fetches_late_receipts = True
            fetch = partial(remote.fetch_ends, jobs, self._context.archive)
            self._context.pool.submit("gather", fetch, partial(self._fetched_late, jobs))

    def _fetched_late(self, jobs: Sequence[JobRecord], outcome: Outcome[None]) -> None:
        self._fetches_late_receipts = False
        current = [self._journal.job(job.key) for job in jobs]
        self._journal.record(filter(None, map(self.late_success, current)))

    def seek_again(self) -> None:
        """Look for late receipts at the next opportunity."""
        self._late_receipts_sought = None

    def late_success(self, job: JobRecord) -> LateSuccess | None:
        """Return the success of an attempt that ended without a receipt, if a receipt has reported it since."""
        if job.last_attempt is None or not may_be_overturned(job):
            return None
        end = Runs.in_files(self._context.launch_context.home, job).newest_end(job.last_attempt)
        if end is None or end.exit_code != 0 or end.missing or end.stopped_by is not None or end.timed_out:
            return None
        return LateSuccess(key=job.key, at=self._context.clock.now(), receipt=end)

    # -- logs that come late --------------------------------------------------------------------------------------

    def seek_late_logs(self) -> None:
        """Fetch, now and then, the logs of attempts that ended without one, while the platform may have them."""
        now = self._context.clock.ticks()
        if self._late_logs_sought is not None and now - self._late_logs_sought < LATE_LOGS_EVERY:
            return
        self._late_logs_sought = now
        oldest = self._context.clock.now() - timedelta(seconds=self._context.setup.memory)
        room = _AT_ONCE - len(self._late_logs)
        for key in list(self._journal.index.without_log):
            job = self._journal.jobs[key]
            ended_at = job.attempts[-1].ended_at
            if key in self._late_logs or job.attempts[-1].run_name in self._logs_are_gone:
                continue
            if ended_at is None or ended_at < oldest:
                continue
            if (room := room - 1) < 0:
                break
            self._late_logs.add(key)
            self._context.pool.submit("gather", partial(self._gather_late, job), partial(self._gathered_late, job))

    @property
    def owes_logs(self) -> bool:
        """Whether logs are being fetched late, or none was looked for yet."""
        return bool(self._late_logs) or (bool(self._journal.index.without_log) and self._late_logs_sought is None)

    def _gather_late(self, job: JobRecord) -> Gathered:
        """In a worker thread: fetch the evidence about an attempt that ended without a log."""
        phase = Phase.COMPLETED if job.attempts[-1].succeeded else Phase.FAILED
        finishing = Finishing(phase=phase, reported=job.attempts[-1].verified)
        return self._found(FinishRequest(job=job, finishing=finishing, at=self._context.clock.ticks()), phase)

    def _gathered_late(self, job: JobRecord, outcome: Outcome[Gathered]) -> None:
        self._late_logs.discard(job.key)
        current = self._journal.job(job.key)
        unchanged = current.attempts == job.attempts and not current.state.active
        if outcome.value is None or not unchanged or lacks_log(job, outcome.value):
            return
        found, attempt, now = outcome.value, job.attempts[-1], self._context.clock.now()
        if found.saved is None and found.ended is None:
            self._logs_are_gone.add(attempt.run_name)
            return
        phase = Phase.COMPLETED if attempt.succeeded else Phase.FAILED
        verdict = classify(evidence_of(job, found, phase=phase, watched=True, stopped_for=None, at=now))
        differs = verdict.succeeded != attempt.succeeded
        # a success stays one, and its receipt warns of what was not known; a log alone overrules no known cause
        knows_more = found.ended is not None or isinstance(attempt.failure, Unknown)
        keeps = attempt.verified or (differs and not attempt.succeeded) or not knows_more
        self._journal.record(
            [
                EvidenceAdded(
                    key=job.key, at=now, log=found.saved, log_is_cut=found.log_is_cut,
                    receipt=None if keeps else found.ended,
                    failure=None if keeps or differs else for_ledger(job, verdict.failure),
                    verified=not keeps and not differs and verdict.verified,
                )
            ]
        )  # fmt: skip


def _why_it_never_came(doubt: LaunchInDoubt | None) -> str:
    """Return the message about a launch that never appeared, with the words of the answer if there was one."""
    absent = "the platform's list does not show it"
    if doubt is None:
        return f"no answer to the launch is known, and {absent}"
    if doubt.status is None:
        return f"no answer came to the launch, and {absent}: {doubt}"
    return f"the answer to the launch was not clear, and {absent}: {doubt}"


def _verdict_on_task(verdict: Verdict, found: Gathered, finishing: Finishing) -> Verdict:
    """Return the verdict on a task without an end receipt; *verdict* is that on its container.

    The end of a container never proves that a task succeeded. What ended it is the failure of the tasks in flight.
    """
    is_final = isinstance(verdict.failure, Deleted) or finishing.stopped_for is not None
    if found.not_begun and not is_final:
        message = "its container ended before its turn came"
        return Verdict(succeeded=False, failure=NotBegun(message=message, inferred=True))
    if verdict.succeeded:
        message = "its container ended, and nothing reports how the job itself did"
        return Verdict(succeeded=False, failure=Unknown(message=message, inferred=True))
    return verdict


def _is_not_stuck(finishing: Finishing, found: Gathered) -> bool:
    """Return whether a container that was to be stopped for its waiting has begun between two polls."""
    is_stuck = isinstance(finishing.stopped_for, StuckPending)
    return is_stuck and found.shows_a_run and found.cancel_sent is None


def _has_begun(job: JobRecord, found: Gathered, at: datetime) -> PhaseChanged:
    """Return the event of a run that no poll showed; the next poll shows whether it still runs."""
    began = (found.began and found.began.started_at) or at
    start_time = job.attempts[-1].start_time or began
    return PhaseChanged(key=job.key, at=at, phase=Phase.RUNNING, started_at=began, start_time=start_time)


def _may_still_report(job: JobRecord, finishing: Finishing, found: Gathered) -> bool:
    """Return whether the container may live on, and its receipt may come: `Failed` is not its end (cluster.md F4)."""
    if found.ended is not None:
        return False
    has_run = job.attempts[-1].has_run or found.shows_a_run or found.events.shows_start
    if finishing.stopping:
        return found.is_gone and not found.pod_is_gone and has_run
    if finishing.phase is Phase.COMPLETED:
        return job.spec.receipt
    return has_run or not explains_no_start(found.events)
