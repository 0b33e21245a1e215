"""One request and its answer, bounded in time and size.

The time-outs of a socket bound only a silence. A server that sends one byte now and then is stopped by a watchdog: it
shuts the socket when the whole exchange has taken too long.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import attrs
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from canfar_batch.rest.addresses import origin
from canfar_batch.rest.answers import Answer
from canfar_batch.rest.network_errors import NETWORK_ERRORS, Failed, TooLarge, network_error
from canfar_batch.rest.redaction import Secrets

KIB, MIB = 1024, 1024**2
PIECE = 64 * KIB  #: bytes of a body that are read at a time
SLOWEST = 16 * KIB  #: bytes a second that a streamed body must bring on average, after the time for one exchange


class Upload:
    """The next bytes of an open file, as the body of a request: no more than are wanted, even if the file grows."""

    def __init__(self, source: BinaryIO, size: int) -> None:
        self._source, self._left = source, size

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes.

        Raises:
            OSError: The file has become shorter.
        """
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._source.read(wanted)
        self._left -= len(data)
        if wanted and not data:
            raise OSError("the file became shorter while it was sent")
        return data


Body = bytes | Upload | None


@attrs.frozen(kw_only=True)
class Bounds:
    """The limits of one exchange. Seconds and bytes."""

    connect: float
    silence: float  #: the longest time without a byte
    total: float  #: the longest exchange; for a streamed body, the time before `SLOWEST` counts
    size: int  #: a larger body is an error
    error_size: int  #: of the body of an error; the rest is not read


@attrs.frozen(kw_only=True, slots=False)
class StreamedAnswer(Answer):
    """An answer whose body is still to come, in `pieces`. Of an error, the body is here already."""

    pieces: Pieces = attrs.field(repr=False)


def exchange(
    manager: urllib3.PoolManager,
    method: str,
    url: str,
    *,
    body: Body,
    headers: Mapping[str, str],
    bounds: Bounds,
    secrets: Secrets,
) -> Answer:
    """Send one request, once, and return the whole answer.

    Raises:
        NotSent: The connection was not established.
        PlatformUnreachable: The connection ended, or went silent, before the whole answer was there.
        TooLarge: The answer exceeds its limit.
        CertificateRefused: Our certificate was refused in the TLS handshake.
    """
    one = _Exchange(bounds)
    try:
        with _watchdog.watching(one):
            response = one.send(manager, method, url, body, headers)
            content = _read(response, bounds)
        trouble: BaseException | None = TimeoutError() if one.cut else None
    except NETWORK_ERRORS as error:
        trouble = error
    # raised outside the handler, so that a cause that quotes a secret does not stay as the context either
    if trouble is not None:
        raise one.failure(trouble, url, secrets) from secrets.clean(trouble)
    return Answer(status=response.status, headers=_lower(response), body=content, secrets=secrets)


def open_stream(
    manager: urllib3.PoolManager,
    method: str,
    url: str,
    *,
    body: bytes | None,
    headers: Mapping[str, str],
    bounds: Bounds,
    secrets: Secrets,
) -> StreamedAnswer:
    """Send one request, once, and return the answer as soon as its head is there. Raises as `exchange` does."""
    one = _Exchange(bounds)
    _watchdog.add(one)
    content = b""
    try:
        response = one.send(manager, method, url, body, headers)
        if response.status >= 400:
            content = _read(response, bounds)
        trouble: BaseException | None = TimeoutError() if one.cut else None
    except NETWORK_ERRORS as error:
        trouble = error
    except BaseException:
        _watchdog.remove(one)
        raise
    if trouble is not None:
        _watchdog.remove(one)
        raise one.failure(trouble, url, secrets) from secrets.clean(trouble)
    pieces = Pieces(one, response, url, secrets)
    if response.status >= 400:
        pieces.close()
    return StreamedAnswer(
        status=response.status, headers=_lower(response), body=content, secrets=secrets, pieces=pieces
    )


class Pieces(Iterator[bytes]):
    """The body of an answer, in pieces. Close it if it is not read to its end."""

    def __init__(self, one: _Exchange, response: urllib3.BaseHTTPResponse, url: str, secrets: Secrets) -> None:
        self._one, self._response, self._url, self._secrets = one, response, url, secrets
        self._stream = response.stream(PIECE, decode_content=False)
        self._room = one.bounds.size
        self._time = one.due - time.monotonic()  #: seconds of waiting that are left
        one.due = math.inf  # the reader's own time does not count

    def __next__(self) -> bytes:
        """Return the next piece.

        Raises:
            PlatformUnreachable: The transfer was cut.
            TooLarge: The body exceeds its limit.
        """
        began = time.monotonic()
        self._one.due = began + self._time
        try:
            piece = next(self._stream, b"")
            trouble: BaseException | None = TimeoutError() if self._one.cut else None
        except NETWORK_ERRORS as error:
            trouble = error
        self._one.due = math.inf
        if trouble is not None:
            self.close()
            raise self._one.failure(trouble, self._url, self._secrets) from self._secrets.clean(trouble)
        if not piece:
            self.close()
            raise StopIteration
        self._time += len(piece) / SLOWEST - (time.monotonic() - began)
        self._room -= len(piece)
        if self._room < 0:
            self.close()
            raise TooLarge(f"The answer is larger than {self._one.bounds.size:,} bytes", status=self._response.status)
        return piece

    def close(self) -> None:
        """Release the connection; it is closed if something of the body is still to come."""
        _watchdog.remove(self._one)
        self._response.close()


