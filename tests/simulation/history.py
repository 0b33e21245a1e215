"""One history of a batch, drawn from a seed: its jobs, its cluster, its drivers and their ends, and its user."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import attrs
from engine import SPEC, World, abandon, engine_of, ledger_of

from canfar_batch import failures
from canfar_batch.errors import BatchBusy, BatchPaused, LeaseLost, SpecChanged
from canfar_batch.lifecycle import Adopted, Cancelled, Ended, LateSuccess, Reopened, Respecified
from canfar_batch.records import JobState
from canfar_batch.strategies import Adaptive, AtOnce, Bundle, Chunks, Listing, OneByOne, Retry, Throttle, Window
from simulation.bundles import BundleCluster
from simulation.checks import check_batch, check_job
from simulation.cluster import OUTPUT, Cluster
from simulation.trouble import Killed, Trouble

LAUNCHERS = (AtOnce(), Window(3), Chunks(3, pause=5.0), Throttle(0.3, then=Window(4)), Adaptive(start=2))
MONITORS = (Listing(), Listing(every=(2.0, 8.0)), OneByOne())
ENDS = ("is killed", "is killed", "is killed", "leaves", "is replaced", "sleeps")
OUTAGES = ("broken", "unreachable", "busy", "credential")
AWAY = (0.0, 1.0, 60.0, 900.0)  #: seconds between two drivers
LONG_AWAY = 5000.0  #: seconds for which the platform does not remember
SLEEP = 700.0  #: seconds, for which no lease lasts
#: on memory if there is such a place: no test here cuts the power
PLACE = next((place for place in ("/dev/shm",) if Path(place).is_dir()), None)


class StormyCluster(Trouble, Cluster):
    """A cluster whose answers may go wrong."""

    def check_job(self, job, *, retries_deleted):
        check_job(job, self, retries_deleted=retries_deleted)


class StormyBundles(Trouble, BundleCluster):
    """A cluster of bundles whose answers may go wrong."""


@attrs.frozen(kw_only=True)
class Scenario:
    """What is drawn before a history begins."""

    jobs: int
    drivers: int
    calm: float
    visible: bool
    wrapped: bool
    outputs: bool
    timeout: float | None
    pending_timeout: float | None
    launch: Callable
    bundles: int  #: tasks of a bundle at most; 0 for no bundles
    monitor: Callable
    retries_deleted: bool
    cancels: bool
    edits: bool
    jumps: bool
    outages: tuple[tuple[float, float, str], ...]

    @classmethod
    def draw(cls, rng, *, bundles=None):
        bundles = rng.choice((0, 0, 0, 0, 1, 2, 6) if bundles is None else (1, 2, 6) if bundles else (0,))
        wrapped = bool(bundles) or rng.random() < 0.8
        return cls(
            bundles=bundles,
            jobs=rng.randint(1, 12 if bundles else 5),
            drivers=rng.choice((1, 1, 2, 3, 4)),
            calm=rng.choice((0.7, 0.9, 0.97, 1.0)),
            visible=rng.random() < 0.6,
            wrapped=wrapped,
            outputs=wrapped and not bundles and rng.random() < 0.5,
            timeout=rng.choice((None, None, 30.0, 200.0)) if wrapped and not bundles else None,
            pending_timeout=None if bundles else rng.choice((None, None, 60.0, 400.0)),
            launch=rng.choice(LAUNCHERS),
            monitor=rng.choice(MONITORS),
            retries_deleted=rng.random() < 0.5,
            cancels=rng.random() < 0.3,
            edits=rng.random() < 0.3,
            jumps=rng.random() < 0.3,
            outages=tuple(
                (begin, begin + rng.choice((30.0, 400.0, 3600.0)), rng.choice(OUTAGES))
                for begin in [rng.uniform(0, 900)] * (rng.random() < 0.3)
            ),
        )  # fmt: skip


@attrs.frozen(kw_only=True)
class History:
    """What came of one seed."""

    seed: int
    scenario: Scenario
    lines: list[str]  #: what happened, in order
    counts: collections.Counter  #: of drivers, kills, launches and so on

    @property
    def digest(self):
        """A short text that is the same for the same history."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()[:16]


class PromiseBroken(AssertionError):
    """A history in which a promise of the package did not hold."""


def play(seed, *, bundles=None):
    """Play the history of this seed, and return it.

    Args:
        seed: The seed.
        bundles: Whether containers carry bundles; None lets the seed decide.

    Raises:
        PromiseBroken: A promise did not hold; its `__cause__` says which, and its `history` what happened.
    """
    rng = random.Random(seed)
    random.seed(seed)  # the monitors' jitter
    scenario = Scenario.draw(rng, bundles=bundles)
    with tempfile.TemporaryDirectory(dir=PLACE) as place:
        playing = _Playing(scenario, rng, Path(place))
        history = History(seed=seed, scenario=scenario, lines=playing.lines, counts=playing.counts)
        try:
            with (
                playing.cluster.points.in_ledgers(),
                mock.patch("secrets.token_hex", lambda n: f"{rng.getrandbits(8 * n):0{2 * n}x}"),
            ):
                playing.play()
        except Exception as error:
            broken = PromiseBroken(f"seed {seed}: {type(error).__name__}: {error}")
            broken.history = history
            raise broken from error
    return history


