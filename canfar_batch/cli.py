"""The command line: plan and run batches, and look at them, without writing Python."""

from __future__ import annotations

import argparse
import csv
import difflib
import glob
import io
import itertools
import json
import math
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from canfar_batch._version import __version__
from canfar_batch.batch import Batch
from canfar_batch.engine import records, rows_of_table
from canfar_batch.errors import (
    BatchPaused,
    CanfarBatchError,
    CredentialError,
    Detached,
    ExtraMissing,
    HomeError,
    JobNotFound,
    PlanError,
    PlatformError,
)
from canfar_batch.job import Job
from canfar_batch.records import JobRecord, JobState
from canfar_batch.session import Session
from canfar_batch.spec import JobSpec, Secret
from canfar_batch.store.home import Home, batches
from canfar_batch.strategies import ANY, Chunks, Files, Json, Logs, Retry, Throttle, Window
from canfar_batch.views import explain
from canfar_batch.views.report import Report
from canfar_batch.views.tables import overview, text_table

FINE, SOME_FAILED, TROUBLE, DETACHED = 0, 1, 2, 130  #: what the command ends with

_SHOWN = 20  # jobs that a status shows

_EPILOG = """\
It ends with 0 if all is well, 1 if some jobs failed, 2 if it could not do what was asked, and 130 if Ctrl-C left it:
the jobs run on then, and the same command goes on with them.
"""

_RUN = """\
Plan jobs and run them until all are over. What stands behind -- is the command; {fields} in it are filled in:

  canfar-batch run calib --image skaha/astroml:latest --cores 2 --ram 8 --each path='raw/*.fits' \\
      --output 'cat/{path.stem}.cat' -- python calib.py {path} 'cat/{path.stem}.cat'

  canfar-batch run sweep --image skaha/astroml:latest --grid threshold=0.1,0.5,1.0 --grid method=gaussian,tophat \\
      -- python analysis.py --threshold {threshold} --method {method}

  canfar-batch run single --image skaha/astroml:latest -- python fit.py 7

The same command again goes on where the last one stopped, and does nothing twice; so does "run NAME" alone.
"""


# -- the parser ---------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog=_prog(), description="Batch jobs on the CANFAR Science Platform.", epilog=_EPILOG
    )
    made.add_argument("--version", action="version", version=f"canfar_batch {__version__}")
    commands = made.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, act: Callable[[argparse.Namespace], int], does: str, **more: Any) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=does, epilog=_EPILOG, **{"description": does, **more})
        added.add_argument("--json", action="store_true", help="print JSON, for other programs")
        added.add_argument(
            "--home", metavar="DIR", help="the folder of the batches (default: $CANFAR_BATCH_HOME, else ./batches)"
        )
        added.set_defaults(act=act)
        return added

    raw = {"formatter_class": argparse.RawDescriptionHelpFormatter, "description": _RUN}
    _add_run(command("run", _run, "plan a batch and run it, or go on with one", **raw))

    listing = command("ls", _ls, "list the batches, or the jobs of one")
    listing.add_argument("name", nargs="?", metavar="NAME", help="the batch whose jobs to list (default: all batches)")

    status = command("status", _status, "tell how a batch stands, or a job of it")
    status.add_argument("name", metavar="NAME", help="the batch")
    status.add_argument("key", nargs="?", metavar="KEY", help="the job: what happened to it, and what to do")

    logs = command("logs", _logs, "print what a job printed")
    logs.add_argument("name", metavar="NAME", help="the batch")
    logs.add_argument("key", nargs="?", metavar="KEY", help="the job; may be left out where there is only one")
    logs.add_argument("--attempt", type=int, metavar="N", help="which attempt, from 1 (default: the newest)")
    logs.add_argument("--tail", type=_whole(0), metavar="N", help="only the last N lines")
    _add_connection(logs)

    failures = command("failures", _failures, "tell which jobs failed, why, and what to do")
    failures.add_argument("name", metavar="NAME", help="the batch")

    cancel = command("cancel", _cancel, "stop jobs, and see to it that they are gone")
    cancel.add_argument("name", metavar="NAME", help="the batch")
    cancel.add_argument("keys", nargs="*", metavar="KEY", help="the jobs (default: all that are not over)")
    cancel.add_argument(
        "--timeout", type=_seconds, default=300.0, metavar="S", help="seconds to wait for that (default: %(default)g)"
    )
    cancel.add_argument("--no-wait", action="store_true", help="do not wait until the platform no longer shows them")
    _add_connection(cancel)

    report = command("report", _report, "tell what became of a batch: causes, times, core-hours, memory")
    report.add_argument("name", metavar="NAME", help="the batch")
    return made


