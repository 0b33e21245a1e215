"""The behaviour of every platform: the one in memory behaves as the REST API on this machine does."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from contract.conftest import FORGET_AFTER

from canfar_batch.errors import JobNotFound, PlatformRefused
from canfar_batch.protocols import Platform
from canfar_batch.records import Phase, Resources

UNKNOWN = "zzzz9999"


def ids(platform, kind="headless"):
    return [info.id for info in platform.containers(kind)]


def test_platform_fills_its_role(platform):
    assert isinstance(platform, Platform)
    assert "://" in platform.url
    assert platform.expires_at is None


def test_user_is_known_once_the_platform_has_answered(platform):
    platform.containers()
    assert platform.user


def test_container_is_listed_as_soon_as_it_is_launched(scene, platform):
    assert platform.containers() == []
    id = platform.launch(scene.lasting())
    (listed,) = platform.containers()
    assert listed.id == id == platform.container(id).id
    assert (listed.type, listed.image) == ("headless", "images.canfar.net/skaha/astroml:latest")
    assert ids(platform, None) == [id]


def test_names_come_back_in_lower_case(scene, platform):
    id = platform.launch(scene.lasting(name="Mixed-Case-7"))
    assert platform.container(id).name == "mixed-case-7"
    assert platform.containers()[0].name == "mixed-case-7"


def test_two_containers_may_share_a_name_and_never_an_id(scene, platform):
    first, second = platform.launch(scene.lasting()), platform.launch(scene.lasting())
    assert first != second
    assert sorted(ids(platform)) == sorted([first, second])


def test_container_waits_runs_and_ends(scene, platform):
    good, bad = platform.launch(scene.quick()), platform.launch(scene.failing())
    assert scene.until(good, Phase.COMPLETED).phase.final
    assert scene.until(bad, Phase.FAILED).phase.final
    assert {info.id: info.phase for info in platform.containers()} == {good: Phase.COMPLETED, bad: Phase.FAILED}


def test_running_container_has_a_start_time(scene, platform):
    lasting = scene.until(platform.launch(scene.lasting()), Phase.RUNNING)
    assert lasting.started_at.utcoffset() == timedelta(0)
    scene.hold()
    waiting = platform.container(platform.launch(scene.lasting()))
    assert waiting.phase is Phase.PENDING
    assert waiting.started_at is None


def test_requested_resources_are_shown(scene, platform):
    fixed = platform.container(platform.launch(scene.lasting(resources=Resources(cores=2, ram=4))))
    flexible = platform.container(platform.launch(scene.lasting()))
    assert fixed.cores == 2
    assert fixed.ram == pytest.approx(4, abs=0.01)
    assert (flexible.cores, flexible.ram, flexible.gpus) == (None, None, 0)


def test_logs_are_the_containers_output(scene, platform):
    id = platform.launch(scene.quick())
    scene.until(id, Phase.COMPLETED)
    assert platform.logs(id) == b"hello\n"


def test_log_is_empty_before_the_start_and_for_unknown_ids(scene, platform):
    scene.hold()
    assert platform.logs(platform.launch(scene.quick())) == b""
    assert platform.logs(UNKNOWN) == b""


def test_running_container_has_events_and_one_that_waits_has_no_pod(scene, platform):
    lasting = scene.until(platform.launch(scene.lasting()), Phase.RUNNING)
    assert isinstance(platform.events(lasting.id), str)
    scene.hold()
    assert platform.events(platform.launch(scene.quick())) is None
    assert platform.events(UNKNOWN) is None


def test_logs_can_be_streamed(scene, platform):
    id = platform.launch(scene.quick())
    scene.until(id, Phase.COMPLETED)
    assert b"".join(platform.stream_logs(id)) == platform.logs(id) == b"hello\n"
    assert list(platform.stream_logs(UNKNOWN)) == []


def test_running_container_can_be_renewed_and_no_other(scene, platform):
    lasting = scene.until(platform.launch(scene.lasting()), Phase.RUNNING)
    platform.renew(lasting.id)
    done = scene.until(platform.launch(scene.quick()), Phase.COMPLETED)
    for id in (done.id, UNKNOWN):
        with pytest.raises(PlatformRefused) as caught:
            platform.renew(id)
        assert "No active job" in str(caught.value)


def test_requests_can_be_bounded_in_time(scene, platform):
    with platform.within(60.0):
        id = platform.launch(scene.lasting())
        assert ids(platform) == [id]
    with platform.within(None):
        assert ids(platform) == [id]


@pytest.mark.parametrize("id", [UNKNOWN, "", "a/b", "../x", "ABCD1234"])
def test_unknown_id_is_not_found(scene, platform, id):
    platform.launch(scene.lasting())
    with pytest.raises(JobNotFound):
        platform.container(id)


def test_cancelled_container_is_not_found_and_has_no_log(scene, platform):
    id, other = platform.launch(scene.lasting()), platform.launch(scene.lasting())
    scene.until(id, Phase.RUNNING)
    platform.cancel(id)
    with pytest.raises(JobNotFound):
        platform.container(id)
    assert ids(platform) == [other]
    assert platform.logs(id) == b""


def test_cancelling_again_or_an_unknown_id_is_no_error(scene, platform):
    id = platform.launch(scene.lasting())
    platform.cancel(id)
    platform.cancel(id)
    platform.cancel(UNKNOWN)
    assert ids(platform) == []


def test_ended_container_can_be_removed(scene, platform):
    id = platform.launch(scene.quick())
    scene.until(id, Phase.COMPLETED)
    platform.cancel(id)
    assert ids(platform) == []


def test_ended_container_is_forgotten_after_a_while(scene_that):
    scene = scene_that(forget_after=FORGET_AFTER)
    platform = scene.platform
    over, lasting = platform.launch(scene.quick()), platform.launch(scene.lasting())
    scene.eventually(lambda: over not in ids(platform))
    with pytest.raises(JobNotFound):
        platform.container(over)
    assert platform.logs(over) == b""
    assert ids(platform) == [lasting]


def test_limits_are_listed_in_order(platform):
    limits = platform.limits()
    for options in (limits.cores, limits.ram, limits.gpus):
        assert list(options) == sorted(set(options))
    assert 1 in limits.cores
    assert limits.default_cores > 0
    assert limits.default_ram > 0


def test_images_are_listed_by_kind(platform):
    headless = platform.images()
    assert "images.canfar.net/skaha/astroml:latest" in [image.id for image in headless]
    assert all("headless" in image.kinds for image in headless)
    assert {image.id for image in headless} <= {image.id for image in platform.images(None)}


def test_statistics_are_given_as_they_are(platform):
    assert "requestedCPUCores" in platform.stats()["cores"]


def test_many_threads_may_ask_at_once(scene, platform):
    with ThreadPoolExecutor(8) as pool:
        launched = list(pool.map(lambda n: platform.launch(scene.quick(name=f"n{n}")), range(16)))
        names = list(pool.map(lambda id: platform.container(id).name, launched))
    assert names == [f"n{n}" for n in range(16)]
    assert sorted(ids(platform)) == sorted(launched)
