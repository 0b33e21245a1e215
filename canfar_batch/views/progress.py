"""The progress of a running batch: a live line in a terminal, a view in a notebook, plain lines elsewhere."""

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
from canfar_batch.text import without_escapes
from canfar_batch.views import html
from canfar_batch.views.format import duration
from canfar_batch.views.terminal import clip

log = logging.getLogger("canfar_batch")

LIVE = 0.25  #: seconds between two drawings of a live line
VIEW = 0.5  #: seconds between two drawings of a notebook's view
SPARSE = (10.0, 60.0)  #: seconds between two plain lines: at the beginning, and in a long run
_PLAIN = 160  # columns of a line in a file
_NAME = 30  # columns of a batch's name in a line
_WINDOW = 600.0  # seconds over which the rate is measured, so that it follows recent changes
_SAMPLES = 5.0  # seconds between two samples of the rate


class Watched(Protocol):
    """A batch, or anything with a name and counts."""

    @property
    def name(self) -> str:
        """The batch's name."""

    @property
    def counts(self) -> Mapping[JobState, int]:
        """The number of jobs in each state."""


@attrs.frozen(kw_only=True)
class Snapshot:
    """The progress of a batch at one moment."""

    name: str
    counts: Mapping[JobState, int]
    rate: float | None  #: recently, jobs that become final per second
    use: str = ""  #: what running jobs use together, as text; empty if unknown

    @property
    def jobs(self) -> int:
        """The number of jobs."""
        return sum(self.counts.values())

    @property
    def final(self) -> int:
        """The number of final jobs."""
        return sum(count for state, count in self.counts.items() if state.final)

    @property
    def left(self) -> float | None:
        """Estimated seconds until all jobs are final; None if unknown."""
        unfinished = self.jobs - self.final
        return unfinished / self.rate if self.rate and unfinished else None

    def line(self, columns: int) -> str:
        """Return one line of at most *columns* columns; the least important parts are left out if there is no room."""
        groups = [list(self._head()), list(self._states()), list(self._pace())]
        ranked = sorted((rank, g, n) for g, group in enumerate(groups) for n, (rank, _) in enumerate(group))
        chosen: set[tuple[int, int]] = set()
        for _, g, n in ranked:
            if len(_joined(groups, {*chosen, (g, n)})) > columns:
                break  # a less important part might fit now and not at the next drawing: the line would flicker
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
            yield 4, f"{duration(self.left)} left"
        if self.use:
            yield 9, f"{self.use} in use"


#: the order in which states are left out of a line: the highest number first
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
    """A rate (jobs per second) in the unit that suits it: `"3.1/min"`."""
    unit, seconds = next((u, s) for u, s in (("s", 1), ("min", 60), ("h", 3600)) if rate * s >= 1 or u == "h")
    return f"{rate * seconds:.2g}/{unit}" if rate * seconds < 10 else f"{rate * seconds:,.0f}/{unit}"


class Face(Protocol):
    """A way of showing progress."""

    def pause(self, elapsed: float) -> float:
        """Return the seconds until the next drawing, *elapsed* seconds after the beginning."""

    def draw(self, snapshot: Snapshot) -> None:
        """Show the progress, if it has changed."""

    def say(self, text: str) -> None:
        """Show a text that stays."""

    def close(self) -> None:
        """End the showing."""


