"""Keys of jobs, and the names of their files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from canfar_batch.errors import SpecError
from canfar_batch.fields.keys import file_name
from canfar_batch.spec import check_key, job_key


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
