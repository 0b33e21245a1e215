"""The service's jobs: work that is made, started and watched by requests of its own (UWS)."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone

from canfar_batch.local.answers import Refusal
from canfar_batch.local.vospace.documents import GivenTransfer, Job

_LONGEST = 60.0  #: seconds that a request may wait for a job
_KEPT = 10_000  #: jobs that are remembered


class Jobs:
    """The jobs of one service."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._jobs: dict[str, Job] = {}

    def add(
        self,
        owner: str | None,
        run: Callable[[Job], None],
        *,
        seconds: int,
        info: str = "",
        parameters: dict[str, str] | None = None,
        given: GivenTransfer | None = None,
    ) -> Job:
        """Make a job, which waits to be started."""
        id = secrets.token_hex(8)
        job = Job(
            id, owner or "", now(), seconds, lambda: run(job), info=info, parameters=parameters or {}, given=given
        )
        with self._changed:
            self._jobs[id] = job
            while len(self._jobs) > _KEPT:
                del self._jobs[next(iter(self._jobs))]
        return job

    def get(self, id: str) -> Job:
        """Return a job.

        Raises:
            Refusal: There is none of that id.
        """
        job = self._jobs.get(id)
        if job is None:
            raise Refusal(404, f"not found: {id}")
        return job

    def start(self, job: Job) -> None:
        """Start a job that waits."""
        with self._changed:
            if job.phase != "PENDING":
                return
            job.phase, job.started = "EXECUTING", now()
        threading.Thread(target=self._run, args=(job,), name="local-storage-job", daemon=True).start()

    def wait(self, job: Job, seconds: float, phase: str | None) -> None:
        """Wait until a job has another phase than *phase* (by default, than now), or the time is over."""
        before = job.phase if phase is None else phase
        if before not in {"PENDING", "QUEUED", "EXECUTING"} or job.phase != before:
            return
        with self._changed:
            end = time.monotonic() + min(seconds, _LONGEST)
            while job.phase == before and time.monotonic() < end:
                self._changed.wait(max(0.0, end - time.monotonic()))

    def _run(self, job: Job) -> None:
        phase = "COMPLETED"
        try:
            job.run()
        except Refusal as refusal:
            phase, job.error = "ERROR", str(refusal)
        except OSError as problem:
            phase, job.error = "ERROR", f"unexpected: {problem.strerror}"
        with self._changed:
            job.ended = now()
            job.phase = "ABORTED" if job.results.get("errorcount") else phase
            self._changed.notify_all()


def now() -> str:
    """Return the present time as the service writes it: UTC."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000")
