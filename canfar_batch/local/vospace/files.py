"""`/files`: the bytes of files, up and down."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import threading
from collections.abc import Collection
from datetime import datetime
from email.utils import formatdate

from canfar_batch.local.answers import Refusal, unexpected
from canfar_batch.local.messages import ConnectionDropped, Request, Response
from canfar_batch.local.vospace import access, hazards
from canfar_batch.local.vospace.documents import named, uri_of
from canfar_batch.local.vospace.paths import FILE_WORDS, READ, WRITE, Grants, Names
from canfar_batch.local.vospace.tree import CREATOR, DATE, MD5, PUBLIC, TYPE, Node, Tree

EARLY = 8 * 1024 * 1024  #: bytes of an upload from which the real service notices a full disk in its middle
_PIECE = 1024 * 1024
_IN_MEMORY = 32 * 1024 * 1024  #: bytes of a file that is answered as a whole, so that faults can change it


class Files:
    """Answers requests for the content of files."""

    def __init__(
        self, tree: Tree, names: Names, grants: Grants, played: Collection[str], lock: threading.RLock
    ) -> None:
        self._tree, self._names, self._grants, self._played, self._lock = tree, names, grants, played, lock

    def answer(self, request: Request, rest: str, user: str | None) -> Response:
        """Answer a request."""
        token, rest = self._grants.split(rest)
        path = self._names.address(rest, FILE_WORDS)
        if token is not None:
            user = self._grants.user(token, path, uri_of(path), WRITE if request.method == "PUT" else READ)
        if request.method == "PUT":
            with self._lock:
                return self._store(self._names.on_disk(path), request, user)
        if path != self._names.on_disk(path):
            raise Refusal(404, f"NodeNotFound: {named(path)}")
        return self._show(path, request, user)

    def early(self, request: Request, rest: str) -> Response | None:
        """Return the refusal of a large upload that exceeds the quota; its body is not read, the connection ends."""
        length = int(request.headers.get("content-length", "0") or 0)
        if self._tree.quota is None or length < EARLY or hazards.QUOTA_CLOSES not in self._played:
            return None
        path = self._names.address(self._grants.split(rest)[1], FILE_WORDS)
        left = self._tree.quota - self._tree.used(path)
        if length <= left or not path.startswith("/home/"):
            return None
        self._tree.place(path).touch()
        return Refusal(413, f"limit: {left}").response

    def _show(self, path: str, request: Request, user: str | None) -> Response:
        node = access.find(self._tree, path, user)
        found = self._tree.follow(node)
        if found is None or not found.place.resolve().is_relative_to(self._tree.root.resolve()):
            raise Refusal(404, f"NodeNotFound: {named(path)}")
        if found.is_container:
            raise Refusal(400, "GET for directories not supported")
        headers = [("Last-Modified", _modified(found))]
        with contextlib.suppress(UnicodeEncodeError):
            node.name.encode("latin-1")
            headers.insert(0, ("Content-Disposition", f'inline; filename="{node.name}"'))
        digest = found.properties.get(MD5)
        if digest is not None:
            headers.append(("Digest", _digest_header(digest.removeprefix("md5:"))))
        kind = found.properties.get(TYPE)
        size = found.place.stat().st_size
        if size == 0:
            return Response(204, b"", kind, tuple(headers))
        status, first, last = 200, 0, size - 1
        if hazards.RANGES_IGNORED not in self._played:
            headers.append(("Accept-Ranges", "bytes"))
            wanted = _range(request.headers.get("range"), size)
            if wanted is not None:
                status, (first, last) = 206, wanted
                if first >= size:
                    return Response(416, b"", None, (("Content-Range", f"bytes */{size}"),))
                headers.append(("Content-Range", f"bytes {first}-{last}/{size}"))
        length = last - first + 1
        if request.method == "HEAD":
            return Response(status, b"", kind, tuple(headers), promised=length)
        source = found.place.open("rb")
        source.seek(first)
        if length > _IN_MEMORY:
            return Response(status, b"", kind, tuple(headers), source=source, length=length)
        with source:
            return Response(status, source.read(length), kind, tuple(headers))

    def _store(self, path: str, request: Request, user: str | None) -> Response:
        node, above = self._tree.find(path), self._tree.find(path.rpartition("/")[0])
        above = None if above is None else self._tree.follow(above)
        if above is None or not above.is_container:
            raise Refusal(404, f"not found: parent container {path.rpartition('/')[0]}")
        access.check_parents(self._tree, path, user)
        node = None if node is None else self._tree.follow(node)
        if node is not None and node.is_container:
            raise Refusal(400, "not a data node")
        if not access.may_write(node or above, user):
            if node is None and hazards.EMPTY_NODES in self._played and user is not None:
                self._tree.place(path).touch()
                self._tree.write(path, {CREATOR: user, PUBLIC: "false"})
            raise Refusal(403, f"permission denied: write to {path}")
        if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            raise unexpected("ca.nrc.cadc.io.ReadException: read from input stream failed")
        return self._write(path, node, request, user)

    def _write(self, path: str, node: Node | None, request: Request, user: str | None) -> Response:
        expected = _expected(request.headers.get("digest"))
        place = self._tree.place(path) if node is None else node.place
        stored = place if hazards.TRUNCATES_FIRST in self._played else place.with_name(f".{place.name}.new")
        digest = hashlib.md5(usedforsecurity=False)
        with stored.open("wb") as target:
            for piece in request.pieces(_PIECE):
                digest.update(piece)
                target.write(piece)
        is_made = node is None
        if is_made and stored == place:
            self._tree.write(path, {CREATOR: user, PUBLIC: "false"})
        trouble = self._trouble(path, digest.hexdigest(), expected, is_cut=request.is_cut)
        if trouble is not None:
            if stored == place:
                os.truncate(place, 0)
            else:
                stored.unlink()
            raise trouble
        if stored != place:
            stored.replace(place)
        before = None if node is None else node.properties.get(MD5)
        prefix = "md5:" if before is not None and hazards.MD5_FORMS in self._played else ""
        kind = request.headers.get("content-type")
        owner = user if is_made or node is None else node.properties[CREATOR]
        written = path if node is None else node.path
        self._tree.write(written, {CREATOR: owner, MD5: prefix + digest.hexdigest(), TYPE: kind})
        return Response(201, b"", kind, (("Digest", _digest_header(digest.hexdigest())),))

    def _trouble(self, path: str, digest: str, expected: str | None, *, is_cut: bool) -> Exception | None:
        if is_cut:
            return ConnectionDropped()
        if self._tree.quota is not None and path.startswith("/home/"):
            left = self._tree.quota - self._tree.used(path)
            if left < 0:
                return Refusal(413, f"limit: {left}")
        if expected is not None and expected != digest:
            return Refusal(412, f"checksum mismatch: md5:{expected} != md5:{digest}")
        return None


def _expected(header: str | None) -> str | None:
    """Return the MD5 of a `Digest` header in hexadecimal digits; None without one.

    Raises:
        Refusal: It is of another kind, or malformed.
    """
    if header is None:
        return None
    kind, _, value = header.partition("=")
    try:
        raw = base64.b64decode(value + "=" * (-len(value) % 4))
    except ValueError:
        raise Refusal(400, f"invalid digest: {header}") from None
    if kind.lower() == "md5" and len(raw) == 16:
        return raw.hex()
    if kind.lower() == "sha-256":
        raise Refusal(400, f"Invalid SHA-256 checksum, expected 64 chars, found {len(raw.hex())} in {raw.hex()}")
    raise Refusal(400, f"invalid digest: {header}")


def _digest_header(hexadecimal: str) -> str:
    return f"md5={base64.b64encode(bytes.fromhex(hexadecimal)).decode()}"


def _modified(node: Node) -> str:
    when = datetime.fromisoformat(f"{node.properties[DATE]}000+00:00")
    return formatdate(when.timestamp(), usegmt=True)


def _range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the first and the last byte that are wanted; None for the whole file."""
    if header is None or not header.startswith("bytes=") or "," in header:
        return None
    first, _, last = header.removeprefix("bytes=").partition("-")
    if not first:
        return max(0, size - int(last)), size - 1
    return int(first), min(int(last or size - 1), size - 1)
