"""What holds for every history of a job, likely or not."""

from datetime import datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from canfar_batch import failures
from canfar_batch.engine.cluster_events import Events, Note
from canfar_batch.engine.verdict import Evidence, classify
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
    NotCollected,
    PhaseChanged,
    Reopened,
    Respecified,
    RetryExhausted,
    Retrying,
    StopDecided,
    apply,
)
from canfar_batch.records import FINAL, JobRecord, JobState, Phase, Receipt, Resources
from canfar_batch.spec import JobSpec

AT = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
SPEC = JobSpec("fit", image="skaha/astroml")
PLANNED = JobRecord(key="a", index=0, spec=SPEC, filled=SPEC.fill(key="a"))

#: the only ways out of a final state: the user's wish, and proof that a verdict rested on absence alone
OUT_OF_FINAL = (Reopened, Adopted, LateSuccess)
STAYS = (Collected, NotCollected, Respecified)

moments = st.integers(0, 10_000).map(lambda seconds: AT + timedelta(seconds=seconds))
resources = st.builds(Resources, ram=st.sampled_from([None, 1, 2, 4]))
causes = st.one_of(
    st.builds(failures.ExitCode, st.integers(1, 255)),
    st.sampled_from([kind() for kind in failures.KINDS.values() if not issubclass(kind, failures.ExitCode)]),
)
receipts = st.builds(
    Receipt,
    exit_code=st.none() | st.sampled_from([0, 1, 96, 126, 127, 137, 143]),
    started_at=st.none() | moments,
    finished_at=st.none() | moments,
    oom_kills=st.none() | st.integers(0, 2),
    timed_out=st.booleans(),
    stopped_by=st.none() | st.just("TERM"),
    missing=st.sampled_from([(), ("a.fits",)]),
    trouble=st.none() | st.sampled_from(["workdir", "no-sleep"]),
)
ids = st.text("abcdefgh01234567", min_size=8, max_size=8)


def events_of(kind, **fields):
    return st.builds(kind, key=st.just("a"), at=moments, **fields)


ends = events_of(Ended, succeeded=st.just(True), verified=st.booleans(), receipt=st.none() | receipts) | events_of(
    Ended, succeeded=st.just(False), failure=causes, receipt=st.none() | receipts
)
EVENTS = {
    Intended: events_of(Intended, launch_name=ids, resources=resources),
    Launched: events_of(Launched, id=ids),
    Adopted: events_of(Adopted, id=ids),
    Deferred: events_of(Deferred, due=moments, why=st.just("not now")),
    PhaseChanged: events_of(
        PhaseChanged, phase=st.sampled_from([Phase.PENDING, Phase.RUNNING]), started_at=st.none() | moments
    ),
    Ended: ends,
    Retrying: events_of(Retrying, due=moments, resources=resources),
    RetryExhausted: events_of(RetryExhausted),
    StopDecided: events_of(StopDecided, failure=causes),
    CancelAsked: events_of(CancelAsked),
    Cancelled: events_of(Cancelled, receipt=st.none() | receipts),
    LateSuccess: events_of(LateSuccess, receipt=receipts),
    Collected: events_of(Collected, result=st.integers()),
    NotCollected: events_of(NotCollected, why=st.just("no file")),
    Reopened: events_of(Reopened),
    Respecified: events_of(Respecified, spec=st.just(SPEC), resources=resources),
}
KINDS = list(EVENTS)
FITTING = {state: [kind for kind in KINDS if state in ALLOWED[kind]] for state in JobState}


@st.composite
def histories(draw):
    """Events as they may come. Nine of ten may happen in the state of the job, for random ones lead nowhere."""
    job, history = PLANNED, []
    for luck in draw(st.lists(st.integers(0, 9), max_size=15)):
        event = draw(EVENTS[draw(st.sampled_from(FITTING[job.state] if luck else KINDS))])
        before, job = job, apply_or_none(job, event)
        history.append((before, event, job))
        job = job or before
    return history


def apply_or_none(job, event):
    try:
        return apply(job, event)
    except TransitionError:
        return None


def happened(history):
    return [step for step in history if step[2] is not None]


@given(histories())
def test_attempts_are_numbered_and_only_the_newest_may_be_running(history):
    for _, _, job in happened(history):
        assert [attempt.number for attempt in job.attempts] == list(range(1, len(job.attempts) + 1))
        assert all(attempt.ended for attempt in job.attempts[:-1])
        assert job.state.active is (bool(job.attempts) and not job.attempts[-1].ended)


@given(histories())
def test_a_final_state_is_left_only_by_the_user_or_by_proof(history):
    for before, event, job in happened(history):
        if before.state is JobState.SUCCEEDED:
            assert isinstance(event, (*STAYS, Reopened))
        elif before.state in FINAL and job.state is not before.state:
            assert isinstance(event, OUT_OF_FINAL)


@given(histories())
def test_the_newest_attempt_decides_success_or_failure(history):
    for _, _, job in happened(history):
        if job.state is JobState.SUCCEEDED:
            assert job.attempts[-1].succeeded
            assert job.failure is None
        if job.state in (JobState.FAILED, JobState.LOST):
            assert job.attempts[-1].succeeded is False
            assert job.failure is not None
        if job.state is JobState.PLANNED:
            assert not job.attempts


@given(histories())
def test_earlier_attempts_do_not_change(history):
    for before, _, job in happened(history):
        known = max(0, len(before.attempts) - 1)
        assert job.attempts[:known] == before.attempts[:known]
        assert (job.key, job.index) == (before.key, before.index)


def events_with(reason, message):
    return Events(notes=(Note("Warning", reason, message),), pod=True)


events = st.sampled_from(
    [
        Events(), Events(pod=False), Events(pod=True), events_with("Evicted", "exceeds the limit"),
        events_with("Failed", "ErrImagePull"), events_with("Killing", ""),
        events_with("FailedScheduling", "preemption"),
    ]
)  # fmt: skip


@given(
    st.builds(
        Evidence,
        phase=st.sampled_from([None, Phase.COMPLETED, Phase.FAILED]),
        receipt=st.none() | receipts,
        began=st.none() | st.just(Receipt(started_at=AT)),
        log=st.none() | st.binary(max_size=200),
        events=events,
        watched=st.booleans(),
        seen=st.booleans(),
        ran=st.booleans(),
        expects_receipt=st.booleans(),
        has_outputs=st.booleans(),
        stopped_for=st.none() | st.just(failures.TimedOut()),
        cancelling=st.booleans(),
        expires_at=st.none() | moments,
        ended_at=st.none() | moments,
    )
)
def test_every_end_has_a_verdict_and_no_success_comes_of_silence(evidence):
    verdict, receipt = classify(evidence), evidence.receipt
    reported = receipt is not None and receipt.exit_code is not None
    assert verdict.verified is reported
    if verdict.succeeded:
        assert verdict.failure is None
        assert (receipt.exit_code == 0) if reported else (evidence.phase is Phase.COMPLETED)
        if reported and (receipt.stopped_by or receipt.timed_out):
            assert evidence.has_outputs, "only its outputs prove that a stopped command was done"
            assert not receipt.missing
    else:
        assert verdict.failure is not None or evidence.cancelling
    plain = reported and receipt.exit_code == 0 and not (receipt.missing or receipt.stopped_by or receipt.timed_out)
    if plain:
        assert verdict.succeeded or receipt.trouble == "workdir"