class _Exchange:
    """The state of one exchange, for the connection and the watchdog."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.due = time.monotonic() + bounds.total
        self.socket: socket.socket | None = None
        self.connected = False  #: from then on the request may have been sent
        self.cut = False

    def send(
        self, manager: urllib3.PoolManager, method: str, url: str, body: Body, headers: Mapping[str, str]
    ) -> urllib3.BaseHTTPResponse:
        token = _current.set(self)
        try:
            return manager.urlopen(
                method, url, body=body, headers=headers,
                timeout=urllib3.Timeout(connect=self.bounds.connect, read=self.bounds.silence),
                retries=False, redirect=False, preload_content=False, decode_content=False,
            )  # fmt: skip
        finally:
            _current.reset(token)
            if not self.connected and self.socket is not None:
                self.socket.close()

    def connecting(self, sock: socket.socket) -> None:
        """Watch a socket over which a connection is established, as by a TLS handshake."""
        # a duplicate: the TLS socket takes the original over, and shows itself only after the handshake
        self.socket = sock.dup()

    def connect_to(self, sock: socket.socket) -> None:
        """Watch the socket of an established connection."""
        if self.socket is not None:
            self.socket.close()
        self.socket, self.connected = sock, True

    def shut(self) -> None:
        """End the exchange: a thread that waits for the socket wakes up."""
        self.cut = True
        if self.socket is not None:
            with contextlib.suppress(OSError, ValueError, TypeError):
                # not the TLS socket's own method, which removes the cipher while another thread reads
                socket.socket.shutdown(self.socket, socket.SHUT_RDWR)

    def failure(self, trouble: BaseException, url: str, secrets: Secrets) -> Exception:
        failed = Failed(
            error=trouble,
            where=str(origin(url)),
            total=self.bounds.total,
            connected=self.connected,
            cut=self.cut,
        )
        return network_error(failed, secrets.redact)


def _read(response: urllib3.BaseHTTPResponse, bounds: Bounds) -> bytes:
    """Return the body; of an error, as much as came and is worth reading, as its status alone says what counts."""
    is_error = response.status >= 400
    room = bounds.error_size if is_error else bounds.size
    chunks: list[bytes] = []
    try:
        for chunk in response.stream(PIECE, decode_content=False):
            chunks.append(chunk[:room])
            room -= len(chunk)
            if room < 0:
                break
    except (HTTPError, OSError):
        if not is_error:
            response.close()  # the rest of this answer must not meet the next request
            raise
    except BaseException:
        response.close()
        raise
    if room < 0:
        response.close()
        if not is_error:
            raise TooLarge(f"The answer is larger than {bounds.size:,} bytes", status=response.status)
    return b"".join(chunks)


def _lower(response: urllib3.BaseHTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


# -- connections that the watchdog can shut ---------------------------------------------------------------------------

_current: contextvars.ContextVar[_Exchange | None] = contextvars.ContextVar("exchange", default=None)


class _Watched:
    """A connection that gives its socket to the exchange."""

    def _new_conn(self) -> socket.socket:
        sock: socket.socket = super()._new_conn()  # type: ignore[misc]
        exchange = _current.get()
        if exchange is not None:
            exchange.connecting(sock)
        return sock

    def request(self, *args: Any, **kwargs: Any) -> None:
        assert isinstance(self, HTTPConnection)
        if self.sock is None:
            self.connect()
        exchange = _current.get()
        if exchange is not None:
            # the socket, not the connection: http.client hands it to the answer if the server will close it
            exchange.connect_to(self.sock)
            # else the time-out for connecting would bound how long a large request may take to be sent
            self.sock.settimeout(exchange.bounds.silence)
        super().request(*args, **kwargs)  # type: ignore[misc]


class _WatchedConnection(_Watched, HTTPConnection):
    pass


class _WatchedTlsConnection(_Watched, HTTPSConnection):
    pass


class WatchedPool(HTTPConnectionPool):
    """A pool whose connections the watchdog can shut."""

    ConnectionCls = _WatchedConnection


class WatchedTlsPool(HTTPSConnectionPool):
    """A pool of TLS connections that the watchdog can shut."""

    ConnectionCls = _WatchedTlsConnection


class _Watchdog:
    """Shuts exchanges that take too long. One thread for all, which runs only while there is something to watch."""

    interval = 0.2

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._lock = threading.Lock()
        self._watched: set[_Exchange] = set()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def watching(self, exchange: _Exchange) -> Iterator[None]:
        self.add(exchange)
        try:
            yield
        finally:
            self.remove(exchange)

    def add(self, exchange: _Exchange) -> None:
        with self._lock:
            self._watched.add(exchange)
            # not alive: never started, ended for lack of work, or left in the parent by a fork
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="canfar_batch-watchdog", daemon=True)
                self._thread.start()

    def remove(self, exchange: _Exchange) -> None:
        with self._lock:
            self._watched.discard(exchange)

    def _run(self) -> None:
        idle = 0
        while True:
            time.sleep(self.interval)
            with self._lock:
                late = [each for each in self._watched if each.due <= time.monotonic()]
                idle = 0 if self._watched else idle + 1
                if idle > 50:
                    self._thread = None
                    return
            for each in late:
                each.shut()


_watchdog = _Watchdog()
if hasattr(os, "register_at_fork"):  # a lock that another thread held at the fork would stay locked
    os.register_at_fork(after_in_child=_watchdog.reset)
