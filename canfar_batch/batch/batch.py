"""`Batch`: an ordered set of jobs with a name, a home, a ledger and four strategies."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import attrs

from canfar_batch.batch.driven import GLANCE, DrivenBatch
from canfar_batch.batch.planned import several
from canfar_batch.clock import SystemClock
from canfar_batch.engine import Engine
from canfar_batch.errors import (
    BatchBusy,
    LedgerError,
    NotDriven,
    PlanError,
    PlatformError,
    UnknownBatch,
    WaitTimeout,
)
from canfar_batch.job import Job, newest_events, newest_log, renew_container
from canfar_batch.planning.preflight import Preflight
from canfar_batch.planning.reopening import check_changes, reopenings, with_cause
from canfar_batch.protocols import Clock, Platform
from canfar_batch.records import GIVEN_UP, JobRecord, JobState
from canfar_batch.setup import Setup
from canfar_batch.spec import JobSpec
from canfar_batch.store import home as homes
from canfar_batch.store.files import file_errors, write_file
from canfar_batch.store.home import Home
from canfar_batch.store.ledger import Identity, Ledger
from canfar_batch.text import count
from canfar_batch.views import messages

log = logging.getLogger("canfar_batch")

_CANCEL_DELIVERY = 60.0  #: with wait=False, seconds to try to deliver the cancel requests


class Batch(DrivenBatch):
    """An ordered set of jobs that outlives the script which made it.

    `Session.batch` opens one to run it, `canfar_batch.open` to read it. Everything is in the batch's home, so the same
    script run again goes on where the last one stopped. Any one thread at a time may use it; its return values
    are snapshots.

    ```python
    import canfar_batch as cb

    fit = cb.JobSpec("python fit.py {n}", image="skaha/astroml:latest", cores=1, ram=1)
    with cb.Session.connect() as session:
        batch = session.batch("fits", launch=cb.Window(8), retry=cb.Retry(2))
        batch.map(fit, key="fit-{n}", n=[1, 2, 3])  # or grid(), rows(), replicas(), add()
        report = batch.run()
    print(batch.counts, [job.key for job in batch.failed], len(batch.succeeded))
    print(batch["fit-2"].logs())
    print(list(batch.keys()), batch[:2], batch.get("fit-9"), batch.jobs[0].ok)
    ```
    """

    def __init__(
        self,
        home: Home,
        ledger: Ledger,
        *,
        clock: Clock,
        engine: Engine | None = None,
        launch: Callable[[JobSpec], Job] | None = None,
    ) -> None:
        super().__init__(home, ledger, clock=clock, engine=engine, launch=launch)
        self._pid = os.getpid()

    # -- opening --------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, name: str, home: str | os.PathLike[str] | None = None) -> Batch:
        """Open the batch *name* to read it, without a connection.

        Args:
            name: The batch's name.
            home: The directory that holds the batch's own; by default `CANFAR_BATCH_HOME`, else `batches` in the
                working directory.

        Raises:
            UnknownBatch: There is none.
        """
        place, clock = Home.of(name, home), SystemClock()
        return cls(place, Ledger.open(place, clock=clock, writable=False), clock=clock)

    def close(self) -> None:
        """Stop driving and close the ledger; jobs run on. In a fork of the process that opened it, do nothing."""
        if os.getpid() != self._pid:
            return
        self.stop()
        if self._its_engine is not None:
            self._its_engine.release()
        self._ledger.close()
        self._forget()

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"batch {self.name} holds a connection and a file, so it cannot be pickled or copied: open it in the other "
            f"process with canfar_batch.open({self.name!r}, {str(self.home.parent)!r})"
        )

    # -- threads and drivers --------------------------------------------------------------------------------------

    def _handle(self, record: JobRecord) -> Job:
        return Job(record, _FromBatch(self))

    def _refresh(self) -> None:
        """Bring the records up to date: do a step if this process drives, else read the ledger."""
        if self._is_started:
            return
        with self._turns.turn_if_free("refreshing", nested=True) as is_free:
            if not is_free:
                return  # the thread that uses the batch keeps the records up to date
            if self._its_engine is not None and self._its_engine.is_driving:
                self._its_engine.step()
            elif not self._ledger.driving:
                self._ledger.reload()

    def _require_driver(self, key: str) -> None:
        """Raise if no process drives the batch, so that its jobs will not change.

        Raises:
            NotDriven: That is so; the message names the call that drives it.
            BatchPaused: This process drives it, and it is paused until the user has fixed the cause.
        """
        engine = self._its_engine
        if engine is not None and engine.is_driving:
            self._raise_if_stuck()
        elif not self._is_started and self.driven_by is None:
            calls = f"session.batch({self.name!r}).run()" if engine is None else "batch.run() or batch.start()"
            state = self._ledger.jobs[key].state
            raise NotDriven(
                f"job {key!r} is {state}, and no process drives batch {self.name!r}, so a wait would never end: "
                f"{calls} drives it"
            )

    def _rest(self, seconds: float) -> None:
        """Sleep for *seconds*; wake up early if this thread drives and a worker thread delivers something.

        What is delivered is for the thread that drives: another one would keep it from hearing of it.
        """
        with self._turns.turn_if_free("waiting", nested=True) as is_free:
            drives = is_free and not self._is_started
        engine = self._its_engine
        if drives and engine is not None and engine.is_driving:
            engine.rest(seconds)
        else:
            time.sleep(seconds if drives else min(seconds, GLANCE))

    # -- acting ---------------------------------------------------------------------------------------------------

    def preflight(self, trial: bool = False, *, seconds: float | None = None) -> Preflight:
        """Look for what would go wrong, before anything is launched: image, resources, credential, files; and the cost.

        Print the result: `print(batch.preflight())`. A notebook shows it by itself.

        Args:
            trial: Whether to run the first job, alone, and raise if it fails.
            seconds: Seconds that each job is assumed to run, for the core-hours; by default the median so far.

        Raises:
            SpecError: The platform does not offer what a job asks for.
            JobFailed: The trial job failed.
            BatchPaused: The batch is paused, since its first jobs all failed alike.
        """
        found = self._engine.preflight(seconds=seconds)
        if trial:
            self._refuse_while_started("preflight(trial=True)")
            try:
                self._try_first()
            except BaseException:
                for warning in found.warnings:  # no one gets the result
                    log.warning("%s: %s", self.name, warning)
                raise
        return found

    def _try_first(self) -> None:
        first = next((job.key for job in self.records if job.state is JobState.PLANNED), None)
        if first is None:
            return
        with self._turn("preflight(trial=True)") as engine, engine.held(), engine.only(first):
            for _ in engine.drive(lambda: self._is_complete(first)):
                pass
            self._raise_if_stuck()
        self[first].raise_if_failed()

    def retry_failed(
        self, keys: str | Iterable[str] | None = None, cause: str | None = None, **changes: Any
    ) -> list[str]:
        """Open jobs again that failed or were lost, and return their keys; `run()` then launches them.

        Args:
            keys: Only these; cancelled jobs are opened again only if named here.
            cause: Only those with this cause, as the report words it (`"out of memory"`) or by class (`"OutOfMemory"`).
            changes: New values for `cores`, `ram`, `gpus`, `timeout`, `pending_timeout` or `name`.

        Raises:
            UnknownJob: The batch has no such job.
            PlanError: No job failed for *cause*; the message lists the causes.
            SpecError: A change has another name, belongs to the job's identity, or its value is invalid.
        """

        def choose() -> list[JobRecord]:
            if keys is None:
                return with_cause((job for job in self.records if job.state in GIVEN_UP), cause)
            named = [self._known(key) for key in several(keys)]
            unfit = [job for job in named if job.state not in (*GIVEN_UP, JobState.CANCELLED)]
            if unfit:
                log.warning("%s: %s", self.name, messages.not_failed(unfit[0], len(unfit)))
            return with_cause((job for job in named if job not in unfit), cause)

        return self._reopen("retry_failed()", choose, changes)

    def rerun(
        self, keys: str | Iterable[str] | None = None, *, missing_outputs: bool = False, **changes: Any
    ) -> list[str]:
        """Open final jobs again, also those that succeeded, and return their keys; `run()` then launches them.

        ```python
        batch = session.batch("fits")
        batch.map(spec, key="fit-{n}", n=[1, 2, 3])
        batch.run()
        batch.rerun("fit-2", ram=2)
        batch.rerun(missing_outputs=True)  # those whose outputs were deleted
        report = batch.run()
        ```

        Args:
            keys: Only these; None for all final jobs.
            missing_outputs: Only those that succeeded and whose outputs no longer exist, if this machine sees them.
            changes: New values for `cores`, `ram`, `gpus`, `timeout`, `pending_timeout` or `name`.

        Raises:
            UnknownJob: The batch has no such job.
            PlanError: A named job is not final.
            SpecError: A change has another name, belongs to the job's identity, or its value is invalid.
        """

        def choose() -> list[JobRecord]:
            named = self.records if keys is None else [self._known(key) for key in several(keys)]
            active = [job for job in named if not job.state.final]
            if keys is not None and active:
                raise PlanError(f"job {active[0].key!r} is {active[0].state}: wait for it, or cancel() it first")
            gone = self._engine.gone_outputs() if missing_outputs else None
            return [job for job in named if job.state.final and (gone is None or job.key in gone)]

        return self._reopen("rerun()", choose, changes)

    def _reopen(self, call: str, choose: Callable[[], list[JobRecord]], changes: Mapping[str, Any]) -> list[str]:
        check_changes(changes)
        with self._planning(call) as engine:
            chosen = choose()
            engine.reopen(reopenings(chosen, changes, self._clock))
        return [job.key for job in chosen]

    def renew(self) -> list[str]:
        """Ask the platform to extend the lifetime of every running container, and return the keys of these jobs.

        The platform ends a container after some days; it extends the lifetime only when that end is near. A refusal
        is logged.

        ```python
        batch = session.batch("fits")
        print(batch.renew())
        ```
        """
        platform, renewed, asked = self._engine.platform, list[str](), set[str]()
        for job in self.records:
            if job.state is not JobState.RUNNING or job.id is None:
                continue
            if job.id in asked:  # a bundle's jobs have one container
                renewed.append(job.key)
                continue
            try:
                renew_container(job, platform)
                asked.add(job.id)
            except PlatformError as error:
                log.warning("%s: the lifetime of %s was not extended: %s", self.name, job.key, error)
            else:
                renewed.append(job.key)
        return renewed

    def delete(self) -> None:
        """Delete the batch's home: ledger, logs and receipts. Outputs elsewhere stay.

        ```python
        batch = session.batch("fits")
        batch.map(spec, key="fit-{n}", n=[1, 2, 3])
        batch.run()
        batch.delete()
        assert "fits" not in cb.batches()
        ```

        Raises:
            PlanError: Jobs are active: cancel() them first.
            BatchBusy: Another process, or another thread of this one, drives the batch.
            ReadOnlyBatch: The batch is open for reading.
            HomeError: The home cannot be deleted.
        """
        self._refuse_while_started("delete()")
        with self._turn("delete()") as engine:
            engine.acquire()
            active = [job.key for job in self.records if job.state.active]
            engine.release()
            if active:
                active_jobs = count(len(active), "active job")
                raise PlanError(f"{active_jobs}, such as {active[0]!r}: cancel() before delete()")
            self.close()
            with file_errors(self.home):
                shutil.rmtree(self.home)

    def cancel(
        self, keys: str | Iterable[str] | None = None, *, wait: bool = True, timeout: float | None = None
    ) -> list[str]:
        """Stop these jobs, or all, and return the keys of those that were not final; planned ones are not launched.

        The request is recorded first, so that it is carried out even if this process dies. If another process drives
        the batch, that process carries it out.

        Args:
            keys: The keys of the jobs; None for all.
            wait: Whether to wait until their containers have ended. The platform no longer shows them at once, and
                gives each up to 30 s to stop; with False, they may write for that long.
            timeout: Seconds to wait at most.

        Raises:
            UnknownJob: The batch has no such job.
            WaitTimeout: The platform still shows a container after *timeout* seconds, or could not be asked within a
                minute; it is still being stopped.
        """
        if not self._ledger.driving:
            self._refresh()
        named = self.keys() if keys is None else several(keys)
        chosen = [key for key in named if not self._known(key).state.final]
        if not chosen:
            return []
        self._ledger.ask("cancel", chosen)
        if self._its_engine is not None:
            with contextlib.suppress(BatchBusy), self._turn("cancel()") as engine, engine.held():
                self._see_stopped(chosen, wait=wait, timeout=timeout)
                return chosen
        log.info("%s: the driver of the batch will stop %d jobs", self.name, len(chosen))
        return chosen

    def _see_stopped(self, keys: Sequence[str], *, wait: bool, timeout: float | None) -> None:
        """Drive until these jobs are final; with *wait* False, until the platform was asked to stop them."""
        engine, patience = self._engine, _CANCEL_DELIVERY if timeout is None and not wait else timeout

        def stopped() -> bool:
            return all(self._ledger.jobs[key].state.final or (not wait and engine.cancel_sent(key)) for key in keys)

        deadline = None if patience is None else self._clock.ticks() + patience
        for _ in engine.drive(stopped, deadline=deadline):
            pass
        if not stopped():
            why = "" if engine.paused is None else f": {engine.paused}"
            raise WaitTimeout(f"batch {self.name}: some jobs are still being stopped after {patience or 0.0:g} s{why}")


@attrs.frozen
class _FromBatch:
    """The source of a batch's job: its ledger and its home, and the platform while it runs."""

    batch: Batch

    @property
    def platform(self) -> Platform | None:
        """The batch's platform; None without a connection."""
        return None if self.batch._its_engine is None else self.batch._its_engine.platform

    def refresh(self, record: JobRecord, *, timeout: float = math.inf) -> JobRecord:
        """Do a turn of the loop if this process drives the batch; return the newest record in the ledger."""
        self.batch._refresh()
        return self.batch._known(record.key)

    def require_driver(self, record: JobRecord) -> None:
        """Raise `NotDriven` if no process drives the batch."""
        self.batch._require_driver(record.key)

    def log(self, record: JobRecord) -> bytes:
        """Return the saved log, else the platform's; empty if there is neither."""
        return newest_log(record, self.platform, self.batch._home.running)

    def events(self, record: JobRecord) -> str:
        """Return the saved events, else the platform's; empty if there is neither."""
        return newest_events(record, self.batch._home, self.platform)

    def exception(self, record: JobRecord) -> BaseException | None:
        """Return the exception in the home that the job's function raised."""
        return self.batch._exception(record)

    def cancel(self, record: JobRecord, timeout: float) -> JobRecord:
        """Let the batch stop the job."""
        self.batch.cancel([record.key], timeout=timeout)
        return self.batch._known(record.key)

    def renew(self, record: JobRecord) -> None:
        """Ask the platform to extend the lifetime of the job's container."""
        renew_container(record, self.batch._engine.platform)

    def wait(self, seconds: float) -> None:
        """Sleep for *seconds*, or until a worker thread delivers something."""
        self.batch._rest(seconds)


