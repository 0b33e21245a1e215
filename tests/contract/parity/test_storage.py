"""The local platform's storage answers the recorded requests as the published service did."""

import json
from pathlib import Path

import pytest
from contract.parity.storage_player import StoragePlayer

from canfar_batch.local import LocalPlatform
from canfar_batch.local.vospace.hazards import CAVERN, CAVERN_OIDC

RECORDED = json.loads((Path(__file__).parent / "vospace.json").read_text())
TOKENS = {
    "tester": "token-of-tester",
    "other": "token-of-other",
    "outsider": "token-of-outsider",
    "admin": "token-of-admin",
    "bad": "a-bad-token",
    # of the issuer, and expired in 1970
    "expired": "e30.eyJpc3MiOiAiaHR0cHM6Ly9za2EtaWFtLnN0ZmMuYWMudWsvIiwgInN1YiI6ICJ4IiwgImV4cCI6IDF9.x",
}
pytestmark = pytest.mark.timeout(300)  # all exchanges are played before the first test
NAMES_ON_DISK = ("a b.txt", "c#d.txt", "e%41f.txt", "g[h].txt", "ü.txt", "i+j.txt", "k?l.txt", "m&n.txt", "d b/in.txt")
#: scenarios with answers that differ, with the reason
DIFFERENCES = {
    "setup": "the user's home exists from the beginning",
    "vos: first contact, -k": "the service has its real name here, and /home is public from the beginning",
    "setup homes": "the user's home exists from the beginning, and there are no groups that allow one",
    "vos tag recursive": "the job repeats the client's document, with its views",
    "vos chmod recursive": "the job repeats the client's document, with its views",
    "vos sync": "two transfers at once, whose jobs the recording does not tell apart",
    "vos cert upload": "certificates are not played",
    "direct node after wrong digest": "recorded twice, with other content in between",
    "vos upload small 503 once": "the client's second upload has no body, for which the real service waits two minutes",
    "direct set quota as admin": "there is no owner of the root who may set quotas; storage_quota= sets them",
    "vos upload small quota": "the full disk was a part of the recording's laboratory; storage_quota= plays one",
    "vosfs upload quota": "the full disk was a part of the recording's laboratory; storage_quota= plays one",
    "direct GET preauth wrong path": "an upload in between, in which the recorder broke the content, was not repeated",
}


def play():
    """Every scenario, in the recorded order, with the answers that differ."""
    differing, count = {}, 0
    others = {TOKENS[user]: user for user in ("other", "outsider", "admin")}
    options = {"user": "tester", "token": TOKENS["tester"], "others": {user: token for token, user in others.items()}}
    with (
        LocalPlatform(**options, storage_faults=CAVERN) as usual,
        LocalPlatform(**options, storage_faults=CAVERN_OIDC) as bare,
    ):
        players = [StoragePlayer(platform, TOKENS, RECORDED["bodies"]) for platform in (usual, bare)]
        for folder in ("fs", "d1"):
            (bare.arc / "home/tester" / folder).mkdir(mode=0o700)
        for scenario in RECORDED["scenarios"]:
            prepare(scenario["name"], usual.arc / "home/tester")
            for request, wanted, came in players[scenario["name"].startswith("nopreauth")].play(scenario):
                count += 1
                if wanted != came:
                    differing.setdefault(scenario["name"], []).append((request, wanted, came))
    return differing, count


def prepare(name, home):
    """Make the files that the recorder made on the disk itself; of many, a few, as their listings were not kept."""
    if name == "direct list names made on the disk":
        for each in NAMES_ON_DISK:
            place = home / "disk" / each.replace("d b", "dir with blank")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("x\n")
    if name == "vosfs ls many (2600)":
        (home / "many").mkdir()
        for number in range(26):
            (home / "many" / f"f{number:04}.dat").touch()
    if name == "vosfs ls exactly 2000":
        (home / "two").mkdir()
        for number in range(20):
            (home / "two" / f"f{number:05}.txt").touch()


@pytest.fixture(scope="module")
def played():
    return play()


def test_the_answers_are_the_recorded_ones(played):
    differing, _ = played
    unnamed = {name: answers for name, answers in differing.items() if name not in DIFFERENCES}
    assert unnamed == {}


def test_every_named_difference_is_one(played):
    differing, _ = played
    assert DIFFERENCES.keys() == differing.keys() & DIFFERENCES.keys()


def test_nearly_every_exchange_is_compared(played):
    _, count = played
    recorded = sum(len(scenario["exchanges"] or ()) for scenario in RECORDED["scenarios"])
    assert count > 0.9 * recorded
