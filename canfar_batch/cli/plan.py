"""The jobs that arguments describe: the spec, the fields of each job, and the preview."""

from __future__ import annotations

import argparse
import csv
import glob
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from canfar_batch.cli.output import FINE, print_result
from canfar_batch.errors import ExtraMissing, PlanError
from canfar_batch.planning.jobs import records
from canfar_batch.planning.rows import REPLICA_KEY, rows_of_replicas, rows_of_table
from canfar_batch.records import JobRecord
from canfar_batch.spec import JobSpec, Secret
from canfar_batch.store.home import Home
from canfar_batch.views import explain


@attrs.frozen
class Plan:
    """The jobs to plan, as `Batch.rows` takes them."""

    spec: JobSpec
    rows: list[Mapping[str, Any]]
    key: str | None  #: template of the keys

    def records(self) -> list[JobRecord]:
        """Return the jobs as a new batch would have them."""
        places = itertools.count()
        return list(records(self.spec, self.rows, key=self.key, place=lambda _: next(places)))


def read_plan(options: argparse.Namespace) -> Plan | None:
    """Return the jobs that the arguments describe, checked before a batch is made; None to resume one unchanged."""
    if not options.command and not options.image:
        if not Home.of(options.name, options.home).exists():
            raise nothing_to_run(options)
        return None
    plan = _plan(options)
    for secret in plan.spec.secrets:
        secret.read()
    plan.records()
    return plan


def _plan(options: argparse.Namespace) -> Plan:
    spec = _spec(options)
    ways = ("each", "rows", "replicas")
    given = [f"--{way}" for way in ways if getattr(options, way) is not None]
    given += ["--grid or --range"] * bool(options.grid or options.range)
    if len(given) > 1:
        raise PlanError(f"{' and '.join(given)} cannot be combined: each of them says which jobs there are")
    if options.replicas is not None:
        return Plan(*rows_of_replicas(spec, options.replicas), REPLICA_KEY)
    if not given and (unknown := [name for name in spec.field_names if name not in ("key", "index")]):
        field = unknown[0]
        raise PlanError(
            f"{{{field}}} is a field, and nothing gives its values: --each {field}=PATTERN, --range {field}=0:10, "
            f"--grid {field}=A,B or --rows TABLE; write {{{{{field}}}}} to mean the braces"
        )
    return Plan(spec, _rows(options), options.key)


def preview(options: argparse.Namespace) -> int:
    """Print the jobs that would run; send and store nothing."""
    jobs = _plan(options).records()
    shown = "\n\n".join(explain.preview(job, launch_name="not launched") for job in jobs[:3])
    more = f"\n\n... and {len(jobs) - 3:,} more" if len(jobs) > 3 else ""
    print_result(options, [{"key": job.key, "argv": job.filled.argv} for job in jobs], shown + more)
    return FINE


def nothing_to_run(options: argparse.Namespace) -> PlanError:
    """Return the error for a batch without jobs."""
    return PlanError(f"batch {options.name!r} is empty: name what to run, for example: --image IMAGE -- COMMAND")


def _spec(options: argparse.Namespace) -> JobSpec:
    if not options.command:
        raise PlanError("no command was given: put it after --, for example: -- python fit.py {path}")
    if not options.image:
        raise PlanError("no image was given: name one, for example: --image skaha/astroml:latest")
    # one word is a command line to split; several words were split by the user's shell
    whole = len(options.command) == 1 or options.shell
    env = {**dict(options.env), **{name: Secret(name) for name in options.secret}}
    return JobSpec(
        " ".join(options.command) if whole else options.command,
        image=options.image, cores=options.cores, ram=options.ram, gpus=options.gpus, env=env,
        shell=options.shell, workdir=options.workdir, outputs=options.output, timeout=options.timeout,
        pending_timeout=options.pending_timeout,
    )  # fmt: skip


def _rows(options: argparse.Namespace) -> list[Mapping[str, Any]]:
    """Return the fields of each job."""
    if options.each is not None:
        name, pattern = options.each
        paths = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 (patterns may be absolute)
        if not paths:
            raise PlanError(f"no file matches {pattern!r}; quote the pattern, so that the shell leaves it alone")
        return [{name: Path(path)} for path in paths]
    if options.rows is not None:
        return _table(Path(options.rows))
    axes: list[list[tuple[str, Any]]] = [
        [(name, value) for value in values.split(",")] for name, values in options.grid
    ]
    axes += [[(name, number) for number in numbers] for name, numbers in options.range]
    return [dict(row) for row in itertools.product(*axes)]  # without axes: one, without fields


def _table(path: Path) -> list[Mapping[str, Any]]:
    """The rows of a table: CSV as text, byte for byte; any other format as astropy reads it."""
    try:
        if path.suffix.lower() in (".csv", ".txt"):
            with path.open(newline="", encoding="utf-8-sig") as file:
                rows: list[Mapping[str, Any]] = list(csv.DictReader(file, strict=True))
        else:
            rows = rows_of_table(_astropy_table(path))
    except (OSError, ValueError, csv.Error) as error:
        raise PlanError(f"{path} cannot be read as a table: {error}") from error
    if not rows:
        raise PlanError(f"{path} has no rows")
    if any(None in row or None in row.values() for row in rows):
        raise PlanError(f"{path} has rows that are longer or shorter than its heading")
    return rows


def _astropy_table(path: Path) -> Any:
    try:
        from astropy.table import Table
    except ImportError as error:
        raise ExtraMissing.of(f"{path} is not a CSV file; reading it", library="astropy", extra="tables") from error
    return Table.read(path)
