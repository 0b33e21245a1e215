"""Transfers over a space in memory that misbehaves on command."""

import pytest
from spaces import MemorySpace, md5

from canfar_batch.errors import (
    NameRefused,
    PlatformUnreachable,
    RemoteMissing,
    StorageError,
    StorageFull,
    TransferDamaged,
)
from canfar_batch.storage import Storage


@pytest.fixture
def space():
    return MemorySpace()


@pytest.fixture
def storage(space):
    return Storage(space, sleep=lambda seconds: None)


@pytest.fixture
def local(tmp_path):
    path = tmp_path / "a.fits"
    path.write_bytes(b"0123456789" * 1000)
    return path


def once(fault, usual):
    """A fault for the first call only."""
    calls = []

    def act(*args):
        calls.append(args)
        return fault(*args) if len(calls) == 1 else usual(*args)

    return act


def cut(path, data):
    yield data[: len(data) // 2]
    raise PlatformUnreachable("the connection ended")


def test_a_file_is_stored_under_a_temporary_name_first(storage, space, local):
    assert str(storage.upload(local, "/arc/home/you/a.fits")) == "/arc/home/you/a.fits"
    (write, temporary), (move, old, new) = space.log
    assert (write, move, old, new) == ("write", "move", temporary, "/home/you/a.fits")
    assert temporary.endswith(".part")
    assert set(space.files) == {"/home/you/a.fits"}


def test_an_unchanged_file_is_not_sent_again(storage, space, local):
    storage.upload(local, "/arc/home/you/a.fits")
    seen = []
    storage.upload(local, "/arc/home/you/a.fits", progress=seen.append)
    assert len([entry for entry in space.log if entry[0] == "write"]) == 1
    assert seen[-1].skipped == 1


def test_a_changed_file_replaces_the_old_one(storage, space, local):
    storage.upload(local, "/arc/home/you/a.fits")
    local.write_bytes(b"new")
    storage.upload(local, "/arc/home/you/a.fits")
    assert space.files["/home/you/a.fits"][0] == b"new"


@pytest.mark.parametrize("damage", [lambda path, data: b"", lambda path, data: data[:-1] + b"x"], ids=["empty", "byte"])
def test_a_damaged_upload_is_repeated(storage, space, local, damage):
    space.on_write = once(damage, lambda path, data: data)
    storage.upload(local, "/arc/home/you/a.fits")
    assert space.files["/home/you/a.fits"][0] == local.read_bytes()


def test_an_upload_that_is_damaged_each_time_leaves_the_old_content(storage, space, local):
    space.put("/home/you/a.fits", b"old")
    space.on_write = lambda path, data: b""
    with pytest.raises(TransferDamaged):
        storage.upload(local, "/arc/home/you/a.fits")
    assert space.files.keys() == {"/home/you/a.fits"}
    assert space.files["/home/you/a.fits"][0] == b"old"


def test_a_full_storage_is_not_asked_again(storage, space, local):
    def full(path, data):
        raise StorageFull("quota")

    space.on_write = full
    with pytest.raises(StorageFull):
        storage.upload(local, "/arc/home/you/a.fits")
    assert len(space.log) == 1


def test_an_upload_that_was_stopped_before_its_rename_is_not_sent_again(storage, space, local):
    def stop(old, new):
        raise KeyboardInterrupt

    usual, space.move = space.move, stop
    with pytest.raises(KeyboardInterrupt):
        storage.upload(local, "/arc/home/you/a.fits")
    assert "/home/you/a.fits" not in space.files
    space.move = usual
    storage.upload(local, "/arc/home/you/a.fits")
    assert [entry[0] for entry in space.log] == ["write", "move"]


def test_a_file_that_changes_while_it_is_sent_is_sent_again(storage, space, local):
    def grow(path, data):
        local.write_bytes(b"other content")
        return data

    space.on_write = once(grow, lambda path, data: data)
    storage.upload(local, "/arc/home/you/a.fits")
    assert space.files["/home/you/a.fits"][0] == b"other content"


def test_names_that_the_storage_cannot_keep_are_refused_before_anything_is_sent(storage, space, tmp_path):
    for name in ("good.fits", "b ad.fits"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(NameRefused, match=r"b ad\.fits: no blanks"):
        storage.upload(tmp_path, "/arc/home/you/raw")
    assert space.log == []
    storage.upload(tmp_path, "/arc/home/you/raw", repair=True)
    assert space.files.keys() == {"/home/you/raw/good.fits", "/home/you/raw/b_ad.fits"}


def test_a_cut_download_leaves_nothing_under_its_name_and_is_repeated(storage, space, tmp_path):
    space.put("/home/you/a", b"0123456789")
    space.on_read = once(cut, lambda path, data: iter([data]))
    assert storage.download("/arc/home/you/a", tmp_path / "a").read_bytes() == b"0123456789"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_cut_download_is_resumed_if_the_storage_can(tmp_path):
    space = MemorySpace(ranges=True)
    space.put("/home/you/a", b"0123456789")
    space.on_read = once(cut, lambda path, data: iter([data]))
    Storage(space, sleep=lambda seconds: None).download("/arc/home/you/a", tmp_path / "a")
    assert space.log == [("read", "/home/you/a", 0), ("read", "/home/you/a", 5)]
    assert (tmp_path / "a").read_bytes() == b"0123456789"


def test_a_download_that_is_always_cut_leaves_nothing_under_its_name(storage, space, tmp_path):
    space.put("/home/you/a", b"0123456789")
    space.on_read = cut
    with pytest.raises(StorageError, match="4 times"):
        storage.download("/arc/home/you/a", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_damaged_content_is_never_accepted(storage, space, tmp_path):
    space.put("/home/you/a", b"0123456789")
    space.on_read = lambda path, data: iter([b"x" + data[1:]])
    with pytest.raises(TransferDamaged, match="digest=False"):
        storage.download("/arc/home/you/a", tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_a_stored_digest_is_read_until_it_is_twice_the_same(tmp_path):
    space = MemorySpace(knows_md5=False)
    space.put("/home/you/a", b"0123456789")
    space.on_read = once(lambda path, data: iter([b"x" + data[1:]]), lambda path, data: iter([data]))
    Storage(space, sleep=lambda seconds: None).download("/arc/home/you/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"0123456789"


def test_a_file_whose_stored_digest_is_old_can_be_had_by_its_size(storage, space, tmp_path):
    space.put("/home/you/a", b"0123456789")
    space.stale["/home/you/a"] = md5(b"what was there before")
    with pytest.raises(TransferDamaged):
        storage.download("/arc/home/you/a", tmp_path / "a")
    assert storage.download("/arc/home/you/a", tmp_path / "a", digest=False).read_bytes() == b"0123456789"


def test_a_file_that_changes_while_it_is_read_is_read_again(storage, space, tmp_path):
    space.put("/home/you/a", b"0123456789")

    def change(path, data):
        space.put(path, b"9876543210")
        return iter([data])

    space.on_read = once(change, lambda path, data: iter([data]))
    assert storage.download("/arc/home/you/a", tmp_path / "a").read_bytes() == b"9876543210"


def test_what_a_failed_upload_left_is_not_taken_for_a_file(storage, space, tmp_path):
    space.put("/home/you/a", b"")
    space.stale["/home/you/a"] = md5(b"what should be there")
    with pytest.raises(StorageError, match="an upload to it failed"):
        storage.download("/arc/home/you/a", tmp_path / "a")
    with pytest.raises(StorageError, match="an upload to it failed"):
        storage.read("/arc/home/you/a")


def test_an_empty_file_arrives_empty(storage, space, tmp_path):
    (tmp_path / "empty").touch()
    storage.upload(tmp_path / "empty", "/arc/home/you/empty")
    assert storage.download("/arc/home/you/empty", tmp_path / "back").read_bytes() == b""


@pytest.mark.parametrize("knows_md5", [True, False])
def test_a_file_that_is_here_already_is_not_fetched_again(tmp_path, knows_md5):
    space = MemorySpace(knows_md5=knows_md5)
    space.put("/home/you/a", b"0123456789")
    storage = Storage(space, sleep=lambda seconds: None)
    storage.download("/arc/home/you/a", tmp_path / "a")
    reads = len(space.log)
    storage.download("/arc/home/you/a", tmp_path / "a")
    assert len(space.log) == reads
    space.put("/home/you/a", b"9876543210")
    storage.download("/arc/home/you/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"9876543210"


def test_folders_and_patterns_come_whole(storage, space, tmp_path):
    for folder in ("/home/you/r", "/home/you/r/deep"):
        space.make_folder(folder)
    for name in ("r/a.cat", "r/b.cat", "r/c.log", "r/deep/d.cat"):
        space.put(f"/home/you/{name}", name.encode())
    storage.download("/arc/home/you/r", tmp_path / "all")
    assert sorted(path.relative_to(tmp_path / "all").as_posix() for path in (tmp_path / "all").rglob("*.*")) == [
        "a.cat", "b.cat", "c.log", "deep/d.cat"
    ]  # fmt: skip
    storage.download("/arc/home/you/r/*.cat", tmp_path / "some")
    assert sorted(path.name for path in (tmp_path / "some").iterdir()) == ["a.cat", "b.cat"]
    with pytest.raises(RemoteMissing):
        storage.download("/arc/home/you/*.none", tmp_path)
    with pytest.raises(RemoteMissing):
        storage.download("/arc/home/you/none", tmp_path)


@pytest.mark.parametrize("text", ["raw/a.fits", "/home/you/a", "/arc/home/../other", "/archive/x"])
def test_a_path_that_is_not_on_the_storage_is_refused(storage, text):
    with pytest.raises(StorageError):
        storage.find(text)


@pytest.mark.parametrize("text", ["arc:home/you/a", "vos://cadc.nrc.ca~arc/home/you/a", "/arc//home/you/./a"])
def test_a_path_may_be_written_as_other_clients_do(storage, space, text):
    space.put("/home/you/a", b"x")
    assert storage.find(text).size == 1
