"""Processes: starting a job's, keeping its output, and ending those that remain."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from canfar_batch.local import reaper

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DRAIN = 2.0  #: seconds at most for the rest of the output, should some stray hold it open


class StartError(Exception):
    """A container's process could not be started; the text is that of Kubernetes."""


class JobProcess:
    """The main process of a container, in a session of its own, its output on its way to a log.

    The output goes through a pipe, as in a container. A file would be simpler, but a script that writes to /dev/stderr
    would truncate it.

    Raises:
        StartError: The program does not exist, or it cannot be run.
    """

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], directory: Path, log: Path) -> None:
        log.touch()
        if not words:
            # there are no images here that would bring a command
            raise StartError(_start_error("no command specified"))
        output, entrance = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - running what users ask for is the purpose
                [word.encode() for word in words],
                stdin=subprocess.DEVNULL,
                stdout=entrance,
                stderr=entrance,
                cwd=directory,
                env={name.encode(): value.encode() for name, value in environment.items()},
                start_new_session=True,
            )
        except OSError as problem:
            os.close(output)
            raise StartError(_start_error(_reason(words[0], problem))) from problem
        finally:
            os.close(entrance)
        self._pump = threading.Thread(target=_copy, args=(output, log), name="local-platform-log", daemon=True)
        self._pump.start()

    @property
    def pid(self) -> int:
        """The process's id, which is also that of its session and its group."""
        return self._process.pid

    def wait(self) -> int:
        """Wait for its end; return the exit code as a shell does: for a signal, 128 plus its number."""
        code = self._process.wait()
        return code if code >= 0 else 128 - code

    def drain(self) -> None:
        """Wait until all its output is in the log."""
        self._pump.join(_DRAIN)


def search_path() -> str:
    """Return a PATH with this environment's `python` first, then the user's own tools as in the terminal."""
    own = [entry for entry in os.environ.get("PATH", "").split(os.pathsep) if entry.startswith("/")]
    entries = [str(Path(sys.executable).parent), *own, *_SYSTEM_PATH.split(":")]
    return os.pathsep.join(dict.fromkeys(entries))


def _copy(source: int, log: Path) -> None:
    try:
        with log.open("ab", buffering=0) as file:
            while part := os.read(source, 1 << 16):
                file.write(part)
    finally:
        os.close(source)


def _reason(program: str, problem: OSError) -> str:
    if problem.errno == errno.E2BIG:
        return f"exec {program}: argument list too long"
    if problem.errno == errno.ENOEXEC:
        return f"exec {program}: exec format error"
    if problem.errno == errno.ENOENT and "/" in program:
        return f'exec: "{program}": stat {program}: no such file or directory'
    if problem.errno == errno.ENOENT or not program:
        return f'exec: "{program}": executable file not found in $PATH'
    return f'exec: "{program}": {os.strerror(problem.errno or 0).lower()}'


def _start_error(reason: str) -> str:
    return (
        "Error: failed to create containerd task: failed to create shim task: OCI runtime create failed: "
        f"runc create failed: unable to start container process: error during container init: {reason}"
    )


class Reaper:
    """The child process that ends every remaining process group after this process has ended."""

    def __init__(self, mark: str, scratch: Path | None) -> None:
        command = [sys.executable, "-I", "-S", reaper.__file__, str(os.getpid()), mark, str(scratch or "")]
        self._process = subprocess.Popen(  # noqa: S603 - our own file
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            bufsize=0,
        )

    def begins(self, group: int) -> None:
        """Report that a process group has begun."""
        self._report(f"+{group}\n")

    def ends(self, group: int) -> None:
        """Report that a process group has ended."""
        self._report(f"-{group}\n")

    def stop(self) -> None:
        """Let it do its work, and wait for it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _report(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it was killed; the jobs run on without it
            self._process.stdin.write(line.encode())
