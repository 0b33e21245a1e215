"""The wrapper as a container runs it, in every shell: the job's surroundings, receipts, and leftovers."""

from __future__ import annotations

import glob
import os
import shutil
import signal
import stat
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
from shells import PRESENT, each_shell, marked, start
from waiting import until

from canfar_batch.payload.encode import Payload, encode_exec, encode_wrapped
from canfar_batch.payload.receipts import parse_receipt, receipt_paths, split_log

NAME = "calib-ngc1275-k3x9z1-1f-2"
PATIENCE = 60.0  #: seconds until a test gives up waiting for what should come at once

can_restore_signals = pytest.mark.skipif(
    subprocess.run(["env", "--default-signal=INT", "true"], capture_output=True, check=False).returncode != 0,
    reason="this env has no --default-signal",
)


@attrs.frozen
class Ended:
    """A container's end: its exit code, its streams, and the receipts in them."""

    code: int
    raw: bytes
    stderr: bytes
    own: bytes
    start: dict[str, Any]
    end: dict[str, Any]


@pytest.fixture(params=PRESENT.values(), ids=PRESENT)
def shell(request: pytest.FixtureRequest) -> Sequence[str]:
    return request.param


@pytest.fixture
def mark() -> Iterator[str]:
    """A variable's value by which a test's processes are known; those that outlive it are ended."""
    mark = uuid.uuid4().hex
    yield mark
    for process in marked(mark):
        os.kill(process, signal.SIGKILL)


@pytest.fixture
def begin(shell, tmp_path, mark) -> Callable[..., subprocess.Popen[bytes]]:
    """Starts argv under the wrapper."""

    def begin(argv: Sequence[str], env: Any = None, popen: Any = None, **options: Any) -> subprocess.Popen[bytes]:
        payload = encode_wrapped(argv, **{"launch_name": NAME, "key": "k", "attempt": 2, **options})
        return start(payload, shell, tmp_path, {"MARK": mark, **(env or {})}, **(popen or {}))

    return begin


@pytest.fixture
def run(begin) -> Callable[..., Ended]:
    """Runs argv under the wrapper until its end."""

    def run(argv: Sequence[str], stdin: bytes | None = None, **options: Any) -> Ended:
        popen = options.pop("popen", {})
        return finish(
            begin(argv, popen={**popen, **({} if stdin is None else {"stdin": subprocess.PIPE})}, **options), stdin
        )

    return run


def finish(process: subprocess.Popen[bytes], stdin: bytes | None = None) -> Ended:
    raw, stderr = process.communicate(stdin, timeout=PATIENCE)
    own, begun, ended = split_log(raw, NAME)
    assert begun is not None
    assert ended is not None
    assert ended["started_at"] == begun["started_at"]
    return Ended(process.returncode, raw, stderr, own, begun, ended)


def read_until_ready(process: subprocess.Popen[bytes]) -> bytes:
    """The container's output until its job printed `ready`."""
    assert process.stdout is not None
    seen = b""
    while not seen.endswith(b"ready\n"):
        more = os.read(process.stdout.fileno(), 1 << 16)
        assert more
        seen += more
    return seen


def sh(text: str, *words: str) -> list[str]:
    return ["/bin/sh", "-c", text, "sh", *words]


# -- the job's surroundings ---------------------------------------------------------------------------------------


def test_stdin_is_the_containers(run):
    assert run(["cat"], stdin=bytes(range(256))).own == bytes(range(256))


def test_a_container_without_stdin_runs_its_job(shell, tmp_path):
    payload = encode_wrapped(sh("cat; exit 4"), launch_name=NAME, key="k")
    ended = finish(start(payload, ["sh", "-c", 'exec "$@" <&-', "sh", *shell], tmp_path))
    assert (ended.code, ended.own) == (4, b"")


def test_the_job_inherits_no_file_but_its_three_streams(run):
    # the fourth is the directory that ls reads
    assert run(["ls", "/proc/self/fd"]).own.split() == [b"0", b"1", b"2", b"3"]


@can_restore_signals
def test_the_job_ignores_no_signal(run):
    ignored = int(run(["grep", "SigIgn", "/proc/self/status"]).own.split()[1], 16)
    assert ignored & 0x7FFFFFFF == 0  # 1 to 31; 32 and 33 are the C library's own, and may come with who ran the tests


