"""What strikes a whole cluster or its driver, over HTTP: outages, room for others, forgotten jobs, cancels."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time

import pytest
from stage import DEAF, IMAGE, PLAIN, SAVES, UNTIL_GO, Stage

import canfar_batch as cb
from canfar_batch import errors
from canfar_batch import failures as f
from canfar_batch.engine import monitor
from canfar_batch.local.faults import api_server_away, queue_away

S, F, LOST = cb.JobState.SUCCEEDED, cb.JobState.FAILED, cb.JobState.LOST


@pytest.fixture(params=[True, False], ids=["visible", "hidden"])
def visible(request):
    """Whether containers see the batch's home."""
    return request.param


@pytest.fixture
def staged(tmp_path, monkeypatch):
    """Make stages that close with the test."""
    monkeypatch.chdir(tmp_path)
    stages = []

    def made(*, visible=True, **settings):
        stages.append(Stage(tmp_path, "wide", visible=visible, **{"retry": cb.Retry(1, pause=0.05), **settings}))
        return stages[-1]

    yield made
    for stage in stages:
        stage.close()


def drive(stage, condition):
    """Drive the batch in this thread until a condition is true."""
    stage.until(lambda: stage.batch.step() is not None and condition(), [str(job) for job in stage.batch])


def all_run(stage):
    return all(job.state is cb.JobState.RUNNING for job in stage.batch)


def kinds(job):
    return [attempt.failure and type(attempt.failure) for attempt in job.attempts]


def test_jobs_that_ended_and_were_forgotten_while_no_driver_ran_are_not_launched_again(staged, visible, monkeypatch):
    """As when a driver is killed in its first minute, before it has noted when it last had an answer (4a-4e)."""
    monkeypatch.setattr(monitor, "AWAY", 0.5)
    stage = staged(visible=visible, platform={"forget_after": 0.4}, memory=1.0)
    stage.add("zero", UNTIL_GO)
    stage.add("three", UNTIL_GO + "exit 3")
    stage.add("killed", UNTIL_GO + "kill -9 $PPID; sleep 60")
    stage.add("bare", UNTIL_GO, receipt=False)
    stage.add("long", UNTIL_GO)
    drive(stage, lambda: all_run(stage))
    stage.batch.close()
    with contextlib.closing(sqlite3.connect(stage.batch.home / "ledger.db")) as ledger:
        ledger.execute("UPDATE lease SET last_contact = NULL")
        ledger.commit()
    for key in ("zero", "three", "killed", "bare"):
        stage.go(key)
    stage.until(lambda: len(stage.platform.jobs()) == 1)
    time.sleep(1.2)  # for longer than the platform remembers
    stage.batch = stage.open()
    stage.go("long")
    stage.batch.run(progress=False, timeout=60)
    found = {job.key: (job.state, kinds(job)[-1]) for job in stage.batch}
    unwatched = (LOST, f.Unwatched)
    assert found == {
        "zero": (S, None) if visible else unwatched,
        "three": (F, f.ExitCode) if visible else unwatched,
        "killed": unwatched,
        "bare": unwatched,
        "long": (S, None),
    }
    assert {key: stage.runs(key) for key in found} == {key: ["1"] for key in found}


def test_while_the_api_server_is_away_no_end_and_no_log_is_lost(staged, visible):
    stage = staged(visible=visible)
    stage.add("zero", UNTIL_GO)
    stage.add("three", UNTIL_GO + "exit 3")
    drive(stage, lambda: all_run(stage))
    away = threading.Event()
    with stage.platform.faults.during(api_server_away()):
        for key in ("zero", "three"):
            stage.go(key)
        stage.until(lambda: all(job.status in ("Completed", "Failed") for job in stage.platform.jobs()))
        threading.Timer(0.6, away.set).start()
        drive(stage, away.is_set)
    stage.batch.run(progress=False, timeout=60)
    assert [(job.state, job.exit_code, job.record.attempts[-1].verified) for job in stage.batch] == [
        (S, 0, True), (F, 3, True),
    ]  # fmt: skip
    assert [job.logs() for job in stage.batch] == ["up\nend\n"] * 2
    assert [len(job.attempts) for job in stage.batch] == [1, 1]


def test_while_the_controller_is_away_ends_and_starts_are_waited_for(staged):
    stage = staged()
    stage.add("zero", UNTIL_GO)
    drive(stage, lambda: all_run(stage))
    with stage.situations.controller_away():
        stage.go("zero")
        stage.add("later", "true", pending_timeout=30)
        drive(stage, lambda: stage.batch["later"].record.attempts and stage.batch["later"].record.attempts[-1].shown)
        assert stage.batch["later"].record.attempts[-1].start_time is None
        assert not stage.batch["zero"].state.final
    stage.batch.run(progress=False, timeout=60)
    assert [(job.state, len(job.attempts)) for job in stage.batch] == [(S, 1)] * 2


