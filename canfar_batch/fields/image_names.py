"""Names of container images."""

from __future__ import annotations

import re

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
