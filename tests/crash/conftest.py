"""How much of the crash tests is run: a part by default, more with `-m soak` and `--kills`."""

import random

import pytest
from crash.drivers import World, fork_server

from canfar_batch import LocalPlatform


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=1000, help="how often the soak kills its drivers at random")
    parser.addoption("--seed", type=int, default=None, help="the seed of the random kills and faults, to repeat them")


@pytest.fixture
def seed(request):
    """The seed of all chance in a test; printed if the test fails."""
    given = request.config.getoption("--seed", None)  # unknown where all tests are run
    chosen = random.SystemRandom().randrange(10**9) if given is None else given
    print(f"repeat this with --seed {chosen}")
    return chosen


@pytest.fixture
def platform():
    """A platform with room for all jobs at once."""
    with LocalPlatform(cores=256, ram=4096, termination_grace=0.5) as running:
        yield running


@pytest.fixture
def server(platform, tmp_path):
    """Starts drivers at little cost."""
    with fork_server(platform, tmp_path) as running:
        yield running


@pytest.fixture
def world(tmp_path):
    """The place of one batch of twenty jobs."""
    return World.make(tmp_path / "world")
