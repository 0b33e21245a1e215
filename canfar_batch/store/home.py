"""A batch's home: the directory in which it keeps everything, and the places in which that directory may be."""

from __future__ import annotations

import functools
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import attrs

from canfar_batch.errors import HomeError, PlanError
from canfar_batch.fields.keys import file_name
from canfar_batch.payload.calls import outcome_path
from canfar_batch.store.files import check_system, file_errors, open_private, probe_locking

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_name(name: str) -> str:
    """Return *name* if it can be the name of a batch.

    Raises:
        PlanError: It cannot; the message says why.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise PlanError(
            f"{name!r} cannot be a batch's name: use 1 to 64 letters, digits, dots, underscores and hyphens, "
            "beginning with a letter or digit"
        )
    return name


@attrs.frozen(slots=False)  # paths that are asked for at each step are kept
class Home:
    """The directory of one batch."""

    path: Path

    @classmethod
    def of(cls, name: str, root: str | os.PathLike[str] | None = None) -> Home:
        """Return the home of the batch *name*: `<root>/<name>`.

        The default of *root* is the environment variable `CANFAR_BATCH_HOME`, or else `batches` in the working
        directory.
        """
        return cls(_root(root) / check_name(name))

    @functools.cached_property
    def prefix(self) -> str:
        """What the paths of all files in it begin with."""
        return f"{self.path}{os.sep}"

    @functools.cached_property
    def ledger(self) -> Path:
        """The ledger's SQLite file."""
        return self.path / "ledger.db"

    @functools.cached_property
    def logs(self) -> Path:
        """The directory for the logs of ended attempts."""
        return self.path / "logs"

    @functools.cached_property
    def receipts(self) -> Path:
        """The directory in which containers that see the home leave their receipts."""
        return self.path / "receipts"

    @property
    def inputs(self) -> Path:
        """The file that says which inputs were brought to which folder on the platform."""
        return self.path / "inputs.json"

    @property
    def functions(self) -> Path:
        """The directory of the functions that jobs call, and of their larger arguments."""
        return self.path / "functions"

    @property
    def running(self) -> Path:
        """The directory in which bundles that see the home keep the logs of their tasks, until the driver saves them.

        The driver leaves there what bundles read: requests to stop a task, and commands too large to be sent.
        """
        return self.path / "running"

    def running_log(self, run_name: str) -> Path:
        """Return the path of the log of a task in a bundle, while the task runs."""
        return self.running / run_name

    def stop_request(self, run_name: str) -> Path:
        """Return the path of the file that asks a bundle to stop a task."""
        return self.running / f"{run_name}.stop"

    def script(self, launch_name: str) -> Path:
        """Return the path of a bundle's commands that are too large to be sent."""
        return self.running / f"{launch_name}.sh"

    @property
    def token(self) -> Path:
        """The file that containers read to detect that they share the driver's storage."""
        return self.path / "token"

    def exists(self) -> bool:
        """Return whether there is a batch in this directory.

        Raises:
            HomeError: The directory cannot be searched.
        """
        try:
            return self.ledger.is_file()
        except OSError as error:
            raise HomeError(f"{self.ledger} cannot be looked at: {error.strerror or error}") from error

    def log(self, key: str, attempt: int) -> Path:
        """Return the path for the log of one attempt."""
        return self.logs / f"{file_name(key)}.{attempt}.log"

    def events(self, key: str, attempt: int) -> Path:
        """Return the path for the platform's events about one attempt."""
        return self.logs / f"{file_name(key)}.{attempt}.events"

    def result(self, key: str, attempt: int) -> Path:
        """Return the path for the outcome of one attempt to call a function."""
        return outcome_path(self.path, file_name(key), attempt)

    def stored(self, place: Path) -> str:
        """Return *place* as the ledger stores it: relative to the home if one contains the other.

        Both may then be moved together.
        """
        near = self.path.is_relative_to(place) or place.is_relative_to(self.path)
        return os.path.relpath(place, self.path) if near else str(place)

    def restored(self, text: str) -> Path:
        """Return the path that `stored` wrote, seen from the home's present directory."""
        return Path(os.path.normpath(self.path / text))

    def prepare(self) -> None:
        """Create the directories and an empty ledger file, all private to the user, unless they exist.

        Raises:
            HomeError: They cannot be created, or the disk or the system has no working file locks.
        """
        check_system()
        with file_errors(self.path):
            for directory in (self.path, self.logs, self.receipts, self.running):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe_locking(self.path)
        open_private(self.ledger)

    @property
    def fleeting(self) -> str | None:
        """Why the home will not last, as a sentence; None if nothing suggests that."""
        for place in fleeting_places():
            if self.path.is_relative_to(place):
                return (
                    f"{place}, which holds the batch's home {self.path}, is emptied without notice when a container or "
                    "the machine stops"
                )
        return None

    def refuse_if_fleeting(self) -> None:
        """Refuse a directory that is emptied when a container or the machine stops.

        Raises:
            HomeError: The home is in such a place.
        """
        if self.fleeting:
            raise HomeError(
                f"{self.fleeting}; work in a directory that stays (on CANFAR: under /arc), or name one with "
                "CANFAR_BATCH_HOME or home=, which may also name this one if you want it all the same"
            )


def named_in_environment() -> bool:
    """Return whether `CANFAR_BATCH_HOME` names the directory of the batches."""
    return bool(os.environ.get("CANFAR_BATCH_HOME"))


def _root(root: str | os.PathLike[str] | None) -> Path:
    return Path(root or os.environ.get("CANFAR_BATCH_HOME") or "batches").expanduser().absolute()


def fleeting_places() -> list[Path]:
    """Return the directories that are emptied when a container or the machine stops."""
    return [Path(place) for place in ("/scratch", "/tmp", "/var/tmp", "/dev/shm", tempfile.gettempdir())]  # noqa: S108


def batches(root: str | os.PathLike[str] | None = None) -> Mapping[str, Home]:
    """Return the homes in *root* by name, with those that cannot be searched.

    The default of *root* is the same as for `Home.of`.

    Raises:
        HomeError: *root* cannot be read.
    """
    place = _root(root)
    if not place.is_dir():
        return {}
    try:
        found = [Home(path) for path in sorted(place.iterdir()) if _NAME.fullmatch(path.name)]
    except OSError as error:
        raise HomeError(f"{place} cannot be searched for batches: {error.strerror or error}") from error
    return {home.path.name: home for home in found if _may_exist(home)}


def _may_exist(home: Home) -> bool:
    try:
        return home.exists()
    except HomeError:
        return True  # opening it explains why it cannot be read
