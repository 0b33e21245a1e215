"""What holds for every spec, template and set of fields."""

from __future__ import annotations

import json
import os
import pickle
import re
import shlex
import string
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shells import PRESENT

from canfar_batch.errors import SpecError
from canfar_batch.spec import JobSpec, check_key, job_key, literal_path, plain_fields

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
words = st.text(st.characters(exclude_characters="\0{}", exclude_categories=["Cs"]), max_size=20)
env_names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,12}", fullmatch=True).filter(lambda name: "CANFAR" not in name)
paths = words.filter(
    lambda path: path.strip() and path[0] != "~" and "**" not in path and "$" not in path and path[-1] not in "\r\n"
)
names = st.from_regex(r"[A-Za-z][a-z_0-9]{0,8}", fullmatch=True)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts)
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=5
)


@st.composite
def specs(draw):
    shell = draw(st.sampled_from([False, True, "bash"]))
    program = draw(st.sampled_from(["python", "./run it", "/bin/echo"]))
    arguments = draw(st.lists(words, max_size=4))
    as_text = bool(shell) or draw(st.booleans())
    return JobSpec(
        shlex.join([program, *arguments]) if as_text else [program, *arguments],
        image=draw(st.sampled_from(["skaha/astroml", "images.canfar.net/a/b:1"])),
        name=draw(st.none() | st.just("fit {index}")),
        cores=draw(st.none() | st.integers(1, 64)),
        ram=draw(st.none() | st.integers(1, 512)),
        gpus=draw(st.none() | st.integers(0, 4)),
        env=draw(st.dictionaries(env_names, texts, max_size=3)),
        shell=shell,
        workdir=draw(st.none() | paths),
        outputs=draw(st.lists(paths, max_size=3)),
        timeout=draw(st.none() | st.floats(0.001, 1e9)),
        pending_timeout=draw(st.none() | st.integers(1, 10**6)),
    )


@given(spec=specs())
def test_a_spec_survives_json_and_pickling(spec):
    text = json.dumps(spec.to_json(), sort_keys=True, allow_nan=False)
    for again in (JobSpec.from_json(json.loads(text)), pickle.loads(pickle.dumps(spec))):
        assert again == spec
        assert hash(again) == hash(spec)
        assert json.dumps(again.to_json(), sort_keys=True) == text
        assert again.identity() == spec.identity()


@given(argv=st.lists(words, min_size=1, max_size=5))
def test_without_fields_words_are_unchanged(argv):
    argv = ["prog", *argv]
    assert JobSpec(argv, image="i").fill({}, key="k", index=3).argv == tuple(argv)
    assert JobSpec(shlex.join(argv), image="i").fill(None).argv == tuple(argv)


@given(argv=st.lists(words, max_size=5))
def test_words_without_braces_are_unchanged_by_fields(argv):
    argv = ["prog", *argv]
    assert JobSpec(argv, image="i").fill({"x": 1}).argv == tuple(argv)


@given(text=texts)
def test_doubled_braces_around_a_field_become_single_braces(text):
    filled = JobSpec(["prog", "{{x}}", "{x}"], image="i").fill({"x": text})
    assert filled.argv == ("prog", "{x}", text)


@given(value=texts)
def test_every_value_is_one_argument(value):
    spec = JobSpec(
        "prog --path={path} 'quoted {path}' \"{path}\"", image="i", env={"P": "<{path}>"}, outputs="{path}.cat"
    )
    filled = spec.fill({"path": value}) if not value.startswith("~") and "\0" not in value else None
    if filled is not None:
        assert filled.argv == ("prog", f"--path={value}", f"quoted {value}", value)
        assert filled.env == (("P", f"<{value}>"),)
        assert literal_path(filled.outputs[0]) == f"{value}.cat"


