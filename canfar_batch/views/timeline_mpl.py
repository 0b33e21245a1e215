"""The timeline as a matplotlib figure."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from canfar_batch.errors import ExtraMissing
from canfar_batch.views import explain
from canfar_batch.views.html import COLOURS
from canfar_batch.views.timeline import Span, Timeline, mixed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELLED = 40  #: jobs at most that have a row with a name, and room for hatches
LINED = 800  #: jobs at most that have a line each; more are drawn as a picture of what they did, mixed by their shares
MARKED = 1000  #: ends at most that are marked where jobs have lines

_HATCHES: Mapping[str, str] = {"failed": "////", "lost": "xxxx", "cancelled": "....", "succeeded": "", "running": ""}
_MARKERS: Mapping[str, str] = {"failed": "x", "lost": "d", "cancelled": "|"}
_FEW = 60  # ends that may be marked large without hiding the rest
_SPARSE = 200  # likewise, of ends in a picture of thousands of jobs
_LANES, _COLUMNS = 400, 800  # cells of the picture: about the dots that a screen has for it
_BINS = 120  # parts of the time in which what went wrong is counted
_WAITED = "#9aa3ad"


def figure(timeline: Timeline, *, name: str) -> Figure:
    """Every attempt from its launch to its end, coloured by what became of it, and how many ran beneath.

    Args:
        timeline: What to draw.
        name: The batch's name.

    Raises:
        ExtraMissing: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ExtraMissing.of("timeline()", library="matplotlib", extra="plots") from error

    class Drawing(Figure):
        """A figure that notebooks show: they know by themselves only those that pyplot made."""

        def _repr_png_(self) -> bytes:
            picture = io.BytesIO()
            self.savefig(picture, format="png")
            return picture.getvalue()

    rows = len(timeline.keys)
    height = min(8.0, 1.6 + 0.24 * max(3, rows)) if rows <= LABELLED else 5.5
    wrong = timeline.ends(_BINS) if rows > LINED else {}
    heights = [height, *([0.8] if wrong else ()), 1.6]
    drawing = Drawing(figsize=(10, sum(heights)), layout="constrained")
    above, *between, below = drawing.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    if rows <= LABELLED:
        _bars(above, timeline)
    elif rows <= LINED:
        _lines(above, timeline)
    else:
        _picture(above, timeline)
    _name_rows(above, timeline)
    for axes in between:
        _went_wrong(axes, timeline, wrong)
    _concurrency(below, timeline)
    _legend(above, timeline)
    above.set_title(f"{name}: {len(timeline.spans):,} attempts of {rows:,} jobs", loc="left", fontsize="medium", pad=22)
    return drawing


def _bars(axes: Axes, timeline: Timeline) -> None:
    """A bar for each attempt, thin while it waited."""
    for outcome in timeline.outcomes:
        spans = [span for span in timeline.spans if span.outcome == outcome]
        for span in spans:
            axes.broken_barh(
                _ran([span]), (span.row - 0.36, 0.72), facecolors=COLOURS[outcome], hatch=_HATCHES[outcome],
                edgecolor="white" if outcome != "running" else COLOURS["running"], linewidth=0.5,
                alpha=0.55 if outcome == "running" else 1.0,
            )  # fmt: skip
    _waiting_lines(axes, timeline.spans, 1.6)
    _marks(axes, timeline, 5.0)


def _lines(axes: Axes, timeline: Timeline) -> None:
    """A line for each attempt, all equally thin, so that no outcome takes more room than is its due."""
    from matplotlib.collections import LineCollection

    _waiting_lines(axes, timeline.spans, 0.5)
    thin = max(0.45, min(3.0, 260 / len(timeline.keys)))
    for outcome in ("succeeded", "running", "cancelled", "lost", "failed"):
        spans = [span for span in timeline.spans if span.outcome == outcome and span.started is not None]
        paths: list[Any] = [[(span.started, span.row), (span.ended, span.row)] for span in spans]
        axes.add_collection(LineCollection(paths, colors=COLOURS[outcome], linewidths=thin, capstyle="butt"))
    _marks(axes, timeline, 4.0 if timeline.wrong <= _FEW else 2.2)


def _picture(axes: Axes, timeline: Timeline) -> None:
    """What the jobs did, many to a row: lines of thousands hide each other, and the last drawn would seem to be all."""
    import numpy as np

    rows = len(timeline.keys)
    lanes = min(rows, _LANES)
    cells = np.frombuffer(mixed(timeline, lanes, _COLUMNS, {**COLOURS, "waiting": _WAITED}), np.uint8)
    axes.imshow(
        cells.reshape(lanes, _COLUMNS, 4), extent=(0, timeline.length, rows - 0.5, -0.5), aspect="auto", zorder=2
    )
    _marks(axes, timeline, 4.0 if timeline.wrong <= _FEW else 3.0)


