"""Answers that would exhaust memory or time, or mislead: each ends as an error, soon, and with little memory."""

import gzip
import json
import tracemalloc
import zlib

import pytest
from integration.rest.conftest import REQUEST
from integration.rest.scripted import Server, data, flood, reply

from canfar_batch import errors

ID = "abcd1234"
ENTRY = {"id": ID, "name": "b-1", "status": "Running", "type": "headless"}


def raised(call, *args):
    with pytest.raises(errors.CanfarBatchError) as caught:
        call(*args)
    return caught.value


BOMB = b" " * 50_000_000 + b"[]"
HOSTILE = {
    "deeply nested": reply(200, b"[" * 1_000_000, "application/json"),
    "deeply nested objects": reply(200, b'{"a":' * 500_000, "application/json"),
    "millions of empty rows": reply(200, b"[" + b"{}," * 3_300_000 + b"{}]", "application/json"),
    "a number of a million digits": reply(200, b"[" + b"9" * 1_000_000 + b"]", "application/json"),
    "gzip": reply(200, gzip.compress(BOMB), "application/json", Content_Encoding="gzip"),
    "deflate": reply(200, zlib.compress(BOMB), "application/json", Content_Encoding="deflate"),
    "endless": flood(reply(200, "[", "application/json", length=10**12)),
    "endless headers": flood(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 1000),
    "an endless header": flood(b"HTTP/1.1 200 OK\r\nX: "),
    "an endless status line": flood(b"HTTP/1.1 200 "),
    "an endless error": flood(reply(500, "no", length=10**12)),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_list_that_would_fill_the_memory_is_an_error(case, connect):
    with Server(always=HOSTILE[case]) as server:
        platform = connect(server)
        tracemalloc.start()
        try:
            error = raised(platform.containers)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert isinstance(error, (errors.PlatformBroken, errors.PlatformUnreachable))
    assert peak < 60 * 2**20
    assert len(str(error)) < 5000


def test_one_container_given_twice_counts_once(connect):
    with Server([data([ENTRY, dict(ENTRY)])]) as server:
        assert [each.id for each in connect(server).containers()] == [ID]


def test_list_that_contradicts_itself_is_asked_for_again(connect):
    wrong = data([ENTRY, {**ENTRY, "status": "Completed"}])
    with Server([wrong, data([ENTRY]), *[wrong] * 4]) as server:
        platform = connect(server)
        assert [each.status for each in platform.containers()] == ["Running"]
        error = raised(platform.containers)
    assert type(error) is errors.PlatformBroken
    assert f"contradicts itself about container {ID}" in str(error)


def test_one_id_for_two_launches_leaves_the_second_in_doubt(connect):
    with Server(always=reply(200, f"{ID}\n")) as server:
        platform = connect(server)
        assert platform.launch(REQUEST) == ID
        error = raised(platform.launch, REQUEST)
    assert type(error) is errors.LaunchInDoubt
    assert f"the id {ID}, which an earlier launch has" in str(error)


@pytest.mark.parametrize("wait", ["86400", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_wait_of_a_day_is_bounded_and_logged(wait, connect, naps, caplog):
    busy = reply(503, "temporarily unavailable: null\n", Retry_After=wait)
    with Server([busy, busy]) as server:
        platform = connect(server)
        for call, *given in ((platform.containers,), (platform.launch, REQUEST)):
            error = raised(call, *given)
            assert type(error) is errors.PlatformBusy
            assert error.retry_after == 600.0
            assert "at most 600 s count" in str(error)
    assert naps == []
    assert caplog.text.count("It asks to wait") == 2


def test_row_that_is_not_a_container_is_not_dropped(connect, caplog):
    with Server(always=reply(200, json.dumps([ENTRY, 5]), "application/json")) as server:
        assert type(raised(connect(server).containers)) is errors.PlatformBroken
