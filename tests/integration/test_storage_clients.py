"""The two clients of the storage as witnesses: unchanged, in environments of their own, against the local platform.

They are run, never imported. Each environment is made once and kept.
"""

import fcntl
import os
import subprocess
import sys
import venv

import pytest
from certificates import write_localhost

from canfar_batch.local import LocalPlatform

TOKEN = "a-token-for-the-witnesses"  # no secret: the platform lives for this test
INSTALL_TIMEOUT = 240
pytestmark = pytest.mark.timeout(INSTALL_TIMEOUT + 120)

VOSFS = """
import os, vosfs
fs = vosfs.VOSpaceFileSystem(os.environ["STORAGE"], token=os.environ["TOKEN"])
home = "/home/local"
fs.makedirs(home + "/a/b")
fs.pipe(home + "/a/b/small.dat", b"hello")
with open("big.dat", "wb") as big:
    big.write(b"0123456789" * 1_000_000)
fs.put("big.dat", home + "/a/big.dat")
fs.get(home + "/a/big.dat", "back.dat")
assert open("back.dat", "rb").read() == open("big.dat", "rb").read()
assert fs.cat(home + "/a/b/small.dat") == b"hello"
assert fs.cat_file(home + "/a/b/small.dat", start=1, end=3) == b"el"
assert fs.info(home + "/a/big.dat")["size"] == 10_000_000
assert sorted(fs.find(home)) == [home + "/a/b/small.dat", home + "/a/big.dat"]
assert fs.glob(home + "/a/*.dat") == [home + "/a/big.dat"]
fs.cp(home + "/a/b/small.dat", home + "/copy.dat")
fs.mv(home + "/copy.dat", home + "/moved.dat")
assert fs.cat(home + "/moved.dat") == b"hello" and not fs.exists(home + "/copy.dat")
fs.rm(home + "/a", recursive=True)
assert fs.ls(home, detail=False) == [home + "/moved.dat"]
for wanted, act in (
    (FileNotFoundError, lambda: fs.cat(home + "/nope")),
    (PermissionError, lambda: fs.info("/home/other/any")),
    (FileExistsError, lambda: fs.mkdir(home)),
):
    try:
        act()
    except wanted:
        continue
    raise AssertionError(wanted)
"""
VOS = """
set -e
ask() { "$BIN/$1" --insecure --token "$TOKEN" "${@:2}"; }
printf hello > small.dat
head -c 6000000 /dev/zero > big.dat
ask vmkdir -p arc:home/local/x/y
ask vcp small.dat arc:home/local/x/y/small.dat
ask vcp big.dat arc:home/local/x/
ask vls arc:home/local/x | sort > listed
printf 'big.dat\\ny\\n' | cmp - listed
ask vcp arc:home/local/x/y/small.dat back.dat
cmp small.dat back.dat
ask vcp arc:home/local/x/big.dat large.dat
cmp big.dat large.dat
ask vmv arc:home/local/x/big.dat arc:home/local/x/moved.dat
ask vtag arc:home/local/x/moved.dat quality=good
ask vrm arc:home/local/x/moved.dat
ask vrm -R arc:home/local/x
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return write_localhost(tmp_path_factory.mktemp("tls") / "localhost.pem")


@pytest.fixture(scope="module")
def platform(certificate):
    with LocalPlatform(token=TOKEN, tls=certificate, others={"other-token": "other"}) as started:
        (started.arc / "home/other").mkdir(mode=0o700)
        yield started


@pytest.fixture
def environment(request, tmp_path_factory):
    """Returns the bin folder of an environment with these packages."""

    def made(*packages):
        cache = getattr(request.config, "cache", None)
        base = cache.mkdir("storage-clients") if cache else tmp_path_factory.mktemp("storage-clients")
        name = "-".join([f"python{sys.version_info.major}.{sys.version_info.minor}", *packages]).replace("==", "-")
        with (base / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # test processes that run side by side share the environments
            if not (base / name / "ready").exists():
                install(base / name, packages)
        return base / name / "bin"

    return made


def install(home, packages):
    venv.EnvBuilder(with_pip=True, clear=True).create(home)
    command = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{packages[0]} was not installed in time: is there a network?")
    if done.returncode:
        pytest.skip(f"{packages[0]} cannot be installed here: {done.stderr.strip().splitlines()[-1:]}")
    (home / "ready").touch()


def run(command, folder, **variables):
    settings = {"PATH": os.environ["PATH"], "HOME": str(folder), "TOKEN": TOKEN, **variables}
    done = subprocess.run(command, env=settings, cwd=folder, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr


def test_vosfs_works_with_it(environment, platform, certificate, tmp_path):
    python = environment("vosfs==0.12.0") / "python"
    storage = f"https://{platform.https}/arc"
    run([python, "-c", VOSFS], tmp_path, STORAGE=storage, SSL_CERT_FILE=str(certificate))


def test_vos_works_with_it(environment, platform, tmp_path):
    # vos reads pkg_resources
    folder = environment("vos==3.7", "setuptools<81")
    run(["bash", "-c", VOS], tmp_path, BIN=str(folder), VOSPACE_WEBSERVICE=platform.https)
    assert list((platform.arc / "home/local").glob("x*")) == []
