"""From columns, grids and tables to rows: the values that the templates of one job are filled with."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from canfar_batch.errors import PlanError
from canfar_batch.planning.warn import warn
from canfar_batch.spec import JobSpec

Row = Mapping[str, Any]

REPLICA_KEY = "replica-{replica}"

_SCALARS = (str, bytes, os.PathLike, Mapping)


def rows_of_columns(columns: Mapping[str, Any]) -> list[Row]:
    """Return one row for each row of the columns; a value that is not a column is repeated.

    Raises:
        PlanError: The columns differ in length, or there is none.
    """
    long = {name: _column(name, value) for name, value in columns.items() if _is_column(value)}
    if not long:
        raise PlanError("map() needs at least one column, as path=[...]; add() plans a single job")
    lengths = {name: len(value) for name, value in long.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise PlanError(f"the columns differ in length: {listed}; grid() combines each with each")
    repeated = {name: value for name, value in columns.items() if name not in long}
    return [
        {name: values[name] if name in values else repeated[name] for name in columns}
        for values in (dict(zip(long, row)) for row in zip(*long.values()))  # noqa: B905 (their lengths are equal)
    ]


def rows_of_grid(axes: Mapping[str, Any]) -> list[Row]:
    """Return one row for each combination of the axes' values; the last axis changes fastest.

    Raises:
        PlanError: There is no axis.
    """
    if not axes:
        raise PlanError("grid() needs at least one axis, as threshold=[0.1, 0.5]")
    values = [_column(name, axis) if _is_column(axis) else [axis] for name, axis in axes.items()]
    return [dict(zip(axes, combination)) for combination in itertools.product(*values)]  # noqa: B905


def rows_of_replicas(spec: JobSpec, n: int) -> tuple[JobSpec, list[Row]]:
    """Return the spec of *n* jobs that differ in `REPLICA_ID` alone, and their rows; `REPLICA_KEY` names them.

    Raises:
        PlanError: *n* is not a positive whole number.
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise PlanError(f"replicas(n={n!r}): n is a whole number of at least 1")
    counted = attrs.evolve(spec, env={**spec.env, "REPLICA_ID": "{replica}", "REPLICA_COUNT": "{replicas}"})
    return counted, [{"replica": number, "replicas": n} for number in range(1, n + 1)]


def rows_of_table(table: Any) -> list[Row]:
    """Return the rows of a list of dicts, a pandas DataFrame or an astropy Table.

    Raises:
        PlanError: *table* is none of these.
    """
    if hasattr(table, "colnames"):  # astropy
        _warn_of_float_ids(table, table.colnames)
        return [{str(name): row[name] for name in table.colnames} for row in table]
    if hasattr(table, "columns") and hasattr(table, "to_dict"):  # pandas
        _warn_of_float_ids(table, table.columns)
        return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
    rows = list(table) if isinstance(table, Iterable) else [table]
    if not all(isinstance(row, Mapping) for row in rows):
        raise PlanError(
            f"rows() takes a list of dicts, a pandas DataFrame or an astropy Table, and this is a "
            f"{type(table).__name__}; for columns there is map(spec, path=[…])"
        )
    return rows


def _is_column(value: object) -> bool:
    if isinstance(value, _SCALARS) or getattr(value, "shape", None) == ():
        return False
    return isinstance(value, Iterable)


def _column(name: str, value: Iterable[Any]) -> list[Any]:
    """Return the values of a column; those of an open text file are its lines, without line ends and blank lines."""
    if isinstance(value, io.TextIOBase):
        return [line.rstrip("\r\n") for line in value if line.strip()]
    if type(value).__module__.partition(".")[0] in ("pandas", "astropy"):  # in arrays, such floats are measurements
        _warn_of_float_ids({name: value}, [name])
    return list(value)


_ID_FROM = 100_000  #: smaller whole numbers in a column of floats are hardly identifiers


def _warn_of_float_ids(table: Any, names: Iterable[Any]) -> None:
    """Warn of columns whose whole numbers became floats, as pandas makes of integers if one is missing."""
    for name in names:
        if getattr(getattr(table[name], "dtype", None), "kind", "") != "f" or getattr(table[name], "ndim", 1) != 1:
            continue
        values = [value for value in table[name].tolist() if value is not None and value == value]  # NaN is unequal
        if values and max(values) >= _ID_FROM and all(float(value).is_integer() for value in values):
            warn(
                f"the column {str(name)!r} holds whole numbers as floats, so {{{name}}} is written as "
                f"{max(values)!r}; if they are identifiers, read them as integers (in pandas: dtype='Int64')"
            )
