"""The values of fields: which are refused, and how they are stored."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import fractions
import inspect
import json
import math
import numbers
import os
import re
from collections.abc import Mapping, Sequence, Set
from pathlib import PurePath
from typing import Any

from canfar_batch.errors import SpecError
from canfar_batch.fields.arguments import Arguments


class NeverRendered:
    """Base of values that must not appear in a command or on disk, such as `Secret`."""

    __slots__ = ()

    def advice(self) -> str:
        """Return what to do instead."""
        raise NotImplementedError


def missing_kind(value: object) -> str | None:
    """Return why *value* is missing, if it is: None, NaN, NaT, NA or masked, of any package; else None."""
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
        return None  # it does not compare as one value: an array, say, which `unwritable_kind` refuses
    return f"is not a number ({value}){advice}" if unequal else None


_WHOLE_TYPES = frozenset({str, int, bool, bytes})  #: values of these types are never missing
_WRITABLE_TYPES = frozenset({str, int, bool, float})  #: values of these types have a text


def unwritable_kind(value: object) -> str | None:
    """Return why *value* has no sensible text, if it has none."""
    if type(value) in _WRITABLE_TYPES or isinstance(value, PurePath):
        return None
    if isinstance(value, NeverRendered):
        return f"is a {type(value).__name__}, {value.advice()}"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"is bytes; decode it first: {shortened(repr(value), 40)}"
    if getattr(value, "ndim", 0):
        return "is an array; give one of its elements, or write the array to a file"
    if inspect.isroutine(value):
        return "is a function; a template reads attributes, it does not call"
    if inspect.isclass(value):
        return "is a class; give one of its values"
    if isinstance(value, Set):
        return (
            f"is a {type(value).__name__}, whose order changes from run to run; give a text, as ','.join(sorted(names))"
        )
    if isinstance(value, (list, tuple, Mapping)) and (item := _unwritable_item(value)) is not None:
        return (
            f"is a {type(value).__name__} with a {type(item).__name__} in it, which Python would write as "
            f"{shortened(repr(item), 40)}; give a text, as ','.join(map(str, values))"
        )
    return None


_PLAIN_ITEMS = (str, int, float, bool)


def _unwritable_item(value: Any) -> object | None:
    """Return an item of a list, tuple or mapping whose `repr` is not what a program expects; None if all are plain."""
    for item in [*value, *value.values()] if isinstance(value, Mapping) else value:
        if isinstance(item, (list, tuple, Mapping)):
            if (inner := _unwritable_item(item)) is not None:
                return inner
        elif type(item) not in _PLAIN_ITEMS or item != item:  # NaN differs from itself
            return item if item is not None else type(None)
    return None


def is_mangled_id(value: object) -> bool:
    """Return whether *value* is a float that probably was an identifier of more digits than a float can hold."""
    if not isinstance(value, numbers.Real) or isinstance(value, (numbers.Integral, numbers.Rational)):
        return False
    number = float(value)
    if not 2.0**53 <= abs(number) < 2.0**64:
        return False
    return len(f"{abs(number):.16e}".replace(".", "").partition("e")[0].rstrip("0")) > 12  # 1e18 is a measurement


def shows_lost_digits(value: object, text: str) -> bool:
    """Return whether *text* shows more digits of a float than it has: an identifier that was read as a number."""
    return is_mangled_id(value) and len(re.sub(r"\D", "", text.lower().partition("e")[0])) > 16


def plain_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return *fields* in JSON's types: the same on every machine, in every process and Python version.

    Numbers of numpy become Python's; paths, times, decimals, fractions and quantities become text; missing and masked
    values become None; tuples, sets and arrays become lists; members of an enum become their values.

    Raises:
        SpecError: A value has no stable text, such as an object that shows its address in memory.
    """
    if isinstance(fields, Arguments):
        return fields.plain
    return {str(name): plain_value(value, name) for name, value in fields.items()}


def plain_value(value: Any, name: object) -> Any:
    """Return *value* as the ledger stores it; *name* is the field, for error messages."""
    if type(value) in (str, int, bool):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, enum.Enum):
        return plain_value(value.value, name)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "backslashreplace")
    if isinstance(value, Mapping):
        return {str(key): plain_value(item, name) for key, item in value.items()}
    if missing_kind(value):
        return None
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return str(value)
    if (unit := getattr(value, "unit", None)) is not None and hasattr(value, "value"):
        return f"{plain_value(value.value, name)} {unit}"
    if getattr(value, "ndim", 0) and hasattr(value, "tolist"):
        return [plain_value(item, name) for item in value]
    if isinstance(value, Set):
        return sorted((plain_value(item, name) for item in value), key=canonical_json)
    if isinstance(value, Sequence):
        return [plain_value(item, name) for item in value]
    return _plain_scalar(value, name)


def _plain_scalar(value: Any, name: object) -> Any:
    if isinstance(value, NeverRendered):
        raise SpecError(f"field {name} is a {type(value).__name__}, {value.advice()}")
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, (decimal.Decimal, fractions.Fraction)):
        return str(value)
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    if kind == "m":  # NumPy's spans of time count as integers
        return str(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        return number if math.isfinite(number) else str(number)  # JSON has no infinity
    if kind == "b":
        return bool(value)
    text = str(value)
    if re.search(r" at 0x[0-9a-fA-F]+", text):
        raise SpecError(
            f"field {name} is a {type(value).__name__}, whose text changes from run to run ({shortened(text)}); "
            f"give a number, a string or a path, so that the job can be recognised"
        )
    return text


canonical_json = json.JSONEncoder(sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode


def shortened(text: str, width: int = 60) -> str:
    """Return *text* in quotes, cut to *width* characters."""
    return repr(text if len(text) <= width else text[: width - 1] + "…")
