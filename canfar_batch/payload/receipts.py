"""Receipts: where they are written, and how to read them from a file or a log."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from canfar_batch.payload.calls import OutcomeLines
from canfar_batch.payload.wrapper import MARK


def mark(launch_name: str, task: int | None) -> str:
    """Return the name that marks the receipts of one run: the launch name, and in a bundle the task's number."""
    return launch_name if task is None else f"{launch_name}.{task}"


def receipt_paths(home: str, name: str, attempt: int) -> tuple[str, str]:
    """Return the paths of the start and end receipt of one launch, in a *home* that its container sees.

    Args:
        home: The batch's directory.
        name: The job's key as a file name, which `fields.keys.file_name` makes.
        attempt: The number of the launch, from 1.
    """
    stem = f"{home.rstrip('/')}/receipts/{name}.{attempt}"
    return f"{stem}.start", f"{stem}.end"


def split_log(raw: bytes, launch_name: str) -> tuple[bytes, dict[str, Any] | None, dict[str, Any] | None]:
    """Separate a container's log into the job's own output, byte for byte, and its receipts.

    Lines with the name of another launch belong to the job's output. If the log has several runs, because the platform
    restarted the container, the receipts are those of the newest run, which may have no end yet.

    Args:
        raw: The log; its beginning or its end may be missing.
        launch_name: The name under which the job was launched.

    Returns:
        The job's output; the start receipt or None; the end receipt or None. `parse_receipt` lists their keys.
    """
    splitter = LogSplitter(launch_name)
    own = splitter.feed(raw) + splitter.finish()
    return own, splitter.start, splitter.end


class LogSplitter:
    """Separates a container's log, which comes in pieces, into the job's own output and its receipts.

    Memory is bounded: only the end of what was fed is held back, since a line of ours may begin there.
    """

    def __init__(self, launch_name: str) -> None:
        self._name = launch_name
        self._head, self._tail = f"{MARK} {launch_name} ".encode(), f" #{launch_name}".encode()
        self._held = b""
        self._at_start = True  # whether the first line has not been looked at
        self._lines: list[str] = []
        self._read: tuple[int, tuple[dict[str, Any] | None, dict[str, Any] | None]] | None = None  # of so many lines
        self._outcome = OutcomeLines()

    @property
    def outcome(self) -> bytes | None:
        """The outcome of the newest call of a function that was fed whole, or None; `calls.Outcome` reads it."""
        return self._outcome.outcome

    @property
    def start(self) -> dict[str, Any] | None:
        """The start receipt of the newest run that was fed, or None."""
        return self._receipts[0]

    @property
    def end(self) -> dict[str, Any] | None:
        """The end receipt of the newest run that was fed, or None."""
        return self._receipts[1]

    @property
    def _receipts(self) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        if self._read is None or self._read[0] != len(self._lines):
            self._read = len(self._lines), _receipts(self._name, self._lines)
        return self._read[1]

    def feed(self, piece: bytes) -> bytes:
        """Take the next *piece*; return the job's output that is certain by now."""
        return self._split(piece, at_end=False)

    def finish(self) -> bytes:
        """Return the rest of the job's output."""
        return self._split(b"", at_end=True)

    def _split(self, piece: bytes, *, at_end: bool) -> bytes:
        raw, own = self._held + piece, list[bytes]()
        at = self._after_torn_line(raw, at_end)
        if at is None:
            self._held = raw
            return b""
        keep = len(raw) if at_end else max(at, len(raw) - len(self._head))
        mark, line_end = raw.find(self._head, at), 0  # the line's end is kept: one line may hold a million marks
        while mark >= 0:
            if mark >= line_end:
                found = raw.find(b"\n", mark)
                line_end = len(raw) if found < 0 else found
            begin = mark - 1 if mark > at and raw[mark - 1 : mark] == b"\n" else mark
            is_whole = line_end < len(raw) or at_end
            if not is_whole and len(raw) - mark <= _LONGEST_LINE:
                keep = begin  # the rest of the line is still to come
                break
            if self._is_ours(raw, mark, line_end):
                own.append(self._kept(raw[at:begin]))
                self._take(raw[mark + len(self._head) : line_end])
                at = min(line_end + 1, len(raw))
            elif line_end == len(raw) and at_end:
                own.append(self._kept(raw[at:begin]))  # it is being written
                at = len(raw)
                break
            mark = raw.find(self._head, max(at, mark + len(self._head)))
        keep = max(keep, at)
        own.append(self._kept(raw[at:keep]))
        self._held = raw[keep:]
        return b"".join(own)

    def _is_ours(self, raw: bytes, begin: int, end: int) -> bool:
        """Return whether this line, which begins with our mark, ends with it, too."""
        return raw.endswith(self._tail, begin, end)

    def _take(self, line: bytes) -> None:
        """Note a line of ours, without the mark that it begins with."""
        text = line[: -len(self._tail)].decode("utf-8", "replace")
        if not self._outcome.take(text):
            self._lines.append(text)

    def _kept(self, piece: bytes) -> bytes:
        """Return what of this *piece* between lines of ours is the job's own output."""
        return piece

    def _is_torn(self, line: bytes) -> bool:
        """Return whether this first line is one of ours that has lost its beginning."""
        return line.endswith(self._tail) and self._head not in line

    def _after_torn_line(self, raw: bytes, at_end: bool) -> int | None:
        """Return where to begin: after a first line of ours whose beginning is lost. None to wait for its end."""
        if not self._at_start:
            return 0
        first, line_break, _ = raw.partition(b"\n")
        if not line_break and not at_end and len(raw) <= _LONGEST_LINE:
            return None
        self._at_start = False
        return len(first) + 1 if line_break and self._is_torn(first) else 0


