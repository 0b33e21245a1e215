"""Sending requests and getting answers: bounded in time and size, from many threads, with no secret left behind.

urllib3's pools do the work directly. They are documented to be safe to use from many threads, which `requests.Session`
is not; and they keep no cookies, follow no redirect unless told to, and know nothing of `.netrc`, with which a session
would replace our Authorization header. From requests come its rules for proxies and certificate authorities, which
users know.

Every time-out of a socket bounds only a silence. A server that sends one byte now and then is ended by a watchdog,
which shuts the socket when the whole exchange has taken too long.
"""

from __future__ import annotations

import contextlib
import contextvars
import http.client
import itertools
import logging
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import attrs
import requests.utils
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    ReadTimeoutError,
)

from canfar_batch.errors import (
    CredentialError,
    CredentialRefused,
    LaunchInDoubt,
    NotSent,
    PlatformBroken,
    PlatformBusy,
    PlatformError,
    PlatformUnreachable,
)
from canfar_batch.rest import wire
from canfar_batch.rest.addresses import is_loopback, is_private, origin, without_query
from canfar_batch.rest.canfar_login import PostForm
from canfar_batch.rest.credentials import Credential, PemFile, Provider
from canfar_batch.rest.redaction import Secrets
from canfar_batch.rest.wire import Answer

log = logging.getLogger("canfar_batch.rest")

T = TypeVar("T")

MIB = 1024**2
_POOL = 128  #: connections kept; more are opened when needed, and closed after use
_CHUNK = 64 * 1024


@attrs.frozen(kw_only=True)
class Patience:
    """How long to wait, and how often to ask. Seconds."""

    connect: float = 10.0
    read: float = 30.0  #: the longest silence
    total: float = 300.0  #: the longest exchange, however slowly it goes on
    create: float = 90.0  #: the longest exchange for a create, which the service may well take a minute over
    attempts: int = 4
    first_pause: float = 0.5  #: the longest pause before the second attempt; doubled for each further one
    longest_pause: float = 10.0
    longest_retry_after: float = 120.0  #: a server that asks for more is taken at its word by whoever asked us
    overall: float = 240.0  #: no attempt begins later than this after the first


@attrs.frozen(kw_only=True)
class Sizes:
    """How many bytes of a body are taken."""

    most: int = 512 * MIB  #: more is an error
    error: int = 64 * 1024  #: of an answer that is an error; the rest is left alone


class TooLarge(PlatformBroken):
    """More came than anybody would send in earnest; asking again would bring it again."""


class Untrusted(NotSent):
    """The other end could not show that it is the platform; asking again would not help."""


class _CertificateRefusedError(Exception):
    """Our certificate was refused in the TLS handshake: what a 401 says for a token."""


