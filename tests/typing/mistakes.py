"""Mistakes that the type checker must refuse; a line that it accepts has an unused `ignore`, which is an error."""

import canfar_batch as cb
from canfar_batch.protocols import LaunchStrategy, RetryPolicy

cb.JobSpec("fit", image=7)  # type: ignore[arg-type]
cb.JobSpec("fit")  # type: ignore[call-arg]
cb.JobSpec("fit", image="x", memory=4)  # type: ignore[call-arg]
cb.Sesion  # type: ignore[attr-defined]  # noqa: B018

launch: LaunchStrategy = lambda view: 3  # type: ignore[assignment]  # noqa: E731
retry: RetryPolicy = lambda job: None  # type: ignore[assignment]  # noqa: E731


def wrong(job: cb.Job) -> bytes:
    text: bytes = job.logs()  # type: ignore[assignment]
    return text
