"""The verdict on an attempt's end: each row of the table, and what real clusters showed."""

from datetime import datetime, timedelta, timezone

import pytest

from canfar_batch import failures as why
from canfar_batch.engine.cluster_events import Events
from canfar_batch.engine.log_reasons import telling_line
from canfar_batch.engine.verdict import RULES, Evidence, Verdict, classify, image_trouble, rule_for
from canfar_batch.records import Phase, Receipt

AT = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
LATER = AT + timedelta(minutes=5)
BEGAN = Receipt(started_at=AT)
NO_POD = Events(pod=False)
NO_ROOM = (
    "FailedScheduling",
    "0/7 nodes are available: 3 Insufficient cpu, 4 Insufficient ephemeral-storage. preemption: 0/7 nodes are "
    "available: 7 No preemption victims found for incoming pod.",
)


def ended(code, **fields):
    return Receipt(exit_code=code, started_at=AT, finished_at=LATER, **fields)


def stopped(code, **fields):
    """The end receipt of a command that was sent SIGTERM from outside."""
    return ended(code, stopped_by="TERM", **fields)


def noted(*rows):
    """Events as the platform shows them: pairs of a reason and a message."""
    width = max(len(message) for _, message in rows) + 3
    heading = f"{'TYPE':<10}{'REASON':<26}{'MESSAGE':<{width}}{'FIRST-TIME':<13}LAST-TIME"
    lines = [f"{'Warning':<10}{reason:<26}{message:<{width}}{'<nil>':<13}<nil>" for reason, message in rows]
    return Events.read("\n".join([heading, *lines]) + "\n")


def verdict(phase=Phase.FAILED, **evidence):
    return classify(Evidence(phase=phase, **evidence))


def failure(phase=Phase.FAILED, **evidence):
    found = verdict(phase, **evidence)
    assert not found.succeeded
    return found.failure


def kind(phase=Phase.FAILED, **evidence):
    return type(failure(phase, **evidence))


# -- with an end receipt ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [Phase.COMPLETED, Phase.FAILED, None])
def test_a_receipt_outranks_the_platforms_status(phase):
    assert verdict(phase, receipt=ended(0)) == Verdict(succeeded=True, verified=True)
    assert failure(phase, receipt=ended(5), log=b"Error: no sky\n") == why.ExitCode(5, message="Error: no sky")


@pytest.mark.parametrize(
    ("receipt", "expected"),
    [
        (ended(143, timed_out=True), why.TimedOut),
        (ended(0, timed_out=True), why.TimedOut),
        (ended(3, timed_out=True), why.TimedOut),
        (ended(137, oom_kills=1), why.OutOfMemory),
        (ended(96, trouble="workdir"), why.StartError),
        (ended(0, missing=("a.fits",)), why.MissingOutput),
        (stopped(143), why.Evicted),
        (stopped(0), why.Evicted),
        (stopped(5), why.Evicted),
        (ended(97), why.ExitCode),
        (ended(126), why.ExitCode),
        (ended(127), why.ExitCode),
        (ended(137), why.ExitCode),
    ],
)
def test_a_receipt_decides_the_class_of_failure(receipt, expected):
    assert kind(receipt=receipt) is expected


@pytest.mark.parametrize("phase", [Phase.COMPLETED, Phase.FAILED, None])
@pytest.mark.parametrize("receipt", [stopped(0), ended(0, timed_out=True)])
def test_code_0_after_a_stop_is_no_success(phase, receipt):
    assert not verdict(phase, receipt=receipt).succeeded


def test_code_0_after_a_stop_is_a_success_if_the_declared_outputs_are_there():
    assert verdict(receipt=stopped(0, outputs={"a.fits": 9}), has_outputs=True).succeeded
    assert not verdict(receipt=stopped(0, missing=("a.fits",)), has_outputs=True).succeeded
    assert not verdict(receipt=stopped(143, outputs={"a.fits": 9}), has_outputs=True).succeeded


