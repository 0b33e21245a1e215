"""One look at 10,000 running containers of which 1,000 are ours, against `requests` and `json.loads` of the same body.

Both ask the same server on loopback, which runs in a process of its own, in turns within one run: their ratio is what
to compare. Each look has new figures for the memory in use, as on the platform, so that no row is the same twice.

    python benchmarks/listing.py [--containers 10000] [--ours 1000] [--looks 15]
"""

from __future__ import annotations

import argparse
import http.server
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import requests

from canfar_batch.records import Phase
from canfar_batch.rest import open_platform

TOKEN = "benchmark-token"


def row(number: int, look: int) -> dict[str, object]:
    """A running container, with the fields and in the order in which the service sends them."""
    minute, second = divmod(number, 60)
    start = f"{minute % 60:02d}:{second:02d}Z"
    return {
        "id": f"a{number:07d}", "userid": "ann", "runAsUID": "10002", "runAsGID": "10002",
        "supplementalGroups": [20002, 20000], "image": "images.canfar.net/skaha/astroml:latest", "type": "headless",
        "status": "Running", "name": f"calib-2026-{number}-k3v9-1", "startTime": f"2026-11-27T01:{start}",
        "expiryTime": f"2026-12-11T01:{start}", "connectURL": "", "requestedRAM": "1.07", "requestedCPUCores": "1",
        "requestedGPUCores": "0", "isFixedResources": True, "ramInUse": f"0.{(number + look) % 90 + 10}",
        "cpuCoresInUse": f"0.{(number * 7 + look) % 900 + 100}",
    }  # fmt: skip


def serve(containers: int) -> None:
    """Answer lists until the standard input ends."""
    bodies = [json.dumps([row(number, look) for number in range(containers)], indent=2).encode() for look in range(4)]

    class Lists(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        asked = 0

        def do_GET(self) -> None:
            Lists.asked += 1
            body = bodies[Lists.asked // 2 % len(bodies)]
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Lists)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--containers", type=int, default=10_000)
    parser.add_argument("--ours", type=int, default=1_000)
    parser.add_argument("--looks", type=int, default=15)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.containers)
        return
    command = [sys.executable, __file__, "--serve", "--containers", str(args.containers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{int(server.stdout.readline())}/skaha/v1"
            compare(url, args.containers, args.ours, args.looks)
        finally:
            server.terminate()


def compare(url: str, containers: int, ours: int, looks: int) -> None:
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {TOKEN}"
    names = {f"calib-2026-{number}-k3v9-1" for number in range(0, containers, containers // ours)}

    def theirs() -> None:
        answer = session.get(f"{url}/session", params={"type": "headless"}, timeout=30)
        assert len(json.loads(answer.content)) == containers

    with open_platform(url, token=TOKEN, env={}) as platform:

        def look() -> None:
            listed = platform.containers()
            mine = [each for each in listed if each.name in names]
            assert len(listed) == containers
            assert len(mine) == ours
            for each in mine:
                assert each.phase is Phase.RUNNING
                assert each.started_at is not None
                assert each.expires_at is not None

        first = seconds(look)
        pairs = [(seconds(theirs), seconds(look)) for _ in range(looks)]
    plain = statistics.median(pair[0] for pair in pairs)
    lean = statistics.median(pair[1] for pair in pairs)
    print(f"{containers:,} containers, {ours:,} ours; medians of {looks} looks in turns")
    print(f"requests and json.loads  {plain * 1000:7.1f} ms")
    print(
        f"containers()             {lean * 1000:7.1f} ms, {lean / plain:.2f} times (first look {first * 1000:.1f} ms)"
    )
    print(f"peak memory of both      {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:7.1f} MiB")


if __name__ == "__main__":
    main()