class BundleLogSplitter(LogSplitter):
    """Separates the log of a container that carries several jobs: the output of one of them, and all receipts.

    The wrapper copies a task's output to the log at the task's end, between two marked lines.

    Args:
        launch_name: The name under which the bundle was launched.
        task: The number of the task whose output is wanted; None for no output at all.

    Attributes:
        is_whole: Whether the log shows where the task's output begins and where it ends.
        has_beginning: Whether the log shows the beginning of the container's newest run.
    """

    def __init__(self, launch_name: str, task: int | None = None) -> None:
        super().__init__(launch_name)
        name = re.escape(launch_name).encode()
        self._head = f"{MARK} {launch_name}".encode()
        self._task = task
        self._line = re.compile(rb"(?:\.([1-9][0-9]{0,8}))? (.*) #" + name + rb"(?:\.\1)?", re.DOTALL)
        self._torn = re.compile(rb".* #" + name + rb"(?:\.[1-9][0-9]{0,8})?", re.DOTALL)
        self._inside = False
        self._of_task: dict[int, list[str]] = {}
        self.is_whole = self.has_beginning = False

    @property
    def start(self) -> dict[str, Any] | None:
        """The start receipt of the task's newest run that was fed, or None."""
        return None if self._task is None else self.receipts_of(self._task)[0]

    @property
    def end(self) -> dict[str, Any] | None:
        """The end receipt of the task's newest run that was fed, or None."""
        return None if self._task is None else self.receipts_of(self._task)[1]

    @property
    def tasks(self) -> list[int]:
        """The numbers of the tasks of which there are receipts."""
        return sorted(self._of_task)

    def receipts_of(self, task: int) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """Return the start and the end receipt of a task's newest run; None if there is none."""
        return _receipts(mark(self._name, task), self._of_task.get(task, []))

    def _is_ours(self, raw: bytes, begin: int, end: int) -> bool:
        return end - begin <= _LONGEST_OF_BUNDLE and self._line.fullmatch(raw, begin + len(self._head), end) is not None

    def _take(self, line: bytes) -> None:
        found = self._line.fullmatch(line)
        assert found is not None
        kind, _, _ = found[2].partition(b" ")
        if found[1] is None:
            self.has_beginning = self.has_beginning or kind == b"start"
            return
        task = int(found[1])
        if kind in (b"log", b"logend"):
            if task == self._task:
                self.is_whole = kind == b"logend" and self._inside
                self._inside = kind == b"log"
            return
        text = found[2].decode("utf-8", "replace")
        if not (task == self._task and self._outcome.take(text)):
            self._of_task.setdefault(task, []).append(text)

    def _kept(self, piece: bytes) -> bytes:
        return piece if self._inside else b""

    def _is_torn(self, line: bytes) -> bool:
        return len(line) <= _LONGEST_OF_BUNDLE and self._head not in line and self._torn.fullmatch(line) is not None


