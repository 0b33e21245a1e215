"""The commands and their arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from canfar_batch._version import __version__
from canfar_batch.cli.background import start
from canfar_batch.cli.cancel import cancel, delete
from canfar_batch.cli.completion import add_completer, complete_keys, complete_names
from canfar_batch.cli.logs import show_logs
from canfar_batch.cli.output import LOG_LINES, program_name
from canfar_batch.cli.run import rerun, retry_failed, run
from canfar_batch.cli.status import list_batches, list_failures, print_report, show_status
from canfar_batch.cli.transfers import download, upload
from canfar_batch.cli.values import number_above, number_range, pair, seconds, whole_number
from canfar_batch.cli.watch import watch

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


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog=program_name(), description="Batch jobs on the CANFAR Science Platform.", epilog=_EPILOG
    )
    made.add_argument("--version", action="version", version=f"canfar_batch {__version__}")
    commands = made.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, act: Callable[[argparse.Namespace], int], does: str, **more: Any) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=does, epilog=_EPILOG, **{"description": does, **more})
        added.add_argument("--json", action="store_true", help="print JSON, for other programs")
        added.add_argument(
            "--home", metavar="DIR", help="the directory of the batches (default: $CANFAR_BATCH_HOME, else ./batches)"
        )
        added.set_defaults(act=act, takes_command=False)
        return added

    raw = {"formatter_class": argparse.RawDescriptionHelpFormatter, "description": _RUN}
    _add_run(command("run", run, "plan a batch and run it, or resume one", **raw))
    raw["description"] = _START
    _add_run(command("start", start, "do as run does, in the background: the terminal may be closed", **raw))
    _add_retry(command("retry", retry_failed, "launch failed jobs again, and run the batch until all are final"))
    _add_rerun(command("rerun", rerun, "launch final jobs again, also those that succeeded, and run the batch"))
    _add_ls(command("ls", list_batches, "list the batches, or the jobs of one"))
    _add_status(command("status", show_status, "show the state of a batch, or explain one of its jobs"))
    _add_watch(
        command("watch", watch, "show the progress of a batch that another process runs, until all jobs are final")
    )
    _add_logs(command("logs", show_logs, "print what a job printed"))
    _add_transfer(
        command("upload", upload, "bring files to the platform"),
        source="a file, folder or pattern here",
        target="where to: /arc/...",
    )
    _add_transfer(
        command("download", download, "bring files from the platform"),
        source="what: a path or pattern, /arc/...",
        target="where to, here",
    )
    _add_name(command("failures", list_failures, "list the failed jobs: why they failed, and what to do"))
    _add_cancel(command("cancel", cancel, "stop jobs, and wait until the platform no longer shows them"))
    _add_name(command("rm", delete, "delete a batch's records, logs and receipts; outputs elsewhere stay"))
    _add_report(command("report", print_report, "print the report on a batch: causes, times, core-hours, memory"))
    return made


def _add_run(run: argparse.ArgumentParser) -> None:
    run.set_defaults(takes_command=True)
    run.usage = "%(prog)s [options] NAME --image IMAGE [--each FIELD=GLOB | --rows TABLE | ...] -- COMMAND ..."
    _add_name(run, "the batch; an existing one is resumed")
    what = run.add_argument_group("what to run")
    what.add_argument("--image", help="the container image, for example skaha/astroml:latest")
    what.add_argument("--cores", type=float, metavar="N", help="cores for each job (default: the platform's choice)")
    what.add_argument("--ram", type=float, metavar="GIB", help="memory for each job (default: the platform's choice)")
    what.add_argument("--gpus", type=int, metavar="N", help="GPUs for each job")
    what.add_argument(
        "--env", action="append", default=[], type=pair, metavar="NAME=VALUE", help="set a variable; repeatable"
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
    jobs.add_argument("--each", type=pair, metavar="FIELD=GLOB", help="a job for each file: --each path='raw/*.fits'")
    jobs.add_argument(
        "--rows", metavar="TABLE", help="a job for each row of a CSV file, or of a file that astropy reads"
    )
    jobs.add_argument(
        "--grid", action="append", default=[], type=pair, metavar="FIELD=A,B,...",
        help="a job for each combination of values; repeatable",
    )  # fmt: skip
    jobs.add_argument(
        "--range", action="append", default=[], type=number_range, metavar="FIELD=FIRST:END[:STEP]",
        help="a job for each whole number from FIRST to before END; combines with --grid; repeatable",
    )  # fmt: skip
    jobs.add_argument(
        "--replicas", type=whole_number(1), metavar="N", help="N jobs that differ in REPLICA_ID, from 1 to N, alone"
    )
    jobs.add_argument("--key", metavar="TEMPLATE", help="how to name the jobs, for example '{path.stem}'")
    jobs.add_argument(
        "--missing-outputs", action="store_true", help="launch jobs again that succeeded and whose outputs were deleted"
    )
    jobs.add_argument("--preview", action="store_true", help="print what would run; send and store nothing")
    _add_how(run)


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


def _add_ls(ls: argparse.ArgumentParser) -> None:
    _add_name(ls, "the batch whose jobs to list (default: all batches)", nargs="?")


def _add_status(status: argparse.ArgumentParser) -> None:
    _add_name(status)
    _add_key(status, "a job: what happened to it, and what to do")


def _add_watch(watch: argparse.ArgumentParser) -> None:
    _add_name(watch, "the batch (default: all batches, until no process runs one)", nargs="?")
    watch.add_argument(
        "--every", type=number_above(0), default=2.0, metavar="S",
        help="seconds between two updates (default: %(default)g)",
    )  # fmt: skip


def _add_logs(logs: argparse.ArgumentParser) -> None:
    _add_name(logs)
    _add_key(logs, "the job; not needed if there is only one")
    logs.add_argument("--attempt", type=int, metavar="N", help="which attempt, from 1 (default: the newest)")
    logs.add_argument("--tail", type=whole_number(0), metavar="N", help="only the last N lines")
    logs.add_argument("-f", "--follow", action="store_true", help="print lines as they come, until the job ends")
    logs.add_argument(
        "--failed", action="store_true", help=f"the end of every failed job's log (default: --tail {LOG_LINES})"
    )
    _add_connection(logs)


def _add_transfer(transfer: argparse.ArgumentParser, *, source: str, target: str) -> None:
    transfer.add_argument("source", metavar="FILENAME", help=source)
    transfer.add_argument("target", metavar="TARGET", help=f"{target}; a folder if it ends in a slash")
    _add_connection(transfer)


def _add_cancel(cancel: argparse.ArgumentParser) -> None:
    _add_name(cancel)
    _add_keys(cancel, "the jobs (default: all that are not final)")
    cancel.add_argument(
        "--timeout", type=seconds, default=300.0, metavar="S", help="seconds to wait at most (default: %(default)g)"
    )
    cancel.add_argument("--no-wait", action="store_true", help="do not wait")
    _add_connection(cancel)


def _add_report(report: argparse.ArgumentParser) -> None:
    report.add_argument(
        "--html", nargs="?", const="", metavar="PATH", help="write it as a web page (default: report.html in the home)"
    )
    _add_name(report)


def _add_changes(command: argparse.ArgumentParser) -> None:
    changed = command.add_argument_group("changed resources")
    changed.add_argument("--cores", type=int, metavar="N", help="cores for each job")
    changed.add_argument("--ram", type=int, metavar="GIB", help="memory for each job")
    changed.add_argument("--gpus", type=int, metavar="N", help="GPUs for each job")
    changed.add_argument("--timeout", type=number_above(0), metavar="S", help="seconds that a job may run")
    changed.add_argument(
        "--pending-timeout", type=number_above(0), metavar="S", help="seconds that a job may wait to start"
    )


def _add_how(command: argparse.ArgumentParser) -> None:
    how = command.add_argument_group("how")
    pace = how.add_mutually_exclusive_group()
    pace.add_argument(
        "--window", type=whole_number(1), default=16, metavar="N", help="jobs at once (default: %(default)s)"
    )
    pace.add_argument(
        "--chunk", type=whole_number(1), metavar="N", help="N jobs, wait for all of them, then the next N"
    )
    how.add_argument("--rate", type=number_above(0), metavar="N", help="launch at most N jobs per second")
    how.add_argument(
        "--retry", type=whole_number(0), default=2, metavar="N",
        help="further attempts after failures of the platform (default: %(default)s)",
    )  # fmt: skip
    how.add_argument("--retry-any", action="store_true", help="also after any exit code other than 0")
    how.add_argument(
        "--grow-ram", type=number_above(1), metavar="X", help="retry what ran out of memory with X times more"
    )
    how.add_argument(
        "--collect", choices=("files", "json", "logs"),
        help="a job's result (default: files if the jobs have outputs, else logs)",
    )  # fmt: skip
    how.add_argument(
        "--input", dest="inputs", action="append", default=[], metavar="PATTERN",
        help="a file, folder or pattern that jobs need, brought to the platform unless containers see it",
    )  # fmt: skip
    how.add_argument("--download", metavar="FOLDER", help="bring outputs into FOLDER if this machine does not see them")
    how.add_argument(
        "--notify", metavar="COMMAND", help="a shell command to run at the end, and when the batch is paused"
    )
    how.add_argument(
        "--long-wait", type=number_above(0), metavar="S",
        help="report a job that has not begun after S seconds: it may wait for ever (default: 3600)",
    )  # fmt: skip
    how.add_argument("--takeover", action="store_true", help="run it even if another process seems to")
    how.add_argument("--quiet", action="store_true", help="do not show progress")
    _add_connection(command)


def _add_name(command: argparse.ArgumentParser, text: str = "the batch", **more: Any) -> None:
    add_completer(command.add_argument("name", metavar="NAME", help=text, **more), complete_names)


def _add_key(command: argparse.ArgumentParser, text: str) -> None:
    add_completer(command.add_argument("key", nargs="?", metavar="KEY", help=text), complete_keys)


def _add_keys(command: argparse.ArgumentParser, text: str) -> None:
    add_completer(command.add_argument("keys", nargs="*", metavar="KEY", help=text), complete_keys)


def _add_connection(command: argparse.ArgumentParser) -> None:
    command.add_argument("--url", metavar="URL", help="the platform; 'local' runs the jobs on this machine")
