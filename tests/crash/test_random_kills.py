"""A driver that is killed again and again, at any moment, on a platform that has a bad day."""

import random
import signal
import time

import pytest
from crash.drivers import Verdict, World, eventually, has_digested

from canfar_batch.local.faults import after, answer, bad_gateway, drop, empty_list, late, rewrite

SETTLE = 3.0  #: seconds; everything that comes late here comes sooner
BUSY = {"Retry-After": "0"}
KILLS_OF_ONE = 25  #: how often one batch's driver is killed before it may go on to the end


def bad_day(platform, chance):
    """Faults of every kind at once: about every tenth launch, look and log goes wrong."""
    faults = [
        (answer(429, "Too many requests", BUSY), "create", 0.03),
        (answer(503, "unable to process request; please retry", BUSY), "create", 0.02),
        (drop(), "create", 0.02),  # lost on the way there
        (after(drop()), "create", 0.04),  # made, and the answer lost on the way back
        (after(bad_gateway()), "create", 0.04),
        (late(0.4), "create", 0.03),  # the gateway gave up, the service did not
        (empty_list(), "list", 0.05),
        (answer(500, "cannot list"), "list", 0.04),
        (bad_gateway(), "list", 0.03),
        (drop(), "list", 0.02),
        (answer(500, "no logs"), "logs", 0.05),
        (rewrite(lambda body: body[: len(body) // 2]), "logs", 0.03),
        (drop(), "any", 0.01),
    ]
    return [
        platform.faults.add(action, on=on, probability=share, seed=chance.randrange(10**9))
        for action, on, share in faults
    ]


def jobs_of(chance, count):
    """How long each job takes, and which of them fail by design, with which exit code."""
    seconds = [round(chance.uniform(0.02, 0.8), 3) for _ in range(count)]
    failing = [(number, chance.randrange(1, 97)) for number in range(count) if chance.random() < 0.1]
    return {"jobs": count, "seconds": seconds, "failing": failing, "window": 16, "settle": SETTLE, "scale": 0.02}


def kill_at_random(platform, server, world, chance, *, kills, away=0.0, signals=(signal.SIGKILL,)):
    """Run a batch whose drivers are killed, each after a moment; how many were."""
    killed = 0
    for _ in range(kills):
        pid = server.start(**world.order)
        time.sleep(chance.uniform(0.1, 0.9))
        code = kill(server, pid, chance.choice(signals))
        if code == 0:
            return killed
        killed += 1
        assert eventually(lambda: has_digested(platform))
        time.sleep(chance.uniform(0, 2 * away))
    code = server.run(**world.order)
    assert code == 0, f"ended with {code}\n{world.tell()}"
    return killed


def kill(server, pid, number):
    """Send a signal to a driver, which may have ended by itself; its exit code."""
    server.kill(pid, number)
    return server.wait()


def check(world, platform):
    verdict = world.verdict()
    assert verdict.good, f"{verdict}\n{verdict.lost} {verdict.false} {verdict.wrong} {verdict.twice}\n{world.tell()}"
    assert eventually(lambda: platform.wait_idle(0))
    assert world.verdict().good, "something ran on after the batch was done"
    return verdict


@pytest.mark.timeout(600)
def test_fifty_kills_on_a_bad_day_lose_nothing_and_run_nothing_twice(platform, server, tmp_path, seed):
    chance = random.Random(seed)
    faults, killed, total = bad_day(platform, chance), 0, Verdict()
    for number in range(20):
        world = World.make(tmp_path / f"{number}", name=f"day{number}", **jobs_of(chance, 100))
        killed += kill_at_random(platform, server, world, chance, kills=KILLS_OF_ONE)
        total += check(world, platform)
        if killed >= 50:
            break
    print(f"{killed} kills, {sum(fault.hits for fault in faults)} faults: {total}")
    assert killed >= 50
