"""Which node an address means: percent-escapes, the pre-authorised form, and the real service's trouble with names."""

from __future__ import annotations

import base64
import hmac
import re
from urllib.parse import unquote

import attrs

from canfar_batch.local.answers import Refusal, unexpected
from canfar_batch.local.vospace.documents import AUTHORITY

READ, WRITE = "ReadGrant", "WriteGrant"
_UNUSABLE = re.compile(r'[\s\[\]\\<>"^`{|}]')  #: what breaks the service's identifiers
_PREAUTH = re.compile(r"/preauth:([^/]+)(/.*)")
_UNGRANTED = re.compile(r"[;&]|[^\x00-\x7f]")  #: what the service's pre-authorised addresses cannot hold: e + U+0301


@attrs.frozen
class Names:
    """How the service reads names.

    Attributes:
        is_faulty: Whether it does so like the real one.
    """

    is_faulty: bool

    def read(self, raw: str, words: str) -> str:
        """Return the path that the rest of an address, or an identifier's path, means.

        Args:
            raw: The text with its escapes; it begins with a slash, or is empty.
            words: What the service says of a name that it cannot use, up to the name.

        Raises:
            Refusal: The service cannot use the name.
        """
        text = unquote(raw).rstrip("/")
        if ".." in text.split("/"):
            raise Refusal(400, f"InvalidURI: {text}")
        if not self.is_faulty:
            return text
        if _UNUSABLE.search(text):
            raise unexpected(f"java.lang.RuntimeException: {words}{text if '//' in words else text[1:]}")
        return unquote(text)

    def address(self, raw: str, words: str) -> str:
        """Return the path that the rest of an address means: as `read`, without the parameters of a path."""
        return self.read("/".join(part.partition(";")[0] for part in raw.split("/")) if self.is_faulty else raw, words)

    def on_disk(self, path: str) -> str:
        """Return the path that the service really uses: it ends at a `#` or `?`."""
        return re.split(r"[#?]", path, maxsplit=1)[0] if self.is_faulty else path


NODE_WORDS = f"BUG: VOSURI syntax: vos://{AUTHORITY}"
FILE_WORDS = "BUG (probably): failed to generate VOSURI from path: "


class Grants:
    """Pre-authorised addresses: each holds a signed grant for one file."""

    def __init__(self, secret: bytes, *, is_faulty: bool) -> None:
        self._secret, self._is_faulty = secret, is_faulty

    def token(self, uri: str, grant: str, user: str) -> str:
        """Return a grant; the same for the same file each time."""
        claims = base64.urlsafe_b64encode(f"uri={uri}&gnt={grant}&sub={user}".encode()).decode().rstrip("=")
        return f"{claims}~{self._sign(claims)}"

    def split(self, rest: str) -> tuple[str | None, str]:
        """Return the grant in the rest of an address, if it has one, and the rest without it."""
        found = _PREAUTH.fullmatch(rest)
        return (found[1], found[2]) if found else (None, rest)

    def user(self, token: str, path: str, uri: str, grant: str) -> str:
        """Return the user who has this grant.

        Raises:
            Refusal: It is not for that.
        """
        claims, _, signature = token.partition("~")
        text = base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)).decode("utf-8", "replace")
        given = dict(part.split("=", 1) for part in text.split("&") if "=" in part)
        wanted = unquote(unquote(given.get("uri", ""))) if self._is_faulty else given.get("uri")
        is_good = hmac.compare_digest(signature, self._sign(claims)) and wanted in {uri, unquote(uri)}
        if self._is_faulty and _UNGRANTED.search(path):
            is_good = False
        if not is_good or given.get("gnt") != grant:
            raise Refusal(403, "Invalid auth token")
        return given.get("sub", "")

    def _sign(self, claims: str) -> str:
        return hmac.new(self._secret, claims.encode(), "sha256").hexdigest()
