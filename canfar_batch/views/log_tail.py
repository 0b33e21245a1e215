"""The end of a saved log, read from the end of the file: memory and time do not grow with the log."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from canfar_batch.records import JobRecord
from canfar_batch.text import printable_lines
from canfar_batch.views.masking import secret_values, without_secrets

SHOWN = 12  #: lines of a log that a view shows
_ENOUGH = 64 * 1024  # bytes that are read for a view: lines may be long
_BLOCK = 64 * 1024  # bytes that are read at once


def read_lines_from_end(path: Path, lines: int, at_most: int | None = None) -> bytes:
    """Return the last *lines* lines of a file.

    Args:
        path: The file.
        lines: How many lines; 0 returns nothing.
        at_most: Bytes to read at most; None reads as many as the lines take.

    Raises:
        OSError: The file cannot be read.
    """
    if lines <= 0:
        return b""
    with path.open("rb") as file:
        end = place = file.seek(0, 2)
        blocks: list[bytes] = []
        line_feeds = 0
        while place > 0 and line_feeds <= lines and (at_most is None or end - place < at_most):
            size = min(_BLOCK, place, _BLOCK if at_most is None else at_most - (end - place))
            place -= size
            file.seek(place)
            blocks.append(file.read(size))
            line_feeds += blocks[-1].count(b"\n")
    return b"".join(_split(b"".join(reversed(blocks)))[-lines:])


def tail(path: Path, lines: int = SHOWN, secrets: Iterable[str] = ()) -> str:
    """Return the last lines of a log as text without secrets; empty if it cannot be read."""
    try:
        content = read_lines_from_end(path, lines, _ENOUGH)
    except OSError:
        return ""
    return _shown(content.decode(errors="replace"), lines, secrets)


def text_tail(text: str, lines: int, job: JobRecord) -> str:
    """Return the last lines of *text*, a log of *job*, without secrets."""
    return _shown(text, lines, secret_values([job]))


def job_log_tail(job: JobRecord, lines: int = SHOWN) -> str:
    """Return the last lines of the newest attempt's saved log; empty if no log is saved on this machine."""
    path = job.last_attempt.log if job.last_attempt is not None else None
    return "" if path is None else tail(path, lines, secret_values([job]))


def _shown(text: str, lines: int, secrets: Iterable[str]) -> str:
    # a progress bar writes one line many times, with carriage returns: its last state is the one to show
    kept = [line.rstrip("\r").rpartition("\r")[2] for line in text.rstrip("\n").split("\n")[-lines:]]
    return without_secrets(printable_lines("\n".join(kept)), secrets)


def _split(content: bytes) -> list[bytes]:
    """*content* in lines that keep their line feed; carriage returns do not end a line."""
    lines = [line + b"\n" for line in content.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]
