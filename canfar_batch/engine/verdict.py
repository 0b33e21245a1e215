"""The verdict on an attempt that ended: from the evidence to success or the class of its failure."""

from __future__ import annotations

import re

import attrs

from canfar_batch.failures import (
    DeadlineExceeded,
    DiskFull,
    Evicted,
    ExitCode,
    Failure,
    ImagePull,
    Killed,
    Lost,
    MissingOutput,
    OutOfMemory,
    StartError,
    TimedOut,
    Unknown,
    Unwatched,
)
from canfar_batch.records import Phase, Receipt
from canfar_batch.text import printable, without_escapes


@attrs.frozen(kw_only=True)
class Evidence:
    """Everything known about the end of one attempt. Only a final phase or proven absence says *that* it ended."""

    phase: Phase | None  #: the platform's final word; None where the container is proven absent
    receipt: Receipt | None = None  #: the end receipt, from a file or the log
    began: Receipt | None = None  #: the start receipt, likewise
    log: bytes = attrs.field(default=b"", repr=False)  #: the job's own output
    events: str = ""
    watched: bool = True  #: False where nobody looked for longer than the platform remembers
    stopped_for: Failure | None = None  #: why we stopped it, where we did


@attrs.frozen(kw_only=True)
class Verdict:
    """How an attempt ended."""

    succeeded: bool
    verified: bool = False
    failure: Failure | None = None


def classify(evidence: Evidence) -> Verdict:
    """The verdict by the evidence ladder: receipt, then the platform's word, then absence."""
    if evidence.receipt is not None and evidence.receipt.exit_code is not None:
        return _by_receipt(evidence.receipt, evidence.receipt.exit_code, evidence)
    if evidence.phase is Phase.COMPLETED:
        return Verdict(succeeded=True)
    if evidence.stopped_for is not None:
        return Verdict(succeeded=False, failure=evidence.stopped_for)
    if evidence.phase is Phase.FAILED:
        return Verdict(succeeded=False, failure=_without_receipt(evidence))
    return Verdict(succeeded=False, failure=_absent(evidence))


def _by_receipt(receipt: Receipt, code: int, evidence: Evidence) -> Verdict:
    words = telling_line(evidence.log)
    if receipt.trouble == "workdir":
        message = "its working directory could not be entered in the container"
        return Verdict(succeeded=False, verified=True, failure=StartError(message=message))
    if code == 0 and receipt.missing:
        message = "the command ended with 0, but these outputs are not there: " + ", ".join(receipt.missing)
        return Verdict(succeeded=False, verified=True, failure=MissingOutput(message=message, missing=receipt.missing))
    if code == 0:
        return Verdict(succeeded=True, verified=True)
    failure: Failure = ExitCode(code, message=words or _MEANING.get(code, ""))
    if receipt.timed_out:
        failure = TimedOut(message="it ran longer than its timeout and was stopped")
    elif receipt.oom_kills:
        peak = f", its peak was {receipt.peak_ram:.1f} GiB" if receipt.peak_ram else ""
        failure = OutOfMemory(message=f"the kernel killed a process for want of memory{peak}")
    elif receipt.stopped_by is not None and evidence.stopped_for is not None:
        failure = evidence.stopped_for
    elif receipt.stopped_by is not None:
        failure = _taken_away(evidence, f"the container was told to stop ({receipt.stopped_by}) by the platform")
    elif _DISK_FULL.search(evidence.log[-_TAIL:]):
        failure = DiskFull(message=words, inferred=True)
    return Verdict(succeeded=False, verified=True, failure=failure)


def _without_receipt(evidence: Evidence) -> Failure:
    """A final `Failed` that no end receipt explains."""
    events, words = evidence.events, telling_line(evidence.log)
    began = evidence.began is not None
    if not began and not evidence.log and _NOT_STARTED.search(events):
        return StartError(message=_line_with(_NOT_STARTED, events), inferred=True)
    if not began and not evidence.log and _PULL.search(events):
        return ImagePull(message=_line_with(_PULL, events), inferred=True)
    if _TAKEN.search(events) or _EPHEMERAL.search(events) or _DEADLINE.search(events):
        return _taken_away(evidence, "the platform took the container away")
    if not began and _NO_WRAPPER.search(evidence.log[-_TAIL:]):
        return StartError(message=words, inferred=True)
    if began:
        message = "it began and was killed before it could report; memory beyond what was asked is the likely cause"
        return Killed(message=message, inferred=True)
    return Unknown(message=words or "the platform gives no reason, and there is no log", inferred=True)


def _taken_away(evidence: Evidence, message: str) -> Failure:
    if _EPHEMERAL.search(evidence.events):
        return DiskFull(message=_line_with(_EPHEMERAL, evidence.events), inferred=True)
    if _DEADLINE.search(evidence.events):
        return DeadlineExceeded(message=_line_with(_DEADLINE, evidence.events), inferred=True)
    return Evicted(message=_line_with(_TAKEN, evidence.events) or message, inferred=True)


