"""The beginning and end of a platform: by stop, by signal, by kill -9; and that nothing of it remains."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest

from canfar_batch.local import LocalPlatform

LINUX = sys.platform.startswith("linux")


def alive(pid):
    if LINUX:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def descriptors():
    """What this process has open; the one that lists them is closed again and does not count."""
    found = set()
    for name in os.listdir("/proc/self/fd" if LINUX else "/dev/fd"):
        with contextlib.suppress(OSError):
            os.fstat(int(name))
            found.add(int(name))
    return found


def read(path):
    try:
        return Path(path).read_bytes()
    except OSError:  # it ended just now
        return b""


def zombies():
    """Children of this process that ended and were not waited for."""
    if not LINUX:
        pytest.skip("only Linux shows them in /proc")
    stats = [read(f"/proc/{name}/stat").rpartition(b")")[2].split() for name in os.listdir("/proc") if name.isdigit()]
    return [fields for fields in stats if fields[:2] == [b"Z", str(os.getpid()).encode()]]


# By stop


def test_a_platform_without_jobs_leaves_nothing_when_it_stops(client_of):
    threads, files = set(threading.enumerate()), descriptors()
    for _ in range(5):
        with LocalPlatform() as platform:
            assert client_of(platform).list() == []
            directory = platform.directory
        assert not directory.exists()
    assert set(threading.enumerate()) <= threads
    assert descriptors() <= files


def test_stopping_ends_every_job_and_its_children(start, client_of, soon):
    platform = start()
    client = client_of(platform)
    ids = [client.sh("sleep 600 & echo $$ $!; wait") for _ in range(3)]
    stubborn = client.sh("trap '' TERM; echo $$ $$; while :; do sleep 0.02; done")
    pids = [int(pid) for id_ in (*ids, stubborn) for pid in soon(lambda id_=id_: client.logs(id_)).split()]
    platform.stop()
    assert not [pid for pid in pids if alive(pid)]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("local-platform")]


def test_no_zombies_are_left(client, platform):
    for _ in range(20):
        client.launch("true")
    assert platform.wait_idle(30)
    platform.stop()
    assert zombies() == []


def test_stopping_twice_is_stopping_once(start):
    platform = start()
    platform.stop()
    platform.close()
    with pytest.raises(RuntimeError, match="not running"):
        _ = platform.url


def test_starting_twice_is_starting_once(start):
    platform = start()
    assert platform.start().url == platform.url


def test_a_directory_that_was_given_stays(start, client_of, tmp_path):
    platform = start(directory=tmp_path)
    client = client_of(platform)
    client.wait(client.sh("echo kept > result"))
    platform.stop()
    assert (tmp_path / "arc" / "home" / "local" / "result").read_text() == "kept\n"


def test_a_port_in_use_is_an_error_and_leaves_nothing(start):
    first = start(port=0)
    port = int(re.search(r":(\d+)/", first.url)[1])
    threads, files = set(threading.enumerate()), descriptors()
    with pytest.raises(OSError, match="in use"):
        LocalPlatform(port=port).start()
    assert set(threading.enumerate()) <= threads
    assert descriptors() <= files


def test_the_token_is_never_shown(start):
    platform = start(token="s3cret-token")
    assert platform.token == "s3cret-token"
    for shown in (platform, platform.requests, platform.faults):
        assert "s3cret-token" not in repr(shown)


def test_tokens_are_random_unless_given():
    assert LocalPlatform().token != LocalPlatform().token


@pytest.mark.parametrize("wrong", [{"oom": "everyone"}, {"user": "not/a/label"}])
def test_mistaken_settings_are_refused(wrong):
    with pytest.raises(ValueError):
        LocalPlatform(**wrong)


# By signal, and by kill -9


HOST = """
import sys, time
from canfar_batch.local import LocalPlatform
platform = LocalPlatform(cores=8, ram=64).start()
print(platform.url, platform.token, platform.directory, flush=True)
time.sleep(600)
"""
DAEMON = """
import os, time
if os.fork():
    time.sleep(600)
os.setsid()
if os.fork():
    os._exit(0)
