"""A plan: the jobs that a script asks for, compared with the jobs that the batch has."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from canfar_batch.errors import PlanError, SpecChanged, SpecError
from canfar_batch.fields.templates import Template
from canfar_batch.fields.values import plain_fields
from canfar_batch.lifecycle import Event, Reopened, Respecified, may_be_replaced, replaced
from canfar_batch.planning.jobs import check_spec, records
from canfar_batch.planning.naming import FieldIndex, Naming
from canfar_batch.planning.outputs import OutputClaims
from canfar_batch.planning.rows import Row
from canfar_batch.records import JobRecord, resources_of
from canfar_batch.spec import JobSpec

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
    claims: Callable[[], OutputClaims] | None = None,
    index: FieldIndex | None = None,
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
        claims: Returns the outputs of the known jobs; None if two jobs may have the same.
        index: The keys of the known jobs by their fields.

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
    naming = Naming(find=find, index=index or FieldIndex())
    for wanted in records(spec, rows, key=key, place=place, first=first, naming=naming):
        old = find(wanted.key)
        if old is not None and old.key != wanted.key:
            raise PlanError(
                f"the batch has the job {old.key!r}, whose key differs from {wanted.key!r} only in upper and lower "
                "case or in how accents are written; give one of them another key (key=)"
            )
        if old is None:
            plan.fresh.append(wanted)
        elif changed_identity(old, wanted) is not None:
            plan.fresh.append(_replaced(old, wanted))
            if old.state.final:
                plan.changes.append(Reopened(key=old.key, at=at))
                plan.reopened.append(old.key)
        elif old.spec != wanted.spec:
            plan.changes.append(respecified(old, spec, name=wanted.filled.name, at=at))
        plan.keys.append(wanted.key)
    if claims is not None and plan.fresh:
        claims().check(plan.fresh)
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


def _replaced(known: JobRecord, wanted: JobRecord) -> JobRecord:
    """Return *wanted* in the place of the job of the same key.

    Raises:
        SpecChanged: The job is active or succeeded.
    """
    if not may_be_replaced(known):
        advice = "rerun() it with its old command" if known.state.final else "wait for it, or cancel() it"
        raise SpecChanged(
            f"job {known.key!r} is {known.state}, as another job: {changed_identity(known, wanted)}. {advice}; or give "
            "the job another key (key=), or the batch another name"
        )
    return replaced(known, wanted)
