"""Scripts as users write them; the type checker must know what everything is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from typing_extensions import assert_type

import canfar_batch as cb
from canfar_batch import errors, failures
from canfar_batch.lifecycle import Event
from canfar_batch.protocols import (
    Again,
    BatchView,
    Bundle,
    Clock,
    LaunchStrategy,
    MonitorStrategy,
    Observation,
    Observer,
    Pick,
    Platform,
    ResultCollector,
    RetryPolicy,
    Stop,
)
from canfar_batch.records import Attempt, Image, JobRecord, Limits, Usage


def one_job() -> None:
    with cb.Session.connect("local") as session:
        assert_type(session, cb.Session)
        job = session.launch("python fit.py 7", image="skaha/astroml:latest", cores=2, ram=4)
        assert_type(job, cb.Job)
        assert_type(job.wait().raise_if_failed().logs(), str)
        assert_type(job.logs(encoding=None), bytes)
        assert_type(job.logs("latin-1"), str)
        assert_type(job.follow(), Iterator[str])
        assert_type(job.events(), str)
        assert_type(job.explain(), str)
        assert_type(job.support_report(project="mygroup"), str)
        assert_type(job.cancel(), cb.Job)


def looking(job: cb.Job) -> None:
    assert_type(job.key, str)
    assert_type(job.id, "str | None")
    assert_type(job.state, cb.JobState)
    assert_type(job.spec, cb.JobSpec)
    assert_type(job.attempts, tuple[Attempt, ...])
    assert_type(job.exit_code, "int | None")
    assert_type(job.peak_ram, "float | None")
    assert_type(job.started_at, "datetime | None")
    assert_type(job.failure, "failures.Failure | None")
    assert_type(job.outputs, Mapping[str, "int | None"])
    if isinstance(job.failure, failures.ExitCode):
        assert_type(job.failure.code, int)


def what_is_there(session: cb.Session) -> None:
    assert_type(session.jobs(), list[cb.Job])
    assert_type(session.job("abcd1234"), cb.Job)
    assert_type(session.images(), list[Image])
    assert_type(session.limits(), Limits)
    assert_type(session.usage(), Usage)
    assert_type(session.user, "str | None")


def specs() -> None:
    cb.JobSpec("fit {x}", image="skaha/astroml", cores=2, ram=4, env={"MODE": "fast"}, outputs=["a.fits"])
    cb.JobSpec(["fit", "--n", 3], image="skaha/astroml", timeout=60)
    cb.JobSpec("a | b", image="skaha/astroml", shell=True)


def a_batch(session: cb.Session) -> None:
    spec = cb.JobSpec("calib {path}", image="skaha/astroml", outputs=["cat/{path.stem}.cat"])
    batch = session.batch("calib-2026", launch=cb.Window(16), retry=cb.Retry(2), collect=cb.Files())
    assert_type(batch, cb.Batch)
    batch.map(spec, path=["a.fits", "b.fits"])
    assert_type(batch.run(), cb.Report)
    assert_type(batch.run().raise_if_failed(), cb.Report)
    for job in batch:
        assert_type(job, cb.Job)
    assert_type(batch["a"], cb.Job)
    assert_type(batch.step(), float)
    assert_type(cb.open("calib-2026"), cb.Batch)
    session.batch("sweep", launch=two_at_a_time, retry=never_again, collect=lambda job, platform: None)


def what_goes_wrong(session: cb.Session) -> str | None:
    try:
        session.launch("fit", image="skaha/astroml")
    except errors.LaunchInDoubt as error:
        return error.launch_name
    except errors.PlatformError as error:
        assert_type(error.status, "int | None")
    except TimeoutError:
        pass
    return None


# -- roles: a lambda, a function or a class fits -----------------------------------------------------------------------


def two_at_a_time(view: BatchView) -> Sequence[Bundle]:
    return [Bundle(job) for job in view.ready(at_most=2 - view.containers)]


class Patient:
    def __call__(self, view: BatchView) -> Pick:
        return Pick(again=60.0)


def never_again(job: JobRecord, failure: failures.Failure) -> Again | Stop:
    return Stop("once is enough") if failure.platform else Again(after=10.0)


def poll(platform: Platform, view: BatchView) -> Observation:
    return Observation(containers={info.id: info for info in platform.containers()}, at=view.now, wait=30.0)


class Still:
    def now(self) -> datetime:
        raise NotImplementedError

    def ticks(self) -> float:
        return 0.0


launch_by_function: LaunchStrategy = two_at_a_time
launch_by_class: LaunchStrategy = Patient()
launch_by_lambda: LaunchStrategy = lambda view: [Bundle(job) for job in view.ready()]  # noqa: E731
monitor: MonitorStrategy = poll
retry: RetryPolicy = never_again
retry_by_lambda: RetryPolicy = lambda job, failure: Stop()  # noqa: E731
collect: ResultCollector = lambda job, platform: platform.logs(job.id or "")  # noqa: E731
observe: Observer = lambda event: event.kind  # noqa: E731
clock: Clock = Still()


def on_event(event: Event) -> None:
    assert_type(event.key, str)
