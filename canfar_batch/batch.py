"""`Batch`: an ordered set of jobs with a name, a home, a ledger and four strategies."""

from __future__ import annotations

import difflib
import logging
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from canfar_batch.clock import SystemClock
from canfar_batch.engine import (
    ALIKE,
    Engine,
    LaunchContext,
    Plan,
    Preflight,
    Row,
    Setup,
    changed_identity,
    check_spec,
    compared,
    newest_events,
    newest_log,
    respecified,
    rows_of_columns,
    rows_of_grid,
    rows_of_table,
)
from canfar_batch.errors import (
    BatchBusy,
    BatchPaused,
    Detached,
    HomeError,
    JobNotFound,
    LedgerError,
    PlanError,
    SpecChanged,
    SpecError,
    UnknownBatch,
    WaitTimeout,
)
from canfar_batch.job import Job
from canfar_batch.lifecycle import Event, Reopened
from canfar_batch.protocols import (
    Clock,
    Platform,
)
from canfar_batch.records import ContainerInfo, JobRecord, JobState
from canfar_batch.spec import JobSpec
from canfar_batch.store.files import file_errors, write_file
from canfar_batch.store.home import Home
from canfar_batch.store.ledger import Happened, Identity, Ledger
from canfar_batch.views import explain, notebook, report_page, tables, timeline_mpl
from canfar_batch.views.progress import Progress
from canfar_batch.views.report import Report
from canfar_batch.views.timeline import Timeline

if TYPE_CHECKING:
    import pandas as pd
    from astropy.table import Table
    from matplotlib.figure import Figure

log = logging.getLogger("canfar_batch")

MANY = 100  #: jobs beyond which the platform's guide asks for word to support@canfar.net before the first batch
_LOSERS = (JobState.FAILED, JobState.LOST)
_CHANGEABLE = frozenset({"cores", "ram", "gpus", "timeout", "pending_timeout", "name"})
_OTHER_NAMES = {"memory": "ram", "mem": "ram", "cpus": "cores", "cpu": "cores"}
_GLANCE = 0.2  #: seconds after which a script that holds the loop itself looks whether a thread has brought something
_CANCEL_DELIVERY = 60.0  #: with wait=False, seconds to try to deliver the cancel requests


def _check_changes(changes: Iterable[str]) -> None:
    """Refuse what is no field of a spec, or makes the job the one it is."""
    for name in sorted(set(changes) - _CHANGEABLE):
        can = f"{', '.join(sorted(_CHANGEABLE))} can be changed"
        if name in attrs.fields_dict(JobSpec):
            raise SpecError(f"{name} is part of what the job is; {can}")
        near = [*filter(None, [_OTHER_NAMES.get(name)]), *difflib.get_close_matches(name, _CHANGEABLE, n=1)]
        raise SpecError(f"there is no {name}{f' (did you mean {near[0]}?)' if near else ''}; {can}")


def _read_secrets(specs: Iterable[JobSpec]) -> None:
    """Read the secrets that these specs name, so that one that is not set is noticed before anything depends on it."""
    for secret in {secret for spec in specs for secret in spec.secrets}:
        secret.read()


def _several(keys: str | Iterable[str]) -> list[str]:
    return [keys] if isinstance(keys, str) else list(dict.fromkeys(keys))


