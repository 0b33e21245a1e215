"""How fast jobs are launched: the ideal time for so many launches, 32 at a time, over the time that `run()` takes.

    python benchmarks/launching.py                   # 200 jobs at 50 ms and at 1 s a launch, and 1,000 at 50 ms
    python benchmarks/launching.py 200 0.05          # one case: jobs, seconds that the server takes for a launch
    python benchmarks/launching.py 200 1.0 --fsync 0.01   # the same with a disk whose fsync takes 10 ms longer

The server is a process of its own on this machine, which takes the same time for each launch. Measured is the time
from the first launch that reaches it to its last answer. On a busy machine the ideal is out of reach, so the same is
measured of 32 threads that post with `http.client` and record nothing. `--fsync` slows each fsync down by a library
that is compiled for it; it needs a C compiler.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

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


def slow_fsync(seconds: float, place: Path) -> dict[str, str]:
    """Return the environment in which each fsync takes this much longer."""
    source, library = place / "slow.c", place / "slow.so"
    source.write_text(SLOW_FSYNC)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "FSYNC_SECONDS": str(seconds)}


def run(program: str, jobs: int, delay: float, env: dict[str, str]) -> tuple[float, float]:
    """Return the seconds from the first launch to the last answer, and the processor time of the client."""
    with tempfile.TemporaryDirectory(dir=Path.home()) as place:
        server = subprocess.Popen([sys.executable, "-c", SERVER, str(delay)], stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{int(server.stdout.readline())}/skaha/v1"
            command = [sys.executable, "-c", program, url, str(jobs), str(Path(place) / "home")]
            output = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
        finally:
            server.kill()
            server.wait()
    found = re.search(r"TIMES \[(\d+), ([\d.]+)\] ([\d.]+)", output)
    assert found is not None, output
    assert int(found[1]) == jobs
    if os.environ.get("PROFILE"):
        print(output)
    return float(found[2]), float(found[3])


def measure(jobs: int, delay: float, fsync: float) -> None:
    """Print the part of the ideal rate at which *jobs* jobs are launched, and what a bare client reaches."""
    with tempfile.TemporaryDirectory() as place:
        bare, _ = run(BARE, jobs, delay, dict(os.environ))
        env = {**os.environ, **(slow_fsync(fsync, Path(place)) if fsync else {})}
        took, processor = run(DRIVER, jobs, delay, env)
    ideal = math.ceil(jobs / TOGETHER) * delay
    goal = f" (goal {GOALS[delay]})" if delay in GOALS else ""
    disk = f", fsync {1000 * fsync:g} ms slower" if fsync else ""
    print(
        f"{jobs:6,} launches of {delay:g} s{disk}: {took:.2f} s, {ideal / took:.2f} of the ideal{goal}; "
        f"a bare client {bare:.2f} s, {ideal / bare:.2f} of it; {1000 * processor / jobs:.1f} ms of processor time each"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how fast jobs are launched.")
    parser.add_argument("jobs", type=int, nargs="?")
    parser.add_argument("delay", type=float, nargs="?", default=0.05, help="seconds that a launch takes")
    parser.add_argument("--fsync", type=float, default=0.0, help="seconds by which each fsync is slower")
    given = parser.parse_args()
    for jobs, delay in CASES if given.jobs is None else [(given.jobs, given.delay)]:
        measure(jobs, delay, given.fsync)


if __name__ == "__main__":
    main()
