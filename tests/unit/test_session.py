"""A session: its credentials, its launches, and how it settles a launch without an answer."""

import pickle
import threading
import time

import attrs
import pytest
from fakes import FakeClock, FakePlatform, Fate, InlinePool

from canfar_batch import JobSpec, Session, Window, errors
from canfar_batch.clock import SystemClock

IMAGE = "skaha/astroml"
SETTLE = 120.0


def session_on(platform):
    return Session(platform, clock=platform.clock, pool=lambda: InlinePool(platform.clock), settle=SETTLE)


@attrs.define
class Scene:
    platform: FakePlatform
    session: Session

    def launch(self, cmd="true", **fields):
        return self.session.launch(cmd, image=IMAGE, **fields)


@pytest.fixture
def scene():
    platform = FakePlatform(FakeClock(), lambda request: Fate())
    return Scene(platform, session_on(platform))


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
def test_a_job_without_a_name_is_named_after_its_program(scene, cmd, label):
    assert scene.launch(cmd).name.rpartition("-")[0].startswith(label)


def test_two_launches_of_the_same_have_two_names(scene):
    assert scene.launch().name != scene.launch().name


def test_a_shell_command_is_sent_as_it_is_written(scene):
    assert scene.launch("ls *.fits | wc -l", shell=True).record.filled.argv[-1] == "ls *.fits | wc -l"


def test_a_single_job_has_no_fields(scene):
    assert scene.launch(["jq", "{a: .b}", "{{key}}"]).record.filled.argv == ("jq", "{a: .b}", "{key}")
    with pytest.raises(errors.SpecError, match=r"write \{\{path\}\} to mean the braces"):
        scene.launch("echo {path}")


def test_limits_are_fetched_only_if_resources_are_given(scene):
    scene.launch()
    assert scene.platform.calls["limits"] == 0
    with pytest.raises(errors.SpecError):
        scene.launch(ram=3)
    assert scene.platform.calls["launch"] == 1


def test_a_launch_does_not_depend_on_the_limits(scene):
    def limits():
        raise errors.PlatformBroken("no context today")

    scene.platform.limits = limits
    assert scene.launch(ram=3).record.attempts[0].resources.ram == 3


def test_an_expired_credential_stops_a_launch_before_it_is_sent(scene):
    def limits():
        raise errors.CredentialExpired("log in again")

    scene.platform.limits = limits
    with pytest.raises(errors.CredentialExpired):
        scene.launch(ram=3)
    assert scene.platform.calls["launch"] == 0


# -- settling ---------------------------------------------------------------------------------------------------------


def test_a_container_that_was_made_is_adopted(scene):
    losing_the_answer(scene.platform, made=True)
    job = scene.launch()
    assert job.wait().exit_code == 0
    assert scene.platform.launched == [job.name]


def test_a_container_that_appears_late_is_adopted(scene):
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


def test_a_launch_stays_in_doubt_if_the_list_never_comes(scene):
    losing_the_answer(scene.platform, made=True)

    def containers(kind="headless"):
        scene.platform.clock.sleep(30)
        raise errors.PlatformUnreachable("no route to it")

    scene.platform.containers = containers
    with pytest.raises(errors.LaunchInDoubt, match="list is not available"):
        scene.launch()


def test_the_launch_name_is_reported_though_the_credential_expires(scene):
    losing_the_answer(scene.platform, made=True)

    def containers(kind="headless"):
        raise errors.CredentialExpired("log in again")

    scene.platform.containers = containers
    with pytest.raises(errors.LaunchInDoubt, match="log in again") as caught:
        scene.launch()
    assert caught.value.launch_name == scene.platform.launched[0]


