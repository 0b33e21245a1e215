"""Runs commands, in this process and in others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from waiting import until

from canfar_batch import cli
from canfar_batch.local import LocalPlatform

IMAGE = ["--image", "skaha/astroml:latest"]
ON_THIS_MACHINE = ["--url", "local", "--quiet"]


@attrs.frozen
class Ended:
    """A command's exit code and output."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Ended]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs one command in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("CANFAR_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", ["canfar-batch"])

    def run(*words: object) -> Ended:
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else -1
        return Ended(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a batch that ran: two files were counted, and one could not be."""
    folder = tmp_path_factory.mktemp("ran")
    for name, text in (("a", "1\n"), ("b", "1\n2\n")):
        (folder / f"{name}.txt").write_text(text)
    (folder / "c.txt").mkdir()
    words = [*IMAGE, *ON_THIS_MACHINE, "--each", "path=*.txt", "--key", "{path.stem}", "--output", "{path.stem}.n"]
    done = process(folder, "run", "count", *words, "--shell", "--", "wc -l < {path} > {path.stem}.n")
    assert done.communicate(timeout=60)[1] == ""
    assert done.returncode == cli.SOME_FAILED
    return folder


def process(folder: Path, *words: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """The command as a process of its own. Its home may be in a temporary folder, which is refused otherwise."""
    start = (
        "import sys; from canfar_batch import cli; from canfar_batch.store import home; "
        "home.Home.refuse_if_fleeting = lambda self: None; "
        "sys.argv[0] = 'canfar-batch'; sys.exit(cli.main())"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CANFAR_")}
    return subprocess.Popen(
        [sys.executable, "-c", start, *words],
        cwd=folder, env={**clean, **(env or {})}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.fixture
def there(ran: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs one command where a batch ran, without any connection."""
    monkeypatch.chdir(ran)
    monkeypatch.setattr("canfar_batch.session.Session.connect", lambda *_: pytest.fail("this needs no connection"))
    return command


@pytest.fixture
def platform() -> Iterator[LocalPlatform]:
    """A platform that outlives the command."""
    with LocalPlatform() as platform:
        yield platform


@pytest.fixture
def running(
    tmp_path: Path, platform: LocalPlatform, command: Command, monkeypatch: pytest.MonkeyPatch
) -> subprocess.Popen[str]:
    """A batch of two jobs that run until they are stopped, and the process that drives it."""
    monkeypatch.setenv("CANFAR_URL", platform.url)
    monkeypatch.setenv("CANFAR_TOKEN", platform.token)
    monkeypatch.setattr("canfar_batch.store.home.Home.refuse_if_fleeting", lambda self: None)
    driver = process(
        tmp_path, "run", "slow", *IMAGE, "--grid", "n=1,2", "--", "sh", "-c", "echo begun {n}; exec sleep 600",
        env={"CANFAR_URL": platform.url, "CANFAR_TOKEN": platform.token},
    )  # fmt: skip
    until(lambda: '"running": 2' in command("status", "slow", "--json").out, "the jobs never ran")
    yield driver
    driver.kill()
    driver.communicate()
