"""Plans: from columns, grids and tables to jobs, and changed plans of known jobs."""

from pathlib import Path

import pytest
from engine import SPEC, World, connection_of

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


def test_columns_are_combined_row_by_row_and_scalars_repeat(world):
    batch = world.batch()
    batch.map(JobSpec("fit {a} {b} {c}", image="i/i"), a=[1, 2], b=(x for x in "xy"), c="same")
    assert commands(batch) == ["fit 1 x same", "fit 2 y same"]


def test_columns_of_different_lengths_are_refused_with_their_lengths(world):
    with pytest.raises(errors.PlanError, match="a has 2, b has 3"):
        world.batch().map(JobSpec("fit {a} {b}", image="i/i"), a=[1, 2], b=[1, 2, 3])


@pytest.mark.parametrize("plan", ["map", "grid", "rows"])
def test_an_empty_plan_is_an_error_unless_allowed(world, plan):
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


def test_a_grid_combines_all_values_the_last_axis_first(world):
    batch = world.batch()
    batch.grid(JobSpec("fit {a} {b} {c}", image="i/i"), a=[1, 2], b=iter("xy"), c=0)
    assert commands(batch) == ["fit 1 x 0", "fit 1 y 0", "fit 2 x 0", "fit 2 y 0"]


def test_numpy_numbers_and_paths_are_filled_in(world):
    np = pytest.importorskip("numpy")
    batch = world.batch()
    batch.map(JobSpec("fit {t:.2f} {p.stem}", image="i/i"), t=np.linspace(0, 1, 3), p=[Path("a b.fits")] * 3)
    assert [job.filled.argv[1:] for job in batch.records] == [("0.00", "a b"), ("0.50", "a b"), ("1.00", "a b")]


def test_dicts_data_frames_and_tables_give_the_same_rows(world):
    pd, table = pytest.importorskip("pandas"), pytest.importorskip("astropy.table")
    rows = [{"n": 1, "s": "x"}, {"n": 2, "s": "y"}]
    spec = JobSpec("fit {n} {s}", image="i/i")
    keys = world.batch("dicts").rows(spec, rows)
    assert world.batch("frame").rows(spec, pd.DataFrame(rows)) == keys
    assert world.batch("table").rows(spec, table.Table(rows=rows)) == keys


def test_missing_values_of_a_table_are_refused(world):
    pd, table = pytest.importorskip("pandas"), pytest.importorskip("astropy.table")
    masked = table.MaskedColumn([1, 2], mask=[False, True])
    with pytest.raises(errors.SpecError, match="n"):
        world.batch().rows(SPEC, table.Table({"n": masked}))
    with pytest.raises(errors.SpecError, match="n"):
        world.batch().rows(SPEC, pd.DataFrame({"n": [1.0, None]}))
    assert len(world.batch()) == 0, "all or nothing"


def test_replicas_differ_only_in_their_environment(world):
    batch = world.batch()
    assert batch.replicas(JobSpec("fit", image="i/i"), 3) == ["replica-1", "replica-2", "replica-3"]
    assert dict(batch.records[1].filled.env) == {"REPLICA_ID": "2", "REPLICA_COUNT": "3"}
    with pytest.raises(errors.PlanError, match="at least 1"):
        batch.replicas(SPEC, 0)


# -- keys ---------------------------------------------------------------------------------------------------------


def test_keys_are_made_of_the_fields(world):
    keys = world.batch().map(SPEC, n=["M31", "M33"])
    assert keys == world.batch("other").map(SPEC, n=["M31", "M33"])
    assert all(key.startswith(f"{name}-") for key, name in zip(keys, ["M31", "M33"], strict=True))


def test_equal_rows_get_numbers_in_their_keys(world):
    batch = world.batch()
    keys = batch.map(SPEC, n=[1, 1, 2, 1])
    assert keys[1:] == [f"{keys[0]}-2", keys[2], f"{keys[0]}-3"]
    assert batch.map(SPEC, n=[1, 1, 2, 1]) == keys
    assert len(batch) == 4


def test_two_rows_with_one_key_are_refused(world):
    with pytest.raises(errors.PlanError, match="more than one row"):
        world.batch().map(SPEC, key="same", n=[1, 2])
    with pytest.raises(errors.PlanError, match="'a' and 'A', which differ only in upper and lower case"):
        world.batch().map(SPEC, key="{n}", n=["a", "A"])
    with pytest.raises(errors.SpecError, match=r"row 1: .*cannot name a job"):
        world.batch().map(SPEC, key="{n}", n=["a", "x" * 101])


