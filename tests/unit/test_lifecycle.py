"""How a job changes, and the verdict on an attempt's end."""

from datetime import datetime, timedelta, timezone
from pathlib import Path

import attrs
import pytest

from canfar_batch import failures as why
from canfar_batch.errors import TransitionError
from canfar_batch.lifecycle import (
    ALLOWED,
    Adopted,
    CancelAsked,
    Cancelled,
    Collected,
    Deferred,
    Ended,
    Event,
    Evidence,
    GaveUp,
    Intended,
    Launched,
    NotCollected,
    Proved,
    Reopened,
    Respecified,
    Retrying,
    Seen,
    Verdict,
    apply,
    classify,
    image_trouble,
    telling_line,
)
from canfar_batch.records import JobRecord, JobState, Phase, Receipt, Resources
from canfar_batch.spec import JobSpec

AT = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
LATER = AT + timedelta(minutes=5)
SPEC = JobSpec("fit", image="skaha/astroml")
SMALL, BIG = Resources(ram=1), Resources(ram=2)
DONE = Receipt(exit_code=0, started_at=AT, finished_at=LATER)

PLANNED = JobRecord(key="a", index=0, spec=SPEC, filled=SPEC.fill(key="a"))


def event(kind, **fields):
    """An event of job a, its other fields filled in."""
    usual = {
        Intended: {"launch_name": "a-1", "resources": SMALL},
        Launched: {"id": "abcd1234"},
        Adopted: {"id": "wxyz9876"},
        Deferred: {"due": LATER, "why": "not now"},
        Seen: {"phase": Phase.RUNNING},
        Ended: {"succeeded": False, "failure": why.Lost()},
        Retrying: {"due": LATER, "resources": BIG},
        Proved: {"receipt": DONE},
        NotCollected: {"why": "no such file"},
        Respecified: {"spec": SPEC, "resources": BIG},
    }
    return kind(**{"key": "a", "at": AT, **usual.get(kind, {}), **fields})


def after(*kinds, job=PLANNED):
    """The record after these events, each a class or a whole event."""
    for kind in kinds:
        job = apply(job, kind if isinstance(kind, Event) else event(kind))
    return job


FAILED_FOR_GOOD = event(Ended, failure=why.ExitCode(1))
SUCCESS = event(Ended, succeeded=True, failure=None, receipt=DONE, verified=True)

#: a history that leads to each state, each with an attempt that absence alone gave up, where there can be one
IN = {
    JobState.PLANNED: PLANNED,
    JobState.LAUNCHING: after(Intended),
    JobState.PENDING: after(Intended, Launched),
    JobState.RUNNING: after(Intended, Launched, Seen),
    JobState.WAITING: after(Intended, Launched, Ended),
    JobState.SUCCEEDED: after(Intended, Launched, SUCCESS),
    JobState.FAILED: after(Intended, event(Ended, failure=why.LaunchRefused()), GaveUp),
    JobState.LOST: after(Intended, Launched, Ended, GaveUp),
    JobState.CANCELLED: after(Intended, Launched, CancelAsked, Cancelled),
}


def pairs(allowed):
    return [
        pytest.param(kind, state, id=f"{kind.__name__}-{state}")
        for kind in ALLOWED
        for state in JobState
        if (state in ALLOWED[kind]) is allowed
    ]


def test_every_event_says_when_it_may_happen():
    assert set(ALLOWED) == set(Event.__subclasses__())
    assert set(IN) == set(JobState)
    assert all(job.state is state for state, job in IN.items())


@pytest.mark.parametrize(("kind", "state"), pairs(allowed=True))
def test_what_may_happen_happens(kind, state):
    job = apply(IN[state], event(kind))
    assert job.key == "a"
    assert [attempt.number for attempt in job.attempts] == list(range(1, len(job.attempts) + 1))


@pytest.mark.parametrize(("kind", "state"), pairs(allowed=False))
def test_what_may_not_happen_is_refused_by_name(kind, state):
    with pytest.raises(TransitionError, match=f"{kind.__name__} cannot happen to job 'a', which is {state}"):
        apply(IN[state], event(kind))


def test_an_event_of_another_job_is_refused():
    with pytest.raises(TransitionError, match="'b' was applied to 'a'"):
        apply(PLANNED, event(Intended, key="b"))


def test_records_do_not_change():
    assert after(Intended).attempts
    assert not PLANNED.attempts