class Transport:
    """Requests to one platform, each with the credential of the moment. Safe to use from many threads."""

    def __init__(
        self,
        url: str,
        provider: Provider,
        secrets: Secrets,
        *,
        user_agent: str,
        ca_bundle: str | None = None,
        patience: Patience | None = None,
        sizes: Sizes | None = None,
        sleep: Callable[[float], None] = time.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self._provider, self._secrets = provider, secrets
        self._patience, self._sizes = patience or Patience(), sizes or Sizes()
        self._sleep, self._uniform, self._ticks = sleep, uniform, ticks
        self._connections = Connections(url, ca_bundle)
        self._headers = {"User-Agent": user_agent, "Accept-Encoding": "identity"}

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def keep_secret(self, secrets: Iterable[str]) -> None:
        """Show none of these, whatever the service answers."""
        for secret in secrets:
            self._secrets.add(secret)

    def ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        read: Callable[[Answer], T],
        attempts: int | None = None,
    ) -> T:
        """Send a request that may be repeated, and give what *read* makes of the answer.

        It is sent again, after a pause, when no answer came, or one that *read* calls `PlatformBroken` or
        `PlatformBusy`.
        """
        target = f"{self.url}{path}" + (f"?{urlencode(query)}" if query else "")
        started = self._ticks()
        for attempt in itertools.count(1):
            try:
                return read(self._authorised(lambda shown: self._send(method, target, shown), doing=f"{method} {path}"))
            except PlatformError as error:
                pause = self._pause(error, attempt, attempts or self._patience.attempts)
                if pause is None or self._ticks() - started + pause > self._patience.overall:
                    raise
                log.debug("%s %s: %s; again in %.1f s", method, path, type(error).__name__, pause)
            self._sleep(pause)
        raise AssertionError("unreachable")

    def create(self, path: str, body: bytes, headers: Mapping[str, str], *, launch_name: str) -> Answer:
        """Send a create, once: again only if the credential was refused, which proves that nothing was made.

        Raises:
            NotSent: No connection came about.
            LaunchInDoubt: It was sent, or begun to be sent, and no whole answer came.
        """
        target = f"{self.url}{path}"

        def send(shown: Credential) -> Answer:
            return self._send("POST", target, shown, body=body, headers=headers, once=True)

        try:
            return self._authorised(send, doing=f"launching {launch_name!r}")
        except NotSent:
            raise
        except (PlatformUnreachable, PlatformBroken) as error:
            doubt = LaunchInDoubt(
                f"Whether {launch_name!r} was launched is not known: {error}",
                launch_name=launch_name, status=error.status, words=error.words,
            )  # fmt: skip
            raise doubt from error

    # -- one request --

    def _authorised(self, send: Callable[[Credential], Answer], *, doing: str) -> Answer:
        """The answer to a request with a credential that is accepted; a refused one is renewed once."""
        credential: Credential | None = self._provider.current()
        refusal = ""
        for renewable in (True, False):
            if credential is None:
                break
            try:
                answer = send(credential)
                if not wire.is_unauthorised(answer):
                    return answer
                refusal = f"{answer.status}: {answer.words}"
            except _CertificateRefusedError as error:
                refusal = str(error)
            log.debug("%s: the credential was refused", doing)
            # a renewal may use up a refresh token: none is made that would not be shown
            credential = self._renewed(credential, refusal) if renewable else None
        raise CredentialRefused(
            f"{origin(self.url)} does not accept the {self._provider.source} ({refusal}). {self._provider.mend}"
        )

    def _renewed(self, refused: Credential, refusal: str) -> Credential | None:
        try:
            return self._provider.renew(refused)
        except CredentialError as error:
            kind = type(error)
            raise kind(f"{error} The platform had refused it ({refusal}).") from error

    def _send(
        self,
        method: str,
        target: str,
        credential: Credential,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        once: bool = False,
    ) -> Answer:
        patience = self._patience
        sent = {**self._headers, **(headers or {})}
        if credential.token is not None:
            sent["Authorization"] = f"Bearer {credential.token}"
        began = time.monotonic()
        answer = exchange(
            self._connections.manager(credential.certificate, fresh=once),
            method,
            target,
            body=body,
            headers=sent,
            connect=patience.connect,
            silence=patience.create if once else patience.read,  # a create may be silent for as long as it may take
            total=patience.create if once else patience.total,
            sizes=Sizes(most=self._sizes.error, error=self._sizes.error) if once else self._sizes,
            secrets=self._secrets,
        )
        log.debug("%s %s: %d in %.3f s", method, target, answer.status, time.monotonic() - began)
        return answer

    def _pause(self, error: PlatformError, attempt: int, attempts: int) -> float | None:
        """Seconds until the same may be asked again; None if it should not be."""
        patience = self._patience
        if not isinstance(error, (PlatformUnreachable, PlatformBroken, PlatformBusy)):
            return None
        if isinstance(error, (TooLarge, Untrusted)) or (error.status or 0) // 100 == 3 or attempt >= attempts:
            return None
        # full jitter: many clients that failed together do not come back together
        pause = self._uniform(0.0, min(patience.longest_pause, patience.first_pause * 2.0 ** (attempt - 1)))
        if error.retry_after is None:
            return pause
        return None if error.retry_after > patience.longest_retry_after else error.retry_after + pause


