"""The ledger: one SQLite file in which a batch remembers its plan, its jobs, and everything that happened to them.

The calling thread alone writes, one transaction at a time, and only while it holds the lease. Readers open the file
read-only, for short transactions. `docs/reference/ledger.md` describes the tables.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs

from canfar_batch.errors import AlreadyClosed, BatchBusy, HomeError, LeaseLost, LedgerError, UnknownBatch
from canfar_batch.lifecycle import Event, apply
from canfar_batch.protocols import Clock
from canfar_batch.records import Attempt, JobRecord
from canfar_batch.spec import JobSpec
from canfar_batch.store.files import open_private, probe_locking
from canfar_batch.store.home import Home, batches
from canfar_batch.store.lease import TERM, Holder
from canfar_batch.store.schema import (
    as_moment,
    as_seconds,
    attempt_from,
    attempt_row,
    dumps,
    event_row,
    job_from,
    job_row,
    maybe_moment,
    maybe_seconds,
    refusing_nonsense,
)

TRIES = 10  #: times that a transaction is begun or ended anew where the file stays locked
SCHEMA = 2  #: the version of the tables; raised with a step in `_MIGRATIONS` whenever they change
#: from a version to the script that leads to the next one
_MIGRATIONS: Mapping[int, str] = {
    1: """
ALTER TABLE job RENAME COLUMN forgiven TO attempts_before_reopen;
UPDATE event SET kind = 'PhaseChanged' WHERE kind = 'Seen';
UPDATE event SET kind = 'RetryExhausted' WHERE kind = 'GaveUp';
UPDATE event SET kind = 'LateSuccess' WHERE kind = 'Proved';
""",
}

_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE lease (
  one INTEGER PRIMARY KEY CHECK (one = 1), generation INTEGER NOT NULL, holder TEXT, host TEXT, boot TEXT,
  pid INTEGER, born TEXT, until_ticks REAL, until REAL,
  looked REAL
);
INSERT INTO lease (one, generation) VALUES (1, 0);
CREATE TABLE spec (id INTEGER PRIMARY KEY, body TEXT NOT NULL UNIQUE);
CREATE TABLE job (
  place INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE COLLATE NOCASE, spec INTEGER NOT NULL REFERENCES spec (id),
  fields TEXT NOT NULL, filled TEXT NOT NULL, state TEXT NOT NULL, cores INTEGER, ram INTEGER, gpus INTEGER, due REAL,
  cancelling INTEGER NOT NULL, attempts_before_reopen INTEGER NOT NULL,
  collected INTEGER NOT NULL, result TEXT, collect_error TEXT
);
CREATE TABLE attempt (
  place INTEGER NOT NULL REFERENCES job (place), number INTEGER NOT NULL, launch_name TEXT NOT NULL, id TEXT,
  cores INTEGER, ram INTEGER, gpus INTEGER, intended_at REAL NOT NULL, launched_at REAL, started_at REAL, seen_at REAL,
  ended_at REAL, succeeded INTEGER, verified INTEGER NOT NULL, receipt TEXT, failure TEXT, log TEXT,
  PRIMARY KEY (place, number)
) WITHOUT ROWID;
CREATE TABLE event (
  seq INTEGER PRIMARY KEY, at REAL NOT NULL, key TEXT NOT NULL, attempt INTEGER, kind TEXT NOT NULL, body TEXT NOT NULL
);
CREATE INDEX event_of_job ON event (key);
CREATE TABLE request (seq INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, keys TEXT);
"""


@attrs.frozen(kw_only=True)
class Identity:
    """Whose ledger this is."""

    name: str  #: the batch
    platform: str  #: its address, or "local"
    user: str | None
    token: str = attrs.field(repr=False)  #: random; part of every launch name


@attrs.frozen(kw_only=True)
class Change:
    """One event that is in the ledger, and the record on either side of it."""

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
    """Who holds the batch, and for how many seconds more."""

    holder: Holder
    left: float


