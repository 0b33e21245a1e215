"""From columns, grids and tables to the records of jobs; and what a changed plan means for jobs that are known."""

from __future__ import annotations

import fnmatch
import hashlib
import inspect
import io
import itertools
import json
import os
import re
import warnings
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
from canfar_batch.spec import JobSpec, literal_path

Row = Mapping[str, Any]

_SCALARS = (str, bytes, os.PathLike, Mapping)


# -- rows -----------------------------------------------------------------------------------------------------------


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
            _warn(
                f"the column {str(name)!r} holds whole numbers as floats, so {{{name}}} is written as "
                f"{max(values)!r}; if they are identifiers, read them as integers (in pandas: dtype='Int64')"
            )


def _warn(message: str) -> None:
    """Warn the user, at the line of the user's code that called this package."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "canfar_batch":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


# -- records --------------------------------------------------------------------------------------------------------


def check_spec(spec: object) -> None:
    """Refuse anything but a spec, and warn of parts of it that probably do not mean what they look like.

    Raises:
        SpecError: *spec* is not a `JobSpec`.
    """
    if not isinstance(spec, JobSpec):
        raise SpecError(
            f"what to run is a {type(spec).__name__} here; give a JobSpec: "
            "cb.JobSpec('python x.py', image='skaha/astroml:latest')"
        )
    for doubt in spec.doubts:
        _warn(doubt)


def records(
    spec: JobSpec, rows: Iterable[Row], *, key: str | None, place: Callable[[str], int], first: int = 0
) -> Iterator[JobRecord]:
    """Make the records of a plan's jobs, without comparing them with the known ones.

    Args:
        spec: The template of all.
        rows: The values that it is filled with.
        key: A template for the keys; by default they are made of the values.
        place: Returns the place in the plan of the job with a key.
        first: The number of jobs that the script asked for before these; ``{index}`` in *key* counts from it.

    Raises:
        SpecError: A value cannot be filled in; the message names the row.
        PlanError: Two different rows have one key, or a value ends in a line break.
    """
    named = None if key is None else Template.read(key)
    counted = named is not None and any(field.name == "index" for field in named.fields)
    seen: dict[str, str] = {}
    times: dict[str, int] = {}
    rows = list(rows)
    for number, row in enumerate(rows):
        try:
            chosen = _key(spec, row, named, first + number)
        except SpecError as error:
            raise SpecError(f"row {number}: {error}" if len(rows) > 1 else str(error)) from error
        if named is not None and (other := seen.get(chosen.casefold())) is not None:
            raise PlanError(_same_key(key, chosen, other))
        seen[chosen.casefold()] = chosen
        times[chosen] = times.get(chosen, 0) + 1
        if times[chosen] > 1:
            chosen = f"{chosen}-{times[chosen]}"
        index = place(chosen)
        if counted and "index" not in row and index != first + number:
            raise PlanError(
                f"key={key!r} gives {chosen!r}, and the job is number {index} of the batch, which is {{index}} in its "
                "command: name the jobs by another field"
            )
        _refuse_line_ends(row, number, chosen)
        try:
            filled = spec.fill(row, key=chosen, index=index)
        except SpecError as error:
            raise SpecError(f"row {number} (job {chosen!r}): {error}" if len(rows) > 1 else str(error)) from error
        yield JobRecord(key=chosen, index=index, spec=spec, filled=filled, fields=plain_fields(row))


def _same_key(key: str | None, chosen: str, other: str) -> str:
    if chosen == other:
        return f"key={key!r} gives {chosen!r} for more than one row; add a field that differs between them"
    return (
        f"key={key!r} gives {other!r} and {chosen!r}, which differ only in upper and lower case; add a field that "
        "differs between them"
    )


def _refuse_line_ends(row: Row, number: int, key: str) -> None:
    for name, value in row.items():
        if isinstance(value, str) and value[-1:] in ("\n", "\r"):
            raise PlanError(
                f"row {number} (job {key!r}): {name}={value!r} ends in a line break; strip it, as "
                f"{name}=[line.strip() for line in open('list.txt')], or give the open file itself"
            )


def _key(spec: JobSpec, row: Row, named: Template | None, number: int) -> str:
    if named is not None:
        return check_key(named.fill({"index": number, **row}))
    if row:
        return job_key(row)
    # without fields, a job can be named only by what it runs
    text = json.dumps(spec.identity(), sort_keys=True, ensure_ascii=False, default=str)
    return f"{label(spec)}-{hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def label(spec: JobSpec) -> str:
    """Return what to call a job that was given no name: its script, or its program."""
    words: Sequence[str] = spec.words if not spec.shell else ("sh",)
    script = next((word for word in words[1:] if Path(word).suffix in (".py", ".sh", ".pl", ".R", ".jl")), words[0])
    stem = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in Path(script).stem)
    return stem.strip("-")[:40] or "job"


# -- outputs --------------------------------------------------------------------------------------------------------

_FEW_PATTERNS = 100  #: patterns of one folder with which each new file is compared
_FEW_FILES = 10_000  #: files of one folder with which each new pattern is compared


@attrs.define
class OutputClaims:
    """The outputs of a batch's jobs, so that no two jobs write the same file.

    Paths are compared as the driver's machine resolves them (symbolic links, ``..``) and without regard to case,
    because some disks do not distinguish it. Two different patterns are not compared with each other.
    """

    _jobs: dict[str, JobRecord] = attrs.field(factory=dict)  #: those that are in here, by key
    _files: dict[str, dict[str, str]] = attrs.field(factory=dict)  #: folder → name → key
    _patterns: dict[str, dict[str, str]] = attrs.field(factory=dict)  #: folder → pattern → key
    _folders: dict[tuple[str, str], str] = attrs.field(factory=dict)  #: resolved, by workdir and folder as written

    def updated(self, jobs: Mapping[str, JobRecord]) -> OutputClaims:
        """Bring the claims up to date with the batch's *jobs*."""
        for key in [key for key in self._jobs if key not in jobs]:
            self._forget(key)
        for key, job in jobs.items():
            before = self._jobs.get(key)
            if before is job:
                continue
            if before is not None and (before.filled is not job.filled or _holds(before) != _holds(job)):
                self._forget(key)
            self._jobs[key] = job
            if _holds(job):
                for _, folder, name, literal in self._places(job):
                    self._table(literal).setdefault(folder, {}).setdefault(name, key)
        return self

    def check(self, wanted: Sequence[JobRecord]) -> None:
        """Check that the *wanted* jobs have no output in common with each other or with the known jobs.

        Raises:
            PlanError: Two jobs would write the same file; the message names both.
        """
        renewed = {job.key for job in wanted}
        fresh = OutputClaims(folders=self._folders)
        for job in wanted:
            for output, folder, name, literal in self._places(job):
                for claims in (fresh, self):
                    other = claims._claimed(folder, name, literal=literal)
                    if other is None or other == job.key or (claims is self and other in renewed):
                        continue
                    raise PlanError(
                        f"the jobs {other!r} and {job.key!r} would both write the output {output!r}: put a field into "
                        "its path (or into workdir) so that each job has its own; if all jobs may write it, leave it "
                        "out of outputs"
                    )
                fresh._table(literal).setdefault(folder, {})[name] = job.key

    def _claimed(self, folder: str, name: str, *, literal: bool) -> str | None:
        """Return the key of the job that has this output, or None."""
        files, patterns = self._files.get(folder, {}), self._patterns.get(folder, {})
        if (key := (files if literal else patterns).get(name)) is not None:
            return key
        if literal and len(patterns) <= _FEW_PATTERNS:
            return next((key for pattern, key in patterns.items() if fnmatch.fnmatchcase(name, pattern)), None)
        if not literal and len(files) <= _FEW_FILES:
            matches = re.compile(fnmatch.translate(name)).match
            return next((key for file, key in files.items() if matches(file)), None)
        return None

    def _table(self, literal: bool) -> dict[str, dict[str, str]]:
        return self._files if literal else self._patterns

    def _places(self, job: JobRecord) -> Iterator[tuple[str, str, str, bool]]:
        """Yield each output with its folder, its name there, and whether it is one file."""
        for output in job.filled.outputs:
            path = literal_path(output)
            folder, _, name = (path or output).rpartition("/")
            if output.startswith("/") and not folder:
                folder = "/"
            yield output, self._folder(job.filled.workdir or "", folder), name.casefold(), path is not None

    def _folder(self, workdir: str, folder: str) -> str:
        written = (workdir, folder)
        if written not in self._folders:
            self._folders[written] = os.path.realpath(Path(workdir, folder)).casefold()
        return self._folders[written]

    def _forget(self, key: str) -> None:
        for _, folder, name, literal in self._places(self._jobs.pop(key)):
            table = self._table(literal)
            if table.get(folder, {}).get(name) == key:
                del table[folder][name]


