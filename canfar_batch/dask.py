"""Dask on the platform: a cluster whose workers are headless jobs. It needs the extra `dask`.

The scheduler runs in this process, so its dashboard, futures and `client.get_executor()` are Dask's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import sys
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from distributed import Scheduler, Security
from distributed.core import Status
from distributed.deploy.spec import ProcessInterface, SpecCluster
from tornado.ioloop import PeriodicCallback

from canfar_batch.errors import CanfarBatchError, PlatformError, SpecError
from canfar_batch.job import Job
from canfar_batch.payload.calls import python_programs, python_words
from canfar_batch.records import ContainerInfo
from canfar_batch.session import Session
from canfar_batch.spec import JobSpec

__all__ = ["CanfarCluster", "SchedulerUnreachable"]

log = logging.getLogger("canfar_batch")

DEATH_TIMEOUT = 60  #: seconds after which a worker that finds no scheduler ends
_MOST_FUTILE = 3  #: workers in a row that ended before they joined, after which no more are launched

#: tells the versions in the image, and whether the scheduler's port can be reached
_PROBE = """\
import socket, sys
host, port = sys.argv[1], int(sys.argv[2])
print("canfar_batch: python %d.%d" % sys.version_info[:2])
try:
    import distributed
    print("canfar_batch: distributed " + distributed.__version__)
except ImportError as error:
    print("canfar_batch: distributed none")
try:
    socket.create_connection((host, port), 15).close()
    print("canfar_batch: reached")
except OSError as error:
    print("canfar_batch: unreached %s" % error)
