"""Faults as a client meets them on the wire."""

import http.client
import threading

import pytest

from canfar_batch.local import faults


def test_a_create_may_succeed_and_its_answer_be_lost(client, platform):
    platform.faults.add(faults.after(faults.bad_gateway()), on="create", nth=1)
    platform.faults.add(faults.after(faults.drop()), on="create", nth=2)
    assert client.create("true", name="lost").status == 502
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        client.create("true", name="lost")
    assert platform.requests.accepted["lost"] == 2
    assert len(client.list()) == 2


def test_a_create_may_be_dropped_before_it_acts(client, platform):
    platform.faults.add(faults.drop(), on="create", nth=1)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        client.create("true")
    assert client.list() == []
    assert client.create("true").status == 200


def test_a_create_may_happen_after_its_time_out(client, platform, soon):
    platform.faults.add(faults.late(0.05), on="create")
    assert client.create("true", name="late").status == 504
    soon(lambda: platform.requests.accepted["late"] == 1)
    assert [one["name"] for one in client.list()] == ["late"]


def test_a_body_may_break_off(client, platform):
    client.launch("true")
    platform.faults.add(faults.cut_short(), on="list", nth=1)
    with pytest.raises(http.client.IncompleteRead):
        client.list()
    assert len(client.list()) == 1


def test_a_stalled_answer_does_not_hold_up_the_stop(client, platform, soon):
    stalled = platform.faults.add(faults.stall(3600), on="list")
    outcome = []

    def ask():
        try:
            client.list()
        except (http.client.HTTPException, OSError) as problem:
            outcome.append(problem)

    asking = threading.Thread(target=ask)
    asking.start()
    soon(lambda: stalled.hits)
    platform.stop()
    asking.join(30)
    assert outcome


def test_a_proxy_answers_without_the_services_marks(client, platform):
    platform.faults.add(faults.proxy_not_found(), on="show")
    answer = client.ask("GET", "/session/nosuch12")
    assert (answer.status, answer.text) == (404, "404 page not found\n")
    assert answer.header("x-vo-authenticated") is None


def test_a_login_page_is_a_success_that_is_none(client, platform):
    platform.faults.add(faults.login_page())
    answer = client.ask("GET", "/session")
    assert (answer.status, answer.header("content-type")) == (200, "text/html;charset=utf-8")


def test_a_dropped_request_is_on_record_too(client, platform):
    platform.faults.add(faults.drop(), nth=1)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        client.list()
    assert platform.requests.recent[-1].status is None
