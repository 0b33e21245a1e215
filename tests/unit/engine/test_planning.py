"""Plans: from columns, grids and tables to jobs, and what a changed plan means for jobs that are known."""

from pathlib import Path

import pytest
from engine import SPEC, World

from canfar_batch import errors
from canfar_batch.records import JobState
from canfar_batch.spec import JobSpec

PLACED = JobSpec("fit {n} {index}", image="skaha/astroml")


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def commands(batch):
    return [" ".join(job.filled.argv) for job in batch.records]


# -- shapes -------------------------------------------------------------------------------------------------------


def test_columns_go_side_by_side_and_scalars_repeat(world):
    batch = world.batch()
    batch.map(JobSpec("fit {a} {b} {c}", image="i/i"), a=[1, 2], b=(x for x in "xy"), c="same")
    assert commands(batch) == ["fit 1 x same", "fit 2 y same"]


def test_columns_of_different_lengths_are_refused_with_their_lengths(world):
    with pytest.raises(errors.PlanError, match="a has 2, b has 3"):
        world.batch().map(JobSpec("fit {a} {b}", image="i/i"), a=[1, 2], b=[1, 2, 3])


@pytest.mark.parametrize("plan", ["map", "grid", "rows"])
def test_nothing_to_do_is_an_error_unless_it_is_meant(world, plan):
    batch = world.batch()
    given, columns = ([[]], {}) if plan == "rows" else ([], {"n": []})
    with pytest.raises(errors.PlanError, match="nothing to do"):
        getattr(batch, plan)(SPEC, *given, **columns)
    assert getattr(batch, plan)(SPEC, *given, **columns, allow_empty=True) == []


def test_a_map_without_columns_and_a_grid_without_axes_are_refused(world):
    with pytest.raises(errors.PlanError, match="at least one column"):
        world.batch().map(SPEC, n=7)
    with pytest.raises(errors.PlanError, match="at least one axis"):
        world.batch().grid(SPEC)


def test_a_grid_combines_each_with_each_the_last_axis_running_fastest(world):
    batch = world.batch()
    batch.grid(JobSpec("fit {a} {b} {c}", image="i/i"), a=[1, 2], b=iter("xy"), c=0)
    assert commands(batch) == ["fit 1 x 0", "fit 1 y 0", "fit 2 x 0", "fit 2 y 0"]


def test_numbers_of_numpy_and_paths_are_filled_in_as_they_read(world):
    np = pytest.importorskip("numpy")
    batch = world.batch()
    batch.map(JobSpec("fit {t:.2f} {p.stem}", image="i/i"), t=np.linspace(0, 1, 3), p=[Path("a b.fits")] * 3)
    assert [job.filled.argv[1:] for job in batch.records] == [("0.00", "a b"), ("0.50", "a b"), ("1.00", "a b")]


def test_rows_are_dicts_data_frames_or_astropy_tables_and_mean_the_same(world):
    pd, table = pytest.importorskip("pandas"), pytest.importorskip("astropy.table")
    rows = [{"n": 1, "s": "x"}, {"n": 2, "s": "y"}]
    spec = JobSpec("fit {n} {s}", image="i/i")
    keys = world.batch("dicts").rows(spec, rows)
    assert world.batch("frame").rows(spec, pd.DataFrame(rows)) == keys
    assert world.batch("table").rows(spec, table.Table(rows=rows)) == keys


def test_what_is_missing_from_a_table_is_refused(world):
    pd, table = pytest.importorskip("pandas"), pytest.importorskip("astropy.table")
    masked = table.MaskedColumn([1, 2], mask=[False, True])
    with pytest.raises(errors.SpecError, match="n"):
        world.batch().rows(SPEC, table.Table({"n": masked}))
    with pytest.raises(errors.SpecError, match="n"):
        world.batch().rows(SPEC, pd.DataFrame({"n": [1.0, None]}))
    assert len(world.batch()) == 0, "all or nothing"


def test_replicas_differ_in_their_environment_alone(world):
    batch = world.batch()
    assert batch.replicas(JobSpec("fit", image="i/i"), 3) == ["replica-1", "replica-2", "replica-3"]
    assert dict(batch.records[1].filled.env) == {"REPLICA_ID": "2", "REPLICA_COUNT": "3"}
    with pytest.raises(errors.PlanError, match="at least 1"):
        batch.replicas(SPEC, 0)


# -- keys ---------------------------------------------------------------------------------------------------------


def test_keys_are_made_of_the_fields_and_stay_what_they_are(world):
    keys = world.batch().map(SPEC, n=["M31", "M33"])
    assert keys == world.batch("other").map(SPEC, n=["M31", "M33"])
    assert all(key.startswith(f"{name}-") for key, name in zip(keys, ["M31", "M33"], strict=True))


def test_rows_that_are_the_same_are_told_apart_by_numbers(world):
    batch = world.batch()
    keys = batch.map(SPEC, n=[1, 1, 2, 1])
    assert keys[1:] == [f"{keys[0]}-2", keys[2], f"{keys[0]}-3"]
    assert batch.map(SPEC, n=[1, 1, 2, 1]) == keys
    assert len(batch) == 4


