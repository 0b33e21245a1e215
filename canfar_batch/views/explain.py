"""Explanations of jobs and batches: what happened, why, and what to do about it."""

from __future__ import annotations

import platform as machine
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

from canfar_batch import failures
from canfar_batch._version import __version__
from canfar_batch.failures import Failure
from canfar_batch.records import GIVEN_UP, JobRecord, JobState
from canfar_batch.spec import full_image, shown_value
from canfar_batch.text import count, gib, printable, printable_lines
from canfar_batch.views.attempt_times import Times
from canfar_batch.views.format import asked_for, duration, memory, timestamp
from canfar_batch.views.masking import secret_values, without_secrets
from canfar_batch.views.terminal import clip

_MESSAGE_WIDTH = 120  # columns of a message in the explanation of a batch
_CAUSES = 6  # causes that the explanation of a batch lists
SUPPORT_LINES = 30  #: lines of a log in a support report

_ADVICE: Mapping[type[Failure], str] = {
    failures.Raised: "The traceback is in job.failure.message; a fixed function is a new one, so its calls run again.",
    failures.NotBegun: "Nothing to do: it is launched again, whatever the retry policy.",
    failures.OutOfMemory: "Ask for more memory (ram=), or let Retry(grow_ram=2) do it.",
    failures.Killed: "Ask for more memory (ram=); if it happens again with plenty, look at the log's last lines.",
    failures.TimedOut: "Give it a longer timeout=, or look in its log for what it was doing.",
    failures.StartError: "Check that the image has /bin/sh, base64 and the program, and that workdir exists.",
    failures.ImagePull: "Check its name and tag with session.images(); a private image needs a registry credential.",
    failures.StuckPending: "Ask for fewer cores or less memory, or try later; session.stats() shows the free ones.",
    failures.Evicted: "Nothing is wrong with the job: launch it again.",
    failures.Interrupted: "Run the batch again: it is launched again.",
    failures.DiskFull: "Write to /arc, not to the container's own disk; remove temporary files; check your quota.",
    failures.DeadlineExceeded: "Its 14 days were over: call renew() in time, split the work, or write checkpoints.",
    failures.ChildKilled: "Ask for more ram, or let fewer processes work at a time; its outputs may be incomplete.",
    failures.Deleted: "If that was not on purpose, retry_failed() launches it again.",
    failures.Lost: "Look for the job's outputs; launch it again if they are not there.",
    failures.Unwatched: "Look for the job's outputs; batch.retry_failed() launches it again if they are not there.",
    failures.MissingOutput: "Check the path that the command writes to; relative paths start at workdir=.",
    failures.LaunchRefused: "Fix what the platform's answer names, then launch again. preflight() checks images.",
    failures.Unknown: "Look at the log and the events; support_report() has what support@canfar.net will ask for.",
}

_CODES: Mapping[int, str] = {
    2: "Exit code 2 often means a wrong option or argument: compare the command with the program's --help.",
    126: "The file was found but may not be executed: chmod +x it, or call its interpreter.",
    127: "No such command in the container: check the program's name, the image, and its PATH.",
    137: "Something killed it (SIGKILL), most often because memory ran out: ask for more (ram=).",
    139: "The program crashed (segmentation fault): try it on a smaller input, or with another version.",
    143: "It was stopped from outside (SIGTERM).",
}

#: names for the exit codes by which a shell reports on the command itself
_COMMANDS: Mapping[int, str] = {126: "command not executable", 127: "command not found"}

_SIGNS: tuple[tuple[str, str], ...] = (
    (
        "No such file or directory",
        "A file was not found: check its path as the container sees it (/arc/..., workdir=).",
    ),
    ("FileNotFoundError", "A file was not found: check its path as the container sees it (/arc/..., workdir=)."),
    ("Permission denied", "It may not read or write there: check the folder's group and permissions."),
    ("ModuleNotFoundError", "A Python module is missing in this image: choose another image, or install it."),
    ("MemoryError", "Python ran out of memory: ask for more (ram=)."),
    ("No space left on device", "A disk is full: write to /arc, and remove temporary files."),
)

