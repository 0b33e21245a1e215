"""Inside a job: who it is, its share of the work, its log, its limits, and writing safely."""

import errno
import json
import logging
import os
import re
import shutil
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canfar_batch import inside

NAMES = (
    "skaha_sessionid", "SKAHA_SESSION_ID", "CANFAR_BATCH_KEY", "CANFAR_BATCH_ATTEMPT", "CANFAR_BATCH_NAME",
    "CANFAR_BATCH_CGROUP", "REPLICA_ID", "REPLICA_COUNT", "TMPDIR",
)  # fmt: skip


@pytest.fixture(autouse=True)
def outside(monkeypatch, tmp_path):
    """No container: a test sets the variables that one would have."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(inside, "SCRATCH", str(tmp_path / "no-scratch"))
    monkeypatch.setattr("tempfile.tempdir", None)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)


@pytest.fixture
def root_logger():
    """The root logger, restored after the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)


# -- the file itself --------------------------------------------------------------------------------------------------


def test_a_copy_of_the_file_works_alone_and_imports_little(tmp_path):
    shutil.copy(inside.__file__, tmp_path / "inside.py")
    program = """
import sys
import __future__, collections.abc, contextlib, os, typing  # what nearly every program has loaded
before = set(sys.modules)
sys.path.insert(0, sys.argv[1])
import inside
print(sorted(set(sys.modules) - before))
assert inside.chunk(range(10)) == list(range(10))
with inside.atomic_write("out.txt") as file, inside.scratch():
    file.write("done")
print(inside.describe()["python"])
"""
    words = [sys.executable, "-I", "-S", "-c", program, tmp_path]
    said = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert said.splitlines()[0] == "['inside']"
    assert (tmp_path / "out.txt").read_text() == "done"


def test_its_syntax_is_that_of_python_3_8():
    import ast

    ast.parse(Path(inside.__file__).read_text(), feature_version=(3, 8))


@pytest.mark.parametrize("name", ["inside", *inside.__all__])
def test_every_example_runs(name, capsys, root_logger):
    documented = inside if name == "inside" else getattr(inside, name)
    (example,) = re.findall(r"```python\n(.*?)```", documented.__doc__, re.DOTALL)
    exec(textwrap.dedent(example), {})


# -- who am I ---------------------------------------------------------------------------------------------------------


def test_the_platforms_variable_for_the_id_comes_first(monkeypatch):
    assert inside.job_id() is None
    monkeypatch.setenv("SKAHA_SESSION_ID", "guides")
    assert inside.job_id() == "guides"
    monkeypatch.setenv("skaha_sessionid", "platforms")
    assert inside.job_id() == "platforms"


def test_a_job_knows_its_key_its_attempt_and_its_batch(monkeypatch):
    assert (inside.key(), inside.attempt(), inside.batch()) == (None, 1, None)
    monkeypatch.setenv("CANFAR_BATCH_KEY", "night-7")
    monkeypatch.setenv("CANFAR_BATCH_ATTEMPT", "3")
    monkeypatch.setenv("CANFAR_BATCH_NAME", "calib")
    assert (inside.key(), inside.attempt(), inside.batch()) == ("night-7", 3, "calib")


def test_an_attempt_that_is_not_a_number_is_an_error(monkeypatch):
    monkeypatch.setenv("CANFAR_BATCH_ATTEMPT", "two")
    with pytest.raises(ValueError, match="CANFAR_BATCH_ATTEMPT='two' is not a whole number"):
        inside.attempt()


# -- shares -----------------------------------------------------------------------------------------------------------


def test_outside_a_container_one_replica_does_everything():
    assert inside.replica() == (1, 1)
    assert inside.stripe("abc") == inside.chunk("abc") == ["a", "b", "c"]


def test_a_replica_takes_its_share(monkeypatch):
    monkeypatch.setenv("REPLICA_ID", "2")
    monkeypatch.setenv("REPLICA_COUNT", "3")
    assert inside.replica() == inside.Replica(index=2, count=3)
    assert inside.stripe(range(8)) == [1, 4, 7]
    assert inside.chunk(range(8)) == [3, 4, 5]
    assert inside.chunk(range(8), index=3) == [6, 7]
    assert inside.chunk(range(8), count=2) == [4, 5, 6, 7]