def test_the_job_runs_in_its_own_directory(run, tmp_path):
    for name in ("sub", "-", "it's two", "~"):
        (tmp_path / name).mkdir()
        ended = run(["pwd"], workdir=name, env={"CDPATH": "/usr"})
        assert ended.own == os.fsencode(tmp_path / name) + b"\n"
        assert ended.end["workdir"] == "own"


def test_without_a_directory_of_its_own_the_job_runs_at_home(run, tmp_path):
    ended = run(["pwd"], popen={"cwd": "/"}, driver_workdir="/usr")
    assert (ended.own, ended.end["workdir"]) == (os.fsencode(tmp_path) + b"\n", "home")


def test_a_shared_drivers_directory_is_entered(run, tmp_path):
    (tmp_path / "driver").mkdir()
    ended = run(["pwd"], driver_workdir=str(tmp_path / "driver"), shared=True)
    assert (ended.own, ended.end["workdir"]) == (os.fsencode(tmp_path / "driver") + b"\n", "driver")
    relative = run(["pwd"], driver_workdir=str(tmp_path), shared=True, workdir="driver", popen={"cwd": "/"})
    assert relative.own == os.fsencode(tmp_path / "driver") + b"\n"


def test_a_missing_directory_has_its_own_exit_code(run):
    ended = run(["echo", "ran"], workdir="no/such place", outputs=["x"], timeout=3600)
    assert (ended.code, ended.own) == (96, b"")
    assert (ended.end["exit_code"], ended.end["trouble"], ended.end["missing"]) == (96, "workdir", [])
    assert b"cannot enter the working directory no/such place" in ended.stderr


# -- receipts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["true"], 0),
        (sh("exit 3"), 3),
        (sh("exit 255"), 255),
        (["/etc/passwd"], 126),
        (["no-such-program"], 127),
        (sh("kill -9 $$"), 137),
        (sh("kill -11 $$"), 139),
    ],
)
def test_the_exit_code_is_the_commands_own(run, argv, code):
    ended = run(argv)
    assert (ended.code, ended.end["exit_code"]) == (code, code)
    assert ended.end["signal"] == (code - 128 if code in (137, 139) else None)
    if argv[0] == "/bin/sh":
        assert ended.stderr == b""  # no shell writes to the log how its child ended


def test_a_receipt_identifies_the_run(run):
    before = int(time.time())
    ended = run(["true"])
    for receipt, kind in ((ended.start, "start"), (ended.end, "end")):
        assert (receipt["kind"], receipt["launch_name"], receipt["key"]) == (kind, NAME, "k")
        assert (receipt["attempt"], receipt["id"]) == (2, "abcd1234")
        assert receipt["host"] == os.uname().nodename
        assert receipt["started_at"] >= before
    assert ended.start["exit_code"] is None
    assert ended.end["finished_at"] >= ended.end["started_at"]
    assert not ended.end["timed_out"]
    assert ended.end["stopped_by"] is None


@pytest.mark.parametrize(
    "own",
    [
        b"",
        b"\n",
        b"no newline",
        b"one\n",
        b"\n\n\r\n\r",
        bytes(range(256)) * 40,
        b"#canfar_batch \n#canfar_batch other-name end code=1 #other-name\n#canfar_batch " + NAME.encode(),
    ],
)
def test_the_jobs_own_output_is_found_byte_for_byte(run, tmp_path, own):
    (tmp_path / "own").write_bytes(own)
    assert run(["cat", "own"]).own == own


def test_every_line_of_a_receipt_is_written_at_once(begin, tmp_path):
    for name in range(300):
        (tmp_path / f"{name:0>60}.out").touch()
    reading, writing = os.pipe2(os.O_DIRECT)  # returns in one piece the text that was written in one piece
    process = begin(["true"], outputs=["*.out"], popen={"stdout": writing})
    os.close(writing)
    with open(reading, "rb", buffering=0) as packets:
        lines = list(iter(lambda: packets.read(1 << 16), b""))
    assert process.wait(PATIENCE) == 0
    process.communicate()
    raw = b"".join(lines)
    begun = raw.index(b"\n", 1) + 1
    while begun > 0:  # nothing else runs yet that could tear the first
        begun -= len(lines.pop(0))
    assert len(lines) > 4
    for line in lines:
        assert line.startswith(b"\n#canfar_batch ")
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 2
        assert len(line) <= 4096  # PIPE_BUF
    assert len(split_log(raw, NAME)[2]["outputs"]) == 300


