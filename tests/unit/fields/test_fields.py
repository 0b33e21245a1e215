"""Templates and their fields: syntax, values, errors; and the keys made of the values."""

from __future__ import annotations

import datetime as dt
import enum
import math
import os
import re
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import astropy.units as u
import numpy as np
import pandas as pd
import pytest
from astropy.table import MaskedColumn, Table
from hypothesis import given
from hypothesis import strategies as st

from canfar_batch.errors import SpecError
from canfar_batch.fields.keys import file_name
from canfar_batch.spec import JobSpec, Secret, check_key, job_key, plain_fields

X = {"x": "two words"}


def fill(cmd, fields=X, **options):
    return JobSpec(cmd, image="i", **options).fill(fields, key="k-1", index=7)


def words(cmd, fields=X):
    return fill(cmd, fields).argv[1:]


def refused(cmd, fields=X, **options):
    with pytest.raises(SpecError) as error:
        fill(cmd, fields, **options)
    return str(error.value)


# -- syntax ---------------------------------------------------------------------------------------------------------


NO_FIELDS = [
    *(
        "{print $1}",
        "{ print }",
        "{}",
        "{ }",
        "{1}",
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


# -- errors ---------------------------------------------------------------------------------------------------------


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


# -- splitting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cmd", "split"),
    [
        ("prog  a\tb ", ("a", "b")),
        ("  prog a\n", ("a",)),
        ("prog 'a b' \"c d\" e\\ f", ("a b", "c d", "e f")),
        ("prog '' \"\"", ("", "")),
        ("prog a'b'\"c\"\\d", ("abcd",)),
        ("prog 'a\"b' \"c'd\"", ('a"b', "c'd")),
        ('prog "a\\"b\\\\c\\$d\\e"', ('a"b\\c$d\\e',)),
        ("prog '\\n' \\n", ("\\n", "n")),
        ("prog a \\\n  b", ("a", "b")),
        ('prog "a\\\nb"', ("ab",)),
        ("prog 'a\nb'", ("a\nb",)),
        ("prog '>' '|' '&' ';' '*' '?' '$X' '`x`' '~' '#'", (">", "|", "&", ";", "*", "?", "$X", "`x`", "~", "#")),
        ('prog ">" "*" "a & b"', (">", "*", "a & b")),
        ("prog a~ x=~y a#b 5$ [1] (a) !x %s", ("a~", "x=~y", "a#b", "5$", "[1]", "(a)", "!x", "%s")),
        ("prog {x:>12}", ("   two words",)),
        ("prog \\> \\$X \\*", (">", "$X", "*")),
        ("prog é 'ü ö'", ("é", "ü ö")),
    ],
)
def test_a_command_is_split_by_the_shells_rules(cmd, split):
    assert words(cmd) == split


@pytest.mark.parametrize(
    ("cmd", "what"),
    [
        ("prog > out", "a bare >"),
        ("prog >> out", "a bare >"),
        ("prog 2>&1", "a bare >"),
        ("prog < in", "a bare <"),
        ("prog | less", "a bare |"),
        ("prog || other", "a bare |"),
        ("prog && other", "a bare &"),
        ("prog &", "a bare &"),
        ("prog; other", "a bare ;"),
        ("prog *.fits", "a bare *"),
        ("prog a?.fits", "a bare ?"),
        ("prog $HOME/x", "$H…"),
        ("prog ${HOME}", "${…"),
        ("prog $(date)", "$(…"),
        ("prog $1 $@", "$1…"),
        ("prog `date`", "`…"),
        ('prog "$HOME"', "$H…"),
        ('prog "$(date)"', "$(…"),
        ('prog "`date`"', "`…"),
        ("prog ~/x", "a bare ~"),
        ("prog # comment", "a bare #"),
        ("prog a\nother b", "a line break"),
    ],
)
def test_shell_syntax_is_refused_without_a_shell(cmd, what):
    with pytest.raises(SpecError) as error:
        JobSpec(cmd, image="i")
    assert what in str(error.value)
    assert "shell=True" in str(error.value)
    assert "list of words" in str(error.value)
    if what != "a bare &" or "&&" in cmd:
        assert JobSpec(cmd, image="i", shell=True).fill().argv[-1] == cmd


@pytest.mark.parametrize("cmd", ['prog "$\\\nHOME"', "prog $\\\nHOME", 'prog "$\\\n\\\nHOME"'])
def test_a_variable_split_over_lines_is_refused(cmd):
    with pytest.raises(SpecError, match="a shell would fill in"):
        JobSpec(cmd, image="i")


@pytest.mark.parametrize("cmd", ["prog 'a", 'prog "a', "prog a\\", "prog it's"])
def test_quotes_that_do_not_match_are_refused(cmd):
    with pytest.raises(SpecError, match="unmatched"):
        JobSpec(cmd, image="i")


@given(st.text("ab '\"\\\n\t{}$", max_size=12))
def test_splitting_gives_the_words_that_a_shell_gives(text):
    try:
        split = JobSpec(f"prog {text}", image="i").words
    except SpecError:
        return
    script = f"prog() {{ for word do printf '%s\\0' \"$word\"; done; }}; prog {text}"
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == list(split[1:])


# -- with a shell -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cmd", "filled"),
    [
        ("cat {x} > {x}.out", "cat 'two words' > 'two words'.out"),
        ("awk '{print $1}' {x} | sort", "awk '{print $1}' 'two words' | sort"),
        ('echo ${HOME} $HOME "$HOME" {x}', "echo ${HOME} $HOME \"$HOME\" 'two words'"),
        ("echo $(wc -c {x})", "echo $(wc -c 'two words')"),
        ('echo "$(date)" "${A:-b}" {x}', 'echo "$(date)" "${A:-b}" \'two words\''),
        ("echo $((1 + 2)) {x}", "echo $((1 + 2)) 'two words'"),
        ("# it's {{x}}\necho {x}", "# it's {x}\necho 'two words'"),
        ("echo {x:>12} {n:03d}", "echo '   two words' 007"),
        ('X={x}; echo "$X"', "X='two words'; echo \"$X\""),
        ("echo {x} <<EOF\n$HOME\nEOF", "echo 'two words' <<EOF\n$HOME\nEOF"),
    ],
)
def test_a_field_is_one_word_of_a_shell_command(cmd, filled):
    assert fill(cmd, {**X, "n": 7}, shell=True).argv[-1] == filled


