"""A batch's jobs as rows, and rows as text, CSV, a pandas DataFrame or an astropy Table."""

from __future__ import annotations

import csv
import heapq
import io
import json
import numbers
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from canfar_batch.errors import ExtraMissing
from canfar_batch.records import Attempt, ContainerInfo, JobRecord, JobState
from canfar_batch.text import count, gib
from canfar_batch.views import html, terminal
from canfar_batch.views.attempt_times import Times, run_seconds
from canfar_batch.views.explain import is_supposition
from canfar_batch.views.format import EXACT, duration, timestamp
from canfar_batch.views.masking import secret_values, without_secrets

if TYPE_CHECKING:
    import pandas as pd
    from astropy.table import Table

Row = dict[str, Any]

#: the columns of every table other than the fields and results, each with its unit
UNITS: Mapping[str, str | None] = {
    "key": None,
    "state": None,
    "attempt": None,
    "exit_code": None,
    "cause": None,
    "message": None,
    "inferred": None,
    "warning": None,
    "restarts": None,
    "lost_seconds": "s",
    "launched_at": None,
    "started_at": None,
    "finished_at": None,
    "wait_seconds": "s",
    "run_seconds": "s",
    "cores": None,
    "ram": "GiB",
    "gpus": None,
    "peak_ram": "GiB",
    "cpu_seconds": "s",
    "host": None,
    "id": None,
    "launch_name": None,
}
#: the columns that tables of running jobs have too, if the platform measures them, each with its unit
LIVE_UNITS: Mapping[str, str | None] = {"cores_in_use": None, "ram_in_use": "GiB"}
_WHOLE = ("attempt", "exit_code", "restarts", "cores", "ram", "gpus")
_TIMES = ("launched_at", "started_at", "finished_at")
_MEASURED = frozenset(_WHOLE) | {name for name, unit in UNITS.items() if unit is not None}
_BRIEF = (
    "key", "state", "attempt", "wait_seconds", "run_seconds", "cores_in_use", "ram_in_use", "peak_ram", "exit_code",
    "cause", "warning",
)  # fmt: skip
_SPARED = ("peak_ram", "wait_seconds", "attempt", "exit_code")  # columns that are dropped first in a narrow terminal
_LONGEST = 24  # width that a column may have before others are dropped for it
_HEADINGS: Mapping[str, str] = {
    "wait_seconds": "waited", "run_seconds": "ran", "exit_code": "code", "peak_ram": "peak",
    "cores_in_use": "cores now", "ram_in_use": "memory now",
}  # fmt: skip

#: the states that an overview lists first if it has no room for all jobs
_URGENCY = {state: place for place, state in enumerate((JobState.FAILED, JobState.LOST, JobState.CANCELLED))}


# -- rows ---------------------------------------------------------------------------------------------------------


def to_rows(
    jobs: Iterable[JobRecord],
    live: Mapping[str, ContainerInfo] | None = None,
    *,
    now: datetime | None = None,
) -> list[Row]:
    """Return one row for each job, all with the same columns; None stands for an unknown value.

    The columns are the key, the fields, those of `UNITS`, and the results that are single values: `result`, or
    `result_<name>` for each value of a dict. A field or result whose name is taken is called `field_<name>` or
    `result_<name>`. Times are aware datetimes, `started_at` and `finished_at` by the container's clock; `wait_seconds`
    and `run_seconds` hold also if that clock and the driver's differ. `inferred` is True if `cause` is a conclusion
    from logs or events that may be wrong, because no receipt reported it. `warning` is what to know of a success.
    `restarts` counts the runs of the newest attempt that the platform stopped and began again, and `lost_seconds` is
    the time that they took. Secrets in `message` and `warning` are masked.

    Args:
        jobs: Their records.
        live: Running containers as the platform last described them, by id. If it measures any of them, the rows have
            the columns of `LIVE_UNITS` too.
        now: The present time, until which unfinished attempts wait or run; None leaves their lengths out.
    """
    known = list(jobs)
    results = [_scalars(job.result) for job in known]
    seen = {
        id: info for id, info in (live or {}).items() if info.cores_in_use is not None or info.ram_in_use is not None
    }
    taken = {*UNITS, *(LIVE_UNITS if seen else ())}
    fields = _names((name for job in known for name in job.fields), taken, "field_")
    values = _names((name for result in results for name in result), taken, "result_")
    return [
        {
            "key": job.key,
            **{column: job.fields.get(name) for name, column in fields.items()},
            **_facts(job, now),
            **(_in_use(job, seen) if seen else {}),
            **{column: result.get(name) for name, column in values.items()},
        }
        for job, result in zip(known, results)  # noqa: B905 (equal: one is made of the other)
    ]


