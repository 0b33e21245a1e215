"""Retrying: whether a failed job gets another attempt, and whether going on is worth it at all."""

from __future__ import annotations

from datetime import timedelta

import attrs

from canfar_batch.engine.context import Context, Pause
from canfar_batch.errors import StrategyError
from canfar_batch.lifecycle import Cancelled, Event, RetryExhausted, Retrying
from canfar_batch.protocols import Again, Stop
from canfar_batch.records import JobRecord, JobState, Resources

ALIKE = 5  #: jobs that must fail alike, before any success, to pause the batch


class Retrier:
    """Asks the retry policy, and fits its answer to what the platform offers.

    Attributes:
        stop_alike: Failures of one cause, before any success, that pause the batch; None for never.
    """

    def __init__(self, context: Context) -> None:
        self._journal, self._health, self._clock = context.journal, context.health, context.clock
        self._policy = context.setup.strategies.retry
        self.stop_alike: int | None = ALIKE
        self._cause = ""
        self._failed_alike: set[str] = set()
        self._succeeded = self._journal.index.counts[JobState.SUCCEEDED] > 0

    def decide_all(self) -> None:
        """Decide what a driver that was killed left undecided."""
        jobs = self._journal.jobs
        self._journal.record([self.decide(jobs[key]) for key in self._journal.index.undecided])

    def decide(self, job: JobRecord) -> Event:
        """Return the event that follows the failure of *job*'s newest attempt."""
        now, failure = self._clock.now(), job.attempts[-1].failure
        if failure is None:
            return Cancelled(key=job.key, at=now)
        answer = self._policy(job, failure)
        if isinstance(answer, Again):
            resources = self._offered(answer.resources or job.resources)
            if answer.resources not in (None, resources) and resources == job.attempts[-1].resources:
                why = f"{failure.cause}, and the platform offers no more than it had"
                return RetryExhausted(key=job.key, at=now, why=why)
            return Retrying(key=job.key, at=now, due=now + timedelta(seconds=answer.after), resources=resources)
        if not isinstance(answer, Stop):
            raise StrategyError(
                f"the retry policy {self._policy!r} returned {answer!r}; it returns Again(…) or Stop(…)"
            )
        return RetryExhausted(key=job.key, at=now, why=answer.why)

    def _offered(self, wished: Resources) -> Resources:
        """Return *wished*, its memory rounded to what the platform offers."""
        options = self._health.limits.ram if self._health.limits else ()
        if wished.ram is None or not options or wished.ram in options:
            return wished
        fitting = [option for option in sorted(options) if option >= wished.ram]
        return attrs.evolve(wished, ram=fitting[0] if fitting else max(options))

    def compare_with_others(self, job: JobRecord) -> None:
        """Pause a batch whose first jobs all fail alike, since the others are likely to fail as well."""
        self._succeeded = self._succeeded or job.state is JobState.SUCCEEDED
        if self._succeeded or self.stop_alike is None:
            return
        cause = job.failure.cause if job.failure else ""
        if cause != self._cause:
            self._cause, self._failed_alike = cause, set()
        self._failed_alike.add(job.key)
        count = len(self._failed_alike)
        if count >= self.stop_alike and self._health.pause is None:
            why = f"the first {count} jobs to end all failed alike, so no more are launched: {job.failure}"
            self._health.pause = Pause(why=why)
            self._health.say(why)

    def start_over(self) -> None:
        """Forget the failures that were counted: the user has seen them, and goes on."""
        self._cause, self._failed_alike = "", set()
