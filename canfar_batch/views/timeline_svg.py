"""The timeline as SVG inside a web page: drawn without a library, stretched to the reader's window by the browser."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence

from canfar_batch.text import count
from canfar_batch.views.format import duration
from canfar_batch.views.html import COLOURS, text
from canfar_batch.views.timeline import BINS, DRAWN, FEW, RESTARTED, WRONG, Level, Span, Timeline, mixed

_WIDE = 1000.0  # units from the first launch to the last end, whatever the window
_ROW = 20  # pixels of a named row
_BELOW = 90  # pixels of the curve of how many ran
_FINE = 0.5  # units; stretches that are closer are drawn as one
_HIGH = 400  # pixels of a drawing without named rows
_LANES, _COLUMNS = 200, 600  # cells of the picture
_HISTOGRAM = 44  # pixels of the histogram of attempts that went wrong


def figure(timeline: Timeline) -> str:
    """Return the timeline as HTML; its looks are in the page's style sheet."""
    if not timeline.spans:
        return "<p>Nothing was launched yet.</p>"
    scale = _WIDE / timeline.length
    named = timeline.is_named
    height = _ROW * len(timeline.keys) if named else _HIGH
    marks = timeline.ticks()
    draw = _named_rows if named else _picture if timeline.is_dense else _lines
    grid = "".join(f"M{at * scale:.1f} 0V{height}" for at, _ in marks)
    levels = timeline.levels()
    most = max((level.pending + level.running for level in levels), default=0)
    return (
        f'<figure class="timeline{"" if named else " dense"}">{_legend(timeline)}'
        f'<div class="grid">{_names(timeline, height)}'
        f'<svg role="img" aria-label="{text(_summary(timeline, most))}" viewBox="0 0 {_WIDE:.0f} {height}" '
        f'height="{height}" preserveAspectRatio="none">{_hatches()}<path class="rule" d="{grid}"/>'
        f"{''.join(draw(timeline, scale))}</svg>"
        f"{_went_wrong(timeline) if timeline.is_dense and timeline.wrong else ''}"
        f'<div class="scale" aria-hidden="true"><span>{most:,}</span><span>at once</span><span>0</span></div>'
        f"{_concurrency(levels, scale, most)}<div></div>"
        f'<div class="ticks" aria-hidden="true">{_ticks(marks, scale)}</div>'
        f"</div><figcaption>{_caption(timeline)}</figcaption></figure>"
    )


# -- rows ---------------------------------------------------------------------------------------------------------


def _named_rows(timeline: Timeline, scale: float) -> Iterator[str]:
    for span in timeline.spans:
        y = span.row * _ROW
        lines = "".join(f"M{begin * scale:.1f} {y + _ROW / 2:g}H{end * scale:.1f}" for begin, end in span.waits)
        shapes = f'<path class="w" d="{lines}"/>' + "".join(
            f'<rect class="o-restarted" x="{begin * scale:.1f}" y="{y + 6}" '
            f'width="{max(1.0, (end - begin) * scale):.1f}" height="{_ROW - 12}"/>'
            for begin, end in span.lost
        )
        if span.started is not None:
            width = max(1.0, (span.ended - span.started) * scale)
            shapes += (
                f'<rect class="o-{span.outcome}" x="{span.started * scale:.1f}" y="{y + 3}" width="{width:.1f}" '
                f'height="{_ROW - 6}"/>'
            )
        if span.outcome in WRONG:
            shapes += f'<path class="e e-{span.outcome}" d="M{span.ended * scale:.1f} {y + 3}V{y + _ROW - 3}"/>'
        yield f"<g><title>{text(_description(span, timeline))}</title>{shapes}</g>"


def _description(span: Span, timeline: Timeline) -> str:
    ran = "never ran" if span.started is None else f"ran {duration(span.ended - span.started)}"
    waited = duration(sum(end - begin for begin, end in span.waits))
    again = duration(sum(end - begin for begin, end in span.lost))
    restarts = f", {count(len(span.lost), 'run')} of {again} {RESTARTED}" if span.lost else ""
    return f"{timeline.keys[span.row]}, attempt {span.number}: {span.outcome}; waited {waited}, {ran}{restarts}"