def test_a_job_that_closes_its_stdout_is_reported(run):
    ended = run(sh("exec >&- 2>&-; exit 5"))
    assert (ended.code, ended.end["exit_code"]) == (5, 5)


def test_a_container_without_stdout_runs_its_job(shell, tmp_path):
    payload = encode_wrapped(sh("touch ran; exit 6"), launch_name=NAME, key="k", outputs=["ran"])
    process = start(payload, ["sh", "-c", 'exec "$@" >&-', "sh", *shell], tmp_path)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 6
    assert (tmp_path / "ran").exists()


def test_declared_outputs_are_found_and_sized_whatever_their_names(run, tmp_path):
    names = [
        *(
            "plain.cat",
            "two words.cat",
            "it's.cat",
            'a"b.cat',
            "new\nline.cat",
            "$HOME.cat",
            "a[1].cat",
            "back\\slash.cat",
        ),
        *("*.cat", "-n.cat", "é🙂.cat", "\udcff\udcfe.cat", "#x.cat", ";rm.cat", "sub dir/x.cat"),
    ]
    for size, name in enumerate(names):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * size)
    (tmp_path / ".hidden.cat").touch()
    expected = {name: size for size, name in enumerate(names)}
    by_name = run(["true"], outputs=[glob.escape(name) for name in names])
    assert (by_name.end["outputs"], by_name.end["missing"]) == (expected, [])
    by_pattern = run(["true"], outputs=["*.cat", "sub*/?.cat"])
    assert (by_pattern.end["outputs"], by_pattern.end["missing"]) == (expected, [])
    assert by_pattern.end["found"] == {"*.cat": len(names) - 1, "sub*/?.cat": 1}


def test_character_classes_match_as_in_python(run, tmp_path):
    for name in ("a1", "a2", "a9", "b1", "a-", "a]", "a b"):
        (tmp_path / name).touch()
    patterns = ["a[1-3]", "a[!1-3]", "[ab]1", "a[]-]", "a[ ]", "a[*]", "[[]x"]
    ended = run(["true"], outputs=patterns)
    matches = {pattern: len(glob.glob(pattern, root_dir=tmp_path)) for pattern in patterns}
    assert ended.end["found"] == matches


def test_missing_outputs_are_named_and_directories_exist(run, tmp_path):
    (tmp_path / "dir").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    declared = ["dir", "pipe", "dangling", "no such", "no*such", str(tmp_path / "dir")]
    ended = run(["true"], outputs=declared)
    assert ended.end["outputs"] == {"dir": 0, "pipe": None, str(tmp_path / "dir"): 0}
    assert ended.end["missing"] == ["dangling", "no such", "no*such"]


def test_outputs_beyond_a_thousand_are_only_counted(run, tmp_path):
    for number in range(1100):
        (tmp_path / f"{number}.out").touch()
    ended = run(["true"], outputs=["*.out", "7.out", "none"])
    assert len(ended.end["outputs"]) == 1000
    assert ended.end["found"] == {"*.out": 1100, "7.out": 1, "none": 0}
    assert ended.end["missing"] == ["none"]


