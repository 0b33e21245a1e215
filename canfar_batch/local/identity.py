"""Who asks: how the service reads credentials, and how it refuses them.

This is the default identity class of the published service, which accepts bearer tokens of one OpenID issuer. Tokens of
the local platform are opaque; only refusals need to look inside a token.
"""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

from canfar_batch.local.answers import Headers, Refusal, unexpected
from canfar_batch.local.messages import Request

ISSUER = "https://ska-iam.stfc.ac.uk/"
CHALLENGE = ("www-authenticate", "Bearer")


def authenticate(request: Request, users: Mapping[str, str]) -> str:
    """Return the user who sends *request*.

    Args:
        request: The request.
        users: User names by token.

    Raises:
        Refusal: The credentials are missing or refused.
    """
    authorizations = list(dict.fromkeys(request.headers.get("authorization", "\0").split("\n")))
    if len(authorizations) > 1:
        raise _refused("Multiple authorization tokens not supported", "invalid_request")
    (authorization,) = authorizations
    scheme = authorization.partition(" ")[0].lower()
    if authorization == "\0" or scheme == "basic":
        raise _without_token(request)
    words = authorization.split(" ")
    if len(words) != 2:
        text = f"BUG: invalid authorization {authorization}"
        raise _refused(text, "invalid_request" if authorization.lower() == "bearer" else None)
    if scheme != "bearer":
        raise _refused(f"unhandled auth: Authorization {authorization}", None)
    token = words[1]
    for known, user in users.items():
        if hmac.compare_digest(known.encode(), token.encode()):
            return user
    raise _bad_token(token)


def user_header(user: str) -> Headers:
    """Return the header that names the user in every answer to an accepted credential."""
    return (("x-vo-authenticated", user),)


def _without_token(request: Request) -> Refusal:
    headers = request.headers
    if "x-client-certificate" in headers:
        return unexpected(
            "java.security.AccessControlException: Failed to read certificate: "
            "Could not parse certificate: java.io.IOException: Empty input"
        )
    if "x-auth-token-skaha" in headers:
        return Refusal(403, "Invalid auth token", (CHALLENGE,))
    if "CADC_SSO=" in headers.get("cookie", ""):
        return Refusal(403, "delegated credentials not found", user_header("CADC_SSO"))
    return Refusal(400, "cannot get group memberships for anonymous", (CHALLENGE,))


def _bad_token(token: str) -> Refusal:
    claims = _claims(token)
    if claims is None:
        return _refused("Cannot validate token using user info endpoint", "invalid_token")
    issuer = claims.get("iss")
    if issuer is None:
        return unexpected(
            'java.lang.NullPointerException: Cannot invoke "String.length()" because "this.input" is null'
        )
    if issuer != ISSUER:
        return _refused(f"Token from untrusted issuer: {issuer} ignored", "invalid_request")
    expires = claims.get("exp")
    if isinstance(expires, (int, float)) and expires < time.time():
        return _refused("Token has expired", "invalid_token")
    return _refused("Invalid JWT token", "invalid_token")


def _claims(token: str) -> dict[str, Any] | None:
    """Return the claims of a JSON web token; None for any other token."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return None
    return claims if isinstance(claims, dict) else None


def _refused(text: str, error: str | None) -> Refusal:
    challenge = f'Bearer error="{error}", error_description="{text}"' if error else "Bearer"
    return Refusal(401, text, (("www-authenticate", challenge),))
