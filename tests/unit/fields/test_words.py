"""Commands, split into words by the rules of a shell."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canfar_batch.errors import SpecError
from canfar_batch.spec import JobSpec

X = {"x": "two words"}


def fill(cmd, fields=X, **options):
    return JobSpec(cmd, image="i", **options).fill(fields, key="k-1", index=7)


def words(cmd, fields=X):
    return fill(cmd, fields).argv[1:]


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
