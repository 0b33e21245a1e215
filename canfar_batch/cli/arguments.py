"""The command line: plan, run, watch and inspect batches without writing Python."""

from __future__ import annotations

import argparse
import contextlib
import csv
import glob
import io
import itertools
import json
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from canfar_batch._version import __version__
from canfar_batch.batch import Batch
from canfar_batch.errors import (
    BatchBusy,
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
from canfar_batch.planning.jobs import records
from canfar_batch.planning.rows import rows_of_table
from canfar_batch.records import GIVEN_UP, Attempt, JobRecord, JobState
from canfar_batch.session import Session
from canfar_batch.spec import JobSpec, Secret
from canfar_batch.store.home import Home, batches
from canfar_batch.store.log_files import read_lines_from_end
from canfar_batch.strategies import ANY, Chunks, Files, Json, Logs, Retry, Throttle, Window
from canfar_batch.text import count, did_you_mean
from canfar_batch.views import explain
from canfar_batch.views.format import counts
from canfar_batch.views.progress import Progress
from canfar_batch.views.report import Report
from canfar_batch.views.tables import overview, text_table

FINE, SOME_FAILED, TROUBLE, DETACHED = 0, 1, 2, 130  #: the exit codes

_SHOWN = 20  # jobs that a status shows
_START_TIME = 30.0  # seconds to wait for a process in the background to run its batch
_LOG_LINES = 20  # lines that --failed shows of each log

_EPILOG = """\
Exit codes: 0 if all is well, 1 if some jobs failed, 2 if the command could not be carried out, and 130 after Ctrl-C:
the jobs then run on, and the same command resumes them. KEY may be the beginning of a key that no other key has.
"""

_RUN = """\
Plan jobs and run them until all are final. Everything after -- is the command; {fields} in it are filled in:

  canfar-batch run calib --image skaha/astroml:latest --cores 2 --ram 8 --each path='raw/*.fits' \\
      --output 'cat/{path.stem}.cat' -- python calib.py {path} 'cat/{path.stem}.cat'

  canfar-batch run sweep --image skaha/astroml:latest --grid threshold=0.1,0.5,1.0 --grid method=gaussian,tophat \\
      -- python analysis.py --threshold {threshold} --method {method}

  canfar-batch run mocks --image skaha/astroml:latest --range seed=0:500 -- python mock.py {seed}

  canfar-batch run single --image skaha/astroml:latest -- python fit.py 7

The same command again resumes the batch and repeats no finished job; so does "run NAME" alone.
"""


_START = """\
Plan jobs, and run them by a process in the background that goes on when the terminal is closed. The arguments are those
of run. What it prints goes to run.log in the batch's home; "watch NAME" shows its progress, "status NAME" the state.
To end the process and leave the jobs: kill -INT PID.

  canfar-batch start mocks --image skaha/astroml:latest --range seed=0:500 -- python mock.py {seed}
"""


# -- the parser ---------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog=_prog(), description="Batch jobs on the CANFAR Science Platform.", epilog=_EPILOG
    )
    made.add_argument("--version", action="version", version=f"canfar_batch {__version__}")
    commands = made.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, act: Callable[[argparse.Namespace], int], does: str, **more: Any) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=does, epilog=_EPILOG, **{"description": does, **more})
        added.add_argument("--json", action="store_true", help="print JSON, for other programs")
        added.add_argument(
            "--home", metavar="DIR", help="the directory of the batches (default: $CANFAR_BATCH_HOME, else ./batches)"
        )
        added.set_defaults(act=act)
        return added

    raw = {"formatter_class": argparse.RawDescriptionHelpFormatter, "description": _RUN}
    _add_run(command("run", _run, "plan a batch and run it, or resume one", **raw))
    raw["description"] = _START
    _add_run(command("start", _start, "do as run does, in the background: the terminal may be closed", **raw))
    _add_retry(command("retry", _retry_failed, "launch failed jobs again, and run the batch until all are final"))
    _add_rerun(command("rerun", _rerun, "launch final jobs again, also those that succeeded, and run the batch"))

    listing = command("ls", _ls, "list the batches, or the jobs of one")
    _add_name(listing, "the batch whose jobs to list (default: all batches)", nargs="?")

    status = command("status", _status, "show the state of a batch, or explain one of its jobs")
    _add_name(status)
    _add_key(status, "a job: what happened to it, and what to do")

    watch = command("watch", _watch, "show the progress of a batch that another process runs, until all jobs are final")
    _add_name(watch, "the batch (default: all batches, until no process runs one)", nargs="?")
    watch.add_argument(
        "--every", type=_above(0), default=2.0, metavar="S", help="seconds between two looks (default: %(default)g)"
    )

    logs = command("logs", _logs, "print what a job printed")
    _add_name(logs)
    _add_key(logs, "the job; not needed if there is only one")
    logs.add_argument("--attempt", type=int, metavar="N", help="which attempt, from 1 (default: the newest)")
    logs.add_argument("--tail", type=_whole(0), metavar="N", help="only the last N lines")
    logs.add_argument("-f", "--follow", action="store_true", help="print lines as they come, until the job ends")
    logs.add_argument(
        "--failed", action="store_true", help=f"the end of every failed job's log (default: --tail {_LOG_LINES})"
    )
    _add_connection(logs)

    for name, act, does, what, where in (
        ("upload", _upload, "bring files to the platform", "a file, folder or pattern here", "where to: /arc/..."),
        ("download", _download, "bring files from the platform", "what: a path or pattern, /arc/...", "where to, here"),
    ):
        transfer = command(name, act, does)
        transfer.add_argument("source", metavar="FILENAME", help=what)
        transfer.add_argument("target", metavar="TARGET", help=f"{where}; a folder if it ends in a slash")
        _add_connection(transfer)

    _add_name(command("failures", _failures, "list the failed jobs: why they failed, and what to do"))

    cancel = command("cancel", _cancel, "stop jobs, and wait until the platform no longer shows them")
    _add_name(cancel)
    _add_keys(cancel, "the jobs (default: all that are not final)")
    cancel.add_argument(
        "--timeout", type=_seconds, default=300.0, metavar="S", help="seconds to wait at most (default: %(default)g)"
    )
    cancel.add_argument("--no-wait", action="store_true", help="do not wait")
    _add_connection(cancel)

    _add_name(command("rm", _rm, "delete a batch's records, logs and receipts; outputs elsewhere stay"))

    report = command("report", _report, "print the report on a batch: causes, times, core-hours, memory")
    _add_name(report)
    report.add_argument(
        "--html", nargs="?", const="", metavar="PATH", help="write it as a web page (default: report.html in the home)"
    )
    return made


