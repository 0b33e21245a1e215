"""Whatever a cluster does to a container, the verdict does not contradict the truth, and no job runs twice at once."""

from __future__ import annotations

import random
import tempfile
from functools import partial
from pathlib import Path

import attrs
import pytest
from engine import SPEC, World, abandon, ledger_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulation.checks import check_attempt, check_retries
from simulation.cluster import OUTPUT, Cluster

from canfar_batch import failures
from canfar_batch.errors import LeaseLost
from canfar_batch.strategies import Listing, OneByOne, Retry


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32 - 1),
    jobs=st.integers(1, 6),
    visible=st.booleans(),
    outputs=st.booleans(),
    pending_timeout=st.sampled_from((None, 20.0, 60.0, 400.0)),
    monitor=st.sampled_from((Listing(), Listing(every=(1.0, 2.0)), OneByOne())),
    retries_deleted=st.booleans(),
    drivers=st.lists(st.sampled_from(("leaves", "is killed", "is replaced")), max_size=2),
    wrapped=st.sampled_from((True, True, True, False)),
    timeout=st.sampled_from((None, None, 30.0, 200.0)),
    cancels=st.booleans(),
)
def test_no_verdict_contradicts_the_truth(
    seed, jobs, visible, outputs, pending_timeout, monitor, retries_deleted, drivers, wrapped, timeout, cancels
):
    outputs, timeout = outputs and wrapped, timeout if wrapped else None  # the wrapper polls after both
    cluster = Cluster(random.Random(seed), visible=visible, outputs=outputs, wrapped=wrapped, timeout=timeout)
    cluster.is_unbroken = not drivers  # one that is replaced may not have recorded its last poll
    spec = attrs.evolve(
        SPEC, outputs=(OUTPUT,) * outputs, pending_timeout=pending_timeout, receipt=wrapped, timeout=timeout
    )
    retry = Retry(2, classes=[failures.Deleted] * retries_deleted)
    with tempfile.TemporaryDirectory() as place:
        world = World(Path(place))
        world.platform, world.clock = cluster, cluster.clock
        how = {"monitor": monitor, "retry": retry}
        batch = cluster.batch = world.planned(jobs, spec, **how)
        (Path(batch.home) / "receipts").mkdir(exist_ok=True)
        for fate in drivers:
            world.turn(batch, cluster.rng.choice((3, 30, 300)))
            again = partial(world.planned, jobs, spec, **how)
            batch = cluster.batch = change_driver(world, batch, fate, cluster, how, again)
        if cancels:
            world.turn(batch, cluster.rng.choice((3, 30, 300)))
            cluster.cancelled = {job.key for job in batch.records if cluster.rng.random() < 0.4}
            batch.cancel(sorted(cluster.cancelled))
        batch.run(progress=False, stop_alike=None, timeout=200_000)
        assert cluster.violations == []
        for job in batch.records:
            assert job.state.final
            for attempt in job.attempts:
                check_attempt(attempt, cluster)
            check_retries(job, retries_deleted, cluster)
        batch.close()


def change_driver(world, batch, fate, cluster, how, open_again):
    """Let another driver take over, as the *fate* of the first has it; return its batch."""
    if fate == "is replaced":
        other = world.batch(**how)
        ledger_of(other).acquire(takeover=True)
        cluster.forget_sights()
        with pytest.raises(LeaseLost):
            world.turn(batch, 3600)
        return other
    if fate == "leaves":
        batch.close()
    else:
        abandon(batch)
    cluster.forget_sights()
    world.clock.sleep(cluster.rng.choice((0, 30, 900)))
    return open_again()
