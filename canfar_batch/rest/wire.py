"""The service's language: requests become forms, answers become records. No I/O.

Whether an answer comes from the service at all, and which error it stands for, is judged in `answers.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from canfar_batch.containers import ContainerInfo, Image, LaunchRequest, Limits
from canfar_batch.errors import JobNotFound, LaunchInDoubt, PlatformBroken, PlatformBusy, PlatformRefused
from canfar_batch.rest.answers import (
    Answer,
    advice,
    create_error,
    describe,
    error_for,
    is_service,
    says_unknown,
)
from canfar_batch.rest.rows import parse_number, parse_row, parse_rows

_ID = re.compile(r"[a-z0-9]{8}")

#: JSON up to this size is parsed without counting its values first, bytes
_MODEST = 8 * 1024**2
#: values in one answer; a list of 100,000 containers has about two million
_MOST_VALUES = 5_000_000


def is_id(text: str) -> bool:
    """Return whether the platform may have given this as an id."""
    return _ID.fullmatch(text) is not None


# -- requests ---------------------------------------------------------------------------------------------------------


def launch_form(request: LaunchRequest) -> bytes:
    """Return the body of a create. Absent values are left out, as an empty value means something else there."""
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


RENEW_FORM = b"action=renew"


# -- answers ----------------------------------------------------------------------------------------------------------

#: 500s that no create of the same content would escape, though it is not certain that nothing was made
_SAME_AGAIN = re.compile(r"jobs\.batch .*not found|while (?:parsing|scanning) a|special characters are not allowed")
#: statuses by which a proxy judges the request, rather than its own state or the service's
_SAME_AGAIN_STATUS = frozenset({301, 302, 303, 307, 308, 400, 403, 405, 411, 413, 414, 415, 431})


def read_launch(answer: Answer, name: str) -> str:
    """Return the id that a create was answered with.

    Raises:
        PlatformRefused: The service refused it, and nothing was made.
        PlatformBusy: Nothing was made, and a later try may succeed; `NotMade` if it failed inside the platform.
        LaunchInDoubt: Anything else.
    """
    text = answer.body.strip().decode("utf-8", "replace")
    if answer.status == 200 and answer.content_type == "text/plain" and is_id(text):
        return text
    status = answer.status
    error = create_error(answer, f"launching {name!r}")
    if isinstance(error, (PlatformRefused, PlatformBusy)) and _proves_nothing_was_made(answer):
        raise error
    same_again = status in _SAME_AGAIN_STATUS or bool(_SAME_AGAIN.search(answer.text))
    reason = f"{describe(answer)} ({status}: {answer.text})" if status != 200 else f"Not an id: {answer.text!r}"
    raise LaunchInDoubt(
        f"Whether {name!r} was launched is not known. {reason}.{advice(answer)}",
        launch_name=name, status=status, server_text=answer.text, retry_after=error.retry_after, same_again=same_again,
    )  # fmt: skip


def _proves_nothing_was_made(answer: Answer) -> bool:
    """Return whether a refusal of a create can be believed. A page may come from any point of the way."""
    if answer.status in (401, 429):
        return True  # a proxy that limits rates or checks credentials passes nothing on
    return is_service(answer) or (answer.status in (400, 403, 409) and not answer.is_html)


def read_containers(answer: Answer, doing: str = "listing your containers") -> list[ContainerInfo]:
    """Return the containers in a list. A row without an id is left out and logged."""
    entries = _json(answer, doing, list)
    try:
        return parse_rows(entries)
    except ValueError as error:
        raise _unreadable(answer, doing, str(error)) from None


def read_container(answer: Answer, id: str) -> ContainerInfo:
    """Return one container.

    Raises:
        JobNotFound: The service itself answered that it does not know this id.
    """
    doing = f"asking for container {id}"
    _check_known(answer, id)
    entry = _json(answer, doing, dict)
    if entry.get("id") != id:
        raise _unreadable(answer, doing, "it describes another container")
    return parse_row(entry)


def check_log(answer: Answer, id: str) -> bool:
    """Return whether the answer is a log; False if the platform has none. Raises `PlatformError` if it is neither."""
    if says_unknown(answer, id):
        return False
    _check_text(answer, f"asking for the log of {id}")
    return True


def read_log(answer: Answer, id: str) -> bytes:
    """Return the container's output; empty also if the platform has none to give."""
    return answer.body if check_log(answer, id) else b""