class Ledger:
    """The open ledger of one batch.

    Attributes:
        jobs: Every job's record by its key, in plan order, as of the last transaction.
        next_place: The place in the plan after that of the last job.
        identity: Whose ledger it is.
        workdir: The directory in which the batch was made; None where the file is of before that was kept.
        generation: Which driver of the batch this one is, or last was; each has a number of its own.
    """

    def __init__(self, home: Home, *, clock: Clock, writable: bool) -> None:
        self.home = home
        self._clock = clock
        self._holder: Holder | None = None
        self.generation = 0
        self._lease_until = 0.0
        self._current = False  # whether `jobs` is all that the file says
        self._visiting = False
        self._in_vain = False  # whether a visit has changed `jobs`, which its end may undo in the file
        self._numbers: dict[JobSpec, int] = {}  # of the specs in the file
        self._fresh_numbers: dict[JobSpec, int] = {}  # of those that the transaction under way put there
        with _errors(home.ledger):
            self._db = _connect(home.ledger, writable=writable)
            if not _has_tables(self._db):
                self._db.close()
                raise UnknownBatch(f"there is no batch in {home.path}: whoever began to make it was interrupted")
            self._migrate(writable)
            self.identity = self._read_identity()
            self.workdir = self._read_workdir()
            self.jobs: dict[str, JobRecord] = {}
            self._folded: dict[str, str] = {}  # the keys by their lower case, in which no two are the same
            self.next_place = 0
            self.reload()

    # -- opening and closing --------------------------------------------------------------------------------------

    @classmethod
    def create(cls, home: Home, identity: Identity, *, clock: Clock) -> Ledger:
        """Make the ledger of a new batch.

        Raises:
            HomeError: The place cannot be written, or its disk has no working locks.
        """
        home.make()
        probe_locking(home.path)
        open_private(home.ledger)
        with _errors(home.ledger):
            db = _connect(home.ledger, writable=True)
            with contextlib.closing(db):
                db.execute("BEGIN IMMEDIATE")
                if not _has_tables(db):
                    for statement in filter(str.strip, _TABLES.split(";")):
                        db.execute(statement)
                    rows = {**attrs.asdict(identity), "created": clock.now().isoformat(), "schema": str(SCHEMA)}
                    rows["workdir"] = home.stored(Path.cwd())
                    db.executemany("INSERT INTO meta VALUES (?, ?)", [(k, v) for k, v in rows.items() if v is not None])
                db.execute("COMMIT")
        return cls(home, clock=clock, writable=True)

    @classmethod
    def open(cls, home: Home, *, clock: Clock, writable: bool) -> Ledger:
        """Open the ledger of a batch that there is.

        Raises:
            UnknownBatch: There is none.
            LedgerError: A later version of the package wrote it.
        """
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

    @refusing_nonsense
    def _migrate(self, writable: bool) -> None:
        version = int(self._meta("schema"))
        if version > SCHEMA:
            raise LedgerError(
                f"{self.home.ledger} was written by a later version of canfar_batch (tables {version}, this version "
                f"knows {SCHEMA}); upgrade with: pip install -U canfar_batch"
            )
        if version < SCHEMA and not writable:
            raise LedgerError(f"{self.home.ledger} is of an earlier version; open it once with Session.batch()")
        for step in range(version, SCHEMA):
            self._db.executescript(f"BEGIN IMMEDIATE; {_MIGRATIONS[step]}")
            self._db.execute("UPDATE meta SET value = ? WHERE name = 'schema'", (str(step + 1),))
            self._db.execute("COMMIT")

    def _meta(self, name: str) -> str:
        with _errors(self.home.ledger):
            row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else ""

    def _read_identity(self) -> Identity:
        return Identity(
            name=self._meta("name"), platform=self._meta("platform"), user=self._meta("user") or None,
            token=self._meta("token"),
        )  # fmt: skip

    @property
    def created(self) -> datetime:
        """When the batch was made."""
        return datetime.fromisoformat(self._meta("created"))

    def _read_workdir(self) -> Path | None:
        kept = self._meta("workdir")
        return self.home.restored(kept) if kept else None

    # -- reading --------------------------------------------------------------------------------------------------

    @refusing_nonsense
    def reload(self) -> None:
        """Read every job anew, as another process may have left it."""
        with _errors(self.home.ledger), self._reading():
            specs = {row[0]: row[1] for row in self._db.execute("SELECT id, body FROM spec")}
            attempts = self._db.execute("SELECT * FROM attempt ORDER BY place, number").fetchall()
            jobs = self._db.execute("SELECT * FROM job ORDER BY place").fetchall()
        made: dict[int, list[Attempt]] = {}
        for row in attempts:
            made.setdefault(row["place"], []).append(attempt_from(row, self.home))
        parsed = {number: JobSpec.from_json(json.loads(body)) for number, body in specs.items()}
        records = [job_from(row, parsed[row["spec"]], tuple(made.get(row["place"], ())), self.home) for row in jobs]
        found = {record.key: record for record in records}
        folded = {key.lower(): key for key in found}
        place = max((record.index + 1 for record in records), default=0)
        self.jobs, self._folded, self.next_place = found, folded, place  # all at once: Ctrl-C leaves no half of it
        self._current = True

    def find(self, key: str) -> JobRecord | None:
        """The job of this key, whatever the case of its letters."""
        known = self._folded.get(key.lower())
        return None if known is None else self.jobs[known]

    def history(self, key: str | None = None) -> Iterator[Happened]:
        """What happened to one job, or to all, oldest first."""
        condition, values = ("", ()) if key is None else (" WHERE key = ?", (key,))
        with _errors(self.home.ledger), self._reading():
            rows = self._db.execute(f"SELECT * FROM event{condition} ORDER BY seq", values).fetchall()  # noqa: S608
        for row in rows:
            yield Happened(
                at=as_moment(row["at"]), key=row["key"], attempt=row["attempt"], kind=row["kind"],
                body=json.loads(row["body"]),
            )  # fmt: skip

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """All that is read inside belongs to one moment."""
        if self._db.in_transaction:
            yield
            return
        try:
            self._db.execute("BEGIN")
            yield
        finally:
            self._db.commit()  # if it was begun

    # -- writing --------------------------------------------------------------------------------------------------

    def record(self, events: Iterable[Event]) -> list[Change]:
        """Apply *events* and remember them, all in one transaction, or none.

        Raises:
            LeaseLost: Another driver has taken over.
            HomeError: The file cannot be written; nothing has changed.
            TransitionError: An event does not fit its job.
        """
        fresh: dict[str, JobRecord] = {}
        changes: list[Change] = []
        for event in events:
            before = fresh.get(event.key) or self.jobs[event.key]
            fresh[event.key] = apply(before, event)
            changes.append(Change(event=event, before=before, after=fresh[event.key]))
        if not changes:
            return []
        with self._writing():
            self._db.executemany(
                "INSERT INTO event (at, key, attempt, kind, body) VALUES (?, ?, ?, ?, ?)",
                [event_row(change.event, change.after.last_attempt) for change in changes],
            )
            self._store([(self.jobs[key], after) for key, after in fresh.items()])
        self.jobs.update(fresh)
        self._current = True
        return changes

    def plan(self, records: Sequence[JobRecord]) -> None:
        """Add jobs, or put them in the place of jobs of the same key that were never launched."""
        with self._writing():
            for statement, known in ((_INSERT_JOB, False), (_REPLACE_JOB, True)):
                rows = [self._row(record) for record in records if (record.key in self.jobs) is known]
                self._db.executemany(statement, rows)
        self._admit(records)

    def _admit(self, records: Iterable[JobRecord]) -> None:
        for record in records:
            self.jobs[record.key] = record
            self._folded[record.key.lower()] = record.key
            self.next_place = max(self.next_place, record.index + 1)
        self._current = True

    def drop(self, keys: Iterable[str]) -> None:
        """Forget jobs that were never launched."""
        chosen = list(keys)
        with self._writing():
            self._db.executemany("DELETE FROM job WHERE key = ?", [(key,) for key in chosen])
            self._db.executemany("DELETE FROM event WHERE key = ?", [(key,) for key in chosen])
        for key in chosen:
            del self.jobs[key], self._folded[key.lower()]
        self._current = True

    def note_user(self, user: str) -> None:
        """Remember who the platform says that we are."""
        with self._writing(jobs=False):
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('user', ?)", (user,))
        self.identity = attrs.evolve(self.identity, user=user)

    def _store(self, pairs: Sequence[tuple[JobRecord, JobRecord]]) -> None:
        """Bring the rows of jobs, each as it was and as it is, up to date."""
        self._db.executemany(_REPLACE_JOB, [self._row(after) for _, after in pairs])
        gone: list[tuple[int, int]] = []
        made: list[tuple[Any, ...]] = []
        for before, after in pairs:
            if before.attempts is after.attempts:
                continue
            known = set(map(id, before.attempts))
            made += [(after.index, *attempt_row(a, self.home)) for a in after.attempts if id(a) not in known]
            gone += [(after.index, a.number) for a in before.attempts[len(after.attempts) :]]
        self._db.executemany("DELETE FROM attempt WHERE place = ? AND number = ?", gone)
        self._db.executemany(_REPLACE_ATTEMPT, made)

    def _row(self, job: JobRecord) -> tuple[Any, ...]:
        return (*job_row(job, self.home), self._spec_number(job.spec))

    def _spec_number(self, spec: JobSpec) -> int:
        number = self._numbers.get(spec) or self._fresh_numbers.get(spec)
        if number is None:
            body = dumps(spec.to_json())
            self._db.execute("INSERT OR IGNORE INTO spec (body) VALUES (?)", (body,))
            number = int(self._db.execute("SELECT id FROM spec WHERE body = ?", (body,)).fetchone()[0])
            self._fresh_numbers[spec] = number  # its row is there for good only once the transaction is
        return number

    @contextlib.contextmanager
    def _writing(self, *, jobs: bool = True) -> Iterator[None]:
        """One transaction, checked against the lease and durable once this returns; *jobs*: whether it changes any."""
        if self._visiting:  # it is one already, and nobody else can drive before it is over
            self._in_vain = True
            yield
            return
        with self._transaction(jobs=jobs):
            self._check_lease()
            yield

    @contextlib.contextmanager
    def _transaction(self, *, jobs: bool) -> Iterator[None]:
        """All that is written inside, or nothing; durable once this returns."""
        with _errors(self.home.ledger):
            try:
                _patiently(self._db, "BEGIN IMMEDIATE")  # inside, for Ctrl-C may be heard as soon as it is done
                self._current = self._current and not jobs  # until what is written is in the records, too
                yield
                self._commit()
                self._numbers.update(self._fresh_numbers)
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            finally:
                self._fresh_numbers = {}

    def _commit(self) -> None:
        _patiently(self._db, "COMMIT")

    # -- requests of other processes ------------------------------------------------------------------------------

    def ask(self, kind: str, keys: Sequence[str] | None) -> None:
        """Leave a request for the driver, whoever it is; needs no lease."""
        with _errors(self.home.ledger), contextlib.closing(_connect(self.home.ledger, writable=True)) as db:
            body = None if keys is None else json.dumps(list(keys))
            db.execute(
                "INSERT INTO request (at, kind, keys) VALUES (?, ?, ?)", (as_seconds(self._clock.now()), kind, body)
            )

    def requests(self) -> list[tuple[int, str, list[str] | None]]:
        """The requests that wait, oldest first: number, kind, keys (None: all jobs)."""
        with _errors(self.home.ledger):
            rows = self._db.execute("SELECT seq, kind, keys FROM request ORDER BY seq").fetchall()
        return [(row["seq"], row["kind"], row["keys"] and json.loads(row["keys"])) for row in rows]

    def answered(self, numbers: Iterable[int]) -> None:
        """Forget requests that were carried out."""
        with self._writing(jobs=False):
            self._db.executemany("DELETE FROM request WHERE seq = ?", [(number,) for number in numbers])

    # -- the lease ------------------------------------------------------------------------------------------------

    @property
    def driving(self) -> bool:
        """True while this process holds the lease."""
        return self._holder is not None and self._holder.pid == os.getpid()  # a fork of the driver is none

    def acquire(self, *, takeover: bool = False) -> None:
        """Become the batch's driver, and read what the last one left.

        Raises:
            BatchBusy: Another driver may live; the message says which, and for how long its lease still holds.
        """
        if self.driving:
            return
        me = Holder.me()
        with self._transaction(jobs=False):
            generation = self._succeed(takeover=takeover)
            self._lease_until = self._clock.ticks() + TERM
            self._db.execute(
                "UPDATE lease SET holder = ?, host = ?, boot = ?, pid = ?, born = ?, until_ticks = ?, until = ?",
                (me.id, me.host, me.boot, me.pid, me.born, self._lease_until, as_seconds(self._clock.now()) + TERM),
            )
        if not self._current:
            self.reload()
        self.generation, self._holder = generation, me

    @contextlib.contextmanager
    def visit(self) -> Iterator[None]:
        """Change the plan while nobody drives: all that is written inside is one transaction, or nothing.

        The lease is free again afterwards: to plan must not keep the batch from who would run it.

        Raises:
            BatchBusy: Another driver may live.
        """
        self._in_vain = False
        try:
            with self._transaction(jobs=False):
                generation = self._succeed(takeover=False)
                if not self._current:
                    self.reload()
                self._visiting = True
                try:
                    yield
                finally:
                    self._visiting = False
        except BaseException:
            if self._in_vain:
                with contextlib.suppress(HomeError):  # the trouble that there was is told, not this one
                    self.reload()
            raise
        self.generation = generation

    def _succeed(self, *, takeover: bool) -> int:
        """Inside a transaction: end whatever lease there was, unless its holder may live; the next one's generation.

        It is ours only once the transaction is over: a number that was taken back is given to the next who asks.

        Raises:
            BatchBusy: It may.
        """
        other = self.lease()
        if other is not None and other.left > 0 and not takeover and not other.holder.provably_gone():
            raise _busy(other)
        before = self._db.execute("SELECT generation FROM lease").fetchone()[0]
        self._current = self._current and before == self.generation  # nobody has written in between
        self._db.execute("UPDATE lease SET generation = ?, holder = NULL", (before + 1,))
        return int(before) + 1

    def renew(self, looked: datetime | None = None) -> None:
        """Keep the lease for another term, once a tenth of it is used up; *looked*: when the platform last answered."""
        if self._lease_until - self._clock.ticks() > TERM * 0.9:
            return
        with self._writing(jobs=False):
            self._lease_until = self._clock.ticks() + TERM
            self._db.execute(
                "UPDATE lease SET until_ticks = ?, until = ?, looked = coalesce(?, looked)",
                (self._lease_until, as_seconds(self._clock.now()) + TERM, maybe_seconds(looked)),
            )

    def release(self, looked: datetime | None = None) -> None:
        """Stop being the driver; *looked*: when the platform last answered."""
        if not self.driving:
            return
        with self._writing(jobs=False):
            self._db.execute("UPDATE lease SET holder = NULL, looked = coalesce(?, looked)", (maybe_seconds(looked),))
        self._holder = None

    @property
    def looked(self) -> datetime | None:
        """When a driver of this batch last had an answer of the platform, to within a minute."""
        return maybe_moment(self._lease_row()["looked"])

    def lease(self) -> LeaseState | None:
        """Who holds the batch, or None."""
        row = self._lease_row()
        if row["holder"] is None:
            return None
        holder = Holder(id=row["holder"], host=row["host"], boot=row["boot"], pid=row["pid"], born=row["born"])
        left = row["until"] - as_seconds(self._clock.now())
        if holder.boot and holder.boot == Holder.me().boot:
            left = row["until_ticks"] - self._clock.ticks()  # the same machine: a clock that nobody can set
        return LeaseState(holder=holder, left=left)

    def _lease_row(self) -> sqlite3.Row:
        with _errors(self.home.ledger):
            row: sqlite3.Row = self._db.execute("SELECT * FROM lease").fetchone()
        return row

    def still_mine(self, generation: int) -> bool:
        """True while the driver of *generation* drives; may be called from any thread, and asks the file itself."""
        holder = self._holder
        if (
            holder is None
            or not self.driving
            or generation != self.generation
            or self._clock.ticks() > self._lease_until
        ):
            return False
        try:
            # a connection belongs to its thread, and nobody would close one that outlives this question
            with contextlib.closing(_connect(self.home.ledger, writable=False)) as db:
                row = db.execute("SELECT holder, generation FROM lease").fetchone()
        except sqlite3.Error:
            return False  # cannot tell: then rather launch nothing
        return (row["holder"], row["generation"]) == (holder.id, generation)

    def _check_lease(self) -> None:
        if self._holder is None or not self.driving:
            raise BatchBusy("this batch is open for reading only: it has no driver here")
        row = self._lease_row()
        if (row["holder"], row["generation"]) != (self._holder.id, self.generation):
            self._holder = None
            raise LeaseLost("another driver has taken this batch over, so this one stops; its jobs run on")


