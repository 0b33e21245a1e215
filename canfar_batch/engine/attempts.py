"""One attempt: the request that launches it, and the evidence that is gathered at its end."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import attrs

from canfar_batch.engine.verdict import Evidence, classify
from canfar_batch.errors import JobNotFound, PlatformError
from canfar_batch.failures import Failure, StuckPending
from canfar_batch.lifecycle import Cancelled, Ended
from canfar_batch.payload import encode, launch_names, receipts
from canfar_batch.protocols import Platform
from canfar_batch.records import JobRecord, LaunchRequest, Phase, Receipt
from canfar_batch.spec import full_image
from canfar_batch.store.files import write_file
from canfar_batch.store.home import Home

PLATFORM_MEMORY = 3600.0  #: seconds for which the platform remembers an ended container (skaha, launch template)
ABSENT_POLLS = 3  #: polls that must miss a container, spread over the settle time, before it counts as gone


# -- launching ----------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class LaunchContext:
    """What the launches of one batch have in common; the defaults are those of a single job."""

    batch: str | None = None
    token: str | None = attrs.field(default=None, repr=False)  #: the batch's; containers that can read it see the home
    home: Home | None = None  #: None for a single job: its receipts are in its log alone
    workdir: Path = attrs.field(factory=Path.cwd)  #: the driver's working directory
    shared: bool = False  #: whether containers are known to see the driver's files

    def directory(self, own: str | None) -> str | None:
        """Return the directory of a job whose workdir is *own*: in full if *shared*, else *own* unchanged."""
        return str(self.workdir / (own or "")) if self.shared else own

    def placed(self, job: JobRecord) -> JobRecord:
        """Return *job* with its workdir in full if this machine sees the files of its container."""
        receipt = job.last_attempt.receipt if job.last_attempt else None
        reported = receipt.workdir if receipt else None
        if reported == "home" or (reported != "driver" and not self.shared):
            return job
        filled = attrs.evolve(job.filled, workdir=str(self.workdir / (job.filled.workdir or "")))
        return attrs.evolve(job, filled=filled)

    def launch_name(self, job: JobRecord) -> str:
        """Return the name of *job*'s next launch. The key of a single job is its launch name."""
        if self.batch is None or self.token is None:
            return job.key
        return launch_names.launch_name(
            self.batch, job.filled.name or job.key, token=self.token, index=job.index, attempt=job.next_number
        )


def request_for(job: JobRecord, context: LaunchContext) -> LaunchRequest:
    """Return the request that launches the newest attempt of *job*.

    Raises:
        SpecError: The command and environment are too large to be sent, or a secret is not set.
    """
    attempt, spec, filled = job.attempts[-1], job.spec, job.filled
    env = filled.environment()
    if spec.receipt:
        payload = encode.encode_wrapped(
            filled.argv,
            env,
            launch_name=attempt.launch_name,
            key=job.key,
            attempt=attempt.number,
            batch=context.batch,
            workdir=filled.workdir,
            driver_dir=str(context.workdir),
            shared=context.shared,
            outputs=filled.outputs,
            timeout=spec.timeout,
            home=None if context.home is None else str(context.home.path),
            token=context.token,
        )
    else:
        payload = encode.encode_exec(filled.argv, env, workdir=context.directory(filled.workdir))
    return LaunchRequest(
        name=attempt.launch_name,
        image=full_image(spec.image),
        resources=attempt.resources,
        cmd=payload.cmd,
        args=payload.args,
        env=payload.env,
        secrets=tuple(secret.read() for secret in filled.secrets),
    )


# -- gathering evidence -------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Gathered:
    """The evidence about one attempt that could be fetched so far."""

    log: bytes | None = attrs.field(default=None, repr=False)  #: the job's own output; None if it was not available
    began: Receipt | None = None
    ended: Receipt | None = None
    events: str = ""
    saved: Path | None = None  #: the file that the log was saved in
    trouble: PlatformError | None = None  #: why the log or the events were not available
    cancel_sent: bool = False  #: whether the platform was asked to remove the container
    gone: bool = False  #: whether the service itself said that it knows no such container
    cancel_error: Exception | None = None  #: why the platform could not be asked to remove it

    @property
    def is_incomplete(self) -> bool:
        """Whether another try may find more: there is no log, or the log has a start receipt and no end receipt."""
        return self.ended is None and (self.log is None or self.began is not None)

    def merged_with(self, earlier: Gathered | None) -> Gathered:
        """Return this evidence, with gaps filled from an earlier attempt to fetch it."""
        if earlier is None:
            return self
        return attrs.evolve(
            self,
            log=self.log or earlier.log or self.log,
            began=self.began or earlier.began,
            ended=self.ended or earlier.ended,
            events=self.events or earlier.events,
            cancel_sent=self.cancel_sent or earlier.cancel_sent,
        )

    def evidence(self, phase: Phase | None, *, watched: bool = True) -> Evidence:
        """Return the evidence for a verdict, beside the platform's final status."""
        return Evidence(
            phase=phase, receipt=self.ended, began=self.began, log=self.log or b"", events=self.events, watched=watched
        )