def _add_run(run: argparse.ArgumentParser) -> None:
    run.usage = "%(prog)s [options] NAME --image IMAGE [--each FIELD=GLOB | --rows TABLE] -- COMMAND ..."
    run.add_argument("name", metavar="NAME", help="the batch; the same name goes on with the same batch")
    what = run.add_argument_group("what to run")
    what.add_argument("--image", help="the container image, as skaha/astroml:latest")
    what.add_argument("--cores", type=float, metavar="N", help="cores for each job (default: the platform's choice)")
    what.add_argument("--ram", type=float, metavar="GIB", help="memory for each job (default: the platform's choice)")
    what.add_argument("--gpus", type=int, metavar="N", help="GPUs for each job")
    what.add_argument(
        "--env", action="append", default=[], type=_pair, metavar="NAME=VALUE", help="set a variable; repeatable"
    )
    what.add_argument(
        "--secret", action="append", default=[], metavar="NAME",
        help="hand a variable of this environment on, and write its value down nowhere; repeatable",
    )  # fmt: skip
    what.add_argument(
        "--workdir", metavar="DIR", help="where the command runs (default: here, where containers see it)"
    )
    what.add_argument(
        "--output", action="append", default=[], metavar="PATTERN", help="a file the job must leave behind; repeatable"
    )
    what.add_argument("--shell", action="store_true", help="the command is one string, for /bin/sh")
    what.add_argument("--timeout", type=float, metavar="S", help="seconds that a job may run")
    what.add_argument("--pending-timeout", type=float, metavar="S", help="seconds that a job may wait to be started")
    jobs = run.add_argument_group("which jobs (default: one)")
    one = jobs.add_mutually_exclusive_group()
    one.add_argument("--each", type=_pair, metavar="FIELD=GLOB", help="a job for each file: --each path='raw/*.fits'")
    one.add_argument("--rows", metavar="TABLE", help="a job for each row of a CSV file, or of what astropy reads")
    one.add_argument(
        "--grid", action="append", type=_pair, metavar="FIELD=A,B,...", help="a job for each combination; repeatable"
    )
    jobs.add_argument("--key", metavar="TEMPLATE", help="how to name the jobs, as '{path.stem}'")
    jobs.add_argument("--preview", action="store_true", help="print what would run, send nothing and remember nothing")
    how = run.add_argument_group("how")
    pace = how.add_mutually_exclusive_group()
    pace.add_argument("--window", type=_whole(1), default=16, metavar="N", help="jobs at once (default: %(default)s)")
    pace.add_argument("--chunk", type=_whole(1), metavar="N", help="N jobs, wait for all of them, then the next N")
    how.add_argument("--rate", type=_above(0), metavar="N", help="launch at most N jobs a second")
    how.add_argument(
        "--retry", type=_whole(0), default=2, metavar="N",
        help="further attempts where the platform is to blame (default: %(default)s)",
    )  # fmt: skip
    how.add_argument("--retry-any", action="store_true", help="also where the command ended with any other code than 0")
    how.add_argument("--grow-ram", type=_above(1), metavar="X", help="retry what ran out of memory with X times more")
    how.add_argument(
        "--collect", choices=("files", "json", "logs"), help="what a job's result is (default: files if any --output)"
    )
    how.add_argument("--takeover", action="store_true", help="drive it even if another process seems to")
    how.add_argument("--quiet", action="store_true", help="do not show how it goes")
    _add_connection(run)


