"""Values of fields as plain types."""

from __future__ import annotations

import datetime as dt
import enum
import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import astropy.units as u
import numpy as np
import pandas as pd
import pytest

from canfar_batch.errors import SpecError
from canfar_batch.fields.templates import Template
from canfar_batch.spec import plain_fields


class Colour(enum.Enum):
    RED = "red"


PLAIN = [
    (np.int64(3), 3),
    (np.float64(0.5), 0.5),
    (np.float32(0.1), 0.10000000149011612),
    (np.bool_(True), True),
    (np.str_("a"), "a"),
    (np.array([[1, 2]]), [[1, 2]]),
    (np.datetime64("2026-07-01T05"), "2026-07-01T05"),
    (np.ma.masked, None),
    (pd.NA, None),
    (pd.NaT, None),
    (math.nan, None),
    (math.inf, "inf"),
    (pd.Timestamp("2026-07-01"), "2026-07-01T00:00:00"),
    (dt.date(2026, 7, 1), "2026-07-01"),
    (dt.timedelta(hours=1), "1:00:00"),
    (pd.Timedelta(hours=1), "0 days 01:00:00"),
    (Decimal("1.10"), "1.10"),
    (Fraction(1, 3), "1/3"),
    (Path("a/b"), "a/b"),
    (1.5 * u.deg, "1.5 deg"),
    ([1, 2] * u.m, "[1.0, 2.0] m"),
    ((1, "a", None), [1, "a", None]),
    pytest.param({"b", "a"}, ["a", "b"], id="a set"),
    ({1: (2,)}, {"1": [2]}),
    (range(2), [0, 1]),
    (Colour.RED, "red"),
    (b"a\xff", "a\\xff"),
    (1 + 2j, "(1+2j)"),
]


@pytest.mark.parametrize(("value", "plain"), PLAIN, ids=repr)
def test_fields_are_stored_in_plain_types(value, plain):
    assert plain_fields({"x": value}) == {"x": plain}
    assert type(plain_fields({"x": value})["x"]) is type(plain)


def test_a_span_of_time_and_a_class_as_values():
    np = pytest.importorskip("numpy")
    assert plain_fields({"t": np.timedelta64(5, "s")}) == {"t": "5 seconds"}
    with pytest.raises(SpecError, match="is a class"):
        Template.read("{x}").fill({"x": int})