def test_a_cancelled_job_has_stopped_when_cancel_returns(staged, visible):
    stage = staged(visible=visible)
    for key, script in (("plain", PLAIN), ("deaf", DEAF), ("saves", SAVES)):
        stage.add(key, script)
    stage.add("bare", DEAF, receipt=False)
    drive(stage, lambda: all_run(stage) and all(stage.runs(job.key) for job in stage.batch))
    stage.batch.cancel()
    assert stage.platform.wait_idle(0)
    assert {job.state for job in stage.batch} == {cb.JobState.CANCELLED}
    single = stage.session.launch(["sh", "-c", DEAF], image=IMAGE, cores=1, ram=1)
    stage.until(lambda: single.refresh().state is cb.JobState.RUNNING)
    assert single.cancel().state is cb.JobState.CANCELLED
    assert stage.platform.wait_idle(0)


def test_while_others_take_the_place_of_all_jobs_nothing_runs_and_nothing_shrinks(staged, visible):
    stage = staged(visible=visible, platform={"cores": 3, "strict_quota": True})
    for n in range(4):
        stage.add(f"j{n}", '[ "$runs" -lt 2 ] || exit 0; ' + UNTIL_GO)
    drive(stage, lambda: sum(job.state is cb.JobState.RUNNING for job in stage.batch) == 3)
    end = time.monotonic() + 1.1  # start times are in whole seconds
    drive(stage, lambda: time.monotonic() > end)
    before = stage.batch.report()
    with stage.situations.preempt_all():
        drive(stage, lambda: sum(job.record.attempts[-1].is_suspended for job in stage.batch) == 3)
        during = stage.batch.report()
        (stopped, *_) = (job.key for job in stage.batch if job.record.attempts[-1].is_suspended)
        assert "will start again from the beginning" in stage.batch[stopped].explain()
        assert stage.batch.counts.get(cb.JobState.RUNNING, 0) == 0
    for job in stage.batch:  # the fourth, which had no place
        stage.go(job.key)
    after = stage.batch.run(progress=False, timeout=60)
    assert before.core_hours <= during.core_hours <= after.core_hours
    assert (after.restarts, after.counts) == (3, {S: 4})
    assert after.lost_seconds > 0.9
    assert sorted(len(stage.runs(job.key)) for job in stage.batch) == [1, 2, 2, 2]
    assert "An earlier run under the same id" in stage.batch[stopped].explain()
    assert "3 runs stopped by the platform and begun again" in " ".join(str(after).split())


def test_a_job_larger_than_the_quota_is_named_while_smaller_ones_run(staged):
    stage = staged(platform={"cores": 2, "strict_quota": True}, long_wait=0.4)
    stage.add("large", "true", cores=4)
    stage.add("small", UNTIL_GO)
    drive(stage, lambda: stage.batch["large"].record.attempts and stage.batch["large"].record.attempts[-1].is_held_up)
    drive(stage, lambda: "smaller jobs launched later" in stage.batch["large"].explain() or later(stage))
    stage.go("small")
    stage.batch.cancel(["large"])
    stage.batch.run(progress=False, timeout=60)
    assert [job.state for job in stage.batch] == [cb.JobState.CANCELLED, S]


def later(stage):
    """Whether the small job was launched too early to count as overtaking, so that the wait alone is told."""
    return "waited for long" in stage.batch["large"].explain()


def test_a_launch_while_the_queue_is_away_is_known_at_once_not_to_have_happened(staged):
    stage = staged()
    began = time.monotonic()
    with (
        stage.platform.faults.during(queue_away()),
        pytest.raises(errors.NotMade, match=r"jobs\.batch .* not found") as caught,
    ):
        stage.session.launch("true", image=IMAGE)
    assert not isinstance(caught.value, errors.LaunchInDoubt)
    assert time.monotonic() - began < 10
    assert stage.platform.jobs() == []


def test_another_thread_may_read_the_history_and_the_log_of_a_preempted_job(staged):
    stage = staged()
    stage.add("j", '[ "$runs" -lt 2 ] || exit 0; ' + PLAIN)
    drive(stage, lambda: all_run(stage))
    stage.situations.preempt("j", hold=True)
    drive(stage, lambda: stage.batch["j"].record.attempts[-1].is_suspended)
    read = []
    reader = threading.Thread(target=lambda: read.append(([line.kind for line in stage.batch.history("j")],
                                                          stage.batch["j"].logs())))  # fmt: skip
    reader.start()
    reader.join(30)
    assert read == [(["Intended", "Launched", *["PhaseChanged"] * (len(read[0][0]) - 2)], "")]
    stage.situations.resume("j")
    stage.batch.run(progress=False, timeout=60)
    assert "its log is gone" in stage.batch["j"].explain()