SHELL_TEMPLATES = [
    "printf '%s\\0' {x}",
    "printf '%s\\0' {x} | cat",
    "for f in {x}; do printf '%s\\0' $(printf '%s' ok >/dev/null) \"$f\"; done",
    "A={x}; printf '%s\\0' \"$A\" # don't",
    "# it's\nprintf '%s\\0' {x} && true $((1 + 2)) ${y:-z}",
    "case {x} in *) printf '%s\\0' {x};; esac",
    'f() { printf "%s\\0" "$1"; }; f {x}',
]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    values=st.lists(
        st.one_of(
            texts, st.sampled_from(["a; rm -rf b", "$(touch ran)", "`touch ran`", "'", '"', "\\", "\n", "", "-n", "*"])
        ),
        min_size=len(SHELL_TEMPLATES),
        max_size=len(SHELL_TEMPLATES),
    )
)
def test_every_value_in_a_shell_command_is_one_word(values, tmp_path):
    filled = [
        JobSpec(template, image="i", shell=True).fill({"x": value}).argv[-1]
        for template, value in zip(SHELL_TEMPLATES, values, strict=True)
    ]
    for shell in PRESENT.values():
        done = subprocess.run([*shell, "-c", "\n".join(filled)], capture_output=True, cwd=tmp_path, check=False)
        assert done.stdout == b"".join(os.fsencode(value) + b"\0" for value in values)
    assert not list(tmp_path.iterdir())


# fragments out of which unsafe surroundings are made
FRAGMENTS = [
    *(
        "'",
        '"',
        "`",
        "\\",
        "$",
        "(",
        ")",
        "{",
        "}",
        "#",
        "<<",
        "<",
        "\n",
        " ",
        ";",
        "a",
        "$(",
        "${",
        "((",
        "))",
        "case x in a)",
    ),
    *("esac", "E\n", "\\\n", "{x}", "{x}", "{x}", "$'", "<<<", "&", "|", "b c", ":-", "echo "),
]


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(fragments=st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=14))
def test_no_value_is_run_in_any_shell_command(fragments, tmp_path):
    text = "".join(fragments)
    if not text.strip() or "{x}" not in text:
        return
    try:
        filled = JobSpec(text, image="i", shell=True).fill({"x": "$(echo ran >ran)`echo ran >ran`;echo ran >ran\n"})
    except SpecError:
        return
    (tmp_path / "ran").unlink(missing_ok=True)
    for shell in PRESENT.values():
        subprocess.run(
            [*shell, "-c", filled.argv[-1]], capture_output=True, cwd=tmp_path, stdin=subprocess.DEVNULL, check=False
        )
        assert not (tmp_path / "ran").exists(), text


# -- keys -----------------------------------------------------------------------------------------------------------


@given(fields=st.dictionaries(texts, trees, max_size=4))
def test_any_fields_make_a_valid_key(fields):
    key = job_key(fields)
    assert check_key(key) == key
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,100}", key)
    assert re.search(r"-[0-9a-f]{8}$", key)
    assert key == job_key(dict(reversed(fields.items())))


@given(fields=st.dictionaries(texts, trees, max_size=4))
def test_plain_fields_are_unchanged_by_a_second_call(fields):
    plain = plain_fields(fields)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain_fields(plain) == plain


@given(
    first=st.dictionaries(names, texts | st.integers(), max_size=3),
    second=st.dictionaries(names, texts | st.integers(), max_size=3),
)
def test_different_fields_have_different_keys_in_any_case(first, second):
    assert (job_key(first).lower() == job_key(second).lower()) == (first == second)


@pytest.mark.parametrize("alphabet", [string.printable])
def test_a_literal_pattern_is_its_path(alphabet):
    @given(path=st.text(alphabet, min_size=1))
    def literally(path):
        from canfar_batch.fields.patterns import literal

        assert literal_path(literal(path)) == path

    literally()


def test_paths_give_short_keys():
    assert job_key({"path": Path("raw/ngc 1275.fits")}).startswith("ngc-1275-")