def _add_connection(command: argparse.ArgumentParser) -> None:
    command.add_argument("--url", metavar="URL", help="the platform; 'local' runs the jobs on this machine")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _whole(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return number


def _above(limit: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not limit < value < math.inf:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number above {limit:g}")
        return value

    return number


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def _prog() -> str:
    called = Path(sys.argv[0]).name
    return "python -m canfar_batch" if called == "__main__.py" else called


# -- running ------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out one command; what the process is to end with."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # whatever a terminal cannot show is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    dashes = words.index("--") if "--" in words else len(words)
    options = parser().parse_args(words[:dashes])
    options.command = words[dashes + 1 :]
    if options.command and options.act is not _run:
        return _complain("only run takes a command behind --")
    try:
        code: int = options.act(options)
        sys.stdout.flush()
    except Detached as detached:
        _tell(str(detached))
        return DETACHED
    except KeyboardInterrupt:
        return DETACHED
    except CanfarBatchError as error:
        return _complain(str(error))
    except BrokenPipeError:  # whoever read us has enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return code


def _complain(text: str) -> int:
    _tell(f"{_prog()}: error: {text}")
    return TROUBLE


def _tell(text: str) -> None:
    sys.stderr.write(f"{' '.join(text.split())}\n")


def _run(options: argparse.Namespace) -> int:
    if options.preview:
        return _preview(options)
    spec, rows = _plan(options)
    with Session.connect(options.url) as session, session.batch(
        options.name,
        launch=_launch(options),
        retry=_retry(options),
        collect=_collector(options),
        home=options.home,
    ) as batch:  # fmt: skip
        if spec is not None:
            batch.rows(spec, rows, key=options.key)
        if not len(batch):
            raise _empty(options)
        if not any(job.attempts for job in batch.records):
            session.limits()  # an outage would be waited out; at first, a wrong address is likelier
        batch.preflight()
        try:
            report = batch.run(progress=not options.quiet, takeover=options.takeover)
        except BatchPaused as paused:
            _tell(str(paused))
            report = batch.report()
    _print(options, report.as_dict(), str(report))
    return FINE if report.ok else SOME_FAILED


def _plan(options: argparse.Namespace) -> tuple[JobSpec | None, list[Mapping[str, Any]]]:
    """What to run and the fields of each job, tried before there is a batch; None where one goes on as it is."""
    if not options.command and not options.image:
        if not Home.of(options.name, options.home).exists():
            raise _empty(options)
        return None, []
    spec, rows = _spec(options), _rows(options)
    for secret in spec.secrets:
        secret.read()
    _records(spec, rows, options.key)
    return spec, rows


def _records(spec: JobSpec, rows: list[Mapping[str, Any]], key: str | None) -> list[JobRecord]:
    places = itertools.count()
    return list(records(spec, rows, key=key, place=lambda _: next(places)))


def _empty(options: argparse.Namespace) -> PlanError:
    return PlanError(f"batch {options.name!r} is empty: say what to run, as: --image IMAGE -- COMMAND")


def _launch(options: argparse.Namespace) -> Any:
    pace = Window(options.window) if options.chunk is None else Chunks(options.chunk)
    return pace if options.rate is None else Throttle(options.rate, then=pace)


def _retry(options: argparse.Namespace) -> Retry:
    codes = ANY if options.retry_any else ()
    return Retry(options.retry, exit_codes=codes, grow_ram=options.grow_ram)


def _collector(options: argparse.Namespace) -> Any:
    kind = options.collect or ("files" if options.output else "logs")
    return {"files": Files, "json": Json, "logs": Logs}[kind]()


def _spec(options: argparse.Namespace) -> JobSpec:
    if not options.command:
        raise PlanError("no command was given: write it behind --, as: -- python fit.py {path}")
    if not options.image:
        raise PlanError("no image was given: name one, as --image skaha/astroml:latest")
    # one word is a command line for us to split, several were split by the user's own shell
    whole = len(options.command) == 1 or options.shell
    env = {**dict(options.env), **{name: Secret(name) for name in options.secret}}
    return JobSpec(
        " ".join(options.command) if whole else options.command,
        image=options.image, cores=options.cores, ram=options.ram, gpus=options.gpus, env=env,
        shell=options.shell, workdir=options.workdir, outputs=options.output, timeout=options.timeout,
        pending_timeout=options.pending_timeout,
    )  # fmt: skip


def _rows(options: argparse.Namespace) -> list[Mapping[str, Any]]:
    """The fields of each job."""
    if options.each is not None:
        name, pattern = options.each
        paths = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 (patterns may be absolute)
        if not paths:
            raise PlanError(f"no file matches {pattern!r}; quote the pattern, so that the shell leaves it alone")
        return [{name: Path(path)} for path in paths]
    if options.rows is not None:
        return _table(Path(options.rows))
    axes = [[(name, value) for value in values.split(",")] for name, values in options.grid or ()]
    return [dict(row) for row in itertools.product(*axes)]  # without axes: one, without fields


def _table(path: Path) -> list[Mapping[str, Any]]:
    """The rows of a table: CSV as text, byte for byte; anything else as astropy reads it."""
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
        raise ExtraMissing.of(f"{path} is no CSV file; reading it", library="astropy", extra="tables") from error
    return Table.read(path)


def _preview(options: argparse.Namespace) -> int:
    jobs = _records(_spec(options), _rows(options), options.key)
    shown = "\n\n".join(explain.preview(job, launch_name="not launched") for job in jobs[:3])
    more = f"\n\n… and {len(jobs) - 3:,} more" if len(jobs) > 3 else ""
    _print(options, [{"key": job.key, "argv": job.filled.argv} for job in jobs], shown + more)
    return FINE


# -- looking ------------------------------------------------------------------------------------------------------


def _ls(options: argparse.Namespace) -> int:
    if options.name is not None:
        with Batch.open(options.name, options.home) as batch:
            rows = batch.to_rows()
        _print(options, rows, text_table(rows, _width()))
        return FINE
    root = _root(options.home)
    if root.exists() and not root.is_dir():
        raise HomeError(f"{root} is no folder: name the one that holds the batches")
    found = [_summary(name, options.home) for name in batches(options.home)]
    rows = [{**row, "stands": _stands(row, root)} for row in found]
    table = text_table(rows, _width(), ["batch", "jobs", "stands", "driver"])
    _print(options, found, table or f"no batches in {root}")
    return FINE


def _summary(name: str, home: str | None) -> dict[str, Any]:
    """One batch as a row; one that cannot be read does not hide the others."""
    try:
        with Batch.open(name, home) as batch:
            counts = {state.value: count for state, count in batch.counts.items()}
            return {"batch": name, "jobs": len(batch), "counts": counts, "driver": batch.driven_by}
    except CanfarBatchError as error:
        return {"batch": name, "jobs": None, "counts": {}, "driver": None, "error": str(error)}


def _stands(row: Mapping[str, Any], root: Path) -> str:
    error: str = row.get("error", "")
    # the reason is more to the point than where all of them lie
    return error.replace(f"{root / row['batch']}/", "") or _counted(row["counts"])


def _root(home: str | None) -> Path:
    return Path(home or os.environ.get("CANFAR_BATCH_HOME") or "batches").absolute()


def _status(options: argparse.Namespace) -> int:
    with Batch.open(options.name, options.home) as batch:
        if options.key is not None:
            job = _job(batch, options.key)
            (row,) = [row for row in batch.to_rows() if row["key"] == job.key]
            _print(options, row, job.explain())
            return SOME_FAILED if job.state in (JobState.FAILED, JobState.LOST) else FINE
        report, driver = batch.report(), batch.driven_by
        counts = {state.value: count for state, count in batch.counts.items()}
        told = {
            "name": batch.name, "home": str(batch.home), "platform": batch.address, "driver": driver,
            "done": batch.done, "ok": report.ok, "jobs": len(batch), "counts": counts,
        }  # fmt: skip
        lines = [f"batch {batch.name}: {len(batch):,} jobs ({_counted(counts)})", f"home: {batch.home}"]
        if not batch.done:
            lines.append(f"driven by {driver}" if driver else f"nobody drives it: {_prog()} run {batch.name} goes on")
        left = [job.record for job in batch if not job.state.final or job.failure is not None]
    if left:
        lines.append(overview(left, _width(), _SHOWN))
    _print(options, told, "\n".join(lines))
    return _code(report)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {state}" for state, count in counts.items())


def _logs(options: argparse.Namespace) -> int:
    with Batch.open(options.name, options.home) as batch:
        job = _job(batch, options.key)
        number = options.attempt if options.attempt is not None else job.attempt
        log = _log(batch, job, number, options.url)
    if options.tail is not None:
        log = b"".join(log.splitlines(keepends=True)[-options.tail or len(log) + 1 :])
    if options.json:
        _print(options, {"key": job.key, "attempt": number, "log": log.decode(errors="replace")}, "")
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(log)
    return FINE


def _log(batch: Batch, job: Job, number: int, url: str | None) -> bytes:
    """The saved log of an attempt; what a running one printed so far, from the platform."""
    chosen = next((attempt for attempt in job.attempts if attempt.number == number), None)
    if chosen is None:
        raise JobNotFound(f"job {job.key} has no attempt {number}; there are {len(job.attempts)}")
    if chosen.log is not None and chosen.log.exists():
        return chosen.log.read_bytes()
    if chosen.ended or chosen.id is None:
        raise JobNotFound(f"no log of job {job.key}, attempt {number}, was saved")
    if batch.address == "local":
        raise JobNotFound(f"job {job.key} still runs, and its log can be read once it is over")
    with Session.connect_for(batch, url) as session:
        return session.job(chosen.id).logs(encoding=None)


def _failures(options: argparse.Namespace) -> int:
    with Batch.open(options.name, options.home) as batch:
        failed, report = batch.failed, batch.report()
    told = [
        {
            "key": job.key,
            "state": job.state.value,
            "attempt": job.attempt,
            "cause": job.failure.cause if job.failure else None,
            "class": job.failure.kind if job.failure else None,
            "message": job.failure.message if job.failure else None,
            "advice": explain.advice(job.failure) if job.failure else None,
            "log": job.attempts[-1].log if job.attempts else None,
        }
        for job in failed
    ]
    table = text_table(told, _width(), ["key", "state", "attempt", "cause", "message"])
    _print(options, told, "\n\n".join(filter(None, (report.why(), table))) or "nothing failed")
    return SOME_FAILED if failed else FINE


def _report(options: argparse.Namespace) -> int:
    with Batch.open(options.name, options.home) as batch:
        report = batch.report()
    _print(options, report.as_dict(), str(report))
    return _code(report)


def _code(report: Report) -> int:
    return SOME_FAILED if report.failures or report.not_collected else FINE


# -- acting -------------------------------------------------------------------------------------------------------


def _cancel(options: argparse.Namespace) -> int:
    """Stop jobs, by whoever can: the process that drives the batch, or this one; the wish is kept in any case."""
    with Batch.open(options.name, options.home) as batch:
        keys = [_job(batch, key).key for key in options.keys] or None
        driver = batch.driven_by
        if driver is not None:
            return _told_cancelled(options, batch.cancel(keys), f"{driver} drives the batch and stops them")
    try:
        with _connected(batch, options.url) as session, session.batch(
            options.name, home=options.home
        ) as batch:  # fmt: skip
            stopped = batch.cancel(keys, wait=not options.no_wait, timeout=options.timeout)
    except (CredentialError, PlatformError) as error:
        _tell(f"the wish is remembered, and the next run carries it out; the platform cannot be asked now: {error}")
        with Batch.open(options.name, options.home) as batch:
            batch.cancel(keys)
        return TROUBLE
    return _told_cancelled(options, stopped, "being stopped" if options.no_wait else "stopped")


def _connected(batch: Batch, url: str | None) -> Session:
    """Connect to the batch's platform; a local one lives as long as the session alone, so there it is a new one."""
    return Session.connect("local") if batch.address == "local" else Session.connect_for(batch, url)


def _told_cancelled(options: argparse.Namespace, keys: Sequence[str], words: str) -> int:
    _print(options, {"cancelled": list(keys)}, f"{len(keys):,} jobs: {words}" if keys else "every job was over already")
    return FINE


# -- pieces -------------------------------------------------------------------------------------------------------


def _job(batch: Batch, key: str | None) -> Job:
    """The job that is meant: by its key, or by a beginning of its key that no other has.

    Raises:
        JobNotFound: There is none, or more than one to choose from.
    """
    listed = f"{_prog()} ls {batch.name} lists them"
    if key is None and len(batch) != 1:
        raise JobNotFound(f"batch {batch.name} has {len(batch):,} jobs: name one; {listed}")
    if key is not None and key in batch:
        return batch[key]
    keys = [job.key for job in batch]
    meant = [known for known in keys if known.startswith(key or "")]
    if len(meant) == 1:
        return batch[meant[0]]
    near = meant or difflib.get_close_matches(key or "", keys, cutoff=0.4)
    hint = f"did you mean {' or '.join(near[:3])}?" if near else listed
    raise JobNotFound(f"batch {batch.name} has no job {key!r}; {hint}")


def _print(options: argparse.Namespace, data: Any, text: str) -> None:
    sys.stdout.write(f"{json.dumps(data, indent=2, default=_plain) if options.json else text}\n")


def _plain(value: Any) -> str:
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _width() -> int:
    return shutil.get_terminal_size().columns
