"""How a batch is planned, and how one thread of one `Batch` at a time changes it."""

from __future__ import annotations

import abc
import contextlib
import logging
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from canfar_batch.batch.recorded import RecordedBatch
from canfar_batch.engine import Engine
from canfar_batch.errors import BatchBusy, PlanError, ReadOnlyBatch, SpecChanged
from canfar_batch.functions import Function
from canfar_batch.job import Job
from canfar_batch.planning.compare import Plan, changed_identity, compared
from canfar_batch.planning.jobs import check_spec
from canfar_batch.planning.naming import FieldIndex
from canfar_batch.planning.outputs import OutputClaims
from canfar_batch.planning.rows import (
    REPLICA_KEY,
    Row,
    rows_of_columns,
    rows_of_grid,
    rows_of_replicas,
    rows_of_table,
)
from canfar_batch.protocols import Clock, files_read
from canfar_batch.records import JobRecord, JobState
from canfar_batch.spec import JobSpec
from canfar_batch.store.files import make_folder, write_file
from canfar_batch.store.home import Home
from canfar_batch.store.ledger import Ledger

log = logging.getLogger("canfar_batch")

#: the batches of this process that may drive, so that one that is opened again takes over from the one before
opened: weakref.WeakSet[PlannedBatch] = weakref.WeakSet()


def read_secrets(specs: Iterable[JobSpec]) -> None:
    """Read the secrets that these specs name, so that one that is not set is noticed before anything depends on it."""
    for secret in {secret for spec in specs for secret in spec.secrets}:
        secret.read()


def several(keys: str | Iterable[str]) -> list[str]:
    """Return the keys as a list without duplicates; a text is one key."""
    return [keys] if isinstance(keys, str) else list(dict.fromkeys(keys))


