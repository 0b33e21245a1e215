"""Pieces of HTML: escaped text, counts as a bar, tables, lists of facts, and the style that all views share.

A view is a fragment that includes its style, takes its colours from the notebook around it if there is one, and loads
nothing. Everything that comes from a job passes through `text` or `lines`.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

from canfar_batch.text import printable, printable_lines

#: the colours of the states and outcomes, which any kind of colour vision can distinguish (after Okabe and Ito)
COLOURS: Mapping[str, str] = {
    "succeeded": "#009e73",
    "running": "#0072b2",
    "pending": "#56b4e9",
    "launching": "#8fb8d6",
    "waiting": "#e69f00",
    "planned": "#a3a9b1",
    "cancelled": "#6e7681",
    "lost": "#b0478f",
    "failed": "#d55e00",
    "restarted": "#e69f00",  # of runs, not of jobs
}
#: the order of the states in a bar: successes first, failures last
_IN_A_BAR = (
    "succeeded", "running", "pending", "launching", "waiting", "planned", "cancelled", "lost", "failed",
)  # fmt: skip

#: the colours of a page in light and dark mode, by name; text has a contrast of at least 4.5 : 1 to its ground
LIGHT = {
    "ground": "#ffffff", "raised": "#f6f7f9", "ink": "#1c2128", "faint": "#57606a", "line": "#d5dae0",
    "accent": "#005a94", "bad": "#a83f00",
}  # fmt: skip
DARK = {
    "ground": "#14181d", "raised": "#1d232a", "ink": "#e4e8ec", "faint": "#a3adb8", "line": "#39424d",
    "accent": "#7cc4f5", "bad": "#ff9a5c",
}  # fmt: skip
#: the notebook's own colour for each of ours: its name in JupyterLab, and in Visual Studio Code
_NOTEBOOK = {
    "ground": ("--jp-layout-color0", "--vscode-editor-background"),
    "raised": ("--jp-layout-color1", "--vscode-editorWidget-background"),
    "ink": ("--jp-content-font-color1", "--vscode-editor-foreground"),
    "faint": ("--jp-content-font-color2", "--vscode-descriptionForeground"),
    "line": ("--jp-border-color2", "--vscode-editorWidget-border"),
    "accent": ("--jp-content-link-color", "--vscode-textLink-foreground"),
}


def _variables(prefix: str, colours: Mapping[str, str]) -> str:
    return "".join(f"--{prefix}{name}:{colour};" for name, colour in colours.items())


def palette(selector: str) -> str:
    """Return the rules that give *selector* its colours: light or dark, by the setting of the reader's system."""
    return (
        f"{selector}{{color-scheme:light dark;{_variables('cb-', LIGHT)}}}\n"
        f"@media (prefers-color-scheme:dark){{{selector}{{{_variables('cb-', DARK)}}}}}\n"
        f"@media print{{{selector}{{color-scheme:light;{_variables('cb-', LIGHT)}}}}}\n"
    )


def _notebook_palette(selector: str) -> str:
    """The same rules, but the notebook's own colours come first: its theme may differ from the system's."""
    own = _variables("cb0-", LIGHT)
    dark = _variables("cb0-", DARK)
    chosen = "".join(
        f"--cb-{name}:var({lab},var({code},var(--cb0-{name})));" for name, (lab, code) in _NOTEBOOK.items()
    )
    return (
        f"{selector}{{{own}{chosen}--cb-bad:var(--cb-ink)}}\n"
        f"@media (prefers-color-scheme:dark){{{selector}{{{dark}}}}}\n"
    )


PIECES = (
    """\
.cb-title{font-size:1.15em;font-weight:600;margin:0 0 .5em;overflow-wrap:anywhere}
.cb-title small{font-weight:400;font-size:.85em;color:var(--cb-faint);margin-left:.5em}
.cb-bar{display:flex;height:.7em;border-radius:.35em;overflow:hidden;background:var(--cb-line);gap:1px;margin:.4em 0}
.cb-bar span{min-width:3px}
ul.cb-legend.cb-legend.cb-legend{list-style:none;display:flex;flex-wrap:wrap;gap:.15em 1.1em;margin:.3em 0 .9em;"""
    """padding:0}
.cb-legend li{margin:0;padding:0}
.cb-legend b{font-weight:600;font-variant-numeric:tabular-nums}
.cb-s{white-space:nowrap}
.cb-s::before{content:"";display:inline-block;width:.62em;height:.62em;border-radius:50%;margin-right:.4em;"""
    """background:var(--cb-dot)}
.cb-failed::before,.cb-lost::before{border-radius:1px;transform:rotate(45deg) scale(.9)}
.cb-failed,.cb-lost{font-weight:600}
"""
    + "".join(f".cb-{state}{{--cb-dot:{colour}}}\n" for state, colour in COLOURS.items())
    + """\
.cb-bar .cb-failed{background-image:repeating-linear-gradient(135deg,#0003 0 2px,#0000 2px 5px)}
"""
)

