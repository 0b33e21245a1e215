"""A batch's home: the one directory in which it keeps everything, and where that directory may be."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import attrs

from canfar_batch.errors import HomeError, PlanError
from canfar_batch.store.files import file_errors

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_name(name: str) -> str:
    """*name*, if a batch may be called so.

    Raises:
        PlanError: It may not, and why.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise PlanError(
            f"{name!r} cannot be a batch's name: use 1 to 64 letters, digits, dots, underscores and hyphens, "
            "beginning with a letter or digit"
        )
    return name


@attrs.frozen
class Home:
    """The directory of one batch."""

    path: Path

    @classmethod
    def of(cls, name: str, root: str | os.PathLike[str] | None = None) -> Home:
        """The home of the batch *name*: `<root>/<name>`, and `batches/<name>` where no root is given.

        The environment variable `CANFAR_BATCH_HOME` stands in for a root that is not given.
        """
        chosen = root or os.environ.get("CANFAR_BATCH_HOME") or "batches"
        return cls(Path(chosen).expanduser().absolute() / check_name(name))

    @property
    def ledger(self) -> Path:
        """The ledger's SQLite file."""
        return self.path / "ledger.db"

    @property
    def logs(self) -> Path:
        """Where the logs of ended attempts are kept."""
        return self.path / "logs"

    @property
    def receipts(self) -> Path:
        """Where containers that see the home leave their receipts."""
        return self.path / "receipts"

    @property
    def token(self) -> Path:
        """The file by which a container knows that it sees the same storage as the driver."""
        return self.path / "token"

    def exists(self) -> bool:
        """True where a batch lives here.

        Raises:
            HomeError: One cannot look.
        """
        try:
            return self.ledger.is_file()
        except OSError as error:
            raise HomeError(f"{self.ledger} cannot be looked at: {error.strerror or error}") from error

    def log(self, key: str, attempt: int) -> Path:
        """Where the log of one attempt is kept."""
        return self.logs / f"{key}.{attempt}.log"

    def events(self, key: str, attempt: int) -> Path:
        """Where the platform's events about one attempt are kept."""
        return self.logs / f"{key}.{attempt}.events"

    def stored(self, place: Path) -> str:
        """*place* as the ledger keeps it: from the home where one lies in the other, so that both may be moved."""
        near = self.path.is_relative_to(place) or place.is_relative_to(self.path)
        return os.path.relpath(place, self.path) if near else str(place)

    def restored(self, text: str) -> Path:
        """The place that `stored` wrote, as the home lies now."""
        return Path(os.path.normpath(self.path / text))

    def make(self) -> None:
        """Make the directories, for the user's eyes only.

        Raises:
            HomeError: They cannot be made.
        """
        with file_errors(self.path):
            for directory in (self.path, self.logs, self.receipts):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def refuse_if_fleeting(self) -> None:
        """Refuse a place that is emptied when a container or the machine stops.

        Raises:
            HomeError: The home is below such a place.
        """
        for place in _fleeting():
            if self.path.is_relative_to(place):
                raise HomeError(
                    f"the batch would live in {self.path}, and {place} is emptied behind your back; work in a "
                    "directory that stays (on CANFAR: under /arc), or set CANFAR_BATCH_HOME or home= to one"
                )


def _fleeting() -> list[Path]:
    return [Path(place) for place in ("/scratch", "/tmp", "/var/tmp", "/dev/shm", tempfile.gettempdir())]  # noqa: S108


def batches(root: str | os.PathLike[str] | None = None) -> Mapping[str, Home]:
    """The homes below *root*, by name; also those that one cannot look into.

    Raises:
        HomeError: *root* cannot be read.
    """
    place = Path(root or os.environ.get("CANFAR_BATCH_HOME") or "batches").expanduser().absolute()
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
        return True  # whoever opens it is told why it cannot be read
