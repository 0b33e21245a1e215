"""How the service reads a request's parameters: names in any case, forms only, JSON not at all."""

from __future__ import annotations

import codecs
import re
import urllib.parse
from collections.abc import Iterable

from canfar_batch.local.httpd import Request

FORM = "application/x-www-form-urlencoded"
FORM_LIMIT = 2 * 1024 * 1024  #: bytes of a form; a larger one loses all its parameters
_BODY_CHARSET = "iso-8859-1"  # what Tomcat assumes of a form that does not say


class Parameters:
    """The parameters of one request."""

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(name.lower(), []).append(value)

    def first(self, name: str) -> str | None:
        """The first value of *name*, or None."""
        values = self._values.get(name.lower())
        return values[0] if values else None

    def all(self, name: str) -> list[str]:
        """Every value of *name*."""
        return list(self._values.get(name.lower(), ()))

    def as_dict(self) -> dict[str, list[str]]:
        """All that was sent, names in lower case."""
        return {name: list(values) for name, values in self._values.items()}


def of(request: Request) -> Parameters:
    """The parameters of *request*, as the service sees them."""
    query = urlencoded(request.query, "utf-8")
    if request.method != "POST":
        return Parameters(query)
    content_type = request.headers.get("content-type", "")
    kind = content_type.split(";")[0].strip().lower()
    if kind == FORM:
        if len(request.body) > FORM_LIMIT:
            return Parameters()
        body = request.body.decode("latin-1")  # percent-escapes are ASCII; what they mean is decided below
        return Parameters([*query, *urlencoded(body, _charset(content_type))])
    if kind == "multipart/form-data":
        return Parameters(_multipart(content_type, request.body))
    return Parameters()


def urlencoded(text: str, charset: str) -> list[tuple[str, str]]:
    """The pairs of a query string or form."""
    pairs = []
    for piece in text.split("&"):
        if piece:
            name, _, value = piece.partition("=")
            pairs.append((_unquoted(name, charset), _unquoted(value, charset)))
    return pairs


def _unquoted(text: str, charset: str) -> str:
    raw = urllib.parse.unquote_to_bytes(text.replace("+", " ").encode("latin-1", "replace"))
    return raw.decode(charset, "replace")


def _charset(content_type: str) -> str:
    found = re.search(r"charset\s*=\s*\"?([\w.:-]+)", content_type, re.IGNORECASE)
    try:
        return codecs.lookup(found[1]).name if found else _BODY_CHARSET
    except LookupError:
        return _BODY_CHARSET


def _multipart(content_type: str, body: bytes) -> list[tuple[str, str]]:
    boundary = re.search(r"boundary\s*=\s*(?:\"([^\"]+)\"|([^;\s]+))", content_type, re.IGNORECASE)
    if boundary is None:
        return []
    mark = b"--" + (boundary[1] or boundary[2]).encode("latin-1", "replace")
    pairs = []
    for part in (b"\r\n" + body).split(b"\r\n" + mark)[1:]:
        head, blank, content = part.partition(b"\r\n\r\n")
        name = re.search(r"(?:^|[;\s])name=\"([^\"]*)\"", head.decode("utf-8", "replace"), re.IGNORECASE)
        if blank and name:
            pairs.append((name[1], content.decode("utf-8", "replace")))
    return pairs
