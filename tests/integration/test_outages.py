"""Outages of the services that the platform depends on, over HTTP: no job is lost, and none is launched twice."""

import time

import attrs
import pytest
from contract.parity.played import ROWS, fault_of, name_of
from engine import World
from served import ServedPlatform

from canfar_batch import JobSpec, Window
from canfar_batch.local import faults
from canfar_batch.local.messages import ConnectionDropped
from canfar_batch.records import JobState
from canfar_batch.strategies import Listing

SPEC = JobSpec("echo {n}", image="images.canfar.net/skaha/astroml:latest", cores=1, ram=1)
JOBS = 40
#: outages of one batch: after how many launches it begins, how many seconds it lasts, and whether it strikes everything
TIMES = ((8, 5.0, False), (16, 5.0, True), (24, 2400.0, False), (32, 2400.0, True))
BUSY = {
    "queue away": faults.queue_away(),
    "poisoned replica": faults.poisoned_replica(),
    "redis hung": attrs.evolve(faults.redis_hung(), waits=0.0),
    "api server away": faults.api_server_away(),
    "429": faults.answer(429, "slow down\n"),
    "503 with a long wait": faults.answer(503, "temporarily unavailable: null\n", {"Retry-After": "120"}),
    "proxy": faults.bad_gateway(),
    "reset": faults.drop(),
}


def distinct_outages():
    """The recorded outages in which creates fail; of those that are answered in the same words, one."""
    failing = [name_of(row) for row in ROWS if row["request"].startswith("POST") and row.get("status") != 200]
    answers = {
        name: tuple((row.get("status"), row.get("text")) for row in ROWS if name_of(row) == name) for name in failing
    }
    return list({answers[name]: name for name in reversed(failing)}.values())


def action_of(outage, clock):
    if outage in BUSY:
        return BUSY[outage]
    action = fault_of(next(row for row in ROWS if name_of(row) == outage))

    def hang(call):
        clock.sleep(90.0)  # as long as the client waits for a create
        raise ConnectionDropped

    return attrs.evolve(action, waits=0.0, answers=hang) if action.waits else action


@pytest.fixture(scope="module")
def served():
    with ServedPlatform() as served:
        yield served


@pytest.mark.parametrize("outage", [*distinct_outages(), *BUSY])
def test_no_outage_costs_a_job_or_a_container(tmp_path, served, caplog, outage):
    """The clock is held: the client's pauses, the engine's waits and the outages pass on it."""
    world = World(tmp_path)
    clock, launched = world.clock, world.platform.launched
    begun, struck = {}, set()

    def strikes(request):
        for after, seconds, everything in TIMES:
            if len(launched) >= after and clock.seconds < begun.setdefault(after, clock.seconds) + seconds:
                struck.add(after)
                return everything or request.method == "POST"
        return False

    with served.playing(world.platform), served.client(clock) as client:
        served.faults.add(action_of(outage, clock), where=strikes, lingers=0.0)
        batch = world.planned(JOBS, SPEC, launch=Window(4), platform=client)
        batch.run(progress=False)
        assert batch.counts == {JobState.SUCCEEDED: JOBS}
        assert "no answer came" not in caplog.text
        assert all(len(job.attempts) == 1 for job in batch) or outage in ("proxy", "reset") or "hang" in outage
        batch.close()
    assert len(launched) == JOBS
    assert struck == {8, 16, 24, 32}
    assert clock.seconds > 2 * (5.0 + 2400.0)


@pytest.mark.parametrize("kind", ["create", "any"])
def test_threads_and_real_time_lose_nothing_either(local_platform, session_on, monkeypatch, kind):
    monkeypatch.setattr("canfar_batch.store.home.Home.refuse_if_fleeting", lambda home: None)
    platform, began = local_platform(), []
    answers = [fault_of(row) for row in ROWS if row["service"] == "gms" and row["fault"] in ("401", "404", "garbage")]

    def strikes(request):
        if sum(platform.requests.accepted.values()) >= 4 and not began:
            began.append(time.monotonic())
        return bool(began) and time.monotonic() < began[0] + 1.0

    for number, answer in enumerate(answers):
        platform.faults.add(answer, on=kind, where=strikes, every=2 + number)
    batch = session_on(platform).batch("outage", launch=Window(4), monitor=Listing(every=(0.2, 1.0)))
    batch.map(SPEC, key="j{n}", n=range(12))
    batch.run(progress=False, timeout=110)
    assert batch.counts == {JobState.SUCCEEDED: 12}
    assert sum(platform.requests.accepted.values()) == 12
    assert all(len(job.attempts) == 1 for job in batch)
