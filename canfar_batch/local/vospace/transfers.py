"""`/synctrans`, `/transfers`, `/async-delete`, `/async-setprops`: what is negotiated, and what is done later."""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Mapping
from urllib.parse import parse_qs

from canfar_batch.local.answers import MalformedRequest, Refusal
from canfar_batch.local.messages import Request, Response
from canfar_batch.local.vospace import access, documents, hazards
from canfar_batch.local.vospace.documents import GivenTransfer, Job
from canfar_batch.local.vospace.jobs import Jobs
from canfar_batch.local.vospace.nodes import remove
from canfar_batch.local.vospace.paths import READ, WRITE, Grants, Names
from canfar_batch.local.vospace.tree import CREATOR, PUBLIC, READ_ONLY, Node, Tree

PUSH, PULL = "pushToVoSpace", "pullFromVoSpace"
_CORE = "ivo://ivoa.net/vospace/core#"
_PUTS = {f"{_CORE}httpsput", f"{_CORE}httpput"}
_GETS = {f"{_CORE}httpsget", f"{_CORE}httpget"}


class Transfers:
    """Answers requests about transfers and jobs."""

    def __init__(
        self, tree: Tree, names: Names, grants: Grants, jobs: Jobs, played: Collection[str], lock: threading.RLock
    ) -> None:
        self._tree, self._names, self._grants, self._jobs = tree, names, grants, jobs
        self._played, self._lock = played, lock

    def answer(
        self, request: Request, part: str, rest: str, query: Mapping[str, str], user: str | None, base: str
    ) -> Response:
        """Answer a request."""
        words = rest.strip("/").split("/") if rest.strip("/") else []
        if part == "xfer":
            return self._negotiated(words[0] if words else "", user, base)
        if part == "synctrans":
            return self._negotiate(request, user, base)
        if not words:
            if request.method != "POST":
                return Response(200, b"", "text/xml")
            job = self._new(request, part, user)
            return _see(f"{base}/{part}/{job.id}")
        return self._job(request, part, words, query, base)

    def _job(self, request: Request, part: str, words: list[str], query: Mapping[str, str], base: str) -> Response:
        job = self._jobs.get(words[0])
        what = "/".join(words[1:])
        if what == "results/transferDetails":
            if request.method == "POST":
                raise MalformedRequest(400, "InvalidArgument: failed to parse XML")
            return _see(f"{base}/xfer/{job.id}")
        if what == "phase" and request.method == "POST":
            if _form(request).get("phase", "").upper() == "RUN":
                self._jobs.start(job)
            return _see(f"{base}/{part}/{job.id}")
        if what == "phase":
            return Response(200, job.phase.encode())
        if what == "error":
            return Response(200, (job.error or "").encode())
        if what:
            raise Refusal(404, f"not found: {what}")
        if "wait" in query:
            self._jobs.wait(job, float(query["wait"] or 60), query.get("phase"))
        return Response(200, documents.job(job), "text/xml")

    # Transfers of bytes

    def _negotiate(self, request: Request, user: str | None, base: str) -> Response:
        if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            return self._redirect(_form(request), user, base)
        given = documents.read_transfer(request.body)
        if " " in given.target.strip():
            raise MalformedRequest(400, "InvalidArgument: invalid URI in transfer document")
        if re.search(r'[\[\]\\<>"^`{|}]', given.target):
            raise MalformedRequest(400, "InvalidArgument: failed to parse XML")
        job = self._jobs.add(user, lambda job: None, seconds=2000, given=given)
        job.phase = "EXECUTING"  # and so it stays
        return _see(f"{base}/transfers/{job.id}/results/transferDetails")

    def _redirect(self, form: Mapping[str, str], user: str | None, base: str) -> Response:
        target, direction, protocol = (form.get(name) for name in ("target", "direction", "protocol"))
        if not (target and direction and protocol):
            shown = " ".join(
                f"{name.upper()}={form.get(name) or 'null'}" for name in ("target", "direction", "protocol")
            )
            raise Refusal(400, f"Invalid input: missing parameters: {shown}")
        given = GivenTransfer(target, direction, (protocol,), True)
        try:
            endpoints = self._endpoints(given, user, base)
        except _NoTarget:
            raise Refusal(400, "target is not a data node") from None
        if not endpoints:
            raise Refusal(400, "no supported protocol")
        return _see(endpoints[0][1])

    def _negotiated(self, id: str, user: str | None, base: str) -> Response:
        given = self._jobs.get(id).given
        if given is None:
            raise Refusal(404, f"not found: {id}")
        endpoints = self._endpoints(given, user, base)
        whole = self._names.on_disk(given.target)
        shown = documents.named(documents.path_of(whole), escaped="%#?") + given.target[len(whole) :]
        text = documents.HEAD + documents.transfer(given, endpoints, shown)
        if hazards.LATIN_TRANSFERS in self._played:
            return Response(200, text.encode("latin-1", "replace"), "text/xml;charset=ISO-8859-1")
        return Response(200, text.encode(), "text/xml")

    def _endpoints(self, given: GivenTransfer, user: str | None, base: str) -> list[tuple[str, str]]:
        if given.direction not in {PUSH, PULL}:
            raise Refusal(400, f"Bad request: direction {given.direction}")
        is_push = given.direction == PUSH
        path = self._path(given.target) if is_push else self._source(given.target)
        protocols = list(dict.fromkeys(each for each in given.protocols if each in (_PUTS if is_push else _GETS)))
        if is_push:
            with self._lock:
                self._check_push(path, user)
        found: list[tuple[str, str]] = []
        granted = documents.uri_of(path if is_push else documents.path_of(given.target))
        for protocol in protocols:
            if hazards.NO_PREAUTH not in self._played and user is not None:
                token = self._grants.token(granted, WRITE if is_push else READ, user)
                found.append((protocol, f"{base}/files/preauth:{token}{path}"))
            if not is_push:
                found.append((protocol, f"{base}/files{path}"))
        return found

    def _check_push(self, path: str, user: str | None) -> None:
        above = self._tree.find(path.rpartition("/")[0])
        above = None if above is None else self._tree.follow(above)
        node = self._tree.find(path)
        if above is None or not above.is_container or not access.may_write(node or above, user):
            raise _internal(path)
        if node is None and hazards.EMPTY_NODES in self._played:
            self._tree.place(self._names.on_disk(path)).touch()
            self._tree.write(self._names.on_disk(path), {CREATOR: user, PUBLIC: "false"})

    def _source(self, uri: str) -> str:
        """Return the path that the addresses of a file to be pulled have: decoded once more than the file's own."""
        wanted = documents.path_of(self._names.on_disk(uri))
        node = self._tree.find(wanted)
        node = None if node is None else self._tree.follow(node)
        if node is None or node.is_container:
            raise _NoTarget(400, "Bad request: target is not a data node")
        try:
            return self._names.on_disk(self._names.read(f"/{uri.partition('://')[2].partition('/')[2]}", ""))
        except Refusal:
            text = f"Bad request: cannot convert ivo://cadc.nrc.ca/arc + {wanted} to valid VOSURI"
            raise _Unended(text) from None

    def _path(self, uri: str) -> str:
        wanted = documents.path_of(self._names.on_disk(uri))  # a `#` that is not escaped ends the name already here
        try:
            path = self._names.read(f"/{uri.partition('://')[2].partition('/')[2]}", "")
        except Refusal:
            raise _internal(wanted) from None
        path = self._names.on_disk(path)
        if path != wanted:
            self._tree.place(path).touch()  # under another name: so the real service leaves it
            raise _internal(wanted)
        return path

    # Work for later

    def _new(self, request: Request, part: str, user: str | None) -> Job:
        if part == "transfers":
            given = documents.read_transfer(request.body)
            info = documents.transfer(given, (), given.target)
            return self._jobs.add(user, lambda job: self._move(job, given, user), seconds=2000, info=info)
        if part == "async-delete":
            target = _form(request).get("target", "")
            return self._jobs.add(
                user, lambda job: self._delete(job, target, user), seconds=86400, parameters={"target": target}
            )
        given_node = documents.read_node(request.body)
        return self._jobs.add(
            user,
            lambda job: self._set(job, documents.path_of(given_node.uri), given_node.properties, user),
            seconds=86400,
            info=request.body.decode("utf-8", "replace"),
        )

    def _move(self, job: Job, given: GivenTransfer, user: str | None) -> None:
        source, target = documents.path_of(given.target), documents.path_of(given.direction)
        with self._lock:
            node = self._tree.find(source)
            if node is None:
                raise Refusal(404, f"NodeNotFound: {source}")
            there = self._tree.find(target)
            if there is not None and not there.is_container:
                raise Refusal(409, f"DuplicateNode: destination is an existing DataNode: {target}")
            if there is not None:
                target = f"{target}/{node.name}"
            above = self._tree.find(target.rpartition("/")[0])
            if above is None or not above.is_container:
                raise Refusal(404, f"NodeNotFound: Parent directory for destination {target}")
            origin = self._tree.find(source.rpartition("/")[0])
            if origin is None or not (access.may_write(above, user) and access.may_write(origin, user)):
                raise Refusal(403, f"PermissionDenied: {source}")
            place = self._tree.place(target)
            node.place.rename(place)
            self._tree.moved(node.place, place)
        job.results["destination"] = documents.uri_of(target)

    def _delete(self, job: Job, target: str, user: str | None) -> None:
        path = documents.path_of(target)
        with self._lock:
            node = self._tree.find(path)
            if node is None:
                raise Refusal(404, f"NodeNotFound: {path}")
            count = sum(1 for _ in self._below(node))
            remove(self._tree, node, user, whole=True)
        job.results["successcount"] = f"final:{count}"

    def _set(self, job: Job, path: str, properties: Mapping[str, str | None], user: str | None) -> None:
        changes = {uri: value for uri, value in properties.items() if uri not in READ_ONLY}
        good = bad = 0
        with self._lock:
            node = self._tree.find(path)
            if node is None:
                raise Refusal(404, f"NodeNotFound: {path}")
            for each in self._below(node):
                if (each.target is not None and changes.keys() - {PUBLIC}) or not access.may_write(each, user):
                    bad += 1
                else:
                    self._tree.write(each.path, changes)
                    good += 1
        job.results["successcount"] = f"final:{good}"
        if bad:
            job.results["errorcount"] = f"final:{bad}"

    def _below(self, node: Node) -> list[Node]:
        found = [node]
        if node.is_container:
            for child in self._tree.children(node):
                found += self._below(child)
        return found


class _Unended(Refusal):
    """A refusal whose text has no end of line."""

    def __init__(self, text: str) -> None:
        super().__init__(400, text)
        self.response = Response(400, text.encode(), None)


class _NoTarget(Refusal):
    """The file to be pulled is not there."""


def _internal(path: str) -> Refusal:
    return Refusal(500, f"Internal Error: {path}")


def _see(url: str) -> Response:
    return Response(303, b"", None, (("Location", url),))


def _form(request: Request) -> dict[str, str]:
    fields = parse_qs(request.body.decode("utf-8", "replace"), keep_blank_values=True)
    return {name.lower(): values[0] for name, values in fields.items()}
