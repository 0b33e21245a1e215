"""Text: from outside, made safe to print; numbers with their nouns; and names that were nearly right."""

import pytest

from canfar_batch.text import Shown, count, did_you_mean, gib, printable, printable_lines, without_escapes


@pytest.mark.parametrize(
    "hostile",
    [
        "\x1b[31mred\x1b[0m",
        "\x9b31mred",
        "\x1b]0;title\x07red",
        "\x1b]0;title\x1b\\red",
        "\x9dtitle\x9cred",
        "\x1bMred",
    ],
)
def test_escape_sequences_are_removed(hostile):
    assert without_escapes(hostile) == "red"


def test_text_without_escape_sequences_stays():
    assert without_escapes("a [31m b") == "a [31m b"


def test_text_is_shown_on_one_line_without_control_characters():
    assert printable(" a\tb\r\n\x07c \u202e d\x00 ") == "a b c d"


def test_lines_keep_line_feeds_and_tabs_alone():
    assert printable_lines("a\tb\r\nc\rd\x07\x1b[2Je\n") == "a\tb\nc\ufffdd\ufffde\n"


def test_nouns_follow_their_number():
    assert [count(n, "job") for n in (0, 1, 2000)] == ["0 jobs", "1 job", "2,000 jobs"]
    assert count(2, "success", "successes") == "2 successes"


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0.0, "0 MiB"),
        (0.05, "51 MiB"),
        (0.5, "512 MiB"),
        (0.976, "999 MiB"),
        (0.977, "1.0 GiB"),
        (3.14, "3.1 GiB"),
        (118.2, "118 GiB"),
        (2048, "2,048 GiB"),
    ],
)
def test_sizes_are_in_gib_or_mib(amount, text):
    assert gib(amount) == text


def test_a_name_that_was_nearly_right_is_suggested():
    assert did_you_mean("core", ["cores", "ram"]) == "did you mean cores?"
    assert did_you_mean("zzz", ["cores", "ram"]) == ""
    assert did_you_mean("j", ["j1", "j2", "j3"], at_most=2, cutoff=0.1, shown=repr) == "did you mean 'j1' or 'j2'?"


def test_a_notebook_shows_a_text_as_print_does():
    pretty = pytest.importorskip("IPython.lib.pretty").pretty
    text = Shown("one\ntwo")
    assert (pretty(text), text, pretty([text])) == ("one\ntwo", "one\ntwo", "[one\ntwo]")
