"""The evidence about an attempt that ended, gathered from log, receipts and events, and the event that it leads to."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path

import attrs

from canfar_batch.engine.cluster_events import Events
from canfar_batch.engine.log_reasons import TAIL
from canfar_batch.engine.remote_home import RemoteHome
from canfar_batch.engine.verdict import Evidence, Verdict, explains_no_start, names_an_end
from canfar_batch.errors import CanfarBatchError, HomeError, JobNotFound, PlatformError
from canfar_batch.failures import ExitCode, Failure, Raised, StuckPending
from canfar_batch.fields.environment import readable, without_values
from canfar_batch.fields.keys import file_name
from canfar_batch.lifecycle import Cancelled, Ended
from canfar_batch.payload import receipts
from canfar_batch.payload.calls import Outcome
from canfar_batch.protocols import Platform
from canfar_batch.records import Attempt, JobRecord, Phase, Receipt
from canfar_batch.setup import ABSENT_POLLS
from canfar_batch.store.files import make_folder, write_file, write_stream
from canfar_batch.store.home import Home

log = logging.getLogger("canfar_batch")

# -- gathering evidence -------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Gathered:
    """The evidence about one attempt that could be fetched so far."""

    log: bytes | None = attrs.field(default=None, repr=False)  #: the end of the job's output; None if not available
    log_is_cut: bool = False  #: whether the log's beginning was missing
    log_has_end: bool = False  #: whether the log has the line that the wrapper prints at the end
    began: Receipt | None = None  #: the start receipt of the newest run
    ended: Receipt | None = None  #: the end receipt of the newest run
    events: Events = attrs.field(factory=Events)
    saved: Path | None = None  #: the file that the log was saved in
    trouble: PlatformError | None = None  #: why the log or the events were not available
    unread: bool = False  #: whether the storage, which may have the receipts, could not be asked
    cancel_sent: float | None = None  #: when the platform was asked to remove the container, in the clock's ticks
    pod_is_gone: bool = False  #: whether the container's pod was removed
    is_gone: bool = False  #: whether the service itself said that it knows no such container
    cancel_error: Exception | None = None  #: why the platform could not be asked to remove it
    phase: Phase | None = None  #: the platform's final status, as far as it is known
    outcome: Outcome | None = None  #: what the function that it called returned or raised
    not_begun: bool = False  #: whether other jobs of its bundle began, and it did not

    @property
    def shows_a_run(self) -> bool:
        """Whether a receipt or the job's own output proves that its command began."""
        return self.began is not None or self.ended is not None or bool(self.log)

    def merged_with(self, earlier: Gathered | None) -> Gathered:
        """Return this evidence, with gaps filled from an earlier attempt to fetch it."""
        if earlier is None:
            return self
        keeps_log = not self.log and earlier.log is not None
        return attrs.evolve(
            self,
            log=earlier.log if keeps_log else self.log,
            log_is_cut=earlier.log_is_cut if keeps_log else self.log_is_cut,
            log_has_end=self.log_has_end or earlier.log_has_end,
            began=self.began or earlier.began,
            ended=self.ended or earlier.ended,
            events=self.events.merged_with(earlier.events),
            saved=self.saved or earlier.saved,
            cancel_sent=self.cancel_sent if self.cancel_sent is not None else earlier.cancel_sent,
            pod_is_gone=self.pod_is_gone or earlier.pod_is_gone,
            is_gone=self.is_gone or earlier.is_gone,
            phase=self.phase or earlier.phase,
            outcome=self.outcome or earlier.outcome,
        )


def lacks_log(job: JobRecord, gathered: Gathered) -> bool:
    """Return whether the log that there must be was not available.

    The wrapper prints a line before the command runs, so the log of a job that ran is never empty. The platform
    answers with an empty log, too, when it cannot read the log (skaha-api §5.3; cluster.md F11).
    """
    if gathered.pod_is_gone or gathered.is_gone or gathered.log:
        return False
    return gathered.log is None or (job.spec.receipt and gathered.began is None)


def is_explained(job: JobRecord, gathered: Gathered) -> bool:
    """Return whether the cluster's events explain the end without a log.

    Something else ended the container, perhaps before its wrapper could print a line, or it never began to run.
    """
    if names_an_end(gathered.events):
        return True
    began = job.attempts[-1].has_run or gathered.shows_a_run or gathered.events.shows_start
    return not began and explains_no_start(gathered.events)


def is_half(job: JobRecord, gathered: Gathered) -> bool:
    """Return whether the log seems to have come half: a receipt file reports the end, and the log does not."""
    has_log = job.spec.receipt and bool(gathered.log)
    return has_log and gathered.ended is not None and not gathered.log_has_end


