"""Commands for a shell: refused constructs, and strictness: a failure anywhere ends the command."""

from __future__ import annotations

import contextlib
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canfar_batch.errors import SpecError
from canfar_batch.fields.shell import check_shell
from canfar_batch.fields.shell_doubts import shell_doubts
from canfar_batch.spec import JobSpec


def spec(cmd, shell=True):
    return JobSpec(cmd, image="i", shell=shell)


def refusal(cmd, shell=True):
    with pytest.raises(SpecError) as refused:
        spec(cmd, shell)
    return str(refused.value)


# -- refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cmd", "instead"),
    [
        ("prog &> log", ">FILE 2>&1"),
        ("prog &>> log", ">FILE 2>&1"),
        ("prog |& tee log", "2>&1 |"),
        ("if [[ -f a ]]; then b; fi", "[ … ]"),
        ('if [ "$a" == b ]; then c; fi', "= "),
        ("for i in {1..3}; do echo $i; done", "seq"),
        ("cp a{,.bak}", "the words themselves"),
        ("cp {a,b}.fits dir", "the words themselves"),
        ("diff <(sort a) <(sort b)", "temporary file"),
        ("files=(a b)", "for loop"),
        ("cat <<< word", "printf"),
        ("echo $'a\\tb'", "printf"),
        ("function f { a; }; f", "name() {"),
        ("((i++)); echo", "$((…))"),
        ("source setup.sh", ". ./FILE"),
        ("echo -e 'a\\n'", "printf"),
        ("declare -A x; prog", "leave it out"),
        ("echo ${x//a/b}", 'shell="bash"'),
        ("echo ${x:0:3}", 'shell="bash"'),
        ("echo ${x[1]}", 'shell="bash"'),
        ('sleep "$RANDOM"', "$RANDOM"),
        ('prog "$(cmp <(a) b)"', "temporary file"),
    ],
)
def test_bash_syntax_is_refused_in_plain_sh_and_accepted_in_bash(cmd, instead):
    message = refusal(cmd)
    assert instead in message
    assert 'shell="bash"' in message
    assert spec(cmd, "bash").fill().argv[-1].endswith(f"; {cmd}")


@pytest.mark.parametrize("shell", [True, "bash"])
@pytest.mark.parametrize(
    "cmd",
    [
        "prog &",
        "prog > log 2>&1 &",
        "(prog &)",
        "a & b & wait",
        "a & b",
        "a &\nb",
        "for i in 1 2; do a $i & done; wait",
        "for i in 1 2; do a $i & done; wait $!",
        "a & b & wait $!",
        "a & x=$!; b & y=$!; wait $x $y",
        "a & wait $!; b & wait",
        "setsid -f a",
        "nohup a &",
        "a & for p in $(jobs -p); do wait $p; done",
        "for i in 1 2; do a $i & wait -n; done; wait",
    ],
)
def test_a_background_job_whose_failure_is_lost_is_refused(cmd, shell):
    assert "wait $first" in refusal(cmd, shell)


@pytest.mark.parametrize("shell", [True, "bash"])
@pytest.mark.parametrize(
    "cmd",
    [
        "a && b; c",
        "cd x && a\nb",
        "cd x &&\n a\nb",
        "for i in 1 2; do a && b; done",
        "if c; then a && b; fi; d",
        "{ a && b; }; c",
        "a | b && c; d",
    ],
)
def test_commands_after_a_and_list_are_refused(cmd, shell):
    assert "line of its own" in refusal(cmd, shell)


@pytest.mark.parametrize("shell", [True, "bash"])
@pytest.mark.parametrize("cmd", ["export X=$(a)", 'a; export X="$(b)"', "f() { local x=`a`; }; f", "export A=1:$(b)"])
def test_an_export_that_hides_a_failure_is_refused(cmd, shell):
    assert "two lines" in refusal(cmd, shell)


