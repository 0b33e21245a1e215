"""Writing and reading files of a home, and checking the locks of its disk."""

import errno
import os
import stat
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from canfar_batch.errors import HomeError, PlatformUnreachable
from canfar_batch.store import files
from canfar_batch.store.files import open_private, probe_locking, stream_to, tail, write_file, write_stream


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


# -- writing ----------------------------------------------------------------------------------------------------------


def test_a_written_file_replaces_the_old_one_and_is_private(tmp_path):
    path = tmp_path / "a.log"
    path.write_bytes(b"old")
    write_file(path, b"new\0\xff")
    assert path.read_bytes() == b"new\0\xff"
    assert mode(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_the_longest_name_that_the_disk_allows_can_be_written(tmp_path):
    write_file(tmp_path / ("x" * 255), b"")
    assert [path.name for path in tmp_path.iterdir()] == ["x" * 255]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "a.log"
    path.write_bytes(b"old")
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(HomeError, match=r"No space left on device\. Nothing that was recorded is lost"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_stream_is_written_chunk_by_chunk_and_its_size_returned(tmp_path):
    path, seen = tmp_path / "a.log", []

    def chunks():
        for number in range(3):
            seen.append(path.exists())
            yield b"%d" % number * 10

    assert write_stream(path, chunks()) == 30
    assert path.read_bytes() == b"0" * 10 + b"1" * 10 + b"2" * 10
    assert seen == [False] * 3
    assert mode(path) == 0o600


def test_a_long_stream_and_its_tail_need_little_memory(tmp_path):
    path, piece = tmp_path / "a.log", bytes(2**16)
    tracemalloc.start()
    try:
        assert write_stream(path, (piece for _ in range(256))) == 2**24
        assert tail(path, 5) == bytes(5)
        assert tracemalloc.get_traced_memory()[1] < 2**19
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("error", [PlatformUnreachable("gone"), OSError("connection reset"), KeyboardInterrupt()])
def test_an_error_of_the_source_is_passed_on_and_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "a.log"
    path.write_bytes(b"old")

    def chunks():
        yield b"half"
        raise error

    with pytest.raises(type(error)) as caught:
        write_stream(path, chunks())
    assert caught.value is error
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_open_stream_is_not_seen_until_it_is_complete(tmp_path):
    path = tmp_path / "a.log"
    with stream_to(path) as write:
        write(b"one ")
        assert not path.exists()
        write(b"two")
    assert path.read_bytes() == b"one two"


def test_a_stream_to_a_missing_directory_is_reported(tmp_path):
    with pytest.raises(HomeError, match=r"nowhere/a\.log cannot be written"):
        write_stream(tmp_path / "nowhere" / "a.log", [b""])


@pytest.mark.parametrize(("size", "end"), [(0, b""), (3, b"789"), (9, b"123456789"), (100, b"123456789")])
def test_the_tail_is_the_end_of_a_file(tmp_path, size, end):
    path = tmp_path / "a.log"
    path.write_bytes(b"123456789")
    assert tail(path, size) == end


def test_the_tail_of_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(HomeError, match=r"a\.log cannot be read: No such file"):
        tail(tmp_path / "a.log", 5)


def test_a_private_file_is_created_once(tmp_path):
    path = tmp_path / "ledger.db"
    old = os.umask(0)
    try:
        open_private(path)
    finally:
        os.umask(old)
    assert mode(path) == 0o600
    path.write_bytes(b"kept")
    open_private(path)
    assert path.read_bytes() == b"kept"


# -- locks ------------------------------------------------------------------------------------------------------------


def test_a_disk_with_working_locks_is_accepted(tmp_path):
    probe_locking(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_locks_is_refused(tmp_path, monkeypatch):
    def unsupported(descriptor):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(files, "try_lock", unsupported)
    with pytest.raises(HomeError, match=r"cannot lock files.*keep the batch on another disk"):
        probe_locking(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_grants_two_locks_on_one_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "try_lock", lambda descriptor: None)
    monkeypatch.setattr(files, "OPEN_FILE_LOCKS", True)  # elsewhere than on Linux one process cannot try it
    with pytest.raises(HomeError, match="grants two locks"):
        probe_locking(tmp_path)
    assert not Path(tmp_path / ".lock-probe").exists()


def test_a_system_without_file_locks_is_refused_in_words(tmp_path):
    """Import the package as on Windows, which has no module fcntl."""
    script = (
        "import sys; sys.modules['fcntl'] = None\n"
        "import canfar_batch as cb\n"
        "for use in (lambda: cb.open('b'), lambda: cb.Session.connect('local').batch('b')):\n"
        "    try: use()\n"
        "    except cb.errors.HomeError as error: assert 'on Windows, run Python inside WSL' in str(error), error\n"
        "    else: raise SystemExit('accepted')\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []
