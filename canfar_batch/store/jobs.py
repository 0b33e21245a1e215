"""The records of a batch's jobs in memory: those in progress as they are, all others packed.

A batch may have a million jobs, most of which wait for their launch or are final. Such a job is kept as its rows of the
ledger, in a few hundred bytes. `StoredJob` and `StoredAttempt` are records whose fields are parsed when first used.
"""

from __future__ import annotations

import functools
import json
import marshal
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, overload

import attrs

from canfar_batch import failures
from canfar_batch.errors import SpecError
from canfar_batch.fields.keys import folded
from canfar_batch.records import Attempt, JobRecord, JobState, LostRun, Receipt, Resources, shared_resources
from canfar_batch.spec import Filled, JobSpec, Secret, value_from_json
from canfar_batch.store import database, schema
from canfar_batch.store.home import Home

Row = tuple[Any, ...]  #: the values of a row of the ledger, in the order of the columns below
T = TypeVar("T")
Packed = bytes  #: a job's row, and those of its attempts

JOB_COLUMNS = tuple(name for name in schema.JOB.columns if name != "key")
ATTEMPT_COLUMNS = tuple(name for name in schema.ATTEMPT.columns if name != "place")

_RECENT = 4096  # packed jobs whose records are kept, since they may be asked for again


# -- records of rows ----------------------------------------------------------------------------------------------


@attrs.frozen
class Origin:
    """What the rows of a ledger refer to."""

    home: Home
    specs: dict[int, JobSpec] = attrs.field(factory=dict)  #: by their number in the file


