"""Single jobs, on a platform in memory."""

from __future__ import annotations

from typing import Any

from fakes import FakeClock, FakePlatform, Fate, InlinePool

from canfar_batch import Job, Session

SETTLE = 120.0  #: seconds


def begin(
    fate: Fate | None = None, *, forget_after: float = 3600.0, **fields: Any
) -> tuple[Session, FakePlatform, Job]:
    """Return a session, its platform, and a job that was launched on it."""
    platform = FakePlatform(FakeClock(), lambda request: fate or Fate(), forget_after=forget_after)
    session = Session(platform, clock=platform.clock, pool=lambda: InlinePool(platform.clock), settle=SETTLE)
    return session, platform, session.launch("run me", image="skaha/astroml", **fields)
