"""The ledger: one SQLite file that remembers a batch's plan, its jobs, and every event that changed them.

Only the driver's calling thread writes, one transaction at a time, and only while it holds the lease. Readers open the
file read-only, for short transactions. `schema` declares the tables; `docs/reference/ledger.md` describes them.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import operator
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs

from canfar_batch.errors import (
    BatchBusy,
    CanfarBatchError,
    HomeError,
    LeaseLost,
    LedgerError,
    SpecError,
    UnknownBatch,
)
from canfar_batch.lifecycle import Event, apply
from canfar_batch.protocols import Clock
from canfar_batch.records import JobRecord
from canfar_batch.spec import JobSpec
from canfar_batch.store import database, schema
from canfar_batch.store.files import check_system
from canfar_batch.store.home import Home, batches
from canfar_batch.store.jobs import (
    SELECT_ATTEMPTS,
    SELECT_JOBS,
    Jobs,
    Packed,
    Row,
    check_rows,
    pack,
    pack_row,
)
from canfar_batch.store.lease import TERM, Holder


@attrs.frozen(kw_only=True)
class Identity:
    """The batch, platform and user that a ledger belongs to."""

    name: str  #: of the batch
    platform: str  #: its address, or "local"
    user: str | None
    token: str = attrs.field(repr=False)  #: random; part of every launch name


@attrs.frozen(kw_only=True)
class Change:
    """One recorded event, and the job's record before and after it."""

    event: Event
    before: JobRecord
    after: JobRecord


@attrs.frozen(kw_only=True)
class Happened:
    """One line of a job's history."""

    at: datetime
    key: str
    attempt: int | None
    kind: str
    body: Mapping[str, Any]


@attrs.frozen(kw_only=True)
class LeaseState:
    """The holder of the lease, and how long the lease lasts."""

    holder: Holder
    left: float  #: seconds


@attrs.define
class Transaction:
    """A transaction in progress: its changes to the file, which memory takes over once they are committed."""

    jobs: dict[str, JobRecord | Packed | None] = attrs.field(factory=dict)  #: the jobs written, by key; None: removed
    spec_numbers: dict[JobSpec, int] = attrs.field(factory=dict)  #: the specs written
    next_place: int = 0  #: the place in the plan after those of the jobs that were added


