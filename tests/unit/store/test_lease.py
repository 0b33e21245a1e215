"""Whether the process that holds a batch can still be alive."""

import os
import socket
import subprocess
import sys
from datetime import timedelta

import attrs
import pytest

from canfar_batch.clock import SystemClock
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


def test_no_two_holders_have_one_id():
    assert Holder.me().id != Holder.me().id


def test_a_process_that_runs_is_not_gone_and_one_that_ended_is(other):
    holder = holding(other.pid)
    assert not holder.provably_gone()
    other.kill()
    other.wait()
    assert holder.provably_gone()


@linux
def test_a_zombie_runs_nothing_any_more():
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    try:
        assert holding(process.pid).provably_gone()
    finally:
        process.wait()


@linux
def test_another_process_under_the_same_number_is_another():
    assert attrs.evolve(Holder.me(), born="1").provably_gone()


@linux
def test_nothing_outlives_the_run_of_the_machine_that_it_began_in():
    _, _, space = Holder.me().boot.partition("/")
    assert attrs.evolve(Holder.me(), boot=f"another-boot/{space}").provably_gone()


@linux
def test_a_process_of_another_container_on_this_host_may_live():
    boot, _, _ = Holder.me().boot.partition("/")
    assert not attrs.evolve(Holder.me(), boot=f"{boot}/pid:[1]", pid=2**22 + 1).provably_gone()


def test_a_process_of_another_host_may_live():
    assert not attrs.evolve(Holder.me(), host=f"not-{socket.gethostname()}", pid=2**22 + 1).provably_gone()


def test_the_clock_is_aware_and_never_goes_back():
    clock = SystemClock()
    assert clock.now().utcoffset() == timedelta(0)
    assert clock.ticks() <= clock.ticks()
