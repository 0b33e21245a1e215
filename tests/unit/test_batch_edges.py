"""The edges of a batch: directories that change, results that cannot be kept, plans that make no sense."""

from __future__ import annotations

import base64
import sqlite3
from pathlib import Path

import pytest
from engine import World

from canfar_batch import errors
from canfar_batch.attempts import Surroundings, request_for
from canfar_batch.batch import Batch
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


# -- a ledger that somebody wrote to ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mischief",
    [
        "UPDATE job SET filled = '{'",
        "UPDATE job SET state = 'bogus'",
        "UPDATE job SET spec = 99",
        "UPDATE spec SET body = '{}'",
        "UPDATE spec SET body = '[]'",
        "UPDATE attempt SET intended_at = 'never'",
        "UPDATE attempt SET ended_at = 1e300",
        "UPDATE attempt SET failure = '[]'",
        "DELETE FROM meta WHERE name = 'schema'",
    ],
)
def test_a_ledger_that_makes_no_sense_is_said_to_be_damaged(world, mischief):
    batch = world.planned(1)
    batch.run(progress=False)
    batch.close()
    with sqlite3.connect(batch.home / "ledger.db") as db:
        db.execute(mischief)
    with pytest.raises(errors.LedgerError, match="is damaged"):
        Batch.open("test", world.root)
