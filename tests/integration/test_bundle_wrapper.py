"""The wrapper of a bundle as a container runs it, in every shell: tasks, their logs, receipts, signals and deaths."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
from shells import PRESENT, container_argv, container_env, marked, start
from waiting import until

from canfar_batch.payload.encode import Surroundings, Task, bundle_script, encode_bundle, encode_file
from canfar_batch.payload.receipts import BundleLogSplitter, parse_receipt

NAME = "calib-ngc1275-k3x9z1-1f-2"
TOKEN = "s3cret"
PATIENCE = 60.0  #: seconds until a test gives up waiting for what should come at once


@pytest.fixture(params=PRESENT.values(), ids=PRESENT)
def shell(request: pytest.FixtureRequest) -> Sequence[str]:
    return request.param


@pytest.fixture
def home(tmp_path) -> Path:
    """A batch's home that the container sees."""
    home = tmp_path / "the batch's home"
    for folder in ("receipts", "running"):
        (home / folder).mkdir(parents=True)
    (home / "token").write_text(f"{TOKEN}\n")
    return home


@pytest.fixture
def mark() -> Iterator[str]:
    """A variable's value by which a test's processes are known; those that outlive it are ended."""
    mark = uuid.uuid4().hex
    yield mark
    for process in marked(mark):
        os.kill(process, signal.SIGKILL)


