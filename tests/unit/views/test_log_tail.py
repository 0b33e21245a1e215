"""The end of a log, made safe to show."""

from __future__ import annotations

from canfar_batch.views.log_tail import log_tail


def test_only_the_last_lines_are_shown():
    assert log_tail("a\nb\nc\n", 2) == "b\nc"


def test_a_progress_bar_shows_its_last_state():
    assert log_tail("begin\r\n10%\r20%\r100%\ndone\r\n", 3) == "begin\n100%\ndone"


def test_a_tail_has_no_secrets_and_no_escape_sequences():
    text = "TOKEN=abc123\n\x1b[31mhunter2 is wrong\x1b[0m\n"
    assert log_tail(text, 2, ["hunter2"]) == "TOKEN=[secret]\n[secret] is wrong"
