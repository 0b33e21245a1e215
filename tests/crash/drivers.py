"""Drivers as processes of their own, and what must hold of the batch that they leave."""

import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import attrs

import canfar_batch as cb
from canfar_batch.failures import ExitCode
from canfar_batch.records import JobState

SCRIPT = Path(__file__).with_name("driver.py")
PATIENCE = 60.0  #: seconds after which something that should come is not waited for any more


class ForkServer:
    """Starts drivers, one after the other, from a process that has loaded everything."""

    def __init__(self, platform, directory):
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPT), "--serve"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=directory, env=environment(platform),
        )  # fmt: skip

    def start(self, **order):
        """The process id of a new driver."""
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def wait(self):
        """The exit code of that driver; negative where a signal ended it."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    @staticmethod
    def kill(pid, number=signal.SIGKILL):
        """Send a signal to the driver that was started last. Until `wait`, no other process can have its number."""
        os.kill(pid, number)

    def run(self, **order):
        """Start a driver and wait for its end."""
        self.start(**order)
        return self.wait()

    def close(self):
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._process.stdout.close()


@contextlib.contextmanager
def fork_server(platform, directory):
    """A `ForkServer` that ends with the block."""
    server = ForkServer(platform, directory)
    try:
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def driver(platform, world, **order):
    """A driver that was started like a user's script; it ends with the block at the latest."""
    words = [sys.executable, str(SCRIPT), json.dumps({**world.order, **order})]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, cwd=world.directory, env=environment(platform))
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.wait(PATIENCE)


def environment(platform):
    """The environment of a driver: the platform, and nothing of the user's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CANFAR_")}
    return {**kept, "CANFAR_URL": platform.url, "CANFAR_TOKEN": platform.token}


def has_digested(platform):
    """True once the platform has handled every request of clients that have ended.

    No test promises how long that takes on a busy machine; the settle time bounds how long a launch is in flight.
    """
    port = urlsplit(platform.url).port
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return not any(int(row[1].partition(":")[2], 16) == port and row[3] in _OPEN for row in rows)


_OPEN = ("01", "08")  # ESTABLISHED, CLOSE_WAIT: include/net/tcp_states.h of Linux


@attrs.frozen
class World:
    """One batch's directory, and its plan."""

    directory: Path
    order: dict

    @classmethod
    def make(cls, directory, **order):
        directory.mkdir(parents=True)
        paths = {"home": "homes", "trace": "trace", "output": "output"}
        return cls(directory, {**{name: str(directory / file) for name, file in paths.items()}, **order})

    @property
    def home(self):
        """The batch's own directory."""
        return Path(self.order["home"]) / self.order.get("name", "crash")

    @property
    def ledger(self):
        """The batch's ledger."""
        return self.home / "ledger.db"

    @property
    def output(self):
        """The drivers' output."""
        path = Path(self.order["output"])
        return path.read_text() if path.exists() else ""

    def starts(self):
        """How often each job began, as the jobs themselves wrote it down."""
        path = Path(self.order["trace"])
        lines = path.read_text().splitlines() if path.exists() else []
        return collections.Counter(line.split()[0] for line in lines)

    @contextlib.contextmanager
    def batch(self):
        """The batch, to be read."""
        batch = cb.open(self.order.get("name", "crash"), self.order["home"])
        try:
            yield batch
        finally:
            batch.close()

    def verdict(self):
        """What became of the batch."""
        count, codes = self.order.get("jobs", 20), dict(self.order.get("failing", ()))
        keys = [f"job-{number:04d}" for number in range(count)]
        with self.batch() as batch:
            jobs, results = batch.records, batch.results()
        wrong = []
        if [job.key for job in jobs] != keys or list(results) != keys:
            wrong.append(f"planned {count} jobs in order; there are {[job.key for job in jobs]}")
        starts = self.starts()
        verdict = Verdict(jobs=count, starts=sum(starts.values()), wrong=wrong)
        for number, job in enumerate(jobs):
            expected = codes.get(number, 0)
            receipt = job.last_attempt.receipt if job.last_attempt else None
            told = receipt.exit_code if receipt else None
            verdict.surplus += max(0, starts[job.key] - 1)
            if not job.state.final or job.state in (JobState.LOST, JobState.CANCELLED) or not starts[job.key]:
                verdict.lost.append(f"{job.key} is {job.state}, begun {starts[job.key]} times: {job.failure}")
            elif job.state is JobState.SUCCEEDED and (expected or told != 0 or results[job.key] != number):
                verdict.false.append(f"{job.key}: {told} for {expected}, result {results[job.key]!r}")
            elif job.state is JobState.FAILED and (told != expected or not expected or _code(job.failure) != expected):
                verdict.wrong.append(f"{job.key} failed with {told} for {expected}: {job.failure}")
        verdict.twice = sorted(key for key, times in starts.items() if times > 1)
        return verdict

    def story(self):
        """Return everything that helps to understand what went wrong."""
        lines = [self.output[-6000:]]
        with self.batch() as batch:
            doubtful = {*self.verdict().twice, *(job.key for job in batch.records if len(job.attempts) > 1)}
            events = [one for one in batch.history() if one.key in doubtful]
        lines += [f"{one.at:%H:%M:%S.%f} {one.key} {one.attempt} {one.kind} {dict(one.body)}" for one in events]
        return "\n".join(lines)


@attrs.define
class Verdict:
    """What became of one batch; or, added up, of many."""

    jobs: int = 0
    starts: int = 0
    surplus: int = 0  #: starts of jobs that had begun before
    lost: list = attrs.field(factory=list)  #: jobs that are unaccounted for
    false: list = attrs.field(factory=list)  #: successes that were none, or whose result is another's
    wrong: list = attrs.field(factory=list)  #: whatever else is not as planned
    twice: list = attrs.field(factory=list)

    @property
    def good(self):
        return not (self.surplus or self.lost or self.false or self.wrong)

    def __iadd__(self, other):
        for field in attrs.fields(type(self)):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        return self

    def __str__(self):
        return (
            f"{self.jobs} jobs, {self.starts} starts, {self.surplus} surplus, {len(self.lost)} lost, "
            f"{len(self.false)} false successes, {len(self.wrong)} otherwise wrong"
        )


def _code(failure):
    return failure.code if isinstance(failure, ExitCode) else None


def eventually(condition, seconds=PATIENCE):
    """Wait until *condition* holds; whether it came to."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False