_LONGEST_OF_BUNDLE = 8192  # bytes; the wrapper writes each line at once, so none is longer than a pipe takes at once
_LONGEST_LINE = 1 << 20  # bytes; no line of ours is longer


def parse_receipt(text: str | bytes) -> dict[str, Any] | None:
    """Read a receipt file; return None if it holds no whole receipt.

    The keys are these. A value is None if the container could not find it out; in a start receipt, the values of the
    end are None too.

    =================  ============================================================================================
    kind               `start` or `end`
    launch_name        str
    key                str: the job's key as a file name
    attempt            int, from 1
    id                 str: the platform's name for the container
    host               str: the container's host name
    started_at         float: when the command began, in seconds since 1970 by the container's clock
    finished_at        float: when the command ended, in the same unit
    exit_code          int: the command's own, 128 + n if signal n ended it
    signal             int: n, if the exit code says that a signal ended it
    stopped_by         str: `TERM`, `INT` or `HUP`, if the container was sent one and passed it on
    timed_out          bool: the time-out ended it
    cpu_seconds        float: CPU time between start and end
    peak_bytes         int: peak memory of the container, file cache included
    oom_kills          int: processes killed for lack of memory between start and end
    limit_bytes        int: the container's memory limit
    limit_cores        float: the container's CPU limit
    workdir            str: where it ran: `own` (the spec's workdir), `driver` (the driver's directory) or `home`
    outputs            dict: size in bytes by path, for declared outputs that were found; None for a directory or pipe
    unchanged          list: outputs that were there before the command began and were not changed by it, if known
    found              dict: number of files by declared output; may count more files than `outputs` names
    missing            list: declared outputs of which nothing was found
    trouble            str: `workdir` (could not be entered; nothing was run), `no-sleep` (no time-out enforced) or
                       `killed` (the wrapper of a task in a bundle was killed with its command)
    =================  ============================================================================================
    """
    raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    named = re.search(rb"(?m)^" + MARK.encode() + rb" ([a-z0-9-]+(?:\.[0-9]+)?) ", raw)
    if named is None:
        return None
    name = named[1].decode()
    _, start, end = split_log(raw, name)
    return end or start


