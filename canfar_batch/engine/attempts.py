"""One attempt's dealings with the platform: what is sent to launch it, and what is brought back at its end.

A single job and a batch both go through here, so that what a receipt means is decided once.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import attrs

from canfar_batch.engine.verdict import Evidence, classify
from canfar_batch.errors import JobNotFound, PlatformError
from canfar_batch.failures import Failure, StuckPending
from canfar_batch.fields.keys import file_name
from canfar_batch.lifecycle import Cancelled, Ended
from canfar_batch.payload import encode, receipts
from canfar_batch.protocols import Platform
from canfar_batch.records import JobRecord, LaunchRequest, Phase, Receipt, Resources
from canfar_batch.spec import Filled, JobSpec, full_image
from canfar_batch.store.files import write_file
from canfar_batch.store.home import Home

PLATFORM_MEMORY = 3600.0  #: seconds for which the platform remembers a container that is over (skaha, launch template)
ABSENT_POLLS = 3  #: so many answers without a container, spread over the settle time, prove that it is gone


@attrs.frozen(kw_only=True)
class LaunchContext:
    """What the launches of one batch, or of one single job, have in common."""

    batch: str | None = None
    token: str | None = attrs.field(
        default=None, repr=False
    )  #: of the batch; proves to a container that it sees the home
    home: Home | None = None  #: None for a single job: its receipts are in its log alone
    workdir: Path = attrs.field(factory=Path.cwd)  #: the driver's working directory
    shared: bool = False  #: True where containers are known to see the driver's files

    def directory(self, own: str | None) -> str | None:
        """Where a job runs whose own workdir is *own*; None, or a relative path, where only its container can tell."""
        return str(self.workdir / (own or "")) if self.shared else own

    def placed(self, job: JobRecord) -> JobRecord:
        """*job* with its workdir in full, where this machine sees the files of its container; else as it is."""
        receipt = job.last_attempt.receipt if job.last_attempt else None
        said = receipt.ran_in if receipt else None
        if said == "home" or (said != "driver" and not self.shared):
            return job
        filled = attrs.evolve(job.filled, workdir=str(self.workdir / (job.filled.workdir or "")))
        return attrs.evolve(job, filled=filled)


def request_for(
    spec: JobSpec,
    filled: Filled,
    *,
    launch_name: str,
    key: str,
    number: int,
    resources: Resources,
    around: LaunchContext,
) -> LaunchRequest:
    """What to send to launch one attempt.

    Raises:
        SpecError: The command and environment are too large to be sent, or a secret is not to be had.
    """
    env = filled.environment()
    if spec.receipt:
        payload = encode.encode_wrapped(
            filled.argv,
            env,
            launch_name=launch_name,
            key=key,
            file=file_name(key),
            attempt=number,
            batch=around.batch,
            workdir=filled.workdir,
            driver_dir=str(around.workdir),
            shared=around.shared,
            outputs=filled.outputs,
            timeout=spec.timeout,
            home=None if around.home is None else str(around.home.path),
            token=around.token,
        )
    else:
        payload = encode.encode_exec(filled.argv, env, workdir=around.directory(filled.workdir))
    return LaunchRequest(
        name=launch_name,
        image=full_image(spec.image),
        resources=resources,
        cmd=payload.cmd,
        args=payload.args,
        env=payload.env,
        secrets=tuple(secret.read() for secret in filled.secrets),
    )


def request_for_job(job: JobRecord, around: LaunchContext) -> LaunchRequest:
    """What to send to launch the newest attempt of *job*, whose intent is recorded."""
    attempt = job.attempts[-1]
    return request_for(
        job.spec,
        job.filled,
        launch_name=attempt.launch_name,
        key=job.key,
        number=attempt.number,
        resources=attempt.resources,
        around=around,
    )


@attrs.frozen(kw_only=True)
class Found:
    """What was brought back about one attempt."""

    log: bytes | None = attrs.field(default=None, repr=False)  #: the job's own output; None where it could not be had
    began: Receipt | None = None
    ended: Receipt | None = None
    events: str = ""
    saved: Path | None = None  #: where the log was put
    trouble: PlatformError | None = None  #: why the log or the events could not be had
    gone: bool = False  #: True where the service itself said that it knows no such container

    @property
    def torn(self) -> bool:
        """True where a second try may find more: no log, or a log that begins and has no end."""
        return self.ended is None and (self.log is None or self.began is not None)

    def beside(self, earlier: Found | None) -> Found:
        """It, and of what an earlier try found that which is there no more."""
        if earlier is None:
            return self
        return attrs.evolve(
            self,
            log=self.log or earlier.log or self.log,
            began=self.began or earlier.began,
            ended=self.ended or earlier.ended,
            events=self.events or earlier.events,
        )

    def evidence(self, phase: Phase | None, *, watched: bool = True) -> Evidence:
        """All of it as evidence, beside the platform's final word."""
        return Evidence(
            phase=phase, receipt=self.ended, began=self.began, log=self.log or b"", events=self.events, watched=watched
        )


