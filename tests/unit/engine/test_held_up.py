"""Jobs that may wait for ever."""

import pytest
from engine import SPEC
from fakes import Fate

from canfar_batch.spec import JobSpec

LARGE = JobSpec("fit {n}", image="skaha/astroml", cores=16, ram=4)
WARNING = "may be larger than the cluster can take"


def never_begins(*cores):
    return lambda request: Fate(queue=1e6) if request.resources.cores in cores else Fate(lasts=60)


def said(caplog):
    return [record.getMessage() for record in caplog.records if WARNING in record.getMessage()]


@pytest.fixture
def batch(world):
    made = world.batch()
    made.map(LARGE, key="l{n}", n=range(3))
    made.map(SPEC, key="j{n}", n=range(40))
    return made


def test_a_job_that_smaller_and_later_ones_overtake_is_reported_once(world, batch, caplog):
    world.platform.fate = never_begins(16)
    world.turn(batch, 250)
    assert said(caplog) == []
    world.turn(batch, 3600)
    assert len(said(caplog)) == 1
    assert "job l0 (16 cores, 4 GiB of memory)" in said(caplog)[0]


def test_nothing_is_said_if_one_of_that_size_has_begun(world, batch, caplog):
    first = iter([Fate(lasts=60)])
    slow = never_begins(16)
    world.platform.fate = lambda request: next(first, None) or slow(request)
    world.turn(batch, 3600)
    assert said(caplog) == []


def test_nothing_is_said_while_nothing_begins(world, batch, caplog):
    world.platform.fate = never_begins(16, None)
    world.turn(batch, 3500)
    assert said(caplog) == []


def test_every_view_shows_a_job_that_is_overtaken(world, batch):
    world.platform.fate = never_begins(16)
    world.turn(batch, 900)
    assert WARNING in batch["l0"].explain()
    assert WARNING in batch.explain()
    assert WARNING in batch.to_rows()[0]["warning"]
    assert f"3 jobs: it {WARNING}" in " ".join(str(batch.report()).split())
    batch.cancel(["l0"])
    world.turn(batch, 300)
    assert WARNING not in batch["l0"].explain()


def test_what_ran_before_another_driver_came_counts(world, batch):
    world.platform.fate = lambda request: Fate(lasts=60)
    world.turn(batch, 1000)
    batch.close()
    again = world.batch()
    again.map(LARGE, key="more{n}", n=range(1))
    again.map(SPEC, key="k{n}", n=range(3))
    world.platform.fate = never_begins(16)
    world.turn(again, 1000)
    assert WARNING not in again["more0"].explain()


def test_a_job_that_waits_for_longer_than_the_user_set_is_named(world):
    world.platform.fate = never_begins(None)
    batch = world.planned(2, long_wait=120.0)
    world.turn(batch, 110)
    assert "waited for long" not in batch["j0"].explain()
    world.turn(batch, 40)
    assert "waited for long" in batch["j0"].explain()
    assert "2 jobs may wait for ever, such as j0" in batch.explain()
