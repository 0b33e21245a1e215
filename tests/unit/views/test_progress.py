"""Progress: in a terminal, in a file, in a notebook, or not shown."""

from __future__ import annotations

import errno
import io
import logging
import math
import re
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
from fakes import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from canfar_batch.records import JobState
from canfar_batch.views.progress import Progress, Snapshot

LOG = logging.getLogger("canfar_batch")


class Batch:
    """Something that counts like a batch."""

    def __init__(self, **counts: int) -> None:
        self.name = "calib"
        self.counts: dict[JobState, int] = {}
        self.counted = 0
        self.set(**counts)

    def set(self, **counts: int) -> None:
        self.counts = {state: counts[state.value] for state in JobState if state.value in counts}


class Terminal(io.StringIO):
    """A terminal: the text that is written, and the screen that a person sees."""

    def __init__(self, columns: int = 80) -> None:
        super().__init__()
        self.columns = columns

    def isatty(self) -> bool:
        return True

    @property
    def screen(self) -> list[str]:
        """The lines on the screen. A line that reaches the last column would wrap, and is refused."""
        lines, at = [""], 0
        for piece in re.findall(r"\r|\n|\x1b\[K|[^\r\n\x1b]+", self.getvalue()):
            if piece == "\r":
                at = 0
            elif piece == "\n":
                lines.append("")
                at = 0
            elif piece == "\x1b[K":
                lines[-1] = lines[-1][:at]
            else:
                lines[-1] = lines[-1][:at] + piece + lines[-1][at + len(piece) :]
                at += len(piece)
                assert at < self.columns, f"{piece!r} wraps"
        return lines