def _receipts(name: str, lines: Iterable[str]) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return the start and end receipt of the newest run in *lines*.

    The log of a restarted container may hold two runs, in either order (production-like.md §2): the newest is the one
    that began last, and an end belongs to the run whose beginning it repeats.
    """
    starts: list[dict[str, Any]] = []
    ends: list[dict[str, Any]] = []
    outputs: list[str] = []
    for line in lines:
        kind, _, rest = line.partition(" ")
        if kind == "start":
            starts.append(_receipt(kind, name, rest, []))
            outputs = []
        elif kind == "outputs":
            outputs.append(rest)
        elif kind == "end":
            ends.append(_receipt(kind, name, rest, outputs))
            outputs = []
    start = max(starts, key=_began, default=None)
    own = [end for end in ends if start is None or _began(end) >= _began(start)]
    return start, max(reversed(own), key=_began, default=None)


def _began(receipt: Mapping[str, Any]) -> float:
    return float(receipt["started_at"] or 0.0)


def _receipt(kind: str, name: str, text: str, lines: Sequence[str]) -> dict[str, Any]:
    facts = dict(word.partition("=")[::2] for word in text.split(" "))
    code = _whole(_number(facts, "code"))
    cpu, oom, cpu_before, oom_before = (_number(facts, fact) for fact in ("cpu", "oom", "cpu0", "oom0"))
    user, system = _minutes(facts, "user"), _minutes(facts, "sys")
    cpu_seconds = None if cpu is None or cpu_before is None else max(0.0, cpu - cpu_before)
    quota, period, limit = (_number(facts, fact) for fact in ("quota", "period", "limit"))
    outputs = _Outputs.read("".join(lines) if len(lines) == _number(facts, "outputs") else "")
    return {
        "kind": kind,
        "launch_name": name,
        "key": facts.get("key", ""),
        "attempt": _whole(_number(facts, "attempt")),
        "id": facts.get("id") or None,
        "host": facts.get("host") or None,
        "started_at": _number(facts, "started"),
        "finished_at": _number(facts, "finished"),
        "exit_code": code,
        "signal": code - 128 if code is not None and 128 < code <= 128 + 64 else None,
        "stopped_by": facts.get("told") or None,
        "timed_out": bool(facts.get("late")),
        "cpu_seconds": cpu_seconds if user is None or system is None else user + system,
        "peak_bytes": _whole(_number(facts, "peak")),
        "oom_kills": None if oom is None or oom_before is None else max(0, int(oom - oom_before)),
        "limit_bytes": _whole(limit) if limit is not None and limit < _NO_LIMIT else None,
        "limit_cores": quota / period if quota is not None and period else None,
        "workdir": facts.get("workdir") or None,
        "outputs": outputs.sizes,
        "unchanged": outputs.unchanged,
        "found": outputs.found,
        "missing": [pattern for pattern, count in outputs.found.items() if not count],
        "trouble": facts.get("trouble") or None,
    }


_NO_LIMIT = 1 << 60  #: bytes; version 1 of cgroups writes a number near 2**63 for "no limit"
_UNITS = {"": 1.0, "us": 1e-6, "ns": 1e-9}
_NUMBER = re.compile(r"([0-9]{1,20}(?:\.[0-9]{0,20})?)(us|ns|)")


def _number(facts: Mapping[str, str], fact: str) -> float | None:
    found = _NUMBER.fullmatch(facts.get(fact, ""))
    return float(found[1]) * _UNITS[found[2]] if found else None


_TIMES = re.compile(r"([0-9]{1,9})m([0-9]{1,9}(?:[.,][0-9]{1,9})?)s")


def _minutes(facts: Mapping[str, str], fact: str) -> float | None:
    """Return the seconds of a time as the shell's `times` writes it, such as `1m2.34s`."""
    found = _TIMES.fullmatch(facts.get(fact, ""))
    return 60.0 * float(found[1]) + float(found[2].replace(",", ".")) if found else None


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)


@attrs.frozen
class _Outputs:
    """What the wrapper's list says of the declared outputs."""

    sizes: dict[str, int | None]
    unchanged: list[str]
    found: dict[str, int]

    _FILE = re.compile(r"f(?P<size>[0-9]{0,20})(?:@[0-9]{1,11})? (?P<name>.*)", re.DOTALL)
    _COUNT = re.compile(r"n(?P<count>[0-9]{1,20}) (?P<name>.*)", re.DOTALL)

    @classmethod
    def read(cls, encoded: str) -> _Outputs:
        """Decode the list; one that is damaged is empty."""
        outputs = cls({}, [], {})
        try:
            items = base64.b64decode(encoded, validate=True).decode("utf-8", "surrogateescape").split("\0")
        except (binascii.Error, ValueError):
            return outputs
        for item in items:
            if file := cls._FILE.fullmatch(item):
                outputs.sizes[file["name"]] = int(file["size"]) if file["size"] else None
            elif item[:1] == "u" and item[1:] in outputs.sizes:
                outputs.unchanged.append(item[1:])
            elif count := cls._COUNT.fullmatch(item):
                outputs.found[count["name"]] = int(count["count"])
        return outputs
