"""The records of jobs: their keys, their numbers, their values."""

from __future__ import annotations

import pytest
from engine import SPEC, commands

from canfar_batch import errors
from canfar_batch.spec import JobSpec, Secret

PLACED = JobSpec("fit {n} {index}", image="skaha/astroml")


# -- keys ---------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("value", ["a.fits\n", "a.fits\r\n", "a.fits\r"])
def test_a_value_that_ends_in_a_line_break_is_refused(world, value):
    with pytest.raises(errors.PlanError, match=r"row 1 .* ends in a line break; strip it"):
        world.batch().map(SPEC, n=["b.fits", value])


def test_a_variable_that_nothing_fills_in_is_warned_of(world):
    with pytest.warns(UserWarning, match=r"OUT in env is '\$HOME/out', and no shell fills in \$HOME") as warned:
        world.batch().add(JobSpec("fit", image="i/i", env={"OUT": "$HOME/out"}), key="a")
    assert warned[0].filename == __file__


# -- plans that make no sense -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields", [{"tok": [Secret("T1")]}, {"n": [1], "tok": Secret("T1")}, {"tok": [[Secret("T1")]]}]
)
def test_a_secret_is_refused_as_the_value_of_a_field(world, monkeypatch, fields):
    monkeypatch.setenv("T1", "hush")
    batch = world.batch()
    for spec, key in ((JobSpec("fit {tok}", image="a/b"), None), (JobSpec("fit", image="a/b"), "k{index}")):
        with pytest.raises(errors.SpecError, match=r"give it in the spec: env=\{'T1': Secret\('T1'\)\}"):
            batch.grid(spec, key=key, **fields)
    assert len(batch) == 0


@pytest.mark.parametrize("spec", ["python x.py", ["python", "x.py"], None, {"cmd": "python x.py"}])
def test_another_type_than_a_spec_is_refused_with_an_example(world, spec):
    batch = world.batch()
    plans = (
        lambda: batch.add(spec, n=1), lambda: batch.map(spec, n=[1]), lambda: batch.grid(spec, n=[1]),
        lambda: batch.rows(spec, [{"n": 1}]), lambda: batch.replicas(spec, 2),
    )  # fmt: skip
    for plan in plans:
        with pytest.raises(errors.SpecError, match=r"give a JobSpec: cb\.JobSpec\('python x\.py', image="):
            plan()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        *(("~/data/a.fits", "no shell fills in ~"), ("$HOME/a.fits", "no shell fills in $HOME")),
        *(("a.fits ", "begins or ends with a blank"), ("\ufeffa.fits", "strip() it unless it is meant")),
    ],
)
def test_values_that_are_probably_not_meant_cause_one_warning_for_each_column(world, value, words):
    with pytest.warns(UserWarning, match="p=") as raised:
        world.batch().map(JobSpec("fit {p}", image="i/i"), p=["a", value, value, "b"])
    (warning,) = raised
    assert words in str(warning.message)


@pytest.mark.parametrize(
    ("first", "second"), [("M31", "m31"), ("\u00e9", "e\u0301"), ("\u00c9", "e\u0301"), ("SS", "ß")]
)
def test_keys_that_some_disks_take_for_one_are_refused(world, first, second):
    batch = world.batch()
    with pytest.raises(errors.PlanError, match="upper and lower case"):
        batch.map(SPEC, key="{k}", n=[1, 2], k=[first, second])
    batch.add(SPEC, key=first, n=1)
    with pytest.raises(errors.PlanError, match="upper and lower case"):
        batch.add(SPEC, key=second, n=2)