def _absent(evidence: Evidence) -> Failure:
    if evidence.watched:
        return Lost(message="the platform stopped knowing the job, and nothing says how it ended", inferred=True)
    message = "it was gone when the watch was taken up again: it ended unseen, or was removed, and left no receipt"
    return Unwatched(message=message, inferred=True)


_TAIL = 65536  # bytes of a log in which signs are looked for: enough for any traceback, never the whole of 10 MB
_DISK_FULL = re.compile(rb"No space left on device|Disk quota exceeded", re.IGNORECASE)
_NO_WRAPPER = re.compile(rb"base64: (not found|command not found|inaccessible)|/bin/sh: .*not found", re.IGNORECASE)
_NOT_STARTED = re.compile(r"executable file not found|exec: |exec format error|OCI runtime|StartError", re.IGNORECASE)
_PULL = re.compile(r"ErrImagePull|ImagePullBackOff|InvalidImageName|Failed to pull image", re.IGNORECASE)
_PULLED = re.compile(r"Successfully pulled|already present on machine|Started container", re.IGNORECASE)
_TAKEN = re.compile(r"Evicted|Preempt|NodeLost|NodeNotReady|TaintManagerEviction|NodeShutdown", re.IGNORECASE)
_EPHEMERAL = re.compile(r"ephemeral.storage|DiskPressure", re.IGNORECASE)
_DEADLINE = re.compile(r"DeadlineExceeded", re.IGNORECASE)

#: what an exit code commonly means (POSIX shells: 126, 127, 128 + n for signal n)
_MEANING = {
    126: "the command was found but may not be executed",
    127: "command not found: is the program in the image, and in its PATH?",
    134: "the program aborted (SIGABRT)",
    136: "arithmetic error (SIGFPE)",
    137: "killed (SIGKILL), often for want of memory",
    139: "the program crashed (SIGSEGV)",
    143: "told to stop (SIGTERM)",
}

#: lines that state why a program ended, the most telling kind first
_REASONS: tuple[re.Pattern[str], ...] = (
    re.compile(
        r"""
        ^(?:\[[^\]]{1,40}\]:?\s*)?                                            # "[rank0]: " of a launcher
        (?!SystemExit\b)
        (?:[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit)(?::|\Z)          # end of a Python traceback
        |what\(\):                                                            # of a C++ exception
        |panic: | thread\ .*\ panicked                                         # Go, Rust
        |Exception\ in\ thread | Caused\ by:)                                  # Java
        |\b(?:FATAL|CRITICAL|PANIC)\b
        |^fatal(?:\ error)?:
        """,
        re.VERBOSE,
    ),
    re.compile(
        r"\b(?:ERROR|SEVERE)\b|\b[Ee]rror(?: in [^:]{1,80})?\s?:|command not found|: not found"
        r"|No such file or directory|Permission denied|[Ee]xec format error|No space left on device|Disk quota exceeded"
    ),
    re.compile(r"Segmentation fault|core dumped|Bus error|Illegal instruction|^Killed\b|\bAborted\b"),
    re.compile(r"(?:Error|Exception)\b|error|fatal|cannot|not found|denied|No such|failed|Killed", re.IGNORECASE),
)
#: words that name an error and report none: counts of 0, and errors of measurement
_NO_ERROR = re.compile(
    r"\b(?:0|no|zero|without(?: any)?) (?:fatal )?(?:errors?|failures?|failed)\b"
    r"|\b(?:errors?|failures?|failed)\s*[:=]\s*0\b"
    r"|\b(?:rms|std|standard|mean|median|relative|absolute|systematic|photometric|astrometric|fit|fitting) errors?\b"
    r"|\berrors?\s*=\s*[-+]?[\d.]+",
    re.IGNORECASE,
)


def telling_line(log: bytes) -> str:
    """Return the line of a log that best explains a failure, as at most 300 characters; the last line if none does.

    A line that states a reason (the end of a traceback, `what():`, FATAL) wins over one that mentions an error, and of
    lines of one kind the last one wins.
    """
    text = without_escapes(log[-_TAIL:].decode(errors="replace"))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    candidates = [(line, _NO_ERROR.sub("", line)) for line in reversed(lines)]
    for reason in _REASONS:
        for line, checked in candidates:
            if reason.search(checked):
                return printable(line)[:300]
    return printable(lines[-1])[:300] if lines else ""


def image_trouble(events: str) -> ImagePull | None:
    """The failure that *events* of a pending container speak of, where its image cannot be fetched."""
    if _PULLED.search(events) or not _PULL.search(events):
        return None  # a registry that failed once may have served since
    return ImagePull(message=_line_with(_PULL, events), inferred=True)


def _line_with(pattern: re.Pattern[str], text: str) -> str:
    """The first line of *text* in which *pattern* occurs, its columns folded."""
    line = next((line for line in text.splitlines() if pattern.search(line)), "")
    return re.sub(r"\s{2,}", "  ", line).strip()[:300]