def gather(
    platform: Platform, job: JobRecord, *, phase: Phase | None, archive: Home, receipt_home: Home | None
) -> Gathered:
    """Fetch the evidence about the newest attempt's end, and save its log and events.

    Args:
        platform: The platform that the attempt ran on.
        job: The job.
        phase: The platform's status of the container; None if it is absent or about to be stopped.
        archive: The directory that the log and the events are saved in.
        receipt_home: The directory in which the container may have left receipt files, if any.

    Raises:
        HomeError: The log cannot be written.
    """
    attempt = job.attempts[-1]
    log: bytes | None = None
    trouble: PlatformError | None = None
    began, ended = receipt_files(receipt_home, job.key, attempt.number)
    if attempt.id is not None:
        try:
            log, start, end = _read_log(platform.logs(attempt.id), attempt.launch_name)
            began, ended = began or start, ended or end
        except PlatformError as error:
            trouble = error
    events = ""
    if attempt.id is not None and (ended is None or ended.exit_code != 0) and phase is not Phase.COMPLETED:
        try:
            events = platform.events(attempt.id) or ""
        except PlatformError as error:
            trouble = trouble or error
    saved = archive.log(job.key, attempt.number)
    if log or (log is not None and not saved.exists()):
        write_file(saved, log)
    if events:
        write_file(archive.events(job.key, attempt.number), events.encode())
    return Gathered(
        log=log, began=began, ended=ended, events=events, saved=saved if saved.exists() else None, trouble=trouble
    )


def receipt_files(home: Home | None, key: str, number: int) -> tuple[Receipt | None, Receipt | None]:
    """Return the start and the end receipt that a container left in *home*, as far as they are there."""
    if home is None:
        return None, None
    start, end = receipts.receipt_paths(str(home.path), key, number)
    return _read_receipt(Path(start)), _read_receipt(Path(end))


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


def _read_log(raw: bytes, launch_name: str) -> tuple[bytes, Receipt | None, Receipt | None]:
    own, start, end = receipts.split_log(raw, launch_name)
    return own, _receipt(start), _receipt(end)


def _read_receipt(path: Path) -> Receipt | None:
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    return _receipt(receipts.parse_receipt(raw))


def _receipt(fields: Mapping[str, object] | None) -> Receipt | None:
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
    polls: int = 1  #: good polls that missed it

    def missed_again(self) -> Absence:
        """Return this absence, with one more poll that missed the container."""
        return attrs.evolve(self, polls=self.polls + 1)

    def is_proven(self, now: float, settle: float) -> bool:
        """Return whether the container counts as gone."""
        return self.polls >= ABSENT_POLLS and now - self.since >= settle


def end_event(
    job: JobRecord, gathered: Gathered, *, phase: Phase | None, watched: bool, stopped_for: Failure | None, at: datetime
) -> Ended | Cancelled:
    """Return the event that ends the newest attempt of *job*, by all the evidence; a success wins over a cancel."""
    verdict = classify(attrs.evolve(gathered.evidence(phase, watched=watched), stopped_for=stopped_for))
    receipt = gathered.ended or gathered.began
    if job.cancelling and not verdict.succeeded:
        return Cancelled(key=job.key, at=at, receipt=receipt, log=gathered.saved)
    return Ended(
        key=job.key, at=at, succeeded=verdict.succeeded, verified=verdict.verified, failure=verdict.failure,
        receipt=receipt, log=gathered.saved,
    )  # fmt: skip


def stuck_pending(job: JobRecord, at: datetime) -> StuckPending | None:
    """Return the failure of a job that has waited too long to begin, or None."""
    launched, allowed = job.attempts[-1].launched_at, job.spec.pending_timeout
    if launched is None or allowed is None or (waited := (at - launched).total_seconds()) <= allowed:
        return None
    return StuckPending(message=f"it waited {waited:.0f} s to begin; {allowed:.0f} s were allowed")