class Batch:
    """An ordered set of jobs that outlives the script which made it.

    `Session.batch` opens one to run it, `canfar_batch.open` to read it. Everything is in the batch's home, so the same
    script run again goes on where the last one stopped. One thread drives it; what it returns is a snapshot.

    ```python
    import canfar_batch as cb

    fit = cb.JobSpec("python fit.py {n}", image="skaha/astroml:latest", cores=1, ram=1)
    with cb.Session.connect() as session:
        batch = session.batch("fits", launch=cb.Window(8), retry=cb.Retry(2))
        batch.map(fit, key="fit-{n}", n=[1, 2, 3])  # or grid(), rows(), replicas(), add()
        report = batch.run()
    print(batch.counts, [job.key for job in batch.failed])
    print(batch["fit-2"].logs())
    ```
    """

    def __init__(
        self,
        home: Home,
        ledger: Ledger,
        *,
        clock: Clock,
        engine: Engine | None = None,
    ) -> None:
        self._home, self._ledger, self._clock = home, ledger, clock
        self._its_engine = engine  # None if the batch is open for reading
        self._asked: set[str] = set()
        self._new: set[str] = set()

    # -- opening --------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, name: str, home: str | os.PathLike[str] | None = None) -> Batch:
        """The batch *name*, to be read without a connection.

        Args:
            name: The batch's name.
            home: The directory that holds its own; by default `CANFAR_BATCH_HOME`, else `batches` in the working one.

        Raises:
            UnknownBatch: There is none.
        """
        place, clock = Home.of(name, home), SystemClock()
        return cls(place, Ledger.open(place, clock=clock, writable=False), clock=clock)

    def close(self) -> None:
        """Stop driving and close the ledger; jobs run on."""
        if self._its_engine is not None:
            self._its_engine.release()
        self._ledger.close()

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # -- planning -------------------------------------------------------------------------------------------------

    def add(self, spec: JobSpec, /, key: str | None = None, **fields: Any) -> Job:
        """Plan one job.

        Args:
            spec: What to run.
            key: Its name in this batch, or a template for it; by default made of the fields.
            fields: What the spec's templates are filled with.

        Raises:
            SpecError: A field is unknown, missing or cannot be filled in.
            SpecChanged: The batch knows this key, launched as another job.
        """
        return self[self._plan(spec, [fields], key)[0]]

    def map(self, spec: JobSpec, /, key: str | None = None, *, allow_empty: bool = False, **columns: Any) -> list[str]:
        """Plan one job for each place in the columns; scalars repeat. The jobs' keys, in plan order.

        Args:
            spec: What to run.
            key: A template for the keys, as `"{path.stem}"`; by default they are made of the fields.
            allow_empty: Whether columns without any element are meant.
            columns: The values of each field: lists, arrays, columns of tables, generators.

        Raises:
            PlanError: The columns differ in length, or are empty.
            SpecError: A value cannot be filled in.
            SpecChanged: The batch knows a key, launched as another job.
        """
        return self._plan_all(spec, rows_of_columns(columns), key, allow_empty)

    def grid(self, spec: JobSpec, /, key: str | None = None, *, allow_empty: bool = False, **axes: Any) -> list[str]:
        """Plan one job for each combination of the axes' values, the last axis running fastest. The jobs' keys.

        Args:
            spec: What to run.
            key: A template for the keys, as `"{sigma}-{method}"`; by default they are made of the fields.
            allow_empty: Whether an axis without any value is meant.
            axes: The values of each field: lists, arrays, ranges, generators; a scalar is one value.

        Raises:
            PlanError: There is no axis, or nothing to combine.
            SpecError: A value cannot be filled in.
            SpecChanged: The batch knows a key, launched as another job.
        """
        return self._plan_all(spec, rows_of_grid(axes), key, allow_empty)

    def rows(self, spec: JobSpec, table: Any, key: str | None = None, *, allow_empty: bool = False) -> list[str]:
        """Plan one job for each row of a list of dicts, a pandas DataFrame or an astropy Table. The jobs' keys.

        Args:
            spec: What to run.
            table: The rows; its columns are the fields.
            key: A template for the keys, as `"{object}"`; by default they are made of the fields.
            allow_empty: Whether a table without any row is meant.

        Raises:
            PlanError: *table* is none of these, or empty.
            SpecError: A value cannot be filled in; masked ones and NaN never can.
            SpecChanged: The batch knows a key, launched as another job.
        """
        return self._plan_all(spec, rows_of_table(table), key, allow_empty)

    def replicas(self, spec: JobSpec, n: int) -> list[str]:
        """Plan *n* jobs that differ in their environment alone: `REPLICA_ID` from 1 to n, and `REPLICA_COUNT`.

        `{replica}` and `{replicas}` are the same two numbers in the spec's templates.

        Raises:
            PlanError: *n* is not a positive whole number.
        """
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise PlanError(f"replicas(n={n!r}): n is a whole number of at least 1")
        check_spec(spec)
        counted = attrs.evolve(spec, env={**spec.env, "REPLICA_ID": "{replica}", "REPLICA_COUNT": "{replicas}"})
        rows = [{"replica": number, "replicas": n} for number in range(1, n + 1)]
        return self._plan(counted, rows, "replica-{replica}")

    def drop(self, keys: Iterable[str]) -> None:
        """Take jobs out of the plan that were never launched.

        Args:
            keys: Which.

        Raises:
            PlanError: One was launched: cancel it instead.
        """
        named = _several(keys)
        engine = self._engine
        with engine.planning():
            chosen = [self._known(key) for key in named]
            launched = [job.key for job in chosen if job.attempts or job.state is not JobState.PLANNED]
            if launched:
                raise PlanError(f"{launched[0]!r} was launched, so it stays in the batch; cancel() stops it")
            engine.drop(chosen)

    def _plan_all(self, spec: JobSpec, rows: list[Row], key: str | None, allow_empty: bool) -> list[str]:
        if not rows and not allow_empty:
            raise PlanError("there is nothing to do: the columns are empty. If that may be, say allow_empty=True")
        return self._plan(spec, rows, key)

    def _plan(self, spec: JobSpec, rows: Sequence[Row], key: str | None) -> list[str]:
        """Compare the wanted jobs with the known ones; nothing is written unless all of them fit."""
        known, plan = self._ledger.jobs, self._compared(spec, rows, key)
        if not plan.fresh and not plan.changes:
            self._asked.update(plan.keys)
            return plan.keys  # a script that plans what is planned needs no lease: run() may yet take it over
        if plan.fresh:
            _read_secrets([spec])
        engine = self._engine
        with engine.planning():
            if self._ledger.jobs is not known:  # another process has written meanwhile
                plan = self._compared(spec, rows, key)
            self._refuse_to_replace(plan.fresh)
            engine.apply(plan)
        self._asked.update(plan.keys)
        self._new.update(job.key for job in plan.fresh)
        return plan.keys

    def _refuse_to_replace(self, fresh: Iterable[JobRecord]) -> None:
        """A script that was changed may say anew what a job is that was never launched; but not say it twice."""
        for wanted in fresh:
            known = self._ledger.jobs.get(wanted.key)
            if known is not None and known.key in self._asked:
                raise SpecChanged(
                    f"job {known.key!r} was planned a moment ago as another job: "
                    f"{changed_identity(known, wanted)}. Give one of them another key, as "
                    'key="second-{key}"; to replace it, drop() it first'
                )

    def _compared(self, spec: JobSpec, rows: Sequence[Row], key: str | None) -> Plan:
        return compared(
            spec, rows, key=key, find=self._ledger.find, next_place=self._ledger.next_place, at=self._clock.now()
        )

    # -- looking --------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The batch's name."""
        return self._ledger.identity.name

    @property
    def home(self) -> Path:
        """The directory that holds its ledger, logs and receipts."""
        return self._home.path

    @property
    def address(self) -> str:
        """The platform that it runs on: its address, or `"local"`."""
        return self._ledger.identity.platform

    @property
    def driver(self) -> str | None:
        """Who drives it at this moment, in words; None where nobody does."""
        lease = self._ledger.lease()
        if lease is None or lease.left <= 0 or lease.holder.provably_gone():
            return None
        return f"process {lease.holder.pid} on {lease.holder.host}"

    def __len__(self) -> int:
        return len(self._ledger.jobs)

    def __iter__(self) -> Iterator[Job]:
        return (self._handle(job) for job in list(self._ledger.jobs.values()))

    def __contains__(self, key: object) -> bool:
        return key in self._ledger.jobs

    def __getitem__(self, key: str) -> Job:
        return self._handle(self._known(key))

    @property
    def records(self) -> list[JobRecord]:
        """Every job's record, in plan order."""
        return list(self._ledger.jobs.values())

    @property
    def counts(self) -> Mapping[JobState, int]:
        """How many jobs are in each state; states without jobs are left out."""
        counts = self._its_engine.counts if self._its_engine else None
        counted = Counter(job.state for job in self._ledger.jobs.values()) if counts is None else counts
        return {state: counted[state] for state in JobState if counted[state]}

    @property
    def failed(self) -> list[Job]:
        """The jobs that failed for good or were lost, in plan order."""
        return [job for job in self if job.state in _LOSERS]

    @property
    def done(self) -> bool:
        """True once every job is final and every result fetched."""
        if self._its_engine is not None and self._its_engine.is_driving:
            return self._its_engine.is_done
        return all(job.state.final for job in self._ledger.jobs.values())

    def results(self, missing: Any = None) -> dict[str, Any]:
        """What the collector fetched, by key, in plan order and for every job.

        Args:
            missing: What stands for jobs that did not succeed, or whose result could not be fetched. Without a
                connection that is also so where the ledger keeps none: more than 64 KiB, or no JSON.
        """
        lacking = sum(not job.kept for job in self._ledger.jobs.values()) if self._its_engine is None else 0
        if lacking:
            log.warning(
                "%s: results that are no JSON or more than 64 KiB are not in the ledger (jobs: %d); "
                "Session.batch(%r, collect=…).results() fetches them again", self.name, lacking, self.name,
            )  # fmt: skip
        return {key: self._result(job, missing) for key, job in self._ledger.jobs.items()}

    def _result(self, job: JobRecord, missing: Any) -> Any:
        if job.state is not JobState.SUCCEEDED or not job.collected or job.collect_error is not None:
            return missing
        engine = self._its_engine
        if job.kept:
            return job.result
        if engine is None:
            return missing
        try:
            return engine.result(job)
        except Exception as error:
            log.warning("%s: the result of %s is not available: %s", self.name, job.key, error)
            return missing

    def history(self, key: str | None = None) -> list[Happened]:
        """What happened to one job, or to all, oldest first, past runs included.

        Args:
            key: Which job; None for all.
        """
        return list(self._ledger.history(key))

    def explain(self) -> str:
        """What went wrong, by cause: how often, why, and what to do."""
        return explain.explain_batch(self._ledger.jobs.values())

    def report(self) -> Report:
        """Return the batch's report as of now: counts, failures by cause, times, resources.

        `print` and a notebook show it; `Report.to_html` writes it as a page.
        """
        identity, limits = self._ledger.identity, None if self._its_engine is None else self._its_engine.limits
        origin = report_page.Origin(platform=identity.platform, user=identity.user, created=self._ledger.created)
        page = _PageWriter(jobs=self.records, origin=origin, live=self.live)
        return Report.of(self.name, self.records, home=self.home, now=self._clock.now(), limits=limits, page=page)

    def to_rows(self) -> list[dict[str, Any]]:
        """One row for each job: key, fields, state, attempt, times, resources, results that are single values.

        `canfar_batch.views.tables` tells what each column is, and in which unit.
        """
        return tables.to_rows(self._ledger.jobs.values(), self.live)

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_rows` as CSV; the path."""
        return tables.to_csv(self._ledger.jobs.values(), path)

    def to_dataframe(self) -> pd.DataFrame:
        """`to_rows` as a pandas DataFrame; needs the extra `tables`.

        Raises:
            ExtraMissing: pandas is not installed.
        """
        return tables.to_dataframe(self._ledger.jobs.values())

    def to_table(self) -> Table:
        """`to_rows` as an astropy Table with units; needs the extra `tables`.

        Raises:
            ExtraMissing: astropy is not installed.
        """
        return tables.to_table(self._ledger.jobs.values())

    @property
    def live(self) -> Mapping[str, ContainerInfo]:
        """What the platform last said of running containers that it measures, by id; empty where none is driven here.

        `cores_in_use` and `ram_in_use` (GiB) are what each uses at that moment.
        """
        return {} if self._its_engine is None else self._its_engine.live

    def timeline(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draw every attempt from its launch to its end, and how many ran at once; needs the extra `plots`.

        Args:
            path: Where to save the drawing, in the format that its ending names; None saves nothing.

        Raises:
            ExtraMissing: matplotlib is not installed.
            HomeError: The file cannot be written.
        """
        drawing = timeline_mpl.figure(Timeline.of(self.records, self._clock.now()), name=self.name)
        if path is not None:
            with file_errors(Path(path)):
                drawing.savefig(path)
        return drawing

    def _repr_html_(self) -> str:
        return notebook.batch(self.report(), self.records, live=self.live)

    def preview(self, n: int = 3) -> str:
        """The exact commands, images and launch names of the next *n* jobs; nothing is sent."""
        waiting = [job for job in self._ledger.jobs.values() if job.state in (JobState.PLANNED, JobState.WAITING)]
        identity, parts = self._ledger.identity, []
        context = LaunchContext(batch=identity.name, token=identity.token)
        for job in waiting[:n]:
            name = context.launch_name(job)
            parts.append(explain.preview(job, launch_name=name))
        more = len(waiting) - len(parts)
        return "\n\n".join(parts) + (f"\n\n… and {more} more" if more > 0 else "")

    def __str__(self) -> str:
        return tables.overview(self._ledger.jobs.values())

    def __repr__(self) -> str:
        counted = ", ".join(f"{count} {state}" for state, count in self.counts.items())
        return f"<Batch {self.name}: {len(self)} jobs{f' ({counted})' if counted else ''}, {self.home}>"

    def _known(self, key: str) -> JobRecord:
        try:
            return self._ledger.jobs[key]
        except KeyError:
            raise JobNotFound(f"batch {self.name!r} has no job {key!r}") from None

    def _handle(self, record: JobRecord) -> Job:
        return Job(record, _FromBatch(self))

    # -- running --------------------------------------------------------------------------------------------------

    def run(
        self,
        progress: bool = True,
        timeout: float | None = None,
        *,
        takeover: bool = False,
        stop_alike: int | None = ALIKE,
    ) -> Report:
        """Launch, follow, retry and collect until every job is final.

        Ctrl-C detaches: the jobs run on, and running the script again goes on with them.

        Args:
            progress: Whether to show how it goes.
            timeout: Seconds to go on for at most; None for as long as it takes.
            takeover: Drive the batch even if another driver seems to: for those who know that it is gone.
            stop_alike: Launch no more once so many jobs failed alike and none succeeded; None never stops.

        Raises:
            Detached: Ctrl-C was pressed.
            WaitTimeout: The time is over; its `.report` tells how things stand. Also a `TimeoutError`.
            BatchPaused: The first jobs all failed alike.
            BatchBusy: Another driver runs this batch.
            SpecError: A job needs a `Secret` that is not set here.
            HomeError: The home cannot be written; nothing that was recorded is lost.
        """
        deadline = None if timeout is None else self._clock.ticks() + timeout
        try:
            self._read_secrets()
            engine = self._engine
            with engine.held(takeover=takeover):
                engine.resume(stop_alike=stop_alike)
                with Progress(self, shown=progress, use=lambda: explain.in_use(self.live.values())) as shown:
                    shown.say(self._opening())
                    self._new.clear()
                    for turn in engine.drive(deadline=deadline):
                        turn.shorten(shown.update())
                self._raise_unless(engine.is_done, timeout)
        except KeyboardInterrupt:
            raise Detached(f"detached from batch {self.name}: {self._fate()}. {self._how_to_resume()}") from None
        finally:
            self._engine.release()
        return self.report()

    def as_completed(self, timeout: float | None = None) -> Iterator[Job]:
        """Run the batch, and yield each job once, when it is final; those that are final already come first.

        Args:
            timeout: Seconds to go on for at most.

        Raises:
            WaitTimeout: The time is over; the jobs run on. Its `.report` tells how things stand.
            BatchPaused: The first jobs all failed alike.
            SpecError: A job needs a `Secret` that is not set here.
        """
        self._read_secrets()
        engine = self._engine
        deadline = None if timeout is None else self._clock.ticks() + timeout
        changed = dict.fromkeys(self._ledger.jobs)
        yielded: set[str] = set()

        def all_yielded() -> bool:
            return engine.is_done and yielded.issuperset(self._ledger.jobs)

        def fresh() -> Iterator[Job]:
            for key in list(changed):
                del changed[key]
                if key not in yielded and key in self and self._is_settled(key):
                    yielded.add(key)
                    yield self[key]

        try:
            with engine.held(), engine.subscribed(lambda event: changed.setdefault(event.key)):
                yield from fresh()
                for _ in engine.drive(all_yielded, deadline=deadline):
                    yield from fresh()
                self._raise_unless(engine.is_done, timeout)
        finally:
            engine.release()

    def step(self) -> float:
        """One turn of the loop, for scripts that hold it themselves: look, retry, launch, collect.

        Returns:
            Seconds until there is something to do again; sleep so long, or less.

        Raises:
            BatchPaused: The first jobs all failed alike; `run` or `retry_failed` goes on all the same.
        """
        engine = self._engine
        wait = engine.step()
        self._raise_if_stuck()
        return min(wait, _GLANCE) if engine.has_work_in_flight else wait  # a caller that sleeps drains nothing

    def observe(self) -> Mapping[JobState, int]:
        """Look at the platform now, whatever the monitor wished, and return the counts."""
        self._engine.observe()
        return self.counts

    def launch(self) -> int:
        """Let the launch strategy pick and send what it picks; how many launches were sent."""
        self._engine.acquire()
        self._raise_if_stuck()
        return self._engine.launch()

    def collect(self, keys: Iterable[str] | None = None) -> dict[str, Any]:
        """Fetch results, also again: of these jobs, or of all that succeeded and have none. By key.

        Args:
            keys: Which; None for all that succeeded and were not collected.

        Raises:
            PlanError: A job did not succeed, so it has no result.
        """
        with self._engine.held() as engine:
            chosen = self._uncollected() if keys is None else [self._known(key) for key in _several(keys)]
            for job in chosen:
                if job.state is not JobState.SUCCEEDED:
                    raise PlanError(f"job {job.key!r} is {job.state}, so it has no result")
            engine.collect(chosen)
        return {job.key: self._result(self._ledger.jobs[job.key], None) for job in chosen}

    def _uncollected(self) -> list[JobRecord]:
        return [job for job in self._ledger.jobs.values() if job.state is JobState.SUCCEEDED and not job.collected]

    def _raise_if_stuck(self) -> None:
        if self._engine.is_stuck:
            raise BatchPaused(
                f"{self._engine.paused}. Fix the cause, then retry_failed() and run() launch them again; run() alone "
                "goes on with the others",
                report=self.report(),
            )

    def _raise_unless(self, done: bool, timeout: float | None) -> None:
        """Say why driving ended before all was *done*."""
        self._raise_if_stuck()
        if not done:
            raise WaitTimeout(
                f"batch {self.name} is not done after {timeout:g} s; {self._fate()}. {self._how_to_resume()}",
                report=self.report(),
            )

    def _is_settled(self, key: str) -> bool:
        """Return whether the job is final and its result, if any, fetched."""
        job = self._ledger.jobs[key]
        return job.state.final and (job.collected or job.state is not JobState.SUCCEEDED)

    def _fate(self) -> str:
        """Return what happens to the jobs while no one drives."""
        if self.address == "local":  # this process started the platform, and takes it along
            return "its jobs end with this session, and the next run launches them again"
        return "its jobs run on"

    def _how_to_resume(self) -> str:
        return f"Run the same script again to go on; canfar_batch.open({self.name!r}) reads the batch meanwhile."

    def _read_secrets(self) -> None:
        _read_secrets(job.spec for job in self._ledger.jobs.values() if not job.state.final)

    def _opening(self) -> str:
        """Return what to say at the start: where the batch is, what is new, and what cannot be promised here."""
        known, new = len(self) - len(self._new), len(self._new)
        unasked = len(set(self._ledger.jobs) - self._asked) if self._asked else 0
        lines = [f"batch {self.name} in {self.home}: {known} jobs known, {new} new"]
        if unasked:
            lines[0] += f", {unasked} no longer asked for (they stay)"
        if (moved := self._moved()) is not None:
            lines.append(moved)
        if not self._engine.launch_context.shared:
            lines.append(
                "Containers do not see this directory, so receipts come back in logs alone: do not stay away longer "
                "than an hour after a job's end, or it counts as lost unseen."
            )
        if new and len(self) > MANY and self.address != "local":
            lines.append("CANFAR asks users to write to support@canfar.net before batches as large as this.")
        return "\n".join(lines)

    def _moved(self) -> str | None:
        """Return what to say if jobs run in another directory than this run."""
        stored, context = self._ledger.workdir, self._engine.launch_context
        if stored is None or stored == Path.cwd() or not context.shared:
            return None
        unfinished = (job.filled.workdir for job in self._ledger.jobs.values() if not job.state.final)
        if all(Path(own or "").is_absolute() for own in unfinished):
            return None
        if stored == context.workdir:
            return f"Jobs run in {stored}, in which the batch was made, not in the directory of this run."
        return f"{stored}, in which the batch was made, is gone: jobs run in {context.workdir}."

    @property
    def _engine(self) -> Engine:
        if self._its_engine is None:
            raise HomeError(f"batch {self.name} is open for reading; Session.batch({self.name!r}) opens it to be run")
        return self._its_engine

    def _refresh(self) -> None:
        if self._its_engine is not None and self._its_engine.is_driving:
            self._its_engine.step()
        elif not self._ledger.driving:
            self._ledger.reload()

    def _wait(self, seconds: float) -> None:
        if self._its_engine is not None and self._its_engine.is_driving:
            self._its_engine.wait(seconds)
        else:
            time.sleep(seconds)

    # -- acting ---------------------------------------------------------------------------------------------------

    def preflight(self, trial: bool = False) -> Preflight:
        """Look for what would go wrong, before anything is launched: image, resources, credential, files.

        Args:
            trial: Also run the first job, alone, and raise if it fails.

        Raises:
            SpecError: The platform does not offer what a job asks for.
            JobFailed: The trial job failed.
            BatchPaused: The batch is paused, for its first jobs all failed alike.
        """
        found = self._engine.preflight()
        for warning in found.warnings:
            log.warning("%s: %s", self.name, warning)
        if trial:
            self._try_first()
        return found

    def _try_first(self) -> None:
        first = next((job.key for job in self._ledger.jobs.values() if job.state is JobState.PLANNED), None)
        if first is None:
            return
        engine = self._engine
        with engine.held(), engine.only(first):
            for _ in engine.drive(lambda: self._is_settled(first)):
                pass
            self._raise_if_stuck()
        self[first].raise_if_failed()

    def retry_failed(self, keys: Iterable[str] | None = None, cause: str | None = None, **changes: Any) -> list[str]:
        """Open jobs again that failed or were lost; `run()` then launches them. Their keys.

        Args:
            keys: Only these; cancelled jobs are opened again only if named here.
            cause: Only those with this cause, as the report words it (`"out of memory"`) or by class (`"OutOfMemory"`).
            changes: New values for `cores`, `ram`, `gpus`, `timeout`, `pending_timeout` or `name`.

        Raises:
            SpecError: A change is no such value, or of what makes the job the one it is.
        """
        _check_changes(changes)
        engine = self._engine
        with engine.planning():
            chosen = self._failed(None if keys is None else _several(keys), cause)
            engine.record(self._reopenings(chosen, changes))
            if engine.is_driving:
                engine.resume()
        return [job.key for job in chosen]

    def _failed(self, keys: Iterable[str] | None, cause: str | None) -> list[JobRecord]:
        """Of the jobs named, those that may be opened again."""
        if keys is None:
            chosen = [job for job in self._ledger.jobs.values() if job.state in _LOSERS]
        else:
            chosen = [job for job in map(self._known, keys) if job.state in (*_LOSERS, JobState.CANCELLED)]
        if cause is None:
            return chosen
        return [job for job in chosen if job.failure is not None and cause in (job.failure.cause, job.failure.kind)]

    def _reopenings(self, chosen: Iterable[JobRecord], changes: Mapping[str, Any]) -> list[Event]:
        now, events = self._clock.now(), list[Event]()
        for job in chosen:
            events.append(Reopened(key=job.key, at=now))
            if changes:
                spec, name = attrs.evolve(job.spec, **changes), job.filled.name
                if "name" in changes:
                    name = spec.filled_name(job.fields, key=job.key, index=job.index)
                events.append(respecified(job, spec, name=name, at=now))
        return events

    def cancel(
        self, keys: Iterable[str] | None = None, *, wait: bool = True, timeout: float | None = None
    ) -> list[str]:
        """Stop these jobs, or all; what is not launched will not be. The keys of those that were not final.

        The wish is recorded first, so that it is carried out even if this process dies. Where another process drives
        the batch, that one carries it out.

        Args:
            keys: Which; None for all.
            wait: Whether to wait until the platform no longer shows them.
            timeout: Seconds to wait at most.

        Raises:
            WaitTimeout: The platform still shows one after *timeout* seconds, or could not be told within a minute; it
                is still being stopped.
        """
        if not self._ledger.driving:
            self._ledger.reload()
        named = self._ledger.jobs if keys is None else _several(keys)
        chosen = [key for key in named if not self._known(key).state.final]
        if not chosen:
            return []
        self._ledger.ask("cancel", chosen)
        try:
            if self._its_engine is not None:
                with self._its_engine.held():
                    self._see_stopped(chosen, wait=wait, timeout=timeout)
                return chosen
        except BatchBusy:
            pass
        log.info("%s: whoever drives the batch will stop %d jobs", self.name, len(chosen))
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
            raise WaitTimeout(f"batch {self.name}: some jobs are still being stopped after {patience:g} s{why}")


@attrs.frozen(kw_only=True)
class _PageWriter:
    """Writes a report as a page: the jobs as they were when the report was made."""

    jobs: Sequence[JobRecord]
    origin: report_page.Origin
    live: Mapping[str, ContainerInfo]

    def __call__(self, report: Report, path: Path) -> None:
        page = report_page.render(report, self.jobs, origin=self.origin, live=self.live)
        write_file(path, page.encode(errors="replace"))


@attrs.frozen
class _FromBatch:
    """The news of a batch's job: from its ledger and its home, and from the platform while it runs."""

    batch: Batch

    @property
    def platform(self) -> Platform | None:
        """The batch's platform, where it is connected."""
        return None if self.batch._its_engine is None else self.batch._its_engine.platform

    def refresh(self, record: JobRecord) -> JobRecord:
        """A turn of the loop where this process drives the batch; else what the ledger says by now."""
        self.batch._refresh()
        return self.batch._known(record.key)

    def log(self, record: JobRecord) -> bytes:
        """Return the saved log, else the platform's; empty if there is neither."""
        return newest_log(record, self.platform)

    def events(self, record: JobRecord) -> str:
        """Return the saved events, else the platform's; empty if there is neither."""
        return newest_events(record, self.batch._home, self.platform)

    def cancel(self, record: JobRecord, timeout: float) -> JobRecord:
        """Let the batch stop the job."""
        self.batch.cancel([record.key], timeout=timeout)
        return self.batch._known(record.key)

    def wait(self, seconds: float) -> None:
        """Let time pass, but not beyond the moment at which a thread brings something."""
        self.batch._wait(seconds)


def open(name: str, home: str | os.PathLike[str] | None = None) -> Batch:  # noqa: A001 (read as canfar_batch.open)
    """The batch *name*, to be read: offline, while another process drives it, or long after.

    ```python
    session.batch("fits").add(spec, key="fit-2", n=2)  # by another process, or yesterday

    batch = cb.open("fits")
    print(batch.explain())
    print(batch["fit-2"].logs())
    ```

    Args:
        name: The batch's name.
        home: The directory that holds its own; by default `CANFAR_BATCH_HOME`, else `batches` in the working directory.

    Raises:
        UnknownBatch: There is none.
    """
    return Batch.open(name, home)


def prepare(
    name: str,
    *,
    setup: Callable[[Home], Setup],
    address: str,
    home: str | os.PathLike[str] | None,
) -> Batch:
    """Open the batch *name* to be planned and run; make it if there is none.

    Args:
        name: The batch's name.
        setup: Makes the engine's setup for the batch's home.
        address: The platform's address, or `"local"`: batches are bound to it.
        home: As for `open`.

    Raises:
        HomeError: The home is in a place that is emptied, or cannot be written.
        LedgerError: The batch belongs to another platform or user.
    """
    place = Home.of(name, home)
    if address != "local":
        place.refuse_if_fleeting()
    made = setup(place)
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
    return Batch(place, ledger, clock=clock, engine=Engine(made, ledger))
