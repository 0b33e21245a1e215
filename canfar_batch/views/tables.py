"""A batch's jobs as rows, and rows as text, CSV, a pandas DataFrame or an astropy Table."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canfar_batch.errors import ExtraMissing, HomeError
from canfar_batch.records import ContainerInfo, JobRecord, JobState
from canfar_batch.views import explain, html, terminal

if TYPE_CHECKING:
    import pandas as pd
    from astropy.table import Table

Row = dict[str, Any]

#: the columns of every table beside the fields, and the unit in which each is, if any
UNITS: Mapping[str, str | None] = {
    "key": None,
    "state": None,
    "attempt": None,
    "exit_code": None,
    "cause": None,
    "message": None,
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
#: likewise, of the columns that are there while jobs run, where the platform tells what they use
LIVE_UNITS: Mapping[str, str | None] = {"cores_in_use": None, "ram_in_use": "GiB"}
_WHOLE = ("attempt", "exit_code", "cores", "ram", "gpus")
_TIMES = ("launched_at", "started_at", "finished_at")
_NUMBERS = frozenset(_WHOLE) | {name for name, unit in UNITS.items() if unit is not None}
_BRIEF = (
    "key", "state", "attempt", "wait_seconds", "run_seconds", "cores_in_use", "ram_in_use", "peak_ram", "exit_code",
    "cause",
)  # fmt: skip
_SPARED = ("peak_ram", "wait_seconds", "attempt", "exit_code")  # what goes first where there is no room for all
_LONGEST = 24  # columns that a cell may claim before others have to make room for it
_HEADINGS: Mapping[str, str] = {
    "wait_seconds": "waited", "run_seconds": "ran", "exit_code": "code", "peak_ram": "peak",
    "cores_in_use": "cores now", "ram_in_use": "memory now",
}  # fmt: skip

#: in which order an overview tells of jobs that it has no room to tell of all
_URGENCY = {state: place for place, state in enumerate((JobState.FAILED, JobState.LOST, JobState.CANCELLED))}


# -- rows ---------------------------------------------------------------------------------------------------------


def to_rows(jobs: Iterable[JobRecord], live: Mapping[str, ContainerInfo] | None = None) -> list[Row]:
    """One row for each job, all with the same columns; None where there is nothing to say.

    The columns are the key, the fields, what `UNITS` lists, and the results as far as they are single values: `result`,
    or `result_<name>` for each value of a dict. Times are aware datetimes. A field or result whose name is taken is
    called `field_<name>` or `result_<name>`.

    Args:
        jobs: Their records.
        live: What the platform last said of running containers, by id. Where it tells what one of them uses, the rows
            have the columns of `LIVE_UNITS` too.
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
            **_facts(job),
            **(_in_use(job, seen) if seen else {}),
            **{column: result.get(name) for name, column in values.items()},
        }
        for job, result in zip(known, results)  # noqa: B905 (equal: one is made of the other)
    ]


def _names(names: Iterable[str], taken: set[str], prefix: str) -> dict[str, str]:
    """What the column of each name is called; those names are taken from now on."""
    columns = {}
    for name in dict.fromkeys(names):
        column = name
        while column in taken:
            column = prefix + column
        taken.add(column)
        columns[name] = column
    return columns


def _scalars(result: object) -> Row:
    """The single values in a result, by the names of their columns."""
    if isinstance(result, Mapping):
        return {f"result_{name}": _plain(value) for name, value in result.items() if _is_scalar(value)}
    return {"result": _plain(result)} if result is not None and _is_scalar(result) else {}


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, (str, int, float, os.PathLike))


def _plain(value: Any) -> Any:
    return os.fsdecode(value) if isinstance(value, os.PathLike) else value


