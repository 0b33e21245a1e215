"""Templates: fields, formats, and braces that are not fields."""

from __future__ import annotations

import datetime as dt
import enum
import math
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.table import MaskedColumn, Table

from canfar_batch.errors import SpecError
from canfar_batch.fields.templates import Template
from canfar_batch.spec import JobSpec, Secret

X = {"x": "two words"}


def fill(cmd, fields=X, **options):
    return JobSpec(cmd, image="i", **options).fill(fields, key="k-1", index=7)


def words(cmd, fields=X):
    return fill(cmd, fields).argv[1:]


def refused(cmd, fields=X, **options):
    with pytest.raises(SpecError) as error:
        fill(cmd, fields, **options)
    return str(error.value)


NO_FIELDS = [
    *(
        "{print $1}",
        "{ print }",
        "{}",
        "{ }",
        "x{1}",
        "{1..9}",
        "{a,b}",
        "{'a': 1}",
        '{"a": {"b": 1}}',
        "{a: .b}",
        "{x: .b}",
    ),
    *(
        "{a: 1, b: 2}",
        "${VAR}",
        "${x}",
        "${x:-y}",
        "{",
        "}",
        "}}",
        "{{",
        "{{}",
        "{x",
        "x}",
        "{x y}",
        "{x: }",
        '{x:"y"}',
    ),
    *("{a:'b'}", "{a:.b}", "{a:$b}", "{a.}", "{a[}", "{a!z}", "{a[b c]}"),
]

# -- syntax -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", NO_FIELDS)
def test_other_braces_are_left_unchanged(text):
    assert words(["prog", text]) == (text,)


@pytest.mark.parametrize(
    "cmd",
    [
        "awk '{print $1}'",
        "python -c \"{'a': 1}\"",
        "jq '{a: .b}'",
        'curl -d \'{"a": {"b": 1}}\'',
        "find . -exec ls '{}' ';'",
    ],
)
def test_commands_full_of_braces_work_as_written(cmd):
    import shlex

    assert fill(cmd + " {x}").argv == (*shlex.split(cmd), "two words")
    assert fill(cmd, {}).argv == tuple(shlex.split(cmd)), "without fields too"


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("{{x}}", "{x}"),
        ("{{{x}}}", "{two words}"),
        ("{{ {x} }}", "{ two words }"),
        ("{{'a': {{'b': {x}}}}}", "{'a': {'b': two words}}"),
        ("{{'a': {'b': 1}}}", "{'a': {'b': 1}}"),
        ("{{x}} {x}", "{x} two words"),
        ("{{{{x}}}}", "{{x}}"),
        ("{{x}", "{two words"),
        ("{x}}", "two words}"),
        ("{{a},{x}}", "{{a},two words}"),
    ],
)
def test_doubled_braces_stand_for_single_ones(text, filled):
    fields = {**X, "a": "{a}"} if "{a}" in text else X
    assert words(["prog", text], fields) == (filled,)


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("{path}", "raw/a b.fits"),
        ("{path.stem}.cat", "a b.cat"),
        ("{path.parent.name}", "raw"),
        ("{path!r}", "PosixPath('raw/a b.fits')"),
        ("{pair[0]}-{pair[1]}-{pair[-1]}", "1-2-2"),
        ("{row[ra]}/{row[dec]:+.1f}", "1.5/-2.2"),
        ("{n:04d}", "0007"),
        ("{n:>4},{n:*^5}", "   7,**7**"),
        ("{ra:.3f}", "1.234"),
        ("{night:%Y-%m-%d}", "2026-07-01"),
        ("{night:%Y-%m-%d %H:%M}", "2026-07-01 05:06"),
        ("{key}/{index:03d}", "k-1/007"),
        ("{big:,}", "1,000,000"),
        ("{x!s:>12}", "   two words"),
        ("{flag}", "True"),
        ("{scalar}", "0.1"),
        ("{entry}", "/tmp/e"),
    ],
)
def test_fields_access_and_format_values(text, filled):
    class Entry:
        def __fspath__(self):
            return "/tmp/e"

    fields = {
        "path": Path("raw/a b.fits"),
        "pair": (1, 2),
        "row": {"ra": 1.5, "dec": -2.25},
        "n": 7,
        "ra": 1.23449,
        "night": dt.datetime(2026, 7, 1, 5, 6),  # noqa: DTZ001 - as a FITS header has it
        "big": 10**6,
        "flag": True,
        "scalar": np.float32(0.1),
        "entry": Entry(),
        **X,
    }
    assert words(["prog", text], fields) == (filled,)
    assert words(f"prog {text}", fields) == (filled,)  # one word, whatever blanks or stars the field has


def test_a_job_may_have_its_own_field_key_or_index():
    assert words("prog {key} {index}", {"key": "mine", "x": 1}) == ("mine", "7")


def test_rows_of_tables_fill_templates():
    table = Table({"name": ["M 31"], "z": [0.5]})
    frame = pd.DataFrame({"name": ["M 31"], "z": [0.5]})
    for row in (table[0], frame.iloc[0]):
        assert words("prog {row[name]} {row[z]:.2f}", {"row": row}) == ("M 31", "0.50")


def test_members_of_an_enum_are_written_as_their_values():
    assert words("prog {x} {x.name}", {"x": Colour.RED}) == ("red", "RED")


# -- errors -------------------------------------------------------------------------------------------------------


