"""The official client as a witness: unchanged, in its own environment, it works against the local platform.

It is run, never imported: it lives in a virtual environment of its own, which is made once and kept.
"""

import json
import os
import subprocess
import sys

import pytest
from environments import INSTALL_TIMEOUT, environment_with

TOKEN = "a-token-for-the-witness"  # no secret: the platform lives for this test

SCRIPT = """
import json, time
from canfar.sessions import Session

session = Session()
report = {}
ids = session.create(
    name="witness", image="skaha/astroml:latest", kind="headless", cores=1, ram=1, cmd="sh",
    args="-c echo\\thello;env;echo\\toops>&2;while\\t[\\t!\\t-e\\tgo\\t];do\\tsleep\\t0.05;done",
    env={"ANSWER": "42"}, replicas=2,
)
report["ids"] = ids
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    report["running"] = session.info(ids)
    report["logs"] = session.logs(ids)
    started = all(one["status"] == "Running" for one in report["running"])
    if started and all("oops" in text for text in report["logs"].values()):
        break
    time.sleep(0.05)
report["fetched"] = session.fetch(kind="headless")
report["fetched_running"] = session.fetch(kind="headless", status="Running")
report["events"] = session.events(ids)
report["stats"] = session.stats()
failed = session.create(name="fails", image="skaha/astroml:latest", kind="headless", cmd="sh", args="-c exit\\t3")
report["touched"] = session.create(name="go", image="skaha/astroml:latest", kind="headless", cmd="touch", args="go")
while time.monotonic() < deadline:
    report["ended"] = session.info(ids + failed)
    if all(one["status"] in {"Completed", "Failed"} for one in report["ended"]):
        break
    time.sleep(0.05)
report["destroyed"] = session.destroy(ids)
report["left"] = [one["id"] for one in session.fetch(kind="headless")]
report["gone"] = session.info(ids)
report["failed"] = failed
report["destroyed_by_name"] = session.destroy_with(prefix="fails", kind="headless", status="Failed")
print("REPORT", json.dumps(report))
"""


@pytest.fixture(scope="module")
def official_python(request, tmp_path_factory):
    """The interpreter of an environment with the official client."""
    return environment_with("canfar", request, tmp_path_factory) / "python"


@pytest.fixture(scope="module")
def platform_url():
    """The URL of a platform in a process of its own."""
    command = [sys.executable, "-m", "canfar_batch.local", "--die-with-parent", "--token", TOKEN]
    with subprocess.Popen(
        [*command, "--cores", "8", "--ram", "64", "--stats"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process.stdout.readline().strip().removeprefix("export CANFAR_URL=")
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def report(official_python, platform_url, tmp_path_factory):
    """The official client's output."""
    home = tmp_path_factory.mktemp("home")  # it reads and writes ~/.canfar
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "CANFAR_URL": platform_url, "CANFAR_TOKEN": TOKEN}
    done = subprocess.run(
        [official_python, "-c", SCRIPT], env=environment, cwd=home, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stderr
    return json.loads(
        next(line for line in done.stdout.splitlines() if line.startswith("REPORT ")).removeprefix("REPORT ")
    )


pytestmark = pytest.mark.timeout(INSTALL_TIMEOUT + 120)


def test_it_creates_sessions(report):
    assert len(set(report["ids"])) == 2
    assert all(len(id_) == 8 for id_ in report["ids"])


def test_it_sees_them_run(report):
    assert [one["status"] for one in report["running"]] == ["Running", "Running"]
    assert {one["name"] for one in report["running"]} == {"witness-1", "witness-2"}
    assert all(one["requestedRAM"] == "1.07" for one in report["running"])
    assert {one["image"] for one in report["running"]} == {"images.canfar.net/skaha/astroml:latest"}


def test_it_lists_them(report):
    for listed in ("fetched", "fetched_running"):
        assert {one["id"] for one in report[listed]} == set(report["ids"])


def test_it_reads_their_logs_and_variables(report):
    for replica, id_ in enumerate(report["ids"], start=1):
        lines = report["logs"][id_].splitlines()
        assert lines[0] == "hello"
        assert lines[-1] == "oops"
        assert {"ANSWER=42", f"REPLICA_ID={replica}", "REPLICA_COUNT=2", f"skaha_sessionid={id_}"} <= set(lines)


def test_it_reads_their_events(report):
    for id_, events in zip(report["ids"], report["events"], strict=True):
        assert events.keys() == {id_}
        assert "Started" in events[id_]


def test_it_reads_the_statistics(report):
    assert report["stats"]["cores"]["requestedCPUCores"] == 2


def test_it_sees_them_end(report):
    assert [one["status"] for one in report["ended"]] == ["Completed", "Completed", "Failed"]


def test_it_destroys_them(report):
    assert report["destroyed"] == dict.fromkeys(report["ids"], True)
    assert not set(report["ids"]) & set(report["left"])
    assert report["gone"] == []
    assert report["destroyed_by_name"] == dict.fromkeys(report["failed"], True)