class StoredAttempt(Attempt):
    """An attempt, equal to the `Attempt` of the same values; its fields are parsed when first used."""

    __slots__ = ("_origin", "_row")
    _row: Row
    _origin: Origin

    def __getattr__(self, name: str) -> Any:
        # Python asks here for a slot that is still empty
        return _fill_slot(self, name, _ATTEMPT_FIELDS)

    def __eq__(self, other: object) -> bool:
        return _are_equal(self, other, Attempt, _ATTEMPT_FIELDS)

    def __hash__(self) -> int:
        return Attempt.__hash__(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _as_plain, (Attempt, {name: getattr(self, name) for name in _ATTEMPT_FIELDS})


class StoredJob(JobRecord):
    """A job, equal to the `JobRecord` of the same values; its fields are parsed when first used."""

    __slots__ = ("_origin", "_row")
    _row: tuple[Row, tuple[Row, ...]]
    _origin: Origin

    def __getattr__(self, name: str) -> Any:
        return _fill_slot(self, name, _JOB_FIELDS)

    def __eq__(self, other: object) -> bool:
        return _are_equal(self, other, JobRecord, {"key": None, **_JOB_FIELDS})

    def __hash__(self) -> int:
        return JobRecord.__hash__(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _as_plain, (JobRecord, {name: getattr(self, name) for name in ("key", *_JOB_FIELDS)})


def _as_plain(kind: type, values: dict[str, Any]) -> Any:
    return kind(**values)


def _fill_slot(record: Any, name: str, fields: Mapping[str, Callable[[Any, Origin], Any]]) -> Any:
    parser = fields.get(name)
    if parser is None:
        raise AttributeError(f"{type(record).__name__} has no attribute {name!r}")
    try:
        value = parser(record._row, record._origin)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, SpecError) as error:
        raise database.damaged(record._origin.home.ledger, f"{type(error).__name__}: {error}") from error
    object.__setattr__(record, name, value)
    return value


def _are_equal(record: object, other: object, kind: type, names: Mapping[str, Any]) -> bool:
    if not isinstance(other, kind):
        return False
    return record is other or all(getattr(record, name) == getattr(other, name) for name in names)


# descriptors set the slot of a frozen value directly; these run for each job that is looked at
_new = object.__new__
_set_job_row, _set_job_origin = StoredJob.__dict__["_row"].__set__, StoredJob.__dict__["_origin"].__set__
_set_key = JobRecord.__dict__["key"].__set__
_set_attempt_row = StoredAttempt.__dict__["_row"].__set__
_set_attempt_origin = StoredAttempt.__dict__["_origin"].__set__


def _stored_attempts(rows: tuple[Row, ...], origin: Origin) -> tuple[Attempt, ...]:
    attempts = []
    for row in rows:
        attempt = _new(StoredAttempt)
        _set_attempt_row(attempt, row)
        _set_attempt_origin(attempt, origin)
        attempts.append(attempt)
    return tuple(attempts)


# -- the values of rows -------------------------------------------------------------------------------------------

Parser = Callable[[Any, Origin], Any]
_J = {name: at for at, name in enumerate(JOB_COLUMNS)}
_A = {name: at for at, name in enumerate(ATTEMPT_COLUMNS)}


def _of_job(name: str, parse: Callable[[Any], Any] | None = None) -> Parser:
    at = _J[name]
    if parse is None:
        return lambda row, origin: row[0][at]
    return lambda row, origin: parse(row[0][at])


def _of_attempt(name: str, parse: Callable[[Any], Any] | None = None) -> Parser:
    at = _A[name]
    if parse is None:
        return lambda row, origin: row[at]
    return lambda row, origin: parse(row[at])


def _resources_of_job(row: tuple[Row, Any], origin: Origin) -> Resources:
    return shared_resources(row[0][_J["cores"]], row[0][_J["ram"]], row[0][_J["gpus"]])


def _resources_of_attempt(row: Row, origin: Origin) -> Resources:
    return shared_resources(row[_A["cores"]], row[_A["ram"]], row[_A["gpus"]])


def _is_stored(row: tuple[Row, Any], origin: Origin) -> bool:
    job = row[0]
    was_fetched = job[_J["collected"]] and job[_J["collect_error"]] is None
    return not was_fetched or job[_J["result"]] is not None


def _result(row: tuple[Row, Any], origin: Origin) -> Any:
    text = row[0][_J["result"]]
    return None if text is None else schema.result_from(text, origin.home)


def _filled(text: str) -> Filled:
    data = json.loads(text)
    env = _shared(tuple((name, value_from_json(value)) for name, value in data["env"]))
    return Filled(
        argv=tuple(data["argv"]), env=env,
        name=data["name"], workdir=data["workdir"], outputs=tuple(data["outputs"]),
    )  # fmt: skip


def _receipt(text: str | None) -> Receipt | None:
    if not text:
        return None
    values = json.loads(text)
    for old, name in _RENAMED.items():
        if old in values:
            values[name] = values.pop(old)
    values["started_at"] = schema.maybe_moment(values["started_at"])
    values["finished_at"] = schema.maybe_moment(values["finished_at"])
    values.pop("written", None)  # of earlier versions
    for several in ("missing", "unchanged"):
        values[several] = tuple(values.get(several, ()))
    return Receipt(**values)


_RENAMED = {"workdir": "ran_in"}  # fields of receipts, from their names in earlier versions


def _failure(text: str | None) -> failures.Failure | None:
    return failures.from_json(json.loads(text)) if text else None


def _lost_runs(text: str | None) -> tuple[LostRun, ...]:
    runs = json.loads(text) if text else ()
    return tuple(LostRun(schema.as_moment(run["began"]), schema.as_moment(run["ended"])) for run in runs)


def _succeeded(value: int | None) -> bool | None:
    return None if value is None else bool(value)


@functools.lru_cache(maxsize=1000)
def _shared(env: tuple[tuple[str, str | Secret], ...]) -> tuple[tuple[str, str | Secret], ...]:
    return env  # one value for all jobs with the same environment, which saves memory


_JOB_FIELDS: Mapping[str, Parser] = {
    "index": _of_job("place"),
    "spec": lambda row, origin: origin.specs[row[0][_J["spec"]]],
    "filled": _of_job("filled", _filled),
    "fields": _of_job("fields", json.loads),
    "state": _of_job("state", JobState),
    "attempts": lambda row, origin: _stored_attempts(row[1], origin),
    "resources": _resources_of_job,
    "due": _of_job("due", schema.maybe_moment),
    "cancelling": _of_job("cancelling", bool),
    "attempts_before_reopen": _of_job("attempts_before_reopen"),
    "result": _result,
    "stored": _is_stored,
    "collected": _of_job("collected", bool),
    "collect_error": _of_job("collect_error"),
    "expected": _of_job("expected"),
}

_ATTEMPT_FIELDS: Mapping[str, Parser] = {
    "number": _of_attempt("number"),
    "launch_name": _of_attempt("launch_name"),
    "resources": _resources_of_attempt,
    "intended_at": _of_attempt("intended_at", schema.as_moment),
    "id": _of_attempt("id"),
    **{
        name: _of_attempt(name, schema.maybe_moment)
        for name in ("launched_at", "started_at", "start_time", "expires_at", "seen_at", "ended_at")
    },
    "restarts": _of_attempt("restarts"),
    "lost_seconds": _of_attempt("lost_seconds"),
    "succeeded": _of_attempt("succeeded", _succeeded),
    "verified": _of_attempt("verified", bool),
    "receipt": _of_attempt("receipt", _receipt),
    "failure": _of_attempt("failure", _failure),
    "log": lambda row, origin: row[_A["log"]] and origin.home.path / row[_A["log"]],
    "log_is_cut": _of_attempt("log_is_cut", bool),
    "task": _of_attempt("task"),
    "lost_runs": _of_attempt("lost_runs", _lost_runs),
    "shown": _of_attempt("shown", bool),
    "held_up": _of_attempt("held_up"),
    "outputs_unchecked": _of_attempt("outputs_unchecked", bool),
    "stopped_for": _of_attempt("stopped_for", _failure),
}


# -- packing ------------------------------------------------------------------------------------------------------

#: the statements that read rows as they are packed
SELECT_JOBS = f"SELECT key, {', '.join(JOB_COLUMNS)} FROM job ORDER BY place"  # noqa: S608
SELECT_ATTEMPTS = f"SELECT place, {', '.join(ATTEMPT_COLUMNS)} FROM attempt ORDER BY place, number"  # noqa: S608

_STATES = frozenset(state.value for state in JobState)
_TIMES = tuple(_A[name] for name in ("intended_at", "launched_at", "started_at", "seen_at", "ended_at", "start_time"))
_OBJECTS = tuple(_A[name] for name in ("receipt", "failure", "stopped_for"))
_FAR_FUTURE = 2.0**37  # seconds since 1970; later years have five digits


def check_rows(job: Row, attempts: Sequence[Row], specs: Mapping[int, JobSpec]) -> None:
    """Check what can be checked quickly; the texts in the rows are parsed when they are used.

    Raises:
        ValueError: The rows make no sense.
    """
    if job[_J["spec"]] not in specs or job[_J["state"]] not in _STATES or not _is_object(job[_J["filled"]]):
        raise ValueError(f"job {job[0]}")
    for attempt in attempts:
        times = [attempt[at] for at in _TIMES]
        if times[0] is None or not all(time is None or abs(time) < _FAR_FUTURE for time in times):
            raise ValueError(f"the times of attempt {attempt[0]} of job {job[0]}")
        if not all(attempt[at] is None or _is_object(attempt[at]) for at in _OBJECTS):
            raise ValueError(f"attempt {attempt[0]} of job {job[0]}")


def _is_object(text: str) -> bool:
    return text[:1] == "{" and text[-1:] == "}" and len(text) > 1


def pack(job: Row, attempts: Sequence[Row] = ()) -> Packed:
    """Return a job's row and those of its attempts in one value."""
    return marshal.dumps((job, tuple(attempts)))


def pack_row(job: Mapping[str, Any], attempts: Sequence[Row] = ()) -> Packed:
    """Return the same for the columns of a job by name."""
    return pack(_job_values(job), attempts)


_job_values: Callable[[Mapping[str, Any]], Row] = operator.itemgetter(*JOB_COLUMNS)


class Jobs(Mapping[str, JobRecord]):
    """Every job's record by its key, in plan order.

    Reading is safe in any thread: a record is as some transaction left it.

    Attributes:
        specs: The specs in the file, by number.
    """

    def __init__(self, home: Home) -> None:
        self.specs: dict[int, JobSpec] = {}
        self._origin = Origin(home, self.specs)
        self._numbers: dict[int, tuple[int, JobSpec]] = {}  # specs' numbers, by their address in memory
        self._kept: dict[str, JobRecord | Packed] = {}
        self._folded: dict[str, str] = {}  # keys that differ from their folded form, by that
        self._recent: dict[str, tuple[Packed, JobRecord]] = {}

    def __getitem__(self, key: str) -> JobRecord:
        kept = self._kept[key]
        if not isinstance(kept, bytes):
            return kept
        recent = self._recent.get(key)
        if recent is not None and recent[0] is kept:
            return recent[1]
        job = self.record(key, kept)
        if len(self._recent) >= _RECENT:
            self._recent.clear()
        self._recent[key] = (kept, job)
        return job

    @overload
    def get(self, key: str, /) -> JobRecord | None: ...
    @overload
    def get(self, key: str, /, default: JobRecord | T) -> JobRecord | T: ...
    def get(self, key: str, /, default: Any = None) -> Any:
        """Return the job with this key, or *default*; planning asks for many keys that are not there."""
        return self[key] if key in self._kept else default

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: object) -> bool:
        return key in self._kept

    def values(self) -> Iterator[JobRecord]:  # type: ignore[override]  # no view: each record is made when it is due
        """Yield the records as they are now, in plan order."""
        for key, kept in list(self._kept.items()):
            if not isinstance(kept, bytes):
                yield kept
                continue
            recent = self._recent.get(key)
            yield recent[1] if recent is not None and recent[0] is kept else self.record(key, kept)

    def snapshot(self) -> Snapshot:
        """Return the jobs as they are now; it shares the packed jobs with this object."""
        return Snapshot(self, tuple(self._kept.items()))

    def record(self, key: str, packed: Packed) -> JobRecord:
        """Return the record of a packed job."""
        job = _new(StoredJob)
        _set_key(job, key)
        _set_job_row(job, marshal.loads(packed))  # noqa: S302 (this process has made it)
        _set_job_origin(job, self._origin)
        return job

    def find(self, key: str) -> str | None:
        """Return the key that equals *key* but for the case of its letters, or None."""
        if key in self._kept:
            return key
        low = folded(key)
        return self._folded.get(low) or (low if low in self._kept else None)

    # -- changing -------------------------------------------------------------------------------------------------

    def put(self, key: str, job: JobRecord | Packed) -> None:
        """Add a job or replace it; it is packed unless it is in progress."""
        self._kept[key] = job if isinstance(job, bytes) or _is_in_progress(job) else self._packed(job)
        if (low := folded(key)) != key:
            self._folded[low] = key

    def remove(self, key: str) -> None:
        """Remove a job if it is there."""
        self._kept.pop(key, None)
        self._folded.pop(folded(key), None)

    def replace(self, found: dict[str, Packed]) -> bool:
        """Have exactly the jobs of *found*, and return whether that changes anything."""
        changed = list(found) != list(self._kept) or any(
            packed != (kept if isinstance(kept, bytes) else self._packed(kept))
            for packed, kept in zip(found.values(), self._kept.values())  # noqa: B905 (of the same keys)
        )
        if changed:
            self._folded = {low: key for key in found if (low := folded(key)) != key}
            self._kept, self._recent = dict(found), {}
        return changed

    def _packed(self, job: JobRecord) -> Packed:
        row = schema.job_row(job, self._number_of(job.spec), self._origin.home)
        attempts = (schema.attempt_row(attempt, job.index, self._origin.home) for attempt in job.attempts)
        return pack_row(row, [tuple([attempt[name] for name in ATTEMPT_COLUMNS]) for attempt in attempts])

    def _number_of(self, spec: JobSpec) -> int:
        """Return a spec's number in the file."""
        found = self._numbers.get(id(spec))
        if found is None or found[1] is not spec:  # a spec is slow to hash and to compare
            found = next(number for number, known in self.specs.items() if known == spec), spec
            self._numbers[id(spec)] = found
        return found[0]


@attrs.frozen(eq=False)
class Snapshot(Sequence[JobRecord]):
    """The jobs of one moment, in plan order; the record of a packed job is made whenever it is asked for."""

    _jobs: Jobs
    _kept: tuple[tuple[str, JobRecord | Packed], ...] = attrs.field(repr=False)

    def __len__(self) -> int:
        return len(self._kept)

    @overload
    def __getitem__(self, at: int) -> JobRecord: ...
    @overload
    def __getitem__(self, at: slice) -> Snapshot: ...
    def __getitem__(self, at: int | slice) -> JobRecord | Snapshot:
        if isinstance(at, slice):
            return attrs.evolve(self, kept=self._kept[at])
        key, kept = self._kept[at]
        return self._jobs.record(key, kept) if isinstance(kept, bytes) else kept

    def __iter__(self) -> Iterator[JobRecord]:
        record = self._jobs.record
        for key, kept in self._kept:
            yield record(key, kept) if isinstance(kept, bytes) else kept


def _is_in_progress(job: JobRecord) -> bool:
    """Return whether the next step of the loop may need the record."""
    state = job.state
    return state.active or state is JobState.WAITING or (state is JobState.SUCCEEDED and not job.collected)
