"""A saved OIDC login: an access token, renewed at its login server by a refresh token."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol
from urllib.parse import urlencode

import attrs
import urllib3

from canfar_batch.errors import CredentialError, CredentialExpired, CredentialMissing, NotSent, PlatformError
from canfar_batch.rest.addresses import is_confidential, origin
from canfar_batch.rest.canfar_login import Entry, branch, load_config, lock_config, replace_config
from canfar_batch.rest.connections import Connections
from canfar_batch.rest.credentials import (
    Credential,
    Now,
    Stamp,
    clean_token,
    file_stamp,
    path_text,
    refuse_expired,
    time_from_epoch,
    token_expiry,
    utc_now,
    warn_if_readable_by_others,
)
from canfar_batch.rest.exchange import MIB, Bounds, exchange
from canfar_batch.rest.redaction import Secrets

log = logging.getLogger("canfar_batch.rest")


class PostForm(Protocol):
    """Sends a form to a login server."""

    def __call__(self, url: str, form: Mapping[str, str], *, auth: tuple[str, str] | None) -> tuple[int, bytes]:
        """Return status and body of the answer to *form*, sent with HTTP Basic *auth* or without.

        Raises:
            NotSent: No answer came.
        """


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
        self._filed: str | None = None  #: the refresh token in the file; older than ours if it could not be written
        self.source = f"login {entry.name!r} in {path_text(file, home)}"
        self.remedy = f"Log in again with `canfar login {entry.name}`."
        self._tokens = self._read()
        warn_if_readable_by_others(self._file)
        if not self._is_good(self._tokens, refused=None):
            self._check_refresh(self._tokens)

    @property
    def expires_at(self) -> datetime | None:
        """The time after which the login can no longer be renewed; None if the login server did not give it."""
        tokens = self._tokens
        return tokens.refresh_ends if tokens.refresh else tokens.access_ends

    def current(self) -> Credential:
        """Return the access token, renewed if it is about to end."""
        return self._access(refused=None)

    def renew(self, refused: Credential) -> Credential | None:
        """Return another access token: one that another program got, or a new one."""
        return self._access(refused=refused.token)

    def _access(self, refused: str | None) -> Credential:
        with self._lock:
            if self._changed():
                self._tokens = self._read()
            if not self._is_good(self._tokens, refused):
                self._tokens = self._refresh(refused)
            return Credential(token=self._tokens.access)

    def _is_good(self, tokens: Tokens, refused: str | None) -> bool:
        soon = self._now() + timedelta(seconds=self.leeway)
        return (
            bool(tokens.access) and tokens.access != refused and (not tokens.access_ends or tokens.access_ends > soon)
        )

    # -- renewing --

    def _refresh(self, refused: str | None) -> Tokens:
        """Return new tokens, from the login server or from a program that asked it before us."""
        with lock_config(self._file, self._lock_timeout):
            if self._changed():
                self._tokens = self._read()
                if self._is_good(self._tokens, refused):
                    return self._tokens
            old = self._tokens
            self._check_refresh(old)
            status, body = self._request(old)
            if status != 200:
                return self._refused(refused, status, body)
            new = self._renewed(old, body)
            if new.refresh != old.refresh:
                new = self._write_back(new)
            return new

    def _check_refresh(self, tokens: Tokens) -> None:
        if not tokens.refresh:
            raise CredentialExpired(f"{self.source} has expired and cannot be renewed. {self.remedy}")
        if tokens.refresh_ends is not None and tokens.refresh_ends <= self._now():
            refuse_expired(self, self._now())

    def _request(self, tokens: Tokens) -> tuple[int, bytes]:
        if not is_confidential(origin(tokens.endpoint)):
            raise CredentialError(
                f"{self.source} would be renewed at {tokens.endpoint}, which is not https. {self.remedy}"
            )
        form = {"grant_type": "refresh_token", "refresh_token": tokens.refresh or ""}
        identity, secret = tokens.client
        if not secret:  # a public client names itself in the form (RFC 6749, 3.2.1)
            return self._post(tokens.endpoint, {**form, "client_id": identity}, auth=None)
        return self._post(tokens.endpoint, form, auth=(identity, secret))

    def _refused(self, refused: str | None, status: int, body: bytes) -> Tokens:
        """Return the tokens of a program that ignores the lock and spent our refresh token first, or raise."""
        if self._changed():
            tokens = self._read()
            if self._is_good(tokens, refused):
                return tokens
        text = self._secrets.redact(body[:500].decode("utf-8", "replace")).strip()
        if 400 <= status < 500 and status not in (408, 429):
            raise CredentialExpired(f"{self.source} cannot be renewed: {text} (status {status}). {self.remedy}")
        raise NotSent(f"The login server could not renew {self.source}: {text}", status=status, server_text=text)

    def _renewed(self, old: Tokens, body: bytes) -> Tokens:
        try:
            answer = json.loads(body)
            access = clean_token(answer["access_token"], "the login server's answer")
            refresh = clean_token(answer.get("refresh_token") or old.refresh or "", "the login server's answer")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, CredentialError):
            # the body may hold tokens: nothing of it is shown
            raise NotSent(f"The login server's answer to renewing {self.source} cannot be read", status=200) from None
        self._secrets.add(access)
        self._secrets.add(refresh)
        access_ends = self._after(answer.get("expires_in")) or time_from_epoch(answer.get("expires_at"))
        refresh_ends = old.refresh_ends
        if refresh != old.refresh:
            refresh_ends = self._after(answer.get("refresh_expires_in")) or token_expiry(refresh)
        return attrs.evolve(
            old,
            access=access,
            refresh=refresh,
            access_ends=access_ends or token_expiry(access),
            refresh_ends=refresh_ends,
        )

    def _after(self, seconds: object) -> datetime | None:
        # some servers say 0 for "never"
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or seconds <= 0:
            return None
        return time_from_epoch(self._now().timestamp() + seconds)

    def _write_back(self, new: Tokens) -> Tokens:
        """Put the rotated token into the file, unless the user has logged in again meanwhile: then use that login."""
        try:
            tree = load_config(self._file)
            record = branch(tree, *self._keys)
            if branch(record, "token").get("refresh") != self._filed:
                return self._read()
            record["token"].update(access=new.access, refresh=new.refresh)
            expiry = record.setdefault("expiry", {})
            for name, end in (("access", new.access_ends), ("refresh", new.refresh_ends)):
                expiry.pop(name, None)
                if end is not None:
                    expiry[name] = end.timestamp()
            replace_config(self._file, tree)
            self._stamp, self._filed = file_stamp(self._file), new.refresh
        except (OSError, CredentialError, TypeError, AttributeError) as error:
            log.warning("The renewed login could not be saved in %s (%s); this program goes on", self._file, error)
        return new

    # -- the file --

    def _changed(self) -> bool:
        try:
            return file_stamp(self._file) != self._stamp
        except OSError:
            return False  # removed, or out of reach for a moment: the tokens in memory are still good

    def _read(self) -> Tokens:
        try:
            stamp = file_stamp(self._file)
            record = branch(load_config(self._file), *self._keys)
        except CredentialError:  # before OSError, which it is too
            raise
        except OSError as error:
            raise CredentialMissing(f"{self.source} cannot be read: {error.strerror}. {self.remedy}") from error
        token, expiry, client = branch(record, "token"), branch(record, "expiry"), branch(record, "client")
        tokens = Tokens(
            access=self._clean(token.get("access")),
            refresh=self._clean(token.get("refresh")),
            access_ends=time_from_epoch(expiry.get("access")),
            refresh_ends=time_from_epoch(expiry.get("refresh")),
            endpoint=str(branch(record, "endpoints").get("token") or ""),
            client=(str(client.get("identity") or ""), str(client.get("secret") or "")),
        )
        for secret in (tokens.access, tokens.refresh, tokens.client[1]):
            self._secrets.add(secret or "")
        if not (tokens.access or tokens.refresh):
            raise CredentialMissing(f"{self.source} holds no token. {self.remedy}")
        self._stamp, self._filed = stamp, tokens.refresh
        return tokens

    def _clean(self, token: object) -> str | None:
        return clean_token(str(token), self.source) if token else None


def form_poster(*, user_agent: str, ca_bundle: str | None, timeout: float, secrets: Secrets) -> PostForm:
    """Return a function that posts a form to a login server.

    Args:
        user_agent: The name under which to ask.
        ca_bundle: A file or directory of certificate authorities, or None for the usual ones.
        timeout: The longest silence, in seconds; the whole exchange may take twice as long.
        secrets: What to mask in errors.
    """
    bounds = Bounds(connect=min(10.0, timeout), silence=timeout, total=2 * timeout, size=MIB, error_size=64 * 1024)

    def post(url: str, form: Mapping[str, str], *, auth: tuple[str, str] | None) -> tuple[int, bytes]:
        if not is_confidential(origin(url)):
            raise CredentialError(f"{origin(url)} is not https: the login would travel unencrypted")
        headers = {"User-Agent": user_agent, "Accept": "application/json"}
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        if auth is not None:
            headers |= urllib3.make_headers(basic_auth=":".join(auth))
        manager = Connections(url, ca_bundle).manager(None, fresh=True)
        body = urlencode(form).encode("ascii")
        try:
            answer = exchange(manager, "POST", url, body=body, headers=headers, bounds=bounds, secrets=secrets)
        except PlatformError as error:
            raise NotSent(f"The login could not be renewed: {error}") from error
        return answer.status, answer.body

    return post
