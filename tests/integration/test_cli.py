"""The command line, from planning to reports; most commands need no connection."""

from __future__ import annotations

import argparse
import contextlib
import csv
import errno
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from canfar_batch import cli
from canfar_batch.local import LocalPlatform
from canfar_batch.rest.transport import Timeouts

IMAGE = ["--image", "skaha/astroml:latest"]
ON_THIS_MACHINE = ["--url", "local", "--quiet"]


@attrs.frozen
class Ended:
    """A command's exit code and output."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Ended]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs one command in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("CANFAR_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", ["canfar-batch"])

    def run(*words: object) -> Ended:
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else -1
        return Ended(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a batch that ran: two files were counted, and one could not be."""
    folder = tmp_path_factory.mktemp("ran")
    for name, text in (("a", "1\n"), ("b", "1\n2\n")):
        (folder / f"{name}.txt").write_text(text)
    (folder / "c.txt").mkdir()
    words = [*IMAGE, *ON_THIS_MACHINE, "--each", "path=*.txt", "--key", "{path.stem}", "--output", "{path.stem}.n"]
    done = process(folder, "run", "count", *words, "--shell", "--", "wc -l < {path} > {path.stem}.n")
    assert done.communicate(timeout=60)[1] == ""
    assert done.returncode == cli.SOME_FAILED
    return folder


