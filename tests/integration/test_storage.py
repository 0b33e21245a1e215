"""Files to the platform and back over HTTP, with the faults of the real storage service and of the network."""

import functools
import hashlib
import os
import socket
import threading

import pytest
from waiting import until

import canfar_batch as cb
from canfar_batch.errors import NameRefused, RemoteMissing, StorageDenied, StorageError, StorageFull, TransferDamaged
from canfar_batch.local import LocalPlatform, faults
from canfar_batch.rest.transport import Transport
from canfar_batch.storage import FsspecSpace, Storage

SIZE = 300_000
HOME = "/arc/home/local"


@pytest.fixture
def platform():
    with LocalPlatform(storage_faults=faults.CAVERN_OIDC, others={"other-token": "other"}) as started:
        yield started


@pytest.fixture
def without_pauses(monkeypatch):
    def at_once(seconds):
        """Pauses between attempts are not slept."""

    class WithoutPauses(Storage):
        def __init__(self, space):
            super().__init__(space, sleep=at_once)

    monkeypatch.setattr("canfar_batch.rest.platform.Transport", functools.partial(Transport, sleep=at_once))
    monkeypatch.setattr("canfar_batch.storage.Storage", WithoutPauses)


@pytest.fixture
def session(platform, without_pauses):
    with cb.Session.connect(platform.url, token=platform.token, timeout=5.0) as connected:
        yield connected


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    for number in range(4):
        (folder / f"night{number}.fits").write_bytes(os.urandom(SIZE + number))
    return folder


def content(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_a_folder_goes_there_and_comes_back(session, platform, raw, tmp_path):
    assert str(session.upload(raw, f"{HOME}/deep/raw")) == f"{HOME}/deep/raw"
    assert content(platform.arc / "home/local/deep/raw") == content(raw)
    session.download(f"{HOME}/deep/raw", tmp_path / "back")
    assert content(tmp_path / "back") == content(raw)


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        (faults.answer(503, "ServiceBusy: later\n", {"Retry-After": "0"}), {"first": 2}),
        (faults.answer(429, "slow down", {"Retry-After": "0"}), {"first": 1}),
        (faults.answer(412, "checksum mismatch: md5:x != md5:y\n", {"server": "OpenCADC/cadc-rest"}), {"first": 1}),
        (faults.bad_gateway(), {"first": 2}),
        (faults.login_page(), {"first": 1}),
        (faults.drop(), {"first": 2}),
        (faults.after(faults.drop()), {"first": 2}),
        (faults.after(faults.cut_short()), {"first": 2}),
    ],
    ids=["503", "429", "412", "502", "page", "drop", "lost-answer", "cut-answer"],
)
@pytest.mark.parametrize("kind", ["upload", "download", "node", "transfer"])
def test_a_fault_that_passes_costs_nothing(session, platform, raw, tmp_path, fault, rule, kind):
    platform.faults.add(fault, on=kind, **rule)
    session.upload(raw, f"{HOME}/raw")
    session.download(f"{HOME}/raw", tmp_path / "back")
    assert content(platform.arc / "home/local/raw") == content(raw) == content(tmp_path / "back")