@pytest.mark.parametrize(
    ("command", "unchanged"),
    [
        ("true", ["old.cat", "a b\nc.cat", "link", "full", "empty"]),
        ("echo y >old.cat", ["a b\nc.cat", "link", "full", "empty"]),
        ("echo y >full/in/x", ["old.cat", "a b\nc.cat", "link", "empty"]),
        ("rm full/in/x; touch empty/new", ["old.cat", "a b\nc.cat", "link"]),
        ("cp -p full/in/x source; cp -p source new; touch *.cat", ["full", "empty"]),
    ],
)
def test_outputs_that_were_there_and_are_not_changed_are_named(run, tmp_path, command, unchanged):
    for name in ("source", "old.cat", "a b\nc.cat", "full/in/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (1_000_000_000, 1_000_000_000))
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("source")
    declared = ["old.cat", "a b\nc.cat", "link", "full", "empty", "*ew"]
    ended = run(sh(command), outputs=declared)
    assert ended.end["unchanged"] == unchanged
    assert set(ended.end["outputs"]) >= {"old.cat", "a b\nc.cat", "link", "full", "empty"}


def test_the_order_of_clocks_does_not_matter_to_what_is_unchanged(run, tmp_path):
    (tmp_path / "future").write_text("x")
    os.utime(tmp_path / "future", (4_000_000_000, 4_000_000_000))
    assert run(sh("echo x >new"), outputs=["future", "new"]).end["unchanged"] == ["future"]


def test_a_directory_with_too_much_in_it_is_not_said_to_be_unchanged(run, tmp_path):
    (tmp_path / "many").mkdir()
    for number in range(1000):
        (tmp_path / "many" / str(number)).touch()
    ended = run(["true"], outputs=["many"])
    assert (ended.end["outputs"], ended.end["unchanged"]) == ({"many": None}, [])


# -- signals of the job's own -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("send", ["kill 0", "kill -s TERM 0; wait", "kill -s INT 0; kill -s HUP 0; kill -s KILL 0"])
def test_a_job_that_signals_its_group_does_not_reach_the_wrapper(run, send):
    ended = run(sh(f"trap 'exit 3' TERM; {send}; sleep 5"))
    assert ended.code == ended.end["exit_code"]
    assert ended.code in (3, 129, 130, 137)
    assert (ended.end["stopped_by"], ended.end["timed_out"]) == (None, False)


def test_bash_does_without_setsid(only, tmp_path):
    payload = encode_wrapped(["/bin/sh", "-c", "kill 0"], launch_name=NAME, key="k", outputs=["x"])
    ended = finish(start(payload, absolute(["bash"]), tmp_path, only("base64", "env", "date")))
    assert (ended.code, ended.end["stopped_by"], ended.own, ended.stderr) == (143, None, b"", b"")


@pytest.mark.parametrize("code", [0, 5])
def test_a_timeout_is_reported_whatever_exit_code_a_handler_returns(run, code):
    ended = run(sh(f"trap 'exit {code}' TERM; sleep 2 >/dev/null 2>&1 & wait"), timeout=0.3)
    assert (ended.code, ended.end["exit_code"], ended.end["timed_out"]) == (code, code, True)


# -- resources used --------------------------------------------------------------------------------------------------


def test_cpu_time_and_memory_come_from_a_cgroup_of_version_2(run, tmp_path):
    group = tmp_path / "cgroup"
    group.mkdir()
    files = {
        "cpu.stat": "usage_usec 1500000\nuser_usec 1\n",
        "memory.events": "low 0\noom 1\noom_kill 2\n",
        "memory.peak": "1000\n",
        "memory.max": "4294967296\n",
        "cpu.max": "250000 100000\n",
    }
    for name, text in files.items():
        (group / name).write_text(text)
    job = sh(
        'cd "$1"; echo usage_usec 4000000 >cpu.stat; echo oom_kill 3 >memory.events; echo 123456789 >memory.peak',
        str(group),
    )
    ended = run(job, env={"CANFAR_BATCH_CGROUP": str(group)})
    assert ended.end["cpu_seconds"] == pytest.approx(2.5)
    assert (ended.end["oom_kills"], ended.end["peak_bytes"]) == (1, 123456789)
    assert (ended.end["limit_bytes"], ended.end["limit_cores"]) == (4 << 30, 2.5)


def version_1(group: Path) -> None:
    files = {
        "cpuacct/cpuacct.usage": "1500000000\n",
        "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n",
        "memory/memory.max_usage_in_bytes": "1000\n",
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
        "cpu/cpu.cfs_quota_us": "-1\n",
        "cpu/cpu.cfs_period_us": "100000\n",
    }
    for name, text in files.items():
        (group / name).parent.mkdir(parents=True, exist_ok=True)
        (group / name).write_text(text)


def test_cpu_time_and_memory_come_from_a_cgroup_of_version_1(run, tmp_path):
    group = tmp_path / "cgroup"
    version_1(group)
    job = sh(
        'cd "$1"; echo 1750000000 >cpuacct/cpuacct.usage; echo oom_kill 1 >memory/memory.oom_control; '
        "echo 2000 >memory/memory.max_usage_in_bytes",
        str(group),
    )
    ended = run(job, env={"CANFAR_BATCH_CGROUP": str(group)})
    assert ended.end["cpu_seconds"] == pytest.approx(0.25)
    assert (ended.end["oom_kills"], ended.end["peak_bytes"]) == (1, 2000)
    assert (ended.end["limit_bytes"], ended.end["limit_cores"]) == (None, None)


@pytest.mark.parametrize("kind", ["the root of version 1", "nothing", "garbage"])
def test_unknown_usage_is_none(run, tmp_path, kind):
    group = tmp_path / "cgroup"
    group.mkdir()
    if kind == "the root of version 1":
        version_1(group)
        (group / "memory/release_agent").touch()
    elif kind == "garbage":
        for name in ("cpu.stat", "memory.events", "memory.peak", "memory.max", "cpu.max"):
            (group / name).write_text("max\n\nusage_usec x\noom_kill\n")
    ended = run(["true"], env={"CANFAR_BATCH_CGROUP": str(group)})
    for what in ("cpu_seconds", "peak_bytes", "oom_kills", "limit_bytes", "limit_cores"):
        assert ended.end[what] is None


def test_a_killed_process_is_counted_while_the_job_goes_on(run, tmp_path):
    group = tmp_path / "cgroup"
    group.mkdir()
    (group / "memory.events").write_text("oom_kill 0\n")
    ended = run(
        sh('echo oom_kill 1 >"$1"; kill -9 $$', str(group / "memory.events")), env={"CANFAR_BATCH_CGROUP": str(group)}
    )
    assert (ended.code, ended.end["exit_code"], ended.end["oom_kills"]) == (137, 137, 1)


# -- signals and time -------------------------------------------------------------------------------------------------


def test_sigterm_reaches_the_job_and_its_end_is_reported(begin):
    process = begin(sh("echo ready; exec sleep 1000"), outputs=["none"])
    raw_start = read_until_ready(process)
    process.send_signal(signal.SIGTERM)
    rest, stderr = process.communicate(timeout=PATIENCE)
    own, _, end = split_log(raw_start + rest, NAME)
    assert (process.returncode, own, stderr) == (143, b"ready\n", b"")
    assert (end["exit_code"], end["signal"], end["stopped_by"], end["missing"]) == (143, 15, "TERM", ["none"])
    assert not end["timed_out"]


def test_a_job_may_handle_sigterm(begin):
    # it waits in short sleeps, because a shell runs its trap after the sleep
    process = begin(sh('trap "echo bye; exit 5" TERM; echo ready; while :; do sleep 0.02; done'))
    seen = read_until_ready(process)
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=PATIENCE)
    own, _, end = split_log(seen + rest, NAME)
    assert (process.returncode, own) == (5, b"ready\nbye\n")
    assert (end["exit_code"], end["stopped_by"]) == (5, "TERM")


