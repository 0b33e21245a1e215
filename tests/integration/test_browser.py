"""Views and report in a real browser without a network: no errors, and every control works."""

from __future__ import annotations

import io
import re
from importlib import resources
from pathlib import Path
from typing import Any

import attrs
import pytest
from made import NOON, after, attempt, job

from canfar_batch.failures import ExitCode, Lost, OutOfMemory
from canfar_batch.records import JobState
from canfar_batch.views import notebook, report_page
from canfar_batch.views.format import duration, gib
from canfar_batch.views.progress import Snapshot, View
from canfar_batch.views.report import Report

browser = pytest.importorskip("browser", reason="websocket-client is not installed")
pytestmark = [
    pytest.mark.skipif(browser.PROGRAM is None, reason="Chromium is not installed"),
    pytest.mark.timeout(180),
]

EVIL = "<script>document.title = 'caught'</script>"
LONG = "x" * 400
COUNT = 2500


@pytest.fixture(scope="module")
def tab():
    with browser.chromium() as opened:
        yield opened


@pytest.fixture(autouse=True)
def heard_nothing(tab):
    tab.complaints.clear()
    tab.requests.clear()
    tab.show()


def jobs(count: int, log: Path) -> list:
    made = []
    for n in range(count):
        failure = (
            ExitCode(2, message=f"{EVIL} {LONG}")
            if n % 50 == 7
            else OutOfMemory(message="8 GiB")
            if n % 50 == 9
            else None
        )
        end = attrs.evolve(attempt(begun=n, ran=100 + (n * 37) % 600, failure=failure), log=log)
        made.append(job(f"obs-{n}", end, index=n, fields={"sigma": (n * 7) % 100 / 10}))
    made[3] = attrs.evolve(made[3], key=EVIL)
    made[5] = attrs.evolve(job("gone", attempt(begun=5, failure=Lost()), state=JobState.LOST))
    return made


def report(made: list) -> Report:
    return Report.of("calib-2026", made, home=Path("/arc/home/me/batches/calib-2026"), now=after(1e5))


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    log = folder / "some.log"
    log.write_text(f"{EVIL}\nTraceback\n")
    made = jobs(COUNT, log)
    origin = report_page.Provenance(platform="https://ws-uv.canfar.net/skaha", user="me", created=NOON)
    file = folder / "report.html"
    file.write_text(report_page.render(report(made), made, origin=origin))
    return file


@pytest.fixture
def opened(tab, page_file):
    tab.open(page_file)
    return tab


def rows(tab, place: int) -> list[str]:
    return tab(f"[...document.querySelectorAll('#jobs-table tbody tr')].map(r => r.cells[{place}].textContent)")


def found(tab) -> str:
    return tab("document.getElementById('found').textContent")


def heading(tab, name: str) -> int:
    return tab(f"[...document.querySelectorAll('#jobs-table thead th')].findIndex(h => h.textContent === {name!r})")


def sort(tab, name: str) -> int:
    place = heading(tab, name)
    tab(f"document.querySelectorAll('#jobs-table thead button')[{place}].click()")
    return place


# -- the report ---------------------------------------------------------------------------------------------------


def test_the_report_opens_without_a_complaint_and_asks_for_nothing(opened, page_file):
    assert found(opened) == "2,500 of 2,500 jobs"
    assert opened.complaints == []
    assert opened.requests == [page_file.as_uri()]


def test_a_name_that_looks_like_a_script_stays_text(opened):
    assert EVIL in rows(opened, 0)
    opened("document.getElementById('cause').value = 'exit code 2'; document.getElementById('cause')"
           ".dispatchEvent(new Event('change'))")  # fmt: skip
    assert any(cell.startswith(EVIL) for cell in rows(opened, heading(opened, "message")))
    assert opened("document.title") == "calib-2026: report"
    assert opened("document.querySelectorAll('main script').length") == 0


def test_a_heading_sorts_by_its_column_and_says_so(opened):
    place = sort(opened, "sigma")
    up = [float(cell) for cell in rows(opened, place)]
    assert up == sorted(up)
    assert up[0] == 0
    state = f"document.querySelectorAll('#jobs-table thead th')[{place}].getAttribute('aria-sort')"
    assert opened(state) == "ascending"
    sort(opened, "sigma")
    assert float(rows(opened, place)[0]) == 9.9
    assert opened(state) == "descending"


