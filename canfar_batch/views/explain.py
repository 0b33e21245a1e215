"""Receipts, events and logs, turned into words that a person can act on."""

from __future__ import annotations

import platform as machine
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from canfar_batch import failures
from canfar_batch._version import __version__
from canfar_batch.failures import Failure
from canfar_batch.records import ContainerInfo, JobRecord, JobState, Resources
from canfar_batch.spec import full_image, shown_value
from canfar_batch.views.terminal import clip, printable

_SHORTLY = 120  # columns of a message in the explanation of a batch
_KINDS = 6  # kinds of trouble that the explanation of a batch tells apart
_TAIL = 30  # lines of a log in a support report: what a person reads before asking for more

_ADVICE: Mapping[type[Failure], str] = {
    failures.OutOfMemory: "Ask for more memory (ram=), or let Retry(grow_ram=2) do it.",
    failures.Killed: "Ask for more memory (ram=); if it happens again with plenty, look at the log's last lines.",
    failures.TimedOut: "Give it a longer timeout=, or look in the log for what it waited for.",
    failures.StartError: "Check that the image has /bin/sh, base64 and the program, and that workdir exists.",
    failures.ImagePull: "Check its name and tag with session.images(); private ones need their registry's credential.",
    failures.StuckPending: "Ask for fewer cores or less memory, or try later; session.stats() tells what is free.",
    failures.Evicted: "Nothing is wrong with the job: launch it again.",
    failures.DiskFull: "Write to /arc, not to the container's own disk; remove temporary files; check your quota.",
    failures.DeadlineExceeded: "Headless jobs end after 14 days: split the work, or write checkpoints to go on from.",
    failures.Lost: "Look for the job's outputs; launch it again if they are not there.",
    failures.Unwatched: "Look for the job's outputs; batch.retry_failed() launches it again if they are not there.",
    failures.MissingOutput: "Check the path that the command writes to, and what it is relative to (workdir=).",
    failures.LaunchRefused: "Mend what the platform's words say, then launch again.",
    failures.Unknown: "Look at the log and the events; support_report() has what support@canfar.net will ask for.",
}

_CODES: Mapping[int, str] = {
    2: "Exit code 2 often means a wrong option or argument: compare the command with the program's --help.",
    126: "The file was found but may not be executed: chmod +x it, or call its interpreter.",
    127: "No such command in the container: check the program's name, the image, and its PATH.",
    137: "Something killed it (SIGKILL), most often for want of memory: ask for more (ram=).",
    139: "The program crashed (segmentation fault): try it on a smaller input, or with another version.",
    143: "It was told to stop (SIGTERM) from outside.",
}

#: what a batch's explanation calls those by which a shell speaks of the command itself
_COMMANDS: Mapping[int, str] = {126: "command not executable", 127: "command not found"}

#: codes by which a shell speaks of the command itself, so that "no such file" in the log means the program
_SHELLS_OWN = frozenset(_COMMANDS)

_SIGNS: tuple[tuple[str, str], ...] = (
    ("No such file or directory", "A file was not found: check its path as the container sees it (/arc/…, workdir=)."),
    ("FileNotFoundError", "A file was not found: check its path as the container sees it (/arc/…, workdir=)."),
    ("Permission denied", "It may not read or write there: check the folder's group and rights."),
    ("ModuleNotFoundError", "A Python module is missing in this image: choose another image, or install it."),
    ("MemoryError", "Python ran out of memory: ask for more (ram=)."),
    ("No space left on device", "A disk is full: write to /arc, and remove temporary files."),
)


def advice(failure: Failure) -> str:
    """What to do about *failure*, in a sentence."""
    if isinstance(failure, failures.ExitCode):
        if failure.code in _SHELLS_OWN:
            return _CODES[failure.code]
        return next((tip for sign, tip in _SIGNS if sign in failure.message), _CODES.get(failure.code, ""))
    return _ADVICE.get(type(failure), "")


def trouble(failure: Failure) -> str:
    """Return the group in which *failure* is counted."""
    return failure.group


def explain_job(job: JobRecord, events: str = "", now: datetime | None = None) -> str:
    """One paragraph: what happened to *job*, and what to do."""
    return " ".join(filter(None, (_story(job, now), _why(job), _from_events(job, events), _tip(job))))


def _story(job: JobRecord, now: datetime | None) -> str:
    attempt = job.last_attempt
    nth = f" (attempt {attempt.number})" if attempt is not None and attempt.number > 1 else ""
    since = ""
    if now is not None and attempt is not None and attempt.launched_at is not None:
        since = f" for {span(now - (attempt.started_at or attempt.launched_at))}"
    texts: Mapping[JobState, Callable[[], str]] = {
        JobState.PLANNED: lambda: "has not been launched yet.",
        JobState.LAUNCHING: lambda: "was sent to the platform, which has not answered yet.",
        JobState.PENDING: lambda: f"waits on the platform{since}; it has not begun to run.",
        JobState.RUNNING: lambda: f"has been running{since}.",
        JobState.WAITING: lambda: "failed and will be launched again.",
        JobState.SUCCEEDED: lambda: f"succeeded{_took(job)}{_unverified(job)}.",
        JobState.FAILED: lambda: f"failed{_took(job)}.",
        JobState.LOST: lambda: "is lost: nobody can say how it ended.",
        JobState.CANCELLED: lambda: "was cancelled.",
    }
    return f"Job {job.key}{nth} {texts[job.state]()}"


