"""Situations of a real cluster, played on the jobs of a local platform.

Each method plays something that happens now and then in a real Kubernetes cluster, with the answers of the service.
`platform.situations` holds them:

    job = session.launch("python fit.py", image="skaha/astroml:latest", name="fit")
    platform.situations.drain("fit")                      # its node is emptied
    with platform.situations.no_room("fit"):              # no node has room, for as long as the block takes
        ...

A job is named by its platform id, by its launch name, or by a text between dashes of that name, such as its key; if
several match, the latest is meant. Methods raise LookupError if there is none, and ValueError if it does not run but
would have to. Lasting situations return a `Situation`, which ends with its `with` block, by `end()`, or after a number
of seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

import attrs

from canfar_batch.local.cluster import Cluster, is_named
from canfar_batch.local.containers import FAILED, PENDING, RUNNING, Container, Pod

#: messages of evictions by the kubelet, by cause
EVICTIONS = {
    "memory": (
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 80Mi. "
        "Container {job} was using 9Gi, request is 4Gi, has larger consumption of memory. "
    ),
    "disk": "The node had condition: [DiskPressure]. ",
    "storage": "The node was low on resource: ephemeral-storage. Threshold quantity: 10Gi, available: 9Gi. ",
    "own storage": 'Usage of EmptyDir volume "scratch" exceeds the limit "1Gi". ',
}
#: reasons of failed image pulls, by cause
PULL_ERRORS = {
    "not found": 'failed to resolve reference "{image}": {image}: not found',
    "unauthorized": 'failed to authorize: failed to fetch oauth token for "{image}": 401 Unauthorized',
    "unreachable": 'failed to do request: Head "{image}": dial tcp: i/o timeout',
}


class Situation:
    """A situation that lasts until it is ended."""

    def __init__(self, cluster: Cluster, end: Callable[[], None], seconds: float | None = None) -> None:
        self._cluster, self._end = cluster, end
        self._is_active = True
        if seconds is not None:
            cluster.agenda.later(seconds, self.end)

    @property
    def is_active(self) -> bool:
        """Whether it still lasts."""
        return self._is_active

    def end(self) -> None:
        """End it; ending it twice changes nothing."""
        with self._cluster.changed:
            if self._is_active:
                self._is_active = False
                self._end()
                self._cluster.changed.notify_all()

    def __enter__(self) -> Situation:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.end()


@attrs.define(eq=False)
class _Hindrance:
    """Keeps containers of a name from starting."""

    which: str
    events: Callable[[Container, Pod], None]
    precedes_scheduling: bool = False
    stands: bool = True

    def matches(self, container: Container) -> bool:
        return self.which in {"", container.id} or is_named(container.order.name, self.which)

    def report(self, container: Container, pod: Pod) -> None:
        self.events(container, pod)

    @property
    def is_active(self) -> bool:
        return self.stands


class Situations:
    """The situations of one platform's cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    # Before a job runs: it is Pending with a start time. *which* may be "" for all jobs, and may start later

    def slow_pull(self, which: str = "", seconds: float | None = None) -> Situation:
        """Let the pull of the image take *seconds*; the last event is Pulling."""
        return self._hinder(which, lambda container, pod: None, seconds)

    def pull_error(self, which: str = "", cause: str = "not found", seconds: float | None = None) -> Situation:
        """Let the pull of the image fail until the situation ends; then the job runs.

        Args:
            which: The job.
            cause: One of `PULL_ERRORS`.
            seconds: For how long; None until it is ended.
        """
        reason = PULL_ERRORS[cause]

        def report(container: Container, pod: Pod) -> None:
            image = container.order.image
            problem = f'Failed to pull image "{image}": {reason.format(image=image)}'
            pod.report("Failed", problem, is_warning=True)
            pod.report("Failed", "Error: ErrImagePull", is_warning=True)
            pod.report("BackOff", f'Back-off pulling image "{image}"')
            pod.report("Failed", "Error: ImagePullBackOff", is_warning=True)

        return self._hinder(which, report, seconds)

    def no_room(self, which: str = "", seconds: float | None = None) -> Situation:
        """Let no node have room until the situation ends; then the job runs. The event is FailedScheduling."""

        def report(container: Container, pod: Pod) -> None:
            message = (
                "0/3 nodes are available: 3 Insufficient cpu. "
                "preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod."
            )
            pod.report("FailedScheduling", message, is_warning=True, is_timed=False)

        return self._hinder(which, report, seconds, precedes_scheduling=True)

    def refuse_pod(self, which: str, reason: str = "OutOfcpu") -> None:
        """Let the node refuse the pod of a job that waits for a node or its image: it is Failed with an event."""
        with self._cluster.changed:
            container = self._cluster.find(which)
            pod = container.pod
            if pod is None or pod.is_running:
                raise ValueError(f"container {which!r} is {container.status}, not waiting for its pod to start")
            pod.report(
                reason,
                "Node didn't have enough resource: cpu, requested: 1000, used: 64000, capacity: 64000",
                is_warning=True,
            )
            pod.decides = False
            self._cluster.finish(container, FAILED)
            self._cluster.abandon(pod)

    # Ends of a running job from outside

    def delete_pod(self, which: str, failed_after: float | None = 1.0) -> None:
        """Delete the pod of a job, as an administrator does.

        The process gets SIGTERM and its grace time. A job that ends with 0 in time is Completed; any other is Failed,
        *failed_after* seconds after the deletion even if its process still runs. Then the pod is gone: events answer
        404, and the log is empty.

        Args:
            which: The job.
            failed_after: Seconds until a job that still runs is Failed; None waits for its end.
        """
        with self._cluster.running(which) as (container, pod):
            self._cluster.leave(container, pod)
            if failed_after is not None:
                self._fail_later(container, pod, failed_after)

    def drain(self, which: str, failed_after: float | None = 1.0) -> None:
        """Empty the node of a job. For the job this is the same as the deletion of its pod."""
        self.delete_pod(which, failed_after)

    def preempt_by_scheduler(self, which: str, failed_after: float | None = 1.0) -> None:
        """Let the scheduler remove a job's pod for one of higher priority: as `delete_pod`, but always Failed."""
        with self._cluster.running(which) as (container, pod):
            pod.may_succeed = False
            pod.report("Preempted", "Preempted by pod 1 on node local", is_timed=False)
            self._cluster.leave(container, pod)
            if failed_after is not None:
                self._fail_later(container, pod, failed_after)

    def reach_deadline(self, which: str) -> None:
        """End a job at its deadline: Failed at once, with the expiry time in the past.

        The process gets SIGTERM and its grace time, in which events and the growing log are served. Exit code 0 changes
        nothing.
        """
        with self._cluster.running(which) as (container, pod):
            container.deadline = time.monotonic() - pod.created
            self._cluster.leave(container, pod, FAILED)

    def delete_job(self, which: str) -> None:
        """Delete a job as another client or the portal does: its id answers 404 at once."""
        self._cluster.delete(self._cluster.find(which).id)

    def evict(self, which: str, cause: str = "memory") -> None:
        """Let the kubelet evict a job: it is killed, Failed, and the pod stays with the event Evicted.

        Args:
            which: The job.
            cause: One of `EVICTIONS`.
        """
        with self._cluster.running(which) as (container, pod):
            pod.report("Evicted", EVICTIONS[cause].format(job=container.job), is_warning=True)
            pod.may_succeed = False
            self._cluster.terminate(pod, 0)

    def kill(self, which: str) -> None:
        """Kill all processes of a job, as when all of it runs out of memory: Failed, and no event."""
        with self._cluster.running(which) as (_, pod):
            self._cluster.kill(pod)

    def restart_node(self, which: str) -> None:
        """Restart the node of a job: its processes are gone, and it is Failed without an event."""
        self.kill(which)

    # Stops after which a job begins again under the same id

    def preempt(self, which: str, *, hold: bool = False, overlap: bool = False, torn: float = 0.0) -> None:
        """Suspend a job for one of higher priority, as Kueue does, and let it begin again from nothing.

        At once it is Pending without start and expiry time, never Failed or Completed, whatever its exit code. In its
        grace time the old process goes on to write, and its events and log are served.

        Args:
            which: The job.
            hold: Whether it waits for `resume`. Otherwise it is queued as soon as the old process has ended.
            overlap: Whether it is queued at once. While both pods exist, events are `<none>`, and the log is that of
                both, one after the other.
            torn: Seconds for which it is still shown as Running, already without a start time; at most 0.6 were seen.
        """
        container = self._cluster.suspend(which, torn=torn)
        if not hold:
            self._cluster.resume(container.id, overlap=overlap)

    def preempt_all(self, seconds: float | None = None) -> Situation:
        """Preempt all running jobs and start none until the situation ends, as a large interactive session does.

        Then the jobs are queued at once, whether or not their old processes have ended.
        """
        self._cluster.hold()
        suspended = [self._cluster.suspend(container.id) for container in self._cluster.occupied()]

        def resume() -> None:
            for container in suspended:
                if not container.is_deleted:
                    self._cluster.resume(container.id, overlap=True)
            self._cluster.release()

        return Situation(self._cluster, resume, seconds)

    def interactive(self, cores: float | None = None, seconds: float | None = None) -> Situation:
        """Let an interactive session take *cores* (None: all) from running jobs, until the situation ends.

        The jobs that were created last lose their place first. They are queued at once, and start again as soon as
        there is room, whether or not their old processes have ended.
        """
        with self._cluster.changed:
            size = self._cluster.settings.cores
            taken, running = size if cores is None else min(cores, size), self._cluster.running_containers()
            free = size - sum(one.order.resources.cores for one in running)
            chosen: list[Container] = []
            while running and free < taken:
                chosen.append(running.pop())
                free += chosen[-1].order.resources.cores
            return Situation(self._cluster, self._cluster.take_place(chosen, {}, taken), seconds)

    def suspend(self, which: str) -> None:
        """Suspend a job by hand: as `preempt` with *hold*, but the old start time stays."""
        self._cluster.suspend(which, keeps_start=True)

    def resume(self, which: str, *, overlap: bool = False) -> None:
        """Queue a suspended job again, as soon as its old process has ended, or at once if *overlap*."""
        self._cluster.resume(which, overlap=overlap)

    # Nodes that do not report

    def node_silent(self, which: str, seconds: float | None = None) -> Situation:
        """Let the node of a running job stop reporting: Pending with a start time, while the process runs on.

        The event is NodeNotReady. An end in that time is noticed when the situation ends.
        """
        with self._cluster.running(which) as (container, pod):
            container.status, pod.is_silent = PENDING, True
            pod.report("NodeNotReady", "Node is not ready", is_warning=True)

        def report_again() -> None:
            pod.is_silent = False
            if pod.is_running and pod.decides:
                container.status = RUNNING
            container.changes += 1
            self._cluster.notice_ends()

        return Situation(self._cluster, report_again, seconds)

    def node_lost(self, which: str, seconds: float | None = None) -> Situation:
        """Lose the node of a running job, and its processes.

        Until the situation ends it is shown as Running; its log is empty. Then it is Failed, and its events answer 404.
        A real cluster takes about a minute.
        """
        with self._cluster.running(which) as (container, pod):
            pod.decides, pod.hidden_until = False, float("inf")
            self._cluster.kill(pod)

        def collect() -> None:
            self._cluster.finish(container, FAILED)
            if pod in container.pods and not pod.is_leaving:
                container.pods.remove(pod)

        return Situation(self._cluster, collect, seconds)

    # Answers of the service

    def hide_log(self, which: str, seconds: float | None = None) -> Situation:
        """Let the log of a job be empty with status 200, as while the node's kubelet does not answer."""
        pod = self._pod(which)
        pod.hidden_until = float("inf")
        return Situation(self._cluster, lambda: setattr(pod, "hidden_until", 0.0), seconds)

    def rotate_log(self, which: str, keep: int = 0) -> None:
        """Rotate the log of a job away but for its last *keep* bytes."""
        pod = self._pod(which)
        pod.rotated_at = max(0, pod.log.stat().st_size - keep)

    def pending_at_end(self, seconds: float) -> Situation:
        """Show jobs as Pending for *seconds* between their end and their final status, until the situation ends."""
        before, self._cluster.pending_at_end = self._cluster.pending_at_end, seconds
        return Situation(self._cluster, lambda: setattr(self._cluster, "pending_at_end", before))

    def controller_away(self, seconds: float | None = None) -> Situation:
        """Let the controller manager be away: new jobs get no start time, and ends are not noticed until it is back."""
        self._cluster.leave_control()
        return Situation(self._cluster, self._cluster.take_control, seconds)

    def remember(self, seconds: float) -> None:
        """Forget jobs *seconds* after their end from now on; those that ended already keep their time."""
        self._cluster.forget_after = seconds

    def forget(self, which: str) -> None:
        """Forget a job at once, as if it had ended long ago; a running one is killed."""
        self._cluster.forget(which)

    def _hinder(
        self,
        which: str,
        events: Callable[[Container, Pod], None],
        seconds: float | None,
        *,
        precedes_scheduling: bool = False,
    ) -> Situation:
        hindrance = _Hindrance(which, events, precedes_scheduling)

        def remove() -> None:
            hindrance.stands = False
            self._cluster.obstacles.remove(hindrance)

        with self._cluster.changed:
            self._cluster.obstacles.append(hindrance)
        return Situation(self._cluster, remove, seconds)

    def _pod(self, which: str) -> Pod:
        container = self._cluster.find(which)
        if container.pod is None:
            raise ValueError(f"container {which!r} has no pod")
        return container.pod

    def _fail_later(self, container: Container, pod: Pod, seconds: float) -> None:
        def fail() -> None:
            with self._cluster.changed:
                if pod in container.pods and pod.decides:
                    pod.decides = False
                    self._cluster.finish(container, FAILED)
                    self._cluster.changed.notify_all()

        if seconds > 0:
            self._cluster.agenda.later(seconds, fail)
        else:
            fail()
