"""Plan and run a batch, or run some of its jobs again."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from canfar_batch.batch import Batch
from canfar_batch.cli.batches import connect_for, find_job
from canfar_batch.cli.output import FINE, SOME_FAILED, retry_command, say, show_report
from canfar_batch.cli.plan import Plan, nothing_to_run, preview, read_plan
from canfar_batch.errors import BatchPaused, PlanError
from canfar_batch.session import Session
from canfar_batch.strategies import ANY, Chunks, Files, Json, Logs, Retry, Throttle, Window
from canfar_batch.text import count


def run(options: argparse.Namespace) -> int:
    """Plan a batch and run it until its jobs are final, or resume one."""
    if options.preview:
        return preview(options)
    with planned_batch(options, read_plan(options)) as batch:
        return _run_until_final(options, batch)


@contextlib.contextmanager
def planned_batch(options: argparse.Namespace, plan: Plan | None) -> Iterator[Batch]:
    """Open the batch with the jobs that the options describe, checked."""
    with _opened(options, Session.connect(options.url, long_wait=options.long_wait)) as (session, batch):
        if plan is not None:
            batch.rows(plan.spec, plan.rows, key=plan.key)
        if not len(batch):
            raise nothing_to_run(options)
        if not any(job.attempts for job in batch.records):
            session.limits()  # an outage would be waited for; before the first launch, a wrong address is likelier
        for warning in batch.preflight().warnings:
            say(f"{batch.name}: {warning}")
        if options.missing_outputs:
            batch.rerun(missing_outputs=True)
        yield batch


def retry_failed(options: argparse.Namespace) -> int:
    """Open failed jobs again, and run the batch."""
    return _run_again(options, lambda batch, keys, changes: batch.retry_failed(keys, cause=options.cause, **changes))


def rerun(options: argparse.Namespace) -> int:
    """Open final jobs again, whatever became of them, and run the batch."""
    if not (options.keys or options.all or options.missing_outputs):
        raise PlanError("name the jobs to run again, or give --all or --missing-outputs")
    missing = options.missing_outputs
    return _run_again(options, lambda batch, keys, changes: batch.rerun(keys, missing_outputs=missing, **changes))


def _run_again(
    options: argparse.Namespace, reopen: Callable[[Batch, list[str] | None, Mapping[str, Any]], list[str]]
) -> int:
    with Batch.open(options.name, options.home) as batch:
        keys = [find_job(batch, key).key for key in options.keys] or None
        has_outputs = any(job.spec.outputs for job in batch.records)
    options.output = options.collect is None and has_outputs
    changes = {name: getattr(options, name) for name in ("cores", "ram", "gpus", "timeout", "pending_timeout")}
    with _opened(options, connect_for(batch, options.url, options.long_wait)) as (_, batch):
        opened = reopen(batch, keys, {name: value for name, value in changes.items() if value is not None})
        if not opened:
            raise PlanError(f"batch {options.name} has no job to run again")
        say(f"{count(len(opened), 'job')} opened again")
        return _run_until_final(options, batch)


@contextlib.contextmanager
def _opened(options: argparse.Namespace, session: Session) -> Iterator[tuple[Session, Batch]]:
    with session, session.batch(
        options.name,
        launch=_launch(options),
        retry=_retry(options),
        collect=_collector(options),
        inputs=options.inputs or None,
        home=options.home,
    ) as batch:  # fmt: skip
        yield session, batch


def _run_until_final(options: argparse.Namespace, batch: Batch) -> int:
    try:
        report = batch.run(progress=not options.quiet, takeover=options.takeover, notify=options.notify)
    except BatchPaused as paused:
        again = f"run this command again, changed if need be, or {retry_command(batch.name)}"
        say(f"{paused.why}. Fix the cause, then {again}")
        report = batch.report()
    show_report(options, report)
    return FINE if report.ok else SOME_FAILED


def _launch(options: argparse.Namespace) -> Any:
    pace = Window(options.window) if options.chunk is None else Chunks(options.chunk)
    return pace if options.rate is None else Throttle(options.rate, then=pace)


def _retry(options: argparse.Namespace) -> Retry:
    codes = ANY if options.retry_any else ()
    return Retry(options.retry, exit_codes=codes, grow_ram=options.grow_ram)


def _collector(options: argparse.Namespace) -> Any:
    kind = options.collect or ("files" if options.output else "logs")
    if kind == "files":
        return Files(download=options.download)
    return Json() if kind == "json" else Logs()
