"""The service: which request does what, and who may ask."""

from __future__ import annotations

import dataclasses
import hmac
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from canfar_batch.local import creation, parameters, views
from canfar_batch.local.answers import (
    Headers,
    Refusal,
    html_page,
    illegal,
    json_answer,
    json_list,
    text_answer,
)
from canfar_batch.local.cluster import Cluster
from canfar_batch.local.containers import FINAL, Container
from canfar_batch.local.faults import Faults, Recorded, Requests
from canfar_batch.local.httpd import Request, Response

ROOT = "/skaha"
VERSION = "v1"
_LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]+)?", re.IGNORECASE)
_METHODS = {
    "session": ("GET", "POST", "DELETE"),
    "context": ("GET",),
    "image": ("GET",),
    "repository": ("GET",),
    "capabilities": ("GET", "HEAD"),
    "availability": ("GET",),
}
_VIEWS = {"logs", "events", "stats"}
_SERVER = ("server", "OpenCADC/cadc-rest")


@dataclasses.dataclass(frozen=True)
class Image:
    """An image that the platform lists."""

    id: str
    types: tuple[str, ...] = ("headless",)
    digest: str = "sha256:" + "0" * 64


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the service is told at its start."""

    user: str
    hostname: str
    token: str = dataclasses.field(repr=False)
    gpus: int = 0
    images: Sequence[Image] = ()
    strict_images: bool = False
    max_interactive: int = 3


@dataclasses.dataclass(frozen=True)
class Route:
    """Where a request goes: *resource* None is no place of the service."""

    resource: str | None
    kind: str
    rest: tuple[str, ...] = ()  #: the path's segments after the resource


class Service:
    """Answers requests as skaha does."""

    def __init__(self, settings: Settings, cluster: Cluster, faults: Faults, requests: Requests) -> None:
        self._settings = settings
        self._cluster = cluster
        self._faults = faults
        self._requests = requests
        self._shown = views.Shown(f"http://{settings.hostname}{ROOT}/{VERSION}")
        self._create_lock = threading.Lock()
        self._public = {image.id for image in settings.images}
        self.stopping = threading.Event()  #: set when stalled answers shall wait no longer

    def __call__(self, request: Request) -> Response:
        """Answer a request, faults and all."""
        route = routed(request)
        status: int | None = None
        try:
            response = self._faults.answer(request, route.kind, lambda: self.answer(request, route), self.stopping)
            status = response.status
            return response
        finally:
            fields = parameters.of(request).as_dict()
            self._requests.note(Recorded(request.method, request.path, route.kind, fields, status))

    def answer(self, request: Request, route: Route) -> Response:
        """Answer a request as the service itself does."""
        if not _LOOPBACK.fullmatch(request.headers.get("host", "localhost")):
            # a name that resolves to this machine: some web page tries to reach the user's platform
            return text_answer(403, "this platform serves loopback only\n")
        if route.resource is None:
            return html_page(404, "HTTP Status 404 - Not Found") if _inside(request) else _traefik_not_found()
        allowed = _METHODS[route.resource]
        if request.method not in allowed:
            return _stamped(text_answer(405, f"unsupported: HTTP {request.method}\n", (("Allow", ", ".join(allowed)),)))
        try:
            if route.resource in {"capabilities", "availability"}:
                return _stamped(_public_page(route.resource, request, self._settings.hostname))
            identity = self._authenticate(request)
        except Refusal as refusal:
            return _stamped(refusal.response)
        try:
            response = self._dispatch(request, route)
        except Refusal as refusal:
            response = refusal.response
        return _stamped(response, identity)

    def _authenticate(self, request: Request) -> Headers:
        """Who asks, as a header to tell it.

        Raises:
            Refusal: Nobody whom the service knows.
        """
        header = request.headers.get("authorization")
        if header is None:
            raise Refusal(400, "cannot get group memberships for anonymous", _challenges())
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer":
            raise Refusal(401, "unhandled auth: Authorization", _challenges())
        if not hmac.compare_digest(token.strip().encode(), self._settings.token.encode()):
            raise Refusal(401, "Invalid JWT token", _challenges("Invalid JWT token"))
        return (("x-vo-authenticated", self._settings.user),)

    def _dispatch(self, request: Request, route: Route) -> Response:
        asked = parameters.of(request)
        if route.resource == "context":
            return json_answer(_context(self._settings.max_interactive))
        if route.resource == "repository":
            return json_answer(list(creation.REGISTRY_HOSTS))
        if route.resource == "image":
            return self._images(asked)
        if len(route.rest) > 3:
            raise illegal(f"Invalid request: {request.path}")
        if len(route.rest) > 1:
            return self._desktop_apps(request)
        if request.method == "POST":
            return self._modify(asked, *route.rest) if route.rest else self._create(request, asked)
        if request.method == "DELETE":
            return self._delete(*route.rest)
        return self._show(asked, *route.rest) if route.rest else self._list(asked)

    # Sessions

    def _create(self, request: Request, asked: parameters.Parameters) -> Response:
        order, job = creation.order(
            asked,
            user=self._settings.user,
            hostname=self._settings.hostname,
            gpus=self._settings.gpus > 0,
            public=lambda image: not self._settings.strict_images or image in self._public,
            registry_auth=request.headers.get("x-skaha-registry-auth"),
        )
        with self._create_lock:  # two creates must not both be the last one allowed
            if order.type not in {"headless", "desktop-app"}:
                self._check_interactive()
            self._cluster.create(order, job)
        self._requests.note_accepted(order.name)
        return text_answer(200, f"{order.id}\n")

    def _check_interactive(self) -> None:
        most = self._settings.max_interactive
        open_ = [one for one in self._cluster.all() if one.order.type != "headless" and one.status not in FINAL]
        if len(open_) >= most:
            raise illegal(f"User {self._settings.user} has reached the maximum of {most} active sessions.")

    def _list(self, asked: parameters.Parameters) -> Response:
        containers = self._cluster.all()
        view = asked.first("view")
        if view == "stats":
            return json_answer(views.stats(containers, self._cluster.cores, self._cluster.ram))
        self._shown.forget(len(containers))
        containers = [one for one in containers if one.order.type != "desktop-app"]
        if view is not None and view.lower() == "interactive":
            containers = [one for one in containers if one.order.type != "headless"]
        for name, value in (("type", _type), ("status", _status)):
            wanted = asked.first(name)
            if wanted:
                containers = [one for one in containers if value(one).lower() == wanted.lower()]
        if view == "all":
            return json_answer([views.public_session(one) for one in containers])
        return json_list(self._shown.many(containers))

    def _show(self, asked: parameters.Parameters, id_: str) -> Response:
        if not id_:
            # an empty id filters nothing: some session comes back, as from the service
            some = next(iter(self._cluster.all()), None)
            return self._one(some, id_)
        _check_label(id_)
        container = self._cluster.get(id_)
        view = asked.first("view")
        if view == "logs":
            return self._logs(container)
        if view == "events":
            if container is None or not container.pod:
                raise Refusal(404, f"session {id_} not found.")
            return text_answer(200, views.event_table(list(container.events)))
        return self._one(container, id_)

    def _one(self, container: Container | None, id_: str) -> Response:
        if container is None:
            raise Refusal(404, f"session {id_} not found")
        return Response(200, self._shown.one(container).encode(), "application/json")

    def _logs(self, container: Container | None) -> Response:
        try:
            text = container.log.read_bytes() if container is not None and container.pod and container.log else b""
        except FileNotFoundError:
            text = b""  # forgotten just now
        return Response(200, text, "text/plain")

    def _modify(self, asked: parameters.Parameters, id_: str) -> Response:
        action = asked.first("action")
        if not id_ or not action:
            raise illegal("Cannot modify an existing session")
        if action.lower() != "renew":
            raise illegal("unrecognized action")
        _check_label(id_)
        container = self._cluster.get(id_)
        if container is None or not container.pod or container.status in FINAL:
            raise illegal(f"No active job for user {self._settings.user} with session {id_}")
        return Response(200, b"", None)

    def _delete(self, *rest: str) -> Response:
        if not rest:
            raise illegal("Cannot kill all sessions.")
        self._cluster.delete(rest[0])
        return Response(200, b"", None)

    def _desktop_apps(self, request: Request) -> Response:
        """There are no desktops here, so none has applications; any second segment asks for them."""
        if request.method == "GET":
            return json_answer([])
        if request.method == "DELETE":
            return Response(200, b"", None)
        raise illegal("Missing parameter 'image'")

    def _images(self, asked: parameters.Parameters) -> Response:
        wanted = asked.first("type")
        if wanted is not None and wanted not in creation.SESSION_TYPES:
            raise illegal(f"unknown type: {wanted}")
        return json_answer(
            [
                {"id": image.id, "types": list(image.types), "digest": image.digest}
                for image in self._settings.images
                if wanted is None or wanted in image.types
            ]
        )


def routed(request: Request) -> Route:
    """Where a request goes, and what kind it is."""
    segments = [unquote(segment) for segment in request.path.split("/")[1:]]
    if segments[:1] != [ROOT[1:]]:
        return Route(None, "other")
    if len(segments) == 2 and segments[1] in {"capabilities", "availability"}:
        return Route(segments[1], segments[1])
    if segments[1:2] != [VERSION] or len(segments) < 3:
        return Route(None, "other")
    resource, rest = segments[2], tuple(segments[3:])
    if resource in {"context", "image", "repository"} and not any(rest):
        return Route(resource, resource)
    if resource == "session":
        return Route(resource, _session_kind(request, rest), rest)
    return Route(None, "other")


def _session_kind(request: Request, rest: tuple[str, ...]) -> str:
    if request.method == "DELETE":
        return "delete"
    if request.method == "POST":
        return "renew" if rest else "create"
    found = re.search(r"(?:^|&)view=(\w+)", request.query, re.IGNORECASE)
    view = found[1] if found and found[1] in _VIEWS else None
    if rest:
        return view if view in {"logs", "events"} else "show"
    return "stats" if view == "stats" else "list"


def _type(container: Container) -> str:
    return container.order.type


def _status(container: Container) -> str:
    return container.status


def _check_label(id_: str) -> None:
    if not _LABEL.fullmatch(id_):
        raise illegal(f"canfar.net/id label value '{id_}' is not a valid label value")


def _inside(request: Request) -> bool:
    return request.path == ROOT or request.path.startswith(f"{ROOT}/")


def _traefik_not_found() -> Response:
    return text_answer(404, "404 page not found\n")


def _stamped(response: Response, headers: Headers = ()) -> Response:
    return dataclasses.replace(response, headers=(_SERVER, *headers, *response.headers))


def _challenges(problem: str | None = None) -> Headers:
    bad = f' error="invalid_token", error_description="{problem}"' if problem else ""
    return (
        ("www-authenticate", f"Bearer{bad}"),
        ("www-authenticate", "ivoa_x509"),
        ("www-authenticate", "ivoa_cookie"),
    )


def _context(max_interactive: int) -> dict[str, Any]:
    return {
        "cores": {"default": 1, "defaultRequest": 1, "defaultLimit": 8, "options": list(creation.CORES)},
        "memoryGB": {"default": 4, "defaultRequest": 4, "defaultLimit": 32, "options": list(creation.MEMORY_GIB)},
        "gpus": {"options": list(creation.GPUS)},
        "maxInteractiveSessions": str(max_interactive),  # a string: the service reads it from a file
    }


_CAPABILITIES = """<?xml version="1.0" encoding="UTF-8"?>
<vosi:capabilities xmlns:vosi="http://www.ivoa.net/xml/VOSICapabilities/v1.0"
    xmlns:vs="http://www.ivoa.net/xml/VODataService/v1.1" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
{entries}</vosi:capabilities>
"""
_CAPABILITY = """  <capability standardID="{standard}">
    <interface xsi:type="vs:ParamHTTP" role="std" version="1.0">
      <accessURL use="{use}">{url}</accessURL>
    </interface>
  </capability>
