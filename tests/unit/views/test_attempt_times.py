"""The times of an attempt, on the driver's and the container's clock."""

from __future__ import annotations

from datetime import timedelta

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import after, attempt, job

from canfar_batch.records import Receipt
from canfar_batch.views.attempt_times import Times, run_seconds
from canfar_batch.views.tables import to_rows


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
