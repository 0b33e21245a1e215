"""What strategies are asked about: views of a batch, made by hand."""

from collections import Counter
from datetime import timedelta

from engine import SPEC
from fakes import EPOCH

from canfar_batch.protocols import BatchView
from canfar_batch.records import JobRecord, JobState


def record(n, state=JobState.PLANNED):
    """The job j*n*."""
    return JobRecord(key=f"j{n}", index=n, spec=SPEC, filled=SPEC.fill({"n": n}), state=state)


def view(ready=(), active=(), **more):
    """A batch with these jobs ready, and these active."""
    ready, active = [record(n) for n in ready], [record(n, JobState.RUNNING) for n in active]
    counts = more.pop("counts", Counter(job.state for job in [*ready, *active]))
    return BatchView(
        now=EPOCH, counts=counts, containers=more.pop("containers", len(active)), ready=lambda: ready,
        active=lambda: active, **more,
    )  # fmt: skip


def ago(*seconds):
    """The times these numbers of seconds before now."""
    return [EPOCH - timedelta(seconds=second) for second in seconds]
