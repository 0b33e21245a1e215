"""The kinds of credential: when each expires, and how each is renewed.

A provider is asked before every request, so that a replaced certificate or a changed variable needs no restart.
Where credentials are looked for, and to which platform each may be shown, is in `discovery.py`.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
import re
import stat
import threading
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Protocol

import attrs

from canfar_batch.errors import CredentialError, CredentialExpired, CredentialMissing
from canfar_batch.rest.certificates import has_private_key, pem_expiry
from canfar_batch.rest.redaction import Secrets

log = logging.getLogger("canfar_batch.rest")

Now = Callable[[], datetime]
Stamp = tuple[int, int, int]  # modification time in ns, size, inode: differs once a file was replaced


def utc_now() -> datetime:
    """Return the present time, UTC."""
    return datetime.now(timezone.utc)


@attrs.frozen
class PemFile:
    """A certificate file as it was at one moment."""

    path: Path
    stamp: Stamp


@attrs.frozen(kw_only=True)
class Credential:
    """A token or a certificate, as one request shows it."""

    token: str | None = attrs.field(default=None, repr=False)
    certificate: PemFile | None = None


class Provider(Protocol):
    """Gives the credential for each request, and renews it if possible. Safe to call from many threads."""

    @property
    def source(self) -> str:
        """The place the credential is from, for a person: `certificate ~/.ssl/cadcproxy.pem`."""

    @property
    def remedy(self) -> str:
        """What to do when the credential is no longer good, as a sentence."""

    @property
    def expires_at(self) -> datetime | None:
        """The time at which the credential expires, as last read; None if unknown."""

    def current(self) -> Credential:
        """Return the credential to show now.

        Raises:
            CredentialError: It has expired or vanished.
            NotSent: It has to be renewed, and the login server cannot be reached.
        """

    def renew(self, refused: Credential) -> Credential | None:
        """Return another credential, as the platform has refused this one; None if there is none.

        Raises the same errors as `current`.
        """


class Token:
    """A bearer token from an argument or the environment, read again for each request."""

    def __init__(
        self, read: Callable[[], str | None], *, source: str, remedy: str, secrets: Secrets, now: Now = utc_now
    ) -> None:
        self._read, self._secrets, self._now = read, secrets, now
        self.source = source
        self.remedy = remedy
        self.expires_at: datetime | None = None
        self.current()

    def current(self) -> Credential:
        """Return the token as it is now."""
        text = self._read()
        if not text:
            raise CredentialMissing(f"{self.source} is no longer set. {self.remedy}")
        token = clean_token(text, self.source)
        self._secrets.add(token)
        self.expires_at = token_expiry(token)
        refuse_expired(self, self._now())
        return Credential(token=token)

    def renew(self, refused: Credential) -> Credential | None:
        """Return the token if it has changed since it was refused."""
        fresh = self.current()
        return None if fresh == refused else fresh


class Certificate:
    """An X.509 certificate and its key in one PEM file, which is checked before each request."""

    def __init__(self, path: Path, *, remedy: str, home: Path | None = None, now: Now = utc_now) -> None:
        self._path, self._now = path, now
        self._lock = threading.Lock()
        self._seen: Credential | None = None
        self.source = f"certificate {path_text(path, home)}"
        self.remedy = remedy
        self.expires_at: datetime | None = None
        self.current()

    def current(self) -> Credential:
        """Return the certificate as it is on disk now."""
        with self._lock:
            try:
                stamp = file_stamp(self._path)
                found = Credential(certificate=PemFile(self._path, stamp))
                pem = None if found == self._seen else self._path.read_bytes()
            except OSError as error:
                raise CredentialMissing(f"{self.source} cannot be read: {error.strerror}. {self.remedy}") from error
            if pem is not None:
                self._take(found, pem)
            seen = self._seen
        assert seen is not None
        refuse_expired(self, self._now())
        return seen

    def renew(self, refused: Credential) -> Credential | None:
        """Return the certificate if it was replaced since it was refused."""
        fresh = self.current()
        return None if fresh == refused else fresh

    def _take(self, found: Credential, pem: bytes) -> None:
        """Use the file's new content, or go on with the old one if the new one is half-written."""
        try:
            end = self._end(pem)
        except CredentialError:
            if self._seen is None or self.expires_at is None or self.expires_at <= self._now():
                raise
            return
        self.expires_at, self._seen = end, found
        warn_if_readable_by_others(self._path)

    def _end(self, pem: bytes) -> datetime:
        if not has_private_key(pem):
            raise CredentialError(f"{self.source} holds no private key, without which it cannot be used. {self.remedy}")
        try:
            return pem_expiry(pem)
        except ValueError as error:
            raise CredentialError(f"{self.source} cannot be used: {error}. {self.remedy}") from error


# -- helpers ----------------------------------------------------------------------------------------------------------


def clean_token(text: str, source: str) -> str:
    """Return the token in *text*, without the blanks or the word `Bearer` that people paste along.

    Raises:
        CredentialError: It cannot be a token; the HTTP library would quote such a text in its complaint.
    """
    token = re.sub(r"(?i)^\s*(authorization:\s*)?bearer\s+", "", text).strip()
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise CredentialError(f"{source} is not a token: it holds blanks or letters that tokens do not have")
    return token


def token_expiry(token: str) -> datetime | None:
    """Return when *token* expires, if it says so: a JWT by `exp`, a CADC token by `expirytime`."""
    parts = token.split(".")
    try:
        if len(parts) == 3:
            claims = json.loads(_unbase64(parts[1]))
            return time_from_epoch(claims.get("exp")) if isinstance(claims, dict) else None
        stated = re.search(rb"(?:^|&)expirytime=(\d{1,16})(?:&|$)", _unbase64(token))
        return time_from_epoch(int(stated[1]) / 1000) if stated else None
    except (ValueError, RecursionError):
        return None


def time_from_epoch(seconds: object) -> datetime | None:
    """Return the time *seconds* after the beginning of 1970, UTC; None if it is not a number or out of range."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        return None
    try:
        return datetime.fromtimestamp(seconds, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return None


def refuse_expired(provider: Provider, now: datetime) -> None:
    """Raise `CredentialExpired` if the provider's credential has expired."""
    end = provider.expires_at
    if end is not None and end <= now:
        raise CredentialExpired(
            f"{provider.source} expired at {time_text(end)} (this machine's clock shows {time_text(now)})."
            f" {provider.remedy}"
        )


def time_text(time: datetime) -> str:
    """Return a time in words for a person, UTC."""
    return f"{time.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"


def file_stamp(path: Path) -> Stamp:
    """Return what changes when the file is replaced."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def warn_if_readable_by_others(path: Path) -> None:
    """Log a warning if other users of this machine can read a file of secrets."""
    if os.name == "posix" and path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        log.warning("%s can be read by others on this machine; `chmod 600` prevents that", path)


def path_text(path: Path, home: Path | None) -> str:
    """Return *path* with `~` for the home directory."""
    if home is not None and path.is_relative_to(home):
        return f"~/{path.relative_to(home).as_posix()}"
    return str(path)


def _unbase64(text: str) -> bytes:
    text = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError("this is not base64") from error
