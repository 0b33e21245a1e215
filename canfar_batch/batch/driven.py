"""How a batch is driven: by a call of the user's thread, by a thread in the background, or stage by stage."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from canfar_batch.batch.background import Background
from canfar_batch.batch.notify import Notifier, Notify, check_notify
from canfar_batch.batch.planned import PlannedBatch, read_secrets, several
from canfar_batch.engine import Engine
from canfar_batch.errors import (
    BatchBusy,
    BatchPaused,
    CollectError,
    Detached,
    NotDriven,
    PlanError,
    WaitTimeout,
)
from canfar_batch.functions import check_python
from canfar_batch.job import Job
from canfar_batch.protocols import Clock
from canfar_batch.records import JobRecord, JobState
from canfar_batch.setup import ALIKE
from canfar_batch.spec import JobSpec
from canfar_batch.store.home import Home
from canfar_batch.store.ledger import Ledger
from canfar_batch.views import messages
from canfar_batch.views.format import in_use
from canfar_batch.views.progress import Progress, in_notebook
from canfar_batch.views.report import Report

log = logging.getLogger("canfar_batch")

GLANCE = 0.2  #: seconds that `step` returns at most while worker threads are busy: a caller that sleeps drains nothing


class DrivenBatch(PlannedBatch):
    """A planned batch that this process can drive."""

    def __init__(
        self,
        home: Home,
        ledger: Ledger,
        *,
        clock: Clock,
        engine: Engine | None,
        launch: Callable[[JobSpec], Job] | None,
    ) -> None:
        super().__init__(home, ledger, clock=clock, engine=engine)
        self._launch_beside = launch  # launches a job that is not the batch's
        self._background: Background | None = None

    # -- running --------------------------------------------------------------------------------------------------

    def run(
        self,
        progress: bool = True,
        timeout: float | None = None,
        *,
        takeover: bool = False,
        stop_alike: int | None = ALIKE,
        notify: Notify | None = None,
    ) -> Report:
        """Launch, follow, retry and collect until every job is final.

        Ctrl-C detaches: the jobs run on, and running the script again goes on with them.

        ```python
        batch = session.batch("fits")
        batch.map(spec, key="fit-{n}", n=[1, 2, 3])
        print(batch.preflight(seconds=600), batch.preview(1))
        report = batch.run(timeout=3600, notify=print)
        ```

        Args:
            progress: Whether to show the progress.
            timeout: Seconds to go on for at most; None for as long as it takes.
            takeover: Drive the batch even if another driver seems to. Use it only if that process is dead.
            stop_alike: Launch no more once this many jobs failed alike and none succeeded; None never stops.
            notify: Called with the report when the run ends or is paused (unfinished jobs in it mean a pause); or a
                command that is run then, with `CANFAR_BATCH_NAME`, `CANFAR_BATCH_OUTCOME` ("ended" or "paused") and
                `CANFAR_BATCH_REPORT` in its environment.

        Raises:
            Detached: Ctrl-C was pressed.
            WaitTimeout: The time is up; its `.report` is the report at that moment. Also a `TimeoutError`.
            BatchPaused: The first jobs all failed alike.
            BatchBusy: Another process, or another thread of this one, drives the batch.
            ReadOnlyBatch: The batch is open for reading.
            SpecError: A job needs a `Secret` that is not set here.
            HomeError: The home cannot be written; nothing that was recorded is lost.
        """
        check_notify(notify)
        deadline = None if timeout is None else self._clock.ticks() + timeout
        self._refuse_while_started("run()")
        with self._turn("run()") as engine:
            try:
                self._check_specs()
                with engine.held(takeover=takeover):
                    self._refuse_shared_results()
                    engine.resume(stop_alike=stop_alike)
                    self._run(engine, progress=progress, deadline=deadline, notify=notify)
                    self._raise_unless(engine.is_done, timeout)
            except KeyboardInterrupt:
                raise Detached(f"detached from batch {self.name}: {self._fate()}. {self._how_to_resume()}") from None
            finally:
                engine.release()
            return self.report()

    def _run(self, engine: Engine, *, progress: bool, deadline: float | None, notify: Notify | None) -> None:
        notifier = Notifier(target=notify, name=self.name, report=self.report)
        with Progress(self, shown=progress, use=self._in_use) as shown:
            shown.say(self._opening())
            self._warn_of_gone_outputs()
            for turn in engine.drive(deadline=deadline):
                turn.shorten(shown.update())
                notifier.check(engine.paused)
        if engine.is_done:
            notifier.end()

    def start(
        self,
        progress: bool | None = None,
        *,
        takeover: bool = False,
        stop_alike: int | None = ALIKE,
        notify: Notify | None = None,
    ) -> None:
        """Run the batch as `run` does, in a thread of this process, so that a notebook stays usable meanwhile.

        `wait` waits for its end and returns the report, `stop` ends it. The arguments are those of `run`. The thread
        ends with the process; running the script again goes on with the jobs.

        ```python
        batch = session.batch("fits")
        batch.map(spec, key="fit-{n}", n=[1, 2, 3])
        batch.start()
        print(batch.counts)  # at once
        report = batch.wait(timeout=600)  # seconds; batch.stop() would end it earlier
        ```

        Args:
            progress: Whether to show the progress, below the cell that calls this; by default only in a notebook.
            takeover: As for `run`.
            stop_alike: As for `run`.
            notify: As for `run`; a function is called in the other thread.

        Raises:
            BatchBusy: Another process, or another thread of this one, drives the batch.
            ReadOnlyBatch: The batch is open for reading.
            SpecError: A job needs a `Secret` that is not set here.
        """
        check_notify(notify)
        if self._is_started:
            return
        self._check_specs()
        with self._turn("start()") as engine:
            engine.acquire(takeover=takeover)
            self._refuse_shared_results()
            engine.resume(stop_alike=stop_alike)
            shown = Progress(self, shown=in_notebook() if progress is None else progress, use=self._in_use)
            shown.say(self._opening())
            self._warn_of_gone_outputs()
            shown.update()  # in this thread, so that a notebook shows it below this cell
            notifier = Notifier(target=notify, name=self.name, report=self.report)

            def after_step() -> None:
                shown.update()
                notifier.check(engine.paused)
                self._raise_if_stuck()
                if engine.is_done:
                    notifier.end()

            self._background = Background(
                engine, self._turns, name=self.name, after_step=after_step, at_end=shown.close
            )
            self._background.start()

    def wait(self, timeout: float | None = None) -> Report:
        """Wait for the end of what `start` began, and return the report; Ctrl-C ends only the wait.

        Args:
            timeout: Seconds to wait at most; None for as long as it takes.

        Raises:
            NotDriven: `start` was not called.
            WaitTimeout: It has not ended after *timeout* seconds; it goes on. Its `.report` is the report then.
            BatchPaused: The first jobs all failed alike.
            HomeError: The home cannot be written; nothing that was recorded is lost.
        """
        background = self._background
        if background is None:
            raise NotDriven(f"batch {self.name} was not started: start() runs it in a thread, run() in this one")
        if not background.join(timeout):
            raise WaitTimeout(f"batch {self.name} is not done after {timeout:g} s; it goes on", report=self.report())
        if background.error is not None:
            raise background.error
        return self.report()

    def stop(self) -> None:
        """End what `start` began, after the step in progress; the jobs run on. Does nothing if nothing was started."""
        if self._background is not None:
            self._background.stop()

    def _in_use(self) -> str:
        return in_use(self.live.values())

    @property
    def _is_started(self) -> bool:
        return self._background is not None and self._background.is_alive

    def _refuse_while_started(self, call: str) -> None:
        if self._is_started:
            raise BatchBusy(
                f"start() drives batch {self.name} in a thread, so {call} cannot: wait() waits for its end, and stop() "
                "ends it"
            )

    def as_completed(self, timeout: float | None = None) -> Iterator[Job]:
        """Run the batch, and yield each job once, when it is final; those that are final already come first.

        Args:
            timeout: Seconds to go on for at most.

        Raises:
            WaitTimeout: The time is up; the jobs run on. Its `.report` is the report at that moment.
            BatchPaused: The first jobs all failed alike.
            BatchBusy: Another process, or another thread of this one, drives the batch.
            SpecError: A job needs a `Secret` that is not set here.
        """
        self._refuse_while_started("as_completed()")
        self._check_specs()
        deadline = None if timeout is None else self._clock.ticks() + timeout
        changed = dict.fromkeys(self._ledger.jobs)
        yielded: set[str] = set()

        def fresh() -> Iterator[Job]:
            for key in list(changed):
                del changed[key]
                if key not in yielded and key in self and self._is_complete(key):
                    yielded.add(key)
                    yield self[key]

        with contextlib.ExitStack() as stack:
            with self._turn("as_completed()") as engine:
                stack.callback(engine.release)
                stack.enter_context(engine.held())
                stack.enter_context(engine.subscribed(lambda event: changed.setdefault(event.key)))
                turns = engine.drive(
                    lambda: engine.is_done and yielded.issuperset(self._ledger.jobs), deadline=deadline
                )
            yield from fresh()
            while True:
                with self._turn("as_completed()"):
                    if next(turns, None) is None:
                        break
                yield from fresh()
            self._raise_unless(engine.is_done, timeout)

    def step(self) -> float:
        """Do one turn of the loop, for scripts that have a loop of their own: observe, retry, launch, collect.

        Returns:
            Seconds until there is something to do again; sleep that long, or less.

        Raises:
            BatchPaused: The first jobs all failed alike; `run` or `retry_failed` goes on nevertheless.
            BatchBusy: Another process, or another thread of this one, drives the batch.
        """
        with self._turn("step()") as engine:
            self._defined.clear()
            wait = engine.step()
            self._raise_if_stuck()
            return min(wait, GLANCE) if engine.has_work_in_flight else wait

    def observe(self) -> Mapping[JobState, int]:
        """Poll the platform now, whatever the monitor strategy wishes, and return the counts."""
        with self._turn("observe()") as engine:
            engine.observe()
            return self.counts

    def launch(self) -> int:
        """Let the launch strategy pick jobs, launch them, and return how many launches were sent."""
        with self._turn("launch()") as engine:
            self._defined.clear()
            engine.acquire()
            self._raise_if_stuck()
            return engine.launch()

    def collect(self, keys: str | Iterable[str] | None = None) -> dict[str, Any]:
        """Fetch results, again if they were fetched before, and return them by key.

        Args:
            keys: The keys of the jobs; None for all that succeeded and were not collected.

        Raises:
            PlanError: A job did not succeed, so it has no result.
            CollectError: The outputs of a named job no longer exist.
        """
        with self._turn("collect()"), self._engine.held() as engine:
            chosen = self._uncollected() if keys is None else [self._known(key) for key in several(keys)]
            for job in chosen:
                if job.state is not JobState.SUCCEEDED:
                    raise PlanError(f"job {job.key!r} is {job.state}, so it has no result")
            self._refuse_shared_results()
            if keys is not None:
                self._refuse_gone_outputs(job.key for job in chosen)
            engine.collect(chosen)
            return {job.key: self._result(self._ledger.jobs[job.key], None) for job in chosen}

    def _uncollected(self) -> list[JobRecord]:
        return [job for job in self.records if job.state is JobState.SUCCEEDED and not job.collected]

    def _refuse_gone_outputs(self, keys: Iterable[str]) -> None:
        gone = self._engine.gone_outputs()
        for key in keys:
            if key in gone:
                raise CollectError(
                    f"the output {gone[key][0]} of job {key!r} no longer exists: rerun({key!r}) and run() make it again"
                )

    def _warn_of_gone_outputs(self) -> None:
        if gone := self._engine.gone_outputs():
            example = next(iter(gone.values()))[0]
            log.warning("%s: %s", self.name, messages.gone(len(gone), example))

    def _raise_if_stuck(self) -> None:
        if self._engine.is_stuck:
            raise BatchPaused(
                f"{self._engine.paused}. Fix the cause (plan the jobs again if it is their command, else call "
                "retry_failed()), then run(); run() alone goes on with the others",
                report=self.report(),
                why=self._engine.paused,
            )

    def _raise_unless(self, done: bool, timeout: float | None) -> None:
        """Raise the reason why driving ended before all was *done*."""
        self._raise_if_stuck()
        if not done:
            raise WaitTimeout(
                f"batch {self.name} is not done after {timeout or 0.0:g} s; {self._fate()}. {self._how_to_resume()}",
                report=self.report(),
            )

    def _is_complete(self, key: str) -> bool:
        """Return whether the job is final and its result, if any, fetched."""
        job = self._ledger.jobs[key]
        return job.state.final and (job.collected or job.state is not JobState.SUCCEEDED)

    def _fate(self) -> str:
        return messages.fate(local=self.address == "local")

    def _how_to_resume(self) -> str:
        return messages.how_to_resume(self.name)

    def _check_specs(self) -> None:
        """Check what can stop every job, before the first is launched: secrets, and images that lack Python.

        After that, a notebook's cell may define the jobs differently.

        Raises:
            SpecError: A job cannot run.
        """
        self._defined.clear()
        records = self.records
        specs = list({id(job.spec): job.spec for job in records if not job.state.final}.values())
        read_secrets(specs)
        calls = [spec for spec in specs if spec.function is not None]
        if calls and self._launch_beside is not None:
            proven = {job.spec.function for job in records if job.state is JobState.SUCCEEDED}
            untried = [spec for spec in calls if spec.function not in proven]
            check_python(untried, launch=self._launch_beside, known=self._home.functions / "pythons.json")

    def _opening(self) -> str:
        """Return the report at the start of a run, which counts new jobs; they count as new once only."""
        context, records = self._engine.launch_context, self.records
        new, reopened = len(self._new), len(self._reopened)
        self._new.clear()
        self._reopened.clear()
        return str(
            messages.Opening(
                name=self.name,
                home=self.home,
                jobs=len(records),
                new=new,
                reopened=reopened,
                unasked=len({job.key for job in records} - self._asked) if self._asked else 0,
                shared=context.shared,
                reports=context.remote is not None,
                local=self.address == "local",
                moved=messages.moved(
                    made_in=self._ledger.workdir,
                    now_in=Path.cwd(),
                    runs_in=context.workdir if context.shared else None,
                    jobs=records,
                ),
                counts=Counter(job.state for job in records),
            )
        )