# -- connecting -------------------------------------------------------------------------------------------------------


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A user without any credential."""
    for name in ("CANFAR_URL", "CANFAR_TOKEN", "CANFAR_CERTIFICATE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


def test_without_a_credential_the_error_says_how_to_get_one(bare):
    with pytest.raises(errors.CredentialMissing, match="cadc-get-cert"):
        Session.connect()


def test_credentials_and_address_come_from_the_environment(bare):
    bare.setenv("CANFAR_URL", "https://platform.example.org/skaha")
    bare.setenv("CANFAR_TOKEN", "s3cr3t-token")
    with Session.connect() as session:
        assert session.url == "https://platform.example.org/skaha/v1"
        assert not session.nearby
        assert "s3cr3t" not in repr(session)


def test_an_argument_wins_over_the_environment(bare):
    bare.setenv("CANFAR_URL", "https://platform.example.org/skaha/v1")
    with Session.connect("https://other.example.org/skaha/v1", token="s3cr3t-token") as session:
        assert session.url == "https://other.example.org/skaha/v1"


def test_credentials_are_not_sent_over_plain_http(bare):
    with pytest.raises(errors.AddressError):
        Session.connect("http://platform.example.org/skaha/v1", token="s3cr3t-token")


@pytest.mark.parametrize("where", ["argument", "environment"])
def test_local_starts_a_platform_that_lives_as_long_as_the_session(bare, where):
    if where == "environment":
        bare.setenv("CANFAR_URL", "local")
    with Session.connect("local" if where == "argument" else None) as session:
        assert session.nearby
        assert session.limits().cores
        assert repr(session).startswith("<Session local, user local")
    with pytest.raises(ConnectionError):
        session.jobs()


def test_a_session_can_be_closed_twice(bare):
    session = Session.connect("local")
    session.close()
    session.close()


def test_the_end_of_a_credential_is_shown(scene):
    assert "credential until" not in repr(scene.session)
    scene.platform.expires_at = scene.platform.clock.now()
    assert "credential until 2026-11-22 12:00 UTC" in repr(scene.session)


# -- advice -----------------------------------------------------------------------------------------------------------


def test_a_misspelt_field_is_refused_with_the_nearest_name(scene):
    with pytest.raises(errors.SpecError, match="a job has no core; did you mean cores"):
        scene.launch(core=2)
    assert scene.platform.calls["launch"] == 0


def test_a_misspelt_image_is_named_when_the_platform_refuses_it(scene):
    def refuse(request):
        raise errors.PlatformRefused("unknown or private image", status=400)

    scene.platform.launch = refuse
    with pytest.raises(
        errors.PlatformRefused, match=r"private image.* skaha/astrolm is not listed: did you mean images\."
    ):
        scene.session.launch("true", image="skaha/astrolm")
    with pytest.raises(
        errors.PlatformRefused,
        match=r"private image\. If this worked before, .* outage\.$",
    ):
        scene.session.launch("true", image="somewhere/else:1")


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ({"launch": "16"}, r"launch='16' is not a strategy: write launch=cb\.Window\(16\)"),
        ({"launch": Window}, r"write launch=cb\.Window\(16\)"),
        ({"launch": True}, r"write launch=cb\.Window\(16\)"),
        ({"retry": 2.5}, r"write retry=cb\.Retry\(2\)"),
        ({"monitor": 30}, r"write monitor=cb\.Listing\(every=\(5, 60\)\)"),
    ],
)
def test_what_is_not_a_strategy_is_refused_with_an_example(scene, tmp_path, given, advice):
    with pytest.raises(errors.StrategyError, match=advice):
        scene.session.batch("b", home=tmp_path, **given)


@pytest.mark.parametrize(
    ("name", "advice"),
    [("window", "did you mean launch"), ("hom", "did you mean home"), ("zzz", "it has name, launch")],
)
def test_an_unknown_argument_of_a_batch_is_refused_with_the_nearest_name(scene, tmp_path, name, advice):
    with pytest.raises(errors.PlanError, match=rf"session\.batch\(\) has no {name}; {advice}"):
        scene.session.batch("b", **{name: 4})


def test_a_number_stands_for_a_window_or_for_attempts(bare, tmp_path):
    with Session.connect("local") as session:
        batch = session.batch("b", launch=2, retry=0, home=tmp_path)
        batch.map(JobSpec("sh -c 'exit {n}'", image=IMAGE, cores=1, ram=1), key="n{n}", n=[0, 3])
        batch.run(progress=False)
    assert [(job.attempt, job.exit_code) for job in batch] == [(1, 0), (1, 3)]


@pytest.mark.parametrize("named", ["argument", "environment"])
def test_a_home_that_does_not_last_is_accepted_if_it_is_named(scene, tmp_path, monkeypatch, caplog, named):
    monkeypatch.setattr("canfar_batch.store.home.fleeting_places", lambda: [tmp_path])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CANFAR_BATCH_HOME", raising=False)
    with pytest.raises(errors.HomeError, match=r"CANFAR_BATCH_HOME or home="):
        scene.session.batch("b")
    if named == "environment":
        monkeypatch.setenv("CANFAR_BATCH_HOME", str(tmp_path))
    with scene.session.batch("b", home=tmp_path if named == "argument" else None) as batch:
        assert batch.home == tmp_path / "b"
    assert "is emptied without notice" in caplog.text


# -- processes and addresses ------------------------------------------------------------------------------------------


def test_pickling_a_session_says_what_to_do_instead(scene):
    with pytest.raises(TypeError, match=r"call canfar_batch\.Session\.connect\(\) in the other process"):
        pickle.dumps(scene.session)


def test_a_fork_that_leaves_the_with_block_ends_nothing_of_its_parent(bare, monkeypatch):
    with Session.connect("local") as session:
        with monkeypatch.context() as patch:
            patch.setattr("canfar_batch.session.os.getpid", lambda: -1)
            session.close()
        assert session.jobs() == []


def test_a_credential_goes_to_the_configured_address_alone(bare, scene, tmp_path):
    bare.setenv("CANFAR_TOKEN", "s3cr3t-token")
    bare.setattr("canfar_batch.store.home.Home.refuse_if_fleeting", lambda self: None)
    batch = scene.session.batch("b", home=tmp_path)
    with pytest.raises(errors.LedgerError, match=r"no credential is sent to .* set CANFAR_URL=https://fake\.example"):
        Session.connect_for(batch)
    bare.setenv("CANFAR_URL", scene.platform.url)
    with Session.connect_for(batch) as session:
        assert session.address == batch.address


# -- deadlines --------------------------------------------------------------------------------------------------------


@pytest.fixture
def silent():
    """A session and a job whose platform does not answer any more."""
    platform, answering = FakePlatform(), threading.Event()
    platform.clock = SystemClock()
    session = Session(platform, settle=SETTLE)
    job = session.launch("true", image=IMAGE)
    platform.before["container"] = lambda: answering.wait(60)
    platform.before["logs"] = lambda: answering.wait(60)
    yield job
    answering.set()


@pytest.mark.parametrize("call", [lambda job: job.wait(timeout=0.2), lambda job: job.cancel(timeout=0.2)])
def test_a_deadline_is_kept_though_the_platform_does_not_answer(silent, call):
    began = time.monotonic()
    with pytest.raises(errors.WaitTimeout):
        call(silent)
    assert time.monotonic() - began < 30, "the platform answers after 60 s"


def test_a_wait_reports_that_the_platform_did_not_answer(silent):
    with pytest.raises(errors.WaitTimeout, match=r"the platform's last answer: .* has not answered within"):
        silent.wait(timeout=0)
