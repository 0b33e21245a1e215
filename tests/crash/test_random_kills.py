"""A driver that is killed again and again, at any moment, on a platform that has a bad day."""

import collections
import random
import signal
import threading
import time

import attrs
import pytest
from crash.drivers import PATIENCE, Verdict, World, eventually, fork_server, has_digested

from canfar_batch import LocalPlatform
from canfar_batch.local.faults import after, answer, bad_gateway, drop, empty_list, half, late, partial_list

SETTLE = 3.0  #: seconds; everything that comes late here comes sooner
BUSY = {"Retry-After": "0"}
LANES = 4  #: of the soak
ROOM = {"cores": 256, "ram": 4096}  #: for all jobs at once
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
        (partial_list(0.5), "list", 0.02),
        (Stale(chance.randrange(10**9)), "list", 1.0),
        (answer(500, "cannot list"), "list", 0.04),
        (bad_gateway(), "list", 0.03),
        (drop(), "list", 0.02),
        (answer(500, "no logs"), "logs", 0.05),
        (half(), "logs", 0.03),
        (drop(), "any", 0.01),
    ]
    made = [
        platform.faults.add(action, on=on, probability=share, seed=chance.randrange(10**9))
        for action, on, share in faults
    ]
    return [fault for fault in made if fault.probability < 1]


class Stale:
    """Now and then an older list, as from a cache."""

    def __init__(self, seed):
        self.chance, self.kept = random.Random(seed), collections.deque(maxlen=5)

    def __call__(self, call):
        self.kept.append(call.proceed())
        return self.kept[0] if self.chance.random() < 0.04 else self.kept[-1]


def jobs_of(chance, count):
    """How long each job takes, and which of them fail by design, with which exit code."""
    seconds = [round(chance.uniform(0.02, 0.8), 3) for _ in range(count)]
    failing = [(number, chance.randrange(1, 97)) for number in range(count) if chance.random() < 0.1]
    return {"jobs": count, "seconds": seconds, "failing": failing, "window": 16, "settle": SETTLE, "scale": 0.02}


def kill_at_random(platform, server, world, chance, *, kills, away=0.0, signals=(signal.SIGKILL,)):
    """Run a batch whose drivers are killed, each after a moment, and the last of which is not; how many were."""
    killed = 0
    for _ in range(kills):
        pid = server.start(**world.order)
        time.sleep(min(chance.expovariate(1 / 0.5), 5.0))
        server.kill(pid, chance.choice(signals))
        if server.wait() == 0:
            return killed  # it was faster
        killed += 1
        assert eventually(lambda: has_digested(platform))
        time.sleep(chance.uniform(0, 2 * away))
    code = server.run(**world.order)
    assert code == 0, f"ended with {code}\n{world.story()}"
    return killed


def check(world, platform):
    """What became of a batch that is done, and of which nothing may run any more."""
    assert platform.wait_idle(PATIENCE)
    verdict = world.verdict()
    assert verdict.good, f"{verdict}\n{verdict.lost} {verdict.false} {verdict.wrong} {verdict.twice}\n{world.story()}"
    return verdict


def kill_many(platform, server, directory, chance, *, kills, **how):
    """Kill the drivers of as many batches as it takes; the figures of all of them."""
    killed, total = 0, Verdict()
    for number in range(kills):
        world = World.make(directory / f"{number}", name=f"day{number}", **jobs_of(chance, 100))
        killed += kill_at_random(platform, server, world, chance, kills=min(KILLS_OF_ONE, kills - killed), **how)
        total += check(world, platform)
        if killed >= kills:
            break
    return killed, total


@pytest.mark.timeout(600)
@pytest.mark.parametrize("half", [0, 1])  # of twenty kills, so that two processes may share them
def test_twenty_kills_on_a_bad_day_lose_nothing_and_run_nothing_twice(platform, server, tmp_path, seed, half):
    chance = random.Random(seed + half)
    faults = bad_day(platform, chance)
    killed, total = kill_many(platform, server, tmp_path, chance, kills=10)
    print(f"{killed} kills, {sum(fault.hits for fault in faults)} faults: {total}")
    assert killed == 10


@pytest.mark.timeout(600)
def test_ends_that_the_platform_forgot_while_no_driver_ran_are_in_the_receipts(tmp_path, seed):
    chance = random.Random(seed)
    with forgetful() as platform, fork_server(platform, tmp_path) as server:
        faults = bad_day(platform, chance)
        killed, total = kill_many(platform, server, tmp_path, chance, kills=3, away=1.5)
    print(f"{killed} kills, {sum(fault.hits for fault in faults)} faults: {total}")
    assert killed == 3


@pytest.mark.timeout(600)
def test_whatever_signal_ends_a_driver_the_next_one_goes_on(platform, server, tmp_path, seed):
    chance = random.Random(seed)
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGKILL)
    killed, total = kill_many(platform, server, tmp_path, chance, kills=5, signals=signals)
    print(f"{killed} signals: {total}")
    assert killed == 5


# -- the soak -----------------------------------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_thousand_kills_lose_nothing_and_run_nothing_twice(tmp_path, seed, request):
    """As many kills as `--kills` says, on four platforms at once, two of which forget within a second."""
    kills, trouble, sums, lock = request.config.getoption("--kills", 1000), [], Figures(), threading.Lock()

    def lane(number):
        chance = random.Random(seed + number)
        directory = tmp_path / f"lane{number}"
        directory.mkdir()
        made, away = (forgetful(), 1.0) if number % 2 else (LocalPlatform(**ROOM), 0.0)
        try:
            with made as platform, fork_server(platform, directory) as server:
                faults = bad_day(platform, chance)
                killed, total = kill_many(platform, server, directory, chance, kills=kills // LANES, away=away)
                with lock:
                    sums.kills += killed
                    sums.faults += sum(fault.hits for fault in faults)
                    sums.verdict += total
        except BaseException as error:
            trouble.append(f"lane {number}: {error}")
            raise

    threads = [threading.Thread(target=lane, args=(number,)) for number in range(LANES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{sums.kills} kills, {sums.faults} faults: {sums.verdict}")
    assert not trouble, "\n\n".join(trouble)


@attrs.define
class Figures:
    kills: int = 0
    faults: int = 0
    verdict: Verdict = attrs.field(factory=Verdict)


def forgetful():
    """A platform that remembers a job for one second after its end."""
    return LocalPlatform(**ROOM, forget_after=1.0)
