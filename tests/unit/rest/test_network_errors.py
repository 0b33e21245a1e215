"""The name of each failure, from the exceptions that urllib3 and the system raise."""

import errno
import http.client
import socket
import ssl

import pytest
from urllib3.exceptions import (
    ConnectTimeoutError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)

from canfar_batch.errors import NotSent, PlatformUnreachable
from canfar_batch.rest.network_errors import CertificateRefused, Failed, Untrusted, network_error


def caused(error, cause):
    error.__cause__ = cause
    return error


def tls(reason, kind=ssl.SSLError):
    error = kind(1, f"[SSL: {reason}] {reason.lower()}")
    error.reason = reason
    return error


def wrapped(error):
    """The error as urllib3 hands it on."""
    return MaxRetryError(None, "/session", reason=error)


REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
NO_ROUTE = OSError(errno.EHOSTUNREACH, "No route to host")
RESET = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
NAMES = {
    "unknown host": (NameResolutionError("h", None, socket.gaierror(-2, "unknown")), "is not a known host name here"),
    "proxy": (ProxyError("no", REFUSED), "cannot be reached through the proxy"),
    "refused": (caused(NewConnectionError(None, "no"), REFUSED), "refuses the connection"),
    "no route": (caused(NewConnectionError(None, "no"), NO_ROUTE), "cannot be reached (No route to host)"),
    "slow to connect": (ConnectTimeoutError(None, "timed out"), "cannot be reached in time"),
    "silent": (ReadTimeoutError(None, "/", "timed out"), "went silent before the whole answer was there"),
    "time out": (TimeoutError("timed out"), "went silent before the whole answer was there"),
    "TLS": (SSLError(tls("WRONG_VERSION_NUMBER")), "does not complete the TLS handshake (WRONG_VERSION_NUMBER)"),
    "reset": (ProtocolError("broken", RESET), "ended the connection before {} (Connection reset by peer)"),
    "not HTTP": (
        ProtocolError("broken", http.client.BadStatusLine("x")),
        "ended the connection before {} (BadStatusLine)",
    ),
}


@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize("case", NAMES)
def test_failure_has_its_name_and_says_whether_anything_was_sent(case, connected):
    trouble, text = NAMES[case]
    when = "the whole answer was there" if connected else "it was established"
    for error in (trouble, wrapped(trouble)):
        failed = Failed(error=error, where="https://h", total=9.0, connected=connected, cut=False)
        found = network_error(failed, lambda shown: shown)
        assert type(found) is (PlatformUnreachable if connected else NotSent)
        assert f"https://h {text.format(when)}" in str(found)


def test_exchange_that_the_watchdog_ended_took_too_long():
    failed = Failed(error=RESET, where="https://h", total=9.0, connected=True, cut=True)
    assert str(network_error(failed, lambda shown: shown)) == "https://h took longer than 9 s in all"


@pytest.mark.parametrize(
    "reason", ["TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_BAD_CERTIFICATE", "TLSV1_ALERT_UNKNOWN_CA"]
)
def test_alert_about_our_certificate_is_a_refused_certificate(reason):
    failed = Failed(error=wrapped(SSLError(tls(reason))), where="https://h", total=9.0, connected=False, cut=False)
    assert type(network_error(failed, str)) is CertificateRefused


def test_certificate_that_cannot_be_verified_is_not_trusted():
    error = tls("CERTIFICATE_VERIFY_FAILED", ssl.SSLCertVerificationError)
    error.verify_message = "unable to get local issuer certificate"
    failed = Failed(error=wrapped(SSLError(error)), where="https://h", total=9.0, connected=False, cut=False)
    found = network_error(failed, str)
    assert type(found) is Untrusted
    assert "unable to get local issuer certificate" in str(found)
    assert "REQUESTS_CA_BUNDLE" in str(found)


def test_secrets_are_masked_in_the_name():
    error = caused(NewConnectionError(None, "no"), OSError(errno.EIO, "hush"))
    failed = Failed(error=error, where="https://h", total=9.0, connected=False, cut=False)
    assert "hush" not in str(network_error(failed, lambda shown: shown.replace("hush", "[secret]")))
