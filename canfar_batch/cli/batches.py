"""The batches and jobs that arguments name, and the platform of a batch."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from canfar_batch.batch import Batch
from canfar_batch.cli.output import program_name, terminal_width
from canfar_batch.errors import CanfarBatchError, HomeError, UnknownJob
from canfar_batch.job import Job
from canfar_batch.session import Session
from canfar_batch.store.home import batches
from canfar_batch.text import count, did_you_mean
from canfar_batch.views.tables import text_table


def all_batches(options: argparse.Namespace) -> tuple[list[dict[str, Any]], str]:
    """Return every batch as a row, and the table of them."""
    root = _root(options.home)
    if root.exists() and not root.is_dir():
        raise HomeError(f"{root} is not a directory; pass --home DIR, the directory of the batches")
    found = [_summary(name, options.home) for name in batches(options.home)]
    rows = [{**row, "state": _state(row, root)} for row in found]
    table = text_table(rows, terminal_width(), ["batch", "jobs", "state", "driver"])
    return found, table or f"no batches in {root}"


def _summary(name: str, home: str | None) -> dict[str, Any]:
    """One batch as a row; a batch that cannot be read is listed with the error."""
    try:
        with Batch.open(name, home) as batch:
            return {"batch": name, "jobs": len(batch), "counts": counts_by_name(batch), "driver": batch.driven_by}
    except CanfarBatchError as error:
        return {"batch": name, "jobs": None, "counts": {}, "driver": None, "error": str(error)}


def _state(row: Mapping[str, Any], root: Path) -> str:
    error: str = row.get("error", "")
    # the directory is the same for all rows, and the reason matters more
    return error.replace(f"{root / row['batch']}/", "") or _counted(row["counts"])


def _root(home: str | None) -> Path:
    return Path(home or os.environ.get("CANFAR_BATCH_HOME") or "batches").absolute()


def counts_by_name(batch: Batch) -> dict[str, int]:
    """Return the number of jobs in each state, by the state's name."""
    return {state.value: number for state, number in batch.counts.items()}


def _counted(states: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {state}" for state, number in states.items())


def no_driver(batch: Batch) -> str:
    """Return the hint that no process runs a batch, and how to resume it."""
    return f"no process runs it; to resume it: {program_name()} run {batch.name}"


def find_job(batch: Batch, key: str | None) -> Job:
    """The job with this key, or with the only key that begins so; the only job if *key* is None.

    Raises:
        UnknownJob: No job matches, or more than one does.
    """
    listed = f"{program_name()} ls {batch.name} lists them"
    if key is None and len(batch) != 1:
        raise UnknownJob(f"batch {batch.name} has {count(len(batch), 'job')}: name one; {listed}")
    if key is not None and key in batch:
        return batch[key]
    keys = [job.key for job in batch]
    meant = [known for known in keys if known.startswith(key or "")]
    if len(meant) == 1:
        return batch[meant[0]]
    hint = did_you_mean(key or "", meant or keys, at_most=3, cutoff=0.0 if meant else 0.4)
    raise UnknownJob(f"batch {batch.name} has no job {key!r}; {hint or listed}")


def connect_for(batch: Batch, url: str | None, long_wait: float | None = None) -> Session:
    """Connect to the batch's platform; a local one lives as long as the session alone, so there it is a new one."""
    if batch.address == "local":
        return Session.connect("local", long_wait=long_wait)
    return Session.connect_for(batch, url, long_wait=long_wait)
