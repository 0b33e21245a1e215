"""Keys that are made of the fields: readable, and the same in every run."""

import re
from pathlib import Path

from engine import SPEC
from fakes import Fate

from canfar_batch.records import JobState
from canfar_batch.spec import JobSpec, job_key
from canfar_batch.strategies import never


def test_keys_are_made_of_the_fields(world):
    names = ["M31", "J0534+2200", "NGC 1234", "M31(R)", "raw/night1.fits", Path("night2.fits"), 1.368761715]
    keys = ["M31", "J0534+2200", "NGC 1234", "M31(R)", "night1", "night2", "n1.369"]
    assert world.batch().map(SPEC, n=names) == keys
    assert world.batch("other").map(SPEC, n=names) == keys


def test_keys_have_the_fields_in_the_order_of_the_command(world):
    spec = JobSpec("fit --threshold {threshold} --sigma {sigma} {method}", image="i/i")
    (key, *_) = world.batch().grid(spec, method=["gauss"], sigma=[1.0, 2], threshold=[0.1], field=["a long remark"])
    assert key == "threshold0.1-sigma1-gauss-a long remark"


def test_only_a_key_that_is_taken_gets_a_hash(world):
    first, second, third = ["raw/f1.fits"], ["cal/f1.fits", "raw/f1.fits"], ["cal/F1.fits"]
    batch = world.batch()
    assert batch.map(SPEC, n=first) == ["f1"]
    keys = batch.map(SPEC, n=[*second, *third])
    assert keys[1] == "f1"
    assert all(re.fullmatch(r"[fF]1-[0-9a-f]{8}", key) for key in (keys[0], keys[2]))
    again = world.batch()
    assert again.map(SPEC, n=[*second, *third]) == keys
    assert again.map(SPEC, n=third) == keys[2:]
    assert len(again) == 3


def test_the_key_of_a_second_equal_row_is_not_that_of_another_row(world):
    rows = ["f2-2", "f2", "f2", "f2"]
    batch = world.batch()
    keys = batch.map(SPEC, n=rows)
    assert keys[:2] == ["f2-2", "f2"]
    assert len({*keys}) == 4
    assert batch.map(SPEC, n=rows) == world.batch().map(SPEC, n=rows) == keys
    assert len(batch) == 4


def test_a_command_with_another_order_of_fields_keeps_the_keys(world):
    world.platform.fate = lambda request: Fate(code=1)
    batch = world.batch(retry=never)
    keys = batch.map(JobSpec("fit {a} {b}", image="i/i"), a=[1], b=["x"])
    batch.run(progress=False)
    again = world.batch()
    assert again.map(JobSpec("fit -b {b} {a}", image="i/i"), a=[1], b=["x"]) == keys == ["a1-x"]
    assert [job.state for job in again] == [JobState.WAITING]


def test_a_ledger_of_an_earlier_version_keeps_its_keys(world):
    spec = JobSpec("fit {path} {seed}", image="i/i")
    fields = {"path": "raw/a.fits", "seed": 3}
    world.batch().add(spec, key=job_key(fields), **fields)  # as earlier versions named all jobs
    batch = world.batch()
    assert batch.map(spec, path=["raw/a.fits", "raw/b.fits"], seed=3) == [job_key(fields), "b-seed3"]
    assert len(batch) == 2


def test_jobs_without_fields_are_named_by_what_they_run(world):
    batch = world.batch()
    specs = [JobSpec(f"python fit.py {n}", image="i/i") for n in (1, 2)]
    keys = [batch.add(spec).key for spec in (*specs, *specs)]
    assert keys[0] == keys[2] == "fit"
    assert re.fullmatch("fit-[0-9a-f]{8}", keys[1])
    assert keys[3] == keys[1]
