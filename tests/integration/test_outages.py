"""Outages of the services that the platform depends on, over HTTP: no job is lost, and none is launched twice."""

import itertools
import json
from pathlib import Path

import pytest

from canfar_batch import JobSpec, Window
from canfar_batch.local import faults
from canfar_batch.records import JobState
from canfar_batch.strategies import Listing

OUTAGES = json.loads((Path(__file__).parents[1] / "contract" / "parity" / "outages.json").read_text())
SPEC = JobSpec("echo {n}", image="skaha/astroml:latest", cores=1, ram=1)
FAILING = {"creates": 5, "everything": 15}  # requests that fail: the first probe of a launch fails, too


def recorded(status):
    """The answers of this status that the published service gave to creates during outages, without end."""
    rows = [row for row in OUTAGES if row.get("status") == status and row["request"].startswith("POST")]
    texts = sorted({(row["text"], row["headers"].get("retry-after", [""])[0]) for row in rows})
    for text, wait in itertools.cycle(texts):
        yield faults.answer(status, text, {"Server": "OpenCADC/cadc-rest"} | ({"Retry-After": "1"} if wait else {}))


def outage(platform, status, requests):
    """Return an action that lets this many requests fail, once 8 jobs were launched."""
    answers, left = recorded(status), iter(range(requests))

    def act(call):
        if sum(platform.requests.accepted.values()) >= 8 and next(left, None) is not None:
            return next(answers)(call)
        return call.proceed()

    return act


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500, 503])
@pytest.mark.parametrize("calls", FAILING)
def test_an_outage_costs_no_job_and_no_container(local_platform, session_on, monkeypatch, status, calls):
    monkeypatch.setattr("canfar_batch.store.home.Home.refuse_if_fleeting", lambda home: None)
    platform = local_platform()
    fault = outage(platform, status, FAILING[calls])
    kinds = ["create"] if calls == "creates" else sorted(faults.KINDS)
    for kind in kinds:
        platform.faults.add(fault, on=kind)
    batch = session_on(platform).batch("outage", launch=Window(4), monitor=Listing(every=(0.2, 1.0)))
    batch.map(SPEC, key="j{n}", n=range(40))
    batch.run(progress=False, timeout=120)
    assert batch.counts == {JobState.SUCCEEDED: 40}
    assert sum(platform.requests.accepted.values()) == 40
    assert all(len(job.attempts) == 1 for job in batch)
