"""The answers of the storage service: its parts, who asks, and which fault of the real one is played."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qs, unquote

import attrs

from canfar_batch.local import identity, tomcat
from canfar_batch.local.answers import Headers, MalformedRequest, Refusal, unexpected
from canfar_batch.local.messages import Request, Response
from canfar_batch.local.routes import STORAGE as ROOT
from canfar_batch.local.vospace import documents, hazards
from canfar_batch.local.vospace.files import Files
from canfar_batch.local.vospace.jobs import Jobs
from canfar_batch.local.vospace.nodes import Nodes
from canfar_batch.local.vospace.paths import Grants, Names
from canfar_batch.local.vospace.transfers import Transfers
from canfar_batch.local.vospace.tree import Tree

REGISTRY = "/reg/resource-caps"
_CHALLENGE: Headers = (("WWW-Authenticate", "Bearer"),)
_SERVERS = {
    "nodes": "OpenCADC/cadc-rest + no-version-found",
    "files": "OpenCADC/cadc-rest + vos/cavern-0.10",
    "capabilities": "OpenCADC/cadc-rest + cadc-vosi-1.4",
    "availability": None,
    "xfer": None,
}
_METHODS = {
    "nodes": ("GET", "POST", "PUT", "DELETE"),
    "files": ("GET", "PUT", "HEAD"),
    "synctrans": ("GET", "POST"),
    "transfers": ("GET", "POST", "DELETE"),
    "async-delete": ("GET", "POST", "DELETE"),
    "async-setprops": ("GET", "POST", "DELETE"),
    "xfer": ("GET",),
    "capabilities": ("GET", "HEAD"),
    "availability": ("GET", "HEAD"),
}
_AVAILABLE = b"""<?xml version="1.0" encoding="UTF-8"?>
<vosi:availability xmlns:vosi="http://www.ivoa.net/xml/VOSIAvailability/v1.0">
  <vosi:available>true</vosi:available>
  <vosi:note>service is accepting requests</vosi:note>
  <!--<clientip>127.0.0.1</clientip>-->
</vosi:availability>
"""


@attrs.frozen(kw_only=True)
class StorageSettings:
    """The settings of a storage service."""

    root: Path  #: the directory that stands for `/arc`
    user: str  #: the owner of what no one else has made
    users: Mapping[str, str] = attrs.field(repr=False)  #: user names by token
    quota: int | None = None  #: bytes for each home directory
    hazards: frozenset[str] = hazards.CAVERN


class StorageService:
    """Answers requests as cavern does."""

    def __init__(self, settings: StorageSettings) -> None:
        unknown = settings.hazards - hazards.STORAGE_FAULTS
        if unknown:
            known = ", ".join(sorted(hazards.STORAGE_FAULTS))
            raise ValueError(f"storage_faults: {', '.join(sorted(unknown))} is not one of {known}")
        played = settings.hazards
        self._settings = settings
        tree = Tree(settings.root, settings.user, settings.quota)
        names = Names(hazards.NAMES in played)
        grants = Grants(secrets.token_bytes(32), is_faulty=hazards.NAMES in played)
        jobs = Jobs()
        lock = threading.RLock()  # one change of the tree at a time
        self._nodes = Nodes(tree, names, played, lock)
        self._files = Files(tree, names, grants, played, lock)
        self._transfers = Transfers(tree, names, grants, jobs, played, lock)

    def early(self, request: Request) -> Response | None:
        """Return the answer that comes before the body of an upload was read; None if the body is wanted."""
        parts = _parts(request.path)
        if parts is None or parts[0] != "files" or request.method != "PUT":
            return None
        response = self._files.early(request, parts[1])
        return None if response is None else _stamped(response, "files", _CHALLENGE)

    def answer(self, request: Request) -> Response:
        """Answer a request."""
        if request.path == REGISTRY:
            text = f"ivo://cadc.nrc.ca/arc = {_base(request)}/capabilities\n"
            return Response(200, text.encode(), "text/plain")
        parts = _parts(request.path)
        if parts is None:
            return tomcat.not_found(request.path)
        part, rest = parts
        allowed = _METHODS[part]
        if request.method == "OPTIONS":
            return Response(200, b"", None, (("Allow", "GET, HEAD, POST, PUT, DELETE, OPTIONS"),))
        if request.method not in allowed:
            refusal = f"unsupported: HTTP {request.method}\n".encode()
            return Response(405, refusal, "text/plain;charset=ISO-8859-1", (("Allow", ", ".join(allowed)),))
        known: Headers = _CHALLENGE
        try:
            user = self._user(request)
            if user is not None and part not in {"xfer", "availability"}:
                known = identity.user_header(user)
            response = self._dispatch(request, part, rest, user)
        except MalformedRequest as refused:  # before the service looks at who asks
            known, response = (), refused.response
        except Refusal as refused:
            response = refused.response
            if response.status == 401:
                return response
        except OSError as problem:
            response = unexpected(f"java.io.IOException: {os.strerror(problem.errno or 0)}").response
        if part == "xfer" and response.status == 500:
            response = attrs.evolve(response, content_type=None)
        return _stamped(response, part, known)

    def _user(self, request: Request) -> str | None:
        if "authorization" not in request.headers:
            return None
        return identity.authenticate(request, self._settings.users)

    def _dispatch(self, request: Request, part: str, rest: str, user: str | None) -> Response:
        base = _base(request)
        if part == "capabilities":
            is_full = hazards.FULL_TRANSFERS in self._settings.hazards
            return Response(200, documents.capabilities(base, is_full=is_full), "text/xml")
        if part == "availability":
            return Response(200, _AVAILABLE, "text/xml")
        query = {name.lower(): values[0] for name, values in parse_qs(request.query, keep_blank_values=True).items()}
        if part == "nodes":
            return self._nodes.answer(request, rest, query, user, base)
        if part == "files":
            return self._files.answer(request, rest, user)
        return self._transfers.answer(request, part, unquote(rest), query, user, base)


def _parts(path: str) -> tuple[str, str] | None:
    """Return the part of the service that a path leads to, and the rest of the path; None if it is not one."""
    if not path.startswith(f"{ROOT}/"):
        return None
    part, slash, rest = path[len(ROOT) + 1 :].partition("/")
    return (part, f"{slash}{rest}") if part in _METHODS else None


def _base(request: Request) -> str:
    scheme = "https" if request.is_secure else "http"
    return f"{scheme}://{request.headers.get('host', 'localhost')}{ROOT}"


def _stamped(response: Response, part: str, headers: Headers) -> Response:
    server = _SERVERS.get(part, "OpenCADC/cadc-rest")
    named: Headers = (("server", server),) if server else ()
    return attrs.evolve(response, headers=(*named, *headers, *response.headers))
