"""A login saved by the official client: renewed at its login server, and written back for the client."""

import base64
import contextlib
import functools
import json
import os
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from integration.rest.scripted import Server, data, of_request, page, reply

import canfar_batch
from canfar_batch import errors
from canfar_batch.rest import open_platform
from canfar_batch.rest.transport import Transport

ID = "abcd1234"
SECRET = "the-client-secret-0123456789"


class LoginServer:
    """Gives a new access token for a refresh token, which may be used once if *rotating*."""

    def __init__(self, *, rotating=True, expires_in=3600):
        self.rotating, self.expires_in = rotating, expires_in
        self.refresh, self.count, self.spent = "refresh-token-000000000000", 0, 0
        self.before = lambda: None
        self._lock = threading.Lock()

    @property
    def access(self):
        return f"access-token-{self.count:012d}"

    def __call__(self, request):
        assert request.headers["authorization"] == "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()
        form = dict(request.form)
        assert form["grant_type"] == "refresh_token"
        self.before()
        with self._lock:
            if form["refresh_token"] != self.refresh:
                self.spent += 1
                return reply(400, f'{{"error": "invalid_grant", "token": "{form["refresh_token"]}"}}', service=False)
            self.count += 1
            answer = {"access_token": self.access, "token_type": "Bearer", "expires_in": self.expires_in}
            if self.rotating:
                self.refresh = f"refresh-token-{self.count:012d}"
                answer["refresh_token"] = self.refresh
            return data(answer, service=False)


@pytest.fixture
def login_server():
    return LoginServer()


@pytest.fixture
def servers(login_server):
    """The platform, which echoes its token and accepts the newest one, and the login server."""

    @of_request
    def platform(request):
        shown = request.headers["authorization"].removeprefix("Bearer ")
        return reply(200, shown) if shown == login_server.access else reply(401, f"Token has expired: {shown}")

    with Server(always=platform) as main, Server(always=of_request(lambda request: login_server(request))) as login:
        yield main, login


def save(home, servers, *, layout="current", access="access-token-000000000000", ends=None, refresh_ends=None, **more):
    """Write the official client's file."""
    platform, login = servers
    record = {
        "mode": "oidc",
        "endpoints": {"discovery": "https://iam.example/x", "token": login.url},
        "client": {"identity": "me", "secret": SECRET, "other": 1},
        "token": {"access": access, "refresh": "refresh-token-000000000000", "scope": "openid"},
        "expiry": {"access": time.time() + 3600 if ends is None else ends},
        "unknown": {"kept": [1, 2, "ü"]},
    }
    if refresh_ends is not None:
        record["expiry"]["refresh"] = refresh_ends
    server = {"name": "here", "url": platform.url.removesuffix("/v1"), "version": "v1", "cores": 2}
    if layout == "current":
        tree = {
            "version": 1,
            "active": {"authentication": "srcnet", "server": "here"},
            "authentication": {"srcnet": {"idp": "srcnet", **record}},
            "servers": {"here": {"idp": "srcnet", **server}},
            "console": {"width": 120},
        }
    else:
        tree = {"active": "SRCnet", "contexts": {"SRCnet": {**record, "server": server}}, "console": {"width": 120}}
    file = home / ".canfar" / "config.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump(tree))
    file.chmod(0o644)
    return file


def record_in(file):
    tree = yaml.safe_load(file.read_text())
    return tree["authentication"]["srcnet"] if "authentication" in tree else tree["contexts"]["SRCnet"]


@pytest.fixture
def without_pauses(monkeypatch):
    """Let platforms not sleep between two attempts."""
    hurried = functools.partial(Transport, sleep=lambda seconds: None)
    monkeypatch.setattr("canfar_batch.rest.platform.Transport", hurried)


def shown_by(home, **options):
    with open_platform(env={}, home=home, **options) as platform:
        return platform.logs(ID).decode()