@pytest.mark.parametrize("shell", [True, "bash"])
@pytest.mark.parametrize(
    "cmd",
    [
        "{ a; b; } && c",
        "(a\nb) || exit 1",
        "f() { a; b; }; f && c",
        "f() {\n a\n b\n}\nf || exit 3",
        "f() { a; b; }; if f; then c; fi",
        "f() { a; b; }; ! f",
        "if { a; b; }; then c; fi",
        "while ! (a; b); do c; done",
        "for i in 1 2; do a $i; done || exit 1",
        "if a; then b; fi && c",
        "while read x; do a $x; done < list && c",
        "if a; b; then c; fi",
        "while a\nb\ndo c; done",
        "if x=$(a; b); then c; fi",
        "x=$(a; b) || exit 1",
        "f() { a; b; }; { f; } || exit 1",
        "f() { a; b; }; if [ -f x ] && f; then c; fi",
        "f() { a; b; }; f | c || exit 1",
        "f() { a; b; }; g() { f; }; g && c",
        "f() { a; b; }; g() { f; }; while g; do c; done",
        "eval 'a; b' || exit 1",
    ],
)
def test_several_commands_as_a_condition_are_refused(cmd, shell):
    assert "in the condition" in refusal(cmd, shell)


@pytest.mark.parametrize(
    "cmd",
    [
        "trap 'exit 0' EXIT; a",
        'trap "rm -f x; exit 0" 0\na',
        "a; trap 'exit 0' INT ERR",
        "f() { b; exit 0; }; trap f EXIT; a",
        "trap f EXIT\nf() {\n exit 0\n}\na",
        "trap 'exit 0' EXIT TERM; a",
    ],
)
def test_a_trap_that_makes_failures_successes_is_refused(cmd):
    assert "leave the exit 0 out" in refusal(cmd, "bash")


@pytest.mark.parametrize("cmd", ["trap 'echo bye; exit $?' EXIT; a", "f() { rm x; exit $?; }; trap f EXIT; a"])
def test_a_trap_that_ends_with_the_code_of_its_own_command_is_refused(cmd):
    assert "leave the exit $? out" in refusal(cmd)


def test_text_that_eval_runs_is_checked():
    assert "line of its own" in refusal("eval 'a && b; c'")
    assert "set +e" in " ".join(spec("eval 'set +e'; a; b").doubts)


@pytest.mark.parametrize("cmd", ["! grep ERROR log; b", "if c; then ! a\nfi; b; ! d; e"])
def test_a_negation_whose_result_is_ignored_is_refused(cmd):
    assert "then exit 1; fi" in refusal(cmd)


PIECES = [*"'\"`\\$(){}#<&|;\n ax=[]", "$(", "${", "<<E\n", "E\n", "&&", "$((", "))"]


def test_deep_nesting_is_refused():
    assert "script" in refusal("$(" * 20_000)


@given(text=st.lists(st.sampled_from(PIECES)).map("".join))
def test_every_text_is_accepted_or_refused(text):
    for shell in (True, "bash"):
        with contextlib.suppress(SpecError):
            check_shell(text, shell)
            assert all(map(str, shell_doubts(text, shell)))


