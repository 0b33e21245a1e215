"""A session: whom it connects as, what it sends, and how it settles a launch without an answer."""

import attrs
import pytest
from fakes import FakeClock, FakePlatform, Fate

from canfar_batch import Session, errors

IMAGE = "skaha/astroml"
SETTLE = 120.0


@attrs.define
class Scene:
    platform: FakePlatform
    session: Session

    def launch(self, cmd="true", **fields):
        return self.session.launch(cmd, image=IMAGE, **fields)


@pytest.fixture
def scene():
    platform = FakePlatform(FakeClock(), lambda request: Fate())
    return Scene(platform, Session(platform, clock=platform.clock, sleep=platform.clock.sleep, settle=SETTLE))


def doubt(request, **more):
    return errors.LaunchInDoubt("no answer came.", launch_name=request.name, **more)


def losing_the_answer(platform, *, made, **more):
    """Let no answer come to a create, whether or not a container is made."""

    def launch(request):
        platform.calls["launch"] += 1
        if made:
            platform.make(request)
        raise doubt(request, **more)

    platform.launch = launch


# -- launching --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cmd", "label"),
    [
        ("python fit.py 7", "fit"),
        ("python -m fit 7", "python"),
        ("/arc/home/me/bin/calib.sh x", "calib"),
        (["awk", "{print $1}"], "awk"),
        ("3dfit", "b-3dfit"),
        (["été.sh"], "t"),
    ],
)
def test_a_job_without_a_name_is_called_after_its_program(scene, cmd, label):
    assert scene.launch(cmd).name.rpartition("-")[0].startswith(label)


def test_two_launches_of_the_same_have_two_names(scene):
    assert scene.launch().name != scene.launch().name


def test_a_shell_command_is_sent_as_it_is_written(scene):
    assert scene.launch("ls *.fits | wc -l", shell=True).record.filled.argv == ("/bin/sh", "-c", "ls *.fits | wc -l")


def test_braces_are_no_fields_where_there_are_none(scene):
    assert scene.launch(["jq", "{a: .b}", "{key}"]).record.filled.argv == ("jq", "{a: .b}", "{key}")


def test_limits_are_asked_for_only_where_something_is_asked_of_them(scene):
    scene.launch()
    assert scene.platform.calls["limits"] == 0
    with pytest.raises(errors.SpecError):
        scene.launch(ram=3)
    assert scene.platform.calls["launch"] == 1


def test_a_platform_that_does_not_tell_its_limits_holds_no_launch_up(scene):
    def limits():
        raise errors.PlatformBroken("no context today")

    scene.platform.limits = limits
    assert scene.launch(ram=3).record.attempts[0].resources.ram == 3


def test_lost_credentials_are_no_doubt_about_limits(scene):
    def limits():
        raise errors.CredentialExpired("log in again")

    scene.platform.limits = limits
    with pytest.raises(errors.CredentialExpired):
        scene.launch(ram=3)
    assert scene.platform.calls["launch"] == 0


# -- settling ---------------------------------------------------------------------------------------------------------


def test_a_container_that_was_made_is_taken_for_the_job(scene):
    losing_the_answer(scene.platform, made=True)
    job = scene.launch()
    assert job.wait().exit_code == 0
    assert scene.platform.launched == [job.name]


def test_one_that_appears_late_is_taken_too(scene):
    def launch(request):
        listed = scene.platform.containers

        def containers(kind="headless"):
            if scene.platform.clock.ticks() > SETTLE / 2 and not scene.platform.all:
                scene.platform.make(request)
            return listed(kind)

        scene.platform.containers = containers
        raise doubt(request)

    scene.platform.launch = launch
    assert scene.launch().wait().exit_code == 0
    assert len(scene.platform.launched) == 1


def test_one_that_does_not_appear_for_the_settle_time_stays_in_doubt(scene):
    losing_the_answer(scene.platform, made=False, retry_after=7.0, same_again=True, server_text="boom", status=500)
    with pytest.raises(errors.LaunchInDoubt, match=r"no answer came.*did not show it for 120 s") as caught:
        scene.launch()
    assert scene.platform.clock.ticks() >= SETTLE
    assert scene.platform.calls["launch"] == 1
    error = caught.value
    assert (error.retry_after, error.same_again, error.server_text, error.status) == (7.0, True, "boom", 500)
    assert error.launch_name in str(error)


def test_doubt_is_not_dispelled_by_a_list_that_never_comes(scene):
    losing_the_answer(scene.platform, made=True)

    def containers(kind="headless"):
        scene.platform.clock.sleep(30)
        raise errors.PlatformUnreachable("no route to it")

    scene.platform.containers = containers
    with pytest.raises(errors.LaunchInDoubt, match="list is not available"):
        scene.launch()


def test_the_name_is_told_even_if_the_credential_ends_meanwhile(scene):
    losing_the_answer(scene.platform, made=True)

    def containers(kind="headless"):
        raise errors.CredentialExpired("log in again")

    scene.platform.containers = containers
    with pytest.raises(errors.LaunchInDoubt, match="log in again") as caught:
        scene.launch()
    assert caught.value.launch_name == scene.platform.launched[0]


# -- connecting -------------------------------------------------------------------------------------------------------


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    """A user without any credential."""
    for name in ("CANFAR_URL", "CANFAR_TOKEN", "CANFAR_CERTIFICATE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


def test_without_a_credential_it_is_said_how_to_get_one(nobody):
    with pytest.raises(errors.CredentialMissing, match="cadc-get-cert"):
        Session.connect()


def test_credentials_and_address_come_from_the_environment(nobody):
    nobody.setenv("CANFAR_URL", "https://platform.example.org/skaha")
    nobody.setenv("CANFAR_TOKEN", "s3cr3t-token")
    with Session.connect() as session:
        assert session.url == "https://platform.example.org/skaha/v1"
        assert not session.nearby
        assert "s3cr3t" not in repr(session)


def test_an_argument_wins_over_the_environment(nobody):
    nobody.setenv("CANFAR_URL", "https://platform.example.org/skaha/v1")
    with Session.connect("https://other.example.org/skaha/v1", token="s3cr3t-token") as session:
        assert session.url == "https://other.example.org/skaha/v1"


def test_credentials_are_not_sent_in_the_clear(nobody):
    with pytest.raises(errors.AddressError):
        Session.connect("http://platform.example.org/skaha/v1", token="s3cr3t-token")


@pytest.mark.parametrize("where", ["argument", "environment"])
def test_local_starts_a_platform_that_lives_as_long_as_the_session(nobody, where):
    if where == "environment":
        nobody.setenv("CANFAR_URL", "local")
    with Session.connect("local" if where == "argument" else None) as session:
        assert session.nearby
        assert session.limits().cores
        assert repr(session).startswith("<Session local, user local")
    with pytest.raises(ConnectionError):
        session.jobs()


def test_a_session_can_be_closed_twice(nobody):
    session = Session.connect("local")
    session.close()
    session.close()


def test_the_end_of_a_credential_is_shown(scene):
    assert "credential until" not in repr(scene.session)
    scene.platform.expires_at = scene.platform.clock.now()
    assert "credential until 2026-11-22 12:00 UTC" in repr(scene.session)