def form_poster(*, user_agent: str, ca_bundle: str | None, timeout: float, secrets: Secrets) -> PostForm:
    """What asks a login server: a function that posts a form and gives back status and body."""

    def post(url: str, form: Mapping[str, str], *, auth: tuple[str, str] | None) -> tuple[int, bytes]:
        if not is_private(origin(url)):
            raise CredentialError(f"{origin(url)} is not https: the login would travel in the clear")
        headers = {"User-Agent": user_agent, "Accept": "application/json"}
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        if auth is not None:
            headers |= urllib3.make_headers(basic_auth=":".join(auth))
        try:
            answer = exchange(
                Connections(url, ca_bundle).manager(None, fresh=True),
                "POST",
                url,
                body=urlencode(form).encode("ascii"),
                headers=headers,
                connect=min(10.0, timeout),
                silence=timeout,
                total=2 * timeout,
                sizes=Sizes(most=MIB),
                secrets=secrets,
            )
        except PlatformError as error:
            raise NotSent(f"The login could not be renewed: {error}") from error
        return answer.status, answer.body

    return post


# -- connections ------------------------------------------------------------------------------------------------------


class Connections:
    """Pools of connections to one origin, one pool for each certificate that is shown."""

    def __init__(self, url: str, ca_bundle: str | None) -> None:
        self._url = url
        self._ca_bundle = ca_bundle or requests.utils.DEFAULT_CA_BUNDLE_PATH
        self._proxy = _proxy_for(url)
        self._lock = threading.Lock()
        self._shared: tuple[object, urllib3.PoolManager] | None = None
        self._context: tuple[PemFile | None, ssl.SSLContext] | None = None

    def manager(self, certificate: PemFile | None, *, fresh: bool) -> urllib3.PoolManager:
        """The pool for requests that show *certificate*.

        Args:
            certificate: The client certificate, or None.
            fresh: Give one with no connection in it. A kept connection may have been closed by the other end, and then
                nobody can say whether the request was heard; on a new one, what fails before it stands was not sent.
        """
        with self._lock:
            if fresh:
                return self._make(self._tls(certificate), 1)
            # connections must not be shared with the parent of a fork
            key = (certificate, os.getpid())
            if self._shared is None or self._shared[0] != key:
                # the old pool is left to its last user: closing it here would fail requests on their way
                self._shared = key, self._make(self._tls(certificate), _POOL)
            return self._shared[1]

    def close(self) -> None:
        """Close what is idle."""
        with self._lock:
            shared, self._shared = self._shared, None
        if shared is not None:
            shared[1].clear()

    def _make(self, context: ssl.SSLContext | None, size: int) -> urllib3.PoolManager:
        options: dict[str, Any] = {"num_pools": 1, "maxsize": size, "retries": False}
        if context is not None:
            options["ssl_context"] = context
        if self._proxy is None:
            manager = urllib3.PoolManager(**options)
        else:
            user, password = requests.utils.get_auth_from_url(self._proxy)
            auth = urllib3.make_headers(proxy_basic_auth=f"{user}:{password}") if user else None
            try:
                manager = urllib3.ProxyManager(self._proxy, proxy_headers=auth, **options)
            except (HTTPError, ValueError):
                proxy = without_query(self._proxy)
                raise NotSent(f"The proxy {proxy}, which the environment names, is not one that can be used") from None
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
        return manager

    def _tls(self, certificate: PemFile | None) -> ssl.SSLContext | None:
        """How to speak TLS; made once for each certificate, since reading the authorities takes a while."""
        if origin(self._url).scheme != "https":
            return None
        if self._context is None or self._context[0] != certificate:
            self._context = certificate, _tls_context(self._ca_bundle, certificate)
        return self._context[1]


def _proxy_for(url: str) -> str | None:
    """The proxy that the environment names for *url*; none for this machine, where it would see what we send."""
    if is_loopback(origin(url)):
        return None
    proxy = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url))
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


