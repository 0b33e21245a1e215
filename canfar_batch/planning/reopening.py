"""Opening final jobs again: which jobs, and with which changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from canfar_batch.errors import PlanError, SpecError
from canfar_batch.lifecycle import Event, Reopened
from canfar_batch.planning.compare import respecified
from canfar_batch.protocols import Clock
from canfar_batch.records import JobRecord
from canfar_batch.spec import JobSpec, meant

_CHANGEABLE = frozenset({"cores", "ram", "gpus", "timeout", "pending_timeout", "name"})


def check_changes(changes: Iterable[str]) -> None:
    """Refuse names that are not fields of a spec, or that belong to a job's identity.

    Raises:
        SpecError: One is refused; the message says what can be changed.
    """
    for name in sorted(set(changes) - _CHANGEABLE):
        can = f"{', '.join(sorted(_CHANGEABLE))} can be changed"
        if name in attrs.fields_dict(JobSpec):
            raise SpecError(f"{name} is part of the job's identity; {can}")
        near = meant(name, _CHANGEABLE)
        raise SpecError(f"a spec has no {name}{f' ({near})' if near else ''}; {can}")


def with_cause(jobs: Iterable[JobRecord], cause: str | None) -> list[JobRecord]:
    """Return the jobs that failed for *cause*, given as the report words it or as the class; all if it is None.

    Raises:
        PlanError: There are failures, and none has this cause; the message lists their causes.
    """
    jobs = list(jobs)
    if cause is None:
        return jobs
    chosen = [job for job in jobs if job.failure is not None and cause in (job.failure.cause, job.failure.kind)]
    causes = Counter(job.failure.cause for job in jobs if job.failure is not None)
    if causes and not chosen:
        listed = ", ".join(f"{name!r} ({count})" for name, count in causes.most_common())
        raise PlanError(f"no job failed for {cause!r}; the causes are: {listed}")
    return chosen


def reopenings(jobs: Iterable[JobRecord], changes: Mapping[str, Any], clock: Clock) -> list[Event]:
    """Return the events that open *jobs* again, with new values for some fields of their specs."""
    now, events = clock.now(), list[Event]()
    for job in jobs:
        events.append(Reopened(key=job.key, at=now))
        if changes:
            spec, name = attrs.evolve(job.spec, **changes), job.filled.name
            if "name" in changes:
                name = spec.filled_name(job.fields, key=job.key, index=job.index)
            events.append(respecified(job, spec, name=name, at=now))
    return events
