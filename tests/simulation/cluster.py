"""A cluster whose containers have random histories, and which keeps the truth about each."""

from __future__ import annotations

import base64
import itertools
import math
from datetime import timedelta
from pathlib import Path

import attrs
from fakes import EPOCH, FakeClock, FakePlatform

from canfar_batch.errors import JobNotFound
from canfar_batch.fields.keys import file_name
from canfar_batch.payload.receipts import receipt_paths
from canfar_batch.payload.wrapper import MARK
from canfar_batch.records import ContainerInfo, JobState, Phase

PENDING, RUNNING, COMPLETED, FAILED, ABSENT = Phase.PENDING, Phase.RUNNING, Phase.COMPLETED, Phase.FAILED, None
OUTPUT = "{n}.fits"
LIFETIME = 14 * 86400.0  #: seconds from the start of a run to the platform's deadline
GRACE = 20.0  #: seconds that the wrapper gives a command that was asked to stop
ROTATES_AFTER = 120.0  #: seconds from the start of a run until its log can lose its beginning
PATIENCE = 500.0  #: seconds for which a driver waits at least for a log that it cannot have
SOON = 60.0  #: seconds after an end in which it is looked into
NEVER = math.inf

ENDS = (
    "by itself", "out of memory", "evicted", "drained", "pre-empted", "forced", "node lost", "deleted", "deadline",
    "deleted before it begins", "deleted after its end", "start error",
)  # fmt: skip
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
            if run.pod_until > at:
                run.pod_until = max(at, run.end)
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
    """A clock with which the cluster goes on. The date that it shows may be set; its ticks may not."""

    cluster = None
    ahead = 0.0  #: seconds by which the date that the driver's machine shows is ahead of the cluster's
    was_set = False

    def now(self):
        return super().now() + timedelta(seconds=self.ahead)

    def set(self, ahead):
        """Let somebody set the date."""
        self.ahead, self.was_set = ahead, True

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
        self.troubles = 0  # answers that went wrong
        self.polls_by_id = True  # whether the monitor asks for each container
        self.is_unbroken = True  # one driver watches all the time, and no clock is set
        self.reopened = set()  # keys of the jobs that the user opened again
        self.contacts = [0.0]  # when a driver had an answer about containers
        self.owners = {}  # by launch name: the job's key, and the number of the attempt

    # -- what happens by itself

    def make(self, request):
        id = super().make(request)
        key, number = self.owners[request.name]
        self.check_alone(key, request.name)
        story = self.stories[id] = write_story(self.rng, self.clock.ticks(), wrapped=self.wrapped, timeout=self.timeout)
        story.key, story.number, story.name = key, number, request.name
        return id

    def launch(self, request):
        self.note_owner(request.name)
        return super().launch(request)

    def note_owner(self, name):
        """Note whose launch this is: it must be in the ledger, and the job must not have ended well."""
        job = next(job for job in self.batch.records if job.attempts and job.attempts[-1].launch_name == name)
        if job.state is not JobState.LAUNCHING or not all(at.ended and not at.succeeded for at in job.attempts[:-1]):
            self.violations.append(f"{name} is launched, though its job is {job}")
        self.owners[name] = job.key, job.attempts[-1].number

    def check_alone(self, key, name):
        """Note a violation if another container of the job runs, or may yet.

        An earlier pod of it may outlive the last one, which the platform began too soon.
        """
        for before in self.stories.values():
            if before.key == key and any(run.end > self.clock.ticks() for run in before.runs[-1:]):
                self.violations.append(f"{name} is launched at {self.clock.ticks()} while {before} may run")

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
        ran = {attempt.launch_name for job in self.batch.records for attempt in job.attempts if attempt.has_run}
        for story in self.stories.values():
            story.seen = story.seen_running = story.name in ran

    def was_unwatched(self, story):
        """Return whether the platform may have forgotten the container before anybody looked."""
        return self.longest_gap(story) >= self.forget_after or self.clock.was_set

    def longest_gap(self, story):
        """Return for how long no driver had an answer, at or soon after the end of a container."""
        known = [0.0, *self.contacts, NEVER]
        end = story.final_at
        return max(after - before for before, after in itertools.pairwise(known) if after > end and before < end + SOON)

    def could_read(self, story):
        """Return whether a driver was there while the log of an ended container was, and soon enough to wait for it."""
        mute, contacts = story.last.mute, [at for at in self.contacts if story.final_at <= at]
        latest = min(story.final_at + self.forget_after - PATIENCE, min(contacts, default=NEVER) + PATIENCE)
        return any(at <= latest and not mute[0] <= at < mute[1] for at in contacts)

    def lost_its_log(self, name):
        """Return whether the log of a launch could not be fetched after its end."""
        story = next(story for story in self.stories.values() if story.name == name)
        return not self.could_read(story) or "deleted" in story.end or story.end == "cancelled"

    def running(self, key, *, newest):
        """Return the runs of a job that are alive; with *newest*, of each container only the last.

        The platform may begin a container again before its first pod is dead: that is its own doing.
        """
        stories = [story for story in self.stories.values() if story.key == key]
        runs = [run for story in stories for run in ([story.last] if newest else story.runs) if run is not None]
        return [run for run in runs if run.alive(self.clock.ticks())]

    def began_again(self, key):
        """Return whether the platform began a container of the job again."""
        return any(story.key == key and len(story.runs) > 1 for story in self.stories.values())

    # -- requests of the driver

    def containers(self, kind=None):
        self._called("containers")
        self.contacts.append(self.clock.ticks())
        infos = map(self._info, self.stories)
        return [self.seen(info) for info in self.shown([info for info in infos if info is not None])]

    def container(self, id):
        self._called("container")
        info = self._info(id) if id in self.stories else None
        self.contacts.append(self.clock.ticks())
        if info is None:
            raise JobNotFound(f"session {id} not found", status=404, server_text=f"session {id} not found")
        return self.seen(info, counts=self.polls_by_id)

    def seen(self, info, *, counts=True):
        """Return what the driver gets to see; a check whether a container exists counts for nothing more."""
        story = self.stories[info.id]
        story.seen = True
        story.seen_running |= counts and info.phase is RUNNING
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
        self.note_cancel(id)
        if self._info(id) is not None:
            self.stories[id].delete(self.clock.ticks(), self.rng)

    def note_cancel(self, id):
        """Note a violation if a container is to be stopped without a reason; only the first try of each counts."""
        story, now = self.stories[id], self.clock.ticks()
        if self._info(id) is None or story.end.startswith("cancelled"):
            return
        is_mute = any(run.mute[0] <= now < run.mute[1] for run in story.runs)
        shows = (self.visible and self.wrapped) or (story.seen_running and not is_mute) or bool(self.log(story))
        ran = [run for run in story.runs if run.begun(now)]
        is_late = bool(ran) and self.timeout is not None and ran[-1].alive(now) and now - ran[-1].begin > self.timeout
        is_asked_for = is_late or story.key in self.cancelled
        if ran and shows and not is_asked_for and not self.clock.was_set and not self.troubles:
            self.violations.append(f"{story} is cancelled at {now}, though it has run")
        story.end = "cancelled for its time" if is_late and story.key not in self.cancelled else "cancelled"

    def _info(self, id):
        story, now = self.stories[id], self.clock.ticks()
        phase, start = story.shown(now)
        if phase is ABSENT or now - story.final_at > self.forget_after:
            return None
        started = None if start is None else EPOCH + timedelta(seconds=math.floor(start))
        return ContainerInfo(
            id=id, name=story.name, phase=phase, status=phase.value.capitalize(), started_at=started,
            expires_at=None if started is None else started + timedelta(seconds=story.lifetime),
        )  # fmt: skip


def clock_time(ticks):
    return EPOCH.timestamp() + ticks