def _tls_context(ca_bundle: str, certificate: PemFile | None) -> ssl.SSLContext:
    folder = Path(ca_bundle).is_dir()
    try:
        context = ssl.create_default_context(cafile=None if folder else ca_bundle, capath=ca_bundle if folder else None)
    except OSError as error:
        raise Untrusted(f"REQUESTS_CA_BUNDLE: {ca_bundle} holds no certificates of authorities ({error})") from error
    if certificate is None:
        return context

    def no_password() -> str:  # without it, OpenSSL would ask for one at the terminal
        raise ValueError("its key is encrypted, and only one without a password can be used")

    try:
        context.load_cert_chain(certificate.path, password=no_password)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise CredentialError(f"The certificate {certificate.path} cannot be used: {reason}") from error
    return context


# -- one exchange -----------------------------------------------------------------------------------------------------


class _Exchange:
    """One request and its answer, as far as it has come."""

    def __init__(self, silence: float | None, total: float) -> None:
        self.silence = silence
        self.total = total
        self.due = time.monotonic() + total
        self.connection: HTTPConnection | None = None  #: once it stands, the request may have been sent
        self.cut = False

    def shut(self) -> None:
        """End it: whoever waits for the socket wakes up."""
        self.cut = True
        sock = self.connection.sock if self.connection else None
        if sock is not None:
            with contextlib.suppress(OSError, ValueError, TypeError):
                # not the TLS socket's own method, which takes the cipher off under the reader
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


_current: contextvars.ContextVar[_Exchange | None] = contextvars.ContextVar("exchange", default=None)


class _Noted:
    """A connection that tells the exchange when it stands, just before the request is sent over it."""

    def request(self, *args: Any, **kwargs: Any) -> None:
        assert isinstance(self, HTTPConnection)
        if self.sock is None:
            self.connect()
        exchange = _current.get()
        if exchange is not None:
            exchange.connection = self
            # else the time-out for connecting would bound how long a large request may take to be sent
            self.sock.settimeout(exchange.silence)
        super().request(*args, **kwargs)  # type: ignore[misc]


class _Connection(_Noted, HTTPConnection):
    pass


