"""Saved logs, read from the end of the file: memory and time do not grow with the log."""

from __future__ import annotations

from pathlib import Path

_ENOUGH = 64 * 1024  # bytes that are read for a view: lines may be long
BLOCK = 64 * 1024  #: bytes that are read at once


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
            size = min(BLOCK, place, BLOCK if at_most is None else at_most - (end - place))
            place -= size
            file.seek(place)
            blocks.append(file.read(size))
            line_feeds += blocks[-1].count(b"\n")
    return b"".join(_split(b"".join(reversed(blocks)))[-lines:])


def end_of_log(path: Path | None, lines: int) -> str:
    """Return the last *lines* lines of a saved log, 64 KiB at most, as text; empty if it is not on this machine."""
    try:
        return "" if path is None else read_lines_from_end(path, lines, _ENOUGH).decode(errors="replace")
    except OSError:
        return ""


def _split(content: bytes) -> list[bytes]:
    """Return *content* in lines that keep their line feed; carriage returns do not end a line."""
    lines = [line + b"\n" for line in content.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]
