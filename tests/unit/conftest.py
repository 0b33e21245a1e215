"""What unit tests share."""

import pytest
from engine import World


@pytest.fixture
def world(tmp_path):
    """A clock, a platform in memory, and a directory for batches."""
    return World(tmp_path)
