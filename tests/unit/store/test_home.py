"""Where a batch lives, and what its directory must be able to do."""

import fcntl
import os
import stat
import tempfile
from pathlib import Path

import pytest

from canfar_batch.errors import HomeError, PlanError
from canfar_batch.store import files
from canfar_batch.store.files import open_private, probe_locking, write_file
from canfar_batch.store.home import Home, batches, check_name


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("name", ["calib-2026", "a", "7", "M31.v2_final", "x" * 64])
def test_what_may_name_a_batch(name):
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", ".hidden", "-x", "a/b", "..", "a b", "é", "x" * 65, "a\n", None])
def test_what_may_not(name):
    with pytest.raises(PlanError, match="cannot be a batch's name"):
        check_name(name)


def test_a_batch_lives_below_the_working_directory_unless_told_otherwise(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CANFAR_BATCH_HOME", raising=False)
    assert Home.of("calib").path == tmp_path / "batches/calib"
    monkeypatch.setenv("CANFAR_BATCH_HOME", str(tmp_path / "elsewhere"))
    assert Home.of("calib").path == tmp_path / "elsewhere/calib"
    assert Home.of("calib", tmp_path / "here").path == tmp_path / "here/calib"
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert Home.of("calib", "~/b").path == tmp_path / "me/b/calib"


def test_a_home_stays_where_it_was_when_the_driver_goes_elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    home = Home.of("calib", "b")
    monkeypatch.chdir("/")
    assert home.path == tmp_path / "b/calib"


def test_a_home_is_for_its_owners_eyes_only(tmp_path):
    home = Home.of("calib", tmp_path)
    home.make()
    home.make()
    assert {mode(path) for path in (home.path, home.logs, home.receipts)} == {0o700}
    assert not home.exists()


def test_what_cannot_be_made_is_said_with_its_place(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeError, match="file/calib cannot be written") as caught:
        Home.of("calib", tmp_path / "file").make()
    assert isinstance(caught.value, OSError)


@pytest.mark.parametrize("place", ["/scratch", "/tmp", "/dev/shm", tempfile.gettempdir()])
def test_a_place_that_is_emptied_behind_ones_back_is_refused(place):
    with pytest.raises(HomeError, match="CANFAR_BATCH_HOME"):
        Home.of("calib", place).refuse_if_fleeting()


def test_a_place_that_stays_is_not_refused():
    Home.of("calib", "/arc/projects/mygroup").refuse_if_fleeting()
    Home.of("calib", "/tmpfiles").refuse_if_fleeting()


def test_batches_are_found_by_their_ledgers(tmp_path):
    for name in ("b", "a", "empty", ".hidden"):
        home = Home(tmp_path / name)
        home.make()
        if name != "empty":
            home.ledger.write_bytes(b"")
    (tmp_path / "a file").write_text("")
    assert list(batches(tmp_path)) == ["a", "b"]
    assert batches(tmp_path / "nowhere") == {}


def test_every_attempt_has_a_log_of_its_own(tmp_path):
    home = Home(tmp_path)
    assert home.log("a", 1) != home.log("a", 2) != home.events("a", 2)
    assert home.log("a", 1).parent == home.logs


# -- writing ----------------------------------------------------------------------------------------------------------


def test_a_file_is_replaced_as_a_whole_and_private(tmp_path):
    path = tmp_path / "a.log"
    path.write_bytes(b"old")
    write_file(path, b"new\0\xff")
    assert path.read_bytes() == b"new\0\xff"
    assert mode(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_of_any_length_that_the_disk_takes_can_be_written(tmp_path):
    write_file(tmp_path / ("x" * 255), b"")
    assert [path.name for path in tmp_path.iterdir()] == ["x" * 255]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.log"
    path.write_bytes(b"old")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(HomeError, match=r"No space left on device\. Nothing that was recorded is lost"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_private_file_is_made_once(tmp_path):
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


def test_a_disk_that_locks_is_taken_and_the_probe_removed(tmp_path):
    probe_locking(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_lock_is_refused(tmp_path, monkeypatch):
    def unsupported(fd):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files, "_lock", unsupported)
    with pytest.raises(HomeError, match=r"cannot lock files.*keep the batch on another disk"):
        probe_locking(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(fcntl, "F_OFD_SETLK"), reason="one process can try both sides of a lock on Linux alone")
def test_a_disk_whose_locks_do_nothing_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_lock", lambda fd: None)
    with pytest.raises(HomeError, match="grants two locks"):
        probe_locking(tmp_path)
    assert not Path(tmp_path / ".lock-probe").exists()
