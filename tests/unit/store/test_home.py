"""A batch's directory: its place, its contents, and the names of its files."""

import os
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from canfar_batch.errors import HomeError, PlanError
from canfar_batch.fields.keys import file_name
from canfar_batch.store.home import Home, batches, check_name


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("name", ["calib-2026", "a", "7", "M31.v2_final", "x" * 64])
def test_names_that_a_batch_may_have(name):
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", ".hidden", "-x", "a/b", "..", "a b", "é", "x" * 65, "a\n", None])
def test_names_that_a_batch_may_not_have(name):
    with pytest.raises(PlanError, match="cannot be a batch's name"):
        check_name(name)


# -- the directory ----------------------------------------------------------------------------------------------------


def test_the_home_is_below_the_working_directory_by_default(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CANFAR_BATCH_HOME", raising=False)
    assert Home.of("calib").path == tmp_path / "batches/calib"
    monkeypatch.setenv("CANFAR_BATCH_HOME", str(tmp_path / "elsewhere"))
    assert Home.of("calib").path == tmp_path / "elsewhere/calib"
    assert Home.of("calib", tmp_path / "here").path == tmp_path / "here/calib"
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert Home.of("calib", "~/b").path == tmp_path / "me/b/calib"


def test_the_home_stays_the_same_after_a_change_of_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    home = Home.of("calib", "b")
    monkeypatch.chdir("/")
    assert home.path == tmp_path / "b/calib"


def test_a_prepared_home_is_private_and_may_be_prepared_again(tmp_path):
    home = Home.of("calib", tmp_path)
    assert not home.exists()
    home.prepare()
    home.prepare()
    assert {mode(path) for path in (home.path, home.logs, home.receipts, home.running)} == {0o700}
    assert mode(home.ledger) == 0o600
    assert {path.name for path in home.path.iterdir()} == {"logs", "receipts", "running", "ledger.db"}
    assert home.exists()


def test_a_home_that_cannot_be_made_is_reported_with_its_path(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeError, match="file/calib cannot be written") as caught:
        Home.of("calib", tmp_path / "file").prepare()
    assert isinstance(caught.value, OSError)


@pytest.mark.parametrize("place", ["/scratch", "/tmp", "/dev/shm", tempfile.gettempdir()])
def test_a_place_that_is_emptied_without_notice_is_recognized(place):
    home = Home.of("calib", place)
    assert "is emptied without notice" in home.fleeting
    with pytest.raises(HomeError, match="CANFAR_BATCH_HOME"):
        home.refuse_if_fleeting()


@pytest.mark.parametrize("place", ["/arc/projects/mygroup", "/tmpfiles"])
def test_a_place_that_stays_is_accepted(place):
    home = Home.of("calib", place)
    assert home.fleeting is None
    home.refuse_if_fleeting()


def test_batches_are_found_by_their_ledgers(tmp_path):
    for name in ("b", "a", ".hidden"):
        Home(tmp_path / name).prepare()
    (tmp_path / "empty").mkdir()
    (tmp_path / "a file").write_text("")
    assert list(batches(tmp_path)) == ["a", "b"]
    assert batches(tmp_path / "nowhere") == {}


def test_paths_are_stored_relative_to_the_home_if_one_contains_the_other(tmp_path):
    home = Home(tmp_path / "batches" / "calib")
    assert home.stored(tmp_path) == "../.."
    assert home.stored(home.logs) == "logs"
    assert home.stored(Path("/elsewhere")) == "/elsewhere"
    for place in (tmp_path, home.logs, Path("/elsewhere")):
        assert home.restored(home.stored(place)) == place


# -- names of files ---------------------------------------------------------------------------------------------------

KEYS = st.text(st.characters(exclude_categories=("C",)), min_size=1, max_size=100)


def test_every_attempt_has_its_own_files(tmp_path):
    home = Home(tmp_path)
    paths = {home.log("a", 1), home.log("a", 2), home.events("a", 2), home.log("a.1", 1), home.log("a", 11)}
    assert len(paths) == 5
    assert {path.parent for path in paths} == {home.logs}


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("fit-7.fits_b", "fit-7.fits_b"), ("x" * 100, "x" * 100), ("J0534+2200", "J0534%2B2200"),
        ("NGC 1234", "NGC%201234"), ("M31(R)", "M31%28R%29"), ("a/b", "a%2Fb"), ("..", "%2E."), (".", "%2E"),
        ("-x", "%2Dx"), ("a%2Fb", "a%252Fb"), ("é", "%C3%A9"), ("a\\b:c", "a%5Cb%3Ac"), ("~", "%7E"),
    ],
)  # fmt: skip
def test_the_file_name_of_a_key(key, name):
    assert file_name(key) == name


@given(KEYS)
@example("/" * 100)
@example("\U0010ffff" * 100)
@example("../../etc/passwd")
def test_a_file_name_is_safe_and_short(key):
    name = file_name(key)
    assert name.isascii()
    assert name[0] not in ".-"
    assert not set(name) & set('/\\:*?"<>| \0')
    assert len(name) <= 120


@given(KEYS, KEYS)
@example("a b", "a%20b")
@example("é" * 99 + "a", "é" * 99 + "b")
@example("é" * 100, "e\u0301" * 50)
def test_keys_that_differ_have_names_that_differ(one, other):
    """Also on disks that ignore case, for keys that differ in more than case: a batch refuses the others."""
    if one.lower() != other.lower():
        assert file_name(one).lower() != file_name(other).lower()


@pytest.mark.parametrize("key", ["a/b", "..", "../../x", "NGC 1234", "\U0001f52d" * 100, "x" * 100])
def test_a_log_of_any_key_can_be_written_inside_the_home(tmp_path, key):
    home = Home(tmp_path / "home")
    home.prepare()
    home.log(key, 1).write_bytes(b"")
    home.events(key, 99).write_bytes(b"")
    assert len(os.listdir(home.logs)) == 2
    assert os.listdir(tmp_path) == ["home"]
