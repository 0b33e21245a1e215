"""From a spec and rows to the records of jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from canfar_batch.errors import PlanError, SpecError
from canfar_batch.fields.arguments import Arguments
from canfar_batch.fields.environment import unfilled_variable
from canfar_batch.fields.keys import check_key, folded
from canfar_batch.fields.templates import Template
from canfar_batch.fields.values import plain_fields
from canfar_batch.payload import launch_names
from canfar_batch.planning.naming import Naming
from canfar_batch.planning.rows import Row
from canfar_batch.planning.warn import warn
from canfar_batch.records import JobRecord
from canfar_batch.spec import JobSpec


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
        warn(doubt)


def records(
    spec: JobSpec,
    rows: Iterable[Row],
    *,
    key: str | None,
    place: Callable[[str], int],
    first: int = 0,
    naming: Naming | None = None,
) -> Iterator[JobRecord]:
    """Make the records of a plan's jobs, without comparing them with the known ones.

    Args:
        spec: The template of all.
        rows: The values that it is filled with.
        key: A template for the keys; by default they are made of the values.
        place: Returns the place in the plan of the job with a key.
        first: The number of jobs that the script asked for before these; ``{index}`` in *key* counts from it.
        naming: Makes the keys that *key* does not give; by default as in an empty batch.

    Raises:
        SpecError: A value cannot be filled in; the message names the row.
        PlanError: Two different rows have one key, or a value ends in a line break.
    """
    named = None if key is None else Template.read(key)
    counted = named is not None and any(field.name == "index" for field in named.fields)
    seen: dict[str, str] = {}
    naming = naming or Naming()
    doubts: dict[str, str] = {}  # by field, so that a column brings one warning
    rows = list(rows)
    for number, row in enumerate(rows):
        try:
            fields = plain_fields(row)
            if named is None:
                chosen = naming.key(spec, fields if isinstance(row, Arguments) else row, fields)
            else:
                chosen = check_key(named.fill({"index": first + number, **row}))
        except SpecError as error:
            raise SpecError(f"row {number}: {error}" if len(rows) > 1 else str(error)) from error
        if named is not None and (other := seen.get(folded(chosen))) is not None:
            raise PlanError(_same_key(key, chosen, other))
        seen[folded(chosen)] = chosen
        index = place(chosen)
        if counted and "index" not in row and index != first + number:
            raise PlanError(
                f"key={key!r} gives {chosen!r}, and the job is number {index} of the batch, which is {{index}} in its "
                "command: name the jobs by another field"
            )
        if not isinstance(row, Arguments):
            _refuse_line_ends(row, number, chosen)
            doubts.update(_doubtful_values(row, chosen))
        try:
            filled = spec.fill(row, key=chosen, index=index)
        except SpecError as error:
            raise SpecError(f"row {number} (job {chosen!r}): {error}" if len(rows) > 1 else str(error)) from error
        expected = spec.expected({"key": chosen, "index": index, **row})
        yield JobRecord(key=chosen, index=index, spec=spec, filled=filled, fields=fields, expected=expected)
    for doubt in doubts.values():
        warn(doubt)


def _doubtful_values(row: Row, key: str) -> Iterator[tuple[str, str]]:
    """Yield the fields whose value is probably not meant as it is, each with a warning."""
    for name, value in row.items():
        if not isinstance(value, str) or not value:
            continue
        if value[0] in _BLANKS or value[-1] in _BLANKS:
            if value.strip(_BLANKS):
                yield name, f"job {key}: {name}={value!r} begins or ends with a blank: strip() it unless it is meant"
        elif value[0] in "~$" and "/" in value and (variable := unfilled_variable(value)):
            yield name, f"job {key}: {name}={value!r}, and no shell fills in {variable}: write the path in full"


_BLANKS = " \t\u00a0\u200b\ufeff"  #: also those that cannot be seen, such as a byte order mark


def _same_key(key: str | None, chosen: str, other: str) -> str:
    if chosen == other:
        return f"key={key!r} gives {chosen!r} for more than one row; add a field that differs between them"
    return (
        f"key={key!r} gives {other!r} and {chosen!r}, which differ only in upper and lower case or in how accents are "
        "written; add a field that differs between them"
    )


def _refuse_line_ends(row: Row, number: int, key: str) -> None:
    for name, value in row.items():
        if isinstance(value, str) and value[-1:] in ("\n", "\r"):
            raise PlanError(
                f"row {number} (job {key!r}): {name}={value!r} ends in a line break; strip it, as "
                f"{name}=[line.strip() for line in open('list.txt')], or give the open file itself"
            )


def launch_name(job: JobRecord, *, batch: str, token: str) -> str:
    """Return the name of the next launch of *job*, which belongs to the *batch* that has the *token*."""
    name = job.filled.name or job.key
    return launch_names.launch_name(batch, name, token=token, index=job.index, attempt=job.next_number)