def _add_name(command: argparse.ArgumentParser, text: str = "the batch", **more: Any) -> None:
    _completed(command.add_argument("name", metavar="NAME", help=text, **more), _complete_names)


def _add_key(command: argparse.ArgumentParser, text: str) -> None:
    _completed(command.add_argument("key", nargs="?", metavar="KEY", help=text), _complete_keys)


def _add_keys(command: argparse.ArgumentParser, text: str) -> None:
    _completed(command.add_argument("keys", nargs="*", metavar="KEY", help=text), _complete_keys)


def _add_retry(retry: argparse.ArgumentParser) -> None:
    _add_name(retry)
    _add_keys(retry, "the jobs (default: all that failed or were lost); cancelled jobs only if named")
    retry.add_argument("--cause", help="only jobs with this cause, as the report shows it: 'out of memory'")
    _add_changes(retry)
    _add_how(retry)


def _add_rerun(rerun: argparse.ArgumentParser) -> None:
    _add_name(rerun)
    _add_keys(rerun, "the jobs; without them, give --all or --missing-outputs")
    rerun.add_argument("--all", action="store_true", help="all final jobs")
    rerun.add_argument(
        "--missing-outputs", action="store_true", help="only jobs that succeeded and whose outputs no longer exist"
    )
    _add_changes(rerun)
    _add_how(rerun)


def _add_changes(command: argparse.ArgumentParser) -> None:
    changed = command.add_argument_group("changed resources")
    changed.add_argument("--cores", type=int, metavar="N", help="cores for each job")
    changed.add_argument("--ram", type=int, metavar="GIB", help="memory for each job")
    changed.add_argument("--gpus", type=int, metavar="N", help="GPUs for each job")
    changed.add_argument("--timeout", type=_above(0), metavar="S", help="seconds that a job may run")
    changed.add_argument("--pending-timeout", type=_above(0), metavar="S", help="seconds that a job may wait to start")


