"""The arguments of one call of a function: a job's fields, if the job calls a function instead of a command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Arguments(dict[str, Any]):
    """The arguments by name, as the user gave them.

    Attributes:
        words: The same as words of a command: `x=1.5` with the value in JSON, or `x=@DIGEST` for a value in a file.
        plain: The same in JSON's types, for tables and keys; a value that has no short text is described.
    """

    def __init__(self, values: Mapping[str, Any], words: tuple[str, ...], plain: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.words = words
        self.plain = dict(plain)


PLAIN_TYPES = (str, int, float, bool, type(None))  #: types that JSON gives back as they were


def is_plain(value: Any) -> bool:
    """Return whether JSON gives *value* back as it was, in its type too."""
    if type(value) is list:
        return all(map(is_plain, value))
    if type(value) is dict:
        return all(type(key) is str and is_plain(key) and is_plain(item) for key, item in value.items())
    if type(value) is str:  # a lone surrogate cannot be written
        return value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)
    return type(value) in PLAIN_TYPES


def files_of(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the files that hold arguments of a call."""
    return tuple(f"{text[1:]}.pkl" for text in (word.partition("=")[2] for word in words) if text.startswith("@"))
