"""What the stages share: a journal that records first, a schedule, and pauses."""

import pytest
from fakes import EPOCH, FakeClock
from ledgers import IDENTITY, record

from canfar_batch import errors
from canfar_batch.engine.context import LONGEST_PAUSE, Health, Journal, Pause, Schedule
from canfar_batch.lifecycle import Intended, Launched
from canfar_batch.records import JobState, Resources
from canfar_batch.store.memory import MemoryLedger


@pytest.fixture
def book():
    ledger = MemoryLedger(IDENTITY)
    ledger.plan([record(0)])
    return ledger


@pytest.fixture
def schedule():
    return Schedule(clock=FakeClock(), random=lambda: 1.0)


@pytest.fixture
def health(schedule):
    return Health(name="test", schedule=schedule)


INTENDED = Intended(key="j0", at=EPOCH, launch_name="t", resources=Resources())
LAUNCHED = Launched(key="j0", at=EPOCH, id="abcd1234")


# -- the journal --------------------------------------------------------------------------------------------------


def test_an_observer_receives_an_event_that_is_in_the_ledger(book):
    seen = []
    journal = Journal(book, [lambda event: seen.append((event.kind, book.jobs["j0"].state))])
    journal.record([INTENDED])
    assert seen == [("Intended", JobState.LAUNCHING)]
    assert journal.index.counts[JobState.LAUNCHING] == 1


def test_buffered_events_are_seen_by_the_engine_and_written_at_the_end(book):
    seen = []
    journal = Journal(book, [lambda event: seen.append(event.kind)])
    with journal.in_one_transaction():
        journal.record([INTENDED])
        journal.record([LAUNCHED])
        assert (journal.job("j0").state, journal.jobs["j0"].state) == (JobState.PENDING, JobState.PLANNED)
        assert seen == []
    assert journal.jobs["j0"].state is JobState.PENDING
    assert seen == ["Intended", "Launched"]


def test_a_buffer_knows_whether_it_holds_answers_to_launches_alone(book):
    journal = Journal(book, [])
    assert not journal.holds_only_launches
    journal.record([INTENDED])
    with journal.in_one_transaction():
        journal.record([LAUNCHED])
        assert journal.holds_only_launches


def test_an_observer_that_fails_hides_no_event_from_the_next(book, caplog):
    def failing(event):
        raise ValueError("no")

    seen = []
    Journal(book, [failing, seen.append]).record([INTENDED])
    assert seen == [INTENDED]
    assert "an observer failed" in caplog.text


# -- the schedule -------------------------------------------------------------------------------------------------


def test_the_next_poll_comes_sooner_but_not_later_unless_it_is_put_off(schedule):
    schedule.poll_after(60.0)
    schedule.poll_within(10.0)
    schedule.poll_within(30.0)
    assert schedule.next_poll == schedule.clock.ticks() + 10.0
    schedule.poll_after(30.0)
    assert schedule.next_poll == schedule.clock.ticks() + 30.0


def test_pauses_double_up_to_a_limit(schedule):
    assert [schedule.back_off(failures) for failures in (0, 1, 2, 20)] == [5.0, 10.0, 20.0, LONGEST_PAUSE]


# -- the platform's health ----------------------------------------------------------------------------------------


def test_a_good_poll_lifts_a_pause_that_waited_for_the_platform(health, caplog):
    health.pause_for(errors.CredentialRefused("log in again"))
    assert "nothing is launched until this is fixed: log in again" in caplog.text
    health.note_good_poll()
    assert health.pause is None


def test_a_good_poll_lifts_no_pause_that_waits_for_the_user(health):
    health.pause = Pause(why="the first jobs failed alike")
    health.note_good_poll()
    assert health.pause is not None


def test_recoveries_are_counted_once_each(health):
    for trouble in (errors.PlatformUnreachable("x"), None, errors.PlatformUnreachable("x")):
        health.trouble = trouble
        health.note_good_poll()
    assert health.recoveries == 2