def _lines(timeline: Timeline, scale: float) -> Iterator[str]:
    """A line for each job, all equally thin; one path for each outcome."""
    rows = len(timeline.keys)

    def y(row: int) -> float:
        return (row + 0.5) * _HIGH / rows

    waited = ((y(s.row), begin * scale, end * scale) for s in timeline.spans for begin, end in s.waits)
    yield f'<path class="w" d="{_strokes(waited)}"/>'
    thick = f' style="stroke-width:{max(1.0, 0.8 * _HIGH / rows):.1f}px"'
    lost = ((y(s.row), begin * scale, end * scale) for s in timeline.spans for begin, end in s.lost)
    yield f'<path class="l l-restarted"{thick} d="{_strokes(lost)}"/>'
    for outcome in DRAWN:
        ran = (
            (y(span.row), span.started * scale, span.ended * scale)
            for span in timeline.with_outcome(outcome)
            if span.started is not None
        )
        yield f'<path class="l l-{outcome}"{thick} d="{_strokes(ran)}"/>'
    yield from _ends(timeline, scale)


def _ends(timeline: Timeline, scale: float) -> Iterator[str]:
    """A dot for the end of each attempt that went wrong."""
    unit = _HIGH / len(timeline.keys)
    size = "" if timeline.wrong <= FEW else ' style="stroke-width:2.5px"'
    for outcome in WRONG if timeline.marks_ends else ():
        spans = timeline.with_outcome(outcome)
        ends = sorted({f"M{span.ended * scale:.0f} {(span.row + 0.5) * unit:.1f}h0" for span in spans})
        if ends:
            yield f'<path class="d d-{outcome}"{size} d="{"".join(ends)}"/>'


def _picture(timeline: Timeline, scale: float) -> Iterator[str]:
    """Several jobs to a row: thousands of lines would hide each other, and only those drawn last would show."""
    lanes, _ = timeline.sharing(_LANES)
    inside = base64.b64encode(_png(lanes, _COLUMNS, mixed(timeline, lanes, _COLUMNS, COLOURS))).decode()
    size = f'width="{_WIDE:.0f}" height="{_HIGH}"'
    yield f'<image {size} preserveAspectRatio="none" href="data:image/png;base64,{inside}"/>'
    yield from _ends(timeline, scale)


def _png(rows: int, columns: int, pixels: bytes) -> bytes:
    """A PNG of red, green, blue and opacity, in 32 shades of each: the file is half as large as with all shades."""
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
    """A histogram of the attempts that went wrong: on shared rows they would hardly be seen."""
    stack = timeline.stacked_ends()
    highest = max(stack[-1][2])
    unit, wide = _HISTOGRAM / highest, _WIDE / BINS
    paths = ""
    for outcome, base, top in stack:
        steps = "".join(
            f"M{place * wide:.1f} {_HISTOGRAM - low * unit:.1f}V{_HISTOGRAM - high * unit:.1f}"
            f"h{wide:.1f}V{_HISTOGRAM - low * unit:.1f}"
            for place, (low, high) in enumerate(zip(base, top))  # noqa: B905 (equal)
            if high > low
        )
        paths += f'<path class="f-{outcome}" d="{steps}"/>'
    return (
        f'<div class="scale wrong" aria-hidden="true"><span>{highest:,}</span><span>went wrong</span>'
        f'<span>0</span></div><svg class="beneath wrong" aria-hidden="true" viewBox="0 0 {_WIDE:.0f} {_HISTOGRAM}" '
        f'height="{_HISTOGRAM}" preserveAspectRatio="none">{paths}</svg>'
    )


def _strokes(stretches: Iterable[tuple[float, float, float]]) -> str:
    """Horizontal strokes, each `(y, from, to)`; strokes that are too close to be seen apart are joined."""
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


