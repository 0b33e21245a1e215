"""The timeline as SVG inside a web page: drawn without a library, stretched to the reader's window by the browser."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from canfar_batch import explain
from canfar_batch.html import COLOURS, text
from canfar_batch.timeline import Level, Span, Timeline

NAMED = 40  #: jobs at most that have a row with a name
LANES = 400  #: rows at most, where there are more jobs than that a row stands for several

_WIDE = 1000.0  # units from the first launch to the last end, whatever the window
_ROW = 20  # pixels of a named row
_BENEATH = 90  # pixels of the drawing beneath
_FINE = 0.5  # units between two stretches that are drawn as one
_FEW = 100  # ends that may be marked large
_SIGNS: Mapping[str, str] = {"failed": "butt", "lost": "round", "cancelled": "square"}  # how an end is marked


def figure(timeline: Timeline) -> str:
    """Every attempt, and how many ran at once, as HTML; its looks are in the page's style sheet."""
    if not timeline.spans:
        return "<p>Nothing was launched yet.</p>"
    scale = _WIDE / timeline.length
    named = len(timeline.keys) <= NAMED
    height = _ROW * len(timeline.keys) if named else LANES
    marks = timeline.ticks()
    drawing = "".join(_named_rows(timeline, scale) if named else _lanes(timeline, scale))
    grid = "".join(f"M{at * scale:.1f} 0V{height}" for at, _ in marks)
    levels = timeline.levels()
    most = max((level.pending + level.running for level in levels), default=0)
    return (
        f'<figure class="timeline{"" if named else " dense"}">{_legend(timeline)}'
        f'<div class="grid">{_names(timeline, named=named, height=height)}'
        f'<svg role="img" aria-label="{text(_summary(timeline, most))}" viewBox="0 0 {_WIDE:.0f} {height}" '
        f'height="{height}" preserveAspectRatio="none">{_hatches()}<path class="rule" d="{grid}"/>{drawing}</svg>'
        f'<div class="scale" aria-hidden="true"><span>{most:,}</span><span>at once</span><span>0</span></div>'
        f"{_concurrency(levels, scale, most)}<div></div>"
        f'<div class="ticks" aria-hidden="true">{_ticks(marks, scale)}</div>'
        f"</div><figcaption>{_caption(timeline, named=named)}</figcaption></figure>"
    )


# -- rows ---------------------------------------------------------------------------------------------------------


def _named_rows(timeline: Timeline, scale: float) -> Iterator[str]:
    for span in timeline.spans:
        y, begun = span.row * _ROW, span.ended if span.started is None else span.started
        shapes = f'<path class="w" d="M{span.launched * scale:.1f} {y + _ROW / 2:g}H{begun * scale:.1f}"/>'
        if span.started is not None:
            width = max(1.0, (span.ended - span.started) * scale)
            shapes += (
                f'<rect class="o-{span.outcome}" x="{span.started * scale:.1f}" y="{y + 3}" width="{width:.1f}" '
                f'height="{_ROW - 6}"/>'
            )
        if span.outcome in _SIGNS:
            shapes += f'<path class="e e-{span.outcome}" d="M{span.ended * scale:.1f} {y + 3}V{y + _ROW - 3}"/>'
        yield f"<g><title>{text(_told(span, timeline))}</title>{shapes}</g>"


def _told(span: Span, timeline: Timeline) -> str:
    waited = explain.span((span.ended if span.started is None else span.started) - span.launched)
    ran = "never ran" if span.started is None else f"ran {explain.span(span.ended - span.started)}"
    return f"{timeline.keys[span.row]}, attempt {span.number}: {span.outcome}; waited {waited}, {ran}"


