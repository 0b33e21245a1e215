"""What happened when, and how that is drawn."""

from __future__ import annotations

import sys

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import NOON, after, attempt, job

from canfar_batch import plot, svg
from canfar_batch.errors import ExtraMissing, HomeError
from canfar_batch.failures import ExitCode, LaunchRefused, Lost, OutOfMemory
from canfar_batch.records import JobState
from canfar_batch.timeline import Timeline

TWICE = job("b", attempt(begun=5, waited=10, ran=100, failure=OutOfMemory()), attempt(2, begun=200, ran=50))


def timeline(*jobs, now=3600.0) -> Timeline:
    return Timeline.of(jobs, after(now))


def some(count: int) -> list:
    ends = (None, None, None, ExitCode(1), Lost())
    return [
        job(f"obs-{n}", attempt(begun=n, waited=1 + n % 7, ran=20 + n % 11, failure=ends[n % 5])) for n in range(count)
    ]


# -- what it holds ------------------------------------------------------------------------------------------------


def test_every_attempt_has_its_wait_and_its_run_in_seconds_since_the_first_launch():
    first, second = timeline(TWICE).spans
    assert (first.launched, first.started, first.ended, first.outcome) == (0, 10, 110, "failed")
    assert (second.launched, second.started, second.ended, second.outcome) == (195, 205, 255, "succeeded")
    assert (first.row, second.row) == (0, 0)


def test_rows_are_in_the_order_of_first_launches():
    assert timeline(job("late", attempt(begun=9)), job("early", attempt()), job("never")).keys == ("early", "late")


def test_what_is_not_over_lasts_until_now():
    (span,) = timeline(job("a", attempt(ran=None)), now=100).spans
    assert (span.outcome, span.ended) == ("running", 100)


def test_what_never_ran_has_no_start():
    refused = attrs.evolve(attempt(failure=LaunchRefused()), started_at=None, launched_at=None, receipt=None)
    (span,) = timeline(job("a", refused)).spans
    assert (span.started, span.outcome) == (None, "failed")


def test_outcomes_are_told_apart():
    stopped = attrs.evolve(attempt(), succeeded=False)
    jobs = (job("a", attempt(failure=Lost())), job("b", stopped, state=JobState.CANCELLED), job("c", attempt()))
    assert timeline(*jobs).outcomes == ("succeeded", "lost", "cancelled")


def test_clocks_that_differ_make_no_negative_lengths():
    odd = attrs.evolve(attempt(), started_at=after(-50), ended_at=after(-60), receipt=None)
    (span,) = timeline(job("a", odd)).spans
    assert span.launched <= span.started <= span.ended


def test_a_launch_whose_answer_was_heard_late_is_drawn_from_when_it_was_sent():
    late = attrs.evolve(attempt(waited=10, ran=20), launched_at=after(25))
    (span,) = timeline(job("a", late)).spans
    assert (span.launched, span.started, span.ended) == (0, 10, 30)


def test_levels_count_what_waits_and_runs():
    levels = timeline(job("a", attempt(waited=10, ran=100)), job("b", attempt(begun=5, waited=10, ran=10))).levels()
    assert [(level.at, level.pending, level.running) for level in levels] == [
        (0, 1, 0), (5, 2, 0), (10, 1, 1), (15, 0, 2), (25, 0, 1), (110, 0, 0),
    ]  # fmt: skip


@given(st.floats(1, 1e8))
def test_there_are_a_few_ticks_whatever_the_length(length: float):
    marks = Timeline(origin=NOON, length=length, keys=(), spans=()).ticks()
    assert 3 <= len(marks) <= 9
    assert all(0 <= at <= length * 1.0001 for at, _ in marks)
    assert len({name for _, name in marks}) == len(marks)


def test_nothing_launched_can_be_drawn():
    empty = timeline(job("a"))
    assert "Nothing was launched" in svg.figure(empty)
    assert plot.figure(empty, name="calib").axes


# -- matplotlib ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 5, 500, 5000])
def test_a_figure_is_drawn_of_few_jobs_and_of_thousands(count: int, tmp_path):
    path = tmp_path / "timeline.png"
    figure = plot.figure(timeline(*some(count)), name="calib", path=path)
    above, below = figure.axes
    assert len(above.get_yticklabels()) >= 1
    assert below.get_ylim()[1] >= 1
    assert len(above.collections) < 100  # thousands of attempts are a few collections
    assert path.stat().st_size > 10_000


def test_drawing_leaves_pyplot_alone():
    before = "matplotlib.pyplot" in sys.modules
    plot.figure(timeline(*some(50)), name="calib")
    assert ("matplotlib.pyplot" in sys.modules) is before


def test_names_with_dollars_are_no_formulas(tmp_path):
    figure = plot.figure(timeline(job("$x^{$", attempt())), name="calib", path=tmp_path / "a.png")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["$x^{$"]


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ExtraMissing, match=r"canfar_batch\[plots\]"):
        plot.figure(timeline(TWICE), name="calib")


def test_a_drawing_that_cannot_be_saved_says_where(tmp_path):
    with pytest.raises(HomeError, match="nowhere"):
        plot.figure(timeline(TWICE), name="calib", path=tmp_path / "nowhere" / "a.png")


# -- SVG ----------------------------------------------------------------------------------------------------------


def test_each_attempt_of_few_jobs_says_what_it_was():
    drawn = svg.figure(timeline(TWICE))
    assert "<title>b, attempt 1: failed; waited 10 s, ran 100 s</title>" in drawn
    assert "2 attempts of 1 jobs" in drawn


def test_the_drawing_of_many_jobs_is_small():
    jobs = some(8_000)
    drawn = svg.figure(timeline(*jobs, now=1e5))
    assert len(drawn) < 400_000
    assert "a line stands for 20 of them" in drawn


def test_keys_stay_text():
    assert "<script>" not in svg.figure(timeline(job("<script>", attempt())))
