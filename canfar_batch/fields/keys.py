"""Keys: the names of jobs, given or made from the fields, and the file names made of them."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import PurePath, PurePosixPath
from typing import Any

from canfar_batch.errors import SpecError
from canfar_batch.fields.values import canonical_json, plain_fields, plain_value

LONGEST_KEY = 100  #: characters
_SLUG_WIDTH = 60
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # keys that are their own file names
_PLAIN_REST = re.compile(r"[A-Za-z0-9._-]")
_FILE_NAME_WIDTH = 200  # disks allow 255 bytes, and a suffix such as ".12.events" follows


def job_key(fields: Mapping[str, Any]) -> str:
    """Return a readable name for the job with these fields: a slug of their values, and 8 hex digits of all of them.

    The same fields always give the same key, in every process and version, whatever their order.

    Raises:
        SpecError: See `plain_fields`.
    """
    plain = plain_fields(fields)
    digest = hashlib.sha256(canonical_json(plain).encode()).hexdigest()[:8]
    slug = "-".join(filter(None, (_slug(name, fields[name]) for name in sorted(fields))))
    return f"{slug[:_SLUG_WIDTH].rstrip('._-') or 'job'}-{digest}"


def check_key(key: object) -> str:
    """Return *key* if it can name a job: a printable text of 1 to 100 characters without blanks at its ends.

    Raises:
        SpecError: It cannot name a job.
    """
    if not isinstance(key, str):
        raise SpecError(f"key={key!r} is not a string")
    if not key or len(key) > LONGEST_KEY:
        raise SpecError(
            f"key={key!r} cannot name a job: a key has 1 to {LONGEST_KEY} characters, and this has {len(key)}; "
            "leave key= out, and one is made of the fields"
        )
    if not key.isprintable() or key != key.strip():
        raise SpecError(
            f"key={key!r} cannot name a job: it has a line break, another character that cannot be printed, or a blank "
            "at an end; leave key= out, and one is made of the fields"
        )
    return str(key)


def file_name(key: str) -> str:
    """Return a file name for the job *key*: a different one for every key, and safe on every disk.

    A key of ASCII letters, digits, dots, underscores and hyphens that begins with a letter or digit is its own file
    name. In other keys each other byte of the UTF-8 text, and a first byte that is not a letter or digit, becomes
    `%XX`. A result of more than 200 characters is shortened, and a digest of the key keeps it unique.
    """
    plain = _PLAIN.fullmatch(key) is not None
    name = key if plain else "".join(map(_escaped, range(len(key)), key))
    if len(name) <= _FILE_NAME_WIDTH:
        return name
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{name[: _FILE_NAME_WIDTH - 40]}%-{digest}"  # no escape begins with %-


def _escaped(position: int, character: str) -> str:
    if (_PLAIN if position == 0 else _PLAIN_REST).fullmatch(character):
        return character
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def _slug(name: str, value: object) -> str:
    if isinstance(value, PurePath):
        text = value.stem
    elif isinstance(value, str) and "/" in value:
        text = PurePosixPath(value).stem
    elif isinstance(value, str):
        text = value
    elif isinstance(value, os.PathLike):
        text = PurePosixPath(os.fsdecode(value)).stem
    else:
        text = f"{name}{plain_value(value, name)}"  # a bare number would not say what it is
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-")
