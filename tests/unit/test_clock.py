"""The clocks: the machine's own, and the one that ignores changes of the date."""

from datetime import timedelta

from fakes import EPOCH, FakeClock

from canfar_batch.clock import SteadyClock, SystemClock


def test_the_time_of_day_is_aware_and_utc():
    assert SystemClock().now().utcoffset() == timedelta(0)


def test_a_steady_clock_ignores_a_change_of_the_date(monkeypatch):
    clock = FakeClock()
    steady = SteadyClock(clock)
    clock.sleep(5)
    monkeypatch.setattr(clock, "now", lambda: EPOCH - timedelta(days=1))
    assert steady.now() == EPOCH + timedelta(seconds=5)
