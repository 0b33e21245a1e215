"""`Job`: one unit of work, as a record and the connection to ask about it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Protocol, TypeVar, overload

from canfar_batch.clock import SystemClock
from canfar_batch.errors import JobFailed, PlatformError, WaitTimeout
from canfar_batch.failures import Failure
from canfar_batch.protocols import Platform
from canfar_batch.records import Attempt, JobRecord, JobState, Receipt
from canfar_batch.spec import JobSpec
from canfar_batch.views import explain, notebook
from canfar_batch.views.log_tail import job_log_tail, text_tail

Self = TypeVar("Self", bound="Job")


class Source(Protocol):
    """Where a job's news come from: the platform itself, or the batch that drives it."""

    @property
    def platform(self) -> Platform | None:
        """The platform, or None where there is no connection."""

    def refresh(self, record: JobRecord) -> JobRecord:
        """The record as it stands now."""

    def log(self, record: JobRecord) -> bytes:
        """All that the job itself printed in its newest attempt, so far."""

    def events(self, record: JobRecord) -> str:
        """What the platform noted about the newest attempt."""

    def cancel(self, record: JobRecord, timeout: float) -> JobRecord:
        """Stop the job; the record once it is stopped."""

    def wait(self, seconds: float) -> None:
        """Let so many seconds pass."""


