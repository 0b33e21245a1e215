"""`/nodes`: listing, making, changing and deleting nodes."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Collection, Mapping

import attrs

from canfar_batch.local.answers import MalformedRequest, Refusal, unexpected
from canfar_batch.local.messages import Request, Response
from canfar_batch.local.vospace import access, documents, hazards
from canfar_batch.local.vospace.paths import NODE_WORDS, Names
from canfar_batch.local.vospace.tree import CREATOR, DATE, GROUPS, MD5, PUBLIC, READ_ONLY, Node, Tree

_LOCKED = "ivo://cadc.nrc.ca/vospace/core#islocked"
_NULL_ROOT = (
    'java.lang.NullPointerException: Cannot invoke "org.opencadc.vospace.Node.getName()" because "<parameter1>" is null'
)


class Nodes:
    """Answers requests about nodes."""

    def __init__(self, tree: Tree, names: Names, played: Collection[str], lock: threading.RLock) -> None:
        self._tree, self._names, self._played, self._lock = tree, names, played, lock

    def answer(self, request: Request, rest: str, query: Mapping[str, str], user: str | None, base: str) -> Response:
        """Answer a request."""
        path = self._names.address(rest, NODE_WORDS)
        if self._names.is_faulty and path != self._names.on_disk(path) and request.method in {"GET", "POST", "DELETE"}:
            raise Refusal(404, f"NodeNotFound: {documents.named(path)}")
        with self._lock:
            if request.method == "GET":
                return self._show(path, query, user, base)
            if request.method == "PUT":
                return self._make(path, request.body, user)
            if request.method == "POST":
                return self._change(path, request.body, user)
            return self._delete(path, user)

    def _show(self, path: str, query: Mapping[str, str], user: str | None, base: str) -> Response:
        node = access.find(self._tree, path, user)
        if query.get("view") == "data":
            return Response(303, b"", None, (("Location", f"{base}/files{node.path}"),))
        if query.get("sort"):
            raise Refusal(400, f"sort by {query['sort']}")
        limit = _limit(query.get("limit"))
        detail = query.get("detail")
        children: list[Node] = []
        resumed = query.get("uri")
        if resumed is not None:
            self._check_resumed(node, resumed)
        if node.is_container and limit != 0 and access.may_read(node, user):
            children = list(self._tree.children(node))
            if hazards.PAGES_IGNORED not in self._played:
                children = _page(children, resumed, limit)
        return Response(200, documents.node(node, children, detail=detail), "text/xml")

    def _check_resumed(self, node: Node, uri: str) -> None:
        if documents.path_of(uri).rpartition("/")[0] != node.path:
            raise Refusal(
                400, f"InvalidURI: uri parameter ({uri}) not a child of target uri ({documents.named(node.path)})."
            )
        if hazards.PAGES_IGNORED in self._played:
            raise Refusal(
                400, "OptionNotSupported: batch container node listing: limit ignored, resume not implemented"
            )

    def _make(self, path: str, body: bytes, user: str | None) -> Response:
        given = documents.read_node(body)
        named = documents.path_of(given.uri)
        if named != path:
            raise Refusal(
                400,
                f"InvalidURI: invalid input: vos URI mismatch: doc={given.uri} and path={documents.named(path)}",
            )
        path = self._names.on_disk(path)
        access.check_parents(self._tree, path, user)
        above = self._tree.find(path.rpartition("/")[0])
        above = None if above is None else self._tree.follow(above)
        if above is None or not above.is_container:
            raise Refusal(404, f"ContainerNotFound: {documents.named(path)}")
        if self._tree.find(path) is not None:
            raise Refusal(409, f"DuplicateNode: {documents.named(path)}")
        if above.path == "/home" and path.rpartition("/")[2] != user:
            raise Refusal(403, f"permission denied: self-allocate {documents.named(path)}")
        if not access.may_write(above, user) and above.path != "/home":
            raise Refusal(403, f"PermissionDenied: {documents.named(path)}")
        place = self._tree.place(path)
        if given.kind == "vos:ContainerNode":
            place.mkdir()
        elif given.kind == "vos:LinkNode":
            self._link(path, given.target)
        else:
            place.touch()
        self._tree.write(path, {CREATOR: user, PUBLIC: "false", **_changes(given.properties)})
        made = self._tree.find(path)
        assert made is not None
        return Response(201, documents.node(made, views=given.views, is_new=True), "text/xml")

    def _link(self, path: str, uri: str | None) -> None:
        if uri is None or not uri.replace("!", "~").startswith(f"vos://{documents.AUTHORITY}/"):
            raise Refusal(400, "link to external resource")
        target = documents.path_of(uri)
        self._tree.place(path).symlink_to(os.path.relpath(target, path.rpartition("/")[0] or "/"))

    def _change(self, path: str, body: bytes, user: str | None) -> Response:
        node = access.find(self._tree, path, user)
        given = documents.read_node(body)
        if documents.path_of(given.uri) != path:
            raise Refusal(
                400,
                f"InvalidURI: invalid input: vos URI mismatch: doc={given.uri} and path={documents.named(path)}",
            )
        if not access.may_write(node, user):
            raise Refusal(403, f"PermissionDenied: {documents.named(path)}")
        changes = _changes(given.properties)
        if MD5 in given.properties and hazards.MD5_FORMS in self._played:
            changes[MD5] = None
        locked = changes.pop(_LOCKED, None)
        self._tree.write(path, changes)
        shown = dict((self._tree.find(path) or node).properties)
        if locked is not None:
            shown[_LOCKED] = locked  # shown once, and kept nowhere
        if DATE in given.properties:
            del shown[DATE]  # dropped as read-only, and not added again
        return Response(200, documents.node(attrs.evolve(node, properties=shown)), "text/xml")

    def _delete(self, path: str, user: str | None) -> Response:
        if not path:
            raise unexpected(_NULL_ROOT)
        node = access.find(self._tree, path, user, words="NodeNotFound: Target ")
        remove(self._tree, node, user)
        return Response(200, b"", None)


def remove(tree: Tree, node: Node, user: str | None, *, whole: bool = False) -> None:
    """Delete a node.

    Raises:
        Refusal: It may not be deleted, or is not empty and not to be deleted with its content.
    """
    above = tree.find(node.path.rpartition("/")[0])
    if above is None or not access.may_write(tree.follow(above) or above, user):
        raise Refusal(403, f"PermissionDenied: {node.path}")
    if not node.is_container:
        node.place.unlink()
    elif whole:
        shutil.rmtree(node.place)
    elif any(node.place.iterdir()):
        raise Refusal(400, f"container node '{node.name}' is not empty")
    else:
        node.place.rmdir()
    tree.forget(node.place)


def _changes(properties: Mapping[str, str | None]) -> dict[str, str | None]:
    for uri in GROUPS & properties.keys():
        for group in (properties[uri] or "").split():
            name = group.partition("?")[2]
            if not re.fullmatch(r"[\w/.~-]+", name, re.ASCII):
                raise MalformedRequest(
                    400,
                    f"invalid group name: {name} reason: Group Name contains illegal characters "
                    "(only alphanumeric, '/', -', '.', '_', '~' allowed",
                )
            raise Refusal(400, f"non-local groups: {group}")  # there is no group service here
    return {uri: value for uri, value in properties.items() if uri not in READ_ONLY}


def _limit(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdigit():
        raise Refusal(400, "InvalidArgument: value for limit must be a positive integer.")
    return int(text)


def _page(children: list[Node], resumed: str | None, limit: int | None) -> list[Node]:
    children.sort(key=lambda child: child.name)
    if resumed is not None:
        first = documents.path_of(resumed)
        children = [child for child in children if child.path >= first]
    return children[:limit]