def _busy(other: LeaseState) -> BatchBusy:
    who = other.holder
    return BatchBusy(
        f"this batch is being run by process {who.pid} on {who.host}; its lease holds for another {other.left:.0f} s "
        "unless renewed. Stop it there, or wait; canfar_batch.open() reads the batch meanwhile, and "
        "run(takeover=True) takes it over if you know that the other one is gone, before more jobs are planned"
    )


# -- SQLite -------------------------------------------------------------------------------------------------------


def _connect(path: Path, *, writable: bool) -> sqlite3.Connection:
    mode = "rw" if writable else "ro"
    # any thread may use the connection: `engine.turns` lets one do so at a time
    db = sqlite3.connect(
        f"{path.as_uri()}?mode={mode}", uri=True, timeout=30.0, isolation_level=None, check_same_thread=False
    )
    db.row_factory = sqlite3.Row
    if writable:
        # rollback journal: WAL needs memory shared by all readers, which network disks lack
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("PRAGMA synchronous = FULL")
        return db
    try:
        db.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        # A driver was killed in the middle of a transaction, and a reader may not roll it back: one writer has to.
        db.close()
        with contextlib.closing(_connect(path, writable=True)) as mender:
            mender.execute("SELECT 1 FROM sqlite_master").fetchone()
        db = sqlite3.connect(
            f"{path.as_uri()}?mode=ro", uri=True, timeout=30.0, isolation_level=None, check_same_thread=False
        )
        db.row_factory = sqlite3.Row
    return db


