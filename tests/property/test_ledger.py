"""For every history of a job, the ledger gives back the records and events that were recorded."""

import tempfile
from pathlib import Path

from fakes import FakeClock
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import connections, hurry
from property.test_lifecycle import PLANNED, happened, histories

from canfar_batch.store.home import Home
from canfar_batch.store.ledger import Identity, Ledger

IDENTITY = Identity(name="test", platform="local", user=None, token="0123456789abcdef")


@settings(max_examples=50, deadline=None)
@given(histories(), st.integers(1, 4))
def test_a_ledger_opened_again_has_the_same_jobs_and_events(history, size):
    steps = happened(history)
    with tempfile.TemporaryDirectory() as directory:
        home = Home(Path(directory) / "test")
        with connections() as opened:
            book = Ledger.create(home, IDENTITY, clock=FakeClock())
        hurry(opened[-1])
        book.acquire()
        book.plan([PLANNED])
        reader = Ledger.open(home, clock=FakeClock(), writable=False)
        for start in range(0, len(steps), size):
            wave = steps[start : start + size]
            changes = book.record([event for _, event, _ in wave])
            assert [(change.before, change.after) for change in changes] == [
                (before, after) for before, _, after in wave
            ]
            reader.reload()
            assert reader.jobs == book.jobs == {"a": wave[-1][2]}
        assert [line.kind for line in reader.history("a")] == [event.kind for _, event, _ in steps]
        reader.close()
        book.close()
