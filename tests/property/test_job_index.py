"""The indexes of a batch agree, after any history of events, with what a plain list of the jobs shows."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from canfar_batch import failures
from canfar_batch.engine.job_index import JobIndex
from canfar_batch.errors import TransitionError
from canfar_batch.lifecycle import (
    ALLOWED,
    Adopted,
    CancelAsked,
    Cancelled,
    Collected,
    Deferred,
    Ended,
    Intended,
    LateSuccess,
    Launched,
    PhaseChanged,
    Reopened,
    RetryExhausted,
    Retrying,
    apply,
    may_be_overturned,
)
from canfar_batch.records import JobRecord, JobState, Phase, Receipt, Resources
from canfar_batch.spec import JobSpec

NOON = datetime(2026, 11, 27, 12, tzinfo=timezone.utc)
SPEC = JobSpec("fit", image="skaha/astroml")
FAILURES = [failures.Lost(), failures.Killed(), failures.ExitCode(1), failures.Unwatched()]
EVENTS = [
    Adopted, CancelAsked, Cancelled, Collected, Deferred, Ended, Intended, Launched, LateSuccess, PhaseChanged,
    Reopened, RetryExhausted, Retrying,
]  # fmt: skip


class Histories(RuleBasedStateMachine):
    """Any events that are allowed, to any of a few jobs, some of them added and dropped on the way."""

    @initialize(count=st.integers(0, 4))
    def begin(self, count):
        self.now, self.names = NOON, 0
        self.jobs: dict[str, JobRecord] = {}
        for number in range(count):
            self.jobs[f"j{number}"] = JobRecord(key=f"j{number}", index=number, spec=SPEC, filled=SPEC.fill())
        self.index = JobIndex(self.jobs)

    @rule()
    def add(self):
        self.names += 1
        key = f"added{self.names}"
        place = max((job.index for job in self.jobs.values()), default=-1) + 1
        self.jobs[key] = JobRecord(key=key, index=place, spec=SPEC, filled=SPEC.fill())
        self.index.update(None, self.jobs[key])

    @rule(data=st.data())
    def drop(self, data):
        unlaunched = [key for key, job in self.jobs.items() if job.state is JobState.PLANNED and not job.attempts]
        if unlaunched:
            job = self.jobs.pop(data.draw(st.sampled_from(unlaunched)))
            self.index.forget(job)

    @rule(data=st.data(), kind=st.sampled_from(EVENTS))
    def happen(self, data, kind):
        fitting = [key for key, job in self.jobs.items() if job.state in ALLOWED[kind]]
        if not fitting:
            return
        key = data.draw(st.sampled_from(sorted(fitting)))
        before = self.jobs[key]
        try:
            after = apply(before, self.event(kind, key, data))
        except TransitionError:
            return
        self.jobs[key] = after
        self.index.update(before, after)

    @rule(seconds=st.integers(1, 600))
    def wait(self, seconds):
        self.now += timedelta(seconds=seconds)

    def event(self, kind, key, data):
        self.names += 1
        due = self.now + timedelta(seconds=data.draw(st.integers(0, 600)))
        succeeded = data.draw(st.booleans())
        usual = {
            Intended: {"launch_name": f"n{self.names}", "resources": Resources()},
            Launched: {"id": f"id{self.names}"},
            Adopted: {"id": f"id{self.names}"},
            Deferred: {"due": due, "why": "not now"},
            PhaseChanged: {"phase": data.draw(st.sampled_from([Phase.PENDING, Phase.RUNNING]))},
            Ended: {"succeeded": succeeded, "failure": None if succeeded else data.draw(st.sampled_from(FAILURES))},
            Retrying: {"due": due, "resources": Resources()},
            LateSuccess: {"receipt": Receipt(exit_code=0)},
        }
        return kind(key=key, at=self.now, **usual.get(kind, {}))

    @invariant()
    def agrees_with_a_plain_list(self):
        if not hasattr(self, "index"):
            return
        jobs, index = list(self.jobs.values()), self.index
        assert {state: count for state, count in index.counts.items() if count} == {
            state: sum(job.state is state for job in jobs) for state in {job.state for job in jobs}
        }
        assert index.unfinished == sum(not job.state.final for job in jobs)
        assert set(index.active) == {job.key for job in jobs if job.state.active}
        assert set(index.undecided) == {job.key for job in jobs if job.state is JobState.WAITING and job.due is None}
        assert set(index.uncollected) == {
            job.key for job in jobs if job.state is JobState.SUCCEEDED and not job.collected
        }
        final_badly = (JobState.LOST, JobState.FAILED, JobState.CANCELLED)
        assert set(index.overturnable) == {
            job.key for job in jobs if job.state in final_badly and may_be_overturned(job)
        }
        for job in jobs:
            for attempt in job.attempts:
                assert index.by_name[attempt.launch_name] == (job.key, attempt.number)
        ready = [
            job.key
            for job in sorted(jobs, key=lambda job: job.index)
            if job.state in (JobState.PLANNED, JobState.WAITING)
            and (job.state is JobState.PLANNED or job.due is not None)
            and (job.due is None or job.due <= self.now)
        ]
        assert [job.key for job in index.ready(self.now)] == ready
        assert [job.key for job in index.ready(self.now)] == ready, "looking does not change it"
        assert [job.key for job in jobs if index.is_ready(job.key, self.now)] == [
            job.key for job in jobs if job.key in ready
        ]
        later = [
            job.due
            for job in jobs
            if job.due is not None and job.due > self.now and job.state in (JobState.PLANNED, JobState.WAITING)
        ]
        assert index.next_due(self.now) == min(later, default=None)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
