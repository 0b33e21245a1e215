"""Requests to one platform: with the credential of the moment, repeated if that is safe."""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import BinaryIO, TypeVar
from urllib.parse import urlencode

import attrs

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
from canfar_batch.rest.addresses import origin
from canfar_batch.rest.answers import Answer, is_accepted, is_unauthorised
from canfar_batch.rest.connections import Connections
from canfar_batch.rest.credentials import Credential, Provider
from canfar_batch.rest.exchange import MIB, SLOWEST, Body, Bounds, Pieces, StreamedAnswer, Upload, exchange, open_stream
from canfar_batch.rest.network_errors import CertificateRefused, TooLarge, Untrusted
from canfar_batch.rest.redaction import Secrets

log = logging.getLogger("canfar_batch.rest")

T = TypeVar("T")
A = TypeVar("A", bound=Answer)

#: when the requests of this context must have ended, by the transport's clock
_deadline: contextvars.ContextVar[float | None] = contextvars.ContextVar("deadline", default=None)


@attrs.frozen(kw_only=True)
class Timeouts:
    """How long to wait, and how often to ask. Seconds."""

    connect: float = 10.0
    read: float = 30.0  #: the longest silence
    total: float = 300.0  #: the longest exchange, however slowly it goes on
    create: float = 90.0  #: the longest exchange for a create, for which the service may well need a minute
    attempts: int = 4
    first_pause: float = 0.5  #: the longest pause before the second attempt; doubled for each further one
    longest_pause: float = 10.0
    longest_retry_after: float = 120.0  #: if a server asks for more, the caller decides
    overall: float = 240.0  #: no attempt begins later than this after the first


@attrs.frozen(kw_only=True)
class Sizes:
    """The largest bodies that are accepted. Bytes."""

    data: int = 100 * MIB  #: of a list: some 150,000 containers
    log: int = 512 * MIB  #: of a log that is held in memory
    stream: int = 4096 * MIB  #: of a log that is streamed
    error: int = 64 * 1024  #: of an error; the rest is not read


