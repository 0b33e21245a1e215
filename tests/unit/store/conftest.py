"""Ledgers, and the connections that they use."""

import pytest
from fakes import FakeClock
from ledgers import IDENTITY, connections, record

from canfar_batch.store.home import Home
from canfar_batch.store.ledger import Ledger


@pytest.fixture
def connected():
    """The connections that ledgers have opened in this test, the newest last."""
    with connections() as opened:
        yield opened


@pytest.fixture
def db(connected, made):
    """The connection of the ledger `made`."""
    return connected[-1]


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "batches" / "test")


@pytest.fixture
def made(connected, home, clock):
    book = Ledger.create(home, IDENTITY, clock=clock)
    db = connected[-1]
    book.acquire()
    book.plan([record(n) for n in range(3)])
    yield book
    db.close()  # as it is closed when its process is killed: the lease is not given back
