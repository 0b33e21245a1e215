"""How the service words its answers: plain text, pretty-printed JSON, and refusals as exceptions."""

from __future__ import annotations

import json
from collections.abc import Sequence

from canfar_batch.local.httpd import Response

Headers = tuple[tuple[str, str], ...]


class Refusal(Exception):
    """An answer other than success, raised where the reason is found."""

    def __init__(self, status: int, text: str, headers: Headers = ()) -> None:
        super().__init__(text)
        self.response = text_answer(status, text + "\n" if 400 <= status < 500 and status != 401 else text, headers)


def illegal(text: str) -> Refusal:
    """A request that the service calls an illegal argument: 400 with the reason."""
    return Refusal(400, text)


def unexpected(java: str) -> Refusal:
    """What the service answers to its own exceptions: 500 with their Java text."""
    return Refusal(500, f"unexpected exception: {java}")


def text_answer(status: int, text: str, headers: Headers = ()) -> Response:
    """A plain-text answer."""
    return Response(status, text.encode(), "text/plain", headers)


def json_text(value: object) -> str:
    """JSON as the service prints it: indented, nothing escaped that JSON does not ask for."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def json_answer(value: object) -> Response:
    """A JSON answer."""
    return Response(200, json_text(value).encode(), "application/json")


def json_list(items: Sequence[str]) -> Response:
    """A JSON array from items that are already printed and indented."""
    body = "[\n" + ",\n".join(items) + "\n]" if items else "[]"
    return Response(200, body.encode(), "application/json")


def html_page(status: int, title: str) -> Response:
    """A page such as proxies and servlet containers show in place of the service."""
    page = f'<!doctype html><html lang="en"><head><title>{title}</title></head><body><h1>{title}</h1></body></html>'
    return Response(status, page.encode(), "text/html;charset=utf-8")