class Progress:
    """Shows the progress of a batch inside a `with`.

    If the output fails (a closed pipe, a full disk), nothing more is shown, and the batch goes on.
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
        """Show the progress of *batch*.

        Args:
            batch: The batch.
            shown: False shows nothing.
            stream: The output; by default the standard error, in a notebook the standard output.
            ticks: A function that returns seconds since any fixed moment.
            width: A function that returns the terminal's columns; by default the terminal is asked.
            notebook: Whether this is a notebook; by default this is detected.
            use: A function that returns what running jobs use together, as text.
        """
        self._batch = batch
        self._ticks = ticks
        self._use = use
        notebook = in_notebook() if notebook is None else notebook
        # notebooks show standard error in red, as if something were wrong
        stream = stream or (sys.stdout if notebook else sys.stderr)
        self._face = _face(stream, shown=shown, width=width, notebook=notebook)
        self._began = ticks()
        self._next = self._began
        self._drawn: Mapping[JobState, int] | None = None  # the counts of the last drawing, until they change
        self._samples: deque[tuple[float, int]] = deque()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Show the progress a last time, and end the showing."""
        self._draw()
        with self._forgiving():
            self._face.close()

    def say(self, text: str) -> None:
        """Show a text that stays, above what changes."""
        with self._forgiving():
            self._face.say(text)

    def update(self) -> float:
        """Show the progress, unless it was shown a moment ago.

        Returns:
            Seconds after which to call again even if nothing happens; infinite if everything is shown.
        """
        if isinstance(self._face, Silent):
            return math.inf
        wait = self._next - self._ticks()
        if wait > 0:
            if self._drawn is not None and self._now() != self._drawn:
                self._drawn = None  # counting again for each of thousands of events would change nothing
            return wait if self._drawn is None else math.inf
        self._draw()
        return math.inf

    def _draw(self) -> None:
        now, counts = self._ticks(), self._now()
        rate = self._rate(now, sum(count for state, count in counts.items() if state.final))
        self._next = now + self._face.pause(now - self._began)
        self._drawn = counts
        snapshot = Snapshot(name=self._batch.name, counts=counts, rate=rate, use=self._use())
        with self._forgiving():
            self._face.draw(snapshot)

    def _now(self) -> Mapping[JobState, int]:
        return {state: count for state, count in self._batch.counts.items() if count}

    def _rate(self, now: float, final: int) -> float | None:
        """Jobs that became final per second, since the oldest sample in the window."""
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
        except Exception as error:  # a closed pipe, a full disk, a closed stream, any error of a notebook
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
            return View(stream)
    elif stream.isatty() and os.environ.get("TERM") != "dumb":
        return LiveLine(stream, width or (lambda: _terminal_width(stream)))
    return PlainLines(stream)


def in_notebook() -> bool:
    """Return whether this code runs in a notebook."""
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
    """Write and flush; characters that the stream's encoding lacks become question marks."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding))
    stream.flush()


class Silent:
    """Shows nothing."""

    def pause(self, elapsed: float) -> float:
        """Return infinity: it is never drawn."""
        return math.inf

    def draw(self, snapshot: Snapshot) -> None:
        """Do nothing."""

    def say(self, text: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class PlainLines:
    """One line from time to time, for files and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown: Mapping[JobState, int] | None = None

    def pause(self, elapsed: float) -> float:
        """Return ten seconds, later up to a minute, so that a run of days does not fill a disk."""
        soon, late = SPARSE
        return min(late, max(soon, elapsed / 20))

    def draw(self, snapshot: Snapshot) -> None:
        """Write a line, unless nothing has changed since the last one."""
        if snapshot.counts != self._shown:
            self._shown = snapshot.counts
            _write(self._stream, f"{snapshot.line(_PLAIN)}\n")

    def say(self, text: str) -> None:
        """Write the text on lines of its own."""
        _write(self._stream, f"{text}\n")

    def close(self) -> None:
        """Do nothing."""


_ERASE = "\r\x1b[K"


def _rewraps(environment: Mapping[str, str]) -> bool:
    """Whether the terminal re-wraps its lines when its width changes, as nearly all terminals in windows do today.

    xterm and older ones cut lines off instead. Moving up in those would erase lines of other programs.
    """
    if environment.get("TMUX"):
        return True
    old = environment.get("TERM", "").startswith(("linux", "rxvt", "screen", "vt"))
    return not old and "XTERM_VERSION" not in environment


def _harmless(text: str) -> str:
    """*text* without escape sequences and control characters, which a platform's answer may contain; its lines stay."""
    return "\n".join("".join(c for c in without_escapes(line) if c.isprintable()) for line in text.splitlines())


def _folded(text: str, columns: int) -> str:
    return "\n".join(
        textwrap.fill(line, columns, break_long_words=False, break_on_hyphens=False) for line in text.split("\n")
    )