_WINDOWS = "The script has Windows line ends (CRLF): convert them, for example with: sed -i 's/\\r$//' FILE"
#: why a shell could not run a command, by the words of its message; the first that matches
_SHELL_SIGNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\\r|\^M"), f"{_WINDOWS}."),
    (
        re.compile(r"(?:^|[\s:])(?:source|\[\[|pushd|popd|shopt|declare|typeset): .*not found"),
        'Only bash knows this word, /bin/sh does not: run ["bash", "-c", ...], or write ". FILE" for "source FILE".',
    ),
    (
        re.compile(r"(?:^|[\s:])(?:module|conda|mamba|workon): .*not found"),
        "A login shell defines this command, and jobs have none: call the program by its path, or use bash -lc.",
    ),
    (
        re.compile(r"[Ee]xec format error"),
        "It is not a program for this machine, or a script without a first line such as #!/bin/sh.",
    ),
    (re.compile(r"[Ii]s a directory"), "This is a directory: name the program in it."),
    (
        re.compile(r"/[^\s:/'\"]+['\"\u2019]?: (?:No such file|(?:command )?not found|cannot execute)"),
        "The file is not there, or the interpreter in its first line (#!) is not: check the path as the container sees "
        f"it (workdir=) and that line. {_WINDOWS.replace('The script has', 'Scripts may also have')}.",
    ),
)


def advice(failure: Failure) -> str:
    """Return what to do about *failure*, in a sentence or two; empty if there is no advice."""
    if isinstance(failure, failures.ExitCode):
        known = _SHELL_SIGNS if failure.code in _COMMANDS else ()
        found = next((tip for sign, tip in known if sign.search(failure.message)), "")
        if not found and failure.code not in _COMMANDS:
            found = next((tip for sign, tip in _SIGNS if sign in failure.message), "")
        fallback = "" if failure.message else "Look at what it printed: job.logs()."
        return found or _ADVICE.get(type(failure)) or _CODES.get(failure.code, fallback)
    if isinstance(failure, failures.Evicted) and failures.USED_MORE_MEMORY in failure.message:
        return "Ask for as much memory as it uses (ram=): a node that runs short evicts such jobs first."
    return _ADVICE.get(type(failure), "")


def is_out_of_memory(failure: Failure | None) -> bool:
    """Return whether memory ran out, as a receipt reports or as is likely (`Failure.inferred`)."""
    return isinstance(failure, (failures.OutOfMemory, failures.Killed))


def is_supposition(failure: Failure | None) -> bool:
    """Return whether the cause was concluded from logs, events or silence, and names something that may be wrong."""
    names_nothing = (failures.Lost, failures.Unwatched, failures.Unknown)
    return failure is not None and failure.inferred and not isinstance(failure, names_nothing)


def explain_job(job: JobRecord, events: str = "", now: datetime | None = None) -> str:
    """Return one paragraph: what happened to *job*, and what to do."""
    parts = (_story(job, now), _lost_runs(job), _why(job), _warnings(job), _from_events(job, events), _tip(job))
    text = " ".join(filter(None, parts))
    return printable(without_secrets(text, secret_values([job])))


_SUSPENDED = "was stopped by the platform to make room, and will start again from the beginning."


def _story(job: JobRecord, now: datetime | None) -> str:
    attempt = job.last_attempt
    nth = f" (attempt {attempt.number})" if attempt is not None and attempt.number > 1 else ""
    since = ""
    if now is not None and attempt is not None and attempt.launched_at is not None:
        times = Times.of(attempt, now)
        since = f" for {duration(times.waited if times.ran is None else times.ran)}"
    suspended = attempt is not None and attempt.is_suspended
    began = "" if attempt is None or attempt.started_at is None else " again"
    waiting = "it has begun before, and does not run now" if began else "it has not begun to run"
    texts: Mapping[JobState, Callable[[], str]] = {
        JobState.PLANNED: lambda: "has not been launched yet.",
        JobState.LAUNCHING: lambda: "was sent to the platform, which has not answered yet.",
        JobState.PENDING: lambda: (
            _SUSPENDED if suspended else f"waits on the platform{'' if began else since}; {waiting}."
        ),
        JobState.RUNNING: lambda: f"has been running{since}.",
        JobState.WAITING: lambda: "failed and will be launched again.",
        JobState.SUCCEEDED: lambda: f"succeeded{_took(job)}{_unverified(job)}.",
        JobState.FAILED: lambda: f"failed{_took(job)}.",
        JobState.LOST: lambda: "is lost: nothing shows how it ended.",
        JobState.CANCELLED: lambda: "was cancelled.",
    }
    return f"Job {job.key}{nth} {texts[job.state]()}"


