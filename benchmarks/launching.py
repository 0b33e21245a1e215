"""How fast jobs are launched: the ideal time for so many launches, 32 at a time, over the time that it takes.

    python benchmarks/launching.py                   # 200 jobs at 50 ms and at 1 s a launch, and 1,000 at 50 ms
    python benchmarks/launching.py 200 0.05          # one case: jobs, seconds that the server takes for a launch
    python benchmarks/launching.py 200 1.0 --fsync 0.01   # the same with a disk whose fsync takes 10 ms longer
    python benchmarks/launching.py --peer /tmp/peers --rounds 5   # with the official client, in turns

The server is a process of its own on this machine, which takes the same time for each launch. Measured is the time
from the first launch that reaches it to its last answer: of a batch, of 32 threads that each call `session.launch` one
job after the other, and of 32 threads that post with `http.client` and record nothing, since on a busy machine the
ideal is out of reach. `--peer` adds the `AsyncSession` of the official client (PyPI `canfar`) with 32 connections,
which is installed in an environment of its own below the given folder. All take turns; the medians of the rounds count.
`--fsync` slows each fsync down by a library that is compiled for it; it needs a C compiler.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import NamedTuple

TOGETHER = 32  #: launches at a time
CASES = ((200, 0.05), (1000, 0.05), (200, 1.0))
GOALS = {0.05: 0.70, 1.0: 0.85}

SERVER = """
import json, socket, sys, threading, time
delay, lock, made, times = float(sys.argv[1]), threading.Lock(), [], []
def serve(conn):
    file = conn.makefile("rb")
    while line := file.readline():
        length = 0
        while (header := file.readline()) not in (b"\\r\\n", b""):
            if header.lower().startswith(b"content-length:"):
                length = int(header.split(b":")[1])
        body = file.read(length)
        kind, answer = "application/json", "[]"
        if line.startswith(b"POST"):
            arrived = time.monotonic()
            time.sleep(delay)
            with lock:
                made.append(1)
                kind, answer = "text/plain", "%08x" % len(made)
                times.extend((arrived, time.monotonic()))
        elif b"context" in line:
            answer = json.dumps({name: {"options": [1, 2], "default": 1} for name in ("cores", "memoryGB", "gpus")})
        elif b"times" in line:
            answer = json.dumps([len(made), max(times) - min(times)])
        head = "HTTP/1.1 200 OK\\r\\nContent-Type: %s\\r\\nx-vo-authenticated: ann\\r\\nContent-Length: %d\\r\\n\\r\\n"
        conn.sendall((head % (kind, len(answer)) + answer).encode())
listener = socket.create_server(("127.0.0.1", 0), backlog=512)
print(listener.getsockname()[1], flush=True)
while True:
    conn, _ = listener.accept()
    conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.Thread(target=serve, args=(conn,), daemon=True).start()
"""

DRIVER = """
import os, sys, time, urllib.request, json, logging
from canfar_batch import AtOnce, JobSpec, JobState, Session
url, jobs, profile = sys.argv[1], int(sys.argv[2]), os.environ.get("PROFILE")
with Session.connect(url, token="t" * 20) as session:
    batch = session.batch("launching", home=sys.argv[3], launch=AtOnce())
    batch.map(JobSpec("fit {n}", image="skaha/astroml:latest", cores=1, ram=1), n=range(jobs))
    launched = lambda: (batch._engine.counts or {}).get(JobState.PENDING, 0) == jobs
    def go():
        while not launched():
            batch._engine.wait(batch.step())
    if profile:
        import cProfile, pstats
        run = cProfile.Profile(); run.runcall(go); pstats.Stats(run).sort_stats("tottime").print_stats(25)
    else:
        go()
    print("TIMES", urllib.request.urlopen(url + "/times").read().decode(), time.process_time())
    os._exit(0)  # the jobs are not waited for