def test_empty_cells_come_last_in_both_orders(opened):
    for _ in range(2):
        place = sort(opened, "cause")
        assert rows(opened, place)[0]


def test_numbers_in_names_are_sorted_as_numbers(opened):
    sort(opened, "job")
    names = [name for name in rows(opened, 0) if name.startswith("obs")]
    assert names[:3] == ["obs-0", "obs-1", "obs-2"]


def test_the_tab_key_reaches_everything_in_reading_order(opened):
    focused = (
        "document.activeElement.id || document.activeElement.textContent.trim() || document.activeElement.ariaLabel"
    )

    def next_stop() -> str:
        opened.press("Tab")
        return opened(focused)

    assert [next_stop() for _ in range(3)] == ["Skip to the table of jobs", "Timeline", "Failures"]
    opened("document.getElementById('search').focus()")
    assert [next_stop() for _ in range(3)] == ["state", "cause", "clear"]
    next_stop()
    assert opened("document.activeElement.ariaLabel") == "Table of jobs"  # so that it can be scrolled by keys
    assert [next_stop() for _ in range(2)] == ["job", "sigma"]


@pytest.mark.parametrize("key", ["Enter", " "])
def test_sorting_works_from_the_keyboard_and_is_announced(opened, key):
    place = heading(opened, "sigma")
    opened(f"document.querySelectorAll('#jobs-table thead button')[{place}].focus()")
    said = []
    for _ in range(2):
        opened.press(key)
        said.append(opened("document.activeElement.closest('th').ariaSort"))
    assert said == ["ascending", "descending"]
    assert float(rows(opened, place)[0]) == 9.9
    assert opened("document.activeElement.textContent") == "sigma"  # one can go on from there


def test_tables_say_what_they_are(opened):
    for table in range(opened("document.querySelectorAll('table').length")):
        each = f"document.querySelectorAll('table')[{table}]"
        assert opened(f"{each}.caption.textContent.trim() !== ''")
        assert opened(f"[...{each}.querySelectorAll('thead th')].every(h => h.scope === 'col')")
        assert opened(
            f"[...{each}.tBodies[0].rows].every(r => r.cells[0].tagName === 'TH' && r.cells[0].scope === 'row')"
        )


def test_typing_filters_the_rows(opened):
    opened("document.getElementById('search').focus()")
    opened.type("obs-249")
    opened.until("document.getElementById('found').textContent.startsWith('11 of')")
    assert set(rows(opened, 0)) == {"obs-249", *(f"obs-249{n}" for n in range(10))}
    opened.press("Enter")  # submits nothing
    opened("document.getElementById('clear').click()")
    assert found(opened) == "2,500 of 2,500 jobs"
    assert opened.complaints == []


def test_states_and_causes_can_be_chosen(opened):
    for id, value, first in (
        ("state", "lost", "1 of"),
        ("state", "", "2,500 of"),
        ("cause", "out of memory", "50 of"),
    ):
        opened(f"{{ const c = document.getElementById('{id}'); c.value = '{value}'; "
               "c.dispatchEvent(new Event('change')) }")  # fmt: skip
        assert found(opened).startswith(first)


def test_a_cause_leads_to_its_jobs(opened):
    opened("document.querySelector('button[data-find=\"exit code 2\"]').click()")
    assert found(opened).startswith("50 of")
    assert set(rows(opened, heading(opened, "cause"))) == {"exit code 2"}


def test_rows_come_a_page_at_a_time(opened):
    assert len(rows(opened, 0)) == 100
    opened("document.getElementById('on').click()")
    assert rows(opened, 0)[0] == "obs-100"
    assert opened("document.getElementById('where').textContent") == "101–200 of 2,500"  # noqa: RUF001
    opened("document.getElementById('last').click()")
    assert rows(opened, 0)[-1] == "obs-2499"
    assert opened("document.getElementById('on').disabled")


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_fits_the_window_and_the_readers_colours(tab, page_file, width, dark):
    tab.show(width=width, dark=dark)
    tab.open(page_file)
    assert tab("document.documentElement.scrollWidth") <= width
    ground = tab("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 24, 29)" if dark else "rgb(255, 255, 255)")


