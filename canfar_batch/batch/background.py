"""A batch that is driven by a thread of this process, so that the thread of the user stays free."""

from __future__ import annotations

import threading
from collections.abc import Callable

from canfar_batch.batch.turns import Turns
from canfar_batch.engine import Engine

SLICE = 0.5  #: seconds between two steps at most, so that `stop` need not wait long


class Background:
    """A thread that drives a batch step by step; between two steps other threads may have their turn.

    Attributes:
        error: Why driving ended early; None if it did not.
    """

    def __init__(
        self, engine: Engine, turns: Turns, *, name: str, after_step: Callable[[], None], at_end: Callable[[], None]
    ) -> None:
        """Prepare the thread.

        Args:
            engine: The batch's engine.
            turns: The batch's turns.
            name: The batch's name.
            after_step: Called in the thread after each step; an exception from it ends driving.
            at_end: Called in the thread when driving has ended.
        """
        self.error: BaseException | None = None
        self._engine, self._turns, self._after_step = engine, turns, after_step
        self._at_end = at_end
        self._is_done = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"canfar_batch-{name}", daemon=True)

    @property
    def is_alive(self) -> bool:
        """Whether the thread drives."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to drive."""
        self._turns.is_shared = True
        self._thread.start()

    def stop(self) -> None:
        """End driving after the step in progress, and wait for the thread."""
        self._stopping.set()
        self._thread.join()

    def join(self, timeout: float | None) -> bool:
        """Wait for the end of driving, for *timeout* seconds at most; return whether it has ended."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            for turn in self._engine.drive(lambda: self._ends, step=self._step, wait=self._rest):
                turn.shorten(SLICE)
            if not self._ends:  # paused, by the step of another thread
                self._step()
        except BaseException as error:  # raised again by Batch.wait(), in the user's thread
            self.error = error
        finally:
            with self._turns.turn("the end of start()"):
                self._engine.release()
                self._at_end()
            self._turns.is_shared = False

    @property
    def _ends(self) -> bool:
        return self._is_done or self._stopping.is_set()

    def _step(self) -> float:
        with self._turns.turn("start()"):
            wait = self._engine.step()
            self._after_step()
            self._is_done = self._engine.is_done
            return wait

    def _rest(self, seconds: float) -> None:
        self._engine.rest(seconds)
        self._turns.let_others_pass()
