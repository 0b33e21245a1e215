"""Launch requests: the directory that a job runs in, and the script that a launch carries."""

from __future__ import annotations

import base64
from pathlib import Path

import attrs
import pytest
from fakes import EPOCH

from canfar_batch.engine.launch_requests import LaunchContext, request_for
from canfar_batch.records import Attempt, JobRecord, Receipt, Resources
from canfar_batch.spec import JobSpec


def sent(spec, context):
    """The script that a launch carries, as text."""
    job = JobRecord(key="x", index=0, spec=spec, filled=spec.fill())
    attempt = Attempt(number=1, launch_name="x", resources=Resources(), intended_at=EPOCH)
    request = request_for(attrs.evolve(job, attempts=(attempt,)), context)
    return script(request) if request.cmd == "/bin/sh" else request.cmd


def script(request):
    return base64.b64decode("".join(request.args.split(" ")[3:])).decode()


@pytest.mark.parametrize(("workdir", "entered"), [(None, "/work"), ("deep", "/work/deep"), ("/arc/own", "/own")])
def test_without_receipts_jobs_run_in_the_drivers_directory_if_it_is_shared(tmp_path, workdir, entered):
    spec = JobSpec("true", image="a/b", receipt=False, workdir=workdir)
    assert f"cd \"$cb_root\"'{entered}'" in sent(spec, LaunchContext(workdir=Path("/arc/work"), shared=True))


def test_without_receipts_jobs_stay_where_the_container_starts_if_it_is_not():
    assert sent(JobSpec("true", image="a/b", receipt=False), LaunchContext(shared=False)) == "true"


@pytest.mark.parametrize(
    ("shared", "said", "own", "placed"),
    [
        (True, None, None, "/arc/work"),
        (True, "driver", "deep", "/arc/work/deep"),
        (True, "home", None, None),
        (True, "own", "/arc/own", "/arc/own"),
        (False, None, None, None),
        (False, None, "deep", "deep"),
        (False, "driver", None, "/arc/work"),
    ],
)
def test_a_job_is_placed_where_its_container_ran(world, shared, said, own, placed):
    batch = world.planned(1, JobSpec("fit {n}", image="skaha/astroml", workdir=own))
    batch.run(progress=False)
    job = batch["j0"].record
    attempt = attrs.evolve(job.attempts[0], receipt=Receipt(exit_code=0, ran_in=said))
    around = LaunchContext(workdir=Path("/arc/work"), shared=shared)
    assert around.placed(attrs.evolve(job, attempts=(attempt,))).filled.workdir == placed
