"""A platform, a clock and a crew that live in memory, so that a batch of hours is tested in milliseconds."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import attrs

from canfar_batch.errors import JobNotFound, PlatformRefused
from canfar_batch.fields.keys import file_name
from canfar_batch.payload.receipts import receipt_paths
from canfar_batch.payload.wrapper import MARK
from canfar_batch.records import ContainerInfo, Image, LaunchRequest, Limits, Phase
from canfar_batch.setup import Outcome

EPOCH = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)


class FakeClock:
    """Time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.seconds)

    def ticks(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += max(0.0, seconds)


class InlinePool:
    """Does all work at once, in the calling thread; the outcomes are drained later, as with threads."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.inbox: deque[tuple[Callable[[Outcome[Any]], None], Outcome[Any]]] = deque()

    def submit(self, queue: str, work: Callable[[], Any], then: Callable[[Outcome[Any]], None]) -> None:
        self.inbox.append((then, Outcome.of(work)))

    def drain(self) -> int:
        drained = 0
        for _ in range(len(self.inbox)):
            then, outcome = self.inbox.popleft()
            then(outcome)
            drained += 1
        return drained

    def wait(self, seconds: float) -> None:
        if not self.inbox:
            self.clock.sleep(seconds)

    def close(self) -> None:
        pass


@attrs.frozen(kw_only=True)
class Fate:
    """What becomes of one container."""

    queue: float = 0.0  #: seconds until it runs
    lasts: float = 10.0  #: seconds for which it runs
    code: int = 0
    log: bytes = b""
    receipt: bool = True  #: whether its wrapper reports in the log
    oom_kills: int = 0


def failing(*numbers: int) -> Callable[[LaunchRequest], Fate]:
    """Return a fate: the jobs j*number* fail, the others succeed."""

    def fate(request: LaunchRequest) -> Fate:
        return Fate(code=int(any(f"-j{number}-" in request.name for number in numbers)))

    return fate


@attrs.define
class FakeContainer:
    """One container in memory."""

    id: str
    request: LaunchRequest
    born: float
    fate: Fate
    last: ContainerInfo | None = None  #: its row once it has ended, which never changes


class FakePlatform:
    """A platform in memory. Containers age with the clock; the tests say what becomes of each."""

    url = "https://fake.example.org/skaha/v1"
    user = "fake"
    expires_at: datetime | None = None

    def __init__(
        self,
        clock: FakeClock | None = None,
        fate: Callable[[LaunchRequest], Fate] = lambda request: Fate(),
        *,
        forget_after: float = 3600.0,
    ) -> None:
        self.clock = clock or FakeClock()
        self.fate = fate
        self.forget_after = forget_after
        self.all: dict[str, FakeContainer] = {}
        self.calls: Counter[str] = Counter()
        self.launched: list[str] = []  #: launch names, in the order in which containers were made
        self.before: dict[str, Callable[[], object]] = {}  #: by call: what to do first, as raising
        self.after: dict[str, Callable[[], object]] = {}  #: by call: what to do once it is done, as losing the answer
        self.shown: Callable[[list[ContainerInfo]], list[ContainerInfo]] = lambda shown: shown  #: what lists say of it
        self.noted = ""  #: the text of the cluster's events
        self._numbers = itertools.count()
        self._check_after = 0.0

    # -- the role -------------------------------------------------------------------------------------------------

    def launch(self, request: LaunchRequest) -> str:
        self._called("launch")
        id = self.make(request)
        self._done("launch")
        return id

    def containers(self, kind: str | None = "headless") -> list[ContainerInfo]:
        self._called("containers")
        self.forget_ended()
        return self.shown([container.last or self._info(container) for container in self.all.values()])

    def container(self, id: str) -> ContainerInfo:
        self._called("container")
        return self._info(self._known(id))

    def logs(self, id: str) -> bytes:
        self._called("logs")
        self.forget_ended()
        container = self.all.get(id)
        return self.printed(container) if container is not None else b""

    def stream_logs(self, id: str) -> Iterator[bytes]:
        log = self.logs(id)
        yield from (log[at : at + 65536] for at in range(0, len(log), 65536))

    def events(self, id: str) -> str | None:
        self._called("events")
        container = self.all.get(id)
        if self.noted or (container is not None and self.phase(container) is not Phase.PENDING):
            return self.noted
        return None

    def renew(self, id: str) -> None:
        self._called("renew")
        container = self.all.get(id)
        if container is None or self.phase(container) is not Phase.RUNNING:
            raise PlatformRefused(f"No active job for user fake with session {id}", status=400)
        self._done("renew")

    def within(self, seconds: float | None) -> AbstractContextManager[None]:
        return nullcontext()

    def cancel(self, id: str) -> None:
        self._called("cancel")
        self.all.pop(id, None)
        self._done("cancel")

    def limits(self) -> Limits:
        self._called("limits")
        return Limits(
            cores=tuple(range(1, 17)), ram=(1, 2, 4, 8, 16, 32, 64), gpus=(1,), default_cores=1.0, default_ram=4.0
        )

    def images(self, kind: str | None = "headless") -> list[Image]:
        self._called("images")
        return [Image(id="images.canfar.net/skaha/astroml:latest", kinds=("headless",))]

    def stats(self) -> Mapping[str, Any]:
        self._called("stats")
        return {"cores": {"requestedCPUCores": float(len(self.all))}}

    # -- what tests do --------------------------------------------------------------------------------------------

    def make(self, request: LaunchRequest) -> str:
        """Begin a container, whatever answer the client gets."""
        id = f"f{next(self._numbers):07d}"
        self.all[id] = FakeContainer(id, request, self.clock.ticks(), self.fate(request))
        self.launched.append(request.name)
        return id

    def forget(self, id: str) -> None:
        """Let a container vanish without a word."""
        del self.all[id]

    def phase(self, container: FakeContainer) -> Phase:
        age, fate = self.clock.ticks() - container.born, container.fate
        if age < fate.queue:
            return Phase.PENDING
        if age < fate.queue + fate.lasts:
            return Phase.RUNNING
        return Phase.COMPLETED if fate.code == 0 else Phase.FAILED

    @property
    def running(self) -> int:
        """How many containers are not over."""
        return sum(not self.phase(container).final for container in self.all.values())

    def _called(self, call: str) -> None:
        self.calls[call] += 1
        if call in self.before:
            self.before[call]()

    def _done(self, call: str) -> None:
        if call in self.after:
            self.after[call]()

    def _known(self, id: str) -> FakeContainer:
        self.forget_ended()
        if id not in self.all:
            raise JobNotFound(f"session {id} not found", status=404, server_text=f"session {id} not found")
        return self.all[id]

    def forget_ended(self) -> None:
        now = self.clock.ticks()
        if now < self._check_after:
            return
        self._check_after = now + self.forget_after / 100
        gone = [
            container.id
            for container in self.all.values()
            if now - container.born - container.fate.queue - container.fate.lasts > self.forget_after
        ]
        for id in gone:
            del self.all[id]

    def _info(self, container: FakeContainer) -> ContainerInfo:
        phase, asked = self.phase(container), container.request.resources
        started = EPOCH + timedelta(seconds=container.born + container.fate.queue)
        info = ContainerInfo(
            id=container.id,
            name=container.request.name.lower(),
            phase=phase,
            status=phase.value.capitalize(),
            image=container.request.image,
            started_at=None if phase is Phase.PENDING else started,
            cores=asked.cores,
            ram=asked.ram,
            gpus=asked.gpus or 0,
        )
        container.last = info if phase.final else None
        return info

    def printed(self, container: FakeContainer) -> bytes:
        phase, fate, name = self.phase(container), container.fate, container.request.name
        if phase is Phase.PENDING:
            return b""
        if not fate.receipt:
            return fate.log
        began = (EPOCH + timedelta(seconds=container.born + fate.queue)).timestamp()
        start = f"\n{MARK} {name} start key=k attempt=1 started={began:.0f} #{name}\n".encode()
        if not phase.final:
            return start + fate.log
        facts = f"key=k attempt=1 started={began:.0f} finished={began + fate.lasts:.0f} code={fate.code}"
        end = f"\n{MARK} {name} end {facts} cpu=1 cpu0=0 oom={fate.oom_kills} oom0=0 outputs=0 #{name}\n".encode()
        return start + fate.log + end

    def write_receipts(self, home: Path, key: str, attempt: int, name: str, code: int = 0) -> None:
        """Leave the receipt files of an attempt, as a container does that sees the home."""
        start, end = receipt_paths(str(home), file_name(key), attempt)
        own = (one.born + one.fate.queue for one in self.all.values() if one.request.name == name)
        began = (EPOCH + timedelta(seconds=next(own, 0.0))).timestamp()
        facts = f"key={key} attempt={attempt} started={began:.0f}"
        Path(start).write_text(f"{MARK} {name} start {facts} #{name}\n")
        Path(end).write_text(f"{MARK} {name} end {facts} finished={began + 1:.0f} code={code} outputs=0 #{name}\n")
