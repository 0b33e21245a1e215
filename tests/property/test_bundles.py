"""Whatever becomes of bundles and their drivers: nothing is lost or invented, and only tasks in flight run twice."""

import pytest
from simulation.history import play

from canfar_batch.payload.receipts import mark


@pytest.mark.parametrize("seed", range(40))
def test_every_history_of_bundles_ends_well(seed):
    assert play(seed, bundles=True).counts["of bundles"] == 1


def test_names_of_runs_differ_within_a_bundle():
    assert mark("x", None) == "x"
    assert mark("x", 3) == "x.3"
