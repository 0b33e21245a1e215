"""Fields: the values a job's template is filled with, the templates themselves, and the key made of the values.

A field is ``{name}``, with attribute and index access (``{path.stem}``, ``{row[ra]}``, ``{pair[0]}``), a conversion
(``!r``, ``!s``, ``!a``) and a format (``{x:.3f}``, ``{night:%Y-%m-%d}``). The grammar is narrow on purpose, because
commands are full of braces that are none of ours. As written stay, among others, ``{print $1}``, ``{'a': 1}``,
``{a: .b}``, ``{}``, ``{1..9}`` and ``${VAR}``. ``{{`` and its matching ``}}`` stand for single braces; braces that
double only by chance, as at the end of nested JSON, stay.
"""

from __future__ import annotations

import datetime as dt
import decimal
import difflib
import enum
import fractions
import glob
import hashlib
import inspect
import json
import math
import numbers
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import PurePath, PurePosixPath
from typing import Any, NoReturn

import attrs

from canfar_batch.errors import SpecError

_NAME = r"[^\W\d]\w*"
FIELD = re.compile(
    rf"""
    (?<!\$)                                # ${{VAR}} is the shell's
    \{{ (?P<name>{_NAME})
        (?P<path> (?: \.{_NAME} | \[[\w.+-]+\] )* )
        (?: ! (?P<conversion>[rsa]) )?
        (?: : (?P<format>
              (?: [^\s{{}}'"\\]? [<>=^] )? [-+]? z? \#? \d* [_,]? (?:\.\d+)? [bcdeEfFgGnosxX%]?
            | (?=\S) [^{{}}'"`\\\n]* %[-A-Za-z] [^{{}}'"`\\\n]*    # as strftime has it, blanks included
        ) )?
    \}}""",
    re.VERBOSE,
)
#: Begins like a field, but is none: an error where its name is a known field's, so that no typing mistake is sent.
_SUSPECT = re.compile(rf"(?<!\$)\{{({_NAME})(?=[.\[!:][^\s\"'])")


# -- templates ----------------------------------------------------------------------------------------------------


_CONVERSIONS: Mapping[str, Callable[[object], str]] = {"r": repr, "s": str, "a": ascii}


@attrs.frozen
class Field:
    """One ``{…}`` in a template."""

    name: str
    steps: tuple[tuple[bool, str | int], ...]  #: from the value to what is shown: (is an attribute, its name or index)
    conversion: str | None
    format: str
    text: str  #: as it was written

    @classmethod
    def read(cls, found: re.Match[str]) -> Field:
        """The field in a match of `FIELD`."""
        steps: list[tuple[bool, str | int]] = []
        for attribute, index in re.findall(rf"\.({_NAME})|\[([\w.+-]+)\]", found["path"]):
            if attribute.startswith("_"):
                raise SpecError(
                    f"{found[0]} reads the private attribute {attribute!r}; a template may read public ones"
                )
            steps.append((True, attribute) if attribute else (False, _index(index)))
        return cls(found["name"], tuple(steps), found["conversion"], found["format"] or "", found[0])

    def show(self, values: Mapping[str, Any]) -> str:
        """The text that stands in place of the field.

        Raises:
            SpecError: There is no such field, or its value is missing, masked, or nothing that one can write.
        """
        try:
            value = values[self.name]
        except KeyError:
            raise SpecError(_unknown(self, values)) from None
        kind = type(value)
        if (kind is str or kind is int) and not self.steps and not self.conversion and not self.format:
            return str(value)
        for is_attribute, step in self.steps:
            self._refuse_unfit(value, whole=False)
            try:
                value = getattr(value, str(step)) if is_attribute else value[step]
            except (AttributeError, LookupError, TypeError, ValueError) as error:
                raise SpecError(f"{self.text}: a {type(value).__name__} has no {step!r} ({error})") from error
        self._refuse_unfit(value, whole=True)
        if self.conversion:
            value = _CONVERSIONS[self.conversion](value)
        elif not self.format:
            # not format(): numpy's shows a float32 with the digits of a float64
            return os.fsdecode(value) if isinstance(value, os.PathLike) else str(value)
        try:
            return format(value, self.format)
        except (TypeError, ValueError) as error:
            raise SpecError(f"{self.text} does not fit {value!r}: {error}") from error

    def _refuse_unfit(self, value: object, *, whole: bool) -> None:
        if (reason := _missing(value)) or (whole and (reason := _unwritable(value))):
            raise SpecError(f"field {self.text} {reason}")


