"""The REST client against the local platform."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor

import attrs
import pytest
from waiting import until

from canfar_batch import Session, errors
from canfar_batch.local import LocalPlatform
from canfar_batch.local.faults import after, drop
from canfar_batch.local.identity import ISSUER
from canfar_batch.protocols import Platform
from canfar_batch.records import LaunchRequest, Phase, Resources
from canfar_batch.rest import open_platform

IMAGE = "images.canfar.net/skaha/astroml:latest"
#: a JSON web token that names the platform's issuer but was not signed by it
FORGED = (
    f"e30.{base64.urlsafe_b64encode(json.dumps({'iss': ISSUER, 'exp': 4102444800}).encode()).decode().rstrip('=')}.x"
)


@pytest.fixture(scope="module")
def local():
    with LocalPlatform(cores=8, ram=16, termination_grace=1.0, stats=True) as platform:
        yield platform


@pytest.fixture
def platform(local, tmp_path):
    with open_platform(local.url, token=local.token, env={}, home=tmp_path) as platform:
        yield platform


def request(name, cmd="echo", args=None, **more):
    return LaunchRequest(name=name, image=IMAGE, resources=Resources(cores=1, ram=1), cmd=cmd, args=args, **more)


def finished(platform, id):
    until(lambda: platform.container(id).phase.final)
    return platform.container(id)


def test_container_is_launched_followed_read_and_removed(platform):
    id = platform.launch(request("Whole-Way", "printenv", "ANSWER", env=(("ANSWER", "42"),)))
    container = finished(platform, id)
    assert (container.name, container.phase, container.cores, container.ram) == ("whole-way", Phase.COMPLETED, 1, 1)
    assert container.started_at is not None
    assert id in [each.id for each in platform.containers()]
    assert id in [each.id for each in platform.containers(None)]
    assert platform.containers("notebook") == []
    assert platform.logs(id) == b"42\n"
    assert "Started" in platform.events(id)
    platform.cancel(id)
    with pytest.raises(errors.JobNotFound):
        platform.container(id)
    platform.cancel(id)
    assert platform.logs(id) == b""
    assert platform.events(id) is None
    assert platform.user == "local"


def test_command_that_fails_is_seen_to_fail(platform):
    assert finished(platform, platform.launch(request("bad", "false"))).phase is Phase.FAILED


def test_limits_images_and_statistics_can_be_read(platform):
    assert {1, 2, 16} <= set(platform.limits().cores)
    assert IMAGE in [each.id for each in platform.images()]
    assert all("carta" in each.kinds for each in platform.images("carta"))
    assert "cores" in platform.stats()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": "docker.io/library/python:3"}, "must come from one of"),
        ({"name": "under_score"}, "name can only contain"),
        ({"resources": Resources(cores=999)}, "'cores'"),
        ({"args": "cost$"}, "group reference"),
    ],
)
def test_refusal_says_why(change, words, platform):
    with pytest.raises(errors.PlatformRefused, match=words):
        platform.launch(attrs.evolve(request("refused"), **change))


def test_name_that_kubernetes_does_not_take_is_not_made_and_would_fail_again(platform):
    with pytest.raises(errors.NotMade) as caught:
        platform.launch(request("trailing-"))
    assert caught.value.same_again
    assert "Kubernetes did not take the job" in str(caught.value)


def test_launch_whose_answer_is_lost_is_found_by_its_name(local, platform):
    local.faults.add(after(drop()), on="create", first=1)
    with pytest.raises(errors.LaunchInDoubt) as caught:
        platform.launch(request("lost-answer"))
    found = [each for each in platform.containers() if each.name == caught.value.launch_name]
    assert len(found) == 1
    platform.cancel(found[0].id)


def test_a_forged_token_is_refused_with_a_hint(local, tmp_path):
    with (
        open_platform(local.url, token=FORGED, env={}, home=tmp_path) as platform,
        pytest.raises(errors.CredentialRefused, match="Pass a new token") as caught,
    ):
        platform.containers()
    assert FORGED not in str(caught.value)


def test_variables_work_as_well_as_arguments(local, tmp_path):
    env = {"CANFAR_URL": local.url.removesuffix("/v1"), "CANFAR_TOKEN": local.token}
    with open_platform(env=env, home=tmp_path) as platform:
        assert platform.url == local.url
        assert isinstance(platform, Platform)
        assert platform.containers("notebook") == []


def test_many_launch_at_once(platform):
    with ThreadPoolExecutor(16) as pool:
        ids = list(pool.map(lambda n: platform.launch(request(f"many-{n}", "echo", str(n))), range(32)))
    assert len(set(ids)) == 32
    assert [int(platform.logs(id)) for id in ids if finished(platform, id).phase is Phase.COMPLETED] == list(range(32))


def test_the_sessions_own_platform_refuses_only_likely_typos(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    with Session.connect("local") as session:
        session.launch("true", image="images.canfar.net/mine/own:1", cores=1, ram=1).wait().raise_if_failed()
        with pytest.raises(errors.PlatformRefused):
            session.launch("true", image="skaha/astrml:latest", cores=1, ram=1)
