"""The timeline and its drawings."""

from __future__ import annotations

import base64
import io
import re
import sys

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import NOON, after, attempt, job

from canfar_batch.errors import ExtraMissing
from canfar_batch.failures import ExitCode, LaunchRefused, Lost, OutOfMemory
from canfar_batch.records import JobState, LostRun
from canfar_batch.views import html, timeline_mpl, timeline_svg
from canfar_batch.views.timeline import Timeline, mixed

TWICE = job("b", attempt(begun=5, waited=10, ran=100, failure=OutOfMemory()), attempt(2, begun=200, ran=50))


def timeline(*jobs, now=3600.0) -> Timeline:
    return Timeline.of(jobs, after(now))


def some(count: int) -> list:
    ends = (None, None, None, ExitCode(1), Lost())
    return [
        job(f"obs-{n}", attempt(begun=n, waited=1 + n % 7, ran=20 + n % 11, failure=ends[n % 5])) for n in range(count)
    ]


# -- data ---------------------------------------------------------------------------------------------------------


def test_attempts_are_in_seconds_since_the_first_launch():
    first, second = timeline(TWICE).spans
    assert (first.launched, first.started, first.ended, first.outcome) == (0, 10, 110, "failed")
    assert (second.launched, second.started, second.ended, second.outcome) == (195, 205, 255, "succeeded")
    assert (first.row, second.row) == (0, 0)


def test_a_run_that_was_lost_is_drawn_and_counted_apart():
    lost = LostRun(after(10), after(40))
    whole = timeline(job("a", attrs.evolve(attempt(waited=100, ran=50), lost_runs=(lost,), restarts=1)))
    (span,) = whole.spans
    assert (span.lost, span.waits) == (((10, 40),), ((0, 10), (40, 100)))
    assert [(level.at, level.pending, level.running) for level in whole.levels()] == [
        (0, 1, 0), (10, 0, 1), (40, 1, 0), (100, 0, 1), (150, 0, 0),
    ]  # fmt: skip
    assert ("restarted", "1 stopped and begun again") in whole.legend()
    drawn = timeline_svg.figure(whole)
    assert 'class="o-restarted" x="66.7"' in drawn
    assert "waited 70 s, ran 50 s, 1 run of 30 s stopped and begun again" in drawn
    timeline_mpl.figure(whole, name="test").savefig(io.BytesIO(), format="png")


def test_rows_are_in_the_order_of_first_launches():
    assert timeline(job("late", attempt(begun=9)), job("early", attempt()), job("never")).keys == ("early", "late")


def test_an_attempt_that_has_not_ended_lasts_until_now():
    (span,) = timeline(job("a", attempt(ran=None)), now=100).spans
    assert (span.outcome, span.ended) == ("running", 100)


def test_an_attempt_that_never_ran_has_no_start():
    refused = attrs.evolve(attempt(failure=LaunchRefused()), started_at=None, launched_at=None, receipt=None)
    (span,) = timeline(job("a", refused)).spans
    assert (span.started, span.outcome) == (None, "failed")


def test_lost_cancelled_and_succeeded_are_different_outcomes():
    stopped = attrs.evolve(attempt(), succeeded=False)
    jobs = (job("a", attempt(failure=Lost())), job("b", stopped, state=JobState.CANCELLED), job("c", attempt()))
    assert timeline(*jobs).outcomes == ("succeeded", "lost", "cancelled")


def test_clocks_that_differ_make_no_negative_lengths():
    odd = attrs.evolve(attempt(), started_at=after(-50), ended_at=after(-60), receipt=None)
    (span,) = timeline(job("a", odd)).spans
    assert span.launched <= span.started <= span.ended


def test_a_late_answer_to_a_launch_does_not_delay_its_start():
    late = attrs.evolve(attempt(waited=10, ran=20), launched_at=after(25))
    (span,) = timeline(job("a", late)).spans
    assert (span.launched, span.started, span.ended) == (0, 10, 30)


def test_levels_count_waiting_and_running_attempts():
    levels = timeline(job("a", attempt(waited=10, ran=100)), job("b", attempt(begun=5, waited=10, ran=10))).levels()
    assert [(level.at, level.pending, level.running) for level in levels] == [
        (0, 1, 0), (5, 2, 0), (10, 1, 1), (15, 0, 2), (25, 0, 1), (110, 0, 0),
    ]  # fmt: skip


