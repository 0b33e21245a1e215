"""Outputs: no two jobs write the same file."""

from pathlib import Path

import pytest

from canfar_batch import errors
from canfar_batch.spec import JobSpec
from canfar_batch.strategies import Files, Json, Logs, Serial

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


@pytest.mark.parametrize(
    ("first", "second"),
    [("cat", "cat/b.cat"), ("cat/b.cat", "cat"), ("cat/deep/er", "Cat"), ("cat", "cat/*/b.cat"), ("cat/x/*", "cat/x")],
)
def test_a_folder_and_a_file_in_it_belong_to_one_job(world, first, second):
    batch = world.batch()
    batch.add(JobSpec("fit", image="i/i", outputs=first), key="a")
    with pytest.raises(errors.PlanError, match="'a' and 'b' would share files"):
        batch.add(JobSpec("fit", image="i/i", outputs=second), key="b")
    with pytest.raises(errors.PlanError, match="would share files"):
        world.batch("other").map(JobSpec("fit", image="i/i", outputs="{x}"), x=[first, second])
    batch.drop("a")
    batch.add(JobSpec("fit", image="i/i", outputs=second), key="b")


def test_folders_that_only_look_alike_and_a_job_s_own_are_accepted(world):
    batch = world.batch()
    batch.map(JobSpec("fit", image="i/i", outputs=["{n}", "{n}/a", "{n}/b/c", "{n}.log"]), n=["cat", "cat2"])
    batch.map(JobSpec("fit", image="i/i", outputs=["{n}", "{n}/a", "{n}/b/c", "{n}.log"]), n=["cat", "cat2"])
    assert len(batch) == 2


def test_different_outputs_are_accepted(world):
    batch = world.batch()
    batch.map(JobSpec("fit", image="i/i", outputs=["{key}_*.cat", "{key}.log"]), n=["a", "ab"], key="{n}")
    batch.map(JobSpec("fit", image="i/i", outputs=["other/{n}.cat"]), n=["a", "ab"], key="other-{n}")
    assert len(batch) == 4


@pytest.mark.parametrize(
    ("first", "second"),
    [
        *(("cat/fit-1*.cat", "cat/fit-10*.cat"), ("cat/*_1.cat", "cat/a_*.cat"), ("cat/a?.cat", "cat/[ab]b.cat")),
        *(("cat", "cat/"), ("a*", "a*b"), ("a*b", "a*"), ("\u00e9.cat", "e\u0301.cat"), ("x*", "x1.cat")),
    ],
)
def test_patterns_that_may_match_one_file_are_refused(world, first, second):
    batch = world.batch()
    batch.add(JobSpec("fit", image="i/i", outputs=first), key="a")
    with pytest.raises(errors.PlanError, match="'a' and 'b'"):
        batch.add(JobSpec("fit", image="i/i", outputs=second), key="b")
    batch.drop("a")
    batch.add(JobSpec("fit", image="i/i", outputs=second), key="b")


def test_an_output_that_is_a_link_to_another_is_refused(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.cat").touch()
    (tmp_path / "soft.cat").symlink_to("a.cat")
    (tmp_path / "hard.cat").hardlink_to("a.cat")
    for number, link in enumerate(("soft.cat", "hard.cat")):
        with pytest.raises(errors.PlanError, match="would both write"):
            world.batch(f"b{number}").map(JobSpec("fit", image="i/i", outputs="{x}"), x=["a.cat", link])


@pytest.mark.parametrize(
    "collect",
    [Files("cat/*.cat"), Json("quality.json"), {"log": Logs(), "cat": Files("{n}*.cat")}, Serial(Files("a.cat"))],
)
def test_files_that_the_collector_would_give_to_two_jobs_are_refused(world, collect):
    batch = world.batch(collect=collect)
    with pytest.raises(errors.PlanError, match=r"'a' and 'b' may have the same files as results: .* also matches"):
        batch.map(JobSpec("fit {n}", image="i/i"), n=["1", "10"], key="{k}", k=["a", "b"])
    batch.map(JobSpec("fit {n}", image="i/i", workdir="{n}"), n=["1", "10"], key="{k}", k=["a", "b"])


def test_a_collector_that_would_find_the_output_of_another_job_is_refused(world):
    batch = world.batch(collect=Files("cat/*.cat"))
    batch.add(JobSpec("fit", image="i/i", outputs="cat/a.cat"), key="a")
    with pytest.raises(errors.PlanError, match=r"'a' and 'b'"):
        batch.add(JobSpec("fit", image="i/i", outputs="cat/b.cat"), key="b")


def test_another_collector_is_compared_when_it_is_used(world):
    world.planned(2).close()
    batch = world.batch(collect=Json("quality.json"))
    for use in (batch.run, batch.start, batch.collect):
        with pytest.raises(errors.PlanError, match=r"'j0' and 'j1' may have the same files as results"):
            use()
    batch.close()
    with world.batch() as batch:
        assert batch.run(progress=False).ok
