"""Answers that go wrong on purpose, so that a program can be tried against a bad day of the platform.

A fault is an *action* and a rule when it strikes. An action stands in front of the service as a proxy does: it gets the
request and a way to proceed, and returns what the client shall see.

    platform.faults.add(answer(503, "down for a moment", {"Retry-After": "1"}), on="list", first=2)
    platform.faults.add(after(drop()), on="create", nth=3)       # created, and the connection breaks
    with platform.faults.during(stall(30), on="show"):           # for as long as the block takes
        ...

Actions compose: ``after(action)`` lets the service act before *action* answers. Anything callable as
``action(call) -> Response`` is an action too.
"""

from __future__ import annotations

import collections
import contextlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from canfar_batch.local.answers import html_page
from canfar_batch.local.messages import ConnectionDropped, Request, Response

KINDS = frozenset(
    {"create", "list", "show", "logs", "events", "stats", "delete", "renew"}
    | {"context", "image", "repository", "capabilities", "availability", "other"}
)


@attrs.frozen
class Call:
    """One request on its way to the service."""

    request: Request
    kind: str
    _act: Callable[[], Response]
    _stopping: threading.Event

    def proceed(self) -> Response:
        """Let the service act, and hear its answer."""
        return self._act()

    def sleep(self, seconds: float) -> None:
        """Wait, but no longer than the platform lives.

        Raises:
            ConnectionDropped: The platform stopped meanwhile.
        """
        if self._stopping.wait(seconds):
            raise ConnectionDropped

    def proceed_later(self, seconds: float) -> None:
        """Let the service act after some seconds, whatever the client is told now."""

        def act() -> None:
            if not self._stopping.wait(seconds):
                with contextlib.suppress(ConnectionDropped):  # nobody hears the answer any more
                    self._act()

        threading.Thread(target=act, name="local-platform-late", daemon=True).start()


Action = Callable[[Call], Response]

# Actions


def answer(status: int, body: str = "", headers: Mapping[str, str] | None = None, *, html: bool = False) -> Action:
    """Answer this, and do nothing."""
    sent = tuple((headers or {}).items())
    kind = "text/html" if html else "text/plain"
    return lambda call: Response(status, body.encode(), kind, sent)


def bad_gateway() -> Action:
    """The page of a proxy that cannot reach the service."""
    return lambda call: html_page(502, "502 Bad Gateway")


def proxy_not_found() -> Action:
    """The 404 of a proxy that has no route, which says nothing about any session."""
    return answer(404, "404 page not found\n")


def login_page() -> Action:
    """A page with status 200 in place of the service's answer."""
    return lambda call: html_page(200, "Please log in")


def drop() -> Action:
    """Reset the connection, and do nothing."""

    def dropped(call: Call) -> Response:
        raise ConnectionDropped

    return dropped


def stall(seconds: float) -> Action:
    """Wait, then go on as usual. ``after(stall(s))`` acts at once and answers late."""

    def stalled(call: Call) -> Response:
        call.sleep(seconds)
        return call.proceed()

    return stalled


def after(action: Action) -> Action:
    """Let the service act first; then *action* says what the client sees."""

    def acted(call: Call) -> Response:
        real = call.proceed()
        return action(attrs.evolve(call, act=lambda: real))

    return acted


def late(seconds: float, then: Action | None = None) -> Action:
    """Give the answer of *then* now (default: 504), and let the service act only *seconds* later."""
    now = then or answer(504, "Gateway Timeout")

    def acted_late(call: Call) -> Response:
        call.proceed_later(seconds)
        return now(call)

    return acted_late


def rewrite(change: Callable[[bytes], bytes]) -> Action:
    """Change the body of the service's answer."""

    def rewritten(call: Call) -> Response:
        real = call.proceed()
        return attrs.evolve(real, body=change(real.body))

    return rewritten


