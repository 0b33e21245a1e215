"""The verdict on an attempt that ended: from the evidence to success, or to the class of its failure.

`RULES` is the whole of it: the first rule that applies decides. `docs/explanation/verdicts.md` shows it as a table.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta

import attrs

from canfar_batch.engine.cluster_events import Events, Note
from canfar_batch.engine.log_reasons import DISK_FULL, NO_WRAPPER, telling_line
from canfar_batch.failures import (
    USED_MORE_MEMORY,
    ChildKilled,
    DeadlineExceeded,
    Deleted,
    DiskFull,
    Evicted,
    ExitCode,
    Failure,
    ImagePull,
    Interrupted,
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
from canfar_batch.text import gib

DEADLINE_MARGIN = timedelta(minutes=1)  #: an end this close to the container's expiry is the platform's deadline


@attrs.frozen(kw_only=True)
class Evidence:
    """Everything known about the end of one attempt. Only a final status or proven absence says *that* it ended."""

    phase: Phase | None  #: the platform's final status; None if the container is absent, or was stopped by us
    receipt: Receipt | None = None  #: the end receipt of the newest run
    began: Receipt | None = None  #: the start receipt of the newest run
    log: bytes | None = attrs.field(default=b"", repr=False)  #: the end of the job's output; None if not available
    events: Events = attrs.field(factory=Events)
    watched: bool = True  #: False if no one polled for longer than the platform remembers
    seen: bool = True  #: whether the container was ever seen
    replaced: bool = False  #: whether the platform that it ran on has ended (an embedded local one)
    ran: bool = False  #: whether the platform showed it running
    expects_receipt: bool = True  #: whether the command ran under the wrapper
    has_outputs: bool = False  #: whether the job declares outputs
    workdir: str | None = None  #: the directory that the job asked for
    stopped_for: Failure | None = None  #: why we stopped it, if we did
    cancelling: bool = False  #: whether the user wants it stopped, and the platform was asked to
    start_time: datetime | None = None  #: when its present run was admitted, as the platform last said
    expires_at: datetime | None = None  #: when the platform ends it, as it last said
    ended_at: datetime | None = None  #: when its end became known


@attrs.frozen(kw_only=True)
class Verdict:
    """How an attempt ended.

    Attributes:
        doubt: A failure that a success may hide, about which the retry policy is asked; None if there is none.
    """

    succeeded: bool
    verified: bool = False
    failure: Failure | None = None
    doubt: Failure | None = None


@attrs.frozen(kw_only=True)
class Rule:
    """One row of the table."""

    seen: str  #: what is seen
    outcome: str  #: the outcome, as the documentation names it
    certain: bool  #: whether the evidence leaves no other explanation
    applies: Callable[[Evidence], bool]
    conclude: Callable[[Evidence], Verdict]


def classify(evidence: Evidence) -> Verdict:
    """Return the verdict of the first rule that applies."""
    rule = rule_for(evidence)
    verdict = rule.conclude(evidence)
    by_receipt = evidence.receipt is not None and evidence.receipt.ended
    failure = verdict.failure and attrs.evolve(verdict.failure, inferred=not rule.certain)
    return attrs.evolve(verdict, verified=by_receipt, failure=failure)


def rule_for(evidence: Evidence) -> Rule:
    """Return the first rule that applies."""
    return next(rule for rule in RULES if rule.applies(evidence))


# -- what the evidence shows --------------------------------------------------------------------------------------


def _code(evidence: Evidence) -> int | None:
    return evidence.receipt.exit_code if evidence.receipt else None


def _reported(evidence: Evidence) -> bool:
    return _code(evidence) is not None


def _stopped(evidence: Evidence) -> bool:
    """Whether the command was asked to stop from outside: by its time-out, by us, or by the platform."""
    return evidence.receipt is not None and (evidence.receipt.timed_out or evidence.receipt.stopped_by is not None)


def _is_complete(evidence: Evidence) -> bool:
    """Whether the declared outputs prove that a command that was asked to stop had done its work."""
    receipt = evidence.receipt
    if _code(evidence) != 0 or not evidence.has_outputs or receipt is None:
        return False
    return not receipt.missing and not receipt.unchanged


def _finished(evidence: Evidence) -> datetime | None:
    """Return when its command ended, corrected if its clock is so far behind that it began before its pod."""
    receipt, start = evidence.receipt, evidence.start_time
    if receipt is None or receipt.finished_at is None:
        return None
    behind = start - receipt.started_at if start is not None and receipt.started_at is not None else timedelta()
    return receipt.finished_at + max(timedelta(), behind)


def _at_deadline(evidence: Evidence) -> bool:
    known = [at for at in (_finished(evidence), evidence.ended_at) if at is not None]  # its clock may be ahead
    return evidence.expires_at is not None and bool(known) and min(known) >= evidence.expires_at - DEADLINE_MARGIN


def _was_deleted(evidence: Evidence) -> bool:
    """Whether the platform forgot the container before its time: someone else deleted it."""
    is_absent = evidence.phase is None and evidence.stopped_for is None and not evidence.replaced
    return is_absent and evidence.watched and evidence.seen


def _is_silent(evidence: Evidence) -> bool:
    """Whether nothing at all of its output is there."""
    return not evidence.log and evidence.began is None


def _pod_is_gone(evidence: Evidence) -> bool:
    """Whether the pod was removed: a container that ended by itself keeps its pod, its log and its events."""
    return evidence.events.pod is False and _is_silent(evidence)


def _was_removed(evidence: Evidence) -> bool:
    """Whether the pod was removed before it could report, though a start receipt or an earlier log may be there."""
    return evidence.events.pod is False


#: Reasons of the cluster's events that mean that something else ended the container (real-service.md; Kubernetes).
_TAKEN = ("Evicted", "Preempted", "Preempting", "TaintManagerEviction", "NodeShutdown", "Terminated", "Killing")
#: Those that name what ended it: `Killing` is noted for any stop from outside.
_NAMED_ENDS = tuple(reason for reason in _TAKEN if reason != "Killing")
#: Reasons with which a node refuses a pod that was assigned to it.
_NODE_REFUSED = (
    "UnexpectedAdmissionError",
    "OutOfcpu",
    "OutOfmemory",
    "OutOfpods",
    "OutOfephemeral-storage",
    "NodeAffinity",
    "Shutdown",
)  # fmt: skip; NodeNotReady is not among them: it stays when the node is well again
#: Texts of the kubelet for a job that exceeded *its own* limit on disk.
_OWN_DISK_LIMIT = re.compile(r"exceeds the limit|exceeds the total limit|exceeded its local ephemeral storage limit")
_OWN_MEMORY = re.compile(r"was using \S+, (?:which exceeds its )?request (?:is|of) \S+")
_NOT_STARTED = re.compile(r"executable file not found|exec: |exec format error|OCI runtime|no such file or directory")
_PULL_REASONS = ("Failed", "BackOff", "InspectFailed", "ErrImageNeverPull")
_PULLED = ("Pulled", "Started")
_PULL = re.compile(r"ErrImagePull|ImagePullBackOff|InvalidImageName|Failed to pull image|ErrImageNeverPull")


def _own_disk_limit(events: Events) -> Note | None:
    taken = (note for note in events.notes if note.reason in _TAKEN)
    return next((note for note in taken if _OWN_DISK_LIMIT.search(note.message)), None)


def _not_started(events: Events) -> Note | None:
    """Return the note that says that the command could not be started, or None."""
    failed = (note for note in events.notes if note.reason in ("Failed", "FailedStart", "StartError"))
    return next((note for note in failed if _NOT_STARTED.search(note.message)), None)


def _says_not_pulled(note: Note) -> bool:
    return note.reason in _PULL_REASONS and _PULL.search(note.message) is not None


def explains_no_start(events: Events) -> bool:
    """Return whether the cluster's events say why a container that failed never began."""
    return bool(_not_started(events) or _not_pulled(events))


