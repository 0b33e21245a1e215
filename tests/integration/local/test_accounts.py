"""The use of resources by jobs, as a job reads it in its cgroup directory, and the enforcement of limits."""

import os
import shutil
import time
from types import SimpleNamespace

import pytest

from canfar_batch.local import procfs
from canfar_batch.local.cgroups import MIB, Account, Cgroup

ALLOCATE = 'import time; block = b"x" * ({mib} << 20); time.sleep({seconds})'


def shell(client, code, then, **fields):
    """Launch a shell script that runs Python code, as a wrapper would, and goes on."""
    return client.sh(f"python -c '{code}'; {then}", **fields)


PEAK = "cat $CANFAR_BATCH_CGROUP/memory.peak"
CPU = "head -1 $CANFAR_BATCH_CGROUP/cpu.stat"
EVENTS = "cat $CANFAR_BATCH_CGROUP/memory.events"


def test_a_job_finds_its_limits_in_its_cgroup(client):
    script = "cd $CANFAR_BATCH_CGROUP;cat memory.max cpu.max"
    for fields, text in (({"ram": 2, "cores": 3}, f"{2 << 30}\n300000 100000\n"), ({}, f"{32 << 30}\n800000 100000\n")):
        id_ = client.sh(script, **fields)
        client.wait(id_)
        assert client.logs(id_) == text


def test_the_peak_includes_a_child_that_has_ended(client):
    id_ = shell(client, ALLOCATE.format(mib=200, seconds=0.15), PEAK)
    assert client.wait(id_) == "Completed"
    assert 200 * MIB < int(client.logs(id_)) < 260 * MIB


def test_the_peak_does_not_count_shared_memory_once_per_worker(client):
    code = (
        "import os, time\n"
        "block = bytearray(120 << 20)\n"
        "for i in range(0, len(block), 4096): block[i] = 1\n"
        "main = os.getpid()\n"
        "for _ in range(4): main == os.getpid() and os.fork()\n"
        "time.sleep(1)\n"
    )
    if not procfs.LINUX:
        pytest.skip("only Linux shows the memory that processes share")
    id_ = shell(client, code, PEAK)
    client.wait(id_)
    assert 120 * MIB < int(client.logs(id_)) < 250 * MIB


def test_the_cpu_time_includes_that_of_children(client):
    code = "import time\nwhile time.process_time() < 0.5: pass"
    id_ = shell(client, code, CPU)
    client.wait(id_)
    name, value = client.logs(id_).split()
    assert name == "usage_usec"
    assert 400_000 < int(value) < 2_000_000


def test_cpu_time_and_peak_never_decrease(client):
    code = (
        "import os, pathlib, subprocess, sys, time\n"
        "group = pathlib.Path(os.environ['CANFAR_BATCH_CGROUP'])\n"
        "seen = []\n"
        "def look():\n"
        "    cpu = int((group / 'cpu.stat').read_text().split()[1])\n"
        "    seen.append((cpu, int((group / 'memory.peak').read_text())))\n"
        "work = 'b = bytearray(30 << 20)\\nfor i in range(10**6): pass'\n"
        "for _ in range(5):\n"
        "    child = subprocess.Popen([sys.executable, '-c', work])\n"
        "    while child.poll() is None: look(); time.sleep(0.002)\n"
        "    look()\n"
        "for column in zip(*seen): assert list(column) == sorted(column), column\n"
    )
    id_ = client.python(code)
    assert client.wait(id_) == "Completed", client.logs(id_)


def test_two_jobs_do_not_share_an_account(client):
    large = client.python(ALLOCATE.format(mib=150, seconds=0.5))
    small = client.sh(f"sleep 0.3;{PEAK}")
    client.wait(large)
    client.wait(small)
    assert int(client.logs(small)) < 50 * MIB


@pytest.fixture
def tight(start, client_of):
    """A platform where a GiB counts 64 MiB."""

    def made(**settings):
        platform = start(ram_scale=1 / 16, **settings)
        return platform, client_of(platform)

    return made


def test_the_biggest_process_is_killed_when_memory_runs_out_and_the_wrapper_survives(tight):
    platform, client = tight()
    id_ = shell(client, ALLOCATE.format(mib=150, seconds=60), f"echo code $?;{EVENTS};{PEAK};exit 137", ram=1)
    assert client.wait(id_) == "Failed"
    log = client.logs(id_)
    assert "code 137\n" in log
    assert "oom_kill 1\n" in log
    assert int(log.split()[-1]) == 64 * MIB
    assert (platform.job(id_).oom_kills, platform.job(id_).exit_code) == (1, 137)


