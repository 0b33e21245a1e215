"""Daemon threads that talk to the platform, and the inbox from which the calling thread takes their results.

`concurrent.futures` does not serve here: its threads keep the interpreter alive until they end, and a request to a
platform that does not answer takes minutes.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import attrs

from canfar_batch.setup import Outcome

T = TypeVar("T")

#: threads for each kind of work, so that slow launches never delay a poll, nor results a launch
QUEUES: Mapping[str, int] = {"launch": 32, "poll": 1, "gather": 8, "collect": 4}

#: seconds for which more results are awaited after the first, since one transaction then records them all
GATHERING = 0.02
ENOUGH = 24  #: results that are not kept waiting for more


Callback = Callable[[Outcome[Any]], None]
Inbox = queue.SimpleQueue[tuple[Callback, Outcome[Any]]]


@attrs.frozen
class _Task:
    work: Callable[[], Any]
    then: Callback
    inbox: Inbox


class Workers:
    """Daemon threads, which an interpreter that ends does not wait for. Several pools may share them."""

    def __init__(self, queues: Mapping[str, int] = QUEUES) -> None:
        self._limits = queues
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._threads: dict[str, int] = dict.fromkeys(self._limits, 0)
        self._tasks: dict[str, queue.SimpleQueue[_Task | None]] = {name: queue.SimpleQueue() for name in self._limits}
        self._unfinished: dict[str, int] = dict.fromkeys(self._limits, 0)
        self._lock = threading.Lock()

    def submit(self, queue: str, work: Callable[[], Any], then: Callback, inbox: Inbox) -> None:
        """Have *work* done by a thread of *queue*, which puts *then* and the outcome into *inbox*."""
        if self._pid != os.getpid():
            self._begin()  # a fork has no threads but the one that forked
        with self._lock:
            self._unfinished[queue] += 1
            needs_thread = self._threads[queue] < min(self._limits[queue], self._unfinished[queue])
            self._threads[queue] += needs_thread
            state = self._tasks[queue], self._unfinished
        state[0].put(_Task(work, then, inbox))
        if needs_thread:
            threading.Thread(target=self._work, args=(queue, *state), name=f"canfar_batch-{queue}", daemon=True).start()

    def _work(self, name: str, tasks: queue.SimpleQueue[_Task | None], unfinished: dict[str, int]) -> None:
        while (task := tasks.get()) is not None:
            outcome = Outcome.of(task.work, BaseException)
            with self._lock:
                unfinished[name] -= 1
            task.inbox.put((task.then, outcome))
            del task, outcome  # an idle thread keeps nothing alive

    def pool(self) -> ThreadPool:
        """Return a pool of these threads, for one engine."""
        return ThreadPool(shared=self)

    def close(self) -> None:
        """Let every thread end after its present work; work that has not begun is dropped."""
        for name, count in self._threads.items():
            with contextlib.suppress(queue.Empty):
                while True:
                    self._tasks[name].get_nowait()
            for _ in range(count):
                self._tasks[name].put(None)
        self._begin()  # work that comes after all gets new threads


class ThreadPool:
    """A `Pool` of daemon threads: its own, or ones that it shares with other pools."""

    def __init__(self, queues: Mapping[str, int] = QUEUES, *, shared: Workers | None = None) -> None:
        self._workers = shared or Workers(queues)
        self._owns_workers = shared is None
        self._inbox: Inbox = queue.SimpleQueue()
        self._received: deque[tuple[Callback, Outcome[Any]]] = deque()
        self._awaited: Counter[str] = Counter()  # work whose result is not drained yet, by queue

    def submit(self, queue: str, work: Callable[[], T], then: Callable[[Outcome[T]], None]) -> None:
        """Have *work* done by a thread of *queue*; `drain` calls *then* with its outcome."""
        self._awaited[queue] += 1
        self._workers.submit(queue, work, partial(self._deliver, queue, then), self._inbox)

    def _deliver(self, queue: str, then: Callback, outcome: Outcome[Any]) -> None:
        self._awaited[queue] -= 1
        then(outcome)

    def drain(self) -> int:
        """Call back for all work that is done by now, and return how many callbacks were made."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._received.append(self._inbox.get_nowait())
        count = 0
        while self._received:
            then, outcome = self._received.popleft()
            count += 1
            then(outcome)
        return count

    def wait(self, seconds: float) -> None:
        """Sleep for *seconds*, or until there is a result to drain.

        While launches are in flight, wait a little longer for their answers, so that they are recorded together.
        """
        if self._received or seconds <= 0:
            return
        with contextlib.suppress(queue.Empty):
            self._received.append(self._inbox.get(timeout=seconds))
            until = time.monotonic() + min(GATHERING, seconds)
            while len(self._received) < min(ENOUGH, self._awaited["launch"]):
                self._received.append(self._inbox.get(timeout=max(0.0, until - time.monotonic())))

    def close(self) -> None:
        """Start no more work; threads of its own end after their present work."""
        if self._owns_workers:
            self._workers.close()
