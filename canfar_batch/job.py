"""`Job`: one unit of work, as a record and the connection to ask about it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar, overload

from canfar_batch.clock import SystemClock
from canfar_batch.errors import CredentialRefused, JobFailed, PlatformError, TransitionError, WaitTimeout
from canfar_batch.failures import Failure
from canfar_batch.payload import receipts
from canfar_batch.protocols import Platform
from canfar_batch.records import Attempt, JobRecord, JobState, Receipt
from canfar_batch.setup import OUTAGE
from canfar_batch.spec import JobSpec
from canfar_batch.store.home import Home
from canfar_batch.store.log_files import end_of_log
from canfar_batch.text import Shown
from canfar_batch.views import explain, notebook
from canfar_batch.views.log_tail import SHOWN, log_tail
from canfar_batch.views.masking import secret_values

log = logging.getLogger("canfar_batch")

Self = TypeVar("Self", bound="Job")

_LONGEST_PAUSE = 300.0  #: seconds between two questions meanwhile
_SHORTEST_ANSWER = 1.0  #: seconds that a question may take at least, however short the time-out of the wait


class Source(Protocol):
    """Where a job's record comes from: the platform itself, or the batch that the job belongs to."""

    @property
    def platform(self) -> Platform | None:
        """The platform; None without a connection."""

    def refresh(self, record: JobRecord, *, timeout: float = math.inf) -> JobRecord:
        """Return the newest record; wait for the platform's answer for at most *timeout* seconds."""

    def require_driver(self, record: JobRecord) -> None:
        """Raise `NotDriven` if no process drives the job, so that its record will not change."""

    def log(self, record: JobRecord) -> bytes:
        """Return everything that the job itself has printed in its newest attempt."""

    def events(self, record: JobRecord) -> str:
        """Return what the platform noted about the newest attempt."""

    def exception(self, record: JobRecord) -> BaseException | None:
        """Return the exception that the job's function raised in its newest attempt, if it is known here."""

    def cancel(self, record: JobRecord, timeout: float) -> JobRecord:
        """Stop the job, and return its record once it is stopped."""

    def renew(self, record: JobRecord) -> None:
        """Ask the platform to extend the lifetime of the job's container."""

    def wait(self, seconds: float) -> None:
        """Sleep for *seconds*."""