def test_an_unknown_field_is_refused_with_a_suggestion():
    message = refused("prog {pth}", {"path": 1, "seed": 2})
    assert "unknown field {pth}; did you mean {path}? known are path, seed, key, index" in message
    assert "{{pth}}" in message


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "is None"),
        (math.nan, "is not a number"),
        (np.float32("nan"), "is not a number"),
        (Decimal("nan"), "is not a number"),
        (np.datetime64("NaT", "s"), "is not a number"),
        (pd.NaT, "is missing"),
        (pd.NA, "is missing"),
        (np.ma.masked, "is masked"),
        (MaskedColumn([1.0], mask=[True])[0], "is masked"),
        (np.array([1, 2]), "is an array"),
        (Secret("API_KEY"), "give it in the spec"),
        (b"abc", "is bytes; decode it"),
        (np.bytes_(b"abc"), "is bytes; decode it"),
        ("a".upper, "is a function"),
        ("a\0b", "NUL"),
        ({"g", "r"}, "is a set, whose order changes from run to run"),
        (frozenset("ab"), "is a frozenset, whose order"),
        ((np.float64(1.0), 2), "is a tuple with a float64 in it"),
        ([Path("a")], "is a list with a PosixPath in it"),
        ([{"a": {"b"}}], "is a list with a set in it"),
        ([math.nan], "is a list with a float in it"),
        (4.472832130942575e18, "too large to have all its digits"),
        (np.float64(9007199254740993), "too large to have all its digits"),
    ],
)
def test_missing_values_and_values_without_text_are_refused(value, words):
    assert words in refused("prog {x}", {"x": value})
    assert fill("prog {y}", {"x": value, "y": 1}).argv == ("prog", "1")  # not used, no harm


def test_a_missing_value_is_refused_with_formats_too():
    for cmd in ("prog {x!r}", "prog {x:.3f}", "prog {x.stem}", "prog {y[a]}"):
        assert "is None" in refused(cmd, {"x": None, "y": {"a": None}})


@pytest.mark.parametrize(
    ("cmd", "words"),
    [
        ("prog {x.__class__}", "private"),
        ("prog {x._y}", "private"),
        ("prog {x.nope}", "{x.nope}: a str has no 'nope'"),
        ("prog {x[nope]}", "{x[nope]}"),
        ("prog {x:.3f}", "{x:.3f} does not fit 'two words'"),
        ("prog {x:nonsense}", "cannot be filled: formats are like"),
        ("prog {x:{y}}", "without nested fields"),
        ("prog {x.upper}", "does not call"),
    ],
)
def test_fields_that_cannot_be_filled_are_refused(cmd, words):
    assert words in refused(cmd, {**X, "y": 3})


def test_a_string_that_should_be_a_path_is_refused_with_the_remedy():
    assert "x=[Path(name) for name in …]" in refused("prog {x.stem}", {"x": "raw/a.fits"})


@pytest.mark.parametrize("value", [1e18, 3.828e33, 0.1, 2.5e-7, 123456.0, 10**19, np.uint64(2**63 + 1)])
def test_measurements_and_integers_are_not_taken_for_mangled_ids(value):
    assert words("prog {x}", {"x": value}) == (str(value),)


def test_a_large_float_with_a_format_is_a_measurement():
    assert words("prog {x:.4g}", {"x": 4.472832130942575e18}) == ("4.473e+18",)


@pytest.mark.parametrize(
    ("cmd", "name", "write"),
    [
        ("prog {B-V}", "B-V", "{B_V}"),
        ("prog {B-V:.2f}", "B-V", "{B_V}"),
        ("prog {2MASS}", "2MASS", "{c_2MASS}"),
        ("prog '{[Fe/H]}'", "[Fe/H]", "{Fe_H}"),
        ("prog {0}", "0", "{c_0}"),
        ("prog {my col}", "my col", "{my_col}"),
        ("prog {B-V}", "B_V", "{B_V}"),
        ("prog { path }", "path", "{path}"),
    ],
)
def test_braces_around_a_column_that_is_no_field_are_refused_with_what_to_write(cmd, name, write):
    message = refused([*cmd.replace("'", "").split(" ", 1)], {name: 1, "z": 2})
    assert write in message
    assert fill(["prog", "{{B-V}}"], {"B-V": 1}).argv == ("prog", "{B-V}")


def test_a_forgotten_field_is_refused_with_what_to_write():
    assert "path=… in add() or map()" in refused("prog {path}", {})
    assert fill("prog {{path}}", {}).argv == ("prog", "{path}")


def test_parts_that_are_empty_after_filling_are_refused():
    assert "empty word" in refused(["{x}"], {"x": ""})
    assert "an option" in refused(["{x}", "y"], {"x": "-c"})
    assert "workdir is ''" in refused("prog", {"x": ""}, workdir="{x}")
    assert "an output is ''" in refused("prog", {"x": ""}, outputs="{x}")
    assert "name='é' has no letter" in refused("prog", {"x": "é"}, name="{x}{x}"[:3])


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize("text", ["{x:.0f}", "{x:,.0f}", "{x:.17g}", "{x:.20f}", "{x!r}"])
def test_a_format_that_shows_digits_which_a_float_does_not_have_is_refused(text):
    with pytest.raises(SpecError, match="too large to have all its digits"):
        Template.read(text).fill({"x": 4472832130942575104.0})
    assert Template.read("{x:.6e} {x:.3g}").fill({"x": 4472832130942575104.0}) == "4.472832e+18 4.47e+18"


@pytest.mark.parametrize("text", ["cat/{0}.cat", "{0}", "a {1} b", "--n={2}"])
def test_a_number_between_braces_is_refused_where_a_field_may_be_meant(text):
    with pytest.raises(SpecError, match=r"fields have names, as \{path\}"):
        Template.read(text).fill({"path": "a"})


def test_a_column_whose_name_has_a_dot_is_refused_with_what_to_write():
    with pytest.raises(SpecError, match=r"rename the column, as 'x_y', and write \{x_y\}"):
        Template.read("{x.y}").fill({"x.y": 1})
