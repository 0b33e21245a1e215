"""Fields: the values a job's template is filled with, the templates themselves, and the key made of the values.

A field is ``{name}``, with attribute and index access (``{path.stem}``, ``{row[ra]}``, ``{pair[0]}``), a conversion
(``!r``, ``!s``, ``!a``) and a format (``{x:.3f}``, ``{night:%Y-%m-%d}``). The grammar is narrow on purpose, because
commands are full of braces that are none of ours. As written stay, among others, ``{print $1}``, ``{'a': 1}``,
``{a: .b}``, ``{}``, ``{1..9}`` and ``${VAR}``. ``{{`` and its matching ``}}`` stand for single braces; braces that
double only by chance, as at the end of nested JSON, stay.
"""

from __future__ import annotations

import difflib
import glob
import os
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from canfar_batch.errors import SpecError
from canfar_batch.fields.quoting import surroundings
from canfar_batch.fields.values import missing_kind, shortened, unwritable_kind

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
        if (reason := missing_kind(value)) or (whole and (reason := unwritable_kind(value))):
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
        for place, around in surroundings(text, {at: at + len(field.text) for at, field in places.items()}).items():
            raise SpecError(f"field {places[place].text} stands {around} of the shell command {shortened(text)}")
        return cls(text, tuple(part for _, part in parts), suspects)

    def fill(self, values: Mapping[str, Any], written: Callable[[str], str] | None = None) -> str:
        """The text with its fields filled; *written* quotes or escapes each field's text.

        Raises:
            SpecError: See `Field.show`; also a NUL in a value.
        """
        for name in self.suspects:
            if name in values:
                raise SpecError(
                    f"{{{name}…}} in {shortened(self.text)} cannot be filled: formats are like {{x:.3f}} or "
                    f"{{t:%Y-%m-%d}}, without nested fields; double the braces to keep them as they are"
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
