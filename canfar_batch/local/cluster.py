"""The cluster: a queue of containers, and the life of each from its start to its end."""

from __future__ import annotations

import bisect
import collections
import contextlib
import heapq
import itertools
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import attrs

from canfar_batch.local import pod_events, processes
from canfar_batch.local.agenda import Agenda, Entry
from canfar_batch.local.cgroups import Account, Cgroup, Sampler
from canfar_batch.local.containers import (
    COMPLETED,
    FAILED,
    FINAL,
    GIB,
    PENDING,
    RENEWED,
    RUNNING,
    Container,
    Order,
    Pod,
    now,
)
from canfar_batch.local.processes import JobProcess, Reaper
from canfar_batch.local.templating import expand

CGROUP_VARIABLE = "CANFAR_BATCH_CGROUP"
ARC_VARIABLE = "CANFAR_BATCH_ARC"  #: names what stands for `/arc`, which no process here can have under that name
DELETE_WAIT = 0.1  #: seconds at most that a deletion waits for the process, as the real request takes about that long
_BY_SIGNAL = 128  #: exit codes above it stand for signals
_STOP_GRACE = 2.0  #: seconds at most between SIGTERM and SIGKILL when the whole platform stops


@attrs.frozen(kw_only=True)
class ClusterSettings:
    """The size and habits of a cluster. Times in seconds."""

    user: str  #: whose home directory all containers share
    hostname: str
    cores: float
    ram: float  #: GiB
    forget_after: float  #: from a container's end until it is forgotten
    termination_grace: float  #: between SIGTERM and SIGKILL
    pull: float  #: for which a container stays Pending after it was admitted
    pending_at_end: float  #: for which a container is Pending again between its end and its final status
    deadline: float  #: after which a run is ended
    oom: str  #: the victim when a container exceeds its RAM: `process`, `group`, or none (`off`)
    ram_scale: float  #: factor on the limit in RAM, so that tests need not fill memory to exceed it
    is_quota_strict: bool  #: whether a container larger than the cluster waits for ever, and smaller ones pass it
    arc: Path  #: what stands for `/arc`, with the home directories
    is_temporary: bool  #: whether the directory is removed with the cluster, even if this process is killed


class Obstacle(Protocol):
    """Something that keeps containers from starting."""

    precedes_scheduling: bool  #: whether it stands before the pod gets a node; else before its image is there

    @property
    def is_active(self) -> bool:
        """Whether it still stands."""
        ...

    def matches(self, container: Container) -> bool:
        """Return whether it stands in the way of *container*."""
        ...

    def report(self, container: Container, pod: Pod) -> None:
        """Note the events that show it."""
        ...