def names_an_end(events: Events) -> bool:
    """Return whether the cluster's events name what ended a container, or that a node refused it."""
    return events.with_reason((*_NAMED_ENDS, *_NODE_REFUSED)) is not None


def _not_pulled(events: Events) -> Note | None:
    """Return the note that best says why an image cannot be fetched; None if none says so, or it was fetched later.

    What is pulled for the container's own preparation says nothing about the user's image: only a note that is newer
    than the last failure clears it.
    """
    trouble: Note | None = None
    for note in events.by_time:
        if _says_not_pulled(note):
            trouble = note if trouble is None or len(note.message) >= len(trouble.message) else trouble
        elif note.reason in _PULLED:
            trouble = None
    return trouble


# -- conclusions --------------------------------------------------------------------------------------------------


def _fails(failure: Callable[[Evidence], Failure]) -> Callable[[Evidence], Verdict]:
    return lambda evidence: Verdict(succeeded=False, failure=failure(evidence))


def _succeeds(evidence: Evidence) -> Verdict:
    return Verdict(succeeded=True)


def _succeeds_in_doubt(evidence: Evidence) -> Verdict:
    count = evidence.receipt.oom_kills if evidence.receipt else 0
    doubt = ChildKilled(
        message=f"{count} of its processes were killed for lack of memory, and the command ended with 0"
    )
    return Verdict(succeeded=True, doubt=doubt)


