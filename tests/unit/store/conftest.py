"""Ledgers whose connections the tests can use."""

import pytest
from ledgers import connections


@pytest.fixture
def connected():
    """The connections that ledgers have opened in this test, the newest last."""
    with connections() as opened:
        yield opened


@pytest.fixture
def db(connected, made):
    """The connection of the ledger `made`."""
    return connected[-1]
