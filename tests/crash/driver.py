"""A user's script that drives one batch, and is made to be killed.

    CANFAR_URL=… CANFAR_TOKEN=… python tests/crash/driver.py '{"home": "…", "trace": "…"}'
    CANFAR_URL=… CANFAR_TOKEN=… python tests/crash/driver.py --serve

With `--serve` it reads such orders from its standard input, one a line, and forks a driver for each: what Python takes
to start is then paid once. The hooks that kill it at a chosen point are here, and nowhere in the package.
"""

import contextlib
import functools
import json
import os
import resource
import signal
import sqlite3
import sys
import threading
import traceback
from unittest import mock

import attrs

import canfar_batch as cb
from canfar_batch import session
from canfar_batch.engine.context import Schedule
from canfar_batch.failures import LaunchRefused
from canfar_batch.rest import open_platform, transport
from canfar_batch.rest.transport import Timeouts
from canfar_batch.store import home, ledger
from canfar_batch.strategies import Bundle

#: each job says that it began, in one write that no other can tear, before it does anything else
BEGIN = 'printf "%s %s\\n" "$CANFAR_BATCH_KEY" "$CANFAR_BATCH_ATTEMPT" >> {trace}'
END = "echo {number} > {trace}.{number}; exit {code}"
QUICK = f"{BEGIN}; : {{seconds}}; {END}"
SLOW = f"{BEGIN}; sleep {{seconds}}; {END}"


@attrs.frozen(kw_only=True)
class Order:
    """The orders for one driver."""

    home: str  #: the batch's directory
    trace: str  #: the file in which each start of a job leaves a line
    name: str = "crash"
    jobs: int = 20
    failing: tuple[tuple[int, int], ...] = ()  #: the numbers of the jobs that fail, and with which exit code
    seconds: tuple[float, ...] = ()  #: how long each job sleeps; empty: not at all
    window: int = 20
    settle: float = 0.5
    look: float = 0.1  #: seconds between two looks while things happen
    scale: float = 1.0  #: by which the driver's own pauses after a failure are multiplied
    timeout: float = 30.0  #: seconds of silence after which a question is given up
    takeover: bool = False
    bundle: int = 0  #: how many jobs one container carries at most; 0: no bundles
    parallel: int = 2  #: how many of them run at a time
    kill_at: int = 0  #: at which point to die; 0: never
    points: str = ""  #: the file that receives which point that was, or how many points there were
    most_bytes: int = 0  #: files may grow to this size: a disk that is full; 0: no limit
    output: str = ""  #: the file for its output


def main(order: Order) -> int:
    """Plan and run the batch, as a user's script would."""
    if order.output:
        fd = os.open(order.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(fd, 1)
        os.dup2(fd, 2)
    if order.most_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order.most_bytes, order.most_bytes))
    fit_to_tests(order.scale)
    points = Points(order.kill_at)
    if order.points:
        hook(points, order.points)
    try:
        drive(order)
    except (Exception, KeyboardInterrupt) as error:
        traceback.print_exc()
        print(f"ended by {type(error).__name__}", flush=True)
        return 3
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    if order.points:
        with open(order.points, "a") as file:
            file.write(f"{points.passed}\n")
    return 0


def drive(order: Order) -> None:
    spec = cb.JobSpec(SLOW if order.seconds else QUICK, image="skaha/terminal:latest", shell=True)
    codes = dict(order.failing)
    sooner = functools.partial(Timeouts, first_pause=Timeouts().first_pause * order.scale)
    with mock.patch("canfar_batch.rest.platform.Timeouts", sooner):
        platform = open_platform(timeout=order.timeout)
    with session.Session(platform) as connected:
        batch = connected.batch(
            order.name,
            launch=Bundle(tasks=order.bundle, parallel=order.parallel, then=cb.Window(order.window))
            if order.bundle
            else cb.Window(order.window),
            monitor=cb.Listing(every=(order.look, 2 * order.look)),
            # a driver that dies between recording a launch and sending it costs the job an attempt; this one dies often
            retry=cb.Retry(2, pause=0.1, budgets={LaunchRefused: 1000}, at_most=1000),
            collect=written,
            home=order.home,
            settle=order.settle,
        )
        batch.map(
            spec,
            key="job-{number:04d}",
            trace=order.trace,
            number=range(order.jobs),
            seconds=order.seconds or 0,
            code=[codes.get(number, 0) for number in range(order.jobs)],
        )
        report = batch.run(progress=False, takeover=order.takeover, stop_alike=None)
        print(report)
        print("done", flush=True)


def written(job, platform):
    """The number that the job wrote: its own."""
    with open(f"{job.fields['trace']}.{job.fields['number']}") as file:
        return int(file.read())


def fit_to_tests(scale: float) -> None:
    """Fit the driver to a test: its pauses after a failure are shorter, and it may live in a temporary directory."""
    usual = Schedule.back_off
    Schedule.back_off = lambda self, failures: usual(self, failures) * scale
    home.Home.refuse_if_fleeting = lambda self: None


# -- points at which to die ---------------------------------------------------------------------------------------


class Points:
    """Counts the points that are passed, and dies at one of them."""

    def __init__(self, last: int) -> None:
        self.last, self.passed, self.lock = last, 0, threading.Lock()
        self.file = ""

    def __call__(self, what: str) -> None:
        with self.lock:  # the other threads stop here as well: nothing happens between the note and the end
            self.passed += 1
            if self.passed == self.last:
                with open(self.file, "a") as file:
                    file.write(f"{what}\n")
                os.kill(os.getpid(), signal.SIGKILL)


def hook(point: Points, file: str) -> None:
    """Pass a point before and after every commit of the ledger, and before and after every exchange over HTTP."""
    point.file = file
    usual_connect = sqlite3.connect

    class Watched(sqlite3.Connection):
        writing = False

        def execute(self, sql, *values):
            if sql.startswith("BEGIN"):
                self.writing = sql == "BEGIN IMMEDIATE"
            if sql != "COMMIT" or not self.writing:
                return super().execute(sql, *values)
            point("before a commit")
            done = super().execute(sql, *values)
            point("after a commit")
            return done

    def watched(send):
        def sending(manager, method, target, **details):
            place = f"{method} {target.partition('/session')[2] or target}"
            point(f"before {place}")
            answer = send(manager, method, target, **details)
            point(f"after {place}")
            return answer

        return sending

    ledger.sqlite3.connect = lambda *args, **options: usual_connect(*args, factory=Watched, **options)
    transport.exchange = watched(transport.exchange)
    transport.open_stream = watched(transport.open_stream)


# -- a server of forks --------------------------------------------------------------------------------------------


def serve() -> None:
    """Fork a driver for each line of standard input; say its number at once, and its end when it comes."""
    read = os.fdopen(os.dup(0), "r")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    while line := read.readline():
        pid = os.fork()
        if pid == 0:
            code = 4
            try:
                read.close()
                code = main(Order(**json.loads(line)))
            finally:
                with contextlib.suppress(OSError):
                    sys.stderr.flush()
                os._exit(code)
        print(pid, flush=True)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        if not read.readline():  # its number stays its own until somebody asks how it ended
            return
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        serve()
    else:
        sys.exit(main(Order(**json.loads(sys.argv[1]))))
