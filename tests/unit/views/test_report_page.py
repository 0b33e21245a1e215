"""The report as one HTML file."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import attrs
import pytest
from made import NOON, SPEC, after, attempt, job

from canfar_batch.failures import ExitCode, OutOfMemory
from canfar_batch.views import html, report_page
from canfar_batch.views.report import Report

EVIL = "</script><script>alert('x')</script><!--"
ORIGIN = report_page.Provenance(platform="https://ws-uv.canfar.net/skaha", user="me", created=NOON)


def render(*jobs, name="calib", now=3600.0, **more) -> str:
    report = Report.of(name, jobs, home=Path("/arc/home/me/batches/calib"), now=after(now))
    return report_page.render(report, jobs, origin=ORIGIN, **more)


def data(source: str) -> dict:
    """The data of the table, as a browser would read it."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', source, re.DOTALL)[1])


def column(source: str, id: str) -> list:
    (found,) = (column for column in data(source)["columns"] if column["id"] == id)
    return [found["words"][value] for value in found["values"]] if "words" in found else found["values"]


# -- safety -------------------------------------------------------------------------------------------------------


def test_the_data_can_neither_end_its_element_nor_begin_a_comment():
    source = render(job(EVIL, attempt(failure=ExitCode(1, message=EVIL)), fields={"path": EVIL}), name="calib")
    assert column(source, "key") == [EVIL]
    assert source.count("</script>") == 2
    assert "<!--" not in source


