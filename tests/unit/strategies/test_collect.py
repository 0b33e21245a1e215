"""Collectors, with files and receipts made by hand."""

import os
from datetime import timedelta
from pathlib import Path

import attrs
import pytest
from fakes import EPOCH, FakePlatform
from spaces import MemorySpace

from canfar_batch.errors import CollectError, PlatformUnreachable, StrategyError
from canfar_batch.protocols import files_read
from canfar_batch.records import Attempt, JobRecord, JobState, Receipt, Resources
from canfar_batch.spec import JobSpec
from canfar_batch.storage import Storage
from canfar_batch.strategies import Files, Json, LastLine, Logs, Serial, Several, as_collector

PLATFORM = FakePlatform()


def job(directory, *outputs, log=None, **receipt):
    spec = JobSpec("fit", image="i/i", outputs=outputs, workdir=str(directory))
    attempt = Attempt(
        number=1, launch_name="x", resources=Resources(), intended_at=EPOCH, succeeded=True, log=log,
        receipt=Receipt(exit_code=0, **receipt),
    )  # fmt: skip
    return JobRecord(key="a", index=0, spec=spec, filled=spec.fill(), attempts=(attempt,), state=JobState.SUCCEEDED)


def test_logs_collects_the_path_of_the_saved_log(tmp_path):
    assert Logs()(job(tmp_path, log=tmp_path / "a.log"), PLATFORM) == tmp_path / "a.log"
    with pytest.raises(CollectError, match="no log"):
        Logs()(job(tmp_path), PLATFORM)


def test_one_file_is_a_path_and_several_are_a_list(tmp_path):
    for name in ("a.cat", "b.cat"):
        (tmp_path / name).touch()
    assert Files()(job(tmp_path, "a.cat"), PLATFORM) == tmp_path / "a.cat"
    assert Files()(job(tmp_path, "a.cat", "b.cat"), PLATFORM) == [tmp_path / "a.cat", tmp_path / "b.cat"]
    assert Files("*.cat")(job(tmp_path), PLATFORM) == [tmp_path / "a.cat", tmp_path / "b.cat"]


def test_files_that_only_the_container_sees_come_from_its_receipt(tmp_path):
    elsewhere = {"/arc/cat/a.cat": 10, "/arc/cat/b.cat": None}
    assert Files("/arc/cat/*.cat")(seen(tmp_path, elsewhere), PLATFORM) == [
        Path("/arc/cat/a.cat"), Path("/arc/cat/b.cat"),
    ]  # fmt: skip
    with pytest.raises(CollectError, match=r"left no x\.cat"):
        Files("x.cat")(seen(tmp_path, elsewhere), PLATFORM)


def test_files_are_not_searched_in_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.json").write_text("1")  # of another run, on this machine, while the job ran elsewhere
    elsewhere = attrs.evolve(seen(tmp_path, {}), filled=JobSpec("fit", image="i/i").fill())
    with pytest.raises(CollectError, match="receipt names none"):
        Files("a.json")(elsewhere, PLATFORM)
    attempt = attrs.evolve(elsewhere.attempts[0], receipt=Receipt(exit_code=0, outputs={"a.json": 1}))
    vouched = attrs.evolve(elsewhere, attempts=(attempt,))
    assert Files("a.json")(vouched, PLATFORM) == Path("a.json")
    with pytest.raises(CollectError, match="cannot be read from here"):
        Json("a.json")(vouched, PLATFORM)


def ran(directory, began, ended, **fields):
    """A job that declares no outputs and ran from *began* to *ended*, in seconds after the epoch."""
    made = job(directory, started_at=EPOCH + timedelta(seconds=began), finished_at=EPOCH + timedelta(seconds=ended))
    return attrs.evolve(made, fields=fields)


