"""Daemon threads that talk to the platform, and the inbox through which the calling thread hears of it."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

import attrs

T = TypeVar("T")

#: threads for each kind of work, so that slow launches never hold up a look, nor results a launch
LANES: Mapping[str, int] = {"launch": 8, "look": 1, "gather": 8, "collect": 4}


@attrs.frozen
class Outcome(Generic[T]):
    """What came of a piece of work: a value, or the exception that it raised."""

    value: T | None = None
    error: BaseException | None = None

    def get(self) -> T:
        """The value.

        Raises:
            BaseException: What the work raised.
        """
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # a value where there is no error

    @classmethod
    def of(cls, work: Callable[[], T], kept: type[BaseException] = Exception) -> Outcome[T]:
        """Do *work* and keep what comes of it: a value, or an exception of the *kept* kind."""
        try:
            return cls(value=work())
        except kept as error:
            return cls(error=error)


Then = Callable[[Outcome[Any]], None]


class Pool(Protocol):
    """What the runner needs of its helpers."""

    def submit(self, lane: str, work: Callable[[], T], then: Callable[[Outcome[T]], None]) -> None:
        """Have *work* done elsewhere; *then* is called with its outcome by whoever calls `hear`."""

    def hear(self) -> int:
        """Call back for everything that is done by now; how many that were."""

    def wait(self, seconds: float) -> None:
        """Sleep, but not beyond the moment at which there is something to hear."""

    def close(self) -> None:
        """Begin no more work. What is under way is not waited for."""


class ThreadPool:
    """A `Pool` of daemon threads: an interpreter that ends does not wait for them."""

    def __init__(self, lanes: Mapping[str, int] = LANES) -> None:
        self._lanes = lanes
        self._threads: dict[str, int] = dict.fromkeys(lanes, 0)
        self._tasks: dict[str, queue.SimpleQueue[tuple[Callable[[], Any], Then] | None]] = {
            lane: queue.SimpleQueue() for lane in lanes
        }
        self._waiting: dict[str, int] = dict.fromkeys(lanes, 0)
        self._lock = threading.Lock()
        self._inbox: queue.SimpleQueue[tuple[Then, Outcome[Any]]] = queue.SimpleQueue()
        self._held: deque[tuple[Then, Outcome[Any]]] = deque()

    def submit(self, lane: str, work: Callable[[], T], then: Callable[[Outcome[T]], None]) -> None:
        """Have *work* done by a thread of *lane*."""
        with self._lock:
            self._waiting[lane] += 1
            short = self._threads[lane] < min(self._lanes[lane], self._waiting[lane])
            self._threads[lane] += short
        self._tasks[lane].put((work, then))
        if short:
            threading.Thread(target=self._work, args=(lane,), name=f"canfar_batch-{lane}", daemon=True).start()

    def _work(self, lane: str) -> None:
        while (task := self._tasks[lane].get()) is not None:
            self._inbox.put((task[1], Outcome.of(task[0], BaseException)))
            del task  # a thread that waits for work keeps nothing alive
            with self._lock:
                self._waiting[lane] -= 1

    def hear(self) -> int:
        """Call back for everything that is done by now."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._held.append(self._inbox.get_nowait())
        heard = 0
        while self._held:  # what is behind a letter whose reader raises is heard the next time
            then, outcome = self._held.popleft()
            heard += 1
            then(outcome)
        return heard

    def wait(self, seconds: float) -> None:
        """Sleep until there is something to hear, at most so many seconds."""
        if self._held or seconds <= 0:
            return
        try:
            self._held.append(self._inbox.get(timeout=seconds))
        except queue.Empty:
            return

    def close(self) -> None:
        """Let every thread end after the work that it has in hand; what was not begun never will be."""
        for lane, count in self._threads.items():
            with contextlib.suppress(queue.Empty):
                while True:
                    self._tasks[lane].get_nowait()
            for _ in range(count):
                self._tasks[lane].put(None)