def gather(
    platform: Platform,
    job: JobRecord,
    *,
    phase: Phase | None,
    archive: Home,
    receipt_home: Home | None,
    remote: RemoteHome | None = None,
) -> Gathered:
    """Fetch the evidence about the newest attempt's end, and save its log and events.

    Args:
        platform: The platform that the attempt ran on.
        job: The job.
        phase: The platform's status of the container; None if it is absent or about to be stopped.
        archive: The directory that the log and the events are saved in.
        receipt_home: The directory in which the container may have left receipt files, if any.
        remote: The folder on the storage where it may have left them instead; asked only if the log has no end receipt.

    Raises:
        HomeError: The log cannot be written.
    """
    attempt = job.attempts[-1]
    runs = Runs.in_files(receipt_home, job)
    if attempt.id is None:
        runs, unread = with_remote(runs, remote, job, archive)
        outcome, missed = outcome_of(job, archive, None, remote)
        began, ended = runs.present_start(attempt), runs.newest_end(attempt)
        return Gathered(began=began, ended=ended, outcome=outcome, unread=unread or missed)
    trouble: PlatformError | None = None
    log, is_cut, saved = None, False, archive.log(job.key, attempt.number)
    splitter = receipts.LogSplitter(attempt.launch_name)
    try:
        size, log = save_log(platform.stream_logs(attempt.id), splitter, saved, keep_empty=not job.spec.receipt)
        runs = runs.with_log(to_receipt(splitter.start), to_receipt(splitter.end))
        is_cut = size > 0 and splitter.end is not None and splitter.start is None
    except PlatformError as error:
        trouble = error
    runs, unread = with_remote(runs, remote, job, archive)
    outcome, missed = outcome_of(job, archive, splitter.outcome, remote)
    ended = runs.newest_end(attempt)
    events = Events()
    forgotten = False
    needs_events = log is None or ended is None or ended.exit_code != 0 or ended.stopped_by is not None
    if needs_events:
        try:
            events = Events.read(platform.events(attempt.id))
            if events.pod is False and phase is not None and is_gone(platform, attempt.id):
                events, forgotten = Events(), True  # the pod went with its container: that says nothing about the end
            if events.text:
                write_file(archive.events(job.key, attempt.number), events.text.encode())
        except PlatformError as error:
            trouble = trouble or error
    return Gathered(
        log=log, log_is_cut=is_cut, log_has_end=splitter.end is not None, began=runs.present_start(attempt),
        ended=ended, events=events, pod_is_gone=events.pod is False, is_gone=forgotten,
        saved=saved if log is not None and saved.exists() else None, trouble=trouble,
        outcome=outcome, unread=unread or missed,
    )  # fmt: skip


def outcome_of(
    job: JobRecord, archive: Home, logged: bytes | None, remote: RemoteHome | None
) -> tuple[Outcome | None, bool]:
    """Return what the job's function returned or raised, and whether the storage, which may have it, gave no answer.

    It is saved if it came through the log. The outcome of another launch, as in a home that was restored, does not
    count.
    """
    if job.spec.function is None:
        return None, False
    attempt = job.attempts[-1]
    path = archive.result(job.key, attempt.number)
    outcome = Outcome.read(logged) if logged is not None else None
    if outcome is not None and outcome.launch_name == attempt.run_name and logged is not None:
        make_folder(path.parent)
        write_file(path, logged)
        return outcome, False
    known = Outcome.in_file(path, attempt.run_name)
    if known is not None or remote is None:
        return known, False
    try:
        remote.fetch_outcome(job, archive)
    except HomeError:
        raise
    except (CanfarBatchError, OSError) as error:
        log.info("the outcome of %s could not be fetched from the storage: %s", job.key, error)
        return None, True
    return Outcome.in_file(path, attempt.run_name), False


def with_remote(runs: Runs, remote: RemoteHome | None, job: JobRecord, archive: Home) -> tuple[Runs, bool]:
    """Return the receipts with those from the storage, if none says how it ended; and whether it could not be asked."""
    if remote is None or not job.spec.receipt or runs.newest_end(job.attempts[-1]) is not None:
        return runs, False
    try:
        remote.fetch(job, archive)
    except HomeError:
        raise
    except (CanfarBatchError, OSError) as error:
        log.info("the receipts of %s could not be fetched from the storage: %s", job.key, error)
        return runs, True
    more = Runs.in_files(archive, job)
    return attrs.evolve(runs, starts=(*runs.starts, *more.starts), ends=(*runs.ends, *more.ends)), False