class Job:
    """One unit of work, run as one headless container at a time.

    Its attributes show the newest record and never do I/O; its methods may. Times are aware UTC datetimes of the
    container's clock, memory is in GiB.

    ```python
    import canfar_batch as cb

    with cb.Session.connect() as session:
        job = session.launch("python fit.py 7", image="skaha/astroml:latest", cores=1, ram=1)
        job.wait(timeout=3600)  # seconds
        print(job.state, job.exit_code, job.run_seconds, job.peak_ram, job.failure)
        print(job.explain())
        print(job.log, job.logs())  # the saved file, and its text
        job.raise_if_failed()
        assert job.done and job.ok
    ```
    """

    def __init__(self, record: JobRecord, source: Source) -> None:
        self._record = record
        self._source = source

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"job {self.key} holds a connection, so it cannot be pickled or copied: send job.record, which holds all "
            "that is known of it, or open its batch in the other process with canfar_batch.open(name, home)"
        )

    # -- the newest record ----------------------------------------------------------------------------------------

    @property
    def record(self) -> JobRecord:
        """Everything that is known of the job, as one frozen value."""
        return self._record

    @property
    def key(self) -> str:
        """Our name for the job; it never changes."""
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
        """The job's state."""
        return self._record.state

    @property
    def done(self) -> bool:
        """Whether the job is final: it succeeded, failed, was lost or was cancelled."""
        return self._record.state.final

    @property
    def ok(self) -> bool:
        """Whether the job succeeded."""
        return self._record.state is JobState.SUCCEEDED

    @property
    def spec(self) -> JobSpec:
        """The spec that it runs. If the job was only found on the platform, its command reads `(unknown)`."""
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
        """The report of the wrapper around the command; None if there is none."""
        return self._record.last_attempt.receipt if self._record.last_attempt else None

    @property
    def exit_code(self) -> int | None:
        """The command's own exit code; None while it runs, and if nothing reported it."""
        return self.receipt.exit_code if self.receipt else None

    @property
    def peak_ram(self) -> float | None:
        """The most memory that was in use, GiB. File cache is included, so this is an upper bound. None if unknown."""
        return self.receipt.peak_ram if self.receipt else None

    @property
    def cpu_seconds(self) -> float | None:
        """CPU time used, seconds; None if unknown."""
        return self.receipt.cpu_seconds if self.receipt else None

    @property
    def started_at(self) -> datetime | None:
        """When the newest attempt began to run; None if unknown."""
        return self._record.last_attempt.started_at if self._record.last_attempt else None

    @property
    def finished_at(self) -> datetime | None:
        """When the newest attempt ended; None if unknown."""
        return self._record.last_attempt.finished_at if self._record.last_attempt else None

    @property
    def run_seconds(self) -> float | None:
        """Seconds from the start to the end of the newest attempt; None before its end, or if a time is unknown."""
        if self.started_at is None or self.finished_at is None:
            return None
        return (self.finished_at - self.started_at).total_seconds()

    @property
    def log(self) -> Path | None:
        """The file that the newest attempt's log was saved in, at its end; None before that. `logs` reads it."""
        return self._record.last_attempt.log if self._record.last_attempt else None

    @property
    def restarts(self) -> int:
        """Runs of the present container that the platform stopped and began again from the start."""
        return self._record.last_attempt.restarts if self._record.last_attempt else 0

    @property
    def failure(self) -> Failure | None:
        """Why the newest attempt failed; None if it did not."""
        return self._record.failure

    @property
    def outputs(self) -> Mapping[str, int | None]:
        """The declared outputs that were found at the end, and their sizes in bytes (None if unknown)."""
        return self.receipt.outputs if self.receipt else {}

    @property
    def result(self) -> Any:
        """What the batch's collector returned for the job; None before that, and for single jobs."""
        return self._record.result

    # -- asking ---------------------------------------------------------------------------------------------------

    def refresh(self: Self) -> Self:
        """Get the newest record, once, and return the job itself.

        Raises:
            PlatformError: No clear answer came; the record stays as it was.
        """
        self._record = self._source.refresh(self._record)
        return self

    def wait(self: Self, timeout: float | None = None, poll: float = 5.0) -> Self:
        """Wait until the job is final, even if the platform has forgotten it, and return the job itself.

        An answer that does not come says nothing about the job, so it is asked for again. So is one to a credential
        that was accepted before and is refused now, for 35 minutes: the platform may be having an outage.

        Args:
            timeout: Seconds to wait at most; None waits for as long as it takes.
            poll: Seconds between two questions at most; the first ones follow each other sooner.

        Raises:
            WaitTimeout: The job was still active after *timeout* seconds. It runs on. Also a `TimeoutError`.
            NotDriven: No process drives the job's batch, so the job will not change.
            CredentialError: The platform no longer accepts the credential.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        refusals = _Refusals(self.key)
        for pause in _pauses(poll):
            trouble = ""
            try:
                patience = max(_SHORTEST_ANSWER, deadline - time.monotonic())
                self._record = self._source.refresh(self._record, timeout=patience)
                refusals.end()
            except PlatformError as error:
                trouble = f"; the platform's last answer: {error}"
                pause = max(pause, error.retry_after or 0.0)
            except CredentialRefused as error:
                trouble = f"; the platform's last answer: {error}"
                pause = refusals.outlast(error, pause)
            if self.done:
                break
            self._source.require_driver(self._record)
            left = deadline - time.monotonic()
            if left <= 0:
                going_on = "; it runs on" if self.state.active else ""
                raise WaitTimeout(f"job {self.key} is still {self.state} after {timeout:g} s{going_on}{trouble}")
            self._source.wait(min(pause, left))
        return self

    def raise_if_failed(self: Self) -> Self:
        """Raise if the job is final and did not succeed; otherwise return the job itself.

        Raises:
            JobFailed: It did not succeed; the message says why, what to do, and shows the end of its log. Its cause is
                the exception of the function, if the job called one.
        """
        if not self.done or self.ok:
            return self
        tail = "\n".join(f"  | {line}" for line in self._log_end(10).splitlines())
        failed = JobFailed(self._explain("") + (f"\nThe end of its log:\n{tail}" if tail else ""))
        raise failed from self._source.exception(self._record)

    @overload
    def logs(self, encoding: str = "utf-8") -> str: ...
    @overload
    def logs(self, encoding: None) -> bytes: ...
    def logs(self, encoding: str | None = "utf-8") -> str | bytes:
        """Return everything that the job itself has printed in its newest attempt.

        If the platform began the attempt again, the log is that of the newest run: those of the runs before are gone.
        The saved log is read if there is one, otherwise the platform is asked. Bytes that are not text in *encoding*
        become U+FFFD; ``encoding=None`` gives the job's own bytes exactly.

        Raises:
            PlatformError: The log is not available: it was not saved or was deleted, and the platform gave no clear
                answer or was not asked.
        """
        raw = self._source.log(self._record)
        return raw if encoding is None else Shown(raw.decode(encoding, errors="replace"))

    def follow(self, poll: float = 2.0) -> Iterator[str]:
        """Yield the job's lines as they come, until it is final.

        If the platform restarts the job, its lines are yielded from the start again.

        Args:
            poll: Seconds between two questions at most; each one fetches the whole log, since the platform does not
                give a part of it.

        Raises:
            NotDriven: No process drives the job's batch, so no line will come.
            CredentialError: The platform no longer accepts the credential, as for `wait`.
            PlatformError: The job is final, and its log is not available.
        """
        shown, missed, refusals = b"", 0, _Refusals(self.key)
        for pause in _pauses(poll):
            final, log = False, b""
            try:
                final = self.refresh().done
                log = self._source.log(self._record)
                refusals.end()
            except PlatformError:
                missed += final
                if missed >= _LAST_TRIES:
                    raise
                final = False
            except CredentialRefused as error:
                final = False
                pause = refusals.outlast(error, pause)
            whole = log if final else log[: log.rfind(b"\n") + 1]
            if whole and not (whole.startswith(shown) or shown.startswith(whole)):
                shown = b""
            if len(whole) > len(shown):
                yield from _lines(whole[len(shown) :])
                shown = whole
            if final:
                return
            if not self.done:
                self._source.require_driver(self._record)
            self._source.wait(pause)

    def events(self) -> str:
        """Return what the platform noted about the newest attempt, as text; empty if there is nothing.

        Raises:
            PlatformError: The events were not saved, and the platform gave no clear answer.
        """
        return Shown(self._source.events(self._record))

    def explain(self) -> str:
        """Return one paragraph: what happened, and what to do about it."""
        return Shown(self._explain(self._or_nothing(self.events)))

    def support_report(self, expected: str | None = None, project: str | None = None) -> str:
        """Return everything that a request to support@canfar.net should contain; it contains no secret.

        Args:
            expected: What you expected to happen.
            project: The project that the work belongs to.
        """
        platform = self._source.platform
        text = explain.support_report(
            self._record,
            platform=platform.url if platform else "not connected",
            user=platform.user if platform else None,
            log=self._log_end(explain.SUPPORT_LINES),
            events=self._or_nothing(self.events),
            expected=expected,
            project=project,
        )
        return Shown(text)

    def renew(self: Self) -> Self:
        """Ask the platform to extend the lifetime of the job's container, and return the job itself.

        The platform ends a container after some days; it extends the lifetime only when that end is near.

        Raises:
            TransitionError: The job has no container.
            PlatformError: The platform refused, or no clear answer came.
        """
        self._source.renew(self._record)
        return self

    def cancel(self: Self, timeout: float = 120.0) -> Self:
        """Stop the job, wait until its container has ended, and return the job itself.

        The platform no longer shows the container at once, and gives it up to 30 s to stop. A job that turns out to
        have succeeded stays SUCCEEDED.

        Args:
            timeout: Seconds to wait for the confirmation.

        Raises:
            WaitTimeout: The platform still shows the container after *timeout* seconds.
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
        return notebook.job(self._record, SystemClock().now(), log=end_of_log(self.log, SHOWN))

    def _explain(self, events: str) -> str:
        return explain.explain_job(self._record, events, SystemClock().now())

    def _log_end(self, lines: int) -> str:
        """The last lines of the log, from the saved file if there is one: a log may have hundreds of MB."""
        log = end_of_log(self.log, lines) or self._or_nothing(self.logs)
        return log_tail(log, lines, secret_values([self._record]))

    @staticmethod
    def _or_nothing(ask: Callable[[], str]) -> str:
        try:
            return ask()
        except PlatformError as error:
            return f"(unavailable: {error})"