def sh(text: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", text, "sh")


def tasks(*commands: str, **options: Any) -> list[Task]:
    return [Task(argv=sh(text), key=f"k{n}", file=f"k{n}", **options) for n, text in enumerate(commands, 1)]


@attrs.frozen
class Log:
    """What a container's log says of its tasks."""

    raw: bytes

    def own(self, task: int) -> bytes:
        splitter = BundleLogSplitter(NAME, task)
        return splitter.feed(self.raw) + splitter.finish()

    def receipts(self, task: int) -> tuple[Any, Any]:
        splitter = BundleLogSplitter(NAME)
        splitter.feed(self.raw)
        splitter.finish()
        return splitter.receipts_of(task)

    def end(self, task: int) -> Any:
        return self.receipts(task)[1]


@pytest.fixture
def begin(shell, tmp_path, mark) -> Callable[..., subprocess.Popen[bytes]]:
    """Starts tasks as a bundle."""

    def begin(bundle: Sequence[Task], env: Any = None, **options: Any) -> subprocess.Popen[bytes]:
        around = {"home": None, "grace": 20.0, "driver_workdir": None, "shared": False}
        given = {name: options.pop(name, value) for name, value in around.items()}
        given["home"] = None if given["home"] is None else str(given["home"])
        script = bundle_script(
            bundle, Surroundings(token=TOKEN, batch="b", **given), **{"launch_name": NAME, "look": 0.05, **options}
        )
        local = tmp_path / "local"
        local.mkdir(exist_ok=True)
        return start(encode_bundle(script), shell, tmp_path, {"MARK": mark, "TMPDIR": str(local), **(env or {})})

    return begin


@pytest.fixture
def run(begin, tmp_path) -> Callable[..., Log]:
    """Runs tasks as a bundle until its end."""

    def run(bundle: Sequence[Task], *, code: int = 0, **options: Any) -> Log:
        process = begin(bundle, **options)
        raw, stderr = process.communicate(timeout=PATIENCE)
        assert (process.returncode, stderr) == (code, b"")
        assert list((tmp_path / "local").iterdir()) == []
        return Log(raw)

    return run


def receipt(home: Path, key: str, kind: str = "end") -> Any:
    path = home / "receipts" / f"{key}.1.{kind}"
    return parse_receipt(path.read_bytes()) if path.exists() else None


# -- tasks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parallel", [1, 3])
def test_each_task_has_its_own_log_code_and_environment(run, parallel):
    commands = [f'printf "out {n}\\n\\n"; echo "err $CANFAR_BATCH_KEY $N" >&2; exit {n % 4}' for n in range(1, 8)]
    bundle = [attrs.evolve(task, env=(("N", task.key[1:]),)) for task in tasks(*commands)]
    log = run(bundle, parallel=parallel)
    for n in range(1, 8):
        assert log.own(n) == f"out {n}\n\nerr k{n} {n}\n".encode()
        begun, ended = log.receipts(n)
        assert (ended["exit_code"], ended["launch_name"], ended["key"]) == (n % 4, f"{NAME}.{n}", f"k{n}")
        assert begun["started_at"] == ended["started_at"] <= ended["finished_at"]
        assert ended["stopped_by"] is None


def test_logs_do_not_mix_and_arrive_byte_for_byte(run, tmp_path):
    for n in range(1, 9):
        (tmp_path / f"{n}.bin").write_bytes((bytes(range(256)) * n * 40) + b"no line end"[: n % 3])
    log = run(tasks(*(f"cat {n}.bin" for n in range(1, 9))), parallel=4)
    for n in range(1, 9):
        assert log.own(n) == (tmp_path / f"{n}.bin").read_bytes()


def test_as_many_run_at_a_time_as_asked(run, tmp_path):
    counted = "touch run.$CANFAR_BATCH_KEY; ls run.* | wc -l >>most; sleep 0.1; rm run.$CANFAR_BATCH_KEY"
    run(tasks(*[counted] * 9), parallel=3)
    seen = [int(line) for line in (tmp_path / "most").read_text().split()]
    assert len(seen) == 9
    assert 1 < max(seen) <= 3


def test_tasks_begin_in_their_order(run, tmp_path):
    run(tasks(*[f"echo {n} >>order" for n in range(1, 6)]))
    assert (tmp_path / "order").read_text().split() == ["1", "2", "3", "4", "5"]


def test_each_task_has_its_own_directory_outputs_and_timeout(run, tmp_path):
    (tmp_path / "a").mkdir()
    bundle = [
        Task(argv=sh("echo x >made"), key="k1", file="k1", workdir="a", outputs=("made",)),
        Task(argv=("sleep", "1000"), key="k2", file="k2", timeout=0.3),
        Task(argv=sh("true"), key="k3", file="k3", workdir="missing"),
        Task(argv=sh("true"), key="k4", file="k4", outputs=("made",)),
    ]
    log = run(bundle, parallel=2)
    assert log.end(1)["outputs"] == {"made": 2}
    assert (log.end(2)["timed_out"], log.end(2)["exit_code"]) == (True, 143)
    assert (log.end(3)["trouble"], log.end(3)["exit_code"]) == ("workdir", 96)
    assert log.end(4)["missing"] == ["made"]


def test_the_cpu_time_is_the_tasks_own(run):
    busy = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done"
    log = run(tasks(busy, "sleep 0.2"), parallel=2)
    assert log.end(1)["cpu_seconds"] > log.end(2)["cpu_seconds"] >= 0


def cgroup(folder: Path, peak: int = 100) -> str:
    folder.mkdir()
    (folder / "memory.events").write_text("oom_kill 0\n")
    (folder / "memory.peak").write_text(f"{peak}\n")
    (folder / "memory.max").write_text("8000\n")
    return str(folder)


def test_the_peak_is_the_tasks_own_if_no_other_ran_beside_it_and_none_before_it_used_more(run, tmp_path):
    group = cgroup(tmp_path / "g")
    log = run(
        tasks(f"echo 500 >{group}/memory.peak", "true", f"echo 900 >{group}/memory.peak"),
        env={"CANFAR_BATCH_CGROUP": group},
    )
    assert [log.end(n)["peak_bytes"] for n in (1, 2, 3)] == [500, None, 900]
    assert log.end(1)["limit_bytes"] == 8000


def test_of_tasks_side_by_side_only_one_that_was_killed_ran_out_of_memory(run, tmp_path):
    group = cgroup(tmp_path / "g")
    kill = f"echo oom_kill 1 >{group}/memory.events; kill -9 $$"
    beside = f"until grep -q 1 {group}/memory.events; do sleep 0.02; done; exit 0"
    log = run(tasks(kill, beside, "echo goes on"), parallel=2, env={"CANFAR_BATCH_CGROUP": group})
    assert (log.end(1)["exit_code"], log.end(1)["oom_kills"]) == (137, 1)
    assert (log.end(2)["exit_code"], log.end(2)["oom_kills"], log.end(2)["peak_bytes"]) == (0, None, None)
    assert log.end(2)["limit_bytes"] is None
    assert log.own(3) == b"goes on\n"


# -- deaths -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("visible", [True, False])
def test_a_task_that_is_killed_with_its_wrapper_is_reported_and_the_others_go_on(run, home, visible):
    die = 'echo before; read -r _ _ _ parent _ </proc/self/stat; kill -9 $(cut -d" " -f4 /proc/$$/stat); sleep 0.1'
    log = run(tasks("echo 1", die, "echo 3"), home=home if visible else None)
    assert (log.end(2)["exit_code"], log.end(2)["trouble"]) == (137, "killed")
    assert log.end(3)["exit_code"] == 0
    if visible:
        assert receipt(home, "k2")["exit_code"] == 137
        assert (home / "running" / f"{NAME}.2").read_bytes() == b"before\n"
    else:
        assert log.own(2) == b"before\n"


def test_lanes_that_are_killed_leave_no_task_behind(begin, mark):
    process = begin(tasks(*[f"sleep 0.3; echo {n}" for n in range(6)]), parallel=2)
    assert process.stdout is not None
    raw = b""
    while raw.count(b" start key=") < 2:
        raw += os.read(process.stdout.fileno(), 1 << 16)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    rest, _ = process.communicate(timeout=PATIENCE)
    log = Log(raw + rest)
    assert process.returncode == 0
    assert [log.own(n) for n in range(1, 7)] == [f"{n}\n".encode() for n in range(6)]
    assert all(log.end(n)["exit_code"] == 0 for n in range(1, 7))


# -- signals ------------------------------------------------------------------------------------------------------


def test_sigterm_reaches_the_tasks_that_run_and_no_other_begins(begin):
    trap = 'trap "echo bye; exit 5" TERM; echo ready; while :; do sleep 0.02; done'
    process = begin(tasks("echo 1", trap, trap, "echo 4"), parallel=2)
    assert process.stdout is not None
    raw = b""
    while raw.count(b" start key=") < 3:
        raw += os.read(process.stdout.fileno(), 1 << 16)
    time.sleep(0.3)  # the commands set their traps; the next test has no such pause
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=PATIENCE)
    log = Log(raw + rest)
    assert process.returncode == 143
    assert log.end(1)["stopped_by"] is None
    for n in (2, 3):
        assert log.end(n)["stopped_by"] == "TERM"
        assert log.end(n)["exit_code"] in (5, 143)
    assert log.receipts(4) == (None, None)