def test_a_stop_by_us_is_the_reason_we_had():
    late = why.TimedOut(message="too long")
    assert failure(None, stopped_for=late) == late
    assert failure(None, stopped_for=late, began=BEGAN) == late
    assert failure(None, receipt=stopped(143), stopped_for=late) == late
    assert failure(None, receipt=stopped(0), stopped_for=late) == late
    assert verdict(None, receipt=ended(0), stopped_for=late).succeeded, "it had ended by itself"
    assert failure(None, receipt=ended(3), stopped_for=late) == why.ExitCode(3)


def test_a_cancelled_job_is_neither_success_nor_failure():
    for evidence in ({"receipt": stopped(0)}, {"receipt": stopped(143)}, {"began": BEGAN}, {}):
        found = verdict(None, cancelling=True, **evidence)
        assert (found.succeeded, found.failure) == (False, None)
    assert verdict(None, cancelling=True, receipt=ended(0)).succeeded, "it had ended by itself"


def test_a_stop_at_the_expiry_time_is_the_deadline():
    assert kind(receipt=stopped(143), expires_at=LATER) is why.DeadlineExceeded
    assert kind(receipt=stopped(0), expires_at=LATER + timedelta(seconds=30)) is why.DeadlineExceeded
    assert kind(receipt=stopped(143), expires_at=LATER + timedelta(hours=1)) is why.Evicted
    assert kind(expires_at=LATER, ended_at=LATER, events=NO_POD) is why.DeadlineExceeded
    assert "renew()" in failure(receipt=stopped(143), expires_at=LATER).message


def test_a_stop_of_a_container_that_is_absent_was_a_deletion():
    assert kind(None, receipt=stopped(143)) is why.Deleted
    assert "deleted by somebody else (portal, another client)" in failure(None).message


def test_a_child_that_was_killed_leaves_a_doubtful_success():
    found = verdict(Phase.COMPLETED, receipt=ended(0, oom_kills=2))
    assert found.succeeded
    assert isinstance(found.doubt, why.ChildKilled)
    assert verdict(Phase.COMPLETED, receipt=ended(0)).doubt is None


def test_out_of_memory_names_the_peak():
    assert "its peak was 3.5 GiB" in failure(receipt=ended(137, oom_kills=1, peak_ram=3.5)).message


def test_a_missing_output_counts_only_if_the_command_reported_success():
    assert failure(receipt=ended(0, missing=("a", "b"))).missing == ("a", "b")
    assert kind(receipt=ended(1, missing=("a",))) is why.ExitCode


@pytest.mark.parametrize("words", [b"OSError: [Errno 28] No space left on device\n", b"cp: x: Disk quota exceeded\n"])
def test_a_full_disk_is_read_from_the_log(words):
    assert kind(receipt=ended(1), log=words) is why.DiskFull


# -- without one --------------------------------------------------------------------------------------------------


def test_completed_without_a_receipt_is_an_unverified_success():
    assert verdict(Phase.COMPLETED) == Verdict(succeeded=True)
    assert verdict(Phase.COMPLETED, began=BEGAN, log=b"x") == Verdict(succeeded=True)


def test_completed_is_no_success_if_the_pod_was_removed_or_killed():
    assert kind(Phase.COMPLETED, events=NO_POD) is why.Evicted
    assert kind(Phase.COMPLETED, began=BEGAN, events=NO_POD) is why.Evicted, "as if a start receipt is in a file"
    assert kind(Phase.COMPLETED, began=BEGAN, events=noted(("Killing", "Stopping container x"))) is why.Evicted
    assert kind(Phase.COMPLETED, events=NO_POD, expects_receipt=False) is why.Evicted, "a pod that ends by itself stays"
    assert verdict(Phase.COMPLETED, expects_receipt=False).succeeded


def test_absence_is_no_success():
    assert kind(None) is why.Deleted
    assert kind(None, began=BEGAN) is why.Deleted
    assert kind(None, seen=False) is why.Lost
    assert kind(None, watched=False) is why.Unwatched


