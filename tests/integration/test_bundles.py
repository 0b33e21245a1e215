"""Bundles on the local platform: one container, many jobs, each with its own report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from waiting import until

import canfar_batch as cb
from canfar_batch import failures
from canfar_batch.rest import open_platform
from canfar_batch.strategies import Bundle

IMAGE = "skaha/terminal:latest"
PATIENCE = 60.0  #: seconds until a test gives up
#: each job leaves a line when it begins
BEGIN = 'printf "%s\\n" "$CANFAR_BATCH_KEY" >>{trace}; '

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def platform() -> Iterator[cb.LocalPlatform]:
    with cb.LocalPlatform(cores=64, ram=256, termination_grace=0.5) as running:
        yield running


STORAGE = "storage"  #: containers see a folder on the platform's storage in the place of the home


@pytest.fixture(params=[True, False, STORAGE], ids=["visible", "hidden", STORAGE])
def visible(request: pytest.FixtureRequest) -> bool | str:
    """Whether containers see the batch's home."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=[True, STORAGE], ids=["visible", STORAGE])
def heard(request: pytest.FixtureRequest) -> bool | str:
    """A home of which containers see something, so that they hear of requests."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def make(platform, tmp_path, monkeypatch) -> Iterator[Callable[..., cb.Batch]]:
    """Make a batch whose containers see its home, or do not."""
    monkeypatch.chdir(tmp_path)
    with cb.Session(open_platform(platform.url, token=platform.token), grace=2.0) as session:

        def make(*, visible: bool | str = True, settle: float = 1.0, **strategies: object) -> cb.Batch:
            usual = {"monitor": cb.Listing(every=(0.1, 0.2)), "retry": cb.Retry(1, pause=0.1)}
            monkeypatch.setattr(cb.Session, "nearby", visible != STORAGE)
            batch = session.batch("b", home=tmp_path / "homes", settle=settle, **{**usual, **strategies})
            if not visible:
                (Path(batch.home) / "token").write_text("that of another batch\n")
            return batch

        yield make


def spec(command: str, **more: object) -> cb.JobSpec:
    return cb.JobSpec(BEGIN + command, image=IMAGE, shell=True, cores=1, ram=1, **more)


def begun(trace: Path) -> Counter[str]:
    return Counter(trace.read_text().split()) if trace.exists() else Counter()


def drive_until(batch: cb.Batch, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, [(job.key, job.state) for job in batch]
        batch.step()
        time.sleep(0.02)


def test_each_job_keeps_what_is_its_own(make, visible, tmp_path):
    batch = make(visible=visible, launch=Bundle(tasks=4, parallel=2))
    command = "echo out {n}; echo err >&2; echo {n} >o{n}; exit {code}"
    batch.map(
        spec(command, workdir=str(tmp_path), outputs=["o{n}"]), key="j{n}", n=range(10), trace=tmp_path / "t",
        code=[3 * (n == 5) for n in range(10)],
    )  # fmt: skip
    report = batch.run(progress=False, timeout=PATIENCE)
    assert (report.counts[cb.JobState.SUCCEEDED], report.counts[cb.JobState.FAILED]) == (9, 1)
    assert len({job.id for job in batch}) == 3
    assert [job.record.attempts[-1].task for job in batch] == [1, 2, 3, 4, 1, 2, 3, 4, 1, 2]
    for n, job in enumerate(batch):
        assert job.logs() == f"out {n}\nerr\n"
        assert job.log.read_text() == f"out {n}\nerr\n"
        assert job.exit_code == 3 * (n == 5)
        assert job.outputs == {f"o{n}": 2}
        assert job.receipt is not None
        assert job.record.attempts[-1].verified
        assert job.run_seconds > 0
        assert job.cpu_seconds is not None
    assert batch["j5"].failure == failures.ExitCode(3, message="err")
    assert begun(tmp_path / "t") == Counter({f"j{n}": 1 for n in range(10)})
    assert [row["key"] for row in batch.to_rows()] == [f"j{n}" for n in range(10)]
    assert not list((Path(batch.home) / "running").iterdir())


def test_a_job_is_pending_until_it_reports_its_own_start(make, visible, tmp_path):
    batch = make(visible=visible, launch=Bundle(tasks=3))
    wait = "echo begun; until [ -e {go} ]; do sleep 0.02; done"
    batch.map(spec(wait), key="j{n}", n=range(3), trace=tmp_path / "t", go=[tmp_path / f"go{n}" for n in range(3)])
    drive_until(batch, lambda: batch["j0"].state is cb.JobState.RUNNING)
    assert [job.state for job in batch][1:] == [cb.JobState.PENDING] * 2
    if visible is True:
        assert batch["j0"].logs() == "begun\n"
    (tmp_path / "go0").touch()
    drive_until(batch, lambda: batch["j0"].state.final and batch["j1"].state is cb.JobState.RUNNING)
    assert batch["j2"].state is cb.JobState.PENDING
    for n in (1, 2):
        (tmp_path / f"go{n}").touch()
    assert batch.run(progress=False, timeout=PATIENCE).counts == {cb.JobState.SUCCEEDED: 3}


def test_of_a_container_that_dies_only_the_task_in_flight_fails(make, visible, platform, tmp_path):
    batch = make(visible=visible, launch=Bundle(tasks=4))
    wait = "if [ {n} = 1 ]; then until [ -e {go} ]; do sleep 0.02; done; fi"
    batch.map(spec(wait), key="j{n}", n=range(4), trace=tmp_path / "t", go=tmp_path / "go")
    drive_until(batch, lambda: batch["j0"].state.final and batch["j1"].state is cb.JobState.RUNNING)
    platform.situations.kill(batch["j1"].id)
    (tmp_path / "go").touch()
    report = batch.run(progress=False, timeout=PATIENCE)
    assert [job.state for job in batch] == [
        cb.JobState.SUCCEEDED, cb.JobState.FAILED, cb.JobState.SUCCEEDED, cb.JobState.SUCCEEDED,
    ], report  # fmt: skip
    assert isinstance(batch["j1"].failure, failures.Killed)
    assert [len(job.attempts) for job in batch] == [1, 1, 2, 2]
    assert isinstance(batch["j2"].attempts[0].failure, failures.NotBegun)
    assert begun(tmp_path / "t") == Counter({f"j{n}": 1 for n in range(4)})


def test_a_container_that_is_begun_again_repeats_only_the_task_in_flight(make, heard, platform, tmp_path):
    batch = make(visible=heard, launch=Bundle(tasks=3))
    wait = "if [ {n} = 1 ]; then until [ -e {go} ]; do sleep 0.02; done; fi"
    batch.map(spec(wait), key="j{n}", n=range(3), trace=tmp_path / "t", go=tmp_path / "go")
    drive_until(batch, lambda: batch["j1"].state is cb.JobState.RUNNING)
    platform.preempt(batch["j1"].id)
    (tmp_path / "go").touch()
    assert batch.run(progress=False, timeout=PATIENCE).counts == {cb.JobState.SUCCEEDED: 3}
    assert begun(tmp_path / "t") == Counter(j0=1, j1=2, j2=1)
    assert {len(job.attempts) for job in batch} == {1}


def test_a_task_that_ended_just_before_its_container_was_begun_again_is_not_lost(make, platform, tmp_path):
    batch = make(launch=Bundle(tasks=3))
    wait = "if [ {n} != 2 ]; then until [ -e {go} ]; do sleep 0.02; done; fi"
    batch.map(spec(wait), key="j{n}", n=range(3), trace=tmp_path / "t", go=[tmp_path / f"go{n}" for n in range(3)])
    drive_until(batch, lambda: batch["j0"].state is cb.JobState.RUNNING)
    time.sleep(1.1)  # start times are in whole seconds
    (tmp_path / "go0").touch()
    until(lambda: begun(tmp_path / "t")["j1"], within=PATIENCE)  # no one polls meanwhile
    platform.preempt(batch["j0"].id)
    (tmp_path / "go1").touch()
    assert batch.run(progress=False, timeout=PATIENCE).counts == {cb.JobState.SUCCEEDED: 3}
    assert begun(tmp_path / "t") == Counter(j0=1, j1=2, j2=1)
    assert {(len(job.attempts), job.record.attempts[-1].verified) for job in batch} == {(1, True)}
    assert batch["j0"].restarts == 1


def test_one_job_of_a_bundle_is_cancelled(make, heard, tmp_path):
    batch = make(visible=heard, launch=Bundle(tasks=4, parallel=2))
    wait = "until [ -e {go} ]; do sleep 0.02; done"
    batch.map(spec(wait), key="j{n}", n=range(4), trace=tmp_path / "t", go=tmp_path / "go")
    drive_until(batch, lambda: [job.state for job in batch][:2] == [cb.JobState.RUNNING] * 2)
    batch.cancel(["j0", "j2"], wait=False)
    drive_until(batch, lambda: batch["j0"].state.final)
    (tmp_path / "go").touch()
    batch.run(progress=False, timeout=PATIENCE)
    off, well = cb.JobState.CANCELLED, cb.JobState.SUCCEEDED
    assert [job.state for job in batch] == [off, well, off, well]
    assert begun(tmp_path / "t") == Counter(j0=1, j1=1, j3=1)
    assert len({job.id for job in batch}) == 1


def test_all_jobs_of_a_bundle_are_cancelled_with_its_container(make, visible, platform, tmp_path):
    batch = make(visible=visible, launch=Bundle(tasks=3))
    batch.map(spec("exec sleep 1000"), key="j{n}", n=range(3), trace=tmp_path / "t")
    drive_until(batch, lambda: batch["j0"].state is cb.JobState.RUNNING)
    batch.cancel()
    assert {job.state for job in batch} == {cb.JobState.CANCELLED}
    assert platform.wait_idle(PATIENCE)


def test_commands_too_large_for_one_launch_travel_as_a_file(make):
    batch = make(launch=Bundle(tasks=2))
    large = cb.JobSpec(["sh", "-c", "echo {n}", "sh", *(f"{{w{k}}}" for k in range(4))], image=IMAGE, cores=1, ram=1)
    batch.map(large, key="j{n}", n=range(2), **{f"w{k}": "it's_" * 24_000 for k in range(4)})
    batch.run(progress=False, timeout=PATIENCE)
    assert [job.logs() for job in batch] == ["0\n", "1\n"]
    assert len({job.id for job in batch}) == 1
    assert not list((Path(batch.home) / "running").iterdir())


def test_a_bundle_that_the_platform_does_not_offer_is_refused(make, tmp_path):
    batch = make(launch=Bundle(tasks=50, parallel=40))
    batch.map(spec("true"), key="j{n}", n=range(50), trace=tmp_path / "t")
    with pytest.raises(cb.SpecError, match=r"cores=40 is not offered.*parallel="):
        batch.preflight()
    with pytest.raises(cb.SpecError, match="cores=40 is not offered"):
        batch.run(progress=False)
    assert begun(tmp_path / "t") == Counter()


def test_a_second_driver_goes_on_with_running_bundles(make, visible, tmp_path):
    first = make(visible=visible, launch=Bundle(tasks=4))
    wait = "if [ {n} = 1 ]; then until [ -e {go} ]; do sleep 0.02; done; fi"
    given = {"key": "j{n}", "n": range(8), "trace": tmp_path / "t", "go": tmp_path / "go"}
    first.map(spec(wait), **given)
    drive_until(first, lambda: first["j0"].state.final)
    first.close()
    (tmp_path / "go").touch()
    time.sleep(0.5)  # the rest may end while no one drives
    second = make(visible=visible, launch=Bundle(tasks=4))
    second.map(spec(wait), **given)
    assert second.run(progress=False, timeout=PATIENCE).counts == {cb.JobState.SUCCEEDED: 8}
    assert begun(tmp_path / "t") == Counter({f"j{n}": 1 for n in range(8)})


def test_a_bundle_that_ended_and_was_forgotten_has_lost_nothing(make, platform, tmp_path):
    """Its driver was away for long: the storage has the receipts, the platform not even the name."""
    given = {"key": "j{n}", "n": range(4), "trace": tmp_path / "t", "go": tmp_path / "go"}
    wait = "if [ {n} = 1 ]; then until [ -e {go} ]; do sleep 0.02; done; fi; exit {n}"
    first = make(visible=STORAGE, launch=Bundle(tasks=4), retry=cb.never)
    first.map(spec(wait), **given)
    drive_until(first, lambda: first["j1"].state is cb.JobState.RUNNING)
    first.close()
    (tmp_path / "go").touch()
    assert platform.wait_idle(PATIENCE)
    for job in platform.jobs():
        platform.forget(job.id)
    second = make(visible=STORAGE, launch=Bundle(tasks=4), retry=cb.never)
    second.map(spec(wait), **given)
    second.run(progress=False, timeout=PATIENCE)
    assert [job.exit_code for job in second] == [0, 1, 2, 3]
    assert [job.state for job in second] == [cb.JobState.SUCCEEDED, *[cb.JobState.FAILED] * 3]
    assert begun(tmp_path / "t") == Counter({f"j{n}": 1 for n in range(4)})
