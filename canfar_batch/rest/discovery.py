"""Finding the platform, and a credential that may be shown to it.

A credential belongs somewhere. One that is given (an argument, an environment variable) belongs to the platform given
with it; a saved one to the platform that it was saved for: the official client's logins to the servers that its file
names for them, `~/.ssl/cadcproxy.pem` to the hosts of CANFAR and the CADC. So the address is settled first; then each
place is searched for a credential that may be shown there. Those that may not are named in the message if no other is
found.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import attrs

from canfar_batch.errors import CredentialError, CredentialMissing
from canfar_batch.rest.addresses import DEFAULT_URL, is_official, origin, platform_url
from canfar_batch.rest.canfar_login import SavedLogin, read_login
from canfar_batch.rest.credentials import Certificate, Now, Provider, Token, utc_now
from canfar_batch.rest.oidc import OidcLogin, PostForm
from canfar_batch.rest.redaction import Secrets


@attrs.frozen(kw_only=True)
class Registry:
    """The user's account at the registry of private images."""

    username: str
    secret: str = attrs.field(repr=False)
    host: str | None = None  #: None if the secret is not for one registry alone


@attrs.frozen(kw_only=True)
class Access:
    """The platform's address, and the credentials to use there."""

    url: str
    provider: Provider
    registry: Registry | None = None


@attrs.frozen(kw_only=True)
class _Places:
    """The places on the user's machine in which credentials are looked for."""

    env: Mapping[str, str]
    home: Path
    post: PostForm
    secrets: Secrets
    now: Now
    notes: list[str] = attrs.field(factory=list)  #: credentials that were found and not used, and why

    def token(self, read: Callable[[], str | None], *, source: str, remedy: str) -> Token:
        return Token(read, source=source, remedy=remedy, secrets=self.secrets, now=self.now)

    def certificate(self, path: str | os.PathLike[str], remedy: str) -> Certificate:
        text = os.fspath(path)
        full = self.home / text[2:] if text.startswith("~/") else Path(text).absolute()
        return Certificate(full, remedy=remedy, home=self.home, now=self.now)


def find(
    *,
    url: str | None = None,
    token: str | None = None,
    certificate: str | os.PathLike[str] | None = None,
    env: Mapping[str, str],
    home: Path,
    post: PostForm,
    secrets: Secrets,
    url_is_users: bool = True,
    now: Now = utc_now,
) -> Access:
    """Return the platform and the credential to use there: arguments, environment, saved login, default certificate.

    Args:
        url: The platform's address; else `CANFAR_URL`, else the saved login's, else CANFAR's own.
        token: A bearer token; wins over a certificate.
        certificate: The path of a PEM file with a certificate and its key.
        env: The environment.
        home: The user's home directory.
        post: Sends a form to a login server.
        secrets: Every secret that is read is added here.
        url_is_users: False if *url* is from a file of data, such as a ledger, which anyone may have written. Then a
            variable without `CANFAR_URL` is for CANFAR's own hosts alone.
        now: The clock.

    Raises:
        CredentialMissing: No place has a credential that may be shown to this platform.
        CredentialExpired: The one that was found has expired.
        AddressError: Credentials may not be sent to the address.
    """
    places = _Places(env=env, home=home, post=post, secrets=secrets, now=now)
    login = read_login(home, env)
    address = url or env.get("CANFAR_URL")
    base = platform_url(address) if address else None
    provider = _from_arguments(places, token, certificate)
    if provider is None:
        provider = _from_environment(places, base, given=bool(url), users=url_is_users)
    if provider is None:
        base = base or (login.url if login else None) or DEFAULT_URL
        provider = _saved(places, base, login)
    base = base or DEFAULT_URL
    return Access(url=base, provider=provider, registry=_registry(places, base, login))


def _from_arguments(places: _Places, token: str | None, certificate: str | os.PathLike[str] | None) -> Provider | None:
    if token is not None:
        return places.token(lambda: token, source="the token passed", remedy="Pass a new token.")
    if certificate is not None:
        return places.certificate(certificate, "Get a new one with `cadc-get-cert -u <user>` or `canfar login`.")
    return None


