"""The cluster: a queue of containers, and the life of each from its start to its end."""

from __future__ import annotations

import collections
import contextlib
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from canfar_batch.local import processes
from canfar_batch.local.cgroups import Account, Cgroup, Sampler
from canfar_batch.local.containers import COMPLETED, FAILED, GIB, PENDING, RUNNING, Container, Order, now
from canfar_batch.local.processes import JobProcess, Reaper
from canfar_batch.local.templating import expand

CGROUP_VARIABLE = "CANFAR_BATCH_CGROUP"
_STOP_GRACE = 2.0  #: seconds at most between SIGTERM and SIGKILL when the whole platform stops


class Cluster:
    """Runs containers as processes, first come first served, as far as cores and RAM go.

    Args:
        directory: Where homes, logs and accounts are kept.
        cores: How many cores there are to give.
        ram: How much RAM there is to give, in GiB.
        forget_after: Seconds after its end at which a container is forgotten.
        termination_grace: Seconds between SIGTERM and SIGKILL.
        oom: What is killed when a container exceeds its RAM: ``process``, ``group``, or nothing (``off``).
        ram_scale: What a GiB of a container's limit counts, so that tests need not fill memory to exceed it.
        temporary: Whether the directory goes when the cluster does, even if this process is killed.
    """

    def __init__(
        self,
        directory: Path,
        *,
        user: str,
        hostname: str,
        cores: float,
        ram: float,
        forget_after: float,
        termination_grace: float,
        oom: str,
        ram_scale: float,
        temporary: bool,
    ) -> None:
        self.cores, self.ram = cores, ram
        self.starts: collections.Counter[str] = collections.Counter()  #: process starts by the container's name
        self._directory = directory
        self._user, self._hostname = user, hostname
        self._forget_after, self._grace = forget_after, termination_grace
        self._oom, self._ram_scale = oom, ram_scale
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)
        self._containers: dict[str, Container] = {}
        self._queue: collections.deque[Container] = collections.deque()
        self._active: dict[Container, threading.Thread] = {}
        self._finished: collections.deque[tuple[float, Container]] = collections.deque()
        self._next_forgotten = math.inf
        self._held = self._stopped = False
        self._mark = f"{CGROUP_VARIABLE}={directory / 'cgroups'}{os.sep}"
        for name in ("home", "logs", "cgroups"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        self.home.mkdir(exist_ok=True)
        self._sampler = Sampler(self._mark.encode(), self._kill_overdue)
        self._reaper = Reaper(self._mark, directory if temporary else None)

    @property
    def home(self) -> Path:
        """The home directory of the user, where every container begins."""
        return self._directory / "home" / self._user

    def start(self) -> None:
        """Begin to run what is queued."""
        self._sampler.start()

    def stop(self) -> None:
        """End every container and wait until nothing of them is left."""
        with self._lock:
            self._stopped = True
            self._queue.clear()
            for container in self._active:
                self._terminate(container, min(self._grace, _STOP_GRACE))
            threads = list(self._active.values())
        for thread in threads:
            thread.join()
        self._sampler.stop()
        self._reaper.stop()

    # What the service asks for

    def create(self, order: Order, job: str) -> Container:
        """Queue a new container."""
        container = Container(order, job, self._user)
        with self._lock:
            self._containers[container.id] = container
            if order.type == "headless":
                self._queue.append(container)
                self._admit()
            else:
                container.pod, container.status, container.started = True, RUNNING, now()
                _report_pod(container)
                container.report("Started", f"Started container {job}")
        return container

    def get(self, id_: str) -> Container | None:
        """The container of that id, unless it is unknown, deleted or forgotten."""
        self._forget_old()
        return self._containers.get(id_)

    def all(self) -> list[Container]:
        """Every container that is known, in the order of their Jobs' names."""
        self._forget_old()
        with self._lock:
            return sorted(self._containers.values(), key=lambda container: container.job)

    def delete(self, id_: str) -> None:
        """Forget a container at once, and stop it in the background."""
        with self._lock:
            container = self._containers.pop(id_, None)
            if container is None:
                return
            container.deleted = True
            with contextlib.suppress(ValueError):
                self._queue.remove(container)
            if container in self._active:
                self._terminate(container, self._grace)
            else:
                self._clean(container)

    # What tests ask for

    def preempt(self, id_: str) -> None:
        """Stop a running container and queue it again, to start from the beginning under the same id."""
        with self._running(id_) as container:
            container.preempted = True
            self._terminate(container, self._grace)

    def evict(self, id_: str) -> None:
        """Kill a running container, as a node in need does."""
        with self._running(id_) as container:
            container.report("Evicted", "The node was low on resource: memory.", type_="Warning")
            self._terminate(container, 0)

    def forget(self, id_: str) -> None:
        """Forget a container, as if it had ended long ago; what still runs is killed."""
        with self._lock:
            if id_ not in self._containers:
                raise LookupError(f"no container {id_!r}")
            self.delete(id_)
            for container in self._active:
                if container.id == id_:
                    self._terminate(container, 0)

    def hold(self) -> None:
        """Start nothing until :meth:`release`."""
        with self._lock:
            self._held = True

    def release(self) -> None:
        """Start what is queued again."""
        with self._lock:
            self._held = False
            self._admit()

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until nothing is queued and nothing runs; whether that came true."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._queue and not self._active, timeout)

    # The queue

    def _admit(self) -> None:
        """Start containers from the head of the queue while they fit. One that never fits runs alone."""
        while self._queue and not self._held and not self._stopped:
            container = self._queue[0]
            if self._active and not self._fits(container):
                return
            self._queue.popleft()
            container.pod, container.started, container.preempted = True, now(), False
            container.exit_code = None
            container.runs += 1
            container.changes += 1
            container.events.clear()
            _report_pod(container)
            thread = threading.Thread(target=self._run, args=(container,), name=f"local-platform-{container.id}")
            thread.daemon = True
            self._active[container] = thread
            thread.start()

    def _fits(self, container: Container) -> bool:
        asked = [other.order.resources for other in (container, *self._active)]
        cores, ram = sum(one.cores for one in asked), sum(one.ram for one in asked)
        return cores <= self.cores + 1e-9 and ram <= self.ram + 1e-9  # sums of fractions are not exact

    def _release(self, container: Container) -> None:
        del self._active[container]
        if container.preempted and not container.deleted and not self._stopped:
            container.status, container.pod, container.started = PENDING, False, None
            container.events.clear()
            self._queue.append(container)
        elif container.deleted:
            self._clean(container)
        else:
            self._finished.append((time.monotonic() + self._forget_after, container))
            self._next_forgotten = self._finished[0][0]
        container.changes += 1
        self._admit()
        self._idle.notify_all()

    def _forget_old(self) -> None:
        # read without the lock, which thousands of looks per second would fight for
        if time.monotonic() < self._next_forgotten:
            return
        with self._lock:
            while self._finished and self._finished[0][0] <= time.monotonic():
                _, container = self._finished.popleft()
                if self._containers.pop(container.id, None) is not None:
                    self._clean(container)
            self._next_forgotten = self._finished[0][0] if self._finished else math.inf

    def _clean(self, container: Container) -> None:
        for run in range(1, container.runs + 1):
            self._log(container, run).unlink(missing_ok=True)
            shutil.rmtree(self._accounts(container, run), ignore_errors=True)

    # One container's life

    def _run(self, container: Container) -> None:
        """Run a container's process from its start to its end; each has a thread for that."""
        code: int | None = None
        try:
            code = self._run_process(container)
        finally:
            with self._lock:
                container.pid = None
                container.exit_code = code
                container.status = COMPLETED if code == 0 else FAILED
                container.kill_at = None
                self._release(container)

    def _run_process(self, container: Container) -> int | None:
        """The exit code of the main process; None if it could not be started."""
        accounts = self._accounts(container, container.runs)
        limits = container.order.resources
        memory_max = int(limits.ram_limit * self._ram_scale * GIB)
        cgroup = Cgroup(accounts, memory_max=memory_max, cores_max=limits.cores_limit)
        mark = os.fsencode(accounts.name)
        self._sampler.expect(mark)
        try:
            process = self._start_process(container, accounts)
        except processes.StartError as problem:
            self._sampler.end(mark)
            with self._lock:
                container.report("Failed", str(problem), type_="Warning")
            return None
        self._reaper.begins(process.pid)
        account = Account(process.pid, cgroup, memory_max=memory_max, mark=mark, oom=self._oom)
        with self._lock:
            container.pid, container.account = process.pid, account
            container.status = RUNNING
            container.changes += 1
            container.report("Started", f"Started container {container.job}")
            self.starts[container.order.name] += 1
            if container.kill_at is not None:  # it was to end while it was about to start
                self._signal(container, signal.SIGTERM)
        self._sampler.add(account)
        code = process.wait()
        with self._lock:
            container.pid = None  # the number may soon be another's
        self._sampler.end(mark, account)
        self._reaper.ends(process.pid)
        process.drain()
        return code

    def _start_process(self, container: Container, accounts: Path) -> JobProcess:
        variables = self._container_variables(container)
        bundle = container.order.bundle
        words = [expand(word, variables) for word in (*(bundle.command or ()), *(bundle.args or ()))]
        environment = {
            "PATH": processes.search_path(),
            "LANG": "C.UTF-8",
            **variables,
            "HOSTNAME": container.order.name,
            CGROUP_VARIABLE: str(accounts),
        }
        container.log = self._log(container, container.runs)
        self.home.mkdir(parents=True, exist_ok=True)  # the last job may have removed it
        return JobProcess(words, environment, self.home, container.log)

    def _container_variables(self, container: Container) -> dict[str, str]:
        """The variables of the pod, the user's first: what the platform sets comes later and wins."""
        order = container.order
        home = str(self.home)
        listed = [
            *order.bundle.env,
            ("skaha_hostname", self._hostname),
            ("skaha_username", self._user),
            ("skaha_sessionid", order.id),
            ("HOME", home),
            ("PWD", home),
            ("OMP_NUM_THREADS", str(max(1, int(order.resources.cores)))),
        ]
        variables: dict[str, str] = {}
        for name, value in listed:
            variables[name] = expand(value, variables)  # a value sees those before it
        return variables

    def _log(self, container: Container, run: int) -> Path:
        return self._directory / "logs" / f"{container.id}-{run}.log"

    def _accounts(self, container: Container, run: int) -> Path:
        return self._directory / "cgroups" / f"{container.id}-{run}"

    # Ending it

    @contextlib.contextmanager
    def _running(self, id_: str) -> Iterator[Container]:
        with self._lock:
            container = self._containers.get(id_)
            if container is None:
                raise LookupError(f"no container {id_!r}")
            if container not in self._active:
                raise ValueError(f"container {id_!r} is {container.status}, not running")
            yield container
            container.changes += 1

    def _terminate(self, container: Container, grace: float) -> None:
        """SIGTERM for the main process, as Kubernetes does it; the rest follows when that ends, or the grace."""
        deadline = time.monotonic() + grace
        container.kill_at = deadline if container.kill_at is None else min(deadline, container.kill_at)
        container.report("Killing", f"Stopping container {container.job}")
        self._signal(container, signal.SIGTERM)
        if grace <= 0:
            self._kill(container)

    def _signal(self, container: Container, number: int) -> None:
        if container.pid is not None:
            with contextlib.suppress(OSError):
                os.kill(container.pid, number)

    def _kill(self, container: Container) -> None:
        if container.pid is not None:
            with contextlib.suppress(OSError):
                os.killpg(container.pid, signal.SIGKILL)

    def _kill_overdue(self) -> None:
        """Kill what has not heeded SIGTERM in time; the sampler's clock drives it."""
        with self._lock:
            for container in self._active:
                if container.kill_at is not None and container.kill_at <= time.monotonic():
                    self._kill(container)


def _report_pod(container: Container) -> None:
    """What Kubernetes reports of every pod before its container starts."""
    image = container.order.image
    container.report("Scheduled", f"Successfully assigned skaha-workload/{container.job} to local", timed=False)
    container.report("Pulling", f'Pulling image "{image}"')
    container.report("Pulled", f'Successfully pulled image "{image}" in 1ms (1ms including waiting)')
    container.report("Created", f"Created container: {container.job}")