def _add_run(run: argparse.ArgumentParser) -> None:
    run.usage = "%(prog)s [options] NAME --image IMAGE [--each FIELD=GLOB | --rows TABLE | ...] -- COMMAND ..."
    _add_name(run, "the batch; an existing one is resumed")
    what = run.add_argument_group("what to run")
    what.add_argument("--image", help="the container image, for example skaha/astroml:latest")
    what.add_argument("--cores", type=float, metavar="N", help="cores for each job (default: the platform's choice)")
    what.add_argument("--ram", type=float, metavar="GIB", help="memory for each job (default: the platform's choice)")
    what.add_argument("--gpus", type=int, metavar="N", help="GPUs for each job")
    what.add_argument(
        "--env", action="append", default=[], type=_pair, metavar="NAME=VALUE", help="set a variable; repeatable"
    )
    what.add_argument(
        "--secret", action="append", default=[], metavar="NAME",
        help="pass on a variable of this environment without storing its value; repeatable",
    )  # fmt: skip
    what.add_argument(
        "--workdir", metavar="DIR", help="where the command runs (default: here, if containers see this directory)"
    )
    what.add_argument(
        "--output", action="append", default=[], metavar="PATTERN", help="a file that the job must write; repeatable"
    )
    what.add_argument("--shell", action="store_true", default=False, help="run the command, one string, by /bin/sh")
    what.add_argument("--bash", dest="shell", action="store_const", const="bash", help="run it by bash")
    what.add_argument("--timeout", type=float, metavar="S", help="seconds that a job may run")
    what.add_argument("--pending-timeout", type=float, metavar="S", help="seconds that a job may wait to start")
    jobs = run.add_argument_group("which jobs (default: one)")
    jobs.add_argument("--each", type=_pair, metavar="FIELD=GLOB", help="a job for each file: --each path='raw/*.fits'")
    jobs.add_argument(
        "--rows", metavar="TABLE", help="a job for each row of a CSV file, or of a file that astropy reads"
    )
    jobs.add_argument(
        "--grid", action="append", default=[], type=_pair, metavar="FIELD=A,B,...",
        help="a job for each combination of values; repeatable",
    )  # fmt: skip
    jobs.add_argument(
        "--range", action="append", default=[], type=_range, metavar="FIELD=FIRST:END[:STEP]",
        help="a job for each whole number from FIRST to before END; combines with --grid; repeatable",
    )  # fmt: skip
    jobs.add_argument(
        "--replicas", type=_whole(1), metavar="N", help="N jobs that differ in REPLICA_ID, from 1 to N, alone"
    )
    jobs.add_argument("--key", metavar="TEMPLATE", help="how to name the jobs, for example '{path.stem}'")
    jobs.add_argument(
        "--missing-outputs", action="store_true", help="launch jobs again that succeeded and whose outputs were deleted"
    )
    jobs.add_argument("--preview", action="store_true", help="print what would run; send and store nothing")
    _add_how(run)


def _add_how(command: argparse.ArgumentParser) -> None:
    how = command.add_argument_group("how")
    pace = how.add_mutually_exclusive_group()
    pace.add_argument("--window", type=_whole(1), default=16, metavar="N", help="jobs at once (default: %(default)s)")
    pace.add_argument("--chunk", type=_whole(1), metavar="N", help="N jobs, wait for all of them, then the next N")
    how.add_argument("--rate", type=_above(0), metavar="N", help="launch at most N jobs per second")
    how.add_argument(
        "--retry", type=_whole(0), default=2, metavar="N",
        help="further attempts after failures of the platform (default: %(default)s)",
    )  # fmt: skip
    how.add_argument("--retry-any", action="store_true", help="also after any exit code other than 0")
    how.add_argument("--grow-ram", type=_above(1), metavar="X", help="retry what ran out of memory with X times more")
    how.add_argument(
        "--collect", choices=("files", "json", "logs"),
        help="a job's result (default: files if the jobs have outputs, else logs)",
    )  # fmt: skip
    how.add_argument(
        "--notify", metavar="COMMAND", help="a shell command to run at the end, and when the batch is paused"
    )
    how.add_argument("--takeover", action="store_true", help="run it even if another process seems to")
    how.add_argument("--quiet", action="store_true", help="do not show progress")
    _add_connection(command)


