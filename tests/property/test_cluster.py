"""Whatever a cluster does to a container, the verdict does not contradict the truth, and no job runs twice at once."""

from __future__ import annotations

import base64
import math
import random
import tempfile
from datetime import timedelta
from functools import partial
from pathlib import Path

import attrs
import pytest
from engine import SPEC, World, abandon, ledger_of
from fakes import EPOCH, FakeClock, FakePlatform
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from canfar_batch import failures
from canfar_batch.errors import JobNotFound, LeaseLost
from canfar_batch.fields.keys import file_name
from canfar_batch.payload.receipts import receipt_paths
from canfar_batch.payload.wrapper import MARK
from canfar_batch.records import ContainerInfo, JobState, Phase
from canfar_batch.strategies import Listing, OneByOne, Retry

PENDING, RUNNING, COMPLETED, FAILED, ABSENT = Phase.PENDING, Phase.RUNNING, Phase.COMPLETED, Phase.FAILED, None
OUTPUT = "{n}.fits"
LIFETIME = 14 * 86400.0  #: seconds from the start of a run to the platform's deadline
GRACE = 20.0  #: seconds that the wrapper gives a command that was asked to stop
ROTATES_AFTER = 120.0  #: seconds from the start of a run until its log can lose its beginning
NEVER = math.inf

ENDS = (
    "by itself", "out of memory", "evicted", "drained", "pre-empted", "forced", "node lost", "deleted", "deadline",
    "deleted before it begins", "deleted after its end", "start error",
)  # fmt: skip
#: the failure of an attempt that ended so
CLASSES = {
    "out of memory": failures.Killed,
    "evicted": failures.Evicted,
    "drained": failures.Evicted,
    "pre-empted": failures.Evicted,
    "forced": failures.Evicted,
    "node lost": failures.Evicted,
    "deleted": failures.Deleted,
    "deleted before it begins": failures.Deleted,
    "deadline": failures.DeadlineExceeded,
    "start error": failures.StartError,
    "cancelled for its time": failures.TimedOut,
}

HEADING = f"{'TYPE':9}{'REASON':18}{'MESSAGE':70}{'FIRST-TIME':23}LAST-TIME\n"


def row(reason, message):
    return f"{'Normal':9}{reason:18}{message:70}{'<nil>':23}<nil>\n"


@attrs.define
class Run:
    """What truly happens to one run of a command. Times are the clock's ticks."""

    pod_from: float
    begin: float
    end: float = NEVER
    code: int | None = None
    told_at: float = NEVER  #: when it was asked to stop
    late: bool = False  #: whether its own time-out told it
    killed: bool = False  #: whether its wrapper was killed, too, so that there is no end receipt
    oom_kills: int = 0
    complete: bool = True  #: whether its outputs are there at its end
    pod_until: float = NEVER
    mute: tuple[float, float] = (NEVER, NEVER)  #: when the platform answers with an empty log
    rotated: bool = False  #: whether the log loses its beginning
    notes: list = attrs.field(factory=list)  #: the cluster's events: since when, and the line

    @property
    def told(self):
        return self.told_at < NEVER

    @property
    def by_itself(self):
        return not self.told and not self.killed

    def begun(self, now):
        return self.begin <= min(now, self.end)

    def alive(self, now):
        return self.begun(now) and now < self.end

    def stop(self, at, rng):
        """Ask it to stop: it ends with some code, or ignores the request until it is killed."""
        if min(self.end, self.told_at) <= at:
            return
        if at <= self.begin:
            self.begin, self.end = NEVER, at  # it never begins
            return
        temper = rng.choice(("0", "143", "other", "ignores"))
        self.told_at, self.killed, self.oom_kills, self.complete = at, False, 0, rng.random() < 0.5
        self.code = {"0": 0, "143": 143, "other": 7, "ignores": 137}[temper]
        self.end = at + (GRACE if temper == "ignores" else rng.choice((0.0, 0.5, 9.0, 18.0)))
        self.notes.append((at + rng.choice((0.0, 6.0)), row("Killing", "Stopping container skaha-headless")))

    def kill(self, at):
        self.end, self.killed, self.code = at, True, 137


