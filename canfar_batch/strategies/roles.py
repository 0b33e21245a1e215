"""Checks of the arguments of strategies, and of what is given as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from canfar_batch.errors import StrategyError


def check_player(value: Any, role: str, example: str) -> Any:
    """Return *value* if it can be called in its role, or is None.

    Args:
        value: What the user gave.
        role: The name of the argument.
        example: A strategy that fits, as code.

    Raises:
        StrategyError: It cannot be called, or is a class.
    """
    if isinstance(value, type):
        raise StrategyError(f"{role}={value.__name__} is a class: write {role}=cb.{example}, with brackets")
    if value is None or callable(value):
        return value
    raise StrategyError(f"{role}={value!r} is not a strategy: write {role}=cb.{example}, or give a function")


def at_least(least: float, meaning: str) -> Any:
    """Return a validator of numbers of at least *least*; its error ends with *meaning*."""
    return _number(lambda value: bool(value >= least), meaning)


def above(limit: float, meaning: str) -> Any:
    """Return a validator of numbers above *limit*; its error ends with *meaning*."""
    return _number(lambda value: bool(value > limit), meaning)


def _number(fits: Callable[[Any], bool], meaning: str) -> Any:
    def check(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        try:
            wrong = not fits(value)
        except TypeError:
            wrong = True
        if wrong:
            raise ValueError(f"{type(instance).__name__}({attribute.name}={value!r}): {attribute.name} is {meaning}")

    return check