def _lost_runs(job: JobRecord) -> str:
    attempt = job.last_attempt
    if attempt is None or not attempt.restarts:
        return ""
    runs, logs = (
        ("An earlier run", "its log is gone")
        if attempt.restarts == 1
        else (f"{attempt.restarts} earlier runs", "their logs are gone")
    )
    return f"{runs} under the same id took {duration(attempt.lost_seconds)}, and {logs}: the platform made room."


def _took(job: JobRecord) -> str:
    attempt = job.last_attempt
    if attempt is None or attempt.started_at is None or attempt.finished_at is None:
        return ""
    ran = Times.of(attempt, attempt.finished_at).ran
    return "" if ran is None else f" after {duration(ran)}"


def _unverified(job: JobRecord) -> str:
    is_verified = job.last_attempt is None or job.last_attempt.verified
    return "" if is_verified else " according to the platform; no receipt confirms it"


def _warnings(job: JobRecord) -> str:
    warnings = job.last_attempt.warnings if job.last_attempt else ()
    return " ".join(f"Warning: {warning}." for warning in warnings)


def _why(job: JobRecord) -> str:
    if job.failure is None:
        return ""
    text = f"{job.failure}{' (inferred: no receipt reported it)' if is_supposition(job.failure) else ''}"
    return f"Cause: {text}{'' if text.endswith('.') else '.'}"


def _tip(job: JobRecord) -> str:
    tip = advice(job.failure) if job.failure is not None else ""
    if is_out_of_memory(job.failure) and job.last_attempt is not None:
        return f"It asked for {memory(job.last_attempt.resources)}. {tip}"
    return tip


def _from_events(job: JobRecord, events: str) -> str:
    """Why a job has not begun, from the cluster's events."""
    if job.state is not JobState.PENDING:
        return ""
    lines = [" ".join(line.replace("<nil>", "").split()) for line in events.splitlines()[1:] if line.strip()]
    pull = [line for line in lines if "ImagePull" in line or "Failed to pull" in line]
    if pull:
        reason = next((line for line in reversed(pull) if "Failed to pull" in line), pull[-1])
        return f"Its image cannot be fetched: {reason}. {_ADVICE[failures.ImagePull]}"
    room = [line for line in lines if "FailedScheduling" in line]
    if room:
        return f"The cluster has no room for it yet: {room[-1]}. {_ADVICE[failures.StuckPending]}"
    if not lines:
        attempt = job.last_attempt
        if attempt is None or attempt.start_time is None:
            return "The cluster has no events for it yet, which is usual while a job is queued."
        return (
            "It has left the queue, and the cluster has no events for it, which is usual for a moment. If that lasts, "
            "the cluster refuses to run it, perhaps for its resources: cancel it, and ask for less."
        )
    return f"The latest event: {lines[-1]}."


def support_report(
    job: JobRecord,
    *,
    platform: str,
    user: str | None,
    log: str,
    events: str,
    expected: str | None = None,
    project: str | None = None,
) -> str:
    """Return the text of a request to support@canfar.net, with everything that it should contain and no secrets."""
    attempt = job.last_attempt
    asked = attempt.resources if attempt is not None else job.resources
    receipt = attempt.receipt if attempt is not None else None
    rows = {
        "Project": project or "(please add: project= names it)",
        "Platform": f"{platform} (user {user or 'unknown'})",
        "Session ID": (attempt and attempt.id) or "none: the platform never gave one",
        "Session name": attempt and attempt.launch_name,
        "Image": full_image(job.spec.image),
        "Resources": asked_for(asked),
        "Command": job.filled.command,
        "Launched": _time(attempt.launched_at if attempt else None),
        "Started": _time(attempt.started_at if attempt else None),
        "Finished": _time(attempt.finished_at if attempt else None),
        "State": str(job.state),
        "Exit code": receipt.exit_code if receipt and receipt.exit_code is not None else "unknown",
        "Peak memory": gib(receipt.peak_ram) if receipt and receipt.peak_ram is not None else "unknown",
        "Expected": expected or "the job ends with exit code 0",
        "Actual": explain_job(job, events),
        "Client": f"canfar_batch {__version__}, Python {machine.python_version()}",
    }
    width = max(map(len, rows)) + 2
    text = "\n".join(f"{name + ':':<{width}}{value}" for name, value in rows.items() if value is not None)
    tail = "\n".join(log.splitlines()[-SUPPORT_LINES:]) or "(empty)"
    whole = f"{text}\n\nEvents:\n{events.strip() or '(none)'}\n\nEnd of the log:\n{tail}\n"
    return without_secrets(printable_lines(whole), secret_values([job]))


