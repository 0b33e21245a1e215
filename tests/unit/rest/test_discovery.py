"""Where a credential is looked for, in which order, and to whom it may be shown."""

import base64
import json
import sys
from datetime import datetime, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from canfar_batch import errors
from canfar_batch.rest import open_platform
from canfar_batch.rest.credentials import Certificate, token_expiry
from canfar_batch.rest.discovery import find
from canfar_batch.rest.redaction import Secrets

OFFICIAL = "https://ws-uv.canfar.net/skaha/v1"
OTHER = "https://skaha.example/skaha/v1"
KEY = ec.generate_private_key(ec.SECP256R1())


def pem(days=5):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ann")])
    now = datetime.now(timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEY.public_key())
        .serial_number(7)
        .not_valid_before(now - timedelta(days=99))
        .not_valid_after(now + timedelta(days=days))
        .sign(KEY, hashes.SHA256())
    )
    key = KEY.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return made.public_bytes(serialization.Encoding.PEM) + key


@pytest.fixture
def home(tmp_path):
    return tmp_path


@pytest.fixture
def put(home):
    def write(path, content, mode=0o600):
        file = home / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        file.chmod(mode)
        return file

    return write


@pytest.fixture
def look(home):
    def nobody(url, form, *, auth):
        raise AssertionError("nothing is asked while credentials are looked for")

    def run(url=None, *, env=None, **given):
        return find(url=url, env=env or {}, home=home, post=nobody, secrets=Secrets(), **given)

    return run


def login(server="https://login.example/skaha", path="~/.ssl/saved.pem", **more):
    tree = {
        "version": 1,
        "active": {"authentication": "cadc", "server": "mine"},
        "authentication": {"cadc": {"idp": "cadc", "mode": "x509", "path": path, "expiry": 0.0}},
        "servers": {"mine": {"idp": "cadc", "url": server, "version": "v1"}},
        **more,
    }
    return json.dumps(tree)  # which is YAML too


def jwt(**claims):
    parts = ({"alg": "none"}, claims)
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + ".sig"


# -- the order --------------------------------------------------------------------------------------------------------


def test_arguments_win_over_environment_and_that_over_saved_logins(look, put):
    put(".ssl/cadcproxy.pem", pem())
    put(".ssl/saved.pem", pem())
    put("mine.pem", pem())
    put(".canfar/config.yaml", login())
    env = {"CANFAR_TOKEN": "t0", "CANFAR_CERTIFICATE": "~/mine.pem", "CANFAR_URL": "https://env.example/skaha"}

    def found(url=None, env=env, **given):
        it = look(url, env=env, **given)
        return it.url, it.provider.source

    at_env = "https://env.example/skaha/v1"
    assert found(token="t1", certificate="~/mine.pem") == (at_env, "the token passed")
    assert found(certificate="~/mine.pem") == (at_env, "certificate ~/mine.pem")
    assert found() == (at_env, "CANFAR_TOKEN")
    del env["CANFAR_TOKEN"]
    assert found() == (at_env, "certificate ~/mine.pem")
    assert found(env={}) == ("https://login.example/skaha/v1", "certificate ~/.ssl/saved.pem")
    (put("x", "").parent / ".canfar" / "config.yaml").unlink()
    assert found(env={}) == (OFFICIAL, "certificate ~/.ssl/cadcproxy.pem")


def test_token_alone_is_for_canfar(look):
    assert look(env={"CANFAR_TOKEN": "t0"}).url == OFFICIAL
    assert look(token="t0").url == OFFICIAL


def test_without_a_credential_the_error_names_every_way_to_get_one(look):
    with pytest.raises(errors.CredentialMissing) as caught:
        look()
    for way in ("canfar login", "cadc-get-cert", "CANFAR_TOKEN", "CANFAR_CERTIFICATE"):
        assert way in str(caught.value)


# -- to whom ----------------------------------------------------------------------------------------------------------


def test_default_certificate_goes_to_canfar_alone_unless_passed(look, put):
    path = put(".ssl/cadcproxy.pem", pem())
    assert look("https://ws-cadc.canfar.net/skaha").provider.source == "certificate ~/.ssl/cadcproxy.pem"
    with pytest.raises(errors.CredentialMissing, match="certificate="):
        look(OTHER)
    assert look(OTHER, certificate=path).url == OTHER


