"""The report on a batch as one HTML file that needs nothing else: no network, no library, no server.

Text from jobs is only data: it is escaped, the table's rows are JSON that cannot end its element, and a
Content-Security-Policy forbids every connection and every script other than the page's own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import platform as machine
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import Any

import attrs

from canfar_batch._version import __version__
from canfar_batch.records import (
    GIVEN_UP,
    ContainerInfo,
    JobRecord,
    JobState,
    resources_of,
)
from canfar_batch.spec import JobSpec, full_image, shown_value
from canfar_batch.text import count, gib, printable
from canfar_batch.views import html, tables, timeline_svg
from canfar_batch.views.figures import Cause, Spread, Use
from canfar_batch.views.format import EXACT, TIMES, asked_for, duration, first_few, in_use, rounded, timestamp
from canfar_batch.views.html import text
from canfar_batch.views.log_tail import log_tail
from canfar_batch.views.masking import secret_values, without_secrets
from canfar_batch.views.report import Report, inferred
from canfar_batch.views.timeline import Timeline

FIRST = 100  #: rows in the page itself, for readers without scripts; as many as one page of the table has
LOG_LINES = 20  #: lines of a log that are shown for each cause
_FIELDS = 8  # fields of a job that have a column
_SPECS = 20  # different specs that are listed
_LONGEST = 300  # characters of a cell
_NARROW = 44  # characters of a cell that is not broken into lines
_TILE = 10  # characters that fit a tile


@attrs.frozen(kw_only=True)
class Provenance:
    """The platform and the user that a batch belongs to, and the time when it was planned."""

    platform: str  #: its address, or `"local"`
    user: str | None
    created: datetime


def render(
    report: Report,
    jobs: Sequence[JobRecord],
    *,
    origin: Provenance,
    live: Mapping[str, ContainerInfo] | None = None,
    logs: Mapping[Path, str] | None = None,
) -> str:
    """Return the page.

    Args:
        report: The report.
        jobs: All jobs of the batch, in plan order.
        origin: The batch's platform, user and age.
        live: Running containers as the platform last described them, by id.
        logs: The ends of saved logs, by file, of at least `LOG_LINES` lines each.
    """
    secrets = secret_values(jobs)
    script, columns = _asset("report.js"), _columns(jobs, live, report.made_at, secrets)
    sections = (
        ("timeline", "Timeline", timeline_svg.figure(Timeline.of(jobs, report.made_at))),
        ("failures", "Failures", _failures(report, secrets, logs or {})),
        ("resources", "Resources", _resources(report)),
        ("jobs", "Jobs", _jobs(columns, len(jobs))),
        ("provenance", "Provenance", _provenance(report, jobs, origin, secrets)),
    )
    links = "".join(f'<a href="#{id}">{heading}</a>' for id, heading, _ in sections)
    return f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{text(report.name)}: report</title>
<link rel="icon" href="data:,">
<style>
{html.palette(":root")}{html.PIECES}{_outcomes()}{_asset("report.css")}</style>
</head>
<body>
<a class="skip" href="#jobs">Skip to the table of jobs</a>
<header>
<h1>{text(report.name)}</h1>
<p class="faint">{_subtitle(report, origin)}</p>
<nav aria-label="Sections">{links}</nav>
</header>
<main>
{_totals(report, live)}
{"".join(_section(*section) for section in sections)}
</main>
<footer>Made by canfar_batch {text(__version__)}. This file is complete: it loads nothing.</footer>
<script type="application/json" id="data">{_json({"count": len(jobs), "columns": columns})}</script>
<script>{script}</script>
</body>
</html>
"""


def _section(id: str, heading: str, content: str) -> str:
    return f'<section id="{id}" aria-labelledby="{id}-heading"><h2 id="{id}-heading">{heading}</h2>{content}</section>'