@attrs.frozen
class Template:
    """A text with fields in it, read once and filled often."""

    text: str
    parts: tuple[str | Field, ...]
    suspects: tuple[str, ...] = ()  #: names that stand in something that is almost a field
    fields: tuple[Field, ...] = attrs.field(init=False)  #: the fields among the parts
    plain: str = attrs.field(init=False, repr=False)  #: the parts that are none

    @fields.default
    def _fields(self) -> tuple[Field, ...]:
        return tuple(part for part in self.parts if isinstance(part, Field))

    @plain.default
    def _plain_text(self) -> str:
        return "".join(part for part in self.parts if isinstance(part, str))

    @classmethod
    def read(cls, text: str) -> Template:
        """Find the fields of *text*."""
        parts, suspects = _parts(text)
        return cls(text, tuple(part for _, part in parts), suspects)

    @classmethod
    def read_shell(cls, text: str) -> Template:
        """Find the fields of a shell command, and refuse those that quoting cannot make safe where they stand.

        Raises:
            SpecError: A field stands inside quotes, a comment, a here-document, arithmetic or ``${…}``, or behind a
                backslash, or where this cannot be told for certain.
        """
        parts, suspects = _parts(text)
        places = {place: part for place, part in parts if isinstance(part, Field)}
        for place, around in _surroundings(text, {at: at + len(field.text) for at, field in places.items()}).items():
            raise SpecError(f"field {places[place].text} stands {around} of the shell command {_short(text)}")
        return cls(text, tuple(part for _, part in parts), suspects)

    def fill(self, values: Mapping[str, Any], written: Callable[[str], str] | None = None) -> str:
        """The text with its fields filled; *written* quotes or escapes each field's text.

        Raises:
            SpecError: See `Field.show`; also a NUL in a value.
        """
        for name in self.suspects:
            if name in values:
                raise SpecError(
                    f"{{{name}…}} in {_short(self.text)} is no field that can be filled: formats are as {{x:.3f}} or "
                    f"{{t:%Y-%m-%d}}, without nested fields; double the braces if they are meant as they stand"
                )
        if not self.fields:
            return self.plain
        texts: list[str] = []
        for part in self.parts:
            if isinstance(part, str):
                texts.append(part)
                continue
            text = part.show(values)
            if "\0" in text:
                raise SpecError(f"the value of field {part.text} contains a NUL, which no argument can")
            texts.append(text if written is None else written(text))
        return "".join(texts)


def shell_quoted(text: str) -> str:
    """*text* as one word of a shell command."""
    return shlex.quote(text)


def literal(text: str) -> str:
    """*text* as a pattern that matches just itself."""
    return glob.escape(text)


_BRACE = re.compile("[{}]")


def _index(text: str) -> str | int:
    return int(text) if re.fullmatch(r"-?[0-9]+", text) else text


def _parts(text: str) -> tuple[list[tuple[int, str | Field]], tuple[str, ...]]:
    """The fields of *text* and what stands between them, each with its place; and the names that stand in suspects."""
    parts: list[tuple[int, str | Field]] = []
    suspects: list[str] = []
    closing: set[int] = set()  # where the `}}` of an escape begins
    plain: list[str] = []
    at = done = 0
    while brace := _BRACE.search(text, at):
        at = brace.start()
        if at not in closing and (end := _closing(text, at)) is not None:
            closing.update((at, end))
        if at in closing:
            plain.append(text[done : at + 1])
            done = at = at + 2
        elif found := FIELD.match(text, at):
            parts += [(done, "".join([*plain, text[done:at]])), (at, Field.read(found))]
            plain.clear()
            done = at = found.end()
        else:
            if suspect := _SUSPECT.match(text, at):
                suspects.append(suspect[1])
            at += 1
    parts.append((done, "".join([*plain, text[done:]])))
    return [(place, part) for place, part in parts if part != ""], tuple(suspects)