class Ledger:
    """The open ledger of one batch.

    Attributes:
        home: The batch's directory.
        identity: The batch, platform and user that the ledger belongs to.
        workdir: The directory in which the batch was made; None in ledgers written before this was recorded.
        jobs: Every job's record by its key, in plan order, as of the last transaction. Inside `visit`, as of its
            beginning.
        version: A number that grows whenever *jobs* changes.
        next_place: The place in the plan after that of the last job.
        generation: The number of this driver among all drivers that the batch has had; the last one's if this is not
            a driver.
    """

    # Memory follows the file: `jobs` changes only after a commit, or by reading the file again. If an exception or a
    # Ctrl-C comes between a commit and that change, `_stale` stays True, and the next driver's turn reads the file.

    def __init__(self, home: Home, *, clock: Clock, writable: bool) -> None:
        self.home = home
        self.jobs = Jobs(home)
        self.version = 0
        self.next_place = 0
        self.generation = 0
        self._clock = clock
        self._pid = os.getpid()  # of the process that opened the file; 0 once it is closed
        self._holder: Holder | None = None
        self._lease_until = 0.0  # in the clock's ticks
        self._own_counters: tuple[int, ...] = ()  # the file's change counter, if no one else has written since
        self._specs: dict[str, JobSpec] = {}  # by their text in the file
        self._spec_numbers: dict[JobSpec, int] = {}  # of the specs in the file
        self._visit: Transaction | None = None  # the transaction of `visit`, while that runs
        self._stale = True  # whether `jobs` may differ from the file for reasons of this process
        self._data_version = 0  # SQLite's count of other connections' commits, when `jobs` was read
        with database.errors(home.ledger):
            self._db = database.connect(home.ledger, writable=writable)
        try:
            self._open(writable)
        except BaseException:
            self._db.close()
            raise

    def _open(self, writable: bool) -> None:
        with database.errors(self.home.ledger):
            if not _has_tables(self._db):
                raise UnknownBatch(f"there is no batch in {self.home.path}: a process that began to make it was killed")
        self._migrate(writable)
        self.identity = self._read_identity()
        workdir = self._meta("workdir")
        self.workdir = self.home.restored(workdir) if workdir else None
        self.reload()

    # -- opening and closing --------------------------------------------------------------------------------------

    @classmethod
    def create(cls, home: Home, identity: Identity, *, clock: Clock) -> Ledger:
        """Make the ledger of a new batch, and open it.

        Raises:
            HomeError: The home cannot be written, or its disk has no working locks.
        """
        home.prepare()
        with database.errors(home.ledger):
            db = database.connect(home.ledger, writable=True)
        with contextlib.closing(db), database.transaction(db, home.ledger):
            if not _has_tables(db):
                for statement in schema.CREATE:
                    db.execute(statement)
                known = {**attrs.asdict(identity), "created": clock.now().isoformat(), "schema": str(schema.VERSION)}
                known["workdir"] = home.stored(Path.cwd())
                rows = [{"name": name, "value": value} for name, value in known.items() if value is not None]
                db.executemany(schema.META.insert, rows)
        return cls(home, clock=clock, writable=True)

    @classmethod
    def open(cls, home: Home, *, clock: Clock, writable: bool) -> Ledger:
        """Open the ledger of an existing batch.

        Raises:
            UnknownBatch: There is none.
            LedgerError: A later version of the package wrote it, or it is damaged.
            HomeError: The file cannot be used, or the system has no file locks.
        """
        check_system()
        if not home.exists():
            there = ", ".join(list(batches(home.path.parent))[:5]) or "none at all"
            raise UnknownBatch(
                f"there is no batch in {home.path}; {home.path.parent} has {there}. Batches are looked for in "
                "./batches unless CANFAR_BATCH_HOME or home= says otherwise"
            )
        return cls(home, clock=clock, writable=writable)

    def close(self) -> None:
        """Give the lease back and close the file."""
        with contextlib.suppress(HomeError, LeaseLost):
            self.release()
        self._db.close()
        self._pid = 0

    @property
    def is_open(self) -> bool:
        """Whether the file is open in this very process: a fork of it may not use the connection."""
        return self._pid == os.getpid()

    def _migrate(self, writable: bool) -> None:
        version = self._tables_version()
        if version > schema.VERSION:
            raise LedgerError(
                f"{self.home.ledger} was written by a later version of canfar_batch (its tables are version {version}, "
                f"and this installation knows {schema.VERSION}); install the version that wrote it, or a later one"
            )
        if version < schema.VERSION and not writable:
            raise LedgerError(f"{self.home.ledger} is of an earlier version; open it once with Session.batch()")
        while version < schema.VERSION:
            with database.transaction(self._db, self.home.ledger):
                version = self._tables_version()  # another process may have migrated it meanwhile
                if version == schema.VERSION:
                    return
                self._refuse_live_driver(takeover=False)  # it runs an earlier version of the package
                for statement in schema.statements(schema.MIGRATIONS[version]):
                    self._db.execute(statement)
                version += 1
                self._db.execute(schema.META.upsert, {"name": "schema", "value": str(version)})

    def _tables_version(self) -> int:
        with _refusing_nonsense(self.home.ledger):
            return int(self._meta("schema"))

    def _meta(self, name: str) -> str:
        with database.reading(self._db, self.home.ledger):
            row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return str(row["value"]) if row else ""

    def _read_identity(self) -> Identity:
        return Identity(
            name=self._meta("name"), platform=self._meta("platform"), user=self._meta("user") or None,
            token=self._meta("token"),
        )  # fmt: skip

    @property
    def created(self) -> datetime:
        """The time at which the batch was made."""
        with _refusing_nonsense(self.home.ledger):
            return datetime.fromisoformat(self._meta("created"))

    # -- reading --------------------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Read the jobs again if another process may have changed them; *version* grows if one has.

        Raises:
            HomeError: The file cannot be read.
            LedgerError: The file is damaged.
        """
        with database.reading(self._db, self.home.ledger):
            data_version = self._db.execute("PRAGMA data_version").fetchone()[0]
            if data_version == self._data_version and not self._stale:
                return
            bodies = {row["id"]: row["body"] for row in self._db.execute("SELECT id, body FROM spec")}
            with _refusing_nonsense(self.home.ledger):
                specs = {number: self._spec(body) for number, body in bodies.items()}
                found, next_place = self._read_jobs(specs)
        # All attributes change after everything is read, so that a Ctrl-C leaves no half of it.
        self.jobs.specs.update(specs)
        if self.jobs.replace(found) or self._stale:
            self.next_place, self.version = next_place, self.version + 1
        self._data_version, self._stale = data_version, False

    def _read_jobs(self, specs: Mapping[int, JobSpec]) -> tuple[dict[str, Packed], int]:
        """Return the jobs in the file, in plan order, and the place after that of the last one."""
        cursor, found, place = self._db.cursor(), dict[str, Packed](), -1
        cursor.row_factory = None  # plain tuples: there may be a million
        attempts: dict[int, list[Row]] = {}
        for place, *attempt in cursor.execute(SELECT_ATTEMPTS):
            attempts.setdefault(place, []).append(tuple(attempt))
        for key, *row in cursor.execute(SELECT_JOBS):
            place = row[0]
            own = attempts.pop(place, ())
            check_rows(tuple(row), own, specs)
            found[key] = pack(tuple(row), own)
        return found, place + 1

    def _spec(self, body: str) -> JobSpec:
        if body not in self._specs:
            self._specs[body] = JobSpec.from_json(json.loads(body))
        return self._specs[body]

    def find(self, key: str) -> JobRecord | None:
        """Return the job with this key, whatever the case of its letters, or None."""
        known = self.jobs.find(key)
        return None if known is None else self.jobs[known]

    def history(self, key: str | None = None) -> Iterator[Happened]:
        """Yield the events of one job, or of all, oldest first."""
        condition, values = ("", ()) if key is None else (" WHERE key = ?", (key,))
        with database.reading(self._db, self.home.ledger):
            rows = self._db.execute(f"SELECT * FROM event{condition} ORDER BY seq", values).fetchall()  # noqa: S608
        for row in rows:
            with _refusing_nonsense(self.home.ledger):
                line = Happened(
                    at=schema.as_moment(row["at"]), key=row["key"], attempt=row["attempt"], kind=row["kind"],
                    body=json.loads(row["body"]),
                )  # fmt: skip
            yield line

    # -- writing --------------------------------------------------------------------------------------------------

    def record(self, events: Iterable[Event]) -> list[Change]:
        """Apply *events* and record them, all in one transaction, or none.

        Raises:
            LeaseLost: Another driver has taken over.
            HomeError: The file cannot be written; nothing has changed.
            TransitionError: An event does not fit its job; nothing has changed.
            KeyError: An event is of a job that is not in the ledger; nothing has changed.
        """
        changes: list[Change] = []
        last: dict[str, JobRecord] = {}
        for event in events:
            before = last.get(event.key) or self._latest(event.key)
            if before is None:
                raise KeyError(event.key)
            last[event.key] = apply(before, event)
            changes.append(Change(event=event, before=before, after=last[event.key]))
        self.write(changes)
        return changes

    def write(self, changes: Sequence[Change]) -> None:
        """Record changes that follow each other, the first of each job beginning with its record in the ledger.

        Raises:
            LeaseLost: Another driver has taken over.
            HomeError: The file cannot be written; nothing has changed.
        """
        if not changes:
            return
        first: dict[str, JobRecord] = {}
        last: dict[str, JobRecord] = {}
        for change in changes:
            first.setdefault(change.event.key, change.before)
            last[change.event.key] = change.after
        with self._writing() as transaction:
            self._db.executemany(
                schema.EVENT.insert, (schema.event_row(change.event, change.after.last_attempt) for change in changes)
            )
            self._write_jobs(transaction, [(first[key], after) for key, after in last.items()])
            self._write_attempts([(first[key], after) for key, after in last.items()])

    def _latest(self, key: str) -> JobRecord | None:
        """Return a job's record as the visit in progress has left it, if there is one."""
        if self._visit is not None and key in self._visit.jobs:
            written = self._visit.jobs[key]
            return self.jobs.record(key, written) if isinstance(written, bytes) else written
        return self.jobs.get(key)

    def plan(self, records: Sequence[JobRecord]) -> None:
        """Add jobs, or replace jobs of the same key that were never launched.

        Raises:
            LeaseLost: Another driver has taken over.
            HomeError: The file cannot be written; nothing has changed.
        """
        with self._writing() as transaction:
            # New jobs are not upserted, so that a plan made from outdated records fails instead of replacing others.
            new, known = list[JobRecord](), list[JobRecord]()
            for record in records:
                (new if self._latest(record.key) is None else known).append(record)
            transaction.next_place = max((record.index + 1 for record in new), default=transaction.next_place)
            self._write_whole_jobs(transaction, schema.JOB.insert, new)
            self._write_whole_jobs(transaction, schema.JOB.upsert, known)

    def drop(self, keys: Iterable[str]) -> None:
        """Remove jobs that were never launched.

        Raises:
            LeaseLost: Another driver has taken over.
            HomeError: The file cannot be written; nothing has changed.
        """
        chosen = list(keys)
        with self._writing() as transaction:
            for table in ("job", "event"):
                self._db.executemany(f"DELETE FROM {table} WHERE key = ?", [(key,) for key in chosen])  # noqa: S608
            transaction.jobs.update(dict.fromkeys(chosen))

    def note_user(self, user: str) -> None:
        """Record the user's name on the platform."""
        with self._writing():
            self._db.execute(schema.META.upsert, {"name": "user", "value": user})
        self.identity = attrs.evolve(self.identity, user=user)

    def _write_jobs(self, transaction: Transaction, pairs: Iterable[tuple[JobRecord, JobRecord]]) -> None:
        """Write jobs, given before and after: all columns if the command has changed, else those of the progress."""
        whole, progress = list[JobRecord](), list[JobRecord]()
        for before, after in pairs:
            same = after.spec is before.spec and after.filled is before.filled and after.fields is before.fields
            (progress if same else whole).append(after)
        self._db.executemany(schema.UPDATE_JOB, (schema.job_progress(job, self.home) for job in progress))
        self._write_whole_jobs(transaction, schema.JOB.upsert, whole)
        transaction.jobs.update((after.key, after) for after in progress)

    def _write_whole_jobs(self, transaction: Transaction, statement: str, jobs: Sequence[JobRecord]) -> None:
        """Write all columns of jobs; those that were never launched are kept in memory as what was written."""
        numbers = list(self._numbers_of_specs(transaction, jobs))

        def rows() -> Iterator[dict[str, Any]]:
            for job, number in zip(jobs, numbers, strict=True):
                row = schema.job_row(job, number, self.home)
                transaction.jobs[job.key] = job if job.attempts else pack_row(row)
                yield row

        self._db.executemany(statement, rows())

    def _numbers_of_specs(self, transaction: Transaction, jobs: Iterable[JobRecord]) -> Iterator[int]:
        for spec, alike in itertools.groupby(jobs, key=operator.attrgetter("spec")):  # a spec is slow to hash
            number = self._number_of(transaction, spec)
            yield from (number for _ in alike)

    def _number_of(self, transaction: Transaction, spec: JobSpec) -> int:
        number = self._spec_numbers.get(spec) or transaction.spec_numbers.get(spec)
        if number is None:
            body = schema.dumps(spec.to_json())
            self._db.execute("INSERT OR IGNORE INTO spec (body) VALUES (?)", (body,))
            number = int(self._db.execute("SELECT id FROM spec WHERE body = ?", (body,)).fetchone()["id"])
            transaction.spec_numbers[spec] = number
            self.jobs.specs[number] = spec
        return number

    def _write_attempts(self, pairs: Iterable[tuple[JobRecord, JobRecord]]) -> None:
        """Write the attempts that differ between the records of a job before and after."""
        written, removed = list[dict[str, Any]](), list[dict[str, int]]()
        for before, after in pairs:
            if before.attempts is after.attempts:
                continue
            place = after.index
            known = {attempt.number: attempt for attempt in before.attempts}
            kept = {attempt.number: attempt for attempt in after.attempts}
            changed = (attempt for number, attempt in kept.items() if known.get(number) != attempt)
            written += [schema.attempt_row(attempt, place, self.home) for attempt in changed]
            removed += [{"place": place, "number": number} for number in known.keys() - kept.keys()]
        self._db.executemany(schema.ATTEMPT.delete, removed)
        self._db.executemany(schema.ATTEMPT.upsert, written)

    # -- transactions ---------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Transaction]:
        """Run the block in a transaction of the lease's holder, or in the one of the visit in progress."""
        if self._visit is not None:  # no one else can drive before the visit ends
            yield self._visit
            return
        try:
            with self._transaction() as transaction:
                self._check_lease()
                before, written = self._change_counter(), self._db.total_changes
                self._own_counters = (before,)
                yield transaction
                if self._db.total_changes != written:
                    self._own_counters = (before, before + 1)  # before and after the commit that follows
        except BaseException:
            self._own_counters = ()
            raise

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Transaction]:
        """Run the block in a transaction, and change memory accordingly once it is committed."""
        transaction = Transaction()
        with database.transaction(self._db, self.home.ledger):
            yield transaction
            stale, self._stale = self._stale, self._stale or bool(transaction.jobs)  # until memory has followed
        self._take_over(transaction)
        self._stale = stale

    def _take_over(self, transaction: Transaction) -> None:
        self._spec_numbers.update(transaction.spec_numbers)
        for key, record in transaction.jobs.items():
            if record is None:
                self.jobs.remove(key)
            else:
                self.jobs.put(key, record)
        self.next_place = max(self.next_place, transaction.next_place)
        self.version += bool(transaction.jobs)

    # -- requests of other processes ------------------------------------------------------------------------------

    def ask(self, kind: str, keys: Sequence[str] | None) -> None:
        """Leave a request for the driver, whichever process that is; needs no lease.

        Raises:
            HomeError: The file cannot be written.
        """
        body = None if keys is None else json.dumps(list(keys))
        row = {"seq": None, "at": schema.as_seconds(self._clock.now()), "kind": kind, "keys": body}
        with database.errors(self.home.ledger):
            db = database.connect(self.home.ledger, writable=True)
        with contextlib.closing(db), database.transaction(db, self.home.ledger):
            db.execute(schema.REQUEST.insert, row)

    def requests(self) -> list[tuple[int, str, list[str] | None]]:
        """Return the open requests, oldest first: number, kind, keys (None: all jobs)."""
        with database.reading(self._db, self.home.ledger):
            rows = self._db.execute("SELECT seq, kind, keys FROM request ORDER BY seq").fetchall()
        with _refusing_nonsense(self.home.ledger):
            return [(row["seq"], row["kind"], row["keys"] and json.loads(row["keys"])) for row in rows]

    def answered(self, numbers: Iterable[int]) -> None:
        """Remove requests that were carried out."""
        with self._writing():
            self._db.executemany(schema.REQUEST.delete, [{"seq": number} for number in numbers])

    # -- the lease ------------------------------------------------------------------------------------------------

    @property
    def driving(self) -> bool:
        """Whether this process holds the lease."""
        return self._holder is not None and self._holder.pid == os.getpid()  # not in a fork of the driver

    def acquire(self, *, takeover: bool = False) -> None:
        """Become the batch's driver, and read the jobs if another process has changed them.

        Args:
            takeover: Whether to replace a driver that may be alive.

        Raises:
            BatchBusy: Another driver may be alive; the message names it, and how long its lease lasts.
            HomeError: The file cannot be written.
        """
        if self.driving:
            return
        me = Holder.me()
        with self._transaction():
            generation = self._next_generation(takeover=takeover)
            self._lease_until = self._clock.ticks() + TERM
            until = schema.as_seconds(self._clock.now()) + TERM
            self._write_lease(
                holder=me.id, host=me.host, boot=me.boot, pid=me.pid, born=me.born, until_ticks=self._lease_until,
                until=until,
            )  # fmt: skip
        self.reload()
        self.generation, self._holder = generation, me

    @contextlib.contextmanager
    def visit(self) -> Iterator[None]:
        """Change the plan while there is no driver: all changes in the block are one transaction, or none is made.

        The lease is free afterwards, so that planning does not keep another process from running the batch.

        Raises:
            BatchBusy: Another driver may be alive.
            HomeError: The file cannot be written; nothing has changed.
        """
        with self._transaction() as transaction:
            generation = self._next_generation(takeover=False)
            self.reload()
            self._visit = transaction
            try:
                yield
            finally:
                self._visit = None
        self.generation = generation

    def _next_generation(self, *, takeover: bool) -> int:
        """End the current lease unless its holder may be alive; return the next generation.

        The number is valid only once the transaction is committed.
        """
        self._refuse_live_driver(takeover=takeover)
        self._db.execute("UPDATE lease SET generation = generation + 1, holder = NULL")
        return int(self._lease_row()["generation"])

    def _refuse_live_driver(self, *, takeover: bool) -> None:
        other = self.lease()
        if other is not None and other.left > 0 and not takeover and not other.holder.provably_gone():
            raise _busy(other)

    def renew(self, last_contact: datetime | None = None) -> None:
        """Extend the lease to another term, if a tenth of the present one is used up.

        Args:
            last_contact: The time at which the platform last answered.

        Raises:
            LeaseLost: Another driver has taken over.
            HomeError: The file cannot be written.
        """
        if self._lease_until - self._clock.ticks() > TERM * 0.9:
            return
        with self._writing():
            self._lease_until = self._clock.ticks() + TERM
            self._write_lease(
                until_ticks=self._lease_until,
                until=schema.as_seconds(self._clock.now()) + TERM,
                **_contact(last_contact),
            )

    def release(self, last_contact: datetime | None = None) -> None:
        """Stop being the driver.

        Args:
            last_contact: The time at which the platform last answered.

        Raises:
            LeaseLost: Another driver has taken over.
            HomeError: The file cannot be written.
        """
        if not self.driving:
            return
        with self._writing():
            self._write_lease(holder=None, **_contact(last_contact))
        self._holder = None

    def _write_lease(self, **values: Any) -> None:
        self._db.execute(schema.LEASE.update(*values), {**values, "one": 1})

    @property
    def last_contact(self) -> datetime | None:
        """The time at which the platform last answered a driver of this batch, to within a minute."""
        return schema.maybe_moment(self._lease_row()["last_contact"])

    def lease(self) -> LeaseState | None:
        """Return the holder of the lease, or None."""
        row = self._lease_row()
        if row["holder"] is None:
            return None
        holder = Holder(id=row["holder"], host=row["host"], boot=row["boot"], pid=row["pid"], born=row["born"])
        left = row["until"] - schema.as_seconds(self._clock.now())
        if holder.boot and holder.boot == Holder.me().boot:
            left = row["until_ticks"] - self._clock.ticks()  # the same machine: a clock that no one can set
        return LeaseState(holder=holder, left=left)

    def _lease_row(self) -> sqlite3.Row:
        with database.reading(self._db, self.home.ledger):
            row: sqlite3.Row | None = self._db.execute("SELECT * FROM lease").fetchone()
        if row is None:
            raise database.damaged(self.home.ledger, "its table lease is empty")
        return row

    def still_mine(self, generation: int) -> bool:
        """Return whether the file still names the driver of *generation*; safe to call in any thread."""
        holder = self._holder
        if holder is None or not self.driving:
            return False
        if generation != self.generation or self._clock.ticks() > self._lease_until:
            return False
        with contextlib.suppress(OSError):
            if self._change_counter() in self._own_counters:
                return True  # nothing was written since this driver last held the lease in a transaction
        try:
            # A connection belongs to its thread, and one that outlived this question would never be closed.
            with contextlib.closing(database.connect(self.home.ledger, writable=False)) as db:
                row = db.execute("SELECT holder, generation FROM lease").fetchone()
        except sqlite3.Error:
            return False  # if the file cannot be read, launch nothing
        return (row["holder"], row["generation"]) == (holder.id, generation)

    def _change_counter(self) -> int:
        """Return the number that each transaction in the file raises by one, without locking the file."""
        with self.home.ledger.open("rb", buffering=0) as file:
            file.seek(24)  # the header of an SQLite file holds it in these four bytes
            return int.from_bytes(file.read(4), "big")

    def _check_lease(self) -> None:
        if self._holder is None or not self.driving:
            raise BatchBusy("this process does not drive the batch, so it can only read it")
        row = self._lease_row()
        if (row["holder"], row["generation"]) != (self._holder.id, self.generation):
            self._holder = None
            raise LeaseLost("another driver has taken this batch over, so this one stops; its jobs run on")


