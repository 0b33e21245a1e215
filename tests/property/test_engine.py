"""Whatever the platform does and whenever the driver dies: nothing is lost, invented, or launched needlessly."""

import random
import tempfile
from pathlib import Path

import attrs
from engine import SPEC, World, abandon
from fakes import FakePlatform, Fate
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from canfar_batch import errors
from canfar_batch.records import JobState
from canfar_batch.strategies import Adaptive, AtOnce, Chunks, Listing, OneByOne, Retry, Throttle, Window

KILLED = type("Killed", (BaseException,), {})

LAUNCHES = ("ok", "lost", "late", "never", "not sent", "busy", "refused", "kill before", "kill after")
LISTS = ("ok", "error", "empty", "stale", "partial", "kill")
ENDS = ("succeeds", "fails", "vanishes", "says nothing", "is restarted")
CALLS = ("ok", "error", "kill")


class FaultyPlatform(FakePlatform):
    """A platform in memory whose every answer is drawn, and which keeps the truth about each container."""

    def __init__(self, rng, *, calm):
        super().__init__()
        self.rng, self.calm = rng, calm
        self.truth = {}  # by id: its fate, and whether it vanished
        self.late = []  # requests whose container is made later, with the time
        self.vanish_at = {}
        self.stale = []
        self.batch = None
        self.troubled = set()  # launch names without a clear answer, or whose container vanished or was forgotten
        self.quiet = False

    def draw(self, kinds):
        return "ok" if self.quiet or self.rng.random() < self.calm else self.rng.choice(kinds)

    # -- what happens by itself

    def happen(self):
        now = self.clock.ticks()
        for at, request in [entry for entry in self.late if entry[0] <= now]:
            self.late.remove((at, request))
            self.make(request)
        for id in [id for id, at in self.vanish_at.items() if at <= now]:
            del self.vanish_at[id]
            if self.all.pop(id, None) is not None:
                self.troubled.add(self.truth[id][0])

    def forget_ended(self):
        before = set(self.all)
        super().forget_ended()
        self.troubled.update(self.truth[id][0] for id in before - set(self.all))

    def make(self, request):
        kind = self.rng.choice(ENDS) if self.rng.random() > self.calm else "succeeds"
        fate = Fate(
            queue=self.rng.choice((0, 5, 50)), lasts=self.rng.choice((1, 30, 300)),
            code=1 if kind == "fails" else 0, receipt=kind != "says nothing",
        )  # fmt: skip
        self.fate = lambda _: fate
        id = super().make(request)
        self.truth[id] = (request.name, fate)
        if kind == "vanishes":
            self.vanish_at[id] = self.clock.ticks() + self.rng.uniform(0, fate.queue + fate.lasts)
        if kind == "is restarted":
            self.all[id].fate = attrs.evolve(fate, queue=fate.queue + 40)
        return id

    # -- requests of the driver

    def launch(self, request):
        self.happen()
        kind = self.draw(LAUNCHES)
        event(f"launch: {kind}")
        self.check(request)
        if kind == "kill before":
            raise KILLED
        if kind == "not sent":
            raise errors.NotSent("no route")
        if kind == "busy":
            raise errors.PlatformBusy("not now", retry_after=self.rng.choice((None, 40.0)))
        self.troubled.update({request.name} if kind not in ("ok", "kill after", "lost") else ())
        if kind == "refused":
            raise errors.PlatformRefused("never", status=400)
        if kind == "late":
            self.late.append((self.clock.ticks() + self.rng.uniform(1, 300), request))
        if kind in ("ok", "lost", "kill after"):
            id = self.make(request)
        if kind == "kill after":
            raise KILLED
        if kind != "ok":
            raise errors.LaunchInDoubt("no answer", launch_name=request.name)
        return id

    def check(self, request):
        """No launch is sent that is not recorded, or whose job is final or known to run."""
        job = next(job for job in self.batch.records if job.attempts and job.attempts[-1].launch_name == request.name)
        assert job.state is JobState.LAUNCHING
        assert all(attempt.ended and not attempt.succeeded for attempt in job.attempts[:-1])
        known = {attempt.id for attempt in job.attempts}
        assert not [c for c in self.all.values() if c.id in known and not self.phase(c).final]

    def containers(self, kind=None):
        self.happen()
        kind = self.draw(LISTS)
        event(f"list: {kind}")
        whole = super().containers()
        if kind == "kill":
            raise KILLED
        if kind == "error":
            raise errors.PlatformBroken("a proxy's page")
        shown = {"empty": [], "stale": self.stale, "partial": whole[::2]}.get(kind, whole)
        self.stale = whole
        return shown

    def container(self, id):
        return self.troubled_call(super().container, id)

    def logs(self, id):
        return self.troubled_call(super().logs, id)

    def events(self, id):
        return self.troubled_call(super().events, id)

    def troubled_call(self, call, id):
        self.happen()
        kind = self.draw(CALLS)
        if kind == "kill":
            raise KILLED
        if kind == "error":
            raise errors.PlatformBroken("not now")
        return call(id)


LAUNCHERS = (AtOnce(), Window(3), Chunks(4, pause=5.0), Throttle(0.3, then=Window(5)), Adaptive(start=2))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32 - 1),
    jobs=st.integers(1, 12),
    calm=st.sampled_from((0.5, 0.8, 0.95)),
    launch=st.sampled_from(LAUNCHERS),
    monitor=st.sampled_from((Listing(), OneByOne())),
)
def test_every_history_ends_well(seed, jobs, calm, launch, monitor):
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        world = World(Path(place))
        platform = world.platform = FaultyPlatform(rng, calm=calm)
        world.clock = platform.clock
        for driver in range(2000):
            platform.quiet = driver > 400 or platform.clock.ticks() > 40_000  # faults end; the batch must, too
            batch = platform.batch = world.batch(launch=launch, monitor=monitor, retry=Retry(2))
            try:
                batch.map(SPEC, key="j{n}", n=range(jobs))
                batch.run(progress=False, stop_alike=None, timeout=200_000)
                break
            except KILLED:
                abandon(batch)
                world.clock.sleep(rng.choice((0, 1, 100)))
        event(f"drivers: {min(driver, 20)}")
        check_the_end(batch, platform, jobs)
        launched, platform.quiet = len(platform.launched), True
        batch.run(progress=False)
        assert len(platform.launched) == launched, "a batch that is done launches nothing"
        batch.close()


def check_the_end(batch, platform, jobs):
    assert list(batch.results()) == [f"j{n}" for n in range(jobs)]
    for job in batch.records:
        assert job.state.final
        assert [attempt.number for attempt in job.attempts] == [*range(1, len(job.attempts) + 1)]
        assert all(attempt.ended for attempt in job.attempts)
        assert [attempt.succeeded for attempt in job.attempts].count(True) == (job.state is JobState.SUCCEEDED)
        if job.state is JobState.SUCCEEDED:
            name, fate = platform.truth[job.id]
            assert (name, fate.code) == (job.attempts[-1].launch_name, 0)
            assert job.collected
        else:
            names = {attempt.launch_name for attempt in job.attempts}
            failed = {name for name, fate in platform.truth.values() if fate.code}
            killed_before = any(attempt.id is None for attempt in job.attempts)
            assert names & (failed | platform.troubled) or killed_before, f"no job fails for nothing: {job.failure}"
