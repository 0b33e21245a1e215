"""The report on a batch as one HTML file that needs nothing else: no network, no library, no server.

All that comes from jobs is data to it: text is escaped, the table's rows are JSON that cannot end its element, and a
Content-Security-Policy forbids every script but the page's own and every connection.
"""

from __future__ import annotations

import base64
import hashlib
import json
import platform as machine
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from importlib import resources
from typing import Any

import attrs

from canfar_batch._version import __version__
from canfar_batch.records import ContainerInfo, JobRecord, JobState, resources_of
from canfar_batch.spec import JobSpec, full_image, shown_value
from canfar_batch.views import explain, html, tables, timeline_svg
from canfar_batch.views.html import text
from canfar_batch.views.notebook import tail
from canfar_batch.views.report import Cause, Report, Spread, Use, asked_for
from canfar_batch.views.terminal import printable
from canfar_batch.views.timeline import Timeline

FIRST = 100  #: rows that stand in the page itself, for readers without scripts; as many as one page of the table has
LOG_LINES = 20  #: lines of a log that are shown for each cause
_FIELDS = 8  # of a job's fields that have a column
_SPECS = 20  # different specs that are listed
_LONGEST = 300  # characters of a cell
_NARROW = 44  # characters of a cell that is not broken into lines


@attrs.frozen(kw_only=True)
class Origin:
    """Where a batch comes from."""

    platform: str  #: its address, or `"local"`
    user: str | None
    created: datetime