def test_in_print_there_are_more_rows(opened):
    opened("dispatchEvent(new Event('beforeprint'))")
    assert len(rows(opened, 0)) == 1000
    opened("dispatchEvent(new Event('afterprint'))")
    assert len(rows(opened, 0)) == 100
    opened.show(width=1000)  # of a page on its side, as the table has it
    opened.call("Emulation.setEmulatedMedia", media="print")
    assert opened("document.documentElement.scrollWidth") <= 1000
    name = "getComputedStyle(document.querySelector('#jobs-table thead th'), '::before').content"
    assert opened(name) == '"job"'  # which stands on every page, as the text of a button would not
    opened.call("Emulation.setEmulatedMedia", media="")
    opened("document.querySelector('button[data-find=lost]').click()")  # a short table prints sooner
    assert opened.pdf().startswith(b"%PDF")


def test_every_control_has_a_name(opened):
    nameless = opened(
        "[...document.querySelectorAll('button,input,select,a')].filter(e => !(e.textContent.trim()"
        " || e.labels?.length || e.ariaLabel)).length"
    )
    assert nameless == 0


# -- notebook views -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def views_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("views")
    log = folder / "some.log"
    log.write_text(f"{EVIL}\n")
    made = jobs(COUNT, log)
    shown = "".join((
        notebook.batch(report(made), made),
        report(made)._repr_html_(),
        notebook.job(made[7], after(1e5)),
        notebook.session("https://ws-uv.canfar.net/skaha", EVIL, until=NOON, local=False, batches=["calib"]),
    ))  # fmt: skip
    file = folder / "views.html"
    file.write_text(f"<!DOCTYPE html><html lang=en><meta charset=utf-8><title>views</title><body>{shown}")
    return file


def test_views_open_without_a_complaint_and_names_stay_text(tab, views_file):
    tab.open(views_file)
    assert tab.complaints == []
    assert tab.requests == [views_file.as_uri()]
    assert tab("document.title") == "views"
    assert tab("document.querySelectorAll('script').length") == 0
    assert EVIL in tab("document.body.textContent")
    assert tab("document.querySelectorAll('table')[0].tBodies[0].rows.length") == 50


#: the rules of JupyterLab 4.6 for the outputs of cells that matter here
JUPYTERLAB = """\
.jp-OutputArea-output dl{width:100%;overflow:hidden;padding:0;margin:0}
.jp-OutputArea-output dt{font-weight:bold;float:left;width:20%;padding:0;margin:0}
.jp-OutputArea-output dd{float:left;width:80%;padding:0;margin:0}
.jp-RenderedHTMLCommon ul:not(.list-inline){padding-left:2em}
.jp-RenderedHTMLCommon ul{list-style:disc;margin-bottom:1em}
.jp-RenderedHTMLCommon pre{border:0;padding:0;white-space:pre-wrap}
.jp-RenderedHTMLCommon table{border-collapse:collapse;border:none;font-size:12px;table-layout:fixed;margin:0 auto 1em}
.jp-RenderedHTMLCommon td,.jp-RenderedHTMLCommon th{vertical-align:middle;padding:.5em;white-space:normal;border:none}
.jp-RenderedHTMLCommon td,:not(.jp-RenderedMarkdown).jp-RenderedHTMLCommon th{text-align:right}
"""


