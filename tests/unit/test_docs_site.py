"""The documentation site builds, is complete, and agrees with the code. Its examples run in test_docs.py."""

import fcntl
import importlib
import inspect
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import canfar_batch
from canfar_batch import inside, lifecycle, protocols, records, templates
from canfar_batch.failures import KINDS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
SHOWN = re.compile(r"^::: (\S+)", re.MULTILINE)


def text(page):
    return (DOCS / page).read_text()


def plain(html):
    return re.sub(r"<[^>]+>", "", html)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The site, built once for all test processes."""
    parallel = "PYTEST_XDIST_WORKER" in os.environ
    shared = tmp_path_factory.getbasetemp().parent if parallel else tmp_path_factory.mktemp("shared")
    target, errors = shared / "site", shared / "site.txt"
    with (shared / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not errors.exists():
            errors.write_text(build(target))
    assert errors.read_text() == ""
    return target


def build(target):
    """Build the site strictly; return the errors, or an empty text."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    return "" if done.returncode == 0 else done.stderr[-4000:] or "it failed without a message"


def test_the_site_builds_without_warnings_and_has_every_page(site):
    made = {page.relative_to(site).with_suffix(".md").as_posix() for page in site.rglob("*.html")}
    assert {page.relative_to(DOCS).as_posix() for page in PAGES} <= made