@pytest.mark.parametrize(
    ("index", "count", "words"),
    [
        ("4", "3", "no replica 4 of 3"),
        ("0", "3", "REPLICA_ID='0'"),
        ("1", "many", "REPLICA_COUNT='many'"),
        ("1", "", "REPLICA_ID is set and REPLICA_COUNT is not"),
        ("", "3", "REPLICA_COUNT is set and REPLICA_ID is not"),
    ],
)
def test_an_impossible_replica_is_an_error(monkeypatch, index, count, words):
    monkeypatch.setenv("REPLICA_ID", index)
    monkeypatch.setenv("REPLICA_COUNT", count)
    for ask in (inside.replica, lambda: inside.chunk("abc"), lambda: inside.stripe("abc")):
        with pytest.raises(ValueError, match=words):
            ask()


@pytest.mark.parametrize("share", [inside.stripe, inside.chunk])
def test_a_share_of_a_set_is_refused(share):
    with pytest.raises(TypeError, match=r"sorted\(items\)"):
        share({"a", "b"})


@pytest.mark.parametrize("share", [inside.stripe, inside.chunk])
@pytest.mark.parametrize(("index", "count"), [(0, 2), (3, 2), (1, 0), (-1, -1)])
def test_a_share_that_does_not_exist_is_refused(share, index, count):
    with pytest.raises(ValueError, match="counted from 1"):
        share("abc", index, count)


@settings(deadline=None)
@given(st.lists(st.integers(), max_size=200), st.integers(1, 50))
def test_chunks_are_complete_ordered_and_of_equal_length(items, count):
    chunks = [inside.chunk(iter(items), index, count) for index in range(1, count + 1)]
    assert [item for chunk in chunks for item in chunk] == items
    lengths = [len(chunk) for chunk in chunks]
    assert max(lengths) - min(lengths) <= 1


@settings(deadline=None)
@given(st.lists(st.integers(), max_size=200), st.integers(1, 50))
def test_stripes_are_complete_and_of_equal_length(items, count):
    numbered = list(enumerate(items))
    stripes = [inside.stripe(iter(numbered), index, count) for index in range(1, count + 1)]
    assert sorted(item for stripe in stripes for item in stripe) == numbered
    assert all(place % count == number for number, stripe in enumerate(stripes) for place, _ in stripe)
    lengths = [len(stripe) for stripe in stripes]
    assert max(lengths) - min(lengths) <= 1


# -- logging ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pacific_time(monkeypatch):
    monkeypatch.setenv("TZ", "PST8")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_the_log_is_on_the_console_and_in_a_file_with_the_jobs_id(monkeypatch, capsys, root_logger):
    monkeypatch.setenv("skaha_sessionid", "abc12345")
    file = inside.configure_logging("deep/logs")
    logging.getLogger("mine").info("begun: %s", "é")
    assert re.fullmatch(r"job_abc12345_\d{8}_\d{6}\.log", file.name)
    (line,) = file.read_text(encoding="utf-8").splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d - INFO - begun: é", line)
    assert capsys.readouterr().err.strip() == line


def test_times_in_the_log_are_in_utc(root_logger, pacific_time):
    inside.configure_logging("logs")
    record = logging.makeLogRecord({"msg": "then", "levelname": "INFO", "created": 0})
    assert root_logger.handlers[-1].format(record) == "1970-01-01 00:00:00 - INFO - then"


def test_a_container_restarted_within_a_second_gets_a_new_log(monkeypatch, root_logger):
    monkeypatch.setattr("time.strftime", lambda *_: "20260102_030405")
    first, second = inside.configure_logging("logs"), inside.configure_logging("logs")
    assert [first.name, second.name] == ["job_unknown_20260102_030405.log", "job_unknown_20260102_030405-2.log"]


def test_logging_configured_twice_logs_each_message_once(capsys, root_logger):
    others = logging.NullHandler()
    root_logger.addHandler(others)
    first, second = inside.configure_logging("logs"), inside.configure_logging("logs", level="DEBUG")
    logging.debug("once")
    assert first.read_text() == ""
    assert second.read_text().count("once") == 1
    assert capsys.readouterr().err.count("once") == 1
    assert others in root_logger.handlers