@attrs.define
class Story:
    """The truth about one container, and the platform's view of it."""

    runs: list[Run] = attrs.field(factory=list)
    polls: list = attrs.field(factory=list)  #: since when; the phase, None if forgotten; the start time shown
    end: str = "by itself"
    lifetime: float = LIFETIME
    key: str = ""
    number: int = 0
    name: str = ""
    skew: float = 0.0  #: seconds by which the container's clock is ahead
    wrapped: bool = True  #: whether the command runs under the wrapper
    seen: bool = False  #: whether the present driver saw it
    seen_running: bool = False

    def poll(self, at, phase, start=None):
        assert not self.polls or at >= self.polls[-1][0]
        self.polls.append((at, phase, start))

    @property
    def final_at(self):
        return next((at for at, phase, _ in self.polls if phase in (COMPLETED, FAILED, ABSENT)), NEVER)

    def shown(self, now):
        """Return the phase and the start time that the platform shows."""
        _, phase, start = next(look for look in reversed(self.polls) if look[0] <= now)
        return phase, start

    @property
    def last(self):
        """The last run that began, or None."""
        begun = [run for run in self.runs if run.begun(NEVER)]
        return max(begun, key=lambda run: run.begin, default=None)

    def delete(self, at, rng):
        """Let it be deleted by a client: it is forgotten at once, and lives for its grace time."""
        self.polls = [look for look in self.polls if look[0] < at] or self.polls[:1]
        self.poll(max(at, self.polls[-1][0]), ABSENT)
        for run in self.runs:
            run.stop(at, rng)
            run.pod_until = min(run.pod_until, max(at, run.end))
        self.runs = [run for run in self.runs if run.begin < at]


def write_story(rng, now, *, wrapped=True, timeout=None):
    """Draw the history of a container that is made *now*."""
    story = Story(end=rng.choice(ENDS) if rng.random() < 0.7 else "by itself", wrapped=wrapped)
    story.skew = rng.choice((-3600.0, -30.0, 40.0, 7200.0)) if rng.random() < 0.2 else 0.0
    story.poll(now, PENDING)
    now += rng.choice((0.0, 3.0, 40.0, 300.0))
    for _ in range(rng.choice((0, 0, 1, 2))):
        run = admit(story, rng, now)
        stop = run.begin + rng.uniform(0.5, 90 if timeout is None or not wrapped else min(90, timeout))
        run.stop(stop, rng)
        run.pod_until = run.end
        if rng.random() < 0.3:
            story.poll(stop, RUNNING)  # a row without a start time, for a moment
        story.poll(stop + 0.5, PENDING)
        now = stop + rng.choice((0.6, 5.0, 15.0, 60.0, 200.0))
    if story.end == "start error" and story.runs:
        story.end = "by itself"  # it has started before
    if story.end == "start error":
        refuse(story, rng, now)
    elif story.end == "deleted before it begins":
        story.delete(story.polls[-1][0] + rng.choice((0.1, 10.0, 100.0)), rng)
    else:
        conclude(story, rng, admit(story, rng, now), timeout)
    return story


def refuse(story, rng, now):
    """Let the pod be there, and its command not start."""
    run = Run(pod_from=now, begin=NEVER, end=now + 2.0)
    run.notes.append((now + 2.0, row("Failed", 'exec: "fit": executable file not found in $PATH: unknown')))
    story.poll(now, PENDING, now)
    story.poll(now + rng.choice((2.0, 5.0)), FAILED, now)
    story.runs.append(run)


def admit(story, rng, now):
    """Let a pod be made, and its command begin after a pull."""
    run = Run(pod_from=now, begin=now + rng.choice((0.5, 2.0, 30.0)), rotated=rng.random() < 0.1)
    story.poll(now, PENDING, now)
    story.poll(run.begin + rng.choice((0.0, 0.5)), RUNNING, now)
    story.runs.append(run)
    return run


