"""Reading HTTP from a connection, and writing it."""

import contextlib
import socket

import pytest

from canfar_batch.local.http_server import HEAD_LIMIT, HttpServer
from canfar_batch.local.messages import ConnectionDropped, Response


class Server:
    """A server that notes requests and gives prepared answers."""

    def __init__(self):
        self.requests, self.response = [], Response(200, b"body")
        self._server = HttpServer()
        self._server.start(self._answer)

    def _answer(self, request):
        self.requests.append(request)
        if self.response is None:
            raise ConnectionDropped
        return self.response

    def connect(self):
        return socket.create_connection(("127.0.0.1", self._server.port), timeout=10)

    def send(self, *sent):
        """Send bytes on one connection, say that no more come, and return all that is answered."""
        with self.connect() as connection:
            for part in sent:
                connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)
            return read(connection)

    def stop(self):
        self._server.stop()


def read(connection):
    answer = b""
    while part := connection.recv(65536):
        answer += part
    return answer


@pytest.fixture
def server():
    made = Server()
    yield made
    made.stop()


def test_requests_follow_each_other_on_one_connection(server):
    answer = server.send(
        b"POST /a?q=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET /b HTTP/1.1\r\nHost: h\r\n\r\n"
    )
    first, second = server.requests
    assert (first.method, first.path, first.query, first.body) == ("POST", "/a", "q=1", b"abc")
    assert (second.method, second.path, second.query, second.body) == ("GET", "/b", "", b"")
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 2


def test_header_names_are_found_in_lower_case(server):
    server.send(b"GET / HTTP/1.1\r\nX-Vo-Thing:  a b \r\n\r\n")
    assert server.requests[0].headers["x-vo-thing"] == "a b"


def test_repeated_headers_stand_on_lines_of_their_own(server):
    server.send(b"GET / HTTP/1.1\r\nA: one\r\na: two\r\n\r\n")
    assert server.requests[0].headers["a"] == "one\ntwo"


def test_the_absolute_form_of_a_target_is_understood(server):
    server.send(b"GET http://127.0.0.1:8/skaha/v1/session?a=b HTTP/1.1\r\n\r\n")
    assert (server.requests[0].path, server.requests[0].query) == ("/skaha/v1/session", "a=b")


def test_chunked_bodies_are_read(server):
    server.send(
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: t\r\n\r\n"
    )
    assert server.requests[0].body == b"abcde"


def test_a_client_that_expects_100_continue_gets_it(server):
    answer = server.send(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n", b"x")
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


def test_every_method_is_answered(server):
    server.send(b"BREW / HTTP/1.1\r\n\r\n")
    assert server.requests[0].method == "BREW"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / FTP/1.0\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nSpace : x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"GET /" + b"x" * HEAD_LIMIT + b" HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nLong: " + b"x" * HEAD_LIMIT + b"\r\n\r\n", 400),
    ],
)
def test_malformed_requests_are_refused_and_the_connection_is_closed(server, sent, status):
    with server.connect() as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        answer = read(connection)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"Connection: close\r\n" in answer
    assert server.requests == []


@pytest.mark.parametrize(
    ("version", "connection", "is_kept"),
    [("1.1", None, True), ("1.1", "close", False), ("1.0", None, False), ("1.0", "Keep-Alive", True)],
)
def test_connections_are_kept_as_http_asks(server, version, connection, is_kept):
    header = f"Connection: {connection}\r\n" if connection else ""
    with server.connect() as connection:
        connection.sendall(f"GET / HTTP/{version}\r\n{header}\r\n".encode())
        if is_kept:
            connection.recv(65536)
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert read(connection).endswith(b"body")  # until the server closes the connection
    assert len(server.requests) == (2 if is_kept else 1)


def test_the_answer_to_head_has_a_length_but_no_body(server):
    answer = server.send(b"HEAD / HTTP/1.1\r\n\r\n")
    assert b"Content-Length: 4\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_a_promised_length_may_exceed_the_body(server):
    server.response = Response(200, b"body", promised=9)
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        answer = read(connection)  # until the server closes the connection
    assert b"Content-Length: 9\r\n" in answer
    assert answer.endswith(b"body")


def test_a_dropped_connection_gives_no_answer(server):
    server.response = None
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):  # which most systems raise
            assert connection.recv(100) == b""
    assert len(server.requests) == 1


def test_stopping_closes_idle_connections(server):
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
        server.stop()
        assert connection.recv(1000) == b""


def test_a_server_that_never_started_can_be_stopped():
    HttpServer().stop()
