"""Rows, from columns, grids and tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine import SPEC, commands

from canfar_batch import errors
from canfar_batch.spec import JobSpec

# -- shapes -------------------------------------------------------------------------------------------------------


def test_columns_are_combined_row_by_row_and_scalars_repeat(world):
    batch = world.batch()
    batch.map(JobSpec("fit {a} {b} {c}", image="i/i"), a=[1, 2], b=(x for x in "xy"), c="same")
    assert commands(batch) == ["fit 1 x same", "fit 2 y same"]


def test_columns_of_different_lengths_are_refused_with_their_lengths(world):
    with pytest.raises(errors.PlanError, match="a has 2, b has 3"):
        world.batch().map(JobSpec("fit {a} {b}", image="i/i"), a=[1, 2], b=[1, 2, 3])


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


# -- values -------------------------------------------------------------------------------------------------------


def test_the_lines_of_an_open_file_are_a_column_without_line_ends(world, tmp_path):
    (tmp_path / "list.txt").write_text("raw/a.fits\r\n\nraw/ b c.fits\nraw/d.fits")
    batch = world.batch()
    with (tmp_path / "list.txt").open(newline="") as lines:
        batch.map(JobSpec(["fit", "{n}"], image="i/i"), n=lines)
    assert [job.filled.argv[1] for job in batch.records] == ["raw/a.fits", "raw/ b c.fits", "raw/d.fits"]


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


# -- plans that make no sense -------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [None, 5, "rows.csv", b"x", ["a"], {"n": 1}, {"n": [1, 2]}])
def test_another_type_than_a_table_is_refused_with_advice(world, table):
    with pytest.raises(
        errors.PlanError, match=r"rows\(\) takes a list of dicts, a pandas DataFrame or an astropy Table"
    ):
        world.batch().rows(SPEC, table)
