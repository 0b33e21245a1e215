"""The ledger's tables, the steps from earlier versions of them, and records as rows.

Each column is declared once, in its `Table`. Statements are generated from it, and rows are filled and read by name.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import attrs

from canfar_batch import failures
from canfar_batch.lifecycle import Event
from canfar_batch.records import Attempt, JobRecord, Phase
from canfar_batch.spec import Filled, JobSpec, Secret
from canfar_batch.store.home import Home

VERSION = 5  #: of the tables; raised with a step in `MIGRATIONS` whenever they change

#: from a version to the script that leads to the next one
MIGRATIONS: Mapping[int, str] = {
    1: """
ALTER TABLE job RENAME COLUMN forgiven TO attempts_before_reopen;
UPDATE event SET kind = 'PhaseChanged' WHERE kind = 'Seen';
UPDATE event SET kind = 'RetryExhausted' WHERE kind = 'GaveUp';
UPDATE event SET kind = 'LateSuccess' WHERE kind = 'Proved';
""",
    2: """
ALTER TABLE lease RENAME COLUMN looked TO last_contact;
UPDATE event SET body = replace(body, '"kept":', '"stored":') WHERE kind = 'Collected';
""",
    3: """
ALTER TABLE attempt ADD COLUMN start_time REAL;
ALTER TABLE attempt ADD COLUMN expires_at REAL;
ALTER TABLE attempt ADD COLUMN restarts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attempt ADD COLUMN lost_seconds REAL NOT NULL DEFAULT 0;
ALTER TABLE attempt ADD COLUMN log_is_cut INTEGER NOT NULL DEFAULT 0;
""",
    4: """
