"""Whatever becomes of bundles and their drivers: nothing is lost or invented, and only tasks in flight run twice."""

import itertools
import random
import tempfile
from pathlib import Path

import attrs
from engine import SPEC, World, abandon
from fakes import EPOCH, FakePlatform, Fate
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from canfar_batch import errors
from canfar_batch.fields.keys import file_name
from canfar_batch.payload.receipts import mark, receipt_paths
from canfar_batch.payload.wrapper import MARK
from canfar_batch.records import JobState, Phase
from canfar_batch.strategies import Adaptive, AtOnce, Bundle, Listing, OneByOne, Retry, Window

KILLED = type("Killed", (BaseException,), {})


@attrs.define
class TaskRun:
    """What truly happens to one task in one container. Times are the clock's ticks."""

    key: str
    number: int
    name: str
    begin: float
    end: float
    code: int
    cut: bool = False  #: whether its container died before its end


class Bundles(FakePlatform):
    """A platform in memory whose containers carry bundles, and which keeps the truth about each task."""

    def __init__(self, dice, *, calm, visible):
        super().__init__(forget_after=1e9)  # an end that no driver sees for an hour is lost if the home is hidden
        self.dice, self.calm, self.visible = dice, calm, visible
        self.batch = None
        self.runs = {}  # by id
        self.quiet = False
        self.written = 0.0

    def draw(self, kinds):
        return "ok" if self.quiet or self.dice.random() < self.calm else self.dice.choice(kinds)

    def make(self, request):
        members = [
            (job.key, job.attempts[-1]) for job in self.batch.records
            if job.attempts and job.attempts[-1].launch_name == request.name
        ]  # fmt: skip
        queue, dies = self.dice.choice((0, 5, 40)), not self.quiet and self.dice.random() > self.calm
        lanes, runs = [self.clock.ticks() + queue] * 2, []
        for key, attempt in sorted(members, key=lambda one: one[1].task or 0):
            begin = min(lanes)
            end = begin + self.dice.choice((0.5, 3, 20))
            lanes[lanes.index(begin)] = end
            code = self.dice.choice((0, 0, 0, 0, 3)) if attempt.number < 3 else 0
            runs.append(TaskRun(key, attempt.number, attempt.run_name, begin, end, code))
        end = max(lanes)
        if dies:
            end = self.dice.uniform(self.clock.ticks() + queue, end)
            runs = [run for run in runs if run.begin < end]
            for run in runs:
                run.cut = run.end > end
        is_single = members[0][1].task is None
        code = (runs[0].code if is_single and runs and not dies else 0) or int(dies)
        self.fate = lambda _: Fate(queue=queue, lasts=end - self.clock.ticks() - queue, code=code)
        id = super().make(request)
        self.runs[id] = runs
        event("container dies" if dies else "container ends by itself")
        return id

    def launch(self, request):
        kind = self.draw(("ok", "lost", "not sent", "busy", "kill before", "kill after"))
        if kind == "kill before":
            raise KILLED
        if kind == "not sent":
            raise errors.NotSent("no route")
        if kind == "busy":
            raise errors.PlatformBusy("not now")
        self.check(request)
        id = self.make(request)
        if kind == "kill after":
            raise KILLED
        if kind == "lost":
            raise errors.LaunchInDoubt("no answer", launch_name=request.name)
        return id

    def check(self, request):
        """No job of it runs elsewhere, or has succeeded."""
        now = self.clock.ticks()
        for job in self.batch.records:
            if job.attempts and job.attempts[-1].launch_name == request.name:
                assert job.state is JobState.LAUNCHING
                for runs in self.runs.values():
                    for run in runs:
                        assert run.key != job.key or run.cut or run.end <= now, "it runs in another container"
                        assert run.key != job.key or run.cut or run.code, "it has ended well"

    def containers(self, kind=None):
        self.happen()
        kind = self.draw(("ok", "error", "kill"))
        if kind == "kill":
            raise KILLED
        if kind == "error":
            raise errors.PlatformBroken("a proxy's page")
        return super().containers()

    def container(self, id):
        return self.troubled(super().container, id)

    def logs(self, id):
        return self.troubled(super().logs, id)

    def events(self, id):
        return self.troubled(super().events, id)

    def troubled(self, call, id):
        self.happen()
        kind = self.draw(("ok", "error", "kill"))
        if kind == "kill":
            raise KILLED
        if kind == "error":
            raise errors.PlatformBroken("not now")
        return call(id)

    def happen(self):
        """Let wrappers write the receipt files of the time that has passed."""
        now, home = self.clock.ticks(), Path(self.batch.home)
        for runs in self.runs.values() if self.visible else ():
            for run in runs:
                start, end = map(Path, receipt_paths(str(home), file_name(run.key), run.number))
                if self.written <= run.begin <= now and not start.exists():
                    start.write_text(self.lines(run)[0])
                    (home / "running" / run.name).write_bytes(b"own")
                if run.end <= now and not run.cut and not end.exists():
                    start.write_text(self.lines(run)[0])
                    end.write_text(self.lines(run)[1])

    def lines(self, run):
        began, ended = (EPOCH.timestamp() + at for at in (run.begin, run.end))
        facts = f"key={file_name(run.key)} attempt={run.number} started={began:.6f}"
        end = f"end {facts} finished={ended:.6f} code={run.code} told= late= trouble= outputs=0"
        return (f"{MARK} {run.name} start {facts} #{run.name}\n", f"{MARK} {run.name} {end} #{run.name}\n")

    def printed(self, container):
        now, name = self.clock.ticks(), container.request.name
        if self.phase(container) is Phase.PENDING:
            return b""
        runs = self.runs[container.id]
        said = [(container.born, f"\n{MARK} {name} start tasks=1 #{name}\n")]
        if runs and runs[0].name == name:
            said = []
        for run in runs:
            said.append((run.begin, "\n" + self.lines(run)[0]))
            if not run.cut:
                own = "own" if run.name == name else f"\n{MARK} {run.name} log #{run.name}\nown"
                own += "" if run.name == name else f"\n{MARK} {run.name} logend #{run.name}\n"
                said.append((run.end, f"{own}\n{self.lines(run)[1]}"))
        return "".join(text for at, text in sorted(said, key=lambda one: one[0]) if at <= now).encode()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32 - 1),
    jobs=st.integers(1, 14),
    calm=st.sampled_from((0.6, 0.85, 0.97)),
    visible=st.booleans(),
    then=st.sampled_from((Window(2), AtOnce(), Adaptive(start=2))),
    tasks=st.integers(1, 6),
    monitor=st.sampled_from((Listing(), OneByOne())),
)
def test_every_history_of_bundles_ends_well(seed, jobs, calm, visible, then, tasks, monitor):
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        world = World(Path(place))
        platform = world.platform = Bundles(dice, calm=calm, visible=visible)
        world.clock = platform.clock
        for driver in range(2000):
            platform.quiet = driver > 300 or platform.clock.ticks() > 30_000
            launch = Bundle(tasks=tasks, parallel=2, then=then)
            batch = platform.batch = world.batch(launch=launch, monitor=monitor, retry=Retry(3, at_most=30))
            try:
                batch.map(SPEC, key="j{n}", n=range(jobs))
                batch.run(progress=False, stop_alike=None, timeout=200_000)
                break
            except KILLED:
                abandon(batch)
                world.clock.sleep(dice.choice((0, 1, 50)))
        event(f"drivers: {min(driver, 20)}")
        runs = {job.key: [] for job in batch.records}
        for run in (run for runs_of_one in platform.runs.values() for run in runs_of_one):
            runs[run.key].append(run)
        for job in batch.records:
            assert job.state in (JobState.SUCCEEDED, JobState.FAILED), (job.state, job.failure)
            mine = sorted(runs[job.key], key=lambda run: run.begin)
            well = [run for run in mine if not run.cut and run.code == 0]
            assert len(well) == (job.state is JobState.SUCCEEDED), (job.failure, mine)
            assert all(one.end <= other.begin or one.cut for one, other in itertools.pairwise(mine))
            if job.state is JobState.SUCCEEDED:
                assert (well[0].name, well[0].number) == (job.attempts[-1].run_name, job.attempts[-1].number)
                assert job.attempts[-1].verified
            else:
                assert any(run.code or run.cut for run in mine), f"no job fails for nothing: {job.failure}"
        batch.close()


def test_names_of_runs_differ_within_a_bundle():
    assert mark("x", None) == "x"
    assert mark("x", 3) == "x.3"
