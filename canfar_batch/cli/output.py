"""What commands print, and the exit codes."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from canfar_batch.views.report import Report

FINE, SOME_FAILED, TROUBLE, DETACHED = 0, 1, 2, 130  #: the exit codes

LOG_LINES = 20  #: lines shown of the end of a log, unless asked otherwise


def print_result(options: argparse.Namespace, data: Any, text: str) -> None:
    """Print a command's result: as JSON if asked, else the text."""
    sys.stdout.write(f"{json.dumps(data, indent=2, default=_plain) if options.json else text}\n")


def show_report(options: argparse.Namespace, report: Report) -> None:
    """Print the report on a batch, with the commands of the command line."""
    print_result(options, report.as_dict(), report.printed(f"{retry_command(report.name)} launches"))


def retry_command(name: str) -> str:
    """Return the command that launches the failed jobs of the batch *name* again."""
    return f"{program_name()} retry {shlex.quote(name)}"


def _plain(value: Any) -> str:
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def print_bytes(content: bytes) -> None:
    """Print bytes as they are."""
    sys.stdout.flush()
    sys.stdout.buffer.write(content)


def say(text: str) -> None:
    """Print a message on standard error, on one line."""
    sys.stderr.write(f"{' '.join(text.split())}\n")


def complain(text: str) -> int:
    """Print an error on standard error; return its exit code."""
    say(f"{program_name()}: error: {text}")
    return TROUBLE


def program_name() -> str:
    """Return the name by which the program was called, for advice."""
    called = Path(sys.argv[0]).name
    return "python -m canfar_batch" if called == "__main__.py" else called


def terminal_width() -> int:
    """Return the width of the terminal, in columns."""
    return shutil.get_terminal_size().columns


def exit_code(report: Report) -> int:
    """Return the exit code that fits a batch's report."""
    return SOME_FAILED if report.failures or report.not_collected else FINE
