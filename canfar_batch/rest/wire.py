"""What answers mean: bytes from the network become records, or errors in words that a person can act on.

Between us and the service stand proxies with pages of their own, and releases differ in their words. So an answer is
first judged (is this the service itself?) and then read leniently. Nothing here talks to anybody.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode

import attrs
from dateutil.parser import isoparse

from canfar_batch.errors import (
    AccessDenied,
    JobNotFound,
    LaunchInDoubt,
    PlatformBroken,
    PlatformBusy,
    PlatformError,
    PlatformRefused,
)
from canfar_batch.records import GIB, ContainerInfo, Image, LaunchRequest, Limits, Phase
from canfar_batch.rest.addresses import without_query
from canfar_batch.rest.redaction import Secrets

log = logging.getLogger("canfar_batch.rest")

WORDS = 2_000  #: characters of the server's own words that an error carries at most
_ID = re.compile(r"[a-z0-9]{8}")


@attrs.frozen(kw_only=True)
class Answer:
    """One answer, as it came."""

    status: int
    headers: Mapping[str, str] = attrs.field(repr=False)  #: names in lower case
    body: bytes = attrs.field(repr=False)
    secrets: Secrets = attrs.field(factory=Secrets, repr=False)

    @property
    def content_type(self) -> str:
        """`text/plain`; empty where the answer has none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def html(self) -> bool:
        """True for a page, which the service itself never sends."""
        start = self.body[:512].lstrip().lower()
        return "html" in self.content_type or start.startswith((b"<!doctype html", b"<html", b"<head"))

    @property
    def words(self) -> str:
        """What was said, fit to be shown: without secrets, markup and control characters, and not too much of it."""
        text = self.body[: 8 * WORDS].decode("utf-8", "replace")
        if self.html:
            text = _text_of(self.secrets.redact(text))
        text = "".join(letter if letter.isprintable() else " " for letter in text)
        text = self.secrets.redact(re.sub(r"\s+", " ", text).strip())
        return text if len(text) <= WORDS else text[: WORDS - 1] + "…"

    @property
    def user(self) -> str | None:
        """Who the service says that we are."""
        user = self.secrets.redact(self.headers.get("x-vo-authenticated", "").strip())
        return user if re.fullmatch(r"[\x21-\x7e]{1,200}", user) else None


# -- sending ----------------------------------------------------------------------------------------------------------


def is_id(text: str) -> bool:
    """True for what the platform may have given as an id."""
    return _ID.fullmatch(text) is not None


def launch_form(request: LaunchRequest) -> bytes:
    """The body of a create. What is not asked for is left out: to send it empty means something else there."""
    resources = request.resources
    optional = {
        "cores": resources.cores,
        "ram": resources.ram,
        "gpus": resources.gpus or None,  # the service offers 1 and more, and refuses 0
        "cmd": request.cmd or None,
        "args": request.args or None,
    }
    fields: list[tuple[str, str]] = [("type", "headless"), ("name", request.name), ("image", request.image)]
    fields += [(name, str(value)) for name, value in optional.items() if value is not None]
    fields += [("env", f"{name}={value}") for name, value in request.env]
    return urlencode(fields).encode("ascii")


# -- judging ----------------------------------------------------------------------------------------------------------

