"""Secrets, replaced in everything that is shown: what looks like one, and the values of a job's `Secret` variables."""

from __future__ import annotations

import re
from collections.abc import Iterable

from canfar_batch.fields.environment import readable, without_values
from canfar_batch.records import JobRecord
from canfar_batch.text import MASK

_WORDS = r"(?:token|secret|passw(?:or)?d|passphrase|credential|authorization|api[_-]?key)[\w-]{0,40}"
#: the ways in which secrets are written: `TOKEN=abc`, `"password": "abc"`, `--api-key abc`, `Bearer abc`. A word of
#: prose does not match, nor does the end of a path before a colon (`/etc/passwd: Permission denied`).
_SECRET = re.compile(
    rf"""(?P<name>(?:{_WORDS}["']?[ ]{{0,3}}=[ ]{{0,3}}
    |(?<![\w/.-])[\w-]{{0,80}}?{_WORDS}["']?[ ]{{0,3}}:[ ]{{0,3}}
    |(?<!\S)--?[\w-]{{0,40}}?{_WORDS}[ ]{{1,3}})(?:(?:bearer|basic)[ ])?
    |\bbearer[ ])
    (?P<value>"[^"\n]*"|'[^'\n]*'|[^\s'",]+)""",
    re.IGNORECASE | re.VERBOSE,
)
_IN_ADDRESS = re.compile(r"(?<=://)[^/\s:@]{1,200}:[^/\s@]{1,2000}(?=@)")
_KEY_BLOCK = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)


def without_secrets(text: str, values: Iterable[str] = ()) -> str:
    """Return *text* with each of *values*, and whatever looks like a token, password or key, replaced by `MASK`."""
    text = _KEY_BLOCK.sub(MASK, without_values(text, values))
    text = _IN_ADDRESS.sub(MASK, text)
    return _SECRET.sub(rf"\g<name>{MASK}", text)


def secret_values(jobs: Iterable[JobRecord]) -> tuple[str, ...]:
    """Return the values of the `Secret` variables of *jobs* that this process can read, the longest first."""
    return readable({secret for job in jobs for secret in job.filled.secrets})