def cut_short() -> Action:
    """Half the body, a Content-Length for all of it, and the connection closes."""

    def cut(call: Call) -> Response:
        real = call.proceed()
        return attrs.evolve(real, body=real.body[: len(real.body) // 2], promised=max(1, len(real.body)))

    return cut


def half() -> Action:
    """Half the body, as if it were all."""
    return rewrite(lambda body: body[: len(body) // 2])


def empty_list() -> Action:
    """A list without any session."""
    return rewrite(lambda body: b"[]")


def partial_list(share: float = 0.5, seed: int = 0) -> Action:
    """A list from which sessions are missing: each stays with probability *share*."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    return _on_json(lambda sessions: [session for session in sessions if chance.random() < share])


def stale_list() -> Action:
    """The list as it was when this fault first struck."""
    kept: list[Response] = []

    def stale(call: Call) -> Response:
        if not kept:
            kept.append(call.proceed())
        return kept[0]

    return stale


def status_words(words: Mapping[str, str]) -> Action:
    """Other words for the status of sessions, as older releases have them."""

    def renamed(shown: Any) -> Any:
        for session in shown if isinstance(shown, list) else [shown]:
            session["status"] = words.get(session["status"], session["status"])
        return shown

    return _on_json(renamed)


def _on_json(change: Callable[[Any], Any]) -> Action:
    def changed(body: bytes) -> bytes:
        try:
            shown = json.loads(body)
        except ValueError:
            return body  # not JSON: an error's text, which stays what it is
        return json.dumps(change(shown), indent=2).encode()

    return rewrite(changed)


# Rules


@attrs.define(eq=False)
class Fault:
    """An action and when it strikes: at every request of its kind, or as its counts, chance and time allow.

    Args:
        action: What happens.
        on: A kind of request (:data:`KINDS`), or ``any``.
        method: An HTTP method; None for all.
        nth: Only the n-th such request, from 1.
        first: Only the first so many.
        every: Each so many-th.
        probability: Each with this probability.
        seed: For the probability, which is repeatable.
        seconds: For so long, from now.
        where: A further condition on the request.
    """

    action: Action
    on: str = "any"
    method: str | None = None
    nth: int | None = None
    first: int | None = None
    every: int | None = None
    probability: float = 1.0
    seed: int = 0
    seconds: float | None = None
    where: Callable[[Request], bool] | None = None
    _random: random.Random = attrs.field(init=False)
    _until: float | None = attrs.field(init=False)
    seen: int = attrs.field(default=0, init=False)  #: requests that it could have struck
    hits: int = attrs.field(default=0, init=False)  #: requests that it struck

    def __attrs_post_init__(self) -> None:
        if self.on not in KINDS | {"any"}:
            raise ValueError(f"on={self.on!r} is no kind of request; choose any or one of {', '.join(sorted(KINDS))}")
        self._random = random.Random(self.seed)  # noqa: S311 - repeatable, not secret
        self._until = None if self.seconds is None else time.monotonic() + self.seconds

    def strikes(self, request: Request, kind: str) -> bool:
        """Whether it strikes this request; counts it."""
        if self.on not in {"any", kind} or self.method not in {None, request.method}:
            return False
        if self.where is not None and not self.where(request):
            return False
        if self._until is not None and time.monotonic() > self._until:
            return False
        self.seen += 1
        struck = (
            self.nth in {None, self.seen}
            and (self.first is None or self.seen <= self.first)
            and (self.every is None or self.seen % self.every == 0)
            and (self.probability >= 1 or self._random.random() < self.probability)
        )
        self.hits += struck
        return struck


class Faults:
    """The faults of one platform. They may change while it runs; those added first stand nearest to the client."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: tuple[Fault, ...] = ()

    def add(self, fault: Fault | Action, /, **rule: Any) -> Fault:
        """Switch a fault on: one that is made already, or an action with the rule of :class:`Fault` as keywords."""
        made = fault if isinstance(fault, Fault) else Fault(fault, **rule)
        with self._lock:
            self._faults = (*self._faults, made)
        return made

    def remove(self, fault: Fault) -> None:
        """Switch a fault off."""
        with self._lock:
            self._faults = tuple(other for other in self._faults if other is not fault)

    def clear(self) -> None:
        """Switch all faults off."""
        with self._lock:
            self._faults = ()

    @contextlib.contextmanager
    def during(self, fault: Fault | Action, /, **rule: Any) -> Iterator[Fault]:
        """A fault for the duration of a ``with`` block."""
        made = self.add(fault, **rule)
        try:
            yield made
        finally:
            self.remove(made)

    def answer(self, request: Request, kind: str, act: Callable[[], Response], stopping: threading.Event) -> Response:
        """Answer a request through the faults that strike it; *act* asks the service."""
        if not self._faults:
            return act()
        with self._lock:
            striking = [fault.action for fault in self._faults if fault.strikes(request, kind)]
        for action in reversed(striking):
            act = _behind(action, request, kind, act, stopping)
        return act()


def _behind(
    action: Action, request: Request, kind: str, act: Callable[[], Response], stopping: threading.Event
) -> Callable[[], Response]:
    return lambda: action(Call(request, kind, act, stopping))


# What was asked


@attrs.frozen
class Recorded:
    """One request that came in, and the status that went out; None where the connection was dropped."""

    method: str
    path: str
    kind: str
    fields: Mapping[str, list[str]]
    status: int | None


class Requests:
    """A record of what a platform was asked. Safe to read while it runs."""

    def __init__(self, keep: int = 10_000, keep_chars: int = 20_000_000) -> None:
        self._lock = threading.Lock()
        self._keep, self._keep_chars = keep, keep_chars
        self._chars = 0
        self._counts: collections.Counter[str] = collections.Counter()
        self._accepted: collections.Counter[str] = collections.Counter()
        self._recent: collections.deque[Recorded] = collections.deque()

    @property
    def counts(self) -> collections.Counter[str]:
        """How many requests came, by kind."""
        with self._lock:
            return collections.Counter(self._counts)

    @property
    def accepted(self) -> collections.Counter[str]:
        """How many containers were created, by name: whatever the client was told about it."""
        with self._lock:
            return collections.Counter(self._accepted)

    @property
    def recent(self) -> list[Recorded]:
        """The latest requests, oldest first."""
        with self._lock:
            return list(self._recent)

    def note(self, recorded: Recorded) -> None:
        """Note a request."""
        with self._lock:
            self._counts[recorded.kind] += 1
            self._recent.append(recorded)
            self._chars += _size(recorded)
            while len(self._recent) > self._keep or self._chars > self._keep_chars:
                self._chars -= _size(self._recent.popleft())

    def note_accepted(self, name: str) -> None:
        """Note a created container."""
        with self._lock:
            self._accepted[name] += 1

    def clear(self) -> None:
        """Begin anew."""
        with self._lock:
            self._counts.clear()
            self._accepted.clear()
            self._recent.clear()
            self._chars = 0


def _size(recorded: Recorded) -> int:
    return sum(len(value) for values in recorded.fields.values() for value in values)
