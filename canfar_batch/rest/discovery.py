"""Finding the platform and a credential that may be shown to it.

A credential belongs somewhere. One that is given (an argument, an environment variable) belongs to the platform given
with it; one that was saved, to where it was saved for: the official client's logins to the servers that its file names
for them, `~/.ssl/cadcproxy.pem` to the hosts of CANFAR and the CADC. So the address is settled first, and then each
place is asked for what may be shown there; what may not is named in the message if nothing else is found.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import attrs

from canfar_batch.errors import CredentialError, CredentialMissing
from canfar_batch.rest.addresses import DEFAULT_URL, is_official, origin, platform_url
from canfar_batch.rest.canfar_login import OidcLogin, PostForm, SavedLogin, read_login
from canfar_batch.rest.credentials import Certificate, Now, Provider, Token, utc_now
from canfar_batch.rest.redaction import Secrets


@attrs.frozen(kw_only=True)
class Registry:
    """Who we are at the registry of private images."""

    username: str
    secret: str = attrs.field(repr=False)
    host: str | None = None  #: None where the secret is not for one registry alone


@attrs.frozen(kw_only=True)
class Found:
    """Where to go, and as whom."""

    url: str
    provider: Provider
    registry: Registry | None = None


@attrs.frozen(kw_only=True)
class _Places:
    """The user's machine, as far as it is looked at."""

    env: Mapping[str, str]
    home: Path
    post: PostForm
    secrets: Secrets
    now: Now
    notes: list[str] = attrs.field(factory=list)  #: what was found and not used, and why

    def token(self, read: Callable[[], str | None], *, source: str, mend: str) -> Token:
        return Token(read, source=source, mend=mend, secrets=self.secrets, now=self.now)

    def certificate(self, path: str | os.PathLike[str], mend: str) -> Certificate:
        text = os.fspath(path)
        full = self.home / text[2:] if text.startswith("~/") else Path(text).absolute()
        return Certificate(full, mend=mend, home=self.home, now=self.now)


def find(
    *,
    url: str | None = None,
    token: str | None = None,
    certificate: str | os.PathLike[str] | None = None,
    env: Mapping[str, str],
    home: Path,
    post: PostForm,
    secrets: Secrets,
    now: Now = utc_now,
) -> Found:
    """The platform, and the credential to use there: arguments, environment, saved login, default certificate.

    Args:
        url: The platform's address; else `CANFAR_URL`, else the saved login's, else CANFAR's own.
        token: A bearer token; wins over a certificate.
        certificate: The path of a PEM file with a certificate and its key.
        env: The environment.
        home: The user's home directory.
        post: How a login server is asked.
        secrets: Takes note of every secret that is read.
        now: The clock.

    Raises:
        CredentialMissing: No place has one that may be shown to this platform.
        CredentialExpired: The one that was found is over.
        AddressError: The address is none that credentials may be sent to.
    """
    places = _Places(env=env, home=home, post=post, secrets=secrets, now=now)
    login = read_login(home, env)
    address = url or env.get("CANFAR_URL")
    base = platform_url(address) if address else None
    provider = _from_arguments(places, token, certificate) or _from_environment(places, base, asked=bool(url))
    if provider is None:
        base = base or (login.url if login else None) or DEFAULT_URL
        provider = _saved(places, base, login)
    base = base or DEFAULT_URL
    return Found(url=base, provider=provider, registry=_registry(places, base, login))


def _from_arguments(places: _Places, token: str | None, certificate: str | os.PathLike[str] | None) -> Provider | None:
    if token is not None:
        return places.token(lambda: token, source="the token passed", mend="Pass a new token.")
    if certificate is not None:
        return places.certificate(certificate, "Get a new one with `cadc-get-cert -u <user>` or `canfar login`.")
    return None


def _from_environment(places: _Places, base: str | None, *, asked: bool) -> Provider | None:
    env = places.env
    name = "CANFAR_TOKEN" if env.get("CANFAR_TOKEN") else "CANFAR_CERTIFICATE"
    if not env.get(name):
        return None
    if asked and base and env.get("CANFAR_URL") and origin(platform_url(env["CANFAR_URL"])) != origin(base):
        places.notes.append(f"{name} goes with CANFAR_URL, which is another platform")
        return None
    if name == "CANFAR_TOKEN":
        mend = "Set CANFAR_TOKEN to a new token."
        return places.token(lambda: env.get("CANFAR_TOKEN"), source="CANFAR_TOKEN", mend=mend)
    mend = "Get a new one with `cadc-get-cert -u <user>` or `canfar login`, and let CANFAR_CERTIFICATE name it."
    return places.certificate(env[name], mend)


def _saved(places: _Places, base: str, login: SavedLogin | None) -> Provider:
    """The first saved credential for this platform that is still good."""
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
            mend = f"Get a new one with `canfar login {entry.name}` or `cadc-get-cert -u <user>`."
            makers.append(partial(places.certificate, entry.path, mend))
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
    """The user and secret of the image registry: from the environment, and for the rest as saved for this platform."""
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
            "The image registry's user name or secret holds a ':', which the platform cannot tell from the one between"
            " them. Make another secret in the registry's web page (for a robot account: regenerate it)."
        )
    return Registry(username=username, secret=secret, host=url.partition("://")[2].strip("/") or url or None)
