"""Jobs, batches and sessions as HTML for a notebook, made without any request to the platform."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from canfar_batch.records import Attempt, ContainerInfo, JobRecord
from canfar_batch.spec import full_image
from canfar_batch.text import count, gib
from canfar_batch.views import explain, html
from canfar_batch.views.attempt_times import Times, run_seconds
from canfar_batch.views.format import asked_for, duration, first_few, in_use, timestamp
from canfar_batch.views.log_tail import log_tail
from canfar_batch.views.masking import secret_values, without_secrets
from canfar_batch.views.report import Report, html_causes
from canfar_batch.views.tables import html_overview

_NAMED = 10  # batches that a session's view names
_PLANNED = 5  # jobs that a batch's view shows before anything was launched


def batch(
    report: Report, jobs: Collection[JobRecord], *, at_most: int = 50, live: Mapping[str, ContainerInfo] | None = None
) -> str:
    """Return a batch: its counts, why jobs failed, and its jobs (failures first if there are more than *at_most*)."""
    return html.view(
        html.title(f"Batch {report.name}", count(len(jobs), "job")),
        html.bar({state.value: number for state, number in report.counts.items()}),
        html_causes(report.failures),
        html_overview(jobs, at_most if report.attempts else _PLANNED, live, now=report.made_at),
        html.facts((("in use now", html.text(in_use((live or {}).values()))), ("home", html.text(report.home)))),
    )


def job(record: JobRecord, now: datetime, *, log: str = "") -> str:
    """Return a job: its command, its state, its attempts, and the end of its *log* if it failed."""
    attempt = record.last_attempt
    story = explain.explain_job(record, now=now)
    secrets = secret_values([record])
    command = without_secrets(record.filled.command, secrets)
    asked = attempt.resources if attempt is not None else record.resources
    fields = ", ".join(f"{name}={value}" for name, value in record.fields.items())
    return html.view(
        html.title(f"Job {record.key}"),
        f"<div>{html.state(record.state)} · {html.text(story)}</div>",
        html.facts(
            (
                ("command", f"<code>{html.text(command)}</code>"),
                ("fields", html.text(fields)),
                ("image", html.text(full_image(record.spec.image))),
                ("asked for", html.text(asked_for(asked))),
                ("launch name", html.text(attempt.launch_name if attempt is not None else "")),
                ("id", html.text(record.id or "")),
            )
        ),
        _attempts(record.attempts, now),
        html.log_end(log_tail(log, secrets=secrets)) if record.failure is not None else "",
    )


def session(url: str, user: str | None, *, until: datetime | None, local: bool, batches: Sequence[str]) -> str:
    """Return a session: its platform, its user, when its credential expires, and the batches on this machine."""
    named = first_few(batches[:_NAMED], len(batches))
    return html.view(
        html.title("Session", "on this machine" if local else ""),
        html.facts(
            (
                ("platform", html.text(url)),
                ("user", html.text(user or "unknown until the first request")),
                ("credential until", html.text(f"{until:%Y-%m-%d %H:%M} UTC") if until is not None else ""),
                ("batches here", html.text(named)),
            )
        ),
    )


def _attempts(attempts: Sequence[Attempt], now: datetime) -> str:
    if not attempts:
        return ""
    headings = ("attempt", "launched, UTC", "waited", "ran", "peak", "CPU", "exit code", "end")
    return html.table(headings, [_attempt(attempt, now) for attempt in attempts], numbers=(0, 2, 3, 4, 5, 6))


def _attempt(attempt: Attempt, now: datetime) -> list[str]:
    receipt, times, ran = attempt.receipt, Times.of(attempt, now), run_seconds(attempt, now)
    code, peak, cpu = (receipt.exit_code, receipt.peak_ram, receipt.cpu_seconds) if receipt else (None, None, None)
    return [
        str(attempt.number),
        timestamp(times.launched),
        duration(times.waited),
        "" if ran is None else duration(ran),
        "" if peak is None else gib(peak),
        "" if cpu is None else duration(cpu),
        "" if code is None else str(code),
        _end(attempt),
    ]


def _end(attempt: Attempt) -> str:
    if not attempt.ended:
        return html.state("pending" if attempt.started_at is None else "running")
    if attempt.succeeded:
        return html.state("succeeded")
    if attempt.failure is None:
        return html.state("cancelled")
    return html.text(f"{attempt.failure.cause}{' (inferred)' if explain.is_supposition(attempt.failure) else ''}")
