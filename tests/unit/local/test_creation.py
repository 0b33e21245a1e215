"""Numbers as Java reads and prints them."""

import pytest

from canfar_batch.local.creation import java_double, shown_ram


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("2", 2.0),
        (" 2 ", 2.0),
        ("2.", 2.0),
        (".5", 0.5),
        ("1e1", 10.0),
        ("2d", 2.0),
        ("2F", 2.0),
        ("0x1p1", 2.0),
        ("0x1.8p1f", 3.0),
        ("-1", -1.0),
        ("1e400", float("inf")),
        ("Infinity", float("inf")),
        ("NaN", None),
        ("1_0", None),
        ("0x1", None),
        ("two", None),
        ("", None),
    ],
)
def test_numbers_are_read_as_java_reads_them(text, number):
    assert java_double(text) == number


@pytest.mark.parametrize(("gib", "shown"), [(1, "1.07"), (1.5, "1.61"), (16, "17.18"), (95.9, "102971.84")])
def test_ram_is_shown_in_decimal_gigabytes_with_the_services_mistake(gib, shown):
    assert shown_ram(gib) == shown
