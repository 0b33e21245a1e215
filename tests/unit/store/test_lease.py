"""Whether the process that holds a lease may still be alive."""

import os
import socket
import subprocess
import sys

import attrs
import pytest

from canfar_batch.store.lease import Holder

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what identifies a process is read from /proc")


@pytest.fixture
def other():
    """A process that lives until its stdin ends."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def holding(pid):
    return attrs.evolve(Holder.me(), pid=pid, born="")


def test_this_process_is_alive():
    assert not Holder.me().provably_gone()


def test_another_holder_in_this_process_is_recognized(other):
    assert Holder.me().is_this_process()
    assert not holding(other.pid).is_this_process()
    assert not attrs.evolve(Holder.me(), host="elsewhere").is_this_process()


def test_two_holders_have_different_ids():
    assert Holder.me().id != Holder.me().id


def test_a_running_process_has_not_ended_and_an_ended_one_has(other):
    holder = holding(other.pid)
    assert not holder.provably_gone()
    other.kill()
    other.wait()
    assert holder.provably_gone()


@linux
def test_a_zombie_is_gone():
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    try:
        assert holding(process.pid).provably_gone()
    finally:
        process.wait()


@linux
def test_a_later_process_with_the_same_number_is_another_one():
    assert attrs.evolve(Holder.me(), born="1").provably_gone()


@linux
def test_a_process_of_an_earlier_boot_is_gone():
    _, _, space = Holder.me().boot.partition("/")
    assert attrs.evolve(Holder.me(), boot=f"another-boot/{space}").provably_gone()


@linux
def test_a_process_of_another_container_may_be_alive():
    boot, _, _ = Holder.me().boot.partition("/")
    assert not attrs.evolve(Holder.me(), boot=f"{boot}/pid:[1]", pid=2**22 + 1).provably_gone()


def test_a_process_of_another_host_may_be_alive():
    assert not attrs.evolve(Holder.me(), host=f"not-{socket.gethostname()}", pid=2**22 + 1).provably_gone()