def _names(names: Iterable[str], taken: set[str], prefix: str) -> dict[str, str]:
    """A column for each name, called like it if that is not taken; the columns are added to *taken*."""
    columns = {}
    for name in dict.fromkeys(names):
        column = name
        while column in taken:
            column = prefix + column
        taken.add(column)
        columns[name] = column
    return columns


def _scalars(result: object) -> Row:
    """The single values of a result, by column."""
    if isinstance(result, Mapping):
        values = {f"result_{name}": _plain(value) for name, value in result.items()}
        return {column: value for column, value in values.items() if _is_scalar(value)}
    value = _plain(result)
    return {"result": value} if value is not None and _is_scalar(value) else {}


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, (str, int, float))


def _plain(value: Any) -> Any:
    """A path as text, and a number of NumPy as Python's own: tables and JSON hold no others."""
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, (int, float)):
        return value
    return float(value) if isinstance(value, numbers.Real) else value  # a long double has no Python type of its own


def _facts(job: JobRecord, now: datetime | None) -> Row:
    attempt, failure = job.last_attempt, job.failure
    receipt = attempt.receipt if attempt is not None else None
    asked = attempt.resources if attempt is not None else job.resources
    message = failure.headline if failure is not None else job.collect_error
    warning = "; ".join(attempt.warnings) if attempt is not None else ""
    waited, ran = _lengths(attempt, now)
    return {
        "state": job.state.value,
        "attempt": attempt.number if attempt is not None else 0,
        "exit_code": receipt.exit_code if receipt is not None else None,
        "cause": failure.cause if failure is not None else None,
        "message": message and without_secrets(message, secret_values([job])),
        "inferred": is_supposition(failure) if failure is not None else None,
        "warning": without_secrets(warning, secret_values([job])) or None,
        "restarts": attempt.restarts if attempt is not None else 0,
        "lost_seconds": attempt.lost_seconds if attempt is not None else 0.0,
        "launched_at": attempt.launched_at if attempt is not None else None,
        "started_at": attempt.started_at if attempt is not None else None,
        "finished_at": attempt.finished_at if attempt is not None else None,
        "wait_seconds": waited,
        "run_seconds": ran,
        "cores": asked.cores,
        "ram": asked.ram,
        "gpus": asked.gpus,
        "peak_ram": receipt.peak_ram if receipt is not None else None,
        "cpu_seconds": receipt.cpu_seconds if receipt is not None else None,
        "host": receipt.host if receipt is not None else None,
        "id": job.id,
        "launch_name": attempt.launch_name if attempt is not None else None,
    }


def _lengths(attempt: Attempt | None, now: datetime | None) -> tuple[float | None, float | None]:
    """Seconds that an attempt waited and ran; None for a length that has no end yet, unless *now* is given."""
    if attempt is None or attempt.launched_at is None:
        return None, None
    latest = now or attempt.seen_at or attempt.started_at or attempt.launched_at
    has_ended = attempt.ended or attempt.finished_at is not None
    waited = Times.of(attempt, latest).waited if attempt.started_at is not None or now is not None else None
    return waited, run_seconds(attempt, latest) if has_ended or now is not None else None


def _in_use(job: JobRecord, seen: Mapping[str, ContainerInfo]) -> Row:
    alone = job.last_attempt is not None and job.last_attempt.task is None  # else the container's use is not its own
    info = seen.get(job.id or "") if job.state.active and alone else None
    return {name: getattr(info, name, None) for name in LIVE_UNITS}


# -- for other programs -------------------------------------------------------------------------------------------


def to_csv(jobs: Iterable[JobRecord]) -> str:
    """Return the rows as CSV with a heading, its lines ended by CR LF.

    Times are in ISO 8601, lists and dicts in JSON; None is an empty cell.

    A text that a spreadsheet would calculate as a formula gets an apostrophe before it, which marks it as text. Bytes
    of file names that are not UTF-8 are surrogates, which the error handler `surrogateescape` writes as they were.
    """
    rows, written = to_rows(jobs), io.StringIO()
    writer = csv.writer(written)
    writer.writerow(map(_inert, _columns_of(rows)))
    writer.writerows([_inert(_flat(value)) for value in row.values()] for row in rows)
    return written.getvalue()