def _cancelled(evidence: Evidence) -> Verdict:
    return Verdict(succeeded=False)


def _start_error_in_workdir(evidence: Evidence) -> Failure:
    named = f" {evidence.workdir}" if evidence.workdir else ""
    return StartError(message=f"its working directory{named} could not be entered in the container")


def _timed_out(evidence: Evidence) -> Failure:
    code = _code(evidence)
    ended = f"; the command ended with {code}" if code not in (None, 143, 137) else ""
    return TimedOut(message=f"it ran longer than its timeout and was stopped{ended}")


def _stopped_for(evidence: Evidence) -> Failure:
    assert evidence.stopped_for is not None
    return evidence.stopped_for


def _deadline(evidence: Evidence) -> Failure:
    when = f"{evidence.expires_at:%Y-%m-%d %H:%M} UTC" if evidence.expires_at else "its deadline"
    message = f"the platform ends a container at its deadline, {when}: renew() it in time, or make the job shorter"
    return DeadlineExceeded(message=message)


def _deleted(evidence: Evidence) -> Failure:
    return Deleted(message="deleted by somebody else (portal, another client)")


def _own_disk(evidence: Evidence) -> Failure:
    return DiskFull(message=str(_own_disk_limit(evidence.events) or ""))


def _taken(evidence: Evidence) -> Failure:
    note = evidence.events.with_reason((*_NAMED_ENDS, *_NODE_REFUSED))
    if note is not None:
        more = f"; {USED_MORE_MEMORY}" if _OWN_MEMORY.search(note.message) else ""
        return Evicted(message=f"{note}{more}")
    signal = evidence.receipt.stopped_by if evidence.receipt else None
    if signal is not None:
        return Evicted(message=f"the container was asked to stop ({signal}) from outside")
    return Evicted(message="the container was stopped from outside")


def _pod_removed(evidence: Evidence) -> Failure:
    return Evicted(message="the pod was removed (drained, pre-empted, or its node was lost)")


def _platform_ended(evidence: Evidence) -> Failure:
    return Interrupted(message="the local platform ended with its session, and the job with it")


def _missing_output(evidence: Evidence) -> Failure:
    missing = evidence.receipt.missing if evidence.receipt else ()
    message = "the command ended with 0, but these outputs are not there: " + ", ".join(missing)
    return MissingOutput(message=message, missing=missing)


def _out_of_memory(evidence: Evidence) -> Failure:
    peak = evidence.receipt.peak_ram if evidence.receipt else None
    shown = f", its peak was {gib(peak)}" if peak else ""
    return OutOfMemory(message=f"the kernel killed a process for lack of memory{shown}")


def _disk_full(evidence: Evidence) -> Failure:
    return DiskFull(message=telling_line(evidence.log or b""))


def _exit_code(evidence: Evidence) -> Failure:
    code = _code(evidence)
    assert code is not None
    return ExitCode(code, message=telling_line(evidence.log or b"") or _MEANING.get(code, ""))


def _not_started_failure(evidence: Evidence) -> Failure:
    note = _not_started(evidence.events)
    return StartError(message=note.message if note else "")


def _not_pulled_failure(evidence: Evidence) -> Failure:
    note = _not_pulled(evidence.events)
    return ImagePull(message=note.message if note else "")


def _no_wrapper(evidence: Evidence) -> Failure:
    return StartError(message=telling_line(evidence.log or b""))


def _killed(evidence: Evidence) -> Failure:
    message = "it began and was killed before it could report; memory beyond what was asked is the likely cause"
    return Killed(message=message)


def _unknown(evidence: Evidence) -> Failure:
    log = "the log was not available" if evidence.log is None else "there is no log"
    return Unknown(message=telling_line(evidence.log or b"") or f"the platform gives no reason, and {log}")


def _lost(evidence: Evidence) -> Failure:
    return Lost(message="the platform never showed the job, and nothing says how it ended")


def _unwatched(evidence: Evidence) -> Failure:
    message = "it ended, or was removed, while no driver was running, and left no receipt"
    return Unwatched(message=message)


#: what an exit code commonly means (POSIX shells: 126, 127, 128 + n for signal n)
_MEANING = {
    126: "the command was found but may not be executed",
    127: "command not found: is the program in the image, and in its PATH?",
    134: "the program aborted (SIGABRT)",
    136: "arithmetic error (SIGFPE)",
    137: "killed (SIGKILL), often for lack of memory",
    139: "the program crashed (SIGSEGV)",
    143: "asked to stop (SIGTERM)",
}

