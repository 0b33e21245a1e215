"""Credentials on the wire: to whom each is shown, how a refusal is handled, and that none leaks."""

import base64
import logging
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from integration.rest.conftest import REQUEST, TOKEN
from integration.rest.scripted import Server, data, drip, of_request, page, reply

from canfar_batch import errors
from canfar_batch.rest import open_platform
from canfar_batch.rest.discovery import Registry

ID = "abcd1234"
NEXT = "tok-second-SECRET-77aa88bb99cc"
EXPIRED = reply(401, "Token has expired", service=False)
ANONYMOUS = reply(400, "cannot get group memberships for anonymous\n", service=False)
ECHO = of_request(lambda request: reply(401, f"unhandled auth: Authorization {request.headers['authorization']}"))


def raised(call, *args):
    with pytest.raises(errors.CanfarBatchError) as caught:
        call(*args)
    return caught.value


def tokens(server):
    return [each.headers.get("authorization", "").removeprefix("Bearer ") for each in server.requests]


# -- 401 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "refusal", [EXPIRED, ANONYMOUS, ECHO, page(401, "Sign in")], ids=["1.2", "1.4", "echo", "page"]
)
def test_refused_token_is_renewed_once_and_the_create_repeated(refusal, connect, nothing_leaks):
    with Server() as server:
        platform = connect(server)

        @of_request
        def refuse(request):
            platform.set_token(NEXT)
            return refusal(request) if callable(refusal) else refusal

        server.steps = [refuse, reply(200, f"{ID}\n")]
        assert platform.launch(REQUEST) == ID
        assert tokens(server) == [TOKEN, NEXT]
        assert server.requests[0].body == server.requests[1].body
    nothing_leaks(secrets=(TOKEN, NEXT))


def test_token_refused_twice_is_not_tried_a_third_time(connect, nothing_leaks):
    with Server([ECHO] * 5) as server:
        platform = connect(server)

        @of_request
        def refuse(request):
            platform.set_token(NEXT)
            return EXPIRED

        server.steps.insert(0, refuse)
        error = raised(platform.launch, REQUEST)
        assert tokens(server) == [TOKEN, NEXT]
    assert type(error) is errors.CredentialRefused
    nothing_leaks(error, secrets=(TOKEN, NEXT))


@pytest.mark.parametrize("refusal", [EXPIRED, ANONYMOUS, ECHO], ids=["1.2", "1.4", "echo"])
def test_token_that_cannot_be_renewed_is_an_error_with_the_remedy(refusal, connect, naps, nothing_leaks):
    for call in (lambda platform: platform.launch(REQUEST), lambda platform: platform.containers()):
        with Server([refusal]) as server:
            error = raised(call, connect(server))
            assert type(error) is errors.CredentialRefused
            assert isinstance(error, PermissionError)
            assert "Set CANFAR_TOKEN to a new token." in str(error)
            assert len(server.requests) == 1
        nothing_leaks(error)
    assert naps == []


def test_login_service_that_is_down_is_not_the_tokens_fault(connect):
    text = "BUG: Cannot access OIDC .well-known/openid-configuration end point"
    with Server([reply(401, text, service=False)]) as server:
        error = raised(connect(server).launch, REQUEST)
        assert type(error) is errors.PlatformBusy
        assert len(server.requests) == 1


STALE = [
    "Cannot validate token using user info endpoint",
    "Token has expired",
    "Invalid JWT token",
    "Token from untrusted issuer: https://x ignored",
    "not authenticated\n\n",
]


@pytest.mark.parametrize("text", STALE)
@pytest.mark.parametrize("call", ["launch", "containers", "container", "logs", "events", "cancel", "renew"])
def test_stale_or_garbled_token_is_refused_with_the_remedy(text, call, connect, naps):
    argument = {"launch": [REQUEST], "containers": []}.get(call, [ID])
    with Server(always=reply(401, text, service=False)) as server:
        error = raised(getattr(connect(server), call), *argument)
        assert type(error) is errors.CredentialRefused
        assert (error.status, error.server_text, error.was_accepted) == (401, text.strip(), False)
        assert "Set CANFAR_TOKEN to a new token." in str(error)
        assert len(server.requests) == 1
    assert naps == []


