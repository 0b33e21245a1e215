"""Telling the user that a run has ended or is paused: by a function, or by a command."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence

import attrs

log = logging.getLogger("canfar_batch")

Notify = Callable[[object], object] | str | Sequence[str]
_LONGEST_REPORT = 16_000  #: characters of the report in a command's environment, which is limited


@attrs.define
class Notifier:
    """Notifies the user; a notification that fails is logged and changes nothing."""

    target: Notify | None  #: a function of the report, or a command: a text for the shell, or a list of words
    name: str  #: the batch's
    report: Callable[[], object]  #: makes the report
    _paused: str | None = None

    def check(self, paused: str | None) -> None:
        """Notify if the run has just been paused."""
        before, self._paused = self._paused, paused
        if paused is not None and before is None:
            self._notify("paused")

    def end(self) -> None:
        """Notify that the run has ended."""
        self._notify("ended")

    def _notify(self, outcome: str) -> None:
        if self.target is None:
            return
        try:
            report = self.report()
            if callable(self.target):
                self.target(report)
            else:
                _run(self.target, name=self.name, outcome=outcome, report=str(report))
        except Exception as error:
            log.warning("%s: the notification failed: %s", self.name, error)


def check_notify(notify: object) -> None:
    """Refuse what is neither a function nor a command.

    Raises:
        TypeError: It is neither.
    """
    words = notify if isinstance(notify, (list, tuple)) else [notify]
    if notify is None or callable(notify) or (words and all(isinstance(word, str) for word in words)):
        return
    raise TypeError(f"notify={notify!r}: give a function of the report, or a command, such as 'notify-send done'")


def _run(command: str | Sequence[str], *, name: str, outcome: str, report: str) -> None:
    words = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
    facts = {
        "CANFAR_BATCH_NAME": name,
        "CANFAR_BATCH_OUTCOME": outcome,
        "CANFAR_BATCH_REPORT": report[:_LONGEST_REPORT],
    }
    pid = os.posix_spawnp(words[0], words, {**os.environ, **facts})
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        log.warning("%s: the notification %s ended with exit code %d", name, command, code)
