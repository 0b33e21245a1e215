"""Which part of the service a path leads to."""

from __future__ import annotations

import re
from urllib.parse import unquote

import attrs

from canfar_batch.local import tomcat
from canfar_batch.local.messages import Request, Response

ROOT = "/skaha"
VERSION = "v1"
STORAGE = "/arc"  #: the root of the storage service
#: methods by resource; every resource also answers OPTIONS
METHODS = {
    "session": ("GET", "POST", "DELETE"),
    "context": ("GET",),
    "image": ("GET",),
    "repository": ("GET",),
    "capabilities": ("GET", "HEAD"),
    "availability": ("GET", "HEAD"),
}
_VIEWS = {"logs", "events", "stats"}
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\"<>\\^`{|}]")


@attrs.frozen
class Route:
    """The place that a request leads to."""

    resource: str | None  #: None if it is not a place of the service
    kind: str  #: the kind of request, by which faults and counts tell requests apart
    rest: tuple[str, ...] = ()  #: the path's segments after the resource
    has_slash: bool = False  #: whether the path ends in a slash


def refused_target(request: Request) -> Response | None:
    """Return Tomcat's refusal of a request target, or None if it is well-formed."""
    target = request.path + (f"?{request.query}" if request.query else "")
    if _FORBIDDEN.search(target):
        return tomcat.invalid_target(target)
    if "%2f" in request.path.lower():
        return tomcat.bad_request("Invalid URI: [The encoded slash character is not allowed]")
    if _ESCAPE.search(request.path):
        return tomcat.bad_request("Invalid URI: [The hexadecimal encoding is invalid]")
    return None


def find(request: Request) -> Route:
    """Return the route of a request, with parameters of the path cut off and dots resolved as Tomcat does."""
    segments: list[str] = []
    parts = request.path.split("/")[1:]
    for part in parts:
        segment = unquote(part.partition(";")[0])
        if segment == "..":
            del segments[-1:]
        elif segment not in {"", "."}:
            segments.append(segment)
    has_slash = parts[-1] in {"", ".", ".."} if parts else False
    return _route(request, segments, has_slash)


def _route(request: Request, segments: list[str], has_slash: bool) -> Route:
    if segments[:1] in ([STORAGE[1:]], ["reg"]):
        return Route("storage", _storage_kind(request, segments))
    if segments[:1] != [ROOT[1:]]:
        return Route(None, "other")
    if len(segments) == 2 and segments[1] in {"capabilities", "availability"} and not has_slash:
        return Route(segments[1], segments[1])
    if segments[1:2] != [VERSION] or len(segments) < 3 or segments[2] not in METHODS:
        return Route(None, "other")
    resource, rest = segments[2], tuple(segments[3:])
    if resource == "session":
        return Route(resource, _session_kind(request, rest, has_slash), rest, has_slash)
    if resource in {"capabilities", "availability"}:
        return Route(None, "other")
    return Route(resource, resource, rest, has_slash)


def _storage_kind(request: Request, segments: list[str]) -> str:
    part = segments[1] if len(segments) > 1 else ""
    if part == "files":
        return "upload" if request.method == "PUT" else "download"
    return {"nodes": "node", "capabilities": "storage", "availability": "storage", "resource-caps": "storage"}.get(
        part, "transfer"
    )


def _session_kind(request: Request, rest: tuple[str, ...], has_slash: bool) -> str:
    if request.method == "DELETE":
        return "delete"
    if request.method == "POST":
        return "renew" if rest or has_slash else "create"
    found = re.search(r"(?:^|&)view=(\w+)", request.query, re.IGNORECASE)
    view = found[1] if found and found[1] in _VIEWS else None
    if rest or has_slash:
        return view if view in {"logs", "events"} else "show"
    return "stats" if view == "stats" else "list"
