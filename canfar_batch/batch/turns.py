"""Turns: one thread at a time uses a batch."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from canfar_batch.errors import BatchBusy

LONGEST_YIELD = 0.1  #: seconds for which a background thread lets others pass before each step


class Turns:
    """Lets one thread at a time use a batch.

    A second thread gets an error that names what the first one does. While a background thread drives the batch, turns
    are as short as one step, so a second thread waits for its turn instead.

    Attributes:
        is_shared: Whether a background thread drives the batch.
    """

    def __init__(self, name: str) -> None:
        self.is_shared = False
        self._name = name  # the batch's, for messages
        self._lock = threading.RLock()
        self._waiting: list[None] = []  # one element for each thread that waits for its turn
        self._calls: list[str] = []  # what the thread that has the turn does, the innermost call last

    @property
    def doing(self) -> str | None:
        """The call in progress, and its thread; None between calls."""
        return next(iter(self._calls), None)

    @contextmanager
    def turn(self, call: str) -> Iterator[None]:
        """Have the turn inside.

        Raises:
            BatchBusy: Another thread has it.
        """
        if not self._acquire():
            raise BatchBusy(
                f"batch {self._name} is in use by {self.doing or 'another thread'}, so {call} cannot begin: wait for "
                "that call to return; canfar_batch.open() reads the batch meanwhile"
            )
        self._calls.append(f"{call} in thread {threading.current_thread().name}")
        try:
            yield
        finally:
            self._calls.pop()
            self._lock.release()

    def _acquire(self) -> bool:
        if not self.is_shared:
            return self._lock.acquire(blocking=False)
        self._waiting.append(None)
        try:
            return self._lock.acquire()
        finally:
            self._waiting.pop()

    def let_others_pass(self) -> None:
        """Wait until other threads that want the turn have it, since a lock is not fair; but not for long."""
        until = time.monotonic() + LONGEST_YIELD
        while self._waiting and time.monotonic() < until:
            time.sleep(0.001)

    @contextmanager
    def turn_if_free(self, call: str, *, nested: bool = False) -> Iterator[bool]:
        """Have the turn inside if no call is in progress; yield whether that is so.

        Args:
            call: What is done inside, for the messages of others.
            nested: Whether a call of this thread itself may be in progress.
        """
        if not self._lock.acquire(blocking=False):
            yield False
            return
        is_free = nested or not self._calls
        self._calls.append(f"{call} in thread {threading.current_thread().name}")
        try:
            yield is_free
        finally:
            self._calls.pop()
            self._lock.release()