def test_an_id_with_a_slash_stays_in_the_directory(monkeypatch, root_logger):
    monkeypatch.setenv("SKAHA_SESSION_ID", "../../etc")
    assert inside.configure_logging("logs").parent == Path("logs")


# -- describing -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cgroup(monkeypatch, tmp_path):
    """Replace the kernel's files by these."""

    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: {512 * 2**20} kB\nMemAvailable: {256 * 2**20} kB\n")
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 512 * inside.GIB // 4096}

    def made(**files):
        for name, text in files.items():
            file = tmp_path / "cgroup" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{text}\n")
        monkeypatch.setenv("CANFAR_BATCH_CGROUP", str(tmp_path / "cgroup"))
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
        read = {"/proc/meminfo": meminfo}
        monkeypatch.setattr(inside, "open", lambda file, **how: open(read.get(file, file), **how), raising=False)  # noqa: SIM115
        monkeypatch.setattr(os, "sysconf", pages.__getitem__)
        return inside.describe()

    return made


def test_limits_of_a_version_2_cgroup_are_what_is_allowed(cgroup):
    found = cgroup(**{
        "cpu.max": "150000 100000",
        "memory.max": 4 * inside.GIB,
        "memory.current": 3 * inside.GIB,
        "memory.stat": f"anon 5\ninactive_file {inside.GIB}",
    })  # fmt: skip
    assert found["cpus"]["allowed"] == 1.5
    assert found["memory_gib"]["allowed"] == 4
    assert found["memory_gib"]["machine"] == 512
    assert found["memory_gib"]["available"] == 2  # 3 GiB are used, of which 1 is cache that can be dropped


@pytest.mark.parametrize("cpu", ["cpu", "cpu,cpuacct"])
def test_limits_of_a_version_1_cgroup_are_what_is_allowed(cgroup, cpu):
    found = cgroup(**{
        f"{cpu}/cpu.cfs_quota_us": 200000,
        f"{cpu}/cpu.cfs_period_us": 100000,
        "memory/memory.limit_in_bytes": 8 * inside.GIB,
        "memory/memory.usage_in_bytes": 8 * inside.GIB,
        "memory/memory.stat": f"inactive_file 7\ntotal_inactive_file {inside.GIB}",
    })  # fmt: skip
    assert found["cpus"]["allowed"] == 2
    assert found["memory_gib"]["allowed"] == 8
    assert found["memory_gib"]["available"] == 1


@pytest.mark.parametrize(
    "files",
    [
        {"cpu.max": "max 100000", "memory.max": "max", "memory.current": "1"},
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000", "memory/memory.limit_in_bytes": 2**63 - 4096},
        {"nothing": "at all"},
    ],
)
def test_without_a_limit_the_machine_is_allowed(cgroup, files):
    found = cgroup(**files)
    assert found["cpus"]["allowed"] == 64
    assert found["memory_gib"] == {"allowed": 512, "available": 256, "machine": 512}


def test_a_description_is_json_and_text_with_a_line_for_each_fact():
    found = inside.describe()
    assert json.loads(json.dumps(found)) == found
    lines = str(found).splitlines()
    assert "job: unknown" in lines
    assert f"workdir: {Path.cwd()}" in lines
    assert lines[lines.index("memory_gib:") + 1].startswith("  allowed: ")
    assert str(Path.cwd()) in found["disk_free_gib"]