ALTER TABLE attempt ADD COLUMN task INTEGER;
ALTER TABLE job ADD COLUMN expected REAL;
ALTER TABLE attempt ADD COLUMN lost_runs TEXT;
ALTER TABLE attempt ADD COLUMN shown INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attempt ADD COLUMN held_up TEXT;
ALTER TABLE attempt ADD COLUMN outputs_unchecked INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attempt ADD COLUMN stopped_for TEXT;
UPDATE attempt SET shown = 1 WHERE EXISTS (
    SELECT 1 FROM event JOIN job ON job.key = event.key WHERE job.place = attempt.place
    AND event.attempt = attempt.number AND event.kind IN ('PhaseChanged', 'Adopted')
);
""",
}


# -- tables -------------------------------------------------------------------------------------------------------


@attrs.frozen(slots=False)
class Table:
    """A table: its columns with their SQL types, and the columns that identify a row."""

    name: str
    columns: Mapping[str, str]
    identity: tuple[str, ...]
    extra: str = ""  #: what else `CREATE TABLE` says in its brackets
    options: str = ""  #: what it says after them

    @property
    def create(self) -> str:
        """The statement that makes the table."""
        inside = [f"{name} {kind}" for name, kind in self.columns.items()]
        return f"CREATE TABLE {self.name} ({', '.join(filter(None, (*inside, self.extra)))}) {self.options}"

    @functools.cached_property
    def insert(self) -> str:
        """The statement that adds a row."""
        values = ", ".join(f":{name}" for name in self.columns)
        return f"INSERT INTO {self.name} ({', '.join(self.columns)}) VALUES ({values})"  # noqa: S608

    @functools.cached_property
    def upsert(self) -> str:
        """The statement that adds a row, or replaces the one of the same identity."""
        changes = ", ".join(f"{name} = excluded.{name}" for name in self.columns if name not in self.identity)
        return f"{self.insert} ON CONFLICT ({', '.join(self.identity)}) DO UPDATE SET {changes}"

    def update(self, *columns: str) -> str:
        """Return the statement that changes *columns* of one row."""
        assert set(columns) <= set(self.columns)
        changes = ", ".join(f"{name} = :{name}" for name in columns)
        return f"UPDATE {self.name} SET {changes} WHERE {self._this}"  # noqa: S608

    @functools.cached_property
    def delete(self) -> str:
        """The statement that removes one row."""
        return f"DELETE FROM {self.name} WHERE {self._this}"  # noqa: S608

    @property
    def _this(self) -> str:
        return " AND ".join(f"{name} = :{name}" for name in self.identity)


META = Table("meta", {"name": "TEXT PRIMARY KEY", "value": "TEXT NOT NULL"}, ("name",), options="WITHOUT ROWID")
LEASE = Table(
    "lease",
    {
        "one": "INTEGER PRIMARY KEY CHECK (one = 1)", "generation": "INTEGER NOT NULL", "holder": "TEXT",
        "host": "TEXT", "boot": "TEXT", "pid": "INTEGER", "born": "TEXT", "until_ticks": "REAL", "until": "REAL",
        "last_contact": "REAL",
    },
    ("one",),
)  # fmt: skip
SPEC = Table("spec", {"id": "INTEGER PRIMARY KEY", "body": "TEXT NOT NULL UNIQUE"}, ("id",))
JOB = Table(
    "job",
    {
        "place": "INTEGER PRIMARY KEY", "key": "TEXT NOT NULL UNIQUE COLLATE NOCASE",
        "spec": "INTEGER NOT NULL REFERENCES spec (id)", "fields": "TEXT NOT NULL", "filled": "TEXT NOT NULL",
        "state": "TEXT NOT NULL", "cores": "INTEGER", "ram": "INTEGER", "gpus": "INTEGER", "due": "REAL",
        "cancelling": "INTEGER NOT NULL", "attempts_before_reopen": "INTEGER NOT NULL",
        "collected": "INTEGER NOT NULL", "result": "TEXT", "collect_error": "TEXT", "expected": "REAL",
    },
    ("place",),
)  # fmt: skip
ATTEMPT = Table(
    "attempt",
    {
        "place": "INTEGER NOT NULL REFERENCES job (place)", "number": "INTEGER NOT NULL",
        "launch_name": "TEXT NOT NULL", "id": "TEXT", "cores": "INTEGER", "ram": "INTEGER", "gpus": "INTEGER",
        "intended_at": "REAL NOT NULL", "launched_at": "REAL", "started_at": "REAL", "seen_at": "REAL",
        "ended_at": "REAL", "succeeded": "INTEGER", "verified": "INTEGER NOT NULL", "receipt": "TEXT",
        "failure": "TEXT", "log": "TEXT", "start_time": "REAL", "expires_at": "REAL",
        "restarts": "INTEGER NOT NULL DEFAULT 0", "lost_seconds": "REAL NOT NULL DEFAULT 0",
        "log_is_cut": "INTEGER NOT NULL DEFAULT 0", "task": "INTEGER", "lost_runs": "TEXT",
        "shown": "INTEGER NOT NULL DEFAULT 0", "held_up": "TEXT", "outputs_unchecked": "INTEGER NOT NULL DEFAULT 0",
        "stopped_for": "TEXT",
    },
    ("place", "number"),
    extra="PRIMARY KEY (place, number)",
    options="WITHOUT ROWID",
)  # fmt: skip
EVENT = Table(
    "event",
    {
        "seq": "INTEGER PRIMARY KEY", "at": "REAL NOT NULL", "key": "TEXT NOT NULL", "attempt": "INTEGER",
        "kind": "TEXT NOT NULL", "body": "TEXT NOT NULL",
    },
    ("seq",),
)  # fmt: skip
REQUEST = Table(
    "request",
    {"seq": "INTEGER PRIMARY KEY", "at": "REAL NOT NULL", "kind": "TEXT NOT NULL", "keys": "TEXT"},
    ("seq",),
)

#: the statements that make an empty ledger
CREATE = (
    *(table.create for table in (META, LEASE, SPEC, JOB, ATTEMPT, EVENT, REQUEST)),
    "INSERT INTO lease (one, generation) VALUES (1, 0)",
    "CREATE INDEX event_of_job ON event (key)",
)

#: the statement that writes the columns of `job` that events change; `job_progress` gives their values
UPDATE_JOB = JOB.update(
    "state", "cores", "ram", "gpus", "due", "cancelling", "attempts_before_reopen", "collected", "result",
    "collect_error",
)  # fmt: skip


class Row(Protocol):
    """One row of an answer, with its columns by name."""

    def __getitem__(self, name: str, /) -> Any: ...


def statements(script: str) -> Iterator[str]:
    """Yield the statements of a script, which has no semicolon inside one."""
    return filter(str.strip, script.split(";"))


# -- times --------------------------------------------------------------------------------------------------------


def as_seconds(moment: datetime) -> float:
    """Return the seconds since 1970, UTC."""
    return moment.timestamp()


def maybe_seconds(moment: datetime | None) -> float | None:
    """Return the seconds since 1970, UTC; None for None."""
    return None if moment is None else moment.timestamp()


def as_moment(seconds: float) -> datetime:
    """Return the moment, aware, UTC, that is this number of seconds after 1970.

    Raises:
        ValueError: There is no such moment.
    """
    try:
        return datetime.fromtimestamp(seconds, timezone.utc)
    except (OverflowError, OSError) as error:
        raise ValueError(f"{seconds} is not a time") from error


def maybe_moment(seconds: float | None) -> datetime | None:
    """Return the moment, aware, UTC, that is this number of seconds after 1970; None for None."""
    return None if seconds is None else as_moment(seconds)


# -- jobs ---------------------------------------------------------------------------------------------------------


def job_row(job: JobRecord, spec: int, home: Home) -> dict[str, Any]:
    """Return all columns of a job; *spec* is the number of its spec, and paths in its result may be below *home*."""
    return {
        "key": job.key, "spec": spec, "fields": dumps(dict(job.fields)), "filled": _filled_text(job.filled),
        **job_progress(job, home),
    }  # fmt: skip


_quoted: Callable[[str], str] = json.JSONEncoder().encode  # of a text it is a fifth of the cost of `dumps`


def _filled_text(filled: Filled) -> str:
    """Return the same as `dumps(plain(filled))`, in a quarter of the time: a plan may have a million jobs."""
    argv, outputs = ",".join(map(_quoted, filled.argv)), ",".join(map(_quoted, filled.outputs))
    name = "null" if filled.name is None else _quoted(filled.name)
    workdir = "null" if filled.workdir is None else _quoted(filled.workdir)
    return f'{{"argv":[{argv}],"env":{_env_text(filled.env)},"name":{name},"outputs":[{outputs}],"workdir":{workdir}}}'


@functools.lru_cache(maxsize=1000)
def _env_text(env: tuple[tuple[str, str | Secret], ...]) -> str:
    return dumps(plain(env))


def job_progress(job: JobRecord, home: Home) -> dict[str, Any]:
    """Return the columns of a job that events change, and its place."""
    asked = job.resources
    has_result = job.result is not None or (job.collected and job.stored and job.collect_error is None)
    return {
        "place": job.index, "state": job.state.value, "cores": asked.cores, "ram": asked.ram, "gpus": asked.gpus,
        "due": maybe_seconds(job.due), "cancelling": int(job.cancelling),
        "attempts_before_reopen": job.attempts_before_reopen, "collected": int(job.collected),
        "result": result_text(job.result, home) if has_result else None,
        "collect_error": job.collect_error, "expected": job.expected,
    }  # fmt: skip


# -- attempts -----------------------------------------------------------------------------------------------------


def attempt_row(attempt: Attempt, place: int, home: Home) -> dict[str, Any]:
    """Return all columns of an attempt of the job at *place*; its paths become relative to *home*."""
    asked = attempt.resources
    return {
        "place": place, "number": attempt.number, "launch_name": attempt.launch_name, "id": attempt.id,
        "cores": asked.cores, "ram": asked.ram, "gpus": asked.gpus, "intended_at": as_seconds(attempt.intended_at),
        "launched_at": maybe_seconds(attempt.launched_at), "started_at": maybe_seconds(attempt.started_at),
        "seen_at": maybe_seconds(attempt.seen_at), "ended_at": maybe_seconds(attempt.ended_at),
        "succeeded": None if attempt.succeeded is None else int(attempt.succeeded), "verified": int(attempt.verified),
        "receipt": attempt.receipt and dumps(plain(attempt.receipt)),
        "failure": attempt.failure and dumps(attempt.failure.to_json()),
        "log": attempt.log and _inside(home, attempt.log), "start_time": maybe_seconds(attempt.start_time),
        "expires_at": maybe_seconds(attempt.expires_at), "restarts": attempt.restarts,
        "lost_seconds": attempt.lost_seconds, "log_is_cut": int(attempt.log_is_cut), "task": attempt.task,
        "lost_runs": dumps(plain(attempt.lost_runs)) if attempt.lost_runs else None, "shown": int(attempt.shown),
        "held_up": attempt.held_up, "outputs_unchecked": int(attempt.outputs_unchecked),
        "stopped_for": attempt.stopped_for and dumps(attempt.stopped_for.to_json()),
    }  # fmt: skip


def _inside(home: Home, path: Path) -> str | None:
    """Return *path* relative to *home*, None if it is not in it; `Path` does this in ten times the time."""
    text, start = str(path), home.prefix
    if text.startswith(start):
        return text[len(start) :]
    return "." if path == home.path else None


# -- events -------------------------------------------------------------------------------------------------------


def event_row(event: Event, attempt: Attempt | None) -> dict[str, Any]:
    """Return the columns of one event; *attempt* is the job's newest attempt after it."""
    kind: Any = type(event)
    body = {
        name: plain(value)
        for name in _names(kind)
        if name not in ("key", "at", "result") and (value := getattr(event, name)) is not None  # results: table job
    }
    return {
        "seq": None, "at": as_seconds(event.at), "key": event.key, "attempt": attempt and attempt.number,
        "kind": event.kind, "body": dumps(body),
    }  # fmt: skip


