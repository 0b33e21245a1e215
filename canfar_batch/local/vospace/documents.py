"""The XML of VOSpace as the service reads and writes it: nodes, transfers, jobs, capabilities."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from urllib.parse import quote, unquote
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

import attrs

from canfar_batch.local.answers import MalformedRequest, Refusal
from canfar_batch.local.vospace.tree import CREATOR, PUBLIC, READ_ONLY, Node

AUTHORITY = "cadc.nrc.ca~arc"
SPACE = "http://www.ivoa.net/xml/VOSpace/v2.0"
SCHEMA = "http://www.w3.org/2001/XMLSchema-instance"
HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
_NODE_HEAD = f'<vos:node xmlns:vos="{SPACE}" xmlns:xsi="{SCHEMA}" uri="'
READABLE, WRITABLE = (f"ivo://cadc.nrc.ca/vospace/core#{name}" for name in ("readable", "writable"))


def uri_of(path: str) -> str:
    """Return the identifier of a path, with what identifiers may not hold escaped."""
    return f"vos://{AUTHORITY}{quote(path, safe=_UNESCAPED)}"


_UNESCAPED = "/!$&'()*+,;=:@~"


def named(path: str, escaped: str = "") -> str:
    """Return the identifier of a path as the service writes it in texts: composed, and escaped beyond ASCII.

    Args:
        path: The path.
        escaped: Further characters that are escaped.
    """
    safe = "".join(letter for letter in _ASCII if letter not in escaped)
    return f"vos://{AUTHORITY}{quote(unicodedata.normalize('NFC', path), safe=safe)}"


_ASCII = "".join(map(chr, range(32, 127)))


def path_of(uri: str) -> str:
    """Return the path of an identifier.

    Raises:
        Refusal: It is not one of this VOSpace.
    """
    scheme, _, rest = uri.strip().partition("://")
    authority, slash, path = rest.partition("/")
    if scheme != "vos" or authority.replace("!", "~") != AUTHORITY:
        raise Refusal(400, f"InvalidURI: {uri}")
    return unquote(f"{slash}{path}").rstrip("/")


# Nodes


def node(
    one: Node,
    children: Iterable[Node] | None = None,
    *,
    detail: str | None = None,
    views: Mapping[str, Sequence[str]] | None = None,
    is_new: bool = False,
) -> bytes:
    """Return the document of a node.

    Args:
        one: The node.
        children: A container's children to show.
        detail: `min`, `max` or None, as in the request.
        views: The views to repeat, by `accepts` and `provides`.
        is_new: Whether it was made just now: then it has no date and no length yet.
    """
    shown = attrs.evolve(one, properties={key: one.properties[key] for key in (CREATOR, PUBLIC)}) if is_new else one
    if is_new and one.target is not None:
        shown.properties[PUBLIC] = "false"  # a link is shown as public from the next answer on
    if is_new and one.is_container:
        shown.properties.update({key: value for key, value in one.properties.items() if "inherit" in key})
    lines = list(_lines(shown, children or (), detail, views or {}, ""))
    lines[0] = _NODE_HEAD + lines[0].removeprefix('<vos:node uri="')
    return (HEAD + "\n".join(lines) + "\n").encode()


def _lines(
    one: Node, children: Iterable[Node], detail: str | None, views: Mapping[str, Sequence[str]], indent: str
) -> Iterable[str]:
    busy = ' busy="false"' if one.kind == "vos:DataNode" and detail != "min" else ""
    yield f'{indent}<vos:node uri="{escape(uri_of(one.path))}" xsi:type="{one.kind}"{busy}>'
    if detail != "min":
        properties = dict(one.properties)
        if detail == "max":
            properties |= {READABLE: "true", WRITABLE: "true"}
        yield f"{indent}  <vos:properties>"
        for uri in sorted(properties, key=lambda uri: (":" in uri, uri)):
            fixed = ' readOnly="true"' if uri in READ_ONLY or uri in (READABLE, WRITABLE) else ""
            yield f'{indent}    <vos:property uri="{escape(uri)}"{fixed}>{escape(properties[uri])}</vos:property>'
        yield f"{indent}  </vos:properties>"
    if one.target is not None:
        yield f"{indent}  <vos:target>{escape(uri_of(one.target))}</vos:target>"
    elif one.is_container:
        inner = [line for child in children for line in _lines(child, (), detail, {}, indent + "    ")]
        yield from (
            [f"{indent}  <vos:nodes>", *inner, f"{indent}  </vos:nodes>"] if inner else [f"{indent}  <vos:nodes />"]
        )
    else:
        for name in ("accepts", "provides"):
            if views.get(name):
                yield f"{indent}  <vos:{name}>"
                yield from (f'{indent}    <vos:view uri="{escape(uri)}" />' for uri in views[name])
                yield f"{indent}  </vos:{name}>"
            else:
                yield f"{indent}  <vos:{name} />"
    yield f"{indent}</vos:node>"


@attrs.frozen
class GivenNode:
    """A node as a client describes it."""

    uri: str
    kind: str
    properties: Mapping[str, str | None]  #: None deletes one
    target: str | None
    views: Mapping[str, Sequence[str]]


def read_node(body: bytes) -> GivenNode:
    """Read a client's description of a node.

    Raises:
        Refusal: It is not valid.
    """
    found = _parse(body, "invalid input: XML failed schema validation: ")
    kind = found.get(f"{{{SCHEMA}}}type", "vos:DataNode")
    kind = f"vos:{kind.rpartition(':')[2]}"
    if kind == "vos:ContainerNode" and found.find(f"{{{SPACE}}}nodes") is None:
        wanted = ", ".join(f'"{SPACE}":{name}' for name in ("accepts", "provides", "capabilities", "nodes"))
        raise MalformedRequest(
            400,
            "InvalidArgument: invalid input: XML failed schema validation: Error on line 1: cvc-complex-type.2.4.b: "
            f"The content of element 'vos:node' is not complete. One of '{{{wanted}}}' is expected.",
        )
    properties = {
        each.get("uri", ""): None if each.get(f"{{{SCHEMA}}}nil") == "true" else (each.text or "")
        for each in found.iter(f"{{{SPACE}}}property")
    }
    target = found.findtext(f"{{{SPACE}}}target")
    views = {
        name: [view.get("uri", "") for view in found.findall(f"{{{SPACE}}}{name}/{{{SPACE}}}view")]
        for name in ("accepts", "provides")
    }
    return GivenNode(found.get("uri", ""), kind, properties, target, views)


# Transfers


@attrs.frozen
class GivenTransfer:
    """A transfer as a client asks for it."""

    target: str
    direction: str
    protocols: tuple[str, ...]
    keep: bool


def read_transfer(body: bytes) -> GivenTransfer:
    """Read a client's transfer.

    Raises:
        Refusal: It is not valid.
    """
    found = _parse(body, None)
    protocols = tuple(each.get("uri", "") for each in found.findall(f"{{{SPACE}}}protocol"))
    target, direction = (found.findtext(f"{{{SPACE}}}{name}") for name in ("target", "direction"))
    if not target or not direction:
        raise Refusal(400, "InvalidArgument: failed to parse XML")
    keep = (found.findtext(f"{{{SPACE}}}keepBytes") or "true") != "false"
    return GivenTransfer(target, direction, protocols, keep)


def transfer(given: GivenTransfer, endpoints: Iterable[tuple[str, str]], target: str) -> str:
    """Return a transfer with its endpoints, each with its protocol; *target* as the service writes it."""
    lines = [
        f'<vos:transfer xmlns:vos="{SPACE}" version="2.1">',
        f"  <vos:target>{escape(target)}</vos:target>",
        f"  <vos:direction>{escape(given.direction)}</vos:direction>",
    ]
    for protocol, url in endpoints:
        lines += [
            f'  <vos:protocol uri="{escape(protocol)}">',
            f"    <vos:endpoint>{escape(url)}</vos:endpoint>",
            "  </vos:protocol>",
        ]
    lines += [f"  <vos:keepBytes>{'true' if given.keep else 'false'}</vos:keepBytes>", "</vos:transfer>", ""]
    return "\n".join(lines)


def _parse(body: bytes, failure: str | None) -> ET.Element:
    try:
        return ET.fromstring(body)  # noqa: S314 - from the machine's own user
    except ET.ParseError:
        if failure is None:
            raise MalformedRequest(400, "InvalidArgument: failed to parse XML") from None
        raise MalformedRequest(
            400, f"InvalidArgument: {failure}Error on line 1: Content is not allowed in prolog."
        ) from None


# Capabilities

_SPACE_STANDARD = "ivo://ivoa.net/std/VOSpace"
_METHODS = ("", "ivo://ivoa.net/sso#tls-with-certificate", "ivo://ivoa.net/sso#token")


def capabilities(base: str, *, is_full: bool) -> bytes:
    """Return where the parts of the service below *base* are.

    Args:
        base: The address of the service.
        is_full: Whether moves are offered in the form `full` only, as the real service does.
    """
    methods = _METHODS
    parts: list[tuple[str, str, Sequence[str], Sequence[str]]] = [
        ("ivo://ivoa.net/std/VOSI#capabilities", "capabilities", ("full",), ()),
        ("ivo://ivoa.net/std/VOSI#availability", "availability", ("full",), ()),
        (f"{_SPACE_STANDARD}/v2.0#nodes", "nodes", ("base",), methods),
        (f"{_SPACE_STANDARD}/v2.0#transfers", "transfers", ("full",) if is_full else ("full", "base"), methods),
        (f"{_SPACE_STANDARD}#sync-2.1", "synctrans", ("full",), methods),
        (f"{_SPACE_STANDARD}#recursive-nodeprops-proto", "async-setprops", ("full",), methods[1:]),
        (f"{_SPACE_STANDARD}#files-proto", "files", ("base",), methods),
        (f"{_SPACE_STANDARD}#recursive-delete-proto", "async-delete", ("full",), methods[1:]),
    ]
    lines = [
        '<vosi:capabilities xmlns:vosi="http://www.ivoa.net/xml/VOSICapabilities/v1.0" '
        'xmlns:vr="http://www.ivoa.net/xml/VOResource/v1.0" xmlns:vs="http://www.ivoa.net/xml/VODataService/v1.1" '
        f'xmlns:xsi="{SCHEMA}">'
    ]
    for standard, part, uses, allowed in parts:
        lines.append(f'  <capability standardID="{standard}">')
        for use in uses:
            lines += [
                '    <interface xsi:type="vs:ParamHTTP" role="std">',
                f'      <accessURL use="{use}">{base}/{part}</accessURL>',
                *(
                    f'      <securityMethod standardID="{method}" />' if method else "      <securityMethod />"
                    for method in allowed
                ),
                "    </interface>",
            ]
        lines.append("  </capability>")
    return (HEAD + "\n".join([*lines, "</vosi:capabilities>", ""])).encode()


# Jobs


@attrs.define
class Job:
    """Work that the service does in the background."""

    id: str
    owner: str
    created: str
    seconds: int  #: that it may take
    run: Callable[[], None] = attrs.field(repr=False)
    parameters: Mapping[str, str] = attrs.field(factory=dict)
    info: str = ""  #: the document that it was made from
    phase: str = "PENDING"
    started: str | None = None
    ended: str | None = None
    error: str | None = None
    results: dict[str, str] = attrs.field(factory=dict)
    given: GivenTransfer | None = None


def job(one: Job) -> bytes:
    """Return the document of a job."""
    lines = [
        '<uws:job xmlns:uws="http://www.ivoa.net/xml/UWS/v1.0" xmlns:xlink="http://www.w3.org/1999/xlink" '
        'version="1.1">',
        f"  <uws:jobId>{one.id}</uws:jobId>",
        "  <uws:runId />",
        f"  <uws:ownerId>{one.owner}</uws:ownerId>",
        f"  <uws:phase>{one.phase}</uws:phase>",
        f"  <uws:quote>{one.created}</uws:quote>",
        f"  <uws:creationTime>{one.created}</uws:creationTime>",
    ]
    for name, value in (("startTime", one.started), ("endTime", one.ended)):
        lines.append(
            f"  <uws:{name}>{value}</uws:{name}>" if value else f'  <uws:{name} xmlns:xsi="{SCHEMA}" xsi:nil="true" />'
        )
    lines += [
        f"  <uws:executionDuration>{one.seconds}</uws:executionDuration>",
        f"  <uws:destruction>{one.created}</uws:destruction>",
    ]
    if one.parameters:
        lines.append("  <uws:parameters>")
        lines += [
            f'    <uws:parameter id="{escape(id)}">{escape(value)}</uws:parameter>'
            for id, value in one.parameters.items()
        ]
        lines.append("  </uws:parameters>")
    else:
        lines.append("  <uws:parameters />")
    if one.results:
        lines.append("  <uws:results>")
        lines += [f'    <uws:result id="{id}" xlink:href="{escape(href)}" />' for id, href in one.results.items()]
        lines.append("  </uws:results>")
    else:
        lines.append("  <uws:results />")
    if one.error is not None:
        lines += [
            '  <uws:errorSummary type="fatal" hasDetail="false">',
            f"    <uws:message>{escape(one.error)}</uws:message>",
            "  </uws:errorSummary>",
        ]
    if one.info:
        lines += ["  <uws:jobInfo>", *(f"    {line}" for line in one.info.splitlines()), "  </uws:jobInfo>"]
    return (HEAD + "\n".join([*lines, "</uws:job>", ""])).encode()
