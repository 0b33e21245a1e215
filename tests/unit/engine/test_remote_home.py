"""The batch's folder on the storage: what goes there, and what comes from it."""

import contextlib
import hashlib
import json
import threading
import zlib

import pytest
from engine import SLOW, World, always, states
from fakes import EPOCH, FakePlatform, Fate
from spaces import MemorySpace

from canfar_batch import errors
from canfar_batch.engine.remote_home import RemoteHome
from canfar_batch.lifecycle import Intended, apply
from canfar_batch.payload.receipts import receipt_paths
from canfar_batch.records import JobState
from canfar_batch.storage import Storage
from canfar_batch.store.home import Home
from canfar_batch.strategies import never

TOKEN = "abcdefghijklmnop"
FOLDER = "/arc/home/fake/.canfar_batch/abcdefghijkl"


@pytest.fixture
def platform():
    made = FakePlatform()
    made.space = MemorySpace()
    made.storage = Storage(made.space, sleep=lambda seconds: None)
    made.within = lambda seconds: contextlib.nullcontext()
    return made


def test_the_batchs_token_is_put_where_containers_look_for_it(platform):
    prepared = RemoteHome.prepare(platform, TOKEN)
    assert prepared.folder == FOLDER
    assert platform.storage.read(f"{FOLDER}/token") == f"{TOKEN}\n".encode()


@pytest.mark.parametrize(
    "trouble", [errors.StorageDenied("no"), errors.PlatformUnreachable("no answer"), errors.CredentialRefused("no")]
)
def test_a_storage_that_cannot_be_used_is_an_error(platform, trouble):
    platform.space.on_write = always(trouble)
    with pytest.raises((type(trouble), errors.StorageError)):
        RemoteHome.prepare(platform, TOKEN)


@pytest.mark.parametrize("user", [None, "", "../other", "a b"])
def test_a_user_whose_home_is_not_known_is_an_error(platform, user):
    platform.user = user
    with pytest.raises(errors.StorageError, match="your home on the storage is not known"):
        RemoteHome.prepare(platform, TOKEN)


def test_a_platform_without_storage_is_an_error():
    with pytest.raises(errors.StorageError, match="no storage"):
        RemoteHome.prepare(FakePlatform(), TOKEN)


# -- functions and their outcomes -----------------------------------------------------------------------------------


@pytest.fixture
def remote(platform):
    return RemoteHome.prepare(platform, TOKEN)


@pytest.fixture
def home(tmp_path):
    place = Home(tmp_path / "home")
    place.functions.mkdir(parents=True)
    (place.functions / "f.zip").write_bytes(b"code")
    (place.functions / "x.pkl").write_bytes(b"value")
    return place


def moves(platform):
    return [entry[2].rpartition("/")[2] for entry in platform.space.log if entry[0] == "move"]