def test_a_job_that_ignores_sigterm_is_killed_and_reported(begin):
    process = begin(sh('trap "" TERM; echo ready; while :; do sleep 0.02; done'), grace=0.3)
    seen = read_until_ready(process)
    process.send_signal(signal.SIGTERM)
    rest, stderr = process.communicate(timeout=PATIENCE)
    _, _, end = split_log(seen + rest, NAME)
    assert (process.returncode, end["exit_code"], end["stopped_by"], stderr) == (137, 137, "TERM", b"")


@can_restore_signals
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_other_signals_reach_the_job(begin, number):
    process = begin(sh(f'trap "exit 9" {number.name[3:]}; echo ready; while :; do sleep 0.02; done'))
    seen = read_until_ready(process)
    process.send_signal(number)
    rest, _ = process.communicate(timeout=PATIENCE)
    _, _, end = split_log(seen + rest, NAME)
    assert (process.returncode, end["exit_code"], end["stopped_by"]) == (9, 9, number.name[3:])


@pytest.mark.parametrize("argv", [["true"], sh("exit 3"), ["sleep", "1000"]], ids=["true", "3", "sleep"])
def test_sigterm_at_any_moment_ends_the_container_with_a_true_receipt(begin, argv):
    for moment in range(25):
        process = begin(argv, grace=0.2, timeout=(None, 3600, 0.01)[moment % 3])
        time.sleep(moment / 1000)
        process.send_signal(signal.SIGTERM)
        raw, stderr = process.communicate(timeout=PATIENCE)
        _, start, end = split_log(raw, NAME)
        assert stderr == b""
        if process.returncode == -signal.SIGTERM:
            assert end is None  # the shell had hardly begun
            continue
        assert start is not None
        assert end is not None
        assert end["exit_code"] == process.returncode
        # a job that was stopped before it had begun is killed
        assert process.returncode in (143, 137, *((0,) if argv == ["true"] else (3,) if argv[0] == "/bin/sh" else ()))