def test_keys_are_for_people(world):
    names = ["J0534+2200", "NGC 1234", "M31(R)", "é"]
    assert world.batch().map(SPEC, key="{n}", n=names) == names


def test_a_key_that_differs_from_a_known_one_only_in_case_is_refused(world):
    batch = world.batch()
    batch.add(SPEC, key="M31", n="M31.fits")
    with pytest.raises(errors.PlanError, match="'M31', whose key differs from 'm31' only in upper and lower case"):
        batch.add(SPEC, key="m31", n="m31.fits")
    assert commands(batch) == ["fit M31.fits"]


def test_the_index_is_the_same_number_in_key_and_command(world):
    batch = world.batch()
    for _ in range(2):  # a cell of a notebook that is run again plans nothing new
        assert batch.map(PLACED, key="first-{index}", n=["a", "b"]) == ["first-0", "first-1"]
        assert batch.map(PLACED, key="more-{index}", n=["c", "d"]) == ["more-2", "more-3"]
    assert commands(batch) == ["fit a 0", "fit b 1", "fit c 2", "fit d 3"]


def test_a_script_with_numbers_in_keys_is_resumed(world):
    for _ in range(2):
        batch = world.batch()
        batch.map(PLACED, key="first-{index}", n=["a", "b"])
        batch.map(PLACED, key="more-{index}", n=["c"])
        assert commands(batch) == ["fit a 0", "fit b 1", "fit c 2"]
        batch.close()


def test_an_index_that_would_differ_between_key_and_command_is_refused(world):
    world.planned(2).close()
    with pytest.raises(errors.PlanError, match="the job is number 2 of the batch"):
        world.batch().map(PLACED, key="x-{index}", n=["a"])


# -- values -------------------------------------------------------------------------------------------------------


def test_an_error_names_the_row_and_its_key(world):
    np, table = pytest.importorskip("numpy"), pytest.importorskip("astropy.table")
    mask = np.arange(300) == 137
    stars = table.Table(
        {"name": [f"star{n}" for n in range(300)], "n": table.MaskedColumn(np.arange(300.0), mask=mask)}
    )
    with pytest.raises(errors.SpecError, match=r"row 137 \(job 'star137'\): field \{n\} is masked"):
        world.batch().rows(SPEC, stars, key="{name}")
    with pytest.raises(errors.SpecError, match="row 2"):
        world.batch().map(SPEC, n=["a", "b", None])


def test_the_lines_of_an_open_file_are_a_column_without_line_ends(world, tmp_path):
    (tmp_path / "list.txt").write_text("raw/a.fits\r\n\n  raw/b c.fits\nraw/d.fits")
    batch = world.batch()
    with (tmp_path / "list.txt").open(newline="") as lines:
        batch.map(JobSpec(["fit", "{n}"], image="i/i"), n=lines)
    assert [job.filled.argv[1] for job in batch.records] == ["raw/a.fits", "  raw/b c.fits", "raw/d.fits"]


@pytest.mark.parametrize("value", ["a.fits\n", "a.fits\r\n", "a.fits\r"])
def test_a_value_that_ends_in_a_line_break_is_refused(world, value):
    with pytest.raises(errors.PlanError, match=r"row 1 .* ends in a line break; strip it"):
        world.batch().map(SPEC, n=["b.fits", value])


def test_identifiers_of_19_digits_arrive_whole(world):
    pd, table = pytest.importorskip("pandas"), pytest.importorskip("astropy.table")
    ids = [4472832130942575105, 4472832130942575107]
    for name, given in {
        "list": [{"n": n} for n in ids],
        "frame": pd.DataFrame({"n": ids}),
        "nullable": pd.DataFrame({"n": pd.array([*ids, None], dtype="Int64")}).dropna(),
        "table": table.Table({"n": ids}),
    }.items():
        world.batch(name).rows(SPEC, given)
        again = world.batch(name)
        assert [int(job.filled.argv[1]) for job in again.records] == ids
        assert [job.fields["n"] for job in again.records] == ids