# -- around the rows -----------------------------------------------------------------------------------------------


def _hatches() -> str:
    """Patterns that distinguish outcomes without colour."""
    return (
        '<defs><pattern id="h-failed" width="6" height="6" patternUnits="userSpaceOnUse">'
        f'<rect width="6" height="6" fill="{COLOURS["failed"]}"/><path d="M-1 7L7 -1M-1 1L1 -1M5 7L7 5" '
        'stroke="#fff" stroke-opacity=".55"/></pattern>'
        '<pattern id="h-lost" width="5" height="5" patternUnits="userSpaceOnUse">'
        f'<rect width="5" height="5" fill="{COLOURS["lost"]}"/><circle cx="2" cy="2" r="1.1" fill="#fff" '
        'fill-opacity=".7"/></pattern></defs>'
    )


def _names(timeline: Timeline, height: int) -> str:
    if not timeline.is_named:
        label = f"<span>{count(len(timeline.keys), 'job')}</span>"
        return f'<div class="names" aria-hidden="true" style="height:{height}px">{label}</div>'
    rows = "".join(f'<span title="{text(key)}">{text(key)}</span>' for key in timeline.keys)
    return f'<div class="names" aria-hidden="true">{rows}</div>'


def _legend(timeline: Timeline) -> str:
    items = "".join(f'<li><i class="swatch k-{outcome}"></i>{label}</li>' for outcome, label in timeline.legend())
    return f'<ul class="legend"><li><i class="swatch k-waiting"></i>waiting</li>{items}</ul>'


def _ticks(marks: Sequence[tuple[float, str]], scale: float) -> str:
    return "".join(f'<span style="left:{at * scale / _WIDE:.3%}">{text(name)}</span>' for at, name in marks)


def _concurrency(levels: Sequence[Level], scale: float, most: int) -> str:
    unit = _BELOW / max(1, most)
    waiting = _area([(level.at * scale, (level.pending + level.running) * unit) for level in levels])
    running = _area([(level.at * scale, level.running * unit) for level in levels])
    return (
        f'<svg class="beneath" aria-hidden="true" viewBox="0 0 {_WIDE:.0f} {_BELOW}" height="{_BELOW}" '
        f'preserveAspectRatio="none"><path class="c-waiting" d="{waiting}"/>'
        f'<path class="c-running" d="{running}"/></svg>'
    )


def _area(steps: Sequence[tuple[float, float]]) -> str:
    """The area under a step curve; of steps that fall on one point the highest is kept."""
    path = [f"M0 {_BELOW}"]
    place, before, highest = 0.0, 0.0, 0.0
    for x, value in steps:
        if x - place >= _FINE:
            path.append(f"L{place:.1f} {_BELOW - highest:.1f}H{x:.1f}")
            place, highest = x, max(before if x - place < 2 * _FINE else 0.0, value)
        highest, before = max(highest, value), value
    path.append(f"L{place:.1f} {_BELOW - highest:.1f}L{_WIDE:.0f} {_BELOW - before:.1f}V{_BELOW}Z")
    return "".join(path)


def _caption(timeline: Timeline) -> str:
    order = "Jobs are in the order of their launch"
    if timeline.is_dense:
        order += f"; a row stands for {timeline.sharing(_LANES)[1]:,} of them, and mixes colours by their shares"
    if timeline.marks_ends and not timeline.is_named:
        order += "; a dot marks the end of each that went wrong"
    below = "how many waited and ran at once"
    if timeline.wrong and timeline.is_dense:
        below = f"how many went wrong in each {duration(timeline.length / BINS)}, and {below}"
    return f"Time since {timeline.since}. {order}. Below: {below}."


def _summary(timeline: Timeline, most: int) -> str:
    counted = ", ".join(f"{number:,} {outcome}" for outcome, number in timeline.counts.items())
    return f"Timeline of {timeline.title} over {duration(timeline.length)}: {counted}; at most {most:,} at once"