def test_each_file_of_a_function_is_brought_once_whoever_asks(platform, remote, home):
    threads = [
        threading.Thread(target=remote.bring_functions, args=(["f.zip", name], home))
        for name in ("x.pkl", "f.zip", "x.pkl", "x.pkl")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(moves(platform)) == ["f.zip", "token", "x.pkl"]
    assert platform.storage.read(f"{FOLDER}/functions/x.pkl") == b"value"


def test_an_outage_of_the_storage_sends_nothing_and_may_pass(platform, remote, home):
    platform.space.on_write = always(errors.PlatformUnreachable("no answer"))
    with pytest.raises(errors.NotSent, match=r"f\.zip could not be brought"):
        remote.bring_functions(["f.zip"], home)
    platform.space.on_write = lambda path, data: data
    remote.bring_functions(["f.zip"], home)
    assert platform.storage.read(f"{FOLDER}/functions/f.zip") == b"code"


def test_a_storage_without_room_is_a_lasting_refusal(platform, remote, home):
    platform.space.on_write = always(errors.StorageFull("no room"))
    with pytest.raises(errors.StorageFull):
        remote.bring_functions(["f.zip"], home)


def outcome(launch, value=b"result"):
    packed = zlib.compress(value)
    header = {"launch": launch, "returned": True, "sha256": hashlib.sha256(packed).hexdigest()}
    return json.dumps(header).encode() + b"\n" + packed


@pytest.fixture
def job(tmp_path):
    """A job that was launched once."""
    batch = World(tmp_path / "homes").planned(1)
    record = batch.jobs[0].record
    return apply(record, Intended(key=record.key, at=EPOCH, launch_name="x", resources=record.resources))


def test_an_outcome_is_brought_here(platform, remote, home, job):
    remote.fetch_outcome(job, home)  # there is none
    assert not home.result("j0", 1).exists()
    platform.storage.write(f"{FOLDER}/results/j0.1", outcome("x"))
    remote.fetch_outcome(job, home)
    assert home.result("j0", 1).read_bytes() == outcome("x")


def test_an_outcome_that_was_damaged_on_its_way_is_not_kept(platform, remote, home, job):
    platform.storage.write(f"{FOLDER}/results/j0.1", outcome("x"))
    platform.space.knows_md5 = False  # a job wrote it
    platform.space.on_read = lambda path, data: iter([data[:-1] + b"?"])
    with pytest.raises(errors.TransferDamaged):
        remote.fetch_outcome(job, home)
    assert not home.result("j0", 1).exists()
    platform.space.on_read = lambda path, data: iter([data])
    remote.fetch_outcome(job, home)
    assert home.result("j0", 1).read_bytes() == outcome("x")


def test_an_outage_is_no_missing_outcome(platform, remote, home, job):
    platform.storage.write(f"{FOLDER}/results/j0.1", outcome("x"))
    platform.space.on_read = always(errors.PlatformUnreachable("no answer"))
    with pytest.raises(errors.CanfarBatchError):
        remote.fetch_outcome(job, home)


# -- receipts ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def away(platform, tmp_path):
    """A world whose containers see no disk of the driver, and a storage."""
    world = World(tmp_path / "homes", lambda request: SLOW)
    world.platform.space, world.platform.storage = platform.space, platform.storage
    world.platform.within = platform.within
    return world


def leave_receipts(world, batch, tmp_path):
    """Leave the receipts of j0 on the storage, as its container does."""
    (tmp_path / "there/receipts").mkdir(parents=True)
    world.platform.write_receipts(tmp_path / "there", "j0", 1, world.platform.launched[0])
    (folder,) = {path.rpartition("/")[0] for path in world.platform.space.files if path.endswith("/token")}
    for path in receipt_paths(str(tmp_path / "there"), "j0", 1):
        name = path.rpartition("/")[2]
        with open(path, "rb") as file:
            world.platform.storage.write(f"/arc{folder}/receipts/{name}", file.read())


def test_a_receipt_on_the_storage_tells_how_a_forgotten_job_ended(away, tmp_path):
    batch = away.planned(1)
    away.turn(batch, 30)
    leave_receipts(away, batch, tmp_path)
    away.platform.all.clear()
    batch.run(progress=False)
    assert states(batch) == [JobState.SUCCEEDED]


def test_a_storage_that_is_away_for_long_costs_no_success(away, tmp_path):
    """The job is given up meanwhile, and its receipt is found by a later run."""
    batch = away.planned(1, retry=never)
    away.turn(batch, 30)
    leave_receipts(away, batch, tmp_path)
    away.platform.all.clear()
    away.platform.space.on_read = always(errors.PlatformUnreachable("no answer"))
    batch.run(progress=False)
    assert states(batch) == [JobState.FAILED]
    away.platform.space.on_read = lambda path, data: iter([data])
    away.platform.fate = lambda request: Fate()
    again = away.planned(1)
    again.run(progress=False)
    assert (states(again), len(away.platform.launched)) == ([JobState.SUCCEEDED], 1)