class Shown:
    """A batch, the time, and its progress on a terminal."""

    def __init__(self, stream: io.StringIO, **how: Any) -> None:
        self.clock, self.batch, self.stream = FakeClock(), Batch(planned=10), stream
        how.setdefault("notebook", False)
        self.progress = Progress(self.batch, stream=stream, ticks=self.clock.ticks, **how)

    def after(self, seconds: float, **counts: int) -> float:
        self.clock.sleep(seconds)
        self.batch.set(**counts)
        return self.progress.update()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal in a window, whatever these tests run in."""
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("TMUX", "XTERM_VERSION"):
        monkeypatch.delenv(name, raising=False)
    return Terminal()


@pytest.fixture
def live(terminal: Terminal) -> Iterator[Shown]:
    shown = Shown(terminal, width=lambda: terminal.columns)
    with shown.progress:
        yield shown


@pytest.fixture
def plain() -> Shown:
    return Shown(io.StringIO())


# -- in a terminal ------------------------------------------------------------------------------------------------


def test_a_terminal_shows_one_line_that_changes(live: Shown, terminal: Terminal):
    live.after(0, planned=10)
    assert terminal.screen == ["calib 0/10 | 10 planned"]
    live.after(60, planned=5, running=3, succeeded=1, failed=1)
    assert terminal.screen == ["calib 2/10 | 5 planned, 3 running, 1 succeeded, 1 failed | 2/min, 4 min left"]


def test_a_shorter_line_leaves_nothing_of_the_longer_one(live: Shown, terminal: Terminal):
    live.after(0, planned=5, running=3, succeeded=1, failed=1)
    live.after(1, succeeded=10)
    assert terminal.screen == ["calib 10/10 | 10 succeeded | 8/s"]


def test_messages_go_above_the_line(live: Shown, terminal: Terminal):
    live.after(0, planned=10)
    live.progress.say("batch calib in /arc/home/me/batches/calib: 0 jobs known, 10 new")
    assert terminal.screen == [
        "batch calib in /arc/home/me/batches/calib: 0 jobs known, 10 new",
        "calib 0/10 | 10 planned",
    ]


def test_the_last_line_stays_and_the_prompt_is_below_it(terminal: Terminal):
    shown = Shown(terminal, width=lambda: 80)
    with shown.progress:
        shown.after(0, planned=10)
        shown.batch.set(succeeded=10)
    assert terminal.screen == ["calib 10/10 | 10 succeeded", ""]


def test_an_error_leaves_the_cursor_on_a_line_of_its_own(terminal: Terminal):
    shown = Shown(terminal, width=lambda: 80)

    def run_until_ctrl_c() -> None:
        with shown.progress:
            shown.after(0, planned=10)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_until_ctrl_c()
    assert terminal.screen == ["calib 0/10 | 10 planned", ""]


def test_a_terminal_is_written_to_a_few_times_a_second_at_most(live: Shown, terminal: Terminal):
    for number in range(1000):
        live.after(0.01, planned=1000 - number, succeeded=number)
    assert terminal.getvalue().count("\r") <= 4 * 10 + 1


def test_a_change_that_came_too_soon_is_shown_later(live: Shown, terminal: Terminal):
    assert live.after(0, planned=10) == math.inf
    wait = live.after(0.1, planned=9, succeeded=1)
    assert wait == pytest.approx(0.15)
    assert live.after(wait, planned=9, succeeded=1) == math.inf
    assert terminal.screen[0].startswith("calib 1/10")


def test_nothing_is_drawn_again_if_nothing_changed(live: Shown):
    live.after(0, planned=10)
    assert live.after(0.1, planned=10) == math.inf


def test_events_between_two_drawings_are_counted_once(live: Shown, monkeypatch: pytest.MonkeyPatch):
    counted: list[str] = []
    live.after(0, planned=10_000)
    del live.batch.counts
    counts = {JobState.SUCCEEDED: 1, JobState.PLANNED: 9_999}
    monkeypatch.setattr(Batch, "counts", property(lambda _: counted.append("look") or counts), raising=False)
    for _ in range(1000):
        assert live.progress.update() == pytest.approx(0.25)
    assert len(counted) == 1


def test_the_line_follows_the_width_of_the_terminal(live: Shown, terminal: Terminal):
    terminal.columns = 30
    live.after(0, planned=5, running=3, succeeded=1, failed=1)
    assert terminal.screen == ["2/10 | 3 running, 1 failed"]


def test_a_line_wrapped_by_a_narrower_window_is_erased_whole(live: Shown, terminal: Terminal):
    live.after(0, planned=5, running=3, succeeded=1, failed=1)
    assert len(terminal.screen[0]) == 56
    terminal.columns = 30  # so it takes two lines now
    terminal.truncate(terminal.seek(0))
    live.after(1, planned=5, running=3, succeeded=1, failed=1)
    assert terminal.getvalue() == "\x1b[1A\r\x1b[J2/10 | 3 running, 1 failed"


def test_messages_in_a_narrower_window_break_nothing(live: Shown, terminal: Terminal):
    live.after(0, planned=5, running=3, succeeded=1, failed=1)
    terminal.columns = 30
    terminal.truncate(terminal.seek(0))
    live.progress.say("hello")
    assert terminal.getvalue() == "\x1b[1A\r\x1b[Jhello\ncalib 2/10 | 5 planned, 3 ..."


@pytest.mark.parametrize(
    ("environment", "rewraps"),
    [
        ({"TERM": "xterm-256color"}, True),
        ({"TERM": "screen-256color", "TMUX": "/tmp/tmux-0/default,1,0"}, True),
        ({"TERM": "screen"}, False),
        ({"TERM": "linux"}, False),
        ({"TERM": "xterm-256color", "XTERM_VERSION": "XTerm(379)"}, False),
    ],
)
def test_terminals_that_cut_lines_off_keep_what_is_above(
    environment: dict[str, str], rewraps: bool, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    shown = Shown(terminal, width=lambda: terminal.columns)
    shown.after(0, planned=5, running=3, succeeded=1, failed=1)
    terminal.columns = 30
    shown.after(1, planned=4, running=3, succeeded=1, failed=2)
    assert ("\x1b[1A" in terminal.getvalue()) is rewraps
    shown.progress.__exit__(None, None, None)


@given(st.lists(st.integers(0, 10**7), min_size=9, max_size=9), st.integers(1, 200), st.floats(1e-6, 1e6) | st.none())
def test_no_line_is_wider_than_it_may_be(numbers: list[int], columns: int, rate: float | None):
    counts = {state: number for state, number in zip(JobState, numbers, strict=True) if number}
    assert len(Snapshot(name="b" * 64, counts=counts, rate=rate).line(columns)) <= columns


def test_in_the_narrowest_terminal_the_count_stays(terminal: Terminal):
    assert Snapshot(name="calib", counts={JobState.PLANNED: 10}, rate=None).line(6) == "0/10"


def test_warnings_go_above_the_line(live: Shown, terminal: Terminal, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    live.after(0, planned=10)
    LOG.warning("calib: the platform does not answer")
    assert terminal.screen == ["calib: the platform does not answer", "calib 0/10 | 10 planned"]


def test_answers_of_a_platform_cannot_control_the_terminal(
    live: Shown, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    live.after(0, planned=10)
    LOG.warning("calib: the platform says \x1b[2J\x1b[31mno\x07\n  twice")
    assert terminal.screen == ["calib: the platform says no", "  twice", "calib 0/10 | 10 planned"]


def test_the_line_is_erased_before_another_handler_prints(
    live: Shown, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(terminal)])
    live.after(0, planned=10)
    LOG.warning("calib: the platform does not answer")
    assert terminal.screen == ["calib: the platform does not answer", ""]
    live.after(1, planned=10)
    assert terminal.screen == ["calib: the platform does not answer", "calib 0/10 | 10 planned"]


def test_the_log_is_left_as_it_was_found(terminal: Terminal):
    before = list(LOG.handlers)
    with Shown(terminal, width=lambda: 80).progress:
        assert LOG.handlers != before
    assert LOG.handlers == before


# -- the rate -----------------------------------------------------------------------------------------------------


def test_the_rate_ignores_jobs_that_were_final_before(live: Shown, terminal: Terminal):
    live.after(0, planned=50, succeeded=50)
    assert "left" not in terminal.screen[0]
    live.after(100, planned=40, succeeded=60)
    assert terminal.screen[0].endswith("| 6/min, 7 min left")


def test_the_rate_follows_recent_changes(live: Shown, terminal: Terminal):
    for minute in range(60):  # fast at first, then a job every ten minutes
        done = min(500 + minute // 10, 100 * minute)
        live.after(60, planned=1000 - done, succeeded=done)
    assert "/h" in terminal.screen[0]


def test_jobs_that_are_opened_again_make_no_negative_rate(live: Shown, terminal: Terminal):
    live.after(0, failed=10)
    live.after(10, planned=10)
    assert terminal.screen == ["calib 0/10 | 10 planned"]


# -- elsewhere ----------------------------------------------------------------------------------------------------


def test_a_file_gets_a_line_every_ten_seconds_if_something_changed(plain: Shown):
    for number in range(1, 101):
        plain.after(1, planned=100 - number, succeeded=number)
    lines = plain.stream.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[1].startswith("calib 11/100 | 89 planned, 11 succeeded | 1/s, 89 s left")


def test_a_file_gets_no_line_while_nothing_changes(plain: Shown):
    for _ in range(100):
        plain.after(10, planned=10)
    assert plain.stream.getvalue().splitlines() == ["calib 0/10 | 10 planned"]


def test_a_file_gets_the_last_state_once(plain: Shown):
    with plain.progress:
        plain.after(0, planned=10)
        plain.after(1, succeeded=10)
    plain_again = Shown(io.StringIO())
    with plain_again.progress:
        plain_again.after(0, succeeded=10)
    assert plain.stream.getvalue().splitlines()[-1].startswith("calib 10/10 | 10 succeeded")
    assert len(plain_again.stream.getvalue().splitlines()) == 1


def test_a_run_of_days_does_not_fill_a_disk(plain: Shown):
    for second in range(0, 86_400, 10):
        plain.after(10, planned=10_000 - second // 10, succeeded=second // 10)
    assert len(plain.stream.getvalue().splitlines()) < 1600


def test_a_file_gets_no_escape_sequences(plain: Shown):
    with plain.progress:
        plain.progress.say("hello")
        plain.after(0, planned=10)
    assert plain.stream.getvalue() == "hello\ncalib 0/10 | 10 planned\n"


def test_a_dumb_terminal_is_treated_like_a_file(monkeypatch: pytest.MonkeyPatch, terminal: Terminal):
    monkeypatch.setenv("TERM", "dumb")
    with Shown(terminal).progress:
        pass
    assert terminal.getvalue() == "calib 0/10 | 10 planned\n"


def test_a_run_that_is_not_shown_writes_nothing(terminal: Terminal):
    shown = Shown(terminal, shown=False)
    with shown.progress:
        shown.progress.say("hello")
        assert shown.after(100, succeeded=10) == math.inf
    assert terminal.getvalue() == ""


class Broken(io.StringIO):
    """A stream that takes nothing, and counts what it was asked to write."""

    def __init__(self, error: Exception, *, tty: bool) -> None:
        super().__init__()
        self.error, self.tty, self.tries = error, tty, 0

    def isatty(self) -> bool:
        return self.tty

    def write(self, text: str) -> int:
        self.tries += 1
        raise self.error


@pytest.mark.parametrize(
    "error", [BrokenPipeError(), OSError(errno.ENOSPC, "full"), ValueError("closed file")], ids=repr
)
@pytest.mark.parametrize("tty", [True, False])
def test_after_a_stream_broke_nothing_more_is_written_and_the_batch_goes_on(tty: bool, error: Exception):
    before = list(LOG.handlers)
    shown = Shown(Broken(error, tty=tty))
    with shown.progress:
        shown.progress.say("hello")
        assert shown.stream.tries == 1
        shown.progress.say("hello again")
        assert shown.after(100, succeeded=10) == math.inf
        LOG.warning("a record that would be printed above the line")
    assert shown.stream.tries == 1
    assert LOG.handlers == before


def test_characters_that_the_terminal_lacks_become_question_marks():
    raw = io.BytesIO()
    shown = Shown(io.TextIOWrapper(raw, encoding="ascii"))
    shown.progress.say("größer")
    assert raw.getvalue() == b"gr??er\n"


def test_without_standard_error_nothing_is_shown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stderr", None)
    with Progress(Batch(planned=1)) as progress:
        progress.say("hello")
        assert progress.update() == math.inf


# -- in a notebook ------------------------------------------------------------------------------------------------


class Notebook:
    """IPython's display functions, and the cell's output that they make: views that are updated in place."""

    def __init__(self) -> None:
        self.views: list[str] = []
        self.broken = False

    def display(self, content: Any, *, display_id: bool) -> Notebook:
        assert display_id
        self.views.append(content._repr_html_())
        self.text = repr(content)
        return self

    def update(self, content: Any) -> None:
        if self.broken:
            raise RuntimeError("no kernel")
        self.views[-1] = content._repr_html_()
        self.text = repr(content)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    made = Notebook()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(display=made))
    return made


def test_a_notebook_shows_one_view_that_is_updated(notebook: Notebook):
    shown = Shown(io.StringIO(), notebook=True)
    with shown.progress:
        shown.after(0, planned=10)
        shown.after(60, planned=5, running=3, succeeded=1, failed=1)
    (view,) = notebook.views
    assert "calib: 2 of 10 final <small>2/min · 4 min left</small>" in view
    assert "<b>3</b> running" in view
    assert "<b>1</b> failed" in view
    assert notebook.text == "calib 2/10 | 5 planned, 3 running, 1 succeeded, 1 failed | 2/min, 4 min left"


def test_a_view_of_a_long_run_is_updated_less_often(notebook: Notebook):
    shown = Shown(io.StringIO(), notebook=True)
    assert shown.after(0, planned=10) == math.inf
    assert shown.after(0.1, planned=9, running=1) == pytest.approx(0.4)
    shown.after(7200, planned=9, running=1)
    assert shown.after(0.1, planned=8, running=2) == pytest.approx(4.9)


def test_a_notebook_without_ipython_shows_plain_lines(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "IPython", None)
    shown = Shown(io.StringIO(), notebook=True)
    with shown.progress:
        shown.progress.say("hello")
    assert shown.stream.getvalue() == "hello\ncalib 0/10 | 10 planned\n"


def test_a_view_that_fails_ends_the_showing_and_not_the_batch(notebook: Notebook):
    shown = Shown(io.StringIO(), notebook=True)
    with shown.progress:
        shown.after(0, planned=10)
        notebook.broken = True
        shown.after(1, succeeded=10)
        notebook.broken = False
        shown.after(1, succeeded=10)
    assert "<b>10</b> planned" in notebook.views[-1]
    assert shown.progress.update() == math.inf


def test_a_notebook_gets_texts_on_standard_output(capsys: pytest.CaptureFixture[str], notebook: Notebook):
    """Notebooks show standard error in red, as if something were wrong."""
    with Progress(Batch(planned=1), notebook=True) as progress:
        progress.say("hello")
    with Progress(Batch(planned=1), notebook=False) as progress:
        progress.say("hello")
    printed = capsys.readouterr()
    assert printed.out == "hello\n"
    assert printed.err.startswith("hello\n")


@pytest.mark.parametrize("bases", [(), (type("ZMQInteractiveShell", (), {}),)], ids=["itself", "derived"])
def test_a_notebook_is_known_by_its_shell(bases, monkeypatch: pytest.MonkeyPatch, notebook: Notebook):
    shell = type("Shell" if bases else "ZMQInteractiveShell", bases, {})()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell, display=notebook))
    with Shown(io.StringIO(), notebook=None).progress:
        pass
    assert len(notebook.views) == 1
