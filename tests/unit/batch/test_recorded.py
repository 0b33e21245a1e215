"""A batch, read: a mapping of jobs, results, history, tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine import SPEC, states
from fakes import Fate

from canfar_batch import errors
from canfar_batch.batch import Batch
from canfar_batch.records import JobState
from canfar_batch.store import ledger

# -- many ---------------------------------------------------------------------------------------------------------


def test_preview_shows_command_and_launch_name_and_sends_nothing(world):
    batch = world.planned(5)
    shown = batch.preview(2)
    assert "fit 0" in shown
    assert "and 3 more" in shown
    assert not world.platform.calls
    batch.run(progress=False)
    assert world.platform.launched[0] in shown


S = JobState

# -- what happened to users ---------------------------------------------------------------------------------------


def test_an_interrupt_while_a_batch_is_read_leaves_no_half_of_it(world, monkeypatch):
    world.planned(19).close()
    batch, read = world.batch(), ledger.pack
    world.batch().add(SPEC, key="theirs", n=19)  # so that the jobs are read again
    monkeypatch.setattr(ledger, "pack", lambda row, *more: interrupt() if row[0] == 7 else read(row, *more))
    with pytest.raises(errors.Detached):
        batch.run(progress=False)
    monkeypatch.undo()
    assert len(batch) == 19
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 20


def interrupt():
    raise KeyboardInterrupt


# -- a mapping ----------------------------------------------------------------------------------------------------


def test_a_batch_reads_like_a_mapping_of_jobs(world):
    world.platform.fate = lambda request: Fate(code=int("-j1-" in request.name))
    batch = world.planned(3)
    batch.run(progress=False)
    assert batch.keys() == batch._ipython_key_completions_() == ["j0", "j1", "j2"]
    assert [job.key for job in batch] == [job.key for job in batch.jobs] == batch.keys()
    assert [job.key for job in batch[1:]] == ["j1", "j2"]
    assert [job.key for job in batch.succeeded] == ["j0", "j2"]
    assert [job.key for job in batch.failed] == ["j1"]
    assert batch.get("j2").key == "j2"
    assert (batch.get("j9"), batch.get("j9", 0)) == (None, 0)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("j11", "has no job 'j11'; did you mean 'j1'"),
        ("zzz", r"has no job 'zzz'; batch\.keys\(\) lists those that it has"),
        (0, "has no job 0; keys are texts, and batch.jobs is a list"),
    ],
)
def test_an_unknown_key_is_a_key_error_that_names_near_ones(world, key, words):
    with pytest.raises(KeyError, match=words) as caught:
        world.planned(2)[key]
    assert isinstance(caught.value, errors.UnknownJob)


def test_a_job_has_its_outcome_run_time_and_log_file(world):
    world.platform.fate = lambda request: Fate(lasts=40, code=int("-j1-" in request.name), log=b"hello\n")
    batch = world.planned(2)
    before = batch["j0"]
    batch.run(progress=False)
    after, failed = batch["j0"], batch["j1"]
    assert (before.done, before.ok, before.run_seconds, before.log) == (False, False, None, None)
    assert (after.done, after.ok, after.run_seconds) == (True, True, 40.0)
    assert (failed.done, failed.ok) == (True, False)
    assert after.log.read_text() == after.logs() == "hello\n"


@pytest.mark.parametrize(
    "call",
    [
        lambda batch: batch.run(), lambda batch: batch.start(), lambda batch: batch.step(),
        lambda batch: batch.add(SPEC, n=7), lambda batch: batch.retry_failed(), lambda batch: batch.rerun(),
        lambda batch: batch.delete(), lambda batch: batch.collect(), lambda batch: batch.preflight(),
        lambda batch: batch.renew(), lambda batch: next(batch.as_completed()),
    ],
)  # fmt: skip
def test_a_read_only_batch_names_the_call_that_opens_it_for_running(world, call):
    world.planned(1).close()
    with pytest.raises(errors.ReadOnlyBatch, match=r"session\.batch\('test'\) opens it for running"):
        call(Batch.open("test", world.root))


# -- results ------------------------------------------------------------------------------------------------------


def test_results_in_the_home_move_with_it(world):
    with world.planned(1) as batch:
        batch.run(progress=False)
    (world.root / "test").rename(world.root / "moved")
    with Batch.open("moved", world.root) as batch:
        assert batch.results() == {"j0": world.root / "moved" / "logs" / "j0.1.log"}
        assert batch["j0"].result.exists()


@pytest.mark.parametrize("result", [Path("out.txt"), Path("/arc/out.txt"), [{"a": Path("b")}], None, {}, "x"])
def test_other_results_are_read_as_they_were_collected(world, result):
    with world.planned(1, collect=lambda job, platform: result) as batch:
        batch.run(progress=False)
    with Batch.open("test", world.root) as batch:
        assert batch.results("missing") == {"j0": result}


@pytest.mark.parametrize("result", ["x" * 70000, {"$home": "x"}, {"$path": "x"}, {1, 2}])
def test_results_that_are_not_stored_are_missing_without_a_connection(world, result, caplog):
    with world.planned(3, collect=lambda job, platform: result) as batch:
        batch.run(progress=False)
        assert batch.results("missing")["j0"] == result
    with Batch.open("test", world.root) as batch:
        assert set(batch.results("missing").values()) == {"missing"}
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "jobs: 3" in warning
    with world.batch(collect=lambda job, platform: result) as again:
        assert again.results("missing")["j0"] == result


# -- a ledger that was written to ---------------------------------------------------------------------------------


def test_a_drawing_that_cannot_be_saved_names_the_file(world, tmp_path):
    batch = world.planned(1)
    with pytest.raises(errors.HomeError, match="nowhere"):
        batch.timeline(tmp_path / "nowhere" / "a.png")


def test_a_log_that_is_not_had_is_no_empty_log(world):
    with world.planned(1) as batch:
        assert batch["j0"].logs() == ""  # it has not begun
        batch.run(progress=False)
        saved = batch["j0"].log
        text = batch["j0"].logs()
    assert saved is not None
    saved.unlink()
    with Batch.open("test", world.root) as batch:
        with pytest.raises(errors.PlatformError, match="no longer there; without a connection it cannot be fetched"):
            batch["j0"].logs()
        with pytest.raises(errors.PlatformError):
            list(batch["j0"].follow(poll=0.01))
        assert "unavailable" in batch["j0"].support_report()
    with world.batch() as batch:
        assert batch["j0"].logs() == text
        world.platform.logs = lambda id: b""  # as the platform answers if it cannot read the log
        with pytest.raises(errors.PlatformError, match="the platform no longer has it"):
            batch["j0"].logs()


def test_a_list_with_a_deleted_file_is_no_result_and_other_parts_are(world, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    kept, deleted = tmp_path / "a", tmp_path / "b"
    kept.touch()
    deleted.touch()
    result = {"all": [kept, deleted], "one": kept, "pair": (deleted, 1), "sizes": [1, 2]}
    batch = world.batch(shared=True, collect=lambda job, platform: result)
    batch.add(SPEC, key="j0", n=0)
    batch.run(progress=False)
    assert batch.results() == {"j0": result}
    assert "no longer exist" not in caplog.text
    deleted.unlink()
    assert batch.results() == {"j0": {"all": None, "one": kept, "pair": None, "sizes": [1, 2]}}
    assert str(deleted) in caplog.text


def test_results_without_a_connection_leave_out_a_deleted_log(world, caplog):
    with world.planned(1) as batch:
        batch.run(progress=False)
        log = batch.results()["j0"]
    log.unlink()
    with Batch.open("test", world.root) as batch:
        assert batch.results() == {"j0": None}
    assert str(log) in caplog.text


def test_the_report_names_results_that_are_not_stored(world):
    with world.planned(2, collect=lambda job, platform: {1}) as batch:
        report = batch.run(progress=False)
    (warning,) = report.warnings
    assert warning.startswith("results that only this process has")
    assert report.warnings[warning] == 2