class Cluster:
    """Runs containers as processes, in the order of their creation, as far as cores and RAM allow."""

    def __init__(self, directory: Path, settings: ClusterSettings) -> None:
        self.settings = settings
        self.starts: collections.Counter[str] = collections.Counter()  #: process starts by the container's name
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)  #: notified when a container or an obstacle changed
        self.obstacles: list[Obstacle] = []
        self.agenda = Agenda()
        self.forget_after = settings.forget_after
        self.pending_at_end = settings.pending_at_end
        self._directory = directory
        self._containers: dict[str, Container] = {}
        self._leaving: dict[str, Container] = {}  #: deleted, with a pod in its grace time
        self._count = itertools.count()
        self._numbers: dict[Container, int] = {}  #: the order of creation
        self._queue: list[Container] = []
        self._threads: dict[Pod, threading.Thread] = {}
        self._holding: dict[Pod, Container] = {}  #: pods that take cores and RAM
        self._undecided: list[tuple[Container, Pod]] = []
        self._deadlines: dict[Pod, Entry] = {}
        self._finished: list[tuple[float, int, Container]] = []  #: a heap of the times to forget them
        self._next_forgotten = math.inf
        self._ends_pending = 0
        self._taken: list[tuple[float, float]] = []  #: cores and RAM that sessions outside the queue take
        self.admission_delay: Callable[[], float] = lambda: 0.0  #: seconds until the next container may be admitted
        self._held = self._stopped = self._is_controller_away = False
        self._mark = f"{CGROUP_VARIABLE}={directory / 'cgroups'}{os.sep}"
        for name in ("logs", "cgroups"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        self.home.mkdir(parents=True, exist_ok=True)
        self._sampler = Sampler(self._mark.encode())
        self._reaper = Reaper(self._mark, directory if settings.is_temporary else None)

    @property
    def home(self) -> Path:
        """The home directory of the user, where every container begins."""
        return self.settings.arc / "home" / self.settings.user

    def start(self) -> None:
        """Begin to run queued containers."""
        self._sampler.start()

    def stop(self) -> None:
        """End every container, and wait until none of their processes remains."""
        with self.changed:
            self._stopped = True
            self._queue.clear()
            for pod in self._threads:
                self.terminate(pod, min(self.settings.termination_grace, _STOP_GRACE))
            threads = list(self._threads.values())
            self.changed.notify_all()
        for thread in threads:
            thread.join()
        self.agenda.stop()
        self._sampler.stop()
        self._reaper.stop()

    # For the service

    def create(self, order: Order, job: str, user: str, uid: int) -> Container:
        """Queue a new container."""
        container = Container(order, job, user, uid, deadline=self.settings.deadline)
        with self.lock:
            self._containers[container.id] = container
            self._numbers[container] = next(self._count)
            if order.resources.refused:
                container.started = now()  # the Job starts, and every pod of it is refused
            elif order.type == "headless" and (delay := self.admission_delay()) > 0:
                self.agenda.later(delay, lambda: self._enqueue_late(container))
            elif order.type == "headless":
                self.enqueue(container)
            else:
                pod = self._new_pod(container)
                container.status, container.started = RUNNING, now()
                pod_events.report_pull(pod, order.image)
                pod_events.report_start(pod, job)
        return container

    def get(self, id: str, user: str | None = None) -> Container | None:
        """Return the container of that id, or None if it is unknown, another user's, deleted or forgotten."""
        self._forget_old()
        container = self._containers.get(id)
        return container if container is None or user in {None, container.user} else None

    def all(self, user: str | None = None) -> list[Container]:
        """Return every container that is known, in the order of their Jobs' names."""
        self._forget_old()
        with self.lock:
            known = [one for one in self._containers.values() if user in {None, one.user}]
        return sorted(known, key=lambda container: container.job)

    def pods(self, id: str, user: str) -> list[Pod]:
        """Return the pods whose events and logs are served, also those of a deleted container in its grace time."""
        container = self.get(id, user) or self._leaving.get(id)
        return list(container.pods) if container is not None and container.user == user else []

    def delete(self, id: str, user: str | None = None) -> None:
        """Remove a container at once, and stop it in the background."""
        with self.changed:
            container = self.get(id, user)
            if container is None:
                return
            self._remove(container)
            for pod in container.pods:
                self.terminate(pod, self.settings.termination_grace)
            self.changed.wait_for(lambda: not container.pods, DELETE_WAIT)

    def renew(self, id: str, user: str) -> bool:
        """Extend a container's deadline to four days from now, if less remains; False unless it is active."""
        with self.lock:
            container = self.get(id, user)
            if container is None or not container.is_active:
                return False
            elapsed = time.monotonic() - container.pods[-1].created
            if container.deadline - elapsed < RENEWED:
                container.deadline = elapsed + RENEWED
                container.changes += 1
            return True

    # For tests and situations

    def find(self, which: str) -> Container:
        """Return the latest container with this id, this name, or this text between dashes in its name.

        Raises:
            LookupError: There is none.
        """
        with self.lock:
            if which in self._containers:
                return self._containers[which]
            matching = [one for one in self._containers.values() if is_named(one.order.name, which)]
            if not matching:
                raise LookupError(f"no container {which!r}")
            return max(matching, key=self._numbers.__getitem__)

    @contextlib.contextmanager
    def running(self, which: str) -> Iterator[tuple[Container, Pod]]:
        """A running container and its pod, with the cluster's lock held.

        Raises:
            LookupError: There is none of that id or name.
            ValueError: It is not running.
        """
        with self.changed:
            container = self.find(which)
            pod = container.pod
            if pod is None or pod not in self._threads or container.is_suspended:
                raise ValueError(f"container {which!r} is {container.status}, not running")
            yield container, pod
            container.changes += 1
            self.changed.notify_all()

    def suspend(self, which: str, *, keeps_start: bool = False, torn: float = 0.0) -> Container:
        """Stop a running container without an end of its own: it is Pending until `resume`.

        Args:
            which: Its id or name.
            keeps_start: Whether the old start time stays, as it does when Kueue is not involved.
            torn: Seconds for which it is still shown as Running, already without a start time.
        """
        with self.running(which) as (container, pod):
            container.is_suspended = True
            if torn > 0:
                self.agenda.later(torn, lambda: self._show_suspended(container))
            else:
                container.status = PENDING
            if not keeps_start:
                container.started = None
            pod.is_leaving, pod.decides = True, False
            self._holding.pop(pod, None)
            self.terminate(pod, self.settings.termination_grace)
            self._admit()
        return container

    def _show_suspended(self, container: Container) -> None:
        with self.changed:
            if container.started is None and container.status == RUNNING:
                container.status = PENDING
                container.changes += 1

    def resume(self, which: str, *, overlap: bool = False) -> None:
        """Queue a suspended container again, as soon as its old pod is gone; at once if *overlap*."""
        with self.changed:
            container = self.find(which)
            container.is_resuming = True
            self._requeue(container, overlap=overlap)
            self.changed.notify_all()

    def _requeue(self, container: Container, *, overlap: bool = False) -> None:
        if container.is_suspended and container.is_resuming and (overlap or not container.pods) and not self._stopped:
            container.is_suspended = container.is_resuming = False
            self.enqueue(container)

    def take_place(
        self, of: Sequence[Container], torn: Mapping[Container, float], cores: float = 0.0
    ) -> Callable[[], None]:
        """Let a session of higher priority take the place of running containers; return what gives it back.

        They are queued at once, and start again when there is room, whether or not their old processes have ended.

        Args:
            of: The containers.
            torn: Seconds for which each is still shown as Running, already without a start time.
            cores: The cores that the session takes at least.
        """
        with self.changed:
            asked = [one.order.resources for one in of]
            place = (max(cores, sum(one.cores for one in asked)), sum(one.ram for one in asked))
            self._taken.append(place)
            for container in of:
                self.suspend(container.id, torn=torn.get(container, 0.0))
                self.resume(container.id, overlap=True)

        def give_back() -> None:
            with self.changed:
                self._taken.remove(place)
                self._admit()
                self.changed.notify_all()

        return give_back

    def leave(self, container: Container, pod: Pod, status: str | None = None) -> None:
        """Stop a pod with its grace time and remove it afterwards; with *status* its end decides nothing."""
        pod.is_leaving = True
        if status is not None:
            self.finish(container, status)
            pod.decides = False
        self.terminate(pod, self.settings.termination_grace)

    def forget(self, which: str) -> None:
        """Forget a container, as if it had ended long ago; a running one is killed."""
        with self.lock:
            container = self.find(which)
            self._remove(container)
            for pod in container.pods:
                self.terminate(pod, 0)

    def occupied(self) -> list[Container]:
        """Return the containers that take cores and RAM."""
        with self.lock:
            return list(self._holding.values())

    def running_containers(self) -> list[Container]:
        """Return the containers whose process runs, in the order of their creation."""
        with self.lock:
            running = [one for one in self.occupied() if one.pod is not None and one.pod.is_running]
            return sorted(running, key=self._numbers.__getitem__)

    def hold(self) -> None:
        """Start nothing until `release`."""
        with self.lock:
            self._held = True

    def release(self) -> None:
        """Start queued containers again."""
        with self.lock:
            self._held = False
            self._admit()

    def leave_control(self) -> None:
        """Start nothing and notice no end until `take_control`, as if the controller manager were away."""
        with self.lock:
            self._held = self._is_controller_away = True

    def take_control(self) -> None:
        """Start containers and notice ends again."""
        with self.changed:
            self._held = self._is_controller_away = False
            self.notice_ends()
            self._admit()

    def notice_ends(self) -> None:
        """Decide the ends that could not be noticed when they came."""
        with self.changed:
            undecided, self._undecided = self._undecided, []
            for container, pod in undecided:
                self._decide(container, pod)
            self.changed.notify_all()

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until nothing is queued and nothing runs; return whether that came true within *timeout* seconds."""
        with self.changed:
            return self.changed.wait_for(
                lambda: not self._queue and not self._threads and not self._ends_pending, timeout
            )

    # The queue

    def enqueue(self, container: Container) -> None:
        """Queue a container at its place by the order of creation."""
        bisect.insort(self._queue, container, key=self._numbers.__getitem__)
        container.changes += 1
        self._admit()

    def _enqueue_late(self, container: Container) -> None:
        with self.changed:
            if not container.is_deleted and not self._stopped:
                self.enqueue(container)
                self.changed.notify_all()

    def _admit(self) -> None:
        """Start the containers of the queue that fit.

        Unless the quota is strict, the first that does not fit holds up the others, and one that never fits runs alone.
        """
        if self._held or self._stopped:
            return
        for container in list(self._queue):
            if self._fits(container) or not (self._holding or self.settings.is_quota_strict):
                self._queue.remove(container)
                self._start(container)
            elif not self.settings.is_quota_strict:
                return

    def _fits(self, container: Container) -> bool:
        asked = [other.order.resources for other in (container, *self._holding.values())]
        places = [(one.cores, one.ram) for one in asked] + self._taken
        cores, ram = sum(cores for cores, _ in places), sum(ram for _, ram in places)
        return cores <= self.settings.cores + 1e-9 and ram <= self.settings.ram + 1e-9  # sums of fractions are inexact

    def _start(self, container: Container) -> None:
        pod = self._new_pod(container)
        container.status, container.started, container.exit_code = PENDING, now(), None
        self._holding[pod] = container
        self._deadlines[pod] = self.agenda.later(container.deadline, lambda: self.check_deadline(container, pod))
        thread = threading.Thread(
            target=self._run, args=(container, pod), name=f"local-platform-{container.id}", daemon=True
        )
        self._threads[pod] = thread
        thread.start()

    def _new_pod(self, container: Container) -> Pod:
        container.runs += 1
        container.changes += 1
        pod = Pod(container.new_pod_name(), container.runs, self._log(container, container.runs))
        container.pods.append(pod)
        return pod

    # One pod's life

    def _run(self, container: Container, pod: Pod) -> None:
        """Run a pod from its start to its end; each has a thread for that."""
        try:
            if self._prepare(container, pod):
                pod.exit_code = self._run_process(container, pod)
        finally:
            with self.changed:
                pod.pid, pod.kill_at, pod.is_running = None, None, False
                del self._threads[pod]
                self._holding.pop(pod, None)
                self._deadlines.pop(pod).cancel()
                if pod.is_leaving:
                    container.pods.remove(pod)
                if container.is_deleted:
                    self._clean(container)
                else:
                    self._decide(container, pod)
                    self._requeue(container)
                container.changes += 1
                self._admit()
                self.changed.notify_all()

    def _prepare(self, container: Container, pod: Pod) -> bool:
        """Bring a pod to the point where its process starts; False if it is stopped before."""
        with self.changed:
            self._overcome(container, pod, precedes_scheduling=True)
            if pod.kill_at is None:
                self._pull(container, pod)
            return pod.kill_at is None

    def _pull(self, container: Container, pod: Pod) -> None:
        image = container.order.image
        pod.report("Scheduled", f"Successfully assigned skaha-workload/{pod.name} to local", is_timed=False)
        pod.report("Pulling", f'Pulling image "{image}"')
        self._overcome(container, pod, precedes_scheduling=False)
        self._wait(pod, lambda: False, self.settings.pull)
        if pod.kill_at is None:
            pod_events.report_init(pod, image)
            pod_events.report_pull(pod, image)

    def _overcome(self, container: Container, pod: Pod, *, precedes_scheduling: bool) -> None:
        for obstacle in list(self.obstacles):
            if obstacle.precedes_scheduling is precedes_scheduling and obstacle.matches(container):
                obstacle.report(container, pod)
                self._wait(pod, lambda obstacle=obstacle: not obstacle.is_active)  # type: ignore[misc]

    def _wait(self, pod: Pod, condition: Callable[[], bool], seconds: float | None = None) -> None:
        self.changed.wait_for(lambda: pod.kill_at is not None or condition(), seconds)

    def _run_process(self, container: Container, pod: Pod) -> int | None:
        """Return the exit code of the main process; None if it could not be started."""
        accounts = self._accounts(container, pod.number)
        limits = container.order.resources
        memory_max = int(limits.ram_limit * self.settings.ram_scale * GIB)
        cgroup = Cgroup(accounts, memory_max=memory_max, cores_max=limits.cores_limit)
        mark = os.fsencode(accounts.name)
        self._sampler.expect(mark)
        try:
            process = self._start_process(container, pod, accounts)
        except processes.StartError as problem:
            self._sampler.end(mark)
            with self.lock:
                pod.report("Created", f"Created container: {container.job}")
                pod.report("Failed", str(problem), is_warning=True)
            return None
        self._reaper.begins(process.pid)
        account = Account(process.pid, cgroup, memory_max=memory_max, mark=mark, oom=self.settings.oom)
        with self.lock:
            pod.pid, pod.account, pod.is_running, pod.clock = process.pid, account, True, time.monotonic()
            if pod.decides:
                container.status = RUNNING
            container.changes += 1
            pod_events.report_start(pod, container.job)
            self.starts[container.order.name] += 1
            if pod.kill_at is not None:  # it was told to stop while it was about to start
                self.terminate(pod, pod.kill_at - time.monotonic())
        self._sampler.add(account)
        code = process.wait()
        with self.lock:
            pod.pid = None  # the number may soon belong to another process
        self._sampler.end(mark, account, killed=pod.kill_at is not None or code > _BY_SIGNAL)
        self._reaper.ends(process.pid)
        process.drain()
        return code

    def _start_process(self, container: Container, pod: Pod, accounts: Path) -> JobProcess:
        variables = self._container_variables(container)
        bundle = container.order.bundle
        words = [expand(word, variables) for word in (*(bundle.command or ()), *(bundle.args or ()))]
        environment = {
            "PATH": processes.search_path(),
            "LANG": "C.UTF-8",
            **variables,
            "HOSTNAME": container.order.name,
            CGROUP_VARIABLE: str(accounts),
            ARC_VARIABLE: str(self.settings.arc),
        }
        self.home.mkdir(parents=True, exist_ok=True)  # the last job may have removed it
        return JobProcess(words, environment, self.home, pod.log)

    def _container_variables(self, container: Container) -> dict[str, str]:
        """Return the variables of the pod, the user's first: the platform's come later and win."""
        order = container.order
        home = str(self.home)
        listed = [
            *order.bundle.env,
            ("skaha_hostname", self.settings.hostname),
            ("skaha_username", container.user),
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

    # Ends

    def _decide(self, container: Container, pod: Pod) -> None:
        """Let a pod's end decide the container's status, as soon as the cluster can notice it."""
        if not pod.decides or container.status in FINAL or container.is_deleted:
            return
        if self._is_controller_away or pod.is_silent:
            self._undecided.append((container, pod))
            return
        status = COMPLETED if pod.exit_code == 0 and pod.may_succeed else FAILED
        if self.pending_at_end <= 0 or self._stopped:
            self.finish(container, status, pod.exit_code)
            return
        container.status = PENDING
        self._ends_pending += 1
        self.agenda.later(self.pending_at_end, lambda: self._finish_late(container, status, pod.exit_code))

    def _finish_late(self, container: Container, status: str, code: int | None) -> None:
        with self.changed:
            self._ends_pending -= 1
            self.finish(container, status, code)
            self.changed.notify_all()

    def finish(self, container: Container, status: str, code: int | None = None) -> None:
        """Give a container its final status, unless it has one or was deleted."""
        if container.status in FINAL or container.is_deleted:
            return
        container.status, container.exit_code = status, code
        container.changes += 1
        heapq.heappush(self._finished, (time.monotonic() + self.forget_after, self._numbers[container], container))
        self._next_forgotten = self._finished[0][0]

    def check_deadline(self, container: Container, pod: Pod) -> None:
        """End a run that has reached its deadline; check again later if it was renewed."""
        with self.changed:
            if pod not in self._threads or not pod.decides:
                return
            left = container.deadline - (time.monotonic() - pod.created)
            if left > 0:
                self._deadlines[pod] = self.agenda.later(left, lambda: self.check_deadline(container, pod))
            else:
                self.leave(container, pod, FAILED)
                self.changed.notify_all()

    def _remove(self, container: Container) -> None:
        """Take a container out of every list; its pods leave as soon as their processes end."""
        del self._containers[container.id]
        container.is_deleted = True
        if container in self._queue:
            self._queue.remove(container)
        container.pods = [pod for pod in container.pods if pod in self._threads]
        for pod in container.pods:
            pod.is_leaving = True
        self._leaving[container.id] = container
        self._clean(container)

    def _forget_old(self) -> None:
        # read without the lock, which thousands of looks per second would fight for
        if time.monotonic() < self._next_forgotten:
            return
        with self.lock:
            while self._finished and self._finished[0][0] <= time.monotonic():
                *_, container = heapq.heappop(self._finished)
                if self._containers.get(container.id) is container:
                    self._remove(container)
            self._next_forgotten = self._finished[0][0] if self._finished else math.inf

    def _clean(self, container: Container) -> None:
        """Remove the files of a deleted container, once none of its pods is left."""
        if container.pods:
            return
        self._leaving.pop(container.id, None)
        self._numbers.pop(container, None)
        for run in range(1, container.runs + 1):
            self._log(container, run).unlink(missing_ok=True)
            shutil.rmtree(self._accounts(container, run), ignore_errors=True)

    # Signals

    def terminate(self, pod: Pod, grace: float) -> None:
        """Send SIGTERM to the main process, as Kubernetes does; the rest is killed at its end, or after *grace*."""
        if pod not in self._threads:
            return
        deadline = time.monotonic() + grace
        if pod.kill_at is None:
            pod.report("Killing", f"Stopping container {pod.name[:-6]}")
        pod.kill_at = deadline if pod.kill_at is None else min(deadline, pod.kill_at)
        self._signal(pod, signal.SIGTERM)
        if grace <= 0:
            self.kill(pod)
        else:
            self.agenda.later(grace, lambda: self._kill_overdue(pod))
        self.changed.notify_all()

    def abandon(self, pod: Pod) -> None:
        """Give up a pod whose process has not started; it stays with its events."""
        pod.kill_at = time.monotonic()
        self.changed.notify_all()

    def kill(self, pod: Pod) -> None:
        """Kill the processes of a pod at once; one that is about to start is killed as soon as it has."""
        if pod.pid is not None:
            with contextlib.suppress(OSError):
                os.killpg(pod.pid, signal.SIGKILL)
        elif pod in self._threads and pod.clock is None:
            self.abandon(pod)

    def _signal(self, pod: Pod, number: int) -> None:
        if pod.pid is not None:
            with contextlib.suppress(OSError):
                os.kill(pod.pid, number)

    def _kill_overdue(self, pod: Pod) -> None:
        """Kill a process that did not heed SIGTERM in time."""
        with self.lock:
            if pod.kill_at is not None and pod.kill_at <= time.monotonic():
                self.kill(pod)


def is_named(name: str, which: str) -> bool:
    """Return whether *which* is a container's name, or stands between dashes in it, as a job's key does."""
    return f"-{which.lower()}-" in f"-{name}-"