@pytest.mark.parametrize("layout", ["current", "contexts"])
def test_saved_login_gives_address_and_token(layout, servers, tmp_path, login_server):
    before = save(tmp_path, servers, layout=layout).read_bytes()
    assert shown_by(tmp_path) == login_server.access
    assert login_server.count == 0
    assert (tmp_path / ".canfar" / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("layout", ["current", "contexts"])
def test_expired_token_is_renewed_and_the_rotated_one_written_back(layout, servers, tmp_path, login_server):
    file = save(tmp_path, servers, layout=layout, ends=time.time() - 1, refresh_ends=time.time() + 99999)
    before = yaml.safe_load(file.read_text())
    assert shown_by(tmp_path) == "access-token-000000000001"
    after = yaml.safe_load(file.read_text())
    record = record_in(file)
    assert record["token"] == {"access": login_server.access, "refresh": login_server.refresh, "scope": "openid"}
    assert time.time() + 3500 < record["expiry"]["access"] < time.time() + 3700
    assert "refresh" not in record["expiry"]  # the new one's end is not known
    for tree in (before, after):
        each = tree["authentication"]["srcnet"] if layout == "current" else tree["contexts"]["SRCnet"]
        del each["token"], each["expiry"]
    assert after == before
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [each.name for each in file.parent.iterdir() if each.name.endswith(".yaml")] == ["config.yaml"]


def test_token_that_does_not_rotate_leaves_the_file_alone(servers, tmp_path, login_server):
    login_server.rotating = False
    file = save(tmp_path, servers, ends=time.time() - 1)
    before = file.read_bytes(), file.stat().st_mtime_ns
    assert shown_by(tmp_path) == "access-token-000000000001"
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before


def test_refused_token_is_renewed_once(servers, tmp_path, login_server):
    save(tmp_path, servers, access="access-token-that-was-revoked")
    login_server.rotating = False
    assert shown_by(tmp_path) == "access-token-000000000001"
    assert len(servers[0].requests) == 2


def test_token_refused_when_new_is_not_renewed_again(servers, tmp_path, login_server):
    save(tmp_path, servers)
    servers[0].always = reply(401, "Token from untrusted issuer: x")
    with pytest.raises(errors.CredentialRefused, match="untrusted issuer"):
        shown_by(tmp_path)
    assert len(servers[0].requests) == 2
    assert login_server.count == 1


def test_outage_that_refuses_new_tokens_does_not_use_up_refresh_tokens(without_pauses, servers, tmp_path, login_server):
    save(tmp_path, servers)
    platform_server, accepting = servers[0], servers[0].always
    with open_platform(env={}, home=tmp_path) as platform:
        platform.logs(ID)
        platform_server.always = reply(401, "not authenticated\n\n")
        for _ in range(5):
            with pytest.raises(errors.CredentialRefused) as caught:
                platform.logs(ID)
        assert caught.value.was_accepted
        assert login_server.count == 1
        platform_server.always = accepting
        assert platform.logs(ID).decode() == "access-token-000000000001"
        login_server.count += 1  # the token is revoked: now a renewal helps
        assert platform.logs(ID).decode() == "access-token-000000000003"


def test_token_that_another_program_renewed_is_used(servers, tmp_path, login_server):
    save(tmp_path, servers)
    with open_platform(env={}, home=tmp_path) as platform:
        platform.logs(ID)
        login_server.count, login_server.refresh = 7, "refresh-token-of-the-other"
        save(tmp_path, servers, access=login_server.access)
        assert platform.logs(ID).decode() == "access-token-000000000007"
    assert login_server.count == 7


def test_program_without_the_lock_may_renew_first(servers, tmp_path, login_server):
    """The official client takes no lock: our refresh token may be spent at the very moment that we send it."""
    save(tmp_path, servers, ends=time.time() - 1)

    def the_other_renews():
        login_server.count, login_server.refresh = 7, "refresh-token-of-the-other"
        save(tmp_path, servers, access=login_server.access)

    login_server.before = the_other_renews
    assert shown_by(tmp_path) == "access-token-000000000007"
    assert login_server.spent == 1


def test_login_made_meanwhile_is_not_overwritten(servers, tmp_path, login_server):
    file = save(tmp_path, servers, ends=time.time() - 1)

    def log_in_anew():
        tree = yaml.safe_load(file.read_text())
        tree["authentication"]["srcnet"]["token"] = {"access": "access-token-000000000001", "refresh": "quite-another"}
        tree["authentication"]["srcnet"]["expiry"] = {"access": time.time() + 999}
        file.write_text(yaml.safe_dump(tree))

    login_server.before = log_in_anew
    assert shown_by(tmp_path) == "access-token-000000000001"
    assert record_in(file)["token"]["refresh"] == "quite-another"


def test_threads_that_are_refused_together_renew_once(servers, tmp_path, login_server):
    save(tmp_path, servers, access="access-token-that-was-revoked")
    with open_platform(env={}, home=tmp_path) as platform, ThreadPoolExecutor(16) as pool:
        shown = set(pool.map(lambda _: platform.logs(ID), range(64)))
    assert shown == {b"access-token-000000000001"}
    assert (login_server.count, login_server.spent) == (1, 0)


def test_two_programs_at_once_renew_once(servers, tmp_path, login_server):
    save(tmp_path, servers, ends=time.time() - 1)
    command = [sys.executable, str(Path(__file__).with_name("refresh.py")), str(tmp_path), servers[0].url]
    env = {**os.environ, "PYTHONPATH": str(Path(canfar_batch.__file__).parents[1])}
    with contextlib.ExitStack() as stack:
        pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": env}
        programs = [stack.enter_context(subprocess.Popen(command, **pipe)) for _ in range(3)]
        for program in programs:
            assert program.stdout.readline() == "ready\n"
        for program in programs:
            program.stdin.write("go\n")
            program.stdin.flush()
        assert [program.stdout.readline() for program in programs] == ["access-token-000000000001\n"] * 3
    assert (login_server.count, login_server.spent) == (1, 0)


def test_refused_renewal_names_the_command_and_shows_no_token(servers, tmp_path, login_server, nothing_leaks):
    save(tmp_path, servers, ends=time.time() - 1)
    login_server.refresh = "another"
    with pytest.raises(errors.CredentialExpired) as caught:
        shown_by(tmp_path)
    assert "`canfar login srcnet`" in str(caught.value)
    assert "invalid_grant" in str(caught.value)
    assert servers[0].requests == []
    nothing_leaks(caught.value, secrets=("refresh-token-000000000000", "access-token-000000000000", SECRET))


def test_login_survives_a_login_server_that_is_down(without_pauses, servers, tmp_path, login_server, nothing_leaks):
    save(tmp_path, servers, ends=time.time() - 1)
    login_server.rotating = False
    servers[1].steps = [page(502, "Bad Gateway"), reply(200, "no json"), data({"token": "x"})]
    with open_platform(env={}, home=tmp_path) as platform:
        assert platform.logs(ID).decode() == "access-token-000000000001"
        assert len(servers[1].requests) == 4


def test_launch_without_a_token_was_not_sent(servers, tmp_path, login_server, nothing_leaks):
    from integration.rest.conftest import REQUEST

    save(tmp_path, servers, ends=time.time() - 1)
    servers[1].always = page(503, "Service Unavailable")
    with open_platform(env={}, home=tmp_path) as platform, pytest.raises(errors.NotSent) as caught:
        platform.launch(REQUEST)
    assert servers[0].requests == []
    nothing_leaks(caught.value, secrets=("refresh-token-000000000000", SECRET))


def test_login_that_cannot_be_renewed_is_refused_at_once(servers, tmp_path):
    save(tmp_path, servers, ends=time.time() - 100, refresh_ends=time.time() - 1)
    with pytest.raises(errors.CredentialExpired, match="canfar login srcnet"):
        open_platform(env={}, home=tmp_path)


def test_renewal_is_never_sent_unencrypted(servers, tmp_path):
    file = save(tmp_path, servers, ends=time.time() - 1)
    file.write_text(file.read_text().replace(servers[1].url, "http://iam.example/token"))
    with pytest.raises(errors.CredentialError, match="not https"):
        shown_by(tmp_path)


def test_redirect_of_a_login_server_is_not_followed(without_pauses, servers, tmp_path, login_server):
    save(tmp_path, servers, ends=time.time() - 1)
    with Server(always=reply(200, "{}")) as other:
        servers[1].always = reply(307, "", Location=other.url)
        with open_platform(env={}, home=tmp_path) as platform, pytest.raises(errors.NotSent):
            platform.logs(ID)
        assert other.requests == []


def test_login_goes_on_if_its_file_cannot_be_written(servers, tmp_path, login_server, monkeypatch, caplog):
    save(tmp_path, servers, ends=time.time() - 1)

    def full(*_args, **_more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("canfar_batch.rest.canfar_login.tempfile.mkstemp", full)
    with open_platform(env={}, home=tmp_path) as platform:
        assert platform.logs(ID).decode() == "access-token-000000000001"
        login_server.count += 1  # the token is revoked: the next renewal uses the refresh token that was not saved
        assert platform.logs(ID).decode() == "access-token-000000000003"
    assert "could not be saved" in caplog.text
    assert login_server.spent == 0


def test_login_of_another_server_is_not_shown_here(servers, tmp_path):
    save(tmp_path, servers)
    with Server(always=reply(200, "x")) as other:
        with pytest.raises(errors.CredentialMissing, match="the saved login 'srcnet' is for http:") as caught:
            open_platform(other.url, env={}, home=tmp_path)
        assert other.requests == []
    assert "access-token" not in str(caught.value)


def test_address_with_a_saved_login_for_it_works(servers, tmp_path, login_server):
    save(tmp_path, servers)
    assert shown_by(tmp_path, url=servers[0].url) == login_server.access


def test_platform_shows_when_the_login_expires(servers, tmp_path):
    end = int(time.time()) + 5000
    save(tmp_path, servers, refresh_ends=end)
    with open_platform(env={}, home=tmp_path) as platform:
        assert platform.expires_at.timestamp() == end
        assert "login 'srcnet' in ~/.canfar/config.yaml until" in repr(platform)
        assert "token" not in json.dumps(repr(platform))