@pytest.mark.parametrize(
    ("cmd", "where"),
    [
        ("echo '{x}'", "inside single quotes"),
        ('echo "{x}"', "inside double quotes"),
        ('echo "$(cat {x})"', "inside double quotes"),
        ("echo `cat {x}`", "inside backquotes"),
        ("echo \\{x}", "after a backslash"),
        ('echo "\\{x}"', "inside double quotes"),
        ("echo ok # {x}", "in a comment"),
        ("cat <<EOF\n{x}\nEOF", "here-document"),
        ("echo $(({x} + 1))", "arithmetic"),
        ("echo ${A:-{x}}", "inside ${…}"),
        ('echo "$(echo "{x}")"', "after quotes within quotes"),
        ('echo "$(echo "a")" {x}', "after quotes within quotes"),
        ("echo $'a\\'b' {x}", "after quotes within quotes"),
    ],
)
def test_a_field_that_quoting_cannot_make_safe_is_refused(cmd, where):
    message = refused(cmd, shell=True)
    assert where in message
    assert "{x}" in message


def test_only_the_command_is_quoted_for_the_shell():
    filled = fill("echo", X, shell=True, env={"A": "{x}"}, workdir="{x}", name="{x}", outputs="{x}")
    assert filled.env == (("A", "two words"),)
    assert (filled.workdir, filled.name, filled.outputs) == ("two words", "two words", ("two words",))


def test_wildcards_in_a_value_match_only_themselves():
    filled = fill("prog", {"x": "a[1]*?"}, outputs=["{x}/*.cat", "b[12].cat"])
    assert filled.outputs == ("a[[]1][*][?]/*.cat", "b[12].cat")


# -- keys -------------------------------------------------------------------------------------------------------------


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


def test_a_value_without_a_stable_text_cannot_make_a_key():
    with pytest.raises(SpecError, match="field x is a object, whose text changes from run to run"):
        job_key({"x": object()})
    assert job_key({"x": SimpleNamespace(a=1)})


@pytest.mark.parametrize(
    ("fields", "slug"),
    [
        ({"path": Path("raw/ngc 1275.fits")}, "ngc-1275-"),
        ({"path": "raw/ngc1275.fits"}, "ngc1275-"),
        ({"name": "M 31", "seed": 3}, "M-31-seed3-"),
        ({"alpha": 0.1, "beta": -2}, "alpha0.1-beta-2-"),
        ({"sigma": 1.368761715425752, "x": 1e-7}, "sigma1.369-x1e-07-"),
        ({"x": "é"}, "job-"),
        ({"x": "../.."}, "job-"),
        ({}, "job-"),
        ({"x": "a" * 500}, "a" * 60 + "-"),
    ],
)
def test_a_key_reads_like_its_fields(fields, slug):
    assert job_key(fields)[:-8] == slug
    assert check_key(job_key(fields))


def test_a_key_is_the_same_in_every_process():
    code = "from canfar_batch.spec import job_key; print(job_key({'x': {'b', 'a', 'c'}, 'y': 0.1, 'z': 'é'}))"
    keys = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed}
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert keys == {job_key({"z": "é", "y": 0.1, "x": {"c", "b", "a"}}).encode()}
    # written down: a key that changes between releases would run finished jobs again
    assert job_key({"path": "raw/a.fits", "seed": 3}) == "a-seed3-1b9e4722"


@pytest.mark.parametrize("key", ["", "a\n", "a\tb", " a", "a ", "a" * 101, "\x1b[31m", "\ud800", "a\u2028b", 5, None])
def test_a_key_that_cannot_be_printed_is_refused(key):
    with pytest.raises(SpecError, match="key="):
        check_key(key)


@pytest.mark.parametrize(
    "key", ["ngc_1275.v2-a", "J0534+2200", "NGC 1234", "M31(R)", "a/b", "é", "-a", "..", "🙂" * 100]
)
def test_any_printable_text_is_a_key_and_has_a_file_name(key):
    assert check_key(key) == key
    assert re.fullmatch(r"[A-Za-z0-9_%][A-Za-z0-9._%~-]{0,119}", file_name(key))


def test_file_names_are_readable_and_different():
    assert file_name("ngc_1275.v2-a") == "ngc_1275.v2-a"
    assert file_name("NGC 1234/M31(R)") == "NGC%201234%2FM31%28R%29"
    assert [file_name(key) for key in ("..", "-a", "%2E.")] == ["%2E.", "%2Da", "%252E."]
    longs = {file_name("é" * 99 + last) for last in "abc"}
    assert len(longs) == 3
    assert {len(name) for name in longs} == {120}
