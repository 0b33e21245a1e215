"""Connections to one origin: pools, TLS, proxies, client certificates.

urllib3's pools do the work directly. They are documented as safe to use from many threads, which `requests.Session` is
not; and they keep no cookies, follow no redirect unless asked to, and ignore `.netrc`, by which a session would replace
our Authorization header. The rules for proxies and certificate authorities are those of requests, which users know.
"""

from __future__ import annotations

import os
import ssl
import threading
from pathlib import Path
from typing import Any

import requests.utils
import urllib3
from urllib3.exceptions import HTTPError

from canfar_batch.errors import CredentialError, NotSent
from canfar_batch.rest.addresses import is_loopback, origin, without_query
from canfar_batch.rest.credentials import PemFile
from canfar_batch.rest.exchange import WatchedPool, WatchedTlsPool
from canfar_batch.rest.network_errors import Untrusted

_POOL_SIZE = 128  #: connections kept; more are opened when needed, and closed after use


class Connections:
    """Pools of connections to one origin, one pool for each client certificate."""

    def __init__(self, url: str, ca_bundle: str | None) -> None:
        self._url = url
        self._ca_bundle = ca_bundle or requests.utils.DEFAULT_CA_BUNDLE_PATH
        self._proxy = _proxy_for(url)
        self._lock = threading.Lock()
        self._shared: tuple[object, urllib3.PoolManager] | None = None
        self._context: tuple[PemFile | None, ssl.SSLContext] | None = None

    def manager(self, certificate: PemFile | None, *, fresh: bool) -> urllib3.PoolManager:
        """Return the pool for requests that show *certificate*.

        Args:
            certificate: The client certificate, or None.
            fresh: Return a new pool without connections. The other end may have closed a kept connection, and then it
                is unknown whether it received the request; on a new connection, a failure before it is established
                proves that nothing was sent.
        """
        with self._lock:
            if fresh:
                return self._make(self._tls(certificate), 1)
            # connections must not be shared with the parent of a fork
            key = (certificate, os.getpid())
            if self._shared is None or self._shared[0] != key:
                # the old pool is left to its last user: closing it here would break requests in flight
                self._shared = key, self._make(self._tls(certificate), _POOL_SIZE)
            return self._shared[1]

    def close(self) -> None:
        """Close the idle connections."""
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
                raise NotSent(
                    f"The proxy {proxy}, named by the environment, is of a kind that is not supported"
                ) from None
        manager.pool_classes_by_scheme = {"http": WatchedPool, "https": WatchedTlsPool}
        return manager

    def _tls(self, certificate: PemFile | None) -> ssl.SSLContext | None:
        """Return the TLS settings, made once for each certificate, as reading the authorities takes a while."""
        if origin(self._url).scheme != "https":
            return None
        if self._context is None or self._context[0] != certificate:
            self._context = certificate, _tls_context(self._ca_bundle, certificate)
        return self._context[1]


def _proxy_for(url: str) -> str | None:
    """Return the environment's proxy for *url*; None for this machine, as a proxy would see what we send."""
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

    def refuse_password() -> str:  # without it, OpenSSL would ask for one at the terminal
        raise ValueError("its key is encrypted, and only a key without a password can be used")

    try:
        context.load_cert_chain(certificate.path, password=refuse_password)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise CredentialError(f"The certificate {certificate.path} cannot be used: {reason}") from error
    return context
