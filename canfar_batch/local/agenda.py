"""Things to do later, done by one thread."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

import attrs

log = logging.getLogger(__name__)

PRUNE_AT = 1000  #: entries, cancelled ones included, that are kept without a look at them


@attrs.define(order=True)
class Entry:
    """Something to do at a time of the monotonic clock."""

    at: float
    number: int  #: entries of one time are done in the order in which they were added
    action: Callable[[], object] | None = attrs.field(order=False)

    def cancel(self) -> None:
        """Do nothing when the time comes."""
        self.action = None


class Agenda:
    """Runs actions at their times; its thread begins with the first entry."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._numbers = itertools.count()
        self._prune_at = PRUNE_AT
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="local-platform-agenda", daemon=True)

    def __len__(self) -> int:
        """Return the number of entries that are kept, cancelled ones included."""
        return len(self._entries)

    def later(self, seconds: float, action: Callable[[], object]) -> Entry:
        """Run *action* in *seconds*, unless it is cancelled or the agenda is stopped."""
        with self._changed:
            entry = Entry(time.monotonic() + seconds, next(self._numbers), action)
            heapq.heappush(self._entries, entry)
            self._prune()
            if self._thread.ident is None and not self._stopped:
                self._thread.start()
            self._changed.notify()
        return entry

    def stop(self) -> None:
        """Run nothing more, and wait for the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _prune(self) -> None:
        """Drop cancelled entries now and then: their times may be days away."""
        if len(self._entries) > self._prune_at:
            self._entries = [entry for entry in self._entries if entry.action is not None]
            heapq.heapify(self._entries)
            self._prune_at = 2 * len(self._entries) + PRUNE_AT

    def _run(self) -> None:
        while (action := self._next()) is not None:
            try:
                action()
            except Exception:
                log.exception("the local platform failed to do something on time")

    def _next(self) -> Callable[[], object] | None:
        """Wait for the next action that is due; None when the agenda is stopped."""
        with self._changed:
            while not self._stopped:
                while self._entries and self._entries[0].action is None:
                    heapq.heappop(self._entries)
                now = time.monotonic()
                if self._entries and self._entries[0].at <= now:
                    return heapq.heappop(self._entries).action
                self._changed.wait(self._entries[0].at - now if self._entries else None)
            return None