#: text that spreadsheets calculate, or start a program with; coordinates (`-12:34:56`), options and `@list.txt` pass
_FORMULA = re.compile(r"\s*(?:[=\uff1d]|[-+@\uff0b\uff0d\uff20].*[(|!])", re.DOTALL)

#: surrogates, which JSON may hold and a file cannot, and NUL, which no table should hold; the surrogates by which
#: Python keeps bytes of file names are allowed
_NO_CHARACTER = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")


def _inert(cell: Any) -> Any:
    """The cell as text that can be written, and that no program takes for a formula."""
    if not isinstance(cell, str):
        return cell
    whole = _NO_CHARACTER.sub("\N{REPLACEMENT CHARACTER}", cell)
    return f"'{whole}" if _FORMULA.match(whole) else whole


def to_dataframe(jobs: Iterable[JobRecord]) -> pd.DataFrame:
    """Return the rows as a pandas DataFrame; integers stay exact if values are missing, times are UTC.

    Raises:
        ExtraMissing: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ExtraMissing.of("to_dataframe()", library="pandas", extra="tables") from error
    rows = to_rows(jobs)
    columns = {}
    for name in _columns_of(rows):
        # object first: pandas would turn integers beside None into floats, and identifiers of 19 digits would change
        column = pd.Series([row[name] for row in rows], dtype="object")
        columns[name] = pd.to_datetime(column, utc=True) if name in _TIMES else column.astype(_dtype(name, column))
    return pd.DataFrame(columns)


def _dtype(name: str, values: Iterable[Any]) -> str:
    """The dtype of a column that keeps every value as it is."""
    if name in UNITS:
        return "Int64" if name in _WHOLE else "float64" if name in _MEASURED else "object"
    known = [value for value in values if value is not None]
    kinds = {type(value) for value in known}
    if kinds == {bool}:
        return "boolean" if len(known) < len(list(values)) else "bool"
    if kinds == {int}:
        return "Int64" if all(-(2**63) <= value < 2**63 for value in known) else "object"
    if kinds and kinds <= {int, float}:
        return "float64" if all(abs(value) <= EXACT for value in known if isinstance(value, int)) else "object"
    return "object"


def to_table(jobs: Iterable[JobRecord]) -> Table:
    """Return the rows as an astropy Table with units; missing values are masked, times are `Time` columns (UTC).

    Raises:
        ExtraMissing: astropy is not installed.
    """
    try:
        from astropy.table import MaskedColumn, Table
        from astropy.time import Time
        from numpy import ma
    except ImportError as error:
        raise ExtraMissing.of("to_table()", library="astropy", extra="tables") from error
    rows = to_rows(jobs)
    table = Table()
    for name in _columns_of(rows):
        values = [row[name] for row in rows]
        absent = [value is None for value in values]
        if name in _TIMES:
            moments = Time([0.0 if value is None else value.timestamp() for value in values], format="unix")
            moments.format = "isot"
            if any(absent):
                moments[absent] = ma.masked
            table[name] = moments
        else:
            blank = _blank(name, values)
            filled = [blank if value is None else type(blank)(_flat(value)) for value in values]
            table[name] = MaskedColumn(filled, mask=absent, unit=UNITS.get(name), dtype=None if rows else type(blank))
    return table


def _blank(name: str, values: Iterable[Any]) -> Any:
    """A value of the type of a column's other values, to stand for a missing one."""
    if name in UNITS:
        return 0 if name in _WHOLE else 0.0 if name in _MEASURED else ""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return False
    if kinds == {int}:
        return 0
    if kinds and kinds <= {int, float}:  # as text if a float would lose digits of an integer
        return 0.0 if all(abs(value) <= EXACT for value in values if isinstance(value, int)) else ""
    return ""


def _columns_of(rows: Sequence[Row]) -> list[str]:
    return list(rows[0]) if rows else list(UNITS)


def _flat(value: Any) -> Any:
    """*value* as one cell: lists and dicts as JSON, times in ISO 8601."""
    if isinstance(value, (list, tuple, Mapping)):
        return json.dumps(value, ensure_ascii=False)
    return value.isoformat() if isinstance(value, datetime) else value


# -- for people ---------------------------------------------------------------------------------------------------