def conclude(story, rng, run, timeout=None):
    """Let the last run end as the story has it."""
    kind, start = story.end, run.pod_from
    end = story.polls[-1][0] + rng.choice((0.5, 8.0, 70.0, 500.0))
    if timeout is not None and story.wrapped:
        if kind in ("by itself", "deleted after its end") and end - run.begin > timeout:
            end = end_late(story, rng, run, run.begin + timeout)
        end = max(story.polls[-1][0], min(end, run.begin + timeout))
    if kind in ("by itself", "deleted after its end"):
        if not run.late:
            end_by_itself(story, rng, run, end)
        if kind == "deleted after its end":
            story.delete(story.final_at + rng.choice((0.1, 3.0, 20.0)), rng)
        return
    if kind == "out of memory":
        run.kill(end)
        story.poll(end + rng.choice((0.0, 1.0)), FAILED, start)
    elif kind == "evicted":
        run.stop(end, rng) if rng.random() < 0.5 else run.kill(end)
        run.notes = [(end, row("Evicted", "The node was low on resource: memory."))]
        run.mute = (end, NEVER) if rng.random() < 0.5 else run.mute
        story.poll(end, PENDING, start)
        story.poll(end + 2.0, FAILED, start)
    elif kind in ("drained", "pre-empted"):
        run.stop(end, rng)
        run.pod_until = run.end
        if kind == "drained" and run.code == 0:
            story.poll(run.end, PENDING, start)
            story.poll(run.end + 1.0, COMPLETED, start)
        else:
            story.poll(end + rng.choice((0.5, 4.0)), FAILED, start)
    elif kind == "forced":
        run.kill(end)
        run.pod_until = end
        story.poll(end + rng.choice((0.0, 2.0)), FAILED, start)
    elif kind == "node lost":
        run.kill(end)
        run.mute, run.pod_until = (end, NEVER), end + rng.choice((50.0, 70.0))
        if rng.random() < 0.5:
            story.poll(end + 40.0, PENDING, start)
        story.poll(end + 55.0, FAILED, start)
    elif kind == "deleted":
        story.delete(end, rng)
    elif kind == "deadline":
        story.lifetime = end - start
        run.stop(end, rng)
        run.pod_until = run.end
        story.poll(end, FAILED, start)


def end_late(story, rng, run, at):
    """Let the wrapper's time-out stop a run; return when it has ended."""
    run.code, run.late, run.complete = rng.choice((0, 143, 137)), True, rng.random() < 0.5
    run.end = max(story.polls[-1][0], at + (GRACE if run.code == 137 else rng.choice((0.0, 5.0))))
    story.poll(run.end, COMPLETED if run.code == 0 else FAILED, run.pod_from)
    return run.end


def end_by_itself(story, rng, run, end):
    start = run.pod_from
    run.end, run.code = end, rng.choice((0, 0, 0, 1, 143))
    run.oom_kills, run.complete = int(rng.random() < 0.2), rng.random() < 0.9
    if rng.random() < 0.3:
        run.mute = (end - rng.choice((0.0, 10.0)), end + rng.choice((3.0, 60.0, 400.0)))
    silent = rng.random() < 0.2
    if silent and end - story.polls[-1][0] > 60:
        begin = story.polls[-1][0] + rng.uniform(0, 10)
        run.notes.append((begin, row("NodeNotReady", "Node is not ready")))
        story.poll(begin, PENDING, start)
        story.poll(begin + rng.choice((10.0, 45.0)), RUNNING, start)
    flash = rng.choice((0.0, 1.0, 5.0))
    if flash:
        story.poll(end, PENDING, start)
    story.poll(end + flash, COMPLETED if run.code == 0 else FAILED, start)


class ClusterClock(FakeClock):
    """A clock with which the cluster goes on."""

    cluster = None

    def sleep(self, seconds):
        super().sleep(seconds)
        self.cluster.happen()


