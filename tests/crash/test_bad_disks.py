"""Disks that sync slowly or fail to, and drivers that are stopped for longer than the platform remembers."""

import random
import signal
import subprocess
import time

import pytest
from crash.drivers import PATIENCE, World, driver, eventually, fork_server
from crash.test_random_kills import bad_day, forgetful, jobs_of

#: stands before the C library's own: each call waits, and each N-th fails as a disk does that is ill
SHIM = """
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static unsigned long calls;
static int ill(void) {
  const char *every = getenv("TEST_SYNC_FAILS_EVERY"), *wait = getenv("TEST_SYNC_WAITS");
  if (wait) { struct timespec pause = {0, atol(wait) * 1000000L}; nanosleep(&pause, 0); }
  if (every && ++calls % (unsigned long)atol(every) == 0) { errno = EIO; return 1; }
  return 0;
}
int fsync(int file) { return ill() ? -1 : (int)syscall(SYS_fsync, file); }
int fdatasync(int file) { return ill() ? -1 : (int)syscall(SYS_fdatasync, file); }
"""


@pytest.fixture
def shim(tmp_path, monkeypatch):
    """Let drivers be started with the shim."""
    library = tmp_path / "shim.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", library], input=SHIM, text=True, check=True, timeout=60
    )
    monkeypatch.setenv("LD_PRELOAD", str(library))


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("fails_every", "waits"), [("0", "100"), ("7", "0"), ("25", "20")])
def test_a_disk_that_syncs_slowly_or_fails_to_costs_time_and_no_job(
    platform, shim, tmp_path, seed, monkeypatch, fails_every, waits
):
    monkeypatch.setenv("TEST_SYNC_WAITS", waits)
    if fails_every != "0":
        monkeypatch.setenv("TEST_SYNC_FAILS_EVERY", fails_every)
    world = World.make(tmp_path / "world", **jobs_of(random.Random(seed), 40))
    runs, code = 0, 1
    with fork_server(platform, tmp_path) as server:
        while code != 0 and runs < 200:
            code, runs = server.run(**world.order), runs + 1
    assert code == 0, world.output[-3000:]
    assert platform.wait_idle(PATIENCE)
    monkeypatch.delenv("LD_PRELOAD")
    verdict = world.verdict()
    errors = world.output.count("ended by HomeError")
    print(
        f"every {fails_every}th sync fails, each takes {waits} ms: {runs} runs, {errors} ended by the disk: {verdict}"
    )
    assert verdict.good, f"{verdict}\n{world.story()}"


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_driver_that_is_stopped_for_longer_than_the_platform_remembers_goes_on(tmp_path, seed):
    chance, stops = random.Random(seed), 6
    with forgetful() as platform:
        faults = bad_day(platform, chance)
        world = World.make(tmp_path / "world", **jobs_of(chance, 60))
        with driver(platform, world) as process:
            for _ in range(stops):
                time.sleep(chance.uniform(0.3, 1.0))
                process.send_signal(signal.SIGSTOP)
                assert platform.wait_idle(PATIENCE)
                time.sleep(2.0)  # the platform remembers for one second
                process.send_signal(signal.SIGCONT)
            assert eventually(lambda: process.poll() is not None), world.output[-3000:]
        assert process.returncode == 0, world.output[-3000:]
        assert platform.wait_idle(PATIENCE)
        verdict = world.verdict()
    print(f"{stops} stops, {sum(fault.hits for fault in faults)} faults: {verdict}")
    assert verdict.good, f"{verdict}\n{world.story()}"
