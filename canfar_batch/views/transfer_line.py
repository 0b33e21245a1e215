"""The line that shows how far a transfer of files is."""

from __future__ import annotations

import sys
from typing import TextIO


class TransferLine:
    """One line on the terminal that is written again and again; nothing if there is no terminal.

    Args:
        verb: What is done, as `uploading`.
        stream: Where to; by default stderr.
    """

    def __init__(self, verb: str, stream: TextIO | None = None) -> None:
        self._verb, self._stream = verb, stream or sys.stderr
        self._width = 0

    def __call__(self, progress: object) -> None:
        """Show *progress*, as it prints."""
        if not self._stream.isatty():
            return
        text = f"{self._verb}: {progress}"
        self._stream.write(f"\r{text:<{self._width}}")
        self._stream.flush()
        self._width = len(text)

    def end(self) -> None:
        """End the line."""
        if self._width:
            self._stream.write("\n")
            self._stream.flush()
