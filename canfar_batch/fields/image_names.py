"""Names of container images."""

from __future__ import annotations

import re
from collections.abc import Collection

from canfar_batch.text import did_you_mean

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


def suggest_image(image: str, listed: Collection[str]) -> str:
    """Return the question whether a listed image was meant by *image*, a full name; empty if none is like it."""
    return "" if image in listed else did_you_mean(image, listed, cutoff=0.8)