# -- values as JSON -----------------------------------------------------------------------------------------------

#: JSON with sorted keys, so that equal values have equal texts
dumps: Callable[[object], str] = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode


def plain(value: Any) -> Any:
    """Return *value* in the types of JSON: frozen values become dicts, moments become seconds since 1970."""
    kind: Any = type(value)
    return _converter(kind)(value)


@functools.cache
def _converter(kind: type) -> Callable[[Any], Any]:
    """Return the function that makes values of the class *kind* plain."""
    known: tuple[tuple[type, Callable[[Any], Any]], ...] = (
        (JobSpec, JobSpec.to_json),
        (failures.Failure, failures.Failure.to_json),
        (datetime, as_seconds),
        (Path, str),
        (Phase, lambda phase: phase.value),
        (str, lambda text: text),
        (Mapping, lambda items: {str(name): plain(item) for name, item in items.items()}),
        (list, lambda items: [plain(item) for item in items]),
        (tuple, lambda items: [plain(item) for item in items]),
    )
    for family, converter in known:
        if issubclass(kind, family):
            return converter
    if attrs.has(kind):
        names = _names(kind)
        return lambda value: {name: plain(getattr(value, name)) for name in names}
    return lambda value: value


@functools.cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in attrs.fields(kind))


_LARGEST_RESULT = 65536  #: characters of JSON that the ledger stores of one result

