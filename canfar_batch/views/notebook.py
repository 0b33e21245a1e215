"""How a notebook shows a job, a batch and a session, as HTML. Nobody is asked for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from canfar_batch.records import Attempt, ContainerInfo, JobRecord
from canfar_batch.spec import full_image
from canfar_batch.views import explain, html
from canfar_batch.views.report import Report, asked_for, html_causes
from canfar_batch.views.tables import html_overview

TAIL = 12  #: lines of a log that are shown
_READ = 16 * 1024  # bytes of it that are read for them
_NAMED = 10  # batches that a session's view names


def batch(
    report: Report, jobs: Collection[JobRecord], *, at_most: int = 50, live: Mapping[str, ContainerInfo] | None = None
) -> str:
    """A batch: its counts, why jobs failed, and its jobs, what went wrong first where they are many."""
    return html.view(
        html.title(f"Batch {report.name}", _jobs(len(jobs))),
        html.bar({state.value: count for state, count in report.counts.items()}),
        html_causes(report.failures),
        html_overview(jobs, at_most, live),
        html.facts(
            (("in use now", html.text(explain.in_use((live or {}).values()))), ("home", html.text(report.home)))
        ),
    )


def job(record: JobRecord, now: datetime) -> str:
    """A job: what it is, what became of it, its attempts, and the end of its log where that failed and was saved."""
    attempt = record.last_attempt
    story = explain.without_secrets(explain.explain_job(record, now=now))
    asked = attempt.resources if attempt is not None else record.resources
    fields = ", ".join(f"{name}={value}" for name, value in record.fields.items())
    return html.view(
        html.title(f"Job {record.key}"),
        f"<div>{html.state(record.state)} · {html.text(story)}</div>",
        html.facts(
            (
                ("command", f"<code>{html.text(explain.without_secrets(record.filled.command))}</code>"),
                ("fields", html.text(fields)),
                ("image", html.text(full_image(record.spec.image))),
                ("asked for", html.text(asked_for(asked))),
                ("launch name", html.text(attempt.launch_name if attempt is not None else "")),
                ("id", html.text(record.id or "")),
            )
        ),
        _attempts(record.attempts, now),
        html.log_tail(log_tail(record)) if record.failure is not None else "",
    )


def session(url: str, user: str | None, *, until: datetime | None, local: bool, batches: Sequence[str]) -> str:
    """A session: where, as whom, until when, and which batches are here."""
    named = ", ".join(batches[:_NAMED]) + (f" and {len(batches) - _NAMED:,} more" if len(batches) > _NAMED else "")
    return html.view(
        html.title("Session", "on this machine" if local else ""),
        html.facts(
            (
                ("platform", html.text(url)),
                ("user", html.text(user or "not known yet")),
                ("credential until", html.text(f"{until:%Y-%m-%d %H:%M} UTC") if until is not None else ""),
                ("batches here", html.text(named)),
            )
        ),
    )


def log_tail(record: JobRecord, lines: int = TAIL) -> str:
    """The last lines of the newest attempt's saved log; empty where it is not here."""
    path = record.last_attempt.log if record.last_attempt is not None else None
    return "" if path is None else tail(path, lines)


def tail(path: Path, lines: int) -> str:
    """The last lines of a file, without what looks like a secret; empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _READ))
            content = file.read().decode(errors="replace")
    except OSError:
        return ""
    return explain.without_secrets("\n".join(content.splitlines()[-lines:]))


def _attempts(attempts: Sequence[Attempt], now: datetime) -> str:
    if not attempts:
        return ""
    headings = ("attempt", "launched, UTC", "waited", "ran", "peak", "CPU", "exit code", "end")
    return html.table(headings, [_attempt(attempt, now) for attempt in attempts], numbers=(0, 2, 3, 4, 5, 6))


def _attempt(attempt: Attempt, now: datetime) -> list[str]:
    receipt, launched = attempt.receipt, attempt.launched_at or attempt.intended_at
    end = attempt.finished_at if attempt.ended else now
    code, peak, cpu = (receipt.exit_code, receipt.peak_ram, receipt.cpu_seconds) if receipt else (None, None, None)
    return [
        str(attempt.number),
        f"{launched:%Y-%m-%d %H:%M:%S}",
        _between(launched, attempt.started_at or end),
        _between(attempt.started_at, end),
        "" if peak is None else f"{peak:.2f} GiB",
        "" if cpu is None else explain.span(cpu),
        "" if code is None else str(code),
        _end(attempt),
    ]


def _between(start: datetime | None, end: datetime | None) -> str:
    return "" if start is None or end is None else explain.span(max(0.0, (end - start).total_seconds()))


def _end(attempt: Attempt) -> str:
    if not attempt.ended:
        return html.state("pending" if attempt.started_at is None else "running")
    if attempt.succeeded:
        return html.state("succeeded")
    return html.text(attempt.failure.cause) if attempt.failure is not None else html.state("cancelled")


def _jobs(count: int) -> str:
    return f"{count:,} job{'s' * (count != 1)}"
