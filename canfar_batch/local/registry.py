"""Images: which the platform lists, and the credentials that all others need."""

from __future__ import annotations

import base64
import binascii
import difflib
from collections.abc import Iterable
from typing import Literal

import attrs

from canfar_batch.local.answers import illegal

HOSTS = ("images.canfar.net",)
Strictness = bool | Literal["typos"]


@attrs.frozen
class Image:
    """An image that the platform lists."""

    id: str
    types: tuple[str, ...] = ("headless",)
    digest: str = "sha256:" + "0" * 64


#: the images that the platform lists by default
IMAGES = (
    Image("images.canfar.net/skaha/astroml:latest", ("headless", "notebook")),
    Image("images.canfar.net/skaha/astroml-cuda:latest", ("headless", "notebook")),
    Image("images.canfar.net/skaha/terminal:latest", ("headless",)),
    Image("images.canfar.net/skaha/astroconda:latest", ("headless",)),
    Image("images.canfar.net/skaha/casa:latest", ("headless",)),
    Image("images.canfar.net/skaha/desktop:latest", ("desktop",)),
    Image("images.canfar.net/skaha/carta:latest", ("carta",)),
)


def check_host(image: str) -> None:
    """Check that an image comes from a known registry.

    Raises:
        Refusal: It does not. Only the beginning counts, so `images.canfar.net.elsewhere` passes.
    """
    if not image.startswith(HOSTS):
        raise illegal(f"session image '{image}' must come from one of [{', '.join(HOSTS)}]")


def is_accepted(image: str, listed: Iterable[str], strict: Strictness) -> bool:
    """Return whether an image needs no credentials.

    Args:
        image: The image's full name.
        listed: The images that the platform lists.
        strict: True accepts listed images alone, as the real service does; False accepts every image; "typos" accepts
            every image but those whose name resembles a listed one.
    """
    names = list(listed)
    if image in names or strict is False:
        return True
    return strict == "typos" and nearest(image, names) is None


def nearest(image: str, listed: Iterable[str]) -> str | None:
    """Return the listed image whose name an image's name resembles; None if there is none.

    Tags resemble each other only if they are words: `2024.1` and `2024.2` are two versions.
    """
    names = list(listed)
    repository, _, tag = image.partition(":")
    if same := [name for name in names if name.partition(":")[0] == repository]:
        words = {word: name for name in same if (word := name.partition(":")[2]).isalpha()}
        found = difflib.get_close_matches(tag.lower(), words, 1, 0.7)
        return words[found[0]] if found and tag.isalpha() else None
    repositories = {name.partition(":")[0]: name for name in names}
    found = difflib.get_close_matches(repository, repositories, 1, 0.9)
    return repositories[found[0]] if found else None


def check_credentials(header: str | None) -> None:
    """Check the header with the registry's credentials, which unlisted images need.

    Raises:
        Refusal: It is missing or malformed.
    """
    if header is None or not header.strip():
        raise illegal(
            "No authentication provided for unknown or private image.  Use x-skaha-registry-auth request header "
            "with base64Encode(username:secret)."
        )
    if len(header) % 4:
        raise illegal("Length of Base64 encoded input string is not a multiple of 4.")
    try:
        text = base64.b64decode(header, validate=True).decode("utf-8", "replace")
    except binascii.Error:
        raise illegal("Illegal character in Base64 encoded data.") from None
    pieces = text.split(":")
    while len(pieces) > 1 and not pieces[-1]:
        pieces.pop()  # as Java's split does
    if len(pieces) != 2:
        raise illegal("Invalid input.  Must be in form of username:secret")
    for name, piece in zip(("username", "secret"), pieces, strict=True):
        if not piece.strip():
            raise illegal(f"{name} is required.")
