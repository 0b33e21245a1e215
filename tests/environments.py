"""Virtual environments with other people's programs, each made once and kept in pytest's cache."""

import fcntl
import subprocess
import sys
import venv
from pathlib import Path

import pytest

INSTALL_TIMEOUT = 240


def environment_with(package: str, request: pytest.FixtureRequest, factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the programs of an environment with *package*; skip the tests if it cannot be made."""
    cache = getattr(request.config, "cache", None)
    base = cache.mkdir(f"with-{package}") if cache else factory.mktemp(package)
    home = Path(base) / f"python{sys.version_info.major}.{sys.version_info.minor}"
    with (Path(base) / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test processes that run side by side share the environment
        if not (home / "ready").exists():
            _install(package, home)
    return home / "bin"


def _install(package: str, home: Path) -> None:
    venv.EnvBuilder(with_pip=True, clear=True).create(home)
    command = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{package} was not installed in time: is there a network?")
    if done.returncode:
        pytest.skip(f"{package} cannot be installed here: {done.stderr.strip().splitlines()[-1:]}")
    (home / "ready").touch()
