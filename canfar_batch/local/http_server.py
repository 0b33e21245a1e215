"""The HTTP server of the local platform: the standard library's, on loopback only."""

from __future__ import annotations

import contextlib
import logging
import socket
import socketserver
import ssl
import struct
import tempfile
import threading
import time
from email.errors import MissingHeaderBodySeparatorDefect
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, BinaryIO, cast

import attrs

from canfar_batch.local import tomcat
from canfar_batch.local.messages import ConnectionDropped, Handler, Request, Response, Uploads

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
HEAD_LIMIT = 8 * 1024  #: bytes of request line and headers, as in Tomcat
BODY_LIMIT = 64 * 1024 * 1024  #: bytes of a request's body, unless it is an upload
SPOOLED = 4 * 1024 * 1024  #: bytes of an upload that are kept in memory
PIECE = 256 * 1024  #: bytes of an upload or a large answer that are copied at a time
STOP_CHECK = 0.05  #: seconds between two checks of whether the server was stopped


class HttpServer:
    """A server that holds a loopback port from its creation, and answers between `start` and `stop`.

    Args:
        port: The port; 0 chooses a free one.
        tls: The settings of TLS, with a certificate; None speaks plain HTTP.

    Raises:
        OSError: The port is in use.
    """

    def __init__(self, port: int = 0, *, tls: ssl.SSLContext | None = None) -> None:
        self._server = _Server((LOOPBACK, port), _Connection)
        self._server.tls = tls
        self.port: int = self._server.server_port
        self._acceptor = threading.Thread(
            target=self._server.serve_forever, args=(STOP_CHECK,), name="local-platform-accept", daemon=True
        )

    def start(self, handler: Handler, uploads: Uploads | None = None) -> None:
        """Begin to answer with *handler*; *uploads* says which bodies are received as uploads."""
        self._server.handler, self._server.uploads = handler, uploads
        self._acceptor.start()

    def stop(self) -> None:
        """Close the port and every connection, and wait up to 5 s for each thread."""
        self._server.stopping.set()
        if self._acceptor.ident is not None:
            self._server.shutdown()
            self._acceptor.join()
        self._server.server_close()
        self._server.close_connections(timeout=5.0)


