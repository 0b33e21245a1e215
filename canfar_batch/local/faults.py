"""Answers that go wrong on purpose, so that a program can be tried against a bad day of the platform.

A fault is an *action* and a rule for when it strikes. An action stands before the service as a proxy does: it gets the
request and a way to proceed, and returns the answer that the client gets.

    platform.faults.add(answer(503, "down for a moment", {"Retry-After": "1"}), on="list", first=2)
    platform.faults.add(after(drop()), on="create", nth=3)           # created, and the connection breaks
    platform.faults.add(groups_ill("404"), on="create", seconds=5)   # as while the group service is ill
    with platform.faults.during(stall(30), on="show"):               # for as long as the block takes
        ...

    platform.faults.add(from_text("drop on=create probability=0.05 seed=7"))   # as the command line takes it

Actions compose: ``after(action)`` lets the service act before *action* answers. Anything callable as
``action(call) -> Response`` is an action too.

The storage service has faults of its own (`STORAGE_FAULTS`); ``LocalPlatform(storage_faults=…)`` chooses them. `CAVERN`
has those of the real service, `CAVERN_OIDC` those of one that takes OpenID tokens only, and ``()`` none.
"""

from __future__ import annotations

import collections
import contextlib
import io
import itertools
import json
import random
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from canfar_batch.local import creation, outages
from canfar_batch.local.answers import Refusal, html_page
from canfar_batch.local.messages import ConnectionDropped, Request, Response
from canfar_batch.local.vospace.hazards import CAVERN as CAVERN
from canfar_batch.local.vospace.hazards import CAVERN_OIDC as CAVERN_OIDC
from canfar_batch.local.vospace.hazards import STORAGE_FAULTS as STORAGE_FAULTS

#: the kinds of requests
KINDS = frozenset(
    {"create", "list", "show", "logs", "events", "stats", "delete", "renew"}
    | {"context", "image", "repository", "capabilities", "availability", "other"}
    | {"node", "download", "upload", "transfer", "storage"}
)
#: those of the storage service: nodes, bytes down and up, negotiations and jobs, and what needs no credential
STORAGE = frozenset({"node", "download", "upload", "transfer", "storage"})
#: the kinds that need a credential, and ask the neighbours of skaha
AUTHENTICATED = KINDS - STORAGE - {"capabilities", "availability", "other"}
#: the kinds that concern sessions
SESSIONS = AUTHENTICATED - {"context", "image", "repository"}


@attrs.frozen
class Call:
    """One request on its way to the service."""

    request: Request
    kind: str
    _act: Callable[[], Response]
    _stopping: threading.Event

    def proceed(self) -> Response:
        """Let the service act, and return its answer."""
        return self._act()

    def sleep(self, seconds: float) -> None:
        """Wait, but no longer than the platform lives.

        Raises:
            ConnectionDropped: The platform stopped meanwhile.
        """
        if self._stopping.wait(None if seconds == float("inf") else seconds):
            raise ConnectionDropped

    def proceed_later(self, seconds: float) -> None:
        """Let the service act after a number of seconds, whatever the client gets now."""

        def act() -> None:
            if not self._stopping.wait(seconds):
                with contextlib.suppress(ConnectionDropped):  # the client has its answer already
                    self._act()

        threading.Thread(target=act, name="local-platform-late", daemon=True).start()


Action = Callable[[Call], Response]

# Actions


def answer(status: int, body: str = "", headers: Mapping[str, str] | None = None, *, html: bool = False) -> Action:
    """Answer with this status and body, and do nothing."""
    sent = tuple((headers or {}).items())
    kind = "text/html" if html else "text/plain"
    return lambda call: Response(status, body.encode(), kind, sent)


def bad_gateway() -> Action:
    """Answer with the page of a proxy that cannot reach the service."""
    return lambda call: html_page(502, "502 Bad Gateway")


def proxy_not_found() -> Action:
    """Answer with the 404 of a proxy that has no route; it says nothing about a session."""
    return answer(404, "404 page not found\n")


def login_page() -> Action:
    """Answer with a page of status 200."""
    return lambda call: html_page(200, "Please log in")


def drop() -> Action:
    """Reset the connection, and do nothing."""

    def dropped(call: Call) -> Response:
        raise ConnectionDropped

    return dropped


def stall(seconds: float) -> Action:
    """Wait, then proceed as usual. ``after(stall(s))`` acts at once and answers late."""

    def stalled(call: Call) -> Response:
        call.sleep(seconds)
        return call.proceed()

    return stalled


