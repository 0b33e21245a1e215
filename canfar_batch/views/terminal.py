"""Text that fits the columns of a terminal: measured, clipped, wrapped, and set in a table."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

from canfar_batch.text import printable

_MARKS = frozenset({"Mn", "Me", "Cf"})  # combining marks and invisible signs: drawn on their neighbour, or not at all
_NARROWEST = 6  # columns that a cell keeps at least
_CUT = "..."  # marks a cut; output to cron or an old terminal may be ASCII, which lacks the one-character ellipsis


def width(text: str) -> int:
    """Return the number of columns that *text* takes."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(char: str) -> int:
    if unicodedata.category(char) in _MARKS:
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def clip(text: str, columns: int) -> str:
    """Return *text*, cut to *columns* columns; three dots mark the cut."""
    if width(text) <= columns:
        return text
    return _head(text, columns - len(_CUT)) + _CUT[: max(0, columns)]


def _head(text: str, columns: int) -> str:
    """The beginning of *text* that fits in *columns* columns."""
    if text.isascii():
        return text[: max(0, columns)]
    taken = 0
    for place, char in enumerate(text):
        taken += _columns(char)
        if taken > columns:
            return text[:place]
    return text


def wrapped(text: str, columns: int, *, first: str = "", rest: str | None = None, at_most: int = 0) -> list[str]:
    """Return *text* as lines of at most *columns* columns, broken between words if possible.

    Args:
        text: The text to break.
        columns: The width of a line, its prefix included.
        first: The prefix of the first line.
        rest: The prefix of the other lines; by default as many blanks.
        at_most: Lines to keep; three dots mark a cut. 0 keeps all.
    """
    rest = " " * width(first) if rest is None else rest
    lines = [first]
    begun = False
    for word in _pieces(text, max(1, columns - max(width(first), width(rest)))):
        joined = f"{lines[-1]} {word}" if begun else lines[-1] + word
        if begun and width(joined) > columns:
            joined = rest + word
            lines.append(joined)
        lines[-1], begun = joined, True
    if at_most and len(lines) > at_most:
        lines = [*lines[: at_most - 1], clip(f"{lines[at_most - 1]} {_CUT}", columns)]
    return lines


def _pieces(text: str, columns: int) -> Iterator[str]:
    """The words of *text*; a word that is longer than a line is cut into pieces."""
    for word in text.split():
        left = word
        while width(left) > columns:
            piece = _head(left, columns) or left[0]
            yield piece
            left = left[len(piece) :]
        if left:
            yield left


def table(rows: Sequence[Sequence[str]], columns: int, *, right: Sequence[int] = ()) -> list[str]:
    """Return *rows* as lines of at most *columns* columns, their cells aligned and two blanks apart.

    The first row is the heading. If there is not enough room, the widest columns are cut first.

    Args:
        rows: The cells, row by row; all rows have the same number of cells.
        columns: The width of a line.
        right: The indices of the cells that are aligned right, as numbers are.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = _fitted([max(map(width, column)) for column in zip(*cells)], columns)  # noqa: B905 (equal, as asked)
    lines = []
    for row in cells:
        set_ = [_padded(clip(cell, w), w, flush_right=n in right) for n, (cell, w) in enumerate(zip(row, widths))]  # noqa: B905
        lines.append(clip("  ".join(set_).rstrip(), columns))
    return lines


def _padded(cell: str, columns: int, *, flush_right: bool) -> str:
    blanks = " " * (columns - width(cell))
    return blanks + cell if flush_right else cell + blanks


def _fitted(widths: list[int], columns: int) -> list[int]:
    """*widths*, the widest made narrower until all fit side by side or none can be made narrower."""
    room = columns - 2 * (len(widths) - 1)
    while sum(widths) > room:
        widest = max(widths)
        if widest <= _NARROWEST:
            return widths
        lower = max((w for w in widths if w < widest), default=0)
        many = widths.count(widest)
        to = max(lower, widest - -(-(sum(widths) - room) // many), _NARROWEST)
        widths = [to if w == widest else w for w in widths]
    return widths
