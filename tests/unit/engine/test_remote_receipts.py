"""Receipts that come by way of the storage."""

import contextlib

import pytest
from fakes import FakePlatform

from canfar_batch import errors
from canfar_batch.engine.remote_receipts import RemoteReceipts

TOKEN = "abcdefghijklmnop"
FOLDER = "/arc/home/fake/.canfar_batch/abcdefghijkl"


class FakeStorage:
    def __init__(self):
        self.files, self.trouble = {}, None

    def write(self, remote, data):
        if self.trouble is not None:
            raise self.trouble
        self.files[remote] = data

    def read(self, remote):
        if self.trouble is not None:
            raise self.trouble
        if remote not in self.files:
            raise errors.RemoteMissing(remote)
        return self.files[remote]


@pytest.fixture
def platform():
    made = FakePlatform()
    made.storage = FakeStorage()
    made.within = lambda seconds: contextlib.nullcontext()
    return made


def test_the_batchs_token_is_put_where_containers_look_for_it(platform):
    prepared = RemoteReceipts.prepare(platform, TOKEN)
    assert prepared.folder == FOLDER
    assert platform.storage.files == {f"{FOLDER}/token": f"{TOKEN}\n".encode()}


@pytest.mark.parametrize(
    "trouble", [errors.StorageDenied("no"), errors.PlatformUnreachable("no answer"), errors.CredentialRefused("no")]
)
def test_a_storage_that_cannot_be_used_is_an_error(platform, trouble):
    platform.storage.trouble = trouble
    with pytest.raises(type(trouble)):
        RemoteReceipts.prepare(platform, TOKEN)


@pytest.mark.parametrize("user", [None, "", "../other", "a b"])
def test_a_user_whose_home_is_not_known_is_an_error(platform, user):
    platform.user = user
    with pytest.raises(errors.StorageError, match="your home on the storage is not known"):
        RemoteReceipts.prepare(platform, TOKEN)


def test_a_platform_without_storage_is_an_error():
    with pytest.raises(errors.StorageError, match="no storage"):
        RemoteReceipts.prepare(FakePlatform(), TOKEN)
