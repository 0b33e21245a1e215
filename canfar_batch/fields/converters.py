"""Converters for the arguments of a `JobSpec`; each refuses values that make no sense, and says what to write."""

from __future__ import annotations

import decimal
import math
import numbers
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TypeAlias

import attrs

from canfar_batch.errors import SpecError
from canfar_batch.fields.environment import ENV_NAME, RESERVED, Environment, Secret
from canfar_batch.fields.values import is_mangled_id

Text: TypeAlias = "str | os.PathLike[str]"
Word: TypeAlias = "str | os.PathLike[str] | int | float"
Value: TypeAlias = "Word | Secret"


def refuse(problem: str) -> NoReturn:
    """Raise a `SpecError` with this message."""
    raise SpecError(problem)


def command(cmd: Text | Sequence[Word]) -> str | tuple[str, ...]:
    """Return the command as a string or as a tuple of words."""
    if isinstance(cmd, str):
        text = _text(cmd, "cmd")
        return text if text.strip() else refuse("cmd is empty; say what to run, as cmd='python fit.py'")
    if isinstance(cmd, os.PathLike):
        return (_text(cmd, "cmd"),)
    if not isinstance(cmd, Sequence) or isinstance(cmd, (bytes, bytearray)):
        refuse(f"cmd={cmd!r} is neither a string nor a list of words")
    words = tuple(_word(word, f"word {place} of cmd") for place, word in enumerate(cmd))
    if not words:
        refuse("cmd is an empty list; say what to run, as cmd=['python', 'fit.py']")
    return words


def image(image: str) -> str:
    """Return the image's name."""
    text = _text(image, "image").strip("\n")
    if not text or re.search(r"\s", text):
        refuse(f"image={text!r} is not the name of an image; one looks like 'skaha/astroml:latest'")
    if "://" in text:
        refuse(f"image={text!r} has a scheme; leave it out: {text.partition('://')[2]!r}")
    return text


def job_name(name: str | None) -> str | None:
    """Return the job's name."""
    if name is None:
        return None
    return check_name(_text(name, "name"))


def check_name(name: str) -> str:
    """Return *name* if a launch name can be made of it."""
    if not re.search(r"[A-Za-z0-9]", name):
        refuse(f"name={name!r} has no letter or digit (a to z, 0 to 9), so no launch name can be made of it")
    return name


# One function for each argument, although attrs.Converter could pass the argument's name: mypy checks the calls of
# JobSpec by the types of named functions only.


def cores(cores: float | None) -> int | None:
    """Return a whole number of cores."""
    return _count(cores, "cores", "cores")


def ram(ram: float | None) -> int | None:
    """Return whole GiB."""
    return _count(ram, "ram", "GiB")


def gpus(gpus: float | None) -> int | None:
    """Return a whole number of GPUs, or None for none."""
    # the service refuses gpus=0 (skaha-api §1.2), but it is a sensible way to ask for none
    return None if _number(gpus) == 0 else _count(gpus, "gpus", "GPUs")


def timeout(timeout: float | None) -> float | None:
    """Return seconds."""
    return _seconds(timeout, "timeout")


def pending_timeout(pending_timeout: float | None) -> float | None:
    """Return seconds."""
    return _seconds(pending_timeout, "pending_timeout")


def environment(env: Mapping[str, Value]) -> Environment:
    """Return the environment, its values as text."""
    if isinstance(env, Environment):
        return env
    if not isinstance(env, Mapping):
        refuse(f"env is a {type(env).__name__}; give a mapping of names to values, as env={{'MODE': 'fast'}}")
    values: dict[str, str | Secret] = {}
    for name, value in env.items():
        if not isinstance(name, str) or not ENV_NAME.fullmatch(name):
            refuse(f"env has the name {name!r}; a name consists of letters, digits and '_', and begins with no digit")
        if name in RESERVED:
            refuse(f"env sets {name}, which canfar_batch sets itself for every job")
        values[str(name)] = value if isinstance(value, Secret) else _word(value, f"the value of {name} in env")
    return Environment(values)


def directory(workdir: Text | None) -> str | None:
    """Return the working directory."""
    if workdir is None:
        return None
    return check_path(check_no_variable(_text(workdir, "workdir"), "workdir"), "workdir")


