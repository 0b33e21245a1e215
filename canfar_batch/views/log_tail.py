"""The end of a log as text that is safe to show."""

from __future__ import annotations

from collections.abc import Iterable

from canfar_batch.text import printable_lines
from canfar_batch.views.masking import without_secrets

SHOWN = 12  #: lines of a log that a view shows


def log_tail(text: str, lines: int = SHOWN, secrets: Iterable[str] = ()) -> str:
    """Return the last lines of a log, without secrets, escape sequences and the earlier states of progress bars."""
    # a progress bar writes one line many times, with carriage returns: its last state is the one to show
    kept = [line.rstrip("\r").rpartition("\r")[2] for line in text.rstrip("\n").split("\n")[-lines:]]
    return without_secrets(printable_lines("\n".join(kept)), secrets)
