"""Constructs that may hide a failure of a command, although they may be meant."""

from __future__ import annotations

import pytest

from canfar_batch.fields.shell_doubts import argv_doubts
from canfar_batch.spec import JobSpec


def spec(cmd, shell=True):
    return JobSpec(cmd, image="i", shell=shell)


@pytest.mark.parametrize("shell", [True, "bash"])
@pytest.mark.parametrize(
    ("cmd", "doubt"),
    [
        ("set +e; a; b", "set +e lets the command go on"),
        ("a\nset +o pipefail\nb", "set +o pipefail lets"),
        ("a || echo failed", "with || echo a failure counts as a success"),
        ("a && b || echo failed; c", "exit 1; }"),
        ("sh -c 'a; b'", "sh -c does not end at the first failure"),
        ('a; /bin/bash -x -c "b | c"', "bash -ec"),
        ("find . -name x -exec a {} \\;", "-exec … {} +"),
        ("find . \\\n -exec a {} \\;", "-exec … {} +"),
        ("set -u +e; a", "set -u +e lets"),
        ("a || touch failed", "with || touch"),
        ("for i in 1 2; do a $i || continue; b; done", "with || continue"),
        ("a && b || date", "with || date"),
        ("[ -f x ] && b || date", "with || date"),
        ("a || rc=1; b", "with || rc=1"),
        ("a || { echo failed; exit; }", "with || echo"),
        ("a || { echo failed >&2; exit $?; }", "with || echo"),
        ("timeout 5 sh -c 'a; b'", "sh -c does not end"),
        ("env X=1 bash --login -c 'a; b'", "bash -c does not end"),
        ("cat list | xargs -n 1 sh -c 'a $0; b'", "sh -c does not end"),
        ("bash -ec 'a | b'", "the last command of a pipeline"),
        ("sh -ec 'a && b; c'", "line of its own"),
        ("echo a | sh", "sh reads commands from its input"),
        ("bash <<E\na\nb\nE", "bash reads commands"),
        ("sh < x.sh", "sh reads commands"),
        ("x=$(a) b", "a failure of a in $(…)"),
        ("x=$(a) y=$(b); c", "a failure of a in $(…)"),
        ("cat <<E\n$(a)\nE", "a failure of a in $(…)"),
        ("cat <<E > x\n- `a`\nE\nb", "a failure of a in $(…)"),
        ("prog $(cat list)", "a failure of cat in $(…) is not noticed"),
        ("for i in `ls x`; do a $i; done", "NAME=$(…) on a line of its own"),
        ('echo "$(a)" > x', "a failure of a in"),
    ],
)
def test_what_may_hide_a_failure_is_reported(cmd, doubt, shell):
    assert doubt in " ".join(spec(cmd, shell).doubts)


def test_bash_constructs_whose_failure_is_not_noticed_are_reported():
    assert "is not noticed" in " ".join(spec("diff <(a) <(b)", "bash").doubts)


@pytest.mark.parametrize(
    ("words", "doubt"),
    [
        (("bash", "-lc", "a; b"), "bash -c does not end"),
        (("timeout", "5", "sh", "-c", "a; b"), "sh -c does not end"),
        (("bash", "-o", "nounset", "-c", "a; b"), "bash -c does not end"),
        (("/bin/bash", "-ec", "a | b"), "the last command of a pipeline"),
        (("sh", "-ec", "a && b; c"), "line of its own"),
    ],
)
def test_a_shell_that_the_command_itself_calls_is_looked_at(words, doubt):
    assert doubt in " ".join(argv_doubts(words))
    assert doubt in " ".join(JobSpec(list(words), image="i").doubts)


@pytest.mark.parametrize(
    "words",
    [
        ("sh", "-ec", "a; b"),
        ("bash", "-euo", "pipefail", "-c", "a | b"),
        ("sh", "-c", "set -e; a; b"),
        ("sh", "-c", "a"),
        ("sh", "x.sh", "-c", "a; b"),
        ("python", "-c", "a; b"),
    ],
)
def test_a_strict_or_single_command_brings_no_doubt(words):
    assert not list(argv_doubts(words))
