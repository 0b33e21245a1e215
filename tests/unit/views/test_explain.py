"""Explanations: what happened, and what to do about it."""

from datetime import datetime, timedelta, timezone
from pathlib import Path

import attrs
import pytest

from canfar_batch import failures as why
from canfar_batch.records import Attempt, JobRecord, JobState, Receipt, Resources
from canfar_batch.spec import JobSpec, Secret
from canfar_batch.views.explain import advice, explain_batch, explain_job, support_report

AT = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
SPEC = JobSpec("fit.py --fast", image="skaha/astroml", cores=2, ram=4)
HEADER = "TYPE   REASON   MESSAGE   FIRST-TIME   LAST-TIME\n"


def record(state, *, failure=None, receipt=None, number=1, verified=True, **fields):
    """A job that is in *state*, launched at noon and begun a minute later."""
    attempt = Attempt(
        number=number,
        launch_name="fit-1",
        resources=Resources(cores=2, ram=4),
        intended_at=AT,
        launched_at=AT,
        id="abcd1234",
        started_at=AT + timedelta(minutes=1),
        ended_at=AT + timedelta(minutes=4) if state.final else None,
        log=Path("fit.log") if state.final else None,
        succeeded=state is JobState.SUCCEEDED if state.final else None,
        verified=verified,
        failure=failure,
        receipt=receipt,
    )
    job = JobRecord(key="fit", index=0, spec=SPEC, filled=SPEC.fill(key="fit"), state=state, attempts=(attempt,))
    return attrs.evolve(job, **fields)


@pytest.mark.parametrize(
    ("state", "story"),
    [
        (JobState.PLANNED, "has not been launched yet."),
        (JobState.LAUNCHING, "was sent to the platform, which has not answered yet."),
        (JobState.RUNNING, "has been running."),
        (JobState.WAITING, "failed and will be launched again."),
        (JobState.SUCCEEDED, "succeeded after 3 min."),
        (JobState.FAILED, "failed after 3 min."),
        (JobState.LOST, "is lost: nothing shows how it ended."),
        (JobState.CANCELLED, "was cancelled."),
    ],
)
def test_every_state_has_its_sentence(state, story):
    assert explain_job(record(state)) == f"Job fit {story}"


@pytest.mark.parametrize(("restarts", "said"), [(1, "An earlier run"), (2, "2 earlier runs")])
def test_runs_that_the_platform_stopped_are_told_also_after_the_end(restarts, said):
    job = record(JobState.SUCCEEDED)
    lost = attrs.evolve(job.attempts[0], restarts=restarts, lost_seconds=90.0)
    text = explain_job(attrs.evolve(job, attempts=(lost,)))
    assert said in text
    assert "90 s" in text or "2 min" in text
    assert "gone" in text


def test_a_job_that_was_never_launched_is_explained():
    assert explain_job(record(JobState.PLANNED, attempts=())) == "Job fit has not been launched yet."


def test_a_running_job_says_for_how_long():
    assert "has been running for 59 min" in explain_job(record(JobState.RUNNING), now=AT + timedelta(hours=1))


def test_later_attempts_are_counted():
    assert explain_job(record(JobState.RUNNING, number=3)).startswith("Job fit (attempt 3) has")


def test_a_success_without_a_receipt_is_marked():
    assert "according to the platform; no receipt" in explain_job(record(JobState.SUCCEEDED, verified=False))


@pytest.mark.parametrize(
    ("noted", "advised"),
    [
        ("", "no events for it yet"),
        (HEADER, "no events for it yet"),
        (HEADER + "Warning   FailedScheduling   0/9 nodes are available   <none>   <none>\n", "no room for it yet"),
        (HEADER + "Warning   Failed   Error: ImagePullBackOff   <none>   <none>\n", "image cannot be fetched"),
        (
            HEADER + "Normal   Pulling   Pulling image   <none>   <none>\n",
            "The latest event: Normal Pulling Pulling image",
        ),
    ],
)
def test_events_explain_why_a_job_is_pending(noted, advised):
    assert advised in explain_job(record(JobState.PENDING), noted)


def test_a_job_that_left_the_queue_and_has_no_events_may_be_refused_by_the_cluster():
    queued = record(JobState.PENDING)
    admitted = attrs.evolve(
        queued, attempts=(attrs.evolve(queued.attempts[-1], start_time=datetime.now(timezone.utc)),)
    )
    assert "which is usual while a job is queued" in explain_job(queued)
    assert "It has left the queue" in explain_job(admitted)
    assert "ask for less" in explain_job(admitted)


