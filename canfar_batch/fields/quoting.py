"""Where a field stands in a shell text, and whether quoting makes it safe there."""

from __future__ import annotations

import re
from collections.abc import Mapping


def surroundings(text: str, fields: Mapping[int, int]) -> dict[int, str]:
    """Which *fields* (begin → end) stand where quoting would not make one word of them, and how to say so.

    This is not a shell's whole grammar. What could be read in two ways is unsafe from there on, so that no field is
    ever believed to stand free that a shell sees inside quotes.
    """
    unsafe: dict[int, str] = {}
    quote = ""  # the quote that is open
    braces = 0  # how many ${ are open
    visited: set[int] = set()
    lost = ""  # why nothing is certain any more
    at = 0
    while at < len(text):
        if at in fields:
            visited.add(at)
            if around := lost or _QUOTED.get(quote, "") or (_EXPANSION if braces else ""):
                unsafe[at] = around
            at = fields[at]
            continue
        start, char = at, text[at]
        at += 1
        if quote == "'":
            quote = "" if char == "'" else quote
        elif char == "\\":
            if at in fields:
                unsafe[at] = lost or _QUOTED.get(quote, "behind a backslash, which it does not need,")
            else:
                at += 1
        elif quote:
            quote = "" if char == quote else quote
            if quote and char in "$`" and not _simple_substitution(text, start):
                lost = lost or _INTRICATE
        elif char in "'\"`":
            quote = char
            # $'…' ends elsewhere in bash than in other shells
            if text[:start].endswith("$") or (char == "`" and not _simple_substitution(text, start)):
                lost = lost or _INTRICATE
        elif char == "#" and not braces and _WORD_BEGINS.search(text, 0, start):
            end = len(text) if (end := text.find("\n", at)) < 0 else end
            unsafe.update({place: "in a comment" for place in fields if at <= place < end})
            lost = lost or (_INTRICATE if re.search(r"(?:[)<>]|\\\n)$", text[:start]) else "")
            at = end
        elif arithmetic := _ARITHMETIC_TEXT.match(text, start):
            unsafe.update({place: _ARITHMETIC for place in fields if at <= place < arithmetic.end()})
            at = arithmetic.end()
        elif text.startswith(("$((", "((", "$["), start):
            lost = lost or _ARITHMETIC
        elif text.startswith("<<<", start):
            at += 2
        elif text.startswith("<<", start):
            lost = lost or _HEREDOC
        elif text.startswith("${", start):
            at += 1
            braces += 1
        elif char == "}" and braces:
            braces -= 1
    # what was passed over was part of something else
    return {**dict.fromkeys(set(fields) - visited, _INTRICATE), **unsafe}


_WORD_BEGINS = re.compile(r"(?:^|[\s;&|()<>])$")
_ARITHMETIC_TEXT = re.compile(r"\$?\(\((?:[^()\"'`\\]|\([^()\"'`\\]*\))*\)\)")


def _simple_substitution(text: str, at: int) -> bool:
    """Whether what begins at *at* with a dollar or backquote certainly has no quotes of its own in it."""
    if text[at] == "`":
        return re.match(r"`[^`\"'\\]*`", text[at:]) is not None
    if text.startswith("${", at):
        return re.match(r"\$\{[^{}\"'\\`$]*\}", text[at:]) is not None
    if not text.startswith("$(", at):
        return True
    depth = 0
    for place in range(at + 1, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return not re.search(r"[\"'\\`#]|<<|\bcase\b", text[at:place])
    return False


_TAKE_AWAY = "it is quoted for the shell by itself: take them away"
_BY_VARIABLE = 'give it as an environment variable, env={"X": "{…}"}, and write "$X"'
_QUOTED = {
    "'": f"inside single quotes ({_TAKE_AWAY})",
    '"': f"inside double quotes ({_TAKE_AWAY})",
    "`": "inside backquotes (write $(…) instead)",
}
_EXPANSION = f"inside ${{…}} ({_BY_VARIABLE})"
_HEREDOC = f"behind a here-document's << ({_BY_VARIABLE})"
_ARITHMETIC = f"in shell arithmetic, or behind what may be some ({_BY_VARIABLE})"
_INTRICATE = f"behind quotes within quotes, where no one can tell what is quoted ({_BY_VARIABLE})"