def _patiently(db: sqlite3.Connection, statement: str) -> None:
    """Begin or end a transaction; who else has the file locked (a backup, a reader that stays) is waited for."""
    for left in reversed(range(TRIES)):
        try:
            db.execute(statement)
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or not left:
                raise
        else:
            return


def _has_tables(db: sqlite3.Connection) -> bool:
    """False for the empty file that is there while a ledger is made, and stays if its maker is killed."""
    return db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone() is not None


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Turn SQLite's complaints into ours."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        words = str(error)
        if isinstance(error, sqlite3.ProgrammingError) and "closed" in words:
            raise AlreadyClosed(f"the batch in {path.parent} was closed; open it again to go on") from error
        if "locked" in words:
            raise HomeError(
                f"{path} is locked by another process, which is in the middle of reading or writing it. Nothing that "
                "was recorded is lost: let that process go on, or end it, and run the script again"
            ) from error
        if isinstance(error, sqlite3.OperationalError):
            raise HomeError(
                f"{path} cannot be used: {words}. Nothing that was recorded is lost: make room or mend the rights, "
                "and run the script again"
            ) from error
        raise LedgerError(f"{path} is damaged or no ledger: {words}") from error


# -- statements ---------------------------------------------------------------------------------------------

_INSERT_JOB = (
    "INSERT INTO job (place, key, fields, filled, state, cores, ram, gpus, due, cancelling,"
    " attempts_before_reopen, collected, result, collect_error, spec)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_REPLACE_JOB = (
    f"{_INSERT_JOB}"
    " ON CONFLICT (place) DO UPDATE SET key = excluded.key, fields = excluded.fields, filled = excluded.filled,"
    " state = excluded.state, cores = excluded.cores, ram = excluded.ram, gpus = excluded.gpus, due = excluded.due,"
    " cancelling = excluded.cancelling, attempts_before_reopen = excluded.attempts_before_reopen,"
    " collected = excluded.collected,"
    " result = excluded.result, collect_error = excluded.collect_error, spec = excluded.spec"
)
_REPLACE_ATTEMPT = "INSERT OR REPLACE INTO attempt VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
