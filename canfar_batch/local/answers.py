"""How the service words its answers: plain text, JSON, and refusals as exceptions."""

from __future__ import annotations

import json
from collections.abc import Sequence

from canfar_batch.local.messages import Response

Headers = tuple[tuple[str, str], ...]


class Refusal(Exception):
    """An answer other than success, raised at the place that finds the reason."""

    def __init__(self, status: int, text: str, headers: Headers = ()) -> None:
        super().__init__(text)
        self.response = text_answer(status, text + "\n" if 400 <= status < 500 and status != 401 else text, headers)


class MalformedRequest(Refusal):
    """A refusal that comes before the service looks at who asks."""


def illegal(text: str) -> Refusal:
    """Return the refusal of what the service calls an illegal argument: 400 with the reason."""
    return Refusal(400, text)


def unexpected(java: str) -> Refusal:
    """Return the service's answer to its own exceptions: 500 with their Java text."""
    return Refusal(500, f"unexpected exception: {java}")


def text_answer(status: int, text: str, headers: Headers = ()) -> Response:
    """Return a plain-text answer."""
    return Response(status, text.encode(), "text/plain", headers)


def empty_answer() -> Response:
    """Return a success without content."""
    return Response(200, b"", None)


def json_text(value: object) -> str:
    """Return JSON as the service prints it: indented, nothing escaped unless JSON requires it."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def json_answer(value: object, *, compact: bool = False) -> Response:
    """Return a JSON answer, indented unless *compact*."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False) if compact else json_text(value)
    return Response(200, text.encode(), "application/json")


def json_list(items: Sequence[str]) -> Response:
    """Return a JSON array of items that are already printed and indented."""
    body = "[\n" + ",\n".join(items) + "\n]" if items else "[]"
    return Response(200, body.encode(), "application/json")


def html_page(status: int, title: str) -> Response:
    """Return a page such as proxies show instead of the service's answer."""
    page = f'<!doctype html><html lang="en"><head><title>{title}</title></head><body><h1>{title}</h1></body></html>'
    return Response(status, page.encode(), "text/html;charset=utf-8")
