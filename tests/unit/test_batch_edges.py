"""The edges of a batch: directories that change, results that cannot be kept, plans that make no sense."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from engine import World

from canfar_batch.attempts import Surroundings, request_for
from canfar_batch.records import Resources
from canfar_batch.spec import JobSpec


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


# -- where jobs run -----------------------------------------------------------------------------------------------


def sent(spec, around):
    """The script that a launch carries, as text."""
    request = request_for(
        spec, spec.fill(), launch_name="x", key="x", number=1, resources=Resources(), around=around
    )  # fmt: skip
    return base64.b64decode("".join(request.args.split(" ")[3:])).decode() if request.cmd == "/bin/sh" else request.cmd


@pytest.mark.parametrize(
    ("workdir", "entered"), [(None, "/arc/work"), ("deep", "/arc/work/deep"), ("/arc/own", "/arc/own")]
)
def test_without_receipts_too_jobs_run_in_the_drivers_directory_where_containers_see_it(tmp_path, workdir, entered):
    spec = JobSpec("true", image="a/b", receipt=False, workdir=workdir)
    assert f"cd '{entered}'" in sent(spec, Surroundings(workdir=Path("/arc/work"), shared=True))


def test_without_receipts_jobs_run_where_containers_start_if_they_may_not_see_the_drivers_directory():
    assert sent(JobSpec("true", image="a/b", receipt=False), Surroundings(shared=False)) == "true"
