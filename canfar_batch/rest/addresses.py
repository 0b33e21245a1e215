"""Addresses: their one spelling, and whether a credential may be sent to them."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit, urlunsplit

import attrs

from canfar_batch.errors import AddressError
from canfar_batch.text import did_you_mean

DEFAULT_URL = "https://ws-uv.canfar.net/skaha/v1"

#: CANFAR's own hosts: certificates made for CANFAR may be shown there without asking
_OFFICIAL = ("canfar.net", "cadc-ccda.hia-iha.nrc-cnrc.gc.ca")
_PORTS = {"https": 443, "http": 80}
_VERSION = re.compile(r"/v\d+(\.\d+)*$")


@attrs.frozen
class Origin:
    """Scheme, host and port of one party."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _PORTS[self.scheme] else f":{self.port}")


def origin(url: str) -> Origin:
    """Return the origin of *url*.

    Raises:
        AddressError: It is not an http(s) address, or carries a user name or password.
    """
    parts = _split(url)
    host = (parts.hostname or "").rstrip(".")
    return Origin(parts.scheme, host, parts.port or _PORTS[parts.scheme])


def platform_url(text: str) -> str:
    """Return the platform's base address with its version, in the one spelling that we compare.

    `ws-uv.canfar.net`, `https://ws-uv.canfar.net/skaha/` and `…/skaha/v1/session` all mean the same platform.

    Raises:
        AddressError: It is not an address, or a credential would travel unencrypted.
    """
    text = text.strip()
    text = text if "://" in text else f"https://{text}"
    where = origin(text)
    meant = did_you_mean(where.host, ["local"], shown='"{}"'.format)
    if meant and not is_loopback(where):
        raise AddressError(f"{where.host!r} is not the address of a platform; {meant}")
    if not is_confidential(where):
        raise AddressError(f"{where} is not https: a credential would travel unencrypted; write https://{where.host}…")
    parts = urlsplit(text)
    if parts.query or parts.fragment:
        raise AddressError(f"{without_query(text)!r} is not the address of a platform: it should end with the path")
    path = parts.path.rstrip("/").removesuffix("/session")
    path = path or "/skaha"  # every deployment known to us is mounted there
    if not _VERSION.search(path):
        path += "/v1"
    return f"{where}{path}"


def is_confidential(where: Origin) -> bool:
    """Return whether no one on the way can read the traffic: https, or this machine itself."""
    return where.scheme == "https" or is_loopback(where)


def is_loopback(where: Origin) -> bool:
    """Return whether the other end is this machine."""
    try:
        return ipaddress.ip_address(where.host).is_loopback
    except ValueError:
        return where.host == "localhost" or where.host.endswith(".localhost")


def is_official(where: Origin) -> bool:
    """Return whether this is a host of CANFAR or the CADC, by https."""
    return where.scheme == "https" and any(where.host == name or where.host.endswith(f".{name}") for name in _OFFICIAL)


def without_query(url: str) -> str:
    """Return *url* without the parts that may be secret, for messages."""
    try:
        parts = urlsplit(url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    except ValueError:
        return "an address that cannot be read"


def _split(url: str) -> SplitResult:
    try:
        # urlsplit drops tabs and newlines, and keeps backslashes, which other readers take for slashes
        if not re.fullmatch(r"[\x21-\x7e]+", url) or "\\" in url:
            raise ValueError("it holds a character that addresses do not have")
        parts = urlsplit(url)
        _ = parts.port
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError("it should look like https://host/skaha/v1")
        if parts.username is not None or parts.password is not None:
            raise ValueError("it holds a user name; pass token= or certificate= instead")
    except ValueError as error:
        raise AddressError(f"{without_query(url)!r} is not the address of a platform: {error}") from None
    return parts
