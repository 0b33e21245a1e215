"""Text from outside (logs, answers, file names), made safe to print.

Such text may hold anything: escape sequences that recolour or rename a terminal, and characters that reverse a line.
"""

from __future__ import annotations

import re

MASK = "[secret]"  #: shown in place of a secret

# ESC [ … letter, ESC ] … BEL or ESC \, ESC letter, and the same in one 8-bit character (C1)
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?|\x1b[@-Z\\-_]"
)
_INTRODUCERS = re.compile("[\x1b\x9b\x9d]")


def without_escapes(text: str) -> str:
    """Return *text* without terminal escape sequences."""
    return _ESCAPES.sub("", text) if _INTRODUCERS.search(text) else text


def printable(text: str) -> str:
    """Return *text* as one line, without escape sequences, control characters and runs of blanks."""
    plain = without_escapes(text)
    if not plain.isprintable():
        plain = "".join(char if char.isprintable() else " " for char in plain)
    return " ".join(plain.split())


def printable_lines(text: str) -> str:
    """Return *text* without escape sequences and control characters other than line feeds and tabs."""
    kept = without_escapes(text).replace("\r\n", "\n")
    return kept if kept.isprintable() else "".join(c if c in "\n\t" or c.isprintable() else "\ufffd" for c in kept)
