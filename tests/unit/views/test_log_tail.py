"""The end of a saved log."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import attempt, job

from canfar_batch.failures import ExitCode
from canfar_batch.views import log_tail
from canfar_batch.views.log_tail import job_log_tail, read_lines_from_end, tail


@given(st.lists(st.binary(max_size=12), max_size=40), st.integers(0, 45), st.integers(1, 9))
def test_the_last_lines_are_those_of_the_whole_file(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], lines: int, block: int
):
    path = tmp_path_factory.getbasetemp() / "any.log"
    path.write_bytes(b"\n".join(parts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_tail, "_BLOCK", block)
        expected = path.read_bytes().split(b"\n")
        whole = [line + b"\n" for line in expected[:-1]] + ([expected[-1]] if expected[-1] else [])
        assert read_lines_from_end(path, lines) == b"".join(whole[-lines:] if lines else [])


def test_memory_does_not_grow_with_the_log(tmp_path: Path):
    path = tmp_path / "huge.log"
    with path.open("wb") as file:
        file.truncate(2**30)  # a sparse gigabyte, without a single line end
        file.seek(0, 2)
        file.write(b"\n" + b"x" * 99 + b"\nValueError: bad\n")
    tracemalloc.start()
    try:
        assert tail(path, 2).endswith("x\nValueError: bad")
        assert len(tail(path, 10)) <= 64 * 1024
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


def test_a_progress_bar_shows_its_last_state(tmp_path: Path):
    path = tmp_path / "a.log"
    path.write_bytes(b"begin\r\n10%\r20%\r100%\ndone\r\n")
    assert tail(path, 3) == "begin\n100%\ndone"


def test_a_tail_has_no_secrets_and_no_escape_sequences(tmp_path: Path):
    path = tmp_path / "a.log"
    path.write_text("TOKEN=abc123\n\x1b[31mhunter2 is wrong\x1b[0m\n")
    assert tail(path, 2, ["hunter2"]) == "TOKEN=[secret]\n[secret] is wrong"


def test_a_log_that_is_not_on_this_machine_has_no_tail(tmp_path: Path):
    missing = attrs.evolve(attempt(failure=ExitCode(1)), log=tmp_path / "gone.log")
    assert [job_log_tail(job("a", missing)), job_log_tail(job("b", attempt())), job_log_tail(job("c"))] == ["", "", ""]
