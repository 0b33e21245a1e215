"""The jobs that arguments describe."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from integration.cli.conftest import IMAGE, ON_THIS_MACHINE, Command


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
    argvs = [job["argv"] for job in ended.json]
    assert argvs == [["fit", f"--t={t}", m] for t in ("0.1", "0.5") for m in ("gauss", "top")]


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


def test_a_field_without_values_is_refused_with_the_options_that_give_them(command: Command):
    ended = command("run", "x", *IMAGE, "--", "echo", "{path}")
    assert ended.code == 2
    assert "{path} is a field, and nothing gives its values: --each path=PATTERN" in ended.err
    assert not Path("batches").exists()
    assert "echo '{path}'" in command("run", "x", *IMAGE, "--preview", "--", "echo", "{{path}}").out


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


def test_a_table_with_a_short_row_is_refused(command: Command):
    Path("t.csv").write_text("a,b\n1,2\n3\n")
    assert "longer or shorter" in command("run", "x", *IMAGE, "--rows", "t.csv", "--preview", "--", "echo {a}").err