def test_saved_login_goes_to_its_own_server_alone(look, put):
    put(".ssl/saved.pem", pem())
    put(".canfar/config.yaml", login("https://login.example/skaha"))
    assert look("https://login.example/skaha/v1").provider.source == "certificate ~/.ssl/saved.pem"
    for elsewhere in (OTHER, "https://login.example:8443/skaha", "https://login.example.org", "http://127.0.0.1:1"):
        with pytest.raises(errors.CredentialMissing, match=r"saved login 'cadc' is for https://login\.example"):
            look(elsewhere)


def test_variable_for_another_platform_is_not_shown_here(look):
    env = {"CANFAR_TOKEN": "t0", "CANFAR_URL": "https://env.example/skaha"}
    assert look("https://env.example/skaha/v1/", env=env).provider.source == "CANFAR_TOKEN"
    with pytest.raises(errors.CredentialMissing, match="CANFAR_TOKEN goes with CANFAR_URL"):
        look(OTHER, env=env)
    assert look(OTHER, env={"CANFAR_TOKEN": "t0"}).url == OTHER


def test_expired_saved_login_does_not_lead_to_another_platform(look, put):
    put(".ssl/saved.pem", pem(days=-1))
    put(".ssl/cadcproxy.pem", pem())
    put(".canfar/config.yaml", login("https://login.example/skaha"))
    with pytest.raises(errors.CredentialExpired, match="canfar login cadc"):
        look()


def test_expired_saved_login_gives_way_to_a_good_certificate(look, put):
    put(".ssl/saved.pem", pem(days=-1))
    put(".ssl/cadcproxy.pem", pem())
    put(".canfar/config.yaml", login("https://ws-uv.canfar.net/skaha"))
    assert look().provider.source == "certificate ~/.ssl/cadcproxy.pem"


def test_saved_server_without_https_is_not_used(look, put, caplog):
    put(".ssl/saved.pem", pem())
    put(".canfar/config.yaml", login("http://login.example/skaha"))
    with pytest.raises(errors.CredentialMissing):
        look()
    assert "is not https" in caplog.text


@pytest.mark.parametrize("url", ["http://skaha.example/skaha", "https://me:hush@skaha.example"])
def test_no_credential_goes_to_an_unsafe_address(url, look):
    with pytest.raises(errors.AddressError) as caught:
        look(url, token="t0")
    assert "hush" not in str(caught.value)
    with pytest.raises(errors.AddressError):
        look(env={"CANFAR_URL": url, "CANFAR_TOKEN": "t0"})


# -- the official client's file ---------------------------------------------------------------------------------------


def test_variables_select_the_active_entries(look, put):
    put("b.pem", pem())
    tree = json.loads(login())
    tree["authentication"]["other"] = {"mode": "x509", "path": "~/b.pem"}
    tree["servers"]["second"] = {"idp": "other", "url": OTHER, "version": "v1"}
    put(".canfar/config.yaml", json.dumps(tree))
    found = look(env={"CANFAR_ACTIVE__AUTHENTICATION": "other", "CANFAR_ACTIVE__SERVER": "second"})
    assert (found.url, found.provider.source) == (OTHER, "certificate ~/b.pem")
    assert look(OTHER).provider.source == "certificate ~/b.pem"


def test_older_layout_is_read(look, put):
    put("a.pem", pem())
    server = {"name": "x", "url": "https://old.example/skaha", "version": "v0"}
    tree = {"active": "A", "contexts": {"A": {"mode": "x509", "path": "~/a.pem", "expiry": 0, "server": server}}}
    put(".canfar/config.yaml", json.dumps(tree))
    found = look()
    assert (found.url, found.provider.source) == ("https://old.example/skaha/v0", "certificate ~/a.pem")


@pytest.mark.parametrize(
    "text", ["", "[]", "just words", "a: [", "token: !!python/object:os.system {}", "\x00", "&a [*a]"]
)
def test_malformed_file_is_named_and_not_quoted(text, look, put):
    put(".canfar/config.yaml", text)
    with pytest.raises(errors.CredentialMissing, match=r"config\.yaml is not a configuration"):
        look()


