"""Launch names: recognisable, unique, and labels of Kubernetes."""

from __future__ import annotations

import re

from canfar_batch.payload.launch_names import launch_name, single_launch_name, token_tag


def test_a_launch_name_can_be_recognised():
    name = launch_name("Calib 2026", "NGC_1275-1a2b3c4d", token="secret", index=37, attempt=2)
    assert re.fullmatch(rf"calib-2026-ngc-1275-1a2b3c4d-[a-z0-9]*{token_tag('secret')}-11-2", name)
    assert "secret" not in name


def test_long_names_are_cut_to_a_label():
    name = launch_name("b" * 99, "k" * 99, token="t", index=36**6, attempt=999)
    assert len(name) <= 63
    assert name.endswith(f"{token_tag('t')}-1000000-999")


def test_a_name_that_begins_with_a_digit_gets_a_letter():
    assert launch_name("2026", "7", token="t", index=0, attempt=1).startswith("b-2026-7-")
    assert launch_name("", "é", token="t", index=0, attempt=1).startswith("batch-job-")


def test_a_single_launch_has_eight_random_characters():
    assert single_launch_name("python fit.py 7", unique="abcd1234") == "python-fit-py-7-abcd1234"
    assert re.fullmatch(r"job-[a-z0-9]{8}", single_launch_name("***"))
