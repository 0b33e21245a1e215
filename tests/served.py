"""The platform in memory behind real HTTP: requests cross a loopback port, and time passes only if a test lets it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from fakes import FakeClock, FakePlatform

from canfar_batch.errors import JobNotFound
from canfar_batch.local import routes
from canfar_batch.local.answers import json_answer, text_answer
from canfar_batch.local.faults import Faults
from canfar_batch.local.http_server import HttpServer
from canfar_batch.local.identity import user_header
from canfar_batch.local.messages import Request, Response
from canfar_batch.local.parameters import of as parameters_of
from canfar_batch.local.views import java_time
from canfar_batch.records import ContainerInfo, LaunchRequest, Resources
from canfar_batch.rest.credentials import Token
from canfar_batch.rest.platform import RestPlatform
from canfar_batch.rest.redaction import Secrets
from canfar_batch.rest.transport import Transport

USER = "fake"


class ServedPlatform:
    """Serves a `FakePlatform` as skaha does. Use it as a context manager."""

    def __init__(self) -> None:
        self.platform = FakePlatform()
        self.faults = Faults()
        self._stopping = threading.Event()
        self._server = HttpServer()

    def __enter__(self) -> ServedPlatform:
        self._server.start(self._answer)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._server.stop()

    @contextlib.contextmanager
    def playing(self, platform: FakePlatform) -> Iterator[None]:
        """Serve *platform* in a ``with`` block, and switch the faults off at its end."""
        self.platform = platform
        try:
            yield
        finally:
            self.faults.clear()

    def client(self, clock: FakeClock) -> RestPlatform:
        """Return the real client, whose pauses pass on *clock*."""
        secrets = Secrets()
        provider = Token(lambda: "token", source="the test's token", remedy="log in again", secrets=secrets)
        transport = Transport(
            f"http://127.0.0.1:{self._server.port}/skaha/v1", provider, secrets,
            user_agent="test", sleep=clock.sleep, uniform=lambda low, high: (low + high) / 2, ticks=clock.ticks,
        )  # fmt: skip
        return RestPlatform(transport, provider, ticks=clock.ticks)

    def _answer(self, request: Request) -> Response:
        route = routes.find(request)
        return self.faults.answer(request, route.kind, lambda: self._act(request, route), self._stopping)

    def _act(self, request: Request, route: routes.Route) -> Response:
        response = self._by_kind(request, route)
        return Response(response.status, response.body, response.content_type, (*response.headers, *user_header(USER)))

    def _by_kind(self, request: Request, route: routes.Route) -> Response:
        platform, id = self.platform, "".join(route.rest)
        if route.kind == "create":
            return text_answer(200, f"{platform.launch(_asked(request))}\n")
        if route.kind == "list":
            return json_answer([_row(info) for info in platform.containers()])
        if route.kind == "show":
            try:
                return json_answer(_row(platform.container(id)))
            except JobNotFound:
                return text_answer(404, f"session {id} not found\n")
        if route.kind == "logs":
            return Response(200, platform.logs(id))
        if route.kind == "events":
            events = platform.events(id)
            return text_answer(404, f"session {id} not found.\n") if events is None else text_answer(200, events)
        if route.kind == "delete":
            platform.cancel(id)
            return text_answer(200, "")
        assert route.kind == "context", route
        branch = {"default": 1, "options": [1, 2, 4, 8]}
        return json_answer({"cores": branch, "memoryGB": branch, "gpus": {"options": [1]}})


def _asked(request: Request) -> LaunchRequest:
    asked = parameters_of(request)

    def number(name: str) -> int | None:
        text = asked.first(name)
        return None if text is None else int(text)

    resources = Resources(cores=number("cores"), ram=number("ram"))
    return LaunchRequest(
        name=asked.first("name") or "", image=asked.first("image") or "", resources=resources, cmd=asked.first("cmd")
    )


def _row(info: ContainerInfo) -> dict[str, object]:
    started = {} if info.started_at is None else {"startTime": java_time(info.started_at)}
    return {
        "id": info.id, "userid": USER, "image": info.image, "type": "headless", "status": info.status,
        "name": info.name, **started, "connectURL": "", "requestedGPUCores": "0", "isFixedResources": False,
    }  # fmt: skip
