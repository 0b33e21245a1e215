"""HTTP requests and answers as the local platform's parts pass them to each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs


@attrs.frozen
class Request:
    """A request with its percent-escapes untouched."""

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = attrs.field(
        factory=dict
    )  #: names in lower case; repeated values on lines of their own
    body: bytes = b""


@attrs.frozen
class Response:
    """An answer."""

    status: int
    body: bytes = b""
    content_type: str | None = "text/plain"
    headers: tuple[tuple[str, str], ...] = ()
    promised: int | None = None  #: a Content-Length that the body does not fill: the connection breaks after it


class ConnectionDropped(Exception):
    """A handler raises it to reset the connection instead of answering."""


Handler = Callable[[Request], Response]
