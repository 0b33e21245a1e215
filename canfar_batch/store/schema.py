"""Records as rows of the ledger's tables, and back."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol, TypeVar

import attrs

from canfar_batch import failures
from canfar_batch.errors import CanfarBatchError, LedgerError, SpecError
from canfar_batch.lifecycle import Event
from canfar_batch.records import Attempt, JobRecord, JobState, Phase, Receipt, Resources
from canfar_batch.spec import Filled, JobSpec, value_from_json
from canfar_batch.store.home import Home


class Row(Protocol):
    """What a query brings: its columns by name."""

    def __getitem__(self, name: str, /) -> Any: ...


_Reads = TypeVar("_Reads", bound=Callable[..., Any])


def refusing_nonsense(read: _Reads) -> _Reads:
    """Make *read*, a method of the ledger, say that the file is damaged where its rows make no sense."""

    @functools.wraps(read)
    def reading(ledger: Any, *given: Any) -> Any:
        try:
            return read(ledger, *given)
        except SpecError as error:  # of a spec in it
            raise _damaged(ledger, error) from error
        except CanfarBatchError:
            raise
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            raise _damaged(ledger, error) from error

    return reading  # type: ignore[return-value]


def _damaged(ledger: Any, error: Exception) -> LedgerError:
    return LedgerError(
        f"{ledger.home.ledger} is damaged, or something else wrote to it ({type(error).__name__}: {error}); "
        "put a copy from before in its place, or give the batch another name"
    )


def dumps(value: object) -> str:
    """*value* as JSON, the same text for the same value."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def as_seconds(moment: datetime) -> float:
    """Seconds since 1970, UTC."""
    return moment.timestamp()


def maybe_seconds(moment: datetime | None) -> float | None:
    """Likewise; None for None."""
    return None if moment is None else moment.timestamp()


def as_moment(seconds: float) -> datetime:
    """The moment so many seconds after 1970, aware, UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc)


def maybe_moment(seconds: float | None) -> datetime | None:
    """Likewise; None for None."""
    return None if seconds is None else as_moment(seconds)


def job_row(job: JobRecord, home: Home) -> tuple[Any, ...]:
    """All of a job but its spec and its attempts; paths in its result are kept as `_path_out` tells."""
    asked = job.resources
    has_result = job.result is not None or (job.collected and job.kept and job.collect_error is None)
    return (
        job.index, job.key, dumps(dict(job.fields)), dumps(attrs.asdict(job.filled)), job.state.value, asked.cores,
        asked.ram, asked.gpus, maybe_seconds(job.due), job.cancelling, job.attempts_before_reopen, job.collected,
        json.dumps(job.result, default=_path_out(home)) if has_result else None, job.collect_error,
    )  # fmt: skip


def job_from(row: Row, spec: JobSpec, attempts: tuple[Attempt, ...], home: Home) -> JobRecord:
    """The record that `job_row` wrote."""
    fetched, text = row["collected"] and row["collect_error"] is None, row["result"]
    return JobRecord(
        key=row["key"], index=row["place"], spec=spec, filled=_filled_from(json.loads(row["filled"])),
        fields=json.loads(row["fields"]), state=JobState(row["state"]), attempts=attempts,
        resources=Resources(cores=row["cores"], ram=row["ram"], gpus=row["gpus"]), due=maybe_moment(row["due"]),
        cancelling=bool(row["cancelling"]), attempts_before_reopen=row["attempts_before_reopen"],
        collected=bool(row["collected"]),
        result=None if text is None else json.loads(text, object_hook=_path_in(home)),
        kept=not fetched or text is not None,
        collect_error=row["collect_error"],
    )  # fmt: skip


def storable(result: object) -> bool:
    """True where the ledger keeps *result* as it is: JSON, paths in it allowed, of at most 64 KiB."""
    home = Home(Path("/"))  # any will do: how long a path is there makes no difference worth a word
    try:
        text = json.dumps(result, default=_path_out(home))
        return len(text) <= 65536 and json.loads(text, object_hook=_path_in(home)) == result
    except (TypeError, ValueError, RecursionError):
        return False


def _path_out(home: Home) -> Callable[[Any], Any]:
    """Encode paths (relative to *home* if they are in it, because it may be moved) and NumPy's numbers for JSON."""

    def out(value: Any) -> Any:
        if getattr(value, "shape", None) == () and hasattr(value, "item"):
            return value.item()
        if not isinstance(value, Path):
            raise TypeError(f"{type(value).__name__} is not JSON")
        if value.is_relative_to(home.path):
            return {"$home": str(value.relative_to(home.path))}
        return {"$path": str(value)}

    return out


