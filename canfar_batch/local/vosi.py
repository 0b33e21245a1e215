"""The pages that need no credential: capabilities and availability, as the Virtual Observatory defines them."""

from __future__ import annotations

from canfar_batch.local.messages import Request, Response
from canfar_batch.local.routes import ROOT, VERSION

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


def availability(request: Request) -> Response:
    """Answer whether the service is available: always."""
    if "detail=min" in request.query:
        return Response(200, b"", None)
    return Response(200, _AVAILABILITY.encode(), "text/xml")


def capabilities(request: Request) -> Response:
    """Answer where the service's parts are; URLs have the host that the request names."""
    if request.method == "HEAD":
        return Response(200, b"", None)
    base = f"http://{request.headers.get('host', 'localhost')}{ROOT}"
    places = {
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
