"""The science platform on this machine: the same API on a loopback port, jobs as processes.

    with LocalPlatform(cores=4, ram=16) as platform:
        print(platform.url, platform.token)

What works here is meant to work on CANFAR: requests are read, refused and garbled as by the real service. Faults of the
service can be injected (`canfar_batch.local.faults`), situations of the cluster can be played
(`canfar_batch.local.situations`), and every request is on record.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import os
import re
import secrets
import shutil
import ssl
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import attrs

from canfar_batch.local.cluster import Cluster, ClusterSettings
from canfar_batch.local.containers import DEADLINE, GIB, ContainerInfo
from canfar_batch.local.creation import LIMIT_RANGE, Limits
from canfar_batch.local.faults import Fault, Faults, Recorded, Requests, from_text
from canfar_batch.local.http_server import LOOPBACK, HttpServer
from canfar_batch.local.production import PENDING_AT_END, PULL, Production, Visitors
from canfar_batch.local.registry import IMAGES, Image, Strictness
from canfar_batch.local.routes import ROOT, STORAGE, VERSION
from canfar_batch.local.service import Service, ServiceSettings
from canfar_batch.local.situations import Situations
from canfar_batch.local.vospace import StorageSettings
from canfar_batch.local.vospace.hazards import CAVERN

__all__ = [
    "IMAGES",
    "LIMIT_RANGE",
    "ContainerInfo",
    "Fault",
    "Faults",
    "Image",
    "Limits",
    "LocalPlatform",
    "Production",
    "Recorded",
    "Requests",
    "Situations",
]


class LocalPlatform:
    """A science platform on this machine. Use it as a context manager, or call `start` and `stop`.

    Args:
        cores: The cores that jobs share; the machine's by default.
        ram: The RAM that jobs share, in GiB; the machine's by default.
        forget_after: Seconds after its end at which a job is forgotten, with its log.
        token: The bearer token to ask for; a random one by default.
        port: The port to listen on; any free one by default.
        user: The user of the token.
        others: Further users, with their tokens.
        gpus: The number of GPUs to pretend to have; without any, valid requests for them have no effect.
        images: The images that the platform lists.
        strict_images: Whether images that are not listed need credentials for the registry, as on CANFAR. False accepts
            every image; "typos" refuses only images whose name resembles a listed one.
        limits: The limits on one job; `LIMIT_RANGE` has those of a cluster with a LimitRange, and its traps.
        max_interactive: The number of sessions of other types than headless that may be open.
        termination_grace: Seconds between SIGTERM and SIGKILL when a job is stopped.
        deadline: Seconds after which a run is ended; 14 days on CANFAR.
        pull: Seconds for which an admitted job stays Pending, as during the pull of its image; by default 0.05.
        pending_at_end: Seconds for which a job is Pending between its end and its final status; by default 0, and about
            1 on CANFAR.
        strict_quota: Whether a job larger than the platform waits for ever and smaller ones pass it, as with CANFAR's
            queue. Otherwise jobs start strictly in order, and one that is too large runs alone.
        production: Whether it does by itself what CANFAR's cluster does: a strict quota, the limits of a LimitRange,
            the time of a pull and of an end, and interactive sessions that take the place of running jobs now and then.
            A `Production` gives its habits and its seed.
        metrics_delay: Seconds that a job runs before its use of cores and RAM is shown; None never shows the use.
        stats: Whether the view of the cluster's use is there; the real service answers 503 unless it is set up.
        enforce_ram: Whether a job that exceeds its RAM is killed.
        oom: The victim: the biggest ``process``, or the ``group`` of all processes, as in newer Kubernetes.
        ram_scale: A factor on each job's limit in RAM; with 0.05 a test exceeds 1 GiB with 52 MiB.
        directory: The place for home, logs and accounts; a temporary one, removed at the end, by default.
        faults: Faults to begin with, also as text that `faults.from_text` takes; `faults.bad_day(seed)` has many.
        arc: The directory that stands for `/arc`, which the storage service serves; by default `arc` in *directory*.
        storage_quota: Bytes that each home directory may hold.
        storage_faults: The faults of the real storage service to play (`canfar_batch.local.faults`): all that the
            real one showed by default, as what works here is meant to work there.
        tls: A PEM file with a certificate for `localhost` and its key: then all is served over HTTPS too, on a port of
            its own, as other clients of the storage need it.

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
        others: Mapping[str, str] | None = None,
        gpus: int = 0,
        images: Sequence[Image] = IMAGES,
        strict_images: Strictness = True,
        limits: Limits | None = None,
        max_interactive: int = 5,
        termination_grace: float = 30.0,
        deadline: float = DEADLINE,
        pull: float | None = None,
        pending_at_end: float | None = None,
        strict_quota: bool = False,
        production: bool | Production = False,
        metrics_delay: float | None = 60.0,
        stats: bool = False,
        enforce_ram: bool = True,
        oom: str = "process",
        ram_scale: float = 1.0,
        directory: str | os.PathLike[str] | None = None,
        faults: Iterable[Fault | str] = (),
        arc: str | os.PathLike[str] | None = None,
        storage_quota: int | None = None,
        storage_faults: Iterable[str] = CAVERN,
        tls: str | os.PathLike[str] | None = None,
    ) -> None:
        if oom not in {"process", "group"}:
            raise ValueError(f"oom={oom!r} is neither 'process' nor 'group'")
        for name in (user, *(others or {})):
            if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", name):
                raise ValueError(f"user={name!r} is not usable as a label in Kubernetes")
        if strict_images not in {True, False, "typos"}:
            raise ValueError(f"strict_images={strict_images!r} is not True, False or 'typos'")
        habits = Production() if production is True else production or None
        self._habits = habits
        usual_pull, usual_end = (0.05, 0.0) if habits is None else (PULL, PENDING_AT_END)
        if limits is None and habits is not None:
            limits = LIMIT_RANGE
        self.token = secrets.token_urlsafe(24) if token is None else token
        self.user = user
        self.faults = Faults()
        self.requests = Requests()
        for fault in faults:
            self.faults.add(from_text(fault) if isinstance(fault, str) else fault)
        self._port = port
        self._directory = None if directory is None else Path(directory).resolve()
        self._arc = None if arc is None else Path(arc).resolve()
        self._tls = None if tls is None else _tls_context(Path(tls))
        self._storage_settings = functools.partial(
            StorageSettings, user=user, quota=storage_quota, hazards=frozenset(storage_faults)
        )
        self._cluster_settings = functools.partial(
            ClusterSettings,
            user=user,
            cores=_machine_cores() if cores is None else float(cores),
            ram=_machine_ram() if ram is None else float(ram),
            forget_after=forget_after,
            termination_grace=termination_grace,
            pull=usual_pull if pull is None else pull,
            pending_at_end=usual_end if pending_at_end is None else pending_at_end,
            deadline=deadline,
            oom=oom if enforce_ram else "off",
            ram_scale=ram_scale,
            is_quota_strict=strict_quota or habits is not None,
            is_temporary=directory is None,
        )
        self._service_settings = functools.partial(
            ServiceSettings,
            users={self.token: user, **{token: name for name, token in (others or {}).items()}},
            limits=Limits() if limits is None else limits,
            has_gpus=gpus > 0,
            images=tuple(images),
            strict_images=strict_images,
            max_interactive=max_interactive,
            metrics_delay=metrics_delay,
            has_stats=stats,
        )
        self._lock = threading.Lock()
        self._started: _Started | None = None

    def __repr__(self) -> str:
        where = "stopped" if self._started is None else self.url
        size = self._cluster_settings.keywords
        return f"<LocalPlatform {where} cores={size['cores']:g} ram={size['ram']:.3g} GiB>"

    def __enter__(self) -> LocalPlatform:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def start(self) -> LocalPlatform:
        """Listen, and run jobs. Starting a running platform changes nothing."""
        with self._lock:
            if self._started is None:
                self._started = self._start()
        return self

    def stop(self) -> None:
        """End every job and the service. Jobs get at most two seconds to react to SIGTERM."""
        with self._lock:
            started, self._started = self._started, None
        if started is not None:
            started.service.stopping.set()
            for server in started.servers:
                server.stop()
            started.cluster.stop()
            if started.is_temporary:
                shutil.rmtree(started.directory, ignore_errors=True)

    close = stop

    @property
    def url(self) -> str:
        """The address of the service, with its version."""
        return f"http://{LOOPBACK}:{self._running.server.port}{ROOT}/{VERSION}"

    @property
    def storage_url(self) -> str:
        """The address of the storage service."""
        return f"http://{LOOPBACK}:{self._running.server.port}{STORAGE}"

    @property
    def https(self) -> str:
        """The host and port that answer over HTTPS, as `localhost:8443`.

        Raises:
            ValueError: The platform has no certificate.
        """
        servers = self._running.servers
        if len(servers) < 2:
            raise ValueError("this platform has no certificate: give it one with tls=")
        return f"localhost:{servers[1].port}"

    @property
    def arc(self) -> Path:
        """The directory that stands for `/arc`."""
        return self._running.arc

    @property
    def directory(self) -> Path:
        """The directory of home, logs and accounts."""
        return self._running.directory

    @property
    def home(self) -> Path:
        """The home directory of the user, where every job begins."""
        return self._running.cluster.home

    # For tests: beyond the API

    @property
    def situations(self) -> Situations:
        """Situations of a real cluster, to be played on jobs."""
        return self._running.situations

    @property
    def starts(self) -> collections.Counter[str]:
        """The number of process starts, by the job's name."""
        return collections.Counter(self._running.cluster.starts)

    def jobs(self) -> list[ContainerInfo]:
        """Return a snapshot of every container that is known."""
        return [container.info() for container in self._running.cluster.all()]

    def job(self, id: str) -> ContainerInfo:
        """Return a snapshot of one container.

        Raises:
            LookupError: There is none of that id, or none any more.
        """
        container = self._running.cluster.get(id)
        if container is None:
            raise LookupError(f"no container {id!r}")
        return container.info()

    def preempt(self, id: str) -> None:
        """Stop a running job and queue it again: it starts from the beginning under the same id.

        Raises:
            LookupError: There is none of that id.
            ValueError: It is not running.
        """
        self.situations.preempt(id)

    def evict(self, id: str) -> None:
        """Kill a running job, as a node without memory does; it ends as Failed. Raises as `preempt` does."""
        self.situations.evict(id)

    def forget(self, id: str) -> None:
        """Forget a job at once, as if it had ended long ago; if it runs, it is killed.

        Raises:
            LookupError: There is none of that id.
        """
        self._running.cluster.forget(id)

    def hold(self) -> None:
        """Start no job until `release`; jobs that are created meanwhile are Pending."""
        self._running.cluster.hold()

    def release(self) -> None:
        """Start jobs again."""
        self._running.cluster.release()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Start no job during the `with` block."""
        self.hold()
        try:
            yield
        finally:
            self.release()

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until no job is queued or runs; return False if that takes longer than *timeout* seconds."""
        return self._running.cluster.wait_idle(timeout)

    @property
    def _running(self) -> _Started:
        started = self._started
        if started is None:
            raise RuntimeError("this platform is not running; call start(), or use it in a `with` statement")
        return started

    def _start(self) -> _Started:
        server = HttpServer(self._port)
        hostname = f"{LOOPBACK}:{server.port}"
        try:
            is_temporary = self._directory is None
            directory = Path(tempfile.mkdtemp(prefix="canfar-batch-")) if self._directory is None else self._directory
            arc = self._arc or directory / STORAGE[1:]
            storage = self._storage_settings(root=arc, users=self._service_settings.keywords["users"])
            cluster = Cluster(directory, self._cluster_settings(hostname=hostname, arc=arc))
            settings = self._service_settings(hostname=hostname, storage=storage)
            service = Service(settings, cluster, self.faults, self.requests)
            servers = [server] if self._tls is None else [server, HttpServer(tls=self._tls)]
        except BaseException:
            server.stop()
            raise
        cluster.start()
        for each in servers:
            each.start(service, service)
        if self._habits is not None:
            visitors = Visitors(cluster, self._habits)
            cluster.admission_delay = visitors.admission_delay
            visitors.start()
        return _Started(tuple(servers), service, cluster, Situations(cluster), directory, arc, is_temporary)


@attrs.frozen
class _Started:
    """The parts of a platform that runs."""

    servers: tuple[HttpServer, ...]  #: the second one answers over HTTPS
    service: Service
    cluster: Cluster
    situations: Situations
    directory: Path
    arc: Path
    is_temporary: bool

    @property
    def server(self) -> HttpServer:
        """The server that answers over plain HTTP."""
        return self.servers[0]


def _tls_context(pem: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


def _machine_cores() -> float:
    if hasattr(os, "sched_getaffinity"):
        return float(len(os.sched_getaffinity(0)))  # this process may have only a share of the machine
    return float(os.cpu_count() or 1)


def _machine_ram() -> float:
    """Return the machine's RAM in GiB."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
