"""Text: what comes from outside, made safe to print; numbers with their nouns; and names that were nearly right.

Text from outside (logs, answers, file names) may hold anything: escape sequences that recolour or rename a terminal,
and characters that reverse a line.
"""

from __future__ import annotations

import difflib
import functools
import heapq
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

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


class Shown(str):
    """A text that IPython and notebooks show as `print` does, and not as one quoted line."""

    __slots__ = ()

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        show_as_printed(self, printer, cycle)


def show_as_printed(value: object, printer: Any, cycle: bool) -> None:
    """Show a value in IPython and notebooks as `print` does; to be assigned as a class's `_repr_pretty_`."""
    printer.text(str(value))


# -- numbers and names ----------------------------------------------------------------------------------------------


def count(number: int, noun: str, plural: str = "") -> str:
    """Return a number and its noun: `"1 job"`, `"2,000 jobs"`; *plural* if adding an "s" does not make it."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def gib(amount: float) -> str:
    """Return a size in GiB as text: `"3.1 GiB"`, `"118 GiB"`, or `"38 MiB"` if it is less than 1000 MiB."""
    if amount * 1024 < 999.5:
        return f"{amount * 1024:.0f} MiB"
    return f"{amount:.1f} GiB" if amount < 99.95 else f"{amount:,.0f} GiB"


def did_you_mean(
    name: str, known: Iterable[str], *, at_most: int = 1, cutoff: float = 0.6, shown: Callable[[str], str] = str
) -> str:
    """Return the question whether a name that is known was meant, as `"did you mean cores?"`; empty if none is alike.

    Args:
        name: The name that is not known.
        known: The names that are.
        at_most: How many of them to name, the most alike first.
        cutoff: How alike they must be, from 0 to 1.
        shown: How to show one.
    """
    near = _nearest(name, known, at_most=at_most, cutoff=cutoff)
    return f"did you mean {' or '.join(map(shown, near))}?" if near else ""


def _nearest(name: str, known: Iterable[str], *, at_most: int, cutoff: float) -> list[str]:
    """Return the names that are most alike; of those that are equally alike, the first ones."""
    matcher = difflib.SequenceMatcher()
    matcher.set_seq2(name)
    found = []
    for place, word in enumerate(known):
        matcher.set_seq1(word)
        is_like = matcher.real_quick_ratio() >= cutoff and matcher.quick_ratio() >= cutoff
        if is_like and (ratio := matcher.ratio()) >= cutoff:
            found.append((-ratio, place, word))
    return [word for _, _, word in heapq.nsmallest(at_most, found)]


def naming_arguments(
    what: str, error: type[Exception], others: Mapping[str, str] | None = None
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Return a decorator: a call with an unknown keyword raises *error*, with the nearest name.

    Args:
        what: What has these arguments, as the message names it.
        error: The class of the error.
        others: The arguments by the names that other programs have for them.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        known = [name for name in inspect.signature(function).parameters if name != "self" and name != "cls"]

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> T:
            for name in kwargs:
                if name not in known:
                    advice = did_you_mean((others or {}).get(name, name), known) or f"it has {', '.join(known)}"
                    raise error(f"{what} has no {name}; {advice}")
            return function(*args, **kwargs)

        return checked

    return decorate
