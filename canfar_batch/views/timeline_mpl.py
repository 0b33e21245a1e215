"""The timeline as a matplotlib figure."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from canfar_batch.errors import ExtraMissing
from canfar_batch.views.format import duration
from canfar_batch.views.html import COLOURS
from canfar_batch.views.timeline import BINS, DRAWN, FEW, WAITING, Span, Timeline, mixed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HATCHES: Mapping[str, str] = {
    "failed": "////", "lost": "xxxx", "cancelled": "....", "succeeded": "", "running": "", "restarted": "",
}  # fmt: skip
_MARKERS: Mapping[str, str] = {"failed": "x", "lost": "d", "cancelled": "|"}
_LANES, _COLUMNS = 400, 800  # cells of the picture: about as many as it has dots on a screen


def figure(timeline: Timeline, *, name: str) -> Figure:
    """Return a figure of every attempt from its launch to its end, coloured by outcome; below, how many ran at once.

    Args:
        timeline: The timeline.
        name: The batch's name.

    Raises:
        ExtraMissing: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ExtraMissing.of("timeline()", library="matplotlib", extra="plots") from error

    class Drawing(Figure):
        """A figure that notebooks show; by themselves they show only figures made by pyplot."""

        def _repr_png_(self) -> bytes:
            picture = io.BytesIO()
            self.savefig(picture, format="png")
            return picture.getvalue()

    rows = len(timeline.keys)
    height = min(8.0, 1.6 + 0.24 * max(3, rows)) if timeline.is_named else 5.5
    has_histogram = timeline.is_dense and timeline.wrong > 0
    heights = [height, *([0.8] * has_histogram), 1.6]
    drawing = Drawing(figsize=(10, sum(heights)), layout="constrained")
    above, *between, below = drawing.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    if timeline.is_named:
        _bars(above, timeline)
    elif timeline.is_dense:
        _picture(above, timeline)
    else:
        _lines(above, timeline)
    _name_rows(above, timeline)
    for axes in between:
        _went_wrong(axes, timeline)
    _concurrency(below, timeline)
    _legend(above, timeline)
    above.set_title(f"{name}: {timeline.title}", loc="left", fontsize="medium", pad=22)
    return drawing


def _bars(axes: Axes, timeline: Timeline) -> None:
    """A bar for each attempt, thin while it waited."""
    for outcome in timeline.outcomes:
        is_running = outcome == "running"
        for span in timeline.with_outcome(outcome):
            if span.started is not None:
                axes.broken_barh(
                    [(span.started, span.ended - span.started)], (span.row - 0.36, 0.72), facecolors=COLOURS[outcome],
                    hatch=_HATCHES[outcome], edgecolor=COLOURS[outcome] if is_running else "white", linewidth=0.5,
                    alpha=0.55 if is_running else 1.0,
                )  # fmt: skip
    _waiting_lines(axes, timeline.spans, 1.6)
    _marks(axes, timeline, 5.0)


def _lines(axes: Axes, timeline: Timeline) -> None:
    """A line for each attempt, all equally thin, so that each outcome takes its share of the room."""
    from matplotlib.collections import LineCollection

    _waiting_lines(axes, timeline.spans, 0.5)
    thin = max(0.45, min(3.0, 260 / len(timeline.keys)))
    for outcome in DRAWN:
        spans = [span for span in timeline.with_outcome(outcome) if span.started is not None]
        paths: list[Any] = [[(span.started, span.row), (span.ended, span.row)] for span in spans]
        axes.add_collection(LineCollection(paths, colors=COLOURS[outcome], linewidths=thin, capstyle="butt"))
    _marks(axes, timeline, 4.0 if timeline.wrong <= FEW else 2.2)


def _picture(axes: Axes, timeline: Timeline) -> None:
    """Several jobs to a row: thousands of lines would hide each other, and only those drawn last would show."""
    import numpy as np

    rows = len(timeline.keys)
    lanes, _ = timeline.sharing(_LANES)
    cells = np.frombuffer(mixed(timeline, lanes, _COLUMNS, COLOURS), np.uint8)
    axes.imshow(
        cells.reshape(lanes, _COLUMNS, 4), extent=(0, timeline.length, rows - 0.5, -0.5), aspect="auto", zorder=2
    )
    _marks(axes, timeline, 4.0 if timeline.wrong <= FEW else 3.0)


