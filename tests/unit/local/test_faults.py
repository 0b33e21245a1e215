"""When faults strike, and their effects."""

import json
import threading
from pathlib import Path

import attrs
import pytest

from canfar_batch.local import faults
from canfar_batch.local.faults import Fault, Faults
from canfar_batch.local.messages import ConnectionDropped, Request, Response

SESSIONS = [{"id": f"s{number}", "status": "Completed"} for number in range(20)]


class Bench:
    """Faults in front of a service that only counts."""

    def __init__(self):
        self.faults, self.acted, self.stopping = Faults(), 0, threading.Event()

    def act(self):
        self.acted += 1
        return Response(200, json.dumps(SESSIONS).encode(), "application/json")

    def ask(self, kind="list", method="GET"):
        return self.faults.answer(Request(method, "/x"), kind, self.act, self.stopping)


@pytest.fixture
def bench():
    return Bench()


def test_without_faults_the_service_answers(bench):
    assert bench.ask().status == 200


def test_an_answer_replaces_the_act(bench):
    bench.faults.add(faults.answer(503, "later", {"Retry-After": "7"}))
    response = bench.ask()
    assert (response.status, response.body, response.headers) == (503, b"later", (("Retry-After", "7"),))
    assert bench.acted == 0


def test_after_lets_the_service_act_exactly_once(bench):
    bench.faults.add(faults.after(faults.bad_gateway()))
    assert bench.ask().status == 502
    assert bench.acted == 1


def test_after_a_stall_the_real_answer_comes(bench):
    bench.faults.add(faults.after(faults.stall(0)))
    assert bench.ask().status == 200
    assert bench.acted == 1


def test_a_drop_leaves_the_client_without_answer(bench):
    bench.faults.add(faults.drop(), nth=1)
    bench.faults.add(faults.after(faults.drop()), nth=2)
    for acted in (0, 1):
        with pytest.raises(ConnectionDropped):
            bench.ask()
        assert bench.acted == acted


def test_a_stall_ends_when_the_platform_does(bench):
    bench.faults.add(faults.stall(3600))
    bench.stopping.set()
    with pytest.raises(ConnectionDropped):
        bench.ask()


def test_a_late_act_happens_after_the_answer(bench):
    bench.faults.add(faults.late(0.01))
    assert bench.ask().status == 504
    for thread in threading.enumerate():
        if thread.name == "local-platform-late":
            thread.join()
    assert bench.acted == 1