@pytest.mark.parametrize(
    "tree",
    [{"version": 1}, {"active": 5}, {"active": {"authentication": "x"}, "authentication": {"x": None}, "servers": [1]},
     {"contexts": None}, {"contexts": {"a": 5}, "active": "a"}, {"authentication": {"cadc": {"mode": "x509"}}}],
)  # fmt: skip
def test_incomplete_file_counts_as_none(tree, look, put):
    put(".canfar/config.yaml", json.dumps(tree))
    put(".ssl/cadcproxy.pem", pem())
    assert look().provider.source == "certificate ~/.ssl/cadcproxy.pem"


def test_without_pyyaml_a_hint_says_what_to_install(look, put, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(errors.CredentialMissing) as caught:
        look()
    assert "PyYAML" not in str(caught.value)  # there is no such file
    put(".canfar/config.yaml", login())
    with pytest.raises(errors.CredentialMissing, match=r"pip install PyYAML"):
        look()
    put(".ssl/cadcproxy.pem", pem())
    assert look().provider.source == "certificate ~/.ssl/cadcproxy.pem"
    assert "PyYAML" in caplog.text


# -- certificates and tokens ------------------------------------------------------------------------------------------


def test_expired_certificate_names_the_command_and_the_time(look, put):
    put(".ssl/cadcproxy.pem", pem(days=-1))
    with pytest.raises(errors.CredentialExpired, match=r"expired at 20\d\d-.* UTC .*cadc-get-cert -u <user>"):
        look()


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "no private key"), (b"hello", "no private key"),
     (pem().partition(b"-----BEGIN PRIVATE")[0], "no private key"),
     (pem().partition(b"-----END CERTIFICATE-----\n")[2], "no certificate")],
    ids=["empty", "words", "no key", "no certificate"],
)  # fmt: skip
def test_unusable_certificate_file_says_why(content, why, look, put):
    path = put("x.pem", content)
    with pytest.raises(errors.CredentialError, match=why):
        look(certificate=path)


def test_missing_certificate_is_named(look, home):
    with pytest.raises(errors.CredentialMissing, match=r"nowhere\.pem cannot be read: No such file"):
        look(certificate="~/nowhere.pem")
    with pytest.raises(errors.CredentialMissing, match="cannot be read"):
        look(certificate=home)


def test_half_written_certificate_leaves_the_old_one_in_use(put):
    path = put("x.pem", pem())
    provider = Certificate(path, remedy="")
    good = provider.current()
    path.write_bytes(pem()[:100])
    assert provider.current() == good
    path.write_bytes(pem(days=9))
    assert provider.current() != good
    path.unlink()
    with pytest.raises(errors.CredentialMissing):
        provider.current()


def test_half_written_certificate_is_an_error_once_the_old_one_expired(put):
    path = put("x.pem", pem())
    now = [datetime.now(timezone.utc)]
    provider = Certificate(path, remedy="", now=lambda: now[0])
    path.write_bytes(b"half")
    provider.current()
    now[0] += timedelta(days=9)
    with pytest.raises(errors.CredentialError, match="no private key"):
        provider.current()


def test_file_of_secrets_that_others_can_read_causes_a_warning(look, put, caplog):
    look(certificate=put("x.pem", pem(), mode=0o600))
    assert caplog.text == ""
    look(certificate=put("x.pem", pem(), mode=0o644))
    assert "chmod 600" in caplog.text


def test_expiry_is_read_from_tokens():
    end = datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    cadc = base64.b64encode(f"userid=ann&expirytime={int(end.timestamp() * 1000)}&signature=x".encode()).decode()
    assert token_expiry(jwt(exp=end.timestamp())) == end
    assert token_expiry(cadc) == token_expiry(cadc.rstrip("=")) == end
    for other in ("opaque", jwt(), jwt(exp="soon"), jwt(exp=1e99), jwt(exp=True), "a.b.c", "", "!!!", "é"):
        assert token_expiry(other) is None


def test_expired_token_is_refused_before_anything_is_sent(look):
    with pytest.raises(errors.CredentialExpired, match="Set CANFAR_TOKEN to a new token"):
        look(env={"CANFAR_TOKEN": jwt(exp=1_000_000)})