@attrs.frozen(kw_only=True)
class _Refusal:
    """A credential that was not accepted."""

    status: int | None
    text: str

    def __str__(self) -> str:
        return self.text if self.status is None else f"{self.status}: {self.text}"


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
        timeouts: Timeouts | None = None,
        sizes: Sizes | None = None,
        sleep: Callable[[float], None] = time.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self.sizes = sizes or Sizes()
        self._provider, self._secrets = provider, secrets
        self._timeouts = timeouts or Timeouts()
        self._sleep, self._uniform, self._ticks = sleep, uniform, ticks
        self._connections = Connections(url, ca_bundle)
        self._headers = {"User-Agent": user_agent, "Accept-Encoding": "identity"}
        self._was_accepted = False
        self._renewed_in_vain: Credential | None = None

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def keep_secret(self, secrets: Iterable[str]) -> None:
        """Mask these in everything that the service answers."""
        for secret in secrets:
            self._secrets.add(secret)

    @contextlib.contextmanager
    def within(self, seconds: float | None) -> Iterator[None]:
        """Bound the requests that this thread makes in a ``with`` block to this many seconds in all."""
        outer = _deadline.get()
        own = None if seconds is None else self._ticks() + seconds
        token = _deadline.set(min((each for each in (outer, own) if each is not None), default=None))
        try:
            yield
        finally:
            _deadline.reset(token)

    def ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        read: Callable[[Answer], T],
        form: bytes | None = None,
        body: bytes | None = None,
        content_type: str | None = None,
        size: int | None = None,
        attempts: int | None = None,
    ) -> T:
        """Send a request that may be repeated, and return what *read* makes of the answer.

        It is repeated, after a pause, if no answer came, or if *read* raises `PlatformBroken` or `PlatformBusy`.

        Args:
            method: The HTTP method.
            path: The path below the platform's address.
            query: The parameters in the address.
            read: Turns the answer into a value, or raises `PlatformError`.
            form: The body, a form.
            body: The body, of *content_type*, if it is not a form.
            content_type: The type of the body.
            size: The largest body that is accepted, in bytes; by default that of a list.
            attempts: How often to send it at most.
        """
        target = self._target(path, query)
        kind = content_type if form is None else "application/x-www-form-urlencoded; charset=UTF-8"
        headers = None if kind is None else {"Content-Type": kind}
        sent = body if form is None else form

        def send(credential: Credential) -> Answer:
            return self._send(method, target, credential, body=sent, headers=headers, size=size or self.sizes.data)

        return self._repeat(send, read, doing=f"{method} {path}", attempts=attempts)

    def send_file(
        self, path: str, source: BinaryIO, size: int, *, headers: Mapping[str, str], read: Callable[[Answer], T]
    ) -> T:
        """Store the next *size* bytes of an open file by PUT, from the same place again at each repetition.

        Args:
            path: The path below the platform's address.
            source: The file.
            size: The number of bytes.
            headers: Further headers.
            read: As for `ask`.
        """
        start = source.tell()
        target, sent = self._target(path), {**headers, "Content-Length": str(size)}

        def send(credential: Credential) -> Answer:
            source.seek(start)
            body = Upload(source, size) if size else b""
            return self._send(
                "PUT", target, credential, body=body, headers=sent, size=self.sizes.data, more_time=size / SLOWEST
            )

        return self._repeat(send, read, doing=f"PUT {path}", attempts=None)

    def stream(
        self,
        path: str,
        query: Mapping[str, str],
        *,
        check: Callable[[Answer], bool],
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[bytes]:
        """Yield the body of an answer in pieces, if *check* accepts its head.

        The request is repeated, as by `ask`, until the head of an answer is there. A transfer that is cut is an error.
        """
        target = self._target(path, query)

        def send(credential: Credential) -> StreamedAnswer:
            return self._open_stream(target, credential, headers)

        def read(answer: StreamedAnswer) -> Pieces | None:
            wanted = False
            try:
                wanted = check(answer)
            finally:
                if not wanted:
                    answer.pieces.close()
            return answer.pieces if wanted else None

        pieces = self._repeat(send, read, doing=f"GET {path}", attempts=None)
        if pieces is not None:
            with contextlib.closing(pieces):
                yield from pieces

    def create(self, path: str, body: bytes, headers: Mapping[str, str], *, launch_name: str) -> Answer:
        """Send a create, once: again only if the credential was refused, which proves that nothing was made.

        Raises:
            NotSent: The connection was not established.
            LaunchInDoubt: It was sent, at least in part, and no whole answer came.
            CredentialError: There is no credential that the platform accepts.
        """

        def send(credential: Credential) -> Answer:
            return self._send_create(self._target(path), credential, body, headers)

        try:
            return self._authorised(send, doing=f"launching {launch_name!r}")
        except NotSent:
            raise
        except (PlatformUnreachable, PlatformBroken) as error:
            doubt = LaunchInDoubt(
                f"Whether {launch_name!r} was launched is not known: {error}",
                launch_name=launch_name, status=error.status, server_text=error.server_text,
            )  # fmt: skip
            raise doubt from error

    # -- repeating --

    def _repeat(
        self, send: Callable[[Credential], A], read: Callable[[A], T], *, doing: str, attempts: int | None
    ) -> T:
        started = self._ticks()
        for attempt in itertools.count(1):
            try:
                return read(self._authorised(send, doing=doing))
            except (PlatformError, CredentialRefused) as error:
                pause = self._pause(error, attempt, attempts or self._timeouts.attempts)
                if pause is None or self._ticks() + pause > self._last_start(started):
                    raise
                log.debug("%s: %s; again in %.1f s", doing, type(error).__name__, pause)
            self._sleep(pause)
        raise AssertionError("unreachable")

    def _last_start(self, started: float) -> float:
        """Return when the last attempt may begin, given the start of the first."""
        deadline = _deadline.get()
        last = started + self._timeouts.overall
        return last if deadline is None else min(last, deadline)

    def _pause(self, error: PlatformError | CredentialRefused, attempt: int, attempts: int) -> float | None:
        """Return the seconds until the same request may be sent again; None if it should not be."""
        timeouts = self._timeouts
        if attempt >= attempts or not _may_pass(error):
            return None
        # full jitter: many clients that failed together do not come back together
        pause = self._uniform(0.0, min(timeouts.longest_pause, timeouts.first_pause * 2.0 ** (attempt - 1)))
        wait = error.retry_after if isinstance(error, PlatformError) else None
        if wait is None:
            return pause
        return None if wait > timeouts.longest_retry_after else wait + pause

    # -- credentials --

    def _authorised(self, send: Callable[[Credential], A], *, doing: str) -> A:
        """Return the answer to a request with an accepted credential; a refused one is renewed once."""
        credential = self._provider.current()
        answer, refusal = self._try(send, credential)
        # no second renewal of a credential that was refused when it was new: a renewal may use up a refresh token
        if refusal is not None and credential != self._renewed_in_vain:
            log.debug("%s: the credential was refused", doing)
            renewed = self._renewed(credential, refusal)
            if renewed is not None:
                answer, refusal = self._try(send, renewed)
                self._renewed_in_vain = renewed if refusal is not None else None
        if answer is not None:
            return answer
        assert refusal is not None
        raise self._refused(refusal)

    def _try(self, send: Callable[[Credential], A], credential: Credential) -> tuple[A | None, _Refusal | None]:
        try:
            answer = send(credential)
        except CertificateRefused as error:
            return None, _Refusal(status=None, text=str(error))
        if is_unauthorised(answer):
            return None, _Refusal(status=answer.status, text=answer.text)
        if is_accepted(answer):
            self._was_accepted, self._renewed_in_vain = True, None
        return answer, None

    def _renewed(self, refused: Credential, refusal: _Refusal) -> Credential | None:
        try:
            return self._provider.renew(refused)
        except CredentialError as error:
            kind = type(error)
            raise kind(f"{error} The platform had refused it ({refusal}).") from error

    def _refused(self, refusal: _Refusal) -> CredentialRefused:
        where, provider = origin(self.url), self._provider
        advice = provider.remedy
        if self._was_accepted:
            advice = f"It was accepted before, so the platform may be having an outage. If it lasts: {advice}"
        return CredentialRefused(
            f"{where} does not accept this credential, {provider.source} ({refusal}). {advice}",
            status=refusal.status, server_text=refusal.text, was_accepted=self._was_accepted,
        )  # fmt: skip

    # -- one exchange --

    def _target(self, path: str, query: Mapping[str, str] | None = None) -> str:
        return f"{self.url}{path}" + (f"?{urlencode(query)}" if query else "")

    def _headers_for(self, credential: Credential, headers: Mapping[str, str] | None = None) -> dict[str, str]:
        shown = {} if credential.token is None else {"Authorization": f"Bearer {credential.token}"}
        return {**self._headers, **(headers or {}), **shown}

    def _bounds(self, size: int, more_time: float = 0.0) -> Bounds:
        """Return the limits of one exchange, cut to the time that `within` leaves.

        Args:
            size: The largest body of the answer, in bytes.
            more_time: Seconds that a large request may take beyond the usual ones.
        """
        timeouts, deadline = self._timeouts, _deadline.get()
        left = float("inf") if deadline is None else deadline - self._ticks()
        if left <= 0:
            raise PlatformUnreachable("The time for this request ran out before it was sent")
        return Bounds(
            connect=min(timeouts.connect, left), silence=min(timeouts.read, left),
            total=min(timeouts.total + more_time, left),
            size=size, error_size=self.sizes.error,
        )  # fmt: skip

    def _send(
        self,
        method: str,
        target: str,
        credential: Credential,
        *,
        body: Body,
        headers: Mapping[str, str] | None,
        size: int,
        more_time: float = 0.0,
    ) -> Answer:
        manager = self._connections.manager(credential.certificate, fresh=False)
        sent = self._headers_for(credential, headers)
        began = time.monotonic()
        answer = exchange(
            manager,
            method,
            target,
            body=body,
            headers=sent,
            bounds=self._bounds(size, more_time),
            secrets=self._secrets,
        )
        log.debug("%s %s: %d in %.3f s", method, target, answer.status, time.monotonic() - began)
        return answer

    def _open_stream(
        self, target: str, credential: Credential, more: Mapping[str, str] | None = None
    ) -> StreamedAnswer:
        manager = self._connections.manager(credential.certificate, fresh=False)
        bounds = self._bounds(self.sizes.stream)
        headers = self._headers_for(credential, more)
        return open_stream(manager, "GET", target, body=None, headers=headers, bounds=bounds, secrets=self._secrets)

    def _send_create(self, target: str, credential: Credential, body: bytes, headers: Mapping[str, str]) -> Answer:
        timeouts, sizes = self._timeouts, self.sizes
        # a create may be silent for as long as it may take, and no deadline of the caller leaves it in doubt
        bounds = Bounds(
            connect=timeouts.connect, silence=timeouts.create, total=timeouts.create,
            size=sizes.error, error_size=sizes.error,
        )  # fmt: skip
        manager = self._connections.manager(credential.certificate, fresh=True)
        sent = self._headers_for(credential, headers)
        return exchange(manager, "POST", target, body=body, headers=sent, bounds=bounds, secrets=self._secrets)


def _may_pass(error: PlatformError | CredentialRefused) -> bool:
    """Return whether the same request may get another answer soon."""
    if isinstance(error, CredentialRefused):
        return error.was_accepted
    if isinstance(error, (TooLarge, Untrusted)) or (error.status or 0) // 100 == 3:
        return False
    return isinstance(error, (PlatformUnreachable, PlatformBroken, PlatformBusy))