@pytest.mark.parametrize(
    ("rule", "struck"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"nth": 2}, [2]),
        ({"first": 2}, [1, 2]),
        ({"every": 3}, [3, 6]),
        ({"probability": 0.0}, []),
        ({"seconds": -1.0}, []),
        ({"where": lambda request: request.path == "/y"}, []),
        ({"method": "POST"}, []),
        ({"on": "show"}, []),
        ({"on": "list"}, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_rules_choose_requests(bench, rule, struck):
    fault = bench.faults.add(faults.answer(500), **rule)
    assert [number for number in range(1, 7) if bench.ask().status == 500] == struck
    assert fault.hits == len(struck)


def test_chance_is_repeatable():
    def pattern(seed):
        fault = Fault(faults.answer(500), probability=0.5, seed=seed)
        return [fault.strikes(Request("GET", "/"), "list") for _ in range(64)]

    assert pattern(1) == pattern(1) != pattern(2)


def test_other_requests_do_not_count(bench):
    bench.faults.add(faults.answer(500), on="show", nth=2)
    assert [bench.ask(kind).status for kind in ("show", "list", "list", "show")] == [200, 200, 200, 500]


def test_a_mistyped_kind_is_refused():
    with pytest.raises(ValueError, match="not a kind of request"):
        Fault(faults.drop(), on="lst")


def test_faults_are_switched_off(bench):
    fault = bench.faults.add(faults.answer(500))
    bench.faults.remove(fault)
    with bench.faults.during(faults.answer(501)):
        assert bench.ask().status == 501
    bench.faults.add(faults.answer(502))
    bench.faults.clear()
    assert bench.ask().status == 200


def test_the_fault_added_first_stands_nearest_to_the_client(bench):
    bench.faults.add(faults.answer(501))
    bench.faults.add(faults.answer(502))
    assert bench.ask().status == 501


def test_lists_can_lie(bench):
    with bench.faults.during(faults.empty_list()):
        assert json.loads(bench.ask().body) == []
    with bench.faults.during(faults.partial_list(0.5, seed=3)):
        assert 0 < len(json.loads(bench.ask().body)) < len(SESSIONS)
    with bench.faults.during(faults.status_words({"Completed": "Succeeded"})):
        assert {session["status"] for session in json.loads(bench.ask().body)} == {"Succeeded"}


def test_a_stale_list_stays_as_it_was(bench):
    with bench.faults.during(faults.stale_list()):
        first = bench.ask()
        assert bench.ask() is first
        assert bench.acted == 1


def test_bodies_are_cut(bench):
    whole = bench.ask().body
    with bench.faults.during(faults.half()):
        assert bench.ask().body == whole[: len(whole) // 2]
    with bench.faults.during(faults.cut_short()):
        cut = bench.ask()
        assert (cut.body, cut.promised) == (whole[: len(whole) // 2], len(whole))


def test_changes_of_json_leave_other_answers_alone(bench):
    bench.faults.add(faults.partial_list(0.0))
    bench.faults.add(faults.answer(500, "no json"))
    assert bench.ask().body == b"no json"


def test_the_record_keeps_the_latest_requests_within_bounds():
    record = faults.Requests(keep=3, keep_chars=100)
    for number in range(5):
        record.note(faults.Recorded("GET", f"/{number}", "list", {}, 200))
    assert [recorded.path for recorded in record.recent] == ["/2", "/3", "/4"]
    record.note(faults.Recorded("POST", "/5", "create", {"args": ["x" * 90]}, 200))
    record.note(faults.Recorded("POST", "/6", "create", {"args": ["x" * 90]}, 200))
    assert [recorded.path for recorded in record.recent] == ["/6"]
    assert record.counts == {"list": 5, "create": 2}


def test_a_fault_that_lingers_goes_on_after_it_was_switched_off(bench):
    fault = bench.faults.add(faults.answer(500), lingers=60)
    assert bench.ask().status == 500
    bench.faults.remove(fault)
    assert bench.ask().status == 500
    bench.faults.clear()
    assert bench.ask().status == 200


def test_a_fault_that_never_struck_does_not_linger(bench):
    with bench.faults.during(faults.answer(500), lingers=60):
        pass
    assert bench.ask().status == 200


def test_an_outage_counts_only_requests_that_ask_the_ill_neighbour(bench):
    bench.faults.add(faults.poisoned_replica(), every=2)
    statuses = [bench.ask(kind).status for kind in ("create", "list", "create", "list", "create", "create")]
    assert statuses == [200, 200, 500, 200, 200, 500]


# Faults as text

ARGUMENTS = {"answer": "500", "drip": "0", "stall": "0", "late": "0"}


@pytest.mark.parametrize("name", sorted(faults.NAMED))
def test_every_named_fault_can_be_written_as_text(bench, name):
    text = f"{name}={ARGUMENTS[name]}" if name in ARGUMENTS else name
    fault = faults.from_text(f"{text} on=list first=1 seed=3")
    assert (fault.on, fault.first, fault.seed) == ("list", 1, 3)
    assert callable(fault.action)


def test_a_text_has_an_argument_and_after(bench):
    bench.faults.add(faults.from_text("answer=418 after on=list nth=2"))
    assert [bench.ask().status for _ in range(3)] == [200, 418, 200]
    assert bench.acted == 3


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nonsense", "'nonsense' is not a fault; choose one of answer, api_server_away"),
        ("drop when=now", "'when=now' is no part of a rule"),
        ("drop=5", "drop takes no argument"),
        ("answer", "answer takes an argument"),
        ("answer=soon", "invalid literal"),
        ("groups_ill=sad", "is not one of empty, 503"),
        ("drop on=everything", "is not a kind of request"),
        ("drop probability=often", "could not convert"),
    ],
)
def test_a_text_that_describes_no_fault_is_refused(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        faults.from_text(text)


def test_a_duplicate_acts_twice_and_answers_once(bench):
    bench.faults.add(faults.duplicate(), first=1)
    assert bench.ask().status == 200
    assert bench.acted == 2


def test_a_bad_day_is_the_same_for_the_same_seed():
    def day(seed):
        bench, kinds = Bench(), ["create", "list", "show", "logs", "events"] * 80
        for fault in faults.bad_day(seed):
            bench.faults.add(attrs.evolve(fault, action=faults.answer(599)))
        return [bench.ask(kind).status for kind in kinds]

    assert day(1) == day(1) != day(2)
    assert 10 < day(1).count(599) < 120


def test_the_reference_lists_every_named_fault():
    text = (Path(__file__).parents[3] / "docs" / "reference" / "local.md").read_text()
    assert [name for name in faults.NAMED if f"`{name}" not in text] == []
