"""Outputs: no two jobs write the same file."""

from pathlib import Path

import pytest
from engine import World

from canfar_batch import errors
from canfar_batch.spec import JobSpec


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


CAT = JobSpec("fit {path}", image="i/i", outputs=["cat/{path.stem}.cat"])


def nights(*names):
    return [Path(name) for name in names]


@pytest.mark.parametrize("second", ["night2/sci.fits", "night2/SCI.fits"])
def test_two_jobs_with_one_output_are_refused_with_both_keys(world, second):
    with pytest.raises(errors.PlanError, match=r"the jobs 'a' and 'b' would both write the output 'cat/\w+.cat'"):
        world.batch().map(CAT, path=nights("night1/sci.fits", second), key="{k}", k=["a", "b"])


def test_an_output_of_a_known_job_is_refused(world):
    batch = world.batch()
    batch.add(CAT, key="a", path=Path("night1/sci.fits"))
    with pytest.raises(errors.PlanError, match="'a' and 'b'"):
        batch.add(CAT, key="b", path=Path("night2/sci.fits"))
    batch.close()
    again = world.batch()
    with pytest.raises(errors.PlanError, match="'a' and 'b'"):
        again.add(CAT, key="b", path=Path("night2/sci.fits"))
    again.add(CAT, key="a", path=Path("night1/sci.fits"))
    again.drop("a")
    again.add(CAT, key="b", path=Path("night2/sci.fits"))


def test_outputs_are_compared_as_the_disk_resolves_them(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").symlink_to("one")
    for outputs in ("{x}/a.cat", "./{x}/../one/a.cat", str(tmp_path / "{x}/a.cat")):
        with pytest.raises(errors.PlanError, match="would both write"):
            world.batch().map(JobSpec("fit", image="i/i", outputs=outputs), x=["one", "two"])
    in_folders = JobSpec("fit", image="i/i", workdir="{x}", outputs="a.cat")
    world.batch().map(in_folders, x=["one", "three"])
    with pytest.raises(errors.PlanError, match="would both write"):
        world.batch("other").map(in_folders, x=["one", "two"])


@pytest.mark.parametrize(
    ("first", "second"), [("cat/*.cat", "cat/*.cat"), ("cat/*.cat", "cat/a.cat"), ("cat/a.cat", "cat/?.cat")]
)
def test_a_pattern_claims_the_files_that_it_matches(world, first, second):
    batch = world.batch()
    batch.add(JobSpec("fit", image="i/i", outputs=first), key="a")
    with pytest.raises(errors.PlanError, match="'a' and 'b'"):
        batch.add(JobSpec("fit", image="i/i", outputs=second), key="b")


def test_different_outputs_are_accepted(world):
    batch = world.batch()
    batch.map(JobSpec("fit", image="i/i", outputs=["{key}_*.cat", "{key}.log"]), n=["a", "ab"], key="{n}")
    batch.map(JobSpec("fit", image="i/i", outputs=["other/{n}.cat"]), n=["a", "ab"], key="other-{n}")
    assert len(batch) == 4
