"""The official client's saved login, `~/.canfar/config.yaml`: its servers, its certificates, its OIDC tokens.

The file is another program's. It is only read, but for one case: where a refresh token is exchanged for the next, the
old one is dead, and leaving it in the file would log the other program out. Then the new one is written back.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import attrs

from canfar_batch.errors import AddressError, CredentialError, CredentialExpired, CredentialMissing, NotSent
from canfar_batch.rest.addresses import DEFAULT_URL, Origin, is_private, origin, platform_url
from canfar_batch.rest.credentials import (
    Credential,
    Now,
    Stamp,
    clean_token,
    file_stamp,
    moment,
    refuse_expired,
    shown,
    token_expiry,
    utc_now,
    warn_if_readable_by_others,
)
from canfar_batch.rest.redaction import Secrets

try:
    import fcntl
except ImportError:  # Windows: two programs that refresh at the same moment may then log one another out
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("canfar_batch.rest")

Tree = Mapping[str, Any]
Keys = tuple[str, ...]


class PostForm(Protocol):
    """Sends a form to a login server and gives back status and body. Raises `NotSent` where no answer came."""

    def __call__(self, url: str, form: Mapping[str, str], *, auth: tuple[str, str] | None) -> tuple[int, bytes]:
        """Status and body of the answer to *form*, sent with HTTP Basic *auth* or without."""


@attrs.frozen(kw_only=True)
class Entry:
    """One way to log in that the file holds."""

    name: str  #: what `canfar login` calls it
    mode: str  #: `x509` or `oidc`
    keys: Keys  #: where in the file it is
    path: str | None = None  #: of its certificate, for x509
    origins: frozenset[Origin] = frozenset()  #: of the servers that it is for, and that it may be shown to


@attrs.frozen(kw_only=True)
class SavedLogin:
    """What is of use to us in the file."""

    file: Path
    url: str | None  #: the active server
    entries: tuple[Entry, ...] = ()  #: the active one first
    registry: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    trouble: str | None = None  #: why nothing else is known, where the file could not be read

    @property
    def origins(self) -> frozenset[Origin]:
        """All servers that the file knows a login for."""
        return frozenset().union(*(entry.origins for entry in self.entries))


def read_login(home: Path, env: Mapping[str, str]) -> SavedLogin | None:
    """The saved login, or None where there is no such file. `CANFAR_ACTIVE__…` choose among its entries, as there."""
    file = home / ".canfar" / "config.yaml"
    try:
        tree = _load(file)
    except FileNotFoundError:
        return None
    except OSError as error:  # among them CredentialError
        log.warning("%s", error)
        return SavedLogin(file=file, url=None, trouble=str(error))
    registry = {name: str(value) for name, value in _branch(tree, "registry").items() if value is not None}
    read = _read_contexts if "contexts" in tree else _read_current
    url, entries = read(tree, env)
    return SavedLogin(file=file, url=url, entries=tuple(entries), registry=registry)


def _read_current(tree: Tree, env: Mapping[str, str]) -> tuple[str | None, list[Entry]]:
    """The layout of releases 1.4 and later."""
    active = _branch(tree, "active")
    idp = env.get("CANFAR_ACTIVE__AUTHENTICATION") or active.get("authentication") or "cadc"
    name = env.get("CANFAR_ACTIVE__SERVER") or active.get("server") or _branch(active, "servers").get(idp) or "canfar"
    servers = _branch(tree, "servers")
    entries = []
    for each in _branch(tree, "authentication"):
        # a server without a provider of its own goes with the active one
        mine = [server for key, server in servers.items() if _idp(server, idp if key == name else None) == each]
        entries.append(_entry(each, ("authentication", each), _branch(tree, "authentication", each), mine))
    url = _server_url(servers.get(name)) or (DEFAULT_URL if name == "canfar" else None)
    return url, sorted(entries, key=lambda entry: entry.name != idp)


def _read_contexts(tree: Tree, env: Mapping[str, str]) -> tuple[str | None, list[Entry]]:
    """The layout of releases up to 1.3."""
    contexts = _branch(tree, "contexts")
    entries = [
        _entry(each, ("contexts", each), _branch(contexts, each), [_branch(contexts, each, "server")])
        for each in contexts
    ]
    active = tree.get("active")
    url = _server_url(_branch(contexts, active, "server")) if isinstance(active, str) else None
    return url, sorted(entries, key=lambda entry: entry.name != active)


def _entry(name: str, keys: Keys, record: Tree, servers: list[Any]) -> Entry:
    urls = filter(None, map(_server_url, servers))
    path = record.get("path")
    return Entry(
        name=name,
        mode=str(record.get("mode")),
        keys=keys,
        path=str(path) if path else None,
        origins=frozenset(origin(url) for url in urls),
    )


def _idp(server: Any, default: str | None) -> object:
    return server.get("idp") or default if isinstance(server, dict) else None


def _server_url(server: Any) -> str | None:
    if not isinstance(server, dict) or not server.get("url"):
        return None
    version = str(server.get("version") or "").strip("/")
    url = str(server["url"]).rstrip("/").removesuffix(f"/{version}")
    try:
        return platform_url(f"{url}/{version}")
    except AddressError as error:
        log.warning("The saved login names a server that is not used: %s", error)
        return None


# -- OIDC -------------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Tokens:
    """An OIDC login as the file holds it, or as it was renewed since."""

    access: str | None = attrs.field(repr=False)
    refresh: str | None = attrs.field(repr=False)
    access_ends: datetime | None
    refresh_ends: datetime | None
    endpoint: str
    client: tuple[str, str] = attrs.field(repr=False)  #: identity and secret


class OidcLogin:
    """A saved OIDC login: an access token, renewed by its refresh token."""

    #: seconds before its end at which a token is renewed, so that it does not end on the way
    leeway = 30.0

    def __init__(
        self,
        file: Path,
        entry: Entry,
        *,
        post: PostForm,
        secrets: Secrets,
        home: Path | None = None,
        now: Now = utc_now,
        lock_timeout: float = 60.0,
    ) -> None:
        self._file, self._keys = file.resolve(), entry.keys
        self._post, self._secrets, self._now, self._lock_timeout = post, secrets, now, lock_timeout
        self._lock = threading.Lock()
        self._stamp: Stamp | None = None
        self._filed: str | None = None  #: the refresh token in the file, older than ours where it could not be written
        self.source = f"login {entry.name!r} in {shown(file, home)}"
        self.mend = f"Log in again with `canfar login {entry.name}`."
        self._tokens = self._read()
        warn_if_readable_by_others(self._file)
        if not self._good(self._tokens, refused=None):
            self._check_refresh(self._tokens)

    @property
    def expires_at(self) -> datetime | None:
        """When the login can no longer be renewed; None where the login server did not say."""
        tokens = self._tokens
        return tokens.refresh_ends if tokens.refresh else tokens.access_ends

    def current(self) -> Credential:
        """The access token, renewed if it is about to end."""
        return self._access(refused=None)

    def renew(self, refused: Credential) -> Credential | None:
        """Another access token: another program's, or a new one."""
        return self._access(refused=refused.token)

    def _access(self, refused: str | None) -> Credential:
        with self._lock:
            if self._changed():
                self._tokens = self._read()
            if not self._good(self._tokens, refused):
                self._tokens = self._refresh(refused)
            return Credential(token=self._tokens.access)

    def _good(self, tokens: Tokens, refused: str | None) -> bool:
        soon = self._now() + timedelta(seconds=self.leeway)
        return (
            bool(tokens.access) and tokens.access != refused and (not tokens.access_ends or tokens.access_ends > soon)
        )

    def _refresh(self, refused: str | None) -> Tokens:
        """New tokens, from the login server or from whoever asked it before us."""
        with _locked(self._file, self._lock_timeout):
            if self._changed():
                self._tokens = self._read()
                if self._good(self._tokens, refused):
                    return self._tokens
            old = self._tokens
            self._check_refresh(old)
            status, body = self._ask(old)
            if status != 200:
                return self._refused(refused, status, body)
            new = self._renewed(old, body)
            if new.refresh != old.refresh:
                new = self._write_back(new)
            return new

    def _check_refresh(self, tokens: Tokens) -> None:
        if not tokens.refresh:
            raise CredentialExpired(f"{self.source} has ended and cannot be renewed. {self.mend}")
        if tokens.refresh_ends is not None and tokens.refresh_ends <= self._now():
            refuse_expired(self, self._now())

    def _ask(self, tokens: Tokens) -> tuple[int, bytes]:
        if not is_private(origin(tokens.endpoint)):
            raise CredentialError(
                f"{self.source} would be renewed at {tokens.endpoint}, which is not https. {self.mend}"
            )
        form = {"grant_type": "refresh_token", "refresh_token": tokens.refresh or ""}
        identity, secret = tokens.client
        if not secret:  # a public client says who it is in the form (RFC 6749, 3.2.1)
            return self._post(tokens.endpoint, {**form, "client_id": identity}, auth=None)
        return self._post(tokens.endpoint, form, auth=(identity, secret))

    def _refused(self, refused: str | None, status: int, body: bytes) -> Tokens:
        """What to make of a refusal: another program that knows no lock may have spent our refresh token."""
        if self._changed():
            tokens = self._read()
            if self._good(tokens, refused):
                return tokens
        words = self._secrets.redact(body[:500].decode("utf-8", "replace")).strip()
        if 400 <= status < 500 and status not in (408, 429):
            raise CredentialExpired(f"{self.source} cannot be renewed: {words} (status {status}). {self.mend}")
        raise NotSent(f"The login server could not renew {self.source}: {words}", status=status, words=words)

    def _renewed(self, old: Tokens, body: bytes) -> Tokens:
        try:
            answer = json.loads(body)
            access = clean_token(answer["access_token"], "the login server's answer")
            refresh = clean_token(answer.get("refresh_token") or old.refresh or "", "the login server's answer")
        except (ValueError, LookupError, TypeError, AttributeError, CredentialError):
            # the body may hold tokens: nothing of it is shown
            raise NotSent(f"The login server's answer to renewing {self.source} cannot be read", status=200) from None
        self._secrets.add(access)
        self._secrets.add(refresh)
        rotated = refresh != old.refresh
        return attrs.evolve(
            old,
            access=access,
            refresh=refresh,
            access_ends=self._after(answer.get("expires_in"))
            or moment(answer.get("expires_at"))
            or token_expiry(access),
            refresh_ends=self._after(answer.get("refresh_expires_in")) or token_expiry(refresh)
            if rotated
            else old.refresh_ends,
        )

    def _after(self, seconds: object) -> datetime | None:
        # 0 is how some servers say "never"
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or seconds <= 0:
            return None
        return moment(self._now().timestamp() + seconds)

    def _write_back(self, new: Tokens) -> Tokens:
        """Put the rotated token into the file, unless somebody logged in anew meanwhile: then theirs is taken."""
        try:
            tree = _load(self._file)
            record = _branch(tree, *self._keys)
            if _branch(record, "token").get("refresh") != self._filed:
                return self._read()
            record["token"].update(access=new.access, refresh=new.refresh)
            expiry = record.setdefault("expiry", {})
            for name, end in (("access", new.access_ends), ("refresh", new.refresh_ends)):
                expiry.pop(name, None)
                if end is not None:
                    expiry[name] = end.timestamp()
            _replace(self._file, tree)
            self._stamp, self._filed = file_stamp(self._file), new.refresh
        except (OSError, CredentialError, TypeError, AttributeError) as error:
            log.warning("The renewed login could not be saved in %s (%s); this program goes on", self._file, error)
        return new

    # -- the file --

    def _changed(self) -> bool:
        try:
            return file_stamp(self._file) != self._stamp
        except OSError:
            return False  # gone, or out of reach for a moment: what is known is still good

    def _read(self) -> Tokens:
        try:
            stamp = file_stamp(self._file)
            record = _branch(_load(self._file), *self._keys)
        except CredentialError:  # before OSError, which it is too
            raise
        except OSError as error:
            raise CredentialMissing(f"{self.source} cannot be read: {error.strerror}. {self.mend}") from error
        token, expiry, client = _branch(record, "token"), _branch(record, "expiry"), _branch(record, "client")
        tokens = Tokens(
            access=self._clean(token.get("access")),
            refresh=self._clean(token.get("refresh")),
            access_ends=moment(expiry.get("access")),
            refresh_ends=moment(expiry.get("refresh")),
            endpoint=str(_branch(record, "endpoints").get("token") or ""),
            client=(str(client.get("identity") or ""), str(client.get("secret") or "")),
        )
        for secret in (tokens.access, tokens.refresh, tokens.client[1]):
            self._secrets.add(secret or "")
        if not (tokens.access or tokens.refresh):
            raise CredentialMissing(f"{self.source} holds no token. {self.mend}")
        self._stamp, self._filed = stamp, tokens.refresh
        return tokens

    def _clean(self, token: object) -> str | None:
        return clean_token(str(token), self.source) if token else None