def read_events(answer: Answer, id: str) -> str | None:
    """Return the events of the container's pod: a table, "" if there are none, None if the container has no pod."""
    if says_unknown(answer, id):
        return None
    doing = f"asking for the events of {id}"
    _check_text(answer, doing)
    text = answer.body.decode("utf-8", "replace")
    if text.strip() == "<none>":
        return ""
    if not text.lstrip().startswith("TYPE"):
        # kubectl's complaint, or nothing at all: the service passes on what kubectl printed, even if it failed
        raise _unreadable(answer, doing, "it is not a table of events")
    return text


def check_renewal(answer: Answer, id: str) -> None:
    """Return if the service took a request to renew.

    Raises:
        PlatformRefused: No container with this id is running.
    """
    if answer.is_html or answer.status not in (200, 202, 204):
        _check_known(answer, id)
        raise error_for(answer, f"renewing {id}")


def check_cancel(answer: Answer, id: str) -> None:
    """Return if the service took a request to stop a container; older releases answer 404 if it is gone already."""
    if answer.is_html or answer.status not in (200, 202, 204):
        if says_unknown(answer, id):
            return
        raise error_for(answer, f"cancelling {id}")


def read_limits(answer: Answer) -> Limits:
    """Return what one job may ask for."""
    doing = "asking for the platform's limits"
    context = _json(answer, doing, dict)

    def options(name: str) -> tuple[int, ...]:
        values = _branch(context, name).get("options") or ()
        return tuple(sorted({int(value) for value in map(parse_number, values) if value is not None and value > 0}))

    def default(name: str) -> float:
        branch = _branch(context, name)
        for key in ("defaultRequest", "default"):
            value = parse_number(branch.get(key))
            if value is not None:
                return value
        return float(min(options(name)))

    try:
        return Limits(
            cores=options("cores"), ram=options("memoryGB"), gpus=options("gpus"),
            default_cores=default("cores"), default_ram=default("memoryGB"),
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        raise _unreadable(answer, doing, "it lists no options") from error


def read_images(answer: Answer) -> list[Image]:
    """Return the images that the platform lists."""
    return [
        Image(id=entry["id"], kinds=_strings(entry.get("types")), digest=str(entry.get("digest") or ""))
        for entry in _json(answer, "asking for the images", list)
        if isinstance(entry, dict) and isinstance(entry.get("id"), str)
    ]


def read_stats(answer: Answer) -> Mapping[str, Any]:
    """Return the cluster's totals, as the platform gives them."""
    totals: dict[str, Any] = _json(answer, "asking for the cluster's totals", dict)
    return totals


# -- helpers ----------------------------------------------------------------------------------------------------------


def _check_known(answer: Answer, id: str) -> None:
    if says_unknown(answer, id):
        raise JobNotFound(
            f"The platform knows no container {id}: it never did, or has forgotten it, as it does an hour after the"
            " end.",
            status=404, server_text=answer.text,
        )  # fmt: skip


def _json(answer: Answer, doing: str, kind: type[Any]) -> Any:
    if answer.status != 200:
        raise error_for(answer, doing)
    if answer.is_html:
        raise _unreadable(answer, doing, "a web page came instead of the platform's answer")
    body = answer.body
    # small values cost fifty times their text: a body within its limit could still fill the memory
    if len(body) > _MODEST and body.count(b",") + body.count(b"{") + body.count(b"[") > _MOST_VALUES:
        raise _unreadable(answer, doing, f"it holds more than {_MOST_VALUES:,} values")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        # json's complaint is not kept as the cause, because it carries the whole body
        value = None
    if not isinstance(value, kind):
        raise _unreadable(answer, doing, "it is cut short, or of another kind")
    return value


def _check_text(answer: Answer, doing: str) -> None:
    if answer.status != 200:
        raise error_for(answer, doing)
    # by its type alone: a log may begin like a page
    if answer.content_type not in ("text/plain", ""):
        raise _unreadable(answer, doing, f"it is {answer.content_type}, not plain text")


def _unreadable(answer: Answer, doing: str, why: str) -> PlatformBroken:
    text = answer.text
    shown = text if len(text) <= 200 else text[:199] + "…"
    message = f"The platform's answer cannot be used: {why}, while {doing}."
    return PlatformBroken(f"{message} It begins: {shown}" if shown else message, status=answer.status, server_text=text)


def _branch(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    branch = tree.get(name)
    return branch if isinstance(branch, dict) else {}


def _strings(values: object) -> tuple[str, ...]:
    return tuple(map(str, values)) if isinstance(values, list) else ()