#: what is stored of a value that JSON does not have, by the type's tag; a path below the home is stored relative to it
_TAGS = ("$home", "$path", "$tuple", "$datetime", "$date", "$decimal")


def storable(result: object) -> bool:
    """Return whether the ledger can store *result*, as `result_text` says, in at most 64 KiB."""
    home = Home(Path("/"))  # any home will do: the length of its path hardly matters
    try:
        text = result_text(result, home)
        return len(text) <= _LARGEST_RESULT and result_text(result_from(text, home), home) == text
    except (TypeError, ValueError, RecursionError):
        return False


def result_text(result: object, home: Home) -> str:
    """Return a result as JSON with tags for paths, tuples, dates and decimals; NumPy's numbers become Python's.

    Raises:
        TypeError: It cannot be stored so that the same value is read back.
    """
    return json.dumps(_tagged(result, home))


def result_from(text: str, home: Home) -> Any:
    """Return the result that `result_text` stored."""

    def value(tagged: dict[str, Any]) -> Any:
        tag = next(iter(tagged)) if len(tagged) == 1 else ""
        if tag == "$home":
            return home.path / tagged[tag]
        return _FROM_TAG[tag](tagged[tag]) if tag in _FROM_TAG else tagged

    return json.loads(text, object_hook=value)


_FROM_TAG: Mapping[str, Callable[[Any], Any]] = {
    "$path": Path,
    "$tuple": tuple,
    "$datetime": datetime.fromisoformat,
    "$date": date.fromisoformat,
    "$decimal": Decimal,
}


def _tagged(value: Any, home: Home) -> Any:
    """Return *value* in JSON's types; a path in the home is relative to it, because the home may be moved."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, list):
        return [_tagged(item, home) for item in value]
    if type(value) is tuple:
        return {"$tuple": [_tagged(item, home) for item in value]}
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value) or (len(value) == 1 and next(iter(value)) in _TAGS):
            raise TypeError("JSON would change the keys of a dict")
        return {name: _tagged(item, home) for name, item in value.items()}
    if isinstance(value, Path):
        inside = _inside(home, value)
        return {"$path": str(value)} if inside is None else {"$home": inside}
    if isinstance(value, datetime):
        return {"$datetime": value.isoformat()}
    if isinstance(value, date):
        return {"$date": value.isoformat()}
    if isinstance(value, Decimal):
        return {"$decimal": str(value)}
    return _tagged(_number(value), home)


def _number(value: Any) -> Any:
    """Return a number of NumPy as Python's."""
    is_scalar = getattr(value, "shape", None) == () and getattr(value, "mask", None) is None
    number = value.item() if is_scalar and hasattr(value, "item") else None
    if not isinstance(number, (bool, int, float)):  # before comparing, which runs code of the value's own class
        raise TypeError(f"{type(value).__name__} is not JSON")
    if not (number == value or (number != number and value != value)):  # NaN differs from itself
        raise TypeError(f"{type(value).__name__} is not JSON")
    return number
