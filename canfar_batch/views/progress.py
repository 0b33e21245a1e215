"""How a batch goes, shown while it goes: a live line in a terminal, plain lines elsewhere, a bar in a notebook."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import sys
import textwrap
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Protocol, TextIO

import attrs

from canfar_batch.records import JobState
from canfar_batch.views.explain import span
from canfar_batch.views.terminal import clip, without_escapes

log = logging.getLogger("canfar_batch")

LIVE = 0.25  #: seconds between two drawings where they replace each other
SPARSE = (10.0, 60.0)  #: likewise where they do not: at the beginning, and in a long run
_PLAIN = 160  # columns of a line in a file
_NAME = 30  # columns of a batch's name in a line
_WINDOW = 600.0  # seconds over which the rate is measured, so that it follows what changes
_SAMPLES = 5.0  # seconds between two samples of it


class Watched(Protocol):
    """What is shown: a batch, or anything that counts like one."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def counts(self) -> Mapping[JobState, int]:
        """How many jobs are in each state."""


@attrs.frozen(kw_only=True)
class News:
    """How a batch stands at one moment."""

    name: str
    counts: Mapping[JobState, int]
    rate: float | None  #: jobs that become final in a second, as of late
    use: str = ""  #: what running jobs use together, in words; empty where the platform does not tell

    @property
    def jobs(self) -> int:
        """How many there are."""
        return sum(self.counts.values())

    @property
    def final(self) -> int:
        """How many of them are final."""
        return sum(count for state, count in self.counts.items() if state.final)

    @property
    def left(self) -> float | None:
        """Seconds until all are final, if it goes on like this; None where nobody can tell."""
        unfinished = self.jobs - self.final
        return unfinished / self.rate if self.rate and unfinished else None

    def line(self, columns: int) -> str:
        """One line of at most so many columns: what matters most stays where there is no room for all."""
        groups = [list(self._head()), list(self._states()), list(self._pace())]
        ranked = sorted((rank, g, n) for g, group in enumerate(groups) for n, (rank, _) in enumerate(group))
        chosen: set[tuple[int, int]] = set()
        for _, g, n in ranked:
            if len(_joined(groups, {*chosen, (g, n)})) > columns:
                break  # what would fit in its place now may not at the next drawing: the line would flicker
            chosen.add((g, n))
        return clip(_joined(groups, chosen), columns)

    def _head(self) -> Iterator[tuple[int, str]]:
        yield 3, clip(self.name, _NAME)
        yield 0, f"{self.final:,}/{self.jobs:,}"

    def _states(self) -> Iterator[tuple[int, str]]:
        for state, count in self.counts.items():
            if count:
                yield _RANKS[state], f"{count:,} {state}"

    def _pace(self) -> Iterator[tuple[int, str]]:
        if self.rate:
            yield 6, _per_time(self.rate)
        if self.left is not None:
            yield 4, f"{span(self.left)} left"
        if self.use:
            yield 9, f"{self.use} in use"


#: what is shown first where there is little room
_RANKS: Mapping[JobState, int] = {
    JobState.FAILED: 1,
    JobState.LOST: 1,
    JobState.RUNNING: 2,
    JobState.PENDING: 3,
    JobState.SUCCEEDED: 5,
    JobState.WAITING: 7,
    JobState.PLANNED: 7,
    JobState.LAUNCHING: 7,
    JobState.CANCELLED: 7,
}


def _joined(groups: list[list[tuple[int, str]]], chosen: set[tuple[int, int]]) -> str:
    texts = [[text for n, (_, text) in enumerate(group) if (g, n) in chosen] for g, group in enumerate(groups)]
    return " | ".join(filter(None, (" ".join(texts[0]), *map(", ".join, texts[1:]))))


def _per_time(rate: float) -> str:
    """A rate, jobs a second, in the unit in which people think of it: `"3.1/min"`."""
    unit, seconds = next((u, s) for u, s in (("s", 1), ("min", 60), ("h", 3600)) if rate * s >= 1 or u == "h")
    return f"{rate * seconds:.2g}/{unit}" if rate * seconds < 10 else f"{rate * seconds:,.0f}/{unit}"


class Face(Protocol):
    """Where and how it is shown."""

    def pause(self, elapsed: float) -> float:
        """Seconds between two drawings, so many seconds after the beginning."""

    def draw(self, news: News) -> None:
        """Show how things stand, if that is new."""

    def say(self, text: str) -> None:
        """Show a text that stays."""

    def close(self) -> None:
        """Leave everything tidy."""


