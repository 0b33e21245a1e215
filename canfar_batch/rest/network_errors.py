"""Why no complete answer came: the network's exceptions become ours, in words that a person can act on."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Callable, Iterator

import attrs
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    ReadTimeoutError,
)

from canfar_batch.errors import NotSent, PlatformBroken, PlatformUnreachable

#: every exception that a request may end with; ValueError comes from http.client, for malformed answers
NETWORK_ERRORS = (HTTPError, OSError, http.client.HTTPException, ValueError)


class TooLarge(PlatformBroken):
    """The answer exceeds its limit; a second request would get the same."""


class Untrusted(NotSent):
    """The other end could not prove that it is the platform; a second request would not help."""


class CertificateRefused(Exception):
    """The other end refused our certificate in the TLS handshake, as a 401 does a token."""


@attrs.frozen(kw_only=True)
class Failed:
    """One exchange that failed, and the facts by which its failure is named."""

    error: BaseException
    where: str  #: the origin
    total: float  #: the longest time allowed for the exchange, seconds
    connected: bool  #: whether the connection was established, so that the request may have been sent
    cut: bool  #: whether the watchdog ended it

    @property
    def chain(self) -> list[BaseException]:
        """The exception and all those that it carries, the outermost first."""
        return list(_links(self.error))

    @property
    def tls_reason(self) -> str:
        """OpenSSL's name for the failure; empty if it was not TLS's."""
        return next((link.reason for link in self.chain if isinstance(link, ssl.SSLError) and link.reason), "")

    @property
    def innermost(self) -> str:
        """The shortest name for the cause."""
        chain = self.chain
        texts = (link.strerror for link in reversed(chain) if isinstance(link, OSError) and link.strerror)
        return next(texts, type(chain[-1]).__name__)


#: alerts by which the other end refuses our certificate
_CERTIFICATE_ALERTS = (
    "CERTIFICATE_REQUIRED", "BAD_CERTIFICATE", "CERTIFICATE_EXPIRED", "CERTIFICATE_REVOKED", "CERTIFICATE_UNKNOWN",
    "UNSUPPORTED_CERTIFICATE", "ALERT_UNKNOWN_CA", "ALERT_ACCESS_DENIED",
)  # fmt: skip


def _has(*kinds: type[BaseException]) -> Callable[[Failed], bool]:
    return lambda failed: any(isinstance(link, kinds) for link in failed.chain)


#: the first row whose condition holds names the failure
_NAMES: tuple[tuple[Callable[[Failed], object], str], ...] = (
    (lambda failed: failed.cut, "took longer than {failed.total:g} s in all"),
    (_has(NameResolutionError), "is not a known host name here; is this machine online?"),
    (_has(ProxyError), "cannot be reached through the proxy that the environment names"),
    (_has(ConnectionRefusedError), "refuses the connection"),
    (_has(NewConnectionError), "cannot be reached ({failed.innermost})"),  # a ConnectTimeoutError too, by its class
    (_has(ConnectTimeoutError), "cannot be reached in time"),
    (_has(ReadTimeoutError, TimeoutError), "went silent before the whole answer was there"),
    (lambda failed: failed.tls_reason, "does not complete the TLS handshake ({failed.tls_reason})"),
    (lambda failed: not failed.connected, "ended the connection before it was established ({failed.innermost})"),
    (lambda failed: True, "ended the connection before the whole answer was there ({failed.innermost})"),
)


def network_error(failed: Failed, redact: Callable[[str], str]) -> Exception:
    """Return our exception for an exchange that failed."""
    reason = failed.tls_reason
    if any(alert in reason for alert in _CERTIFICATE_ALERTS) and "VERIFY_FAILED" not in reason:
        return CertificateRefused(f"in the TLS handshake: {reason}")
    for link in failed.chain:
        if isinstance(link, ssl.SSLCertVerificationError):
            return Untrusted(
                f"{failed.where} could not prove its identity ({link.verify_message}). If your institute certified it,"
                " let REQUESTS_CA_BUNDLE name the file of the institute's authority."
            )
    name = next(text for holds, text in _NAMES if holds(failed))
    kind = PlatformUnreachable if failed.connected else NotSent
    return kind(redact(f"{failed.where} {name.format(failed=failed)}"))


def _links(error: BaseException) -> Iterator[BaseException]:
    queue: list[object] = [error]
    seen: list[object] = []
    while queue:
        link = queue.pop(0)
        if isinstance(link, BaseException) and link not in seen:
            seen.append(link)
            yield link
            queue += [*link.args, getattr(link, "reason", None), link.__cause__, link.__context__]
