"""Fields in a shell command, quoted."""

from __future__ import annotations

import pytest

from canfar_batch.errors import SpecError
from canfar_batch.spec import JobSpec

X = {"x": "two words"}


def fill(cmd, fields=X, **options):
    return JobSpec(cmd, image="i", **options).fill(fields, key="k-1", index=7)


def refused(cmd, fields=X, **options):
    with pytest.raises(SpecError) as error:
        fill(cmd, fields, **options)
    return str(error.value)


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