def newest_log(record: JobRecord, platform: Platform | None, running: Path | None = None) -> bytes:
    """Return the saved log of the newest attempt, else the platform's; empty if the job has not begun.

    Args:
        record: The job.
        platform: The platform, if there is a connection.
        running: The directory in which the home has the logs of running tasks, if it has one.

    Raises:
        PlatformError: There is a log, or there was one, and it is not available.
    """
    attempt = record.last_attempt
    if attempt is None or (attempt.id is None and not attempt.ended):
        return b""
    if attempt.log is not None and attempt.log.exists():
        return attempt.log.read_bytes()
    if running is not None and attempt.task is not None and (running / attempt.run_name).exists():
        return (running / attempt.run_name).read_bytes()
    if attempt.id is None:
        return b""  # nothing of it ever ran
    if platform is None:
        what = "was not saved" if attempt.log is None else f"was saved in {attempt.log}, which is no longer there"
        raise PlatformError(
            f"the log of job {record.key} {what}; without a connection it cannot be fetched: session.batch() opens the "
            "batch with one"
        )
    raw = platform.logs(attempt.id)
    if not raw and attempt.ended and record.spec.receipt and attempt.has_run:
        raise PlatformError(f"the log of job {record.key} was not saved, and the platform no longer has it")
    if attempt.task is not None:
        splitter = receipts.BundleLogSplitter(attempt.launch_name, attempt.task)
        return splitter.feed(raw) + splitter.finish()
    return receipts.split_log(raw, attempt.launch_name)[0]