#: how the service begins what it says; a proxy says none of it
_SERVICE_WORDS = re.compile(
    r"session \S+ not found|unexpected exception: |temporarily unavailable: |unsupported: HTTP |Missing parameter '"
    r"|Invalid |session image '|No authentication provided for |name can only contain |User .+ has reached the max"
    r"|Illegal group reference|No group with name |Not authorized to |Subject is not authorized |No POSIX Principal"
    r"|POSIX Principal |cannot get group memberships |canfar\.net/\S+ label value |unknown type: "
    r"|No active job for user |Cannot (?:kill|modify) ",
    re.IGNORECASE,
)
#: what proxies and web servers say in plain text
_PROXY_WORDS = re.compile(
    r"404 page not found|(?:50[0234] )?(?:internal server error|bad gateway|gateway time-?out|service unavailable)"
    r"|no available server|upstream |default backend|no healthy upstream|stream timeout",
    re.IGNORECASE,
)
#: 401s that come of trouble behind the service, not of the token
_IDENTITY_OUTAGE = re.compile(r"user ?info endpoint|BUG: Cannot access OIDC", re.IGNORECASE)
_ANONYMOUS = re.compile(r"group memberships for anonymous", re.IGNORECASE)
#: 500s that the same request would meet again: the job that Kubernetes did not take, text that YAML does not allow
_SAME_AGAIN = re.compile(
    r"jobs\.batch .*not found|while (?:parsing|scanning) a|special characters are not allowed|No group \d",
    re.IGNORECASE | re.DOTALL,
)


#: what a proxy says of a request, rather than of its own state or the service's
_SAME_AGAIN_STATUS = frozenset({301, 302, 303, 307, 308, 400, 403, 405, 411, 413, 414, 415, 431})


def is_service(answer: Answer) -> bool:
    """True if this comes from the service itself, not from what stands before it."""
    if answer.html:
        return False
    if "x-vo-authenticated" in answer.headers or "cadc-rest" in answer.headers.get("server", "").lower():
        return True
    words = answer.words
    return bool(_SERVICE_WORDS.match(words)) and not _PROXY_WORDS.match(words)


def is_unauthorised(answer: Answer) -> bool:
    """True if the credential was not accepted. A proxy's word counts too: nothing was done in either case."""
    if answer.status == 401:
        return not _IDENTITY_OUTAGE.search(answer.words)
    # what release 1.4 says where others say 401
    return answer.status == 400 and bool(_ANONYMOUS.search(answer.words))


def retry_after(answer: Answer, now: datetime) -> float | None:
    """Seconds to wait by the answer's `Retry-After`, which is a number of them or a date."""
    text = answer.headers.get("retry-after", "").strip()
    try:
        seconds = float(text) if re.fullmatch(r"\d{1,9}(\.\d+)?", text) else None
        if seconds is None:
            date = parsedate_to_datetime(text)
            seconds = (date.replace(tzinfo=date.tzinfo or timezone.utc) - now).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, seconds)


def failure(answer: Answer, doing: str) -> PlatformError:
    """The error for an answer that does not give what was asked.

    Args:
        answer: The answer.
        doing: What was asked for, to follow "while": `listing your containers`.
    """
    status, words = answer.status, answer.words
    wait = retry_after(answer, datetime.now(timezone.utc))
    said = f"{status}: {words}" if words else str(status)
    if status in (409, 429) or (status == 503 and is_service(answer)) or status == 401:
        return PlatformBusy(
            f"The platform asks to be tried again later ({said}), while {doing}.{_after(wait)}",
            status=status, words=words, retry_after=wait,
        )  # fmt: skip
    if 400 <= status < 500 and status not in (404, 408) and (not answer.html or is_service(answer)):
        kind = AccessDenied if status == 403 else PlatformRefused
        return kind(f"The platform refused ({said}), while {doing}.{_advice(answer)}", status=status, words=words)
    if status == 404 and is_service(answer) and _SERVICE_WORDS.match(words) is None:
        return PlatformRefused(f"The platform refused ({said}), while {doing}.", status=status, words=words)
    return PlatformBroken(
        f"{_nature(answer)} ({said}), while {doing}.{_after(wait)}{_advice(answer)}",
        status=status, words=words, retry_after=wait,
    )  # fmt: skip


