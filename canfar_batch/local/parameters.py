"""How the service reads a request's parameters: names in any case, forms only, never JSON."""

from __future__ import annotations

import codecs
import re
import urllib.parse
from collections.abc import Iterable

from canfar_batch.local.answers import MalformedRequest
from canfar_batch.local.messages import Request

FORM = "application/x-www-form-urlencoded"
FORM_LIMIT = 2 * 1024 * 1024  #: bytes of a form; a larger one loses all its parameters
PARAMETER_LIMIT = 10_000  #: parameters of a request; those after it are lost
_BODY_CHARSET = "iso-8859-1"  # Tomcat's assumption for a form without a charset


class Parameters:
    """The parameters of one request."""

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(name.lower(), []).append(value)

    def first(self, name: str) -> str | None:
        """Return the first value of *name*, or None."""
        values = self._values.get(name.lower())
        return values[0] if values else None

    def all(self, name: str) -> list[str]:
        """Return every value of *name*."""
        return list(self._values.get(name.lower(), ()))

    def as_dict(self) -> dict[str, list[str]]:
        """Return all parameters, names in lower case."""
        return {name: list(values) for name, values in self._values.items()}


def of(request: Request) -> Parameters:
    """Return the parameters of *request*, as the service sees them.

    Raises:
        MalformedRequest: A multipart body is cut short or has no boundary, or a name occurs in two spellings.
    """
    content_type = request.headers.get("content-type", "")
    kind = content_type.split(";")[0].strip().lower()
    if request.method == "POST" and content_type.startswith("multipart/form-data"):  # in lower case only
        return Parameters(_multipart(content_type, request.body))
    if request.method == "POST" and kind != FORM:
        return Parameters()
    pairs = urlencoded(request.query, "utf-8")
    if request.method == "POST":
        if len(request.body) > FORM_LIMIT:
            return Parameters()
        body = request.body.decode("latin-1")  # percent-escapes are ASCII; the charset says what they mean
        pairs += urlencoded(body, _charset(content_type))
    del pairs[PARAMETER_LIMIT:]
    spellings = {name for name, _ in pairs}
    if len(spellings) > len({name.lower() for name in spellings}):
        raise MalformedRequest(400, "null")
    return Parameters(pairs)


def urlencoded(text: str, charset: str) -> list[tuple[str, str]]:
    """Return the pairs of a query string or form; a broken percent-escape loses its pair."""
    pairs = []
    for piece in text.split("&"):
        if piece and not re.search(r"%(?![0-9A-Fa-f]{2})", piece):
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
    mark = b"--" + (boundary[1] or boundary[2]).encode("latin-1", "replace") if boundary else b""
    if boundary is None or mark + b"--" not in body:
        raise MalformedRequest(500, "unexpected exception: java.io.IOException: failed to read input")
    pairs = []
    for part in (b"\r\n" + body).split(b"\r\n" + mark)[1:]:
        head, blank, content = part.partition(b"\r\n\r\n")
        name = re.search(r"(?:^|[;\s])name=\"([^\"]*)\"", head.decode("utf-8", "replace"), re.IGNORECASE)
        if blank and name:
            pairs.append((name[1], content.decode("utf-8", "replace")))
    return pairs
