"""Splitting a command into words by shell rules, without running a shell."""

from __future__ import annotations

import re
from typing import NoReturn

from canfar_batch.errors import SpecError
from canfar_batch.fields.templates import FIELD
from canfar_batch.fields.values import shortened

_PIECE = re.compile(
    r"""
      (?P<joined> \\\n )
    | (?P<blank> [ \t\n]+ )
    | \\ (?P<escaped> . )
    | ' (?P<single> [^']* ) '
    | " (?P<double> (?: [^"\\] | \\. )* ) "
    | (?P<bare> [^'"\\] )
    """,
    re.VERBOSE | re.DOTALL,
)
_EXPANDED = re.compile(r"\\.|(?P<live>\$[\w({@*#?!$-]|`)", re.DOTALL)  # filled in by a shell in double quotes too


def split_words(text: str) -> tuple[str, ...]:
    """Split a command line into words by the shell's rules for quotes and backslashes; fields are not filled.

    Syntax that needs a shell is refused instead of taken literally or dropped: redirection, pipes, wildcards,
    variables, several commands, comments. Between single quotes everything is literal.

    Raises:
        SpecError: The text needs a shell, or its quotes do not match.
    """
    words: list[list[str]] = []
    word: list[str] | None = None  # None between two words
    at = 0
    while at < len(text):
        found = FIELD.match(text, at) or _PIECE.match(text, at)
        if found is None:
            raise SpecError(
                f"the command {shortened(text)} has an unmatched {text[at]} ({shortened(text[at:], 20)}); "
                f"quote it, or give the command as a list of words, which needs no quotes"
            )
        if found.re is _PIECE and found.lastgroup == "blank":
            if "\n" in found[0] and words and found.end() < len(text):
                _needs_shell(text, "a line break (a backslash before it joins the lines)")
            word = None
        elif found.lastgroup != "joined":
            if word is None:
                words.append(word := [])
            word.append(_piece(text, found))
        at = found.end()
    return tuple("".join(word) for word in words)


def _piece(text: str, found: re.Match[str]) -> str:
    """Return the text that one piece of a word stands for."""
    kind = found.lastgroup if found.re is _PIECE else None
    if kind == "bare":
        _refuse_bare(text, found.start())
    if kind == "double":
        _refuse_expansion(text, _LINE_GOES_ON.sub(_without, found["double"]))
        return re.sub(r'\\([$`"\\\n])', lambda pair: pair[1].strip("\n"), found["double"])
    return found[kind] if kind else found[0]


_LINE_GOES_ON = re.compile(r"\\(.)", re.DOTALL)


def _without(pair: re.Match[str]) -> str:
    """Remove a backslash at the end of a line, as a shell does; leave others."""
    return "" if pair[1] == "\n" else pair[0]


def _refuse_bare(text: str, at: int) -> None:
    char = text[at]
    if char in "><|&;*?":
        _needs_shell(text, f"a bare {char}")
    if char in "~#" and (at == 0 or text[at - 1] in " \t\n"):
        _needs_shell(text, f"a bare {char} at the beginning of a word")
    if char in "$`":
        _refuse_expansion(text, char + _LINE_GOES_ON.sub(_without, text[at + 1 : at + 100])[:1])


def _refuse_expansion(text: str, part: str) -> None:
    for found in _EXPANDED.finditer(part):
        if found["live"]:
            _needs_shell(text, f"{found['live']}…, which a shell would fill in")


def _needs_shell(text: str, what: str) -> NoReturn:
    raise SpecError(
        f"the command {shortened(text)} has {what}: say shell=True to run it by a shell; to mean it literally, put it "
        f"between single quotes, or give the command as a list of words"
    )
