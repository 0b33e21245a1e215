"""The science platform on this machine: the same API on a loopback port, jobs as processes.

    with LocalPlatform(cores=4, ram=16) as platform:
        print(platform.url, platform.token)

What works here is meant to work on CANFAR: requests are read, refused and mangled as the real service does it. Faults
can be injected (:mod:`canfar_batch.local.faults`), and what was asked is on record.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
import re
import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

from canfar_batch.local.cluster import Cluster
from canfar_batch.local.containers import GIB, ContainerInfo
from canfar_batch.local.faults import Fault, Faults, Recorded, Requests
from canfar_batch.local.httpd import LOOPBACK, HttpServer
from canfar_batch.local.server import ROOT, VERSION, Image, Service, Settings

__all__ = ["IMAGES", "ContainerInfo", "Fault", "Faults", "Image", "LocalPlatform", "Recorded", "Requests"]

#: what the platform lists unless told otherwise
IMAGES = (
    Image("images.canfar.net/skaha/astroml:latest", ("headless", "notebook")),
    Image("images.canfar.net/skaha/astroml-cuda:latest", ("headless", "notebook")),
    Image("images.canfar.net/skaha/terminal:latest", ("headless", "desktop-app")),
    Image("images.canfar.net/skaha/astroconda:latest", ("headless",)),
    Image("images.canfar.net/skaha/casa:latest", ("headless", "desktop-app")),
    Image("images.canfar.net/skaha/desktop:latest", ("desktop",)),
    Image("images.canfar.net/skaha/carta:latest", ("carta",)),
)


class LocalPlatform:
    """A science platform on this machine. Use it as a context manager, or call :meth:`start` and :meth:`stop`.

    Args:
        cores: How many cores jobs share; the machine's by default.
        ram: How much RAM jobs share, in GiB; the machine's by default.
        forget_after: Seconds after its end at which a job is forgotten, its log with it.
        token: The bearer token to ask for; a random one by default.
        port: The port to listen on; any free one by default.
        user: Whom the token stands for.
        gpus: How many GPUs to pretend to have; without any, requests for them are ignored as on a platform without.
        images: What the platform lists.
        strict_images: Whether images that are not listed need credentials for the registry.
        max_interactive: How many sessions of other types than headless may be open.
        termination_grace: Seconds between SIGTERM and SIGKILL when a job is stopped.
        enforce_ram: Whether a job that exceeds its RAM is killed.
        oom: What is killed then: the biggest ``process``, or the ``group`` of all, as newer Kubernetes does.
        ram_scale: What each GiB of a job's limit counts; 0.05 lets a test exceed 1 GiB with 52 MiB.
        directory: Where home, logs and accounts are kept; a temporary one, removed at the end, by default.
        faults: Faults to begin with.

    ```python
    with cb.LocalPlatform(cores=4, ram=16) as platform:
        with cb.Session.connect(platform.url, token=platform.token) as session:
            session.launch("sleep 0.1", image="skaha/astroml:latest", cores=1, ram=1).wait()
    ```
    """

    def __init__(
        self,
        cores: float | None = None,
        ram: float | None = None,
        forget_after: float = 3600.0,
        *,
        token: str | None = None,
        port: int = 0,
        user: str = "local",
        gpus: int = 0,
        images: Sequence[Image] = IMAGES,
        strict_images: bool = False,
        max_interactive: int = 3,
        termination_grace: float = 30.0,
        enforce_ram: bool = True,
        oom: str = "process",
        ram_scale: float = 1.0,
        directory: str | os.PathLike[str] | None = None,
        faults: Iterable[Fault] = (),
    ) -> None:
        if oom not in {"process", "group"}:
            raise ValueError(f"oom={oom!r} is neither 'process' nor 'group'")
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", user):
            raise ValueError(f"user={user!r} is not usable as a label in Kubernetes")
        self.token = secrets.token_urlsafe(24) if token is None else token
        self.user = user
        self.faults = Faults()
        self.requests = Requests()
        for fault in faults:
            self.faults.add(fault)
        self._port = port
        self._directory = None if directory is None else Path(directory).resolve()
        self._oom = oom if enforce_ram else "off"
        self._cores = _machine_cores() if cores is None else float(cores)
        self._ram = _machine_ram() if ram is None else float(ram)
        self._forget_after = forget_after
        self._termination_grace = termination_grace
        self._ram_scale = ram_scale
        self._settings = functools.partial(
            Settings,
            user=user,
            token=self.token,
            gpus=gpus,
            images=tuple(images),
            strict_images=strict_images,
            max_interactive=max_interactive,
        )
        self._lock = threading.Lock()
        self._started: _Started | None = None

    def __repr__(self) -> str:
        where = "stopped" if self._started is None else self.url
        return f"<LocalPlatform {where} cores={self._cores:g} ram={self._ram:.3g} GiB>"

    def __enter__(self) -> LocalPlatform:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def start(self) -> LocalPlatform:
        """Listen, and run what is asked for. Starting what is started changes nothing."""
        with self._lock:
            if self._started is None:
                self._started = self._start()
        return self

    def stop(self) -> None:
        """End every job and the service. Jobs get two seconds at most to heed SIGTERM."""
        with self._lock:
            started, self._started = self._started, None
        if started is not None:
            started.service.stopping.set()
            started.server.stop()
            started.cluster.stop()
            if started.temporary:
                shutil.rmtree(started.directory, ignore_errors=True)

    close = stop

    @property
    def url(self) -> str:
        """Where clients find the service, the version included."""
        return f"http://{LOOPBACK}:{self._running.server.port}{ROOT}/{VERSION}"

    @property
    def directory(self) -> Path:
        """Where home, logs and accounts are."""
        return self._running.directory

    @property
    def home(self) -> Path:
        """The home directory of the user, where every job begins."""
        return self._running.cluster.home

    # For tests: what no client can see or do

    @property
    def starts(self) -> collections.Counter[str]:
        """How often a job's process was started, by the job's name."""
        return collections.Counter(self._running.cluster.starts)

    def jobs(self) -> list[ContainerInfo]:
        """A snapshot of every container that is known."""
        return [container.info() for container in self._running.cluster.all()]

    def job(self, id_: str) -> ContainerInfo:
        """A snapshot of one container.

        Raises:
            LookupError: There is none of that id, or no more.
        """
        container = self._running.cluster.get(id_)
        if container is None:
            raise LookupError(f"no container {id_!r}")
        return container.info()

    def preempt(self, id_: str) -> None:
        """Stop a running job and queue it again: it starts from the beginning under the same id.

        Raises:
            LookupError: There is none of that id.
            ValueError: It is not running.
        """
        self._running.cluster.preempt(id_)

    def evict(self, id_: str) -> None:
        """Kill a running job, as a node in need does; it ends as Failed. Raises as :meth:`preempt` does."""
        self._running.cluster.evict(id_)

    def forget(self, id_: str) -> None:
        """Forget a job at once, as if it had ended long ago; if it runs, it is killed.

        Raises:
            LookupError: There is none of that id.
        """
        self._running.cluster.forget(id_)

    def hold(self) -> None:
        """Start no job until :meth:`release`; what is created meanwhile is Pending."""
        self._running.cluster.hold()

    def release(self) -> None:
        """Start jobs again."""
        self._running.cluster.release()

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until no job is queued or runs; False if that takes longer than *timeout* seconds."""
        return self._running.cluster.wait_idle(timeout)

    @property
    def _running(self) -> _Started:
        started = self._started
        if started is None:
            raise RuntimeError("this platform is not running; call start(), or use it in a `with` statement")
        return started

    def _start(self) -> _Started:
        server = HttpServer(self._port)
        try:
            temporary = self._directory is None
            directory = Path(tempfile.mkdtemp(prefix="canfar-batch-")) if self._directory is None else self._directory
            cluster = Cluster(
                directory,
                user=self.user,
                hostname=f"{LOOPBACK}:{server.port}",
                cores=self._cores,
                ram=self._ram,
                forget_after=self._forget_after,
                termination_grace=self._termination_grace,
                oom=self._oom,
                ram_scale=self._ram_scale,
                temporary=temporary,
            )
        except BaseException:
            server.stop()
            raise
        service = Service(self._settings(hostname=f"{LOOPBACK}:{server.port}"), cluster, self.faults, self.requests)
        cluster.start()
        server.start(service)
        return _Started(server, service, cluster, directory, temporary)


@dataclasses.dataclass(frozen=True)
class _Started:
    """The parts of a platform that runs."""

    server: HttpServer
    service: Service
    cluster: Cluster
    directory: Path
    temporary: bool


def _machine_cores() -> float:
    if hasattr(os, "sched_getaffinity"):
        return float(len(os.sched_getaffinity(0)))  # a share of the machine, where one was given to us
    return float(os.cpu_count() or 1)


def _machine_ram() -> float:
    """GiB."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
