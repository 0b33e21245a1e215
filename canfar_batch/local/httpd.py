"""A small HTTP/1.1 server on loopback: one thread for each connection, one send for each answer.

The standard library's handler parses headers as e-mail, which costs more than all that the platform does for a status
request; reading the few lines that HTTP needs keeps thousands of requests per second possible on one core.
"""

from __future__ import annotations

import contextlib
import dataclasses
import email.utils
import http
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

HEAD_LIMIT = 8 * 1024  #: bytes of request line and headers, as Tomcat counts them
BODY_LIMIT = 64 * 1024 * 1024  #: bytes of a request's body that are read at all
LOOPBACK = "127.0.0.1"


@dataclasses.dataclass(frozen=True)
class Request:
    """One request as it came over the wire, its percent-escapes untouched."""

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)  #: names in lower case
    body: bytes = b""


@dataclasses.dataclass(frozen=True)
class Response:
    """One answer. *promised* is a Content-Length that the body does not keep: the connection breaks after it."""

    status: int
    body: bytes = b""
    content_type: str | None = "text/plain"
    headers: tuple[tuple[str, str], ...] = ()
    promised: int | None = None


class ConnectionDropped(Exception):
    """Raised by a handler to reset the connection in place of an answer."""


class BadRequest(Exception):
    """What came is not an HTTP request that this server reads."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


Handler = Callable[[Request], Response]


class HttpServer:
    """Holds a loopback port, and answers on it from :meth:`start` to :meth:`stop`."""

    def __init__(self, port: int = 0) -> None:
        self._handler: Handler = _unready
        self._listener = socket.create_server((LOOPBACK, port), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._acceptor = threading.Thread(target=self._accept, name="local-platform-accept", daemon=True)

    def start(self, handler: Handler) -> None:
        """Begin to answer with *handler*."""
        self._handler = handler
        self._acceptor.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Close the port and every connection, and wait for their threads."""
        with self._lock:
            if self._stopping.is_set():
                return
            self._stopping.set()
        # a connection of our own wakes accept() on every system; closing the listener does so on none
        with contextlib.suppress(OSError):
            socket.create_connection((LOOPBACK, self.port), timeout=1).close()
        if self._acceptor.ident is not None:
            self._acceptor.join(timeout)
        self._listener.close()
        with self._lock:
            connections = dict(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in connections.values():
            if thread is not threading.current_thread():
                thread.join(timeout)

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                time.sleep(0.02)  # out of file descriptors, most likely: others will be given back
                continue
            with self._lock:
                if self._stopping.is_set():
                    connection.close()
                    return
                thread = threading.Thread(
                    target=self._serve, args=(connection,), name="local-platform-http", daemon=True
                )
                self._connections[connection] = thread
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._answer_all(connection)
        except ConnectionDropped:
            # a lingering time of zero makes close() send a reset, as a crashed proxy would
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass  # the client went away
        finally:
            with self._lock:
                self._connections.pop(connection, None)
            connection.close()

    def _answer_all(self, connection: socket.socket) -> None:
        reader = RequestReader(connection)
        while not self._stopping.is_set():
            try:
                request = reader.next()
            except BadRequest as bad:
                page = f"<!doctype html><html><body><h1>HTTP Status {bad.status} - {bad}</h1></body></html>"
                refusal = Response(bad.status, page.encode(), "text/html;charset=utf-8")
                connection.sendall(rendered(refusal, keep_alive=False))
                return
            if request is None:
                return
            response = self._handled(request)
            keep_alive = reader.keep_alive and response.promised is None and not self._stopping.is_set()
            connection.sendall(rendered(response, keep_alive=keep_alive, body=request.method != "HEAD"))
            if not keep_alive:
                return

    def _handled(self, request: Request) -> Response:
        try:
            return self._handler(request)
        except ConnectionDropped:
            raise
        except Exception:
            log.exception("the local platform failed on %s %s", request.method, request.path)
            return Response(500, b"unexpected exception: java.lang.IllegalStateException: local platform, see its log")


def _unready(request: Request) -> Response:
    return Response(503, b"temporarily unavailable: null", headers=(("Retry-After", "1"),))


class RequestReader:
    """Reads one request after the other from a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""
        self.keep_alive = True

    def next(self) -> Request | None:
        """The next request, or None when the client is done."""
        head = self._head()
        if head is None:
            return None
        lines = head.split(b"\r\n")
        words = lines[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            raise BadRequest("Bad Request")
        method, target, version = words
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, colon, value = line.partition(b":")
            if not colon or name != name.strip():
                raise BadRequest("Bad Request")
            headers[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
        connection = headers.get("connection", "").lower()
        self.keep_alive = "close" not in connection if version == "HTTP/1.1" else "keep-alive" in connection
        body = self._body(headers)
        path, _, query = target.partition("?")
        if "://" in path:  # the absolute form, which proxies send
            path = "/" + path.split("://", 1)[1].partition("/")[2]
        return Request(method, path, query, headers, body)

    def _head(self) -> bytes | None:
        while True:
            # blank lines before a request are forgiven, as RFC 9112 asks
            self._buffer = self._buffer.lstrip(b"\r\n")
            end = self._buffer.find(b"\r\n\r\n")
            if end > HEAD_LIMIT or (end < 0 and len(self._buffer) > HEAD_LIMIT):
                raise BadRequest("Request header is too large")
            if end >= 0:
                head, self._buffer = self._buffer[:end], self._buffer[end + 4 :]
                return head
            if not self._receive():
                return None

    def _body(self, headers: Mapping[str, str]) -> bytes:
        chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        try:
            length = int(headers.get("content-length", "0"))
        except ValueError:
            raise BadRequest("Bad Request") from None
        if length < 0:
            raise BadRequest("Bad Request")
        if length > BODY_LIMIT:
            raise BadRequest("Request Entity Too Large", 413)
        if (chunked or length) and headers.get("expect", "").lower() == "100-continue":
            self._connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        return self._chunks() if chunked else self._take(length)

    def _chunks(self) -> bytes:
        body = bytearray()
        while True:
            try:
                size = int(self._line().split(b";")[0], 16)
            except ValueError:
                raise BadRequest("Bad Request") from None
            if size < 0 or len(body) + size > BODY_LIMIT:
                raise BadRequest("Request Entity Too Large", 413)
            body += self._take(size)
            if size:
                self._line()
                continue
            while self._line():  # trailers, which nobody here asks for
                pass
            return bytes(body)

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if len(self._buffer) > HEAD_LIMIT or not self._receive():
                raise BadRequest("Bad Request")
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _take(self, length: int) -> bytes:
        parts, missing = [self._buffer[:length]], length - len(self._buffer)
        self._buffer = self._buffer[length:]
        while missing > 0:
            part = self._connection.recv(min(missing, 1 << 20))
            if not part:
                raise BadRequest("Bad Request")
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _receive(self) -> bool:
        part = self._connection.recv(64 * 1024)
        self._buffer += part
        return bool(part)


def rendered(response: Response, *, keep_alive: bool, body: bool = True) -> bytes:
    """The bytes of an answer, ready for one send."""
    length = len(response.body) if response.promised is None else response.promised
    lines = [f"HTTP/1.1 {response.status} {_phrase(response.status)}", f"Date: {_date(int(time.time()))}"]
    lines += [f"{name}: {value}" for name, value in response.headers]
    if response.content_type is not None:
        lines.append(f"Content-Type: {response.content_type}")
    lines.append(f"Content-Length: {length}")
    if not keep_alive:
        lines.append("Connection: close")
    head = "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"
    return head + response.body if body else head


_PHRASES = {status.value: status.phrase for status in http.HTTPStatus}


def _phrase(status: int) -> str:
    return _PHRASES.get(status, "Unknown")


_last_date = (0, "")


def _date(second: int) -> str:
    # one tuple, replaced whole: threads that race compute the same text
    global _last_date
    if _last_date[0] != second:
        _last_date = (second, email.utils.formatdate(second, usegmt=True))
    return _last_date[1]