def test_the_time_out_ends_the_job(run):
    ended = run(["sleep", "1000"], timeout=0.2, outputs=["none"])
    assert (ended.code, ended.end["exit_code"], ended.end["timed_out"]) == (143, 143, True)
    assert ended.end["stopped_by"] is None
    assert ended.end["missing"] == ["none"]


def test_a_job_that_outlives_its_time_out_is_killed(run):
    ended = run(sh('trap "" TERM; while :; do sleep 0.02; done'), timeout=0.2, grace=0.2)
    assert (ended.code, ended.end["exit_code"], ended.end["timed_out"]) == (137, 137, True)


def test_a_time_out_that_is_not_reached_leaves_nothing_behind(run, mark):
    # communicate() would wait for whatever still held the streams
    ended = run(sh("echo done"), timeout=3600)
    assert (ended.code, ended.own, ended.stderr, ended.end["timed_out"]) == (0, b"done\n", b"", False)
    until(lambda: not marked(mark))


def test_an_interrupted_time_out_leaves_nothing_behind(begin, mark):
    process = begin(sh("echo ready; exec sleep 1000"), timeout=3600)
    read_until_ready(process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 143
    until(lambda: not marked(mark))


def test_the_end_does_not_wait_for_background_processes(begin):
    process = begin(sh("sleep 1000 & echo $! >child; exit 7"))
    assert process.wait(PATIENCE) == 7
    assert process.stdout is not None
    raw = b""
    while split_log(raw, NAME)[2] is None:
        raw += os.read(process.stdout.fileno(), 1 << 16)
    process.stdout.close()
    process.stderr.close()


# -- programs the image lacks ----------------------------------------------------------------------------------------


@pytest.fixture
def only(tmp_path) -> Callable[..., dict[str, str]]:
    """An environment in which no other programs are found than those named."""

    def only(*programs: str) -> dict[str, str]:
        folder = tmp_path / "only"
        folder.mkdir()
        for program in programs:
            (folder / program).symlink_to(shutil.which(program) or "")
        return {"PATH": str(folder)}

    return only


def absolute(shell: Sequence[str]) -> list[str]:
    return [shutil.which(shell[0]) or "", *shell[1:]]


@each_shell
def test_nothing_but_base64_is_needed(shell, only, tmp_path):
    (tmp_path / "x").write_text("four")
    payload = encode_wrapped(["/bin/echo", "ran"], launch_name=NAME, key="k", timeout=3600, outputs=["x"])
    ended = finish(start(payload, absolute(shell), tmp_path, only("base64")))
    assert (ended.code, ended.own, ended.stderr) == (0, b"ran\n", b"")
    assert ended.end["exit_code"] == 0
    assert ended.end["started_at"] is ended.end["finished_at"] is None or shell[0] == "busybox"
    # busybox has some of what else is missing built in
    assert ended.end["trouble"] == "no-sleep" or shell[0] == "busybox"
    assert list(ended.end["outputs"]) == ["x"]


@each_shell
@pytest.mark.parametrize("encode", [encode_exec, encode_wrapped])
def test_without_base64_nothing_runs_and_the_exit_code_is_97(shell, encode, only, tmp_path):
    options = {"launch_name": NAME, "key": "k"} if encode is encode_wrapped else {}
    (tmp_path / "only2").mkdir()
    process = start(
        encode(["/bin/touch", "it ran"], **options), absolute(shell), tmp_path, {"PATH": str(tmp_path / "only2")}
    )
    _, stderr = process.communicate(timeout=PATIENCE)
    if shell[0] == "busybox" and process.returncode == 0:
        pytest.skip("this busybox finds its own base64 wherever it is")
    assert process.returncode == 97
    assert b"base64" in stderr
    assert not (tmp_path / "it ran").exists()


def test_an_incomplete_payload_runs_nothing(shell, tmp_path):
    payload = encode_wrapped(["touch", "ran"], launch_name=NAME, key="k")
    for lost in (1, 2, 3, 4, 40, 400):
        assert payload.args is not None
        process = start(Payload(payload.cmd, payload.args[:-lost]), shell, tmp_path)
        process.communicate(timeout=PATIENCE)
        # a loss within the padding has no effect
        assert process.returncode != 0 or (tmp_path / "ran").exists()
        assert lost < 5 or not (tmp_path / "ran").exists()
        (tmp_path / "ran").unlink(missing_ok=True)


def test_the_exec_form_makes_the_program_the_first_process(shell, tmp_path):
    process = start(encode_exec(sh("echo $$ $A; exit 3"), {"A": "x  y"}, workdir=str(tmp_path)), shell, tmp_path)
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert (process.returncode, stdout, stderr) == (3, f"{process.pid} x y\n".encode(), b"")


def test_the_exec_form_does_not_run_elsewhere(shell, tmp_path):
    process = start(encode_exec(["touch", str(tmp_path / "ran")], workdir="/no/such"), shell, tmp_path)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 96
    assert not (tmp_path / "ran").exists()


# -- receipts as files ------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path) -> Path:
    home = tmp_path / "the batch's home"
    home.mkdir()
    (home / "token").write_text("s3cret\n")
    return home


def files(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


def test_receipts_are_written_to_the_batchs_home(run, home, tmp_path):
    (tmp_path / "x").write_text("four")
    ended = run(["pwd"], home=str(home), token="s3cret", driver_workdir=str(home), outputs=["../x"])
    assert ended.own == os.fsencode(home) + b"\n"
    assert files(home) == ["receipts/k.2.end", "receipts/k.2.start", "token"]
    begun, over = (Path(path) for path in receipt_paths(str(home), "k", 2))
    assert parse_receipt(begun.read_bytes()) == ended.start
    assert parse_receipt(over.read_bytes()) == ended.end
    assert ended.end["outputs"] == {"../x": 4}
    assert stat.S_IMODE(over.stat().st_mode) == 0o600
    assert run(sh("umask")).own != b"0077\n"


@pytest.mark.parametrize("found", [None, "another\n", ""])
def test_another_batchs_home_is_not_written_to(run, home, found, tmp_path):
    (home / "token").unlink()
    if found is not None:
        (home / "token").write_text(found)
    before = files(home)
    ended = run(["pwd"], home=str(home), token="s3cret", driver_workdir="/usr")
    assert (ended.code, ended.own) == (0, os.fsencode(tmp_path) + b"\n")
    assert files(home) == before


def test_a_restarted_container_removes_its_old_end_receipt(run, begin, home):
    ended = run(sh("exit 143"), home=str(home), token="s3cret")
    process = begin(sh("echo ready; cat; exit 3"), home=str(home), token="s3cret", popen={"stdin": subprocess.PIPE})
    seen = read_until_ready(process)
    assert "receipts/k.2.end" not in files(home)
    own, begun, over = split_log(ended.raw + seen, NAME)
    assert (own, over) == (b"ready\n", None)
    assert begun["started_at"] >= ended.start["started_at"]
    process.communicate(timeout=PATIENCE)
    assert parse_receipt(Path(receipt_paths(str(home), "k", 2)[1]).read_bytes())["exit_code"] == 3


def test_the_end_of_an_earlier_run_leaves_the_receipts_of_a_later_one(begin, home):
    """The platform may begin a container again while its first run is still ending."""
    begun, over = (Path(path) for path in receipt_paths(str(home), "k", 2))
    waits = sh("echo ready; cat; exit 3")
    earlier = begin(waits, home=str(home), token="s3cret", popen={"stdin": subprocess.PIPE})
    read_until_ready(earlier)
    first = begun.read_text()
    begun.write_text(first.replace(" started=", " started=1"))
    earlier.communicate(timeout=PATIENCE)
    assert earlier.returncode == 3
    assert not over.exists()
    begun.write_text("")  # nothing says that another run has begun
    alone = begin(waits, home=str(home), token="s3cret", popen={"stdin": subprocess.PIPE})
    read_until_ready(alone)
    begun.write_text("torn")
    alone.communicate(timeout=PATIENCE)
    assert parse_receipt(over.read_bytes())["exit_code"] == 3


def test_a_home_that_cannot_be_written_does_not_affect_the_job(run, home):
    (home / "receipts").write_text("not a directory")
    ended = run(["echo", "ran"], home=str(home), token="s3cret")
    assert (ended.code, ended.own, ended.stderr) == (0, b"ran\n", b"")
