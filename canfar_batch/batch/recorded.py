"""The records of a batch, for reading: its jobs, results, history, tables and report."""

from __future__ import annotations

import abc
import contextlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import attrs

from canfar_batch.batch.turns import Turns
from canfar_batch.engine import Engine
from canfar_batch.errors import CollectError, RemoteTraceback, UnknownJob
from canfar_batch.failures import Raised
from canfar_batch.job import Job
from canfar_batch.payload.calls import Outcome
from canfar_batch.planning.estimate import estimate_cost
from canfar_batch.planning.gone import SeenFiles
from canfar_batch.planning.jobs import launch_name
from canfar_batch.protocols import Clock
from canfar_batch.records import GIVEN_UP, ContainerInfo, JobRecord, JobState
from canfar_batch.store.files import file_errors, write_file
from canfar_batch.store.home import Home
from canfar_batch.store.ledger import Happened, Ledger
from canfar_batch.store.log_files import end_of_log
from canfar_batch.text import Shown, did_you_mean
from canfar_batch.views import explain, messages, notebook, report_page, tables, timeline_mpl
from canfar_batch.views.report import Report
from canfar_batch.views.timeline import Timeline

if TYPE_CHECKING:
    import pandas as pd
    from astropy.table import Table
    from matplotlib.figure import Figure

log = logging.getLogger("canfar_batch")

_COMPARED_KEYS = 5000  #: keys that an unknown one is compared with