def _path_in(home: Home) -> Callable[[dict[str, Any]], Any]:
    def back(value: dict[str, Any]) -> Any:
        if value.keys() == {"$home"}:
            return home.path / value["$home"]
        return Path(value["$path"]) if value.keys() == {"$path"} else value

    return back


def _filled_from(data: dict[str, Any]) -> Filled:
    return Filled(
        argv=tuple(data["argv"]), env=tuple((name, value_from_json(value)) for name, value in data["env"]),
        name=data["name"], workdir=data["workdir"], outputs=tuple(data["outputs"]),
    )  # fmt: skip


def attempt_row(attempt: Attempt, home: Home) -> tuple[Any, ...]:
    """All of an attempt; paths are relative to *home*, which may be moved."""
    asked = attempt.resources
    return (
        attempt.number, attempt.launch_name, attempt.id, asked.cores, asked.ram, asked.gpus,
        as_seconds(attempt.intended_at), maybe_seconds(attempt.launched_at), maybe_seconds(attempt.started_at),
        maybe_seconds(attempt.seen_at), maybe_seconds(attempt.ended_at), attempt.succeeded, attempt.verified,
        attempt.receipt and dumps(_plain(attempt.receipt)), attempt.failure and dumps(attempt.failure.to_json()),
        attempt.log and str(attempt.log.relative_to(home.path)),
    )  # fmt: skip


def attempt_from(row: Row, home: Home) -> Attempt:
    """The attempt that `attempt_row` wrote."""
    return Attempt(
        number=row["number"], launch_name=row["launch_name"], id=row["id"],
        resources=Resources(cores=row["cores"], ram=row["ram"], gpus=row["gpus"]),
        intended_at=as_moment(row["intended_at"]), launched_at=maybe_moment(row["launched_at"]),
        started_at=maybe_moment(row["started_at"]), seen_at=maybe_moment(row["seen_at"]),
        ended_at=maybe_moment(row["ended_at"]), succeeded=None if row["succeeded"] is None else bool(row["succeeded"]),
        verified=bool(row["verified"]), receipt=row["receipt"] and _receipt_from(json.loads(row["receipt"])),
        failure=row["failure"] and failures.from_json(json.loads(row["failure"])),
        log=row["log"] and home.path / row["log"],
    )  # fmt: skip


def _receipt_from(data: dict[str, Any]) -> Receipt:
    for name in ("started_at", "finished_at"):
        data[name] = maybe_moment(data[name])
    return Receipt(**{**data, "missing": tuple(data["missing"])})


def event_row(event: Event, attempt: Attempt | None) -> tuple[Any, ...]:
    """A line of a job's history; *attempt*: the newest after it."""
    skipped = ("key", "at", "result")  # the result is in the job's own row
    body = {name: value for name, value in _plain(event).items() if name not in skipped and value is not None}
    return as_seconds(event.at), event.key, attempt and attempt.number, event.kind, dumps(body)


def _plain(value: Any) -> Any:
    """*value* as JSON has it: frozen values become dicts, moments become seconds since 1970."""
    special: Sequence[tuple[type, Callable[[Any], Any]]] = (
        (JobSpec, JobSpec.to_json),
        (failures.Failure, failures.Failure.to_json),
        (datetime, as_seconds),
        (Path, str),
        (Phase, lambda phase: phase.value),
    )
    for kind, turn in special:
        if isinstance(value, kind):
            return turn(value)
    if attrs.has(type(value)):
        return {field.name: _plain(getattr(value, field.name)) for field in attrs.fields(type(value))}
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
