"""The command that calls a function in the container, and the outcome that comes back."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import pickle
import re
import sys
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs

from canfar_batch.errors import CollectError
from canfar_batch.text import printable, printable_lines

#: Runs the first program of `$0` that the image has, with the arguments that follow.
_RUN = """\
for p in $0; do if command -v "$p" >/dev/null 2>&1; then exec "$p" "$@"; fi; done
echo "canfar_batch: this image has none of $0" >&2; exit 127"""

#: Runs the archive `$1.zip` in the same way.
_CALL = f"""\
if [ ! -r "$CANFAR_BATCH_FILES/$1.zip" ]; then
echo "canfar_batch: this container does not see the function's file, $CANFAR_BATCH_FILES/$1.zip" >&2; exit 127; fi
set -- "$CANFAR_BATCH_FILES/$1.zip" "$@"
{_RUN}"""


def python_programs(python: str | None) -> str:
    """Return the programs that can run Python of this version, the best first, separated by blanks.

    Args:
        python: The program that the user named, if any; then it is the only one.
    """
    return python or "python{}.{} python3 python".format(*sys.version_info)


def python_words(programs: str, arguments: Iterable[str]) -> tuple[str, ...]:
    """Return the words of a command that runs Python, by the first of the *programs* that the image has."""
    return ("/bin/sh", "-c", _RUN, programs, *arguments)


def call_words(programs: str, name: str) -> tuple[str, ...]:
    """Return the words of the command that calls the function *name*; those of its arguments follow.

    Args:
        programs: Programs that can run Python, as `python_programs` names them.
        name: The name of the function's archive, without `.zip`.
    """
    return ("/bin/sh", "-c", _CALL, programs, name)


def programs_of(words: Sequence[str]) -> str:
    """Return the programs that `call_words` was given."""
    return words[3]


def shown_call(argv: Sequence[str]) -> str | None:
    """Return a call as people write it, `fit(x=1.5)`; None if *argv* is another command."""
    if len(argv) < 5 or argv[2] != _CALL:
        return None
    return f"{argv[4].rpartition('-')[0]}({', '.join(argv[5:])})"


@attrs.frozen
class Outcome:
    """What a call came to: its return value or its exception, still pickled.

    Attributes:
        launch_name: The launch that it is of.
        returned: Whether the function returned.
        line: The exception as one line, `ValueError: ...`; empty if the function returned.
        traceback: The exception's traceback as text, with line breaks.
    """

    launch_name: str
    returned: bool
    line: str
    traceback: str
    _pickled: bytes = attrs.field(repr=False)

    @classmethod
    def in_file(cls, path: Path, launch_name: str) -> Outcome | None:
        """Return the outcome of a launch in a file; None if there is none, or one of another launch."""
        try:
            outcome = cls.read(path.read_bytes())
        except OSError:
            return None
        return outcome if outcome is not None and outcome.launch_name == launch_name else None

    @classmethod
    def read(cls, raw: bytes) -> Outcome | None:
        """Return the outcome that the runner wrote; None if *raw* is not one, or is damaged."""
        head, found, packed = raw.partition(b"\n")
        try:
            header = json.loads(head)
            if not found or header["sha256"] != hashlib.sha256(packed).hexdigest():
                return None
            return cls(
                launch_name=str(header["launch"]),
                returned=header["returned"] is True,
                line=printable(str(header.get("line", ""))),
                traceback=printable_lines(str(header.get("traceback", ""))),
                pickled=packed,
            )
        except (ValueError, KeyError, TypeError, RecursionError):
            return None

    def value(self) -> Any:
        """Return the return value, or the exception.

        Raises:
            CollectError: It cannot be read here, for example because a package is missing.
        """
        try:
            return pickle.loads(zlib.decompress(self._pickled))  # noqa: S301 (the user's own job wrote it)
        except Exception as error:
            raise CollectError(
                f"the outcome of the call cannot be read here: {type(error).__name__}: {error}"
            ) from error


def outcome_path(home: Path, name: str, attempt: int) -> Path:
    """Return the path of the outcome of one launch, in a *home* that its container sees.

    Args:
        home: The batch's directory.
        name: The job's key as a file name, which `fields.keys.file_name` makes.
        attempt: The number of the launch, from 1.
    """
    return home / "results" / f"{name}.{attempt}"


_OUTCOME = re.compile(r"outcome (?P<number>[0-9]{1,6})/(?P<count>[0-9]{1,6}) (?P<text>[A-Za-z0-9+/=]*)")


class OutcomeLines:
    """Puts an outcome together from the lines of a log. Of several runs, the newest complete outcome counts."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self.outcome: bytes | None = None

    def take(self, line: str) -> bool:
        """Take a line of the wrapper's kind, without its marks; return whether it belongs to an outcome."""
        if not line.startswith("outcome "):
            return False
        found = _OUTCOME.fullmatch(line)
        if found is None:
            return True
        if int(found["number"]) == 1:
            self._pieces = []
        if int(found["number"]) == len(self._pieces) + 1:
            self._pieces.append(found["text"])
            if len(self._pieces) == int(found["count"]):
                try:
                    self.outcome = base64.b64decode("".join(self._pieces), validate=True)
                except (binascii.Error, ValueError):
                    self._pieces = []
        return True
