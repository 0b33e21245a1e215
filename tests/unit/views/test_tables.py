"""Rows, and tables of them: text, CSV, a DataFrame and an astropy Table."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import after, attempt, job

from canfar_batch.errors import ExtraMissing
from canfar_batch.failures import ExitCode, Killed, Lost
from canfar_batch.text import printable
from canfar_batch.views.tables import UNITS, overview, text_table, to_csv, to_dataframe, to_rows, to_table
from canfar_batch.views.terminal import clip, width, wrapped

DONE = job("obs-1", attempt(waited=20, ran=600))
BAD = job("obs-2", attempt(failure=ExitCode(2, message="no such option")))
NEXT = job("obs-3")


# -- rows ---------------------------------------------------------------------------------------------------------


def test_a_row_holds_all_facts_about_a_job():
    (row,) = to_rows([DONE])
    assert row == {
        "key": "obs-1", "path": "obs-1.fits", "state": "succeeded", "attempt": 1, "exit_code": 0, "cause": None,
        "message": None, "inferred": None, "warning": None,
        "restarts": 0, "lost_seconds": 0.0, "launched_at": after(0), "started_at": after(20), "finished_at": after(620),
        "wait_seconds": 20.0, "run_seconds": 600.0, "cores": 2, "ram": 8, "gpus": None, "peak_ram": 3.1,
        "cpu_seconds": 600.0, "host": "node-1", "id": "id1", "launch_name": "cb-1-0",
    }  # fmt: skip


def test_rows_are_in_plan_order_and_have_the_same_columns():
    rows = to_rows([job("b", fields={"sigma": 1}), job("a", attempt(), fields={"path": "x"}, result=3)])
    assert [row["key"] for row in rows] == ["b", "a"]
    assert {tuple(row) for row in rows} == {tuple(rows[0])}
    assert (rows[0]["path"], rows[1]["sigma"], rows[0]["result"]) == (None, None, None)


def test_a_job_that_was_never_launched_has_no_times():
    (row,) = to_rows([NEXT])
    assert (row["attempt"], row["launched_at"], row["wait_seconds"], row["id"]) == (0, None, None, None)


def test_a_row_says_why_a_job_failed():
    (row,) = to_rows([BAD])
    assert (row["exit_code"], row["cause"], row["message"]) == (2, "exit code 2", "no such option")


def test_a_row_warns_of_a_success_and_counts_lost_runs():
    killed = attrs.evolve(DONE.attempts[-1].receipt, oom_kills=2)
    interrupted = attrs.evolve(DONE.attempts[-1], receipt=killed, restarts=3, lost_seconds=90.0)
    (row,) = to_rows([job("a", interrupted)])
    assert row["warning"] == "2 of its processes were killed for lack of memory"
    assert (row["restarts"], row["lost_seconds"]) == (3, 90.0)
    assert "2 of its processes" in text_table([row], 200)


def test_a_row_says_why_a_result_is_missing():
    (row,) = to_rows([job("a", attempt(), collect_error="no cat/a.cat")])
    assert row["message"] == "no cat/a.cat"


def test_a_field_that_is_called_like_a_column_gets_a_prefix():
    (row,) = to_rows([job("a", fields={"state": "Ontario", "id": 7, "field_id": 8})])
    assert (row["field_state"], row["state"]) == ("Ontario", "planned")
    assert (row["field_id"], row["field_field_id"], row["id"]) == (7, 8, None)


def test_results_that_are_single_values_have_columns():
    rows = to_rows([job("a", attempt(), result=2.5), job("b", attempt(), result={"flux": 1.5, "list": [1, 2]})])
    assert [row["result"] for row in rows] == [2.5, None]
    assert [row["result_flux"] for row in rows] == [None, 1.5]
    assert "result_list" not in rows[0]


def test_a_result_that_is_a_path_is_text_in_a_row():
    (row,) = to_rows([job("a", attempt(), result=Path("cat/a.cat"))])
    assert row["result"] == "cat/a.cat"


def test_a_result_and_a_field_of_one_name_have_two_columns():
    (row,) = to_rows([job("a", attempt(), fields={"result": "wanted"}, result="got")])
    assert (row["result"], row["result_result"]) == ("wanted", "got")


# -- CSV ----------------------------------------------------------------------------------------------------------


def read(table: str) -> io.StringIO:
    return io.StringIO(table, newline="")


def test_csv_has_a_heading_and_reads_back():
    jobs = [job("a", attempt(), fields={"path": 'we "love", FITS\n', "box": [1, 2]}), NEXT]
    rows = list(csv.DictReader(read(to_csv(jobs))))
    assert rows[0]["path"] == 'we "love", FITS\n'
    assert rows[0]["box"] == "[1, 2]"
    assert rows[0]["launched_at"] == "2026-11-22T12:00:00+00:00"
    assert rows[1]["exit_code"] == ""


def test_csv_keeps_file_names_that_are_not_text():
    assert "caf\udce9.fits" in to_csv([job("a", fields={"path": "caf\udce9.fits"})])


@pytest.mark.parametrize(
    "formula",
    [
        "=cmd()",
        "=1+1",
        "=cmd|' /C calc'!A0",
        "@SUM(1)",
        "+cmd|' /C calc'!A0",
        "-2+3+cmd|' /C calc'!A0",
        "\t=1+1",
        " =1+1",
    ],
)
def test_csv_holds_no_formulas_whatever_jobs_print(formula: str):
    end = attempt(failure=ExitCode(1, message=formula))
    jobs = [job("a", end, fields={formula: formula}, result={formula: formula})]
    heading, row = csv.reader(read(to_csv(jobs)))
    assert [cell for cell in (*heading, *row) if formula.strip() in cell] == [
        "'" + formula, "result_" + formula, "'" + formula, "'" + formula.strip(), "'" + formula,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "value", ["-12:34:56.7", "+41:16:09", "-5", "-1e-3", "@list.txt", "+x", "-v", "a=b", "", "'q'"]
)
def test_csv_leaves_coordinates_numbers_and_options_as_they_are(value: str):
    (row,) = csv.DictReader(read(to_csv([job("a", fields={"x": value, "y": -2.5})])))
    assert (row["x"], row["y"]) == (value, "-2.5")


def test_csv_can_be_written_whatever_a_result_holds():
    odd = [None, True, 2**70, float("nan"), "\ud800x", {"k": ["\udfff"]}, ("x",), "\x00", '星,\n;"q"', ""]
    jobs = [job(f"{n}", attempt(), fields={"v": value}, result=value) for n, value in enumerate(odd)]
    to_csv(jobs).encode("utf-8", "surrogateescape")
    values = [row["v"] for row in csv.DictReader(read(to_csv(jobs)))]
    assert values == [
        "", "True", str(2**70), "nan", "\ufffdx", '{"k": ["\ufffd"]}', '["x"]', "\ufffd", "星,\n;\"q\"", "",
    ]  # fmt: skip


def test_csv_of_no_jobs_is_a_heading():
    assert to_csv([]).splitlines() == [",".join(UNITS)]


# -- pandas and astropy -------------------------------------------------------------------------------------------


def test_a_dataframe_keeps_whole_numbers_whole_and_times_in_utc():
    frame = to_dataframe([DONE, BAD, NEXT])
    assert frame["exit_code"].dtype == "Int64"
    assert list(frame["exit_code"].fillna(-1)) == [0, 2, -1]
    assert str(frame["started_at"].dt.tz) == "UTC"
    assert frame["wait_seconds"].sum() == 30.0
    assert frame.query("state == 'failed'")["key"].tolist() == ["obs-2"]


IDS = (4472832130942575104, 4472832130942575105)  # identifiers of Gaia: a float would change their last digits


def test_integers_of_19_digits_stay_exact_if_one_is_missing():
    jobs = [job(f"{n}", attempt(), fields={"id_": id}, result={"source": id}) for n, id in enumerate(IDS)]
    jobs.append(job("failed", attempt(failure=ExitCode(1)), fields={"id_": None}))
    frame = to_dataframe(jobs)
    for column in ("id_", "result_source"):
        assert frame[column].dtype == "Int64"
        assert frame[column].dropna().tolist() == list(IDS)
        assert to_table(jobs)[column].tolist() == [*IDS, None]
    assert [row["result_source"] for row in csv.DictReader(read(to_csv(jobs)))] == [*map(str, IDS), ""]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1, None], "Int64"),
        ([2**70, None], "object"),
        ([True, None], "boolean"),
        ([True, False], "bool"),
        ([1, 0.5, None], "float64"),
        ([2**53 + 1, 0.5], "object"),
        (["a", 1], "object"),
        ([None, None], "object"),
    ],
)
def test_the_columns_of_a_dataframe_keep_every_value(values: list, dtype: str):
    column = to_dataframe([job(f"{n}", fields={"v": value}) for n, value in enumerate(values)])["v"]
    assert column.dtype == dtype
    kept = column.astype("object")
    assert kept.where(kept.notna(), None).tolist() == values


def test_numbers_of_numpy_are_single_values():
    numpy = pytest.importorskip("numpy")
    result = {"n": numpy.int64(IDS[0]), "flux": numpy.float32(1.5), "ok": numpy.bool_(True), "x": numpy.zeros(3)}
    result |= {"one": numpy.array(2), "long": numpy.longdouble(0.5)}
    (row,) = to_rows([job("a", attempt(), result=result)])
    found = {name: row[f"result_{name}"] for name in ("n", "flux", "ok", "one", "long")}
    assert found == {"n": IDS[0], "flux": 1.5, "ok": True, "one": 2, "long": 0.5}
    assert {type(value) for value in found.values()} == {int, float, bool}
    assert "result_x" not in row


def test_secrets_in_messages_are_masked_in_rows():
    (row,) = to_rows([job("a", attempt(failure=ExitCode(1, message="api_key=k3y refused")))])
    assert row["message"] == "api_key=[secret] refused"


def test_an_inferred_cause_is_marked():
    jobs = [job("a", attempt(failure=Killed(inferred=True))), job("b", attempt(failure=Lost(inferred=True)))]
    assert [row["inferred"] for row in to_rows(jobs)] == [True, False]  # "lost" names nothing that may be wrong
    assert "killed (inferred)" in text_table(to_rows(jobs), 120)
    assert "lost (inferred)" not in text_table(to_rows(jobs), 120)


def test_a_dataframe_of_jobs_that_never_began_can_be_counted_with():
    frame = to_dataframe([NEXT])
    assert frame["run_seconds"].dtype == "float64"
    assert frame["started_at"].isna().all()


def test_a_dataframe_of_no_jobs_has_all_columns():
    assert list(to_dataframe([]).columns) == list(UNITS)


def test_a_table_has_units_and_masks_what_is_missing():
    units = pytest.importorskip("astropy.units")
    table = to_table([DONE, NEXT])
    assert table["peak_ram"].unit == units.GiB
    assert table["run_seconds"].quantity[0].to_value(units.min) == 10.0
    assert list(table["run_seconds"].mask) == [False, True]
    assert table["exit_code"].dtype.kind == "i"
    assert table["finished_at"][0].isot == "2026-11-22T12:10:20.000"
    assert list(table["finished_at"].mask) == [False, True]


def test_a_table_keeps_integers_of_19_digits_beside_other_numbers():
    pytest.importorskip("astropy.table")
    large = 4472832130942575104
    mixed = to_table([job(f"k{place}", attempt(), fields={"n": n}) for place, n in enumerate([large, 1.5, None])])
    assert list(mixed["n"][:2]) == [str(large), "1.5"]
    whole = to_table([job(f"k{place}", attempt(), fields={"n": n}) for place, n in enumerate([large, None])])
    assert int(whole["n"][0]) == large


def test_a_table_goes_through_a_file_unharmed(tmp_path: Path):
    table_module = pytest.importorskip("astropy.table")
    jobs = [DONE, BAD, job("x", attempt(), fields={"path": "ü", "box": [1, 2]}, result={"flux": 1.5})]
    to_table(jobs).write(tmp_path / "jobs.ecsv")
    back = table_module.Table.read(tmp_path / "jobs.ecsv")
    assert list(back["key"]) == ["obs-1", "obs-2", "x"]
    assert back["result_flux"][2] == 1.5
    assert back["box"][2] == "[1, 2]"


def test_a_table_of_no_jobs_has_all_columns():
    assert to_table([]).colnames == list(UNITS)


@pytest.mark.parametrize(("make", "library"), [(to_dataframe, "pandas"), (to_table, "astropy")])
def test_a_missing_library_is_named_with_the_extra_that_brings_it(make, library, monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ExtraMissing, match=rf'needs {library}: pip install {library} .*extra "tables"'):
        make([DONE])


# -- text ---------------------------------------------------------------------------------------------------------


def test_a_text_table_shows_the_most_important_columns():
    lines = text_table(to_rows([DONE, BAD])).splitlines()
    assert lines[0].split() == ["key", "state", "attempt", "waited", "ran", "peak", "code", "cause"]
    assert " ".join(lines[2].split()) == "obs-2 failed 1 10 s 10 min 3.1 GiB 2 exit code 2"


def test_a_text_table_shows_the_columns_that_are_asked_for():
    assert text_table(to_rows([DONE]), names=["path", "state"]).split() == ["path", "state", "obs-1.fits", "succeeded"]


def test_a_text_table_of_nothing_is_empty():
    assert text_table([]) == ""


def test_a_narrow_terminal_is_shown_fewer_columns():
    lines = text_table(to_rows([DONE, BAD]), width=40).splitlines()
    assert lines[0].split() == ["key", "state", "ran", "cause"]
    assert all(len(line) <= 40 for line in lines)


@given(st.lists(st.text(max_size=60), min_size=1, max_size=5), st.integers(40, 200))
def test_a_text_table_fits_the_terminal_whatever_is_in_it(texts: list[str], columns: int):
    jobs = [job(f"{n}", attempt(failure=ExitCode(1)), fields={"path": text}) for n, text in enumerate(texts)]
    lines = text_table(to_rows(jobs), columns, names=["key", "path", "state", "cause"]).splitlines()
    assert len(lines) == len(texts) + 1
    assert all(width(line) <= columns for line in lines)


def test_an_overview_of_many_jobs_lists_failures_first():
    jobs = [*(job(f"ok-{n}", attempt()) for n in range(50)), NEXT, job("runs", attempt(ran=None)), BAD]
    lines = overview(jobs, at_most=4).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["obs-2", "runs", "obs-3", "ok-0", "..."]
    assert lines[-1] == "... and 49 more"


def test_an_overview_of_few_jobs_keeps_their_order():
    assert [line.split()[0] for line in overview([NEXT, DONE, BAD]).splitlines()[1:]] == ["obs-3", "obs-1", "obs-2"]


def test_wide_characters_take_two_columns_and_marks_none():
    assert width("星") == 2
    assert width("e\u0301") == 1
    assert clip("星星星", 5) == "星..."
    assert clip("abc", 2) == ".."
    assert clip("abc", 0) == ""


def test_printable_text_is_one_line_without_escapes():
    assert printable("a\r\nb\tc\x1b[2Jd\x1b]0;title\x07e") == "a b cde"


@given(st.text(max_size=400), st.integers(10, 100))
def test_wrapped_lines_fit_and_lose_nothing(text: str, columns: int):
    text = printable(text)
    lines = wrapped(text, columns, first="- ", rest="  ")
    assert all(width(line) <= columns for line in lines)
    assert "".join(line[2:] for line in lines).replace(" ", "") == text.replace(" ", "")