def test_sigterm_at_any_moment_ends_the_container_with_true_receipts(begin, mark):
    for moment in range(20):
        process = begin(tasks("exit 3", "exec sleep 1000", "exec sleep 1000"), parallel=(1, 2)[moment % 2], grace=0.2)
        time.sleep(moment / 200)
        process.send_signal(signal.SIGTERM)
        raw, stderr = process.communicate(timeout=PATIENCE)
        log = Log(raw)
        assert stderr == b""
        assert process.returncode in (143, -signal.SIGTERM)
        for n in (1, 2, 3):
            begun, ended = log.receipts(n)
            assert (begun is None) == (ended is None)
            if ended is not None and ended["stopped_by"] is None:
                assert (n, ended["exit_code"]) == (1, 3)
        until(lambda: not marked(mark))


# -- a home that the container sees ---------------------------------------------------------------------------------


def test_in_a_visible_home_receipts_and_logs_are_files(run, home):
    log = run(tasks("echo one; exit 3", "echo two"), home=home)
    assert (home / "running" / f"{NAME}.1").read_bytes() == b"one\n"
    assert receipt(home, "k1") == log.end(1)
    assert receipt(home, "k2", "start") == log.receipts(2)[0]
    assert (log.own(1), receipt(home, "k1")["exit_code"]) == (b"", 3)
    assert (home / "running" / f"{NAME}.2").stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(home)) == ["receipts", "running", "token"]