_STYLE = f"""{_notebook_palette(".cb-view")}\
.cb-view{{background:var(--cb-ground);color:var(--cb-ink);padding:.6em .8em;line-height:1.45;max-width:76rem;\
overflow-wrap:anywhere;font-family:var(--jp-content-font-family,system-ui,sans-serif);font-size:var(--jp-content-font-size1,14px)}}
.cb-view :focus-visible{{outline:2px solid var(--cb-accent)}}
{PIECES}\
.cb-view .cb-scroll{{overflow-x:auto;margin:.5em 0}}
.cb-view table.cb-t{{border-collapse:collapse;border:0;margin:0;font-size:.93em;color:inherit;background:none}}
.cb-view table.cb-t caption{{text-align:left;color:var(--cb-faint);padding:.2em 0;caption-side:top}}
.cb-view table.cb-t tr{{background:none}}
.cb-view table.cb-t th,.cb-view table.cb-t td{{text-align:left;vertical-align:top;padding:.22em .9em .22em 0;border:0;\
border-bottom:1px solid var(--cb-line);max-width:26em;overflow-wrap:anywhere;white-space:normal;color:inherit}}
.cb-view table.cb-t thead th{{color:var(--cb-faint);font-weight:600;white-space:nowrap}}
.cb-view table.cb-t tbody th{{font-weight:600;min-width:8em}}
.cb-view table.cb-t td{{min-width:6em}}
.cb-view table.cb-t td:last-child:not(.cb-n){{min-width:11em}}
.cb-view table.cb-t .cb-n{{min-width:0;text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}}
.cb-view dl.cb-facts{{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.12em 1em;margin:.4em 0}}
.cb-view dl.cb-facts dt{{color:var(--cb-faint);font-weight:400;overflow-wrap:normal}}
.cb-view dl.cb-facts dt,.cb-view dl.cb-facts dd{{float:none;width:auto;margin:0;padding:0}}
.cb-view .cb-log{{display:flex;flex-direction:column-reverse;overflow:auto;max-height:18em;background:var(--cb-raised);\
border:1px solid var(--cb-line);border-radius:4px;margin:.5em 0}}
.cb-view .cb-log pre{{background:none;color:var(--cb-ink);border:0;padding:.5em .7em;margin:0;font-size:.88em;\
white-space:pre-wrap;overflow-wrap:anywhere;overflow:visible}}
.cb-view ul.cb-causes.cb-causes{{list-style:none;margin:.2em 0 .6em;padding:0}}
.cb-view ul.cb-causes li{{margin:0 0 .4em;padding:0 0 0 .7em;border-left:3px solid {COLOURS["failed"]}}}
.cb-view .cb-faint{{color:var(--cb-faint)}}
"""


# -- text ---------------------------------------------------------------------------------------------------------


def text(value: object) -> str:
    """Return *value* as one line of escaped text."""
    return html.escape(printable(str(value)))


def lines(value: str) -> str:
    """Return text of several lines, such as a log, escaped and without its escape sequences."""
    return html.escape(printable_lines(value))


# -- pieces -------------------------------------------------------------------------------------------------------


def state(name: object) -> str:
    """Return a state or outcome, with its mark."""
    return f'<span class="cb-s cb-{text(name)}">{text(name)}</span>'


def bar(counts: Mapping[str, int]) -> str:
    """Return the number of jobs in each state, as a bar and a legend."""
    shown = [(name, counts[name]) for name in _IN_A_BAR if counts.get(name)]
    if not shown:
        return ""
    parts = "".join(f'<span class="cb-{n}" style="flex:{c};background-color:{COLOURS[n]}"></span>' for n, c in shown)
    words = "".join(f'<li class="cb-s cb-{name}"><b>{count:,}</b> {name}</li>' for name, count in shown)
    return f'<div class="cb-bar" aria-hidden="true">{parts}</div><ul class="cb-legend">{words}</ul>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Return names and their values, which are HTML, as a list; empty values are left out."""
    rows = "".join(f"<dt>{text(name)}</dt><dd>{value}</dd>" for name, value in pairs if value)
    return f'<dl class="cb-facts">{rows}</dl>' if rows else ""


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Iterable[int] = (), caption: str = ""
) -> str:
    """Return a table whose first column names the rows.

    Args:
        headings: The headings, as text.
        rows: The cells, as HTML.
        numbers: The indices of the columns that are aligned right.
        caption: The content of the table, as text.
    """
    right = frozenset(numbers)

    def mark(place: int) -> str:
        return ' class="cb-n"' if place in right else ""

    head = "".join(f'<th scope="col"{mark(place)}>{text(name)}</th>' for place, name in enumerate(headings))
    body = "".join(
        f"<tr>{''.join(_cell(place, cell, mark(place)) for place, cell in enumerate(row))}</tr>" for row in rows
    )
    title = f"<caption>{text(caption)}</caption>" if caption else ""
    return (
        f'<div class="cb-scroll" tabindex="0" role="region" aria-label="{text(caption or headings[0])}">'
        f'<table class="cb-t">{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cell(place: int, content: str, mark: str) -> str:
    return f'<th scope="row"{mark}>{content}</th>' if place == 0 else f"<td{mark}>{content}</td>"


def log_end(content: str) -> str:
    """Return the end of a log in a box that is scrolled to its last line; empty if there is no text."""
    # a column in reverse order starts at its end, without a script
    return f'<div class="cb-log" tabindex="0"><pre>{lines(content)}</pre></div>' if content.strip() else ""


def title(what: str, aside: str = "") -> str:
    """Return the heading of a view; both parts are text."""
    return f'<div class="cb-title" role="heading" aria-level="3">{text(what)} <small>{text(aside)}</small></div>'


def view(*parts: str) -> str:
    """Return the parts as one fragment with its style."""
    return f'<div class="cb-view"><style>{_STYLE}</style>{"".join(parts)}</div>'
