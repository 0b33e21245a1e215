"""Outputs of succeeded jobs that no longer exist."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from canfar_batch.engine.attempts import LaunchContext
from canfar_batch.records import JobRecord, JobState


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
