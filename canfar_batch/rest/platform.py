"""The platform as its REST API presents it: `RestPlatform`, which fills `protocols.Platform`."""

from __future__ import annotations

import base64
import os
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from canfar_batch._version import __version__
from canfar_batch.errors import AddressError, JobNotFound
from canfar_batch.records import ContainerInfo, Image, LaunchRequest, Limits
from canfar_batch.rest import wire
from canfar_batch.rest.credentials import Provider, when
from canfar_batch.rest.discovery import Registry, find
from canfar_batch.rest.redaction import Secrets
from canfar_batch.rest.transport import Patience, Transport, form_poster

T = TypeVar("T")


class RestPlatform:
    """One platform and who we are there. Safe to use from many threads; close it, or use it in a `with`.

    `open_platform` makes one.
    """

    #: seconds for which `limits()` and `images()` are remembered; the service itself renews them more rarely
    memory = 300.0

    def __init__(
        self,
        transport: Transport,
        provider: Provider,
        *,
        registry: Registry | None = None,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport, self._provider, self._registry, self._ticks = transport, provider, registry, ticks
        self.closed = False
        self._user: str | None = None
        self._lock = threading.Lock()
        self._remembered: dict[str, tuple[float, Any]] = {}

    def __repr__(self) -> str:
        end = self.expires_at
        until = f" until {when(end)}" if end else ""
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

    @property
    def url(self) -> str:
        """The platform's base address, version included."""
        return self._transport.url

    @property
    def user(self) -> str | None:
        """Who the platform says that we are; None until it has answered once."""
        return self._user

    @property
    def expires_at(self) -> datetime | None:
        """When our credential ends, as far as it says so."""
        return self._provider.expires_at

    def launch(self, request: LaunchRequest) -> str:
        """Send one launch, once, and return the id.

        Raises:
            PlatformRefused: It was refused, so nothing was made; `PlatformBusy` where a later try may do.
            NotSent: It provably never left.
            LaunchInDoubt: Anything else: it may have been made, or may yet be.
            CredentialError: There is no good credential, so nothing was made.
        """
        headers = {"Content-Type": "application/x-www-form-urlencoded; charset=UTF-8", "Accept": "text/plain"}
        registry = self._registry
        if registry is not None and (registry.host is None or request.image.startswith(f"{registry.host}/")):
            pair = f"{registry.username}:{registry.secret}".encode()
            headers["x-skaha-registry-auth"] = base64.b64encode(pair).decode("ascii")
        self._transport.keep_secret(request.secrets)
        answer = self._transport.create("/session", wire.launch_form(request), headers, launch_name=request.name)
        self._note(answer)
        return wire.launched(answer, request.name)

    def containers(self, kind: str | None = "headless") -> list[ContainerInfo]:
        """All of the user's containers of this kind (None: of all kinds) in one question."""
        return self._ask("GET", "/session", {"type": kind} if kind else {}, wire.containers)

    def container(self, id: str) -> ContainerInfo:
        """One container.

        Raises:
            JobNotFound: The service itself said that it knows none of this id.
        """
        return self._ask("GET", _path(id), {}, lambda answer: wire.container(answer, id))

    def logs(self, id: str) -> bytes:
        """All that the container printed so far. Empty also where the platform knows no such container."""
        return self._ask("GET", _path(id), {"view": "logs"}, lambda answer: wire.logs(answer, id))

    def events(self, id: str) -> str:
        """What the cluster noted about the container, as text; empty where there is nothing."""
        return self._ask("GET", _path(id), {"view": "events"}, lambda answer: wire.events(answer, id))

    def cancel(self, id: str) -> None:
        """Ask that the container be stopped and removed. No answer proves that it was: look again."""
        self._ask("DELETE", _path(id), {}, lambda answer: wire.cancelled(answer, id))

    def limits(self) -> Limits:
        """What one job may ask for."""
        return self._remember("limits", lambda: self._ask("GET", "/context", {}, wire.limits))

    def images(self, kind: str | None = "headless") -> list[Image]:
        """The images that the platform lists."""
        query = {"type": kind} if kind else {}
        return list(self._remember(f"images of {kind}", lambda: self._ask("GET", "/image", query, wire.images)))

    def stats(self) -> Mapping[str, Any]:
        """The cluster's totals, as the platform gives them."""
        # what measures the cluster may be down for days while all else works; nobody should wait for it
        return self._ask("GET", "/session", {"view": "stats"}, wire.stats, attempts=1)

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        read: Callable[[wire.Answer], T],
        *,
        attempts: int | None = None,
    ) -> T:
        def noted(answer: wire.Answer) -> T:
            self._note(answer)
            return read(answer)

        return self._transport.ask(method, path, query, read=noted, attempts=attempts)

    def _note(self, answer: wire.Answer) -> None:
        self._user = answer.user or self._user

    def _remember(self, name: str, ask: Callable[[], T]) -> T:
        with self._lock:
            at, value = self._remembered.get(name, (0.0, None))
        if value is None or self._ticks() - at > self.memory:
            at, value = self._ticks(), ask()
            with self._lock:
                self._remembered[name] = at, value
        return value  # type: ignore[no-any-return]


def _path(id: str) -> str:
    """Where a container is. With an empty id the service would pick any container, or delete none and say that it did.

    Raises:
        JobNotFound: The platform gives no such ids.
    """
    if not wire.is_id(id):
        raise JobNotFound(f"{id!r} is no id of a container; ids are eight small letters and digits, as abcd1234")
    return f"/session/{id}"


def open_platform(
    url: str | None = None,
    *,
    token: str | None = None,
    certificate: str | os.PathLike[str] | None = None,
    timeout: float = 30.0,
    env: Mapping[str, str] | None = None,
    home: Path | None = None,
) -> RestPlatform:
    """The platform at *url*, with a credential that was found; nothing is sent yet.

    Args:
        url: The address, with or without its version; else `CANFAR_URL`, the saved login's, or CANFAR's own.
        token: A bearer token. Else `CANFAR_TOKEN`, `CANFAR_CERTIFICATE`, the official client's saved login, or
            `~/.ssl/cadcproxy.pem`.
        certificate: A PEM file with a certificate and its key, instead of a token.
        timeout: Seconds of silence after which a question is given up. A create waits 90 s.
        env: The environment to look in; by default the process's own.
        home: The home directory to look in; by default the user's own.

    Raises:
        CredentialMissing: No credential for this platform was found.
        CredentialExpired: One was, and its time is over.
        AddressError: *url* is no address that a credential may be sent to.
    """
    if not timeout > 0:
        raise ValueError(f"timeout={timeout!r} is not a positive number of seconds")
    env = os.environ if env is None else env
    if (url or env.get("CANFAR_URL")) == "local":
        raise AddressError("'local' is no address: Session.connect('local') starts a platform on this machine")
    secrets = Secrets()
    ca_bundle = env.get("REQUESTS_CA_BUNDLE") or env.get("CURL_CA_BUNDLE") or None
    user_agent = f"canfar_batch/{__version__}"
    found = find(
        url=url,
        token=token,
        certificate=certificate,
        env=env,
        home=Path.home() if home is None else home,
        post=form_poster(user_agent=user_agent, ca_bundle=ca_bundle, timeout=timeout, secrets=secrets),
        secrets=secrets,
    )
    patience = Patience(connect=min(10.0, timeout), read=timeout, total=10 * timeout)
    transport = Transport(
        found.url, found.provider, secrets, user_agent=user_agent, ca_bundle=ca_bundle, patience=patience
    )
    return RestPlatform(transport, found.provider, registry=found.registry)
