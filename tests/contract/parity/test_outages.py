"""The named faults answer as the published service did while a neighbour of it was ill."""

import pytest
from contract.parity.played import ROWS, fault_of, name_of
from contract.parity.player import Player, recorded

from canfar_batch.local import LocalPlatform, faults

IMAGE = "images.canfar.net/skaha/astroml:latest"
TOKEN = "token-of-tester"
PATIENCE = 0.3  #: seconds to wait for an answer that never comes


def name(row):
    return f"{name_of(row)}-{row['request'].partition(' ')[0]}"


@pytest.fixture(scope="module")
def platform():
    with LocalPlatform(cores=4096, ram=1 << 20, token=TOKEN, user="tester") as running:
        yield running


@pytest.fixture
def player(platform):
    player = Player(platform.url, "tester", {"<user>": TOKEN}, IMAGE, "images.canfar.net")
    yield player
    player.finish()


def ask(player, request, timeout=60.0):
    method, _, path = request.partition(" ")
    headers = [("Authorization", f"Bearer {TOKEN}"), ("Content-Type", "application/x-www-form-urlencoded")]
    body = f"name=job&image={IMAGE}&cmd=true".encode() if method == "POST" else None
    status, sent, answered = player.send(method, player.base + path, body, headers, timeout)
    if status == 200 and method == "POST":
        player.ids.append(answered.decode().strip())
    return {name.lower(): value for name, value in sent}, player.seen(status, sent, answered)


def without_user(answer):
    """The recordings of outages leave the header with the user out."""
    headers = {name: value for name, value in answer["headers"].items() if name != "x-vo-authenticated"}
    text = answer.get("text", "").replace("https://neighbour.example/", "<neighbour>/").replace("user\t", "<user>\t")
    return {"status": answer["status"], "headers": headers, "text": text.replace("/home/user", "/home/<user>")}


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_every_recorded_outage_can_be_played(platform, player, row):
    with platform.faults.during(fault_of(row), lingers=0.0):
        if row.get("error"):
            with pytest.raises(TimeoutError):
                ask(player, row["request"], PATIENCE)
            return
        headers, came = ask(player, row["request"])
    assert headers["server"] == "OpenCADC/cadc-rest"
    if row["status"] == 200:
        assert (came["status"], came["headers"]["content-type"]) == (200, row["headers"].get("content-type"))
    else:
        assert without_user(came) == without_user(recorded(row))


@pytest.mark.parametrize("illness", ["garbage", "partial", "empty"])
def test_a_malformed_file_is_kept_when_the_issuer_is_well(platform, player, illness):
    fault = platform.faults.add(faults.issuer_ill(illness))
    assert fault.lingers == 600
    ask(player, "GET /session")
    platform.faults.remove(fault)
    assert ask(player, "GET /session")[1]["status"] == 500
    platform.faults.clear()
    assert ask(player, "GET /session")[1]["status"] == 200


def test_an_outage_may_strike_creates_alone(platform, player):
    with platform.faults.during(faults.groups_ill("404"), on="create"):
        assert ask(player, "POST /session")[1]["status"] == 404
        assert ask(player, "GET /session")[1]["status"] == 200


def test_a_queue_that_is_away_makes_nothing(platform, player):
    with platform.faults.during(faults.queue_away()):
        text = ask(player, "POST /session")[1]["text"]
        assert text.startswith("unexpected exception: java.lang.RuntimeException: io.kuberne")
        assert ask(player, "GET /session")[1]["json"] == []


def test_one_of_two_replicas_may_be_poisoned(platform, player):
    with platform.faults.during(faults.poisoned_replica(), on="create", every=2):
        texts = [ask(player, "POST /session")[1]["text"] for _ in range(6)]
    assert [text.startswith("<id:") for text in texts] == [True, False] * 3
    assert "ExceptionInInitializerError" in texts[1]
    assert texts[3] == texts[5] != texts[1]
    assert "NoClassDefFoundError: Could not initialize class" in texts[3]


def test_limits_that_cannot_be_read_fail_the_context_and_creates(platform, player):
    with platform.faults.during(faults.limits_unreadable()):
        context = ask(player, "GET /context")[1]
        creates = [ask(player, "POST /session")[1] for _ in range(2)]
        assert ask(player, "GET /session")[1]["status"] == 200
    java = "unexpected exception: java.lang."
    assert (context["status"], context["text"]) == (
        500,
        f"{java}IllegalStateException: Failed reading Resources as JSON",
    )
    assert [create["status"] for create in creates] == [500, 500]
    assert creates[0]["text"] == f"{java}ExceptionInInitializerError"
    assert creates[1]["text"].startswith(f"{java}NoClassDefFoundError")


def test_a_missing_queue_shows_a_page_for_sessions_alone(platform, player):
    with platform.faults.during(faults.queue_missing()):
        headers, came = ask(player, "GET /session")
        assert (came["status"], headers["content-type"]) == (500, "text/html;charset=utf-8")
        assert "server" not in headers
        assert ask(player, "GET /context")[1]["status"] == 200


def test_without_the_api_server_logs_are_empty_successes(platform, player):
    with platform.faults.during(faults.api_server_away()):
        assert "ConnectException" in ask(player, "GET /session")[1]["text"]
        assert ask(player, "GET /session/abc?view=logs")[1]["text"] == ""


def test_unknown_illnesses_are_refused():
    with pytest.raises(ValueError, match="not one of"):
        faults.groups_ill("418")
    with pytest.raises(ValueError, match="not one of"):
        faults.images_ill("full")