class _Server(ThreadingHTTPServer):
    """Keeps account of its connections: the base class cannot close them."""

    request_queue_size = 1024
    daemon_threads = True

    def __init__(self, address: tuple[str, int], connection: type[socketserver.BaseRequestHandler]) -> None:
        self.handler: Handler = _unready
        self.uploads: Uploads | None = None
        self.tls: ssl.SSLContext | None = None
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        super().__init__(address, connection)

    def server_bind(self) -> None:
        # the base class looks the host's name up, which may wait for a name server
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = LOOPBACK, self.server_address[1]

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            connection, address = super().get_request()
            if self.tls is not None:  # the handshake comes with the first read, in the connection's own thread
                connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            return connection, address
        except OSError:
            time.sleep(0.02)  # probably out of file descriptors: others will be closed soon
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(
            target=self.process_request_thread, args=(request, client_address), name="local-platform-http", daemon=True
        )
        with self._lock:
            self._connections[request] = thread
        thread.start()

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore it: the only errors that arrive here are those of clients that went away."""

    def close_connections(self, timeout: float) -> None:
        with self._lock:
            connections = dict(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in connections.values():
            if thread is not threading.current_thread():
                thread.join(timeout)


class _Connection(BaseHTTPRequestHandler):
    """Reads the requests of one connection, and writes each answer with one send."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __getattr__(self, name: str) -> Any:
        # the base class looks for do_GET and the like; the service answers every method itself
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse a request that cannot be read, and close the connection."""
        self.close_connection = True
        self._send(tomcat.bad_request(message or HTTPStatus(code).phrase, status=code), with_body=True)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Print nothing."""

    def _answer(self) -> None:
        refusal = self._unreadable()
        if refusal is not None:
            self.close_connection = True
            self._send(refusal, with_body=True)
            return
        server = cast("_Server", self.server)
        request, uploads = self._request(), server.uploads
        if uploads is not None and uploads.is_upload(request):
            self._receive(request, uploads)
            return
        try:
            body = self._body()
        except ValueError as problem:
            self.send_error(413 if "large" in str(problem) else 400, str(problem))
            return
        self._reply(attrs.evolve(request, body=body))

    def _receive(self, request: Request, uploads: Uploads) -> None:
        """Spool an upload, and answer it; also one that was cut, of which something may be left."""
        early = uploads.early(request)
        if early is not None:
            self.close_connection = True
            self._send(early, with_body=True)
            return
        with tempfile.SpooledTemporaryFile(SPOOLED) as spool:
            try:
                self._spool(cast("BinaryIO", spool))
                is_cut = False
            except (ValueError, OSError):
                is_cut = True
            self._reply(attrs.evolve(request, spool=cast("BinaryIO", spool), is_cut=is_cut))

    def _spool(self, spool: BinaryIO) -> None:
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            spool.write(self._chunks())
            return
        left = int(self.headers.get("content-length", "0"))
        while left > 0:
            piece = self.rfile.read(min(PIECE, left))
            if not piece:
                raise ValueError("Bad Request")
            spool.write(piece)
            left -= len(piece)

    def _reply(self, request: Request) -> None:
        try:
            response = self._handled(request)
        except ConnectionDropped:
            self._reset()
            return
        server = cast("_Server", self.server)
        is_broken = response.promised is not None and self.command != "HEAD"
        if is_broken or server.stopping.is_set() or request.is_cut:
            self.close_connection = True
        self._send(response, with_body=self.command != "HEAD")

    def _unreadable(self) -> Response | None:
        """Return the refusal of a request whose head is malformed or too large; None if it can be read."""
        # other defects concern the body of a multipart message, which the header parser does not see
        if any(isinstance(defect, MissingHeaderBodySeparatorDefect) for defect in self.headers.defects):
            return tomcat.bad_request("Bad Request")
        if self.request_version == "HTTP/0.9" or any(name != name.strip() for name in self.headers):
            return tomcat.bad_request("Bad Request")
        if len(self.raw_requestline) > HEAD_LIMIT:
            return tomcat.head_too_large(in_request_line=True)
        head = len(self.raw_requestline) + sum(len(name) + len(value) + 4 for name, value in self.headers.items())
        return tomcat.head_too_large(in_request_line=False) if head > HEAD_LIMIT else None

    def _request(self) -> Request:
        """Return the request without its body."""
        path, _, query = self.path.partition("?")
        if "://" in path:  # the absolute form, which proxies send
            path = "/" + path.split("://", 1)[1].partition("/")[2]
        headers: dict[str, str] = {}
        for name, value in self.headers.items():
            kept, name = value.strip(), name.lower()
            headers[name] = f"{headers[name]}\n{kept}" if name in headers else kept
        is_secure = cast("_Server", self.server).tls is not None
        return Request(self.command, path, query, headers, is_secure=is_secure)

    def _body(self) -> bytes:
        """Read the body.

        Raises:
            ValueError: It is malformed, cut short, or too large.
        """
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            return self._chunks()
        try:
            length = int(self.headers.get("content-length", "0"))
        except ValueError:
            length = -1
        return self._read(length)

    def _chunks(self) -> bytes:
        body = bytearray()
        while size := int(self.rfile.readline(HEAD_LIMIT).split(b";")[0], 16):
            body += self._read(size, BODY_LIMIT - len(body))
            self.rfile.readline(HEAD_LIMIT)
        while self.rfile.readline(HEAD_LIMIT).strip():
            pass  # trailers, which the service does not use
        return bytes(body)

    def _read(self, length: int, limit: int = BODY_LIMIT) -> bytes:
        if length < 0:
            raise ValueError("Bad Request")
        if length > limit:
            raise ValueError("Request body is too large")
        body = self.rfile.read(length)
        if len(body) < length:
            raise ValueError("Bad Request")
        return body

    def _handled(self, request: Request) -> Response:
        try:
            return cast("_Server", self.server).handler(request)
        except ConnectionDropped:
            raise
        except Exception:
            log.exception("the local platform failed on %s %s", request.method, request.path)
            return Response(500, b"unexpected exception: java.lang.IllegalStateException: local platform, see its log")

    def _reset(self) -> None:
        """Close the connection with a reset, as a proxy that crashed does."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _send(self, response: Response, *, with_body: bool) -> None:
        phrase = HTTPStatus(response.status).phrase if response.status in _KNOWN else "Unknown"
        length = response.length if response.source is not None else len(response.body)
        length = length if response.promised is None else response.promised
        lines = [f"HTTP/1.1 {response.status} {phrase}", f"Date: {self.date_time_string()}"]
        lines += [f"{name}: {value}" for name, value in response.headers]
        if response.content_type is not None:
            lines.append(f"Content-Type: {response.content_type}")
        if response.status != HTTPStatus.NO_CONTENT:
            lines.append(f"Content-Length: {length}")
        if self.close_connection:
            lines.append("Connection: close")
        head = "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"
        self.wfile.write(head + response.body if with_body else head)
        if response.source is None:
            return
        with response.source as source:
            left = response.length if with_body else 0
            while left > 0 and (piece := source.read(min(PIECE, left))):
                self.wfile.write(piece)
                left -= len(piece)


_KNOWN = frozenset(status.value for status in HTTPStatus)


def _unready(request: Request) -> Response:
    return Response(503, b"temporarily unavailable: null", headers=(("Retry-After", "1"),))