def _contact(at: datetime | None) -> dict[str, float]:
    return {} if at is None else {"last_contact": schema.as_seconds(at)}


def _busy(other: LeaseState) -> BatchBusy:
    who = other.holder
    if who.is_this_process():
        return BatchBusy(
            "this very process runs the batch already, through a Batch that was opened before, perhaps in another "
            "cell of the notebook: go on with that one, close() it, or take over from it with run(takeover=True)"
        )
    return BatchBusy(
        f"this batch is being run by process {who.pid} on {who.host}; its lease holds for another {other.left:.0f} s "
        "unless renewed. Stop it there, or wait; canfar_batch.open() reads the batch meanwhile. If that process is "
        "dead: run(takeover=True)"
    )


def _has_tables(db: sqlite3.Connection) -> bool:
    """Return whether there are tables; an empty file is there while a ledger is made, or if its maker was killed."""
    return db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone() is not None


@contextlib.contextmanager
def _refusing_nonsense(path: Path) -> Iterator[None]:
    """Report the file as damaged if its rows make no sense."""
    try:
        yield
    except SpecError as error:  # of a spec in the file
        raise database.damaged(path, f"{type(error).__name__}: {error}") from error
    except CanfarBatchError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise database.damaged(path, f"{type(error).__name__}: {error}") from error