@pytest.mark.parametrize("width", [400, 1400])
def test_views_keep_their_layout_in_jupyterlab(tab, views_file, width):
    tab.show(width=width)
    tab.open(views_file)
    tab("document.body.className = 'jp-OutputArea-output jp-RenderedHTMLCommon'")
    tab(f"document.head.appendChild(document.createElement('style')).textContent = {JUPYTERLAB!r}")
    assert tab("document.documentElement.scrollWidth") <= width
    lines = tab(
        "[...document.querySelectorAll('.cb-facts dt')].map(name => {"
        " const range = document.createRange(); range.selectNodeContents(name);"
        " return range.getBoundingClientRect().height / parseFloat(getComputedStyle(name).lineHeight)"
        " + (range.getBoundingClientRect().right > name.nextSibling.getBoundingClientRect().left) })"
    )
    assert max(lines) < 1.5  # neither broken nor on top of the value
    styles = "[...document.querySelectorAll('.cb-legend,.cb-causes')].map(e => getComputedStyle(e).listStyleType)"
    assert set(tab(styles)) == {"none"}
    assert tab("getComputedStyle(document.querySelector('.cb-t tbody td:not(.cb-n)')).textAlign") == "left"


def test_the_end_of_a_log_is_what_its_box_shows(tab, tmp_path):
    log = tmp_path / "some.log"
    log.write_text("".join(f"line {n}: {'word ' * 60}\n" for n in range(40)) + "KeyError: 'GAIN'\n")
    made = [job("a", attrs.evolve(attempt(failure=ExitCode(1)), log=log))]
    origin = report_page.Provenance(platform="local", user="me", created=NOON)
    pages = {
        ".log": report_page.render(report(made), made, origin=origin, logs={log: log.read_text()}),
        ".cb-log": f"<!DOCTYPE html><title>job</title>{notebook.job(made[0], after(1e5), log=log.read_text())}",
    }
    for box, page in pages.items():
        file = tmp_path / "shown.html"
        file.write_text(page)
        tab.open(file)
        shown = tab(
            "(box => { const text = box.firstChild.getBoundingClientRect(), room = box.getBoundingClientRect();"
            " return [text.height > room.height, Math.round(text.bottom) <= Math.round(room.bottom)] })"
            f"(document.querySelector({box!r}))"
        )
        assert shown == [True, True], box  # it overflows, and its last line is in sight


@pytest.mark.parametrize("width", [250, 400, 900, 1400])
def test_the_progress_bar_is_visible_at_every_width(tab, tmp_path, width):
    counts = dict.fromkeys(JobState, 11)
    snapshot = Snapshot(name="calib-2026-" + "x" * 50, counts=counts, rate=0.03, use="31.4 cores, 118 GiB")
    cell = IPythonCell()
    view = View(io.StringIO(), display=cell)
    view.draw(snapshot)
    file = tmp_path / "progress.html"
    file.write_text(f"<!DOCTYPE html><title>progress</title><body>{cell.content}")
    tab.show(width=width)
    tab.open(file)
    bar = tab("document.querySelector('.cb-bar').getBoundingClientRect().toJSON()")
    assert bar["width"] > 0.8 * width
    assert bar["height"] > 8
    assert tab("document.documentElement.scrollWidth") <= width


class IPythonCell:
    """The output of a cell."""

    content = ""

    def display(self, content: Any, *, display_id: bool) -> None:
        self.content = content._repr_html_()


def test_the_page_formats_numbers_as_python_does(opened):
    source = resources.files("canfar_batch.views").joinpath("assets").joinpath("report.js").read_text()
    formats = re.search(r"const span = .*?\n  \};\n  const formats = \{.*?\n  \};", source, re.DOTALL)
    assert formats is not None
    seconds = [0, 0.3, 0.94, 0.96, 1.4, 42, 119.4, 120, 7140, 7500]
    sizes = [0, 0.05, 0.5, 0.976, 0.977, 3.14, 99.94, 99.96, 2048]
    texts = opened(f"(() => {{ {formats[0]} return [{seconds}.map(formats.span), {sizes}.map(formats.gib)] }})()")
    assert texts == [[duration(one) for one in seconds], [gib(one) for one in sizes]]


def test_views_take_the_notebooks_colours_before_the_systems(tab, views_file):
    tab.show(dark=True)
    tab.open(views_file)
    colour = "getComputedStyle(document.querySelector('.cb-view')).color"
    assert tab(colour) == "rgb(228, 232, 236)"
    tab("document.documentElement.style.setProperty('--jp-content-font-color1', 'rgb(1, 2, 3)')")
    assert tab(colour) == "rgb(1, 2, 3)"