def _add_connection(command: argparse.ArgumentParser) -> None:
    command.add_argument("--url", metavar="URL", help="the platform; 'local' runs the jobs on this machine")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _range(text: str) -> tuple[str, range]:
    name, numbers = _pair(text)
    try:
        parts = [int(part) for part in numbers.split(":")]
        found = range(*parts) if len(parts) in (2, 3) else range(0)
    except ValueError:  # not whole numbers, or a step of 0
        found = range(0)
    if not found:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not FIELD=FIRST:END or FIELD=FIRST:END:STEP, or it has no numbers"
        )
    return name, found


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


# -- completion ---------------------------------------------------------------------------------------------------


def _completed(argument: argparse.Action, completer: Callable[..., Iterator[str]]) -> None:
    argument.completer = completer  # type: ignore[attr-defined] # argcomplete reads it


def _complete_names(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> Iterator[str]:
    return (name for name in batches(parsed_args.home) if name.startswith(prefix))


def _complete_keys(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> Iterator[str]:
    try:
        with Batch.open(parsed_args.name, parsed_args.home) as batch:
            yield from (job.key for job in batch if job.key.startswith(prefix))
    except CanfarBatchError:  # no such batch: there is nothing to complete
        return


def _complete(made: argparse.ArgumentParser) -> None:
    """Answer the shell if it asks for completions: `eval "$(register-python-argcomplete canfar-batch)"` sets it up."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(made)


# -- running ------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out one command and return the process's exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # characters that the terminal lacks are not an error
            stream.reconfigure(errors="backslashreplace")
    made = parser()
    _complete(made)
    dashes = words.index("--") if "--" in words else len(words)
    options = made.parse_args(words[:dashes])
    options.command, options.words = words[dashes + 1 :], words
    if options.command and options.act not in (_run, _start):
        return _complain("only run and start take a command after --")
    try:
        code: int = options.act(options)
        sys.stdout.flush()
    except Detached as detached:
        _say(str(detached))
        return DETACHED
    except KeyboardInterrupt:
        return DETACHED
    except CanfarBatchError as error:
        return _complain(str(error))
    except BrokenPipeError:  # the reader, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return code


def _complain(text: str) -> int:
    _say(f"{_prog()}: error: {text}")
    return TROUBLE


def _say(text: str) -> None:
    sys.stderr.write(f"{' '.join(text.split())}\n")


def _run(options: argparse.Namespace) -> int:
    if options.preview:
        return _preview(options)
    spec, rows = _plan(options)
    with _planned(options, spec, rows) as batch:
        return _run_until_final(options, batch)


@contextlib.contextmanager
def _planned(options: argparse.Namespace, spec: JobSpec | None, rows: list[Mapping[str, Any]]) -> Iterator[Batch]:
    """Open the batch with the jobs that the options describe, checked."""
    with _opened(options, Session.connect(options.url)) as (session, batch):
        if spec is not None and options.replicas is not None:
            batch.replicas(spec, options.replicas)
        elif spec is not None:
            batch.rows(spec, rows, key=options.key)
        if not len(batch):
            raise _empty(options)
        if not any(job.attempts for job in batch.records):
            session.limits()  # an outage would be waited for; before the first launch, a wrong address is likelier
        batch.preflight()
        if options.missing_outputs:
            batch.rerun(missing_outputs=True)
        yield batch


def _start(options: argparse.Namespace) -> int:
    """Plan the batch here, so that mistakes are seen at once, and let a process of its own run it."""
    if options.preview:
        return _preview(options)
    with _planned(options, *_plan(options)) as batch:
        if batch.driven_by is not None and not options.takeover:
            raise BatchBusy(
                f"batch {batch.name} is being run by {batch.driven_by}; {_prog()} watch {batch.name} shows it"
            )
        log = batch.home / "run.log"
    given = options.words[options.words.index("start") + 1 :]
    end = given.index("--") if "--" in given else len(given)
    pid = _spawn(["run", "--quiet", *(word for word in given[:end] if word != "--json"), *given[end:]], log)
    if (code := _ended_early(pid, options)) not in (None, FINE, SOME_FAILED):
        end = read_lines_from_end(log, _LOG_LINES).decode(errors="replace")
        return _complain(f"process {pid} ended with exit code {code}; the end of {log}: {end}")
    data = {"name": options.name, "pid": pid, "log": str(log)}
    again = f"{_prog()} watch {options.name}"
    _print(options, data, f"process {pid} runs batch {options.name}; to see its progress: {again}\nits output: {log}")
    return FINE


def _spawn(words: Sequence[str], log: Path) -> int:
    """Run the command in a session of its own, which ends with no terminal; return its process's number."""
    command = [sys.executable, "-m", "canfar_batch", *words]
    output = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), output, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(command[0], command, os.environ, file_actions=files, setsid=True)


def _ended_early(pid: int, options: argparse.Namespace) -> int | None:
    """Wait until the process runs the batch; return its exit code if it has ended before."""
    deadline = time.monotonic() + _START_TIME
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        with Batch.open(options.name, options.home) as batch:
            if batch.driven_by is not None:
                return None
        time.sleep(0.1)
    return None


def _retry_failed(options: argparse.Namespace) -> int:
    """Open failed jobs again, and run the batch."""
    return _run_again(options, lambda batch, keys, changes: batch.retry_failed(keys, cause=options.cause, **changes))


def _rerun(options: argparse.Namespace) -> int:
    """Open final jobs again, whatever became of them, and run the batch."""
    if not (options.keys or options.all or options.missing_outputs):
        raise PlanError("name the jobs to run again, or give --all or --missing-outputs")
    missing = options.missing_outputs
    return _run_again(options, lambda batch, keys, changes: batch.rerun(keys, missing_outputs=missing, **changes))


def _run_again(
    options: argparse.Namespace, reopen: Callable[[Batch, list[str] | None, Mapping[str, Any]], list[str]]
) -> int:
    with Batch.open(options.name, options.home) as batch:
        keys = [_job(batch, key).key for key in options.keys] or None
        has_outputs = any(job.spec.outputs for job in batch.records)
    options.output = options.collect is None and has_outputs
    changes = {name: getattr(options, name) for name in ("cores", "ram", "gpus", "timeout", "pending_timeout")}
    with _opened(options, _connected_for(batch, options.url)) as (_, batch):
        opened = reopen(batch, keys, {name: value for name, value in changes.items() if value is not None})
        if not opened:
            raise PlanError(f"batch {options.name} has no job to run again")
        _say(f"{count(len(opened), 'job')} opened again")
        return _run_until_final(options, batch)


@contextlib.contextmanager
def _opened(options: argparse.Namespace, session: Session) -> Iterator[tuple[Session, Batch]]:
    with session, session.batch(
        options.name,
        launch=_launch(options),
        retry=_retry(options),
        collect=_collector(options),
        home=options.home,
    ) as batch:  # fmt: skip
        yield session, batch


def _run_until_final(options: argparse.Namespace, batch: Batch) -> int:
    try:
        report = batch.run(progress=not options.quiet, takeover=options.takeover, notify=options.notify)
    except BatchPaused as paused:
        _say(str(paused))
        report = batch.report()
    _print(options, report.as_dict(), str(report))
    return FINE if report.ok else SOME_FAILED


def _plan(options: argparse.Namespace) -> tuple[JobSpec | None, list[Mapping[str, Any]]]:
    """The spec and the fields of each job, checked before a batch is made; a spec of None resumes a batch unchanged."""
    if not options.command and not options.image:
        if not Home.of(options.name, options.home).exists():
            raise _empty(options)
        return None, []
    spec, rows = _spec(options), _rows(options)
    for secret in spec.secrets:
        secret.read()
    _records(options, spec, rows)
    return spec, rows


def _records(options: argparse.Namespace, spec: JobSpec, rows: list[Mapping[str, Any]]) -> list[JobRecord]:
    places, key = itertools.count(), options.key
    if options.replicas is not None:  # as Batch.replicas plans them
        spec = attrs.evolve(spec, env={**spec.env, "REPLICA_ID": "{replica}", "REPLICA_COUNT": "{replicas}"})
        key = "replica-{replica}"
    return list(records(spec, rows, key=key, place=lambda _: next(places)))


def _empty(options: argparse.Namespace) -> PlanError:
    return PlanError(f"batch {options.name!r} is empty: name what to run, for example: --image IMAGE -- COMMAND")


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
    """The fields of each job."""
    ways = ("each", "rows", "replicas")
    given = [f"--{way}" for way in ways if getattr(options, way) is not None]
    given += ["--grid or --range"] * bool(options.grid or options.range)
    if len(given) > 1:
        raise PlanError(f"{' and '.join(given)} cannot be combined: each of them says which jobs there are")
    if options.replicas is not None:
        return [{"replica": n, "replicas": options.replicas} for n in range(1, options.replicas + 1)]
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


def _preview(options: argparse.Namespace) -> int:
    jobs = _records(options, _spec(options), _rows(options))
    shown = "\n\n".join(explain.preview(job, launch_name="not launched") for job in jobs[:3])
    more = f"\n\n... and {len(jobs) - 3:,} more" if len(jobs) > 3 else ""
    _print(options, [{"key": job.key, "argv": job.filled.argv} for job in jobs], shown + more)
    return FINE


# -- looking ------------------------------------------------------------------------------------------------------


def _ls(options: argparse.Namespace) -> int:
    if options.name is not None:
        with Batch.open(options.name, options.home) as batch:
            rows = batch.to_rows()
        _print(options, rows, text_table(rows, _width()))
        return FINE
    found, table = _all_batches(options)
    _print(options, found, table)
    return FINE


def _all_batches(options: argparse.Namespace) -> tuple[list[dict[str, Any]], str]:
    """Return every batch as a row, and the table of them."""
    root = _root(options.home)
    if root.exists() and not root.is_dir():
        raise HomeError(f"{root} is not a directory; pass --home DIR, the directory of the batches")
    found = [_summary(name, options.home) for name in batches(options.home)]
    rows = [{**row, "state": _state(row, root)} for row in found]
    table = text_table(rows, _width(), ["batch", "jobs", "state", "driver"])
    return found, table or f"no batches in {root}"


def _summary(name: str, home: str | None) -> dict[str, Any]:
    """One batch as a row; a batch that cannot be read is listed with the error."""
    try:
        with Batch.open(name, home) as batch:
            return {"batch": name, "jobs": len(batch), "counts": _plain_counts(batch), "driver": batch.driven_by}
    except CanfarBatchError as error:
        return {"batch": name, "jobs": None, "counts": {}, "driver": None, "error": str(error)}


def _state(row: Mapping[str, Any], root: Path) -> str:
    error: str = row.get("error", "")
    # the directory is the same for all rows, and the reason matters more
    return error.replace(f"{root / row['batch']}/", "") or _counted(row["counts"])


def _root(home: str | None) -> Path:
    return Path(home or os.environ.get("CANFAR_BATCH_HOME") or "batches").absolute()


def _status(options: argparse.Namespace) -> int:
    with Batch.open(options.name, options.home) as batch:
        if options.key is not None:
            job = _job(batch, options.key)
            (row,) = [row for row in batch.to_rows() if row["key"] == job.key]
            _print(options, row, job.explain())
            return SOME_FAILED if job.state in GIVEN_UP else FINE
        report, driver = batch.report(), batch.driven_by
        data = {
            "name": batch.name, "home": str(batch.home), "platform": batch.address, "driver": driver,
            "done": batch.done, "ok": report.ok, "jobs": len(batch), "counts": _plain_counts(batch),
        }  # fmt: skip
        lines = [f"batch {batch.name}: {count(len(batch), 'job')} ({counts(batch.counts)})", f"home: {batch.home}"]
        if not batch.done:
            lines.append(f"run by {driver}" if driver else _no_driver(batch))
        elif report.failures:
            lines.append(f"next: fix the cause, then: {_prog()} retry {batch.name}")
        left = [job.record for job in batch if not job.state.final or job.failure is not None]
    if left:
        lines.append(overview(left, _width(), _SHOWN, now=report.made_at))
    _print(options, data, "\n".join(lines))
    return _code(report)


def _no_driver(batch: Batch) -> str:
    return f"no process runs it; to resume it: {_prog()} run {batch.name}"


def _plain_counts(batch: Batch) -> dict[str, int]:
    return {state.value: number for state, number in batch.counts.items()}


def _counted(states: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {state}" for state, number in states.items())


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
        return report, _no_driver(batch)


def _watch_all(options: argparse.Namespace) -> int:
    """Show the table of all batches whenever it changes, until no process runs one."""
    found, table = _all_batches(options)
    while any(row["driver"] for row in found):
        if sys.stderr.isatty():
            sys.stderr.write(f"\x1b[H\x1b[2J{table}\n")
        else:
            sys.stderr.write(f"{table}\n\n")
        sys.stderr.flush()
        shown = table
        while table == shown and any(row["driver"] for row in found):
            time.sleep(options.every)
            found, table = _all_batches(options)
    _print(options, found, table)
    return FINE


def _watch(options: argparse.Namespace) -> int:
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
        _say(hint)
    _print(options, report.as_dict(), str(report))
    return _code(report)


def _logs(options: argparse.Namespace) -> int:
    if options.failed:
        return _failed_logs(options)
    with Batch.open(options.name, options.home) as batch:
        job = _job(batch, options.key)
        number = options.attempt if options.attempt is not None else job.attempt
        if options.follow and not job.state.final:
            return _follow(batch, job, number, options.url)
        log = _log(batch, job, number, options.url, options.tail)
    if options.json:
        _print(options, {"key": job.key, "attempt": number, "log": log.decode(errors="replace")}, "")
    else:
        _print_bytes(log)
    return FINE


def _upload(options: argparse.Namespace) -> int:
    with Session.connect(options.url) as session:
        place = session.upload(options.source, options.target, progress=not options.json)
    _print(options, {"path": str(place)}, f"uploaded to {place}")
    return FINE


def _download(options: argparse.Namespace) -> int:
    with Session.connect(options.url) as session:
        place = session.download(options.source, options.target, progress=not options.json)
    _print(options, {"path": str(place)}, f"downloaded to {place}")
    return FINE


def _failed_logs(options: argparse.Namespace) -> int:
    """Print the end of each failed job's log, under a heading with its key and cause."""
    lines = _LOG_LINES if options.tail is None else options.tail
    with Batch.open(options.name, options.home) as batch:
        ends = []
        for job in batch.failed:
            saved = job.attempts[-1].log if job.attempts else None
            log = read_lines_from_end(saved, lines) if saved is not None and saved.exists() else b""
            ends.append((job, log))
    if options.json:
        data = [{"key": job.key, "attempt": job.attempt, "log": log.decode(errors="replace")} for job, log in ends]
        _print(options, data, "")
        return FINE
    for job, log in ends:
        cause = f": {job.failure.cause}" if job.failure is not None else ""
        sys.stdout.write(f"==> {job.key} (attempt {job.attempt}{cause}) <==\n")
        _print_bytes(log if log.endswith(b"\n") or not log else log + b"\n")
    return FINE


def _follow(batch: Batch, job: Job, number: int, url: str | None) -> int:
    """Print the lines of a running attempt as they come."""
    with _running_job(batch, job, number, url) as running:
        for line in running.follow():
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
    return FINE


def _log(batch: Batch, job: Job, number: int, url: str | None, lines: int | None) -> bytes:
    """The log of an attempt, or its last lines: the saved one, or from the platform while it runs."""
    saved = _attempt(job, number).log
    if saved is not None and saved.exists():
        return saved.read_bytes() if lines is None else read_lines_from_end(saved, lines)
    with _running_job(batch, job, number, url) as running:
        log = running.logs(encoding=None)
    return log if lines is None else b"".join(log.splitlines(keepends=True)[-lines or len(log) + 1 :])


def _attempt(job: Job, number: int) -> Attempt:
    found = next((attempt for attempt in job.attempts if attempt.number == number), None)
    if found is None:
        raise JobNotFound(f"job {job.key} has no attempt {number}; it has {len(job.attempts)}")
    return found


@contextlib.contextmanager
def _running_job(batch: Batch, job: Job, number: int, url: str | None) -> Iterator[Job]:
    """The running attempt of a job, with a connection to its platform."""
    chosen = _attempt(job, number)
    if chosen.ended or chosen.id is None:
        raise JobNotFound(f"no log of job {job.key}, attempt {number}, was saved")
    if batch.address == "local":
        raise JobNotFound(
            f"job {job.key} still runs on another process's platform; its log can be read when it has ended"
        )
    with Session.connect_for(batch, url) as session:
        yield session.job(chosen.id)


def _print_bytes(content: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(content)


def _failures(options: argparse.Namespace) -> int:
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
    table = text_table(data, _width(), ["key", "state", "attempt", "cause", "message"])
    _print(options, data, "\n\n".join(filter(None, (report.why(), table))) or "nothing failed")
    return SOME_FAILED if failed else FINE


def _report(options: argparse.Namespace) -> int:
    with Batch.open(options.name, options.home) as batch:
        report = batch.report()
    if options.html is None:
        _print(options, report.as_dict(), str(report))
    else:
        path = report.to_html(options.html or None)
        _print(options, {"path": str(path)}, str(path))
    return _code(report)


def _code(report: Report) -> int:
    return SOME_FAILED if report.failures or report.not_collected else FINE


# -- acting -------------------------------------------------------------------------------------------------------


def _cancel(options: argparse.Namespace) -> int:
    """Stop jobs: through the process that runs the batch, if there is one; the request is stored in either case."""
    with Batch.open(options.name, options.home) as batch:
        keys = [_job(batch, key).key for key in options.keys] or None
        driver = batch.driven_by
        if driver is not None:
            return _report_cancelled(options, batch.cancel(keys), f"{driver} runs the batch and stops them")
    try:
        with _connected_for(batch, options.url) as session, session.batch(
            options.name, home=options.home
        ) as batch:  # fmt: skip
            stopped = batch.cancel(keys, wait=not options.no_wait, timeout=options.timeout)
    except (CredentialError, PlatformError) as error:
        _say(f"the platform cannot be reached now, so the next run will stop the jobs: {error}")
        with Batch.open(options.name, options.home) as batch:
            batch.cancel(keys)
        return TROUBLE
    return _report_cancelled(options, stopped, "being stopped" if options.no_wait else "stopped")


def _rm(options: argparse.Namespace) -> int:
    """Delete the home of a batch none of whose jobs is active."""
    with Batch.open(options.name, options.home) as batch:
        home = batch.home
    with _connected_for(batch, None) as session:
        session.batch(options.name, home=options.home).delete()
    _print(options, {"deleted": str(home)}, f"deleted {home}")
    return FINE


def _connected_for(batch: Batch, url: str | None) -> Session:
    """Connect to the batch's platform; a local one lives as long as the session alone, so there it is a new one."""
    return Session.connect("local") if batch.address == "local" else Session.connect_for(batch, url)


def _report_cancelled(options: argparse.Namespace, keys: Sequence[str], outcome: str) -> int:
    text = f"{count(len(keys), 'job')}: {outcome}" if keys else "every job was final already"
    _print(options, {"cancelled": list(keys)}, text)
    return FINE


# -- pieces -------------------------------------------------------------------------------------------------------


def _job(batch: Batch, key: str | None) -> Job:
    """The job with this key, or with the only key that begins so; the only job if *key* is None.

    Raises:
        JobNotFound: No job matches, or more than one does.
    """
    listed = f"{_prog()} ls {batch.name} lists them"
    if key is None and len(batch) != 1:
        raise JobNotFound(f"batch {batch.name} has {count(len(batch), 'job')}: name one; {listed}")
    if key is not None and key in batch:
        return batch[key]
    keys = [job.key for job in batch]
    meant = [known for known in keys if known.startswith(key or "")]
    if len(meant) == 1:
        return batch[meant[0]]
    hint = did_you_mean(key or "", meant or keys, at_most=3, cutoff=0.0 if meant else 0.4)
    raise JobNotFound(f"batch {batch.name} has no job {key!r}; {hint or listed}")


def _print(options: argparse.Namespace, data: Any, text: str) -> None:
    sys.stdout.write(f"{json.dumps(data, indent=2, default=_plain) if options.json else text}\n")


def _plain(value: Any) -> str:
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _width() -> int:
    return shutil.get_terminal_size().columns
