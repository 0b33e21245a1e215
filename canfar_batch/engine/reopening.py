"""Opening final jobs again: which jobs, with which changes, and whose outputs no longer exist."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from canfar_batch.engine.attempts import LaunchContext
from canfar_batch.engine.planning import respecified
from canfar_batch.errors import PlanError, SpecError
from canfar_batch.lifecycle import Event, Reopened
from canfar_batch.protocols import Clock
from canfar_batch.records import JobRecord, JobState
from canfar_batch.spec import JobSpec

_CHANGEABLE = frozenset({"cores", "ram", "gpus", "timeout", "pending_timeout", "name"})
_OTHER_NAMES = {"memory": "ram", "mem": "ram", "cpus": "cores", "cpu": "cores"}


def check_changes(changes: Iterable[str]) -> None:
    """Refuse names that are not fields of a spec, or that belong to a job's identity.

    Raises:
        SpecError: One is refused; the message says what can be changed.
    """
    for name in sorted(set(changes) - _CHANGEABLE):
        can = f"{', '.join(sorted(_CHANGEABLE))} can be changed"
        if name in attrs.fields_dict(JobSpec):
            raise SpecError(f"{name} is part of the job's identity; {can}")
        near = [*filter(None, [_OTHER_NAMES.get(name)]), *difflib.get_close_matches(name, _CHANGEABLE, n=1)]
        raise SpecError(f"a spec has no {name}{f' (did you mean {near[0]}?)' if near else ''}; {can}")


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


def gone_outputs(jobs: Iterable[JobRecord], context: LaunchContext) -> dict[str, list[Path]]:
    """Return the outputs that succeeded jobs made and that no longer exist, by key.

    Each directory is read once, which matters on a network disk. Outputs of containers whose files this machine does
    not see are left out.

    Args:
        jobs: The jobs to look at.
        context: What the batch's launches have in common.
    """
    listings: dict[Path, frozenset[str]] = {}

    def exists(path: Path) -> bool:
        if path.parent not in listings:
            try:
                listings[path.parent] = frozenset(entry.name for entry in path.parent.iterdir())
            except OSError:
                listings[path.parent] = frozenset()
        return path.name in listings[path.parent]

    gone: dict[str, list[Path]] = {}
    for job in jobs:
        if missing := [path for path in _visible_outputs(job, context) if not exists(path)]:
            gone[job.key] = missing
    return gone


def _visible_outputs(job: JobRecord, context: LaunchContext) -> list[Path]:
    """Return the paths of the outputs that *job* made, if this machine sees the files of its container."""
    receipt = job.last_attempt.receipt if job.last_attempt else None
    if job.state is not JobState.SUCCEEDED or receipt is None:
        return []
    workdir = Path(context.placed(job).filled.workdir or "")
    if not workdir.is_absolute() or not (context.shared or receipt.ran_in == "driver"):
        return []
    return [workdir / os.path.normpath(output) for output in receipt.outputs]
