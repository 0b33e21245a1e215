"""What a client sees of jobs in a queue with a quota, against recordings of the real service with Kueue.

The situations are played eight times as fast as they were recorded. A phase of a job is its status and which start time
it has: none, the first, the second. The phases and their order have to be the recorded ones, and in each phase the
events and the log are of the kinds that were recorded; what differs is named.
"""

import json
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest

from canfar_batch.local import LIMIT_RANGE, LocalPlatform
from canfar_batch.local.faults import queue_away

RECORDING = json.loads(Path(__file__).with_name("production-like.json").read_text())["situations"]
FASTER = 8.0
IMAGE = "images.canfar.net/skaha/astroml:latest"
FORTNIGHT = 14 * 86400

SCRIPTS = {
    "plain": "echo up;{wait};echo end",
    "zero": "trap 'exit 0' TERM;echo up;{wait};echo end",
    "zero10": "trap 'sleep 1.25;exit 0' TERM;echo up;{wait};echo end",
    "ignore": "trap '' TERM;echo up;{chatter};echo end",
}

#: what is seen here and not in the recording, and why
ALLOWED = {
    # the recorded client asked twice a second, so that it missed moments between two events
    ("Pending", 0): {"table", "none", "404", "text", "empty"},
    ("Running", 0): {"table", "404", "text", "empty"},
    ("Pending", 1): {"table", "none", "empty", "text"},
    ("Running", 1): {"empty"},
    ("Pending", 2): {"table", "none", "empty", "text"},
    ("Running", 2): {"table", "empty"},
    ("Running", 3): {"empty"},
    ("Pending", 3): {"table", "none", "empty", "text"},
    ("Completed", 2): {"none"},
    ("Failed", 1): {"table", "text"},  # the pod lives for a moment after the deadline
    ("Failed", 2): {"table", "text"},
}