def test_a_launch_is_an_attempt_from_the_intent_on():
    job = after(Intended)
    assert (job.attempt.number, job.attempt.launch_name, job.attempt.intended_at) == (1, "a-1", AT)
    assert job.id is None
    assert after(Intended, Launched).id == "abcd1234"


def test_a_launch_that_came_to_nothing_leaves_no_attempt_behind():
    assert after(Intended, Deferred) == attrs.evolve(PLANNED, due=LATER)
    job = after(Intended, Launched, Ended, Retrying, Intended, Deferred)
    assert (job.state, len(job.attempts), job.due) == (JobState.WAITING, 1, LATER)


def test_a_container_may_go_back_into_the_queue():
    job = after(Intended, Launched, Seen, event(Seen, phase=Phase.PENDING))
    assert job.state is JobState.PENDING


@pytest.mark.parametrize("phase", [Phase.COMPLETED, Phase.FAILED, Phase.OTHER])
def test_an_end_is_no_sighting(phase):
    with pytest.raises(TransitionError):
        apply(IN[JobState.RUNNING], event(Seen, phase=phase))


def test_the_containers_clock_tells_when_it_began():
    started = AT + timedelta(seconds=7)
    job = after(Intended, Launched, event(Seen, started_at=started), Seen)
    assert job.attempt.started_at == started
    assert after(SUCCESS, job=job).attempt.started_at == DONE.started_at
    assert after(SUCCESS, job=job).attempt.finished_at == DONE.finished_at


def test_a_failed_attempt_waits_for_a_decision():
    job = after(Intended, Launched, FAILED_FOR_GOOD)
    assert (job.state, job.due, job.attempt.over) == (JobState.WAITING, None, True)
    assert after(GaveUp, job=job).state is JobState.FAILED
    again = after(Retrying, job=job)
    assert (again.state, again.due, again.resources) == (JobState.WAITING, LATER, BIG)


@pytest.mark.parametrize("failure", [why.Lost(), why.Unwatched()])
def test_what_nobody_can_tell_is_lost_not_failed(failure):
    assert after(Intended, Launched, event(Ended, failure=failure), GaveUp).state is JobState.LOST


@pytest.mark.parametrize("state", [JobState.LOST, JobState.FAILED, JobState.WAITING])
def test_a_late_receipt_makes_a_success_of_a_loss(state):
    job = apply(IN[state], event(Proved))
    assert (job.state, job.failure, job.attempt.verified) == (JobState.SUCCEEDED, None, True)


def test_a_late_receipt_changes_nothing_once_a_newer_attempt_exists_or_the_failure_was_seen():
    with pytest.raises(TransitionError):
        after(Intended, Launched, Ended, Retrying, Intended, Proved)
    with pytest.raises(TransitionError, match="is known already"):
        after(Intended, Launched, FAILED_FOR_GOOD, Proved)


def test_a_late_receipt_makes_a_success_of_what_was_stopped_unless_its_end_was_heard():
    stopped = after(Intended, Launched, CancelAsked, Cancelled)
    job = apply(stopped, event(Proved))
    assert (job.state, job.attempt.succeeded, job.attempt.receipt) == (JobState.SUCCEEDED, True, DONE)
    heard = event(Cancelled, receipt=attrs.evolve(DONE, exit_code=143))
    for known in (after(Cancelled), after(Intended, Launched, CancelAsked, heard)):
        with pytest.raises(TransitionError, match="is known already"):
            apply(known, event(Proved))


def test_a_container_that_turns_up_is_taken_back_unless_its_failure_was_seen():
    job = after(Intended, Launched, Ended, GaveUp, Adopted)
    assert (job.state, job.id, job.failure, job.attempt.over) == (JobState.PENDING, "wxyz9876", None, False)
    with pytest.raises(TransitionError, match="no attempt in doubt"):
        after(Intended, Launched, FAILED_FOR_GOOD, GaveUp, Adopted)


def test_a_cancelled_job_keeps_what_its_container_reported():
    receipt = Receipt(exit_code=143, started_at=AT, finished_at=LATER)
    job = after(Intended, Launched, CancelAsked, event(Cancelled, receipt=receipt, log=Path("a.1.log")))
    assert (job.cancelling, job.attempt.receipt, job.attempt.verified) == (False, receipt, True)
    assert job.attempt.log == Path("a.1.log")


