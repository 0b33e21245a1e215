"""The cluster's events about a pod: read by their columns, so that the words of a message decide nothing.

The platform shows a table with the columns TYPE, REASON, MESSAGE, FIRST-TIME and LAST-TIME (skaha-api §5.4), or a line
`<none>`, or that there is no pod.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

import attrs

_COLUMNS = ("TYPE", "REASON", "MESSAGE", "FIRST-TIME", "LAST-TIME")
_MAIN_CONTAINER = "skaha-"  #: how the name of the job's own container begins; others prepare the pod


@attrs.frozen
class Note:
    """One event."""

    type: str  #: `Normal` or `Warning`
    reason: str  #: one word, such as `Evicted`
    message: str
    last: str = attrs.field(default="", eq=False)  #: when it was noted last, ISO 8601; empty if not given

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}" if self.message else self.reason


@attrs.frozen(kw_only=True)
class Events:
    """What the cluster noted about a container's pod: its notes, none, or that there is no pod."""

    notes: tuple[Note, ...] = ()
    pod: bool | None = None  #: False if there is no pod; None if the events were not available
    text: str = ""  #: as the platform gave it

    @classmethod
    def read(cls, text: str | None) -> Events:
        """Return the events in the platform's answer; *text* is None if it said that there is no pod."""
        return cls(pod=False) if text is None else cls(notes=parse(text), pod=True, text=text)

    def merged_with(self, earlier: Events) -> Events:
        """Return these events; if the pod is gone or they were not available, with the notes of an *earlier* answer."""
        if self.pod or earlier.pod is None:
            return self
        return attrs.evolve(earlier, pod=earlier.pod if self.pod is None else False)

    @property
    def by_time(self) -> tuple[Note, ...]:
        """The notes in the order in which they were noted last: a repeated one keeps its row in the table.

        The scheduler's, which have no time, come first.
        """
        return tuple(sorted(self.notes, key=lambda note: note.last))

    @property
    def shows_start(self) -> bool:
        """Whether the cluster noted that the job's own container was started."""
        return any(note.reason == "Started" and f" {_MAIN_CONTAINER}" in note.message for note in self.notes)

    def with_reason(self, reasons: Iterable[str]) -> Note | None:
        """Return the newest note with one of these reasons, or None."""
        wanted = frozenset(reasons)
        return next((note for note in reversed(self.notes) if note.reason in wanted), None)


def parse(text: str) -> tuple[Note, ...]:
    """Return the notes of a table; lines that do not fit are left out."""
    lines = text.splitlines()
    heading = next((number for number, line in enumerate(lines) if line.startswith("TYPE ")), None)
    if heading is None:
        return tuple(_split(line) for line in lines if len(re.split(r"\s{2,}", line.strip())) >= 3)
    starts = [lines[heading].find(name) for name in _COLUMNS]
    if -1 in starts:
        return ()
    rows = [line for line in lines[heading + 1 :] if line.strip()]
    return tuple(_cut(row, starts) for row in rows)


def _cut(row: str, starts: list[int]) -> Note:
    cells = (row[begin:end].strip() for begin, end in itertools.pairwise((*starts, None)))
    kind, reason, message, _, last = cells
    return Note(kind, reason, message, "" if last == "<nil>" else last)


def _split(line: str) -> Note:
    kind, reason, message, *_ = [*re.split(r"\s{2,}", line.strip()), "", ""]
    return Note(kind, reason, message)