"""


class SchedulerUnreachable(PlatformError, ConnectionError):
    """Containers cannot reach the scheduler in this process; the message names its address, and what to do."""


class CanfarCluster(SpecCluster):  # type: ignore[misc] # distributed has no types
    """A Dask cluster whose workers are headless jobs of a session.

    ```python
    from dask.distributed import Client
    from canfar_batch.dask import CanfarCluster

    with CanfarCluster(session, image="skaha/astroml:latest", cores=4, ram=16, workers=20) as cluster:
        with Client(cluster) as client:
            print(client.submit(sum, [1, 2, 3]).result())
    ```

    Before the first worker, one short job tries whether containers reach the scheduler. A worker that is lost is
    replaced by a new job. All workers are cancelled when the cluster is closed and when this process exits; if the
    process is killed, they end by themselves within `DEATH_TIMEOUT` (60 s).

    Args:
        session: The session that launches the workers; close the cluster before it.
        image: The container image: with Python of this version, and `distributed`.
        workers: The number of workers; `scale` and `adapt` change it.
        cores: Whole cores of each worker, and its number of threads.
        ram: Whole GiB of each worker; None leaves it to the platform.
        name: The cluster's name. Workers that an earlier cluster of this name left behind are cancelled. By default a
            new name.
        host: The address of this machine that containers can reach; by default the one that Dask finds.
        port: The scheduler's port; 0 takes a free one.
        security: A `distributed.Security`; by default a new temporary one, so that all traffic is encrypted; False for
            none.
        python: The program that runs the workers, by its path in the image; by default `python3.N` of this version,
            `python3` or `python`, whichever comes first.
        dashboard_address: Where the dashboard listens, such as `":8787"`; by default a free port.
        asynchronous: Whether it is used with `async with`.
        spec_fields: Other arguments of `JobSpec`, such as `env` and `gpus`.

    Raises:
        SchedulerUnreachable: Containers cannot reach the scheduler.
        SpecError: An argument makes no sense, or the image lacks Python of this version, or `distributed`.
        PlatformError: The platform refused the first job.
    """

    def __init__(
        self,
        session: Session,
        *,
        image: str,
        workers: int = 0,
        cores: int = 1,
        ram: int | None = None,
        name: str | None = None,
        host: str | None = None,
        port: int = 0,
        security: Security | bool | None = None,
        python: str | None = None,
        dashboard_address: str = ":0",
        asynchronous: bool = False,
        **spec_fields: Any,
    ) -> None:
        self._session = session
        self._label = name or uuid.uuid4().hex[:8]
        if not re.fullmatch(r"[a-z0-9]{1,20}", self._label):
            raise SpecError(f"name={name!r} cannot name a cluster: use up to 20 lower-case letters and digits")
        self._python = python_programs(python)
        self._base = JobSpec(["true"], image=image, cores=cores, ram=ram, **spec_fields)
        secure = _security(security)
        self._futile = 0
        self._watch: PeriodicCallback | None = None
        host = host or ("127.0.0.1" if session.nearby else None)
        scheduler = {
            "cls": Scheduler,
            "options": {
                "protocol": "tls://" if secure.require_encryption else "tcp://",
                "host": host,
                "port": port,
                "security": secure,
                "dashboard_address": dashboard_address,
            },
        }
        worker = {
            "cls": WorkerJob,
            "options": {"cluster": self, "nthreads": cores, "memory_limit": f"{ram} GiB" if ram else "0"},
        }
        super().__init__(
            scheduler=scheduler, worker=worker, security=secure, asynchronous=asynchronous,
            name=f"dask-{self._label}", workers=dict.fromkeys(range(workers), worker),
        )  # fmt: skip

    # -- starting and closing -----------------------------------------------------------------------------------------

    async def _start(self) -> None:
        if self.status in (Status.running, Status.starting):
            return
        await super()._start()
        try:
            await self._cancel_left()
            await asyncio.to_thread(self._probe)
        except BaseException:
            self.worker_spec.clear()
            await self._close()
            raise
        self._watch = PeriodicCallback(self._replace_lost, 1000 if self._session.nearby else 10_000)
        self._watch.start()

    async def _close(self) -> None:
        if self.status == Status.closed:
            return
        if self._watch is not None:
            self._watch.stop()
        await super()._close()
        await self._cancel_left()

    async def _cancel_left(self) -> None:
        """Cancel the workers of this name that are still there: of an earlier process, or of a launch in doubt."""
        try:
            for info in await asyncio.to_thread(self._session.platform.containers):
                if info.name.startswith(f"{self._prefix}-") and not info.phase.final:
                    await asyncio.to_thread(self._session.platform.cancel, info.id)
        except PlatformError as error:
            log.warning("workers that may be left of cluster %s were not looked for: %s", self._label, error)

    @property
    def reached_at(self) -> str:
        """The address at which containers are to reach the scheduler: `tls://HOST:PORT`."""
        return str(self.scheduler.address)

    @property
    def _prefix(self) -> str:
        return f"dask-{self._label}"

    def _job(self, what: str, arguments: Sequence[str], env: Mapping[str, str]) -> Job:
        """Launch a job that runs Python with these arguments."""
        command = python_words(self._python, arguments)
        values = {**self._base.to_json(), "cmd": command, "name": f"{self._prefix}-{what}"}
        return self._session.launch(JobSpec(**{**values, "env": {**self._base.env, **env}}))

    def _probe(self) -> None:
        """Try, by one job, whether a container reaches the scheduler and can run a worker."""
        address = self.reached_at
        host, _, port = address.partition("://")[2].rpartition(":")
        job = self._job("probe", ["-c", _PROBE, host, port], {})
        try:
            job.wait(timeout=900, poll=2)
            said = dict(re.findall(r"^canfar_batch: (\w+) ?(.*)$", job.logs(), re.MULTILINE))
        finally:
            if not job.done:
                job.cancel()
        here = "{}.{}".format(*sys.version_info)
        if not said:
            raise SpecError(f"image {self._base.image} cannot run a Dask worker: {job.explain()}")
        if said.get("python") != here or said.get("distributed") == "none":
            has = "no distributed" if said.get("distributed") == "none" else f"Python {said.get('python')}"
            raise SpecError(
                f"image {self._base.image} has {has}: a worker needs the package distributed, and Python {here} as "
                "here. Choose another image, or start the cluster from a notebook of the same image"
            )
        if "reached" not in said:
            raise SchedulerUnreachable(
                f"a container cannot reach the scheduler at {address} (host {host}, port {port}): "
                f"{said.get('unreached', 'no answer')}. Start the cluster where containers can reach it, such as a "
                "notebook on the platform, or name an address of this machine that they can reach with host=, and a "
                "port that is open with port=. Bundles and functions (session.map) need no such connection"
            )

    # -- lost workers -------------------------------------------------------------------------------------------------

    async def _replace_lost(self) -> None:
        """Replace the workers whose job ended though they are still wanted."""
        if self.status != Status.running:
            return
        joined = {info["name"] for info in self.scheduler_info["workers"].values()}
        try:
            listed = {info.id: info for info in await asyncio.to_thread(self._session.platform.containers)}
            for name, worker in list(self.workers.items()):
                if name in joined:
                    worker.has_joined, self._futile = True, 0
                elif worker.is_lost(listed):
                    await self._forget(name, worker)
            if self.status == Status.running and set(self.worker_spec) - set(self.workers):
                await self._correct_state()
        except CanfarBatchError as error:
            log.warning("cluster %s: %s", self._label, error)  # the next look tries again

    async def _forget(self, name: object, worker: WorkerJob) -> None:
        await worker.close()
        self.workers.pop(name, None)
        self._futile += not worker.has_joined
        if self._futile >= _MOST_FUTILE:
            self.worker_spec.pop(name, None)
            why = await asyncio.to_thread(worker.explain)
            log.error("cluster %s launches no more workers, since %d ended before they joined: %s",
                      self._label, self._futile, why)  # fmt: skip


class WorkerJob(ProcessInterface):  # type: ignore[misc] # distributed has no types
    """One worker: a job that runs `dask worker`."""

    def __init__(
        self, scheduler: str, *, name: object, cluster: CanfarCluster, nthreads: int, memory_limit: str
    ) -> None:
        super().__init__(scheduler=scheduler, name=name)
        self._scheduler, self.name, self._canfar = scheduler, name, cluster
        self._nthreads, self._memory = nthreads, memory_limit
        self._missed = 0
        self.job: Job | None = None
        self.has_joined = False

    async def start(self) -> None:
        """Launch the job."""
        arguments = [
            "-m", "distributed.cli.dask_worker", self._scheduler, "--name", str(self.name), "--nthreads",
            str(self._nthreads), "--memory-limit", self._memory, "--no-nanny", "--no-dashboard", "--death-timeout",
            str(DEATH_TIMEOUT),
        ]  # fmt: skip
        try:
            launch = self._canfar._job
            self.job = await asyncio.to_thread(launch, str(self.name), arguments, _environment(self._canfar.security))
        except BaseException:
            self.status = Status.failed
            raise
        await super().start()

    async def close(self) -> None:
        """Cancel the job."""
        if self.job is not None and self.job.id is not None and self.status != Status.closed:
            self.status = Status.closing
            try:
                await asyncio.to_thread(self._canfar._session.platform.cancel, self.job.id)
            except CanfarBatchError as error:
                log.warning("worker %s may still run: %s", self.name, error)
        await super().close()

    def is_lost(self, listed: Mapping[str, ContainerInfo]) -> bool:
        """Return whether the job has ended, or was absent from two lists."""
        if self.job is None or self.job.id is None:
            return bool(self.status == Status.failed)
        info = listed.get(self.job.id)
        self._missed = 0 if info is not None else self._missed + 1
        return bool(info.phase.final if info is not None else self._missed >= 2)

    def explain(self) -> str:
        """Return what became of the job."""
        if self.job is None:
            return "its job could not be launched"
        with contextlib.suppress(CanfarBatchError):
            self.job.refresh()
        return self.job.explain()


def _security(given: Security | bool | None) -> Security:
    if given is None or given is True:
        return Security.temporary()
    return Security() if given is False else given


def _environment(security: Security) -> dict[str, str]:
    """Return the variables by which a worker gets its key and certificate: not among its arguments."""
    tls = security.get_tls_config_for_role("worker")
    names = {"ca_file": "CA_FILE", "cert": "WORKER__CERT", "key": "WORKER__KEY"}
    env = {f"DASK_DISTRIBUTED__COMM__TLS__{name}": tls[part] for part, name in names.items() if tls.get(part)}
    if security.require_encryption:
        env["DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION"] = "True"
    return env