def _closing(text: str, start: int) -> int | None:
    """Where the ``}}`` begins that belongs to a ``{{`` at *start*; None where that is no escape."""
    if not text.startswith("{{", start) or text.find("}}", start) < 0:
        return None
    opened = [2]  # how many braces each open one needs to be closed
    at = start + 2
    while at < len(text):
        if text.startswith("{{", at):
            opened.append(2)
            at += 2
        elif found := FIELD.match(text, at):
            at = found.end()
        elif text[at] == "{":
            opened.append(1)
            at += 1
        elif text[at] == "}":
            width = opened[-1]
            if width == 2 and not text.startswith("}}", at):
                # what looked doubled were two single ones; one of them is closed here
                if len(opened) == 1:
                    return None
                opened[-1] = width = 1
                at += 1
                continue
            opened.pop()
            if not opened:
                return at
            at += width
        else:
            at += 1
    return None


def _unknown(field: Field, values: Mapping[str, Any]) -> str:
    known = [name for name in values if isinstance(name, str)]
    close = difflib.get_close_matches(field.name, known, n=1)
    return (
        f"unknown field {field.text}; "
        + (f"did you mean {{{close[0]}}}? " if close else "")
        + f"known are {', '.join(known)}. Write {{{field.text}}} if the braces are meant as they stand"
    )


def _short(text: str, width: int = 60) -> str:
    return repr(text if len(text) <= width else text[: width - 1] + "…")


# -- values -------------------------------------------------------------------------------------------------------


class Unwritten:
    """What no text is made of, for it is to be written down nowhere."""

    __slots__ = ()

    def advice(self) -> str:
        """What to do instead."""
        raise NotImplementedError


def _missing(value: object) -> str | None:
    """Why there is no value, if there is none: None, NaN, NaT, NA or masked, whatever package it comes from."""
    advice = "; leave such jobs out, or give the field a value"
    if value is None:
        return f"is None{advice}"
    kind = type(value)
    if kind in _WHOLE_TYPES or isinstance(value, PurePath):
        return None
    if kind.__name__ in ("NAType", "NaTType"):
        return f"is missing ({value}){advice}"
    if (mask := getattr(value, "mask", None)) is not None and getattr(mask, "shape", None) == () and bool(mask):
        return f"is masked{advice}"
    try:
        unequal = bool(value != value)  # only NaN and NaT differ from themselves
    except (TypeError, ValueError, ArithmeticError):
        return None  # it does not compare as one value: an array, say, which is judged elsewhere
    return f"is not a number ({value}){advice}" if unequal else None


_WHOLE_TYPES = frozenset({str, int, bool, bytes})  #: values of these types are never missing
_WRITABLE_TYPES = frozenset({str, int, bool, float})  #: values of these types have a text


def _unwritable(value: object) -> str | None:
    """Why *value* has no sensible text, if it has none."""
    if type(value) in _WRITABLE_TYPES or isinstance(value, PurePath):
        return None
    if isinstance(value, Unwritten):
        return f"is a {type(value).__name__}, {value.advice()}"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"is bytes; decode it first: {_short(repr(value), 40)}"
    if getattr(value, "ndim", 0):
        return "is an array; give one of its elements, or write the array to a file"
    if inspect.isroutine(value):
        return "is a function; a template reads attributes, it does not call"
    return None


def plain_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """*fields* as JSON has them: the same on every machine, in every process and Python version.

    Numbers of numpy become Python's; paths, times, decimals, fractions and quantities become text; missing and masked
    values become None; tuples, sets and arrays become lists.

    Raises:
        SpecError: A value has no stable text, as an object that shows its address in memory.
    """
    return {str(name): _plain(value, name) for name, value in fields.items()}


def _plain(value: Any, name: object) -> Any:
    if type(value) in (str, int, bool):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, enum.Enum):
        return _plain(value.value, name)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "backslashreplace")
    if isinstance(value, Mapping):
        return {str(key): _plain(item, name) for key, item in value.items()}
    if _missing(value):
        return None
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return str(value)
    if (unit := getattr(value, "unit", None)) is not None and hasattr(value, "value"):
        return f"{_plain(value.value, name)} {unit}"
    if getattr(value, "ndim", 0) and hasattr(value, "tolist"):
        return [_plain(item, name) for item in value]
    if isinstance(value, Set):
        return sorted((_plain(item, name) for item in value), key=_canonical)
    if isinstance(value, Sequence):
        return [_plain(item, name) for item in value]
    return _plain_scalar(value, name)


