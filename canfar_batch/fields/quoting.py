"""Where a field stands in a shell command, and whether quoting its value makes it one word there."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import attrs


def surroundings(text: str, fields: Mapping[int, int]) -> dict[int, str]:
    """Return the *fields* (begin → end) that cannot be quoted where they stand, each with the place in words.

    This is not a shell's whole grammar. A field after text that can be read in two ways counts as unsafe, so that no
    field is taken for free-standing that a shell sees inside quotes.
    """
    scan = _Scan(text, fields)
    while scan.at < len(text):
        if scan.at in fields:
            scan.field()
        else:
            _STATES[scan.state](scan)
    # a field that was never reached is part of something else
    return {**dict.fromkeys(set(fields) - scan.reached, _INTRICATE), **scan.unsafe}


@attrs.define
class _Scan:
    """A walk through a shell command: the place, what is open there, and the unsafe fields found so far."""

    text: str
    fields: Mapping[int, int]
    at: int = 0
    state: str = "plain"  #: or the quote that is open
    braces: int = 0  #: how many ``${`` are open
    lost: str = ""  #: why nothing is certain any more
    reached: set[int] = attrs.field(factory=set)
    unsafe: dict[int, str] = attrs.field(factory=dict)

    def field(self) -> None:
        """Judge the field at this place and go past it."""
        self.reached.add(self.at)
        place = self.lost or _QUOTED.get(self.state, "") or (_EXPANSION if self.braces else "")
        if place:
            self.unsafe[self.at] = place
        self.at = self.fields[self.at]

    def refuse(self, begin: int, end: int, place: str) -> None:
        """Make every field between *begin* and *end* unsafe."""
        self.unsafe.update({at: place for at in self.fields if begin <= at < end})

    def give_up(self, why: str) -> None:
        """Make every field from here on unsafe."""
        self.lost = self.lost or why

    def escape(self) -> None:
        """Go past a backslash and the character after it."""
        self.at += 1
        if self.at in self.fields:
            self.unsafe[self.at] = self.lost or _QUOTED.get(self.state, "after a backslash, which it does not need,")
        else:
            self.at += 1


# -- one function per state -----------------------------------------------------------------------------------------


def _in_single_quotes(scan: _Scan) -> None:
    scan.state = "plain" if scan.text[scan.at] == "'" else scan.state
    scan.at += 1


def _in_quotes(scan: _Scan) -> None:
    """Read one character inside double quotes or backquotes."""
    char = scan.text[scan.at]
    if char == "\\":
        scan.escape()
        return
    if char == scan.state:
        scan.state = "plain"
    elif char in "$`" and not _is_simple_substitution(scan.text, scan.at):
        scan.give_up(_INTRICATE)
    scan.at += 1


def _in_plain_text(scan: _Scan) -> None:
    """Read one construct outside quotes, by the first row of `_CONSTRUCTS` that fits."""
    for pattern, read in _CONSTRUCTS:
        if found := pattern.match(scan.text, scan.at):
            read(scan, found)
            return
    scan.at += 1


_STATES: Mapping[str, Callable[[_Scan], None]] = {
    "plain": _in_plain_text,
    "'": _in_single_quotes,
    '"': _in_quotes,
    "`": _in_quotes,
}


# -- one function per construct outside quotes ------------------------------------------------------------------------


def _escape(scan: _Scan, _: re.Match[str]) -> None:
    scan.escape()


def _open_quote(scan: _Scan, found: re.Match[str]) -> None:
    scan.state = found[0]
    # $'…' ends elsewhere in bash than in other shells
    if scan.text[: scan.at].endswith("$") or (found[0] == "`" and not _is_simple_substitution(scan.text, scan.at)):
        scan.give_up(_INTRICATE)
    scan.at += 1


def _comment(scan: _Scan, found: re.Match[str]) -> None:
    if scan.braces or not _WORD_BEGINS.search(scan.text, 0, scan.at):
        scan.at += 1
        return
    scan.refuse(scan.at + 1, found.end(), "in a comment")
    if re.search(r"(?:[)<>]|\\\n)$", scan.text[: scan.at]):
        scan.give_up(_INTRICATE)
    scan.at = found.end()


def _whole_arithmetic(scan: _Scan, found: re.Match[str]) -> None:
    scan.refuse(scan.at + 1, found.end(), _ARITHMETIC)
    scan.at = found.end()


def _arithmetic(scan: _Scan, _: re.Match[str]) -> None:
    scan.give_up(_ARITHMETIC)
    scan.at += 1


def _here_string(scan: _Scan, found: re.Match[str]) -> None:
    scan.at = found.end()


def _here_document(scan: _Scan, _: re.Match[str]) -> None:
    scan.give_up(_HEREDOC)
    scan.at += 1


def _open_expansion(scan: _Scan, found: re.Match[str]) -> None:
    scan.braces += 1
    scan.at = found.end()


def _close_brace(scan: _Scan, found: re.Match[str]) -> None:
    scan.braces = max(0, scan.braces - 1)
    scan.at = found.end()


_CONSTRUCTS: tuple[tuple[re.Pattern[str], Callable[[_Scan, re.Match[str]], None]], ...] = (
    (re.compile(r"\\"), _escape),
    (re.compile(r"['\"`]"), _open_quote),
    (re.compile(r"#[^\n]*"), _comment),
    (re.compile(r"\$?\(\((?:[^()\"'`\\]|\([^()\"'`\\]*\))*\)\)"), _whole_arithmetic),
    (re.compile(r"\$\(\(|\(\(|\$\["), _arithmetic),
    (re.compile(r"<<<"), _here_string),
    (re.compile(r"<<"), _here_document),
    (re.compile(r"\$\{"), _open_expansion),
    (re.compile(r"\}"), _close_brace),
)
_WORD_BEGINS = re.compile(r"(?:^|[\s;&|()<>])$")


def _is_simple_substitution(text: str, at: int) -> bool:
    """Return whether the dollar or backquote at *at* begins something that certainly contains no quotes."""
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


_TAKE_AWAY = "its value is quoted for the shell anyway: remove these quotes"
_BY_VARIABLE = 'give it as an environment variable, env={"X": "{…}"}, and write "$X"'
_QUOTED = {
    "'": f"inside single quotes ({_TAKE_AWAY})",
    '"': f"inside double quotes ({_TAKE_AWAY})",
    "`": "inside backquotes (write $(…) instead)",
}
_EXPANSION = f"inside ${{…}} ({_BY_VARIABLE})"
_HEREDOC = f"after the << of a here-document ({_BY_VARIABLE})"
_ARITHMETIC = f"in shell arithmetic, or after what may be arithmetic ({_BY_VARIABLE})"
_INTRICATE = f"after quotes within quotes, where it is not certain what is quoted ({_BY_VARIABLE})"
