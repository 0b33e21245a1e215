"""Templates: texts with fields, which each job's values fill.

A field is ``{name}``, with attribute and index access (``{path.stem}``, ``{row[ra]}``, ``{pair[0]}``), a conversion
(``!r``, ``!s``, ``!a``) and a format (``{x:.3f}``, ``{night:%Y-%m-%d}``). The grammar is narrow on purpose, because
commands contain many other braces. Left unchanged are, among others, ``{print $1}``, ``{'a': 1}``, ``{a: .b}``,
``{}``, ``{1..9}`` and ``${VAR}``; refused are braces around a job's field that is not written as a field, such as a
column called ``B-V``. ``{{`` and its matching ``}}`` stand for single braces; braces that are doubled only by chance,
as at the end of nested JSON, are left unchanged.
"""

from __future__ import annotations

import enum
import os
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

import attrs

from canfar_batch.errors import SpecError
from canfar_batch.fields.quoting import surroundings
from canfar_batch.fields.values import (
    is_mangled_id,
    missing_kind,
    shortened,
    shows_lost_digits,
    unwritable_kind,
)
from canfar_batch.text import did_you_mean

_NAME = r"[^\W\d]\w*"
FIELD = re.compile(
    rf"""
    (?<!\$)                                # ${{VAR}} belongs to the shell
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
#: Begins like a field, and is not one: an error if a known field has this name, so that no typing mistake is sent.
_SUSPECT = re.compile(rf"(?<!\$)\{{({_NAME})(?=[.\[!:][^\s\"'])")
#: Anything else between braces: an error if it is, but for its punctuation, the name of a known field.
_LOOSE = re.compile(r"(?<!\$)\{\s*([^{}\n\"'`$,;|&<>=:!]{1,80}?)\s*(?:[:!][^\s{}\"'][^{}\n\"']*)?\}")


#: a number between braces, as `str.format` has it; a quantifier of a regular expression follows a character
_NUMBERED = re.compile(r"(?<![^\s/=_.:,'\"-])\{\d\}")

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
        """Make the field of a match of `FIELD`."""
        steps: list[tuple[bool, str | int]] = []
        for attribute, index in re.findall(rf"\.({_NAME})|\[([\w.+-]+)\]", found["path"]):
            if attribute.startswith("_"):
                raise SpecError(
                    f"{found[0]} reads the private attribute {attribute!r}; a template may read public ones"
                )
            steps.append((True, attribute) if attribute else (False, _index(index)))
        return cls(found["name"], tuple(steps), found["conversion"], found["format"] or "", found[0])

    def show(self, values: Mapping[str, Any]) -> str:
        """Return the text that replaces the field.

        Raises:
            SpecError: There is no such field, or its value is missing, masked, or has no sensible text.
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
                raise SpecError(self._no_step(value, step, error)) from error
        self._refuse_unfit(value, whole=True)
        if isinstance(value, enum.Enum):
            value = value.value  # the text of a member differs between Python's versions
        text = self._written(value)
        if is_mangled_id(value) and (not self.format or shows_lost_digits(value, text)):
            raise SpecError(
                f"field {self.text} is {value!r}, a floating-point number too large to have all its digits: if it is "
                f"an identifier, read its column as integers or as text (in pandas: dtype='Int64'); if it is a "
                f"measurement, give a format with fewer digits, as {{{self.name}:.6g}}"
            )
        return text

    def _written(self, value: Any) -> str:
        if self.conversion:
            value = _CONVERSIONS[self.conversion](value)
        elif not self.format:
            # not format(): numpy's shows a float32 with the digits of a float64
            return os.fsdecode(value) if isinstance(value, os.PathLike) else str(value)
        try:
            return format(value, self.format)
        except (TypeError, ValueError) as error:
            raise SpecError(f"{self.text} does not fit {value!r}: {error}") from error

    def _no_step(self, value: object, step: str | int, error: Exception) -> str:
        problem = f"{self.text}: a {type(value).__name__} has no {step!r} ({error})"
        if isinstance(value, str) and hasattr(PurePath, str(step)):
            problem += f"; give paths instead of strings, as {self.name}=[Path(name) for name in …] (from pathlib)"
        return problem

    def _refuse_unfit(self, value: object, *, whole: bool) -> None:
        if (reason := missing_kind(value)) or (whole and (reason := unwritable_kind(value))):
            raise SpecError(f"field {self.text} {reason}")


@attrs.frozen
class Template:
    """A text with fields in it, read once and filled often."""

    text: str
    parts: tuple[str | Field, ...]
    suspects: tuple[str, ...] = ()  #: names in something that is almost a field
    loose: tuple[str, ...] = ()  #: other texts between braces
    numbered: tuple[str, ...] = ()  #: numbers between braces where a field may be meant
    fields: tuple[Field, ...] = attrs.field(init=False)  #: the fields among the parts
    plain: str = attrs.field(init=False, repr=False)  #: the parts that are not fields

    @fields.default
    def _fields(self) -> tuple[Field, ...]:
        return tuple(part for part in self.parts if isinstance(part, Field))

    @plain.default
    def _plain_text(self) -> str:
        return "".join(part for part in self.parts if isinstance(part, str))

    @classmethod
    def read(cls, text: str) -> Template:
        """Find the fields of *text*."""
        found = _Reader.read(text)
        parts = tuple(part for _, part in found.parts)
        return cls(text, parts, tuple(found.suspects), tuple(found.loose), tuple(found.numbered))

    @classmethod
    def read_shell(cls, text: str) -> Template:
        """Find the fields of a shell command, and refuse those that quoting cannot make safe.

        Raises:
            SpecError: A field stands inside quotes, a comment, a here-document, arithmetic or ``${…}``, or after a
                backslash, or this is not certain.
        """
        places = {place: part for place, part in _Reader.read(text).parts if isinstance(part, Field)}
        for place, around in surroundings(text, {at: at + len(field.text) for at, field in places.items()}).items():
            raise SpecError(f"field {places[place].text} stands {around} of the shell command {shortened(text)}")
        return cls.read(text)

    def fill(self, values: Mapping[str, Any], written: Callable[[str], str] | None = None) -> str:
        """Return the text with its fields filled; *written* quotes or escapes the text of each field.

        Raises:
            SpecError: See `Field.show`; also for a NUL in a value, and for braces around the name of a field that are
                not written as a field.
        """
        if self.loose:
            self._refuse_misspelt(values)
        if self.numbered:
            raise SpecError(
                f"{self.numbered[0]} in {shortened(self.text)} is not filled in: fields have names, as {{path}}; to "
                "mean the braces, double them"
            )
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
                raise SpecError(f"the value of field {part.text} contains a NUL, which an argument cannot")
            texts.append(text if written is None else written(text))
        return "".join(texts)

    def _refuse_misspelt(self, values: Mapping[str, Any]) -> None:
        """Refuse braces around the name of a field, such as a column ``B-V``, that are not written as a field."""
        known = {_squashed(name): name for name in values if isinstance(name, str)}
        for text in self.loose:
            squashed = _squashed(text)
            name = text if text in values else known.get(squashed) if squashed else None
            if name is None:
                continue
            if re.fullmatch(_NAME, name):
                raise SpecError(f"{{{text}}} is not filled in: write {{{name}}}; to mean the braces, double them")
            raise SpecError(f"{{{text}}} is not filled in, because {_illegal(name)}; to mean the braces, double them")


def _illegal(name: str) -> str:
    """Return that *name* cannot be that of a field, and what to write instead."""
    legal = re.sub(r"\W+", "_", name).strip("_")
    legal = legal if re.fullmatch(_NAME, legal) else f"c_{legal}"
    return (
        f"{name!r} cannot be the name of a field (letters, digits and _, no digit first): rename the column, as "
        f"{legal!r}, and write {{{legal}}}"
    )


def shell_quoted(text: str) -> str:
    """Return *text* as one word of a shell command."""
    return shlex.quote(text)


def _squashed(name: str) -> str:
    """Return *name* without the differences that a misspelt field may have: case and punctuation."""
    return re.sub(r"[\W_]+", "", name).casefold()


_BRACE = re.compile("[{}]")


def _index(text: str) -> str | int:
    return int(text) if re.fullmatch(r"-?[0-9]+", text) else text


@attrs.define
class _Reader:
    """A walk through a template from brace to brace."""

    text: str
    parts: list[tuple[int, str | Field]] = attrs.field(factory=list)  #: fields and the texts between, with places
    suspects: list[str] = attrs.field(factory=list)
    loose: list[str] = attrs.field(factory=list)
    numbered: list[str] = attrs.field(factory=list)
    _plain: list[str] = attrs.field(factory=list)  #: the text since the last field, escaped braces made single
    _done: int = 0  #: up to here, the text is in `parts` or `_plain`

    @classmethod
    def read(cls, text: str) -> _Reader:
        """Read *text*."""
        reader = cls(text)
        closing: set[int] = set()  # where the `}}` of an escape begins
        at = 0
        while brace := _BRACE.search(text, at):
            at = brace.start()
            if at not in closing and (end := _matching(text, at)) is not None:
                closing.update((at, end))
            if at in closing:
                at = reader._escaped_brace(at)
            elif found := FIELD.match(text, at):
                at = reader._field(found)
            else:
                at = reader._other_brace(at)
        reader._end_text(len(text))
        return reader

    def _escaped_brace(self, at: int) -> int:
        self._plain.append(self.text[self._done : at + 1])
        self._done = at + 2
        return self._done

    def _field(self, found: re.Match[str]) -> int:
        self._end_text(found.start())
        self.parts.append((found.start(), Field.read(found)))
        self._done = found.end()
        return self._done

    def _other_brace(self, at: int) -> int:
        if numbered := _NUMBERED.match(self.text, at):
            self.numbered.append(numbered[0])
        if suspect := _SUSPECT.match(self.text, at):
            self.suspects.append(suspect[1])
        elif loose := _LOOSE.match(self.text, at):
            self.loose.append(loose[1])
        return at + 1

    def _end_text(self, at: int) -> None:
        """Make a part of the text before *at*."""
        if text := "".join([*self._plain, self.text[self._done : at]]):
            self.parts.append((self._done, text))
        self._plain.clear()


def _matching(text: str, start: int) -> int | None:
    """Return where the ``}}`` begins that belongs to a ``{{`` at *start*; None if this is not an escape."""
    if not text.startswith("{{", start) or text.find("}}", start) < 0:
        return None
    widths = [2]  # of each open brace: 1, or 2 if it looks doubled
    at = start + 2
    while at < len(text):
        if text.startswith("{{", at):
            widths.append(2)
            at += 2
        elif found := FIELD.match(text, at):
            at = found.end()
        elif text[at] == "{":
            widths.append(1)
            at += 1
        elif text[at] != "}":
            at += 1
        elif widths[-1] == 2 and not text.startswith("}}", at):
            # what looked doubled were two single braces; one of them is closed here
            if len(widths) == 1:
                return None
            widths[-1] = 1
            at += 1
        else:
            width = widths.pop()
            if not widths:
                return at
            at += width
    return None


def _unknown(field: Field, values: Mapping[str, Any]) -> str:
    known = [name for name in values if isinstance(name, str)]
    if field.text[1:-1] in known:
        return f"{field.text} reads an attribute or item of {field.name!r}, and {_illegal(field.text[1:-1])}"
    if not set(known) - {"key", "index"}:
        return (
            f"{field.text} is a field, and the job has no field of this name: give it one, as "
            f"{field.name}=… in add() or map(); write {{{field.text}}} to mean the braces"
        )
    meant = did_you_mean(field.name, known, shown="{{{}}}".format)
    listed = f"known are {', '.join(known)}. Write {{{field.text}}} to mean the braces"
    return f"unknown field {field.text}; {meant}{' ' if meant else ''}{listed}"
