"""Run a batch by a process that goes on when the terminal is closed."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from canfar_batch.batch import Batch
from canfar_batch.cli.output import FINE, LOG_LINES, SOME_FAILED, complain, print_result, program_name
from canfar_batch.cli.plan import preview, read_plan
from canfar_batch.cli.run import planned_batch
from canfar_batch.errors import BatchBusy
from canfar_batch.store.log_files import read_lines_from_end

_START_TIME = 30.0  # seconds to wait for a process in the background to run its batch


def start(options: argparse.Namespace) -> int:
    """Plan the batch here, so that mistakes are seen at once, and let a process of its own run it."""
    if options.preview:
        return preview(options)
    with planned_batch(options, read_plan(options)) as batch:
        if batch.driven_by is not None and not options.takeover:
            raise BatchBusy(
                f"batch {batch.name} is being run by {batch.driven_by}; {program_name()} watch {batch.name} shows it"
            )
        log = batch.home / "run.log"
    given = options.words[options.words.index("start") + 1 :]
    end = given.index("--") if "--" in given else len(given)
    pid = _spawn(["run", "--quiet", *(word for word in given[:end] if word != "--json"), *given[end:]], log)
    if (code := _ended_early(pid, options)) not in (None, FINE, SOME_FAILED):
        end = read_lines_from_end(log, LOG_LINES).decode(errors="replace")
        return complain(f"process {pid} ended with exit code {code}; the end of {log}: {end}")
    data = {"name": options.name, "pid": pid, "log": str(log)}
    again = f"{program_name()} watch {options.name}"
    print_result(
        options, data, f"process {pid} runs batch {options.name}; to see its progress: {again}\nits output: {log}"
    )
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