"""

THREADS = """
import os, sys, threading, time, urllib.request
from canfar_batch import JobSpec, Session
url, left = sys.argv[1], iter(range(int(sys.argv[2])))
os.makedirs(sys.argv[3]); os.chdir(sys.argv[3])
with Session.connect(url, token="t" * 20) as session:
    session.limits()
    def work():
        for number in left:
            session.launch(f"fit {number}", image="skaha/astroml:latest", cores=1, ram=1)
    threads = [threading.Thread(target=work) for _ in range(32)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    print("TIMES", urllib.request.urlopen(url + "/times").read().decode(), time.process_time())
    os._exit(0)  # the jobs are not waited for
"""

PEER = """
import asyncio, sys, time, urllib.request
from canfar.sessions import AsyncSession
from pydantic import SecretStr
url, jobs = sys.argv[1], int(sys.argv[2])
async def launch():
    async with AsyncSession(url=url, token=SecretStr("t" * 20), concurrency=32) as session:
        ids = []
        while len(ids) < jobs:  # it takes 512 replicas at most
            ids += await session.create(
                name="peer", image="images.canfar.net/skaha/astroml:latest", kind="headless", cmd="fit", args="1",
                cores=1, ram=1, replicas=min(512, jobs - len(ids)),
            )
        assert len(ids) == jobs
asyncio.run(launch())
print("TIMES", urllib.request.urlopen(url + "/times").read().decode(), time.process_time())
"""

BARE = """
import http.client, itertools, sys, threading, urllib.request
from urllib.parse import urlsplit
url, left = urlsplit(sys.argv[1]), iter(range(int(sys.argv[2])))
def work():
    conn = http.client.HTTPConnection(url.hostname, url.port)
    for number in left:
        conn.request("POST", "/skaha/v1/session", b"name=bare&image=x&cmd=" + b"x" * 3000)
        conn.getresponse().read()
threads = [threading.Thread(target=work) for _ in range(32)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("TIMES", urllib.request.urlopen(sys.argv[1] + "/times").read().decode(), 0)
"""

SLOW_FSYNC = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>
static void pause_(void) { usleep((useconds_t)(atof(getenv("FSYNC_SECONDS")) * 1e6)); }
int fsync(int fd) { pause_(); return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd); }
int fdatasync(int fd) { pause_(); return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd); }
"""


class Taken(NamedTuple):
    """What launching took, in seconds."""

    wall: float
    processor: float


def slow_fsync(seconds: float, place: Path) -> dict[str, str]:
    """Return the environment in which each fsync takes this much longer."""
    source, library = place / "slow.c", place / "slow.so"
    source.write_text(SLOW_FSYNC)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "FSYNC_SECONDS": str(seconds)}


def install(package: str, place: Path) -> str:
    """Return the interpreter of an environment below *place* that has *package*, and make it if it is not there."""
    python = place / package / "bin" / "python"
    if not python.exists():
        venv.create(place / package, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", package], check=True)
    return str(python)


def run(program: str, jobs: int, delay: float, env: dict[str, str], python: str = sys.executable) -> Taken:
    """Return the time from the first launch to the last answer, and the processor time of the client, in seconds."""
    with tempfile.TemporaryDirectory(dir=Path.home()) as place:
        server = subprocess.Popen([sys.executable, "-c", SERVER, str(delay)], stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{int(server.stdout.readline())}/skaha/v1"
            command = [python, "-c", program, url, str(jobs), str(Path(place) / "home")]
            output = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
        finally:
            server.kill()
            server.wait()
    found = re.search(r"TIMES \[(\d+), ([\d.]+)\] ([\d.]+)", output)
    assert found is not None, output
    assert int(found[1]) == jobs
    if os.environ.get("PROFILE"):
        print(output)
    return Taken(float(found[2]), float(found[3]))


def measure(jobs: int, delay: float, fsync: float, rounds: int, peer: str | None) -> None:
    """Print which part of the ideal rate each way to launch *jobs* jobs reaches."""
    taken: dict[str, list[Taken]] = {}
    with tempfile.TemporaryDirectory() as place:
        usual = {**os.environ, "HOME": place}  # the official client writes its configuration there
        slow = {**usual, **(slow_fsync(fsync, Path(place)) if fsync else {})}
        for _ in range(rounds):
            taken.setdefault("batch", []).append(run(DRIVER, jobs, delay, slow))
            taken.setdefault("session.launch in 32 threads", []).append(run(THREADS, jobs, delay, slow))
            if peer is not None:
                taken.setdefault("official AsyncSession", []).append(run(PEER, jobs, delay, usual, peer))
            taken.setdefault("http.client in 32 threads", []).append(run(BARE, jobs, delay, usual))
    ideal = math.ceil(jobs / TOGETHER) * delay
    disk = f", fsync {1000 * fsync:g} ms slower" if fsync else ""
    goal = f"; goal {GOALS[delay]}" if delay in GOALS else ""
    print(f"{jobs:,} launches of {delay:g} s{disk}: ideal {ideal:.2f} s{goal}")
    for what, times in taken.items():
        wall = statistics.median(one.wall for one in times)
        processor = statistics.median(one.processor for one in times)
        print(
            f"  {what:29} {wall:6.2f} s, {ideal / wall:.2f} of the ideal; "
            f"{1000 * processor / jobs:5.1f} ms of processor time each"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how fast jobs are launched.")
    parser.add_argument("jobs", type=int, nargs="?")
    parser.add_argument("delay", type=float, nargs="?", default=0.05, help="seconds that a launch takes")
    parser.add_argument("--fsync", type=float, default=0.0, help="seconds by which each fsync is slower")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each (default: %(default)s)")
    parser.add_argument("--peer", type=Path, help="folder in which the official client is installed, to compare with")
    given = parser.parse_args()
    peer = None if given.peer is None else install("canfar", given.peer.resolve())
    for jobs, delay in CASES if given.jobs is None else [(given.jobs, given.delay)]:
        measure(jobs, delay, given.fsync, given.rounds, peer)


if __name__ == "__main__":
    main()