class Cluster(FakePlatform):
    """A platform whose containers have random histories, and which keeps the truth about each."""

    def __init__(self, rng, *, visible, outputs, wrapped=True, timeout=None):
        super().__init__(ClusterClock())
        self.wrapped, self.timeout = wrapped, timeout
        self.cancelled = set()  # keys of the jobs that the user cancelled
        self.clock.cluster = self
        self.rng, self.visible, self.outputs = rng, visible, outputs
        self.stories = {}  # by id
        self.batch = None
        self.written = 0.0  # receipt files are written up to this time
        self.violations = []

    # -- what happens by itself

    def make(self, request):
        id = super().make(request)
        job = next(job for job in self.batch.records if job.attempts and job.attempts[-1].launch_name == request.name)
        story = self.stories[id] = write_story(self.rng, self.clock.ticks(), wrapped=self.wrapped, timeout=self.timeout)
        story.key, story.number, story.name = job.key, job.attempts[-1].number, request.name
        for earlier in job.attempts[:-1]:
            before = self.stories[earlier.id]
            if any(run.end > self.clock.ticks() for run in before.runs):
                self.violations.append(f"{request.name} is launched while {before} may run")
        return id

    def happen(self):
        """Let the wrappers write the receipt files of the time that has passed."""
        since, self.written = self.written, self.clock.ticks()
        due = [
            (at, kind, story, run)
            for story in self.stories.values()
            for run in story.runs
            for at, kind in ((run.begin, "start"), (run.end, "end"))
            if since < at <= self.written and run.begun(at)
        ]
        for _, kind, story, run in sorted(due, key=lambda one: one[0]) if self.visible and self.wrapped else ():
            start, end = map(Path, receipt_paths(str(self.batch.home), file_name(story.key), story.number))
            if kind == "start":
                end.unlink(missing_ok=True)
                start.write_text(self.start_line(story, run))
            elif not run.killed:
                end.write_text(self.end_lines(story, run))

    def start_line(self, story, run):
        return f"{MARK} {story.name} start {self.facts(story, run)} #{story.name}\n"

    def end_lines(self, story, run):
        count = int(run.complete)
        name = OUTPUT.format(n=story.key[1:])
        found = f"f100@{clock_time(run.end) + story.skew:.0f} {name}\0" * count + f"n{count} {name}\0"
        encoded = base64.b64encode(found.encode()).decode()
        outputs = f"{MARK} {story.name} outputs {encoded} #{story.name}\n" * self.outputs
        finished = clock_time(run.end) + story.skew
        facts = f"{self.facts(story, run)} finished={finished:.6f} code={run.code} cpu0=0 cpu=1 oom0=0"
        told = "TERM" if run.told else ""
        late = "1" if run.late else ""
        facts = f"{facts} oom={run.oom_kills} peak= told={told} late={late} trouble= outputs={int(self.outputs)}"
        return f"{outputs}{MARK} {story.name} end {facts} #{story.name}\n"

    def facts(self, story, run):
        return f"key={story.key} attempt={story.number} started={clock_time(run.begin) + story.skew:.6f} workdir=home"

    def forget_sights(self):
        """Let another driver begin, which does not know what waits; what runs is recorded."""
        for story in self.stories.values():
            story.seen = story.seen_running

    # -- requests of the driver

    def containers(self, kind=None):
        self._called("containers")
        infos = map(self._info, self.stories)
        return [info for info in infos if info is not None]

    def container(self, id):
        self._called("container")
        info = self._info(id) if id in self.stories else None
        if info is None:
            raise JobNotFound(f"session {id} not found", status=404, server_text=f"session {id} not found")
        return info

    def logs(self, id):
        self._called("logs")
        return self.log(self.stories[id])

    def log(self, story):
        now = self.clock.ticks()
        pods = [run for run in self.pods(story) if run.begun(now)]
        if any(run.mute[0] <= now < run.mute[1] for run in pods):
            return b""
        self.rng.shuffle(pods)  # the order of two is not stable
        return "".join(self.log_of(story, run) for run in pods).encode()

    def log_of(self, story, run):
        if not self.wrapped:
            return "working\n"
        now = self.clock.ticks()
        has_end = run.end <= now and not run.killed
        is_rotated = run.rotated and min(now, run.end) - run.begin > ROTATES_AFTER
        start = "t\n" if is_rotated else f"\n{self.start_line(story, run)}"
        return f"{start}working\n" + (f"\n{self.end_lines(story, run)}" if has_end else "")

    def pods(self, story):
        now = self.clock.ticks()
        forgotten = now - story.final_at > self.forget_after
        return [] if forgotten else [run for run in story.runs if run.pod_from <= now < run.pod_until]

    def events(self, id):
        self._called("events")
        pods, now = self.pods(self.stories[id]), self.clock.ticks()
        if not pods:
            return None
        noted = [line for at, line in pods[0].notes if at <= now]
        return "" if len(pods) > 1 else HEADING + row("FailedScheduling", "0/5 nodes; preemption: 0/5") + "".join(noted)

    def cancel(self, id):
        self._called("cancel")
        story, now = self.stories[id], self.clock.ticks()
        if story.shown(now)[0] is ABSENT:
            return
        shows = (self.visible and self.wrapped) or story.seen_running or bool(self.log(story))
        ran = [run for run in story.runs if run.begun(now)]
        is_late = bool(ran) and self.timeout is not None and ran[-1].alive(now) and now - ran[-1].begin > self.timeout
        if ran and shows and not is_late and story.key not in self.cancelled:
            self.violations.append(f"{story} is cancelled at {now}, though it has run")
        story.end = "cancelled for its time" if is_late and story.key not in self.cancelled else "cancelled"
        story.delete(now, self.rng)

    def _info(self, id):
        story, now = self.stories[id], self.clock.ticks()
        phase, start = story.shown(now)
        if phase is ABSENT or now - story.final_at > self.forget_after:
            return None
        story.seen = True
        story.seen_running |= phase is RUNNING
        started = None if start is None else EPOCH + timedelta(seconds=math.floor(start))
        return ContainerInfo(
            id=id, name=story.name, phase=phase, status=phase.value.capitalize(), started_at=started,
            expires_at=None if started is None else started + timedelta(seconds=story.lifetime),
        )  # fmt: skip


