"""Launch names: unique, and the only token by which a launch can be recognised."""

from __future__ import annotations

import hashlib
import re
import secrets

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_LONGEST = 63  # a DNS label


def token_tag(token: str) -> str:
    """Return six letters and digits that stand for a batch's token in launch names, without revealing it."""
    return _tag(token, 6)


def _tag(text: str, width: int) -> str:
    return _base36(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))[-width:].rjust(width, "0")


def names_of_batch(batch: str) -> re.Pattern[str]:
    """Return a pattern that matches the launch names of every batch with this name, whatever its token."""
    return re.compile(rf"{re.escape(_batch_slug(batch))}-.*-{_tag(batch, 2)}[0-9a-z]{{6}}-[0-9a-z]+-[0-9]+")


def launch_name(batch: str, key: str, *, token: str, index: int, attempt: int) -> str:
    """Return the name of one launch of a batch's job: a DNS label, unique in the batch, and readable in the portal.

    It is ``<batch>-<key>-<tag>-<index>-<attempt>``, the index in base 36; the tag is two characters derived from the
    batch's name and six derived from its token. The same arguments give the same name.

    Args:
        batch: The batch's name.
        key: The job's key, or its name.
        token: The batch's token.
        index: The job's place in the plan, from 0.
        attempt: The number of the launch, from 1.
    """
    head, tail = _batch_slug(batch), f"{_tag(batch, 2)}{token_tag(token)}-{_base36(index)}-{attempt}"
    key_slug = _slug(key, min(20, _LONGEST - len(tail) - len(head) - 2)) or "job"
    return f"{head}-{key_slug}-{tail}"


def _batch_slug(batch: str) -> str:
    return _lettered(_slug(batch, 18) or "batch")


def single_launch_name(label: str, *, unique: str | None = None) -> str:
    """Return the name of one launch outside a batch: a slug of *label* and 8 random letters and digits."""
    tail = unique or "".join(secrets.choice(_DIGITS) for _ in range(8))
    return f"{_lettered(_slug(label, 40) or 'job')}-{tail}"


def _lettered(slug: str) -> str:
    return slug if slug[0].isalpha() else f"b-{slug}"


def _slug(text: str, width: int) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower().encode("ascii", "replace").decode()).strip("-")
    return slug[:width].rstrip("-")


def _base36(number: int) -> str:
    digits = ""
    while number or not digits:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits
