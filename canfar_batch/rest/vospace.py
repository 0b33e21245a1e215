"""The platform's storage service, a VOSpace, by its REST API: `VOSpace`, which fills `storage.Space`.

Bytes go to `/files` and come from there directly, with the session's credential. The negotiation of transfers that the
standard has is not used: the service's own addresses for it fail for many names, and do not exist in deployments that
take OpenID tokens only.
"""

from __future__ import annotations

import base64
import itertools
import re
import time
from collections.abc import Callable
from typing import BinaryIO, TypeVar
from urllib.parse import quote, unquote
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

import attrs

from canfar_batch.errors import (
    NameRefused,
    PlatformBroken,
    PlatformError,
    RemoteMissing,
    StorageDenied,
    StorageError,
    StorageFull,
    TransferDamaged,
)
from canfar_batch.rest.answers import Answer, error_for, is_service
from canfar_batch.rest.transport import Transport
from canfar_batch.storage import RemoteFile
from canfar_batch.storage.space import Content

T = TypeVar("T")

_SPACE = "http://www.ivoa.net/xml/VOSpace/v2.0"
_SCHEMA = "http://www.w3.org/2001/XMLSchema-instance"
_CORE = "ivo://ivoa.net/vospace/core#"
_MOVE_PATIENCE = 120.0  #: seconds that the service may take to rename a file
_MOVE_WAIT = 5  #: seconds that one question about a rename waits for its end
#: letters in names that the service takes for something else, or fails at
_UNUSABLE = re.compile(r'[\x00-\x20\x7f\[\]\\<>"^`{|}#?%;]')
_LONGEST_NAME = 255  #: bytes
_DEEPEST = 200  #: folders in each other