def test_a_stalled_transfer_is_given_up_and_repeated(session, platform, raw, tmp_path):
    session.upload(raw, f"{HOME}/raw")
    platform.faults.add(faults.stall(30), on="download", first=1)
    with cb.Session.connect(platform.url, token=platform.token, timeout=0.5) as hurried:
        hurried.download(f"{HOME}/raw/night0.fits", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == (raw / "night0.fits").read_bytes()


def test_one_damaged_transfer_is_repaired(session, platform, raw, tmp_path):
    session.upload(raw, f"{HOME}/raw")
    platform.faults.add(faults.corrupt(), on="download", nth=3)
    session.download(f"{HOME}/raw", tmp_path / "back")
    assert content(tmp_path / "back") == content(raw)


def test_a_transfer_that_is_damaged_each_time_leaves_nothing(session, platform, raw, tmp_path):
    session.upload(raw, f"{HOME}/raw")
    platform.faults.add(faults.corrupt(), on="download")
    with pytest.raises(TransferDamaged):
        session.download(f"{HOME}/raw/night0.fits", tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_download_is_resumed_where_ranges_are_served(raw, tmp_path):
    with (
        LocalPlatform(storage_faults=()) as platform,
        cb.Session.connect(platform.url, token=platform.token) as session,
    ):
        session.upload(raw / "night0.fits", f"{HOME}/a.fits")
        platform.faults.add(faults.cut_short(), on="download", first=1)
        platform.requests.clear()
        session.download(f"{HOME}/a.fits", tmp_path / "a.fits")
        assert (tmp_path / "a.fits").read_bytes() == (raw / "night0.fits").read_bytes()
        assert [each.status for each in platform.requests.recent if each.kind == "download"] == [200, 206]


def test_an_upload_into_anothers_folder_is_refused(session, platform, raw):
    (platform.arc / "home/other").mkdir()
    with pytest.raises(StorageDenied):
        session.upload(raw, "/arc/home/other/raw")


def test_a_missing_file_is_said_to_be_missing(session, tmp_path):
    with pytest.raises(RemoteMissing):
        session.download(f"{HOME}/none", tmp_path / "none")


def test_an_outage_is_no_missing_file(session, platform, tmp_path):
    platform.faults.add(faults.proxy_not_found(), on="node")
    with pytest.raises(cb.errors.CanfarBatchError) as caught:
        session.download(f"{HOME}/none", tmp_path / "none")
    assert not isinstance(caught.value, RemoteMissing)


@pytest.mark.parametrize("size", [SIZE, 9 * 1024 * 1024], ids=["at the end", "in the middle"])
def test_a_quota_ends_an_upload_without_a_trace(raw, size):
    with (
        LocalPlatform(storage_quota=100_000) as platform,
        cb.Session.connect(platform.url, token=platform.token) as session,
    ):
        (raw / "big").write_bytes(bytes(size))
        with pytest.raises(StorageError) as caught:
            session.upload(raw / "big", f"{HOME}/big")
        assert size > SIZE or isinstance(caught.value, StorageFull)
        assert list((platform.arc / "home/local").iterdir()) == []


@pytest.mark.parametrize("name", ["a b.fits", "a[1].fits", "a#b.fits", "a%41.fits", "a?b.fits", "a;b.fits"])
def test_names_that_the_real_service_garbles_are_refused_or_repaired(session, platform, tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(NameRefused):
        session.upload(tmp_path / name, f"{HOME}/")
    assert list((platform.arc / "home/local").iterdir()) == []
    session.upload(tmp_path / name, f"{HOME}/", repair=True)
    (stored,) = (platform.arc / "home/local").iterdir()
    assert stored.read_bytes() == b"x"


@pytest.mark.parametrize(
    "name", ["ü.fits", "日本.fits", "e\u0301.fits", "a+b.fits", "a&b.fits", "it's (1).fits", "a,b:c~d"]
)
def test_other_names_are_kept_as_they_are(session, platform, tmp_path, name):
    name = name.replace(" ", "")
    (tmp_path / name).write_bytes(b"content")
    session.upload(tmp_path / name, f"{HOME}/")
    assert [path.name for path in (platform.arc / "home/local").iterdir()] == [name]
    session.download(f"{HOME}/{name}", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"content"


def test_a_file_that_an_interrupted_upload_left_empty_is_replaced(session, platform, raw):
    host, _, port = platform.storage_url.removeprefix("http://").removesuffix("/arc").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"PUT /arc/files/home/local/a.fits HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000\r\n"
        connection.sendall(f"{head}Authorization: Bearer {platform.token}\r\n\r\nhalf".encode())
    place = platform.arc / "home/local/a.fits"
    until(lambda: any(each.kind == "upload" for each in platform.requests.recent))
    session.upload(raw / "night0.fits", f"{HOME}/a.fits")
    assert place.read_bytes() == (raw / "night0.fits").read_bytes()


def test_a_file_that_changes_while_it_is_read_is_read_again(session, platform, raw, tmp_path):
    session.upload(raw / "night0.fits", f"{HOME}/a.fits")
    place = platform.arc / "home/local/a.fits"
    changed = threading.Event()

    def change(call):
        real = call.proceed()
        if not changed.is_set():
            changed.set()
            place.unlink()
            place.write_bytes(b"new content of a job")
        return real

    platform.faults.add(change, on="download")
    session.download(f"{HOME}/a.fits", tmp_path / "a.fits")
    assert (tmp_path / "a.fits").read_bytes() == b"new content of a job"


def test_a_folder_of_2600_files_is_listed_whole(session, platform):
    folder = platform.arc / "home/local/many"
    folder.mkdir()
    for number in range(2600):
        (folder / f"f{number:04}.dat").touch()
    assert len(session.platform.storage.glob(f"{HOME}/many/*.dat")) == 2600


def test_any_file_system_of_fsspec_can_be_given(platform, raw, tmp_path):
    fsspec = pytest.importorskip("fsspec", reason="the extra 'storage' is missing")
    fs = fsspec.filesystem("dir", path=str(tmp_path / "arc"), target_protocol="file")
    (tmp_path / "arc").mkdir()
    with cb.Session.connect(platform.url, token=platform.token, storage=fs) as session:
        session.upload(raw, "/arc/projects/mine")
        session.upload(raw, "/arc/projects/mine")
        session.download("/arc/projects/mine", tmp_path / "back")
        assert session.storage() is fs
    assert content(tmp_path / "arc/projects/mine") == content(raw) == content(tmp_path / "back")
    assert isinstance(Storage(FsspecSpace(fs)).find("/arc/projects/mine").is_folder, bool)


def test_the_file_system_of_a_local_session_is_its_arc(tmp_path):
    pytest.importorskip("vosfs", reason="the extra 'storage' is missing")
    with cb.Session.connect("local") as session:
        (tmp_path / "a").write_bytes(b"x")
        session.upload(tmp_path / "a", f"{HOME}/a")
        assert session.storage().cat("/home/local/a") == b"x"


@pytest.mark.parametrize("played", [(), *((fault,) for fault in sorted(faults.STORAGE_FAULTS)), faults.STORAGE_FAULTS])
def test_each_fault_of_the_real_service_costs_nothing(without_pauses, raw, tmp_path, played):
    """One at a time, and all together: content, an overwrite, the same file again, names, and nothing left half."""
    with (
        LocalPlatform(storage_faults=played) as platform,
        cb.Session.connect(platform.url, token=platform.token) as session,
    ):
        (raw / "日本.fits").write_bytes(os.urandom(1000))
        session.upload(raw, f"{HOME}/raw")
        (raw / "night0.fits").write_bytes(os.urandom(SIZE))
        (raw / "empty.fits").touch()
        session.upload(raw, f"{HOME}/raw")
        platform.requests.clear()
        session.upload(raw, f"{HOME}/raw")
        assert not [each for each in platform.requests.recent if each.kind == "upload"], "nothing has changed"
        session.download(f"{HOME}/raw", tmp_path / "back")
        there = platform.arc / "home/local/raw"
        assert content(there) == content(raw) == content(tmp_path / "back")
        platform.faults.add(faults.cut_short(), on="download", first=1)
        session.download(f"{HOME}/raw/night1.fits", tmp_path / "again.fits")
        assert (tmp_path / "again.fits").read_bytes() == (raw / "night1.fits").read_bytes()


def test_an_upload_that_stalls_is_given_up_and_repeated(session, platform, raw):
    platform.faults.add(faults.stall(30), on="upload", first=1)
    with cb.Session.connect(platform.url, token=platform.token, timeout=0.5) as hurried:
        hurried.upload(raw / "night0.fits", f"{HOME}/a.fits")
    assert (platform.arc / "home/local/a.fits").read_bytes() == (raw / "night0.fits").read_bytes()
    assert [path.name for path in (platform.arc / "home/local").iterdir()] == ["a.fits"]


def test_an_upload_that_is_damaged_on_the_way_is_repeated_and_the_old_content_stays(session, platform, raw):
    """The real service empties a file whose new content is damaged: therefore it never gets the file's own name."""
    session.upload(raw / "night0.fits", f"{HOME}/a.fits")
    place, seen = platform.arc / "home/local/a.fits", []

    def damaged(call):
        call.request.headers["digest"] = "md5=AAAAAAAAAAAAAAAAAAAAAA=="
        answer = call.proceed()
        seen.append(place.read_bytes() == (raw / "night0.fits").read_bytes())
        return answer

    platform.faults.add(damaged, on="upload", first=2)
    session.upload(raw / "night1.fits", f"{HOME}/a.fits")
    assert seen == [True, True]
    assert place.read_bytes() == (raw / "night1.fits").read_bytes()


@pytest.mark.parametrize("count", [1999, 2000, 2001, 2600])
def test_a_folder_of_any_size_is_listed_whole(session, platform, count):
    """The service has no pages; a client that asks for them fails at exactly 2,000 entries."""
    folder = platform.arc / "home/local/many"
    folder.mkdir()
    for number in range(count):
        (folder / f"f{number:04}.dat").touch()
    assert len(session.platform.storage.contents(f"{HOME}/many")) == count


def test_a_file_that_changes_while_it_is_sent_is_sent_again(session, platform, raw):
    local, changed = raw / "night0.fits", []

    def change(call):
        real = call.proceed()
        if not changed:
            changed.append(local.write_bytes(b"other content"))
        return real

    platform.faults.add(change, on="upload")
    session.upload(local, f"{HOME}/a.fits")
    assert (platform.arc / "home/local/a.fits").read_bytes() == b"other content"
