"""A cluster whose containers carry bundles, some of which die on the way, and which keeps the truth about each task."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import attrs
from fakes import EPOCH, FakePlatform, Fate

from canfar_batch.fields.keys import file_name
from canfar_batch.payload.receipts import receipt_paths
from canfar_batch.payload.wrapper import MARK
from canfar_batch.records import JobState, Phase
from simulation.cluster import ClusterClock

DIES = 0.15  #: the share of containers that do not live to their end


class Steady(random.Random):
    """Dice by which every container begins at once, lives to its end, and every task takes 20 s.

    Args:
        codes: The exit codes of the tasks, in order; 0 for all others.
    """

    def __init__(self, *codes):
        super().__init__(0)
        self.codes = list(codes)

    def random(self):
        return 0.99

    def choice(self, kinds):
        if kinds == (0, 0, 0, 0, 3):
            return self.codes.pop(0) if self.codes else 0
        return 20 if kinds == (0.5, 3, 20) else kinds[0]


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
    told: bool = False  #: whether it was asked to stop
    delay: float = 0.0  #: seconds after which the files of its receipts are seen: a network disk may be slow

    def alive(self, now):
        return self.begin <= now < self.end


class BundleCluster(FakePlatform):
    """A platform in memory whose containers carry bundles.

    It forgets nothing: an end that no driver sees for an hour is lost if the home is hidden.
    """

    quiet = False

    def __init__(self, rng, *, visible):
        super().__init__(ClusterClock(), forget_after=1e9)
        self.clock.cluster = self
        self.rng, self.visible = rng, visible
        self.batch = None
        self.cancelled, self.reopened = set(), set()  # keys of the jobs that the user cancelled, and opened again
        self.runs = {}  # by id
        self.owners = {}  # by launch name: key, attempt's number and run name of each task
        self.written = 0.0  # receipt files are written up to this time
        self.contacts, self.violations, self.troubles = [0.0], [], 0

    # -- what happens by itself

    def note_owner(self, name):
        """Note whose launch this is: it must be in the ledger, and no job of it must have ended well."""
        carried = [job for job in self.batch.records if job.attempts and job.attempts[-1].launch_name == name]
        for job in carried:
            if job.state is not JobState.LAUNCHING or any(attempt.succeeded for attempt in job.attempts):
                self.violations.append(f"{name} is launched, though a job of it is {job}")
        newest = sorted((job.attempts[-1].task or 0, job.key, job.attempts[-1]) for job in carried)
        self.owners[name] = [(key, attempt.number, attempt.run_name) for _, key, attempt in newest]

    def launch(self, request):
        self.note_owner(request.name)
        return super().launch(request)

    def make(self, request):
        now, owners = self.clock.ticks(), self.owners[request.name]
        for key, _, _ in owners:
            if any(run.end > now or not (run.cut or run.code) for run in self.runs_of(key)):
                self.violations.append(f"{request.name} is launched at {now} with {key}: {self.runs_of(key)}")
        queue, dies = self.rng.choice((0, 5, 40)), not self.quiet and self.rng.random() < DIES
        lanes, runs = [now + queue] * 2, []
        for key, number, name in owners:
            begin = min(lanes)
            end = begin + self.rng.choice((0.5, 3, 20))
            lanes[lanes.index(begin)] = end
            code = self.rng.choice((0, 0, 0, 0, 3)) if number < 3 else 0
            delay = 0.0 if self.quiet else self.rng.choice((0.0, 0.0, 0.0, 20.0))
            runs.append(TaskRun(key, number, name, begin, end, code, delay=delay))
        end = max(lanes)
        if dies:
            end = self.rng.uniform(now + queue, end)
            runs = cut_off(runs, end)
        is_single = owners[0][2] == request.name and len(owners) == 1
        code = (runs[0].code if is_single and runs and not dies else 0) or int(dies)
        self.fate = lambda _: Fate(queue=queue, lasts=end - now - queue, code=code)
        id = super().make(request)
        self.runs[id] = runs
        return id

    def happen(self):
        """Let tasks hear of requests to stop, and wrappers write the receipt files of the time that has passed."""
        now = self.clock.ticks()
        if not self.visible or self.batch is None:
            return
        home = Path(self.batch.home)
        for run in itertools.chain.from_iterable(self.runs.values()):
            if run.end > now and (home / "running" / f"{run.name}.stop").exists():
                run.told, run.code, run.end = True, 143, max(now, run.begin)
            start, end = map(Path, receipt_paths(str(home), file_name(run.key), run.number))
            if run.begin <= now - run.delay and self.written <= run.begin + run.delay and not start.exists():
                start.write_text(self.lines(run)[0])
                (home / "running").mkdir(exist_ok=True)
                (home / "running" / run.name).write_bytes(b"own")
            if run.end <= now - run.delay and not run.cut and not end.exists():
                start.write_text(self.lines(run)[0])
                end.write_text(self.lines(run)[1])
        self.written = now

    def lines(self, run):
        began, ended = (EPOCH.timestamp() + at for at in (run.begin, run.end))
        facts = f"key={file_name(run.key)} attempt={run.number} started={began:.6f}"
        told = "TERM" if run.told else ""
        end = f"end {facts} finished={ended:.6f} code={run.code} told={told} late= trouble= outputs=0"
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

    def cancel(self, id):
        if id in self.runs:
            self.runs[id] = cut_off(self.runs[id], self.clock.ticks())
        super().cancel(id)

    def note_cancel(self, id):
        """Do nothing: each cancel is asked for by the user, or for a container that is one too many."""

    def forget_sights(self):
        """Do nothing: what a driver has seen decides nothing here."""

    # -- the truth

    def runs_of(self, key):
        return [run for run in itertools.chain.from_iterable(self.runs.values()) if run.key == key]

    def running(self, key, *, newest):
        """Return the runs of a job that are alive."""
        return [run for run in self.runs_of(key) if run.alive(self.clock.ticks())]

    def began_again(self, key):
        """Return that the platform began no container again: bundles end for good here."""
        return False

    def check_job(self, job, *, retries_deleted):
        """Check that the job succeeded once, if at all, never ran twice at a time, and failed for a reason."""
        mine = sorted(self.runs_of(job.key), key=lambda run: run.begin)
        truth = f"{job.state} {job.failure} {mine}"
        well = [run for run in mine if not run.cut and run.code == 0]
        # a job that the user cancels may have ended well just before, and its report have gone with its container
        was_stopped = job.state is JobState.CANCELLED and len(well) < 2
        assert was_stopped or len(well) == (job.state is JobState.SUCCEEDED), truth
        assert all(one.end <= other.begin for one, other in itertools.pairwise(mine)), truth
        if job.state is JobState.SUCCEEDED:
            assert (well[0].name, well[0].number) == (job.attempts[-1].run_name, job.attempts[-1].number), truth
            assert job.attempts[-1].verified, truth
        elif job.key not in self.cancelled:
            came_to_nothing = any(attempt.id is None for attempt in job.attempts)
            assert came_to_nothing or any(run.code or run.cut for run in mine), f"no job fails for nothing: {truth}"


def cut_off(runs, end):
    """Return what remains of *runs* in a container that dies at *end*."""
    begun = [run for run in runs if run.begin < end]
    for run in begun:
        if run.end > end:
            run.cut, run.end = True, end
    return begun