class Progress:
    """Shows how a batch goes, between entering and leaving its `with`.

    What it writes to may fail or vanish: then it falls silent, and the batch goes on.
    """

    def __init__(
        self,
        batch: Watched,
        *,
        shown: bool = True,
        stream: TextIO | None = None,
        ticks: Callable[[], float] = time.monotonic,
        width: Callable[[], int] | None = None,
        notebook: bool | None = None,
        use: Callable[[], str] = str,
    ) -> None:
        """See how *batch* goes.

        Args:
            batch: What to show.
            shown: False shows nothing.
            stream: Where to write; by default the standard error, in a notebook the standard output.
            ticks: Seconds from any moment.
            width: How many columns the terminal has; by default it is asked.
            notebook: Whether this is one; by default that is found out.
            use: Tells what running jobs use together, in words.
        """
        self._batch = batch
        self._ticks = ticks
        self._use = use
        notebook = _in_notebook() if notebook is None else notebook
        # what notebooks are told on standard error they show in red, as if something were wrong
        stream = stream or (sys.stdout if notebook else sys.stderr)
        self._face = _face(stream, shown=shown, width=width, notebook=notebook)
        self._began = ticks()
        self._next = self._began
        self._drawn: Mapping[JobState, int] | None = None  # the counts that were drawn last, as long as they stand
        self._samples: deque[tuple[float, int]] = deque()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._draw()
        with self._forgiving():
            self._face.close()

    def say(self, text: str) -> None:
        """Show a text that stays, above what changes."""
        with self._forgiving():
            self._face.say(text)

    def update(self) -> float:
        """Show how things stand, unless that was done a moment ago.

        Returns:
            Seconds after which it is worth calling again even if nothing happens; infinite where all is shown.
        """
        if isinstance(self._face, Silent):
            return math.inf
        wait = self._next - self._ticks()
        if wait > 0:
            if self._drawn is not None and self._now() != self._drawn:
                self._drawn = None  # once is enough: counting again for each of thousands of events would tell no more
            return wait if self._drawn is None else math.inf
        self._draw()
        return math.inf

    def _draw(self) -> None:
        now, counts = self._ticks(), self._now()
        rate = self._rate(now, sum(count for state, count in counts.items() if state.final))
        self._next = now + self._face.pause(now - self._began)
        self._drawn = counts
        news = News(name=self._batch.name, counts=counts, rate=rate, use=self._use())
        with self._forgiving():
            self._face.draw(news)

    def _now(self) -> Mapping[JobState, int]:
        return {state: count for state, count in self._batch.counts.items() if count}

    def _rate(self, now: float, final: int) -> float | None:
        """Jobs that became final in a second, measured from the oldest sample that still counts."""
        if not self._samples or now - self._samples[-1][0] >= _SAMPLES:
            self._samples.append((now, final))
        while len(self._samples) > 2 and now - self._samples[1][0] >= _WINDOW:
            self._samples.popleft()
        since, before = self._samples[0]
        return (final - before) / (now - since) if now > since and final > before else None

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a closed pipe, a full disk, a closed stream, whatever widgets may raise
            face, self._face = self._face, Silent()
            log.debug("progress can no longer be shown: %s", error)
            with contextlib.suppress(Exception):
                face.close()


# -- faces --------------------------------------------------------------------------------------------------------


def _face(stream: TextIO | None, *, shown: bool, width: Callable[[], int] | None, notebook: bool) -> Face:
    if not shown or stream is None:  # a program without a console has no standard error
        return Silent()
    if notebook:
        with contextlib.suppress(ImportError):
            return Bar(stream)
    elif stream.isatty() and os.environ.get("TERM") != "dumb":
        return LiveLine(stream, width or (lambda: _terminal_width(stream)))
    return PlainLines(stream)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    ask = getattr(ipython, "get_ipython", None)
    shell = ask() if ask is not None else None
    return any(kind.__name__ == "ZMQInteractiveShell" for kind in type(shell).__mro__)


