"""Monitor strategies: how and when the platform is polled."""

import pytest
from engine import always, engine_of, raising
from fakes import EPOCH, FakePlatform, Fate
from unit.strategies.asked import ago, record, view

from canfar_batch import errors
from canfar_batch.protocols import BatchView
from canfar_batch.strategies import Listing, OneByOne


def test_listing_polls_often_if_jobs_change_and_rarely_if_not():
    platform = FakePlatform()
    busy = [Listing()(platform, view(finishes=ago(3))).wait for _ in range(20)]
    quiet = [Listing()(platform, view(launches=ago(3000), finishes=ago(4000))).wait for _ in range(20)]
    assert 4.5 <= min(busy) < max(busy) <= 5.5
    assert 54 <= min(quiet) < max(quiet) <= 66


@pytest.mark.parametrize("every", [(0, 5), (6, 5), (-1, 1)])
def test_listing_refuses_invalid_times(every):
    with pytest.raises(ValueError):
        Listing(every=every)


def test_one_by_one_asks_for_each_and_lists_only_in_doubt(world):
    world.platform.fate = lambda request: Fate(lasts=1e6)
    batch = world.planned(3, monitor=OneByOne())
    world.turn(batch, 10)
    before = world.platform.calls.copy()
    batch.observe()
    assert world.platform.calls - before == {"container": 3}


def test_one_by_one_tolerates_single_failures_only():
    platform = FakePlatform()
    platform.before["container"] = raising(*[errors.PlatformBroken("no")] * 3)
    jobs = [record(n) for n in range(4)]
    from canfar_batch.lifecycle import Intended, Launched, apply
    from canfar_batch.records import Resources

    active = [
        apply(apply(job, Intended(key=job.key, at=EPOCH, launch_name="x", resources=Resources())),
              Launched(key=job.key, at=EPOCH, id=job.key))
        for job in jobs
    ]  # fmt: skip
    seen = BatchView(now=EPOCH, counts={}, containers=4, active=lambda: active)
    with pytest.raises(errors.PlatformBroken):
        OneByOne()(platform, seen)
    platform.before["container"] = raising(errors.PlatformBroken("no"))
    assert OneByOne()(platform, seen).containers == {"j1": None, "j2": None, "j3": None}


def test_one_by_one_without_any_answer_has_failed(world):
    world.platform.fate = lambda request: Fate(lasts=1e6)
    batch = world.planned(2, monitor=OneByOne())
    world.turn(batch, 10)
    world.platform.before["container"] = always(errors.PlatformBroken("no"))
    batch.observe()
    assert isinstance(engine_of(batch).trouble, errors.PlatformBroken)