def render(
    report: Report, jobs: Sequence[JobRecord], *, origin: Origin, live: Mapping[str, ContainerInfo] | None = None
) -> str:
    """The page.

    Args:
        report: The figures.
        jobs: All jobs of the batch, in plan order.
        origin: Where it comes from.
        live: What the platform last said of running containers, by id.
    """
    script, columns = _asset("report.js"), _columns(jobs, live)
    sections = (
        ("timeline", "Timeline", timeline_svg.figure(Timeline.of(jobs, report.made_at))),
        ("failures", "What went wrong", _failures(report)),
        ("resources", "Resources", _resources(report)),
        ("jobs", "Jobs", _jobs(columns, len(jobs))),
        ("provenance", "Provenance", _provenance(report, jobs, origin)),
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
    """Nothing may be loaded or sent, and no script may run but this one."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _json(data: object) -> str:
    """*data* as JSON inside a script element: nothing in it can end the element, or begin a comment."""
    dumped = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return dumped.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _outcomes() -> str:
    """The colours of the timeline. The swatches of the legend show the hatches too."""
    rules = [".k-waiting{background:var(--cb-faint);opacity:.6}"]
    for outcome in ("succeeded", "running", "cancelled", "lost", "failed"):
        colour = html.COLOURS[outcome]
        fill = f"url(#h-{outcome})" if outcome in ("failed", "lost") else colour
        rules.append(f".o-{outcome}{{fill:{fill}}}.timeline .l-{outcome},.timeline .d-{outcome}{{stroke:{colour}}}")
        rules.append(f".timeline .f-{outcome}{{fill:{colour}}}.k-{outcome}{{background-color:{colour}}}")
    rules.append(f".timeline .c-running{{fill:{html.COLOURS['running']}}}")
    rules.append(".k-failed{background-image:repeating-linear-gradient(135deg,#fff8 0 1.5px,#0000 1.5px 5px)}")
    rules.append(".k-lost{background-image:radial-gradient(#fffb 22%,#0000 24%);background-size:5px 5px}\n")
    return "\n".join(rules)


# -- totals -------------------------------------------------------------------------------------------------------


def _subtitle(report: Report, origin: Origin) -> str:
    where = "this machine (local platform)" if origin.platform == "local" else origin.platform
    going = f"{report.unfinished:,} still to do" if report.unfinished else "complete"
    return f"{text(where)} · as of {_time(report.made_at)} · {going}"


def _totals(report: Report, live: Mapping[str, ContainerInfo] | None) -> str:
    tiles = "".join(
        f"<div{' class=bad' if bad else ''}><dd>{text(value)}</dd><dt>{text(name)}</dt></div>"
        for name, value, bad in _tiles(report, live)
        if value
    )
    bar = html.bar({state.value: count for state, count in report.counts.items()})
    return f'<section aria-label="Totals"><dl class="tiles">{tiles}</dl>{bar}</section>'


def _tiles(report: Report, live: Mapping[str, ContainerInfo] | None) -> Iterator[tuple[str, str, bool]]:
    failed = report.counts.get(JobState.FAILED, 0) + report.counts.get(JobState.LOST, 0)
    yield "jobs", f"{report.jobs:,}", False
    yield "succeeded", _share(report.counts.get(JobState.SUCCEEDED, 0), report.jobs), False
    yield "failed or lost", f"{failed:,}" if failed else "", True
    yield "elapsed", "" if report.wall_time is None else explain.span(report.wall_time), False
    yield "core-hours" + (", estimated" if report.estimated else ""), _amount(report.core_hours), False
    yield "median run", _median(report.running), False
    yield "median wait", _median(report.waiting), False
    yield "in use now", explain.in_use((live or {}).values()), False
    retried = sum(report.retries.values())
    yield "retries", f"{retried:,}" if retried else "", False
    yield "without a receipt", f"{report.unverified:,}" if report.unverified else "", False


def _amount(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}" if number >= 1 else f"{number:.2g}"


def _share(part: int, whole: int) -> str:
    if not whole:
        return ""
    share = 100 * part / whole
    return f"{share:.0f} %" if part in (0, whole) else f"{min(99.9, share):.1f} %"


def _median(spread: Spread | None) -> str:
    return "" if spread is None else explain.span(spread.median)


# -- failures -----------------------------------------------------------------------------------------------------


def _failures(report: Report) -> str:
    causes = (*report.failures, *report.not_collected)
    retried = ", ".join(f"{count:,} × {text(cause)}" for cause, count in report.retries.items())  # noqa: RUF001
    saved = f"; {report.recovered:,} jobs succeeded by that" if report.recovered else ""
    again = f"<p class=faint>Launched again: {retried}{saved}.</p>" if retried else ""
    return ("".join(map(_cause, causes)) or "<p>No job failed.</p>") + again


def _cause(cause: Cause) -> str:
    mark = html.COLOURS["lost" if cause.cause in ("lost", "ended unwatched") else "failed"]
    more = cause.count - len(cause.keys)
    keys = ", ".join(map(text, cause.keys)) + (f" and {more:,} more" if more else "")
    end = tail(cause.log, LOG_LINES) if cause.log is not None else ""
    said = "" if not end.strip() else (
        f"<details open><summary>The end of the log of {text(cause.keys[0])}</summary>"
        f'<pre tabindex="0">{html.lines(end)}</pre></details>'
    )  # fmt: skip
    return (
        f'<article class="cause" style="--cb-mark:{mark}"><header><h3>{cause.count:,} × {text(cause.cause)}</h3>'  # noqa: RUF001
        f'<button type="button" data-script hidden data-find="{text(cause.cause)}">Show in the table</button></header>'
        f"{_paragraph(cause.message)}{_paragraph(cause.advice and f'→ {cause.advice}')}"
        f'<p class="keys">{keys}</p>{said}</article>'
    )


def _paragraph(words: str) -> str:
    return f"<p>{text(words)}</p>" if words else ""


# -- resources ----------------------------------------------------------------------------------------------------


def _resources(report: Report) -> str:
    if not report.uses:
        return "<p>Nothing has run yet.</p>"
    headings = ("asked for", "attempts", "peak memory", "CPU busy", "ran out of memory", "suggestion")
    head = "".join(f'<th scope="col"{_flush(place in (1, 4))}>{name}</th>' for place, name in enumerate(headings))
    body = "".join(map(_use, report.uses))
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Resources"><table><caption>What '
        "attempts asked for, and what they used. Peak memory includes file cache: an upper bound.</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _use(use: Use) -> str:
    peak = "not known" if use.peak_ram is None else (
        _gauge(use.peak_ram / use.asked.ram if use.asked.ram else None)
        + (f"{use.peak_ram:.1f} GiB" if use.peak_ram >= 0.1 else f"{use.peak_ram * 1024:.0f} MiB")
    )  # fmt: skip
    busy = "not known" if use.cpu_share is None else f"{_gauge(use.cpu_share)}{use.cpu_share:.0%}"
    return (
        f'<tr><th scope="row">{text(asked_for(use.asked))}</th><td class="n">{use.attempts:,}</td><td>{peak}</td>'
        f'<td>{busy}</td><td class="n">{use.ran_out or ""}</td><td>{text(use.suggestion or "none")}</td></tr>'
    )


def _gauge(share: float | None) -> str:
    if share is None:
        return ""
    full = ' class="full"' if share > 0.95 else ""
    return f'<span class="gauge" aria-hidden="true"><i{full} style="width:{min(1.0, share):.0%}"></i></span>'


def _flush(right: bool) -> str:
    return ' class="n"' if right else ""


# -- jobs ---------------------------------------------------------------------------------------------------------

#: the columns of the table: what of a row, how it is called, and how it is written
_SHOWN: tuple[tuple[str, str, str], ...] = (
    ("state", "state", "state"),
    ("cause", "cause", "text"),
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


def _columns(jobs: Sequence[JobRecord], live: Mapping[str, ContainerInfo] | None) -> list[Column]:
    """The table by columns, as the page's script reads it; columns in which nothing stands are left out."""
    rows = tables.to_rows(jobs, live)
    for row, job in zip(rows, jobs):  # noqa: B905 (equal: one is made of the other)
        if job.state is JobState.SUCCEEDED and job.collect_error is not None:
            row["cause"] = "result not collected"
    columns = [_column("key", "job", "text", [row["key"] for row in rows])]
    for name in _fields(rows):
        values = [row[name] for row in rows]
        number = all(isinstance(value, (int, float, type(None))) and not isinstance(value, bool) for value in values)
        columns.append(_column(name, name, "number" if number else "text", values))
    known = rows[0] if rows else tables.UNITS
    for name, heading, kind in _SHOWN:
        if name in known:
            columns.append(_column(name, heading, kind, [row[name] for row in rows]))
    return [column for column in columns if column["id"] in ("key", "state", "cause") or column.pop("told")]


def _fields(rows: Sequence[tables.Row]) -> list[str]:
    """The fields that tell more than the key does."""
    known = {"key", *tables.UNITS, *tables.LIVE_UNITS}
    names = [name for name in (rows[0] if rows else ()) if name not in known and not name.startswith("result")]
    return [name for name in names if any(_plain(row[name]) not in (None, row["key"]) for row in rows)][:_FIELDS]


def _column(id: str, heading: str, kind: str, values: Iterable[object]) -> Column:
    """One column; words that repeat are said once."""
    plain = [_rounded(value) if kind in _NUMBERS else _plain(value) for value in values]
    column: Column = {
        "id": id, "heading": heading, "kind": kind, "number": kind in _NUMBERS, "values": plain,
        "wide": kind == "text" and max((len(value) for value in plain if isinstance(value, str)), default=0) > _NARROW,
        "told": any(value is not None for value in plain),
    }  # fmt: skip
    if kind not in _NUMBERS:
        words = list(dict.fromkeys(plain))
        if len(words) < len(plain) / 2:
            place = {word: n for n, word in enumerate(words)}
            column.update(words=words, values=[place[word] for word in plain])
    if id == "message":
        part = "words" if "words" in column else "values"
        column[part] = [None if value is None else explain.without_secrets(value) for value in column[part]]
    return column


def _plain(value: object) -> str | None:
    if value is None:
        return None
    said = printable(str(value))
    return said if len(said) <= _LONGEST else f"{said[: _LONGEST - 1]}…"


def _rounded(value: Any) -> float | int | None:
    if value is None:
        return None
    number = value.timestamp() if isinstance(value, datetime) else value
    if isinstance(number, int):
        return number
    return float(f"{number:.4g}") if abs(number) < 1e6 else round(number) if abs(number) < 1e18 else None


def _jobs(columns: Sequence[Column], count: int) -> str:
    """The table, with its first rows; the script takes it from there."""
    head = "".join(
        f'<th scope="col" aria-sort="none" data-name="{name}"{_flush(column["number"])}>'
        f'<button type="button">{name}</button></th>'
        for column, name in ((column, text(column["heading"])) for column in columns)
    )
    body = "".join(f"<tr>{''.join(_cell(column, row) for column in columns)}</tr>" for row in range(min(count, FIRST)))
    states, causes = (_choices(column) for column in columns if column["id"] in ("state", "cause"))
    return f"""
<div class="tools" role="search" data-script hidden>
<label for="search">Find in any column<input id="search" type="search" autocomplete="off" spellcheck="false"></label>
<label for="state">State<select id="state"><option value="">any</option>{states}</select></label>
<label for="cause">Cause<select id="cause"><option value="">any</option>{causes}</select></label>
<button type="button" id="clear">Clear</button>
<p class="found" id="found" role="status" aria-live="polite"></p>
</div>
<noscript><p>Without scripts, the first {min(count, FIRST):,} of {count:,} jobs are shown.</p></noscript>
<div class="scroll" tabindex="0" role="region" aria-label="Table of jobs"><table id="jobs-table">
<caption>A heading sorts by its column. In print, the first thousand rows that are found.</caption>
<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>
<div class="pages" id="pages" hidden><button type="button" id="first">First</button>\
<button type="button" id="back">Previous</button><span id="where"></span>\
<button type="button" id="on">Next</button><button type="button" id="last">Last</button></div>
"""


def _choices(column: Column) -> str:
    counted = Counter(_value(column, row) for row in range(len(column["values"])))
    return "".join(
        f'<option value="{text(value)}">{text(value)} ({count:,})</option>'
        for value, count in counted.most_common()
        if value is not None
    )


def _value(column: Column, row: int) -> Any:
    value = column["values"][row]
    return column["words"][value] if "words" in column else value


def _cell(column: Column, row: int) -> str:
    value = _value(column, row)
    said = "" if value is None else _written(column["kind"], value)
    looks = "n" if column["number"] else "wide" if column["wide"] else ""
    if column["kind"] == "state":
        looks = f"cb-s cb-{text(value)}"
    marked = f' class="{looks}"' if looks else ""
    if column["id"] == "key":
        return f'<th scope="row"{marked}>{text(said)}</th>'
    return f"<td{marked}>{text(said)}</td>"


def _written(kind: str, value: Any) -> str:
    """As the script writes it."""
    if kind == "span":
        return explain.span(value)
    if kind == "gib":
        return f"{value:.1f} GiB" if value >= 0.1 else f"{value * 1024:.0f} MiB"
    if kind == "time":
        return f"{datetime.fromtimestamp(value, timezone.utc):%Y-%m-%d %H:%M:%S}"
    return str(value)


# -- provenance ---------------------------------------------------------------------------------------------------


def _provenance(report: Report, jobs: Sequence[JobRecord], origin: Origin) -> str:
    uses = Counter(job.spec for job in jobs)
    facts = (
        ("batch", text(report.name)),
        ("platform", text(origin.platform)),
        ("user", text(origin.user or "not known")),
        ("home", text(report.home)),
        ("planned", _time(origin.created)),
        ("first launch", _time(report.began_at)),
        ("last end", _time(report.ended_at)),
        ("this report", _time(report.made_at)),
        ("attempts", f"{report.attempts:,}"),
        ("made with", text(f"canfar_batch {__version__}, Python {machine.python_version()}")),
    )
    rest = f"<p>and {len(uses) - _SPECS:,} other specs</p>" if len(uses) > _SPECS else ""
    return _facts(facts) + "".join(_spec(spec, count) for spec, count in uses.most_common(_SPECS)) + rest


def _spec(spec: JobSpec, count: int) -> str:
    command = spec.cmd if isinstance(spec.cmd, str) else shlex.join(spec.cmd)
    env = "\n".join(f"{name}={shown_value(name, value)}" for name, value in spec.env.items())
    facts = (
        ("jobs", f"{count:,}"),
        ("command", _code(command)),
        ("through a shell", "yes" if spec.shell else ""),
        ("image", _code(full_image(spec.image))),
        ("asked for", text(asked_for(resources_of(spec)))),
        ("environment", _code(env)),
        ("working directory", _code(spec.workdir or "")),
        ("outputs", _code("\n".join(spec.outputs))),
        ("time-out", explain.span(spec.timeout) if spec.timeout is not None else ""),
    )
    return f'<div class="spec">{_facts(facts)}</div>'


def _code(words: str) -> str:
    return "<br>".join(f"<code>{html.lines(line)}</code>" for line in explain.without_secrets(words).splitlines())


def _facts(pairs: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f"<dt>{text(name)}</dt><dd>{value}</dd>" for name, value in pairs if value)
    return f'<dl class="facts">{rows}</dl>'


def _time(moment: datetime | None) -> str:
    if moment is None:
        return ""
    return f'<time datetime="{moment.isoformat(timespec="seconds")}">{moment:%Y-%m-%d %H:%M:%S} UTC</time>'