def _took(job: JobRecord) -> str:
    attempt = job.last_attempt
    if attempt is None or attempt.started_at is None or attempt.finished_at is None:
        return ""
    return f" after {span(attempt.finished_at - attempt.started_at)}"


def _unverified(job: JobRecord) -> str:
    return (
        ""
        if job.last_attempt is None or job.last_attempt.verified
        else " by the platform's word; no receipt confirms it"
    )


def _why(job: JobRecord) -> str:
    if job.failure is None:
        return ""
    text = str(job.failure)
    return f"Cause: {text}{'' if text.endswith('.') else '.'}"


def _tip(job: JobRecord) -> str:
    tip = advice(job.failure) if job.failure is not None else ""
    if isinstance(job.failure, (failures.OutOfMemory, failures.Killed)) and job.last_attempt is not None:
        return f"It asked for {memory(job.last_attempt.resources)}. {tip}"
    return tip


def _from_events(job: JobRecord, events: str) -> str:
    """What the cluster's events say about a job that has not begun."""
    if job.state is not JobState.PENDING:
        return ""
    lines = [" ".join(line.split()) for line in events.splitlines()[1:] if line.strip()]
    pull = [line for line in lines if "ImagePull" in line or "Failed to pull" in line]
    if pull:
        return f"Its image cannot be fetched: {pull[-1]}. {_ADVICE[failures.ImagePull]}"
    room = [line for line in lines if "FailedScheduling" in line]
    if room:
        return f"The cluster has no room for it yet: {room[-1]}. {_ADVICE[failures.StuckPending]}"
    if not lines:
        return "The cluster has noted nothing about it yet, as for a job that waits in the queue for its turn."
    return f"Last noted: {lines[-1]}."


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
    """All that a request to support@canfar.net should contain, as text; no secret is in it."""
    attempt = job.last_attempt
    asked = attempt.resources if attempt is not None else job.resources
    receipt = attempt.receipt if attempt is not None else None
    rows = {
        "Project": project or "(please add: project= names it)",
        "Platform": f"{platform} (user {user or 'unknown'})",
        "Session ID": (attempt and attempt.id) or "none: the platform never gave one",
        "Session name": attempt and attempt.launch_name,
        "Image": full_image(job.spec.image),
        "Resources": f"{cores(asked)}, {memory(asked)}" + (f", {asked.gpus} GPUs" if asked.gpus else ""),
        "Command": shlex.join(job.filled.argv),
        "Launched": _time(attempt.launched_at if attempt else None),
        "Started": _time(attempt.started_at if attempt else None),
        "Finished": _time(attempt.finished_at if attempt else None),
        "State": str(job.state),
        "Exit code": receipt.exit_code if receipt and receipt.exit_code is not None else "unknown",
        "Peak memory": f"{receipt.peak_ram:.2f} GiB" if receipt and receipt.peak_ram is not None else "unknown",
        "Expected": expected or "the job ends with exit code 0",
        "Actual": explain_job(job, events),
        "Client": f"canfar_batch {__version__}, Python {machine.python_version()}",
    }
    width = max(map(len, rows)) + 2
    text = "\n".join(f"{name + ':':<{width}}{value}" for name, value in rows.items() if value is not None)
    tail = "\n".join(log.splitlines()[-_TAIL:]) or "(empty)"
    return without_secrets(f"{text}\n\nEvents:\n{events.strip() or '(none)'}\n\nEnd of the log:\n{tail}\n")


_NAMED = r"(?:token|secret|passw(?:or)?d|passphrase|credential|authorization|api[_-]?key)[\w-]{0,40}"
#: how secrets are written: `TOKEN=abc`, `"password": "abc"`, `--api-key abc`, `Bearer abc`. A word of prose is none.
_SECRET = re.compile(
    rf"""(?P<name>(?:{_NAMED}["']?[ ]{{0,3}}[=:][ ]{{0,3}}|(?<!\S)--?[\w-]{{0,40}}?{_NAMED}[ ]{{1,3}})"""
    r"""(?:(?:bearer|basic)[ ])?|\bbearer[ ])(?P<value>"[^"\n]*"|'[^'\n]*'|[^\s'",]+)""",
    re.IGNORECASE,
)
_IN_ADDRESS = re.compile(r"(?<=://)[^/\s:@]{1,200}:[^/\s@]{1,2000}(?=@)")
_KEY_BLOCK = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)


def without_secrets(text: str) -> str:
    """*text* with the values of what looks like a token, password or key replaced by ``***``."""
    text = _KEY_BLOCK.sub("***", text)
    text = _IN_ADDRESS.sub("***", text)
    return _SECRET.sub(r"\g<name>***", text)


