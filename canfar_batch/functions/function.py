"""`Function`: a Python function where a spec is expected."""

from __future__ import annotations

import datetime as dt
import importlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from canfar_batch.errors import PlanError, SpecError
from canfar_batch.fields.arguments import PLAIN_TYPES, Arguments, is_plain
from canfar_batch.fields.values import canonical_json, plain_value
from canfar_batch.functions import archive
from canfar_batch.functions.digest import Identity, digest_of, identify
from canfar_batch.payload.calls import call_words, python_programs
from canfar_batch.spec import JobSpec

_LONGEST_PLAIN = 200  #: characters; a longer value is described by its type and digest


@attrs.frozen(init=False, eq=False)
class Function:
    """A Python function where a spec is expected: the fields of its jobs are its arguments.

    The result of a job is the function's return value. An exception comes back with its traceback, as the job's
    failure. The function is sent with everything it refers to: variables around it, lambdas, classes of a notebook,
    and modules beside the script. The image needs Python, of the same minor version as this one, and the packages that
    the function imports.

    ```python
    def area(width, height=2.0):
        return width * height

    batch = session.batch("areas")
    batch.map(cb.Function(area, image="skaha/astroml:latest", cores=1, ram=1), width=[1.0, 2.0])
    ```

    A job's identity is the function's code and its arguments: a changed comment is no change, a changed line is.

    Args:
        function: What to call: a function, a lambda, a method or another callable.
        image: The container image.
        python: The program that runs it, by its path in the image; by default `python3.N` of this version, `python3`
            or `python`, whichever comes first.
        spec_fields: The other arguments of `JobSpec`, except `cmd`, `shell` and `receipt`.

    Raises:
        SpecError: *function* cannot be called, or an argument makes no sense.
        ImportError: The extra `functions` is not installed.
    """

    function: Callable[..., Any]
    spec: JobSpec  #: what each job runs, without its arguments
    identity: Identity = attrs.field(repr=False)

    def __init__(
        self, function: Callable[..., Any], *, image: str, python: str | None = None, **spec_fields: Any
    ) -> None:
        _require_packages()
        if not callable(function) or isinstance(function, JobSpec):
            raise SpecError(f"function={function!r} cannot be called; JobSpec takes commands")
        for name in ("cmd", "shell", "receipt"):
            if name in spec_fields:
                raise SpecError(f"a Function has no {name}: it runs Python")
        if python is not None and (not python.startswith("/") or python.split() != [python]):
            raise SpecError(f"python={python!r} is not a path without blanks, such as '/opt/conda/bin/python'")
        archive.parameters(function)
        identity = identify(function)
        name = f"{_slug(archive.label(function))}-{identity.digest}"
        spec = JobSpec(call_words(python_programs(python), name), image=image, **spec_fields)
        self.__attrs_init__(function, attrs.evolve(spec, function=name), identity)

    @property
    def name(self) -> str:
        """The function's name and digest: `fit-3fa91c20e1`."""
        return str(self.spec.function)

    def __call__(self, *values: Any, **named: Any) -> Any:
        """Call the function here."""
        return self.function(*values, **named)

    def rows(self, rows: Iterable[Mapping[str, Any]], folder: Path, write: Callable[[Path, bytes], None]) -> list[Any]:
        """Return the arguments of each row, with large values written to *folder*, and the function too.

        Args:
            rows: The arguments by name.
            folder: Where files go; their names are those of their content, so that one that exists is kept.
            write: Writes a file in one piece.

        Raises:
            SpecError: A row does not fit the function's parameters, or a value cannot be pickled.
        """
        keep = _Folder(folder, write)
        keep.file(f"{self.name}.zip", lambda: archive.archive(self.function, self.identity))
        signature, known = archive.parameters(self.function), dict[int, tuple[Any, tuple[str, Any]]]()
        made = []
        for number, row in enumerate(rows):
            try:
                _check_arguments(signature, row, archive.label(self.function))
                parts = {name: _remembered(name, value, keep, known) for name, value in row.items()}
            except SpecError as error:
                raise SpecError(f"row {number}: {error}") from error
            words = tuple(f"{name}={word}" for name, (word, _) in parts.items())
            made.append(Arguments(row, words, {name: plain for name, (_, plain) in parts.items()}))
        return made

    def rows_of(self, columns: Sequence[Iterable[Any]]) -> list[dict[str, Any]]:
        """Return the rows of *columns*, which are the function's first, second, ... argument.

        Raises:
            PlanError: There are more columns than parameters, or they differ in length.
        """
        signature = archive.parameters(self.function)
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        names = [name for name, parameter in signature.parameters.items() if parameter.kind in kinds]
        called = f"{archive.label(self.function)}{signature}"
        if len(columns) > len(names):
            raise PlanError(f"{len(columns)} columns were given, and {called} takes {len(names)} by place")
        named = {name: list(column) for name, column in zip(names, columns, strict=False)}
        if len(set(map(len, named.values()))) > 1:
            lengths = ", ".join(f"{name} has {len(values)}" for name, values in named.items())
            raise PlanError(f"the columns differ in length: {lengths}")
        return [dict(zip(named, row, strict=True)) for row in zip(*named.values(), strict=True)]


