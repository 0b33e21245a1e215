"""The timeline as SVG inside a web page: drawn without a library, stretched to the reader's window by the browser."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from canfar_batch.views import explain
from canfar_batch.views.html import COLOURS, text
from canfar_batch.views.timeline import Level, Span, Timeline, mixed

NAMED = 40  #: jobs at most that have a row with a name
LINED = 400  #: jobs at most that have a line each; more are drawn as a picture of what they did, mixed by their shares

_WIDE = 1000.0  # units from the first launch to the last end, whatever the window
_ROW = 20  # pixels of a named row
_BENEATH = 90  # pixels of the drawing beneath
_FINE = 0.5  # units between two stretches that are drawn as one
_HIGH = 400  # pixels of what has no named rows
_LANES, _COLUMNS = 200, 600  # cells of the picture
_BINS = 120  # parts of the time in which what went wrong is counted
_WRONG = 44  # pixels of the drawing of that
_FEW = 100  # ends that may be marked large
_SPARSE = 200  # ends that are marked in a picture
_WAITED = "#8d96a0"
_SIGNS: Mapping[str, str] = {"failed": "butt", "lost": "round", "cancelled": "square"}  # how an end is marked


def figure(timeline: Timeline) -> str:
    """Every attempt, and how many ran at once, as HTML; its looks are in the page's style sheet."""
    if not timeline.spans:
        return "<p>Nothing was launched yet.</p>"
    scale = _WIDE / timeline.length
    named = len(timeline.keys) <= NAMED
    height = _ROW * len(timeline.keys) if named else _HIGH
    marks = timeline.ticks()
    dense = len(timeline.keys) > LINED
    drawing = "".join((_named_rows if named else _picture if dense else _lines)(timeline, scale))
    grid = "".join(f"M{at * scale:.1f} 0V{height}" for at, _ in marks)
    levels = timeline.levels()
    most = max((level.pending + level.running for level in levels), default=0)
    return (
        f'<figure class="timeline{"" if named else " dense"}">{_legend(timeline)}'
        f'<div class="grid">{_names(timeline, named=named, height=height)}'
        f'<svg role="img" aria-label="{text(_summary(timeline, most))}" viewBox="0 0 {_WIDE:.0f} {height}" '
        f'height="{height}" preserveAspectRatio="none">{_hatches()}<path class="rule" d="{grid}"/>{drawing}</svg>'
        f"{_went_wrong(timeline) if dense and timeline.wrong else ''}"
        f'<div class="scale" aria-hidden="true"><span>{most:,}</span><span>at once</span><span>0</span></div>'
        f"{_concurrency(levels, scale, most)}<div></div>"
        f'<div class="ticks" aria-hidden="true">{_ticks(marks, scale)}</div>'
        f"</div><figcaption>{_caption(timeline)}</figcaption></figure>"
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


def _lines(timeline: Timeline, scale: float) -> Iterator[str]:
    """A line for each job, all equally thin. One path for all that is alike."""
    rows = len(timeline.keys)

    def y(row: int) -> float:
        return (row + 0.5) * _HIGH / rows

    waited = (
        (y(s.row), s.launched * scale, (s.ended if s.started is None else s.started) * scale) for s in timeline.spans
    )
    yield f'<path class="w" d="{_strokes(waited)}"/>'
    thick = f' style="stroke-width:{max(1.0, 0.8 * _HIGH / rows):.1f}px"'
    for outcome in ("succeeded", "running", "cancelled", "lost", "failed"):
        ran = (
            (y(s.row), s.started * scale, s.ended * scale)
            for s in timeline.spans
            if s.outcome == outcome and s.started is not None
        )
        yield f'<path class="l l-{outcome}"{thick} d="{_strokes(ran)}"/>'
    yield from _ends(timeline, scale)


def _ends(timeline: Timeline, scale: float) -> Iterator[str]:
    """A dot for the end of each attempt that went wrong."""
    unit = _HIGH / len(timeline.keys)
    size = "" if timeline.wrong <= _FEW else ' style="stroke-width:2.5px"'
    for outcome in _SIGNS:
        ends = sorted(
            {f"M{s.ended * scale:.0f} {(s.row + 0.5) * unit:.1f}h0" for s in timeline.spans if s.outcome == outcome}
        )
        if ends:
            yield f'<path class="d d-{outcome}"{size} d="{"".join(ends)}"/>'


def _picture(timeline: Timeline, scale: float) -> Iterator[str]:
    """What the jobs did, many to a row: lines of thousands hide each other, and the last drawn would seem to be all."""
    lanes = min(len(timeline.keys), _LANES)
    pixels = mixed(timeline, lanes, _COLUMNS, {**COLOURS, "waiting": _WAITED})
    inside = base64.b64encode(_png(lanes, _COLUMNS, pixels)).decode()
    size = f'width="{_WIDE:.0f}" height="{_HIGH}"'
    yield f'<image {size} preserveAspectRatio="none" href="data:image/png;base64,{inside}"/>'
    if timeline.wrong <= _SPARSE:
        yield from _ends(timeline, scale)


def _png(rows: int, columns: int, pixels: bytes) -> bytes:
    """A picture of red, green, blue and opacity, in fewer shades than there might be: so it is half as large."""
    coarse = pixels.translate(_SHADES)
    lines = b"".join(b"\0" + coarse[4 * columns * row : 4 * columns * (row + 1)] for row in range(rows))
    header = struct.pack(">IIBBBBB", columns, rows, 8, 6, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    written = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


_SHADES = bytes(min(255, (value + 4) // 8 * 8) for value in range(256))


def _went_wrong(timeline: Timeline) -> str:
    """How many attempts went wrong when: beside thousands of others they would hardly be seen."""
    wrong = timeline.ends(_BINS)
    totals = [sum(counts) for counts in zip(*wrong.values())]  # noqa: B905 (equal)
    unit, wide = _WRONG / max(totals), _WIDE / _BINS
    base, paths = [0] * _BINS, ""
    for outcome, counts in wrong.items():
        top = [below + count for below, count in zip(base, counts)]  # noqa: B905 (equal)
        steps = "".join(
            f"M{place * wide:.1f} {_WRONG - base[place] * unit:.1f}V{_WRONG - top[place] * unit:.1f}"
            f"h{wide:.1f}V{_WRONG - base[place] * unit:.1f}"
            for place, count in enumerate(counts)
            if count
        )
        paths += f'<path class="f-{outcome}" d="{steps}"/>'
        base = top
    return (
        f'<div class="scale wrong" aria-hidden="true"><span>{max(totals):,}</span><span>went wrong</span>'
        f'<span>0</span></div><svg class="beneath wrong" aria-hidden="true" viewBox="0 0 {_WIDE:.0f} {_WRONG}" '
        f'height="{_WRONG}" preserveAspectRatio="none">{paths}</svg>'
    )


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
        f'<li><i class="swatch k-{outcome}"></i>{count:,} {words.get(outcome, outcome)}</li>'
        for outcome, count in timeline.counts.items()
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


def _caption(timeline: Timeline) -> str:
    rows = len(timeline.keys)
    order = "Jobs are in the order of their launch"
    if rows > LINED:
        order += f"; a row stands for {max(2, round(rows / _LANES)):,} of them, and mixes colours by their shares"
    if timeline.wrong and rows > NAMED and (rows <= LINED or timeline.wrong <= _SPARSE):
        order += "; a dot marks the end of one that went wrong"
    beneath = "how many waited and ran at once"
    if timeline.wrong and rows > LINED:
        beneath = f"how many went wrong in each {explain.span(timeline.length / _BINS)}, and {beneath}"
    return f"Time since {timeline.origin:%Y-%m-%d %H:%M:%S} UTC. {order}. Beneath: {beneath}."


def _summary(timeline: Timeline, most: int) -> str:
    counted = ", ".join(f"{count:,} {outcome}" for outcome, count in timeline.counts.items())
    return (
        f"Timeline of {len(timeline.spans):,} attempts of {len(timeline.keys):,} jobs over "
        f"{explain.span(timeline.length)}: {counted}; at most {most:,} at once"
    )