def make_cluster(scenario, rng):
    if scenario.bundles:
        return StormyBundles(rng, visible=scenario.visible)
    return StormyCluster(
        rng, visible=scenario.visible, outputs=scenario.outputs, wrapped=scenario.wrapped, timeout=scenario.timeout
    )


class _Playing:
    def __init__(self, scenario, rng, place):
        self.scenario, self.rng, self.place = scenario, rng, place
        self.lines, self.counts = [], collections.Counter(histories=1)
        self.cluster = cluster = make_cluster(scenario, rng)
        cluster.calm, cluster.outages = scenario.calm, scenario.outages
        cluster.polls_by_id = isinstance(scenario.monitor, OneByOne)
        cluster.is_unbroken = scenario.drivers == 1 and not scenario.outages
        self.world = World(place)
        self.world.platform, self.world.clock = cluster, cluster.clock
        self.spec = attrs.evolve(
            SPEC, outputs=(OUTPUT,) * scenario.outputs, pending_timeout=scenario.pending_timeout,
            receipt=scenario.wrapped, timeout=scenario.timeout,
        )  # fmt: skip
        self.planned = scenario.jobs  #: by the script as it is now
        self.most = scenario.jobs
        self.commands, self.accepted = {}, {}  # by the job's number: as the script has it; as the ledger has it
        self.states, self.known = {}, set()
        self.stopped = {}  # by key: how many attempts a job had when the user cancelled it

    # -- what happens

    def play(self):
        for _ in range(self.scenario.drivers - 1):
            self.drive(self.rng.choice(ENDS))
            self.come_back()
        self.run_to_the_end()

    def drive(self, end):
        self.say(f"a driver, which {end}")
        self.counts[end] += 1
        points = self.cluster.points
        points.left = int(self.rng.expovariate(1 / 20)) if end == "is killed" else None
        contacts = len(self.cluster.contacts)
        batch = None
        try:
            batch = self.open()
            self.go_on(batch)
        except Killed as point:
            self.say(f"killed {point}")
            del self.cluster.contacts[contacts:]  # what it knew is not known to have been recorded
        points.left = None
        if batch is None:
            return  # it was killed while it opened the ledger
        if end == "is killed":
            abandon(batch)
        elif end == "leaves":
            batch.close()
        else:
            self.replace(batch, is_asleep=end == "sleeps")

    def go_on(self, batch):
        """Let the script run for a while, and the user act."""
        self.plan(batch)
        self.turn(batch, self.rng.choice((3.0, 30.0, 300.0, 1500.0)))
        if self.scenario.cancels and self.rng.random() < 0.5:
            self.cancel(batch)
            self.turn(batch, self.rng.choice((0.5, 30.0, 300.0)))

    def turn(self, batch, seconds):
        """Let *batch* be driven for so long, or until it is done."""
        clock = self.world.clock
        end = clock.ticks() + seconds
        with contextlib.suppress(BatchPaused):  # the first jobs all failed alike
            while clock.ticks() < end and not batch.done:
                wait = batch.step()
                engine_of(batch).wait(min(wait, end - clock.ticks()))

    def cancel(self, batch):
        keys = sorted(job.key for job in batch.records if not job.state.final and self.rng.random() < 0.4)
        self.cluster.cancelled.update(keys)
        self.counts["cancels"] += len(keys)
        self.say(f"cancel {keys}")
        attempts = {job.key: len(job.attempts) for job in batch.records}
        ledger_of(batch).ask("cancel", keys)  # as a process does that does not drive
        self.stopped.update({key: attempts[key] for key in keys})

    def replace(self, batch, *, is_asleep):
        """Let another driver take over, while this one is alive."""
        other = self.open()
        try:
            ledger_of(other).acquire()
        except BatchBusy:
            pass
        else:
            assert batch.done or not ledger_of(batch).driving, "a second driver was let in"
            ledger_of(other).release()
        if is_asleep:
            self.world.clock.sleep(SLEEP)
        ledger_of(other).acquire(takeover=not is_asleep)
        if ledger_of(batch).driving:
            try:
                self.turn(batch, 3600.0)
            except LeaseLost:
                pass
            else:
                assert batch.done, "the first driver goes on"
        batch.close()
        abandon(other)

    def come_back(self):
        scenario, rng = self.scenario, self.rng
        away = rng.choice((*AWAY, LONG_AWAY)) if scenario.visible and scenario.wrapped else rng.choice(AWAY)
        self.world.clock.sleep(away)
        if scenario.jumps and rng.random() < 0.5:
            self.world.clock.set(rng.choice((-7200.0, -300.0, 300.0, 7200.0)))
            self.counts["clock jumps"] += 1
        if scenario.edits:
            self.edit()
        self.say(f"away for {away} s, the clock is {self.world.clock.ahead} s ahead, {self.planned} jobs planned")

    def edit(self):
        """Let the user change the script."""
        kind = self.rng.choice(("more jobs", "fewer jobs", "more memory", "another command"))
        self.counts["edits"] += 1
        if kind == "more jobs":
            self.planned = self.most = self.most + self.rng.randint(1, 2)
        elif kind == "fewer jobs":
            self.planned = self.rng.randint(1, self.most)
        elif kind == "more memory":
            self.spec = attrs.evolve(self.spec, ram=self.rng.choice((2, 4, 8)))
        else:
            self.commands[self.rng.randrange(self.most)] = ("fit", self.rng.choice(("--fast", "--slow")), "{n}")

    def run_to_the_end(self):
        self.say("the last driver")
        batch, cluster = self.open(), self.cluster
        self.plan(batch)
        self.turn(batch, 3000.0)
        cluster.quiet = True
        batch.run(progress=False, stop_alike=None, timeout=200_000)
        cluster.happen()
        self.counts["of bundles"] += bool(self.scenario.bundles)
        self.counts["launches"] += len(cluster.launched)
        self.counts["answers gone wrong"] += cluster.troubles
        assert cluster.violations == [], cluster.violations[0]
        check_batch(
            batch,
            cluster,
            planned=self.known,
            asked={f"j{n}" for n in range(self.most)},
            retries_deleted=self.scenario.retries_deleted,
        )
        for key, attempts in self.stopped.items():
            assert len(batch[key].attempts) <= attempts + 1, f"{key} was cancelled, and is launched again"
        launched = len(cluster.launched)
        batch.run(progress=False)
        assert len(cluster.launched) == launched, "a batch that is done launches nothing"
        batch.close()

    # -- the script

    def open(self):
        scenario = self.scenario
        classes = [failures.Deleted] * scenario.retries_deleted
        retry = Retry(3, classes=classes, at_most=30) if scenario.bundles else Retry(2, classes=classes)
        launch = scenario.launch
        if scenario.bundles:
            launch = Bundle(tasks=scenario.bundles, parallel=2, then=launch)
        batch = self.world.batch(
            launch=launch, monitor=scenario.monitor, retry=retry, random=self.rng.random,
            observers=(lambda event: self.witness(ledger_of(batch), event),),
        )  # fmt: skip
        (Path(batch.home) / "receipts").mkdir(exist_ok=True)
        self.cluster.batch = batch
        self.cluster.forget_sights()
        return batch

    def plan(self, batch):
        """Plan the jobs of the script, as it is now."""
        self.ask_for_jobs(batch)
        self.known.update(f"j{n}" for n in range(self.planned))
        now = {job.key: job.state for job in batch.records}
        for key in [key for key, state in self.states.items() if state.final and not now[key].final]:
            self.stopped.pop(key, None)  # opened again, for another command
            self.cluster.reopened.add(key)
        self.states = now

    def ask_for_jobs(self, batch):
        if not self.commands:
            batch.map(self.spec, key="j{n}", n=range(self.planned))
            return
        for n in range(self.planned):
            wanted = self.commands.get(n, SPEC.cmd)
            for cmd in (wanted, self.accepted.get(n, SPEC.cmd)):
                try:
                    batch.add(attrs.evolve(self.spec, cmd=cmd), key="j{n}", n=n)
                except SpecChanged:
                    continue  # the user takes the change back
                self.accepted[n] = cmd
                break

    # -- what is seen of it

    def witness(self, ledger, event):
        """Note an event of the ledger, and check what must hold at this moment."""
        now, cluster = self.world.clock.ticks(), self.cluster
        self.lines.append(f"{now:.3f} {event!r}".replace(str(self.place), "~"))
        job = ledger.jobs[event.key]
        if isinstance(event, Reopened):
            self.stopped.pop(event.key, None)
            cluster.reopened.add(event.key)
        before, self.states[event.key] = self.states.get(event.key), job.state
        if before is not None and before.final and not isinstance(event, (LateSuccess, Reopened, Respecified, Adopted)):
            self.check(job.state is before, f"{event} changes a job that is {before}")
        if isinstance(event, (Ended, Cancelled)) and job.state in (JobState.SUCCEEDED, JobState.CANCELLED):
            runs = cluster.running(event.key, newest=job.state is JobState.SUCCEEDED)
            # before a run that the platform began again has reported, its receipt may be that of the run before
            self.check(not runs or cluster.began_again(event.key), f"{event}, and it runs: {runs}")

    def check(self, good, what):
        """Note a violation; an exception of an observer would be swallowed."""
        if not good:
            self.cluster.violations.append(what)

    def say(self, text):
        self.lines.append(f"{self.world.clock.ticks():.3f} {text}")
