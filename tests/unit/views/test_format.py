"""Numbers, times and sizes as text."""

from __future__ import annotations

from datetime import timedelta

import pytest

from canfar_batch.records import Resources
from canfar_batch.views.format import asked_for, duration, first_few, rounded


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0 s"),
        (0.25, "0.2 s"),
        (42, "42 s"),
        (119.4, "119 s"),
        (0.94, "0.9 s"),
        (0.96, "1 s"),
        (1.04, "1 s"),
        (120, "2 min"),
        (7140, "119 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations_are_written_as_people_do(seconds, text):
    assert duration(seconds) == duration(timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(("number", "text"), [(1234.5, "1,234"), (31.42, "31.4"), (0.254, "0.25"), (0.0, "0")])
def test_numbers_have_the_digits_that_a_person_needs(number, text):
    assert rounded(number) == text


def test_only_the_first_names_are_listed():
    assert first_few(["a", "b"], 2) == "a, b"
    assert first_few(["a", "b"], 1002) == "a, b and 1,000 more"


def test_requests_are_written_in_one_way():
    assert asked_for(Resources(cores=1, ram=4, gpus=2)) == "1 core, 4 GiB, 2 GPUs"
    assert asked_for(Resources()) == "default cores, default memory"
