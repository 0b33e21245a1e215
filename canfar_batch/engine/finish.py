"""Finishing: gathering the evidence about attempts that ended, and recording the verdict on each."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime
from functools import partial

import attrs

from canfar_batch.engine.attempts import (
    ABSENT_POLLS,
    Absence,
    Gathered,
    end_event,
    gather,
    is_gone,
    receipt_files,
)
from canfar_batch.engine.context import LONGEST_PAUSE, Context
from canfar_batch.engine.job_index import shape_of
from canfar_batch.engine.pool import Outcome
from canfar_batch.engine.retry import Retrier
from canfar_batch.errors import CanfarBatchError, CredentialError, HomeError, LaunchInDoubt, PlatformError
from canfar_batch.failures import Failure, LaunchRefused
from canfar_batch.lifecycle import Cancelled, Ended, Event, LateSuccess, apply, may_be_overturned
from canfar_batch.records import JobRecord, JobState, Phase

log = logging.getLogger("canfar_batch")

TRIES = 12  #: tries to fetch the log of an ended container: some minutes, if the platform fails at it


@attrs.frozen(kw_only=True)
class Finishing:
    """An attempt whose end is being looked into. Changed by the calling thread alone, by making a new one."""

    phase: Phase | None  #: the platform's final status; None if the container is absent, or has to be stopped
    stopping: bool = False  #: whether the container has to be removed, not only read
    stopped_for: Failure | None = None
    watched: bool = True
    tries: int = 0
    due: float | None = None  #: when to try again, in the clock's ticks; None while a worker thread is at it
    gathered: Gathered | None = None  #: found so far; the next try may find less


@attrs.frozen(kw_only=True)
class FinishRequest:
    """What a worker thread needs to look into the end of one attempt."""

    job: JobRecord
    finishing: Finishing


class Finisher:
    """Looks into the ends of attempts, and records a verdict on each."""

    def __init__(self, context: Context, retrier: Retrier) -> None:
        self._context, self._journal, self._retrier = context, context.journal, retrier
        self._open: dict[str, Finishing] = {}  # by the job's key
        self._absences: dict[str, Absence] = {}  # by launch name
        self._late_receipts_sought: float | None = None

    # -- whether it ended -----------------------------------------------------------------------------------------

    def is_open(self, key: str) -> bool:
        """Return whether the end of this job's attempt is being looked into."""
        return key in self._open

    def has_ended(self, key: str) -> bool:
        """Return whether the platform reported a final status of this job's container."""
        finishing = self._open.get(key)
        return finishing is not None and finishing.phase is not None

    def cancel_sent(self, key: str) -> bool:
        """Return whether the platform was asked to remove this job's container."""
        finishing = self._open.get(key)
        return finishing is not None and finishing.gathered is not None and finishing.gathered.cancel_sent

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
        self._absences.pop(job.attempts[-1].launch_name, None)

    def note_absent(self, job: JobRecord, *, watched: bool) -> None:
        """Count a good poll that missed the container of *job*'s newest attempt.

        Args:
            job: The job.
            watched: False if no one polled for so long that the platform may have forgotten the container.
        """
        now, name = self._context.clock.ticks(), job.attempts[-1].launch_name
        before = self._absences.get(name)
        absence = before.missed_again() if before else Absence(since=now, watched=watched)
        self._absences[name] = absence
        if absence.is_proven(now, self._context.setup.settle):
            self.begin(job, Finishing(phase=None, watched=absence.watched))

    def begin(self, job: JobRecord, finishing: Finishing) -> None:
        """Look into the end of *job*'s newest attempt, unless that has begun."""
        if job.key not in self._open:
            self._pursue(job, finishing)

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
        request = FinishRequest(job=job, finishing=current)
        self._context.pool.submit("gather", partial(self._gather, request), partial(self._gathered, job))

    def _gather(self, request: FinishRequest) -> Gathered | None:
        """In a worker thread: gather the evidence about an end; None if the container is there after all."""
        job, finishing = request.job, request.finishing
        platform, setup = self._context.platform, self._context.setup
        receipt_home = self._context.launch_context.home
        id = job.id
        if finishing.phase is None and not finishing.stopping and id is not None and not is_gone(platform, id):
            return None
        found = gather(platform, job, phase=finishing.phase, archive=setup.archive, receipt_home=receipt_home)
        found = found.merged_with(finishing.gathered)
        if not finishing.stopping or id is None or (found.trouble is not None and finishing.tries < ABSENT_POLLS):
            return found
        try:
            platform.cancel(id)
            found = attrs.evolve(found, cancel_sent=True)
            if not is_gone(platform, id):
                return found
        except (PlatformError, CredentialError) as error:
            return attrs.evolve(found, cancel_error=error)
        began, ended = receipt_files(receipt_home, job.key, job.attempts[-1].number)  # it may just have ended
        return attrs.evolve(found, gone=True, began=began or found.began, ended=ended or found.ended)

    def _gathered(self, job: JobRecord, outcome: Outcome[Gathered | None]) -> None:
        current, finishing = self._journal.job(job.key), self._open[job.key]
        if not current.state.active or current.attempts[-1].launch_name != job.attempts[-1].launch_name:
            del self._open[job.key]
            return
        if outcome.error is not None and not isinstance(outcome.error, HomeError):
            self._try_later(job, finishing, outcome.error)
            return
        found = outcome.get()
        if found is not None:
            finishing = attrs.evolve(finishing, gathered=found)
            if found.cancel_error is not None:
                self._try_later(job, finishing, found.cancel_error)
                return
            if (pause := _pause_before_more(job, finishing, found)) is not None:
                self._open[job.key] = attrs.evolve(finishing, due=self._context.clock.ticks() + pause)
                return
        del self._open[job.key]
        self.note_present(job)
        if found is not None:
            self._journal.record(self._end(current, finishing, found))

    def _try_later(self, job: JobRecord, finishing: Finishing, error: BaseException) -> None:
        if isinstance(error, CredentialError):
            self._context.health.pause_for(error)
        elif not isinstance(error, CanfarBatchError):
            log.error("%s: looking into the end of %s failed", self._journal.name, job.key, exc_info=error)
        pause = self._context.schedule.back_off(min(finishing.tries, 4))
        self._open[job.key] = attrs.evolve(finishing, due=self._context.clock.ticks() + pause)

    def _end(self, job: JobRecord, finishing: Finishing, found: Gathered) -> Iterator[Event]:
        """Yield the events that end an attempt: the verdict, and the decision that follows from it."""
        now = self._context.clock.now()
        if job.id is None and found.began is None and found.ended is None:
            self._context.schedule.watch_for(self._context.setup.settle)
            ended: Event = self._never_came(job, now)
        else:
            ended = end_event(
                job,
                found,
                phase=finishing.phase,
                watched=finishing.watched,
                stopped_for=finishing.stopped_for,
                at=now,
            )
        yield ended
        after = apply(job, ended)
        if after.state is JobState.SUCCEEDED:
            self._retrier.note_success()
        if after.state is JobState.WAITING:
            yield self._retrier.decide(after)

    def _never_came(self, job: JobRecord, now: datetime) -> Event:
        """Return the event that ends a launch that got no clear answer and never appeared in a list."""
        doubt = self._context.traffic.doubts.pop(job.attempts[-1].launch_name, None)
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
        return bool(self._journal.index.overturnable) and self._late_receipts_sought is None

    def seek_late_receipts(self) -> None:
        """Look, now and then, for the receipts of attempts that ended without one."""
        now = self._context.clock.ticks()
        if self._late_receipts_sought is None or now - self._late_receipts_sought >= LONGEST_PAUSE:
            self._late_receipts_sought = now
            jobs = self._journal.jobs
            found = [self.late_success(jobs[key]) for key in self._journal.index.overturnable]
            self._journal.record(filter(None, found))

    def seek_again(self) -> None:
        """Look for late receipts at the next opportunity."""
        self._late_receipts_sought = None

    def late_success(self, job: JobRecord) -> LateSuccess | None:
        """Return the success of an attempt that ended without a receipt, if a receipt has reported it since."""
        if job.last_attempt is None or not may_be_overturned(job):
            return None
        _, end = receipt_files(self._context.launch_context.home, job.key, job.last_attempt.number)
        if end is None or end.exit_code != 0 or end.missing:
            return None
        return LateSuccess(key=job.key, at=self._context.clock.now(), receipt=end)


def _why_it_never_came(doubt: LaunchInDoubt | None) -> str:
    """Return the message about a launch that never appeared, with the words of the answer if there was one."""
    absent = "the platform's list does not show it"
    if doubt is None:
        return f"no answer to the launch is known, and {absent}"
    if doubt.status is None:
        return f"no answer came to the launch, and {absent}: {doubt}"
    return f"the answer to the launch was not clear, and {absent}: {doubt}"


def _pause_before_more(job: JobRecord, finishing: Finishing, found: Gathered) -> float | None:
    """Return the seconds until another try may find more, or see the container gone; None if this is all."""
    stays = finishing.stopping and not found.gone and job.id is not None
    incomplete = finishing.phase is not None and found.is_incomplete
    if stays or (incomplete and finishing.tries < (TRIES if found.trouble else ABSENT_POLLS)):
        return min(60.0 if incomplete else 30.0, 2.0 ** min(finishing.tries, 8))
    return None
