"""A Dask cluster whose workers are jobs: real `distributed`, with the local platform's containers as workers."""

import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap

import pytest
from waiting import until

from canfar_batch.errors import SpecError

distributed = pytest.importorskip("distributed")
from canfar_batch.dask import CanfarCluster, SchedulerUnreachable  # noqa: E402 (it needs distributed)

IMAGE = "skaha/astroml:latest"
pytestmark = pytest.mark.timeout(240)  # each worker is a Python that imports distributed


@pytest.fixture
def platform(local_platform):
    return local_platform()


@pytest.fixture
def session(platform, session_on):
    logging.getLogger("distributed").setLevel(logging.ERROR)
    return session_on(platform)


def running(session):
    return sorted(info.name for info in session.platform.containers() if not info.phase.final)


def cluster_of(session, **options):
    return CanfarCluster(session, image=IMAGE, python=sys.executable, **options)


def test_a_cluster_computes_replaces_a_lost_worker_adapts_and_leaves_nothing(session):
    with cluster_of(session, workers=2, name="night") as cluster, distributed.Client(cluster) as client:
        assert cluster.scheduler.address.startswith("tls://")
        client.wait_for_workers(2)
        assert [name.rpartition("-")[0] for name in running(session)] == ["dask-night-0", "dask-night-1"]
        assert sum(client.gather(client.map(lambda x: x + 1, range(1000), batch_size=100))) == 500_500

        lost = cluster.workers[0].job
        session.platform.cancel(lost.id)
        until(lambda: 0 in cluster.workers and cluster.workers[0].job not in (None, lost))
        client.wait_for_workers(2)

        cluster.adapt(minimum=0, maximum=4, interval="200ms")
        assert sum(client.gather(client.map(lambda x: x, range(50), pure=False))) == 1225
        until(lambda: not cluster.workers)
    until(lambda: not running(session))


def test_a_scheduler_that_containers_cannot_reach_is_an_error_that_names_it(session):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nothing listens there
        unreachable = f"127.0.0.1:{taken.getsockname()[1]}"

        class Elsewhere(CanfarCluster):
            @property
            def reached_at(self):
                return f"tls://{unreachable}"

        with pytest.raises(SchedulerUnreachable, match=rf"tls://{unreachable} .*refused.* host=,"):
            Elsewhere(session, image=IMAGE, python=sys.executable, workers=1)
    assert running(session) == []


def test_an_image_that_cannot_run_a_worker_is_an_error_before_the_first_worker(session, tmp_path):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho canfar_batch: python 3.6\necho canfar_batch: distributed none\n")
    program.chmod(0o755)
    with pytest.raises(SpecError, match="has no distributed: a worker needs"):
        CanfarCluster(session, image=IMAGE, python=str(program), workers=1)
    with pytest.raises(SpecError, match="cannot name a cluster"):
        cluster_of(session, name="My Cluster")
    assert running(session) == []


SCRIPT = """
import sys, time
import canfar_batch as cb
from canfar_batch.dask import CanfarCluster
from dask.distributed import Client
if __name__ == "__main__":
    session = cb.Session.connect(sys.argv[1], token=sys.argv[2])
    cluster = CanfarCluster(session, image="skaha/astroml:latest", python=sys.executable, workers=1, name="killed")
    Client(cluster).wait_for_workers(1)
    print("ready", flush=True)
    time.sleep(600)
"""


def test_workers_of_a_killed_client_end_by_themselves(platform, session, tmp_path):
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, str(tmp_path / "script.py"), platform.url, platform.token]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as client:
        assert client.stdout.readline() == b"ready\n"
        os.kill(client.pid, signal.SIGKILL)
    until(lambda: not running(session))  # the documented 60 s, and the time to notice
