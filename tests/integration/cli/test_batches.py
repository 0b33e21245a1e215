"""Batches and jobs as arguments name them; no connection is needed."""

from __future__ import annotations

import contextlib
import errno
import shutil
import sqlite3
from pathlib import Path

from integration.cli.conftest import IMAGE, ON_THIS_MACHINE, Command


def test_batches_are_listed(there: Command):
    assert there("ls").out.splitlines() == [
        "batch  jobs  state                  driver", "count     3  2 succeeded, 1 failed",
    ]  # fmt: skip
    (found,) = there("ls", "--json").json
    assert found == {"batch": "count", "jobs": 3, "counts": {"succeeded": 2, "failed": 1}, "driver": None}


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
    found = {row["batch"]: row.get("error", "") for row in there("ls", "--json").json}
    assert (found["count"], "Permission denied" in found["theirs"]) == ("", True)


def test_the_beginning_of_a_key_is_enough_if_no_other_has_it(command: Command):
    command("run", "k", *IMAGE, *ON_THIS_MACHINE, "--grid", "name=alpha,beta", "--", "echo {name}")
    assert command("logs", "k", "alp").out == "alpha\n"
    assert "did you mean alpha?" in command("logs", "k", "alpah").err
    assert "name one; canfar-batch ls k lists them" in command("logs", "k").err