def written(path, at):
    """Make a file that was changed *at* seconds after the epoch."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("1")
    os.utime(path, (EPOCH.timestamp() + at,) * 2)
    return path


def test_a_pattern_finds_files_that_were_written_during_the_attempt(tmp_path):
    own = written(tmp_path / "own.cat", 150)
    written(tmp_path / "earlier.cat", 50)
    written(tmp_path / "later.cat", 250)
    assert Files("*.cat")(ran(tmp_path, 100, 200), PLATFORM) == [own]


def test_a_named_file_that_the_job_did_not_write_is_collected_with_a_warning(tmp_path, caplog):
    old = written(tmp_path / "old.cat", 50)
    assert Files("old.cat")(ran(tmp_path, 100, 200), PLATFORM) == old
    assert f"{old} was not written by job a: it was there before" in caplog.text
    caplog.clear()
    new = written(tmp_path / "new.cat", 150)
    assert Files("new.cat")(ran(tmp_path, 100, 200), PLATFORM) == new
    assert not caplog.messages


@pytest.mark.parametrize("collect", [Files("{n}/*.cat"), Json("{n}/*.cat"), Several({"a": Files("{n}/*.cat")})])
def test_patterns_may_hold_fields_whose_wildcards_are_literal(tmp_path, collect):
    written(tmp_path / "[x]*" / "a.cat", 150)
    written(tmp_path / "x" / "a.cat", 150)
    made = ran(tmp_path, 100, 200, n="[x]*")
    assert files_read(collect, made) == ("[[]x][*]/*.cat",)
    expected = [tmp_path / "[x]*" / "a.cat"]
    assert collect(made, PLATFORM) in (expected, 1, {"a": expected})


def test_collectors_name_the_files_that_they_read(tmp_path):
    made = job(tmp_path, "a.cat", "b.json")
    assert files_read(Files(), made) == ("a.cat", "b.json")
    assert files_read(Json(), made) == files_read(Serial(Json()), made) == ("b.json",)
    assert files_read(Logs(), made) == files_read(Json(), job(tmp_path)) == files_read(len, made) == ()


def test_json_refuses_several_files_and_names_that_occur_twice(tmp_path):
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text('{"n": 1, "m": {"x": 1, "x": 2}}')
    with pytest.raises(CollectError, match=r"2 files of job a match \*\.json"):
        Json("*.json")(job(tmp_path), PLATFORM)
    with pytest.raises(CollectError, match=r"the name 'x' occurs more than once"):
        Json("a.json")(job(tmp_path), PLATFORM)


def test_file_known_from_the_receipt_has_its_full_path(tmp_path):
    assert Files("gone.cat")(seen(tmp_path, {"gone.cat": 3}), PLATFORM) == tmp_path / "gone.cat"


def seen(directory, sizes):
    made = job(directory)
    return attrs.evolve(made, attempts=(attrs.evolve(made.attempts[0], receipt=Receipt(exit_code=0, outputs=sizes)),))


def test_without_declared_outputs_files_is_an_error(tmp_path):
    with pytest.raises(CollectError, match="declares no outputs"):
        Files()(job(tmp_path), PLATFORM)


def test_json_is_read_from_the_file_or_the_logs_last_line(tmp_path):
    (tmp_path / "r.json").write_text('{"flux": 1.5}')
    (tmp_path / "a.log").write_text("fitting…\n[1, 2]\n\n")
    assert Json()(job(tmp_path, "x.cat", "r.json"), PLATFORM) == {"flux": 1.5}
    assert Json("*.json")(job(tmp_path), PLATFORM) == {"flux": 1.5}
    assert Json()(job(tmp_path, log=tmp_path / "a.log"), PLATFORM) == [1, 2]
    assert Json()(job(tmp_path, "x.fits", log=tmp_path / "a.log"), PLATFORM) == [1, 2]


@pytest.mark.parametrize(
    ("log", "value"),
    [
        ('{"a": 1}\n{"b": 2}\nall done\n', {"b": 2}),
        ('  [1]\n{"not json\n12 files written\n\n', [1]),
        ('{"a": 1}\n12\n', 12),
    ],
)
def test_messages_may_follow_the_json_in_a_log(tmp_path, log, value):
    (tmp_path / "a.log").write_text(log)
    assert Json()(job(tmp_path, log=tmp_path / "a.log"), PLATFORM) == value


def test_the_last_line_is_that_of_the_log_which_is_not_blank(tmp_path):
    (tmp_path / "a.log").write_bytes(b"fitting\nchi2 = 1.5 \xff \n \n")
    assert LastLine()(job(tmp_path, "x.fits", log=tmp_path / "a.log"), PLATFORM) == "chi2 = 1.5 \ufffd"
    (tmp_path / "a.log").write_text("\n")
    with pytest.raises(CollectError, match="printed nothing"):
        LastLine()(job(tmp_path, log=tmp_path / "a.log"), PLATFORM)


@pytest.mark.parametrize(("words", "message"), [("no json", "is not valid JSON"), ("", "printed nothing")])
def test_invalid_json_is_an_error_that_says_where(tmp_path, words, message):
    (tmp_path / "a.log").write_text(words)
    with pytest.raises(CollectError, match=message):
        Json()(job(tmp_path, log=tmp_path / "a.log"), PLATFORM)


@pytest.mark.parametrize("content", [b'{"a": "\xe9"}', b'{"a": 1', b"[" * 100000])
def test_file_without_json_is_named_with_its_job(tmp_path, content):
    (tmp_path / "r.json").write_bytes(content)
    with pytest.raises(CollectError, match=r"r\.json of job a is not valid JSON"):
        Json("r.json")(job(tmp_path), PLATFORM)
    (tmp_path / "a.log").write_bytes(content)
    with pytest.raises(CollectError, match=r"no line of the log of job a .* its last line is not valid JSON"):
        Json()(job(tmp_path, log=tmp_path / "a.log"), PLATFORM)


def test_file_out_of_reach_is_an_error_with_advice(tmp_path):
    with pytest.raises(CollectError, match="last line"):
        Json("/arc/r.json")(seen(tmp_path, {"/arc/r.json": 3}), PLATFORM)


def test_dict_of_collectors_gives_a_dict_of_results(tmp_path):
    both = as_collector({"log": Logs(), "key": lambda job, platform: job.key})
    assert both(job(tmp_path, log=tmp_path / "a.log"), PLATFORM) == {"log": tmp_path / "a.log", "key": "a"}
    assert not both.serial
    assert Several({"mine": Serial(Logs())}).serial


def test_any_callable_is_a_collector():
    assert as_collector(len) is len


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n\n  \n"])
def test_json_in_the_last_line_of_a_log_follows_other_lines_and_a_progress_bar(tmp_path, end):
    log = tmp_path / "a.log"
    log.write_bytes(b"first\n50%\r100%\r[1, 2]" + end)
    assert Json()(job(tmp_path, log=log), PLATFORM) == [1, 2]
    for empty in (b"", b"\n \n"):
        log.write_bytes(empty)
        with pytest.raises(CollectError, match="printed nothing"):
            Json()(job(tmp_path, log=log), PLATFORM)


def test_a_late_receipt_warns_of_what_a_success_did_not_have():
    receipt = Receipt(exit_code=0, timed_out=True, missing=("a.cat",))
    attempt = Attempt(
        number=1, launch_name="x", resources=Resources(), intended_at=EPOCH, succeeded=True, receipt=receipt, id="a",
        started_at=EPOCH,
    )  # fmt: skip
    assert attempt.warnings == (
        "its time-out stopped it; it ended with 0",
        "declared outputs that were not there: a.cat",
        "its log was not available",
    )


@pytest.mark.parametrize("wrong", ["json", Json, [Json()], {"a": "json"}, {"a": Json}])
def test_what_is_no_collector_is_refused(wrong):
    with pytest.raises(StrategyError, match=r"write collect=cb\.Json\(\)"):
        as_collector(wrong)


# -- files that only the storage has ----------------------------------------------------------------------------------


@pytest.fixture
def storage():
    """A platform with a storage in memory, on which jobs leave files at the 30th second."""
    platform, space = FakePlatform(), MemorySpace()
    platform.storage = Storage(space, sleep=lambda seconds: None)

    def leave(path, data, second=30):
        folder = path.rpartition("/")[0]
        space.folders.update("/".join(folder.split("/")[:depth]) for depth in range(2, folder.count("/") + 2))
        space.files[path] = (data, f"2026-11-22T12:00:{second:02}.000")

    platform.leave = leave
    return platform


def far(workdir="/arc/projects/mine", **receipt):
    """A job of which this machine sees no file; it ran from second 20 to 40."""
    made = job(workdir, started_at=EPOCH + timedelta(seconds=20), finished_at=EPOCH + timedelta(seconds=40), **receipt)
    return attrs.evolve(made, filled=attrs.evolve(made.filled, workdir=workdir))


def test_json_that_is_not_declared_is_found_on_the_storage(storage):
    storage.leave("/projects/mine/q.json", b'{"chi2": 1.5}')
    assert Json("q.json")(far(), storage) == {"chi2": 1.5}
    assert Json("/arc/projects/mine/q.json")(far(), storage) == {"chi2": 1.5}


def test_a_job_without_a_place_of_its_own_leaves_its_files_in_the_users_home(storage):
    storage.leave("/home/fake/q.json", b"2")
    assert Json("q.json")(far(workdir=None), storage) == 2


def test_a_pattern_finds_on_the_storage_what_the_job_wrote(storage, tmp_path):
    storage.leave("/projects/mine/old.json", b"1", second=2)
    storage.leave("/projects/mine/new.json", b"2")
    storage.leave("/projects/mine/deep/other.json", b"3")
    assert Json("*.json")(far(), storage) == 2
    assert Files("*.json")(far(), storage) == [Path("/arc/projects/mine/new.json")]
    (brought,) = Files("*.json", download=tmp_path / "results")(far(), storage)
    assert (brought, brought.read_bytes()) == (tmp_path / "results/new.json", b"2")


def test_several_files_on_the_storage_are_refused_with_their_names(storage):
    for name in "abc":
        storage.leave(f"/projects/mine/{name}.json", b"1")
    with pytest.raises(CollectError, match=r"3 files of job a match \*\.json: .*/a\.json, .*/b\.json and 1 more; Json"):
        Json("*.json")(far(), storage)


def test_no_file_on_the_storage_is_an_error(storage):
    for pattern in ("q.json", "*.json"):
        with pytest.raises(CollectError, match=r"left no .*\.json"):
            Json(pattern)(far(), storage)


def test_a_file_that_was_there_before_is_taken_if_it_is_named_in_full_and_that_is_said(storage, caplog):
    storage.leave("/projects/mine/q.json", b"1", second=2)
    assert Json("q.json")(far(), storage) == 1
    assert "was not written by job a" in caplog.text


def test_an_outage_of_the_storage_is_no_missing_file(storage):
    storage.storage.space.find = lambda path: (_ for _ in ()).throw(PlatformUnreachable("no answer"))
    with pytest.raises(CollectError, match=r"cannot be looked for on the storage: .*no answer"):
        Json("q.json")(far(), storage)


def test_a_declared_pattern_matches_the_receipts_paths_part_by_part(storage):
    made = far(outputs={"a.json": 1, "deep/a.json": 1, ".hidden.json": 1})
    assert Files("*.json")(made, storage) == [Path("/arc/projects/mine/a.json")]
    assert Files("*/*.json")(made, storage) == [Path("/arc/projects/mine/deep/a.json")]
