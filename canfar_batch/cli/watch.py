"""Show the progress of batches that other processes run."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping

from canfar_batch.batch import Batch
from canfar_batch.cli.batches import all_batches, no_driver
from canfar_batch.cli.output import FINE, exit_code, print_result, say, show_report
from canfar_batch.records import JobState
from canfar_batch.views.progress import Progress
from canfar_batch.views.report import Report


def watch(options: argparse.Namespace) -> int:
    """Show progress until the jobs of a batch are final, or until no process runs any batch."""
    if options.name is None:
        return _watch_all(options)
    watched = _Watched(options)
    report, hint = watched.read()
    with Progress(watched) as shown:
        while report.unfinished and hint is None:
            shown.update()
            time.sleep(options.every)
            report, hint = watched.read()
    if hint is not None:
        say(hint)
    show_report(options, report)
    return exit_code(report)


def _watch_all(options: argparse.Namespace) -> int:
    """Show the table of all batches whenever it changes, until no process runs one."""
    found, table = all_batches(options)
    while any(row["driver"] for row in found):
        if sys.stderr.isatty():
            sys.stderr.write(f"\x1b[H\x1b[2J{table}\n")
        else:
            sys.stderr.write(f"{table}\n\n")
        sys.stderr.flush()
        shown = table
        while table == shown and any(row["driver"] for row in found):
            time.sleep(options.every)
            found, table = all_batches(options)
    print_result(options, found, table)
    return FINE


class _Watched:
    """A batch that another process runs; its counts are read again by `read`."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self.name: str = options.name
        self.counts: Mapping[JobState, int] = {}

    def read(self) -> tuple[Report, str | None]:
        """Read the ledger; return the report, and a hint if jobs are unfinished and no process runs the batch."""
        for _ in range(2):  # a driver may end between the reading of the jobs and of the lease: then look again
            with Batch.open(self._options.name, self._options.home) as batch:
                self.counts, report = batch.counts, batch.report()
                if batch.done or batch.driven_by is not None:
                    return report, None
        return report, no_driver(batch)
