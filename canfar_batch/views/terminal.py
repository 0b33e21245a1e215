"""Text that fits the columns of a terminal: made printable, measured, clipped, wrapped, and set in a table.

What jobs print may hold anything: escape sequences that would recolour the terminal, characters that take two columns.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_MARKS = frozenset({"Mn", "Me", "Cf"})  # combining marks and invisible signs: drawn upon their neighbour, or not at all


def without_escapes(text: str) -> str:
    """*text* without the sequences that would recolour a terminal, or worse."""
    return _ESCAPES.sub("", text) if "\x1b" in text else text


def printable(text: str) -> str:
    """*text* as one line without escape sequences, control characters and runs of blanks."""
    plain = without_escapes(text)
    if not plain.isprintable():
        plain = "".join(char if char.isprintable() else " " for char in plain)
    return " ".join(plain.split())


def width(text: str) -> int:
    """How many columns *text* takes."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(char: str) -> int:
    if unicodedata.category(char) in _MARKS:
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def clip(text: str, columns: int) -> str:
    """*text*, cut to so many columns; a cut is marked by an ellipsis."""
    if width(text) <= columns:
        return text
    return _head(text, columns - 1) + "…" if columns > 0 else ""


def _head(text: str, columns: int) -> str:
    """The beginning of *text* that fits so many columns."""
    if text.isascii():
        return text[: max(0, columns)]
    taken = 0
    for place, char in enumerate(text):
        taken += _columns(char)
        if taken > columns:
            return text[:place]
    return text


def wrapped(text: str, columns: int, *, first: str = "", rest: str | None = None, at_most: int = 0) -> list[str]:
    """*text* as lines of at most so many columns, broken between words where that is possible.

    Args:
        text: What to break.
        columns: What each line may take, what stands before it included.
        first: What stands before the first line.
        rest: What stands before the others; by default as many blanks.
        at_most: Lines to keep, a cut being marked by an ellipsis; 0 keeps all.
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
        lines = [*lines[: at_most - 1], clip(f"{lines[at_most - 1]} …", columns)]
    return lines


def _pieces(text: str, columns: int) -> Iterator[str]:
    """The words of *text*, those that fit no line cut into pieces that do."""
    for word in text.split():
        left = word
        while width(left) > columns:
            piece = _head(left, columns) or left[0]
            yield piece
            left = left[len(piece) :]
        if left:
            yield left


def table(rows: Sequence[Sequence[str]], columns: int, *, right: Sequence[int] = ()) -> list[str]:
    """*rows* set in columns, two blanks apart, no line longer than so many columns.

    The first row is the heading. Where there is no room for all, the widest columns are cut first.

    Args:
        rows: The cells, row by row; every row has as many.
        columns: What a line may take.
        right: The places of the columns that are set flush right, as numbers are.
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
    """*widths*, the widest made narrower until all fit side by side, but none below what shows something."""
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


_NARROWEST = 6
