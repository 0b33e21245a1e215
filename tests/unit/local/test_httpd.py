"""Reading HTTP from a connection, and writing it."""

import socket
import threading

import pytest

from canfar_batch.local.httpd import HEAD_LIMIT, BadRequest, RequestReader, Response, rendered


@pytest.fixture
def wire():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(10)
        theirs.settimeout(10)
        yield ours, theirs


def read(wire, sent):
    ours, theirs = wire
    writer = threading.Thread(target=lambda: (theirs.sendall(sent), theirs.shutdown(socket.SHUT_WR)))
    writer.start()
    try:
        reader = RequestReader(ours)
        requests = []
        while (request := reader.next()) is not None:
            requests.append(request)
        return requests
    finally:
        writer.join()


def test_requests_follow_each_other_on_one_connection(wire):
    first, second = read(
        wire, b"POST /a?q=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n"
    )
    assert (first.method, first.path, first.query, first.body) == ("POST", "/a", "q=1", b"abc")
    assert (second.method, second.path, second.query, second.body) == ("GET", "/b", "", b"")


def test_header_names_are_found_in_lower_case(wire):
    (request,) = read(wire, b"GET / HTTP/1.1\r\nX-Vo-Thing:  a b \r\n\r\n")
    assert request.headers["x-vo-thing"] == "a b"


def test_the_absolute_form_of_a_target_is_understood(wire):
    (request,) = read(wire, b"GET http://127.0.0.1:8/skaha/v1/session?a=b HTTP/1.1\r\n\r\n")
    assert (request.path, request.query) == ("/skaha/v1/session", "a=b")


def test_chunked_bodies_are_read(wire):
    (request,) = read(
        wire, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: t\r\n\r\n"
    )
    assert request.body == b"abcde"


def test_who_expects_100_continue_gets_it(wire):
    theirs = wire[1]
    read(wire, b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx")
    assert theirs.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / FTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nSpace : x\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
        b"GET /" + b"x" * HEAD_LIMIT + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nLong: " + b"x" * HEAD_LIMIT,
    ],
)
def test_what_is_no_request_is_refused(wire, sent):
    with pytest.raises(BadRequest):
        read(wire, sent)


@pytest.mark.parametrize(
    ("version", "connection", "keeps"),
    [("1.1", None, True), ("1.1", "close", False), ("1.0", None, False), ("1.0", "Keep-Alive", True)],
)
def test_connections_are_kept_as_http_says(wire, version, connection, keeps):
    ours, theirs = wire
    header = f"Connection: {connection}\r\n" if connection else ""
    theirs.sendall(f"GET / HTTP/{version}\r\n{header}\r\n".encode())
    reader = RequestReader(ours)
    reader.next()
    assert reader.keep_alive is keeps


def test_the_answer_to_head_has_a_length_but_no_body():
    answer = rendered(Response(200, b"body"), keep_alive=True, body=False)
    assert b"Content-Length: 4\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_a_promised_length_may_exceed_the_body():
    assert b"Content-Length: 9\r\n" in rendered(Response(200, b"body", promised=9), keep_alive=False)
