"""The pages that need no credential: capabilities and availability, as the Virtual Observatory defines them.

The real service prints XML with JDOM, whose lines end as those of DOS.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from canfar_batch.local.messages import Request, Response
from canfar_batch.local.routes import ROOT, VERSION

_XML = '<?xml version="1.0" encoding="UTF-8"?>'
_SECURITY = ("cookie", "tls-with-certificate", "token")  #: the methods, each of which has an interface of its own
_PLATFORM = "http://www.opencadc.org/std/platform#"
_CADC = "vos://cadc.nrc.ca~vospace/CADC/std/"


def availability(request: Request) -> Response:
    """Answer whether the service is available: always."""
    if "detail=min" in request.query:
        return Response(200, b"", None)
    lines = [
        _XML,
        '<vosi:availability xmlns:vosi="http://www.ivoa.net/xml/VOSIAvailability/v1.0">',
        "  <vosi:available>true</vosi:available>",
        "  <vosi:note>Skaha Service Available.",
        "",
        "Enabled Experimental Features:",
        " ExperimentalFeatures{featureGates={}}</vosi:note>",
        "  <!--<clientip>127.0.0.1</clientip>-->",
        "</vosi:availability>",
    ]
    return _page(lines)


def capabilities(request: Request) -> Response:
    """Answer where the service's parts are.

    URLs have the host that the request names, and lose its port. They begin with https: the real service expects to
    stand behind a proxy.
    """
    if request.method == "HEAD":
        return Response(200, b"", None)
    base = f"https://{urlsplit('//' + request.headers.get('host', 'localhost')).hostname}{ROOT}"
    lines = [
        _XML,
        '<vosi:capabilities xmlns:vosi="http://www.ivoa.net/xml/VOSICapabilities/v1.0" '
        'xmlns:vs="http://www.ivoa.net/xml/VODataService/v1.1" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">',
        *_capability("ivo://ivoa.net/std/VOSI#capabilities", f"{base}/capabilities", use="full", version=""),
        *_capability("ivo://ivoa.net/std/VOSI#availability", f"{base}/availability", use="full", version=""),
        *_capability(f"{_CADC}Logging#control-1.0", f"{base}/logControl", use="full"),
        *_capability(f"{_CADC}Proc#sessions-1.0", f"{base}/v0", security=_SECURITY),
    ]
    for name in ("session", "context", "image", "repository"):
        lines += _capability(f"{_PLATFORM}{name}-1", f"{base}/{VERSION}/{name}", security=_SECURITY)
    return _page([*lines, "</vosi:capabilities>"])


def _capability(
    standard: str, url: str, *, use: str = "base", version: str = ' version="1.0"', security: Sequence[str] = ("",)
) -> Iterator[str]:
    """Yield the lines of one capability, with an interface for each security method; "" is none."""
    yield f'  <capability standardID="{standard}">'
    for method in security:
        yield f'    <interface xsi:type="vs:ParamHTTP" role="std"{version}>'
        yield f'      <accessURL use="{use}">{url}</accessURL>'
        if method:
            yield f'      <securityMethod standardID="ivo://ivoa.net/sso#{method}" />'
        yield "    </interface>"
    yield "  </capability>"


def _page(lines: Sequence[str]) -> Response:
    return Response(200, "".join(f"{line}\r\n" for line in lines).encode(), "text/xml")