def _plain_scalar(value: Any, name: object) -> Any:
    if isinstance(value, Unwritten):
        raise SpecError(f"field {name} is a {type(value).__name__}, {value.advice()}")
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, (decimal.Decimal, fractions.Fraction)):
        return str(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        return number if math.isfinite(number) else str(number)  # JSON knows no infinity
    if getattr(getattr(value, "dtype", None), "kind", None) == "b":
        return bool(value)
    text = str(value)
    if re.search(r" at 0x[0-9a-fA-F]+", text):
        raise SpecError(
            f"field {name} is a {type(value).__name__}, whose text changes from run to run ({_short(text)}); "
            f"give a number, a string or a path, so that the job can be known again"
        )
    return text


_canonical = json.JSONEncoder(sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode


# -- keys ---------------------------------------------------------------------------------------------------------

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SLUG_WIDTH = 60


def job_key(fields: Mapping[str, Any]) -> str:
    """A readable name for the job with these fields: a slug of their values, and 8 hex digits of all of them.

    The same fields give the same key everywhere and always, in whatever order they come.

    Raises:
        SpecError: See `plain_fields`.
    """
    plain = plain_fields(fields)
    digest = hashlib.sha256(_canonical(plain).encode()).hexdigest()[:8]
    slug = "-".join(filter(None, (_slug(name, fields[name]) for name in sorted(fields))))
    return f"{slug[:_SLUG_WIDTH].rstrip('._-') or 'job'}-{digest}"


def check_key(key: object) -> str:
    """*key*, if it can name a job.

    Raises:
        SpecError: It cannot.
    """
    if not isinstance(key, str):
        raise SpecError(f"key={key!r} is not a string")
    if not _KEY.fullmatch(key):
        raise SpecError(
            f"key={key!r} cannot name a job: it takes 1 to 100 letters, digits, '.', '_' and '-', "
            f"the first of them a letter or digit"
        )
    return str(key)


def _slug(name: str, value: object) -> str:
    if isinstance(value, PurePath):
        text = value.stem
    elif isinstance(value, str) and "/" in value:
        text = PurePosixPath(value).stem
    elif isinstance(value, str):
        text = value
    elif isinstance(value, os.PathLike):
        text = PurePosixPath(os.fsdecode(value)).stem
    else:
        text = f"{name}{_plain(value, name)}"  # a bare number would not say what it is
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-")


# -- shell --------------------------------------------------------------------------------------------------------


def _surroundings(text: str, fields: Mapping[int, int]) -> dict[int, str]:
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


# -- words --------------------------------------------------------------------------------------------------------


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
_EXPANDED = re.compile(r"\\.|(?P<live>\$[\w({@*#?!$-]|`)", re.DOTALL)  # what double quotes do not keep from a shell


def split_words(text: str) -> tuple[str, ...]:
    """The words of a command line, by the shell's rules for quotes and backslashes; fields are left as they stand.

    What only a shell can do is refused instead of taken literally or dropped: redirection, pipes, wildcards, variables,
    several commands, comments. Between single quotes everything is literal.

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
                f"the command {_short(text)} has an unmatched {text[at]} ({_short(text[at:], 20)}); "
                f"quote it, or give the command as a list of words, which needs no quotes"
            )
        if found.re is _PIECE and found.lastgroup == "blank":
            if "\n" in found[0] and words and found.end() < len(text):
                _needs_shell(text, "a line break (a backslash before it makes the lines one)")
            word = None
        elif found.lastgroup != "joined":
            if word is None:
                words.append(word := [])
            word.append(_piece(text, found))
        at = found.end()
    return tuple("".join(word) for word in words)


def _piece(text: str, found: re.Match[str]) -> str:
    """What one piece of a word stands for."""
    kind = found.lastgroup if found.re is _PIECE else None
    if kind == "bare":
        _refuse_bare(text, found.start())
    if kind == "double":
        _refuse_expansion(text, _LINE_GOES_ON.sub(_without, found["double"]))
        return re.sub(r'\\([$`"\\\n])', lambda pair: pair[1].strip("\n"), found["double"])
    return found[kind] if kind else found[0]


_LINE_GOES_ON = re.compile(r"\\(.)", re.DOTALL)


def _without(pair: re.Match[str]) -> str:
    """What a shell makes of a backslash and what follows: both are nothing where that is the line's end."""
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
        f"the command {_short(text)} has {what}: say shell=True to have a shell understand it, or put it between "
        f"single quotes, or give the command as a list of words, to mean it literally"
    )
