"""How an attempt ended: evidence is brought by threads, and the ladder of evidence gives the verdict."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime
from functools import partial

import attrs

from canfar_batch.engine.attempts import ABSENT_POLLS, Absence, Found, bring, conclusion, is_gone, receipt_files
from canfar_batch.engine.context import SLOWEST, Drive
from canfar_batch.engine.pool import Outcome
from canfar_batch.engine.retry import Decisions
from canfar_batch.errors import CredentialError, HomeError, PlatformError
from canfar_batch.failures import Failure, LaunchRefused
from canfar_batch.lifecycle import Cancelled, Ended, Event, LateSuccess, apply, may_be_overturned
from canfar_batch.records import JobRecord, JobState, Phase

log = logging.getLogger("canfar_batch")

BRINGS = 12  #: tries to fetch the log of a container that is over: some minutes, where the platform breaks at it


@attrs.define
class Ending:
    """An attempt whose end is being looked into."""

    phase: Phase | None  #: the platform's final word; None where the container is absent, or to be stopped
    stopped_for: Failure | None = None
    stopping: bool = False  #: True where the container is to be removed, not only read
    told: bool = False  #: True once the platform was told to remove it
    watched: bool = True
    tries: int = 0
    due: float | None = None  #: when to try again; None while a thread is at it
    found: Found | None = None  #: what was brought so far; the next try may find less


class Endings:
    """Looks into the ends of attempts, and gives each its verdict.

    Attributes:
        under_way: What is being looked into, by the job's key.
    """

    def __init__(self, drive: Drive, decisions: Decisions) -> None:
        self._drive, self._decisions = drive, decisions
        self.under_way: dict[str, Ending] = {}
        self._unseen: dict[str, Absence] = {}  # by launch name
        self._proofs_sought: float | None = None

    # -- that it ended --------------------------------------------------------------------------------------------

    def seen_over(self, key: str) -> bool:
        """Whether the platform has said that this job's container is over."""
        ending = self.under_way.get(key)
        return ending is not None and ending.phase is not None

    def told_to_stop(self, key: str) -> bool:
        """Whether the platform was told to remove this job's container."""
        ending = self.under_way.get(key)
        return ending is not None and ending.told

    def present(self, job: JobRecord) -> None:
        """The newest attempt's container was seen."""
        self._unseen.pop(job.attempts[-1].launch_name, None)

    def absent(self, job: JobRecord, *, watched: bool) -> None:
        """A good look did not show it; *watched*: nobody was away for so long that the platform may have forgotten."""
        now = self._drive.clock.ticks()
        absence = self._unseen.setdefault(job.attempts[-1].launch_name, Absence(since=now, watched=watched))
        absence.looks += 1
        if absence.proven(now, self._drive.settle):
            self.begin(job, Ending(phase=None, watched=absence.watched))

    def begin(self, job: JobRecord, ending: Ending) -> None:
        """Look into the end of *job*'s newest attempt, unless that is being done."""
        if job.key not in self.under_way:
            self.under_way[job.key] = ending
            self._pursue(job, ending)

    # -- how it ended ---------------------------------------------------------------------------------------------

    def pursue(self) -> None:
        """Try again where it is time to."""
        now = self._drive.clock.ticks()
        for key, ending in list(self.under_way.items()):
            if ending.due is not None and ending.due <= now:
                self._pursue(self._drive.ledger.jobs[key], ending)

    @property
    def at_work(self) -> bool:
        """True while a thread looks into an end."""
        return any(ending.due is None for ending in self.under_way.values())

    def _pursue(self, job: JobRecord, ending: Ending) -> None:
        ending.due, ending.tries = None, ending.tries + 1
        self._drive.crew.submit("gather", partial(self._bring, job, ending), partial(self._brought, job, ending))

    def _bring(self, job: JobRecord, ending: Ending) -> Found | None:
        """In a thread: the evidence about an attempt's end; None where the container is there after all."""
        platform, home, id = self._drive.platform, self._drive.around.home, job.id
        if ending.phase is None and not ending.stopping and id is not None and not is_gone(platform, id):
            return None
        found = bring(platform, job, phase=ending.phase, home=home).beside(ending.found)
        ending.found = found
        if ending.stopping and id is not None and (found.trouble is None or ending.tries >= ABSENT_POLLS):
            platform.cancel(id)
            ending.told = True
            if not is_gone(platform, id):
                return found
            began, ended = receipt_files(home, job.key, job.attempts[-1].number)  # it may just have ended
            return attrs.evolve(found, gone=True, began=began or found.began, ended=ended or found.ended)
        return found

    def _brought(self, job: JobRecord, ending: Ending, outcome: Outcome[Found | None]) -> None:
        current = self._drive.job(job.key)
        if not current.state.active or current.attempts[-1].launch_name != job.attempts[-1].launch_name:
            self.under_way.pop(job.key, None)
            return
        if outcome.error is not None and not isinstance(outcome.error, HomeError):
            if isinstance(outcome.error, CredentialError):
                self._drive.pause_for(outcome.error)
            elif not isinstance(outcome.error, PlatformError):
                log.error("%s: the end of %s", self._drive.name, job.key, exc_info=outcome.error)
            ending.due = self._drive.clock.ticks() + self._drive.back_off(min(ending.tries, 4))
            return
        found = outcome.get()
        if found is not None and (pause := self._pause_before_more(job, ending, found)) is not None:
            ending.due = self._drive.clock.ticks() + pause
            return
        del self.under_way[job.key]
        self.present(job)
        if found is not None:
            self._drive.remember(self._end(current, ending, found))

    @staticmethod
    def _pause_before_more(job: JobRecord, ending: Ending, found: Found) -> float | None:
        """Seconds until another try may bring more, or see the container gone; None where this is all."""
        stays = ending.stopping and not found.gone and job.id is not None
        torn = ending.phase is not None and found.torn
        if stays or (torn and ending.tries < (BRINGS if found.trouble else ABSENT_POLLS)):
            return min(60.0 if torn else 30.0, 2.0 ** min(ending.tries, 8))
        return None

    def _end(self, job: JobRecord, ending: Ending, found: Found) -> Iterator[Event]:
        """The events that an attempt's end consists of: its verdict, and what follows from it."""
        now = self._drive.clock.now()
        if job.id is None and found.began is None and found.ended is None:
            self._drive.watch_for(self._drive.settle)
            ended: Event = self._never_came(job, now)
        else:
            ended = conclusion(
                job, found, phase=ending.phase, watched=ending.watched, stopped_for=ending.stopped_for, at=now
            )
        yield ended
        after = apply(job, ended)
        if after.state is not JobState.CANCELLED:
            self._decisions.compare_with_others(after)
        if after.state is JobState.WAITING:
            yield self._decisions.about(after)

    def _never_came(self, job: JobRecord, now: datetime) -> Event:
        """A launch that got no answer, and of which nothing was seen in time."""
        if job.cancelling:
            return Cancelled(key=job.key, at=now)
        why = "no answer came to the launch, and the platform's list does not show it"
        again = job.attempts[-1].launch_name not in self._drive.hopeless
        failure = LaunchRefused(message=why, again=again, inferred=True)
        return Ended(key=job.key, at=now, succeeded=False, failure=failure)

    # -- what is heard of it later --------------------------------------------------------------------------------

    @property
    def hopes(self) -> bool:
        """Whether a receipt that comes late could yet change a verdict, and none was looked for."""
        return bool(self._drive.roster.unproved) and self._proofs_sought is None

    def seek_late_receipts(self) -> None:
        """Look, now and then, whether what ended unheard has left a receipt after all."""
        drive, now = self._drive, self._drive.clock.ticks()
        if self._proofs_sought is None or now - self._proofs_sought >= SLOWEST:
            self._proofs_sought = now
            drive.remember(filter(None, [self.late_proof(drive.ledger.jobs[key]) for key in drive.roster.unproved]))

    def seek_anew(self) -> None:
        """Look for late receipts at the next opportunity."""
        self._proofs_sought = None

    def late_proof(self, job: JobRecord) -> LateSuccess | None:
        """The receipt of an attempt that ended unheard, if it has come meanwhile and says success."""
        if job.last_attempt is None or not may_be_overturned(job):
            return None
        _, end = receipt_files(self._drive.around.home, job.key, job.last_attempt.number)
        if end is None or end.exit_code != 0 or end.missing:
            return None
        return LateSuccess(key=job.key, at=self._drive.clock.now(), receipt=end)