class RecordedBatch(abc.ABC):
    """A batch as its home records it, for reading: a mapping of jobs, with results, history, tables and a report."""

    def __init__(self, home: Home, ledger: Ledger, *, clock: Clock, engine: Engine | None) -> None:
        self._home, self._ledger, self._clock = home, ledger, clock
        self._its_engine = engine  # None if the batch is open for reading
        self._turns = Turns(ledger.identity.name)
        self._created = ledger.created

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
    def driven_by(self) -> str | None:
        """The process that drives the batch now, such as `"process 7 on host"`; None if there is none."""
        with self._reader() as ledger:
            lease = ledger.lease()
        if lease is None or lease.left <= 0 or lease.holder.provably_gone():
            return None
        return f"process {lease.holder.pid} on {lease.holder.host}"

    # -- a mapping of jobs ----------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._ledger.jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(self.jobs)

    def __contains__(self, key: object) -> bool:
        return key in self._ledger.jobs

    @overload
    def __getitem__(self, key: str) -> Job: ...
    @overload
    def __getitem__(self, key: slice) -> list[Job]: ...
    def __getitem__(self, key: str | slice) -> Job | list[Job]:
        if isinstance(key, slice):
            return [self._handle(record) for record in self.records[key]]
        return self._handle(self._known(key))

    def get(self, key: str, default: Any = None) -> Any:
        """Return the job with this key; *default* if there is none."""
        record = self._ledger.jobs.get(key)
        return default if record is None else self._handle(record)

    def keys(self) -> list[str]:
        """Return every job's key, in plan order."""
        return [record.key for record in self.records]

    def _ipython_key_completions_(self) -> list[str]:
        return self.keys()

    @property
    def records(self) -> list[JobRecord]:
        """Every job's record, in plan order."""
        with self._between_steps():
            return list(self._ledger.jobs.values())

    @property
    def _snapshot(self) -> Sequence[JobRecord]:
        """Every job's record, in plan order; records are made when they are asked for, and not kept."""
        with self._between_steps():
            return self._ledger.jobs.snapshot()

    @property
    def jobs(self) -> list[Job]:
        """Every job, in plan order."""
        return [self._handle(record) for record in self.records]

    @property
    def counts(self) -> Mapping[JobState, int]:
        """The number of jobs in each state; states without jobs are left out."""
        with self._between_steps():
            counts = self._its_engine.counts if self._its_engine else None
            counted = Counter(job.state for job in self.records) if counts is None else counts
            return {state: counted[state] for state in JobState if counted[state]}

    @property
    def succeeded(self) -> list[Job]:
        """The jobs that succeeded, in plan order."""
        return [self._handle(record) for record in self.records if record.state is JobState.SUCCEEDED]

    @property
    def failed(self) -> list[Job]:
        """The jobs that failed for good or were lost, in plan order."""
        return [self._handle(record) for record in self.records if record.state in GIVEN_UP]

    @property
    def done(self) -> bool:
        """True once every job is final and every result fetched."""
        with self._between_steps():
            if self._its_engine is not None and self._its_engine.is_driving:
                return self._its_engine.is_done
            return all(job.state.final for job in self.records)

    # -- results and history --------------------------------------------------------------------------------------

    def results(self, missing: Any = None) -> dict[str, Any]:
        """Return what the collector fetched for every job, by key, in plan order.

        Args:
            missing: The value for jobs that did not succeed, or whose result is not available. The ledger stores no
                result that is larger than 64 KiB or not JSON; without a connection, such a result is not available.
                It also takes the place of paths of files that no longer exist, with a warning.
        """
        self._catch_up()
        records = self.records
        lacking = (
            sum(not job.stored and job.spec.function is None for job in records) if self._its_engine is None else 0
        )
        if lacking:
            log.warning(
                "%s: results that are not JSON or are larger than 64 KiB are not in the ledger (jobs: %d); "
                "session.batch(%r, collect=…).results() fetches them again", self.name, lacking, self.name,
            )  # fmt: skip
        files, gone = self._seen_files(), dict[str, Path]()
        results = {}
        for job in records:
            results[job.key], lost = files.without_gone(job, self._result(job, missing), missing)
            if lost is not None:
                gone[job.key] = lost
        if gone:
            log.warning("%s: %s", self.name, messages.gone_results(len(gone), next(iter(gone.values()))))
        return results

    def _seen_files(self) -> SeenFiles:
        if self._its_engine is not None:
            return self._its_engine.seen_files()
        return SeenFiles(home=self.home, workdir=self._ledger.workdir or Path.cwd())

    def _result(self, job: JobRecord, missing: Any) -> Any:
        if job.state is not JobState.SUCCEEDED or not job.collected:
            return missing
        if job.collect_error is not None:
            return missing if job.result is None else job.result  # what the collectors that did not fail returned
        engine = self._its_engine
        if job.stored:
            return job.result
        outcome = self._outcome(job) if engine is None else None
        if engine is None and outcome is None:
            return missing
        try:
            return engine.result(job) if engine is not None else outcome and outcome.value()
        except Exception as error:
            log.warning("%s: the result of %s is not available: %s", self.name, job.key, error)
            return missing

    def history(self, key: str | None = None) -> list[Happened]:
        """Return what happened to one job, or to all, oldest first, past runs included.

        Args:
            key: The key of the job; None for all.
        """
        with self._reader() as ledger:
            return list(ledger.history(key))

    def explain(self) -> str:
        """Return what went wrong, by cause: how often, why, and what to do."""
        self._catch_up()
        return Shown(explain.explain_batch(self.records))

    def report(self) -> Report:
        """Return the batch's report as of now: counts, failures by cause, times, resources.

        `print` and a notebook show it; `Report.to_html` writes it as a page.
        """
        self._catch_up()
        identity, limits = self._ledger.identity, None if self._its_engine is None else self._its_engine.limits
        origin = report_page.Provenance(platform=identity.platform, user=identity.user, created=self._created)
        records = self._snapshot
        page = _PageWriter(jobs=records, origin=origin, live=self.live)
        is_driving = self._its_engine is not None and self._its_engine.is_driving
        gone = {} if is_driving else self._seen_files().gone_outputs(records)
        return Report.of(
            self.name, records, home=self.home, now=self._clock.now(), limits=limits, gone=gone, page=page,
            exception=partial(self._first_exception, records),
        )  # fmt: skip

    def _first_exception(self, records: Iterable[JobRecord]) -> BaseException | None:
        """Return the exception of the first job whose function raised one."""
        failed = (job for job in records if job.state in GIVEN_UP and isinstance(job.failure, Raised))
        return next((error for error in map(self._exception, failed) if error is not None), None)

    def _exception(self, job: JobRecord) -> BaseException | None:
        """Return what the job's function raised in its newest attempt, with its traceback as the cause."""
        outcome, failure = self._outcome(job), job.failure
        if outcome is None or outcome.returned or not isinstance(failure, Raised):
            return None
        try:
            error = outcome.value()
        except CollectError:
            return None  # the failure's message has its text
        if not isinstance(error, BaseException):
            return None
        error.__cause__ = RemoteTraceback(outcome.traceback)
        return error

    def _outcome(self, job: JobRecord) -> Outcome | None:
        attempt = job.last_attempt
        if job.spec.function is None or attempt is None:
            return None
        return Outcome.in_file(self._home.result(job.key, attempt.number), attempt.run_name)

    # -- tables and drawings --------------------------------------------------------------------------------------

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one row for each job: key, fields, state, attempt, times, resources, results that are single values.

        `canfar_batch.views.tables` describes the columns and their units.
        """
        self._catch_up()
        return tables.to_rows(self.records, self.live)

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_rows` as CSV, and return the path.

        Raises:
            HomeError: The file cannot be written. Also an `OSError`.
        """
        self._catch_up()
        target = Path(path)
        with file_errors(target), target.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            file.write(tables.to_csv(self.records))
        return target

    def to_dataframe(self) -> pd.DataFrame:
        """Return `to_rows` as a pandas DataFrame; needs the extra `tables`.

        Raises:
            ExtraMissing: pandas is not installed.
        """
        self._catch_up()
        return tables.to_dataframe(self.records)

    def to_table(self) -> Table:
        """Return `to_rows` as an astropy Table with units; needs the extra `tables`.

        Raises:
            ExtraMissing: astropy is not installed.
        """
        self._catch_up()
        return tables.to_table(self.records)

    @property
    def live(self) -> Mapping[str, ContainerInfo]:
        """The running containers that the platform measures, by id, as of the newest poll; empty while not driving.

        `cores_in_use` and `ram_in_use` (GiB) are what each uses at that moment.
        """
        return {} if self._its_engine is None else self._its_engine.live

    def timeline(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draw every attempt from its launch to its end, and how many ran at once; needs the extra `plots`.

        Args:
            path: Where to save the drawing, in the format that its suffix names; None saves nothing.

        Raises:
            ExtraMissing: matplotlib is not installed.
            HomeError: The file cannot be written.
        """
        self._catch_up()
        drawing = timeline_mpl.figure(Timeline.of(self.records, self._clock.now()), name=self.name)
        if path is not None:
            with file_errors(Path(path)):
                drawing.savefig(path)
        return drawing

    def _repr_html_(self) -> str:
        return notebook.batch(self.report(), self._snapshot, live=self.live)

    def preview(self, n: int = 3, *, seconds: float | None = None) -> str:
        """Return the exact commands, images and launch names of the next *n* jobs, and an estimate; send nothing.

        Args:
            n: The number of jobs to show.
            seconds: Seconds that each job is assumed to run, for the core-hours; by default the median so far.
        """
        self._catch_up()
        records = self.records
        waiting = [job for job in records if job.state in (JobState.PLANNED, JobState.WAITING)]
        identity = self._ledger.identity
        parts = [
            explain.preview(job, launch_name=launch_name(job, batch=identity.name, token=identity.token))
            for job in waiting[:n]
        ]
        more = len(waiting) - len(parts)
        if more > 0:
            parts.append(f"... and {more} more")
        if waiting:
            cost = (
                self._its_engine.estimate(seconds=seconds)
                if self._its_engine
                else estimate_cost(records, seconds=seconds)
            )
            parts.append(str(cost))
        return Shown("\n\n".join(parts))

    def __str__(self) -> str:
        return tables.overview(self.records, now=self._clock.now())

    def __repr__(self) -> str:
        counted = ", ".join(f"{count} {state}" for state, count in self.counts.items())
        return f"<Batch {self.name}: {len(self)} jobs{f' ({counted})' if counted else ''}, {self.home}>"

    # -- reading while others write -------------------------------------------------------------------------------

    def _known(self, key: str) -> JobRecord:
        try:
            return self._ledger.jobs[key]
        except (KeyError, TypeError):
            raise UnknownJob(f"batch {self.name!r} has no job {key!r}{self._near(key)}") from None

    def _near(self, key: object) -> str:
        if not isinstance(key, str):
            return "; keys are texts, and batch.jobs is a list"
        keys = list(islice(self._ledger.jobs, _COMPARED_KEYS))
        parts = [known for known in keys if key and key.casefold() in known.casefold()]
        near = did_you_mean(key, parts[:3] or keys, at_most=3, cutoff=0.0 if parts else 0.6, shown=repr)
        return f"; {near or 'batch.keys() lists those that it has'}"

    @abc.abstractmethod
    def _handle(self, record: JobRecord) -> Job:
        """Return the job with this record, connected to the batch."""

    @contextlib.contextmanager
    def _between_steps(self) -> Iterator[None]:
        """Read inside while no step of `start` changes anything."""
        if self._turns.is_shared:
            with self._turns.turn("reading"):
                yield
        else:
            yield

    def _catch_up(self) -> None:
        """Read what another driver has recorded meanwhile, unless this process drives."""
        with self._turns.turn_if_free("reading", nested=True) as is_free:
            if is_free and self._ledger.is_open and not self._ledger.driving:
                self._ledger.reload()

    @contextlib.contextmanager
    def _reader(self) -> Iterator[Ledger]:
        """Lend the ledger for a query; while another thread uses it, a second connection."""
        with self._turns.turn_if_free("reading", nested=True) as is_free:
            if is_free:
                yield self._ledger
                return
        with contextlib.closing(Ledger.open(self._home, clock=self._clock, writable=False)) as ledger:
            yield ledger


@attrs.frozen(kw_only=True)
class _PageWriter:
    """Writes a report as a page: the jobs as they were when the report was made."""

    jobs: Sequence[JobRecord]
    origin: report_page.Provenance
    live: Mapping[str, ContainerInfo]

    def __call__(self, report: Report, path: Path) -> None:
        files = (cause.log for cause in (*report.failures, *report.not_collected) if cause.log is not None)
        logs = {file: end_of_log(file, report_page.LOG_LINES) for file in files}
        # the page needs each record several times
        page = report_page.render(report, list(self.jobs), origin=self.origin, live=self.live, logs=logs)
        write_file(path, page.encode(errors="replace"))
