"""Bundles in memory and in real containers: the same reports, the same verdicts."""

from pathlib import Path

import attrs
import pytest
from engine import SPEC, World
from simulation.bundles import BundleCluster, Steady

import canfar_batch as cb
from canfar_batch.payload.receipts import BundleLogSplitter
from canfar_batch.protocols import Platform
from canfar_batch.records import JobState

CODES = {"j0": 0, "j1": 3, "j2": 0}
QUICK = {"launch": cb.Bundle(tasks=3, parallel=2), "retry": cb.never}


@attrs.frozen
class Ran:
    """A batch of three jobs in one container, of which the second failed; and the platform that ran it."""

    batch: cb.Batch
    platform: Platform


def in_memory(root, *, visible):
    world = World(root)
    platform = world.platform = BundleCluster(Steady(*CODES.values()), visible=visible)
    world.clock = platform.clock
    batch = platform.batch = world.batch(monitor=cb.Listing(every=(1, 1)), **QUICK)
    batch.map(SPEC, key="j{n}", n=range(3))
    batch.run(progress=False)
    return Ran(batch, platform)


def over_rest(root, session, *, visible):
    batch = session.batch("test", home=root, monitor=cb.Listing(every=(0.1, 0.2)), settle=1.0, **QUICK)
    if not visible:
        (Path(batch.home) / "token").write_text("that of another batch\n")
    spec = cb.JobSpec("printf own; exit {code}", image="skaha/terminal:latest", shell=True)
    batch.map(spec, key="j{n}", n=range(3), code=list(CODES.values()))
    batch.run(progress=False)
    return Ran(batch, session.platform)


KINDS = ("memory, visible", "memory, hidden", "REST, visible", "REST, hidden", "REST, storage")


@pytest.fixture(scope="module", params=KINDS)
def ran(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("homes")
    if "memory" in request.param:
        yield in_memory(root, visible="visible" in request.param)
        return
    with (
        pytest.MonkeyPatch.context() as patch,
        cb.LocalPlatform(cores=8, ram=64, termination_grace=0.5) as local,
        cb.Session.connect(local.url, token=local.token) as session,
    ):
        patch.setattr(cb.Session, "nearby", "storage" not in request.param)
        yield over_rest(root, session, visible="hidden" not in request.param)


def test_each_job_has_its_own_end(ran):
    jobs = ran.batch.jobs
    states = [JobState.SUCCEEDED, JobState.FAILED, JobState.SUCCEEDED]
    assert {job.key: job.exit_code for job in jobs} == CODES
    assert [job.state for job in jobs] == states
    assert [job.record.attempts[-1].task for job in jobs] == [1, 2, 3]
    assert all(len(job.attempts) == 1 and job.attempts[0].verified for job in jobs)
    assert len({job.id for job in jobs}) == 1


def test_each_job_has_its_own_log_and_times(ran):
    assert [job.logs() for job in ran.batch.jobs] == ["own"] * 3
    first, second, third = ran.batch.jobs
    assert all(job.started_at <= job.finished_at for job in ran.batch.jobs)
    assert third.started_at >= min(first.finished_at, second.finished_at), "two at a time"


def test_the_containers_log_has_the_reports_of_all(ran):
    (name,) = {job.attempts[0].launch_name for job in ran.batch.jobs}
    splitter = BundleLogSplitter(name)
    for piece in ran.platform.stream_logs(ran.batch.jobs[0].id):
        splitter.feed(piece)
    splitter.finish()
    assert splitter.has_beginning
    assert set(splitter.tasks) == {1, 2, 3}
    for number, code in enumerate(CODES.values(), 1):
        start, end = splitter.receipts_of(number)
        assert start["launch_name"] == end["launch_name"] == f"{name}.{number}"
        assert (end["exit_code"], end["started_at"] == start["started_at"]) == (code, True)
