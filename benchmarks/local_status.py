"""Measure the status requests per second of the local platform, with 32 open connections and one core.

The server runs on one core and the load on another, if the system can pin processes. The same run measures a bare
ThreadingHTTPServer that answers with a constant, so that figures from different machines can be compared by ratio.

    python benchmarks/local_status.py [--seconds 1] [--rounds 5] [--jobs 1000]
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import json
import os
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

CONNECTIONS = 32
TOKEN = "benchmark"
IMAGE = "images.canfar.net/skaha/astroml:latest"


def serve_local(jobs: int) -> None:
    """Run a platform with *jobs* pending jobs until SIGTERM."""
    from canfar_batch.local import LocalPlatform

    with LocalPlatform(cores=1, ram=1, token=TOKEN) as platform:
        platform.hold()
        port = int(platform.url.split(":")[2].split("/")[0])
        form = f"name=job&image={IMAGE}&cmd=true"
        head = f"POST /skaha/v1/session HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        head += f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(form)}\r\n\r\n"
        ids = []
        with socket.create_connection(("127.0.0.1", port)) as connection:
            for _ in range(jobs):
                connection.sendall((head + form).encode())
                ids.append(connection.recv(65536).decode().split()[-1])
        print(json.dumps({"port": port, "paths": [f"/skaha/v1/session/{id_}" for id_ in ids]}), flush=True)
        signal.sigwait({signal.SIGTERM})


class Constant(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one send for each answer: two would wait for each other's acknowledgement
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, *_: object) -> None:
        pass


def serve_bare() -> None:
    """Run the standard library's server with a constant answer."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Constant)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # ended connections are not errors
    print(json.dumps({"port": server.server_port, "paths": ["/"]}), flush=True)
    server.serve_forever()


@contextlib.contextmanager
def server(kind: str, jobs: int, core: int | None) -> Iterator[tuple[int, list[str]]]:
    command = [sys.executable, __file__, "--serve", kind, "--jobs", str(jobs)]
    if core is not None:
        command += ["--core", str(core)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            ready = json.loads(process.stdout.readline())
            yield ready["port"], ready["paths"]
        finally:
            process.terminate()


def load(port: int, paths: list[str], seconds: float) -> tuple[float, list[float]]:
    """Repeat requests on every connection; return requests per second, and the latencies in seconds."""
    requests = [
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        "User-Agent: benchmark/1.0\r\nAccept-Encoding: gzip, deflate\r\nAccept: */*\r\n"
        "Connection: keep-alive\r\n\r\n".encode()
        for path in paths
    ]
    ready = selectors.DefaultSelector()
    waiting: dict[socket.socket, tuple[float, bytearray]] = {}
    latencies: list[float] = []
    for number in range(CONNECTIONS):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ready.register(connection, selectors.EVENT_READ)
        waiting[connection] = (time.perf_counter(), bytearray())
        connection.sendall(requests[number % len(requests)])
    began = time.perf_counter()
    while (now := time.perf_counter()) < began + seconds:
        for key, _ in ready.select(1):
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            sent, answer = waiting[connection]
            answer += connection.recv(1 << 20)
            if complete(answer):
                assert answer.startswith(b"HTTP/1.1 200"), bytes(answer[:200])
                latencies.append(time.perf_counter() - sent)
                waiting[connection] = (time.perf_counter(), bytearray())
                connection.sendall(requests[len(latencies) % len(requests)])
    for connection in waiting:
        connection.close()
    ready.close()
    return len(latencies) / (now - began), latencies


def complete(answer: bytearray) -> bool:
    head = answer.find(b"\r\n\r\n")
    if head < 0:
        return False
    at = answer.lower().find(b"content-length:", 0, head)
    return len(answer) >= head + 4 + int(answer[at + 15 : answer.index(b"\r\n", at)])


def cores() -> tuple[int | None, int | None]:
    """Return a core for the server and one for the load, or None if processes cannot be pinned."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    mine = sorted(os.sched_getaffinity(0))
    return (mine[0], mine[1]) if len(mine) > 1 else (None, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds for each measurement")
    parser.add_argument("--rounds", type=int, default=5, help="number of measurements; the best counts")
    parser.add_argument("--jobs", type=int, default=1000, help="number of jobs on the platform")
    parser.add_argument("--serve", choices=["local", "bare"], help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    if options.serve:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM} if options.serve == "local" else set())
        return serve_local(options.jobs) if options.serve == "local" else serve_bare()

    server_core, load_core = cores()
    if load_core is not None:
        os.sched_setaffinity(0, {load_core})
    bare, status, listing, latencies = 0.0, 0.0, 0.0, [float("inf")]
    with contextlib.ExitStack() as servers:
        bare_port, constant = servers.enter_context(server("bare", 0, server_core))
        port, paths = servers.enter_context(server("local", options.jobs, server_core))
        load(bare_port, constant, 0.3)
        load(port, paths, 0.3)
        # in turns, and the best of each, so that other work on the machine affects all equally
        for _ in range(options.rounds):
            bare = max(bare, load(bare_port, constant, options.seconds)[0])
            rate, taken = load(port, paths, options.seconds)
            if rate > status:
                status, latencies = rate, taken
            listing = max(listing, load(port, ["/skaha/v1/session"], options.seconds)[0])
    print(f"bare server:      {bare:8.0f} requests/s")
    print(f"status of a job:  {status:8.0f} requests/s   {status / bare:.2f} times the bare server")
    print(
        f"                  median {statistics.median(latencies) * 1e3:.1f} ms, slowest {max(latencies) * 1e3:.1f} ms"
    )
    print(f"list of {options.jobs:5} jobs: {listing:6.1f} requests/s")
    return None


if __name__ == "__main__":
    main()
