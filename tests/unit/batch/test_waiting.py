"""A job that pulls its image is pending with a start time; each view counts that as waiting until it runs."""

import attrs
import pytest
from fakes import EPOCH, Fate

from canfar_batch.records import JobState
from canfar_batch.spec import JobSpec
from canfar_batch.views.explain import explain_job
from canfar_batch.views.timeline import Timeline

PULL, RUN = 300.0, 100.0


def pulling(shown):
    """As Kubernetes shows containers: with a start time from their first moment on."""
    return [attrs.evolve(info, started_at=EPOCH) for info in shown]


@pytest.fixture(params=[True, False], ids=["receipt", "no receipt"])
def batch(world, request):
    has_receipt = request.param
    world.platform.fate = lambda request: Fate(queue=PULL, lasts=RUN, receipt=has_receipt)
    world.platform.shown = pulling
    return world.planned(1, JobSpec("fit {n}", image="skaha/astroml", receipt=has_receipt))


def rows(batch):
    (row,) = batch.to_rows()
    return row


def test_a_job_that_pulls_its_image_waits(world, batch):
    world.turn(batch, 200)
    assert batch["j0"].state is JobState.PENDING
    assert batch.counts == {JobState.PENDING: 1}
    assert batch["j0"].started_at is None
    assert "has not begun to run" in explain_job(batch["j0"].record, "", world.clock.now())
    assert rows(batch)["started_at"] is None
    assert batch.report().running is None
    (span,) = Timeline.of([batch["j0"].record], world.clock.now()).spans
    assert span.started is None


def test_the_pull_counts_as_waiting_when_the_job_has_ended(world, batch):
    batch.run(progress=False)
    row = rows(batch)
    assert row["wait_seconds"] == pytest.approx(PULL, abs=61)
    assert row["run_seconds"] == pytest.approx(RUN, abs=61)
    report = batch.report()
    assert report.waiting.median == pytest.approx(PULL, abs=61)
    assert report.running.median == pytest.approx(RUN, abs=61)
    (span,) = Timeline.of([batch["j0"].record], world.clock.now()).spans
    assert span.begun - span.launched == pytest.approx(PULL, abs=61)
