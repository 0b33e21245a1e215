"""Logs in pieces: bounded memory, and a transfer that was cut is an error."""

import contextlib
import tracemalloc

import pytest
from integration.rest.conftest import REQUEST
from integration.rest.scripted import Server, cut_short, data, drip, flood, page, reply, reset, stall

from canfar_batch import errors

ID = "abcd1234"
PIECE = b"x" * 65536
CHUNKED = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"


def collected(platform):
    """The pieces that came, and the error that ended them."""
    pieces = []
    try:
        pieces.extend(platform.stream_logs(ID))
    except errors.CanfarBatchError as error:
        return pieces, error
    return pieces, None


def test_log_comes_in_pieces_of_bounded_size(connect):
    log = bytes(range(256)) * 2000
    with Server([reply(200, log)]) as server:
        pieces = list(connect(server).stream_logs(ID))
        assert server.requests[0].target == f"/skaha/v1/session/{ID}?view=logs"
    assert b"".join(pieces) == log
    assert max(map(len, pieces)) <= 65536


def test_chunked_log_comes_whole(connect):
    body = f"{CHUNKED}5\r\nhello\r\n3\r\n!!\n\r\n0\r\n\r\n".encode()
    with Server([body, body]) as server:
        platform = connect(server)
        assert b"".join(platform.stream_logs(ID)) == platform.logs(ID) == b"hello!!\n"


def test_large_log_takes_little_memory(connect):
    size = 64 * 2**20

    def pour(conn, server):
        conn.sendall(reply(200, "", length=size))
        for _ in range(size // 65536):
            conn.sendall(PIECE)

    with Server([pour]) as server:
        platform = connect(server)
        tracemalloc.start()
        try:
            assert sum(map(len, platform.stream_logs(ID))) == size
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 4 * 2**20


def test_nothing_is_sent_before_the_first_piece_is_asked_for(connect):
    with Server([reply(200, "x")]) as server:
        stream = connect(server).stream_logs(ID)
        assert server.requests == []
        assert list(stream) == [b"x"]


CUT = {
    "short of its length": cut_short(reply(200, b"x" * 200_000), -1000),
    "without the last chunk": cut_short(f"{CHUNKED}5\r\nhello\r\n".encode(), 10_000),
    "in a chunk": cut_short(f"{CHUNKED}3\r\nabc\r\nf\r\nhello".encode(), 10_000),
}


@pytest.mark.parametrize("case", CUT)
def test_transfer_that_was_cut_is_an_error_after_the_pieces(case, connect, nothing_leaks):
    with Server([CUT[case]]) as server:
        pieces, error = collected(connect(server))
        assert len(server.requests) == 1  # the pieces cannot be taken back
    assert pieces
    assert type(error) is errors.PlatformUnreachable
    nothing_leaks(error)


def test_stream_that_trickles_is_ended(connect):
    for start in (reply(200, "", length=10**6), reply(200, "", length=10**6, Connection="close"), CHUNKED.encode()):
        with Server([drip(start, b"1\r\nx\r\n")]) as server:
            _, error = collected(connect(server, total=0.3))
        assert type(error) is errors.PlatformUnreachable
        assert "took longer than 0.3 s" in str(error)


def test_readers_own_time_does_not_count(connect):
    with Server([reply(200, b"x" * 200_000)]) as server:
        stream = connect(server, total=0.3).stream_logs(ID)
        first = next(stream)
        server.stopped.wait(0.8)  # the reader is busy for longer than an exchange may take
        assert len(first) + sum(map(len, stream)) == 200_000


def test_stream_that_does_not_begin_is_asked_for_again(connect, naps):
    beginnings = [reset, page(502, "Bad Gateway"), page(200, "Sign in"), reply(404, "not found\n\n")]
    for step in beginnings:
        with Server([step, reply(200, "a log")]) as server:
            assert list(connect(server).stream_logs(ID)) == [b"a log"]
    with Server([stall], always=reply(200, "a log")) as server:
        assert list(connect(server, read=0.2).stream_logs(ID)) == [b"a log"]
    assert len(naps) == 5


def test_stream_that_has_no_end_is_refused(connect):
    with Server([flood(reply(200, "", length=10**12))]) as server:
        platform = connect(server, stream=10**6)
        pieces, error = collected(platform)
    assert isinstance(error, errors.PlatformBroken)
    assert "1,000,000 bytes" in str(error)
    assert sum(map(len, pieces)) <= 10**6


def test_connection_is_used_again_after_the_end_and_closed_before_it(connect):
    log = reply(200, b"x" * 500_000)
    with Server([log, data([]), log, data([])]) as server:
        platform = connect(server)
        assert sum(map(len, platform.stream_logs(ID))) == 500_000
        platform.containers()
        with contextlib.closing(platform.stream_logs(ID)) as stream:
            next(stream)
        platform.containers()
        assert [each.connection for each in server.requests] == [1, 1, 1, 2]


def test_time_for_requests_can_be_bounded(connect):
    with Server(always=stall) as server:
        platform = connect(server)
        with platform.within(0.3):
            with pytest.raises(errors.PlatformUnreachable):
                platform.containers()
            with pytest.raises(errors.PlatformUnreachable):
                list(platform.stream_logs(ID))
        with platform.within(60.0), platform.within(-1.0), pytest.raises(errors.PlatformUnreachable, match="ran out"):
            platform.containers()
        assert len(server.requests) <= 2


def test_launch_is_not_cut_by_a_bound_on_time(connect):
    with Server([reply(200, f"{ID}\n")]) as server:
        platform = connect(server)
        with platform.within(-1.0):
            assert platform.launch(REQUEST) == ID