def test_a_description_holds_no_secret(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-1")
    monkeypatch.setenv("CANFAR_TOKEN", "hush-2")
    monkeypatch.setenv("SKAHA_API_TOKEN", "hush-3")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:hush-4@proxy")
    monkeypatch.setenv("CANFAR_BATCH_KEY", "night-7")
    found = inside.describe()
    assert "hush" not in str(found)
    assert found["environment"]["SKAHA_API_TOKEN"] == "[secret]"
    assert found["environment"]["CANFAR_BATCH_KEY"] == "night-7"


def test_a_broken_environment_can_be_described(monkeypatch):
    monkeypatch.setenv("CANFAR_BATCH_ATTEMPT", "two")
    monkeypatch.setenv("REPLICA_ID", "x")
    found = inside.describe()
    assert (found["attempt"], found["replica"]) == ("two", "x of None")


# -- writing ----------------------------------------------------------------------------------------------------------


def files():
    return sorted(path.name for path in Path().iterdir())


def test_a_file_appears_when_the_block_ends():
    with inside.atomic_write("out.txt") as file:
        file.write("é\n")
        assert not Path("out.txt").exists()
    assert Path("out.txt").read_bytes() == "é\n".encode()
    assert files() == ["out.txt"]


def test_a_block_that_raises_leaves_the_old_file():
    Path("out.txt").write_text("older")

    def interrupted():
        with inside.atomic_write("out.txt") as file:
            file.write("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert Path("out.txt").read_text() == "older"
    assert files() == ["out.txt"]


def test_a_new_file_respects_the_umask_and_an_old_one_keeps_its_mode():
    before = os.umask(0o027)
    try:
        with inside.atomic_write("new"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat("new").st_mode) == 0o640
    os.chmod("new", 0o604)
    with inside.atomic_write("new", "wb") as file:
        assert stat.S_IMODE(os.stat(file.name).st_mode) == 0o604  # while it is written, too
    assert stat.S_IMODE(os.stat("new").st_mode) == 0o604


def test_the_bytes_are_on_the_disk_before_the_name_is(monkeypatch):
    order, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: order.append("fsync") or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda *paths: order.append("replace") or replace(*paths))
    with inside.atomic_write("out.txt") as file:
        file.write("all")
    assert order == ["fsync", "replace", "fsync"]  # the second is the directory's


def test_a_symbolic_link_stays_one():
    Path("there").mkdir()
    Path("there/real").write_text("older")
    Path("link").symlink_to("there/real")
    with inside.atomic_write("link") as file:
        file.write("newer")
    assert Path("link").is_symlink()
    assert Path("there/real").read_text() == "newer"


def test_writers_may_close_the_file_read_it_or_check_its_mode():
    with inside.atomic_write("closed") as file:
        file.write("all")
        file.close()
    assert Path("closed").read_text() == "all"
    with inside.atomic_write("both", "w+b") as file:
        file.write(b"all")
        file.seek(0)
        assert file.read() == b"all"
    fits, np = pytest.importorskip("astropy.io.fits"), pytest.importorskip("numpy")
    with inside.atomic_write("image.fits", "wb") as file:
        fits.PrimaryHDU(np.arange(6)).writeto(file)
    assert fits.getdata("image.fits").sum() == 15


@pytest.mark.parametrize("mode", ["a", "r", "x", "r+"])
def test_a_mode_that_does_not_write_a_whole_file_is_refused(mode):
    with pytest.raises(ValueError, match="a file is written as a whole"), inside.atomic_write("out", mode):
        pass
    assert files() == []


def test_a_directory_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match=r"no such directory.*absent"), inside.atomic_write("absent/out"):
        pass


def test_only_an_ordinary_file_is_replaced():
    os.mkfifo("pipe")
    for path in (".", "pipe"):
        with pytest.raises(OSError, match="not an ordinary file"), inside.atomic_write(path):
            pass


# -- scratch ----------------------------------------------------------------------------------------------------------


def test_scratch_is_on_the_containers_disk_and_removed_at_the_end(monkeypatch, tmp_path):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(inside, "SCRATCH", str(tmp_path / "scratch"))
    with inside.scratch() as work:
        assert work.path.parent == tmp_path / "scratch"
        assert stat.S_IMODE(work.path.stat().st_mode) == 0o700
        assert work.free > 0
        (work / "deep").mkdir()
        (work / "deep" / "file").write_text("temporary")
        assert os.listdir(work) == ["deep"]
    assert list((tmp_path / "scratch").iterdir()) == []


def test_without_its_own_disk_scratch_is_below_tmpdir(monkeypatch, tmp_path):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))

    def failing():
        with inside.scratch() as work:
            assert Path(str(work)).parent == tmp_path / "tmp"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_too_little_space_is_an_error_before_the_work_begins():
    with pytest.raises(OSError, match=r"are free and 1e\+09 are needed") as refused, inside.scratch(at_least=1e9):
        pass
    assert refused.value.errno == errno.ENOSPC
