"""The service: the answer to each request."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Mapping, Sequence

import attrs

from canfar_batch.local import creation, identity, parameters, registry, routes, tomcat, views, vosi
from canfar_batch.local.answers import (
    Headers,
    MalformedRequest,
    Refusal,
    empty_answer,
    illegal,
    json_answer,
    json_list,
    text_answer,
)
from canfar_batch.local.cluster import Cluster
from canfar_batch.local.containers import FINAL, POSIX_ID, Container
from canfar_batch.local.faults import Faults, Recorded, Requests
from canfar_batch.local.messages import Request, Response
from canfar_batch.local.routes import METHODS, ROOT, VERSION, Route
from canfar_batch.local.vospace import StorageService, StorageSettings

log = logging.getLogger(__name__)

_LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]+)?", re.IGNORECASE)
_SERVER = ("server", "OpenCADC/cadc-rest")
_SERVLET_METHODS = "GET, HEAD, POST, PUT, DELETE, OPTIONS"
_WELCOME = (
    b'<!DOCTYPE html>\n<html>\n<head>\n  <meta charset="UTF-8">\n  <title>skaha API</title>\n</head>\n'
    b"<body>The real service describes its API here.</body>\n</html>\n"
)


@attrs.frozen(kw_only=True)
class ServiceSettings:
    """The settings of a service."""

    hostname: str
    users: Mapping[str, str] = attrs.field(repr=False)  #: user names by token
    limits: creation.Limits
    has_gpus: bool
    images: Sequence[registry.Image]
    strict_images: registry.Strictness
    max_interactive: int
    metrics_delay: float | None
    has_stats: bool
    storage: StorageSettings


class Service:
    """Answers requests as skaha does."""

    def __init__(self, settings: ServiceSettings, cluster: Cluster, faults: Faults, requests: Requests) -> None:
        self._settings = settings
        self._cluster = cluster
        self._faults = faults
        self._requests = requests
        self._storage = StorageService(settings.storage)
        self._shown = views.Shown(f"http://{settings.hostname}{ROOT}/{VERSION}", settings.metrics_delay)
        self._create_lock = threading.Lock()
        self._uids = {user: POSIX_ID + number for number, user in enumerate(settings.users.values())}
        self._listed = [image.id for image in settings.images]
        self._rules = creation.Rules(
            hostname=settings.hostname,
            limits=settings.limits,
            has_gpus=settings.has_gpus,
            is_listed=self._is_listed,
        )
        self.stopping = threading.Event()  #: set when stalled answers shall wait no longer

    def __call__(self, request: Request) -> Response:
        """Answer a request, with the faults that strike it."""
        route = routes.find(request)
        status: int | None = None
        try:
            response = self._faults.answer(request, route.kind, lambda: self.answer(request, route), self.stopping)
            status = response.status
            return self._named(request, response)
        finally:
            self._requests.note(Recorded(request.method, request.path, route.kind, _fields(request), status))

    def is_upload(self, request: Request) -> bool:
        """Return whether the body of a request is that of a file for the storage."""
        return routes.find(request).kind == "upload"

    def early(self, request: Request) -> Response | None:
        """Return the storage's refusal of an upload before its body was read; None if the body is wanted."""
        return self._storage.early(request)

    def _named(self, request: Request, response: Response) -> Response:
        """Fill the user's name in if a fault left it open."""
        blank = identity.user_header("")[0]
        if blank not in response.headers:
            return response
        user = self._settings.users.get(request.headers.get("authorization", "").partition(" ")[2])
        others = [header for header in response.headers if header != blank]
        return attrs.evolve(response, headers=(*others, *(identity.user_header(user) if user else ())))

    def answer(self, request: Request, route: Route) -> Response:
        """Answer a request as the service does without faults."""
        if not _LOOPBACK.fullmatch(request.headers.get("host", "localhost")):
            # a name that resolves to this machine: some web page tries to reach the user's platform
            return text_answer(403, "this platform serves loopback only\n")
        refused = routes.refused_target(request) or _refused_place(request, route)
        if refused is not None:
            return refused
        assert route.resource is not None
        if route.resource == "storage":
            return self._storage.answer(request)
        refused = _refused_method(request.method, METHODS[route.resource])
        if refused is not None:
            return refused
        try:
            return self._answer(request, route)
        except MalformedRequest as refusal:
            return _stamped(refusal.response)

    def _answer(self, request: Request, route: Route) -> Response:
        if route.resource == "capabilities":
            return _stamped(vosi.capabilities(request), (identity.CHALLENGE,))
        if route.resource == "availability":
            return _stamped(vosi.availability(request))
        asked = parameters.of(request)
        try:
            user = identity.authenticate(request, self._settings.users)
        except Refusal as refusal:
            return _stamped(refusal.response)
        try:
            response = self._dispatch(request, route, asked, user)
        except Refusal as refusal:
            response = refusal.response
        return _stamped(response, identity.user_header(user))

    def _dispatch(self, request: Request, route: Route, asked: parameters.Parameters, user: str) -> Response:
        if route.resource == "context":
            return json_answer(views.context(self._settings.limits, self._settings.max_interactive), compact=True)
        if route.resource == "repository":
            return json_answer(list(registry.HOSTS), compact=True)
        if route.resource == "image":
            return self._images(asked)
        if len(route.rest) > 3:
            raise illegal(f"Invalid request: {'/'.join(route.rest)}")
        if len(route.rest) > 1:
            return self._desktop_apps(request.method, asked, *route.rest)
        # a slash alone is an empty id
        id = route.rest[0] if route.rest else "" if route.has_slash else None
        if request.method == "POST":
            return self._create(request, asked, user) if id is None else self._modify(asked, user, id)
        if request.method == "DELETE":
            return self._delete(user, id)
        return self._list(asked, user) if id is None else self._show(asked, user, id)

    # Sessions

    def _create(self, request: Request, asked: parameters.Parameters, user: str) -> Response:
        accepted = creation.check(asked, self._rules)
        with self._create_lock:  # two creates must not both be the last one allowed
            if accepted.type != "headless":
                self._check_interactive(user)
            order, job = accepted.order(
                asked, self._rules, user=user, registry_auth=request.headers.get("x-skaha-registry-auth")
            )
            self._cluster.create(order, job, user, self._uids[user])
        self._requests.note_accepted(order.name)
        return text_answer(200, f"{order.id}\n")

    def _is_listed(self, image: str) -> bool:
        if registry.is_accepted(image, self._listed, self._settings.strict_images):
            return True
        nearest = registry.nearest(image, self._listed)
        log.warning("the image %s is not listed%s", image, f"; the nearest name is {nearest}" if nearest else "")
        return False

    def _check_interactive(self, user: str) -> None:
        most = self._settings.max_interactive
        uncounted = {"headless", "desktop-app"}
        active = [one for one in self._cluster.all(user) if one.order.type not in uncounted and one.status not in FINAL]
        if len(active) >= most:
            raise illegal(f"User {user} has reached the maximum of {most} active sessions.")

    def _list(self, asked: parameters.Parameters, user: str) -> Response:
        view = asked.first("view")
        if view == "stats":
            return self._stats()
        containers = self._cluster.all(None if view == "all" else user)
        self._shown.forget(len(containers))
        containers = [one for one in containers if one.order.type != "desktop-app"]
        wanted = asked.first("type")
        if view is not None and view.lower() == "interactive":
            containers = [one for one in containers if one.order.type != "headless"]
        elif wanted is not None:
            containers = [one for one in containers if one.order.type.lower() == wanted.lower()]
        status = asked.first("status")
        if status is not None:
            containers = [one for one in containers if one.status.lower() == status.lower()]
        if view == "all":
            return json_answer([views.public_session(one) for one in containers])
        return json_list(self._shown.many(containers))

    def _stats(self) -> Response:
        if not self._settings.has_stats:
            raise Refusal(503, "temporarily unavailable: null\n", (("Retry-After", "30"),))
        size = views.ClusterSize(self._cluster.settings.cores, self._cluster.settings.ram)
        return json_answer(views.stats(self._cluster.all(), size, self._settings.limits))

    def _show(self, asked: parameters.Parameters, user: str, id: str) -> Response:
        view = asked.first("view")
        if not id.strip() and view not in {"logs", "events"}:
            # a blank id filters nothing: the service answers with some session of the user
            return self._one(next(iter(self._cluster.all(user)), None), id)
        creation.check_label(id)
        if view == "logs":
            return Response(200, views.read_log(self._cluster.pods(id, user)), "text/plain")
        if view == "events":
            return self._events(id, user)
        return self._one(self._cluster.get(id, user), id)

    def _one(self, container: Container | None, id: str) -> Response:
        if container is None:
            raise Refusal(404, f"session {id} not found")
        return Response(200, self._shown.one(container).encode(), "application/json")

    def _events(self, id: str, user: str) -> Response:
        pods = self._cluster.pods(id, user)
        if not pods:
            raise Refusal(404, f"session {id} not found.")
        return text_answer(200, views.event_table(list(pods[0].events)) if len(pods) == 1 else views.NO_EVENTS)

    def _modify(self, asked: parameters.Parameters, user: str, id: str) -> Response:
        action = asked.first("action")
        if not action:
            raise illegal("Cannot modify an existing session")
        if action.lower() != "renew":
            raise illegal("unrecognized action")
        creation.check_label(id)
        if not self._cluster.renew(id, user):
            uid = self._uids[user]
            principal = f"PosixPrincipal [uidNumber={uid},{uid},{user}]"
            raise illegal(f"No active job for user {principal} with session {id}")
        return empty_answer()

    def _delete(self, user: str, id: str | None) -> Response:
        if id is None:
            raise illegal("Cannot kill all sessions.")
        self._cluster.delete(id, user)
        return empty_answer()

    def _desktop_apps(
        self, method: str, asked: parameters.Parameters, id: str, kind: str, app: str | None = None
    ) -> Response:
        """Answer a request with a second segment, which always means desktop applications; here they do not exist."""
        del kind
        if method == "POST":
            if asked.first("image") is None:
                raise illegal("Missing parameter 'image'")
            if app is not None:
                raise illegal("Cannot modify an existing app.")
            creation.sizes(asked, self._settings.limits)
        if method == "GET" and app is None:
            return json_answer([])
        if method == "DELETE" and (app is None or not app.strip()):
            raise illegal("Missing app ID")
        if id.strip() or method != "GET":
            creation.check_label(id)
        if method == "DELETE":
            creation.check_label(app or "", "app-id")
            return empty_answer()
        if method == "GET":
            raise Refusal(404, f"desktop app with session {id} and app ID {app} was not found")
        raise Refusal(404, f"session {id} not found")

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