def test_a_start_receipt_verifies_no_end():
    job = after(Intended, Launched, CancelAsked, event(Cancelled, receipt=Receipt(started_at=AT)))
    assert not job.attempt.verified


def test_cancelling_what_was_never_launched_invents_no_attempt():
    assert after(CancelAsked, Cancelled).attempts == ()


def test_a_reopened_job_is_forgiven_its_past():
    job = after(Intended, Launched, FAILED_FOR_GOOD, GaveUp, Reopened)
    assert (job.state, job.forgiven, job.due) == (JobState.WAITING, 1, AT)
    assert after(CancelAsked, Cancelled, Reopened).state is JobState.PLANNED


def test_nothing_is_given_up_that_did_not_fail():
    with pytest.raises(TransitionError, match="no failure"):
        after(Intended, Launched, CancelAsked, Cancelled, Reopened, GaveUp)


def test_results_are_kept_and_so_is_why_there_is_none():
    job = IN[JobState.SUCCEEDED]
    assert apply(job, event(Collected, result=[1])).result == [1]
    failed = apply(job, event(NotCollected))
    assert (failed.state, failed.collect_error) == (JobState.SUCCEEDED, "no such file")
    assert apply(failed, event(Collected, result=[1])).collect_error is None


# -- the verdict ------------------------------------------------------------------------------------------------------

BEGAN = Receipt(started_at=AT)


def ended(code, **fields):
    return Receipt(exit_code=code, started_at=AT, finished_at=LATER, **fields)


def failure(phase=Phase.FAILED, **evidence):
    verdict = classify(Evidence(phase=phase, **evidence))
    assert not verdict.succeeded
    return verdict.failure


def noted(reason, message="x"):
    return f"TYPE   REASON   MESSAGE   FIRST-TIME   LAST-TIME\nWarning   {reason}   {message}   <none>   <none>\n"


@pytest.mark.parametrize("phase", [Phase.COMPLETED, Phase.FAILED, None])
def test_a_receipt_stands_above_the_platforms_word(phase):
    assert classify(Evidence(phase=phase, receipt=ended(0))) == Verdict(succeeded=True, verified=True)
    assert failure(phase, receipt=ended(5), log=b"Error: no sky\n") == why.ExitCode(5, message="Error: no sky")


def test_the_platforms_word_stands_above_silence():
    assert classify(Evidence(phase=Phase.COMPLETED)) == Verdict(succeeded=True)
    assert classify(Evidence(phase=Phase.COMPLETED, began=BEGAN)) == Verdict(succeeded=True)
    assert failure() == why.Unknown(message="the platform gives no reason, and there is no log", inferred=True)


def test_silence_is_no_success():
    assert isinstance(failure(None), why.Lost)
    assert isinstance(failure(None, began=BEGAN), why.Lost)
    assert isinstance(failure(None, watched=False), why.Unwatched)


def test_a_start_receipt_alone_says_nothing_about_the_end():
    assert isinstance(failure(began=BEGAN, receipt=None, log=b"working\n"), why.Killed)
    assert isinstance(failure(receipt=BEGAN), why.Unknown)


def test_what_was_stopped_failed_for_that_reason_unless_it_succeeded():
    late = why.TimedOut(message="too long")
    assert failure(None, stopped_for=late) == late
    assert failure(stopped_for=late, began=BEGAN) == late
    assert failure(receipt=ended(143, stopped_by="TERM"), stopped_for=late) == late
    assert classify(Evidence(phase=None, receipt=ended(0), stopped_for=late)).succeeded
    assert failure(receipt=ended(3), stopped_for=late) == why.ExitCode(3)


@pytest.mark.parametrize(
    ("receipt", "kind"),
    [
        (ended(143, timed_out=True), why.TimedOut),
        (ended(137, oom_kills=1), why.OutOfMemory),
        (ended(96, trouble="workdir"), why.StartError),
        (ended(0, missing=("a.fits",)), why.MissingOutput),
        (ended(143, stopped_by="TERM"), why.Evicted),
        (ended(97), why.ExitCode),
        (ended(126), why.ExitCode),
        (ended(127), why.ExitCode),
        (ended(137), why.ExitCode),
    ],
)
def test_a_receipt_tells_the_class_of_failure(receipt, kind):
    assert type(failure(receipt=receipt)) is kind


