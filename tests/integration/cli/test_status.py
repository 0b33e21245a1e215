"""States, failures and reports, read without a connection."""

from __future__ import annotations

from pathlib import Path

from integration.cli.conftest import IMAGE, ON_THIS_MACHINE, Command


def test_the_jobs_of_a_batch_are_listed(there: Command):
    lines = there("ls", "count").out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["a", "succeeded"], ["b", "succeeded"], ["c", "failed"]]
    assert [row["path"] for row in there("ls", "count", "--json").json] == ["a.txt", "b.txt", "c.txt"]


def test_status_counts_jobs_and_lists_failures(there: Command):
    ended = there("status", "count")
    assert ended.code == 1
    assert ended.out.startswith("batch count: 3 jobs (2 succeeded, 1 failed)\n")
    assert ended.out.splitlines()[2].startswith("next: fix the cause, then: canfar-batch retry count")
    assert [line.split()[0] for line in ended.out.splitlines()[3:]] == ["key", "c"]
    data = there("status", "count", "--json").json
    assert (data["done"], data["ok"], data["driver"], data["platform"]) == (True, False, None, "local")


def test_status_of_a_job_explains_it(there: Command):
    assert (there("status", "count", "a").code, there("status", "count", "c").code) == (0, 1)
    assert there("status", "count", "c").out.startswith("Job c failed after ")
    assert there("status", "count", "c", "--json").json["cause"] == "exit code 1"


def test_failures_are_listed_by_cause_with_advice(there: Command):
    ended = there("failures", "count")
    assert ended.code == 1
    assert ended.out.startswith("Why 1 job failed:\n  1 x exit code 1 (c)\n")
    (data,) = there("failures", "count", "--json").json
    assert (data["key"], data["class"], data["attempt"]) == ("c", "ExitCode", 1)
    assert Path(data["log"]).exists()


def test_no_failures_are_fine(command: Command):
    command("run", "fine", *IMAGE, *ON_THIS_MACHINE, "--", "true")
    assert (command("failures", "fine").code, command("failures", "fine").out) == (0, "nothing failed\n")
    assert command("failures", "fine", "--json").json == []


def test_the_report_is_printed_later(there: Command):
    ended = there("report", "count")
    assert ended.code == 1
    assert ended.out.startswith("Batch count: 3 jobs in ")
    assert there("report", "count", "--json").json["counts"] == {"succeeded": 2, "failed": 1}


def test_the_report_is_written_as_a_page(there: Command, ran: Path, tmp_path: Path):
    ended = there("report", "count", "--html", tmp_path / "page.html")
    assert (ended.code, ended.out) == (1, f"{tmp_path}/page.html\n")
    assert "<title>count: report</title>" in (tmp_path / "page.html").read_text()
    assert there("report", "count", "--json", "--html").json == {"path": str(ran / "batches/count/report.html")}


def test_advice_names_commands_and_not_calls(command: Command):
    ended = command("run", "bad", *IMAGE, *ON_THIS_MACHINE, "--range", "n=0:20", "--window", "2", "--", "false", "{n}")
    assert ended.code == 1
    assert "Fix the cause, then run this command again, changed if need be, or canfar-batch retry bad" in ended.err
    ended = command("run", "some", *IMAGE, *ON_THIS_MACHINE, "--range", "n=0:2", "--", "test", "{n}", "-eq", "0")
    assert "canfar-batch retry some launches it again" in " ".join(ended.out.split())
    assert "retry_failed" not in ended.out + ended.err