# -- the file's text --------------------------------------------------------------------------------------------------


def _load(file: Path) -> dict[str, Any]:
    """What the file holds.

    Raises:
        CredentialError: It cannot be read; the message says why, and quotes nothing of it.
    """
    text = file.read_bytes()
    try:
        import yaml  # the extra `canfar` brings it; most users need no saved login
    except ImportError:
        raise CredentialMissing(f"{file} needs PyYAML to be read: pip install PyYAML") from None
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        tree = None  # the complaint would quote the line, and with it perhaps a token
    if not isinstance(tree, dict):
        raise CredentialError(f"{file} is not a configuration of the official client; `canfar login` makes a new one")
    return tree


def _replace(file: Path, tree: Tree) -> None:
    import yaml

    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # created with mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            yaml.safe_dump(tree, out, sort_keys=False, allow_unicode=True)
            out.flush()
            os.fsync(out.fileno())
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _locked(file: Path, timeout: float, sleep: Callable[[float], None] = time.sleep) -> Iterator[None]:
    """Hold a lock beside *file*, so that of all our programs one refreshes and the others read what it wrote.

    A lock that cannot be had in *timeout* seconds is done without: better two refreshes than none.
    """
    try:
        handle = os.open(file.with_name(f"{file.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        yield  # a home that cannot be written holds no lock, and will not be written either
        return
    try:
        last = time.monotonic() + timeout
        while fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= last:
                    log.warning("The lock beside %s was not free in %g s; going on without it", file, timeout)
                    break
            sleep(0.05)
        yield
    finally:
        os.close(handle)


def _branch(tree: Any, *keys: str) -> dict[str, Any]:
    """The mapping at *keys*, or an empty one."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree if isinstance(tree, dict) else {}
