"""A scripted server: each request takes the next step, which may be any bytes, a reset, or silence."""

import contextlib
import json
import socket
import ssl
import struct
import threading
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    peer: str | None = None  #: common name of the client's certificate
    connection: int = 0

    @property
    def path(self):
        return urlsplit(self.target).path

    @property
    def form(self):
        return parse_qsl(self.body.decode("ascii"), keep_blank_values=True)


def reply(status=200, body=b"", kind="text/plain", *, service=True, length=None, **headers):
    """An answer, by default the service's own."""
    body = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body) if length is None else length}"]
    lines += [f"Content-Type: {kind}"] if kind else []
    lines += ["x-vo-authenticated: ann"] if service else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def data(value, **options):
    return reply(200, json.dumps(value, indent=2), "application/json", **options)


def page(status, title, **options):
    html = f"<html><head><title>{title}</title><style>b{{}}</style></head><body><h1>{title}</h1></body></html>"
    return reply(status, html, "text/html", service=False, **options)


def reset(conn, server):
    """Reset the connection, as a dead machine does."""
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conn.close()


def hang_up(conn, server):
    """Close without an answer."""
    conn.close()


def stall(conn, server):
    """Send nothing."""
    server.stopped.wait(30)


def drip(start, drop=b"x"):
    """Send *start*, and then a little now and then, without end."""

    def step(conn, server):
        conn.sendall(start)
        with contextlib.suppress(OSError):
            while not server.stopped.wait(0.02):
                conn.sendall(drop)

    return step


def flood(start, much=b"x" * 65536):
    """Send *start*, and then as much as the other end takes, without end."""

    def step(conn, server):
        conn.sendall(start)
        with contextlib.suppress(OSError):
            while not server.stopped.is_set():
                conn.sendall(much)

    return step


def cut_short(whole, keep):
    """Send the first *keep* bytes of *whole*, and close."""

    def step(conn, server):
        conn.sendall(whole[:keep])
        conn.close()

    return step


@dataclass
class Server:
    """Answers on loopback. Steps are bytes, functions of (connection, server), or functions of the request."""

    steps: list[Any] = field(default_factory=list)
    always: Any = None  #: the step after the last
    accept: list[Any] = field(default_factory=list)  #: steps for the first connections, before anything is read
    tls: ssl.SSLContext | None = None

    def __post_init__(self):
        self.requests: list[Request] = []
        self.accepted = 0
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()

    def __enter__(self):
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self._start(self._listen)
        return self

    def __exit__(self, *_):
        self.stopped.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for conn in self._open:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(conn, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    @property
    def url(self):
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/skaha/v1"

    def posts(self):
        return [each for each in self.requests if each.method == "POST"]

    def _start(self, target, *args):
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _listen(self):
        while not self.stopped.is_set():
            try:
                conn, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._start(self._serve, conn, self.accepted)

    def _serve(self, conn, number):
        with self._lock:
            self._open.add(conn)
            first = self.accept.pop(0) if self.accept else None
        try:
            if first is not None:
                first(conn, self)
                return
            conn.settimeout(30)
            if self.tls:
                plain, conn = conn, self.tls.wrap_socket(conn, server_side=True, do_handshake_on_connect=False)
                with self._lock:
                    self._open.discard(plain)
                    self._open.add(conn)
                self._shake_hands(conn)
            while not self.stopped.is_set() and self._answer(conn, number):
                pass
        except (OSError, EOFError):
            pass
        finally:
            with self._lock:
                self._open.discard(conn)
            conn.close()

    def _shake_hands(self, conn):
        try:
            conn.do_handshake()
        except ssl.SSLError:
            # to close over unread bytes would reset the connection, and the alert might be lost
            socket.socket.shutdown(conn, socket.SHUT_WR)
            while socket.socket.recv(conn, 65536):
                pass
            raise

    def _answer(self, conn, number):
        request = self._read(conn)
        if request is None:
            return False
        request.connection = number
        with self._lock:
            self.requests.append(request)
            step = self.steps.pop(0) if self.steps else self.always
        if step is None:
            raise EOFError("no more steps")
        if isinstance(step, bytes):
            conn.sendall(step)
            return True
        if getattr(step, "of_request", False):
            conn.sendall(step(request))
            return True
        step(conn, self)
        return False

    def _read(self, conn):
        head = b""
        while b"\r\n\r\n" not in head:
            more = conn.recv(65536)
            if not more:
                return None
            head += more
        head, _, body = head.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        while len(body) < int(headers.get("content-length", 0)):
            body += conn.recv(65536)
        method, target, _ = first.split(" ")
        return Request(method, target, headers, body, peer=self._peer(conn))

    def _peer(self, conn):
        certificate = conn.getpeercert() if self.tls else None
        if not certificate:
            return None
        return dict(pair for group in certificate["subject"] for pair in group)["commonName"]


def of_request(function):
    """Mark a step that makes its answer from the request."""
    function.of_request = True
    return function
