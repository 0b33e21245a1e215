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
