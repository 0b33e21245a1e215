"""A ledger in memory, for a single job that belongs to no batch and is forgotten with its handle."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

from canfar_batch.lifecycle import Event, apply
from canfar_batch.records import JobRecord
from canfar_batch.store.ledger import Change, Identity


class LedgerLike(Protocol):
    """What the engine needs of a ledger."""

    identity: Identity
    workdir: Path | None
    generation: int

    @property
    def jobs(self) -> Mapping[str, JobRecord]:
        """Every job's record by its key, in plan order, as of the last transaction."""

    @property
    def driving(self) -> bool:
        """Whether this process holds the lease."""

    @property
    def last_contact(self) -> datetime | None:
        """When a driver last had an answer from the platform."""

    def acquire(self, *, takeover: bool = False) -> None:
        """Become the driver."""

    def release(self, last_contact: datetime | None = None) -> None:
        """Stop being the driver."""

    def renew(self, last_contact: datetime | None = None) -> None:
        """Keep the lease for another term."""

    def still_mine(self, generation: int) -> bool:
        """Return whether the driver of *generation* still holds the lease; safe in any thread."""

    def visit(self) -> contextlib.AbstractContextManager[None]:
        """Change the plan while no one drives."""

    def plan(self, records: Sequence[JobRecord]) -> None:
        """Add jobs, or replace jobs that were never launched."""

    def drop(self, keys: Iterable[str]) -> None:
        """Remove jobs that were never launched."""

    def record(self, events: Iterable[Event]) -> list[Change]:
        """Apply *events* and remember them, all or none."""

    def write(self, changes: Sequence[Change]) -> None:
        """Remember changes that follow each other, all or none."""

    def requests(self) -> list[tuple[int, str, list[str] | None]]:
        """Return the requests of other processes."""

    def answered(self, numbers: Iterable[int]) -> None:
        """Remove requests that were carried out."""

    def note_user(self, user: str) -> None:
        """Remember the user's name."""


class MemoryLedger:
    """A ledger that lives in memory and has one driver, the process that made it."""

    def __init__(self, identity: Identity, *, last_contact: datetime | None = None) -> None:
        self.identity = identity
        self.jobs: dict[str, JobRecord] = {}
        self.workdir: Path | None = None
        self.generation = 0
        self.last_contact: datetime | None = last_contact
        self._pid = os.getpid()

    @property
    def driving(self) -> bool:
        """True but in a fork of the process that made it."""
        return os.getpid() == self._pid

    def acquire(self, *, takeover: bool = False) -> None:
        """Do nothing: there is no other driver."""

    def release(self, last_contact: datetime | None = None) -> None:
        """Remember when the platform last answered."""
        self.last_contact = last_contact or self.last_contact

    def renew(self, last_contact: datetime | None = None) -> None:
        """Remember when the platform last answered."""
        self.last_contact = last_contact or self.last_contact

    def still_mine(self, generation: int) -> bool:
        """Return whether this is the process that made it."""
        return self.driving

    @contextlib.contextmanager
    def visit(self) -> Iterator[None]:
        """Do nothing: there is no other driver."""
        yield

    def plan(self, records: Sequence[JobRecord]) -> None:
        """Add jobs."""
        self.jobs.update({record.key: record for record in records})

    def drop(self, keys: Iterable[str]) -> None:
        """Remove jobs."""
        for key in list(keys):
            del self.jobs[key]

    def record(self, events: Iterable[Event]) -> list[Change]:
        """Apply *events*, all or none.

        Raises:
            TransitionError: An event does not fit its job.
        """
        fresh: dict[str, JobRecord] = {}
        changes: list[Change] = []
        for event in events:
            before = fresh.get(event.key) or self.jobs[event.key]
            fresh[event.key] = apply(before, event)
            changes.append(Change(event=event, before=before, after=fresh[event.key]))
        self.write(changes)
        return changes

    def write(self, changes: Sequence[Change]) -> None:
        """Remember changes."""
        self.jobs.update({change.event.key: change.after for change in changes})

    def requests(self) -> list[tuple[int, str, list[str] | None]]:
        """Return none: no other process knows of it."""
        return []

    def answered(self, numbers: Iterable[int]) -> None:
        """Do nothing."""

    def note_user(self, user: str) -> None:
        """Do nothing: a single job is asked about by whoever holds its handle."""