def renew_container(record: JobRecord, platform: Platform) -> None:
    """Ask the platform to extend the lifetime of the container of *record*'s newest attempt.

    Raises:
        PlatformError: The platform refused, or no clear answer came.
        TransitionError: The job has no container.
    """
    if record.id is None or not record.state.active:
        raise TransitionError(f"job {record.key!r} is {record.state}, so it has no container whose lifetime could grow")
    platform.renew(record.id)


def newest_events(record: JobRecord, archive: Home, platform: Platform | None) -> str:
    """Return the saved events of the newest attempt, else the platform's; empty if there is neither."""
    attempt = record.last_attempt
    if attempt is None:
        return ""
    saved = archive.events(record.key, attempt.number)
    if saved.exists():
        return saved.read_text()
    if platform is None or attempt.id is None or attempt.ended:
        return ""
    return platform.events(attempt.id) or ""


class _Refusals:
    """The refusals of a credential that was accepted before, while someone waits for a job."""

    def __init__(self, job: str) -> None:
        self._job = job
        self._seconds = 0.0  # waited since the first one

    def end(self) -> None:
        """Note an answer."""
        if self._seconds:
            log.warning("%s: the platform accepts the credential again", self._job)
        self._seconds = 0.0

    def outlast(self, error: CredentialRefused, pause: float) -> float:
        """Return the seconds to wait until the next question.

        Raises:
            CredentialRefused: It was never accepted, or has been refused for too long.
        """
        if not error.was_accepted or self._seconds >= OUTAGE:
            raise error
        if not self._seconds:
            log.warning("%s: it is waited for, though the platform refuses the credential: %s", self._job, error)
        growing = max(pause, min(_LONGEST_PAUSE, self._seconds / 2))
        self._seconds += growing
        return growing


_LAST_TRIES = 3  #: tries to fetch the log of a job that is final


def _pauses(longest: float) -> Iterator[float]:
    """Yield the seconds to wait between two questions: few at first, since many jobs end soon."""
    pause = 0.25
    while True:
        yield min(pause, longest)
        pause = min(pause * 2, longest)


def _lines(text: bytes) -> list[str]:
    """Return *text* as lines that end where the job ended them; the bar of a progress meter stays one line."""
    return [line.removesuffix("\r") for line in text.decode(errors="replace").removesuffix("\n").split("\n")]
