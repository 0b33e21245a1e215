"""HTTP requests and answers as the local platform's parts pass them to each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO, Protocol

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
    is_secure: bool = False  #: whether it came over TLS
    spool: BinaryIO | None = attrs.field(
        default=None, repr=False, eq=False
    )  #: the body of an upload, instead of `body`
    is_cut: bool = False  #: whether the connection ended before the end of an upload

    def pieces(self, size: int) -> Iterator[bytes]:
        """Iterate over the body in pieces of *size* bytes, from its beginning."""
        if self.spool is None:
            yield self.body
            return
        self.spool.seek(0)
        while piece := self.spool.read(size):
            yield piece


@attrs.frozen
class Response:
    """An answer."""

    status: int
    body: bytes = b""
    content_type: str | None = "text/plain"
    headers: tuple[tuple[str, str], ...] = ()
    promised: int | None = None  #: a Content-Length that the body does not fill: the connection breaks after it
    source: BinaryIO | None = attrs.field(default=None, repr=False, eq=False)  #: a large body, instead of `body`
    length: int = 0  #: bytes to send from `source`


class ConnectionDropped(Exception):
    """A handler raises it to reset the connection instead of answering."""


Handler = Callable[[Request], Response]


class Uploads(Protocol):
    """How uploads are received, which may be too large for memory."""

    def is_upload(self, request: Request) -> bool:
        """Return whether the body of a request is spooled to a file; the request is without its body yet."""
        ...

    def early(self, request: Request) -> Response | None:
        """Return an answer that comes before the body was read; None if the body is wanted."""
        ...