def test_the_site_loads_nothing_from_other_hosts(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(r'<(?:script|img|iframe|source)\b[^>]*\bsrc="([^"]+)"', page.read_text())
        loaded += re.findall(
            r'<link\b(?=[^>]*rel="(?:stylesheet|preconnect|icon)")[^>]*href="([^"]+)"', page.read_text()
        )
        assert [url for url in loaded if re.match(r"(https?:)?//", url)] == [], page.name
    styles = "".join(style.read_text() for style in site.rglob("*.css"))
    assert re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//[^)\"']+", styles) == []


def test_the_reference_has_every_public_name_and_member(site):
    pages = "".join(page.read_text() for page in (site / "reference").rglob("*.html"))
    anchors = set(re.findall(r'id="(canfar_batch[\w.]*)"', pages))
    for name in set(canfar_batch.__all__) - {"__version__", *vars(canfar_batch.errors)}:
        value = getattr(canfar_batch, name)
        assert f"canfar_batch.{name}" in anchors, name
        if inspect.isclass(value):
            methods = [what for member, what in vars(value).items() if not member.startswith("_")]
            for method in {what.__name__ for what in methods if inspect.isfunction(what)}:
                assert f"canfar_batch.{name}.{method}" in anchors, f"{name}.{method}"
    for module in (inside, templates):
        assert {f"{module.__name__}.{name}" for name in module.__all__} <= anchors


def test_comments_of_fields_are_in_the_reference(site):
    assert (
        "by id; none if the platform itself reported" in plain((site / "reference/protocols.html").read_text()).lower()
    )
    assert "file cache included: an upper bound" in plain((site / "reference/records.html").read_text())


def test_the_reference_shows_the_signature_of_a_strategy(site):
    strategies = plain((site / "reference/strategies.html").read_text())
    assert "Chunks(size: int, pause: float = 30.0)" in " ".join(strategies.split())


def test_every_public_name_has_a_page_in_the_reference():
    shown = {name for page in (DOCS / "reference").glob("*.md") for name in SHOWN.findall(page.read_text())}
    wanted = {f"canfar_batch.{name}" for name in canfar_batch.__all__ if name not in vars(canfar_batch.errors)}
    assert wanted - {"canfar_batch.__version__"} <= shown  # errors.md shows the module of the errors
    listed = text("reference/index.md")
    assert [name for name in canfar_batch.__all__ if not re.search(rf"\b{name}\b", listed)] == []


def test_every_name_in_the_reference_has_a_docstring():
    for page in (DOCS / "reference").glob("*.md"):
        for name in SHOWN.findall(page.read_text()):
            module, _, last = name.rpartition(".")
            try:
                value = importlib.import_module(name)
            except ModuleNotFoundError:
                value = getattr(importlib.import_module(module), last)
            documented = inspect.ismodule(value) or inspect.isclass(value) or inspect.isroutine(value)
            assert inspect.getdoc(value if documented else type(value)), name


def test_the_diagram_of_a_jobs_life_agrees_with_the_code():
    drawing = runpy.run_path(str(DOCS / "make_lifecycle.py"))
    assert (DOCS / "explanation/lifecycle.svg").read_text() == drawing["svg"](), "run python docs/make_lifecycle.py"


def test_the_table_of_layers_agrees_with_the_contracts():
    made = runpy.run_path(str(DOCS / "make_layers.py"))
    (written,) = made["BLOCK"].findall(text("explanation/layers.md"))
    assert written == made["block"](), "run python docs/make_layers.py"


def test_every_layer_has_a_sentence():
    made = runpy.run_path(str(DOCS / "make_layers.py"))
    names = [name for layer in made["layers"]() for name in layer]
    assert {"session", "engine", "errors"} <= set(names)
    assert [name for name in names if not made["sentence"](name).endswith(".")] == []


@pytest.mark.parametrize("page", ["docs/explanation/layers.md", "CONTRIBUTING.md"])
def test_every_file_that_answers_a_question_exists(page):
    named = re.findall(r"`([\w/-]+\.py)`", (ROOT / page).read_text())
    assert len(named) > 10
    places = (ROOT / "canfar_batch", ROOT)
    assert [name for name in named if not any((place / name).is_file() for place in places)] == []


def test_the_diagram_covers_every_event():
    drawing = runpy.run_path(str(DOCS / "make_lifecycle.py"))
    assert {type(event) for event in drawing["events"]()} == set(lifecycle.ALLOWED)


@pytest.mark.parametrize("page", ["explanation/lifecycle.md", "glossary.md"])
def test_every_state_is_explained(page):
    assert [state.name for state in records.JobState if state.name not in text(page)] == []


def test_every_class_of_failure_is_in_troubleshooting():
    page = text("troubleshooting.md")
    rows = {f"`{kind.label}` (`{name}`)" for name, kind in KINDS.items() if name != "ExitCode"}
    assert sorted(row for row in rows if row not in page) == []
    labels = [
        f"`{kind.label}`" for name, kind in KINDS.items() if name in ("OutOfMemory", "Killed", "Lost", "Unwatched")
    ]
    assert [label for label in labels if label not in page] == []


GUIDE = """
    Batch processing overview; Quick start; 1. Prepare your script; 2. Launch headless job; 3. Monitor job status;
    Common batch workflows; 1. Single file processing; 2. Parallel processing of multiple files;
    3. Parameter sweep jobs; Job monitoring and management; Monitor job progress; Collect job results; Best practices;
    Script design; Resource management; Error handling; Job templates; Basic processing template;
    Machine learning training template; Troubleshooting; Common issues; Debugging tips; Getting help;
    Before contacting support; Contact information; What to include in support requests
"""


def headings(page):
    return re.findall(r"^##+ (.+)$", re.sub(r"```.*?```", "", text(page), flags=re.DOTALL), re.MULTILINE)


def test_the_guides_headings_are_kept_in_order():
    assert headings("howto/from-the-guide.md") == [" ".join(each.split()) for each in GUIDE.split(";")]
    rows = ["Jobs stuck in pending", "Jobs failing immediately", "Slow job performance", "Out of storage space"]
    assert [row for row in headings("troubleshooting.md") if row in rows] == rows


def test_the_page_from_the_guide_is_in_the_tabs(site):
    for page in ("index.html", "reference/session.html"):
        tabs = (site / page).read_text().partition('class="md-tabs"')[2].partition("</nav>")[0]
        assert "howto/from-the-guide.html" in tabs


def test_every_picture_is_small_and_shown():
    pages = "".join(page.read_text() for page in [ROOT / "README.md", *PAGES])
    for picture in (DOCS / "pictures").iterdir():
        assert picture.stat().st_size < 300_000
        assert f"pictures/{picture.name})" in pages


def test_the_reference_has_every_role(site):
    anchors = set(re.findall(r'id="(canfar_batch[\w.]*)"', (site / "reference/protocols.html").read_text()))
    defined = {name: value for name, value in vars(protocols).items() if value.__class__ is type(protocols.Platform)}
    roles = [name for name, value in defined.items() if value.__module__ == protocols.__name__]
    assert {"LaunchStrategy", "MonitorStrategy", "RetryPolicy", "ResultCollector", "Observer"} <= set(roles)
    assert [role for role in roles if f"canfar_batch.protocols.{role}" not in anchors] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_a_page_has_one_title(page):
    prose = re.sub(r"```.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert len(re.findall(r"^# ", prose, re.MULTILINE)) == 1