def _nature(answer: Answer) -> str:
    """What an answer is that is none."""
    if 300 <= answer.status < 400:
        where = answer.secrets.redact(without_query(answer.headers.get("location", "")))
        return f"The platform's address leads elsewhere, to {where or 'an unnamed place'}, which is not followed"
    if is_service(answer):
        return "The platform failed"
    if answer.status == 404:
        return "Something answered that is not the platform, which may be down or elsewhere"
    if answer.html:
        return "A web page came instead of the platform's answer"
    return "No proper answer of the platform came"


def _after(seconds: float | None) -> str:
    return "" if seconds is None else f" It asks to wait {seconds:.0f} s."


_ADVICE: tuple[tuple[int, str, str], ...] = (
    (400, r"No authentication provided for unknown or private image",
     "The platform knows only public images that carry a label, by their first tag, and learns of new ones every half"
     " hour: check the name and tag against images(), wait after a push, and for a private image set"
     " CANFAR_REGISTRY__USERNAME and CANFAR_REGISTRY__SECRET."),
    (400, r"session image .* must come from",
     "Push the image to one of these registries, or name the registry in full."),
    (400, r"Invalid value for '(?:cores|ram|gpus)'", "limits() tells what is offered."),
    (400, r"Missing parameter '(?:image|name)'", "The request may have been too large: put long texts into files."),
    (400, r"maximum of \d+ active", "Delete a session that you no longer need."),
    (403, r"", "Your account may lack the right to use the platform; write to support@canfar.net."),
    (404, r"", "If it lasts, check the address (CANFAR_URL) and https://www.canfar.net for news of an outage."),
    (413, r"", "Put long texts into files."),
    (500, r"jobs\.batch .*not found",
     "Kubernetes did not take the job: its name, its resources or a quota may be why."),
)  # fmt: skip


def _advice(answer: Answer) -> str:
    """What to do, in our words."""
    for status, pattern, text in _ADVICE:
        if answer.status == status and re.search(pattern, answer.words, re.IGNORECASE | re.DOTALL):
            return f" {text}"
    if 300 <= answer.status < 400:
        return " Use the platform's own address."
    return " If it lasts, write to support@canfar.net." if answer.status >= 500 else ""


# -- reading ----------------------------------------------------------------------------------------------------------


def launched(answer: Answer, name: str) -> str:
    """The id that a create was answered with.

    Raises:
        PlatformRefused: Nothing was made, by the service's own documented word; `PlatformBusy` for "not now".
        LaunchInDoubt: Anything else.
    """
    text = answer.body.strip().decode("utf-8", "replace")
    if answer.status == 200 and answer.content_type == "text/plain" and is_id(text):
        return text
    status = answer.status
    error = failure(answer, f"launching {name!r}")
    # a page may be anybody's, at any point of the way; but who limits rates or checks credentials passes nothing on
    documented = status in (400, 403, 409) and not answer.html
    refused = documented or status in (401, 429) or (is_service(answer) and (400 <= status < 500 or status == 503))
    if refused and isinstance(error, PlatformRefused):
        raise error
    same_again = status in _SAME_AGAIN_STATUS or bool(_SAME_AGAIN.search(answer.words))
    what = f"{_nature(answer)} ({status}: {answer.words})" if status != 200 else f"What came is no id: {answer.words!r}"
    raise LaunchInDoubt(
        f"Whether {name!r} was launched is not known. {what}.{_advice(answer)}",
        launch_name=name, status=status, words=answer.words, retry_after=error.retry_after, same_again=same_again,
    )  # fmt: skip


def containers(answer: Answer, doing: str = "listing your containers") -> list[ContainerInfo]:
    """The containers in a list. An entry without an id is left out."""
    found = []
    for entry in _json(answer, doing, list):
        if not isinstance(entry, dict):
            raise _unreadable(answer, doing, "a list of something else than containers came")
        if isinstance(entry.get("id"), str) and entry["id"]:
            found.append(_container(entry))
        else:
            log.warning("The platform listed a container without an id (type %r)", entry.get("type"))
    return found


