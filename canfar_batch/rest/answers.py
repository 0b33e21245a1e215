"""One HTTP answer, and the judgement on it: whether it is the service's own, and which error it stands for.

Proxies between us and the service answer with pages of their own, and releases differ in their words. So an answer is
first judged here, and then read leniently (in `wire.py`). No I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from functools import cached_property
from html.parser import HTMLParser

import attrs

from canfar_batch.errors import AccessDenied, NotMade, PlatformBroken, PlatformBusy, PlatformError, PlatformRefused
from canfar_batch.rest.addresses import without_query
from canfar_batch.rest.redaction import Secrets

TEXT_LIMIT = 2_000  #: characters of the server's text that an error carries at most
LONGEST_WAIT = 600.0  #: seconds; a longer `Retry-After` (a proxy's wrong clock, say) counts as this


@attrs.frozen(kw_only=True, slots=False)
class Answer:
    """One answer, as it came."""

    status: int
    headers: Mapping[str, str] = attrs.field(repr=False)  #: names in lower case
    body: bytes = attrs.field(repr=False)
    secrets: Secrets = attrs.field(factory=Secrets, repr=False)

    @property
    def content_type(self) -> str:
        """The media type without parameters, as `text/plain`; empty if the answer has none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def is_html(self) -> bool:
        """Whether it is a web page, which the service itself never sends."""
        start = self.body[:512].lstrip().lower()
        return "html" in self.content_type or start.startswith((b"<!doctype html", b"<html", b"<head"))

    @cached_property
    def text(self) -> str:
        """The beginning of the body, fit to be shown: without secrets, markup and control characters."""
        text = self.body[: 8 * TEXT_LIMIT].decode("utf-8", "replace")
        if self.is_html:
            text = _text_of_page(self.secrets.redact(text))
        text = "".join(letter if letter.isprintable() else " " for letter in text)
        text = self.secrets.redact(re.sub(r"\s+", " ", text).strip())
        return text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - 1] + "…"

    @property
    def user(self) -> str | None:
        """The user's name, by the service's header; None if it is missing or malformed."""
        user = self.secrets.redact(self.headers.get("x-vo-authenticated", "").strip())
        return user if re.fullmatch(r"[\x21-\x7e]{1,200}", user) else None


# -- whose answer it is -----------------------------------------------------------------------------------------------

#: beginnings of the service's own texts; no proxy says any of these
_SERVICE_TEXT = re.compile(
    r"session \S+ not found|unexpected exception: |temporarily unavailable: |unsupported: HTTP |Missing parameter '"
    r"|Invalid |session image '|No authentication provided for |name can only contain |User .+ has reached the max"
    r"|Illegal group reference|No group with name |Not authorized to |Subject is not authorized |No POSIX Principal"
    r"|POSIX Principal |cannot get group memberships |canfar\.net/\S+ label value |unknown type: "
    r"|No active job for user |Cannot (?:kill|modify) ",
    re.IGNORECASE,
)
#: texts of proxies and web servers
_PROXY_TEXT = re.compile(
    r"404 page not found|(?:50[0234] )?(?:internal server error|bad gateway|gateway time-?out|service unavailable)"
    r"|no available server|upstream |default backend|no healthy upstream|stream timeout",
    re.IGNORECASE,
)
#: a 401 that is certainly an outage of the login service; all other 401s may be the token's fault
_LOGIN_OUTAGE = re.compile(r"BUG: Cannot access OIDC", re.IGNORECASE)
_ANONYMOUS = re.compile(r"group memberships for anonymous", re.IGNORECASE)


def is_service(answer: Answer) -> bool:
    """Return whether this comes from the service itself, rather than from a proxy before it."""
    if answer.is_html:
        return False
    if "x-vo-authenticated" in answer.headers or "cadc-rest" in answer.headers.get("server", "").lower():
        return True
    return bool(_SERVICE_TEXT.match(answer.text)) and not _PROXY_TEXT.match(answer.text)


def is_unauthorised(answer: Answer) -> bool:
    """Return whether the credential was not accepted, by the service or by a proxy: nothing was done in either case."""
    if answer.status == 401:
        return not _LOGIN_OUTAGE.search(answer.text)
    # release 1.4 answers 400 if no credential reaches it; older ones 401
    return answer.status == 400 and bool(_ANONYMOUS.search(answer.text))


