"""Stop jobs, and delete batches."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from canfar_batch.batch import Batch
from canfar_batch.cli.batches import connect_for, find_job
from canfar_batch.cli.output import FINE, TROUBLE, print_result, say
from canfar_batch.errors import CredentialError, PlatformError
from canfar_batch.text import count


def cancel(options: argparse.Namespace) -> int:
    """Stop jobs: through the process that runs the batch, if there is one; the request is stored in either case."""
    with Batch.open(options.name, options.home) as batch:
        keys = [find_job(batch, key).key for key in options.keys] or None
        driver = batch.driven_by
        if driver is not None:
            return _report_cancelled(options, batch.cancel(keys), f"{driver} runs the batch and stops them")
    try:
        with connect_for(batch, options.url) as session, session.batch(
            options.name, home=options.home
        ) as batch:  # fmt: skip
            stopped = batch.cancel(keys, wait=not options.no_wait, timeout=options.timeout)
    except (CredentialError, PlatformError) as error:
        say(f"the platform cannot be reached now, so the next run will stop the jobs: {error}")
        with Batch.open(options.name, options.home) as batch:
            batch.cancel(keys)
        return TROUBLE
    return _report_cancelled(options, stopped, "being stopped" if options.no_wait else "stopped")


def _report_cancelled(options: argparse.Namespace, keys: Sequence[str], outcome: str) -> int:
    text = f"{count(len(keys), 'job')}: {outcome}" if keys else "every job was final already"
    print_result(options, {"cancelled": list(keys)}, text)
    return FINE


def delete(options: argparse.Namespace) -> int:
    """Delete the home of a batch none of whose jobs is active."""
    with Batch.open(options.name, options.home) as batch:
        home = batch.home
    with connect_for(batch, None) as session:
        session.batch(options.name, home=options.home).delete()
    print_result(options, {"deleted": str(home)}, f"deleted {home}")
    return FINE
