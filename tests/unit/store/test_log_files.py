"""Saved logs, read from their end."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canfar_batch.store import log_files
from canfar_batch.store.log_files import end_of_log, read_lines_from_end


@given(st.lists(st.binary(max_size=12), max_size=40), st.integers(0, 45), st.integers(1, 9))
def test_the_last_lines_are_those_of_the_whole_file(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], lines: int, block: int
):
    path = tmp_path_factory.getbasetemp() / "any.log"
    path.write_bytes(b"\n".join(parts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_files, "BLOCK", block)
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
        assert end_of_log(path, 2).endswith("x\nValueError: bad\n")
        assert len(end_of_log(path, 10)) <= 64 * 1024
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


def test_a_log_that_is_not_on_this_machine_has_no_end(tmp_path: Path):
    assert (end_of_log(tmp_path / "gone.log", 3), end_of_log(None, 3)) == ("", "")