def is_accepted(answer: Answer) -> bool:
    """Return whether the answer proves that the credential was accepted."""
    return answer.user is not None or (answer.status == 200 and not answer.is_html)


def says_unknown(answer: Answer, id: str) -> bool:
    """Return whether the service says that it knows no container *id*.

    Only this text does. Any other 404 is an outage, and says nothing of the container.
    """
    return (
        answer.status == 404
        and not answer.is_html
        and answer.text.removesuffix(".").lower() == f"session {id} not found"
    )


def retry_after(answer: Answer, now: datetime) -> float | None:
    """Return the seconds to wait by the answer's `Retry-After`, which is a number of seconds or a date."""
    text = answer.headers.get("retry-after", "").strip()
    try:
        seconds = float(text) if re.fullmatch(r"\d{1,9}(\.\d+)?", text) else None
        if seconds is None:
            date = parsedate_to_datetime(text)
            seconds = (date.replace(tzinfo=date.tzinfo or timezone.utc) - now).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, seconds)


# -- which error it stands for ----------------------------------------------------------------------------------------

#: refusals that are certainly about the request: no other service has a part in them
_ABOUT_THE_REQUEST = re.compile(
    r"Missing parameter '|Invalid session type: |session image '.*' must come from|name can only contain "
    r"|Illegal group reference|No group with name |named capturing group |canfar\.net/\S+ label value "
    r"|unknown type: |unsupported: HTTP |unrecognized action|Cannot (?:kill|modify) ",
    re.IGNORECASE,
)
_ABOUT_THE_REQUEST_STATUS = frozenset({405, 411, 413, 414, 415, 416, 431})

#: 500s of a create whose cmd, args or env the service's templating cannot take
_UNUSABLE_TEXT = re.compile(
    r"unexpected exception: .*?(?:while (?:parsing|scanning) a|special characters are not allowed|No group \d)",
    re.IGNORECASE | re.DOTALL,
)
#: the 500 of a create whose job Kubernetes did not take: looked for after the attempt, and not there
_NOT_TAKEN = re.compile(r"jobs\.batch .*not found", re.IGNORECASE | re.DOTALL)
#: 500s of a create that come before its job is made: from then on the service talks to Kubernetes alone, whose troubles
#: are `ApiException`s; of these, only the refused connection comes of the list of sessions that precedes the launch
_BEFORE_ANYTHING = re.compile(
    r"unexpected exception: (?:"
    r"java\.lang\.(?:NoClassDefFoundError|ExceptionInInitializerError)"
    r"|redis\.clients\.jedis\."
    r"|java\.lang\.RuntimeException: FAIL: PosixMapperClient"
    r"|java\.lang\.RuntimeException: io\.kubernetes\.client\.openapi\.ApiException: Message: java\.net\.Connect"
    r"|(?:java\.lang\.IllegalStateException: )?(?:ca\.nrc\.cadc\.|org\.json\.JSONException|TransientException\["
    r"|java\.net\.ConnectException|java\.net\.SocketException|java\.security\.AccessControlException)"
    r"|(?:java\.lang\.RuntimeException: )?org\.opencadc\.vospace\."
    r"|java\.io\.IOException: (?:DuplicateNode|not found)"
    r")"
)


def error_for(answer: Answer, doing: str) -> PlatformError:
    """Return the error for an answer that does not give what was asked.

    Args:
        answer: The answer.
        doing: The purpose of the request, to follow "while": `listing your containers`.
    """
    status, text = answer.status, answer.text
    wait = retry_after(answer, datetime.now(timezone.utc))
    bounded = None if wait is None else min(wait, LONGEST_WAIT)
    shown = f"{status}: {text}" if text else str(status)
    if status in (409, 429) or (status == 503 and is_service(answer)) or status == 401:
        return PlatformBusy(
            f"The platform asks to be tried again later ({shown}), while {doing}.{_wait_text(wait)}",
            status=status, server_text=text, retry_after=bounded,
        )  # fmt: skip
    if 400 <= status < 500 and status not in (404, 408) and (not answer.is_html or is_service(answer)):
        return refusal(answer, doing)
    return PlatformBroken(
        f"{describe(answer)} ({shown}), while {doing}.{_wait_text(wait)}{advice(answer)}",
        status=status, server_text=text, retry_after=bounded,
    )  # fmt: skip


