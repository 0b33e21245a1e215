"""JobSpec: what it takes, what it refuses and how it says so, and what it shows."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from canfar_batch.errors import SpecError
from canfar_batch.spec import Filled, JobSpec, Secret, check_against, full_image, literal_path, looks_secret


def spec(cmd="python fit.py", **options):
    return JobSpec(cmd, **{"image": "skaha/astroml", **options})


# -- what is taken ----------------------------------------------------------------------------------------------------


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


def test_numbers_of_numpy_are_numbers():
    assert spec(cores=np.int32(4), ram=np.float64(16), gpus=np.uint8(1)).to_json() | {"cmd": 0} == spec(
        cores=4, ram=16, gpus=1
    ).to_json() | {"cmd": 0}


def test_no_gpus_are_none():
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


# -- what is refused --------------------------------------------------------------------------------------------------


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
        ({"image": "docker://a/b"}, "has a scheme"),
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
def test_what_makes_no_sense_is_refused_in_words_that_help(options, words):
    with pytest.raises(SpecError) as refused:
        spec(**options)
    assert words in str(refused.value)


def test_a_refused_variable_does_not_show_its_value():
    with pytest.raises(SpecError) as refused:
        spec(env={"API_TOKEN": "s3cret\0"})
    assert "s3cret" not in str(refused.value)


# -- what it shows and is ---------------------------------------------------------------------------------------------


def test_repr_shows_what_was_given_and_no_secrets():
    shown = repr(spec(cores=2, env={"API_TOKEN": "s3cret", "MODE": "fast"}, shell=True))
    assert shown == (
        "JobSpec('python fit.py', image='skaha/astroml', cores=2, env={'API_TOKEN': '***', 'MODE': 'fast'}, shell=True)"
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


def test_without_fields_everything_stands_as_it_is_written():
    raw = spec("prog {x} {{x}} {key}", env={"A": "{x}"}, name="{x}", workdir="{x}", outputs="{x}*")
    assert raw.fill() == raw.fill({}, key="k", index=1)
    assert raw.fill() == Filled(("prog", "{x}", "{{x}}", "{key}"), (("A", "{x}"),), "{x}", "{x}", ("{x}*",))


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


OFFERS = {"cores_options": [1, 2, 4, 8], "ram_options": [1, 2, 4, 6, 8], "gpu_options": [1, 2]}


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
def test_what_the_platform_does_not_offer_is_refused_with_what_it_does(asked, words):
    with pytest.raises(SpecError) as refused:
        check_against(spec(**asked), **OFFERS)
    assert words in str(refused.value)


def test_what_the_platform_offers_is_let_through():
    check_against(spec(cores=4, ram=8, gpus=1), **OFFERS)
    check_against(spec(), **OFFERS)
    check_against(spec(cores=3, ram=5, gpus=7))  # what it offers is not known


def test_a_platform_without_gpus_says_so():
    with pytest.raises(SpecError, match="this platform has none, so leave gpus out"):
        check_against(spec(gpus=1), gpu_options=[])


def test_a_hundred_thousand_jobs_share_one_reading_of_their_templates(monkeypatch):
    from canfar_batch.fields import templates as fields

    templated = spec("python {path} {path.stem}.cat", env={"SEED": "{index}"}, outputs="{path.stem}.cat", name="{key}")
    templated.fill({"path": PurePosixPath("a.fits")}, key="k")
    monkeypatch.setattr(fields, "_parts", None)
    filled = templated.fill({"path": PurePosixPath("b.fits")}, key="k", index=99_999)
    assert filled == Filled(("python", "b.fits", "b.cat"), (("SEED", "99999"),), "k", None, ("b.cat",))


# -- secrets ----------------------------------------------------------------------------------------------------------


def test_a_secret_is_read_at_the_launch_and_shown_nowhere(monkeypatch):
    monkeypatch.setenv("MY_KEY", "hush-{n}")
    secret = spec("fit {n}", env={"HIDDEN": Secret("MY_KEY"), "N": "{n}"})
    filled = secret.fill({"n": 3})
    assert filled.environment() == (("HIDDEN", "hush-{n}"), ("N", "3"))
    assert "hush" not in f"{secret!r} {filled!r} {secret.to_json()} {secret.identity()}"
    monkeypatch.setenv("MY_KEY", "renewed")
    assert filled.environment()[0] == ("HIDDEN", "renewed")


def test_a_secret_is_the_same_by_its_name_alone_and_comes_back_from_json():
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
def test_what_is_no_variable_is_no_secret_and_is_not_repeated(value):
    with pytest.raises(SpecError, match="takes the name of an environment variable") as caught:
        Secret(value)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "advice"), [({"core": 2}, "did you mean cores"), ({"zzz": 2}, "it has cmd, image, name, cores")]
)
def test_an_unknown_argument_is_refused_with_the_names_that_there_are(given, advice):
    with pytest.raises(SpecError, match=f"a job has no {next(iter(given))}; {advice}"):
        JobSpec("true", image="a/b", **given)