def _facts(job: JobRecord) -> Row:
    attempt = job.last_attempt
    receipt = attempt.receipt if attempt is not None else None
    asked = attempt.resources if attempt is not None else job.resources
    launched, started, finished = (
        (attempt.launched_at, attempt.started_at, attempt.finished_at) if attempt is not None else (None, None, None)
    )
    return {
        "state": job.state.value,
        "attempt": attempt.number if attempt is not None else 0,
        "exit_code": receipt.exit_code if receipt is not None else None,
        "cause": job.failure.cause if job.failure is not None else None,
        "message": job.failure.message if job.failure is not None else job.collect_error,
        "launched_at": launched,
        "started_at": started,
        "finished_at": finished,
        "wait_seconds": _between(launched, started),
        "run_seconds": _between(started, finished),
        "cores": asked.cores,
        "ram": asked.ram,
        "gpus": asked.gpus,
        "peak_ram": receipt.peak_ram if receipt is not None else None,
        "cpu_seconds": receipt.cpu_seconds if receipt is not None else None,
        "host": receipt.host if receipt is not None else None,
        "id": job.id,
        "launch_name": attempt.launch_name if attempt is not None else None,
    }


def _in_use(job: JobRecord, seen: Mapping[str, ContainerInfo]) -> Row:
    info = seen.get(job.id or "") if job.state.active else None
    return {name: getattr(info, name, None) for name in LIVE_UNITS}


def _between(start: datetime | None, end: datetime | None) -> float | None:
    """Seconds from one to the other; two clocks that differ make no negative time."""
    return max(0.0, (end - start).total_seconds()) if start is not None and end is not None else None


# -- for other programs -------------------------------------------------------------------------------------------


def to_csv(jobs: Iterable[JobRecord], path: str | os.PathLike[str]) -> Path:
    """Write the rows as CSV, a heading first; times in ISO 8601, lists and dicts as JSON, nothing for None.

    A text that a spreadsheet would take for a formula gets an apostrophe before it, by which spreadsheets know text.

    Raises:
        HomeError: The file cannot be written. Also an `OSError`.
    """
    rows, target = to_rows(jobs), Path(path)
    try:
        with target.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(map(_inert, _columns_of(rows)))
            writer.writerows([_inert(_flat(value)) for value in row.values()] for row in rows)
    except OSError as error:
        raise HomeError(f"{target} cannot be written: {error.strerror or error}") from error
    return target


#: what spreadsheets calculate, or call a program with; coordinates (`-12:34:56`), options and `@list.txt` are no such
_FORMULA = re.compile(r"\s*(?:[=\uff1d]|[-+@\uff0b\uff0d\uff20].*[(|!])", re.DOTALL)

#: halves of characters, as JSON may hold them, that no file can, and NUL, which no table should; the halves by which
#: Python keeps odd file names are none
_NO_CHARACTER = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")


def _inert(cell: Any) -> Any:
    """The cell, so that it can be written, and no program that opens the file takes it for more than text."""
    if not isinstance(cell, str):
        return cell
    whole = _NO_CHARACTER.sub("\N{REPLACEMENT CHARACTER}", cell)
    return f"'{whole}" if _FORMULA.match(whole) else whole


def to_dataframe(jobs: Iterable[JobRecord]) -> pd.DataFrame:
    """The rows as a pandas DataFrame; whole numbers stay whole where some are missing, times are UTC.

    Raises:
        ExtraMissing: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ExtraMissing.of("to_dataframe()", library="pandas", extra="tables") from error
    rows = to_rows(jobs)
    frame = pd.DataFrame(rows, columns=_columns_of(rows))
    frame = frame.astype({**dict.fromkeys(_NUMBERS, "float64"), **dict.fromkeys(_WHOLE, "Int64")})
    for name in _TIMES:
        frame[name] = pd.to_datetime(frame[name], utc=True)
    return frame


def to_table(jobs: Iterable[JobRecord]) -> Table:
    """The rows as an astropy Table with units; what is missing is masked, times are `Time` columns (UTC).

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
    """A value of the kind of a column's others, to stand where there is none."""
    if name in UNITS:
        return 0 if name in _WHOLE else 0.0 if name in _NUMBERS else ""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return False
    if kinds and kinds <= {int, float}:
        return 0.0 if float in kinds else 0
    return ""


def _columns_of(rows: Sequence[Row]) -> list[str]:
    return list(rows[0]) if rows else list(UNITS)


def _flat(value: Any) -> Any:
    """*value* as one cell: lists and dicts as JSON, times as text."""
    if isinstance(value, (list, tuple, Mapping)):
        return json.dumps(value, ensure_ascii=False)
    return value.isoformat() if isinstance(value, datetime) else value


# -- for people ---------------------------------------------------------------------------------------------------


