"""Inputs: the files that a batch's jobs need are brought to the platform before the first launch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePosixPath

import attrs

from canfar_batch.engine.context import Context
from canfar_batch.errors import CredentialError, PlanError, StorageError
from canfar_batch.protocols import RemoteStorage, storage_of
from canfar_batch.records import JobState
from canfar_batch.setup import Outcome
from canfar_batch.storage import Inputs, Progress
from canfar_batch.store.files import write_file
from canfar_batch.store.home import Home
from canfar_batch.text import count

_SAY_EVERY = 60.0  #: seconds between two messages about a long transfer


@attrs.define
class SentInputs:
    """What was brought to which folder, as the home remembers it."""

    folder: str  #: as containers see it
    stamps: dict[str, list[int]] = attrs.field(factory=dict)  #: size and time of each file, by its path in the folder

    @classmethod
    def read(cls, home: Home) -> SentInputs | None:
        """Return what the home remembers; None if that is nothing."""
        try:
            stored = json.loads(home.inputs.read_bytes())
            return cls(folder=str(stored["folder"]), stamps=dict(stored["stamps"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write(self, home: Home) -> None:
        """Remember it.

        Raises:
            HomeError: The home cannot be written.
        """
        write_file(home.inputs, json.dumps(attrs.asdict(self), indent=1).encode())


def folder_of_inputs(inputs: Inputs | None, home: Home, default: str | None) -> str | None:
    """Return the folder of a batch's inputs, in which its jobs run, as containers see it; None if there is none.

    Args:
        inputs: What the user asks for now; an earlier run may have asked for more.
        home: The batch's directory.
        default: The folder if the user names none; None if the user's home is not known.

    Raises:
        PlanError: The user names another folder than before.
    """
    known = SentInputs.read(home)
    wanted = None if inputs is None else inputs.to or default
    if known is None:
        return wanted
    if inputs is not None and inputs.to is not None and inputs.to != known.folder:
        raise PlanError(
            f"the inputs of this batch are in {known.folder}, in which its jobs run, and to={inputs.to!r} names "
            "another folder: give the batch another name"
        )
    return known.folder


class InputStage:
    """Brings the inputs to the platform, by a worker thread, and holds launches back until they are there."""

    def __init__(self, context: Context, trouble: str | None) -> None:
        """Prepare to bring the inputs.

        Args:
            context: What the stages share.
            trouble: Why the storage cannot be used, if that is so.
        """
        self._context, self._inputs, self._trouble = context, context.setup.inputs, trouble
        self._are_there = self._inputs is None
        self.in_flight = False
        self._progress: object = None
        self._say_next = math.inf

    def are_there(self) -> bool:
        """Return whether jobs may be launched; if inputs are missing, begin to bring them.

        Raises:
            StorageError: They cannot be brought there.
            LocalMissing: An input does not exist.
            PlanError: An input is outside of the working directory.
        """
        counts = self._context.journal.index.counts
        if self._are_there or not counts.get(JobState.PLANNED, 0) + counts.get(JobState.WAITING, 0):
            return True
        if self._context.health.pause is not None:
            return False
        if not self.in_flight:
            self._begin()
        elif self._context.clock.ticks() >= self._say_next:
            self._say_next = self._context.clock.ticks() + _SAY_EVERY
            self._context.health.say(f"bringing inputs: {self._progress}")
        return self._are_there

    def _begin(self) -> None:
        context, launches = self._context, self._context.launch_context
        assert self._inputs is not None  # else they are there
        files = self._inputs.find(launches.workdir, leave_out=context.archive.path)
        if context.setup.shared:
            self._are_there = True
            return
        storage = storage_of(context.platform)
        if launches.inputs is None or storage is None:
            why = self._trouble or "this platform has none that can be reached from here"
            raise StorageError(
                f"batch {context.journal.name}: nothing was launched, since its inputs cannot be brought to the "
                f"platform's storage: {why}"
            )
        self.in_flight, self._progress = True, "looking for what is there"
        self._say_next = context.clock.ticks() + _SAY_EVERY
        work = partial(self._bring, files, storage, launches.inputs)
        context.pool.submit("collect", work, partial(self._brought, launches.inputs))

    def _bring(self, files: Mapping[str, Path], storage: RemoteStorage, folder: str) -> int:
        """In a worker thread: bring those that are missing or have changed, and return how many these were."""
        home = self._context.archive
        known = SentInputs.read(home) or SentInputs(folder)
        stamps = {name: _stamp(path) for name, path in files.items()}
        there = _whole_files(storage, {str(PurePosixPath(folder, name).parent) for name in files}, files, folder)
        missing = [name for name in files if name not in there or known.stamps.get(name) != stamps[name]]
        if missing:
            size = sum(stamps[name][0] for name in missing) / 1e6
            self._context.health.say(f"bringing {count(len(missing), 'input')}, {size:,.1f} MB, to {folder}")
            storage.send({f"{folder}/{name}": files[name] for name in missing}, progress=self._note)
        known.stamps.update(stamps)
        known.write(home)
        return len(missing)

    def _note(self, progress: Progress) -> None:
        self._progress = progress

    def _brought(self, folder: str, outcome: Outcome[int]) -> None:
        self.in_flight = False
        error = outcome.error
        if isinstance(error, CredentialError):
            self._context.health.pause_for(error)
        elif error is not None:
            raise StorageError(
                f"batch {self._context.journal.name}: nothing was launched, since its inputs could not be brought to "
                f"{folder}: {error}"
            ) from error
        else:
            self._are_there = True


def _whole_files(storage: RemoteStorage, folders: set[str], files: Mapping[str, Path], folder: str) -> set[str]:
    """Return which of the *files* are in *folder*; an empty one that a failed transfer left does not count."""
    there = {each: storage.contents(each) for each in folders}
    found = set()
    for name, path in files.items():
        place = PurePosixPath(folder, name)
        stored = there[str(place.parent)].get(place.name)
        if stored is not None and not stored.is_folder and (stored.size or not path.stat().st_size):
            found.add(name)
    return found


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
