"""The answers of the real service while one of its neighbours is ill.

The service asks a group service, a POSIX mapper, a VOSpace, an OpenID issuer, a registry of services and an image list.
An illness of one of them reaches the client in words of many kinds. Each answer here was recorded from the published
service. `canfar_batch.local.faults` offers them as named faults.
"""

from __future__ import annotations

import attrs

from canfar_batch.local import tomcat
from canfar_batch.local.messages import Response

#: an empty answer, a status, a connection that is cut ("down") or refused, a web page with status 200 ("garbage"), half
#: of an answer ("partial"), an answer after a while ("slow"), and none for ever ("hang")
ILLNESSES = ("empty", "503", "500", "404", "403", "401", "down", "refused", "garbage", "partial", "slow", "hang")
KEPT = 600.0  #: seconds for which the service keeps a malformed file of the issuer or of the registry
_SERVICE = ("server", "OpenCADC/cadc-rest")
_USER = ("x-vo-authenticated", "")  # the service fills the name in
_URL = "url=https://neighbour.example/"
_PAGE = "<html><head><title>Sign in</title></head><body>maintenance</body></html>"
_SOCKET = "java.net.SocketException: Unexpected end of file from server"
_CONNECT = "java.net.ConnectException: Connection refused"
_JSON_PAGE = "org.json.JSONException: A JSONObject text must begin with '{' at 1 [character 2 line 1]"
_JSON_HALF = "org.json.JSONException: Unterminated string at 257 [character 258 line 1]"
_NO_DISCOVERY = "BUG: Cannot access OIDC .well-known/openid-configuration end point"


@attrs.frozen
class Illness:
    """How a neighbour's illness reaches the client."""

    response: Response | None = None  #: the answer; None for the usual one
    waits: float = 0.0  #: seconds before it; infinite for no answer at all
    creates_only: bool = False  #: whether only creates ask that neighbour
    kept: float = 0.0  #: seconds for which the service goes on to answer so when the neighbour is well again


def groups(illness: str) -> Illness:
    """Return the effect of an ill group service, which every request asks."""
    texts = {
        "empty": (403, "Not authorized to use the skaha system\n"),
        "404": (404, "not found\n\n"),
        "403": (403, "permission denied\n\n"),
        "401": (401, "not authenticated\n\n"),
        "garbage": (
            400,
            f"invalid group name: {_PAGE} reason: Group Name contains illegal characters "
            "(only alphanumeric, '/', -', '.', '_', '~' allowed\n",
        ),
    }
    if illness in texts:
        return Illness(_answer(*texts[illness], is_authenticated=True))
    return _common(illness, f"ca.nrc.cadc.net.RemoteServiceException: {_URL}gms/search msg=internal error\n")


def posix(illness: str) -> Illness:
    """Return the effect of an ill POSIX mapper, which every request asks."""
    reasons = {
        "empty": 'Cannot invoke "String.split(String)" because "line" is null',
        "503": "service unavailable",
        "500": f"{_URL}posix/uid?... msg=internal error\n",
        "404": "null",
        "403": "permission denied\n",
        "401": "not authenticated\n",
        "down": "null",
        "refused": "null",
        "garbage": f"error parsing query results, expected 3 values, found 2: {_PAGE}",
        "partial": "error parsing query results, expected 3 values, found 2: user\t30",
    }
    if illness in reasons:
        text = f"java.lang.RuntimeException: FAIL: PosixMapperClient.augment(Subject): {reasons[illness]}"
        return Illness(_unexpected(text, is_authenticated=False))
    return _common(illness)


def storage(illness: str) -> Illness:
    """Return the effect of an ill VOSpace, which only creates ask: a user's first in five hours."""
    invalid = "java.lang.RuntimeException: org.opencadc.vospace.io.NodeParsingException: XML failed schema validation: "
    answers = {
        "empty": _unexpected("java.io.IOException: DuplicateNode: /home/user\n"),
        "404": _unexpected("java.io.IOException: not found\n"),
        "403": _answer(403, "permission denied\n\n", is_authenticated=True),
        "401": _answer(401, "not authenticated\n\n", is_authenticated=True),
        "garbage": _unexpected(
            f"{invalid}Error on line 1: cvc-elt.1.a: Cannot find the declaration of element 'html'."
        ),
        "partial": _unexpected(
            f"{invalid}Error on line 2: XML document structures must start and end within the same entity."
        ),
    }
    common = Illness(answers[illness]) if illness in answers else None
    if common is None:
        common = _common(
            illness, f"ca.nrc.cadc.net.RemoteServiceException: {_URL}vospace/nodes/... msg=internal error\n"
        )
    return attrs.evolve(common, creates_only=True)


