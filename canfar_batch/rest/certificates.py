"""The expiry of a certificate, read from its file with the standard library alone.

A certificate is DER: nested values, each a tag, a length and that many bytes. Only its two dates are read here; TLS
judges the rest.
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import datetime, timezone

_CERTIFICATE = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----(.+?)-----END", re.DOTALL)
_KEY = re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----")

_SEQUENCE, _VERSION, _UTC_TIME, _GENERAL_TIME = 0x30, 0xA0, 0x17, 0x18


def pem_expiry(pem: bytes) -> datetime:
    """Return when the first of the certificates in *pem* expires: a proxy is good only while its issuers are.

    Raises:
        ValueError: It holds no certificate, or one that cannot be read.
    """
    bodies = _CERTIFICATE.findall(pem)
    if not bodies:
        raise ValueError("it holds no certificate")
    try:
        return min(der_expiry(base64.b64decode(b"".join(body.split()), validate=True)) for body in bodies)
    except binascii.Error as error:
        raise ValueError("its certificate is not base64") from error


def has_private_key(pem: bytes) -> bool:
    """Return whether *pem* holds a private key, without which the certificate cannot be used."""
    return _KEY.search(pem) is not None


def der_expiry(der: bytes) -> datetime:
    """Return the `notAfter` of one DER certificate, UTC.

    Raises:
        ValueError: It is not a certificate.
    """
    certificate, _ = _value(der, _SEQUENCE)
    rest, _ = _value(certificate, _SEQUENCE)
    if rest[:1] == bytes([_VERSION]):
        _, rest = _value(rest)
    for _serial_algorithm_issuer in range(3):
        _, rest = _value(rest)
    validity, _ = _value(rest, _SEQUENCE)
    _not_before, rest = _value(validity)
    text, _ = _value(rest)
    return _time(rest[0], text)


def _value(data: bytes, tag: int | None = None) -> tuple[bytes, bytes]:
    """Return the content of the first value in *data*, and the rest."""
    if len(data) < 2 or (tag is not None and data[0] != tag):
        raise ValueError("its certificate cannot be read")
    length, start = data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
    if len(data) < start + length:
        raise ValueError("its certificate is cut short")
    return data[start : start + length], data[start + length :]


def _time(tag: int, text: bytes) -> datetime:
    digits = text.decode("ascii", "replace")
    if tag == _UTC_TIME:
        # two digits of a year mean 1950 to 2049 (RFC 5280, 4.1.2.5.1)
        digits = ("20" if digits[:2] < "50" else "19") + digits
    elif tag != _GENERAL_TIME:
        raise ValueError("its certificate cannot be read")
    return datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc)
