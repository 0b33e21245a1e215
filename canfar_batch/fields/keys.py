"""Keys: the names of jobs, given or made from the fields, and the file names made of them."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import PurePath, PurePosixPath
from typing import Any

from canfar_batch.errors import SpecError
from canfar_batch.fields.values import canonical_json, plain_fields, plain_value

LONGEST_KEY = 100  #: characters
_SLUG_WIDTH = 60
_NAME_WIDTH = 120  #: of a file name; disks take 255 bytes, and receipts and logs add a suffix


def readable_key(fields: Mapping[str, Any], order: Iterable[str] = ()) -> str:
    """Return a readable name for the job with these fields, such as ``"NGC 1234-sigma1.5"``; others may have the same.

    Numbers are shortened and have their field's name; of a path, the stem is taken. Of more than 60 characters, the
    last fields are left out.

    Args:
        fields: The fields.
        order: Names of fields that come first; others follow.

    Raises:
        SpecError: See `plain_fields`.
    """
    first = [name for name in order if name in fields]
    key = ""
    for name in dict.fromkeys([*first, *fields]):
        part = _printable(_text(name, fields[name]))
        longer = f"{key}-{part}" if key and part else key or part
        if key and len(longer) > _SLUG_WIDTH:
            break
        key = longer
    return key[:_SLUG_WIDTH].strip() or "job"


def job_key(fields: Mapping[str, Any]) -> str:
    """Return a name for the job with these fields and no other: a slug of their values, and 8 hex digits of all.

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


def folded(name: str) -> str:
    """Return *name* without the differences that some disks ignore: case, and how accented letters are composed."""
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()


def file_name(key: str) -> str:
    """Return the name of the files of the job *key*: other characters than letters, digits, ``._-`` as ``%XX``.

    Different keys have different names. A long name is cut and ends in a hash. The name holds no blank, slash or
    non-ASCII character, and begins with neither a dot nor a dash.
    """
    name = "".join(
        char if char.isascii() and (char.isalnum() or char == "_" or (place and char in ".-")) else _percent(char)
        for place, char in enumerate(key)
    )
    if len(name) <= _NAME_WIDTH:
        return name
    return f"{name[: _NAME_WIDTH - 17]}~{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def _percent(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))


def _slug(name: str, value: object) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", _text(name, value)).strip("._-")


def _printable(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _text(name: str, value: object) -> str:
    if isinstance(value, PurePath):
        return value.stem
    if isinstance(value, str):
        return PurePosixPath(value).stem if "/" in value else value
    if isinstance(value, os.PathLike):
        return PurePosixPath(os.fsdecode(value)).stem
    plain = plain_value(value, name)
    # with its name, because a bare number does not say what it is; short, because a hash distinguishes equal texts
    return f"{name}{plain:.4g}" if isinstance(plain, float) else f"{name}{plain}"
