"""A platform that is away for a while, a credential that is not accepted, a disk that is full: no job fails by it."""

import os
import subprocess
import time

import pytest
from crash.drivers import PATIENCE, World, driver, eventually

from canfar_batch.local.faults import answer, bad_gateway, drop, empty_list, login_page

AWAY = 2.5  #: seconds


@pytest.fixture
def long(tmp_path):
    """A batch of which the first jobs run while the others wait for them."""
    return World.make(tmp_path / "long", jobs=12, seconds=[0.3] * 12, window=4, settle=3.0, scale=0.05, timeout=1.0)


def hang(call):
    """Answer nothing until the client has given up, and act then."""
    call.sleep(1.5)
    return call.proceed()


@pytest.mark.parametrize(
    "fault",
    [bad_gateway(), answer(500, "internal error"), drop(), login_page(), hang, answer(403, "you may not")],
    ids=["bad gateway", "server error", "reset", "login page", "silence", "forbidden"],
)
def test_a_platform_that_is_away_for_a_while_costs_time_and_no_job(platform, long, fault):
    with driver(platform, long) as first:
        assert eventually(lambda: sum(long.starts().values()) >= 2)
        with platform.faults.during(fault, where=lambda request: request.method == "GET") as away:
            time.sleep(AWAY)  # how often it asked meanwhile does not matter, as long as it did
            assert eventually(lambda: away.hits >= 2)
        assert first.wait(PATIENCE) == 0, long.output
    assert long.verdict().good, long.story()


@pytest.mark.parametrize("fault", [bad_gateway(), drop(), login_page()], ids=["bad gateway", "reset", "login page"])
def test_launches_into_an_outage_are_resolved_when_it_ends(platform, long, fault):
    with platform.faults.during(fault, on="create") as away, driver(platform, long) as first:
        assert eventually(lambda: away.hits >= 4)
        platform.faults.remove(away)
        assert first.wait(PATIENCE) == 0, long.output
    assert long.verdict().good, long.story()


def test_a_platform_that_is_away_from_the_start_is_waited_for(platform, long):
    with platform.faults.during(drop()) as away, driver(platform, long) as first:
        assert eventually(lambda: away.hits >= 5)
        platform.faults.remove(away)
        assert first.wait(PATIENCE) == 0, long.output
    assert long.verdict().good, long.story()


def test_a_credential_that_is_refused_for_a_while_pauses_the_batch(platform, long):
    with driver(platform, long) as first:
        assert eventually(lambda: sum(long.starts().values()) >= 2)
        with platform.faults.during(answer(401, "Invalid JWT token")):
            assert eventually(lambda: "nothing is launched until this is fixed" in long.output)
            time.sleep(AWAY)
            assert first.poll() is None
        assert first.wait(PATIENCE) == 0, long.output
    assert "; going on" in long.output
    assert long.verdict().good, long.story()


def test_a_list_that_is_empty_for_longer_than_the_settle_time_causes_no_second_launch(platform, long):
    with driver(platform, long, settle=0.3) as first:
        assert eventually(lambda: sum(long.starts().values()) >= 4)
        with platform.faults.during(empty_list(), on="list") as lies:
            assert eventually(lambda: lies.hits >= 10)
        assert first.wait(PATIENCE) == 0, long.output
    assert long.verdict().good, long.story()


# -- a full disk --------------------------------------------------------------------------------------------------


def test_a_disk_that_is_full_ends_the_run_and_loses_nothing(platform, long):
    with driver(platform, long) as first:
        assert eventually(lambda: sum(long.starts().values()) >= 2)
        first.kill()
        first.wait(PATIENCE)
    size = os.path.getsize(long.ledger)
    with driver(platform, long, most_bytes=size) as full:
        assert full.wait(PATIENCE) == 3
    assert "ended by HomeError" in long.output
    assert "Nothing that was recorded is lost" in long.output
    with driver(platform, long) as last:
        assert last.wait(PATIENCE) == 0, long.output
    assert long.verdict().good, long.story()


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2 MiB, if one may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", place]).returncode:
        pytest.skip("only root may mount a small disk")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_fills_up_during_a_run_ends_it_and_the_next_run_goes_on(platform, tmp_path, small_disk):
    world = World.make(tmp_path / "long", jobs=12, seconds=[0.3] * 12, window=4, settle=3.0)
    world.order["home"] = str(small_disk / "homes")
    with driver(platform, world) as first:
        assert eventually(lambda: sum(world.starts().values()) >= 2)
        fill(small_disk / "ballast")
        assert first.wait(PATIENCE) == 3
    assert "ended by HomeError" in world.output
    (small_disk / "ballast").unlink()
    with driver(platform, world) as last:
        assert last.wait(PATIENCE) == 0, world.output
    assert world.verdict().good, world.story()


def fill(path):
    with open(path, "wb", buffering=0) as file:
        for size in (65536, 4096):
            for _ in range(10_000):
                try:
                    file.write(b"\0" * size)
                except OSError:
                    break