def after(action: Action) -> Action:
    """Let the service act first; then *action* answers."""

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
    """Send half the body with a Content-Length for all of it, and close the connection."""

    def cut(call: Call) -> Response:
        real = call.proceed()
        return attrs.evolve(real, body=real.body[: len(real.body) // 2], promised=max(1, len(real.body)))

    return cut


def drip(seconds: float) -> Action:
    """Send the body a little at a time, so that all of it takes *seconds* (a slow loris)."""

    def dripped(call: Call) -> Response:
        real = call.proceed()
        return attrs.evolve(real, body=b"", source=_Drops(real.body, seconds, call.sleep), length=len(real.body))

    return dripped


class _Drops(io.BytesIO):
    """Bytes that come in a hundred pieces, with a pause before each."""

    def __init__(self, body: bytes, seconds: float, sleep: Callable[[float], None]) -> None:
        super().__init__(body)
        self._piece, self._pause, self._sleep = max(1, len(body) // 100), seconds / 100, sleep

    def read(self, size: int | None = -1, /) -> bytes:
        """Wait, and return the next piece."""
        self._sleep(self._pause)
        return super().read(self._piece)


def redirect(place: str = "https://elsewhere.example/") -> Action:
    """Answer that the service is elsewhere, as a wrong gateway or an attacker does."""
    return answer(307, "", {"Location": place})


def nested(depth: int = 100_000) -> Action:
    """Answer with JSON of so many lists in each other."""
    return lambda call: Response(200, b"[" * depth + b"]" * depth, "application/json")


def bomb(size: float = 0.1) -> Action:
    """Answer with a compressed body, which nobody asked for, of *size* GB of blanks."""
    megabyte = zlib.compressobj(9, zlib.DEFLATED, 31)
    body = b"".join(megabyte.compress(b" " * 1_000_000) for _ in range(int(size * 1000))) + megabyte.flush()
    return lambda call: Response(200, body, "application/json", (("Content-Encoding", "gzip"),))


def huge(size: float = 20.0) -> Action:
    """Answer with a list of *size* MB of rows that are no containers."""
    return lambda call: Response(200, b"[" + b"{}," * int(size * 1e6 / 3) + b"{}]", "application/json")


def escapes() -> Action:
    """Put a terminal's escape sequences and other control characters before each line of a text."""
    evil = b"\x1b]0;owned\x07\x1b[2J\x08"
    return rewrite(lambda body: b"".join(evil + line for line in body.splitlines(keepends=True)))


def half() -> Action:
    """Send half the body as if it were all."""
    return rewrite(lambda body: body[: len(body) // 2])


def corrupt() -> Action:
    """Change one byte in the middle of the body."""

    def changed(body: bytes) -> bytes:
        middle = len(body) // 2
        return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else body

    return rewrite(changed)


def empty_list() -> Action:
    """Answer lists without any session."""
    return rewrite(lambda body: b"[]")


def partial_list(share: float = 0.5, seed: int = 0) -> Action:
    """Leave sessions out of lists: each stays with probability *share*."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    return _on_json(lambda sessions: [session for session in sessions if chance.random() < share])


def duplicate() -> Action:
    """Let the service act twice, and answer as at the second time: a create makes two containers of one name."""

    def doubled(call: Call) -> Response:
        call.proceed()
        return call.proceed()

    return doubled


def flapping(seed: int = 0) -> Action:
    """Show running sessions as Pending, each time with probability one half."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret

    def flapped(shown: Any) -> Any:
        for session in shown if isinstance(shown, list) else [shown]:
            if session.get("status") == "Running" and chance.random() < 0.5:
                session["status"] = "Pending"
        return shown

    return _on_json(flapped)


def stale_list() -> Action:
    """Answer with the list from the first time that this fault struck."""
    kept: list[Response] = []

    def stale(call: Call) -> Response:
        if not kept:
            kept.append(call.proceed())
        return kept[0]

    return stale


def status_words(words: Mapping[str, str]) -> Action:
    """Use other words for the status of sessions, as older releases do."""

    def renamed(shown: Any) -> Any:
        for session in shown if isinstance(shown, list) else [shown]:
            session["status"] = words.get(session["status"], session["status"])
        return shown

    return _on_json(renamed)


def _unknown_words(word: str) -> Action:
    return status_words(dict.fromkeys(_WORDS, word))


def _on_json(change: Callable[[Any], Any]) -> Action:
    def changed(body: bytes) -> bytes:
        try:
            shown = json.loads(body)
        except ValueError:
            return body  # not JSON: the text of an error, which is kept
        return json.dumps(change(shown), indent=2).encode()

    return rewrite(changed)


# Named faults: the answers of the real service while a neighbour of it is ill


@attrs.frozen
class Outage:
    """An action that plays an illness of a neighbour on the requests that ask this neighbour."""

    _answers: Callable[[Call], Response | None]  #: None lets the service act
    kinds: frozenset[str]  #: the kinds of requests that it concerns
    waits: float = 0.0  #: seconds before the answer
    kept: float = 0.0  #: seconds for which the service still answers so when the neighbour is well again

    def __call__(self, call: Call) -> Response:
        """Answer in the words that the illness causes, if the request asks the ill neighbour."""
        if call.kind not in self.kinds:
            return call.proceed()
        if self.waits:
            call.sleep(self.waits)
        answered = self._answers(call)
        return call.proceed() if answered is None else answered


def groups_ill(illness: str = "503") -> Outage:
    """Play an ill group service. Every request asks it, and its own 401, 403 and 404 reach the client.

    Args:
        illness: One of `outages.ILLNESSES`, as for the following.
    """
    return _outage(illness, outages.groups)


def posix_ill(illness: str = "503") -> Outage:
    """Play an ill POSIX mapper, which every request asks."""
    return _outage(illness, outages.posix)


def storage_ill(illness: str = "503") -> Outage:
    """Play an ill VOSpace, which only creates ask."""
    return _outage(illness, outages.storage)


def issuer_ill(illness: str = "503", *, is_opaque: bool = False) -> Outage:
    """Play an ill OpenID issuer whose files are not cached; a malformed file is kept for ten minutes.

    Args:
        illness: One of `outages.ILLNESSES`.
        is_opaque: Whether tokens are opaque; the answers to signed ones differ.
    """
    return _outage(illness, lambda illness: outages.issuer(illness, is_opaque=is_opaque))


def registry_ill(illness: str = "503") -> Outage:
    """Play an ill registry of services whose files are not cached; a malformed file is kept for ten minutes."""
    return _outage(illness, outages.registry)


def images_ill(illness: str = "gone") -> Outage:
    """Play an image list that is "gone" (Redis was restarted), "other" (unreadable entries) or of the "wrong-kind"."""
    if illness not in outages.IMAGE_ILLNESSES:
        raise ValueError(f"illness={illness!r} is not one of {', '.join(outages.IMAGE_ILLNESSES)}")
    answers = outages.images(illness)
    return Outage(lambda call: answers[call.kind], frozenset(answers))


def queue_away() -> Outage:
    """Play a restart of the queue's controller: creates are 500s `jobs.batch … not found`, and nothing is made."""

    def not_found(call: Call) -> Response:
        refusal: Refusal = creation.job_not_found(creation.job_name("headless", "user", creation.new_id()))
        return outages.unexpected(str(refusal).removeprefix("unexpected exception: "))

    return Outage(not_found, frozenset({"create"}))


def queue_missing() -> Outage:
    """Play a queue that the service cannot read: requests about sessions get Tomcat's page with status 500."""
    return Outage(lambda call: outages.queue_missing(), SESSIONS)


def poisoned_replica() -> Outage:
    """Play a replica that could not read the limits at its first create: every create is a 500 until it is restarted.

    With ``every=2`` it is one of two replicas.
    """
    poisoned = _poisoned()
    return Outage(lambda call: poisoned(), frozenset({"create"}))


def limits_unreadable() -> Outage:
    """Play limits that cannot be read since the service began: the context and creates are 500s, lists are well.

    When the limits can be read again, the context is well, and creates stay as `poisoned_replica` plays them.
    """
    poisoned = _poisoned()

    def unreadable(call: Call) -> Response:
        return poisoned() if call.kind == "create" else outages.unexpected(outages.LIMITS_UNREADABLE)

    return Outage(unreadable, frozenset({"context", "create"}))


def _poisoned() -> Callable[[], Response]:
    texts = itertools.chain([outages.POISONED_FIRST], itertools.repeat(outages.POISONED))
    return lambda: outages.unexpected(next(texts))


def redis_hung() -> Outage:
    """Play a Redis that does not answer: every create is a 500 after 2 s, and nothing is made."""
    return Outage(lambda call: outages.unexpected(outages.REDIS_HUNG), frozenset({"create"}), waits=2.0)


def api_server_away() -> Outage:
    """Play an API server of Kubernetes that does not answer: 500, but logs are 200 and empty. Nothing is made."""

    def away(call: Call) -> Response:
        if call.kind == "logs":
            return Response(200, b"")
        return outages.unexpected(outages.API_SERVER_AWAY)

    return Outage(away, SESSIONS - {"delete"})


def _outage(illness: str, effect: Callable[[str], outages.Illness]) -> Outage:
    if illness not in outages.ILLNESSES:
        raise ValueError(f"illness={illness!r} is not one of {', '.join(outages.ILLNESSES)}")
    played = effect(illness)
    kinds = frozenset({"create"}) if played.creates_only else AUTHENTICATED
    return Outage(lambda call: played.response, kinds, played.waits, played.kept)


# Rules


#: the words of the service for the state of a session
_WORDS = ("Pending", "Running", "Terminating", "Completed", "Succeeded", "Failed", "Error", "Unknown")

#: actions by the name that `from_text` knows
NAMED: Mapping[str, Callable[..., Action]] = {
    "answer": lambda status: answer(int(status), f"unexpected answer {status}\n"),
    "busy": lambda wait="": answer(429, "slow down\n", {"Retry-After": wait} if wait else {}),
    "unavailable": lambda wait="1": answer(503, "temporarily unavailable: null\n", {"Retry-After": wait}),
    "credential": lambda: answer(401, "Invalid JWT token"),
    "stall": lambda seconds: stall(float(seconds)),
    "late": lambda seconds: late(float(seconds)),
    "partial_list": lambda share="0.5": partial_list(float(share)),
    "drip": lambda seconds: drip(float(seconds)),
    "redirect": redirect,
    "nested": lambda depth="100000": nested(int(depth)),
    "bomb": lambda size="0.1": bomb(float(size)),
    "huge": lambda size="20": huge(float(size)),
    "unknown_words": lambda word="Busy": _unknown_words(word),
    "flapping": lambda seed="0": flapping(int(seed)),
    **{
        action.__name__: action
        for action in (
            *(bad_gateway, proxy_not_found, login_page, drop, cut_short, half, corrupt, escapes),
            *(empty_list, stale_list, duplicate),
            *(groups_ill, posix_ill, storage_ill, issuer_ill, registry_ill, images_ill),
            *(queue_away, queue_missing, poisoned_replica, limits_unreadable, redis_hung, api_server_away),
        )
    },
}


def from_text(text: str) -> Fault:
    """Return the fault that a line of text describes, as `--faults` takes it.

    The line has the action's name, ``=`` and its argument if it takes one, the word ``after`` if the service is to act
    first, and the rule: ``groups_ill=404 on=create first=3``, ``drop after on=create probability=0.05 seed=7``.

    Raises:
        ValueError: The action or a word of the rule is unknown, or its value is not usable.
    """
    name, *words = text.split()
    action_name, _, argument = name.partition("=")
    if action_name not in NAMED:
        raise ValueError(f"{action_name!r} is not a fault; choose one of {', '.join(sorted(NAMED))}")
    try:
        action = NAMED[action_name](*([argument] if argument else []))
    except TypeError:
        raise ValueError(f"{name!r}: {action_name} takes {'no' if argument else 'an'} argument") from None
    rule: dict[str, Any] = {}
    for word in words:
        key, _, value = word.partition("=")
        if word == "after":
            action = after(action)
        elif key in _RULES:
            rule[key] = _RULES[key](value)
        else:
            raise ValueError(f"{word!r} is no part of a rule; use after, {', '.join(f'{key}=' for key in _RULES)}")
    return Fault(action, **rule)


def bad_day(seed: int = 0) -> list[Fault]:
    """Return the faults of a bad day: a few percent of all requests go wrong, in every way that costs others jobs.

    The same *seed* gives the same faults at the same requests, if these come in the same order.
    """
    lines = (
        "unavailable on=create probability=0.03",
        "late=2 on=create probability=0.03",
        "bad_gateway after on=create probability=0.05",
        "drop after on=create probability=0.05",
        "drop on=create probability=0.02",
        "answer=500 on=list probability=0.05",
        "empty_list on=list probability=0.05",
        "partial_list=0.7 on=list probability=0.03",
        "cut_short on=list probability=0.02",
        "proxy_not_found on=show probability=0.05",
        "half on=logs probability=0.03",
        "bad_gateway on=events probability=0.05",
        "credential on=list probability=0.01",
    )
    return [from_text(f"{line} seed={seed * 1000 + number}") for number, line in enumerate(lines)]


@attrs.define(eq=False)
class Fault:
    """An action and when it strikes: at every request of its kind, or as its counts, chance and time allow.

    Args:
        action: What happens.
        on: A kind of request (`KINDS`), or ``any``.
        method: An HTTP method; None for all.
        nth: Only the n-th such request, from 1.
        first: Only the first N such requests.
        every: Each N-th such request.
        probability: Each with this probability.
        seed: The seed of the probability, which is repeatable.
        seconds: For N seconds, from now.
        where: A further condition on the request.
        lingers: Seconds for which a fault that struck goes on after its time, or after it was switched off. By default
            ten minutes for named faults that the real service keeps, and none for all others.
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
    lingers: float | None = None
    _random: random.Random = attrs.field(init=False)
    _until: float | None = attrs.field(init=False)
    seen: int = attrs.field(default=0, init=False)  #: requests that it could have struck
    hits: int = attrs.field(default=0, init=False)  #: requests that it struck

    def __attrs_post_init__(self) -> None:
        if self.on not in KINDS | {"any"}:
            raise ValueError(
                f"on={self.on!r} is not a kind of request; choose any or one of {', '.join(sorted(KINDS))}"
            )
        self._random = random.Random(self.seed)  # noqa: S311 - repeatable, not secret
        if self.lingers is None:
            self.lingers = self.action.kept if isinstance(self.action, Outage) else 0.0
        self._until = None if self.seconds is None else time.monotonic() + self.seconds

    def strikes(self, request: Request, kind: str) -> bool:
        """Count a request, and return whether the fault strikes it."""
        if self.on not in {"any", kind} or self.method not in {None, request.method}:
            return False
        if self.where is not None and not self.where(request):
            return False
        if isinstance(self.action, Outage) and kind not in self.action.kinds:
            return False  # a request that does not ask the ill neighbour
        if self._until is not None and time.monotonic() > self._until + self._extra:
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

    def switch_off(self) -> bool:
        """Let its time end now; return whether it still lingers."""
        now = time.monotonic()
        self._until = now if self._until is None else min(now, self._until)
        return now <= self._until + self._extra and self._extra > 0

    @property
    def _extra(self) -> float:
        return self.lingers or 0.0 if self.hits else 0.0


_RULES: Mapping[str, Callable[[str], Any]] = {
    **dict.fromkeys(("on", "method"), str),
    **dict.fromkeys(("nth", "first", "every", "seed"), int),
    **dict.fromkeys(("probability", "seconds", "lingers"), float),
}


class Faults:
    """The faults of one platform. They may change while it runs; those added first stand nearest to the client."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: tuple[Fault, ...] = ()

    def add(self, fault: Fault | Action, /, **rule: Any) -> Fault:
        """Switch a fault on.

        Args:
            fault: A `Fault`, or an action.
            rule: The rule for an action, as keywords of `Fault`.
        """
        made = fault if isinstance(fault, Fault) else Fault(fault, **rule)
        with self._lock:
            self._faults = (*self._faults, made)
        return made

    def remove(self, fault: Fault) -> None:
        """Switch a fault off, unless it lingers."""
        with self._lock:
            if fault in self._faults and fault.switch_off():
                return
            self._faults = tuple(other for other in self._faults if other is not fault)

    def clear(self) -> None:
        """Switch all faults off, also those that linger."""
        with self._lock:
            self._faults = ()

    @contextlib.contextmanager
    def during(self, fault: Fault | Action, /, **rule: Any) -> Iterator[Fault]:
        """Switch a fault on for the duration of a ``with`` block."""
        made = self.add(fault, **rule)
        try:
            yield made
        finally:
            self.remove(made)

    def answer(self, request: Request, kind: str, act: Callable[[], Response], stopping: threading.Event) -> Response:
        """Answer a request through the faults that strike it; *act* calls the service."""
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


# The record of requests


@attrs.frozen
class Recorded:
    """One request, and the status of its answer; None if the connection was dropped."""

    method: str
    path: str
    kind: str
    fields: Mapping[str, list[str]]
    status: int | None


class Requests:
    """A record of the requests to a platform. Safe to read while it runs."""

    def __init__(self, keep: int = 10_000, keep_chars: int = 20_000_000) -> None:
        self._lock = threading.Lock()
        self._keep, self._keep_chars = keep, keep_chars
        self._chars = 0
        self._counts: collections.Counter[str] = collections.Counter()
        self._accepted: collections.Counter[str] = collections.Counter()
        self._recent: collections.deque[Recorded] = collections.deque()

    @property
    def counts(self) -> collections.Counter[str]:
        """The number of requests, by kind."""
        with self._lock:
            return collections.Counter(self._counts)

    @property
    def accepted(self) -> collections.Counter[str]:
        """The number of containers that were created, by name, whatever the client got as an answer."""
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
        """Forget all requests."""
        with self._lock:
            self._counts.clear()
            self._accepted.clear()
            self._recent.clear()
            self._chars = 0


def _size(recorded: Recorded) -> int:
    return sum(len(value) for values in recorded.fields.values() for value in values)