def explain_batch(jobs: Iterable[JobRecord]) -> str:
    """Return why jobs of a batch failed or may wait for ever, by cause: how many, why, and what to do."""
    groups: dict[str, list[tuple[JobRecord, Failure]]] = {}
    uncollected: list[JobRecord] = []
    held_up: list[JobRecord] = []
    is_final = True
    for job in jobs:
        is_final = is_final and job.state.final
        if job.state in GIVEN_UP:
            failure = job.failure or failures.Unknown()
            groups.setdefault(failure.group, []).append((job, failure))
        elif job.state is JobState.SUCCEEDED and job.collect_error is not None:
            uncollected.append(job)
        elif job.state is JobState.PENDING and job.last_attempt and job.last_attempt.is_held_up:
            held_up.append(job)
    return _failed(groups, is_final=is_final) + _uncollected(uncollected) + _held_up(held_up)


def _failed(groups: Mapping[str, list[tuple[JobRecord, Failure]]], *, is_final: bool) -> str:
    if not groups:
        return "Nothing failed." if is_final else "Nothing has failed yet."
    ordered = sorted(groups.values(), key=len, reverse=True)
    parts = [f"{len(group):,} {_described(group)}" for group in ordered[:_CAUSES]]
    if rest := sum(map(len, ordered[_CAUSES:])):
        parts.append(f"{rest:,} for {count(len(ordered) - _CAUSES, 'other reason')}")
    return f"{sum(map(len, groups.values())):,} failed: {', '.join(parts)}."


def _described(group: list[tuple[JobRecord, Failure]]) -> str:
    """A group's cause, and the message of the first of its jobs that has one."""
    job, failure = next(((job, failure) for job, failure in group if failure.message), group[0])
    if is_out_of_memory(failure):
        return f"{failure.cause} ({_memory_of([job for job, _ in group])})"
    message = _brief(failure.headline, job)
    if isinstance(failure, failures.ExitCode) and failure.code in _COMMANDS:
        return f"{_COMMANDS[failure.code]} ({': '.join(filter(None, (failure.cause, message)))})"
    return f"{failure.cause} ({message})" if message else failure.cause


def _memory_of(group: Iterable[JobRecord]) -> str:
    """The memory that jobs asked for, their peak, and what to ask for instead."""
    attempts = [job.last_attempt for job in group if job.last_attempt is not None]
    asked = sorted({attempt.resources.ram for attempt in attempts if attempt.resources.ram is not None})
    peaks = [a.receipt.peak_ram for a in attempts if a.receipt is not None and a.receipt.peak_ram is not None]
    peak = f", peak {gib(max(peaks))}" if peaks else ""
    likely = (
        "; memory is the likely cause" if any(a.failure is not None and a.failure.inferred for a in attempts) else ""
    )
    if not asked:
        return f"asked the platform's default memory{peak}{likely}; set ram="
    some = f"{asked[0]} GiB" if len(asked) == 1 else f"{asked[0]} to {asked[-1]} GiB"
    return f"asked {some}{peak}{likely}; try ram={asked[-1] * 2}"


def _uncollected(jobs: Sequence[JobRecord]) -> str:
    if not jobs:
        return ""
    return f" {count(len(jobs), 'result')} could not be collected ({_brief(jobs[0].collect_error or '', jobs[0])})."


def _held_up(jobs: Sequence[JobRecord]) -> str:
    if not jobs:
        return ""
    why = jobs[0].last_attempt.held_up if jobs[0].last_attempt else ""
    return f" {count(len(jobs), 'job')} may wait for ever, such as {jobs[0].key}: {why}."


def _brief(message: str, job: JobRecord) -> str:
    return clip(printable(without_secrets(message, secret_values([job]))), _MESSAGE_WIDTH)


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else f"{timestamp(moment)} UTC"


def preview(job: JobRecord, *, launch_name: str) -> str:
    """Return the next launch of *job* as text: image, resources, command, environment."""
    lines = [
        f"{job.key}  ({launch_name})",
        f"  image    {full_image(job.spec.image)}",
        f"  asks for {asked_for(job.resources)}",
        f"  command  {job.filled.command}",
    ]
    lines += [f"  env      {name}={shown_value(name, value)}" for name, value in job.filled.env]
    if job.filled.workdir:
        lines.append(f"  workdir  {job.filled.workdir}")
    lines += [f"  output   {output}" for output in job.filled.outputs]
    return "\n".join(lines)