def save_log(
    pieces: Iterable[bytes], splitter: receipts.LogSplitter, path: Path, *, keep_empty: bool
) -> tuple[int, bytes | None]:
    """Save the job's own output, one piece in memory at a time; return the log's size and the end of the output.

    An empty log says nothing if the wrapper must have printed a line (None); else it is saved if *keep_empty*.
    """
    size, end = 0, bytearray()

    def own() -> Iterator[bytes]:
        nonlocal size
        for piece in pieces:
            size += len(piece)
            yield splitter.feed(piece)
        yield splitter.finish()

    def kept() -> Iterator[bytes]:
        for piece in own():
            end.extend(piece)
            del end[:-TAIL]
            yield piece

    stream = kept()
    first = next((piece for piece in stream if piece), b"")
    if first or (size and not path.exists()) or (keep_empty and not path.exists()):
        write_stream(path, itertools.chain([first], stream))
    return size, bytes(end) if size or keep_empty else None


@attrs.frozen
class Runs:
    """The receipts that were found of one attempt's runs: the platform may have begun its container several times."""

    starts: tuple[Receipt, ...] = ()
    ends: tuple[Receipt, ...] = ()
    of_log: tuple[datetime | None, ...] = ()  #: starts of the runs whose log the platform has

    @classmethod
    def in_files(cls, home: Home | None, job: JobRecord) -> Runs:
        """Return the receipts of the newest attempt that its container left in *home*."""
        if home is None:
            return cls()
        attempt = job.attempts[-1]
        paths = receipts.receipt_paths(str(home.path), file_name(job.key), attempt.number)
        found = [read_receipt(Path(path), attempt.run_name) for path in paths]
        return cls().with_receipts(*found)

    def with_receipts(self, *found: Receipt | None) -> Runs:
        """Return these and more receipts."""
        starts = [one for one in found if one is not None and not one.ended]
        ends = [one for one in found if one is not None and one.ended]
        return attrs.evolve(self, starts=(*self.starts, *starts), ends=(*self.ends, *ends))

    def with_log(self, start: Receipt | None, end: Receipt | None) -> Runs:
        """Return these and the receipts in the log of the container's pod."""
        return attrs.evolve(self.with_receipts(start, end), of_log=(start.started_at,) if start else ())

    @property
    def newest_start(self) -> Receipt | None:
        """The start receipt of the newest run."""
        return max(self.starts, key=_start_of, default=None)

    def newest_end(self, attempt: Attempt) -> Receipt | None:
        """Return the end receipt of the newest run, if it has one.

        The end of an earlier run decides nothing: its start is older than the newest start receipt, or than the present
        run.
        """
        end = max(self.ends, key=_start_of, default=None)
        if end is None or end.started_at is None:
            return end
        start = self.newest_start
        if start is not None and start.started_at is not None and end.started_at < start.started_at:
            return None
        return end if self._is_present(end, attempt) else None

    def end_of_task(self, attempt: Attempt) -> Receipt | None:
        """Return the end receipt of a task of a bundle, if it has one.

        A bundle that the platform begins again runs no task again that has reported its end by itself (bundle.sh), so
        the end counts that belongs to the newest start, whatever run of the container that was.
        """
        end, start = max(self.ends, key=_start_of, default=None), self.newest_start
        if end is None or end.stopped_by is not None or (start is not None and _start_of(end) < _start_of(start)):
            return self.newest_end(attempt)
        return end

    def present_start(self, attempt: Attempt) -> Receipt | None:
        """Return the start receipt of the present run, if it has one."""
        start = self.newest_start
        return start if start is not None and self._is_present(start, attempt) else None

    def _is_present(self, receipt: Receipt, attempt: Attempt) -> bool:
        """Return whether a receipt is not older than the start that the platform reported after a restart.

        The container's clock may be wrong, so a run counts in any case if the platform has its log.
        """
        if not attempt.restarts or attempt.start_time is None or receipt.started_at is None:
            return True
        return receipt.started_at >= attempt.start_time - _START_TOLERANCE or receipt.started_at in self.of_log


_START_TOLERANCE = timedelta(seconds=5)  # the platform gives whole seconds
_EARLIEST = datetime.min.replace(tzinfo=timezone.utc)


def _start_of(receipt: Receipt) -> datetime:
    return receipt.started_at or _EARLIEST


def is_gone(platform: Platform, id: str) -> bool:
    """Return whether the service itself says that it knows no container with this id."""
    try:
        platform.container(id)
    except JobNotFound:
        return True
    return False


def own_output(raw: bytes, launch_name: str) -> bytes:
    """Return a log without the lines of the wrapper."""
    return receipts.split_log(raw, launch_name)[0]


def read_receipt(path: Path, run_name: str | None = None) -> Receipt | None:
    """Return the receipt in a file, unless it is of another launch than *run_name*, as in a home that was restored."""
    try:
        fields = receipts.parse_receipt(path.read_bytes())
    except OSError:
        return None
    return to_receipt(fields) if fields and fields.get("launch_name") == (run_name or fields["launch_name"]) else None


