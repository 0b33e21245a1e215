"""Patterns of file names, as Python's `glob` reads them."""

from __future__ import annotations

import glob
import re

_WILD = re.compile(r"[*?[]")


def literal(text: str) -> str:
    """Return a pattern that matches only *text*."""
    return glob.escape(text)


def literal_path(pattern: str) -> str | None:
    """Return the one path that *pattern* matches, or None if it may match several.

    A single character in brackets stands for itself; `literal` writes the values of fields in this way.
    """
    if not _WILD.search(pattern):
        return pattern
    plain = re.sub(r"\[([*?[])\]", "", pattern)
    if re.search(r"[*?]|\[.[^\]]*\]", plain, re.DOTALL):
        return None
    return re.sub(r"\[([*?[])\]", r"\1", pattern)


def literal_prefix(pattern: str) -> str:
    """Return the beginning that every name that *pattern* matches has."""
    found = _WILD.search(pattern)
    return pattern if found is None else pattern[: found.start()]


_STAR = "*"
_ANY = ""  #: any one character


def may_match_one_name(first: str, second: str) -> bool:
    """Return whether there may be a name that both patterns match; sets of characters count as any character."""
    one, other = _pieces(first), _pieces(second)
    reached = _past_stars(other, {0})  # places in *other* that a name can have reached by the end of *one* so far
    for piece in one:
        if piece == _STAR:
            reached = set(range(min(reached, default=len(other) + 1), len(other) + 1))
        else:
            stays = {at for at in reached if at < len(other) and other[at] == _STAR}
            goes_on = {at + 1 for at in reached if at < len(other) and _fit(piece, other[at])}
            reached = _past_stars(other, stays | goes_on)
    return len(other) in reached


_PIECE = re.compile(r"(?P<star>\*)|(?P<any>\?)|\[(?P<set>!?\]?[^\]]*)\]|(?P<char>.)", re.DOTALL)


def _pieces(pattern: str) -> list[str]:
    """Return the parts of a pattern: `_STAR`, `_ANY` or a character; a star in brackets is not a wildcard."""
    found = []
    for part in _PIECE.finditer(pattern):
        char = part["char"] or (part["set"] if part["set"] and len(part["set"]) == 1 else _ANY)
        found.append(_STAR if part["star"] else "[*]" if char == "*" else char)
    return found


def _past_stars(pieces: list[str], places: set[int]) -> set[int]:
    """Return *places*, and those after the stars there, which may match nothing."""
    found = set(places)
    for start in places:
        at = start
        while at < len(pieces) and pieces[at] == _STAR:
            at += 1
            found.add(at)
    return found


def _fit(one: str, other: str) -> bool:
    """Return whether two parts that each stand for one character may stand for the same one."""
    return other != _STAR and (one == other or _ANY in (one, other))