def text_table(rows: Sequence[Mapping[str, Any]], width: int = 80, names: Sequence[str] | None = None) -> str:
    """*rows* as text, a line each, with a heading.

    Args:
        rows: As `to_rows` makes them, or any others.
        width: Columns of the terminal.
        names: What to show of each; by default, what tells most in a terminal's width.
    """
    if not rows:
        return ""
    shown = list(names) if names is not None else _brief(rows)
    cells = {name: [_HEADINGS.get(name, name), *(_cell(name, row.get(name)) for row in rows)] for name in shown}
    if names is None:
        cells = _spared(cells, width)
    flush_right = [place for place, name in enumerate(cells) if _is_number(name, rows)]
    return "\n".join(terminal.table(list(zip(*cells.values())), width, right=flush_right))  # noqa: B905 (equal)


def _spared(cells: dict[str, list[str]], width: int) -> dict[str, list[str]]:
    """*cells*, by column, without those that matter least where they do not all fit side by side."""
    left = dict(cells)
    for name in _SPARED:
        needed = sum(min(_LONGEST, max(map(terminal.width, column))) + 2 for column in left.values()) - 2
        if needed > width:
            left.pop(name, None)
    return left


def overview(jobs: Collection[JobRecord], width: int = 80, at_most: int = 40) -> str:
    """The jobs as a table for a person; where they are too many, what went wrong first, then what goes on.

    Args:
        jobs: All jobs of a batch.
        width: Columns of the terminal.
        at_most: Rows to show.
    """
    chosen = list(jobs)
    if len(chosen) > at_most:
        chosen = sorted(chosen, key=_urgency)[:at_most]
    text = text_table(to_rows(chosen), width)
    rest = len(jobs) - len(chosen)
    return f"{text}\n… and {rest:,} more" if rest else text


def html_overview(
    jobs: Collection[JobRecord], at_most: int = 50, live: Mapping[str, ContainerInfo] | None = None
) -> str:
    """Likewise, as HTML.

    Args:
        jobs: All jobs of a batch.
        at_most: Rows to show.
        live: As for `to_rows`.
    """
    chosen = list(jobs)
    if not chosen:
        return ""
    if len(chosen) > at_most:
        chosen = sorted(chosen, key=_urgency)[:at_most]
    rows = to_rows(chosen, live)
    told = any(row["message"] for row in rows)
    names = [name for name in _brief(rows) if name != "attempt" or any(row["attempt"] > 1 for row in rows)]
    numbers = [place for place, name in enumerate(names) if _is_number(name, rows)]
    cells = [[_html_cell(name, row) for name in names] + ([_html_message(row)] * told) for row in rows]
    headings = [_HEADINGS.get(name, name) for name in names] + ["message"] * told
    rest = len(jobs) - len(chosen)
    caption = f"{len(chosen):,} of {len(jobs):,} jobs, what went wrong first" if rest else f"{len(jobs):,} jobs"
    return html.table(headings, cells, numbers=numbers, caption=caption)


def _html_message(row: Row) -> str:
    return html.text(explain.without_secrets(row["message"] or ""))


def _html_cell(name: str, row: Row) -> str:
    return html.state(row[name]) if name == "state" else html.text(_cell(name, row[name]))


def _urgency(job: JobRecord) -> int:
    return _URGENCY.get(job.state, len(_URGENCY) + (0 if job.state.active else 1 if not job.state.final else 2))


def _brief(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns that say something about one of the rows, of those that matter most."""
    known = [name for name in _BRIEF if any(row.get(name) is not None for row in rows)]
    return known or list(rows[0])


def _is_number(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    if name in LIVE_UNITS and name in rows[0]:
        return True
    if name in UNITS:
        return name in _NUMBERS
    return all(isinstance(row.get(name), (int, float, type(None))) for row in rows)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-" if name in UNITS or name in LIVE_UNITS else ""
    if name in ("wait_seconds", "run_seconds", "cpu_seconds"):
        return explain.span(value)
    if name in ("peak_ram", "ram", "ram_in_use"):
        return f"{value:.1f} GiB" if value >= 0.1 else f"{value * 1024:.0f} MiB"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, float):
        return f"{value:g}"
    return str(_flat(value))