class PlannedBatch(RecordedBatch):
    """A recorded batch whose plan can be changed, if it is not open for reading alone."""

    def __init__(self, home: Home, ledger: Ledger, *, clock: Clock, engine: Engine | None) -> None:
        super().__init__(home, ledger, clock=clock, engine=engine)
        self._asked: set[str] = set()  # keys that this process planned
        self._defined: set[str] = set()  # those planned since the batch was last driven
        self._claims = OutputClaims(reads=self._files_read)  # the outputs that planned jobs write
        self._index = FieldIndex()  # the keys of the known jobs by their fields
        self._new: set[str] = set()  # of these, those that the ledger did not have, until a run has reported them
        self._reopened: set[str] = set()  # of these, those that got another command, until a run has reported them
        if engine is not None:
            opened.add(self)

    def _forget(self) -> None:
        """Give up the right to drive this batch."""
        opened.discard(self)

    @abc.abstractmethod
    def stop(self) -> None:
        """End driving in the background."""

    # -- planning -------------------------------------------------------------------------------------------------

    def add(self, spec: JobSpec | Function, /, key: str | None = None, **fields: Any) -> Job:
        """Plan one job, and return it.

        Args:
            spec: What to run: a `JobSpec`, or a `Function`.
            key: Its name in this batch, or a template for it; by default made of the fields.
            fields: The values that the spec's templates are filled with.

        Raises:
            SpecError: A field is unknown, missing or cannot be filled in.
            SpecChanged: The batch has this key with another command, and the job is active or succeeded.
            ReadOnlyBatch: The batch is open for reading.
        """
        return self[self._plan(spec, [fields], key)[0]]

    def map(
        self, spec: JobSpec | Function, /, key: str | None = None, *, allow_empty: bool = False, **columns: Any
    ) -> list[str]:
        """Plan one job for each row of the columns, and return the keys in plan order; scalars repeat.

        Args:
            spec: What to run: a `JobSpec`, or a `Function`.
            key: A template for the keys, such as `"{path.stem}"`; by default they are made of the fields.
            allow_empty: Whether empty columns are allowed.
            columns: The values of each field: lists, arrays, columns of tables, generators.

        Raises:
            PlanError: The columns differ in length, or are empty.
            SpecError: A value cannot be filled in.
            SpecChanged: The batch has a key with another command, and the job is active or succeeded.
        """
        return self._plan_all(spec, rows_of_columns(columns), key, allow_empty)

    def grid(
        self, spec: JobSpec | Function, /, key: str | None = None, *, allow_empty: bool = False, **axes: Any
    ) -> list[str]:
        """Plan one job for each combination of the axes' values, the last axis running fastest, and return the keys.

        Args:
            spec: What to run: a `JobSpec`, or a `Function`.
            key: A template for the keys, such as `"{sigma}-{method}"`; by default they are made of the fields.
            allow_empty: Whether an axis without any value is allowed.
            axes: The values of each field: lists, arrays, ranges, generators; a scalar is one value.

        Raises:
            PlanError: There is no axis, or nothing to combine.
            SpecError: A value cannot be filled in.
            SpecChanged: The batch has a key with another command, and the job is active or succeeded.
        """
        return self._plan_all(spec, rows_of_grid(axes), key, allow_empty)

    def rows(
        self, spec: JobSpec | Function, table: Any, key: str | None = None, *, allow_empty: bool = False
    ) -> list[str]:
        """Plan one job for each row of a list of dicts, a pandas DataFrame or an astropy Table, and return the keys.

        Args:
            spec: What to run: a `JobSpec`, or a `Function`.
            table: The rows; its columns are the fields.
            key: A template for the keys, such as `"{object}"`; by default they are made of the fields.
            allow_empty: Whether a table without any row is allowed.

        Raises:
            PlanError: *table* has another type, or is empty.
            SpecError: A value cannot be filled in; masked values and NaN never can.
            SpecChanged: The batch has a key with another command, and the job is active or succeeded.
        """
        return self._plan_all(spec, rows_of_table(table), key, allow_empty)

    def replicas(self, spec: JobSpec, n: int) -> list[str]:
        """Plan *n* jobs that differ only in their environment, and return the keys.

        `REPLICA_ID` goes from 1 to n, `REPLICA_COUNT` is n; `{replica}` and `{replicas}` are the same two numbers in
        the spec's templates.

        Raises:
            PlanError: *n* is not a positive whole number.
        """
        check_spec(spec)
        counted, rows = rows_of_replicas(spec, n)
        return self._plan(counted, rows, REPLICA_KEY)

    def drop(self, keys: str | Iterable[str]) -> None:
        """Remove jobs that were never launched from the plan.

        Args:
            keys: The keys of the jobs.

        Raises:
            UnknownJob: The batch has no such job.
            PlanError: One was launched: cancel it instead.
        """
        named = several(keys)
        with self._planning("drop()") as engine:
            chosen = [self._known(key) for key in named]
            launched = [job.key for job in chosen if job.attempts or job.state is not JobState.PLANNED]
            if launched:
                raise PlanError(f"{launched[0]!r} was launched, so it stays in the batch; cancel() stops it")
            engine.drop(chosen)

    def _plan_all(self, spec: JobSpec | Function, rows: list[Row], key: str | None, allow_empty: bool) -> list[str]:
        if not rows and not allow_empty:
            raise PlanError("there is nothing to do: the columns are empty. If they may be, pass allow_empty=True")
        return self._plan(spec, rows, key)

    def _plan(self, spec: JobSpec | Function, rows: Sequence[Row], key: str | None) -> list[str]:
        """Compare the wanted jobs with the known ones; nothing is written unless all of them fit."""
        if isinstance(spec, Function):
            assert self._engine is not None  # a batch that is open for reading says so before files are written
            make_folder(self._home.functions)
            calls = spec.rows(rows, self._home.functions, write_file)
            return self._plan(spec.spec, calls, key)
        with self._turns.turn("planning jobs"):  # so that the known jobs do not change between comparing and writing
            version, plan = self._ledger.version, self._compared(spec, rows, key)
            if plan.fresh or plan.changes:  # planning the same jobs again needs no lease: run() may yet take it over
                if plan.fresh:
                    read_secrets([spec])
                with self._planning("planning jobs") as engine:
                    if self._ledger.version != version:  # another process has written meanwhile
                        plan = self._compared(spec, rows, key)
                    self._refuse_second_definition(plan.fresh)
                    engine.apply(plan)
            self._asked.update(plan.keys)
            self._defined.update(plan.keys)
            self._new.update(job.key for job in plan.fresh if job.key not in plan.reopened)
            self._reopened.update(plan.reopened)
            return plan.keys

    def _refuse_second_definition(self, fresh: Iterable[JobRecord]) -> None:
        """Refuse to define a key twice in one run; an edited script or cell may define it differently from the last."""
        for wanted in fresh:
            known = self._ledger.jobs.get(wanted.key)
            if known is not None and known.key in self._defined:
                raise SpecChanged(
                    f"job {known.key!r} was planned a moment ago as another job: "
                    f"{changed_identity(known, wanted)}. Give one of them another key, such as "
                    'key="second-{key}"; to replace it, drop() it first'
                )

    def _compared(self, spec: JobSpec, rows: Sequence[Row], key: str | None) -> Plan:
        has_files = bool(getattr(spec, "outputs", ())) or hasattr(self._engine.setup.strategies.collect, "reads")
        return compared(
            spec, rows, key=key, find=self._ledger.find, next_place=self._ledger.next_place, at=self._clock.now(),
            asked=len(self._asked), known=self._ledger.jobs.values(),
            claims=(lambda: self._claims.updated(self._ledger.jobs)) if has_files else None,
            index=self._index.updated(self._ledger.jobs),
        )  # fmt: skip

    def _files_read(self, job: JobRecord) -> tuple[str, ...]:
        """Return the files in which the collector finds the result of *job*."""
        return () if self._its_engine is None else files_read(self._its_engine.setup.strategies.collect, job)

    def _refuse_shared_results(self) -> None:
        """Refuse a collector that may find one file for two jobs: it may be another one than when they were planned.

        Raises:
            PlanError: The message names both jobs.
        """
        if not hasattr(self._engine.setup.strategies.collect, "reads"):
            return
        jobs = [job for job in self.records if not job.state.final or job.state is JobState.SUCCEEDED]
        if any(not job.collected and self._files_read(job) for job in jobs):
            OutputClaims(reads=self._files_read).check(jobs)

    # -- one thread, one batch ------------------------------------------------------------------------------------

    @property
    def _engine(self) -> Engine:
        if self._its_engine is None:
            raise ReadOnlyBatch(
                f"batch {self.name} is open for reading; session.batch({self.name!r}) opens it for running"
            )
        return self._its_engine

    @contextlib.contextmanager
    def _turn(self, call: str) -> Iterator[Engine]:
        """Use the engine in this thread; no other thread, and no other `Batch` of this process, uses it meanwhile.

        Raises:
            BatchBusy: Another thread uses the batch.
            ReadOnlyBatch: The batch is open for reading.
        """
        engine = self._engine
        with self._turns.turn(call):
            for other in list(opened):
                if other is not self and other._home == self._home and other._ledger.driving:
                    other._hand_over(call)
            yield engine

    @contextlib.contextmanager
    def _planning(self, call: str) -> Iterator[Engine]:
        """Change the plan inside."""
        with self._turn(call) as engine, engine.planning():
            yield engine

    def _hand_over(self, call: str) -> None:
        """Stop driving, since this process opened the batch again: a notebook's cell was run twice, say."""
        self.stop()
        with self._turns.turn_if_free("handing over") as is_free:
            if not is_free:
                raise BatchBusy(
                    f"batch {self.name} is in use by {self._turns.doing}, through another Batch of this process, so "
                    f"{call} cannot begin: wait for that call to return"
                )
            log.info("%s: driven by the Batch that was opened last in this process", self.name)
            self._engine.release()
