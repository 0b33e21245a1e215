"""What a cluster does to running jobs, over HTTP: the verdict on each, whether it is launched again, and the words.

The jobs of one batch meet one thing each, all at the same time, on a platform whose times are a fraction of the real
ones. Each of these batches runs twice: with containers that see the batch's home, and with containers that do not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import attrs
import pytest
from stage import DEAF, ENDS_LATE, PLAIN, SAVES, SAVES_LATE, UNTIL_GO, Stage

import canfar_batch as cb
from canfar_batch import failures as f
from canfar_batch.engine import monitor
from canfar_batch.local.faults import answer
from canfar_batch.views.explain import advice

S, F = cb.JobState.SUCCEEDED, cb.JobState.FAILED


# -- what can happen ----------------------------------------------------------------------------------------------


def meets(name: str, *given: Any, **more: Any) -> Callable[[Stage, str], None]:
    """Play a situation on a job once it runs and the batch knows that."""

    def play(stage: Stage, key: str) -> None:
        stage.began(key)
        stage.seen(key, cb.JobState.RUNNING)
        getattr(stage.situations, name)(key, *given, **more)

    return play


def nothing(stage: Stage, key: str) -> None:
    """Let a job alone."""


def forced(stage: Stage, key: str) -> None:
    stage.began(key)
    stage.seen(key, cb.JobState.RUNNING)
    stage.situations.node_lost(key).end()


def deleted_at_its_end(stage: Stage, key: str) -> None:
    """Delete it after its end, which the platform has not noticed yet."""
    stage.began(key)
    stage.seen(key, cb.JobState.RUNNING)
    stage.situations.node_silent(key)
    stage.go(key)
    stage.until(lambda: stage.find(key).pid is None)
    stage.situations.delete_job(key)


def drained_at_once(stage: Stage, key: str) -> None:
    stage.began(key)
    stage.situations.drain(key)


def drained_before_it_begins(stage: Stage, key: str) -> None:
    with stage.prepared[key]:
        stage.until(lambda: stage.find(key) is not None and "Pulling" in stage.batch[key].events())
        stage.situations.drain(key)


def deleted_while_pending(stage: Stage, key: str) -> None:
    with stage.prepared[key]:
        stage.until(lambda: stage.find(key) is not None and stage.batch[key].record.attempts[-1].shown)
        stage.situations.delete_job(key)


def killed_while_events_blink(stage: Stage, key: str) -> None:
    """Kill it, and answer the first question for its events as if it had no pod."""
    stage.began(key)
    stage.seen(key, cb.JobState.RUNNING)
    id = stage.batch[key].id
    no_pod = answer(404, f"session {id} not found.\n")
    stage.platform.faults.add(no_pod, on="events", where=lambda request: f"/{id}" in request.path, first=1)
    stage.situations.kill(key)


def preempted_twice(stage: Stage, key: str) -> None:
    for runs in (1, 2):
        stage.began(key, runs)
        stage.until(lambda runs=runs: len(stage.batch[key].record.attempts[-1].lost_runs) == runs - 1)
        stage.seen(key, cb.JobState.RUNNING)
        time.sleep(1.1)  # start times are in whole seconds
        stage.situations.preempt(key)


def preempted_twice_then_killed(stage: Stage, key: str) -> None:
    preempted_twice(stage, key)
    stage.began(key, 3)
    stage.seen(key, cb.JobState.RUNNING)
    stage.situations.kill(key)


def overlapped(stage: Stage, key: str) -> None:
    """Begin it again while the first run has its grace time, and kill the second run when the first has ended."""
    stage.began(key)
    stage.seen(key, cb.JobState.RUNNING)
    stage.situations.preempt(key, overlap=True)
    stage.began(key, 2)
    stage.until(lambda: stage.find(key).pods == 1)
    stage.situations.kill(key)


def outwait(stage: Stage, key: str) -> None:
    """Wait until a job was launched longer ago than it may wait to begin, and several polls have shown that."""
    launched = stage.batch[key].record.attempts[-1].launched_at
    time.sleep(max(0.0, ALLOWED + 0.6 - (datetime.now(timezone.utc) - launched).total_seconds()))


def suspended(stage: Stage, key: str) -> None:
    stage.began(key)
    stage.seen(key, cb.JobState.RUNNING)
    stage.situations.preempt(key, hold=True)
    stage.until(lambda: stage.batch[key].record.attempts[-1].is_suspended)
    stage.notes[key] = stage.batch[key].explain()
    outwait(stage, key)
    stage.situations.resume(key)
    stage.began(key, 2)


def silent(stage: Stage, key: str) -> None:
    stage.began(key)
    stage.seen(key, cb.JobState.RUNNING)
    with stage.situations.node_silent(key):
        stage.seen(key, cb.JobState.PENDING)
        stage.notes[key] = stage.batch[key].explain()
        outwait(stage, key)
    stage.go(key)


def refused(stage: Stage, key: str) -> None:
    with stage.prepared[key]:
        stage.until(lambda: stage.find(key) is not None and "FailedScheduling" in stage.batch[key].events())
        stage.situations.refuse_pod(key)


def no_room_then_killed(stage: Stage, key: str) -> None:
    with stage.prepared[key]:
        stage.until(lambda: stage.find(key) is not None and "FailedScheduling" in stage.batch[key].events())
        stage.notes[key] = stage.batch[key].explain()
    meets("kill")(stage, key)


def pulls(stage: Stage, key: str) -> None:
    with stage.prepared[key]:
        stage.until(lambda: stage.find(key) is not None and "Pulling" in stage.batch[key].events())
        stage.notes[key] = stage.batch[key].explain()


def pull_fails_for_a_while(stage: Stage, key: str) -> None:
    with stage.prepared[key]:
        stage.until(lambda: stage.find(key) is not None and "BackOff" in stage.batch[key].events())
        stage.notes[key] = stage.batch[key].explain()


def pull_fails_until_it_is_stopped(stage: Stage, key: str) -> None:
    with stage.prepared[key]:
        stage.until(lambda: (all_ := stage.batch[key].attempts) and all_[0].ended)


def log_is_rotated(stage: Stage, key: str) -> None:
    stage.began(key)
    stage.seen(key, cb.JobState.RUNNING)
    stage.until(lambda: "up" in stage.batch[key].logs())
    stage.situations.rotate_log(key, keep=2)
    stage.go(key)


def log_is_rotated_then_killed(stage: Stage, key: str) -> None:
    log_is_rotated(stage, key)
    stage.until(lambda: "end" in stage.batch[key].logs())
    stage.situations.kill(key)


def log_is_hidden(stage: Stage, key: str) -> None:
    stage.began(key)
    stage.seen(key, cb.JobState.RUNNING)
    with stage.situations.hide_log(key):
        stage.go(key)
        stage.status(key, "Completed", "Failed")
        time.sleep(0.5)


@attrs.frozen(kw_only=True)
class Row:
    """One job: what it runs, what it meets, and what is said of it."""

    case: str  #: of the recorded experiments
    script: str = PLAIN
    prepare: tuple[str, ...] = ()  #: a situation that stands before it is launched, and its arguments
    play: Callable[[Stage, str], None]
    ends: tuple[type[f.Failure] | None, ...]  #: the failure of each attempt; None for a success
    hidden_ends: tuple[type[f.Failure] | None, ...] = ()  #: the same if the home is hidden and it differs
    runs: str = ""  #: the attempts of the runs that began; by default, one of each
    more: dict[str, Any] = attrs.field(factory=dict)
    says: str = ""  #: what explain() says of the first failure, or of the success
    meanwhile: str = ""  #: what explain() said in between
    verified: bool | None = None
    check: Callable[[Any], bool] = lambda job: True


AGAIN = (f.Evicted, None)
ALLOWED = 8.0  #: seconds to begin
WAITS = {"pending_timeout": ALLOWED}
ROWS = {
    # ends from outside
    "deletedpod": Row(case="3a 3b", play=meets("delete_pod"), ends=AGAIN),
    "drained": Row(case="3b", play=meets("drain"), ends=AGAIN),
    "drainedsaves": Row(case="3c", script=SAVES, play=meets("drain"), ends=AGAIN),
    "drainedsaveslate": Row(case="3c", script=SAVES_LATE, play=meets("drain", None), ends=AGAIN),
    "complete": Row(
        case="3c", script=SAVES.replace("sleep", "touch out.{key}; sleep"), play=meets("delete_pod", None),
        ends=(None,), hidden_ends=AGAIN, more={"outputs": ["out.{key}"]},
        says="it was asked to stop (TERM); it ended with 0, and its outputs are there",
    ),
    "scheduler": Row(case="3b", play=meets("preempt_by_scheduler"), ends=AGAIN),
    "schedulersaves": Row(case="3c", script=SAVES, play=meets("preempt_by_scheduler"), ends=AGAIN),
    "endslate": Row(case="3d", script=ENDS_LATE, play=meets("delete_pod", 0.0), ends=AGAIN),
    "deaf": Row(case="3d", script=DEAF, play=meets("delete_pod", 0.0), ends=AGAIN),
    "forced": Row(case="3e", play=forced, ends=AGAIN),
    "nodelost": Row(case="3q", play=meets("node_lost", 0.5), ends=AGAIN),
    "evictedmemory": Row(case="3f", play=meets("evict"), ends=AGAIN, says="Ask for as much memory as it uses"),
    "evictedpressure": Row(case="3g", play=meets("evict", "disk"), ends=AGAIN),
    "evictedstorage": Row(case="3g", play=meets("evict", "storage"), ends=AGAIN),
    "evictedown": Row(case="3h", play=meets("evict", "own storage"), ends=(f.DiskFull,), says="exceeds the limit"),
    "deleted": Row(case="3i 10b", play=meets("delete_job"), ends=(f.Deleted,), says="deleted by somebody else"),
    "deletedsaves": Row(case="3c", script=SAVES, play=meets("delete_job"), ends=(f.Deleted,)),
    "killed": Row(case="1c", play=meets("kill"), ends=(f.Killed, None), says="likely"),
    "noderestarted": Row(case="6e", play=meets("restart_node"), ends=(f.Killed, None), says="likely"),
    "killsitswrapper": Row(
        case="1d", script="sleep 0.5; kill -9 $PPID; sleep 60", play=nothing, ends=(f.Killed, None)
    ),
    "drainedatonce": Row(case="3b", play=drained_at_once, ends=AGAIN),
    "drainedbefore": Row(case="3b", prepare=("slow_pull",), play=drained_before_it_begins, ends=AGAIN, runs="2"),
    "deletedwaiting": Row(
        case="3i", prepare=("slow_pull",), play=deleted_while_pending, ends=(f.Deleted,), runs="none"
    ),
    "savesall": Row(
        case="3c", script="trap 'touch out.{key}; exit 0' TERM\nsleep 60 & wait", play=meets("delete_pod", None),
        ends=(None,), hidden_ends=AGAIN, more={"outputs": ["out.{key}"]}, says="it was asked to stop (TERM)",
    ),
    "blink": Row(case="1c", play=killed_while_events_blink, ends=(f.Killed, None), says="likely"),
    # the deadline
    "deadline": Row(case="5a", play=meets("reach_deadline"), ends=(f.DeadlineExceeded,), says="renew"),
    "deadlinesaves": Row(
        case="5b", script=SAVES, play=meets("reach_deadline"), ends=(f.DeadlineExceeded,), says="renew"
    ),
    "deadlinedeaf": Row(
        case="5c", script=DEAF, play=meets("reach_deadline"), ends=(f.DeadlineExceeded,), says="renew"
    ),
    # begun again under the same id
    "twice": Row(
        case="3j K1-K3", script='[ "$runs" -lt 3 ] || exit 0; ' + PLAIN, play=preempted_twice, ends=(None,),
        runs="111", says="2 earlier runs under the same id took",
        check=lambda job: job.restarts == 2 and job.record.attempts[-1].lost_seconds > 0,
    ),
    "thenkilled": Row(
        case="3j", play=preempted_twice_then_killed, ends=(f.Killed, None), runs="1112",
        check=lambda job: job.record.attempts[0].restarts == 2,
    ),
    "overlapsaves": Row(case="3l", script=SAVES_LATE, play=overlapped, ends=(f.Killed, None), runs="112"),
    "overlapdeaf": Row(case="3m", script=DEAF, play=overlapped, ends=(f.Killed, None), runs="112"),
    "suspended": Row(
        case="3n K1", script='[ "$runs" -lt 2 ] || exit 0; ' + PLAIN, play=suspended, ends=(None,), runs="11",
        more=WAITS, meanwhile="stopped by the platform to make room, and will start again from the beginning",
    ),
    # pending, and yet not waiting
    "silent": Row(
        case="3p", script=UNTIL_GO, play=silent, ends=(None,), more=WAITS, meanwhile="it has begun before",
    ),
    "flash": Row(case="3o", script=f"sleep {ALLOWED + 0.2}", play=nothing, ends=(None,), more=WAITS),
    "flashbare": Row(
        case="3o", script=f"sleep {ALLOWED + 0.2}", play=nothing, ends=(None,), more={**WAITS, "receipt": False}
    ),
    # before the start
    "refused": Row(case="3r", prepare=("no_room",), play=refused, ends=AGAIN, runs="2", says="OutOfcpu"),
    "noroom": Row(
        case="2e 3s", prepare=("no_room",), play=no_room_then_killed, ends=(f.Killed, None),
        meanwhile="no room for it yet",
        check=lambda job: [one.resources.ram for one in job.record.attempts] == [1, 2],
    ),
    "slowpull": Row(case="2a", script="true", prepare=("slow_pull",), play=pulls, ends=(None,), meanwhile="Pulling"),
    "pullerror": Row(
        case="2b", script="true", prepare=("pull_error", "unauthorized"), play=pull_fails_for_a_while, ends=(None,),
        meanwhile="401 Unauthorized",
    ),
    "pullnever": Row(
        case="2c 2d", prepare=("pull_error",), play=pull_fails_until_it_is_stopped, ends=(f.ImagePull, None),
        runs="2", says="not found",
    ),
    # exit codes and what replaces them
    "zero": Row(case="1a", script="true", play=nothing, ends=(None,), verified=True),
    "three": Row(case="1a", script="exit 3", play=nothing, ends=(f.ExitCode,), verified=True, says="exit code 3"),
    "ownterm": Row(case="1a", script="exit 143", play=nothing, ends=(f.ExitCode,), verified=True),
    "ownkill": Row(case="1a", script="kill -9 $$", play=nothing, ends=(f.ExitCode,), verified=True, says="137"),
    "missing": Row(case="1e", script="/no/such", play=nothing, ends=(f.ExitCode,), verified=True, says="127"),
    "barezero": Row(
        case="1f", script="true", play=nothing, ends=(None,), more={"receipt": False}, verified=False,
        says="no receipt confirms it",
    ),
    "barethree": Row(
        case="1f", script="echo oh; exit 3", play=nothing, ends=(f.Unknown,), more={"receipt": False}, says="oh"
    ),
    "overanddeleted": Row(
        case="10c", script=UNTIL_GO, play=deleted_at_its_end, ends=(None,), hidden_ends=(f.Deleted,),
    ),
    # logs
    "rotated": Row(
        case="7a", script=UNTIL_GO + "exit 4", play=log_is_rotated, ends=(f.ExitCode,), verified=True,
        says="beginning of its log is missing",
    ),
    "rotatedkilled": Row(
        case="7b", script=UNTIL_GO + "sleep 60", play=log_is_rotated_then_killed, ends=(f.Killed, None)
    ),
    "loglater": Row(
        case="6a 6c 6d", script=UNTIL_GO, play=log_is_hidden, ends=(None,), verified=True,
        check=lambda job: job.logs() == "up\nend\n",
    ),
    "loglaterthree": Row(
        case="6d", script=UNTIL_GO + "exit 3", play=log_is_hidden, ends=(f.ExitCode,), verified=True,
        says="exit code 3", check=lambda job: job.logs() == "up\nend\n",
    ),
}  # fmt: skip


def run_rows(place: Path, visible: bool) -> Stage:
    stage = Stage(
        place, "rows", visible=visible, retry=cb.Retry(1, pause=0.05, grow_ram=2), platform={"pending_at_end": 0.3}
    )
    for key, row in ROWS.items():
        stage.add(key, row.script, **row.more)
        if row.prepare:
            name, *given = row.prepare
            stage.prepared[key] = getattr(stage.situations, name)(key, *given)
    return stage.run({key: row.play for key, row in ROWS.items()})


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """All rows, played with a home that containers see, and with one that they do not."""
    place = tmp_path_factory.mktemp("cluster")
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.chdir(place)
        patch.setattr(monitor, "PULL_CHECK", 0.5)
        futures = {visible: pool.submit(run_rows, place, visible) for visible in (True, False)}
        stages = {visible: future.result() for visible, future in futures.items()}
    yield stages
    for stage in stages.values():
        stage.close()


@pytest.mark.parametrize("visible", [True, False], ids=["visible", "hidden"])
@pytest.mark.parametrize("key", ROWS)
def test_what_happened_to_a_container_is_what_is_said(rows, key, visible):
    stage, row = rows[visible], ROWS[key]
    job, ends = stage.batch[key], row.ends if visible else row.hidden_ends or row.ends
    if key == "overanddeleted" and not visible and job.ok:
        ends = row.ends  # its log was fetched just before it went
    found = [attempt.failure and type(attempt.failure) for attempt in job.attempts]
    truth = "\n".join([job.explain(), *map(str, stage.batch.history(key))])
    assert found == list(ends), truth
    assert job.state is (S if ends[-1] is None else F), truth
    expected = row.runs.replace("none", "") if row.runs else "".join(str(n + 1) for n in range(len(ends)))
    assert "".join(stage.runs(key)) == expected, truth
    first = job.attempts[0].failure
    said = job.explain() if len(ends) == 1 else f"{first}{', likely' * first.inferred} {advice(first)}"
    assert row.says in said or ends is row.hidden_ends, truth
    assert row.meanwhile in stage.notes.get(key, ""), stage.notes
    if row.verified is not None:
        assert job.record.attempts[-1].verified is row.verified, truth
    assert row.check(job), truth