def _from_environment(places: _Places, base: str | None, *, given: bool, users: bool) -> Provider | None:
    env = places.env
    name = "CANFAR_TOKEN" if env.get("CANFAR_TOKEN") else "CANFAR_CERTIFICATE"
    if not env.get(name):
        return None
    if given and base and (reason := _why_not_here(env, base, users=users)):
        places.notes.append(f"{name} {reason}")
        return None
    if name == "CANFAR_TOKEN":
        remedy = "Set CANFAR_TOKEN to a new token."
        return places.token(lambda: env.get("CANFAR_TOKEN"), source="CANFAR_TOKEN", remedy=remedy)
    remedy = "Get a new one with `cadc-get-cert -u <user>` or `canfar login`, and let CANFAR_CERTIFICATE name it."
    return places.certificate(env[name], remedy)


def _why_not_here(env: Mapping[str, str], base: str, *, users: bool) -> str | None:
    """Return why the environment's credential may not be shown to *base*; None if it may."""
    if env.get("CANFAR_URL"):
        same = origin(platform_url(env["CANFAR_URL"])) == origin(base)
        return None if same else "goes with CANFAR_URL, which is another platform"
    if users or is_official(origin(base)):
        return None
    return f"is for CANFAR's own hosts, as CANFAR_URL is not set (CANFAR_URL={base} would allow {origin(base)})"


def _saved(places: _Places, base: str, login: SavedLogin | None) -> Provider:
    """Return the first saved credential for this platform that is still good."""
    complaints: list[CredentialError] = []
    for make in [*_logins(places, base, login), *_default_certificate(places, base)]:
        provider = _good(make, complaints)
        if provider is not None:
            return provider
    if complaints:
        raise complaints[0]
    raise CredentialMissing(
        f"No credential for {origin(base)} was found. Log in with `canfar login`, get a certificate with"
        " `cadc-get-cert -u <user>`, or set CANFAR_TOKEN or CANFAR_CERTIFICATE."
        " CANFAR_URL=local needs none, and runs jobs on this machine."
        + "".join(f" Not used: {note}." for note in places.notes)
    )


def _good(make: Callable[[], Provider], complaints: list[CredentialError]) -> Provider | None:
    try:
        return make()
    except CredentialError as error:
        complaints.append(error)
        return None


def _logins(places: _Places, base: str, login: SavedLogin | None) -> list[Callable[[], Provider]]:
    makers: list[Callable[[], Provider]] = []
    if login is None:
        return makers
    if login.trouble:
        places.notes.append(login.trouble)
    for entry in login.entries:
        if origin(base) not in entry.origins:
            servers = ", ".join(sorted(map(str, entry.origins))) or "no server"
            places.notes.append(f"the saved login {entry.name!r} is for {servers}")
        elif entry.mode == "oidc":
            makers.append(
                partial(
                    OidcLogin,
                    login.file,
                    entry,
                    post=places.post,
                    secrets=places.secrets,
                    home=places.home,
                    now=places.now,
                )
            )
        elif entry.path:
            remedy = f"Get a new one with `canfar login {entry.name}` or `cadc-get-cert -u <user>`."
            makers.append(partial(places.certificate, entry.path, remedy))
    return makers


def _default_certificate(places: _Places, base: str) -> list[Callable[[], Provider]]:
    path = places.home / ".ssl" / "cadcproxy.pem"
    if not path.exists():
        return []
    if not is_official(origin(base)):
        places.notes.append("~/.ssl/cadcproxy.pem is for CANFAR's own hosts (`certificate=` would show it here too)")
        return []
    return [partial(places.certificate, path, "Get a new one with `cadc-get-cert -u <user>` or `canfar login cadc`.")]


def _registry(places: _Places, base: str, login: SavedLogin | None) -> Registry | None:
    """Return the user's account at the image registry: from the environment, else as saved for this platform."""
    saved: Mapping[str, str] = {}
    if login is not None and (is_official(origin(base)) or origin(base) in login.origins):
        saved = login.registry

    def value(name: str) -> str:
        return (places.env.get(f"CANFAR_REGISTRY__{name.upper()}") or saved.get(name) or "").strip()

    username, secret, url = value("username"), value("secret"), value("url")
    if not (username and secret):
        return None
    places.secrets.add(secret)
    if ":" in username or ":" in secret:
        raise CredentialError(
            "The image registry's user name or secret holds a ':', which the platform takes for the separator of the"
            " two. Make another secret in the registry's web page (for a robot account: regenerate it)."
        )
    return Registry(username=username, secret=secret, host=url.partition("://")[2].strip("/") or url or None)