def test_the_whole_group_is_killed_on_newer_kubernetes(tight):
    platform, client = tight(oom="group")
    id_ = shell(client, ALLOCATE.format(mib=150, seconds=60), "echo survived", ram=1)
    assert client.wait(id_) == "Failed"
    assert "survived" not in client.logs(id_)
    assert (platform.job(id_).oom_kills, platform.job(id_).exit_code) == (1, 137)


def test_a_job_within_its_ram_is_left_alone(tight):
    platform, client = tight()
    id_ = client.python(ALLOCATE.format(mib=20, seconds=0.2), ram=1)
    assert client.wait(id_) == "Completed"
    assert platform.job(id_).oom_kills == 0


def test_ram_is_not_enforced_when_not_asked_for(tight):
    _, client = tight(enforce_ram=False)
    id_ = shell(client, ALLOCATE.format(mib=100, seconds=0.2), PEAK, ram=1)
    assert client.wait(id_) == "Completed"
    assert int(client.logs(id_)) > 100 * MIB


def test_files_of_accounts_are_replaced_whole(client, platform, soon):
    id_ = client.launch("sleep", "600")
    client.wait(id_, "Running")
    (directory,) = (platform.directory / "cgroups").iterdir()
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        assert (directory / "memory.peak").read_text().endswith("\n")
        assert len((directory / "cpu.stat").read_text().splitlines()) == 3


def test_ps_shows_processes_without_proc():
    if shutil.which("ps") is None:
        pytest.skip("there is no ps here")
    here = next(process for process in procfs.from_ps(set()) if process.pid == os.getpid())
    assert here.parent == os.getppid()
    assert here.session == os.getpgid(0)
    assert here.resident > MIB


def test_accounts_are_kept_without_proc(monkeypatch, tight, soon):
    if shutil.which("ps") is None:
        pytest.skip("there is no ps here")
    monkeypatch.setattr(procfs, "LINUX", False)
    platform, client = tight()
    calm = shell(client, ALLOCATE.format(mib=40, seconds=1), f"{PEAK}; sleep 600 & echo $!", ram=1)
    greedy = client.python(ALLOCATE.format(mib=150, seconds=600), ram=1)
    assert client.wait(greedy) == "Failed"
    assert platform.job(greedy).oom_kills == 1
    assert client.wait(calm) == "Completed"
    peak, left = map(int, client.logs(calm).split())
    assert 40 * MIB < peak <= 64 * MIB
    soon(lambda: left not in {process.pid for process in procfs.from_ps(set()) if process.resident})


@pytest.mark.parametrize(
    ("clock", "microseconds"), [("0:00.03", 30_000), ("01:02:03", 3_723_000_000), ("2-00:00:01", 172_801_000_000)]
)
def test_clocks_of_ps_are_read(monkeypatch, clock, microseconds):
    printed = SimpleNamespace(stdout=f" 7 1 7 100 {clock}\n")
    monkeypatch.setattr(procfs, "subprocess", SimpleNamespace(run=lambda *given, **named: printed))
    (found,) = procfs.from_ps(set())
    assert (found.cpu_usec, found.pid) == (microseconds, 7)


def process(pid, mib, cpu=0):
    return procfs.Process(pid, 1, 1, 1, mib * MIB, mib * MIB, cpu, cpu)


def test_a_sum_counts_once_it_was_seen_twice(tmp_path):
    account = Account(1, Cgroup(tmp_path, memory_max=1 << 40, cores_max=1), memory_max=1 << 40, mark=b"", oom="off")
    account.take([process(1, 20)])
    account.take([process(1, 20), process(2, 20)])  # a fork, for an instant
    account.take([process(1, 20)])
    assert account.usage.peak == 20 * MIB
    for _ in range(2):
        account.take([process(1, 20), process(2, 20)])
    assert account.usage.peak == 40 * MIB
    assert (tmp_path / "memory.peak").read_text() == f"{40 * MIB}\n"


def test_an_instant_above_the_limit_kills_no_process(tmp_path):
    account = Account(1, Cgroup(tmp_path, memory_max=64 * MIB, cores_max=1), memory_max=64 * MIB, mark=b"", oom="group")
    account.take([process(2**22 + 1, 40)])
    account.take([process(2**22 + 1, 40), process(2**22 + 2, 30)])  # a fork, for an instant
    account.take([process(2**22 + 1, 40)])
    assert account.usage.oom_kills == 0
    for _ in range(2):
        account.take([process(2**22 + 1, 40), process(2**22 + 2, 30)])
    assert account.usage.oom_kills == 1
    assert account.usage.peak == 64 * MIB