def test_question_refused_after_the_token_was_accepted_is_asked_again(connect, naps):
    refused = reply(401, "not authenticated\n\n", service=False)
    with Server([data([]), refused, data([]), *[refused] * 4]) as server:
        platform = connect(server)
        platform.containers()
        platform.containers()
        assert naps == [0.5]
        error = raised(platform.containers)
        assert len(server.requests) == 7
    assert type(error) is errors.CredentialRefused
    assert error.was_accepted
    assert "may be having an outage" in str(error)
    assert "Set CANFAR_TOKEN" in str(error)


def test_launch_refused_after_the_token_was_accepted_is_sent_once(connect, naps):
    with Server([data([]), reply(401, "not authenticated\n\n", service=False)]) as server:
        platform = connect(server)
        platform.containers()
        error = raised(platform.launch, REQUEST)
        assert len(server.requests) == 2
    assert type(error) is errors.CredentialRefused
    assert error.was_accepted
    assert naps == []


@pytest.mark.parametrize("status", [200, 302, 400, 403, 404, 409, 429, 500, 502, 503])
def test_answer_that_quotes_the_token_does_not_reveal_it(status, connect, nothing_leaks):
    encoded = base64.b64encode(f"x{TOKEN}".encode()).decode()
    body = f"Bearer {TOKEN} {TOKEN[:20]}… {TOKEN.upper()} {encoded} {TOKEN.replace('-', '%2D')}"
    answer = reply(status, body, Location=f"https://elsewhere.example/{TOKEN}?t={TOKEN}", x_vo_authenticated=TOKEN)
    with Server(always=answer) as server:
        platform = connect(server)
        found = [raised(platform.launch, REQUEST), raised(platform.containers), raised(platform.container, ID)]
        nothing_leaks(*found, secrets=(TOKEN, TOKEN.upper(), encoded[4:-4]))
        assert TOKEN not in repr(platform)


def test_status_line_that_quotes_the_token_is_not_kept_as_the_cause(connect, nothing_leaks):
    with Server(always=f"Authorization: Bearer {TOKEN}\r\n\r\n".encode()) as server:
        error = raised(connect(server).launch, REQUEST)
        assert error.__cause__.__cause__ is None
    nothing_leaks(error)


# -- which credential goes where ------------------------------------------------------------------------------------


def test_netrc_and_cookies_do_not_replace_the_token(connect, tmp_path, monkeypatch):
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\ndefault login a password b\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    with Server(always=data([], Set_Cookie="CADC_SSO=other; Path=/")) as server:
        platform = connect(server)
        platform.containers()
        platform.containers()
        assert tokens(server) == [TOKEN, TOKEN]
        assert not any("cookie" in each.headers for each in server.requests)


def test_proxy_is_not_used_on_this_machine(connect, monkeypatch):
    with Server(always=data([])) as server, Server(always=data([])) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        connect(server).containers()
        assert len(server.requests) == 1
        assert proxy.requests == []