def test_the_log_of_a_running_task_can_be_read(begin, home):
    process = begin(tasks("echo first; until [ -e go ]; do sleep 0.02; done; echo last"), home=home)
    log = home / "running" / f"{NAME}.1"
    until(lambda: log.exists() and log.read_bytes() == b"first\n")
    (home.parent / "go").touch()
    process.communicate(timeout=PATIENCE)
    assert log.read_bytes() == b"first\nlast\n"


def test_one_task_can_be_stopped(begin, home):
    waits = "trap 'exit 7' TERM; while :; do sleep 0.02; done"
    process = begin(tasks(waits, "sleep 0.5; echo done", "echo never", "echo 4"), home=home, parallel=2)
    (home / "running" / f"{NAME}.3.stop").touch()
    until(lambda: receipt(home, "k1", "start"))
    (home / "running" / f"{NAME}.1.stop").touch()
    raw, _ = process.communicate(timeout=PATIENCE)
    log = Log(raw)
    assert process.returncode == 0
    assert log.end(1)["stopped_by"] == log.end(3)["stopped_by"] == "TERM"
    assert (log.end(2)["exit_code"], log.end(4)["exit_code"], log.end(2)["stopped_by"]) == (0, 0, None)
    assert (home / "running" / f"{NAME}.3").read_bytes() == b""


def test_a_container_that_is_begun_again_repeats_no_task_that_ended(run, begin, home, tmp_path, mark):
    bundle = tasks("echo x >>1", "echo x >>2; [ -e go ] || exec sleep 1000", "echo x >>3")
    process = begin(bundle, home=home)
    until(lambda: (tmp_path / "2").exists())
    while left := marked(mark):  # a new lane or task may be forked meanwhile
        for one in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        process.poll()
    process.communicate(timeout=PATIENCE)
    for file in (tmp_path / "local").glob(".*"):  # the disk of the first run is gone
        file.unlink()
    (tmp_path / "go").touch()
    run(bundle, home=home)
    assert [(tmp_path / str(n)).read_text().count("x") for n in (1, 2, 3)] == [1, 2, 1]
    assert [receipt(home, f"k{n}")["exit_code"] for n in (1, 2, 3)] == [0, 0, 0]


def test_a_home_without_room_for_logs_sends_them_to_the_containers_log(run, home):
    (home / "running").rmdir()
    log = run(tasks("echo one"), home=home)
    assert (log.own(1), receipt(home, "k1")["exit_code"]) == (b"one\n", 0)


def test_the_script_may_come_as_a_file(shell, home, tmp_path):
    script = bundle_script(tasks("echo one; exit 2"), Surroundings(), launch_name=NAME)
    path = tmp_path / "it's a file"
    path.write_text(script)
    process = start(encode_file(str(path)), shell, tmp_path)
    raw, stderr = process.communicate(timeout=PATIENCE)
    assert (process.returncode, stderr, Log(raw).own(1), Log(raw).end(1)["exit_code"]) == (0, b"", b"one\n", 2)
    path.unlink()
    process = start(encode_file(str(path)), shell, tmp_path)
    raw, stderr = process.communicate(timeout=PATIENCE)
    assert (process.returncode, raw) == (97, b"")
    assert b"cannot be read in the container" in stderr


def test_a_container_without_stdin_and_stdout_runs_its_tasks(shell, tmp_path):
    payload = encode_bundle(bundle_script(tasks("touch ran"), Surroundings(), launch_name=NAME))
    words = ["sh", "-c", 'exec "$@" <&- >&-', "sh", *container_argv(payload, shell)]
    subprocess.run(words, env=container_env(tmp_path), cwd=tmp_path, check=True, timeout=PATIENCE)
    assert (tmp_path / "ran").exists()


def test_without_a_directory_for_temporary_files_nothing_runs(shell, tmp_path):
    script = bundle_script(tasks("touch ran"), Surroundings(), launch_name=NAME)
    script = script.replace(" /tmp /scratch ", " ")
    env = {"TMPDIR": "/no/such", "HOME": "/no/such"}
    process = start(encode_bundle(script), shell, tmp_path, env)
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 95
    assert b"set TMPDIR" in stderr
    assert not (tmp_path / "ran").exists()
