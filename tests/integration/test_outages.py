"""Outages of the services that the platform depends on, over HTTP: no job is lost, and none is launched twice."""

import itertools
import json
import time
from pathlib import Path

import pytest

from canfar_batch import JobSpec, Window
from canfar_batch.local import faults
from canfar_batch.records import JobState
from canfar_batch.strategies import Listing

OUTAGES = json.loads((Path(__file__).parents[1] / "contract" / "parity" / "outages.json").read_text())
SPEC = JobSpec("echo {n}", image="skaha/astroml:latest", cores=1, ram=1)
SECONDS = 5.0
CREATES = ["create"]
EVERYTHING = sorted(faults.KINDS)
CASES = [(status, CREATES) for status in (400, 401, 403, 404, 500, 503)]
CASES += [(status, EVERYTHING) for status in (401, 403, 404, 500)]


def recorded(status):
    """The answers of this status that the published service gave to creates during outages, without end."""
    rows = [row for row in OUTAGES if row.get("status") == status and row["request"].startswith("POST")]
    texts = sorted({(row["text"], row["headers"].get("retry-after", [""])[0]) for row in rows})
    server = {"Server": "OpenCADC/cadc-rest"}
    actions = [faults.answer(status, text, server | ({"Retry-After": "1"} if wait else {})) for text, wait in texts]
    return itertools.cycle(actions)  # no generator: several threads of the platform take from it


def outage(platform, status):
    """Return an action that lets requests fail for some seconds, once 8 jobs were launched."""
    answers, began = recorded(status), []

    def act(call):
        if sum(platform.requests.accepted.values()) < 8:
            return call.proceed()
        began.append(time.monotonic())
        return next(answers)(call) if began[-1] < began[0] + SECONDS else call.proceed()

    return act


@pytest.mark.parametrize(
    ("status", "kinds"), CASES, ids=lambda given: f"{given}" if isinstance(given, int) else given[0]
)
def test_an_outage_costs_no_job_and_no_container(local_platform, session_on, monkeypatch, status, kinds):
    monkeypatch.setattr("canfar_batch.store.home.Home.refuse_if_fleeting", lambda home: None)
    platform = local_platform()
    fault = outage(platform, status)
    for kind in kinds:
        platform.faults.add(fault, on=kind)
    batch = session_on(platform).batch("outage", launch=Window(4), monitor=Listing(every=(0.2, 1.0)))
    batch.map(SPEC, key="j{n}", n=range(24))
    batch.run(progress=False, timeout=110)
    assert batch.counts == {JobState.SUCCEEDED: 24}
    assert sum(platform.requests.accepted.values()) == 24
    assert all(len(job.attempts) == 1 for job in batch)