@pytest.mark.parametrize(
    "cmd",
    [
        "a && b",
        "a && b\n",
        "x=$(a)\nexport x",
        "export X=1 Y=$x",
        "(cd x && a); b",
        "if a && b; then c; fi",
        "while a && b; do c; done",
        "a && b || c; d",
        "[ -f x ] && rm x; b",
        "test -d y && cd y\nb",
        "a & first=$!; b & second=$!; wait $first; wait $second",
        'for i in 1 2; do a $i & all="$all $!"; done; for one in $all; do wait "$one"; done',
        "a >out 2>&1; b 2>&1 | c; d >&2",
        "echo 'a & b' \"c & d && e; f\" # g & h",
        "echo a\\&b",
        "cat <<EOF\nx & y && z; [[ <(a) {1..3}\nEOF\nb",
        "cat <<-'EOF'\n\tx & y\n\tEOF\nb",
        "python -c 'print([[1, 2], {1, 2}])'",
        "awk '{print $1 \"==\" $2}' x",
        "echo $(( 1 & 2 )) ${x:-a&b} ${x%.fits} ${#x}",
        "find . -name '*.fits' -exec ls {} +",
        "case x in a|b) c;; *) d;; esac",
        "f() { a; }; f",
        "curl 'http://x/?a=1&b=2'",
        'x=$(a | b); echo "$x"',
        "a || { echo failed; exit 1; }",
        "(a && b) || exit 1",
        "{ a; b; } || true",
        "for i in 1 2; do a $i; done || :",
        "{ a; b; } > log 2>&1",
        "f() { a; b; }; f\nf > x",
        "f() { a; }; f && b",
        "trap 'rm -f x' EXIT; a",
        "trap 'save; exit 0' TERM; a",
        "trap 'rc=$?; rm -f x; exit $rc' EXIT; a",
        "f() { rm -f x; exit; }; trap f EXIT; a",
        "trap 'exit 1' EXIT; a",
        "f() { a; b; }; [ -f x ] && f",
        "while read x; do a; done < list",
        "if a\nthen\n b\n c\nfi",
        "cat <<EOF\n$x `date` $(date)\nEOF\nb",
        "cat <<'EOF'\n$(a)\nEOF\nb",
        "x=$(a) y=1; b",
        "x=$(a); y=`b`; c",
        "a || b || exit 1",
        "a || rc=$?; exit $rc",
        "make x || make y",
        "a || { echo failed; exit 3; }",
        "bash -eo pipefail -c 'a | b; c'",
        "sh -c 'set -e; a; b'",
        "sh x.sh < list",
        "a | ssh host b",
        "a\n! grep ERROR log",
        "if ! a; then b; fi; c",
        "set -e; a; set -u",
        "[ -f x ] || echo none; a",
        "for i in $(seq 3); do a $i; done",
        "x=$(cat list); a $x",
        '[ "$(cat x)" = y ] || exit 1',
        "sh -ec 'a; b'",
        "sh -c 'a b'",
        "echo 'a || echo b; set +e; $(c)'",
    ],
)
def test_a_safe_command_is_accepted_without_a_word(cmd):
    assert spec(cmd).fill().argv[-1] == cmd
    assert spec(cmd, "bash").fill().argv[-1].endswith(f"; {cmd}")
    assert not spec(cmd).doubts


def test_a_command_is_shown_without_the_search_for_pipefail():
    assert spec("a | b").fill().command == "/bin/sh -eo pipefail -c 'a | b'"
    assert spec("a b").fill().command == "/bin/sh -ec 'a b'"
    assert spec("a b", "bash").fill().command == "bash -eo pipefail -c 'a b'"
    assert JobSpec("a 'b c'", image="i").fill().command == "a 'b c'"


# -- strict ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", [True, "bash"])
@pytest.mark.parametrize(
    ("cmd", "code"),
    [
        ("(exit 4) | cat", 4),
        ("sh -c 'exit 4' 2>&1 | tee log", 4),
        ("(exit 4)\necho done", 4),
        ("(exit 4); echo done", 4),
        ("x=$( (exit 4) | cat )\necho done", 4),
        ("x=$( (exit 4); echo a )\necho done", 4),
        ("eval '(exit 4) | cat'\necho done", 4),
        ("(exit 4) & one=$!; wait $one; echo done", 4),
        ("(false && true); echo done", 1),
        ("exit 4", 4),
        ("echo a | grep b || true; echo done", 0),
        ("true | cat", 0),
        ('[ "$#" = 0 ] && [ "$0" != "" ]', 0),
        ('[ "$#" = 0 ] | cat', 0),
    ],
)
def test_the_first_failure_ends_a_shell_command(cmd, code, shell, tmp_path):
    done = subprocess.run(spec(cmd, shell).fill().argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "")
    assert ("done" in done.stdout) == (code == 0 and "done" in cmd)


def test_without_pipefail_and_bash_a_pipeline_is_not_run(tmp_path):
    argv = spec("echo ran | cat").fill().argv
    done = subprocess.run(
        [shutil.which("dash") or "/bin/sh", *argv[1:]],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    has_pipefail = (
        subprocess.run(["/bin/sh", "-c", "set -o pipefail"], capture_output=True, check=False).returncode == 0
    )
    assert has_pipefail or (done.returncode, done.stdout) == (126, "")
    assert has_pipefail or "cannot run a pipeline safely" in done.stderr


def test_a_pipeline_keeps_the_echo_of_a_plain_sh(tmp_path):
    plain, piped = (
        subprocess.run(spec(cmd).fill().argv, capture_output=True, check=True).stdout
        for cmd in ("echo 'a\\tb'", "echo 'a\\tb' | cat")
    )
    assert plain == piped
