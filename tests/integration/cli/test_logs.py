"""The logs of jobs."""

from __future__ import annotations

from integration.cli.conftest import IMAGE, ON_THIS_MACHINE, Command


def test_logs_are_the_jobs_own_bytes(there: Command):
    assert there("logs", "count", "a").out == ""
    assert "Is a directory" in there("logs", "count", "c").out or "read error" in there("logs", "count", "c").out
    assert there("logs", "count", "c", "--json").json["attempt"] == 1


def test_the_end_of_a_log(command: Command):
    command("run", "long", *IMAGE, *ON_THIS_MACHINE, "--", "seq", "1", "9")
    assert command("logs", "long", "--tail", "2").out == "8\n9\n"
    assert command("logs", "long", "--tail", "0").out == ""


def test_the_logs_of_all_failed_jobs_are_shown_under_their_keys(command: Command):
    words = ["--grid", "n=1,2,3", "--key", "k{n}", "--", "sh", "-c", "seq 100; echo no {n}; exit {n}"]
    command("run", "bad", *IMAGE, *ON_THIS_MACHINE, *words)
    out = command("logs", "bad", "--failed", "--tail", "2").out
    assert out == "".join(f"==> k{n} (attempt 1: exit code {n}) <==\n100\nno {n}\n" for n in (1, 2, 3))
    assert [row["log"] for row in command("logs", "bad", "--failed", "--tail", "1", "--json").json] == [
        "no 1\n", "no 2\n", "no 3\n",
    ]  # fmt: skip


def test_following_a_final_job_prints_its_log(there: Command):
    assert there("logs", "count", "c", "-f").out == there("logs", "count", "c").out != ""


def test_an_unknown_attempt_is_an_error(there: Command):
    assert "job c has no attempt 7; it has 1" in there("logs", "count", "c", "--attempt", "7").err
