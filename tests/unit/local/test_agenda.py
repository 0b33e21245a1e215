"""Things to do later."""

import threading
from types import SimpleNamespace

import pytest

from canfar_batch.local.agenda import PRUNE_AT, Agenda


@pytest.fixture
def agenda():
    made = Agenda()
    yield made
    made.stop()


def test_actions_are_done_in_the_order_of_their_times(agenda, monkeypatch):
    done, over, now = [], threading.Event(), [0.0]
    monkeypatch.setattr("canfar_batch.local.agenda.time", SimpleNamespace(monotonic=lambda: now[0]))
    agenda.later(3.0, over.set)
    agenda.later(2.0, lambda: done.append("second"))
    agenda.later(1.0, lambda: done.append("first"))
    now[0] = 4.0
    agenda.later(0.0, list)  # the thread looks at the clock again
    assert over.wait(10)
    assert done == ["first", "second"]


def test_a_cancelled_action_is_not_done(agenda):
    done, over = [], threading.Event()
    agenda.later(0.0, lambda: done.append("cancelled")).cancel()
    agenda.later(0.01, over.set)
    assert over.wait(10)
    assert done == []


def test_an_action_that_fails_does_not_stop_the_others(agenda, caplog):
    over = threading.Event()
    agenda.later(0.0, lambda: 1 / 0)
    agenda.later(0.01, over.set)
    assert over.wait(10)
    assert "ZeroDivisionError" in caplog.text


def test_stopping_does_nothing_more(agenda):
    done = []
    agenda.later(60.0, lambda: done.append("late"))
    agenda.stop()
    agenda.later(0.0, lambda: done.append("later"))
    assert done == []
    assert not [thread for thread in threading.enumerate() if thread.name == "local-platform-agenda"]


def test_cancelled_entries_are_dropped_now_and_then(agenda):
    for _ in range(3 * PRUNE_AT):
        agenda.later(3600.0, list).cancel()
    assert len(agenda) <= PRUNE_AT + 1