class VOSpace:
    """The files of one storage service.

    Args:
        transport: Requests to the service's address, `https://host/arc`.
        sleep: Waits for a number of seconds.
        ticks: The time in seconds, for differences.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        sleep: Callable[[float], None] = time.sleep,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport, self._sleep, self._ticks = transport, sleep, ticks
        self._authority: str | None = None

    @property
    def where(self) -> str:
        """The address of the service."""
        return self._transport.url

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def trouble_with(self, name: str) -> str | None:
        """Return why the service cannot keep a name; None if it can."""
        found = _UNUSABLE.search(name)
        if found:
            return f"the storage service cannot use names with {_named(found[0])}"
        if len(name.encode()) > _LONGEST_NAME:
            return f"the name has more than {_LONGEST_NAME} bytes"
        return None

    def find(self, path: str) -> RemoteFile | None:
        """Return the file or folder of *path*; None if the service says that there is none."""

        def read(answer: Answer) -> RemoteFile | None:
            if answer.status == 404 and is_service(answer):
                return None
            return attrs.evolve(self._described(self._document(answer, path)), path=path)

        return self._ask("GET", f"/nodes{_quoted(path)}", read, {"limit": "0"})

    def children(self, path: str) -> list[RemoteFile]:
        """Return all files and folders in a folder; the service has no pages.

        Raises:
            StorageError: The service names something that is not in the folder, and might be written elsewhere here.
        """

        def read(answer: Answer) -> list[RemoteFile]:
            node = self._document(answer, path)
            children = [self._described(child) for child in node.findall(f"{{{_SPACE}}}nodes/{{{_SPACE}}}node")]
            if path.count("/") > _DEEPEST or not all(_is_in(path, child.path) for child in children):
                raise StorageError(f"{self.where} lists things in /arc{path} that cannot be there")
            return children

        return self._ask("GET", f"/nodes{_quoted(path)}", read)

    def make_folder(self, path: str) -> None:
        """Make a folder, unless it exists."""

        def check(answer: Answer) -> None:
            if answer.status not in (200, 201, 409):
                raise self._error(answer, path)

        document = (
            f'<vos:node xmlns:vos="{_SPACE}" xmlns:xsi="{_SCHEMA}" uri="{escape(self._uri(path))}" '
            'xsi:type="vos:ContainerNode"><vos:properties/><vos:nodes/></vos:node>'
        )
        self._ask("PUT", f"/nodes{_quoted(path)}", check, body=document.encode(), content_type="text/xml")

    def read(self, path: str, start: int = 0) -> Content:
        """Return the content of a file: from *start* on, or whole if the service ignores ranges."""
        begin, digest = 0, None

        def check(answer: Answer) -> bool:
            nonlocal begin, digest
            if answer.status not in (200, 204, 206) or answer.is_html:
                raise self._error(answer, path)
            begin = _first_byte(answer) if answer.status == 206 else 0
            digest = _digest_of(answer)
            return answer.status != 204

        headers = {"Range": f"bytes={start}-"} if start else {}
        pieces = self._transport.stream(f"/files{_quoted(path)}", {}, check=check, headers=headers)
        first = list(itertools.islice(pieces, 1))
        if begin not in (0, start):
            raise PlatformBroken(f"{self.where} sent another part of {path} than was asked for", status=206)
        return Content(pieces=itertools.chain(first, pieces), start=begin, md5=digest)

    def write(self, path: str, source: BinaryIO, size: int, md5: str) -> None:
        """Store a file. The service checks the MD5, and returns it."""

        def check(answer: Answer) -> None:
            if answer.status not in (200, 201):
                raise self._error(answer, path)
            stored = _digest_of(answer)
            if stored is not None and stored != md5:
                raise TransferDamaged(f"/arc{path} was stored with MD5 {stored} instead of {md5}")

        headers = {
            "Content-Type": "application/octet-stream",
            "Digest": f"md5={base64.b64encode(bytes.fromhex(md5)).decode()}",
        }
        self._transport.send_file(f"/files{_quoted(path)}", source, size, headers=headers, read=check)

    def digest(self, path: str) -> str | None:
        """Return None: the service lists the MD5 of each file, if it knows it."""
        return None

    def move(self, old: str, new: str) -> None:
        """Rename a file, which is a job of the service.

        Raises:
            StorageError: It failed, or did not end within two minutes.
        """
        document = (
            f'<vos:transfer xmlns:vos="{_SPACE}" version="2.1"><vos:target>{escape(self._uri(old))}</vos:target>'
            f"<vos:direction>{escape(self._uri(new))}</vos:direction><vos:keepBytes>false</vos:keepBytes></vos:transfer>"
        )

        def job(answer: Answer) -> str:
            location = answer.headers.get("location", "")
            found = re.search(r"/transfers/([\w.-]+)", location)
            if answer.status != 303 or not found:
                raise self._error(answer, old)
            return f"/transfers/{found[1]}"

        def started(answer: Answer) -> None:
            if answer.status not in (200, 303):
                raise self._error(answer, old)

        place = self._ask("POST", "/transfers", job, body=document.encode(), content_type="text/xml")
        form = "application/x-www-form-urlencoded"
        self._ask("POST", f"{place}/phase", started, body=b"PHASE=RUN", content_type=form)
        end = self._ticks() + _MOVE_PATIENCE
        phase, message = "EXECUTING", ""
        while phase in ("PENDING", "QUEUED", "EXECUTING"):
            if self._ticks() > end:
                raise StorageError(f"renaming /arc{old} did not end within {_MOVE_PATIENCE:.0f} s")
            phase, message = self._ask(
                "GET", place, lambda answer: self._phase(answer, old), {"WAIT": str(_MOVE_WAIT), "PHASE": phase}
            )
        if phase != "COMPLETED":
            raise TransferDamaged(f"/arc{old} could not be renamed to {new.rpartition('/')[2]}: {message or phase}")

    def delete(self, path: str) -> None:
        """Delete a file; if there is none, do nothing."""

        def check(answer: Answer) -> None:
            if answer.status not in (200, 204) and not (answer.status == 404 and is_service(answer)):
                raise self._error(answer, path)

        self._ask("DELETE", f"/nodes{_quoted(path)}", check)

    # -- answers --------------------------------------------------------------------------------------------------

    def _ask(
        self,
        method: str,
        place: str,
        read: Callable[[Answer], T],
        query: dict[str, str] | None = None,
        *,
        body: bytes | None = None,
        content_type: str | None = None,
    ) -> T:
        return self._transport.ask(method, place, query, read=read, body=body, content_type=content_type)

    def _document(self, answer: Answer, path: str) -> ET.Element:
        if answer.status != 200:
            raise self._error(answer, path)
        try:
            return ET.fromstring(answer.body)  # noqa: S314 - of the platform; expat bounds entities
        except ET.ParseError:
            raise error_for(answer, f"looking at /arc{path}") from None

    def _described(self, node: ET.Element) -> RemoteFile:
        uri = node.get("uri", "")
        self._authority = uri.partition("://")[2].partition("/")[0] or self._authority
        properties = {each.get("uri", ""): each.text or "" for each in node.iter(f"{{{_SPACE}}}property")}
        is_folder = node.get(f"{{{_SCHEMA}}}type", "").endswith("ContainerNode")
        length = properties.get(f"{_CORE}length", "0")
        return RemoteFile(
            path=f"/{unquote(uri.partition('://')[2].partition('/')[2])}".rstrip("/"),
            is_folder=is_folder,
            size=int(length) if re.fullmatch("[0-9]{1,19}", length) and not is_folder else 0,
            md5=_hexadecimal(properties.get(f"{_CORE}MD5")),
            modified=properties.get(f"{_CORE}date"),
        )

    def _phase(self, answer: Answer, path: str) -> tuple[str, str]:
        job = self._document(answer, path)
        found = {each.tag.rpartition("}")[2]: (each.text or "").strip() for each in job.iter()}
        return found.get("phase", ""), found.get("message", "")

    def _uri(self, path: str) -> str:
        """Return the identifier of a path; the service's authority is learnt from its root."""
        if self._authority is None:
            self.find("")
        return f"vos://{self._authority or 'cadc.nrc.ca~arc'}{_quoted(path)}"

    def _error(self, answer: Answer, path: str) -> StorageError | PlatformError:
        """Return the error for an answer that is no success."""
        status, text = answer.status, answer.text
        doing = f"asking for /arc{path}"
        if not is_service(answer):
            return error_for(answer, doing)
        if status == 404:
            return RemoteMissing(f"/arc{path} is not on the storage ({text})")
        if status == 403:
            return StorageDenied(f"the storage refuses /arc{path} ({text}): you may lack the right to its folder")
        if status == 413 or "quota" in text.lower():
            return StorageFull(f"the storage has no room for /arc{path} ({text})")
        if status == 412:
            return TransferDamaged(f"/arc{path} did not arrive whole ({text})")
        if status == 423:
            return StorageDenied(f"/arc{path} is locked ({text})")
        if status == 500 and re.search(r"VOSURI|Internal Error: ", text):
            return NameRefused(f"the storage service cannot use the name /arc{path} ({text}); rename it")
        if status in (400, 409):
            return StorageError(f"the storage refuses /arc{path} ({status}: {text})")
        return error_for(answer, doing)