def _terminal_width(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return shutil.get_terminal_size().columns


def _write(stream: TextIO, text: str) -> None:
    """Write at once; what the stream's encoding lacks becomes a question mark."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding))
    stream.flush()


class Silent:
    """Shows nothing."""

    def pause(self, elapsed: float) -> float:
        """Never again."""
        return math.inf

    def draw(self, news: News) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class PlainLines:
    """A line now and then, for files and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown: Mapping[JobState, int] | None = None

    def pause(self, elapsed: float) -> float:
        """Ten seconds, a minute in the end: a run of days fills no disk."""
        soon, late = SPARSE
        return min(late, max(soon, elapsed / 20))

    def draw(self, news: News) -> None:
        """One more line, unless nothing has happened since the one before."""
        if news.counts != self._shown:
            self._shown = news.counts
            _write(self._stream, f"{news.line(_PLAIN)}\n")

    def say(self, text: str) -> None:
        """The text on lines of its own."""
        _write(self._stream, f"{text}\n")

    def close(self) -> None:
        """Nothing to tidy."""


_ERASE = "\r\x1b[K"


def _rewraps(environment: Mapping[str, str]) -> bool:
    """Whether the terminal breaks lines anew when its width changes, as nearly all do that stand in a window today.

    xterm and those older than it cut them off: to go up there would take away what others wrote.
    """
    if environment.get("TMUX"):
        return True
    old = environment.get("TERM", "").startswith(("linux", "rxvt", "screen", "vt"))
    return not old and "XTERM_VERSION" not in environment


def _harmless(text: str) -> str:
    """*text* without escape sequences and control characters, which a platform's answer may hold; its lines stay."""
    return "\n".join("".join(c for c in without_escapes(line) if c.isprintable()) for line in text.splitlines())


def _folded(text: str, columns: int) -> str:
    return "\n".join(
        textwrap.fill(line, columns, break_long_words=False, break_on_hyphens=False) for line in text.split("\n")
    )


class LiveLine:
    """One line at the bottom of a terminal, drawn again and again. What is said, and what is logged, goes above it."""

    def __init__(self, stream: TextIO, width: Callable[[], int]) -> None:
        self._stream, self._width = stream, width
        self._line, self._erased = "", False
        self._rewraps = _rewraps(os.environ)
        self._writing = threading.RLock()  # threads log
        self._listener = _AboveTheLine(self)
        log.addHandler(self._listener)

    def pause(self, elapsed: float) -> float:
        """A few times a second."""
        return LIVE

    def draw(self, news: News) -> None:
        """The line anew. The last column stays free: a character there would wrap the line in many terminals."""
        with self._writing:
            columns = self._width()
            line = news.line(max(1, columns - 1))
            if line != self._line or self._erased:
                erase = self._erasing(columns)
                self._line, self._erased = line, False
                _write(self._stream, f"{erase}{line}")

    def say(self, text: str) -> None:
        """The text above the line, broken between words; a path that is too long is left to the terminal, and whole."""
        with self._writing:
            columns = self._width()
            erase = self._erasing(columns)
            self._line, self._erased = clip(self._line, max(1, columns - 1)), False
            _write(self._stream, f"{erase}{_folded(_harmless(text), max(20, columns - 1))}\n{self._line}")

    def erase(self) -> None:
        """Take the line away until it is drawn again."""
        with self._writing:
            _write(self._stream, self._erasing(self._width()))
            self._erased = True

    def _erasing(self, columns: int) -> str:
        """What takes the line away, also where a window that became narrower has broken it in two."""
        above = (len(self._line) - 1) // max(1, columns) if self._rewraps and not self._erased else 0
        return f"\x1b[{above}A\r\x1b[J" if above > 0 else _ERASE

    def close(self) -> None:
        """Let the line stand as it is, and go below it."""
        log.removeHandler(self._listener)
        with self._writing:
            if self._line and not self._erased:
                _write(self._stream, "\n")
            self._line = ""


class _AboveTheLine(logging.Handler):
    """Makes way for what is logged: a record printed over the live line would be read with its remains."""

    def __init__(self, line: LiveLine) -> None:
        super().__init__(logging.WARNING)
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        """Print it above the line, or clear the way for whoever else prints it."""
        with contextlib.suppress(OSError, ValueError):
            if logging.getLogger().handlers:
                self._line.erase()
            else:
                self._line.say(record.getMessage())


class Bar:
    """tqdm's bar, in a notebook.

    Raises:
        ImportError: tqdm is not installed.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: Any = None
        self._make = _tqdm()

    def pause(self, elapsed: float) -> float:
        """A few times a second."""
        return LIVE

    def draw(self, news: News) -> None:
        """Move the bar to where things stand."""
        if self._bar is None:
            self._bar = self._make(
                total=news.jobs, initial=news.final, desc=news.name, unit="job", file=self._stream, mininterval=0
            )
        self._bar.total = news.jobs
        self._bar.n = news.final
        shown = [f"{count:,} {state}" for state, count in news.counts.items() if state is not JobState.SUCCEEDED]
        shown += [f"{news.use} in use"] if news.use else []
        self._bar.set_postfix_str(", ".join(shown), refresh=False)
        self._bar.refresh()

    def say(self, text: str) -> None:
        """The text as a line of the cell's output."""
        _write(self._stream, f"{text}\n")

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


def _tqdm() -> Callable[..., Any]:
    """Makes tqdm's widget, or its bar of text where there are no widgets."""
    from tqdm.std import tqdm as text_bar

    def make(**arguments: Any) -> Any:
        try:
            import ipywidgets  # noqa: F401 (tqdm would miss it too late, and complain when its half bar is thrown away)
            from tqdm.notebook import tqdm as widget
        except ImportError:
            return text_bar(**arguments)
        return widget(**{**arguments, "file": None})

    return make