def bring(platform: Platform, job: JobRecord, *, phase: Phase | None, home: Home | None) -> Found:
    """Fetch what can be known of the newest attempt's end, and keep its log and events where there is a home.

    Args:
        platform: Where the attempt ran.
        job: The job; its newest attempt is meant.
        phase: The platform's word for it; None where it is absent or about to be stopped.
        home: The batch's home, where the job belongs to one.

    Raises:
        HomeError: The log cannot be written.
    """
    attempt = job.attempts[-1]
    log: bytes | None = None
    trouble: PlatformError | None = None
    began, ended = receipt_files(home, job.key, attempt.number)
    if attempt.id is not None:
        try:
            log, start, end = _read_log(platform.logs(attempt.id), attempt.launch_name)
            began, ended = began or start, ended or end
        except PlatformError as error:
            trouble = error
    events = ""
    if attempt.id is not None and (ended is None or ended.exit_code != 0) and phase is not Phase.COMPLETED:
        try:
            events = platform.events(attempt.id)
        except PlatformError as error:
            trouble = trouble or error
    saved = None
    if home is not None:
        saved = home.log(job.key, attempt.number)
        if log or not saved.exists():
            write_file(saved, log or b"")
        if events:
            write_file(home.events(job.key, attempt.number), events.encode())
    return Found(log=log, began=began, ended=ended, events=events, saved=saved, trouble=trouble)


@attrs.define
class Absence:
    """A container that should be there and was not seen."""

    since: float  #: in the clock's ticks
    watched: bool  #: False where nobody looked for longer than the platform remembers
    looks: int = 0  #: good ones, that did not show it

    def proven(self, now: float, settle: float) -> bool:
        """Whether that is enough to believe that it is gone."""
        return self.looks >= ABSENT_POLLS and now - self.since >= settle


def conclusion(
    job: JobRecord, found: Found, *, phase: Phase | None, watched: bool, stopped_for: Failure | None, at: datetime
) -> Ended | Cancelled:
    """How the newest attempt of *job* ended, by all the evidence; a success wins over the wish to cancel it."""
    verdict = classify(attrs.evolve(found.evidence(phase, watched=watched), stopped_for=stopped_for))
    receipt = found.ended or found.began
    if job.cancelling and not verdict.succeeded:
        return Cancelled(key=job.key, at=at, receipt=receipt, log=found.saved)
    return Ended(
        key=job.key, at=at, succeeded=verdict.succeeded, verified=verdict.verified, failure=verdict.failure,
        receipt=receipt, log=found.saved,
    )  # fmt: skip


def stuck(job: JobRecord, at: datetime) -> StuckPending | None:
    """Why a job has waited too long to begin, if it has."""
    launched, allowed = job.attempts[-1].launched_at, job.spec.pending_timeout
    if launched is None or allowed is None or (waited := (at - launched).total_seconds()) <= allowed:
        return None
    return StuckPending(message=f"it waited {waited:.0f} s to begin; {allowed:.0f} s were allowed")


def receipt_files(home: Home | None, key: str, number: int) -> tuple[Receipt | None, Receipt | None]:
    """The start and the end receipt that a container left in the home, as far as they are there."""
    if home is None:
        return None, None
    start, end = receipts.receipt_paths(str(home.path), file_name(key), number)
    return _read_receipt(Path(start)), _read_receipt(Path(end))


def is_gone(platform: Platform, id: str) -> bool:
    """True where the service itself says that it knows no container of this id."""
    try:
        platform.container(id)
    except JobNotFound:
        return True
    return False


def own_output(raw: bytes, launch_name: str) -> bytes:
    """A log without the wrapper's lines in it."""
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
        return None  # it bears our mark, and says what cannot be, as a time beyond all calendars