def text_table(rows: Sequence[Mapping[str, Any]], width: int = 80, names: Sequence[str] | None = None) -> str:
    """Return *rows* as text, a line each, with a heading.

    Args:
        rows: Rows of `to_rows`, or any others.
        width: Columns of the terminal.
        names: The columns to show; by default the most important ones that fit.
    """
    if not rows:
        return ""
    shown = list(names) if names is not None else _brief(rows)
    cells = {name: [_HEADINGS.get(name, name), *(_cell(name, row) for row in rows)] for name in shown}
    if names is None:
        cells = _spared(cells, width)
    flush_right = [place for place, name in enumerate(cells) if _is_number(name, rows)]
    return "\n".join(terminal.table(list(zip(*cells.values())), width, right=flush_right))  # noqa: B905 (equal)


def _spared(cells: dict[str, list[str]], width: int) -> dict[str, list[str]]:
    """*cells*, by column, without the least important columns if not all fit side by side."""
    left = dict(cells)
    for name in _SPARED:
        needed = sum(min(_LONGEST, max(map(terminal.width, column))) + 2 for column in left.values()) - 2
        if needed > width:
            left.pop(name, None)
    return left


def overview(jobs: Collection[JobRecord], width: int = 80, at_most: int = 40, now: datetime | None = None) -> str:
    """Return the jobs as a text table; failures come first, then unfinished jobs, if there are more than *at_most*.

    Args:
        jobs: All jobs of a batch.
        width: Columns of the terminal.
        at_most: Rows to show.
        now: The present time, as for `to_rows`.
    """
    chosen = _chosen(jobs, at_most)
    text = text_table(to_rows(chosen, now=now), width)
    rest = len(jobs) - len(chosen)
    return f"{text}\n... and {rest:,} more" if rest else text


def html_overview(
    jobs: Collection[JobRecord],
    at_most: int = 50,
    live: Mapping[str, ContainerInfo] | None = None,
    *,
    now: datetime | None = None,
) -> str:
    """Return the jobs as an HTML table, with the same choice of jobs as `overview`.

    Args:
        jobs: All jobs of a batch.
        at_most: Rows to show.
        live: Running containers, as for `to_rows`.
        now: The present time, as for `to_rows`.
    """
    chosen = _chosen(jobs, at_most)
    if not chosen:
        return ""
    rows = to_rows(chosen, live, now=now)
    has_message = any(row["message"] for row in rows)
    names = [name for name in _brief(rows) if name != "attempt" or any(row["attempt"] > 1 for row in rows)]
    numbers = [place for place, name in enumerate(names) if _is_number(name, rows)]
    cells = [
        [_html_cell(name, row) for name in names] + [html.text(row["message"] or "")] * has_message for row in rows
    ]
    headings = [_HEADINGS.get(name, name) for name in names] + ["message"] * has_message
    rest = len(jobs) - len(chosen)
    caption = f"{len(chosen):,} of {count(len(jobs), 'job')}, failures first" if rest else count(len(jobs), "job")
    return html.table(headings, cells, numbers=numbers, caption=caption)


def _chosen(jobs: Collection[JobRecord], at_most: int) -> list[JobRecord]:
    return list(jobs) if len(jobs) <= at_most else heapq.nsmallest(at_most, jobs, key=_urgency)


def _html_cell(name: str, row: Row) -> str:
    return html.state(row[name]) if name == "state" else html.text(_cell(name, row))


def _urgency(job: JobRecord) -> int:
    return _URGENCY.get(job.state, len(_URGENCY) + (0 if job.state.active else 1 if not job.state.final else 2))


def _brief(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The most important columns, of those that are not empty."""
    known = [name for name in _BRIEF if any(row.get(name) is not None for row in rows)]
    return known or list(rows[0])


def _is_number(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    if name in LIVE_UNITS and name in rows[0]:
        return True
    if name in UNITS:
        return name in _MEASURED
    return all(isinstance(row.get(name), (int, float, type(None))) for row in rows)


def _cell(name: str, row: Mapping[str, Any]) -> str:
    value = row.get(name)
    if value is None:
        return "-" if name in UNITS or name in LIVE_UNITS else ""
    if name == "cause":
        return f"{value} (inferred)" if row.get("inferred") else str(value)
    if name in ("wait_seconds", "run_seconds", "cpu_seconds"):
        return duration(value)
    if name in ("peak_ram", "ram", "ram_in_use"):
        return gib(value)
    if isinstance(value, datetime):
        return timestamp(value)
    if isinstance(value, float):
        return f"{value:g}"
    return str(_flat(value))