def container(answer: Answer, id: str) -> ContainerInfo:
    """One container.

    Raises:
        JobNotFound: The service itself said that it knows none of this id.
    """
    doing = f"asking for container {id}"
    if _says_unknown(answer, id):
        raise JobNotFound(
            f"The platform knows no container {id}: it never did, or forgot it, as it does an hour after the end.",
            status=404, words=answer.words,
        )  # fmt: skip
    entry = _json(answer, doing, dict)
    if entry.get("id") != id:
        raise _unreadable(answer, doing, "another container came")
    return _container(entry)


def logs(answer: Answer, id: str) -> bytes:
    """What the container printed."""
    if _says_unknown(answer, id):
        return b""
    return _text(answer, f"asking for the log of {id}")


def events(answer: Answer, id: str) -> str:
    """What the cluster noted; empty also where no pod exists yet, which the service calls "not found"."""
    if _says_unknown(answer, id):
        return ""
    text = _text(answer, f"asking for the events of {id}").decode("utf-8", "replace")
    return "" if text.strip() == "<none>" else text


def cancelled(answer: Answer, id: str) -> None:
    """Nothing, if the service took the request; older releases say 404 of what is gone already."""
    if answer.html or answer.status not in (200, 202, 204):
        if _says_unknown(answer, id):
            return
        raise failure(answer, f"cancelling {id}")


