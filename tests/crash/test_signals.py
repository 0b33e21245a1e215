"""Signals that a driver gets: Ctrl-C, and the end of the machine."""

import signal
import threading
import time

import pytest
from crash.drivers import PATIENCE, World, driver, eventually

DETACHES = 1.0  #: seconds, as promised
BUSY = 4.0  #: seconds more that a busy machine may take


@pytest.fixture
def long(tmp_path):
    return World.make(tmp_path / "long", jobs=8, seconds=[1.0] * 8, window=4, settle=3.0)


def test_ctrl_c_gives_the_prompt_back_and_leaves_the_jobs_alone(platform, long):
    with driver(platform, long) as first:
        assert eventually(lambda: sum(long.starts().values()) == 4)
        pressed = time.monotonic()
        first.send_signal(signal.SIGINT)
        assert first.wait(PATIENCE) == 3
        assert time.monotonic() - pressed < DETACHES + BUSY
    assert "ended by Detached" in long.output
    assert "Run the same script again" in long.output
    assert platform.requests.counts["delete"] == 0
    assert platform.wait_idle(PATIENCE)
    assert [job.status for job in platform.jobs()] == ["Completed"] * 4
    assert_it_goes_on(platform, long)


def test_ctrl_c_does_not_wait_for_a_platform_that_is_silent(platform, long):
    asked = threading.Event()

    def silent(call):
        asked.set()
        call.sleep(PATIENCE)
        return call.proceed()

    with driver(platform, long) as first, platform.faults.during(silent):
        assert asked.wait(PATIENCE)
        pressed = time.monotonic()
        first.send_signal(signal.SIGINT)
        assert first.wait(PATIENCE) == 3
        assert time.monotonic() - pressed < DETACHES + BUSY
    assert "ended by Detached" in long.output
    assert_it_goes_on(platform, long)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_driver_that_is_asked_to_end_leaves_the_jobs_alone(platform, long, number):
    with driver(platform, long) as first:
        assert eventually(lambda: sum(long.starts().values()) == 4)
        first.send_signal(number)
        assert first.wait(PATIENCE) == -number
    assert platform.requests.counts["delete"] == 0
    assert_it_goes_on(platform, long)


def assert_it_goes_on(platform, world):
    with driver(platform, world) as second:
        assert second.wait(PATIENCE) == 0, world.output
    assert world.verdict().good, world.story()
