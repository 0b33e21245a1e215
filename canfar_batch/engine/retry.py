"""What comes after a failure: another attempt, or none; and whether it is worth going on at all."""

from __future__ import annotations

from datetime import timedelta

import attrs

from canfar_batch.engine.context import Drive
from canfar_batch.errors import StrategyError
from canfar_batch.lifecycle import Cancelled, Event, RetryExhausted, Retrying
from canfar_batch.protocols import Again, RetryPolicy, Stop
from canfar_batch.records import JobRecord, JobState, Resources

ALIKE = 5  #: so many jobs that fail alike before any success pause the batch


class Decisions:
    """Asks the retry policy, and fits what it wishes to what the platform offers.

    Attributes:
        stop_alike: After so many failures of one kind before any success nothing more is launched; None for never.
    """

    def __init__(self, drive: Drive, retry: RetryPolicy) -> None:
        self._drive, self._retry = drive, retry
        self.stop_alike: int | None = ALIKE
        self._alike: tuple[str, set[str]] = ("", set())
        self._succeeded = drive.roster.counts[JobState.SUCCEEDED] > 0

    def all_due(self) -> None:
        """Decide what a driver that was killed left undecided."""
        drive = self._drive
        drive.remember([self.about(drive.ledger.jobs[key]) for key in drive.roster.undecided])

    def about(self, job: JobRecord) -> Event:
        """What is to become of *job*, whose newest attempt failed."""
        now, failure = self._drive.clock.now(), job.attempts[-1].failure
        if failure is None:
            return Cancelled(key=job.key, at=now)
        answer = self._retry(job, failure)
        if isinstance(answer, Again):
            asked = self._offered(answer.resources or job.resources)
            if answer.resources not in (None, asked) and asked == job.attempts[-1].resources:
                return RetryExhausted(
                    key=job.key, at=now, why=f"{failure.cause}, and the platform offers no more than it had"
                )
            return Retrying(key=job.key, at=now, due=now + timedelta(seconds=answer.after), resources=asked)
        if not isinstance(answer, Stop):
            raise StrategyError(f"the retry policy {self._retry!r} returned {answer!r}; it returns Again(…) or Stop(…)")
        return RetryExhausted(key=job.key, at=now, why=answer.why)

    def _offered(self, wished: Resources) -> Resources:
        """*wished*, its memory rounded up to what the platform offers, and down to the most that it offers."""
        options = self._drive.limits.ram if self._drive.limits else ()
        if wished.ram is None or not options or wished.ram in options:
            return wished
        fitting = [option for option in sorted(options) if option >= wished.ram]
        return attrs.evolve(wished, ram=fitting[0] if fitting else max(options))

    def compare_with_others(self, job: JobRecord) -> None:
        """Pause a batch whose first jobs all fail alike: the next thousand would as well."""
        self._succeeded = self._succeeded or job.state is JobState.SUCCEEDED
        if self._succeeded or self.stop_alike is None:
            return
        cause = job.failure.cause if job.failure else ""
        keys = self._alike[1] if cause == self._alike[0] else set()
        self._alike = (cause, {*keys, job.key})
        count = len(self._alike[1])
        if count >= self.stop_alike and self._drive.paused is None:
            why = f"the first {count} jobs to end all failed alike, so no more are launched: {job.failure}"
            self._drive.pause(why)
            self._drive.say(why)

    def start_over(self) -> None:
        """Count failures anew: the user has seen them, and goes on."""
        self._alike = ("", set())
