"""Batches that were planned and run before."""

import pytest
from fakes import Fate, failing


@pytest.fixture
def half_failed(world):
    """A batch of which j0 failed and j1 succeeded, as a finished script left it."""
    world.platform.fate = failing(0)
    with world.planned(2) as batch:
        batch.run(progress=False)
    world.platform.fate = lambda request: Fate()
    return world