def clock_time(ticks):
    return EPOCH.timestamp() + ticks


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32 - 1),
    jobs=st.integers(1, 6),
    visible=st.booleans(),
    outputs=st.booleans(),
    pending_timeout=st.sampled_from((None, 20.0, 60.0, 400.0)),
    monitor=st.sampled_from((Listing(), Listing(every=(1.0, 2.0)), OneByOne())),
    retries_deleted=st.booleans(),
    drivers=st.lists(st.sampled_from(("leaves", "is killed", "is replaced")), max_size=2),
    wrapped=st.sampled_from((True, True, True, False)),
    timeout=st.sampled_from((None, None, 30.0, 200.0)),
    cancels=st.booleans(),
)
def test_no_verdict_contradicts_the_truth(
    seed, jobs, visible, outputs, pending_timeout, monitor, retries_deleted, drivers, wrapped, timeout, cancels
):
    outputs, timeout = outputs and wrapped, timeout if wrapped else None  # the wrapper polls after both
    cluster = Cluster(random.Random(seed), visible=visible, outputs=outputs, wrapped=wrapped, timeout=timeout)
    spec = attrs.evolve(
        SPEC, outputs=(OUTPUT,) * outputs, pending_timeout=pending_timeout, receipt=wrapped, timeout=timeout
    )
    retry = Retry(2, classes=[failures.Deleted] * retries_deleted)
    with tempfile.TemporaryDirectory() as place:
        world = World(Path(place))
        world.platform, world.clock = cluster, cluster.clock
        how = {"monitor": monitor, "retry": retry}
        batch = cluster.batch = world.planned(jobs, spec, **how)
        (Path(batch.home) / "receipts").mkdir(exist_ok=True)
        for fate in drivers:
            world.turn(batch, cluster.rng.choice((3, 30, 300)))
            again = partial(world.planned, jobs, spec, **how)
            batch = cluster.batch = change_driver(world, batch, fate, cluster, how, again)
        if cancels:
            world.turn(batch, cluster.rng.choice((3, 30, 300)))
            cluster.cancelled = {job.key for job in batch.records if cluster.rng.random() < 0.4}
            batch.cancel(sorted(cluster.cancelled))
        batch.run(progress=False, stop_alike=None, timeout=200_000)
        assert cluster.violations == []
        for job in batch.records:
            assert job.state.final
            for attempt in job.attempts:
                check_attempt(attempt, cluster)
            check_retries(job, retries_deleted, cluster)
        batch.close()


