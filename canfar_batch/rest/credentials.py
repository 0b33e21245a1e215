"""Who we are: the kinds of credential, when each ends, and how each is renewed.

A provider is asked before every request, so that a certificate that was replaced, or a variable that was set anew, is
picked up without a restart. Where credentials are looked for, and to whom each may be shown, is in `finding.py`.
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
    """The time of day."""
    return datetime.now(timezone.utc)


@attrs.frozen
class PemFile:
    """A certificate file as it was at one moment."""

    path: Path
    stamp: Stamp


@attrs.frozen(kw_only=True)
class Credential:
    """What one request shows: a token or a certificate."""

    token: str | None = attrs.field(default=None, repr=False)
    certificate: PemFile | None = None


class Provider(Protocol):
    """Gives the credential for each request, and a new one where there is one. Safe to call from many threads."""

    @property
    def source(self) -> str:
        """Where the credential is from, for a person: `certificate ~/.ssl/cadcproxy.pem`."""

    @property
    def mend(self) -> str:
        """What to do when it is no longer good, as a sentence."""

    @property
    def expires_at(self) -> datetime | None:
        """When it ends, as last heard; None where that cannot be known."""

    def current(self) -> Credential:
        """What to show now.

        Raises:
            CredentialError: It has expired or vanished.
            NotSent: It has to be renewed, and who renews it cannot be reached.
        """

    def renew(self, refused: Credential) -> Credential | None:
        """Another one, now that the platform has refused this; None where there is none. Raises as `current` does."""


class Token:
    """A bearer token from an argument or from the environment, read anew for each request."""

    def __init__(
        self, read: Callable[[], str | None], *, source: str, mend: str, secrets: Secrets, now: Now = utc_now
    ) -> None:
        self._read, self._secrets, self._now = read, secrets, now
        self.source = source
        self.mend = mend
        self.expires_at: datetime | None = None
        self.current()

    def current(self) -> Credential:
        """The token as it is now."""
        text = self._read()
        if not text:
            raise CredentialMissing(f"{self.source} is gone. {self.mend}")
        token = clean_token(text, self.source)
        self._secrets.add(token)
        self.expires_at = token_expiry(token)
        refuse_expired(self, self._now())
        return Credential(token=token)

    def renew(self, refused: Credential) -> Credential | None:
        """The token, if it was exchanged meanwhile."""
        fresh = self.current()
        return None if fresh == refused else fresh


class Certificate:
    """An X.509 certificate and its key in one PEM file, which is looked at before each request."""

    def __init__(self, path: Path, *, mend: str, home: Path | None = None, now: Now = utc_now) -> None:
        self._path, self._now = path, now
        self._lock = threading.Lock()
        self._seen: Credential | None = None
        self.source = f"certificate {shown(path, home)}"
        self.mend = mend
        self.expires_at: datetime | None = None
        self.current()

    def current(self) -> Credential:
        """The certificate as it is on disk now."""
        with self._lock:
            try:
                self._look()
            except CredentialError:  # before OSError, which it is too
                # half-written at this moment, perhaps: the one before does until its end
                if self._seen is None or self.expires_at is None or self.expires_at <= self._now():
                    raise
            except OSError as error:
                raise CredentialMissing(f"{self.source} cannot be read: {error.strerror}. {self.mend}") from error
            seen = self._seen
        assert seen is not None
        refuse_expired(self, self._now())
        return seen

    def _look(self) -> None:
        found = Credential(certificate=PemFile(self._path, file_stamp(self._path)))
        if found != self._seen:
            self.expires_at = self._expiry(self._path.read_bytes())
            self._seen = found
            warn_if_readable_by_others(self._path)

    def renew(self, refused: Credential) -> Credential | None:
        """The certificate, if the file was replaced meanwhile."""
        fresh = self.current()
        return None if fresh == refused else fresh

    def _expiry(self, pem: bytes) -> datetime:
        try:
            if not has_private_key(pem):
                raise ValueError("it holds no private key")
            return pem_expiry(pem)
        except ValueError as error:
            raise CredentialError(f"{self.source} is of no use: {error}. {self.mend}") from error


# -- what they share --------------------------------------------------------------------------------------------------


def clean_token(text: str, source: str) -> str:
    """The token in *text*, which people paste with blanks around it or with `Bearer` before it.

    Raises:
        CredentialError: It cannot be one; such a text would also show up in the HTTP library's complaint about it.
    """
    token = re.sub(r"(?i)^\s*(authorization:\s*)?bearer\s+", "", text).strip()
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise CredentialError(f"{source} is no token: it holds blanks or letters that no token has")
    return token


def token_expiry(token: str) -> datetime | None:
    """When *token* ends, if it says so: a JWT by `exp`, a CADC token by `expirytime`."""
    parts = token.split(".")
    try:
        if len(parts) == 3:
            claims = json.loads(_unbase64(parts[1]))
            return moment(claims.get("exp")) if isinstance(claims, dict) else None
        stated = re.search(rb"(?:^|&)expirytime=(\d{1,16})(?:&|$)", _unbase64(token))
        return moment(int(stated[1]) / 1000) if stated else None
    except ValueError:
        return None


def moment(seconds: object) -> datetime | None:
    """The time so many *seconds* after 1970, if that is what it is."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        return None
    try:
        return datetime.fromtimestamp(seconds, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return None


def refuse_expired(provider: Provider, now: datetime) -> None:
    """Raise `CredentialExpired` if the provider's credential is over."""
    end = provider.expires_at
    if end is not None and end <= now:
        raise CredentialExpired(
            f"{provider.source} expired at {when(end)} (it is {when(now)} by this machine's clock). {provider.mend}"
        )


def when(time: datetime) -> str:
    """A time as people read it."""
    return f"{time.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"


def file_stamp(path: Path) -> Stamp:
    """What changes when the file is replaced."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def warn_if_readable_by_others(path: Path) -> None:
    """Log a warning if others on this machine can read a file of secrets."""
    if os.name == "posix" and path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        log.warning("%s can be read by others on this machine; `chmod 600` closes it", path)


def shown(path: Path, home: Path | None) -> str:
    """*path* as people write it."""
    if home is not None and path.is_relative_to(home):
        return f"~/{path.relative_to(home).as_posix()}"
    return str(path)


def _unbase64(text: str) -> bytes:
    text = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError("this is not base64") from error