# -- the table ----------------------------------------------------------------------------------------------------

RULES: tuple[Rule, ...] = (
    # with the end receipt of the newest run
    Rule(
        seen="an end receipt: the working directory could not be entered",
        outcome="StartError",
        certain=True,
        applies=lambda it: it.receipt is not None and it.receipt.trouble == "workdir",
        conclude=_fails(_start_error_in_workdir),
    ),
    Rule(
        seen="an end receipt: stopped by SIGTERM, code 0, and every declared output is there and was written",
        outcome="success, with a warning",
        certain=False,
        applies=lambda it: _stopped(it) and _is_complete(it),
        conclude=_succeeds,
    ),
    Rule(
        seen="an end receipt: stopped by its time-out, whatever the code",
        outcome="TimedOut",
        certain=True,
        applies=lambda it: it.receipt is not None and it.receipt.timed_out,
        conclude=_fails(_timed_out),
    ),
    Rule(
        seen="an end receipt: stopped by SIGTERM, and the user cancelled the job",
        outcome="cancelled",
        certain=True,
        applies=lambda it: _stopped(it) and it.cancelling,
        conclude=_cancelled,
    ),
    Rule(
        seen="an end receipt: stopped by SIGTERM, and we stopped it for a reason",
        outcome="that reason",
        certain=True,
        applies=lambda it: _stopped(it) and it.stopped_for is not None,
        conclude=_fails(_stopped_for),
    ),
    Rule(
        seen="an end receipt: stopped by SIGTERM, because the embedded local platform that it ran on has ended",
        outcome="Interrupted",
        certain=True,
        applies=lambda it: _stopped(it) and it.phase is None and it.replaced,
        conclude=_fails(_platform_ended),
    ),
    Rule(
        seen="an end receipt: stopped by SIGTERM, within a minute of the container's expiry time",
        outcome="DeadlineExceeded",
        certain=False,
        applies=lambda it: _stopped(it) and _at_deadline(it),
        conclude=_fails(_deadline),
    ),
    Rule(
        seen="an end receipt: stopped by SIGTERM, and the platform forgot the container before its time",
        outcome="Deleted",
        certain=False,
        applies=lambda it: _stopped(it) and _was_deleted(it),
        conclude=_fails(_deleted),
    ),
    Rule(
        seen="an end receipt: stopped by SIGTERM, and an event says that the job exceeded its own limit on disk",
        outcome="DiskFull",
        certain=True,
        applies=lambda it: _stopped(it) and _own_disk_limit(it.events) is not None,
        conclude=_fails(_own_disk),
    ),
    Rule(
        seen="an end receipt: stopped by SIGTERM, and an event says what ended the pod",
        outcome="Evicted",
        certain=True,
        applies=lambda it: _stopped(it) and it.events.with_reason(_NAMED_ENDS) is not None,
        conclude=_fails(_taken),
    ),
    Rule(
        seen="an end receipt: stopped by SIGTERM from outside, whatever the code",
        outcome="Evicted",
        certain=False,
        applies=_stopped,
        conclude=_fails(_taken),
    ),
    Rule(
        seen="an end receipt: code 0, a declared output is missing",
        outcome="MissingOutput",
        certain=True,
        applies=lambda it: _code(it) == 0 and it.receipt is not None and bool(it.receipt.missing),
        conclude=_fails(_missing_output),
    ),
    Rule(
        seen="an end receipt: code 0, a process was killed for lack of memory",
        outcome="success, with a warning; ChildKilled if the retry policy is asked to act on it",
        certain=True,
        applies=lambda it: _code(it) == 0 and it.receipt is not None and bool(it.receipt.oom_kills),
        conclude=_succeeds_in_doubt,
    ),
    Rule(
        seen="an end receipt: code 0",
        outcome="success",
        certain=True,
        applies=lambda it: _code(it) == 0,
        conclude=_succeeds,
    ),
    Rule(
        seen="an end receipt: another code, a process was killed for lack of memory",
        outcome="OutOfMemory",
        certain=True,
        applies=lambda it: _reported(it) and it.receipt is not None and bool(it.receipt.oom_kills),
        conclude=_fails(_out_of_memory),
    ),
    Rule(
        seen="an end receipt: another code, the log names a full disk",
        outcome="DiskFull",
        certain=False,
        applies=lambda it: _reported(it) and DISK_FULL.search(it.log or b"") is not None,
        conclude=_fails(_disk_full),
    ),
    Rule(
        seen="an end receipt: another code",
        outcome="ExitCode",
        certain=True,
        applies=_reported,
        conclude=_fails(_exit_code),
    ),
    # without one
    Rule(
        seen="no end receipt, and we stopped it for a reason",
        outcome="that reason",
        certain=True,
        applies=lambda it: it.stopped_for is not None and it.phase is not Phase.COMPLETED,
        conclude=_fails(_stopped_for),
    ),
    Rule(
        seen="no end receipt, and the user cancelled the job",
        outcome="cancelled",
        certain=True,
        applies=lambda it: it.cancelling,
        conclude=_cancelled,
    ),
    Rule(
        seen="`Completed`, no end receipt, and the pod is gone, or an event says `Killing`",
        outcome="Evicted",
        certain=False,
        applies=lambda it: (
            it.phase is Phase.COMPLETED and (_was_removed(it) or it.events.with_reason(["Killing"]) is not None)
        ),
        conclude=_fails(lambda it: _pod_removed(it) if _was_removed(it) else _taken(it)),
    ),
    Rule(
        seen="`Completed`, no receipt",
        outcome="success, unverified",
        certain=False,
        applies=lambda it: it.phase is Phase.COMPLETED,
        conclude=_succeeds,
    ),
    Rule(
        seen="no receipt, ended within a minute of the container's expiry time",
        outcome="DeadlineExceeded",
        certain=False,
        applies=_at_deadline,
        conclude=_fails(_deadline),
    ),
    Rule(
        seen="the container is absent, because the embedded local platform that it ran on has ended",
        outcome="Interrupted",
        certain=True,
        applies=lambda it: it.phase is None and it.replaced,
        conclude=_fails(_platform_ended),
    ),
    Rule(
        seen="the container is absent, though the platform should still remember it",
        outcome="Deleted",
        certain=False,
        applies=_was_deleted,
        conclude=_fails(_deleted),
    ),
    Rule(
        seen="the container is absent, and no one polled for longer than the platform remembers",
        outcome="Unwatched",
        certain=False,
        applies=lambda it: it.phase is None and not it.watched,
        conclude=_fails(_unwatched),
    ),
    Rule(
        seen="the container is absent, and was never seen",
        outcome="Lost",
        certain=False,
        applies=lambda it: it.phase is None,
        conclude=_fails(_lost),
    ),
    Rule(
        seen="`Failed`, an event says that the job exceeded its own limit on disk",
        outcome="DiskFull",
        certain=True,
        applies=lambda it: _own_disk_limit(it.events) is not None,
        conclude=_fails(_own_disk),
    ),
    Rule(
        seen="`Failed`, an event says that something else ended the pod, or that a node refused it",
        outcome="Evicted",
        certain=True,
        applies=lambda it: it.events.with_reason((*_TAKEN, *_NODE_REFUSED)) is not None,
        conclude=_fails(_taken),
    ),
    Rule(
        seen="`Failed`, no output, an event says that the command could not be started",
        outcome="StartError",
        certain=True,
        applies=lambda it: _is_silent(it) and _not_started(it.events) is not None,
        conclude=_fails(_not_started_failure),
    ),
    Rule(
        seen="`Failed`, no output, an event says that the image could not be fetched",
        outcome="ImagePull",
        certain=True,
        applies=lambda it: _is_silent(it) and _not_pulled(it.events) is not None,
        conclude=_fails(_not_pulled_failure),
    ),
    Rule(
        seen="`Failed`, no pod, and not one byte of output",
        outcome="Evicted",
        certain=False,
        applies=_pod_is_gone,
        conclude=_fails(_pod_removed),
    ),
    Rule(
        seen="`Failed`, no start receipt, the log says that the image lacks what the wrapper needs",
        outcome="StartError",
        certain=False,
        applies=lambda it: it.began is None and NO_WRAPPER.search(it.log or b"") is not None,
        conclude=_fails(_no_wrapper),
    ),
    Rule(
        seen="`Failed`, a start receipt but no end receipt, and the pod was removed",
        outcome="Evicted",
        certain=False,
        applies=_was_removed,
        conclude=_fails(_pod_removed),
    ),
    Rule(
        seen="`Failed`, it had begun, no end receipt",
        outcome="Killed",
        certain=False,
        applies=lambda it: it.expects_receipt and (it.began is not None or (it.ran and bool(it.log))),
        conclude=_fails(_killed),
    ),
    Rule(
        seen="`Failed`, and nothing says why",
        outcome="Unknown",
        certain=False,
        applies=lambda it: True,
        conclude=_fails(_unknown),
    ),
)


def image_trouble(events: Events) -> ImagePull | None:
    """Return the failure of a pending container whose image cannot be fetched, or None."""
    trouble = _not_pulled(events)
    return None if trouble is None else ImagePull(message=trouble.message)