def _is_in(folder: str, path: str) -> bool:
    """Return whether *path* is that of a file or folder directly in *folder*."""
    parent, _, name = path.rpartition("/")
    return parent == folder and name not in ("", ".", "..") and "\0" not in name


def _quoted(path: str) -> str:
    return quote(path, safe="/~")


def _named(letter: str) -> str:
    return {" ": "a blank", "\t": "a tab", "\n": "a line end"}.get(letter, repr(letter))


def _hexadecimal(text: str | None) -> str | None:
    """Return an MD5 in hexadecimal digits; the service writes `HEX` or `md5:HEX`. None if it is neither."""
    found = re.fullmatch(r"(?:md5:)?([0-9a-f]{32})", (text or "").strip().lower())
    return found[1] if found else None


def _digest_of(answer: Answer) -> str | None:
    """Return the MD5 of an answer's `Digest` header; None if it has none."""
    found = re.search(r"(?:^|,)\s*md5=([A-Za-z0-9+/]{22}==)", answer.headers.get("digest", ""), re.IGNORECASE)
    return base64.b64decode(found[1]).hex() if found else None


def _first_byte(answer: Answer) -> int:
    found = re.match(r"bytes (\d+)-", answer.headers.get("content-range", ""))
    return int(found[1]) if found else 0