def _refused_place(request: Request, route: Route) -> Response | None:
    """Return the answer to a path that is not a place of the service, or None."""
    if route.resource is not None:
        return None
    if request.path == f"{ROOT}/logControl":
        return Response(403, b"", None)
    if request.path == ROOT:
        return Response(302, b"", None, (("Location", f"{ROOT}/"),))
    if request.path in {f"{ROOT}/", f"{ROOT}/index.html"}:
        return Response(200, _WELCOME, "text/html")
    if request.path.startswith(f"{ROOT}/"):
        return tomcat.not_found(request.path)
    return text_answer(404, "404 page not found\n")  # the proxy before the service


def _refused_method(method: str, allowed: Sequence[str]) -> Response | None:
    """Return the answer to a method that the resource does not have, or None."""
    if method == "OPTIONS":
        return Response(200, b"", None, (("Allow", _SERVLET_METHODS),))
    if method == "TRACE":
        return tomcat.trace_not_allowed()
    if method not in _SERVLET_METHODS.split(", "):
        return tomcat.not_implemented(method)
    if method in allowed:
        return None
    refusal = Response(
        405,
        f"unsupported: HTTP {method}\n".encode(),
        "text/plain;charset=ISO-8859-1",
        (("Allow", ", ".join(allowed)),),
    )
    return _stamped(refusal)


def _fields(request: Request) -> Mapping[str, list[str]]:
    try:
        return parameters.of(request).as_dict()
    except MalformedRequest:
        return {}


def _stamped(response: Response, headers: Headers = ()) -> Response:
    return attrs.evolve(response, headers=(_SERVER, *headers, *response.headers))