def _lanes(timeline: Timeline, scale: float) -> Iterator[str]:
    """One path for all that is alike; what went wrong is drawn last, over the rest."""
    rows = len(timeline.keys)
    lanes = min(rows, LANES)

    def y(row: int) -> float:
        return (row * lanes // rows + 0.5) * LANES / lanes

    waited = (
        (y(s.row), s.launched * scale, (s.ended if s.started is None else s.started) * scale) for s in timeline.spans
    )
    yield f'<path class="w" d="{_strokes(waited)}"/>'
    thick = f' style="stroke-width:{max(1.0, 0.8 * LANES / lanes):.1f}px"'
    for outcome in ("succeeded", "running", "cancelled", "lost", "failed"):
        spans = [span for span in timeline.spans if span.outcome == outcome]
        ran = ((y(s.row), s.started * scale, s.ended * scale) for s in spans if s.started is not None)
        if outcome not in _SIGNS or rows < 2 * LANES:  # where a row stands for many, one failure would hide them all
            yield f'<path class="l l-{outcome}"{thick} d="{_strokes(ran)}"/>'
        if outcome in _SIGNS and spans:
            ends = sorted({f"M{s.ended * scale:.0f} {y(s.row):g}h0" for s in spans})
            size = "" if len(ends) <= _FEW else f' style="stroke-width:{2.5 if len(ends) <= 10 * _FEW else 1.5}px"'
            yield f'<path class="d d-{outcome}"{size} d="{"".join(ends)}"/>'


def _strokes(stretches: Iterable[tuple[float, float, float]]) -> str:
    """Horizontal strokes, each `(y, from, to)`; those that a reader could not tell apart are joined."""
    drawn: list[str] = []
    last_y, since, until = -1.0, 0.0, 0.0
    for y, start, end in sorted(stretches):
        if y == last_y and start <= until + _FINE:
            until = max(until, end)
            continue
        if last_y >= 0:
            drawn.append(_stroke(last_y, since, until))
        last_y, since, until = y, start, end
    return "".join(drawn) + (_stroke(last_y, since, until) if last_y >= 0 else "")


def _stroke(y: float, start: float, end: float) -> str:
    return f"M{start:.1f} {y:g}H{max(end, start + 0.3):.1f}"


# -- what stands around them --------------------------------------------------------------------------------------


def _hatches() -> str:
    """Patterns over the colours, so that outcomes can be told apart without them."""
    return (
        '<defs><pattern id="h-failed" width="6" height="6" patternUnits="userSpaceOnUse">'
        f'<rect width="6" height="6" fill="{COLOURS["failed"]}"/><path d="M-1 7L7 -1M-1 1L1 -1M5 7L7 5" '
        'stroke="#fff" stroke-opacity=".55"/></pattern>'
        '<pattern id="h-lost" width="5" height="5" patternUnits="userSpaceOnUse">'
        f'<rect width="5" height="5" fill="{COLOURS["lost"]}"/><circle cx="2" cy="2" r="1.1" fill="#fff" '
        'fill-opacity=".7"/></pattern></defs>'
    )


def _names(timeline: Timeline, *, named: bool, height: int) -> str:
    if not named:
        words = f"<span>{len(timeline.keys):,} jobs</span>"
        return f'<div class="names" aria-hidden="true" style="height:{height}px">{words}</div>'
    rows = "".join(f'<span title="{text(key)}">{text(key)}</span>' for key in timeline.keys)
    return f'<div class="names" aria-hidden="true">{rows}</div>'


def _legend(timeline: Timeline) -> str:
    words = {"running": "still running"}
    items = "".join(
        f'<li><i class="swatch k-{outcome}"></i>{words.get(outcome, outcome)}</li>' for outcome in timeline.outcomes
    )
    return f'<ul class="legend"><li><i class="swatch k-waiting"></i>waiting</li>{items}</ul>'


def _ticks(marks: Sequence[tuple[float, str]], scale: float) -> str:
    return "".join(f'<span style="left:{at * scale / _WIDE:.3%}">{text(name)}</span>' for at, name in marks)


def _concurrency(levels: Sequence[Level], scale: float, most: int) -> str:
    unit = _BENEATH / max(1, most)
    waiting = _area([(level.at * scale, (level.pending + level.running) * unit) for level in levels])
    running = _area([(level.at * scale, level.running * unit) for level in levels])
    return (
        f'<svg class="beneath" aria-hidden="true" viewBox="0 0 {_WIDE:.0f} {_BENEATH}" height="{_BENEATH}" '
        f'preserveAspectRatio="none"><path class="c-waiting" d="{waiting}"/>'
        f'<path class="c-running" d="{running}"/></svg>'
    )


def _area(steps: Sequence[tuple[float, float]]) -> str:
    """The ground under a staircase; of steps that fall on one point the highest is kept."""
    path = [f"M0 {_BENEATH}"]
    place, before, highest = 0.0, 0.0, 0.0
    for x, value in steps:
        if x - place >= _FINE:
            path.append(f"L{place:.1f} {_BENEATH - highest:.1f}H{x:.1f}")
            place, highest = x, max(before if x - place < 2 * _FINE else 0.0, value)
        highest, before = max(highest, value), value
    path.append(f"L{place:.1f} {_BENEATH - highest:.1f}L{_WIDE:.0f} {_BENEATH - before:.1f}V{_BENEATH}Z")
    return "".join(path)


def _caption(timeline: Timeline, *, named: bool) -> str:
    rows = len(timeline.keys)
    order = "Jobs are in the order of their launch"
    if not named and rows >= 2 * LANES:
        order += f"; a line stands for {rows / LANES:.0f} of them, and a dot for the end of one that went wrong"
    return f"Time since {timeline.origin:%Y-%m-%d %H:%M:%S} UTC. {order}. Beneath: how many waited and ran at once."


def _summary(timeline: Timeline, most: int) -> str:
    counted = ", ".join(
        f"{sum(span.outcome == outcome for span in timeline.spans):,} {outcome}" for outcome in timeline.outcomes
    )
    return (
        f"Timeline of {len(timeline.spans):,} attempts of {len(timeline.keys):,} jobs over "
        f"{explain.span(timeline.length)}: {counted}; at most {most:,} at once"
    )