def test_no_reason_is_unknown():
    assert failure() == why.Unknown(message="the platform gives no reason, and there is no log", inferred=True)
    assert failure(log=None).message.endswith("the log was not available")


def test_what_began_and_has_no_end_was_killed():
    assert kind(began=BEGAN, log=b"working\n") is why.Killed
    assert kind(ran=True, log=b"step 983\n") is why.Killed, "the beginning of its log was rotated away"
    assert kind(ran=True, log=b"", expects_receipt=False) is why.Unknown


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (noted(("Failed", 'Error: exec: "fit": executable file not found in $PATH')), why.StartError),
        (noted(("Failed", "Failed to pull image: ErrImagePull")), why.ImagePull),
        (noted(("Evicted", "The node was low on resource: memory.")), why.Evicted),
        (noted(("Evicted", "The node had condition: [DiskPressure].")), why.Evicted),
        (noted(("Evicted", "The node was low on resource: ephemeral-storage.")), why.Evicted),
        (noted(("Evicted", 'Usage of EmptyDir volume "shm" exceeds the limit "1Gi".')), why.DiskFull),
        (
            noted(("Evicted", "Pod ephemeral local storage usage exceeds the total limit of containers 20Gi.")),
            why.DiskFull,
        ),
        (noted(("Evicted", "Container x exceeded its local ephemeral storage limit 20Gi.")), why.DiskFull),
        (noted(("Preempted", "by a pod of higher priority")), why.Evicted),
        (noted(("TaintManagerEviction", "Marking for deletion Pod work/x")), why.Evicted),
        (noted(("Killing", "Stopping container x")), why.Evicted),
        (noted(("OutOfcpu", "Node didn't have enough resource: cpu")), why.Evicted),
        (noted(("UnexpectedAdmissionError", "Allocate failed")), why.Evicted),
        (noted(("Scheduled", "Successfully assigned work/x to node-3")), why.Unknown),
        (noted(NO_ROOM), why.Unknown),
        (NO_POD, why.Evicted),
        (Events.read("<none>\n"), why.Unknown),
        (Events(), why.Unknown),
    ],
)
def test_without_a_receipt_the_reasons_of_events_decide(events, expected):
    found = failure(events=events)
    assert type(found) is expected
    assert found.inferred is not rule_for(Evidence(phase=Phase.FAILED, events=events)).certain


def test_a_wait_for_room_says_nothing_about_the_end():
    waited = noted(NO_ROOM, ("Scheduled", "Successfully assigned work/x to node-3"), ("Started", "Started container x"))
    assert kind(began=BEGAN, log=b"x", events=waited) is why.Killed
    assert kind(receipt=stopped(143), events=waited) is why.Evicted
    assert "preemption" not in failure(receipt=stopped(143), events=waited).message


def test_words_in_a_message_decide_nothing():
    chatty = noted(("Scheduled", "Evicted Preempted DeadlineExceeded ErrImagePull exceeds the limit"))
    assert kind(events=chatty) is why.Unknown


@pytest.mark.parametrize("log", [b"job: 1: base64: not found\n", b"/bin/sh: base64: command not found\n"])
def test_an_image_without_base64_cannot_begin(log):
    assert kind(log=log) is why.StartError


def test_trouble_before_the_start_does_not_explain_the_end():
    pulled_at_last = noted(("Failed", "Failed to pull image: ErrImagePull"), ("Pulled", "Successfully pulled"))
    assert kind(began=BEGAN, log=b"x", events=pulled_at_last) is why.Killed
    assert kind(log=b"working\n", events=pulled_at_last) is why.Unknown
    assert kind(began=BEGAN, log=b"/bin/sh: 1: fit: not found\n") is why.Killed


def test_the_last_rule_applies_to_everything():
    assert rule_for(Evidence(phase=Phase.OTHER)) is RULES[-1]


def test_each_rule_says_what_is_seen_and_what_follows():
    assert len({rule.seen for rule in RULES}) == len(RULES)
    assert all(rule.outcome for rule in RULES)


# -- pending ------------------------------------------------------------------------------------------------------


