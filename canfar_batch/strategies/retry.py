"""Retry policies: whether a failed job gets another attempt. They are pure: they see the job and its failure alone."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping

import attrs

from canfar_batch.failures import ExitCode, Failure, Interrupted, Killed, LaunchRefused, NotBegun, OutOfMemory
from canfar_batch.protocols import Again, RetryPolicy, Stop
from canfar_batch.records import JobRecord, Resources
from canfar_batch.strategies.roles import at_least

PAUSE = 10.0  #: seconds before the second attempt, by default
_attempts = at_least(0, "a number of further attempts, 0 or more")
SLOWEST = 600.0  #: the longest pause between two attempts, seconds


class _Any:
    """Every exit code.

    ```python
    retry = cb.Retry(2, exit_codes=cb.ANY)
    ```
    """

    def __contains__(self, _: object) -> bool:
        return True

    def __repr__(self) -> str:
        return "ANY"


ANY: Container[int] = _Any()  #: every exit code


def _codes(codes: int | Container[int] | Iterable[int]) -> Container[int]:
    if isinstance(codes, int):
        return frozenset({codes})
    return codes if isinstance(codes, _Any) else frozenset(codes)  # type: ignore[arg-type]  # an iterable, then


def _kinds(kinds: type[Failure] | Iterable[type[Failure]]) -> frozenset[type[Failure]]:
    return frozenset({kinds}) if isinstance(kinds, type) else frozenset(kinds)


@attrs.frozen
class Retry:
    """Launch a failed job again if its failure may not happen again.

    By default these are the platform's failures: jobs that were lost, evicted or stuck, or whose image could not be
    fetched. The job's own exit code, a kill, and an unknown cause are retried only if you ask.

    A job that ended with the local platform of its session, as after Ctrl-C, is launched again at once, and that
    attempt does not count.

    A launch that failed (no answer, and no container in the platform's list) is retried three times, or once if the
    answer said that it would fail again.

    ```python
    retry = cb.Retry(2, exit_codes={75}, grow_ram=2, max_ram=32)  # 2 more attempts; twice the memory each time
    batch = session.batch("fits", retry=retry)
    ```

    Raises:
        ValueError: A number is out of range.
    """

    again: int = attrs.field(default=2, validator=_attempts)  #: more attempts for each class of failure
    exit_codes: Container[int] = attrs.field(default=(), converter=_codes, kw_only=True)  #: to retry as well, or `ANY`
    classes: frozenset[type[Failure]] = attrs.field(default=(), converter=_kinds, kw_only=True)  #: to retry as well
    budgets: Mapping[type[Failure], int] = attrs.field(factory=dict, kw_only=True, hash=False)  #: instead of `again`
    grow_ram: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.gt(1)), kw_only=True
    )  #: retry jobs that ran out of memory, with this factor more each time
    max_ram: int | None = attrs.field(default=None, kw_only=True)  #: GiB; memory grows no further
    at_most: int = attrs.field(default=5, validator=attrs.validators.gt(0), kw_only=True)  #: attempts in all
    pause: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.ge(0)), kw_only=True
    )  #: seconds before another attempt, doubled each time; None for 10, or 1 on the local platform

    def __call__(self, job: JobRecord, failure: Failure) -> Again | Stop:
        """Return `Again` while this class of failure has attempts left, and the job as a whole; else `Stop`."""
        if isinstance(failure, Interrupted):
            return Again()
        since = job.attempts[job.attempts_before_reopen :]
        counted = [attempt for attempt in since if not isinstance(attempt.failure, (Interrupted, NotBegun))]
        budget = self._budget(failure)
        if budget == 0:
            return Stop(f"{failure.cause} is not retried")
        alike = sum(type(attempt.failure) is type(failure) for attempt in counted)
        if alike > budget:
            return Stop(f"{failure.cause}: {budget} more attempts were made")
        if len(counted) >= self.at_most:
            return Stop(f"{len(counted)} attempts were made in all")
        resources = self._more(job, failure) if self.grow_ram is not None else None
        if self.grow_ram is not None and resources is None and isinstance(failure, (OutOfMemory, Killed)):
            return Stop(f"{failure.cause}, and it already asked for max_ram={self.max_ram} GiB")
        first = PAUSE if self.pause is None else self.pause
        return Again(after=min(SLOWEST, first * 2 ** (alike - 1)), resources=resources)

    def _budget(self, failure: Failure) -> int:
        kind = type(failure)
        if kind in self.budgets:
            return self.budgets[kind]
        if isinstance(failure, LaunchRefused):
            return 3 if failure.again else int(failure.inferred)
        asked = kind in self.classes or (isinstance(failure, ExitCode) and failure.code in self.exit_codes)
        grows = self.grow_ram is not None and kind in (OutOfMemory, Killed)
        return self.again if failure.platform or asked or grows else 0

    def _more(self, job: JobRecord, failure: Failure) -> Resources | None:
        """Return more memory than the last attempt had; None at the limit. The engine rounds it up."""
        if not isinstance(failure, (OutOfMemory, Killed)) or self.grow_ram is None:
            return None
        attempt = job.attempts[-1]
        had = attempt.resources.ram or (attempt.receipt and attempt.receipt.ram_limit) or 4
        wanted = math.ceil(had * self.grow_ram)
        if self.max_ram is not None:
            wanted = min(wanted, self.max_ram)
        return attrs.evolve(attempt.resources, ram=wanted) if wanted > had else None


def never(job: JobRecord, failure: Failure) -> Stop:
    """Launch no job twice, whatever its failure.

    ```python
    batch = session.batch("fits", retry=cb.never)
    ```
    """
    return Stop("retry=never")


_fits: tuple[RetryPolicy, RetryPolicy] = (Retry(), never)