class _TlsConnection(_Noted, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _Watchdog:
    """Shuts the exchanges that take too long. One thread for all, which runs only while there is something to watch."""

    interval = 0.2

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._lock = threading.Lock()
        self._watched: set[_Exchange] = set()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def watch(self, exchange: _Exchange) -> Iterator[None]:
        with self._lock:
            self._watched.add(exchange)
            # not alive: never begun, ended for want of work, or left behind by a fork
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="canfar_batch-watchdog", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._watched.discard(exchange)

    def _run(self) -> None:
        idle = 0
        while True:
            time.sleep(self.interval)
            with self._lock:
                late = [each for each in self._watched if each.due <= time.monotonic()]
                idle = 0 if self._watched else idle + 1
                if idle > 50:
                    self._thread = None
                    return
            for each in late:
                each.shut()


_watchdog = _Watchdog()
if hasattr(os, "register_at_fork"):  # a lock that another thread held at the fork would be held for ever
    os.register_at_fork(after_in_child=_watchdog.reset)


def exchange(
    manager: urllib3.PoolManager,
    method: str,
    url: str,
    *,
    body: bytes | None,
    headers: Mapping[str, str],
    connect: float,
    silence: float,
    total: float,
    sizes: Sizes,
    secrets: Secrets,
) -> Answer:
    """Send one request, once, and take its answer.

    Raises:
        NotSent: No connection came about.
        PlatformUnreachable: The connection ended, or went silent, before the whole answer was there.
        TooLarge: The answer does not end.
    """
    one = _Exchange(silence, total)
    token = _current.set(one)
    try:
        with _watchdog.watch(one):
            response = manager.urlopen(
                method, url, body=body, headers=headers, timeout=urllib3.Timeout(connect=connect, read=silence),
                retries=False, redirect=False, preload_content=False, decode_content=False,
            )  # fmt: skip
            try:
                content = _content(response, sizes)
            except BaseException:
                response.close()  # what is left of the answer must not meet the next request
                raise
    except TooLarge:
        raise
    except (HTTPError, OSError, http.client.HTTPException, ValueError) as error:
        trouble: BaseException = error
    else:
        if not one.cut:
            known = {name.lower(): value for name, value in response.headers.items()}
            return Answer(status=response.status, headers=known, body=content, secrets=secrets)
        trouble = TimeoutError()
    finally:
        _current.reset(token)
    # outside the handler, so that a cause that quotes a secret is not remembered as the context either
    raise _unreachable(trouble, one, origin(url), secrets) from secrets.clean(trouble)


def _content(response: urllib3.BaseHTTPResponse, sizes: Sizes) -> bytes:
    """The body; of an error, as much as came and is worth reading: its status alone says what counts."""
    error = response.status >= 400
    room = sizes.error if error else sizes.most
    chunks: list[bytes] = []
    try:
        for chunk in response.stream(_CHUNK, decode_content=False):
            chunks.append(chunk[:room])
            room -= len(chunk)
            if room < 0:
                break
    except (HTTPError, OSError):
        if not error:
            raise
    if room < 0:
        response.close()
        if not error:
            raise TooLarge(f"The answer is larger than {sizes.most:,} bytes", status=response.status)
    return b"".join(chunks)


#: how the other end says, in the TLS handshake, that it does not want our certificate
_CERTIFICATE_ALERTS = (
    "CERTIFICATE_REQUIRED", "BAD_CERTIFICATE", "CERTIFICATE_EXPIRED", "CERTIFICATE_REVOKED", "CERTIFICATE_UNKNOWN",
    "UNSUPPORTED_CERTIFICATE", "ALERT_UNKNOWN_CA", "ALERT_ACCESS_DENIED",
)  # fmt: skip


def _unreachable(error: BaseException, one: _Exchange, where: object, secrets: Secrets) -> Exception:
    """What it means that no whole answer came."""
    chain = list(_chain(error))
    reason = next((link.reason for link in chain if isinstance(link, ssl.SSLError) and link.reason), "")
    if any(alert in reason for alert in _CERTIFICATE_ALERTS) and "VERIFY_FAILED" not in reason:
        return _CertificateRefusedError(f"in the TLS handshake: {reason}")
    untrusted = next((link for link in chain if isinstance(link, ssl.SSLCertVerificationError)), None)
    if untrusted is not None:
        return Untrusted(
            f"{where} could not show that it is who it says ({untrusted.verify_message}). If it is certified by your"
            " institute, let REQUESTS_CA_BUNDLE name the file of its authority."
        )
    kinds = tuple(map(type, chain))
    if one.cut:
        what = f"took longer than {one.total:g} s in all"
    elif NameResolutionError in kinds:
        what = "is not a known host name here; is this machine online?"
    elif ProxyError in kinds:
        what = "cannot be reached through the proxy that the environment names"
    elif ConnectTimeoutError in kinds:
        what = "cannot be reached in time"
    elif ReadTimeoutError in kinds or any(isinstance(link, TimeoutError) for link in chain):
        what = "went silent before the whole answer was there"
    elif any(isinstance(link, ConnectionRefusedError) for link in chain):
        what = "refuses the connection"
    elif NewConnectionError in kinds:
        what = f"cannot be reached ({_innermost(chain)})"
    elif reason:
        what = f"cannot be spoken to in TLS ({reason})"
    elif one.connection is None:
        what = f"ended the connection before it stood ({_innermost(chain)})"
    else:
        what = f"ended the connection before the whole answer was there ({_innermost(chain)})"
    kind = PlatformUnreachable if one.connection is not None else NotSent
    return kind(secrets.redact(f"{where} {what}"))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and all that is behind it."""
    queue: list[object] = [error]
    seen: list[object] = []
    while queue:
        link = queue.pop(0)
        if isinstance(link, BaseException) and link not in seen:
            seen.append(link)
            yield link
            queue += [*link.args, getattr(link, "reason", None), link.__cause__, link.__context__]


def _innermost(chain: list[BaseException]) -> str:
    """The shortest name for what happened."""
    for link in reversed(chain):
        if isinstance(link, OSError) and link.strerror:
            return link.strerror
    return type(chain[-1]).__name__
