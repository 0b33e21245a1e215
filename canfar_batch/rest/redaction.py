"""Masking secrets in text: a server may echo the very token that we sent."""

from __future__ import annotations

import base64
import re
import threading
from urllib.parse import quote, quote_plus

from canfar_batch.text import MASK

#: pieces of a secret of this length or more are recognised; shorter ones give little away, and cause false alarms
_PIECE = 12
#: number of secrets that are remembered: an old token may still be echoed, and jobs bring secrets of their own
_REMEMBERED = 256
_BEARER = re.compile(r"(?i)(\bbearer\s+)[A-Za-z0-9._~+/=%&-]{8,}")
_JWT = re.compile(r"\beyJ[A-Za-z0-9_-]{10,}(\.[A-Za-z0-9_-]*){1,4}")


class Secrets:
    """All secrets used until now, to mask them in text. Safe to use from many threads."""

    def __init__(self, *secrets: str) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, tuple[frozenset[str], frozenset[str]]] = {}
        for secret in secrets:
            self.add(secret)

    def __repr__(self) -> str:
        return f"<{len(self._known)} secrets>"

    def add(self, secret: str) -> None:
        """Remember one more secret."""
        if not secret:
            return
        if (known := self._known.get(secret)) is not None:
            with self._lock:  # the least recently used is forgotten first
                self._known.pop(secret, None)
                self._known[secret] = known
            return
        forms = _forms(secret)
        pieces = frozenset(form[i : i + _PIECE] for form in forms for i in range(len(form) - _PIECE + 1))
        with self._lock:
            self._known[secret] = (forms, pieces)
            while len(self._known) > _REMEMBERED:
                del self._known[next(iter(self._known))]

    def redact(self, text: str) -> str:
        """Return *text* with the secrets masked: whole or in part, plain, percent-encoded or in base64; and any JWT."""
        with self._lock:
            known = list(self._known.values())
        for forms, pieces in known:
            text = _mask(text, forms, pieces)
        return _JWT.sub(MASK, _BEARER.sub(rf"\1{MASK}", text))

    def clean(self, error: BaseException) -> BaseException | None:
        """Return *error*, to be named as a cause; None if it, or an error in its chain, quotes a secret."""
        seen: set[int] = set()
        queue: list[BaseException | None] = [error]
        while queue:
            link = queue.pop()
            if link is None or id(link) in seen:
                continue
            seen.add(id(link))
            for text in (str(link), repr(link)):
                if self.redact(text) != text:
                    return None
            queue += [link.__cause__, link.__context__]
            queue += [part for part in link.args if isinstance(part, BaseException)]
        return error


def _forms(secret: str) -> frozenset[str]:
    """Return the spellings of a secret, in lower case."""
    raw = secret.encode()
    forms = {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), raw.hex()}
    # base64 of a longer text that holds the secret depends on where in its groups of three the secret begins
    for shift in range(3):
        coded = base64.b64encode(b"\0" * shift + raw).decode().rstrip("=")
        inner = coded[-(-shift * 8 // 6) : len(coded) - (1 if (shift + len(raw)) % 3 else 0)]
        forms |= {inner, inner.replace("+", "-").replace("/", "_"), quote(inner, safe="")}
    return frozenset(form.lower() for form in forms if len(form) >= 4)


def _mask(text: str, forms: frozenset[str], pieces: frozenset[str]) -> str:
    plain = text.lower()
    if len(plain) != len(text):  # a few letters change their length; tokens have none of them
        plain = "".join(letter.lower() if len(letter.lower()) == 1 else "\0" for letter in text)
    covered: list[tuple[int, int]] = []
    for form in forms:
        if len(form) < _PIECE:
            covered += [(hit.start(), hit.end()) for hit in re.finditer(re.escape(form), plain)]
    covered += [(i, i + _PIECE) for i in range(len(plain) - _PIECE + 1) if plain[i : i + _PIECE] in pieces]
    parts: list[str] = []
    end = 0
    for start, stop in sorted(covered):
        if start >= end:
            parts += [text[end:start], "" if parts and start == end else MASK]
        end = max(end, stop)
    return "".join(parts) + text[end:]
