"""Records made by hand, for tests of views."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from canfar_batch.failures import Failure
from canfar_batch.records import Attempt, JobRecord, JobState, Receipt, Resources
from canfar_batch.spec import JobSpec

NOON = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)

SPEC = JobSpec("python fit.py {path}", image="skaha/astroml:latest", cores=2, ram=8)


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def attempt(
    number: int = 1,
    *,
    begun: float = 0.0,
    waited: float = 10.0,
    ran: float | None = 600.0,
    failure: Failure | None = None,
    cores: int | None = 2,
    ram: int | None = 8,
    peak: float | None = 3.1,
    cpu: float | None = 600.0,
    verified: bool = True,
) -> Attempt:
    """One attempt, launched *begun* seconds after noon; it still runs if *ran* is None."""
    start = begun + waited
    receipt = Receipt(started_at=after(start), host="node-1")
    if ran is not None and verified:
        receipt = Receipt(
            exit_code=getattr(failure, "code", 0), started_at=after(start), finished_at=after(start + ran),
            cpu_seconds=cpu, peak_ram=peak, host="node-1",
        )  # fmt: skip
    return Attempt(
        number=number,
        log=None if ran is None else Path("saved.log"),
        launch_name=f"cb-{number}-{begun:g}",
        id=f"id{number}",
        resources=Resources(cores=cores, ram=ram),
        intended_at=after(begun),
        launched_at=after(begun),
        started_at=after(start),
        ended_at=None if ran is None else after(start + ran),
        succeeded=None if ran is None else failure is None,
        verified=verified and ran is not None,
        receipt=receipt,
        failure=failure,
    )


def job(key: str, *attempts: Attempt, state: JobState | None = None, **more: Any) -> JobRecord:
    """A job in the state that follows from its last attempt."""
    fields = more.pop("fields", {"path": f"{key}.fits"})
    return JobRecord(
        key=key,
        index=more.pop("index", 0),
        spec=SPEC,
        filled=SPEC.fill({"path": key}),
        fields=fields,
        attempts=attempts,
        state=state or _likely(attempts),
        **{"collected": True, **more},
    )


def _likely(attempts: tuple[Attempt, ...]) -> JobState:
    if not attempts:
        return JobState.PLANNED
    if not attempts[-1].ended:
        return JobState.RUNNING
    return JobState.SUCCEEDED if attempts[-1].succeeded else JobState.FAILED
