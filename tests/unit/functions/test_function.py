"""A function where a spec is expected: its parameters, its arguments, and what is refused."""

import datetime as dt
import enum
import math
import sys
import threading
from pathlib import Path

import pytest

from canfar_batch import Function, JobSpec
from canfar_batch.errors import PlanError, SpecError

IMAGE = "skaha/astroml:latest"


def fit(x, sigma=1.0):
    return x * sigma


fit.__module__ = "__main__"  # as in a notebook, so that no module has to travel


class Filter(enum.Enum):
    R = "r"


class Model:
    """A value whose text has an address in it."""


def arguments(tmp_path, *rows, function=fit):
    return Function(function, image=IMAGE).rows(rows, tmp_path, Path.write_bytes)


def test_a_function_has_a_readable_name_and_can_be_called_here():
    made = Function(fit, image=IMAGE, cores=2, ram=4, timeout=60)
    assert made.name.startswith("fit-")
    assert (made.spec.cores, made.spec.ram, made.spec.timeout, made.spec.function) == (2, 4, 60, made.name)
    assert made(2, sigma=3.0) == 6.0
    assert JobSpec.from_json(made.spec.to_json()) == made.spec
    assert made.spec.doubts == ()


@pytest.mark.parametrize("value", [1, 10**30, 1.5, "a b", "@x", True, None, [1, "a"], {"k": [1.5]}, math.inf, "ü"])
def test_values_that_json_keeps_are_in_the_command_itself(tmp_path, value):
    (made,) = arguments(tmp_path, {"x": value})
    assert made.words[0].startswith("x=")
    assert not made.words[0].startswith("x=@")
    assert [path.suffix for path in tmp_path.iterdir()] == [".zip"]


@pytest.mark.parametrize(
    "value", [(1, 2), Path("a/b.fits"), dt.date(2026, 1, 2), Filter.R, b"raw", {1: 2}, 2j, Model()]
)
def test_other_values_are_in_a_file_named_for_its_content(tmp_path, value):
    first, second = arguments(tmp_path, {"x": value}, {"x": value})
    assert first.words == second.words
    assert first.words[0].startswith("x=@")
    assert len([path for path in tmp_path.iterdir() if path.suffix == ".pkl"]) == 1


def test_tables_show_short_values_and_describe_others(tmp_path):
    numpy = pytest.importorskip("numpy")
    values = [numpy.float64(0.5), numpy.ones((3, 4)), Path("a/b.fits"), (1, 2), Filter.R]
    plain = [row.plain["x"] for row in arguments(tmp_path, *({"x": value} for value in values))]
    assert plain[0] == 0.5
    assert plain[2:4] == ["a/b.fits", [1, 2]]
    assert plain[1].startswith("ndarray-3x4-")
    assert plain[4].startswith("Filter-")


@pytest.mark.parametrize(
    ("row", "words"),
    [({"y": 1, "x": 1}, "unexpected keyword argument 'y'"), ({"sigma": 1}, "missing a required argument: 'x'")],
)
def test_fields_that_are_not_the_functions_parameters_are_refused_with_the_row(tmp_path, row, words):
    with pytest.raises(SpecError, match=rf"row 1: fit\(x, sigma=1.0\) cannot be called .*{words}"):
        arguments(tmp_path, {"x": 1}, row)


def test_a_value_that_cannot_be_pickled_is_refused_with_the_row(tmp_path):
    with pytest.raises(SpecError, match="row 0: x is a generator that cannot be sent"):
        arguments(tmp_path, {"x": (n for n in range(3))})


def test_a_function_that_cannot_be_pickled_is_refused(tmp_path):
    lock = threading.Lock()

    def locks(x):
        with lock:
            return x

    with pytest.raises(SpecError, match=r"the function locks cannot be sent: .*make that inside the function"):
        arguments(tmp_path, {"x": 1}, function=locks)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"function": 3}, "cannot be called"),
        ({"function": fit, "cmd": "x"}, "has no cmd"),
        ({"function": fit, "shell": True}, "has no shell"),
        ({"function": fit, "core": 2}, "did you mean cores"),
        ({"function": fit, "python": "python 3"}, "not a path without blanks"),
    ],
)
def test_what_makes_no_sense_is_refused(given, words):
    with pytest.raises(SpecError, match=words):
        Function(given.pop("function"), image=IMAGE, **given)


def test_columns_are_bound_by_place():
    made = Function(fit, image=IMAGE)
    assert made.rows_of([[1, 2], (0.5, 0.6)]) == [{"x": 1, "sigma": 0.5}, {"x": 2, "sigma": 0.6}]
    with pytest.raises(PlanError, match=r"3 columns were given, and fit\(x, sigma=1.0\) takes 2 by place"):
        made.rows_of([[1], [2], [3]])
    with pytest.raises(PlanError, match="x has 2, sigma has 1"):
        made.rows_of([[1, 2], [3]])


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(ImportError, match=r"pip install 'canfar_batch\[functions\]'"):
        Function(fit, image=IMAGE)