def outputs(outputs: Text | Sequence[Text]) -> tuple[str, ...]:
    """Return the outputs as a tuple of patterns."""
    if isinstance(outputs, (str, bytes, os.PathLike)):
        outputs = (outputs,)
    if not isinstance(outputs, Sequence):
        refuse(f"outputs={outputs!r} is neither a path nor a list of paths")
    texts = [_text(path, "an output") for path in outputs]
    return tuple(check_path(check_no_variable(path, "an output"), "an output") for path in texts)


def check_path(path: str, what: str) -> str:
    """Return *path* if it can be a working directory or an output."""
    if not path.strip():
        refuse(f"{what} is {path!r}; leave it out, or name a path")
    if path[-1] in "\r\n":
        refuse(f"{what} is {path!r}, which ends in a line break; strip() it")
    if path.startswith("~"):
        refuse(f"{what} is {path!r}; no shell expands the ~: write the path in full, as /arc/home/you/…")
    if what == "an output" and "**" in path:
        refuse(f"{what} is {path!r}; ** is not understood: name each level, as a/*/*.fits")
    return path


def check_no_variable(path: str, what: str) -> str:
    """Return *path* if it has no shell variable, which would not be filled in."""
    if found := re.search(r"\$(?:[A-Za-z_]\w*|\{\w+\})|\$\(.+\)|`.+`", path):
        refuse(f"{what} is {path!r}; no shell fills in {found[0]}: write the path in full, or use a field, as {{name}}")
    return path


def shell(value: bool | str) -> bool | str:
    """Return True for a plain sh, False for none, or `"bash"`."""
    if value == "sh" and isinstance(value, str):
        return True
    if isinstance(value, bool) or (isinstance(value, str) and value == "bash"):
        return value
    refuse(f"shell={value!r} is neither True nor False, nor 'bash'")


def yes_or_no(_: object, field: attrs.Attribute[bool], value: object) -> None:
    """Refuse a value that is not a bool."""
    if not isinstance(value, bool):
        refuse(f"{field.name}={value!r} is neither True nor False")


def expectation(value: Any) -> Any:
    """Return seconds, or the function of a job's fields that returns them."""
    if value is None or callable(value):
        return value
    number = _number(value)
    if number is None or not math.isfinite(number) or number < 0:
        refuse(f"expect={value!r} is neither a number of seconds nor a function of a job's fields that returns one")
    return float(number)


def _count(value: object, name: str, unit: str) -> int | None:
    """Return *value* as a whole positive number."""
    if value is None:
        return None
    number = _number(value)
    if number is None or not math.isfinite(number) or number <= 0:
        refuse(f"{name}={value!r} is not a positive number of {unit}; leave it out for the platform's default")
    if number != int(number):
        refuse(f"{name}={value!r} is not a whole number of {unit}; take {math.ceil(number)}")
    return int(number)


def _seconds(value: object, name: str) -> float | None:
    if value is None:
        return None
    number = _number(value)
    if number is None or not math.isfinite(number) or number <= 0:
        refuse(f"{name}={value!r} is not a positive number of seconds; leave it out for no limit")
    return float(number)


def _text(value: object, what: str) -> str:
    """Return *value* as text, from a string or a path."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        refuse(f"{what} is {value!r}, a {type(value).__name__}; give a string or a path")
    if "\0" in value:
        refuse(f"{what} contains a NUL character, which arguments, variables and file names cannot")
    return str(value)


def _word(value: object, what: str) -> str:
    """Return *value* as text, from a string, a path or a number."""
    if value is None:
        refuse(f"{what} is None; leave it out, or give an empty string")
    if type(value).__name__ in ("bool", "bool_"):  # numpy's bool is not a subclass of Python's
        refuse(f"{what} is {value}; write what the program expects, as '1', 'true' or 'yes'")
    if (number := _number(value)) is None:
        return _text(value, what)
    if math.isnan(number):
        refuse(f"{what} is not a number (NaN)")
    if is_mangled_id(number):
        refuse(f"{what} is {number!r}, too large a float to have all its digits; give an integer or a string")
    return str(int(number)) if isinstance(number, numbers.Integral) else str(number)


def _number(value: object) -> Any:
    """Return *value* if it is a number of Python or numpy, but not a bool; else None."""
    if isinstance(value, bool):
        return None
    return value if isinstance(value, (numbers.Real, decimal.Decimal)) else None