@pytest.mark.parametrize("text", ["Bearer t0k", " t0k\n", "Authorization: Bearer t0k"])
def test_token_is_accepted_as_people_paste_it(text, look):
    assert look(token=text).provider.current().token == "t0k"


@pytest.mark.parametrize("text", ["two words", "line\r\nX-Evil: 1", "nül", "", "   "])
def test_invalid_token_is_refused_and_not_echoed(text, look):
    with pytest.raises(errors.CredentialError) as caught:
        look(token=text)
    assert text == "" or text not in str(caught.value)


def test_new_token_in_the_environment_is_used(look):
    env = {"CANFAR_TOKEN": "first"}
    provider = look(env=env).provider
    refused = provider.current()
    assert provider.renew(refused) is None
    env["CANFAR_TOKEN"] = jwt(exp=4_000_000_000)
    assert provider.renew(refused).token == env["CANFAR_TOKEN"]
    assert provider.expires_at.year == 2096
    del env["CANFAR_TOKEN"]
    with pytest.raises(errors.CredentialMissing, match="CANFAR_TOKEN is no longer set"):
        provider.current()


def test_repr_shows_no_secret(look, put):
    put(".ssl/saved.pem", pem())
    put(".canfar/config.yaml", login(registry={"url": "https://r.example", "username": "robot", "secret": "hush-hush"}))
    found = look("https://login.example")
    assert "hush-hush" not in repr(found)
    assert "t0k3n" not in repr(look(token="t0k3n").provider.current())


# -- the image registry -----------------------------------------------------------------------------------------------

REGISTRY = {"url": "https://images.canfar.net", "username": " robot ", "secret": " hush "}


def test_registry_is_found_in_the_file_and_the_environment(look, put):
    put(".ssl/saved.pem", pem())
    put(".canfar/config.yaml", login("https://ws-uv.canfar.net/skaha", registry=REGISTRY))
    assert look().registry.host == "images.canfar.net"
    assert (look().registry.username, look().registry.secret) == ("robot", "hush")
    assert look(env={"CANFAR_REGISTRY__SECRET": "newer"}).registry.secret == "newer"
    only = look(env={"CANFAR_TOKEN": "t", "CANFAR_REGISTRY__USERNAME": "me", "CANFAR_REGISTRY__SECRET": "s"})
    assert only.registry.username == "me"


def test_saved_registry_secret_is_not_for_other_platforms(look, put):
    put(".canfar/config.yaml", login(registry=REGISTRY))
    assert look(OTHER, token="t0").registry is None
    assert look("http://127.0.0.1:1", token="t0").registry is None
    assert look("https://login.example", token="t0").registry is not None


def test_registry_without_a_secret_is_not_used(look):
    assert look(token="t0", env={"CANFAR_REGISTRY__USERNAME": "me"}).registry is None


@pytest.mark.parametrize("name", ["CANFAR_REGISTRY__USERNAME", "CANFAR_REGISTRY__SECRET"])
def test_colon_in_the_registry_secret_is_refused(name, look):
    env = {"CANFAR_REGISTRY__USERNAME": "me", "CANFAR_REGISTRY__SECRET": "s", name: "with:colon"}
    with pytest.raises(errors.CredentialError, match="':'") as caught:
        look(token="t0", env=env)
    assert "with:colon" not in str(caught.value)


# -- opening ----------------------------------------------------------------------------------------------------------


def test_repr_of_a_platform_shows_address_user_and_expiry(home):
    token = jwt(exp=4_000_000_000)
    with open_platform(OTHER, token=token, env={}, home=home) as platform:
        assert repr(platform) == (
            f"<RestPlatform {OTHER} user=not known yet, the token passed until 2096-10-02 07:06 UTC>"
        )
        assert platform.url == OTHER
        assert platform.user is None


@pytest.mark.parametrize(("url", "env"), [("local", {}), (None, {"CANFAR_URL": "local"})])
def test_local_is_not_an_address(url, env, home):
    with pytest.raises(errors.AddressError, match=r"Session\.connect"):
        open_platform(url, token="t", env=env, home=home)


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_timeout_must_be_positive(timeout, home):
    with pytest.raises(ValueError, match="timeout"):
        open_platform(OTHER, token="t", env={}, home=home, timeout=timeout)