def test_a_success_that_survived_a_killed_child_is_a_success():
    assert classify(Evidence(phase=Phase.COMPLETED, receipt=ended(0, oom_kills=2))).succeeded


def test_out_of_memory_names_the_peak():
    assert "its peak was 3.5 GiB" in failure(receipt=ended(137, oom_kills=1, peak_ram=3.5)).message


def test_a_missing_output_is_named_only_where_the_command_did_its_part():
    assert failure(receipt=ended(0, missing=("a", "b"))).missing == ("a", "b")
    assert isinstance(failure(receipt=ended(1, missing=("a",))), why.ExitCode)


@pytest.mark.parametrize("words", [b"OSError: [Errno 28] No space left on device\n", b"cp: x: Disk quota exceeded\n"])
def test_a_full_disk_is_read_from_the_log(words):
    assert isinstance(failure(receipt=ended(1), log=words), why.DiskFull)


@pytest.mark.parametrize(
    ("events", "kind"),
    [
        (noted("Failed", 'exec: "fit": executable file not found in $PATH'), why.StartError),
        (noted("Failed", "Failed to pull image: ErrImagePull"), why.ImagePull),
        (noted("Evicted", "The node was low on resource: memory."), why.Evicted),
        (noted("Evicted", "Pod ephemeral local storage usage exceeds: ephemeral-storage"), why.DiskFull),
        (noted("Preempted"), why.Evicted),
        (noted("DeadlineExceeded"), why.DeadlineExceeded),
        (noted("Scheduled"), why.Unknown),
        ("", why.Unknown),
    ],
)
def test_without_a_receipt_the_events_are_asked(events, kind):
    found = failure(events=events)
    assert type(found) is kind
    assert found.inferred


@pytest.mark.parametrize("log", [b"job: 1: base64: not found\n", b"/bin/sh: base64: command not found\n"])
def test_an_image_without_base64_cannot_begin(log):
    assert isinstance(failure(log=log), why.StartError)


def test_trouble_before_the_start_does_not_explain_the_end_of_what_began():
    pulled_at_last = noted("Failed", "Failed to pull image: ErrImagePull") + noted("Pulled")
    assert isinstance(failure(began=BEGAN, events=pulled_at_last), why.Killed)
    assert isinstance(failure(log=b"working\n", events=pulled_at_last), why.Unknown)
    assert isinstance(failure(began=BEGAN, log=b"/bin/sh: 1: fit: not found\n"), why.Killed)


def test_what_was_told_to_stop_by_the_platform_is_asked_about_in_the_events():
    told = ended(143, stopped_by="TERM")
    assert isinstance(failure(receipt=told, events=noted("DeadlineExceeded")), why.DeadlineExceeded)
    assert isinstance(failure(receipt=told, events=noted("x", "exceeds ephemeral-storage")), why.DiskFull)
    assert "told to stop (TERM)" in failure(receipt=told).message


def test_image_trouble_is_seen_before_the_job_begins():
    assert image_trouble(noted("Failed", "ErrImagePull")).message.startswith("Warning  Failed  ErrImagePull")
    assert image_trouble(noted("Pulling")) is None


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (b"", ""),
        (b"\n \n", ""),
        (b"one\ntwo\n", "two"),
        (b"Traceback\n  x\nValueError: bad sky\nbye\n", "ValueError: bad sky"),
        (b"sh: 1: fit: not found\n", "sh: 1: fit: not found"),
        (b"error \xff\xfe\n", "error \ufffd\ufffd"),
        (b"x" * 500, "x" * 300),
    ],
)
def test_the_telling_line_names_the_error_else_it_is_the_last(log, line):
    assert telling_line(log) == line


@pytest.mark.timeout(60)  # a pattern that looks back would take hours
def test_a_line_without_end_is_read_at_once():
    assert len(telling_line(b"aErro" * 2_000_000)) == 300


@pytest.mark.parametrize("kind", why.KINDS.values())
def test_every_failure_survives_the_ledger(kind):
    made = kind(3, message="m") if kind is why.ExitCode else kind(message="m", inferred=True)
    assert why.from_json(made.to_json()) == made
    assert str(made).endswith(": m")


def test_a_failure_of_a_later_version_is_read_as_unknown():
    assert why.from_json({"kind": "Melted", "message": "hot"}) == why.Unknown(message="hot", inferred=True)