def test_nothing_is_loaded_and_only_the_pages_own_script_may_run():
    source = render(job("a", attempt()))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', source)[1]
    script = re.search(r"<script>(.*?)</script>", source, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy
    assert not re.search(r"""(?:src|href)=["']?(?:https?:|//)|@import|\bon\w+=["']""", source)


def test_secrets_are_masked_everywhere(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("Authorization: Bearer abc.def\n")
    spec = attrs.evolve(SPEC, env={"MY_TOKEN": "t0ken", "MODE": "fast"}, cmd="run --password hunter2 {path}")
    bad = attrs.evolve(attempt(failure=ExitCode(1, message="api_key=k3y refused")), log=log)
    source = render(attrs.evolve(job("a", bad), spec=spec))
    for secret in ("t0ken", "hunter2", "abc.def", "k3y"):
        assert secret not in source
    assert "MY_TOKEN=[secret]" in source
    assert "MODE=fast" in source


def test_text_that_is_not_unicode_is_written():
    render(job("a", attempt(), fields={"path": "bad\udcff.fits"})).encode()


def test_characters_that_reverse_text_are_left_out():
    source = render(job("a", attempt(failure=ExitCode(1, message="\u202egnp.exe")), fields={"path": "\u2067x\x00y"}))
    assert column(source, "path") == ["x y"]
    assert column(source, "message") == ["gnp.exe"]
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00]|\\\\u20[26]", source)


def test_numbers_that_json_cannot_hold_are_left_out():
    source = render(job("a", attempt(), fields={"x": float("nan")}), job("b", attempt(), fields={"x": float("inf")}))
    assert data(source)["count"] == 2


# -- content ------------------------------------------------------------------------------------------------------


def test_numbers_that_a_browser_would_round_are_text():
    ids = [4472832130942575104, 4472832130942575105]
    fields = [{"source": id, "ra": 150.11917432, "n": 3} for id in ids]
    source = render(*(job(f"{n}", attempt(), fields=one) for n, one in enumerate(fields)))
    assert column(source, "source") == [str(id) for id in ids]
    assert column(source, "ra") == [150.11917432] * 2
    assert column(source, "n") == [3, 3]


def test_unfinished_jobs_wait_and_run_until_the_page_was_made():
    pending = attrs.evolve(attempt(ran=None), started_at=None, receipt=None)
    source = render(job("a", pending), job("b", attempt(waited=10, ran=None)), now=100)
    assert (column(source, "wait_seconds"), column(source, "run_seconds")) == ([100, 10], [None, 90])


def test_the_table_has_every_job_in_plan_order():
    jobs = [job(f"obs-{n}", attempt(), fields={"sigma": n / 2}) for n in range(250)]
    source = render(*jobs)
    assert column(source, "key") == [j.key for j in jobs]
    assert column(source, "sigma")[:3] == [0, 0.5, 1]
    assert (
        source.count('<th scope="row"') == report_page.FIRST + 1
    )  # the first rows need no script; one is of resources


def test_repeated_texts_are_stored_once():
    source = render(*(job(f"obs-{n}", attempt()) for n in range(250)))
    (state,) = (c for c in data(source)["columns"] if c["id"] == "state")
    assert state["words"] == ["succeeded"]


def test_failures_are_listed_by_cause_with_the_end_of_a_log(tmp_path):
    log = tmp_path / "a.log"
    lines = "\n".join(f"line {n}" for n in range(100))
    bad = attrs.evolve(attempt(failure=OutOfMemory(message="8 GiB were not enough")), log=log)
    source = render(job("a", bad), job("b", bad), job("c", attempt()), logs={log: lines})
    assert re.search("<h3>2 . out of memory</h3>", source)
    assert "8 GiB were not enough" in source
    assert "line 98\nline 99</pre>" in source
    assert "line 50\n" not in source
    assert column(source, "cause") == ["out of memory", "out of memory", None]


def test_a_log_that_is_not_on_this_machine_is_left_out():
    bad = attrs.evolve(attempt(failure=ExitCode(1)), log=Path("/nowhere/a.log"))
    assert "exit code 1</h3>" in render(job("a", bad))


def test_a_result_that_was_not_collected_is_listed():
    source = render(job("a", attempt(), collect_error="no cat/a.cat"))
    assert "result not collected" in source
    assert column(source, "cause") == ["result not collected"]


def test_resources_have_a_suggestion():
    assert "ram=4 would do" in render(*(job(f"a{n}", attempt(peak=3.0)) for n in range(3)))


def test_the_page_says_where_it_comes_from():
    source = render(job("a", attempt()))
    for shown in ("https://ws-uv.canfar.net/skaha", "python fit.py {path}", "images.canfar.net/skaha/astroml:latest",
                 "canfar_batch ", "2026-11-22 12:00:00 UTC", "/arc/home/me/batches/calib"):  # fmt: skip
        assert shown in source


def test_pages_are_made_of_no_jobs_and_of_jobs_that_never_ran():
    assert data(render())["count"] == 0
    assert "Nothing was launched yet" in render(job("a"), job("b"))


def test_empty_columns_are_left_out():
    names = [c["id"] for c in data(render(job("a"), job("b")))["columns"]]
    assert "peak_ram" not in names
    assert {"key", "state", "cause"} <= set(names)


def test_ten_thousand_jobs_make_a_file_that_can_be_mailed():
    jobs = [job(f"obs-{n:05d}", attempt(begun=n)) for n in range(10_000)]
    assert len(render(*jobs, now=1e5)) < 1_200_000


# -- how it can be read -------------------------------------------------------------------------------------------


def test_the_page_has_a_language_a_title_and_labels():
    source = render(job("a", attempt()))
    assert '<html lang="en">' in source
    assert "<title>calib: report</title>" in source
    assert source.count("<h1>") == 1
    assert 'aria-sort="none"' in source
    for label in re.findall(r'<label for="(\w+)"', source):
        assert f'id="{label}"' in source
    for id in re.findall(r'aria-labelledby="([\w-]+)"', source):
        assert f'id="{id}"' in source


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("colours", [html.LIGHT, html.DARK], ids=["light", "dark"])
@pytest.mark.parametrize("ground", ["ground", "raised"])
def test_text_stands_out_from_its_ground(colours, ground: str):
    for ink in ("ink", "faint", "accent", "bad"):
        assert contrast(colours[ink], colours[ground]) >= 4.5, ink
