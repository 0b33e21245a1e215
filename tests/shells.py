"""The shells that stand for a container's /bin/sh, and a way to start a payload in them like the platform."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from canfar_batch.payload.encode import Payload

SHELLS = {"dash": ("dash",), "bash": ("bash",), "busybox": ("busybox", "sh")}
PRESENT = {name: words for name, words in SHELLS.items() if shutil.which(words[0])}

#: Variables that the platform sets in every container after the user's own (skaha-api §2.3).
PLATFORMS = {
    "skaha_hostname": "ws-uv.canfar.net",
    "skaha_username": "someone",
    "skaha_sessionid": "abcd1234",
    "OMP_NUM_THREADS": "1",
}

each_shell = pytest.mark.parametrize(
    "shell",
    [
        pytest.param(
            words, id=name, marks=() if name in PRESENT else pytest.mark.skip(reason=f"there is no {name} here")
        )
        for name, words in SHELLS.items()
    ],
)


def container_argv(payload: Payload, shell: Sequence[str]) -> list[str]:
    """Return the words with which the container starts, with *shell* in place of /bin/sh."""
    words = [payload.cmd, *(payload.args.split(" ") if payload.args is not None else ())]
    return [*shell, *words[1:]] if words[0] == "/bin/sh" else words


def container_env(home: Path, **more: str) -> dict[str, str]:
    """Return the environment of a container's first process."""
    return {"PATH": os.environ["PATH"], **PLATFORMS, "HOME": str(home), "PWD": str(home), **more}


def start(
    payload: Payload, shell: Sequence[str], home: Path, env: Mapping[str, str] | None = None, **popen: object
) -> subprocess.Popen[bytes]:
    """Start a container that runs *payload*; its home is *home*."""
    streams: dict[str, object] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    options = {"cwd": home, **streams, **popen}
    return subprocess.Popen(container_argv(payload, shell), env={**container_env(home), **(env or {})}, **options)  # type: ignore[call-overload, no-any-return]


def marked(mark: str) -> list[int]:
    """Return the processes that carry *mark* in their environment."""
    found = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            environ = Path("/proc", process, "environ").read_bytes()
        except OSError:
            continue  # it ended meanwhile, or is another user's
        if f"MARK={mark}".encode() in environ.split(b"\0"):
            found.append(int(process))
    return found