def test_proxy_is_asked_for_a_tunnel_and_never_sees_the_token(connect, monkeypatch, nothing_leaks):
    with Server(always=reply(502, "no way", service=False)) as proxy:
        monkeypatch.setenv("https_proxy", f"http://me:hush-hush-hush@127.0.0.1:{proxy.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        error = raised(connect("https://skaha.example/skaha/v1").launch, REQUEST)
        assert type(error) is errors.NotSent
        assert "proxy" in str(error)
        assert [each.method for each in proxy.requests] == ["CONNECT"]
        assert TOKEN not in repr(proxy.requests)
    nothing_leaks(error, secrets=(TOKEN, "hush-hush-hush"))


@pytest.mark.parametrize("proxy", ["socks5h://me:hush-hush-hush@127.0.0.1:1", "ftp://127.0.0.1:1"])
def test_unsupported_proxy_is_named(proxy, connect, monkeypatch, nothing_leaks):
    monkeypatch.setenv("https_proxy", proxy)
    monkeypatch.delenv("no_proxy", raising=False)
    error = raised(connect("https://skaha.example/skaha/v1").launch, REQUEST)
    assert type(error) is errors.NotSent
    assert "127.0.0.1:1" in str(error)
    nothing_leaks(error, secrets=(TOKEN, "hush-hush-hush"))


def test_registry_secret_goes_with_creates_of_its_images_alone(connect, nothing_leaks):
    registry = Registry(username="robot", secret="s3cret-of-the-registry", host="images.canfar.net")
    coded = base64.b64encode(b"robot:s3cret-of-the-registry").decode()

    @of_request
    def echo(request):
        return reply(400, "bad registry header " + request.headers.get("x-skaha-registry-auth", "none"))

    with Server([data([]), echo, reply(400, "no")]) as server:
        platform = connect(server, registry=registry)
        platform.containers()
        raised(platform.launch, REQUEST)
        raised(platform.launch, type(REQUEST)(name="c", image="docker.io/x/y:1", resources=REQUEST.resources))
        sent = [each.headers.get("x-skaha-registry-auth") for each in server.requests]
    assert sent == [None, coded, None]
    assert "secret" not in repr(registry)


def test_registry_secret_that_the_server_echoes_is_masked(tmp_path, nothing_leaks):
    env = {
        "CANFAR_TOKEN": TOKEN,
        "CANFAR_REGISTRY__USERNAME": "robot",
        "CANFAR_REGISTRY__SECRET": "s3cret-of-the-registry",
    }
    coded = base64.b64encode(b"robot:s3cret-of-the-registry").decode()
    with Server([reply(400, f"bad: {coded} s3cret-of-the-registry")]) as server:
        with open_platform(server.url, env=env, home=tmp_path) as platform:
            error = raised(platform.launch, REQUEST)
        assert server.requests[0].headers["x-skaha-registry-auth"] == coded
    nothing_leaks(error, secrets=(TOKEN, coded[8:], "s3cret-of-the-registry"))


# -- certificates ---------------------------------------------------------------------------------------------------


@pytest.fixture
def tls(authority, tmp_path):
    """The server's side of TLS, which wants a certificate of ours."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.write(tmp_path / "server.pem", "server"))
    context.load_verify_locations(authority.file)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def test_new_certificate_on_disk_is_used(authority, tls, tmp_path):
    mine = authority.write(tmp_path / "mine.pem", "ann")
    env = {"REQUESTS_CA_BUNDLE": str(authority.file)}
    ids = iter([ID, "zzzz9999"])

    @of_request
    def answer(request):
        return reply(200, next(ids) if request.method == "POST" else "a log")

    with Server(always=answer, tls=tls) as server:
        with open_platform(server.url, certificate=mine, env=env, home=tmp_path) as platform:
            platform.logs(ID)
            platform.launch(REQUEST)
            first = platform.expires_at
            authority.write(mine, "ann again", days=2)
            platform.logs(ID)
            platform.launch(REQUEST)
            assert platform.expires_at > first
            assert "certificate ~/mine.pem until" in repr(platform)
        assert [each.peer for each in server.requests] == ["ann", "ann", "ann again", "ann again"]
        assert not any("authorization" in each.headers for each in server.requests)


def test_certificate_replaced_after_a_refusal_is_shown_once_more(authority, tls, tmp_path):
    mine = authority.write(tmp_path / "mine.pem", "ann")
    env = {"REQUESTS_CA_BUNDLE": str(authority.file)}

    @of_request
    def refuse(request):
        authority.write(mine, "ann again")
        return ANONYMOUS

    with Server([refuse, reply(200, f"{ID}\n")], tls=tls) as server:
        with open_platform(server.url, certificate=mine, env=env, home=tmp_path) as platform:
            assert platform.launch(REQUEST) == ID
        assert [each.peer for each in server.requests] == ["ann", "ann again"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_certificate_refused_in_the_handshake_is_a_refused_credential(version, authority, tls, tmp_path):
    stranger = type(authority)(tmp_path)
    mine = stranger.write(tmp_path / "mine.pem", "mallory")
    tls.minimum_version = tls.maximum_version = version
    env = {"REQUESTS_CA_BUNDLE": str(authority.file)}
    with Server(tls=tls) as server, open_platform(server.url, certificate=mine, env=env, home=tmp_path) as platform:
        error = raised(platform.launch, REQUEST)
        assert type(error) is errors.CredentialRefused
        assert "cadc-get-cert" in str(error)
        assert server.requests == []


def test_server_without_a_trusted_certificate_gets_no_request(authority, tmp_path, nothing_leaks):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(type(authority)(tmp_path).write(tmp_path / "server.pem", "server"))
    env = {"REQUESTS_CA_BUNDLE": str(authority.file)}
    with Server(tls=context) as server, open_platform(server.url, token=TOKEN, env=env, home=tmp_path) as platform:
        error = raised(platform.launch, REQUEST)
        assert isinstance(error, errors.NotSent)
        assert "REQUESTS_CA_BUNDLE" in str(error)
        assert raised(platform.containers).__class__ is error.__class__
        assert server.requests == []
        assert server.accepted == 2
    nothing_leaks(error)


def test_handshake_that_drips_is_given_up_in_time(authority, tmp_path, connect, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.file))
    record = b"\x16\x03\x03\x3f\xff"  # of 16 kB, which come byte by byte
    with Server(always=data([]), accept=[drip(record)] * 2) as server:
        url = server.url.replace("http:", "https:")
        error = raised(connect(url, create=0.3).launch, REQUEST)
        assert type(error) is errors.NotSent
        assert "took longer than 0.3 s" in str(error)
        platform = connect(url, total=0.3)
        with platform.within(0.6):
            assert "took longer" in str(raised(platform.containers))
        assert server.requests == []


def test_server_certified_for_another_name_gets_no_request(authority, tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.write(tmp_path / "server.pem", "server", host="127.0.0.9"))
    env = {"REQUESTS_CA_BUNDLE": str(authority.file)}
    with Server(tls=context) as server, open_platform(server.url, token=TOKEN, env=env, home=tmp_path) as platform:
        error = raised(platform.launch, REQUEST)
        assert isinstance(error, errors.NotSent)
        assert "IP address mismatch" in str(error)
        assert server.requests == []


@pytest.mark.parametrize("bundle", ["missing.pem", "empty.pem"])
def test_unreadable_bundle_of_authorities_is_named(bundle, tmp_path):
    (tmp_path / "empty.pem").write_text("")
    env = {"REQUESTS_CA_BUNDLE": str(tmp_path / bundle)}
    with open_platform("https://127.0.0.1:1", token=TOKEN, env=env, home=tmp_path) as platform:
        error = raised(platform.launch, REQUEST)
    assert isinstance(error, errors.NotSent)
    assert bundle in str(error)


def test_encrypted_key_is_refused_without_asking_for_a_password(authority, tls, tmp_path):
    mine = authority.write(tmp_path / "mine.pem", "ann", password=b"1234")
    env = {"REQUESTS_CA_BUNDLE": str(authority.file)}
    with Server(tls=tls) as server, open_platform(server.url, certificate=mine, env=env, home=tmp_path) as platform:
        error = raised(platform.launch, REQUEST)
    assert isinstance(error, errors.CredentialError)
    assert "its key is encrypted" in str(error)


# -- many at once ---------------------------------------------------------------------------------------------------


def test_sixty_four_threads_share_a_platform(connect, caplog):
    caplog.set_level(logging.WARNING)
    entry = {"id": ID, "status": "Running", "name": "n", "type": "headless"}

    @of_request
    def answer(request):
        if request.method == "POST":
            return reply(200, f"{dict(request.form)['name'][-8:]}\n")
        wanted = request.path.rpartition("/")[2]
        return data([entry]) if wanted == "session" else data({**entry, "id": wanted})

    begin = threading.Barrier(64)

    def work(number):
        begin.wait()
        for step in range(10):
            id = f"a{number:03d}{step:04d}"
            assert platform.container(id).id == id
            assert len(platform.containers()) == 1
        assert platform.launch(type(REQUEST)(name=f"n-{id}", image="x", resources=REQUEST.resources)) == id
        return True

    with Server(always=answer) as server:
        platform = connect(server)
        with ThreadPoolExecutor(64) as pool:
            assert all(pool.map(work, range(64)))
        assert len(server.posts()) == 64
        assert len({each.connection for each in server.requests if each.method == "GET"}) <= 64
    assert caplog.records == []