def test_events_of_a_running_job_are_ignored():
    assert "ImagePull" not in explain_job(record(JobState.RUNNING), HEADER + "Warning   Failed   ImagePullBackOff\n")


@pytest.mark.parametrize("kind", [kind for kind in why.KINDS.values() if kind is not why.ExitCode])
def test_there_is_advice_for_every_failure(kind):
    failure = kind(1) if issubclass(kind, why.ExitCode) else kind()
    tip = advice(failure)
    assert tip.endswith(".")
    assert tip in explain_job(record(JobState.FAILED, failure=failure))


@pytest.mark.parametrize(
    ("code", "words", "advised"),
    [
        (1, "FileNotFoundError: [Errno 2] No such file or directory: 'a.fits'", "A file was not found"),
        (2, "usage: fit.py [-h]", "wrong option"),
        (1, "ModuleNotFoundError: No module named 'sky'", "module is missing"),
        (1, "PermissionError: [Errno 13] Permission denied: '/arc/x'", "permissions"),
        (1, "MemoryError", "ask for more (ram=)"),
        (126, "sh: 1: ./fit: Permission denied", "chmod +x"),
        (126, "sh: 1: ./fit: Exec format error", "#!/bin/sh"),
        (126, "sh: 1: /arc: Is a directory", "name the program in it"),
        (127, "/usr/bin/env: './run.sh': No such file or directory", "Windows line ends"),
        (127, "/usr/bin/env: './run.sh': No such file or directory", "first line (#!)"),
        (127, "/usr/bin/env: \u2018bash\\r\u2019: No such file or directory", "sed -i"),
        (127, "/usr/bin/env: 'python3.15': No such file or directory", "No such command"),
        (127, "sh: 3: source: not found", "Only bash knows this word"),
        (127, "sh: 1: [[: not found", "Only bash knows this word"),
        (127, "sh: 1: conda: not found", "login shell"),
        (127, "sh: 1: tools/fit: not found", "workdir="),
        (127, "env: 'fit': No such file or directory", "No such command"),
        (137, "", "SIGKILL"),
        (139, "", "segmentation fault"),
        (143, "", "SIGTERM"),
        (42, "", ""),
    ],
)
def test_exit_codes_and_messages_lead_to_advice(code, words, advised):
    assert advised in advice(why.ExitCode(code, message=words))
    assert f"Cause: exit code {code}" in explain_job(record(JobState.FAILED, failure=why.ExitCode(code, message=words)))


def test_out_of_memory_is_compared_with_the_request():
    job = record(JobState.FAILED, failure=why.OutOfMemory(message="its peak was 4.0 GiB"))
    assert "It asked for 4 GiB. Ask for more memory" in explain_job(job)


def test_a_batch_lists_the_most_frequent_cause_first():
    receipt = Receipt(exit_code=137, peak_ram=3.9)
    jobs = [
        record(JobState.SUCCEEDED),
        record(JobState.FAILED, failure=why.ExitCode(2, message="no such option")),
        *[record(JobState.FAILED, failure=why.OutOfMemory(), receipt=receipt)] * 2,
        record(JobState.LOST, failure=why.Lost()),
    ]
    assert explain_batch(jobs) == (
        "4 failed: 2 out of memory (asked 4 GiB, peak 3.9 GiB; try ram=8), 1 exit code 2 (no such option), 1 lost."
    )
    assert explain_batch(jobs[:1]) == "Nothing failed."


def test_an_unfinished_batch_has_not_failed_yet():
    assert explain_batch([record(JobState.SUCCEEDED), record(JobState.RUNNING)]) == "Nothing has failed yet."


def test_failures_of_unknown_cause_are_counted():
    jobs = [record(JobState.FAILED), record(JobState.LOST, failure=why.Lost())]
    assert explain_batch(jobs) == "2 failed: 1 failed, cause unknown, 1 lost."


@pytest.mark.parametrize(
    ("code", "said"), [(127, "command not found (exit code 127)"), (126, "command not executable (exit code 126)")]
)
def test_exit_codes_of_the_shell_are_named(code, said):
    assert explain_batch([record(JobState.FAILED, failure=why.ExitCode(code))] * 1200) == f"1,200 failed: 1,200 {said}."
    advised = explain_batch([record(JobState.FAILED, failure=why.ExitCode(code, message="fit: not here"))])
    assert advised.endswith(f"({said.partition(' (')[2][:-1]}: fit: not here).")