def _asset(name: str) -> str:
    return resources.files("canfar_batch.views").joinpath("assets").joinpath(name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    """The policy that forbids loading, sending, and every script other than this one."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _json(data: object) -> str:
    """*data* as JSON for a script element: nothing in it can end the element, or begin a comment."""
    dumped = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return dumped.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _outcomes() -> str:
    """The colours of the timeline; the legend's swatches have the hatches too."""
    rules = [".k-waiting{background:var(--cb-faint);opacity:.6}"]
    for outcome in ("succeeded", "running", "cancelled", "lost", "failed", "restarted"):
        colour = html.COLOURS[outcome]
        fill = f"url(#h-{outcome})" if outcome in ("failed", "lost") else colour
        rules.append(f".o-{outcome}{{fill:{fill}}}.timeline .l-{outcome},.timeline .d-{outcome}{{stroke:{colour}}}")
        rules.append(f".timeline .f-{outcome}{{fill:{colour}}}.k-{outcome}{{background-color:{colour}}}")
    rules.append(f".timeline .c-running{{fill:{html.COLOURS['running']}}}")
    rules.append(".k-failed{background-image:repeating-linear-gradient(135deg,#fff8 0 1.5px,#0000 1.5px 5px)}")
    rules.append(".k-lost{background-image:radial-gradient(#fffb 22%,#0000 24%);background-size:5px 5px}\n")
    return "\n".join(rules)


# -- totals -------------------------------------------------------------------------------------------------------


def _subtitle(report: Report, origin: Provenance) -> str:
    where = "this machine (local platform)" if origin.platform == "local" else origin.platform
    progress = f"{report.unfinished:,} unfinished" if report.unfinished else "complete"
    return f"{text(where)} · as of {_time(report.made_at)} · {progress}"


def _totals(report: Report, live: Mapping[str, ContainerInfo] | None) -> str:
    tiles = "".join(
        f"<div{' class=bad' if bad else ' class=wide' if len(value) > _TILE else ''}>"
        f"<dd>{text(value)}</dd><dt>{text(name)}</dt></div>"
        for name, value, bad in _tiles(report, live)
        if value
    )
    bar = html.bar({state.value: number for state, number in report.counts.items()})
    return f'<section aria-label="Totals"><dl class="tiles">{tiles}</dl>{bar}</section>'


def _tiles(report: Report, live: Mapping[str, ContainerInfo] | None) -> Iterator[tuple[str, str, bool]]:
    failed = sum(report.counts.get(state, 0) for state in GIVEN_UP)
    yield "jobs", f"{report.jobs:,}", False
    yield "succeeded", _share(report.counts.get(JobState.SUCCEEDED, 0), report.jobs), False
    yield "failed or lost", f"{failed:,}" if failed else "", True
    yield "elapsed", "" if report.wall_time is None else duration(report.wall_time), False
    yield "core-hours" + (", estimated" if report.estimated else ""), rounded(report.core_hours), False
    yield "median run", _median(report.running), False
    yield "median wait", _median(report.waiting), False
    yield "in use now", in_use((live or {}).values()), False
    retried = sum(report.retries.values())
    yield "retries", f"{retried:,}" if retried else "", False
    yield "without a receipt", f"{report.unverified:,}" if report.unverified else "", False


def _share(part: int, whole: int) -> str:
    if not whole:
        return ""
    share = 100 * part / whole
    return f"{share:.0f} %" if part in (0, whole) else f"{min(99.9, share):.1f} %"


def _median(spread: Spread | None) -> str:
    return "" if spread is None else duration(spread.median)


# -- failures -----------------------------------------------------------------------------------------------------


def _failures(report: Report, secrets: Sequence[str], logs: Mapping[Path, str]) -> str:
    causes = (*report.failures, *report.not_collected)
    retried = ", ".join(f"{number:,} {TIMES} {text(cause)}" for cause, number in report.retries.items())
    saved = f"; {count(report.recovered, 'job')} succeeded after that" if report.recovered else ""
    again = f"<p class=faint>Launched again: {retried}{saved}.</p>" if retried else ""
    steps = report.next_steps()
    todo = f"<p>Next: {text(steps)}.</p>" if steps else ""
    shown = "".join(_cause(cause, secrets, logs.get(cause.log, "") if cause.log else "") for cause in causes)
    return (shown or "<p>No job failed.</p>") + again + todo


def _cause(cause: Cause, secrets: Sequence[str], log: str) -> str:
    mark = html.COLOURS["lost" if cause.cause in ("lost", "ended unwatched") else "failed"]
    end = log_tail(log, LOG_LINES, secrets)
    shown = "" if not end.strip() else (
        f"<details open><summary>The end of the log of {text(cause.keys[0])}</summary>"
        f'<div class="log" tabindex="0"><pre>{html.lines(end)}</pre></div></details>'
    )  # fmt: skip
    return (
        f'<article class="cause" style="--cb-mark:{mark}"><header><h3>{cause.count:,} {TIMES} {text(cause.cause)}'
        f"{text(inferred(cause))}</h3>"
        f'<button type="button" data-script hidden data-find="{text(cause.cause)}">Show in the table</button></header>'
        f"{_paragraph(cause.message)}{_paragraph(cause.advice and f'→ {cause.advice}')}"
        f'<p class="keys">{text(first_few(cause.keys, cause.count))}</p>{shown}</article>'
    )


def _paragraph(words: str) -> str:
    return f"<p>{text(words)}</p>" if words else ""


# -- resources ----------------------------------------------------------------------------------------------------


def _resources(report: Report) -> str:
    if not report.uses:
        return "<p>Nothing has run yet.</p>"
    headings = ("asked for", "attempts", "peak memory", "CPU busy", "out of memory", "suggestion")
    head = "".join(f'<th scope="col"{_flush(place in (1, 4))}>{name}</th>' for place, name in enumerate(headings))
    body = "".join(map(_use, report.uses))
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Resources"><table><caption>Resources '
        "asked for and used. Peak memory includes file cache: an upper bound.</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _use(use: Use) -> str:
    peak = busy = "unknown"
    if use.peak_ram is not None:
        peak = _gauge(use.peak_ram / use.asked.ram if use.asked.ram else None) + gib(use.peak_ram)
    if use.cpu_share is not None:
        busy = f"{_gauge(use.cpu_share)}{use.cpu_share:.0%}"
    likely = f"{use.likely_ran_out:,} likely" if use.likely_ran_out else ""
    short = ", ".join(filter(None, (f"{use.ran_out:,}" if use.ran_out else "", likely)))
    return (
        f'<tr><th scope="row">{text(asked_for(use.asked))}</th><td class="n">{use.attempts:,}</td><td>{peak}</td>'
        f'<td>{busy}</td><td class="n">{short}</td><td>{text(use.suggestion or "none")}</td></tr>'
    )


def _gauge(share: float | None) -> str:
    if share is None:
        return ""
    full = ' class="full"' if share > 0.95 else ""
    return f'<span class="gauge" aria-hidden="true"><i{full} style="width:{min(1.0, share):.0%}"></i></span>'


def _flush(right: bool) -> str:
    return ' class="n"' if right else ""


# -- jobs ---------------------------------------------------------------------------------------------------------

#: the columns of the table: the name in a row, the heading, and the kind of its values
_SHOWN: tuple[tuple[str, str, str], ...] = (
    ("state", "state", "state"),
    ("cause", "cause", "text"),
    ("inferred", "inferred", "text"),
    ("attempt", "attempts", "number"),
    ("wait_seconds", "waited", "span"),
    ("run_seconds", "ran", "span"),
    ("cores_in_use", "cores now", "number"),
    ("ram_in_use", "memory now", "gib"),
    ("peak_ram", "peak", "gib"),
    ("cpu_seconds", "CPU", "span"),
    ("exit_code", "exit code", "number"),
    ("message", "message", "text"),
    ("host", "host", "text"),
    ("launched_at", "launched, UTC", "time"),
)
_NUMBERS = frozenset({"number", "span", "gib", "time"})

Column = dict[str, Any]


def _columns(
    jobs: Sequence[JobRecord], live: Mapping[str, ContainerInfo] | None, now: datetime, secrets: Sequence[str]
) -> list[Column]:
    """The table by columns, as the page's script reads it; empty columns are left out."""
    rows = tables.to_rows(jobs, live, now=now)
    for row, job in zip(rows, jobs):  # noqa: B905 (equal: one is made of the other)
        row["inferred"] = "yes" if row["inferred"] else None
        if job.state is JobState.SUCCEEDED and job.collect_error is not None:
            row["cause"] = "result not collected"
        row["message"] = row["message"] and without_secrets(row["message"], secrets)
    columns = [_column("key", "job", "text", [row["key"] for row in rows])]
    for name in _fields(rows):
        values = [row[name] for row in rows]
        columns.append(_column(name, name, "number" if all(map(_is_exact, values)) else "text", values))
    known = rows[0] if rows else tables.UNITS
    for name, heading, kind in _SHOWN:
        if name in known:
            columns.append(_column(name, heading, kind, [row[name] for row in rows]))
    return [column for column in columns if column["id"] in ("key", "state", "cause") or column.pop("has_values")]


def _is_exact(value: object) -> bool:
    """Whether a browser holds *value* as a number without changing it; an identifier of 19 digits is text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, type(None))):
        return False
    return not isinstance(value, int) or abs(value) <= EXACT


def _fields(rows: Sequence[tables.Row]) -> list[str]:
    """The fields that say more than the key."""
    known = {"key", *tables.UNITS, *tables.LIVE_UNITS}
    names = [name for name in (rows[0] if rows else ()) if name not in known and not name.startswith("result")]
    return [name for name in names if any(_cell_text(row[name]) not in (None, row["key"]) for row in rows)][:_FIELDS]


def _column(id: str, heading: str, kind: str, values: Iterable[object]) -> Column:
    """One column; repeated texts are stored once."""
    plain = [_cell_number(value, kind) if kind in _NUMBERS else _cell_text(value) for value in values]
    column: Column = {
        "id": id, "heading": heading, "kind": kind, "number": kind in _NUMBERS, "values": plain,
        "wide": kind == "text" and max((len(value) for value in plain if isinstance(value, str)), default=0) > _NARROW,
        "has_values": any(value is not None for value in plain),
    }  # fmt: skip
    if kind not in _NUMBERS:
        words = list(dict.fromkeys(plain))
        if len(words) < len(plain) / 2:
            place = {word: n for n, word in enumerate(words)}
            column.update(words=words, values=[place[word] for word in plain])
    return column


def _cell_text(value: object) -> str | None:
    if value is None:
        return None
    shown = printable(str(value))
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"


def _cell_number(value: Any, kind: str) -> float | int | None:
    """A number as the page stores it: the user's own unchanged, measured ones with the digits that are shown."""
    if value is None:
        return None
    number = value.timestamp() if isinstance(value, datetime) else value
    if isinstance(number, int):
        return number
    if not math.isfinite(number):
        return None  # JSON has no such number
    if kind == "number":
        return float(number)
    return float(f"{number:.4g}") if abs(number) < 1e6 else round(number)


def _jobs(columns: Sequence[Column], total: int) -> str:
    """The table with its first rows; the script fills in the others."""
    head = "".join(
        f'<th scope="col" aria-sort="none" data-name="{name}"{_flush(column["number"])}>'
        f'<button type="button">{name}</button></th>'
        for column, name in ((column, text(column["heading"])) for column in columns)
    )
    body = "".join(f"<tr>{''.join(_cell(column, row) for column in columns)}</tr>" for row in range(min(total, FIRST)))
    states, causes = (_choices(column) for column in columns if column["id"] in ("state", "cause"))
    return f"""
<div class="tools" role="search" data-script hidden>
<label for="search">Find in any column<input id="search" type="search" autocomplete="off" spellcheck="false"></label>
<label for="state">State<select id="state"><option value="">any</option>{states}</select></label>
<label for="cause">Cause<select id="cause"><option value="">any</option>{causes}</select></label>
<button type="button" id="clear">Clear</button>
<p class="found" id="found" role="status" aria-live="polite"></p>
</div>
<noscript><p>Without scripts, the first {min(total, FIRST):,} of {total:,} jobs are shown.</p></noscript>
<div class="scroll" tabindex="0" role="region" aria-label="Table of jobs"><table id="jobs-table">
<caption>Click a heading to sort. A print shows the first thousand rows found.</caption>
<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>
<div class="pages" id="pages" hidden><button type="button" id="first">First</button>\
<button type="button" id="back">Previous</button><span id="where"></span>\
<button type="button" id="on">Next</button><button type="button" id="last">Last</button></div>
"""


def _choices(column: Column) -> str:
    counted = Counter(_value(column, row) for row in range(len(column["values"])))
    return "".join(
        f'<option value="{text(value)}">{text(value)} ({number:,})</option>'
        for value, number in counted.most_common()
        if value is not None
    )


def _value(column: Column, row: int) -> Any:
    value = column["values"][row]
    return column["words"][value] if "words" in column else value


def _cell(column: Column, row: int) -> str:
    value = _value(column, row)
    shown = "" if value is None else _written(column["kind"], value)
    looks = "n" if column["number"] else "wide" if column["wide"] else ""
    if column["kind"] == "state":
        looks = f"cb-s cb-{text(value)}"
    marked = f' class="{looks}"' if looks else ""
    if column["id"] == "key":
        return f'<th scope="row"{marked}>{text(shown)}</th>'
    return f"<td{marked}>{text(shown)}</td>"


def _written(kind: str, value: Any) -> str:
    """A value as the page's script writes it."""
    if kind == "span":
        return duration(value)
    if kind == "gib":
        return gib(value)
    if kind == "time":
        return timestamp(datetime.fromtimestamp(value, timezone.utc))
    return str(value)


# -- provenance ---------------------------------------------------------------------------------------------------


def _provenance(report: Report, jobs: Sequence[JobRecord], origin: Provenance, secrets: Sequence[str]) -> str:
    uses = Counter(job.spec for job in jobs)
    facts = (
        ("batch", text(report.name)),
        ("platform", text(origin.platform)),
        ("user", text(origin.user or "unknown")),
        ("home", text(report.home)),
        ("planned", _time(origin.created)),
        ("first launch", _time(report.began_at)),
        ("last end", _time(report.ended_at)),
        ("this report", _time(report.made_at)),
        ("attempts", f"{report.attempts:,}"),
        ("made with", text(f"canfar_batch {__version__}, Python {machine.python_version()}")),
    )
    rest = f"<p>and {len(uses) - _SPECS:,} other specs</p>" if len(uses) > _SPECS else ""
    return html.facts(facts) + "".join(_spec(spec, number, secrets) for spec, number in uses.most_common(_SPECS)) + rest


def _spec(spec: JobSpec, jobs: int, secrets: Sequence[str]) -> str:
    command = spec.cmd if isinstance(spec.cmd, str) else shlex.join(spec.cmd)
    env = "\n".join(f"{name}={shown_value(name, value)}" for name, value in spec.env.items())
    facts = (
        ("jobs", f"{jobs:,}"),
        ("command", _code(command, secrets)),
        ("through a shell", "yes" if spec.shell else ""),
        ("image", _code(full_image(spec.image), secrets)),
        ("asked for", text(asked_for(resources_of(spec)))),
        ("environment", _code(env, secrets)),
        ("working directory", _code(spec.workdir or "", secrets)),
        ("outputs", _code("\n".join(spec.outputs), secrets)),
        ("time-out", duration(spec.timeout) if spec.timeout is not None else ""),
    )
    return f'<div class="spec">{html.facts(facts)}</div>'


def _code(words: str, secrets: Sequence[str]) -> str:
    return "<br>".join(f"<code>{html.lines(line)}</code>" for line in without_secrets(words, secrets).splitlines())


def _time(moment: datetime | None) -> str:
    if moment is None:
        return ""
    return f'<time datetime="{moment.isoformat(timespec="seconds")}">{timestamp(moment)} UTC</time>'