def refusal(answer: Answer, doing: str) -> PlatformRefused:
    """Return the error for an answer that is a refusal; *doing* as in `error_for`."""
    status, text = answer.status, answer.text
    kind = AccessDenied if status == 403 else PlatformRefused
    certain = status in _ABOUT_THE_REQUEST_STATUS or _ABOUT_THE_REQUEST.match(text) or _UNUSABLE_TEXT.match(text)
    shown = f"{status}: {text}" if text else str(status)
    return kind(
        f"The platform refused ({shown}), while {doing}.{advice(answer)}",
        status=status, server_text=text, may_pass=not certain,
    )  # fmt: skip


def create_error(answer: Answer, doing: str) -> PlatformError:
    """Return the error for an answer to a create: a class that says "nothing was made" only if that is proven.

    Returns:
        `PlatformRefused`, `PlatformBusy` or `NotMade` if nothing was made; else `PlatformBroken`.
    """
    if answer.status == 500 and is_service(answer):
        if _UNUSABLE_TEXT.match(answer.text):
            return refusal(answer, doing)
        not_taken = _NOT_TAKEN.search(answer.text) is not None
        if not_taken or _BEFORE_ANYTHING.match(answer.text):
            return NotMade(
                f"The platform failed before anything was made (500: {answer.text}), while {doing}.{advice(answer)}",
                status=500, server_text=answer.text, same_again=not_taken,
            )  # fmt: skip
    if answer.status == 404 and is_service(answer):
        return refusal(answer, doing)
    return error_for(answer, doing)


def describe(answer: Answer) -> str:
    """Describe an answer that is not a proper one, as the beginning of a sentence."""
    if 300 <= answer.status < 400:
        target = answer.secrets.redact(without_query(answer.headers.get("location", "")))
        return f"The platform's address redirects to {target or 'an unnamed address'}, which is not followed"
    if is_service(answer):
        return "The platform failed"
    if answer.status == 404:
        return "Something other than the platform answered; the platform may be down, or have another address"
    if answer.is_html:
        return "A web page came instead of the platform's answer"
    return "The answer is not a proper one of the platform"


def _wait_text(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f" It asks to wait {seconds:.0f} s" + (
        f" (at most {LONGEST_WAIT:.0f} s count)." if seconds > LONGEST_WAIT else "."
    )


_SUPPORT = "If it lasts, write to support@canfar.net."
_ADVICE: tuple[tuple[int, str, str], ...] = (
    (400, r"No authentication provided for unknown or private image",
     "The platform knows only public images with a label, by their first tag, and updates its list every half hour:"
     " check the name and tag against images(), wait after a push, and for a private image set"
     " CANFAR_REGISTRY__USERNAME and CANFAR_REGISTRY__SECRET. If this image worked before, the platform may be having"
     " an outage."),
    (400, r"session image .* must come from",
     "Push the image to one of these registries, or write the registry's full name."),
    (400, r"Invalid value for '(?:cores|ram|gpus)'", "limits() shows the values on offer."),
    (400, r"Missing parameter '(?:image|name)'", "The request may have been too large: put long texts into files."),
    (400, r"maximum of \d+ active", "Delete a session that you no longer need."),
    (400, r"No active job for user", "Only a running container can be renewed."),
    (403, r"", "Your account may lack the right to use the platform; write to support@canfar.net. If this worked"
     " before, the platform may be having an outage."),
    (404, r"", "If it lasts, check the address (CANFAR_URL) and https://www.canfar.net for news of an outage."),
    (413, r"", "Put long texts into files."),
    (500, r"jobs\.batch .*not found",
     "Kubernetes did not take the job: the cause may be its name, its resources, a quota, or an outage of the queue."),
)  # fmt: skip


def advice(answer: Answer) -> str:
    """Return what to do about an error, as a sentence after a blank; empty if there is nothing to do."""
    for status, pattern, text in _ADVICE:
        if answer.status == status and re.search(pattern, answer.text, re.IGNORECASE | re.DOTALL):
            return f" {text}"
    if 300 <= answer.status < 400:
        return " Use the platform's own address."
    return f" {_SUPPORT}" if answer.status >= 500 else ""


class _PageText(HTMLParser):
    """Gathers the visible text of a page."""

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


def _text_of_page(page: str) -> str:
    reader = _PageText()
    reader.feed(page)
    return " ".join(" ".join(reader.parts).split())
