"""From columns, grids and tables to the records of jobs; and what a changed plan means for jobs that are known."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs

from canfar_batch.errors import PlanError, SpecChanged, SpecError
from canfar_batch.fields.keys import check_key, job_key
from canfar_batch.fields.templates import Template
from canfar_batch.fields.values import plain_fields
from canfar_batch.lifecycle import Event, Reopened, Respecified
from canfar_batch.records import JobRecord, JobState, resources_of
from canfar_batch.spec import JobSpec

Row = Mapping[str, Any]

_SCALARS = (str, bytes, os.PathLike, Mapping)


def rows_of_columns(columns: Mapping[str, Any]) -> list[Row]:
    """One row for each place in the columns; what is no column repeats.

    Raises:
        PlanError: The columns are of different lengths, or there is none.
    """
    long = {name: list(value) for name, value in columns.items() if _is_column(value)}
    if not long:
        raise PlanError("map() needs at least one column, as path=[...]; add() plans a single job")
    lengths = {name: len(value) for name, value in long.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise PlanError(f"the columns differ in length: {told}; grid() combines each with each")
    repeated = {name: value for name, value in columns.items() if name not in long}
    return [
        {name: values[name] if name in values else repeated[name] for name in columns}
        for values in (dict(zip(long, row)) for row in zip(*long.values()))  # noqa: B905 (equal, as was just seen)
    ]


def rows_of_grid(axes: Mapping[str, Any]) -> list[Row]:
    """One row for each combination of the axes' values, the last axis running fastest.

    Raises:
        PlanError: There is no axis.
    """
    if not axes:
        raise PlanError("grid() needs at least one axis, as threshold=[0.1, 0.5]")
    values = [list(axis) if _is_column(axis) else [axis] for axis in axes.values()]
    return [dict(zip(axes, combination)) for combination in itertools.product(*values)]  # noqa: B905


def rows_of_table(table: Any) -> list[Row]:
    """One row for each of a list of dicts, a pandas DataFrame or an astropy Table.

    Raises:
        PlanError: It is none of these.
    """
    if hasattr(table, "colnames"):  # astropy
        return [{str(name): row[name] for name in table.colnames} for row in table]
    if hasattr(table, "columns") and hasattr(table, "to_dict"):  # pandas
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


def check_spec(spec: object) -> None:
    """Refuse what is no spec.

    Raises:
        SpecError: It is none.
    """
    if not isinstance(spec, JobSpec):
        raise SpecError(
            f"what to run is a {type(spec).__name__} here; give a JobSpec: "
            "cb.JobSpec('python x.py', image='skaha/astroml:latest')"
        )


def records(spec: JobSpec, rows: Iterable[Row], *, key: str | None, place: Callable[[str], int]) -> Iterator[JobRecord]:
    """The records of a plan's jobs, not yet held against those that are known.

    Args:
        spec: The template of all.
        rows: The values that it is filled with.
        key: A template for the keys; by default they are made of the values.
        place: Tells the place in the plan of the job with a key.

    Raises:
        SpecError: A value cannot be filled in.
        PlanError: Two different rows have one key.
    """
    named = None if key is None else Template.read(key)
    seen: dict[str, int] = {}
    for number, row in enumerate(rows):
        chosen = _key(spec, row, named, number)
        times = seen[chosen.lower()] = seen.get(chosen.lower(), 0) + 1
        if times > 1 and named is not None:
            raise PlanError(f"key={key!r} gives {chosen!r} for more than one row; make it tell them apart")
        if times > 1:
            chosen = f"{chosen}-{times}"
        index = place(chosen)
        filled = spec.fill(row, key=chosen, index=index)
        yield JobRecord(key=chosen, index=index, spec=spec, filled=filled, fields=plain_fields(row))


def _key(spec: JobSpec, row: Row, named: Template | None, number: int) -> str:
    if named is not None:
        return check_key(named.fill({**row, "index": number}))
    if row:
        return job_key(row)
    # Without fields there is nothing to name the job by but what it runs.
    text = json.dumps(spec.identity(), sort_keys=True, ensure_ascii=False, default=str)
    return f"{label(spec)}-{hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def label(spec: JobSpec) -> str:
    """What to call a job that was given no name: its script, or its program."""
    words: Sequence[str] = spec.words if not spec.shell else ("sh",)
    script = next((word for word in words[1:] if Path(word).suffix in (".py", ".sh", ".pl", ".R", ".jl")), words[0])
    stem = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in Path(script).stem)
    return stem.strip("-")[:40] or "job"


#: what makes a job the one it is, by the words in which a change is told: each from the record
_IDENTITY: Mapping[str, Any] = {
    "cmd": lambda job: job.filled.argv,
    "env": lambda job: dict(job.filled.env),
    "image": lambda job: job.spec.image,
    "shell": lambda job: job.spec.shell,
    "workdir": lambda job: job.filled.workdir,
    "outputs": lambda job: job.filled.outputs,
}


def changed_identity(known: JobRecord, wanted: JobRecord) -> str | None:
    """What is different about a job that should be the same: the field, the old and the new value; None if nothing."""
    for name, value in _IDENTITY.items():
        old, new = value(known), value(wanted)
        if old == new:
            continue
        if name == "env":  # its values may be secrets
            names = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
            return f"env differs in {', '.join(names)}"
        return f"{name} was {old!r} and is now {new!r}"
    return None


@attrs.frozen
class Plan:
    """What a script asks for, held against what is known."""

    fresh: list[JobRecord] = attrs.field(factory=list)  #: new, or in the place of one that was never launched
    changes: list[Event] = attrs.field(factory=list)
    keys: list[str] = attrs.field(factory=list)
    reopened: list[str] = attrs.field(factory=list)  #: keys of final jobs that get another command and are opened again


def compared(
    spec: JobSpec,
    rows: Iterable[Row],
    *,
    key: str | None,
    find: Callable[[str], JobRecord | None],
    next_place: int,
    at: datetime,
) -> Plan:
    """The wanted jobs, held against the known ones.

    Args:
        spec: The template of all.
        rows: The values that it is filled with.
        key: A template for the keys; by default they are made of the values.
        find: Tells the known job of a key, whatever the case of its letters.
        next_place: The place in the plan of the first new job.
        at: The time.

    Raises:
        SpecError: *spec* is none, or a value cannot be filled in.
        PlanError: Two different rows have one key.
        SpecChanged: A job of that key was launched as another job.
    """
    check_spec(spec)
    free, plan = itertools.count(next_place), Plan()

    def place(key: str) -> int:
        old = find(key)
        return next(free) if old is None else old.index

    for wanted in records(spec, rows, key=key, place=place):
        old = find(wanted.key)
        if old is None:
            plan.fresh.append(wanted)
        elif changed_identity(old, wanted) is not None:
            plan.fresh.append(replaced(old, wanted))
            if old.state.final:
                plan.changes.append(Reopened(key=old.key, at=at))
                plan.reopened.append(old.key)
        elif old.spec != wanted.spec:
            plan.changes.append(respecified(old, spec, name=wanted.filled.name, at=at))
        plan.keys.append(wanted.key if old is None else old.key)
    return plan


def respecified(job: JobRecord, spec: JobSpec, *, name: str | None, at: datetime) -> Event:
    """From now on *job* asks for what *spec* asks for; what it runs is the same."""
    return Respecified(key=job.key, at=at, spec=spec, resources=resources_of(spec), name=name)


def replaced(known: JobRecord, wanted: JobRecord) -> JobRecord:
    """Return *wanted* in the place of a job of the same key that was never launched, or ended without success.

    Raises:
        SpecChanged: The job is active or succeeded.
    """
    ended_without_success = known.state.final and known.state is not JobState.SUCCEEDED
    if known.attempts and not ended_without_success:
        advice = "rerun() it with its old command" if known.state.final else "wait for it, or cancel() it"
        raise SpecChanged(
            f"job {known.key!r} is {known.state}, as another job: {changed_identity(known, wanted)}. {advice}; or give "
            "the job another key (key=), or the batch another name"
        )
    placed = attrs.evolve(wanted, key=known.key, index=known.index)
    return attrs.evolve(placed, attempts=known.attempts, state=known.state) if ended_without_success else placed