def to_receipt(fields: Mapping[str, object] | None) -> Receipt | None:
    """Return the receipt with these fields of `payload.receipts`; None if it is not one."""
    try:
        return Receipt.from_fields(fields) if fields else None
    except (ValueError, TypeError, OverflowError, OSError):
        return None  # it bears our mark and holds impossible values, such as a time beyond all calendars


# -- concluding ---------------------------------------------------------------------------------------------------


@attrs.frozen
class Absence:
    """A container that should be there and was missing from the newest good polls."""

    since: float  #: in the clock's ticks
    watched: bool  #: False if no one polled for longer than the platform remembers
    seen: bool = False  #: whether this driver saw the container before
    polls: int = 1  #: good polls that missed it

    def missed_again(self) -> Absence:
        """Return this absence, with one more poll that missed the container."""
        return attrs.evolve(self, polls=self.polls + 1)

    def is_proven(self, now: float, settle: float) -> bool:
        """Return whether the container counts as gone."""
        return self.polls >= ABSENT_POLLS and now - self.since >= settle


def evidence_of(
    job: JobRecord,
    gathered: Gathered,
    *,
    phase: Phase | None,
    watched: bool,
    stopped_for: Failure | None,
    at: datetime,
    seen: bool = False,
    replaced: bool = False,
    expires_at: datetime | None = None,
) -> Evidence:
    """Return the evidence for a verdict on the newest attempt of *job*.

    Args:
        job: The job.
        gathered: The evidence that was fetched.
        phase: The platform's final status; None if the container is absent, or was stopped by us.
        watched: False if no one polled for longer than the platform remembers.
        stopped_for: Why we stopped it, if we did.
        at: When its end became known.
        seen: Whether the platform showed the container, though perhaps not as running.
        replaced: Whether the platform that it ran on has ended.
        expires_at: Its expiry time as the final status gave it, if it did.
    """
    attempt = job.attempts[-1]
    return Evidence(
        phase=phase,
        receipt=gathered.ended,
        began=gathered.began,
        log=gathered.log,
        events=gathered.events,
        watched=watched,
        seen=seen or attempt.shown or attempt.has_run or gathered.shows_a_run,
        replaced=replaced,
        ran=attempt.has_run,
        expects_receipt=job.spec.receipt,
        has_outputs=bool(job.filled.outputs),
        workdir=job.filled.workdir,
        stopped_for=stopped_for,
        cancelling=job.cancelling and gathered.cancel_sent is not None,
        start_time=attempt.start_time,
        expires_at=expires_at or attempt.expires_at,
        ended_at=at,
    )


def end_event(job: JobRecord, gathered: Gathered, verdict: Verdict, at: datetime) -> Ended | Cancelled:
    """Return the event that ends the newest attempt of *job* with *verdict*; a success wins over a cancel."""
    receipt = gathered.ended or gathered.began
    if job.cancelling and not verdict.succeeded:
        return Cancelled(key=job.key, at=at, receipt=receipt, log=gathered.saved)
    failure = for_ledger(job, _with_exception(verdict.failure, gathered.outcome))
    return Ended(
        key=job.key, at=at, succeeded=verdict.succeeded, verified=verdict.verified, failure=failure,
        receipt=receipt, log=gathered.saved, log_is_cut=gathered.log_is_cut,
    )  # fmt: skip


def _with_exception(failure: Failure | None, outcome: Outcome | None) -> Failure | None:
    """Return *failure* as the exception that the job's function raised, if the job ended with its exit code."""
    if type(failure) is not ExitCode or outcome is None or outcome.returned:
        return failure
    return Raised(failure.code, message=f"{outcome.line}\n{outcome.traceback}")


def for_ledger(job: JobRecord, failure: Failure | None) -> Failure | None:
    """Return *failure* without the values of the job's secrets, which its log may have quoted."""
    values = readable(job.filled.secrets)
    return attrs.evolve(failure, message=without_values(failure.message, values)) if failure and values else failure


def stuck_pending(job: JobRecord, at: datetime) -> StuckPending | None:
    """Return the failure of a job that has waited too long to begin, or None.

    A job that has run at some time never waits too long: the platform shows `Pending`, too, when a container ends, is
    suspended, or when its node is silent (cluster.md F5).
    """
    attempt, allowed = job.attempts[-1], job.spec.pending_timeout
    if attempt.launched_at is None or allowed is None or attempt.has_run:
        return None
    waited = (at - attempt.launched_at).total_seconds()
    if waited <= allowed:
        return None
    return StuckPending(message=f"it waited {waited:.0f} s to begin; {allowed:.0f} s were allowed")
