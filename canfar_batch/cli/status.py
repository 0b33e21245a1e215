"""Show batches and jobs, why jobs failed, and the report."""

from __future__ import annotations

import argparse

from canfar_batch.batch import Batch
from canfar_batch.cli.batches import all_batches, counts_by_name, find_job, no_driver
from canfar_batch.cli.output import (
    FINE,
    SOME_FAILED,
    exit_code,
    print_result,
    retry_command,
    show_report,
    terminal_width,
)
from canfar_batch.records import GIVEN_UP
from canfar_batch.text import count
from canfar_batch.views import explain
from canfar_batch.views.format import counts
from canfar_batch.views.tables import overview, text_table

_SHOWN = 20  # jobs that a status shows


def list_batches(options: argparse.Namespace) -> int:
    """List the batches, or the jobs of one."""
    if options.name is not None:
        with Batch.open(options.name, options.home) as batch:
            rows = batch.to_rows()
        print_result(options, rows, text_table(rows, terminal_width()))
        return FINE
    found, table = all_batches(options)
    print_result(options, found, table)
    return FINE


def show_status(options: argparse.Namespace) -> int:
    """Show the state of a batch, or explain one of its jobs."""
    with Batch.open(options.name, options.home) as batch:
        if options.key is not None:
            job = find_job(batch, options.key)
            (row,) = [row for row in batch.to_rows() if row["key"] == job.key]
            print_result(options, row, job.explain())
            return SOME_FAILED if job.state in GIVEN_UP else FINE
        report, driver = batch.report(), batch.driven_by
        data = {
            "name": batch.name, "home": str(batch.home), "platform": batch.address, "driver": driver,
            "done": batch.done, "ok": report.ok, "jobs": len(batch), "counts": counts_by_name(batch),
        }  # fmt: skip
        lines = [f"batch {batch.name}: {count(len(batch), 'job')} ({counts(batch.counts)})", f"home: {batch.home}"]
        if not batch.done:
            lines.append(f"run by {driver}" if driver else no_driver(batch))
        elif report.failures:
            lines.append(f"next: fix the cause, then: {retry_command(batch.name)}")
        left = [job.record for job in batch if not job.state.final or job.failure is not None]
    if left:
        lines.append(overview(left, terminal_width(), _SHOWN, now=report.made_at))
    print_result(options, data, "\n".join(lines))
    return exit_code(report)


def list_failures(options: argparse.Namespace) -> int:
    """List the failed jobs with cause and advice."""
    with Batch.open(options.name, options.home) as batch:
        failed, report = batch.failed, batch.report()
    data = [
        {
            "key": job.key,
            "state": job.state.value,
            "attempt": job.attempt,
            "cause": job.failure.cause if job.failure else None,
            "class": job.failure.kind if job.failure else None,
            "message": job.failure.message if job.failure else None,
            "inferred": explain.is_supposition(job.failure),
            "advice": explain.advice(job.failure) if job.failure else None,
            "log": job.attempts[-1].log if job.attempts else None,
        }
        for job in failed
    ]
    table = text_table(data, terminal_width(), ["key", "state", "attempt", "cause", "message"])
    print_result(options, data, "\n\n".join(filter(None, (report.why(), table))) or "nothing failed")
    return SOME_FAILED if failed else FINE


def print_report(options: argparse.Namespace) -> int:
    """Print the report on a batch, or write it as a web page."""
    with Batch.open(options.name, options.home) as batch:
        report = batch.report()
    if options.html is None:
        show_report(options, report)
    else:
        path = report.to_html(options.html or None)
        print_result(options, {"path": str(path)}, str(path))
    return exit_code(report)
