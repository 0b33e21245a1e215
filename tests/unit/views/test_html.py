"""Notebook views of sessions, jobs, batches and reports."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import NOON, after, attempt, job

from canfar_batch.failures import ExitCode, Lost, OutOfMemory
from canfar_batch.records import ContainerInfo, JobState, Phase
from canfar_batch.views import html, notebook
from canfar_batch.views.report import Report
from canfar_batch.views.tables import html_overview, text_table, to_rows

EVIL = "<script>alert('x')</script>"
VOID = {"br", "meta", "link", "input"}


class Tree(HTMLParser):
    """Reads HTML, and insists that every element that is opened is closed, in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}


def report(*jobs):
    from pathlib import Path

    return Report.of("calib", jobs, home=Path("/arc/home/me/batches/calib"), now=after(3600))


def batch(*jobs, **more) -> str:
    return notebook.batch(report(*jobs), jobs, **more)


def info(id: str, **more) -> ContainerInfo:
    return ContainerInfo(id=id, name=id, phase=Phase.RUNNING, status="Running", **more)


# -- safety -------------------------------------------------------------------------------------------------------


@given(st.text())
def test_all_text_is_escaped(anything: str):
    for made in (html.text(anything), html.lines(anything), html.table(["a"], [[html.text(anything)]])):
        assert Tree(made).tags() <= {"div", "table", "thead", "tbody", "tr", "th", "td"}


def test_keys_messages_and_logs_are_escaped():
    log = f"{EVIL}\n\x1b[31mred\x1b[0m\x00\n"
    end = attrs.evolve(attempt(failure=ExitCode(2, message=EVIL)), launch_name=EVIL)
    evil = job(EVIL, end, fields={EVIL: EVIL})
    evil = attrs.evolve(evil, spec=attrs.evolve(evil.spec, image="evil/image"))
    for shown in (batch(evil), notebook.job(evil, after(0), log=log), report(evil)._repr_html_()):
        tree = Tree(shown)
        assert "script" not in tree.tags()
        assert EVIL in tree.text
    assert "red" in notebook.job(evil, after(0), log=log)
    assert "\x1b" not in notebook.job(evil, after(0), log=log)


def test_a_session_is_shown_whatever_its_user_is_called():
    shown = notebook.session("https://example.org", EVIL, until=NOON, local=False, batches=[f"b{n}" for n in range(12)])
    tree = Tree(shown)
    assert EVIL in tree.text
    assert "2026-11-22 12:00 UTC" in tree.text
    assert "b9 and 2 more" in tree.text


def test_views_load_nothing():
    shown = batch(job("a", attempt())) + notebook.job(job("a", attempt()), after(0))
    assert not re.search(r"https?://|url\(|@import|<link|<img|src=", shown.replace("https://example", ""))


def test_secrets_in_commands_and_logs_are_masked(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("TOKEN=abc123\n")
    bad = job("a", attrs.evolve(attempt(failure=ExitCode(1)), log=log))
    bad = attrs.evolve(bad, filled=attrs.evolve(bad.filled, argv=("run", "--password", "hunter2")))
    said = job("b", attempt(failure=ExitCode(1, message="api_key=k3y refused")))
    shown = notebook.job(bad, after(0)) + notebook.job(said, after(0)) + batch(bad, said)
    assert "refused" in shown
    for secret in ("abc123", "hunter2", "k3y"):
        assert secret not in shown


# -- content ------------------------------------------------------------------------------------------------------


def test_many_jobs_are_summarised_failures_first():
    jobs = [job(f"ok-{n}", attempt()) for n in range(5000)]
    jobs.append(job("bad", attempt(failure=OutOfMemory(message="8 GiB were not enough"))))
    jobs.append(job("gone", attempt(failure=Lost()), state=JobState.LOST))
    shown = batch(*jobs)
    tree = Tree(shown)
    assert len(shown) < 40_000
    assert sum(tag == "tr" for tag, _ in tree.elements) == 51
    assert "50 of 5,002 jobs" in tree.text
    assert shown.index(">bad<") < shown.index(">gone<") < shown.index(">ok-0<")
    assert "5,000 succeeded" in tree.text
    assert "8 GiB were not enough" in tree.text


def test_few_jobs_are_all_there_in_plan_order():
    shown = batch(job("a", attempt()), job("b", attempt(failure=ExitCode(1))), job("c"))
    assert shown.index(">a<") < shown.index(">b<") < shown.index(">c<")


def test_a_batch_without_jobs_is_shown():
    assert "0 jobs" in Tree(batch()).text


@pytest.mark.parametrize("state", list(JobState))
def test_every_state_has_a_colour_and_a_place_in_the_bar(state: JobState):
    made = html.bar({state.value: 3})
    assert f"<b>3</b> {state}" in made
    assert html.COLOURS[state.value] in made


def test_a_bar_gives_each_state_its_share():
    assert "flex:30;" in html.bar({"succeeded": 30, "failed": 1})
    assert html.bar({}) == ""


def test_a_job_lists_its_attempts():
    twice = job("a", attempt(failure=OutOfMemory(message="killed")), attempt(2, begun=700))
    text = Tree(notebook.job(twice, after(0))).text
    assert "out of memory" in text
    assert "succeeded" in text


def test_tables_have_headings_for_rows_and_columns():
    tree = Tree(html_overview([job("a", attempt())]))
    scopes = [attributes.get("scope") for tag, attributes in tree.elements if tag == "th"]
    assert scopes.count("row") == 1
    assert scopes.count("col") == len(scopes) - 1


# -- live use -----------------------------------------------------------------------------------------------------


def test_running_jobs_show_what_they_use_if_it_is_measured():
    running, done = job("a", attempt(ran=None)), job("b", attempt())
    live = {"id1": info("id1", cores_in_use=1.5, ram_in_use=3.25)}
    first, second = to_rows([running, done], live)
    assert (first["cores_in_use"], first["ram_in_use"]) == (1.5, 3.25)
    assert (second["cores_in_use"], second["ram_in_use"]) == (None, None)  # it has ended; the measurement is old
    assert "3.2 GiB" in text_table([first, second], 120)
    assert "1.5 cores, 3.2 GiB" in Tree(batch(running, done, live=live)).text


def test_rows_have_no_columns_for_use_that_is_not_measured():
    (row,) = to_rows([job("a", attempt(ran=None))], {"id1": info("id1")})
    assert "ram_in_use" not in row