def process(folder: Path, *words: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """The command as a process of its own. Its home may be in a temporary folder, which is refused otherwise."""
    start = (
        "import sys; from canfar_batch import cli; from canfar_batch.store import home; "
        "home.Home.refuse_if_fleeting = lambda self: None; "
        "sys.argv[0] = 'canfar-batch'; sys.exit(cli.main())"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CANFAR_")}
    return subprocess.Popen(
        [sys.executable, "-c", start, *words],
        cwd=folder, env={**clean, **(env or {})}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.fixture
def there(ran: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs one command where a batch ran, without any connection."""
    monkeypatch.chdir(ran)
    monkeypatch.setattr("canfar_batch.session.Session.connect", lambda *_: pytest.fail("this needs no connection"))
    return command


# -- running ------------------------------------------------------------------------------------------------------


def test_one_job_without_fields(command: Command):
    ended = command("run", "one", *IMAGE, *ON_THIS_MACHINE, "--", "echo", "hello  world")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("Batch one: 1 job in ")
    assert command("logs", "one").out == "hello  world\n"


def test_a_command_of_one_word_is_split_and_one_of_several_is_not(command: Command):
    command("run", "split", *IMAGE, *ON_THIS_MACHINE, "--", "printf '%s|' 'a b' c")
    command("run", "whole", *IMAGE, *ON_THIS_MACHINE, "--", "printf", "%s|", "a b", "it's")
    assert command("logs", "split").out == "a b|c|"
    assert command("logs", "whole").out == "a b|it's|"


def test_the_same_command_again_does_nothing_twice(command: Command):
    words = ["run", "once", *IMAGE, *ON_THIS_MACHINE, "--grid", "n=1,2", "--", "sh", "-c", "echo {n} >> runs"]
    assert [command(*words).code, command(*words).code] == [0, 0]
    assert sorted(Path("runs").read_text().split()) == ["1", "2"]


def test_the_name_alone_resumes_a_batch(command: Command):
    command("run", "again", *IMAGE, *ON_THIS_MACHINE, "--", "echo", "hello")
    ended = command("run", "again", *ON_THIS_MACHINE)
    assert ended.code == 0
    assert "1 succeeded" in ended.out


def test_each_row_of_a_table_is_a_job_and_its_text_arrives_as_it_is(command: Command):
    with open("table.csv", "w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["name", "z"], ["M 31", "0.10"], ['say "ä"', "1e3"]])
    words = [*IMAGE, *ON_THIS_MACHINE, "--rows", "table.csv", "--key", "job-{index}"]
    assert command("run", "rows", *words, "--", "printf", "%s", "{name}:{z}").code == 0
    assert [command("logs", "rows", f"job-{n}").out for n in (0, 1)] == ["M 31:0.10", 'say "ä":1e3']


def test_a_table_that_astropy_reads_has_jobs_too(command: Command):
    table = pytest.importorskip("astropy.table").Table({"name": ["a", "b"], "z": [1, 2]})
    table.write("table.ecsv")
    ended = command("run", "x", *IMAGE, "--rows", "table.ecsv", "--preview", "--json", "--", "echo {name} {z}")
    assert [job["argv"] for job in ended.json] == [["echo", "a", "1"], ["echo", "b", "2"]]


def test_a_grid_combines_each_with_each(command: Command):
    words = [*IMAGE, "--grid", "t=0.1,0.5", "--grid", "m=gauss,top", "--preview", "--json"]
    ended = command("run", "sweep", *words, "--", "fit", "--t={t}", "{m}")
    told = [job["argv"] for job in ended.json]
    assert told == [["fit", f"--t={t}", m] for t in ("0.1", "0.5") for m in ("gauss", "top")]


def test_ranges_are_whole_numbers_and_combine_with_grids(command: Command):
    words = [*IMAGE, "--range", "seed=8:12:2", "--grid", "m=a,b", "--preview", "--json"]
    ended = command("run", "mocks", *words, "--", "mock", "{seed}", "{m}")
    assert [job["argv"] for job in ended.json] == [["mock", seed, m] for m in "ab" for seed in ("8", "10")]


def test_replicas_differ_in_their_number_alone(command: Command):
    words = [*IMAGE, *ON_THIS_MACHINE, "--replicas", "2", "--", "sh", "-c", "echo $REPLICA_ID of $REPLICA_COUNT"]
    shown = command("run", "twins", "--preview", *words)
    assert "env      REPLICA_ID=2" in shown.out
    assert command("run", "twins", *words).code == 0
    assert [command("logs", "twins", f"replica-{n}").out for n in (1, 2)] == ["1 of 2\n", "2 of 2\n"]


def test_a_preview_remembers_nothing(command: Command):
    ended = command("run", "later", *IMAGE, "--cores", 2, "--preview", "--", "echo", "hello")
    assert ended.code == 0
    assert "command  echo hello" in ended.out
    assert "2 cores" in ended.out
    assert not Path("batches").exists()


def test_variables_workdir_and_outputs_are_passed_on(command: Command):
    words = ["--env", "A=1=2", "--env", "B=", "--workdir", "sub", "--output", "{key}.out", "--timeout", "60"]
    Path("sub").mkdir()
    ended = command(
        "run", "env", *IMAGE, *ON_THIS_MACHINE, *words, "--", "sh", "-c", 'echo "$A,$B" > "$CANFAR_BATCH_KEY".out'
    )
    assert ended.code == 0, "{key} is filled in without other fields too"
    assert [path.read_text() for path in Path("sub").glob("*.out")] == ["1=2,\n"]


def test_a_secret_is_passed_on_and_not_stored(command: Command, monkeypatch):
    monkeypatch.setenv("MY_KEY", "hush-hush")
    words = [*IMAGE, *ON_THIS_MACHINE, "--secret", "MY_KEY", "--", "sh", "-c", "printf %s $MY_KEY | wc -c"]
    assert command("run", "quiet", *words).code == 0
    assert command("logs", "quiet").out.strip() == "9"
    files = [path for path in Path("batches/quiet").rglob("*") if path.is_file()]
    assert not [path for path in files if b"hush" in path.read_bytes()]
    monkeypatch.delenv("MY_KEY")
    assert "MY_KEY, which a job needs as a Secret, is not set here" in command("run", "later", *words).err


def test_exit_codes_are_retried_only_if_asked(command: Command):
    words = ["--retry", 1, "--", "sh", "-c", "echo x >> tries; exit 3"]
    assert command("run", "no", *IMAGE, *ON_THIS_MACHINE, *words).code == 1
    assert Path("tries").read_text() == "x\n"
    assert command("run", "yes", *IMAGE, *ON_THIS_MACHINE, "--retry-any", *words).code == 1
    assert Path("tries").read_text() == "x\nx\nx\n"


def test_a_batch_whose_first_jobs_fail_alike_stops_with_the_reason(command: Command):
    words = ["--window", 1, "--grid", f"n={','.join(map(str, range(20)))}", "--json"]
    ended = command("run", "alike", *IMAGE, *ON_THIS_MACHINE, *words, "--", "sh", "-c", "exit 3", "{n}")
    assert ended.code == 1
    assert ended.json["counts"]["failed"] in (5, 6)
    assert "all failed alike, so no more are launched: exit code 3" in ended.err


def test_the_report_is_json_if_asked(command: Command):
    ended = command("run", "j", *IMAGE, *ON_THIS_MACHINE, "--json", "--", "true")
    assert (ended.json["ok"], ended.json["counts"], ended.json["attempts"]) == (True, {"succeeded": 1}, 1)


def test_progress_goes_to_standard_error(command: Command):
    ended = command("run", "loud", *IMAGE, "--url", "local", "--json", "--", "true")
    assert ended.json["ok"]
    assert "loud 1/1 | 1 succeeded" in ended.err


# -- mistakes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["run", "x", "--preview", "--", "echo"],
            "no image was given: name one, for example: --image skaha/astroml:latest",
        ),
        (["run", "x", "--preview", *IMAGE], "no command was given: put it after --, for example"),
        (["run", "x", "--preview", *IMAGE, "--", "a > b"], "say shell=True"),
        (["run", "x", "--preview", *IMAGE, "--each", "p=*.fits", "--", "a"], r"no file matches '\*\.fits'; quote"),
        (["run", "x", "--preview", *IMAGE, "--rows", "no.csv", "--", "a"], r"no\.csv cannot be read as a table"),
        (["run", "x", "--preview", *IMAGE, "--grid", "n=1", "--", "a {m}"], "m"),
        (["run", "x", *ON_THIS_MACHINE], "batch 'x' is empty: name what to run"),
        (["run", "../x", *ON_THIS_MACHINE, *IMAGE, "--", "a"], "cannot be a batch's name"),
        (["run", "x", *ON_THIS_MACHINE, *IMAGE, "--ram", "99999", "--", "a"], "ram=99999 is not offered"),
        (["run", "x", "--window", "0"], "'0' is not a whole number of at least 1"),
        (["run", "x", "--env", "A"], "'A' is not NAME=VALUE"),
        (["run", "x", "--rate", "0"], "'0' is not a number above 0"),
        (["run", "x", "--grow-ram", "nan"], "'nan' is not a number above 1"),
        (["run", "x", "--preview", *IMAGE, "--cores", "nan", "--", "a"], "cores=nan is not a positive number"),
        (["run", "x", *ON_THIS_MACHINE, *IMAGE, "--timeout", "nan", "--", "a"], "timeout=nan is not a positive number"),
        (["run", "x", *ON_THIS_MACHINE, *IMAGE, "--grid", "n=1", "--", "a {m}"], "unknown field {m}"),
        (["run", "x", *ON_THIS_MACHINE, *IMAGE, "--grid", "n=1,2", "--key", "k", "--", "a"], "more than one row"),
        (["run", "x", *ON_THIS_MACHINE, *IMAGE, "--secret", "UNSET_IT_IS", "--", "a"], "UNSET_IT_IS"),
        (["run", "x", "--range", "n=5"], "'n=5' is not FIELD=FIRST:END"),
        (["run", "x", "--range", "n=5:5"], "or it has no numbers"),
        (["run", "x", "--range", "n=1:9:0"], "is not FIELD=FIRST:END"),
        (["run", "x", "--preview", *IMAGE, "--grid", "n=1", "--replicas", "2", "--", "a"], "cannot be combined"),
        (["run", "x", "--preview", *IMAGE, "--each", "p=*", "--rows", "t.csv", "--", "a"], "--each and --rows cannot"),
        (["retry", "nope"], "there is no batch in .*nope"),
        (["watch", "nope"], "there is no batch in .*nope"),
        (["cancel", "x", "--timeout", "nan"], "'nan' is not a number of at least 0"),
        (["ls", "--home", "afile"], "afile is not a directory; pass --home DIR"),
        (["status", "nope"], "there is no batch in .*nope"),
        (["report", "nope", "--json"], "there is no batch in .*nope"),
        (["ls", "--", "x"], "only run and start take a command after --"),
        (["run", "x", *IMAGE, "--", "true"], "(?i)credential|login"),
    ],
)
def test_a_mistake_is_reported_in_one_line_with_advice(command: Command, words: Sequence[str], told: str, monkeypatch):
    monkeypatch.setenv("HOME", os.getcwd())
    Path("afile").touch()
    ended = command(*words)
    assert ended.code == 2
    assert ended.out == ""
    last = ended.err.rstrip("\n").splitlines()[-1]
    assert re.match("canfar-batch.*: error: ", last)
    assert re.search(told, last)
    assert "Traceback" not in ended.err
    assert (
        not Path("batches/x").exists() or "--ram" in words
    )  # the platform's limits are checked after the batch was made


def test_a_table_with_a_short_row_is_refused(command: Command):
    Path("t.csv").write_text("a,b\n1,2\n3\n")
    assert "longer or shorter" in command("run", "x", *IMAGE, "--rows", "t.csv", "--preview", "--", "echo {a}").err


@pytest.mark.parametrize("name", ["run", "ls", "status", "watch", "logs", "failures", "retry", "cancel", "report"])
def test_every_command_explains_itself(command: Command, name: str):
    ended = command(name, "--help")
    assert ended.code == 0
    assert "--json" in ended.out
    assert "130 after Ctrl-C" in ended.out


# -- looking, without a connection --------------------------------------------------------------------------------


def test_batches_are_listed(there: Command):
    assert there("ls").out.splitlines() == [
        "batch  jobs  state                  driver", "count     3  2 succeeded, 1 failed",
    ]  # fmt: skip
    (told,) = there("ls", "--json").json
    assert told == {"batch": "count", "jobs": 3, "counts": {"succeeded": 2, "failed": 1}, "driver": None}


def test_a_directory_without_batches_is_named(command: Command, tmp_path: Path):
    assert command("ls", "--home", tmp_path / "nowhere").out == f"no batches in {tmp_path}/nowhere\n"


def test_a_batch_that_cannot_be_read_does_not_hide_the_others(command: Command):
    command("run", "good", *IMAGE, *ON_THIS_MACHINE, "--", "true")
    Path("batches/bad").mkdir()
    Path("batches/bad/ledger.db").write_text("not a ledger")
    ended = command("ls")
    assert ended.code == 0
    assert [line.split()[0] for line in ended.out.splitlines()] == ["batch", "bad", "good"]


def test_a_damaged_batch_does_not_hide_the_others(there: Command, ran: Path, tmp_path: Path):
    shutil.copytree(ran / "batches", tmp_path / "batches")
    shutil.copytree(ran / "batches" / "count", tmp_path / "batches" / "a-copy")
    with contextlib.closing(sqlite3.connect(tmp_path / "batches" / "count" / "ledger.db")) as db, db:
        db.execute("UPDATE job SET state = 'bogus'")
    ended = there("ls", "--home", tmp_path / "batches", "--json")
    assert ended.code == 0
    fine, mangled = ended.json
    assert (fine["jobs"], mangled["jobs"]) == (3, None)
    assert "is damaged" in mangled["error"]
    assert "count         ledger.db is damaged" in there("ls", "--home", tmp_path / "batches").out
    ended = there("status", "count", "--home", tmp_path / "batches")
    assert (ended.code, ended.out) == (2, "")
    assert "ledger.db is damaged" in ended.err


def test_a_batch_without_permission_does_not_hide_the_others(there: Command, ran: Path, monkeypatch):
    (ran / "batches" / "theirs").mkdir(exist_ok=True)
    usual = Path.is_file

    def is_file(path: Path) -> bool:
        if path.parent.name == "theirs":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return usual(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    told = {row["batch"]: row.get("error", "") for row in there("ls", "--json").json}
    assert (told["count"], "Permission denied" in told["theirs"]) == ("", True)


def test_characters_that_the_output_lacks_are_not_an_error(ran: Path):
    words = ["run", "x", *IMAGE, "--preview", "--grid", "n=1,2,3,4", "--", "echo", "\u00e9 {n}"]
    done = process(ran, *words, env={"PYTHONIOENCODING": "ascii"})
    out, err = done.communicate(timeout=60)
    assert (done.returncode, err) == (0, "")
    assert "\\xe9" in out
    assert "... and 1 more" in out


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
    told = there("status", "count", "--json").json
    assert (told["done"], told["ok"], told["driver"], told["platform"]) == (True, False, None, "local")


def test_status_of_a_job_explains_it(there: Command):
    assert (there("status", "count", "a").code, there("status", "count", "c").code) == (0, 1)
    assert there("status", "count", "c").out.startswith("Job c failed after ")
    assert there("status", "count", "c", "--json").json["cause"] == "exit code 1"


def test_logs_are_the_jobs_own_bytes(there: Command):
    assert there("logs", "count", "a").out == ""
    assert "Is a directory" in there("logs", "count", "c").out or "read error" in there("logs", "count", "c").out
    assert there("logs", "count", "c", "--json").json["attempt"] == 1


def test_the_end_of_a_log(command: Command):
    command("run", "long", *IMAGE, *ON_THIS_MACHINE, "--", "seq", "1", "9")
    assert command("logs", "long", "--tail", "2").out == "8\n9\n"
    assert command("logs", "long", "--tail", "0").out == ""


def test_the_beginning_of_a_key_is_enough_if_no_other_has_it(command: Command):
    command("run", "k", *IMAGE, *ON_THIS_MACHINE, "--grid", "name=alpha,beta", "--", "echo {name}")
    assert command("logs", "k", "alp").out == "alpha\n"
    assert "did you mean alpha?" in command("logs", "k", "alpah").err
    assert "name one; canfar-batch ls k lists them" in command("logs", "k").err


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


def test_failed_jobs_are_retried_with_changed_resources(command: Command):
    words = ["--grid", "n=1,2", "--key", "k{n}", "--", "sh", "-c", "test {n} = 1 || test -e fixed"]
    assert command("run", "again", *IMAGE, *ON_THIS_MACHINE, "--ram", 1, *words).code == 1
    refused = command("retry", "again", *ON_THIS_MACHINE, "--cause", "out of memory")
    assert refused.code == 2
    assert "no job failed for 'out of memory'; the causes are: 'exit code 1' (1)" in refused.err
    Path("fixed").touch()
    ended = command("retry", "again", *ON_THIS_MACHINE, "--cause", "exit code 1", "--ram", 2, "--json")
    assert (ended.code, ended.json["counts"], ended.json["attempts"]) == (0, {"succeeded": 2}, 3)
    assert "1 job opened again" in ended.err
    assert [row["ram"] for row in command("ls", "again", "--json").json] == [1, 2]


def test_final_jobs_are_run_again_and_a_batch_is_deleted(command: Command):
    words = ["--grid", "n=1,2", "--key", "k{n}", "--output", "{key}.out", "--", "sh", "-c", "echo {n} >> k{n}.out"]
    assert command("run", "again", *IMAGE, *ON_THIS_MACHINE, *words).code == 0
    assert "name the jobs to run again" in command("rerun", "again", *ON_THIS_MACHINE).err
    assert "has no job to run again" in command("rerun", "again", "--missing-outputs", *ON_THIS_MACHINE).err
    Path("k2.out").unlink()
    assert command("rerun", "again", "--missing-outputs", *ON_THIS_MACHINE).code == 0
    assert command("rerun", "again", "k1", *ON_THIS_MACHINE).code == 0
    assert (Path("k1.out").read_text(), Path("k2.out").read_text()) == ("1\n1\n", "2\n")
    assert command("rerun", "again", "--all", *ON_THIS_MACHINE, "--json").json["attempts"] == 6
    ended = command("rm", "again")
    assert (ended.code, ended.out) == (0, f"deleted {Path('batches/again').absolute()}\n")
    assert not Path("batches/again").exists()
    assert command("rm", "again").code == 2


def test_the_report_is_written_as_a_page(there: Command, ran: Path, tmp_path: Path):
    ended = there("report", "count", "--html", tmp_path / "page.html")
    assert (ended.code, ended.out) == (1, f"{tmp_path}/page.html\n")
    assert "<title>count: report</title>" in (tmp_path / "page.html").read_text()
    assert there("report", "count", "--json", "--html").json == {"path": str(ran / "batches/count/report.html")}


def test_watching_a_final_batch_prints_its_report(there: Command):
    ended = there("watch", "count")
    assert ended.code == 1
    assert ended.out == there("report", "count").out


def test_names_and_keys_are_completed(there: Command, monkeypatch: pytest.MonkeyPatch):
    """argcomplete is played: it gets the parser, and calls the completers of the arguments."""
    found: list[list[str]] = []

    def autocomplete(made: argparse.ArgumentParser) -> None:
        options = argparse.Namespace(home=None, name="count")
        status = made._subparsers._group_actions[0].choices["status"]
        name, key = (action.completer for action in status._actions if hasattr(action, "completer"))
        found.extend(list(one("c", parsed_args=options)) for one in (name, key))
        options.name = "nope"
        found.append(list(key("", parsed_args=options)))

    monkeypatch.setenv("_ARGCOMPLETE", "1")
    monkeypatch.setitem(sys.modules, "argcomplete", types.SimpleNamespace(autocomplete=autocomplete))
    there("ls")
    assert found == [["count"], ["c"], []]


def test_an_unknown_attempt_is_an_error(there: Command):
    assert "job c has no attempt 7; it has 1" in there("logs", "count", "c", "--attempt", "7").err


def test_failures_are_listed_by_cause_with_advice(there: Command):
    ended = there("failures", "count")
    assert ended.code == 1
    assert ended.out.startswith("Why 1 job failed:\n  1 x exit code 1 (c)\n")
    (told,) = there("failures", "count", "--json").json
    assert (told["key"], told["class"], told["attempt"]) == ("c", "ExitCode", 1)
    assert Path(told["log"]).exists()


def test_no_failures_are_fine(command: Command):
    command("run", "fine", *IMAGE, *ON_THIS_MACHINE, "--", "true")
    assert (command("failures", "fine").code, command("failures", "fine").out) == (0, "nothing failed\n")
    assert command("failures", "fine", "--json").json == []


def test_the_report_is_printed_later(there: Command):
    ended = there("report", "count")
    assert ended.code == 1
    assert ended.out.startswith("Batch count: 3 jobs in ")
    assert there("report", "count", "--json").json["counts"] == {"succeeded": 2, "failed": 1}


def test_the_package_runs_as_a_module(ran: Path):
    done = subprocess.run(
        [sys.executable, "-m", "canfar_batch", "ls", "--json"], cwd=ran, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)[0]["batch"] == "count"


def test_a_closed_pipe_is_not_an_error(ran: Path):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "canfar_batch", "report", "count"], cwd=ran, stdout=writing, stderr=subprocess.PIPE,
        timeout=60,
    )  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


# -- detaching and cancelling -------------------------------------------------------------------------------------


@pytest.fixture
def platform() -> Iterator[LocalPlatform]:
    """A platform that outlives the command."""
    with LocalPlatform() as platform:
        yield platform


@pytest.fixture
def running(
    tmp_path: Path, platform: LocalPlatform, command: Command, monkeypatch: pytest.MonkeyPatch
) -> subprocess.Popen[str]:
    """A batch of two jobs that run until they are stopped, and the process that drives it."""
    monkeypatch.setenv("CANFAR_URL", platform.url)
    monkeypatch.setenv("CANFAR_TOKEN", platform.token)
    monkeypatch.setattr("canfar_batch.store.home.Home.refuse_if_fleeting", lambda self: None)
    driver = process(
        tmp_path, "run", "slow", *IMAGE, "--grid", "n=1,2", "--", "sh", "-c", "echo begun {n}; exec sleep 600",
        env={"CANFAR_URL": platform.url, "CANFAR_TOKEN": platform.token},
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while command("status", "slow", "--json").out.count('"running": 2') == 0:
        assert time.monotonic() < deadline, "the jobs never ran"
        time.sleep(0.05)
    yield driver
    driver.kill()
    driver.communicate()


def test_ctrl_c_detaches_and_the_jobs_run_on_until_they_are_cancelled(running, command: Command):
    assert "run by process" in command("status", "slow").out
    running.send_signal(signal.SIGINT)
    assert running.wait(20) == cli.DETACHED
    assert "its jobs run on" in running.stderr.read()

    ended = command("status", "slow")
    assert (ended.code, "2 running" in ended.out, "no process runs it" in ended.out) == (0, True, True)
    assert command("logs", "slow", "1").out == "begun 1\n", "a log that is not saved yet comes from the platform"

    ended = command("cancel", "slow", "--json")
    assert (ended.code, len(ended.json["cancelled"])) == (0, 2)
    assert command("status", "slow", "--json").json["counts"] == {"cancelled": 2}
    assert "every job was final already" in command("cancel", "slow").out


def test_ctrl_c_on_the_local_platform_ends_the_jobs_until_the_next_run(tmp_path: Path, command: Command):
    words = ["run", "here", *IMAGE, "--url", "local", "--", "sh", "-c", "touch begun; test -e go || exec sleep 600"]
    driver = process(tmp_path, *words)
    deadline = time.monotonic() + 60
    while not Path("begun").exists():
        assert time.monotonic() < deadline, "the job never ran"
        time.sleep(0.05)
    driver.send_signal(signal.SIGINT)
    told = driver.communicate(timeout=30)[1]
    assert driver.returncode == cli.DETACHED
    assert "its jobs end with this session, and the next run launches them again" in told
    Path("go").touch()
    assert command("run", "here", "--quiet", "--json", "--url", "local").json["counts"] == {"succeeded": 1}


def test_cancelled_jobs_are_stopped_by_the_process_that_runs_them(running, command: Command):
    ended = command("cancel", "slow")
    assert ended.code == 0
    assert re.search(r"2 jobs: process \d+ on .* runs the batch and stops them", ended.out)
    assert running.wait(30) == cli.SOME_FAILED
    assert command("status", "slow", "--json").json["counts"] == {"cancelled": 2}


def test_a_batch_is_watched_until_its_jobs_are_final(running, tmp_path: Path, command: Command):
    with contextlib.ExitStack() as ends:
        watching = process(tmp_path, "watch", "slow", "--every", "0.05", "--json")
        follower = process(tmp_path, "logs", "slow", "1", "-f", env=dict(os.environ))
        for one in (watching, follower):
            ends.callback(one.communicate)
            ends.callback(one.kill)
        assert watching.stderr.readline() == "slow 0/2 | 2 running\n"
        assert follower.stdout.readline() == "begun 1\n"
        command("cancel", "slow")
        assert json.loads(watching.stdout.read())["counts"] == {"cancelled": 2}


def test_watching_a_batch_that_no_process_runs_says_how_to_resume_it(running, command: Command):
    running.send_signal(signal.SIGINT)
    running.wait(20)
    ended = command("watch", "slow")
    assert ended.code == 0
    assert "no process runs it; to resume it: canfar-batch run slow" in ended.err
    command("cancel", "slow")


def test_a_second_driver_is_refused_with_the_first_ones_name(running, command: Command):
    ended = command("run", "slow")
    assert ended.code == 2
    assert "is being run by process" in ended.err


def test_a_cancel_that_cannot_be_delivered_is_stored(running, platform, command: Command, monkeypatch):
    running.send_signal(signal.SIGINT)
    running.wait(20)
    monkeypatch.setenv("CANFAR_TOKEN", "not.the.token")
    ended = command("cancel", "slow", "--timeout", "1")
    assert ended.code == 2
    monkeypatch.setenv("CANFAR_TOKEN", platform.token)
    assert command("run", "slow", "--quiet", "--json").json["counts"] == {"cancelled": 2}


def test_a_first_run_at_a_dead_address_ends(command: Command, monkeypatch):
    monkeypatch.setenv("CANFAR_URL", "http://127.0.0.1:9/skaha")
    monkeypatch.setenv("CANFAR_TOKEN", "x")
    monkeypatch.setattr("canfar_batch.store.home.Home.refuse_if_fleeting", lambda self: None)
    monkeypatch.setattr("canfar_batch.rest.platform.Timeouts", lambda **given: Timeouts(**given, attempts=1))
    ended = command("run", "wrong", *IMAGE, "--quiet", "--", "true")
    assert ended.code == 2
    assert "127.0.0.1:9" in ended.err


def test_files_go_to_the_platform_and_come_back(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/night1.fits").write_bytes(b"stars")
    with LocalPlatform() as platform:
        monkeypatch.setenv("CANFAR_TOKEN", platform.token)
        connection = ("--url", platform.url)
        assert command("upload", "raw", "/arc/projects/mine/raw", *connection).code == 0
        ended = command("download", "/arc/projects/mine/raw/*.fits", "back", "--json", *connection)
        missing = command("upload", "none", "/arc/projects/mine/", *connection)
    assert ended.json == {"path": "back"}
    assert (tmp_path / "back/night1.fits").read_bytes() == b"stars"
    assert (missing.code, missing.err) == (2, "canfar-batch: error: there is no file or folder none\n")


# -- in the background --------------------------------------------------------------------------------------------


@pytest.fixture
def reached(platform: LocalPlatform, command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs one command, which finds the platform in its environment."""
    monkeypatch.setenv("CANFAR_URL", platform.url)
    monkeypatch.setenv("CANFAR_TOKEN", platform.token)
    return command


def test_start_plans_here_and_runs_in_a_process_that_needs_no_terminal(reached: Command, tmp_path: Path):
    words = ["--home", "homes", *IMAGE, "--range", "n=1:3", "--notify", "echo $CANFAR_BATCH_OUTCOME >told"]
    ended = reached("start", "back", *words, "--json", "--", "sh", "-c", "until test -e go; do sleep 0.1; done")
    assert ended.code == 0
    pid, log = ended.json["pid"], Path(ended.json["log"])
    assert os.getsid(pid) == pid, "its session has no terminal"
    again = reached("start", "back", "--home", "homes")
    assert (again.code, "canfar-batch watch back shows it" in again.err) == (2, True)
    watching = process(tmp_path, "watch", "--home", "homes", "--every", "0.05", "--json")
    assert re.match(r"batch +jobs +state", watching.stderr.readline())
    Path("go").touch()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    (row,) = json.loads(watching.communicate(timeout=30)[0])
    assert row["counts"] == {"succeeded": 2}
    assert "2 succeeded" in log.read_text()
    assert Path("told").read_text() == "ended\n"


def test_start_says_what_is_wrong_before_anything_is_in_the_background(reached: Command, monkeypatch):
    ended = reached("start", "back", "--home", "homes", *IMAGE, "--", "python", "{path}")
    assert (ended.code, "{path} is a field" in ended.err) == (2, True)
    monkeypatch.setattr(sys, "executable", shutil.which("sh"))  # a Python that cannot run it
    ended = reached("start", "back", "--home", "homes", *IMAGE, "--", "true")
    assert ended.code == 2
    assert re.search(r"process \d+ ended with exit code \d+; the end of .*run\.log: .*canfar_batch", ended.err)


def test_watching_all_batches_that_no_process_runs_ends_at_once(there: Command):
    ended = there("watch", "--json")
    assert (ended.code, [row["batch"] for row in ended.json]) == (0, ["count"])