def change_driver(world, batch, fate, cluster, how, open_again):
    """Let another driver take over, as the *fate* of the first has it; return its batch."""
    if fate == "is replaced":
        other = world.batch(**how)
        ledger_of(other).acquire(takeover=True)
        cluster.forget_sights()
        with pytest.raises(LeaseLost):
            world.turn(batch, 3600)
        return other
    if fate == "leaves":
        batch.close()
    else:
        abandon(batch)
    cluster.forget_sights()
    world.clock.sleep(cluster.rng.choice((0, 30, 900)))
    return open_again()


def check_attempt(attempt, cluster):
    story = cluster.stories[attempt.id]
    last, receipt = story.last, attempt.receipt
    truth = f"{attempt}\n{story}"
    event(f"{story.end}: {'success' if attempt.succeeded else type(attempt.failure).__name__}")
    # a job that the platform called completed and has forgotten is an unverified success: its outputs cannot be checked
    checks_outputs = cluster.outputs and attempt.verified
    is_complete = last is not None and last.code == 0 and (last.complete or not checks_outputs)
    if attempt.succeeded:
        assert is_complete, truth
        assert not last.killed, truth
        assert (last.by_itself and not last.late) or (cluster.outputs and attempt.warnings), truth
    if attempt.verified:
        assert receipt.exit_code == last.code, truth
        assert receipt.started_at.timestamp() == round(clock_time(last.begin) + story.skew, 6), truth
    if attempt.failure is None and not attempt.succeeded:
        assert story.key in cluster.cancelled, truth
        return
    if not story.wrapped:
        check_unwrapped(attempt, story, last, truth)
        return
    leaves_file = cluster.visible and last is not None and all(run.end <= last.end for run in story.runs)
    if story.end == "deleted after its end" and not leaves_file:
        return  # its log went with it
    if last is not None and last.by_itself:
        unseen = not (leaves_file or story.seen_running) and last.mute[1] > story.final_at + 30
        if isinstance(attempt.failure, failures.Unknown) and unseen:
            return  # nothing shows that it began
        check_own_end(attempt, last, is_complete, truth)
    elif not story.seen and isinstance(attempt.failure, failures.Lost):
        # or an earlier driver stopped it for its waiting, and was replaced before it could record the end
        assert "deleted" in story.end or (story.end == "cancelled" and not story.runs), truth
    elif isinstance(attempt.failure, failures.Unknown) and last is not None and last.rotated:
        assert not cluster.visible, truth
        assert not story.seen_running, truth  # its log has lost the line that shows that it began
    elif not attempt.succeeded and story.end in CLASSES:
        assert isinstance(attempt.failure, CLASSES[story.end]), truth


def check_unwrapped(attempt, story, last, truth):
    """Without the wrapper, the platform's word is all, but for what its events say."""
    if story.end == "by itself":
        assert attempt.succeeded == (last.code == 0), truth
        assert attempt.succeeded or isinstance(attempt.failure, failures.Unknown), truth
    elif not attempt.succeeded and story.end in CLASSES and story.end not in ("out of memory", "deadline"):
        unseen = isinstance(attempt.failure, failures.Lost) and not story.seen
        assert unseen or isinstance(attempt.failure, CLASSES[story.end]), truth


def check_own_end(attempt, last, is_complete, truth):
    if last.late:
        assert attempt.verified, truth
        assert attempt.succeeded or isinstance(attempt.failure, failures.TimedOut), truth
        return
    assert attempt.verified, truth
    assert attempt.succeeded == is_complete, truth
    if last.code == 0:
        assert is_complete or isinstance(attempt.failure, failures.MissingOutput), truth
    elif last.oom_kills:
        assert isinstance(attempt.failure, failures.OutOfMemory), truth
    else:
        assert attempt.failure.code == last.code, truth


def check_retries(job, retries_deleted, cluster):
    kinds = [type(attempt.failure) for attempt in job.attempts]
    assert retries_deleted or failures.Deleted not in kinds[:-1], kinds
    assert all(failure.platform or failure is failures.Deleted for failure in kinds[:-1]), kinds
    if kinds and kinds[-1] is failures.Evicted and job.key not in cluster.cancelled:
        assert job.state is JobState.FAILED
        assert kinds.count(failures.Evicted) == 3 or len(kinds) == 5, kinds