def issuer(illness: str, *, is_opaque: bool = False) -> Illness:
    """Return the effect of an ill OpenID issuer whose files are not cached, on a signed or on an opaque token."""
    if illness in {"empty", "garbage", "partial", "503"}:
        missing = "userinfo_endpoint" if is_opaque else "jwks_uri"
        text = {
            "empty": f'org.json.JSONException: JSONObject["{missing}"] not found.',
            "garbage": _JSON_PAGE,
            "partial": _JSON_HALF,
            "503": "TransientException[service unavailable,8]",
        }[illness]
        return Illness(_unexpected(text, is_authenticated=False), kept=0.0 if illness == "503" else KEPT)
    if illness in {"slow", "hang"}:
        return _common(illness)
    if not is_opaque:
        challenge = f'Bearer error="invalid_token", error_description="{_NO_DISCOVERY}"'
        return Illness(Response(401, _NO_DISCOVERY.encode(), headers=(_SERVICE, ("www-authenticate", challenge))))
    cause = {
        "500": f"ca.nrc.cadc.net.RemoteServiceException: {_URL}oidc/.well-known/... msg=internal error\n",
        "404": "ca.nrc.cadc.net.ResourceNotFoundException: not found\n",
        "403": "java.security.AccessControlException: permission denied\n",
        "401": "ca.nrc.cadc.auth.NotAuthenticatedException: not authenticated\n",
        "down": _SOCKET,
        "refused": _CONNECT,
    }[illness]
    return Illness(_unexpected(f"java.lang.IllegalStateException: {cause}", is_authenticated=False))


def registry(illness: str) -> Illness:
    """Return the effect of an ill registry of services whose files are not cached."""
    if illness in {"slow", "hang"}:
        return _common(illness)
    text = (
        "ca.nrc.cadc.util.InvalidConfigException: "
        "failed to load configured IdentityManager: org.opencadc.auth.StandardIdentityManager"
    )
    kept = KEPT if illness in {"garbage", "partial"} else 0.0
    return Illness(_unexpected(text, is_authenticated=False), kept=kept)


def _common(illness: str, internal_error: str = "") -> Illness:
    """Return the effects that several neighbours share."""
    answers = {
        "500": _unexpected(internal_error),
        "503": _answer(503, "temporarily unavailable: null\n", ("Retry-After", "8")),
        "down": _unexpected(_SOCKET),
        "refused": _unexpected(_CONNECT),
    }
    waits = {"slow": 2.0, "hang": float("inf")}
    return Illness(answers.get(illness), waits.get(illness, 0.0))


# The image list, which creates and the list of images ask

NO_CREDENTIALS = (
    "No authentication provided for unknown or private image.  Use x-skaha-registry-auth request header "
    "with base64Encode(username:secret).\n"
)
_WRONG_TYPE = (
    "redis.clients.jedis.exceptions.JedisDataException: "
    "WRONGTYPE Operation against a key holding the wrong kind of value"
)


def images(illness: str) -> dict[str, Response]:
    """Return the answers to creates and to the list of images: "gone", "other" or "wrong-kind" is the list's state."""
    if illness == "wrong-kind":
        return dict.fromkeys(("create", "image"), _unexpected(_WRONG_TYPE))
    empty = Response(200, b"[]", "application/json", (_SERVICE, _USER))
    return {"create": _answer(400, NO_CREDENTIALS, is_authenticated=True), "image": empty}


IMAGE_ILLNESSES = ("gone", "other", "wrong-kind")


# The cluster that the service uses

REDIS_HUNG = "redis.clients.jedis.exceptions.JedisConnectionException: java.net.SocketTimeoutException: Read timed out"
API_SERVER_AWAY = (
    "java.lang.RuntimeException: io.kubernetes.client.openapi.ApiException: "
    "Message: java.net.ConnectException: Failed to connect to /127.0.0.1:6443\n"
    "HTTP response code: 0\nHTTP response body: null\nHTTP response headers: null"
)
_RESOURCES = "org.opencadc.skaha.session.PostAction$ResourceSpecification"
POISONED_FIRST = "java.lang.ExceptionInInitializerError"
POISONED = f"java.lang.NoClassDefFoundError: Could not initialize class {_RESOURCES}"
LIMITS_UNREADABLE = "java.lang.IllegalStateException: Failed reading Resources as JSON"


def unexpected(java: str) -> Response:
    """Return the service's answer to an exception of its own."""
    return _unexpected(java)


def queue_missing() -> Response:
    """Return the page for requests about sessions while the service cannot read its queue."""
    return tomcat.page(500, "Servlet.init() for servlet [SessionServlet] threw exception")


def _unexpected(java: str, *, is_authenticated: bool = True) -> Response:
    return _answer(500, f"unexpected exception: {java}", is_authenticated=is_authenticated)


def _answer(status: int, text: str, *headers: tuple[str, str], is_authenticated: bool = False) -> Response:
    known = (_USER,) if is_authenticated else ()
    return Response(status, text.encode(), headers=(_SERVICE, *known, *headers))