class Job:
    """One unit of work, run as one headless container at a time.

    Its attributes are what was last heard and never ask anybody; its methods may. Times are aware UTC datetimes of
    the container's clock, memory is in GiB.

    ```python
    import canfar_batch as cb

    with cb.Session.connect() as session:
        job = session.launch("python fit.py 7", image="skaha/astroml:latest", cores=1, ram=1)
        job.wait(timeout=3600)  # seconds
        print(job.state, job.exit_code, job.peak_ram, job.failure)
        print(job.explain())
        print(job.logs())
        job.raise_if_failed()
    ```
    """

    def __init__(self, record: JobRecord, source: Source) -> None:
        self._record = record
        self._source = source

    # -- what was last heard --------------------------------------------------------------------------------------

    @property
    def record(self) -> JobRecord:
        """Everything that is known, as one frozen value."""
        return self._record

    @property
    def key(self) -> str:
        """Our name for the job, the same for ever."""
        return self._record.key

    @property
    def fields(self) -> Mapping[str, Any]:
        """The values that its template was filled with."""
        return self._record.fields

    @property
    def id(self) -> str | None:
        """The platform's name for the newest attempt; None until the platform has given one."""
        return self._record.id

    @property
    def name(self) -> str | None:
        """The launch name of the newest attempt, as the platform's portal shows it."""
        return self._record.last_attempt.launch_name if self._record.last_attempt else None

    @property
    def state(self) -> JobState:
        """Where the job stands."""
        return self._record.state

    @property
    def spec(self) -> JobSpec:
        """What it runs. The command of a job that was only found on the platform reads `(unknown)`."""
        return self._record.spec

    @property
    def attempt(self) -> int:
        """The number of the newest attempt, from 1; 0 before the first."""
        return self._record.last_attempt.number if self._record.last_attempt else 0

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """All attempts, oldest first."""
        return self._record.attempts

    @property
    def receipt(self) -> Receipt | None:
        """What the wrapper around the command reported, if anything."""
        return self._record.last_attempt.receipt if self._record.last_attempt else None

    @property
    def exit_code(self) -> int | None:
        """The command's own exit code; None while it runs, and where nothing reported it."""
        return self.receipt.exit_code if self.receipt else None

    @property
    def peak_ram(self) -> float | None:
        """Most memory that was in use, GiB, file cache included: an upper bound. None where unknown."""
        return self.receipt.peak_ram if self.receipt else None

    @property
    def cpu_seconds(self) -> float | None:
        """CPU time used, seconds. None where unknown."""
        return self.receipt.cpu_seconds if self.receipt else None

    @property
    def started_at(self) -> datetime | None:
        """When the newest attempt began to run."""
        return self._record.last_attempt.started_at if self._record.last_attempt else None

    @property
    def finished_at(self) -> datetime | None:
        """When the newest attempt was over."""
        return self._record.last_attempt.finished_at if self._record.last_attempt else None

    @property
    def failure(self) -> Failure | None:
        """Why the newest attempt failed, if it did."""
        return self._record.failure

    @property
    def outputs(self) -> Mapping[str, int | None]:
        """The declared outputs that were found at the end, and their sizes in bytes (None where unknown)."""
        return self.receipt.outputs if self.receipt else {}

    @property
    def result(self) -> Any:
        """What the batch's collector made of the job; None before that, and for single jobs."""
        return self._record.result

    # -- asking ---------------------------------------------------------------------------------------------------

    def refresh(self: Self) -> Self:
        """Ask how the job stands, once; the job itself.

        Raises:
            PlatformError: No clear answer came; nothing is changed by that.
        """
        self._record = self._source.refresh(self._record)
        return self

    def wait(self: Self, timeout: float | None = None, poll: float = 5.0) -> Self:
        """Ask until the job is over, also where the platform has forgotten it; the job itself.

        An answer that does not come is waited for: it says nothing about the job.

        Args:
            timeout: Seconds to wait at most; None waits for as long as it takes.
            poll: Seconds between two questions at most; the first follow each other sooner.

        Raises:
            WaitTimeout: The job was still active after *timeout* seconds. It runs on. Also a `TimeoutError`.
            CredentialError: The platform no longer accepts who we are.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        for pause in _pauses(poll):
            trouble = ""
            try:
                self.refresh()
            except PlatformError as error:
                trouble = f"; the platform's last answer: {error}"
                pause = max(pause, error.retry_after or 0.0)
            if self.state.final:
                break
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise WaitTimeout(f"job {self.key} is still {self.state} after {timeout:g} s; it runs on{trouble}")
            self._source.wait(pause if left is None else min(pause, left))
        return self

    def raise_if_failed(self: Self) -> Self:
        """Raise if the job is over and did not succeed; else the job itself.

        Raises:
            JobFailed: It did not succeed; the message says why, what to do, and shows the end of its log.
        """
        if not self.state.final or self.state is JobState.SUCCEEDED:
            return self
        tail = "\n".join(f"  | {line}" for line in self._log_end(10).splitlines())
        raise JobFailed(self._explain("") + (f"\nThe end of its log:\n{tail}" if tail else ""))

    @overload
    def logs(self, encoding: str = "utf-8") -> str: ...
    @overload
    def logs(self, encoding: None) -> bytes: ...
    def logs(self, encoding: str | None = "utf-8") -> str | bytes:
        """All that the job itself printed in its newest attempt, so far.

        The saved log is read first, where there is one. Bytes that are not text in *encoding* become U+FFFD;
        ``encoding=None`` gives the job's own bytes exactly.

        Raises:
            PlatformError: The log was not saved, and the platform gave no clear answer.
        """
        raw = self._source.log(self._record)
        return raw if encoding is None else raw.decode(encoding, errors="replace")

    def follow(self, poll: float = 2.0) -> Iterator[str]:
        """The job's lines as they come, until it is over.

        A job that the platform begins again from the start is followed from its start.

        Args:
            poll: Seconds between two questions at most; each fetches the whole log, for the platform gives no part.
        """
        shown = b""
        for pause in _pauses(poll):
            try:
                over = self.refresh().state.final
                log = self._source.log(self._record)
            except PlatformError:
                over, log = False, b""
            whole = log if over else log[: log.rfind(b"\n") + 1]
            if whole and not (whole.startswith(shown) or shown.startswith(whole)):
                shown = b""
            if len(whole) > len(shown):
                yield from _lines(whole[len(shown) :])
                shown = whole
            if over:
                return
            self._source.wait(pause)

    def events(self) -> str:
        """What the platform noted about the newest attempt, as text; empty where there is nothing.

        Raises:
            PlatformError: They were not saved, and the platform gave no clear answer.
        """
        return self._source.events(self._record)

    def explain(self) -> str:
        """One paragraph: what happened, and what to do about it."""
        return self._explain(self._or_nothing(self.events))

    def support_report(self, expected: str | None = None, project: str | None = None) -> str:
        """All that a request to support@canfar.net should contain; no secret is in it.

        Args:
            expected: What you expected to happen.
            project: The project that the work belongs to.
        """
        platform = self._source.platform
        return explain.support_report(
            self._record,
            platform=platform.url if platform else "not connected",
            user=platform.user if platform else None,
            log=self._log_end(explain.SUPPORT_LINES),
            events=self._or_nothing(self.events),
            expected=expected,
            project=project,
        )

    def cancel(self: Self, timeout: float = 120.0) -> Self:
        """Stop the job, and wait until the platform no longer knows it; the job itself.

        A job that turns out to have succeeded stays so.

        Args:
            timeout: Seconds to wait for the confirmation.

        Raises:
            WaitTimeout: The platform still shows it after *timeout* seconds.
            PlatformError: No clear answer came.
        """
        self._record = self._source.cancel(self._record, timeout)
        return self

    # -- showing --------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        cause = f", {self.failure.cause}" if self.failure else ""
        code = f", exit code {self.exit_code}" if self.exit_code == 0 else ""
        return f"<Job {self.key} {self.state}{cause or code}, id={self.id}>"

    def _repr_html_(self) -> str:
        return notebook.job(self._record, SystemClock().now())

    def _explain(self, events: str) -> str:
        return explain.explain_job(self._record, events, SystemClock().now())

    def _log_end(self, lines: int) -> str:
        """The last lines of the log, from the saved file if there is one: a log may have hundreds of MB."""
        return job_log_tail(self._record, lines) or text_tail(self._or_nothing(self.logs), lines, self._record)

    @staticmethod
    def _or_nothing(ask: Callable[[], str]) -> str:
        try:
            return ask()
        except PlatformError as error:
            return f"(unavailable: {error})"


def _pauses(longest: float) -> Iterator[float]:
    """Seconds to let pass between two questions: few at first, for many a job is over soon."""
    pause = 0.25
    while True:
        yield min(pause, longest)
        pause = min(pause * 2, longest)


def _lines(text: bytes) -> list[str]:
    """*text* as lines that end where the job ended them; the bar of a progress meter stays one line."""
    return [line.removesuffix("\r") for line in text.decode(errors="replace").removesuffix("\n").split("\n")]