def open(name: str, home: str | os.PathLike[str] | None = None) -> Batch:  # noqa: A001 (read as canfar_batch.open)
    """Open the batch *name* to read it: offline, while another process drives it, or long after.

    ```python
    session.batch("fits").add(spec, key="fit-2", n=2)  # by another process, or yesterday

    batch = cb.open("fits")
    print(batch.explain())
    print(batch["fit-2"].logs())
    ```

    Args:
        name: The batch's name.
        home: The directory that holds the batch's own; by default `CANFAR_BATCH_HOME`, else `batches` in the working
            directory.

    Raises:
        UnknownBatch: There is none.
    """
    return Batch.open(name, home)


def batches(home: str | os.PathLike[str] | None = None) -> list[str]:
    """Return the names of the batches that `open` finds.

    ```python
    session.batch("fits")
    assert "fits" in cb.batches()
    ```

    Args:
        home: The directory that holds the batches' own; by default `CANFAR_BATCH_HOME`, else `batches` in the working
            directory.

    Raises:
        HomeError: The directory cannot be read.
    """
    return list(homes.batches(home))


def prepare(
    name: str,
    *,
    setup: Callable[[Path], Setup],
    address: str,
    home: str | os.PathLike[str] | None,
    launch: Callable[[JobSpec], Job] | None = None,
    nearby: bool = False,
) -> Batch:
    """Open the batch *name* for planning and running; make it if there is none.

    Args:
        name: The batch's name.
        setup: Makes the engine's setup for the directory of the batch.
        address: The platform's address, or `"local"`: batches are bound to it.
        home: As for `open`.
        launch: Launches a single job, to ask an image for its version of Python.
        nearby: Whether the platform is on this machine, so that a home that does not last deserves no warning.

    Raises:
        HomeError: The home is in a directory that is emptied from time to time and that nothing names, or cannot be
            written.
        LedgerError: The batch belongs to another platform or user.
    """
    place = Home.of(name, home)
    if address != "local" and home is None and not homes.named_in_environment():
        place.refuse_if_fleeting()
    elif address != "local" and not nearby and place.fleeting:
        log.warning("%s: %s", name, place.fleeting)
    made = setup(place.path)
    user, clock = made.platform.user, made.clock
    try:
        ledger = Ledger.open(place, clock=clock, writable=True)
    except UnknownBatch:
        identity = Identity(name=name, platform=address, user=user, token=secrets.token_hex(16))
        ledger = Ledger.create(place, identity, clock=clock)
    identity = ledger.identity
    if identity.platform != address:
        raise LedgerError(
            f"batch {name!r} in {place.path} ran on {identity.platform}, and this session is with {address}; give the "
            "batch another name, or connect to the platform that it ran on"
        )
    if identity.user is not None and user is not None and identity.user != user:
        raise LedgerError(f"batch {name!r} in {place.path} is run by {identity.user}, and you are {user} here")
    # the token that is in the ledger, which another process may have made at the same time
    write_file(place.token, f"{identity.token}\n".encode())
    log.info("batch %s is in %s", name, place.path)
    return Batch(place, ledger, clock=clock, engine=Engine(made, ledger, place), launch=launch)