print(os.getpid(), flush=True)
time.sleep(600)
"""


@pytest.fixture
def host(client_of):
    """A process that hosts a platform."""
    hosts = []

    def hosted(*command):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        hosts.append(process)
        return process

    yield hosted
    for process in hosts:
        process.kill()
        process.wait()
        process.stdout.close()


def platform_of(url, token):
    return types.SimpleNamespace(url=url, token=token)


def test_no_job_survives_the_kill_of_the_hosting_process(host, client_of, soon):
    process = host(sys.executable, "-c", HOST)
    url, token, directory = process.stdout.readline().split()
    client = client_of(platform_of(url, token))
    plain = client.sh("sleep 600 & echo $$ $!; wait")
    stubborn = client.sh("trap '' TERM; echo $$; while :; do sleep 0.02; done")
    daemon = client.python(DAEMON) if LINUX else plain
    pids = [int(pid) for id_ in (plain, stubborn, daemon) for pid in soon(lambda id_=id_: client.logs(id_)).split()]
    assert all(alive(pid) for pid in pids)
    process.send_signal(signal.SIGKILL)
    process.wait()
    soon(lambda: not [pid for pid in pids if alive(pid)])
    soon(lambda: not Path(directory).exists())


def test_the_command_runs_until_it_is_interrupted(host, client_of, soon):
    for number in (signal.SIGINT, signal.SIGTERM):
        process = host(sys.executable, "-m", "canfar_batch.local", "--cores", "2", "--ram", "8")
        url = process.stdout.readline().strip().removeprefix("export CANFAR_URL=")
        token = process.stdout.readline().strip().removeprefix("export CANFAR_TOKEN=")
        client = client_of(platform_of(url, token))
        id_ = client.sh("echo $$; sleep 600")
        pid = int(soon(lambda client=client, id_=id_: client.logs(id_)))
        process.send_signal(number)
        assert process.wait(30) == 0
        assert not alive(pid)


def test_the_command_does_not_repeat_a_token_that_it_was_given(host, client_of, tmp_path):
    options = ["--token", "mine", "--user", "ada", "--forget-after", "5", "--directory", str(tmp_path)]
    process = host(sys.executable, "-m", "canfar_batch.local", *options)
    url = process.stdout.readline().strip().removeprefix("export CANFAR_URL=")
    client = client_of(platform_of(url, "mine"))
    assert client.ask("GET", "/session").header("x-vo-authenticated") == "ada"
    process.terminate()
    process.wait()
    assert process.stdout.read() == ""


def test_the_command_has_switches_for_images_limits_and_statistics(host, client_of):
    own = "images.canfar.net/mine/own:1"
    answers = []
    for options in (["--image", own, "--stats"], ["--any-image", "--limit-range"], []):
        process = host(sys.executable, "-m", "canfar_batch.local", "--token", "mine", *options)
        url = process.stdout.readline().strip().removeprefix("export CANFAR_URL=")
        client = client_of(platform_of(url, "mine"))
        images = [client.create("true", image=image).status for image in (own, "images.canfar.net/other/one:1")]
        cores = client.ask("GET", "/context").json["cores"]["options"][-1]
        answers.append((images, cores, client.ask("GET", "/session?view=stats").status))
    assert answers == [([200, 400], 16, 200), ([200, 200], 12, 503), ([400, 400], 16, 503)]


def test_the_command_takes_faults_and_refuses_others(host, client_of):
    options = ["--token", "mine", "--faults", "answer=418 on=list nth=2", "--faults", "proxy_not_found on=context"]
    process = host(sys.executable, "-m", "canfar_batch.local", *options)
    client = client_of(platform_of(process.stdout.readline().strip().removeprefix("export CANFAR_URL="), "mine"))
    assert [client.ask("GET", "/session").status for _ in range(3)] == [200, 418, 200]
    assert client.ask("GET", "/context").status == 404
    assert host(sys.executable, "-m", "canfar_batch.local", "--faults", "nonsense").wait(30) == 2


def test_the_command_ends_with_its_parent_when_asked_to(host, client_of, soon):
    script = (
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-m', 'canfar_batch.local', '--die-with-parent', '--token', 'mine'])\n"
        "time.sleep(600)\n"
    )
    process = host(sys.executable, "-c", script)
    url = process.stdout.readline().strip().removeprefix("export CANFAR_URL=")
    client = client_of(platform_of(url, "mine"))
    id_ = client.sh("echo $$; sleep 600")
    pid = int(soon(lambda: client.logs(id_)))
    process.kill()
    soon(lambda: not alive(pid))


def reapers():
    """The processes of this one that end the processes of a platform."""
    listed = subprocess.run(["ps", "-axwwo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    words = [line.split(None, 2) for line in listed.splitlines()]
    return {int(pid) for pid, parent, args in words if int(parent) == os.getpid() and "reaper" in args}


def test_ctrl_c_in_the_terminal_reaches_neither_jobs_nor_the_reaper(start, client_of, soon):
    before = reapers()
    client = client_of(start())
    id_ = client.sh("echo $$; sleep 600")
    pid = int(soon(lambda: client.logs(id_)))
    (reaper,) = reapers() - before
    assert len({os.getpgid(0), os.getpgid(pid), os.getpgid(reaper)}) == 3
    os.kill(reaper, signal.SIGINT)
    assert alive(reaper)


def test_jobs_inherit_no_socket_of_the_platform(client):
    id_ = client.python("import os; print(len(os.listdir('/dev/fd')))")
    client.wait(id_)
    assert int(client.logs(id_)) <= 4  # standard input, output, errors, and the one that lists them