def _holds(job: JobRecord) -> bool:
    """Return whether the job's outputs are its own: it will write them, or has written them."""
    return not job.state.final or job.state is JobState.SUCCEEDED


# -- the known jobs -------------------------------------------------------------------------------------------------

#: the identity of a job, by the names used in `SpecChanged`; each value is taken from the record
_IDENTITY: Mapping[str, Any] = {
    "cmd": lambda job: job.filled.argv,
    "env": lambda job: dict(job.filled.env),
    "image": lambda job: job.spec.image,
    "shell": lambda job: job.spec.shell,
    "workdir": lambda job: job.filled.workdir,
    "outputs": lambda job: job.filled.outputs,
}


def changed_identity(known: JobRecord, wanted: JobRecord) -> str | None:
    """Return how two records of one job differ: the field, its old and its new value; None if they do not."""
    for name, value in _IDENTITY.items():
        old, new = value(known), value(wanted)
        if old == new:
            continue
        if name == "env":  # its values may be secrets
            names = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
            return f"env differs in {', '.join(names)}"
        if name == "cmd":
            old, new = known.filled.command, wanted.filled.command
        return f"{name} was {old!r} and is now {new!r}"
    return None


@attrs.frozen
class Plan:
    """A script's jobs, compared with the known ones."""

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
    asked: int | None = None,
    known: Iterable[JobRecord] = (),
    claims: OutputClaims | None = None,
) -> Plan:
    """Compare the wanted jobs with the known ones.

    Args:
        spec: The template of all.
        rows: The values that it is filled with.
        key: A template for the keys; by default they are made of the values.
        find: Returns the known job with a key, whatever the case of its letters.
        next_place: The place in the plan of the first new job.
        at: The time.
        asked: The number of jobs that the script asked for before these; by default *next_place*.
        known: The known jobs; one that has the fields of the first row keeps its ``{index}`` in *key*.
        claims: The outputs of the known jobs.

    Raises:
        SpecError: *spec* is not a spec, or a value cannot be filled in.
        PlanError: Two rows have one key, or two jobs one output; or a key differs from a known one only in case.
        SpecChanged: The job with this key was launched as another job.
    """
    check_spec(spec)
    free, plan = itertools.count(next_place), Plan()

    def place(key: str) -> int:
        old = find(key)
        return next(free) if old is None else old.index

    rows = list(rows)
    first = _number_of_first(key, rows, known, next_place if asked is None else asked)
    for wanted in records(spec, rows, key=key, place=place, first=first):
        old = find(wanted.key)
        if old is not None and old.key != wanted.key:
            raise PlanError(
                f"the batch has the job {old.key!r}, whose key differs from {wanted.key!r} only in upper and lower "
                "case; give one of them another key (key=)"
            )
        if old is None:
            plan.fresh.append(wanted)
        elif changed_identity(old, wanted) is not None:
            plan.fresh.append(replaced(old, wanted))
            if old.state.final:
                plan.changes.append(Reopened(key=old.key, at=at))
                plan.reopened.append(old.key)
        elif old.spec != wanted.spec:
            plan.changes.append(respecified(old, spec, name=wanted.filled.name, at=at))
        plan.keys.append(wanted.key)
    if spec.outputs and plan.fresh:
        (claims or OutputClaims()).check(plan.fresh)
    return plan


def _number_of_first(key: str | None, rows: Sequence[Row], known: Iterable[JobRecord], asked: int) -> int:
    """Return the ``{index}`` of the first row: of the known job with its fields, if there is one, else *asked*."""
    template = None if key is None else Template.read(key)
    if not rows or template is None or all(field.name != "index" for field in template.fields):
        return asked
    row = rows[0]
    try:
        fields = plain_fields(row)
        same = (job for job in known if job.fields == fields)
        return next((job.index for job in same if template.fill({"index": job.index, **row}) == job.key), asked)
    except SpecError:
        return asked  # the row is refused with its number later


def respecified(job: JobRecord, spec: JobSpec, *, name: str | None, at: datetime) -> Event:
    """Return the event that *job* asks for the resources and time-outs of *spec* from now on."""
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