"""
_AVAILABILITY = """<?xml version="1.0" encoding="UTF-8"?>
<vosi:availability xmlns:vosi="http://www.ivoa.net/xml/VOSIAvailability/v1.0">
  <vosi:available>true</vosi:available>
  <vosi:note>service is accepting requests</vosi:note>
</vosi:availability>
"""


def _public_page(resource: str, request: Request, hostname: str) -> Response:
    if resource == "availability":
        if "detail=min" in request.query:
            return Response(200, b"", None)
        return Response(200, _AVAILABILITY.encode(), "text/xml")
    base = f"http://{request.headers.get('host', hostname)}{ROOT}"
    places: Mapping[str, tuple[str, str]] = {
        "ivo://ivoa.net/std/VOSI#capabilities": (f"{base}/capabilities", "full"),
        "ivo://ivoa.net/std/VOSI#availability": (f"{base}/availability", "full"),
        "vos://cadc.nrc.ca~vospace/CADC/std/Proc#sessions-1.0": (f"{base}/v0", "base"),
        **{
            f"http://www.opencadc.org/std/platform#{name}-1": (f"{base}/{VERSION}/{name}", "base")
            for name in ("session", "context", "image", "repository")
        },
    }
    entries = [_CAPABILITY.format(standard=standard, use=use, url=url) for standard, (url, use) in places.items()]
    return Response(200, _CAPABILITIES.format(entries="".join(entries)).encode(), "text/xml")