class Stage:
    """A platform with a quota of 4 cores, and what a client sees of its jobs."""

    def __init__(self, **settings):
        usual = {"cores": 4, "ram": 16, "strict_quota": True, "termination_grace": 30 / FASTER, "pull": 0.15}
        self.platform = LocalPlatform(**{**usual, "pending_at_end": 0.12, **settings}).start()
        self.situations = self.platform.situations
        self.ids, self.samples, self.rows = {}, {}, {}
        self.notes = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def finish(self):
        self._stopped.set()
        self._thread.join()
        self.platform.stop()

    def ask(self, path, method="GET", **fields):
        body = urllib.parse.urlencode(fields).encode() if fields else None
        headers = {"Authorization": f"Bearer {self.platform.token}"}
        request = urllib.request.Request(f"{self.platform.url}/session{path}", body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def create(self, name, script="plain", seconds=1.0, cores=1, ram=1, **fields):
        """Launch a job of so many recorded seconds."""
        steps = max(1, round(seconds / FASTER / 0.05))
        loop = f"i=0;while [ $i -lt {steps} ];do sleep 0.05;{{more}}i=$((i+1));done"
        waits = {"wait": loop.format(more=""), "chatter": loop.format(more="echo on;")}
        path = self.platform.home / f"{name}.sh"
        path.write_text(SCRIPTS[script].format(**waits))
        asked = {"cores": cores, "ram": ram} if cores else {}
        code, text = self.ask("", "POST", name=name, image=IMAGE, cmd="sh", args=f"{name}.sh", **asked, **fields)
        if code == 200:
            self.ids[name], self.samples[name], self.rows[name] = text.strip(), [], []
        return code, text

    def pause(self, seconds):
        time.sleep(seconds / FASTER)

    def until(self, name, *statuses):
        """Wait until a job is in one of these states."""
        deadline = time.monotonic() + 30
        while not (self.samples[name] and self.samples[name][-1]["status"] in statuses):
            assert time.monotonic() < deadline, (name, statuses, phases(self.samples[name]))
            time.sleep(0.01)

    def _watch(self):
        while not self._stopped.wait(0.03):
            for name, id in list(self.ids.items()):
                self.samples[name].append(self._sample(id, self.rows[name]))

    def _sample(self, id, rows):
        code, text = self.ask(f"/{id}")
        row = json.loads(text) if code == 200 else {}
        rows += [row] if row else []
        code, events = self.ask(f"/{id}?view=events")
        kind = "404" if code == 404 else "none" if events == "<none>\n" else "table"
        reasons = {line.split()[1] for line in events.splitlines()[1:]} if kind == "table" else set()
        _, log = self.ask(f"/{id}?view=logs")
        return {
            "status": row.get("status"), "start": row.get("startTime"), "expiry": row.get("expiryTime"),
            "fields": list(row), "events": kind, "reasons": reasons, "log": "text" if log else "empty",
            "t": time.monotonic() * FASTER,
        }  # fmt: skip


# -- what a client sees -------------------------------------------------------------------------------------------


def of_recording(samples):
    """The recorded samples in the form of `Stage`."""
    events, found = None, []
    for sample in samples:
        if not (sample["events"] or {}).get("same"):
            events = sample["events"]
        lines = events.get("lines") or []
        kind = "404" if events["code"] == 404 else "none" if lines == ["<none>"] else "table"
        reasons = {line.split()[1] for line in lines[1:]} if kind == "table" else set()
        found.append({
            "status": sample.get("status"), "start": sample.get("startTime"), "expiry": sample.get("expiryTime"),
            "fields": sample.get("fields") or [], "events": kind, "reasons": reasons,
            "log": "text" if sample["logs"]["length"] else "empty", "t": sample["t"],
        })  # fmt: skip
    return found


def numbered(samples):
    """Yield each sample with the number of its start time: 0 for none, 1 for the first, …"""
    starts = []
    for sample in samples:
        if sample["start"] is not None and sample["start"] not in starts:
            starts.append(sample["start"])
        yield (sample["status"], 0 if sample["start"] is None else starts.index(sample["start"]) + 1), sample


def phases(samples):
    """The phases in their order, without the moments at the beginning and at a suspension that a client may miss."""
    found = []
    for phase, _ in numbered(samples):
        if not found or found[-1] != phase:
            found.append(phase)
    kept = [phase for phase in found if phase != ("Running", 0)]
    if kept[0] == ("Pending", 0) and not waits(samples):
        del kept[0]
    return [phase for place, phase in enumerate(kept) if place == 0 or phase != kept[place - 1]]


def long_phases(samples):
    """The phases that no client misses: without those between a start time and a run, or a run and a final status."""
    return [(status, number) for status, number in phases(samples) if status != "Pending" or number == 0]


def waits(samples):
    """Whether a job waited for room: a start time that comes within two seconds is the ordinary case."""
    started = next((sample["t"] for sample in samples if sample["start"] is not None), float("inf"))
    return started - samples[0]["t"] > 2


def kinds(samples):
    """What is seen of events and log in each phase; a sample in which the phase changes belongs to none."""
    found, samples = {}, list(numbered(samples))
    for (phase, sample), (following, _) in zip(samples, [*samples[1:], samples[-1]], strict=True):
        if phase == following:
            found.setdefault(phase, set()).update((sample["events"], sample["log"]))
    return found


# -- the situations -----------------------------------------------------------------------------------------------


def waits_for_quota(stage):
    blocker = stage.situations.interactive()
    stage.create("J", seconds=6)
    stage.pause(13)
    blocker.end()
    stage.until("J", "Completed")
    stage.until("J", None)


def preempted_once(stage):
    for name in ("plain", "ignore", "zero"):
        stage.create(name, name, seconds=20)
    for name in stage.ids:
        stage.until(name, "Running")
    stage.pause(4)
    with stage.situations.interactive():
        stage.pause(40)  # until the grace of the one that ignores the signal is over
    for name in stage.ids:
        stage.until(name, "Completed")


def preempted_twice(stage):
    stage.create("J", seconds=16)
    for _ in range(2):
        stage.until("J", "Running")
        stage.pause(5)
        with stage.situations.interactive():
            stage.pause(9)
    stage.until("J", "Completed")


def two_pods_at_once(stage):
    stage.create("ignore", "ignore", seconds=40)
    stage.create("zero10", "zero10", seconds=40)
    for name in stage.ids:
        stage.until(name, "Running")
    stage.pause(4)
    with stage.situations.interactive():
        stage.pause(5)
    for name in stage.ids:
        stage.until(name, "Completed")


def deadline_over_suspension(stage):
    blocker = stage.situations.interactive()
    stage.create("waits26", seconds=10)
    stage.pause(16)
    blocker.end()
    stage.until("waits26", "Completed")
    stage.create("J", seconds=200)
    stage.until("J", "Running")
    stage.pause(8)
    with stage.situations.interactive():
        stage.pause(9)
    stage.until("J", "Failed")
    stage.pause(3)


def deleted_while_suspended(stage):
    with stage.situations.interactive():
        stage.create("never-ran")
        stage.pause(3)
        stage.notes.append(stage.ask(f"/{stage.ids['never-ran']}", "POST", action="renew"))
        stage.notes.append(stage.ask(f"/{stage.ids['never-ran']}", "DELETE"))
        stage.until("never-ran", None)
    stage.create("in-grace", "ignore", seconds=400)
    stage.until("in-grace", "Running")
    stage.pause(4)
    with stage.situations.interactive():
        stage.pause(6)
        stage.notes.append(stage.ask(f"/{stage.ids['in-grace']}", "DELETE"))
        stage.until("in-grace", None)
        stage.pause(32)


def larger_than_quota(stage):
    stage.create("cores8", cores=8)
    stage.create("ram32", ram=32)
    stage.create("small", seconds=8)
    stage.until("small", "Completed")
    stage.pause(3)
    for name in ("cores8", "ram32"):
        stage.ask(f"/{stage.ids[name]}", "DELETE")
        stage.until(name, None)


def queue_Hold(stage):  # noqa: N802 - the recording's name
    stage.create("running", seconds=10)
    stage.until("running", "Running")
    with stage.platform.held():
        stage.create("new", seconds=2)
        stage.until("running", "Completed")
        stage.pause(5)
    stage.until("new", "Completed")


def queue_HoldAndDrain(stage):  # noqa: N802
    stage.create("running", seconds=14)
    stage.until("running", "Running")
    stage.pause(4)
    with stage.situations.preempt_all():
        stage.create("new", seconds=2)
        stage.pause(9)
    for name in stage.ids:
        stage.until(name, "Completed")


def flexible_jobs(stage):
    for number in range(6):
        stage.create(f"flex{number}", seconds=24, cores=None)
    for name in stage.ids:
        stage.until(name, "Completed")


def kueue_down(stage):
    stage.create("before", seconds=8)
    stage.until("before", "Running")
    with stage.platform.faults.during(queue_away()):
        stage.notes += [stage.create("refused"), stage.create("refused")]
        stage.until("before", "Completed")
    stage.create("after", seconds=2)
    stage.until("after", "Completed")


SITUATIONS = {
    play.__name__: (play, settings)
    for play, settings in (
        (waits_for_quota, {"forget_after": 2.5}), (preempted_once, {}), (preempted_twice, {}), (two_pods_at_once, {}),
        (deadline_over_suspension, {"deadline": 20 / FASTER}), (deleted_while_suspended, {}), (larger_than_quota, {}),
        (queue_Hold, {}), (queue_HoldAndDrain, {}), (flexible_jobs, {"limits": LIMIT_RANGE}), (kueue_down, {}),
    )
}  # fmt: skip


@pytest.fixture(scope="module")
def played():
    """All situations, played at the same time on platforms of their own."""

    def perform(play, settings):
        stage = Stage(**settings)
        try:
            play(stage)
        finally:
            stage.finish()
        return stage

    with ThreadPoolExecutor(len(SITUATIONS)) as pool:
        futures = {name: pool.submit(perform, *one) for name, one in SITUATIONS.items()}
        yield {name: future.result() for name, future in futures.items()}


CASES = [(name, job) for name in SITUATIONS for job in RECORDING[name]["jobs"]]


@pytest.mark.parametrize(("situation", "job"), CASES)
def test_a_job_is_shown_as_by_the_real_service(played, situation, job):
    ours, real = played[situation].samples[job], of_recording(RECORDING[situation]["jobs"][job])
    seen, recorded_phases = long_phases(ours), iter(long_phases(real))
    assert all(phase in recorded_phases for phase in seen)  # in this order; a poll may miss a short one
    assert seen[-1] == long_phases(real)[-1]
    recorded: dict = {}
    for phase, sample in numbered(real):
        recorded.setdefault(phase, set()).update((sample["events"], sample["log"]))
    for phase, found in kinds(ours).items():
        extra = found - recorded.get(phase, set())
        assert extra <= ALLOWED.get(phase, set()), (phase, found, recorded.get(phase))


@pytest.mark.parametrize(("situation", "job"), CASES)
def test_a_row_has_the_recorded_fields_with_and_without_a_start(played, situation, job):
    recorded = of_recording(RECORDING[situation]["jobs"][job])
    real = {bool(one["start"]): one["fields"] for one in recorded if one["fields"]}
    deadline = SITUATIONS[situation][1].get("deadline", FORTNIGHT)
    for sample in played[situation].samples[job]:
        assert (sample["start"] is None) == (sample["expiry"] is None)
        if sample["status"] and bool(sample["start"]) in real:
            assert sample["fields"] == real[bool(sample["start"])]
        if sample["start"]:
            start, expiry = (moment(sample[name]) for name in ("start", "expiry"))
            assert (expiry - start).total_seconds() == round(deadline)


def moment(text):
    """The service leaves out seconds that are 0."""
    return datetime.fromisoformat(text.rstrip("Z"))


@pytest.mark.parametrize(("situation", "job"), CASES)
def test_the_events_have_the_recorded_reasons(played, situation, job):
    ours = set().union(*(sample["reasons"] for sample in played[situation].samples[job]))
    real = set().union(*(sample["reasons"] for sample in of_recording(RECORDING[situation]["jobs"][job])))
    assert ours ^ real <= {"Killing"}, (ours, real)  # of a pod that dies at once, the note is seen or not


def test_the_use_of_a_job_is_shown_after_a_while_and_until_its_end():
    """The twelfth recording, `metrics`: what it shows differs in its values, so that only their form is compared."""
    recording = RECORDING["metrics"]
    real = [note["row"] for note in recording["notes"] if "row" in note]
    stage = Stage(metrics_delay=0.3)
    try:
        stage.create("fixed", seconds=8, ram=2)
        stage.until("fixed", "Completed")
        rows = stage.rows["fixed"]
    finally:
        stage.finish()
    ours, recorded = (without_repeats([use_in(row) for row in one]) for one in (rows, real))
    assert ours[:3] == recorded[:3]
    for phases_ in (ours, recorded):  # after the end, none is shown, be it Running or Pending before the final status
        assert [len(phase) for phase in phases_[3:]] == [1] * len(phases_[3:])
        assert phases_[-1] == ("Completed",)
    more = [name for row in rows if "ramInUse" in row for name in row if name not in rows[-1]]
    assert set(more) == {"ramInUse", "cpuCoresInUse"}
    assert {row["requestedRAM"] for row in rows} == {row["requestedRAM"] for row in real}


def use_in(row):
    """The status, and the form of the use of memory and cores that a row shows."""
    forms = [row[name] and re.sub(r"\d", "9", row[name]) for name in ("ramInUse", "cpuCoresInUse") if row.get(name)]
    return (row["status"], *forms)


def without_repeats(phases):
    return [phase for place, phase in enumerate(phases) if place == 0 or phase != phases[place - 1]]


def test_what_the_queue_cannot_do_is_refused_in_the_recorded_words(played):
    renewed, *deleted = played["deleted_while_suspended"].notes
    assert renewed[0] == 400
    assert renewed[1].startswith("No active job for user PosixPrincipal [uidNumber=")
    assert deleted == [(200, ""), (200, "")]
    for code, text in played["kueue_down"].notes:
        assert code == 500
        assert text.startswith("unexpected exception: java.lang.RuntimeException: io.kubernetes.client.openapi.Api")
        assert "jobs.batch" in text
