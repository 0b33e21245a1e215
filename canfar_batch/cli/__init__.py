"""The command line: plan, run, watch and inspect batches without writing Python."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Sequence

from canfar_batch.cli.arguments import parser
from canfar_batch.cli.completion import answer_shell
from canfar_batch.cli.output import DETACHED, FINE, SOME_FAILED, TROUBLE, complain, say
from canfar_batch.errors import CanfarBatchError, Detached

__all__ = ["DETACHED", "FINE", "SOME_FAILED", "TROUBLE", "main", "parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out one command and return the process's exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # characters that the terminal lacks are not an error
            stream.reconfigure(errors="backslashreplace")
    made = parser()
    answer_shell(made)
    dashes = words.index("--") if "--" in words else len(words)
    options = made.parse_args(words[:dashes])
    options.command, options.words = words[dashes + 1 :], words
    if options.command and not options.takes_command:
        return complain("only run and start take a command after --")
    try:
        code: int = options.act(options)
        sys.stdout.flush()
    except Detached as detached:
        say(str(detached))
        return DETACHED
    except KeyboardInterrupt:
        return DETACHED
    except CanfarBatchError as error:
        return complain(str(error))
    except BrokenPipeError:  # the reader, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return code