def test_a_lane_mixes_outcomes_by_their_shares():
    bad = attempt(waited=40, ran=60, failure=ExitCode(1))
    jobs = [job(f"{n}", bad if n == 7 else attempt(waited=40, ran=60)) for n in range(200)]
    lanes = list(timeline(*jobs).lanes(2, 10))
    assert lanes[0]["waiting"] == pytest.approx([1] * 4 + [0] * 6)
    assert lanes[0]["succeeded"] == pytest.approx([0] * 4 + [0.99] * 6)
    assert lanes[0]["failed"] == pytest.approx([0] * 4 + [0.01] * 6)
    assert "failed" not in lanes[1]


@given(
    st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 1e4), st.floats(0, 1e5)), min_size=1, max_size=30),
    st.integers(1, 40), st.integers(1, 60),
)  # fmt: skip
def test_a_picture_shows_as_much_time_of_each_outcome_as_there_was(times, lanes: int, columns: int):
    jobs = [
        job(f"{n}", attempt(begun=begun, waited=waited, ran=ran, failure=Lost() if n % 3 else None))
        for n, (begun, waited, ran) in enumerate(times)
    ]
    whole = timeline(*jobs)
    rows = len(whole.keys)
    lanes = min(lanes, rows)
    sizes = [sum(row * lanes // rows == lane for row in range(rows)) for lane in range(lanes)]
    drawn = dict.fromkeys(("waiting", *whole.outcomes), 0.0)
    for size, shares in zip(sizes, whole.lanes(lanes, columns), strict=True):
        for what, share in shares.items():
            assert all(-1e-6 <= part <= 1 + 1e-6 for part in share)
            drawn[what] += sum(share) * size * whole.length / columns
    for outcome in whole.outcomes:
        assert drawn[outcome] == pytest.approx(
            sum(s.ended - s.started for s in whole.spans if s.outcome == outcome), rel=1e-6, abs=1e-3
        )
    assert drawn["waiting"] == pytest.approx(sum(s.started - s.launched for s in whole.spans), rel=1e-6, abs=1e-3)


def test_failures_are_counted_in_parts_of_the_time():
    ends = {1: ExitCode(1), 91: ExitCode(1)}
    jobs = [job(f"{n}", attempt(begun=n, waited=1, ran=8, failure=ends.get(n))) for n in range(92)]
    assert timeline(*jobs).ends(10) == {"failed": [0, 1, 0, 0, 0, 0, 0, 0, 0, 1]}


@given(st.integers(2, 10**6), st.integers(1, 500))
def test_rows_are_shared_evenly(jobs: int, at_most: int):
    whole = Timeline(origin=NOON, length=1.0, keys=("k",) * jobs, spans=())
    rows, each = whole.sharing(at_most)
    assert 1 <= rows <= at_most
    assert (rows - 1) * each < jobs <= rows * each


@given(st.floats(1, 1e8))
def test_there_are_a_few_ticks_whatever_the_length(length: float):
    marks = Timeline(origin=NOON, length=length, keys=(), spans=()).ticks()
    assert 3 <= len(marks) <= 9
    assert all(0 <= at <= length * 1.0001 for at, _ in marks)
    assert len({name for _, name in marks}) == len(marks)


def test_a_batch_without_launches_can_be_drawn():
    empty = timeline(job("a"))
    assert "Nothing was launched" in timeline_svg.figure(empty)
    assert timeline_mpl.figure(empty, name="calib").axes


# -- matplotlib ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 5, 500, 5000])
def test_a_figure_is_drawn_of_few_jobs_and_of_thousands(count: int, tmp_path):
    path = tmp_path / "timeline.png"
    figure = timeline_mpl.figure(timeline(*some(count)), name="calib")
    figure.savefig(path)
    above, *_, below = figure.axes
    assert len(above.get_yticklabels()) >= 1
    assert below.get_ylim()[1] >= 1
    assert len(above.collections) < 100  # thousands of attempts are a few collections
    assert path.stat().st_size > 10_000


def reddish(picture) -> float:
    """The share of the picture that has the colour of failures; a mixed cell counts by its share."""
    import numpy as np

    red, green, blue, covered = (picture[..., channel] / 255 for channel in range(4))
    failed, succeeded = np.array([0xD5, 0x5E, 0x00]) / 255, np.array([0x00, 0x9E, 0x73]) / 255
    away = np.stack([red, green, blue], -1) - succeeded
    return float(((away @ (failed - succeeded)) / ((failed - succeeded) @ (failed - succeeded)) * covered).sum()
                 / covered.sum())  # fmt: skip


@pytest.mark.parametrize(("every", "share"), [(50, 0.02), (4, 0.25)])
def test_rare_failures_among_thousands_take_their_share(every: int, share: float):
    jobs = [
        job(f"{n}", attempt(begun=n // 6, waited=0, ran=600, failure=ExitCode(1) if n % every == 0 else None))
        for n in range(1200)
    ]
    above, wrong, _ = timeline_mpl.figure(timeline(*jobs), name="calib").axes
    (image,) = above.images
    assert reddish(image.get_array()) == pytest.approx(share, abs=0.005)
    assert len(above.lines) == (1 if every > 4 else 0)  # a sign for each end, as long as they are few
    assert sum(step.get_data().values.sum() for step in wrong.patches) == 1200 / every
    assert {label.get_text() for label in above.get_legend().get_texts()} >= {f"{1200 // every:,} failed"}


def test_ends_are_marked_all_or_none_whatever_the_outcome():
    jobs = [
        job(f"{n}", attempt(begun=n, failure=Lost() if n < 20 else ExitCode(1) if n < 300 else None))
        for n in range(1200)
    ]
    assert timeline_mpl.figure(timeline(*jobs), name="calib").axes[0].lines[:] == []
    assert len(timeline_mpl.figure(timeline(*jobs[:40], *jobs[300:]), name="calib").axes[0].lines) == 2


def test_lines_of_failures_are_no_thicker_than_those_of_successes():
    collections = timeline_mpl.figure(timeline(*some(300)), name="calib").axes[0].collections
    assert len({float(lines.get_linewidth()[0]) for lines in collections[1:]}) == 1


def test_drawing_leaves_pyplot_alone():
    before = "matplotlib.pyplot" in sys.modules
    timeline_mpl.figure(timeline(*some(50)), name="calib")
    assert ("matplotlib.pyplot" in sys.modules) is before


def test_names_with_dollars_are_not_formulas(tmp_path):
    figure = timeline_mpl.figure(timeline(job("$x^{$", attempt())), name="calib")
    figure.savefig(tmp_path / "a.png")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["$x^{$"]


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ExtraMissing, match=r'pip install matplotlib .*extra "plots"'):
        timeline_mpl.figure(timeline(TWICE), name="calib")


# -- SVG ----------------------------------------------------------------------------------------------------------


def test_each_attempt_of_few_jobs_says_what_it_was():
    drawn = timeline_svg.figure(timeline(TWICE))
    assert "<title>b, attempt 1: failed; waited 10 s, ran 100 s</title>" in drawn
    assert "2 attempts of 1 job" in drawn


def test_the_drawing_of_many_jobs_is_small():
    jobs = some(3000)
    drawn = timeline_svg.figure(timeline(*jobs, now=1e5))
    assert len(drawn) < 200_000
    assert "a row stands for 15 of them" in drawn
    assert "600 failed" in drawn
    assert "dot" not in drawn


def test_a_picture_of_many_jobs_marks_failures_if_they_are_few():
    jobs = [job(f"{n}", attempt(begun=n, failure=ExitCode(1) if n % 100 == 0 else None)) for n in range(1000)]
    drawn = timeline_svg.figure(timeline(*jobs))
    assert re.search(r'class="d d-failed"[^>]*? d="([^"]*)"', drawn)[1].count("M") == 10
    assert "a dot marks the end" in drawn
    assert 'class="f-failed"' in drawn


def test_the_picture_in_a_page_is_the_one_that_was_mixed():
    image = pytest.importorskip("matplotlib.image")
    whole = timeline(*some(1000))
    inside = re.search(r'href="data:image/png;base64,([^"]*)"', timeline_svg.figure(whole))[1]
    picture = image.imread(io.BytesIO(base64.b64decode(inside)), format="png")
    cells = bytearray(mixed(whole, 200, 600, html.COLOURS))
    assert abs(picture * 255 - memoryview(cells).cast("B", (200, 600, 4))).max() <= 4.5


def test_keys_stay_text():
    assert "<script>" not in timeline_svg.figure(timeline(job("<script>", attempt())))