def limits(answer: Answer) -> Limits:
    """What one job may ask for."""
    doing = "asking for the platform's limits"
    context = _json(answer, doing, dict)

    def options(name: str) -> tuple[int, ...]:
        values = _part(context, name).get("options") or ()
        return tuple(sorted({int(value) for value in map(_number, values) if value is not None and value > 0}))

    def default(name: str) -> float:
        part = _part(context, name)
        for key in ("defaultRequest", "default"):
            value = _number(part.get(key))
            if value is not None:
                return value
        return float(min(options(name)))

    try:
        return Limits(
            cores=options("cores"), ram=options("memoryGB"), gpus=options("gpus"),
            default_cores=default("cores"), default_ram=default("memoryGB"),
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        raise _unreadable(answer, doing, "the options are not there") from error


def images(answer: Answer) -> list[Image]:
    """The images that the platform lists."""
    return [
        Image(id=entry["id"], kinds=_strings(entry.get("types")), digest=str(entry.get("digest") or ""))
        for entry in _json(answer, "asking for the images", list)
        if isinstance(entry, dict) and isinstance(entry.get("id"), str)
    ]


def stats(answer: Answer) -> Mapping[str, Any]:
    """The cluster's totals, as the platform gives them."""
    totals: dict[str, Any] = _json(answer, "asking for the cluster's totals", dict)
    return totals


# -- one container ----------------------------------------------------------------------------------------------------

#: the words of all releases; the first word of `Failed (BackoffLimitExceeded)` says enough
_PHASES = {
    "pending": Phase.PENDING,
    "suspended": Phase.PENDING,
    "running": Phase.RUNNING,
    "completed": Phase.COMPLETED,
    "complete": Phase.COMPLETED,
    "succeeded": Phase.COMPLETED,
    "failed": Phase.FAILED,
    "error": Phase.FAILED,
}


def _container(entry: Mapping[str, Any]) -> ContainerInfo:
    fields = {name: value for name, value in entry.items() if value not in (None, "<none>", "")}
    status = str(fields.get("status", ""))
    return ContainerInfo(
        id=str(fields["id"]),
        name=str(fields.get("name", "")),
        phase=phase(status),
        status=status,
        type=str(fields.get("type", "headless")).lower(),
        image=str(fields.get("image", "")),
        started_at=time(fields.get("startTime")),
        expires_at=time(fields.get("expiryTime")),
        cores=quantity(fields.get("requestedCPUCores")),
        ram=_asked_gib(fields.get("requestedRAM")),
        gpus=int(quantity(fields.get("requestedGPUCores")) or 0),
        cores_in_use=quantity(fields.get("cpuCoresInUse")),
        ram_in_use=gib(fields.get("ramInUse")),
    )


def phase(status: str) -> Phase:
    """What a release's word for a status comes to."""
    word = re.match(r"[a-z]*", status.strip().lower())
    return _PHASES.get(word[0] if word else "", Phase.OTHER)


def time(text: object) -> datetime | None:
    """A time, UTC; the service leaves out seconds that are zero."""
    if not isinstance(text, str):
        return None
    try:
        moment = isoparse(text.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None


_PARTS = {"": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
#: 0.25 wrote `4G` where it meant 4Gi
_SIZES = {"k": 2**10 / GIB, "m": 2**20 / GIB, "g": 1.0, "t": 1024.0}


def quantity(text: object) -> float | None:
    """A number of cores: `2`, `"0.500"`, `"500m"`, `"3123456789n"`."""
    found = re.fullmatch(r"([0-9.eE+-]+?)([mun]?)", str(text).strip()) if isinstance(text, (str, int, float)) else None
    value = _number(found[1]) if found else None
    return None if found is None or value is None else value * _PARTS[found[2]]


def gib(text: object) -> float | None:
    """A size in GiB; the service gives a plain number of decimal gigabytes."""
    found = re.fullmatch(r"([0-9.]+)\s*(?:([kmgt])i?b?)?", str(text).strip().lower())
    value = _number(found[1]) if found else None
    if found is None or value is None:
        return None
    return value * (_SIZES[found[2]] if found[2] else 1e9 / GIB)


def _asked_gib(text: object) -> float | None:
    """As `gib`, but 4 GiB asked for come back as "4.29" GB, and should be 4 again."""
    value = gib(text)
    if value is not None and abs(value - round(value)) < 0.006:  # two digits are rounded to 0.005 GB
        return float(round(value))
    return value


# -- small things -----------------------------------------------------------------------------------------------------


def _says_unknown(answer: Answer, id: str) -> bool:
    """True for the service's own 404. Any other 404 is an outage, and says nothing of the container."""
    return answer.status == 404 and not answer.html and answer.words.rstrip(".").lower() == f"session {id} not found"


def _json(answer: Answer, doing: str, kind: type[Any]) -> Any:
    if answer.status != 200:
        raise failure(answer, doing)
    if answer.html:
        raise _unreadable(answer, doing, "a web page came instead of the platform's answer")
    try:
        value = json.loads(answer.body)
    except (ValueError, RecursionError):
        # the complaint is not named as the cause: it carries the whole text along
        value = None
    if not isinstance(value, kind):
        raise _unreadable(answer, doing, "what came is cut short or something else than was asked for")
    return value


def _text(answer: Answer, doing: str) -> bytes:
    if answer.status != 200:
        raise failure(answer, doing)
    # by its type alone: a log may well begin like a page
    if answer.content_type not in ("text/plain", ""):
        raise _unreadable(answer, doing, f"{answer.content_type} came where plain text was asked for")
    return answer.body


def _unreadable(answer: Answer, doing: str, why: str) -> PlatformBroken:
    words = answer.words
    text = f"The platform's answer cannot be used: {why}, while {doing}."
    shown = words if len(words) <= 200 else words[:199] + "…"
    return PlatformBroken(f"{text} It begins: {shown}" if shown else text, status=answer.status, words=words)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _part(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = tree.get(name)
    return part if isinstance(part, dict) else {}


def _strings(values: object) -> tuple[str, ...]:
    return tuple(map(str, values)) if isinstance(values, list) else ()


class _Text(HTMLParser):
    """Gathers the text of a page, its title first."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self.hidden = max(0, self.hidden - (tag in ("script", "style")))

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(data)


def _text_of(page: str) -> str:
    reader = _Text()
    reader.feed(page)
    return " ".join(" ".join(reader.parts).split())