class LiveLine:
    """One line at the bottom of a terminal that is redrawn; texts and log records go above it."""

    def __init__(self, stream: TextIO, width: Callable[[], int]) -> None:
        self._stream, self._width = stream, width
        self._line, self._erased = "", False
        self._rewraps = _rewraps(os.environ)
        self._writing = threading.RLock()  # log records come from any thread
        self._listener = _AboveTheLine(self)
        log.addHandler(self._listener)

    def pause(self, elapsed: float) -> float:
        """Return a quarter of a second."""
        return LIVE

    def draw(self, snapshot: Snapshot) -> None:
        """Redraw the line. The last column stays free: a character there would wrap the line in many terminals."""
        with self._writing:
            columns = self._width()
            line = snapshot.line(max(1, columns - 1))
            if line != self._line or self._erased:
                erase = self._erasing(columns)
                self._line, self._erased = line, False
                _write(self._stream, f"{erase}{line}")

    def say(self, text: str) -> None:
        """Write the text above the line, broken between words; long paths stay whole, so that they can be copied."""
        with self._writing:
            columns = self._width()
            erase = self._erasing(columns)
            self._line, self._erased = clip(self._line, max(1, columns - 1)), False
            _write(self._stream, f"{erase}{_folded(_harmless(text), max(20, columns - 1))}\n{self._line}")

    def erase(self) -> None:
        """Erase the line until it is drawn again."""
        with self._writing:
            _write(self._stream, self._erasing(self._width()))
            self._erased = True

    def _erasing(self, columns: int) -> str:
        """The sequence that erases the line, also if a window that became narrower has wrapped it."""
        above = (len(self._line) - 1) // max(1, columns) if self._rewraps and not self._erased else 0
        return f"\x1b[{above}A\r\x1b[J" if above > 0 else _ERASE

    def close(self) -> None:
        """Leave the line, and move below it."""
        log.removeHandler(self._listener)
        with self._writing:
            if self._line and not self._erased:
                _write(self._stream, "\n")
            self._line = ""


class _AboveTheLine(logging.Handler):
    """Keeps log records from being printed over the live line."""

    def __init__(self, line: LiveLine) -> None:
        super().__init__(logging.WARNING)
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record above the line, or erase the line if another handler prints it."""
        with contextlib.suppress(OSError, ValueError):
            if logging.getLogger().handlers:
                self._line.erase()
            else:
                self._line.say(record.getMessage())


class View:
    """The batch's counts as a bar in a notebook's cell, redrawn in place.

    Args:
        stream: The cell's standard output, for texts.
        display: IPython's module of that name; by default it is imported.

    Raises:
        ImportError: IPython is not installed.
    """

    def __init__(self, stream: TextIO, display: Any = None) -> None:
        if display is None:
            from IPython import display
        self._stream, self._display = stream, display
        self._handle: Any = None

    def pause(self, elapsed: float) -> float:
        """Return half a second, later up to five: each drawing is stored in the notebook's output."""
        return min(10 * VIEW, max(VIEW, elapsed / 600))

    def draw(self, snapshot: Snapshot) -> None:
        """Show the counts, the rate and the time that is left."""
        content = _Shown(snapshot)
        if self._handle is None:
            self._handle = self._display.display(content, display_id=True)
        else:
            self._handle.update(content)

    def say(self, text: str) -> None:
        """Write the text as a line of the cell's output."""
        _write(self._stream, f"{text}\n")

    def close(self) -> None:
        """Leave the last drawing."""


@attrs.frozen(repr=False)
class _Shown:
    """A snapshot that a notebook shows as HTML; whatever shows text alone gets a line."""

    snapshot: Snapshot

    def __repr__(self) -> str:
        return self.snapshot.line(_PLAIN)

    def _repr_html_(self) -> str:
        now = self.snapshot
        left = "" if now.left is None else f"{duration(now.left)} left"
        rate = _per_time(now.rate) if now.rate else ""
        use = f"{now.use} in use" if now.use else ""
        return html.view(
            html.title(f"{now.name}: {now.final:,} of {now.jobs:,} final", " · ".join(filter(None, (rate, left, use)))),
            html.bar({state.value: number for state, number in now.counts.items()}),
        )
