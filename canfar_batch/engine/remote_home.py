"""A batch's folder on the platform's storage, in the place of its home, for a driver whose files no container sees."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from pathlib import Path

import attrs

from canfar_batch.errors import NotSent, PlatformError, StorageError, TransferDamaged
from canfar_batch.fields.keys import file_name
from canfar_batch.payload import receipts
from canfar_batch.payload.calls import Outcome, outcome_path
from canfar_batch.protocols import Platform, RemoteStorage, storage_of
from canfar_batch.records import JobRecord
from canfar_batch.store.files import file_errors, make_folder, write_file
from canfar_batch.store.home import Home

PATIENCE = 60.0  #: seconds at most to prepare the folder, at the start of a run
_FOLDER = ".canfar_batch"  #: in the user's home on the storage


@attrs.frozen
class RemoteHome:
    """A folder on the storage: containers find functions and requests in it, and leave receipts and outcomes there."""

    storage: RemoteStorage
    folder: str  #: as containers see it
    home: str  #: the user's home, as containers see it
    _brought: dict[str, threading.Lock] = attrs.field(factory=dict, init=False, repr=False)  # on their way
    _whole: set[str] = attrs.field(factory=set, init=False, repr=False)  # those that are there

    @classmethod
    def prepare(cls, platform: Platform, token: str) -> RemoteHome:
        """Make the folder of the batch that has this *token*.

        Raises:
            CanfarBatchError: The storage cannot be used; the message says why.
        """
        storage = storage_of(platform)
        if storage is None or re.fullmatch(r"[A-Za-z0-9_-]{8,}", token) is None:
            raise StorageError("this platform has no storage that can be reached from here")
        with platform.within(PATIENCE):
            if platform.user is None:
                platform.limits()  # any answer names the user
            user = platform.user or ""
            if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", user) is None:
                raise StorageError("your home on the storage is not known, since the platform does not name you")
            home = f"/arc/home/{user}"
            folder = f"{home}/{_FOLDER}/{token[:12]}"
            storage.write(f"{folder}/token", f"{token}\n".encode())
        return cls(storage, folder, home)

    def inputs_of(self, name: str, token: str) -> str:
        """Return the folder of a batch's inputs if the user names none: it is seen, unlike that of the receipts."""
        return f"{self.home}/canfar_batch/{name}-{token[:6]}"

    def fetch(self, job: JobRecord, home: Home) -> None:
        """Copy the receipts of the newest attempt into *home*, as far as they are there.

        Raises:
            CanfarBatchError: The storage cannot be asked now.
        """
        name, number = file_name(job.key), job.attempts[-1].number
        for there, here in zip(
            receipts.receipt_paths(self.folder, name, number),
            receipts.receipt_paths(str(home.path), name, number),
            strict=True,
        ):
            try:
                data = self.storage.read(there)
            except FileNotFoundError:
                continue
            write_file(Path(here), data)

    def fetch_ends(self, jobs: Iterable[JobRecord], home: Home) -> None:
        """Copy the receipts of those *jobs* into *home* whose newest attempt has reported its end since.

        Raises:
            CanfarBatchError: The storage cannot be asked now.
        """
        there = self.reported()
        for job in jobs:
            paths = receipts.receipt_paths(str(home.path), file_name(job.key), job.attempts[-1].number)
            if Path(paths[1]).name in there and not Path(paths[1]).exists():
                self.fetch(job, home)

    def reported(self) -> frozenset[str]:
        """Return the names of the receipts that are there.

        Raises:
            CanfarBatchError: The storage cannot be asked now.
        """
        return frozenset(self.storage.contents(f"{self.folder}/receipts"))

    def bring_functions(self, names: Iterable[str], home: Home) -> None:
        """Bring files of *home*'s functions there, unless that was done. Safe in many threads.

        Raises:
            NotSent: The storage does not answer now.
            StorageError: It cannot keep them.
        """
        for name in names:
            with self._brought.setdefault(name, threading.Lock()):
                if name in self._whole:
                    continue
                try:
                    self.storage.send({f"{self.folder}/functions/{name}": home.functions / name})
                except (StorageError, PlatformError) as error:
                    if isinstance(error, StorageError) and not isinstance(error.__cause__, PlatformError):
                        raise
                    raise NotSent(f"the function's file {name} could not be brought to the storage: {error}") from error
                self._whole.add(name)

    def fetch_outcome(self, job: JobRecord, home: Home) -> None:
        """Bring what the newest attempt's function returned or raised into *home*, if it is there.

        Raises:
            TransferDamaged: It did not arrive whole.
            CanfarBatchError: The storage cannot be asked now.
        """
        name, number = file_name(job.key), job.attempts[-1].number
        place = home.result(job.key, number)
        make_folder(place.parent)
        try:
            # it holds a digest of its own, so it need not be read twice
            self.storage.download(str(outcome_path(Path(self.folder), name, number)), place, digest=False)
        except FileNotFoundError:
            return
        with file_errors(place):
            if Outcome.read(place.read_bytes()) is None:
                place.unlink()
                raise TransferDamaged(f"the outcome of job {job.key} did not arrive whole")

    def ask_to_stop(self, run_name: str) -> None:
        """Leave a request to stop a task of a bundle.

        Raises:
            CanfarBatchError: The storage cannot be asked now.
        """
        self.storage.write(f"{self.folder}/running/{run_name}.stop", b"stop\n")
