"""A driver that dies at any step loses nothing, invents nothing, and runs nothing twice.

The batch has four jobs, twenty in the soak. The driver is killed at its first point, and the same script run again;
then, with a new batch, at its second point; and so on, until one gets through without passing the point at which it
would die.
"""

import itertools
import signal
import threading

import pytest
from crash.drivers import Verdict, World, eventually, fork_server, has_digested

from canfar_batch import LocalPlatform

LANES = 4  #: drivers at a time: much of what they do is waiting
FORGET = 10.0  #: seconds after which the platform forgets, so that its list does not grow with the test


@pytest.mark.timeout(900)
def test_whatever_step_a_driver_dies_at_the_next_one_ends_the_batch_as_planned(tmp_path):
    died = kill_at_every_step(tmp_path, kills=1, jobs=4)
    assert any("commit" in place for place in died)
    assert any("POST" in place for place in died)
    assert any("view=logs" in place for place in died)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_driver_may_die_at_every_step_of_its_resumption_too(tmp_path):
    kill_at_every_step(tmp_path, kills=2, jobs=20)


@pytest.mark.timeout(900)
def test_a_driver_of_bundles_may_die_at_every_step(tmp_path):
    died = kill_at_every_step(tmp_path, kills=1, jobs=4, bundle=2, window=4)
    assert any("POST" in place for place in died)
    assert any("commit" in place for place in died)


def kill_at_every_step(directory, *, kills, jobs, **order):
    """Run a batch of *jobs* once for each step; where its drivers died. The first *kills* drivers of a batch die."""
    numbers, lock, total, died = itertools.count(1), threading.Lock(), Verdict(), []
    through = threading.Event()  # a driver passed all its points alive
    trouble = []

    def run_all(platform, server):
        nonlocal total
        while not through.is_set() and not trouble:
            with lock:
                number = next(numbers)
            world = World.make(directory / f"{number}", name=f"step{number}", settle=0.3, look=0.2, jobs=jobs, **order)
            points = world.directory / "points"
            codes = [-signal.SIGKILL]
            while codes[-1] == -signal.SIGKILL and len(codes) <= kills:
                codes.append(server.run(**world.order, kill_at=number, points=str(points)))
                assert eventually(lambda: has_digested(platform))
            if codes[1:] == [0]:
                through.set()
            if codes[-1] != 0:
                codes.append(server.run(**world.order))
            verdict = world.verdict()
            with lock:
                total += verdict
                died.extend(line for line in points.read_text().splitlines() if not line.isdigit())
                if codes[-1] != 0 or not verdict.good or verdict.starts != jobs:
                    trouble.append(f"step {number}: ended with {codes}, {verdict}\n{points.read_text()}{world.story()}")

    def lane():
        room = {"cores": 256, "ram": 4096}
        with LocalPlatform(**room, forget_after=FORGET) as platform, fork_server(platform, directory) as server:
            run_all(platform, server)

    threads = [threading.Thread(target=lane) for _ in range(LANES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{len(died)} steps: {total}")
    assert not trouble, "\n\n".join(trouble)
    assert through.is_set()
    return died
