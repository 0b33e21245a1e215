"""JobSpec: arguments that are accepted or refused, error messages, and `repr`."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from canfar_batch.errors import SpecError
from canfar_batch.records import Limits, offered_at_least
from canfar_batch.spec import Filled, JobSpec, Secret, full_image, literal_path, looks_secret


def spec(cmd="python fit.py", **options):
    return JobSpec(cmd, **{"image": "skaha/astroml", **options})


# -- accepted arguments ----------------------------------------------------------------------------------------------


def test_a_spec_needs_a_command_and_an_image_alone():
    plain = spec()
    assert plain.words == ("python", "fit.py")
    assert (plain.name, plain.cores, plain.ram, plain.gpus, plain.workdir, plain.timeout) == (None,) * 6
    assert (dict(plain.env), plain.outputs, plain.shell, plain.receipt) == ({}, (), False, True)


def test_words_may_be_paths_and_numbers():
    argv = spec(["python", Path("fit.py"), 7, 0.5, np.int64(3), np.float64(0.1), Decimal("1.50")]).fill().argv
    assert argv == ("python", "fit.py", "7", "0.5", "3", "0.1", "1.50")
    assert all(type(word) is str for word in argv)


def test_a_path_alone_is_a_program():
    assert spec(Path("bin/my prog")).fill().argv == ("bin/my prog",)


def test_numpy_numbers_are_accepted():
    assert spec(cores=np.int32(4), ram=np.float64(16), gpus=np.uint8(1)).to_json() | {"cmd": 0} == spec(
        cores=4, ram=16, gpus=1
    ).to_json() | {"cmd": 0}


def test_zero_gpus_mean_none():
    assert spec(gpus=0).gpus is None
    assert spec(gpus=0) == spec()


def test_environment_values_become_text():
    env = spec(env={"A": 1, "B": 0.5, "C": Path("/x"), "D": "", "E": np.int64(2)}).env
    assert dict(env) == {"A": "1", "B": "0.5", "C": "/x", "D": "", "E": "2"}


def test_one_output_may_be_given_alone():
    assert spec(outputs="a.cat").outputs == spec(outputs=[Path("a.cat")]).outputs == ("a.cat",)


def test_a_str_subclass_becomes_a_str():
    class Name(str):
        __slots__ = ()

    assert type(spec(Name("prog x")).cmd) is str
    assert type(spec(["prog", Name("x")]).words[1]) is str


# -- refused arguments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cmd": ""}, "cmd is empty"),
        ({"cmd": "  "}, "cmd is empty"),
        ({"cmd": []}, "empty list"),
        ({"cmd": None}, "neither a string nor a list"),
        ({"cmd": b"prog"}, "neither a string nor a list"),
        ({"cmd": {"prog"}}, "neither a string nor a list"),
        ({"cmd": ["prog", None]}, "word 1 of cmd is None"),
        ({"cmd": ["prog", True]}, "word 1 of cmd is True"),
        ({"cmd": ["prog", b"x"]}, "a bytes"),
        ({"cmd": ["prog", math.nan]}, "NaN"),
        ({"cmd": ["prog", "a\0b"]}, "NUL"),
        ({"cmd": "prog a\0b"}, "NUL"),
        ({"cmd": ["", "x"]}, "empty word"),
        ({"cmd": ["-c", "x"]}, "an option; the program to run comes first"),
        ({"cmd": "MODE=1 prog"}, "give variables as env="),
        ({"cmd": ["prog"], "shell": True}, "shell=True takes cmd as one string"),
        ({"image": ""}, "not the name of an image"),
        ({"image": "a b"}, "not the name of an image"),
        ({"image": "docker://a/b"}, "has a scheme; leave it out"),
        ({"image": None}, "image is None"),
        ({"name": "--"}, "no letter or digit"),
        ({"name": 5}, "name is 5"),
        ({"cores": 0}, "cores=0 is not a positive number"),
        ({"cores": -1}, "not a positive number of cores"),
        ({"cores": 2.5}, "not a whole number of cores; take 3"),
        ({"cores": True}, "cores=True"),
        ({"cores": "2"}, "cores='2' is not a positive number"),
        ({"cores": math.nan}, "cores=nan"),
        ({"ram": math.inf}, "ram=inf is not a positive number of GiB; leave it out"),
        ({"ram": 0}, "ram=0"),
        ({"gpus": -1}, "gpus=-1"),
        ({"gpus": False}, "gpus=False"),
        ({"env": {"1A": "x"}}, "'1A'"),
        ({"env": {"A-B": "x"}}, "'A-B'"),
        ({"env": {"": "x"}}, "the name ''"),
        ({"env": {"A\n": "x"}}, "the name"),
        ({"env": {"A": None}}, "the value of A in env is None; leave it out, or give an empty string"),
        ({"env": {"A": True}}, "the value of A in env is True"),
        ({"env": {"A": np.True_}}, "the value of A in env is True"),
        ({"env": {"A": "x\0"}}, "NUL"),
        ({"env": ["A=1"]}, "give a mapping"),
        ({"env": {"CANFAR_BATCH_KEY": "x"}}, "sets itself"),
        ({"shell": 1}, "shell=1 is neither True nor False"),
        ({"shell": "zsh"}, "nor 'bash'"),
        ({"workdir": "a\n"}, "ends in a line break"),
        ({"outputs": ["a.cat\r\n"]}, "ends in a line break"),
        ({"workdir": "$HOME/x"}, "no shell fills in $HOME"),
        ({"outputs": ["${OUT}/x"]}, "no shell fills in ${OUT}"),
        ({"receipt": None}, "receipt=None"),
        ({"workdir": ""}, "workdir is ''"),
        ({"workdir": "~/x"}, "no shell expands the ~"),
        ({"outputs": ["~x"]}, "no shell expands the ~"),
        ({"outputs": [""]}, "an output is ''"),
        ({"outputs": ["a/**/b"]}, "name each level"),
        ({"outputs": {"a", "b"}}, "neither a path nor a list"),
        ({"outputs": b"x"}, "a bytes"),
        ({"timeout": 0}, "timeout=0 is not a positive number of seconds"),
        ({"timeout": math.inf}, "leave it out for no limit"),
        ({"timeout": "1h"}, "timeout='1h'"),
        ({"pending_timeout": -1}, "pending_timeout=-1"),
        ({"timeout": 5, "receipt": False}, "enforced by the wrapper"),
        ({"outputs": ["a.fits"], "receipt": False}, "looked for by the wrapper"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_with_advice(options, words):
    with pytest.raises(SpecError) as refused:
        spec(**options)
    assert words in str(refused.value)


def test_a_refused_variable_does_not_show_its_value():
    with pytest.raises(SpecError) as refused:
        spec(env={"API_TOKEN": "s3cret\0"})
    assert "s3cret" not in str(refused.value)


# -- repr and identity ------------------------------------------------------------------------------------------------


def test_repr_shows_what_was_given_and_no_secrets():
    shown = repr(spec(cores=2, env={"API_TOKEN": "s3cret", "MODE": "fast"}, shell=True))
    assert shown == (
        "JobSpec('python fit.py', image='skaha/astroml', cores=2, "
        "env={'API_TOKEN': '[secret]', 'MODE': 'fast'}, shell=True)"
    )
    assert len(repr(spec(["prog", "x" * 10_000]))) < 200
    assert "s3cret" not in repr(spec(env={"DB_PASSWORD": "s3cret"}).fill())


@pytest.mark.parametrize(
    "name", ["CADC_TOKEN", "secret", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD", "apikey", "Credential"]
)
def test_names_of_secrets_are_known(name):
    assert looks_secret(name)
    assert not looks_secret("OMP_NUM_THREADS")
    assert not looks_secret("CANFAR_BATCH_KEY")


def test_specs_are_values():
    assert spec(env={"A": 1, "B": 2}) == spec(env={"B": 2, "A": 1})
    assert len({spec(), spec(), spec(cores=1)}) == 2
    with pytest.raises(AttributeError):
        spec().cores = 3


def test_resources_times_and_name_are_not_the_jobs_identity():
    same = spec("python 'fit.py'", name="x", cores=1, ram=2, gpus=3, timeout=4, pending_timeout=5)
    assert same.identity() == spec().identity() == spec(["python", "fit.py"]).identity()
    for changed in (
        {"cmd": "python x"},
        {"image": "x"},
        {"env": {"A": 1}},
        {"workdir": "x"},
        {"outputs": "x"},
        {"shell": True},
    ):
        assert spec(**changed).identity() != spec().identity()


def test_a_stored_spec_of_another_version_is_refused():
    with pytest.raises(SpecError, match="fuel"):
        JobSpec.from_json({**spec().to_json(), "fuel": 1})
    with pytest.raises(SpecError, match="lacks image"):
        JobSpec.from_json({"cmd": "x"})
    assert JobSpec.from_json({"cmd": "python fit.py", "image": "skaha/astroml"}) == spec()


def test_a_spec_can_be_filled_without_fields():
    assert spec("prog {{x}} a{}b", name="x").fill() == Filled(("prog", "{x}", "a{}b"), (), "x")
    with pytest.raises(SpecError, match=r"\{key\} is a field"):
        spec("prog {key}").fill()
    assert spec("prog {key} {index}").fill({}, key="k", index=1).argv == ("prog", "k", "1")


# -- around it --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("skaha/astroml", "images.canfar.net/skaha/astroml:latest"),
        ("skaha/astroml:24.03", "images.canfar.net/skaha/astroml:24.03"),
        ("astroml", "images.canfar.net/astroml:latest"),
        ("astroml:1", "images.canfar.net/astroml:1"),
        ("images.canfar.net/skaha/astroml", "images.canfar.net/skaha/astroml:latest"),
        ("localhost/x/y", "localhost/x/y:latest"),
        ("host:5000/x/y", "host:5000/x/y:latest"),
        ("a.b/c@sha256:12", "a.b/c@sha256:12"),
        ("skaha/astroml@sha256:12", "images.canfar.net/skaha/astroml@sha256:12"),
    ],
)
def test_short_image_names_are_completed(short, full):
    assert full_image(short) == full
    assert full_image(full) == full


def test_another_registry_may_complete_them():
    assert full_image("a/b", registry="registry.example.org") == "registry.example.org/a/b:latest"


@pytest.mark.parametrize(
    ("pattern", "path"),
    [("a.cat", "a.cat"), ("a[[]1].cat", "a[1].cat"), ("a[*][?]", "a*?"), ("*.cat", None), ("a?", None), ("[ab]", None)],
)
def test_a_pattern_without_wildcards_is_a_path(pattern, path):
    assert literal_path(pattern) == path


OFFERED = Limits(cores=(1, 2, 4, 8), ram=(1, 2, 4, 6, 8), gpus=(1, 2), default_cores=1, default_ram=2)


def test_limits_are_printed_in_a_line():
    assert str(OFFERED) == "up to 8 cores, 8 GiB, 2 GPUs for one job; 1 core, 2 GiB by default"
    assert str(Limits(cores=(), ram=(), gpus=(), default_cores=2, default_ram=4)) == "2 cores, 4 GiB by default"


@pytest.mark.parametrize(
    ("name", "meant"), [("memory", "ram"), ("cpus", "cores"), ("core", "cores"), ("environment", "env")]
)
def test_the_names_of_other_programs_are_understood_well_enough_to_advise(name, meant):
    with pytest.raises(SpecError, match=f"a job has no {name}; did you mean {meant}\\?"):
        JobSpec("fit", image="i/i", **{name: 1})


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"ram": 5}, "ram=5 is not offered; the nearest are 4 and 6 GiB"),
        ({"ram": 500}, "ram=500 is not offered; the nearest is 8 GiB"),
        ({"cores": 3}, "cores=3 is not offered; the nearest are 2 and 4 cores"),
        ({"gpus": 9}, "gpus=9 is not offered; the nearest is 2 GPUs"),
        ({"cores": 3, "ram": 5}, "cores=3 is not offered; the nearest are 2 and 4 cores; ram=5"),
    ],
)
def test_resources_that_are_not_offered_are_refused_with_the_nearest(asked, words):
    with pytest.raises(SpecError) as refused:
        OFFERED.check(spec(**asked))
    assert words in str(refused.value)


def test_resources_that_are_offered_are_let_through():
    OFFERED.check(spec(cores=4, ram=8, gpus=1))
    OFFERED.check(spec())
    Limits(cores=(), ram=(), gpus=(), default_cores=1, default_ram=1).check(spec(cores=3, ram=5))  # offers unknown


def test_a_platform_without_gpus_says_so():
    with pytest.raises(SpecError, match="this platform has none, so leave gpus out"):
        Limits(cores=(1,), ram=(1,), gpus=(), default_cores=1, default_ram=1).check(spec(gpus=1))


def test_the_least_that_is_offered_and_enough():
    assert [offered_at_least(OFFERED.ram, need) for need in (4.1, 8, 9)] == [6, 8, None]


def test_templates_are_read_once_for_all_jobs(monkeypatch):
    from canfar_batch.fields import templates as fields

    templated = spec("python {path} {path.stem}.cat", env={"SEED": "{index}"}, outputs="{path.stem}.cat", name="{key}")
    templated.fill({"path": PurePosixPath("a.fits")}, key="k", index=0)
    monkeypatch.setattr(fields.Template, "read", None)
    filled = templated.fill({"path": PurePosixPath("b.fits")}, key="k", index=99_999)
    assert filled == Filled(("python", "b.fits", "b.cat"), (("SEED", "99999"),), "k", None, ("b.cat",))


@pytest.mark.parametrize(
    "options",
    [
        {"env": {"OUT": "$HOME/out"}},
        {"env": {"PATH": "/opt/bin:$PATH"}},
        {"env": {"X": "~/x"}},
        {"cmd": ["fit", "$HOME/x"]},
        {"cmd": ["fit", "--out=~/x"]},
    ],
)
def test_a_variable_that_nothing_fills_in_is_doubtful(options):
    (doubt,) = spec(**options).doubts
    assert "no shell fills in" in doubt


def test_a_value_of_the_environment_with_a_line_end_is_doubtful():
    assert spec(env={"API_TOKEN": "hush\n"}).doubts == (
        "the value of API_TOKEN in env is '[secret]', which ends in a line break",
    )


@pytest.mark.parametrize("cmd", ["sh -c 'a | b'", ["/bin/bash", "-c", "a; b"], "bash -c 'a\nb'", "sh -c 'a & wait'"])
def test_a_shell_of_the_users_own_that_hides_failures_is_doubtful(cmd):
    (doubt,) = spec(cmd).doubts
    assert "with shell=True" in doubt
    assert spec("sh -ec 'a; b'").doubts == spec("sh -c 'a \"b;c\"'").doubts == spec("sh x.sh '|'").doubts == ()


@pytest.mark.parametrize("value", ["~you/x", "$here/x", "${here}", "--out=$HOME/x", "pre-$HOME", "$(pwd)/x", "`pwd`"])
def test_everything_that_only_a_shell_fills_in_is_doubtful(value):
    for options in ({"env": {"A": value}}, {"cmd": ["fit", value]}):
        (doubt,) = spec(**options).doubts
        assert "no shell fills in" in doubt


@pytest.mark.parametrize("word", [">", "|", "&&", "2>&1"])
def test_an_operator_of_a_shell_among_words_is_doubtful(word):
    (doubt,) = spec(["fit", "a", word, "b"]).doubts
    assert "only a shell understands" in doubt
    assert spec(["expr", "1", word, "2"]).doubts == ()


def test_a_float_that_was_an_identifier_is_refused_among_words_and_variables():
    for options in ({"cmd": ["fit", 4472832130942575104.0]}, {"env": {"ID": 4472832130942575104.0}}):
        with pytest.raises(SpecError, match="too large a float to have all its digits"):
            spec(**options)


def test_other_dollars_cause_no_doubt_and_secrets_are_masked():
    assert spec(["sh", "-c", "echo $HOME/x"], env={"A": "pa$WORD", "B": "a~b", "C": "US$5"}).doubts == ()
    assert spec(["awk", "{print $NF}", "perl", "$x = 1", "a_$(b, c)"]).doubts == ()
    (doubt,) = spec(env={"MY_KEY": "$HOME/hush"}).doubts
    assert "hush" not in doubt


# -- secrets ----------------------------------------------------------------------------------------------------------


def test_a_secret_is_read_at_the_launch_and_shown_nowhere(monkeypatch):
    monkeypatch.setenv("MY_KEY", "hush-{n}")
    secret = spec("fit {n}", env={"HIDDEN": Secret("MY_KEY"), "N": "{n}"})
    filled = secret.fill({"n": 3})
    assert filled.environment() == (("HIDDEN", "hush-{n}"), ("N", "3"))
    assert "hush" not in f"{secret!r} {filled!r} {secret.to_json()} {secret.identity()}"
    monkeypatch.setenv("MY_KEY", "renewed")
    assert filled.environment()[0] == ("HIDDEN", "renewed")


def test_a_secret_is_identified_and_stored_by_its_name():
    secret = spec(env={"A": Secret("MY_KEY")})
    assert secret == JobSpec.from_json(json.loads(json.dumps(secret.to_json())))
    assert secret.secrets == (Secret("MY_KEY"),)
    assert secret != spec(env={"A": Secret("OTHER")})
    assert secret.identity() != spec(env={"A": "MY_KEY"}).identity()


@pytest.mark.parametrize("value", [None, ""])
def test_a_secret_that_is_not_set_is_named(value, monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(SpecError, match="MY_KEY, which a job needs as a Secret, is not set here"):
        spec(env={"A": Secret("MY_KEY")}).fill().environment()


@pytest.mark.parametrize("value", ["sk-hush=", "", 7, None, "a b"])
def test_an_invalid_secret_is_refused_without_repeating_it(value):
    with pytest.raises(SpecError, match="takes the name of an environment variable") as caught:
        Secret(value)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "advice"), [({"core": 2}, "did you mean cores"), ({"zzz": 2}, "it has cmd, image, name, cores")]
)
def test_an_unknown_argument_is_refused_with_the_names_that_there_are(given, advice):
    with pytest.raises(SpecError, match=f"a job has no {next(iter(given))}; {advice}"):
        JobSpec("true", image="a/b", **given)