def test_identifiers_that_became_floats_are_refused_or_warned_of(world):
    pd = pytest.importorskip("pandas")
    with (
        pytest.raises(errors.SpecError, match="too large to have all its digits"),
        pytest.warns(UserWarning, match="n"),
    ):
        world.batch().rows(SPEC, pd.DataFrame({"n": [4472832130942575105, None]}).dropna())
    with pytest.warns(
        UserWarning, match="the column 'n' holds whole numbers as floats, so {n} is written as 1234567.0"
    ):
        world.batch().rows(SPEC, pd.DataFrame({"n": [1234567, None]}).dropna())
    with pytest.warns(UserWarning, match="holds whole numbers as floats"):
        world.batch().map(SPEC, n=pd.Series([1234567, None]).dropna())


def test_a_column_that_cannot_be_a_field_is_refused_if_used(world):
    rows = [{"B-V": 0.1, "n": 1}]
    assert world.batch().rows(SPEC, rows)
    with pytest.raises(errors.SpecError, match="rename the column, as 'B_V'"):
        world.batch("other").rows(JobSpec("fit {n} {B-V}", image="i/i"), rows)


def test_a_variable_that_nothing_fills_in_is_warned_of(world):
    with pytest.warns(UserWarning, match=r"OUT in env is '\$HOME/out', and no shell fills in \$HOME") as warned:
        world.batch().add(JobSpec("fit", image="i/i", env={"OUT": "$HOME/out"}), key="a")
    assert warned[0].filename == __file__


# -- outputs ------------------------------------------------------------------------------------------------------

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


# -- again --------------------------------------------------------------------------------------------------------


def test_the_same_plan_again_changes_nothing(world):
    batch = world.planned(5)
    before = batch.records
    assert batch.map(SPEC, key="j{n}", n=range(5)) == [f"j{n}" for n in range(5)]
    assert world.planned(5).records == before
    assert batch.history() == []


def test_rows_added_in_front_do_not_change_the_others(world):
    batch = world.batch()
    batch.map(PLACED, key="j{n}", n=[1, 2])
    batch.map(PLACED, key="j{n}", n=[0, 1, 2])
    assert commands(batch) == ["fit 1 0", "fit 2 1", "fit 0 2"]


def test_a_changed_job_that_ran_is_refused_with_old_and_new_value(world):
    batch = world.planned(2)
    batch.run(progress=False)
    with pytest.raises(errors.SpecChanged, match=r"image was 'skaha/astroml' and is now 'skaha/other'"):
        batch.map(JobSpec("fit {n}", image="skaha/other"), key="j{n}", n=range(2))
    with pytest.raises(errors.SpecChanged, match=r"cmd was 'fit 0' and is now 'fit 0 -v'"):
        batch.map(JobSpec("fit {n} -v", image="skaha/astroml"), key="j{n}", n=range(2))
    with pytest.raises(errors.SpecChanged, match="env differs in TOKEN") as refused:
        batch.map(JobSpec("fit {n}", image="skaha/astroml", env={"TOKEN": "hush"}), key="j{n}", n=range(2))
    assert "hush" not in str(refused.value)


def test_a_refused_change_leaves_the_plan_unchanged(world):
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


def test_changed_resources_apply_to_later_attempts(world):
    batch = world.planned(1)
    batch.run(progress=False)
    batch.map(JobSpec("fit {n}", image="skaha/astroml", ram=16, timeout=5, name="late-{n}"), key="j{n}", n=[0])
    job = world.batch().records[0]
    assert (job.resources.ram, job.spec.timeout, job.filled.name) == (16, 5.0, "late-0")
    assert job.attempts[0].resources.ram is None


def test_jobs_no_longer_asked_for_stay_and_are_counted(world, capsys):
    world.planned(3)
    again = world.batch()
    again.map(SPEC, key="j{n}", n=[0, 7])
    again.run()
    assert "3 jobs known, 1 new, 2 no longer asked for" in capsys.readouterr().err


def test_drop_removes_jobs_that_were_never_launched(world):
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


def test_thousands_of_jobs_are_planned_in_one_transaction(world):
    batch, begun = world.batch(), []
    db = connection_of(batch)
    db.set_trace_callback(lambda words: begun.append(words) if words.startswith("BEGIN") else None)
    batch.map(SPEC, n=range(10_000))
    db.set_trace_callback(None)
    assert len(batch) == 10_000
    assert len(begun) <= 3, "the lease, the plan, the lease"


def test_preview_shows_command_and_launch_name_and_sends_nothing(world):
    batch = world.planned(5)
    shown = batch.preview(2)
    assert "fit 0" in shown
    assert "and 3 more" in shown
    assert not world.platform.calls
    batch.run(progress=False)
    assert world.platform.launched[0] in shown