def _require_packages() -> None:
    for package in ("cloudpickle", "joblib"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(
                f"Python functions need the package {package}: pip install 'canfar_batch[functions]'"
            ) from error


def _slug(name: str) -> str:
    return "".join(char if char.isascii() and (char.isalnum() or char == "_") else "-" for char in name).strip("-")[:40]


def _check_arguments(signature: inspect.Signature, row: Mapping[str, Any], name: str) -> None:
    """Refuse arguments with which the function could not be called.

    Raises:
        SpecError: One is unknown or missing.
    """
    placed = [
        row[parameter.name]
        for parameter in signature.parameters.values()
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY and parameter.name in row
    ]
    named = {
        key: value
        for key, value in row.items()
        if key not in signature.parameters or signature.parameters[key].kind is not inspect.Parameter.POSITIONAL_ONLY
    }
    try:
        signature.bind(*placed, **named)
    except TypeError as error:
        raise SpecError(f"{name}{signature} cannot be called with these fields: {error}") from error


@attrs.frozen
class _Folder:
    """A folder of files that are named for their content."""

    folder: Path
    write: Callable[[Path, bytes], None]

    def file(self, name: str, content: Callable[[], bytes]) -> None:
        """Write the file *name*, unless it exists."""
        if not (self.folder / name).exists():
            self.write(self.folder / name, content())


def _remembered(name: str, value: Any, keep: _Folder, known: dict[int, tuple[Any, tuple[str, Any]]]) -> tuple[str, Any]:
    """Return the same as `_encoded`, which looks at an object only once however many rows have it."""
    if id(value) not in known:
        found = _encoded(name, value, keep)
        if type(value) in PLAIN_TYPES:
            return found
        known[id(value)] = value, found
    return known[id(value)][1]


def _encoded(name: str, value: Any, keep: _Folder) -> tuple[str, Any]:
    """Return a value as a word of the command, and in JSON's types for tables.

    Raises:
        SpecError: It cannot be pickled.
    """
    import cloudpickle

    number = _python_number(value)
    if is_plain(number):
        return json.dumps(number), plain_value(number, name)
    try:
        digest = digest_of(value)
        keep.file(f"{digest}.pkl", lambda: cloudpickle.dumps(value))
    except (TypeError, AttributeError, ValueError, RecursionError) as error:
        raise SpecError(f"{name} is a {type(value).__name__} that cannot be sent: {error}") from error
    except Exception as error:
        if "pickle" not in type(error).__name__.lower():
            raise
        raise SpecError(f"{name} is a {type(value).__name__} that cannot be sent: {error}") from error
    return f"@{digest}", _described(name, value, digest)


def _python_number(value: Any) -> Any:
    """Return a number of numpy as Python's; anything else unchanged."""
    if type(value).__module__.partition(".")[0] == "numpy" and getattr(value, "shape", None) == ():
        kind = getattr(getattr(value, "dtype", None), "kind", "")
        if kind in "biufU" and hasattr(value, "item") and not hasattr(value, "mask"):
            item = value.item()
            return item if type(item) in PLAIN_TYPES else value
    return value


def _described(name: str, value: Any, digest: str) -> Any:
    """Return what tables and keys show of a value: the value if it is short, else its type and digest."""
    short = f"{type(value).__name__}-{digest[:8]}"
    if not isinstance(value, (tuple, Path, dt.date, dt.time, dt.timedelta)) and not hasattr(value, "unit"):
        shape = getattr(value, "shape", None)
        sizes = "x".join(map(str, shape)) if isinstance(shape, tuple) and shape else ""
        return f"{type(value).__name__}{sizes and f'-{sizes}'}-{digest[:8]}"
    try:
        plain = plain_value(value, name)
        return plain if len(canonical_json(plain)) <= _LONGEST_PLAIN else short
    except (SpecError, ValueError, TypeError):
        return short