def test_different_requests_for_memory_are_shown_as_a_range():
    jobs = [record(JobState.FAILED, failure=why.OutOfMemory(), receipt=Receipt(exit_code=137, peak_ram=4.0))]
    attempt = attrs.evolve(jobs[0].attempts[0], resources=Resources(cores=2, ram=16))
    jobs.append(attrs.evolve(jobs[0], attempts=(attempt,)))
    assert explain_batch(jobs) == "2 failed: 2 out of memory (asked 4 to 16 GiB, peak 4.0 GiB; try ram=32)."


def test_jobs_without_a_request_are_advised_to_set_ram():
    killed = record(JobState.FAILED, failure=why.Killed())
    killed = attrs.evolve(killed, attempts=(attrs.evolve(killed.attempts[0], resources=Resources()),))
    assert explain_batch([killed]) == "1 failed: 1 killed (asked the platform's default memory; set ram=)."


def test_an_inferred_cause_is_marked_as_likely():
    killed = record(JobState.FAILED, failure=why.Killed(inferred=True))
    assert explain_batch([killed]) == "1 failed: 1 killed (asked 4 GiB; memory is the likely cause; try ram=8)."


NASTY = "Error: \x1b]0;renamed\x07\x1b[2J\x9b31m\u202egnp.exe"


def test_no_explanation_holds_control_characters():
    """Events and logs come from outside: they may rename the terminal, clear it, or reverse a line."""
    failed = record(JobState.FAILED, failure=why.ExitCode(3, message=NASTY))
    pending = record(JobState.PENDING)
    texts = (
        explain_job(failed),
        explain_batch([failed]),
        explain_job(pending, HEADER + f"Warning   FailedScheduling   {NASTY}\n"),
        report(failed, log=NASTY, events=NASTY),
        str(failed.failure),
    )
    for text in texts:
        assert "gnp.exe" in text
        assert text.replace("\n", "").isprintable(), text


def test_the_value_of_a_secret_is_masked_wherever_a_job_quotes_it(monkeypatch):
    monkeypatch.setenv("SERVICE", "correct-horse-battery")
    spec = attrs.evolve(SPEC, env={"SERVICE": Secret("SERVICE")})
    failure = why.ExitCode(1, message="login refused with correct-horse-battery")
    job = attrs.evolve(record(JobState.FAILED, failure=failure), spec=spec, filled=spec.fill({}))
    for text in (explain_job(job), explain_batch([job]), report(job, log="correct-horse-battery\n")):
        assert "correct-horse" not in text
        assert "[secret]" in text


def test_a_failed_pull_shows_the_event_with_the_reason():
    events = (
        f"{HEADER}Warning   Failed   Failed to pull image: not found   <nil>   <nil>\n"
        "Warning   Failed   Error: ImagePullBackOff   <nil>   <nil>\n"
    )
    text = explain_job(record(JobState.PENDING), events)
    assert "Failed to pull image: not found." in text
    assert "<nil>" not in text


def test_a_job_that_begins_again_is_not_said_to_wait_for_its_first_start():
    begun = record(JobState.PENDING)
    never = attrs.evolve(begun, attempts=(attrs.evolve(begun.attempts[0], started_at=None),))
    assert "it has begun before" in explain_job(begun)
    assert "it has not begun to run" in explain_job(never, now=AT + timedelta(minutes=5))
    assert "waits on the platform for 5 min" in explain_job(never, now=AT + timedelta(minutes=5))


def test_an_explanation_is_one_line_without_secrets():
    message = "\x1b[31mapi_key=k3y\nrefused " + "x" * 5000
    advised = explain_batch([record(JobState.FAILED, failure=why.ExitCode(1, message=message))])
    assert advised.startswith("1 failed: 1 exit code 1 (api_key=[secret] refused xxx")
    assert advised.endswith("x...).")
    assert len(advised) < 250


def test_results_that_were_not_collected_are_counted():
    jobs = [record(JobState.SUCCEEDED, collect_error="no cat/a.cat")]
    assert explain_batch(jobs) == "Nothing failed. 1 result could not be collected (no cat/a.cat)."


# -- support ----------------------------------------------------------------------------------------------------------


def report(job, **fields):
    return support_report(job, **{"platform": "https://x/skaha/v1", "user": None, "log": "", "events": "", **fields})


def test_a_support_report_names_what_is_unknown():
    text = report(record(JobState.PLANNED, attempts=()))
    assert "none: the platform never gave one" in text
    assert "user unknown" in text
    assert "Exit code:" in text
    assert "please add" in text


def test_a_support_report_shows_the_end_of_the_log():
    text = report(record(JobState.RUNNING), log="\n".join(map(str, range(100))))
    assert text.endswith("End of the log:\n" + "\n".join(map(str, range(70, 100))) + "\n")
