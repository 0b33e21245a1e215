"""Names of container images."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

REGISTRY = "images.canfar.net"


def full_image(image: str, registry: str = REGISTRY) -> str:
    """Return the image's full name: `skaha/astroml` becomes `images.canfar.net/skaha/astroml:latest`.

    A name that begins with a host (a dot, a colon, or `localhost`) keeps it; a tag or digest is kept. The platform's
    official client completes names in the same way.
    """
    host, slash, _ = image.partition("/")
    if not slash or not (re.search(r"[.:]", host) or host == "localhost"):
        image = f"{registry}/{image}"
    return image if re.search(r"[:@]", image.rpartition("/")[2]) or "@" in image else f"{image}:latest"


def nearest_image(image: str, listed: Collection[str]) -> str | None:
    """Return the listed image with a name like that of *image*, a full name; None if none is close, or it is listed."""
    near = [] if image in listed else difflib.get_close_matches(image, listed, n=1, cutoff=0.8)
    return near[0] if near else None
