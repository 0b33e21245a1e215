"""Warnings that point at the user's code."""

from __future__ import annotations

import inspect
import warnings


def warn(message: str) -> None:
    """Warn the user, at the line of the user's code that called this package."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "canfar_batch":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