def explain_batch(jobs: Iterable[JobRecord]) -> str:
    """What went wrong in a batch, by cause: how often, why, and what to do."""
    groups: dict[str, list[tuple[JobRecord, Failure]]] = {}
    uncollected: list[str] = []
    over = True
    for job in jobs:
        over = over and job.state.final
        if job.state in (JobState.FAILED, JobState.LOST):
            failure = job.failure or failures.Unknown()
            groups.setdefault(trouble(failure), []).append((job, failure))
        elif job.state is JobState.SUCCEEDED and job.collect_error is not None:
            uncollected.append(job.collect_error)
    return _failed(groups, over=over) + _uncollected(uncollected)


def _failed(groups: Mapping[str, list[tuple[JobRecord, Failure]]], *, over: bool) -> str:
    if not groups:
        return "Nothing failed." if over else "Nothing failed so far."
    ordered = sorted(groups.values(), key=len, reverse=True)
    parts = [f"{len(group):,} {_called(group)}" for group in ordered[:_KINDS]]
    if rest := sum(map(len, ordered[_KINDS:])):
        parts.append(f"{rest:,} in {len(ordered) - _KINDS} other ways")
    return f"{sum(map(len, groups.values())):,} failed: {', '.join(parts)}."


def _called(group: list[tuple[JobRecord, Failure]]) -> str:
    """What a group is called, and what tells most about it."""
    failure = next((failure for _, failure in group if failure.message), group[0][1])
    if isinstance(failure, (failures.OutOfMemory, failures.Killed)):
        return f"{failure.cause} ({_memory_of([job for job, _ in group])})"
    told = _shortly(failure.message)
    if isinstance(failure, failures.ExitCode) and failure.code in _COMMANDS:
        return f"{_COMMANDS[failure.code]} ({': '.join(filter(None, (failure.cause, told)))})"
    return f"{failure.cause} ({told})" if told else failure.cause


def _memory_of(group: Iterable[JobRecord]) -> str:
    """What jobs asked for, what they came to, and what to try."""
    attempts = [job.last_attempt for job in group if job.last_attempt is not None]
    asked = sorted({attempt.resources.ram for attempt in attempts if attempt.resources.ram is not None})
    peaks = [a.receipt.peak_ram for a in attempts if a.receipt is not None and a.receipt.peak_ram is not None]
    peak = f", peak {max(peaks):.1f}" if peaks else ""
    if not asked:
        return f"asked the platform's default memory{peak}; say ram="
    some = f"{asked[0]} GiB" if len(asked) == 1 else f"{asked[0]} to {asked[-1]} GiB"
    return f"asked {some}{peak}; try {asked[-1] * 2}"


def _uncollected(errors: Sequence[str]) -> str:
    many = "1 result" if len(errors) == 1 else f"{len(errors):,} results"
    return f" {many} could not be collected ({_shortly(errors[0])})." if errors else ""


def _shortly(message: str) -> str:
    return clip(printable(without_secrets(message)), _SHORTLY)


def memory(asked: Resources) -> str:
    """How much memory was asked for, in words."""
    return "the platform's default memory" if asked.ram is None else f"{asked.ram} GiB"


def cores(asked: Resources) -> str:
    """How many cores were asked for, in words."""
    if asked.cores is None:
        return "the platform's default cores"
    return f"{asked.cores} core{'s' * (asked.cores != 1)}"


def span(length: timedelta | float) -> str:
    """A length of time (seconds, where it is a number) as people say it: `"42 s"`, `"3 min"`, `"2 h 05 min"`."""
    seconds = length.total_seconds() if isinstance(length, timedelta) else length
    if seconds < 1:
        return f"{max(seconds, 0):.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def in_use(containers: Iterable[ContainerInfo]) -> str:
    """What running containers use together: `"31.4 cores, 118 GiB"`; empty where the platform does not tell."""
    known = list(containers)
    busy = [info.cores_in_use for info in known if info.cores_in_use is not None]
    ram = [info.ram_in_use for info in known if info.ram_in_use is not None]
    parts = [f"{_amount(sum(busy))} cores"] if busy else []
    gib = sum(ram)
    memory = f"{_amount(gib)} GiB" if gib >= 0.1 else f"{gib * 1024:.0f} MiB"
    return ", ".join(parts + ([memory] if ram else []))


def _amount(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}" if number >= 1 else f"{number:.2g}"


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(sep=" ", timespec="seconds")


def preview(job: JobRecord, *, launch_name: str) -> str:
    """What the next launch of *job* will run, as text."""
    asked = job.resources
    lines = [
        f"{job.key}  ({launch_name})",
        f"  image    {full_image(job.spec.image)}",
        f"  asks for {cores(asked)}, {memory(asked)}" + (f", {asked.gpus} GPUs" if asked.gpus else ""),
        f"  command  {shlex.join(job.filled.argv)}",
    ]
    lines += [f"  env      {name}={shown_value(name, value)}" for name, value in job.filled.env]
    if job.filled.workdir:
        lines.append(f"  workdir  {job.filled.workdir}")
    lines += [f"  output   {output}" for output in job.filled.outputs]
    return "\n".join(lines)
