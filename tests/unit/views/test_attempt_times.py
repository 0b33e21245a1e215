"""The times of an attempt, on the driver's and the container's clock."""

from __future__ import annotations

from datetime import timedelta

import attrs
import pytest
from fakes import EPOCH, Fate
from hypothesis import given
from hypothesis import strategies as st
from made import after, attempt, job

from canfar_batch.records import JobState, LostRun, Receipt
from canfar_batch.spec import JobSpec
from canfar_batch.views.attempt_times import Times, run_seconds
from canfar_batch.views.explain import explain_job
from canfar_batch.views.tables import to_rows
from canfar_batch.views.timeline import Timeline


def on_a_clock_that_is(ahead: float, *, waited: float = 10.0, ran: float | None = 600.0):
    """An attempt whose container's clock is *ahead* of the driver's by some seconds."""
    plain = attempt(waited=waited, ran=ran)
    started = after(waited + ahead)
    finished = None if ran is None else after(waited + ran + ahead)
    receipt = Receipt(exit_code=None if ran is None else 0, started_at=started, finished_at=finished)
    return attrs.evolve(plain, started_at=started, receipt=receipt)


@pytest.mark.parametrize("ahead", [-7200, -1800, 0, 1800, 7200])
def test_a_run_is_as_long_as_its_own_clock_says(ahead: float):
    one = on_a_clock_that_is(ahead)
    assert run_seconds(one, after(3600)) == 600.0
    (row,) = to_rows([job("a", one)])
    assert row["run_seconds"] == 600.0


@pytest.mark.parametrize(("ahead", "waited"), [(-7200, 0.0), (0, 10.0), (7200, 10.0)])
def test_a_wait_is_not_wrong_by_hours(ahead: float, waited: float):
    assert Times.of(on_a_clock_that_is(ahead), after(3600)).waited == waited


@pytest.mark.parametrize("ahead", [-7200, 7200])
def test_a_running_attempt_counts_by_the_drivers_clock(ahead: float):
    assert run_seconds(on_a_clock_that_is(ahead, ran=None), after(100)) == 100.0


def test_an_attempt_that_never_began_waited_until_its_end():
    never = attrs.evolve(attempt(waited=0, ran=50), started_at=None, receipt=None)
    times = Times.of(never, after(1000))
    assert (times.waited, times.ran) == (50.0, None)


def test_an_unfinished_wait_is_counted_until_now_and_only_if_now_is_given():
    pending = attrs.evolve(attempt(ran=None), started_at=None, receipt=None)
    assert [to_rows([job("a", pending)], now=now)[0]["wait_seconds"] for now in (None, after(90))] == [None, 90.0]


def test_runs_that_were_lost_are_neither_waiting_nor_running():
    restarted = attrs.evolve(attempt(waited=100, ran=50), lost_runs=(LostRun(after(10), after(30)),))
    times = Times.of(restarted, after(1000))
    assert (times.waited, times.ran) == (80.0, 50.0)
    suspended = attrs.evolve(restarted, started_at=None, receipt=None, ended_at=None, succeeded=None)
    assert Times.of(suspended, after(100)).waited == 80.0


CLOCK = st.floats(-1e6, 1e6)


@given(CLOCK, st.none() | CLOCK, st.none() | CLOCK, st.none() | CLOCK, st.booleans(), CLOCK)
def test_no_times_are_out_of_order_whatever_the_clocks_say(launched, started, finished, ended, is_over, now):
    def moment(seconds: float | None):
        return None if seconds is None else after(seconds)

    receipt = (
        None if finished is None else Receipt(exit_code=0, started_at=moment(started), finished_at=after(finished))
    )
    one = attrs.evolve(
        attempt(),
        launched_at=after(launched), started_at=moment(started), ended_at=moment(ended), receipt=receipt,
        succeeded=True if is_over else None,
    )  # fmt: skip
    times = Times.of(one, after(now))
    assert times.launched <= times.ended
    assert times.started is None or times.launched <= times.started <= times.ended
    assert times.waited >= 0
    assert run_seconds(one, after(now)) is None or run_seconds(one, after(now)) >= 0
    assert times.ended - times.launched <= timedelta(seconds=4e6)


# A job that pulls its image is pending with a start time; each view counts that as waiting until it runs.

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