def test_keys_of_ones_own_must_tell_the_rows_apart_whatever_the_case(world):
    with pytest.raises(errors.PlanError, match="more than one row"):
        world.batch().map(SPEC, key="{n}", n=["a", "A"])
    with pytest.raises(errors.SpecError, match="cannot name a job"):
        world.batch().map(SPEC, key="{n}", n=["a/b"])


def test_a_known_key_is_found_in_any_case(world):
    batch = world.batch()
    batch.add(SPEC, key="Big", n=1)
    assert batch.add(SPEC, key="big", n=1).key == "Big"
    assert len(batch) == 1


# -- again --------------------------------------------------------------------------------------------------------


def test_the_same_plan_again_changes_nothing(world):
    batch = world.planned(5)
    before = batch.records
    assert batch.map(SPEC, key="j{n}", n=range(5)) == [f"j{n}" for n in range(5)]
    assert world.planned(5).records == before
    assert batch.history() == []


def test_rows_added_in_front_leave_the_others_what_they_were(world):
    batch = world.batch()
    batch.map(PLACED, key="j{n}", n=[1, 2])
    batch.map(PLACED, key="j{n}", n=[0, 1, 2])
    assert commands(batch) == ["fit 1 0", "fit 2 1", "fit 0 2"]


def test_another_job_under_a_key_that_ran_is_refused_by_field_old_and_new(world):
    batch = world.planned(2)
    batch.run(progress=False)
    with pytest.raises(errors.SpecChanged, match=r"image was 'skaha/astroml' and is now 'skaha/other'"):
        batch.map(JobSpec("fit {n}", image="skaha/other"), key="j{n}", n=range(2))
    with pytest.raises(errors.SpecChanged, match=r"cmd was \('fit', '0'\) and is now \('fit', '0', '-v'\)"):
        batch.map(JobSpec("fit {n} -v", image="skaha/astroml"), key="j{n}", n=range(2))
    with pytest.raises(errors.SpecChanged, match="env differs in TOKEN") as refused:
        batch.map(JobSpec("fit {n}", image="skaha/astroml", env={"TOKEN": "hush"}), key="j{n}", n=range(2))
    assert "hush" not in str(refused.value)


def test_a_refused_change_leaves_the_whole_plan_as_it_was(world):
    batch = world.planned(1)
    batch.run(progress=False)
    with pytest.raises(errors.SpecChanged):
        batch.map(JobSpec("other {n}", image="skaha/astroml"), key="j{n}", n=[5, 0])
    assert list(batch.results()) == ["j0"]


def test_a_job_that_was_never_launched_is_replaced_in_its_place(world):
    world.planned(3).close()
    batch = world.batch()  # of the script as it was changed
    batch.map(JobSpec("new {n}", image="skaha/astroml"), key="j{n}", n=[1])
    assert commands(batch) == ["fit 0", "new 1", "fit 2"]
    batch.run(progress=False)
    assert {job.state for job in batch} == {JobState.SUCCEEDED}


def test_resources_timeouts_and_names_may_change_and_hold_for_later_attempts(world):
    batch = world.planned(1)
    batch.run(progress=False)
    batch.map(JobSpec("fit {n}", image="skaha/astroml", ram=16, timeout=5, name="late-{n}"), key="j{n}", n=[0])
    job = world.batch().records[0]
    assert (job.resources.ram, job.spec.timeout, job.filled.name) == (16, 5.0, "late-0")
    assert job.attempts[0].resources.ram is None


def test_what_is_no_longer_asked_for_stays_and_is_announced(world, capsys):
    world.planned(3)
    again = world.batch()
    again.map(SPEC, key="j{n}", n=[0, 7])
    assert "3 jobs known, 1 new, 2 no longer asked for" in again._opening()


def test_drop_takes_out_what_was_never_launched(world):
    batch = world.planned(3)
    batch.drop(["j1", "j1"])
    batch.map(SPEC, key="j{n}", n=[1])
    assert list(batch.results()) == ["j0", "j2", "j1"]
    batch.run(progress=False)
    with pytest.raises(errors.PlanError, match="cancel"):
        batch.drop("j0")
    with pytest.raises(errors.UnknownJob):
        batch.drop("nobody")


# -- many ---------------------------------------------------------------------------------------------------------


def test_a_hundred_thousand_jobs_are_planned_in_one_transaction(world):
    batch, begun = world.batch(), []
    batch._ledger._db.set_trace_callback(lambda words: begun.append(words) if words.startswith("BEGIN") else None)
    batch.map(SPEC, n=range(100_000))
    assert len(batch) == 100_000
    assert len(begun) <= 3, "the lease, the plan, the lease"


def test_preview_shows_the_exact_command_and_launch_name_and_sends_nothing(world):
    batch = world.planned(5)
    shown = batch.preview(2)
    assert "fit 0" in shown
    assert "and 3 more" in shown
    assert not world.platform.calls
    batch.run(progress=False)
    assert world.platform.launched[0] in shown