def _went_wrong(axes: Axes, timeline: Timeline) -> None:
    """A histogram of the attempts that went wrong: on shared rows they would hardly be seen."""
    from matplotlib.ticker import MaxNLocator

    edges = [timeline.length * n / BINS for n in range(BINS + 1)]
    highest = 0
    for outcome, base, top in timeline.stacked_ends():
        axes.stairs(top, edges, baseline=base, fill=True, color=COLOURS[outcome])
        highest = max(top)
    axes.set_ylim(0, highest * 1.1)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    axes.set_ylabel("went\nwrong")
    axes.grid(visible=True, alpha=0.3, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _waiting_lines(axes: Axes, spans: Sequence[Span], width: float) -> None:
    from matplotlib.collections import LineCollection

    paths: list[Any] = [[(begin, span.row), (end, span.row)] for span in spans for begin, end in span.waits]
    axes.add_collection(LineCollection(paths, colors=WAITING, linewidths=width, capstyle="butt"))
    lost: list[Any] = [[(begin, span.row), (end, span.row)] for span in spans for begin, end in span.lost]
    if lost:
        thick = width * 2.5
        axes.add_collection(LineCollection(lost, colors=COLOURS["restarted"], linewidths=thick, capstyle="butt"))


def _marks(axes: Axes, timeline: Timeline, size: float) -> None:
    """A mark at the end of each attempt that went wrong: its shape shows the outcome without colour."""
    for outcome, marker in _MARKERS.items() if timeline.marks_ends else ():
        ends = [(span.ended, span.row) for span in timeline.with_outcome(outcome)]
        if ends:
            x, y = zip(*ends)  # noqa: B905 (pairs)
            axes.plot(x, y, marker, color=COLOURS[outcome], markersize=size, markeredgewidth=1.3, clip_on=False)


def _name_rows(axes: Axes, timeline: Timeline) -> None:
    rows = len(timeline.keys)
    axes.set_ylim(max(rows, 1) - 0.4, -0.6)
    axes.set_xlim(0, timeline.length * 1.01)
    if timeline.is_named:
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
    axes.fill_between(at, both, step="post", color=WAITING, alpha=0.55, linewidth=0, label="waiting")
    axes.fill_between(at, running, step="post", color=COLOURS["running"], linewidth=0, label="running")
    axes.set_ylim(0, max(both, default=1) * 1.08 or 1)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    marks = timeline.ticks()
    axes.set_xticks([at for at, _ in marks], [name for _, name in marks])
    axes.set_xlabel(f"since {timeline.since}{_note(timeline)}")
    axes.set_ylabel("at once")
    axes.grid(visible=True, alpha=0.3, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(
        loc="lower right", bbox_to_anchor=(1, 1.0), fontsize="x-small", frameon=False, ncols=2, borderaxespad=0.1
    )
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _note(timeline: Timeline) -> str:
    if not timeline.is_dense:
        return ""
    each = f"A row above stands for {timeline.sharing(_LANES)[1]:,} jobs, and mixes colours by their shares"
    bins = f"; each step of the histogram is {duration(timeline.length / BINS)}" if timeline.wrong else ""
    return f"\n{each}{bins}."


def _legend(axes: Axes, timeline: Timeline) -> None:
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Line2D([], [], color=WAITING, linewidth=1.6)]
    labels = ["waiting"]
    for outcome, label in timeline.legend():
        hatch = _HATCHES[outcome] if timeline.is_named else ""
        patch = Patch(facecolor=COLOURS[outcome], hatch=hatch, edgecolor="white", linewidth=0)
        end = Line2D([], [], linestyle="", marker=_MARKERS.get(outcome, ""), color=COLOURS[outcome], markersize=5)
        handles.append((patch, end) if outcome in _MARKERS and timeline.marks_ends else patch)
        labels.append(label)
    axes.legend(
        handles, labels, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(handles), fontsize="x-small",
        frameon=False, borderaxespad=0.2, columnspacing=1.4, handlelength=2,
        handler_map={tuple: HandlerTuple(ndivide=None)},
    )  # fmt: skip
