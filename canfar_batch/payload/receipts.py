"""Receipts: where they are, and how to read them from a file or a log."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from canfar_batch.payload.wrapper import MARK


def receipt_paths(home: str, key: str, attempt: int) -> tuple[str, str]:
    """Where the start and the end receipt of one launch are written, if *home* is seen by its container."""
    stem = f"{home.rstrip('/')}/receipts/{key}.{attempt}"
    return f"{stem}.start", f"{stem}.end"


def split_log(raw: bytes, launch_name: str) -> tuple[bytes, dict[str, Any] | None, dict[str, Any] | None]:
    """What the job itself wrote, byte for byte, and its receipts, out of a container's log.

    Lines that bear another launch's name are the job's own. Where the log tells of several runs, as when the platform
    started the container again, the receipts are those of the last: a start after an end leaves no end.

    Args:
        raw: The log; also one that lost its beginning, or is not at its end yet.
        launch_name: The name under which the job was launched.

    Returns:
        The job's bytes; the start receipt or None; the end receipt or None. `parse_receipt` tells what is in them.
    """
    own: list[bytes] = []
    lines: list[str] = []
    at = 0
    for begin, end, line in _marked(raw, launch_name):
        own.append(raw[at:begin])
        at = end
        lines += [line] if line else []
    return b"".join([*own, raw[at:]]), *_receipts(launch_name, lines)


def parse_receipt(text: str | bytes) -> dict[str, Any] | None:
    """What a receipt file says; None where it holds no whole receipt.

    The keys, None where the container could not tell (an end receipt's in a start receipt, too):

    =================  ============================================================================================
    kind               `start` or `end`
    launch_name, key   str
    attempt            int, from 1
    id                 str: the platform's name for the container
    host               str: the container's host name
    started_at         float: seconds since 1970 by the container's clock, when the command began
    finished_at        float: likewise, when it was over
    exit_code          int: the command's own, 128 + n where signal n ended it
    signal             int: n, where the exit code says that a signal ended it
    stopped_by         str: `TERM`, `INT` or `HUP`, where the container was sent one and passed it on
    timed_out          bool: the time-out ended it
    cpu_seconds        float: CPU time between start and end
    peak_bytes         int: peak memory of the container, file cache included
    oom_kills          int: processes killed for want of memory between start and end
    limit_bytes        int: what memory it was allowed
    limit_cores        float: what CPU it was allowed
    workdir            str: where it ran: `own` (as the spec says), `driver` (the driver's directory) or `home`
    outputs            dict: size in bytes by path, for declared outputs that were found; None for what is no file
    found              dict: number of files by declared output; may be more than `outputs` names
    missing            list: declared outputs of which nothing was found
    trouble            str: `workdir` (could not be entered; nothing was run) or `no-sleep` (no time-out enforced)
    =================  ============================================================================================
    """
    raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    named = re.search(rb"(?m)^" + MARK.encode() + rb" ([a-z0-9-]+) ", raw)
    if named is None:
        return None
    name = named[1].decode()
    start, end = _receipts(name, [line for _, _, line in _marked(raw, name) if line])
    return end or start


def _marked(raw: bytes, name: str) -> Iterator[tuple[int, int, str | None]]:
    """Where each line of ours begins and ends, line breaks included, and what it says; None for one that is torn."""
    head, tail = f"{MARK} {name} ".encode(), f" #{name}".encode()
    first = raw.partition(b"\n")[0]
    if len(first) < len(raw) and first.endswith(tail) and head not in first:
        yield 0, len(first) + 1, None  # the log's beginning is lost, in the middle of a line of ours
    at = raw.find(head)
    while at >= 0:
        begin = at - 1 if raw[max(at - 1, 0) : at] == b"\n" else at
        end = raw.find(b"\n", at)
        line = raw[at : end if end >= 0 else len(raw)]
        if line.endswith(tail):
            yield begin, at + len(line) + 1, line[len(head) : -len(tail)].decode("utf-8", "replace")
        elif end < 0:
            yield begin, len(raw), None  # it is being written
        at = raw.find(head, at + len(head))


def _receipts(name: str, lines: Iterable[str]) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The receipts of the last run that *lines* tell of."""
    start: dict[str, Any] | None = None
    end: dict[str, Any] | None = None
    outputs: list[str] = []
    for line in lines:
        kind, _, rest = line.partition(" ")
        if kind == "start":
            start, end, outputs = _receipt(kind, name, rest, []), None, []
        elif kind == "outputs":
            outputs.append(rest)
        elif kind == "end":
            end, outputs = _receipt(kind, name, rest, outputs), []
    return start, end


def _receipt(kind: str, name: str, text: str, lines: Sequence[str]) -> dict[str, Any]:
    said = dict(word.partition("=")[::2] for word in text.split(" "))
    code = _number(said, "code")
    cpu, oom, cpu_before, oom_before = (_number(said, what) for what in ("cpu", "oom", "cpu0", "oom0"))
    quota, period, limit = (_number(said, what) for what in ("quota", "period", "limit"))
    found, outputs = _outputs("".join(lines) if len(lines) == _number(said, "outputs") else "")
    return {
        "kind": kind,
        "launch_name": name,
        "key": said.get("key", ""),
        "attempt": _whole(_number(said, "attempt")),
        "id": said.get("id") or None,
        "host": said.get("host") or None,
        "started_at": _number(said, "started"),
        "finished_at": _number(said, "finished"),
        "exit_code": _whole(code),
        "signal": int(code) - 128 if code is not None and 128 < code <= 128 + 64 else None,
        "stopped_by": said.get("told") or None,
        "timed_out": bool(said.get("late")),
        "cpu_seconds": None if cpu is None or cpu_before is None else max(0.0, cpu - cpu_before),
        "peak_bytes": _whole(_number(said, "peak")),
        "oom_kills": None if oom is None or oom_before is None else max(0, int(oom - oom_before)),
        "limit_bytes": _whole(limit) if limit is not None and limit < _NO_LIMIT else None,
        "limit_cores": quota / period if quota is not None and period else None,
        "workdir": said.get("workdir") or None,
        "outputs": outputs,
        "found": found,
        "missing": [pattern for pattern, count in found.items() if not count],
        "trouble": said.get("trouble") or None,
    }


_NO_LIMIT = 1 << 60  #: bytes; cgroups of version 1 say a number near 2**63 where they mean none
_UNITS = {"": 1.0, "us": 1e-6, "ns": 1e-9}


def _number(said: Mapping[str, str], what: str) -> float | None:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?)(us|ns|)", said.get(what, ""))
    return float(found[1]) * _UNITS[found[2]] if found else None


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)


def _outputs(encoded: str) -> tuple[dict[str, int], dict[str, int | None]]:
    """How many files each declared output came to, and how large they are, from the wrapper's list."""
    try:
        listed = base64.b64decode(encoded, validate=True).decode("utf-8", "surrogateescape")
    except binascii.Error:
        return {}, {}
    found: dict[str, int] = {}
    sizes: dict[str, int | None] = {}
    for item in listed.split("\0")[:-1]:
        number, _, name = item[1:].partition(" ")
        if item[0] == "f":
            sizes[name] = int(number) if number else None
        else:
            found[name] = int(number)
    return found, sizes