def test_an_image_that_cannot_be_fetched_is_noticed_before_the_job_begins():
    pull = ("Failed", 'Failed to pull image "x": rpc error: not found: ErrImagePull')
    assert image_trouble(noted(pull, ("BackOff", "ImagePullBackOff"))).message == pull[1]
    assert image_trouble(noted(("Pulling", "Pulling image"))) is None
    assert image_trouble(noted(pull, ("Pulled", "Successfully pulled image"))) is None, "it was fetched since"
    assert image_trouble(noted(("Pulled", "of an init container"), ("Started", "init"), pull)) is not None


# -- logs ---------------------------------------------------------------------------------------------------------


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
        (b"FATAL: no bias frame\nrms error = 0.11 mag, 0 errors in catalogue\n", "FATAL: no bias frame"),
        (
            b"terminate called after throwing an instance of 'std::runtime_error'\n  what():  cannot open a.fits\n"
            b"Aborted (core dumped)\n",
            "what(): cannot open a.fits",
        ),
        (b"ERROR old\nValueError: first\nDuring handling:\nKeyError: 'GAIN'\nerror: cleanup\n", "KeyError: 'GAIN'"),
        (b"[rank0]: RuntimeError: NCCL\nerror: exit\n", "[rank0]: RuntimeError: NCCL"),
        (
            b"forrtl: severe (24): end-of-file during read\nImage   PC   Routine\n",
            "forrtl: severe (24): end-of-file during read",
        ),
        (
            b"fit: fit.c:12: main: Assertion `x > 0' failed.\nAborted\n",
            "fit: fit.c:12: main: Assertion `x > 0' failed.",
        ),
        (b"free(): invalid pointer\nAborted\n", "free(): invalid pointer"),
        (b"Error using load\nUnable to find file 'a.mat'.\nError in fit (line 3)\n", "Unable to find file 'a.mat'."),
        (b"------\nMPI_ABORT was invoked on rank 0\nwith errorcode 1.\n------\n", "MPI_ABORT was invoked on rank 0"),
        (b"WARNING: error estimate is approximate\nno WCS solution\n", "no WCS solution"),
        (b"fit failed: 3 stars\nno errors, errors: 0\n", "fit failed: 3 stars"),
        (b"Error in solve(a) : singular\nExecution halted\n", "Error in solve(a) : singular"),
        (b"2026-11-22 ERROR pipeline: no WCS\nfinished with errors\n", "2026-11-22 ERROR pipeline: no WCS"),
        (b"reading a\rreading b\rcannot read b\nbye\n", "cannot read b"),
        (b"\x1b[31mValueError: bad\x1b[0m \x9b2Jsky\x07\n", "ValueError: bad \ufffd2Jsky"),
    ],
)
def test_the_line_that_states_the_reason_is_chosen(log, line):
    assert telling_line(log) == line


@pytest.mark.timeout(60)  # a pattern that looks back would take hours
def test_a_line_without_end_is_read_at_once():
    assert len(telling_line(b"aErro" * 2_000_000)) == 300


@pytest.mark.parametrize("kind", why.KINDS.values())
def test_every_failure_survives_the_ledger(kind):
    made = kind(3, message="m") if issubclass(kind, why.ExitCode) else kind(message="m", inferred=True)
    assert why.from_json(made.to_json()) == made
    assert str(made).endswith("m")


def test_an_exception_keeps_its_traceback_and_is_shown_as_one_line():
    raised = why.Raised(1, message="ValueError: bad width\nTraceback (most recent call last):\n  File x\x1b[31m")
    assert why.from_json(raised.to_json()) == raised
    assert (str(raised), raised.headline, raised.cause, raised.group) == (
        "ValueError: bad width", "ValueError: bad width", "ValueError", "ValueError",
    )  # fmt: skip
    assert raised.message.splitlines()[2] == "  File x"


def test_a_failure_of_a_later_version_is_read_as_unknown():
    assert why.from_json({"kind": "Melted", "message": "hot"}) == why.Unknown(message="hot", inferred=True)
