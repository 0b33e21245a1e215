"""The verdict on an attempt's end."""

from datetime import datetime, timedelta, timezone

import pytest

from canfar_batch import failures as why
from canfar_batch.engine.verdict import Evidence, Verdict, classify, image_trouble, telling_line
from canfar_batch.records import Phase, Receipt

AT = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
LATER = AT + timedelta(minutes=5)
DONE = Receipt(exit_code=0, started_at=AT, finished_at=LATER)


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
    assert image_trouble(noted("Failed", "ErrImagePull")).message.startswith("Warning Failed ErrImagePull")
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
        (b"FATAL: no bias frame\nrms error = 0.11 mag, 0 errors in catalogue\n", "FATAL: no bias frame"),
        (
            b"terminate called after throwing an instance of 'std::runtime_error'\n  what():  cannot open a.fits\n"
            b"Aborted (core dumped)\n",
            "what(): cannot open a.fits",
        ),
        (b"ERROR old\nValueError: first\nDuring handling:\nKeyError: 'GAIN'\nerror: cleanup\n", "KeyError: 'GAIN'"),
        (b"[rank0]: RuntimeError: NCCL\nerror: exit\n", "[rank0]: RuntimeError: NCCL"),
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
    made = kind(3, message="m") if kind is why.ExitCode else kind(message="m", inferred=True)
    assert why.from_json(made.to_json()) == made
    assert str(made).endswith(": m")


def test_a_failure_of_a_later_version_is_read_as_unknown():
    assert why.from_json({"kind": "Melted", "message": "hot"}) == why.Unknown(message="hot", inferred=True)
