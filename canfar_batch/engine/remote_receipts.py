"""Receipts by way of the platform's storage, for a driver whose files the containers do not see."""

from __future__ import annotations

import re
from pathlib import Path

import attrs

from canfar_batch.errors import StorageError
from canfar_batch.fields.keys import file_name
from canfar_batch.payload import receipts
from canfar_batch.protocols import Platform, RemoteStorage, storage_of
from canfar_batch.records import JobRecord
from canfar_batch.store.files import write_file
from canfar_batch.store.home import Home

PATIENCE = 60.0  #: seconds at most to prepare the folder, at the start of a run
_FOLDER = ".canfar_batch"  #: in the user's home on the storage


@attrs.frozen
class RemoteReceipts:
    """A folder on the storage in which containers leave their receipts."""

    storage: RemoteStorage
    folder: str  #: as containers see it
    home: str  #: the user's home, as containers see it

    @classmethod
    def prepare(cls, platform: Platform, token: str) -> RemoteReceipts:
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
