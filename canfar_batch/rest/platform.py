"""The platform by its REST API: `RestPlatform`, which fills `protocols.Platform`."""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from canfar_batch._version import __version__
from canfar_batch.containers import ContainerInfo, Image, LaunchRequest, Limits
from canfar_batch.errors import AddressError, JobNotFound, LaunchInDoubt, PlatformError
from canfar_batch.rest import wire
from canfar_batch.rest.addresses import is_confidential, origin
from canfar_batch.rest.answers import LONGEST_WAIT, Answer
from canfar_batch.rest.credentials import Credential, Provider, time_text
from canfar_batch.rest.discovery import Registry, find
from canfar_batch.rest.oidc import form_poster
from canfar_batch.rest.redaction import Secrets
from canfar_batch.rest.transport import Timeouts, Transport

if TYPE_CHECKING:  # else it would be imported with every session
    from canfar_batch.storage import Storage

log = logging.getLogger("canfar_batch.rest")

T = TypeVar("T")


class RestPlatform:
    """One platform and the user's credential there. Safe to use from many threads; close it, or use it in a ``with``.

    `open_platform` makes one.
    """

    #: seconds for which `limits()` and `images()` are remembered; the service itself updates them less often
    memory = 300.0

    def __init__(
        self,
        transport: Transport,
        provider: Provider,
        *,
        registry: Registry | None = None,
        storage: Callable[[], Storage] | None = None,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport, self._provider, self._registry, self._ticks = transport, provider, registry, ticks
        self._make_storage = storage
        self._storage: Storage | None = None
        self.closed = False
        self._user: str | None = None
        self._lock = threading.Lock()
        self._remembered: dict[str, tuple[float, Any]] = {}
        self._given: set[str] = set()  #: the ids that launches were answered with

    def __repr__(self) -> str:
        end = self.expires_at
        until = f" until {time_text(end)}" if end else ""
        return f"<RestPlatform {self.url} user={self._user or 'not known yet'}, {self._provider.source}{until}>"

    def __enter__(self) -> RestPlatform:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self.closed = True
        self._transport.close()
        if self._storage is not None:
            close = getattr(self._storage.space, "close", None)
            if close is not None:
                close()

    @property
    def url(self) -> str:
        """The platform's base address, version included."""
        return self._transport.url

    @property
    def storage(self) -> Storage | None:
        """The files on the platform's storage; None if nothing is known of one."""
        with self._lock:
            if self._storage is None and self._make_storage is not None:
                self._storage = self._make_storage()
            return self._storage

    @property
    def user(self) -> str | None:
        """The user's name on the platform; None until the platform has answered once."""
        return self._user

    @property
    def expires_at(self) -> datetime | None:
        """The time at which the credential expires; None if unknown."""
        return self._provider.expires_at

    def credential(self) -> Credential:
        """Return the credential of the moment.

        Raises:
            CredentialError: It has expired or vanished.
        """
        return self._provider.current()

    def launch(self, request: LaunchRequest) -> str:
        """Send one launch, once, and return the container's id.

        Raises:
            PlatformRefused: It was refused, so nothing was made.
            PlatformBusy: Nothing was made, and a later try may succeed. `NotMade` if it failed inside the platform.
            NotSent: It provably never left this machine.
            CredentialError: There is no good credential, so nothing was made.
            LaunchInDoubt: Anything else: a container may have been made, or may yet be.
        """
        headers = {"Content-Type": "application/x-www-form-urlencoded; charset=UTF-8", "Accept": "text/plain"}
        registry = self._registry
        if registry is not None and (registry.host is None or request.image.startswith(f"{registry.host}/")):
            pair = f"{registry.username}:{registry.secret}".encode()
            headers["x-skaha-registry-auth"] = base64.b64encode(pair).decode("ascii")
        self._transport.keep_secret(request.secrets)
        form = wire.launch_form(request)
        answer = self._transport.create("/session", form, headers, launch_name=request.name)
        self._note_user(answer)
        with _log_long_waits():
            id = wire.read_launch(answer, request.name)
        return self._new(id, request.name)

    def containers(self, kind: str | None = "headless") -> list[ContainerInfo]:
        """Return all of the user's containers of this kind (None: of all kinds), with one request."""
        return self._ask("GET", "/session", wire.read_containers, {"type": kind} if kind else {})

    def container(self, id: str) -> ContainerInfo:
        """Return one container.

        Raises:
            JobNotFound: The service itself answered that it does not know this id.
        """
        return self._ask("GET", _path(id), lambda answer: wire.read_container(answer, id))

    def logs(self, id: str) -> bytes:
        """Return the container's output up to now; empty also if the platform has none (see `Platform.logs`).

        A log of more than 512 MiB is a `PlatformBroken`: use `stream_logs`.
        """
        size = self._transport.sizes.log
        return self._ask("GET", _path(id), lambda answer: wire.read_log(answer, id), {"view": "logs"}, size=size)

    def stream_logs(self, id: str) -> Iterator[bytes]:
        """Yield the same as `logs`, in pieces of at most 64 KiB. Nothing is sent before the first is asked for.

        Raises:
            PlatformError: It cannot be had, or the transfer was cut.
        """

        def check(answer: Answer) -> bool:
            self._note_user(answer)
            return wire.check_log(answer, id)

        yield from self._transport.stream(_path(id), {"view": "logs"}, check=check)

    def events(self, id: str) -> str | None:
        """Return the events of the container's pod: a table, "" if there are none, None if it has no pod."""
        return self._ask("GET", _path(id), lambda answer: wire.read_events(answer, id), {"view": "events"})

    def renew(self, id: str) -> None:
        """Ask the platform to extend the life of a running container, which it does in its last four days.

        Raises:
            PlatformRefused: No container with this id is running.
        """
        self._ask("POST", _path(id), lambda answer: wire.check_renewal(answer, id), form=wire.RENEW_FORM)

    def cancel(self, id: str) -> None:
        """Ask that the container be stopped and removed. No answer proves that it was: look again."""
        self._ask("DELETE", _path(id), lambda answer: wire.check_cancel(answer, id))

    def limits(self) -> Limits:
        """Return what one job may ask for."""
        return self._remember("limits", lambda: self._ask("GET", "/context", wire.read_limits))

    def images(self, kind: str | None = "headless") -> list[Image]:
        """Return the images that the platform lists."""
        query = {"type": kind} if kind else {}
        return list(self._remember(f"images of {kind}", lambda: self._ask("GET", "/image", wire.read_images, query)))

    def stats(self) -> Mapping[str, Any]:
        """Return the cluster's totals, as the platform gives them."""
        # the cluster's metrics may be down for days while all else works: no one should wait for them
        return self._ask("GET", "/session", wire.read_stats, {"view": "stats"}, attempts=1)

    def within(self, seconds: float | None) -> AbstractContextManager[None]:
        """Bound the requests that this thread makes in a ``with`` block to this many seconds in all; None: no bound.

        A launch is not bounded, as that would leave it in doubt.
        """
        return self._transport.within(seconds)

    def _ask(
        self,
        method: str,
        path: str,
        read: Callable[[Answer], T],
        query: Mapping[str, str] | None = None,
        *,
        form: bytes | None = None,
        size: int | None = None,
        attempts: int | None = None,
    ) -> T:
        def noted(answer: Answer) -> T:
            self._note_user(answer)
            return read(answer)

        with _log_long_waits():
            return self._transport.ask(method, path, query, read=noted, form=form, size=size, attempts=attempts)

    def _note_user(self, answer: Answer) -> None:
        self._user = answer.user or self._user

    def _new(self, id: str, name: str) -> str:
        """Return *id*, unless an earlier launch was answered with it: the answers were mixed up on the way."""
        with self._lock:
            if id not in self._given:
                self._given.add(id)
                return id
        raise LaunchInDoubt(
            f"Whether {name!r} was launched is not known: the answer is the id {id}, which an earlier launch has",
            launch_name=name, status=200, server_text=id,
        )  # fmt: skip

    def _remember(self, name: str, ask: Callable[[], T]) -> T:
        with self._lock:
            at, value = self._remembered.get(name, (0.0, None))
        if value is None or self._ticks() - at > self.memory:
            at, value = self._ticks(), ask()
            with self._lock:
                self._remembered[name] = at, value
        return value  # type: ignore[no-any-return]


@contextlib.contextmanager
def _log_long_waits() -> Iterator[None]:
    """Log an error by which the server asks for a long wait: nothing may happen for that time."""
    try:
        yield
    except PlatformError as error:
        if (error.retry_after or 0.0) >= LONGEST_WAIT:
            log.warning("%s", error)
        raise


def _path(id: str) -> str:
    """Return a container's path. With an empty id the service would pick any container, or delete none and answer 200.

    Raises:
        JobNotFound: The platform gives no such ids.
    """
    if not wire.is_id(id):
        raise JobNotFound(f"{id!r} is not a container's id; ids are eight small letters and digits, as abcd1234")
    return f"/session/{id}"


def open_platform(
    url: str | None = None,
    *,
    token: str | None = None,
    certificate: str | os.PathLike[str] | None = None,
    timeout: float = 30.0,
    env: Mapping[str, str] | None = None,
    home: Path | None = None,
    trust_url: bool = True,
    storage: Storage | None = None,
) -> RestPlatform:
    """Return the platform at *url*, with a credential that was found; nothing is sent yet.

    Args:
        url: The address, with or without its version; else `CANFAR_URL`, the saved login's, or CANFAR's own.
        token: A bearer token. Else `CANFAR_TOKEN`, `CANFAR_CERTIFICATE`, the official client's saved login, or
            `~/.ssl/cadcproxy.pem`.
        certificate: A PEM file with a certificate and its key, instead of a token.
        timeout: The longest silence, in seconds, before a request is given up. A create waits 90 s.
        env: The environment to look in; by default the process's own.
        home: The home directory to look in; by default the user's own.
        trust_url: False if *url* is from a file of data, such as a ledger, rather than given by the user. Then
            `CANFAR_TOKEN` and `CANFAR_CERTIFICATE` go there only if `CANFAR_URL` names it, or it is CANFAR's own host.
        storage: The files on the platform's storage; by default those of the storage service at `CANFAR_STORAGE_URL`,
            else at `/arc` on the platform's own host.

    Raises:
        CredentialMissing: No credential for this platform was found.
        CredentialExpired: The one that was found has expired.
        AddressError: A credential may not be sent to *url*.
    """
    if not timeout > 0:
        raise ValueError(f"timeout={timeout!r} is not a positive number of seconds")
    env = os.environ if env is None else env
    if (url or env.get("CANFAR_URL")) == "local":
        raise AddressError("'local' is not an address: Session.connect('local') starts a platform on this machine")
    secrets = Secrets()
    ca_bundle = env.get("REQUESTS_CA_BUNDLE") or env.get("CURL_CA_BUNDLE") or None
    user_agent = f"canfar_batch/{__version__}"
    access = find(
        url=url,
        token=token,
        certificate=certificate,
        env=env,
        home=Path.home() if home is None else home,
        post=form_poster(user_agent=user_agent, ca_bundle=ca_bundle, timeout=timeout, secrets=secrets),
        secrets=secrets,
        trust_url=trust_url,
    )
    timeouts = Timeouts(connect=min(10.0, timeout), read=timeout, total=10 * timeout)
    transport = Transport(
        access.url, access.provider, secrets, user_agent=user_agent, ca_bundle=ca_bundle, timeouts=timeouts
    )

    def space() -> Storage:
        if storage is not None:
            return storage
        from canfar_batch.rest.vospace import VOSpace
        from canfar_batch.storage import Storage as Files

        to_storage = Transport(
            place, access.provider, secrets, user_agent=user_agent, ca_bundle=ca_bundle, timeouts=timeouts
        )
        return Files(VOSpace(to_storage))

    place = storage_address(access.url, env)
    return RestPlatform(transport, access.provider, registry=access.registry, storage=space)


def credential_of(platform: object) -> dict[str, Any]:
    """Return the credential of the moment as other clients of the platform take it: `token` or `certfile`."""
    if not isinstance(platform, RestPlatform):
        return {}
    credential = platform.credential()
    if credential.token is not None:
        return {"token": credential.token}
    return {} if credential.certificate is None else {"certfile": str(credential.certificate.path)}


def storage_address(url: str, env: Mapping[str, str]) -> str:
    """Return the address of the storage service that belongs to the platform at *url*.

    Raises:
        AddressError: The environment names one that a credential may not be sent to.
    """
    named = env.get("CANFAR_STORAGE_URL", "").strip().rstrip("/")
    if not named:
        return f"{origin(url)}/arc"
    if not is_confidential(origin(named)):
        raise AddressError(f"CANFAR_STORAGE_URL={named!r}: a credential is sent over https only")
    return named
