"""Retrying: whether a failed job gets another attempt, and whether going on is worth it at all."""

from __future__ import annotations

import itertools
from datetime import timedelta

import attrs

from canfar_batch.containers import offered_at_least
from canfar_batch.engine.context import Context, Pause
from canfar_batch.engine.job_index import shape_of
from canfar_batch.errors import StrategyError
from canfar_batch.failures import Deleted, Failure, LaunchRefused, NotBegun
from canfar_batch.lifecycle import Cancelled, Event, RetryExhausted, Retrying
from canfar_batch.protocols import Again, Stop
from canfar_batch.records import Attempt, JobRecord, JobState, Resources
from canfar_batch.setup import ALIKE

OUTAGE_PATIENCE = 3600.0  #: seconds for which launches that get no clear answer are repeated, if others were accepted
OUTAGE_PAUSE = 60.0  #: seconds between two of them


class Retrier:
    """Asks the retry policy, and fits its answer to what the platform offers.

    Attributes:
        stop_alike: Jobs given up for one cause, before any success, that pause the batch; None for never.
    """

    def __init__(self, context: Context) -> None:
        self._journal, self._health, self._clock = context.journal, context.health, context.clock
        self._policy = context.setup.strategies.retry
        self.stop_alike: int | None = ALIKE
        self._given_up: dict[str, set[str]] = {}  # keys of the jobs given up, by the group of their failure
        self._has_succeeded = False

    def decide_all(self) -> None:
        """Decide what a driver that was killed left undecided."""
        jobs = self._journal.jobs
        self._journal.record([self.decide(jobs[key]) for key in self._journal.index.undecided])

    def decide(self, job: JobRecord) -> Event:
        """Return the event that follows the failure of *job*'s newest attempt."""
        now, failure = self._clock.now(), job.attempts[-1].failure
        if failure is None:
            return Cancelled(key=job.key, at=now)
        if isinstance(failure, NotBegun):  # nothing of it has run, and some job of its bundle has ended
            return Retrying(key=job.key, at=now, due=now, resources=job.resources)
        answer = self._policy(job, failure)
        if isinstance(answer, Stop) and self._is_outage(job):
            answer = Again(after=OUTAGE_PAUSE)
        if isinstance(answer, Again):
            resources = self._offered(answer.resources or job.resources)
            if answer.resources in (None, resources) or resources != job.attempts[-1].resources:
                due = now + timedelta(seconds=answer.after)
                return Retrying(key=job.key, at=now, due=due, resources=resources)
            answer = Stop(f"{failure.cause}, and the platform offers no more than it had")
        if not isinstance(answer, Stop):
            raise StrategyError(
                f"the retry policy {self._policy!r} returned {answer!r}; it returns Again(…) or Stop(…)"
            )
        self._compare_with_others(job.key, failure)
        return RetryExhausted(key=job.key, at=now, why=answer.why)

    def wants_again(self, job: JobRecord, doubt: Failure) -> bool:
        """Return whether the policy would retry a success because of this *doubt*."""
        return isinstance(self._policy(job, doubt), Again)

    def _is_outage(self, job: JobRecord) -> bool:
        """Return whether the launches of *job* came to nothing for less than an hour, in a probable outage.

        The platform accepted a launch like it before, and the policy has allowed another attempt at first. If a launch
        like it is accepted meanwhile, the hour begins again with the next attempt.
        """
        refused = list(itertools.takewhile(_never_came, reversed(job.attempts[job.attempts_before_reopen :])))
        accepted_at = self._journal.index.accepted.get(shape_of(job))
        if len(refused) < 2 or accepted_at is None:
            return False
        since = [attempt for attempt in refused if attempt.intended_at > accepted_at] or refused
        return (self._clock.now() - since[-1].intended_at).total_seconds() < OUTAGE_PATIENCE

    def _offered(self, wished: Resources) -> Resources:
        """Return *wished*, its memory rounded to what the platform offers."""
        options = self._health.limits.ram if self._health.limits else ()
        if wished.ram is None or not options or wished.ram in options:
            return wished
        return attrs.evolve(wished, ram=offered_at_least(options, wished.ram) or max(options))

    # -- failing alike --------------------------------------------------------------------------------------------

    def _compare_with_others(self, key: str, failure: Failure) -> None:
        """Pause a batch whose first jobs are all given up for one cause, since the others are likely to fail as well.

        Failures that the platform caused do not count.
        """
        self._has_succeeded = self._has_succeeded or self._journal.index.counts[JobState.SUCCEEDED] > 0
        if self._has_succeeded or self.stop_alike is None or failure.platform or isinstance(failure, Deleted):
            return
        alike = self._given_up.setdefault(failure.group, set())
        alike.add(key)
        pause = self._health.pause
        if len(alike) >= self.stop_alike and (pause is None or pause.by_platform):
            why = f"the first {len(alike)} jobs to end all failed alike, so no more are launched: {failure}"
            self._health.pause = Pause(why=why)
            self._health.say(why)

    def note_success(self) -> None:
        """Lift the pause for failing alike: a job succeeded, so others may as well."""
        self._has_succeeded = True
        pause = self._health.pause
        if pause is not None and not pause.by_platform:
            self._health.pause = None
            self._health.say("a job has succeeded; launching goes on")

    def start_over(self) -> None:
        """Forget the failures that were counted: the user has seen them, and goes on."""
        self._given_up = {}


def _never_came(attempt: Attempt) -> bool:
    """Return whether no container of this attempt ever appeared, though nothing shows that another would not."""
    failure = attempt.failure
    return isinstance(failure, LaunchRefused) and failure.inferred and failure.again