def _went_wrong(axes: Axes, timeline: Timeline, wrong: Mapping[str, Sequence[int]]) -> None:
    """How many attempts went wrong when: beside thousands of others they would hardly be seen."""
    from matplotlib.ticker import MaxNLocator

    edges = [timeline.length * n / _BINS for n in range(_BINS + 1)]
    base = [0] * _BINS
    for outcome, counts in wrong.items():
        top = [below + count for below, count in zip(base, counts)]  # noqa: B905 (equal)
        axes.stairs(top, edges, baseline=base, fill=True, color=COLOURS[outcome])
        base = top
    axes.set_ylim(0, max(base) * 1.1)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    axes.set_ylabel("went\nwrong")
    axes.grid(visible=True, alpha=0.3, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _waiting_lines(axes: Axes, spans: Sequence[Span], width: float) -> None:
    from matplotlib.collections import LineCollection

    paths: list[Any] = [
        [(span.launched, span.row), (span.ended if span.started is None else span.started, span.row)] for span in spans
    ]
    axes.add_collection(LineCollection(paths, colors=_WAITED, linewidths=width, capstyle="butt"))


def _ran(spans: Sequence[Span]) -> list[tuple[float, float]]:
    return [(span.started, span.ended - span.started) for span in spans if span.started is not None]


def _marked(timeline: Timeline) -> bool:
    """Whether ends have signs: all or none of them, lest one outcome seem more frequent than another."""
    return timeline.wrong <= (MARKED if len(timeline.keys) <= LINED else _SPARSE)


def _marks(axes: Axes, timeline: Timeline, size: float) -> None:
    """A sign at the end of what did not succeed: it tells the outcomes apart without colour."""
    for outcome, marker in _MARKERS.items() if _marked(timeline) else ():
        ends = [(span.ended, span.row) for span in timeline.spans if span.outcome == outcome]
        if ends:
            x, y = zip(*ends)  # noqa: B905 (pairs)
            axes.plot(x, y, marker, color=COLOURS[outcome], markersize=size, markeredgewidth=1.3, clip_on=False)


def _name_rows(axes: Axes, timeline: Timeline) -> None:
    rows = len(timeline.keys)
    axes.set_ylim(max(rows, 1) - 0.4, -0.6)
    axes.set_xlim(0, timeline.length * 1.01)
    if rows <= LABELLED:
        axes.set_yticks(range(rows), [_short(key) for key in timeline.keys], fontsize="small", parse_math=False)
    else:
        axes.set_ylabel("jobs, in the order of their launch")
        axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.tick_params(length=0)
    axes.grid(visible=True, axis="x", alpha=0.3, linewidth=0.6)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _short(key: str) -> str:
    return key if len(key) <= 28 else f"{key[:13]}…{key[-14:]}"


def _concurrency(axes: Axes, timeline: Timeline) -> None:
    from matplotlib.ticker import MaxNLocator

    levels = timeline.levels()
    at = [level.at for level in levels]
    running = [level.running for level in levels]
    both = [level.running + level.pending for level in levels]
    axes.fill_between(at, both, step="post", color=_WAITED, alpha=0.55, linewidth=0, label="waiting")
    axes.fill_between(at, running, step="post", color=COLOURS["running"], linewidth=0, label="running")
    axes.set_ylim(0, max(both, default=1) * 1.08 or 1)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    marks = timeline.ticks()
    axes.set_xticks([at for at, _ in marks], [name for _, name in marks])
    axes.set_xlabel(f"since {timeline.origin:%Y-%m-%d %H:%M:%S} UTC{_said_of_rows(timeline)}")
    axes.set_ylabel("at once")
    axes.grid(visible=True, alpha=0.3, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(
        loc="lower right", bbox_to_anchor=(1, 1.0), fontsize="x-small", frameon=False, ncols=2, borderaxespad=0.1
    )
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _said_of_rows(timeline: Timeline) -> str:
    rows = len(timeline.keys)
    if rows <= LINED:
        return ""
    each = f"A row above stands for {round(rows / _LANES):,} jobs, and mixes colours by their shares"
    counted = f"; each step of what went wrong is {explain.span(timeline.length / _BINS)}" if timeline.wrong else ""
    return f"\n{each}{counted}."


def _legend(axes: Axes, timeline: Timeline) -> None:
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Line2D([], [], color=_WAITED, linewidth=1.6)]
    labels = ["waiting"]
    rows = len(timeline.keys)
    for outcome, count in timeline.counts.items():
        hatch = _HATCHES[outcome] if rows <= LABELLED else ""
        patch = Patch(facecolor=COLOURS[outcome], hatch=hatch, edgecolor="white", linewidth=0)
        end = Line2D([], [], linestyle="", marker=_MARKERS.get(outcome, ""), color=COLOURS[outcome], markersize=5)
        handles.append((patch, end) if outcome in _MARKERS and _marked(timeline) else patch)
        labels.append(f"{count:,} {'still running' if outcome == 'running' else outcome}")
    axes.legend(
        handles, labels, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(handles), fontsize="x-small",
        frameon=False, borderaxespad=0.2, columnspacing=1.4, handlelength=2,
        handler_map={tuple: HandlerTuple(ndivide=None)},
    )  # fmt: skip
