"""What a person is told: what happened, and what to do."""

from datetime import datetime, timedelta, timezone

import attrs
import pytest

from canfar_batch import failures as why
from canfar_batch.records import Attempt, JobRecord, JobState, Receipt, Resources
from canfar_batch.spec import JobSpec
from canfar_batch.views.explain import advice, explain_batch, explain_job, span, support_report, without_secrets

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
        (JobState.LOST, "is lost: nobody can say how it ended."),
        (JobState.CANCELLED, "was cancelled."),
    ],
)
def test_every_state_has_its_story(state, story):
    assert explain_job(record(state)) == f"Job fit {story}"


def test_a_job_before_its_first_launch_has_a_story_too():
    assert explain_job(record(JobState.PLANNED, attempts=())) == "Job fit has not been launched yet."


def test_time_is_told_where_it_is_known():
    assert "has been running for 59 min" in explain_job(record(JobState.RUNNING), now=AT + timedelta(hours=1))


def test_later_attempts_are_counted():
    assert explain_job(record(JobState.RUNNING, number=3)).startswith("Job fit (attempt 3) has")


def test_a_success_that_no_receipt_confirms_is_told_apart():
    assert "by the platform's word" in explain_job(record(JobState.SUCCEEDED, verified=False))


@pytest.mark.parametrize(
    ("noted", "told"),
    [
        ("", "waits in the queue"),
        (HEADER, "waits in the queue"),
        (HEADER + "Warning   FailedScheduling   0/9 nodes are available   <none>   <none>\n", "no room for it yet"),
        (HEADER + "Warning   Failed   Error: ImagePullBackOff   <none>   <none>\n", "image cannot be fetched"),
        (HEADER + "Normal   Pulling   Pulling image   <none>   <none>\n", "Last noted: Normal Pulling Pulling image"),
    ],
)
def test_events_tell_what_a_pending_job_waits_for(noted, told):
    assert told in explain_job(record(JobState.PENDING), noted)


def test_old_events_do_not_matter_once_a_job_runs():
    assert "ImagePull" not in explain_job(record(JobState.RUNNING), HEADER + "Warning   Failed   ImagePullBackOff\n")


@pytest.mark.parametrize("kind", [kind for kind in why.KINDS.values() if kind is not why.ExitCode])
def test_there_is_advice_for_every_failure(kind):
    tip = advice(kind())
    assert tip.endswith(".")
    assert tip in explain_job(record(JobState.FAILED, failure=kind()))


@pytest.mark.parametrize(
    ("code", "words", "told"),
    [
        (1, "FileNotFoundError: [Errno 2] No such file or directory: 'a.fits'", "A file was not found"),
        (2, "usage: fit.py [-h]", "wrong option"),
        (1, "ModuleNotFoundError: No module named 'sky'", "module is missing"),
        (1, "PermissionError: [Errno 13] Permission denied: '/arc/x'", "rights"),
        (1, "MemoryError", "ask for more (ram=)"),
        (126, "sh: 1: ./fit: Permission denied", "chmod +x"),
        (127, "env: 'fit': No such file or directory", "No such command"),
        (137, "", "SIGKILL"),
        (139, "", "segmentation fault"),
        (143, "", "SIGTERM"),
        (42, "", ""),
    ],
)
def test_exit_codes_and_the_logs_own_words_lead_to_advice(code, words, told):
    assert told in advice(why.ExitCode(code, message=words))
    assert f"Cause: exit code {code}" in explain_job(record(JobState.FAILED, failure=why.ExitCode(code, message=words)))


def test_want_of_memory_is_held_against_what_was_asked():
    job = record(JobState.FAILED, failure=why.OutOfMemory(message="its peak was 4.0 GiB"))
    assert "It asked for 4 GiB. Ask for more memory" in explain_job(job)


def test_a_batch_is_explained_by_cause_the_most_frequent_first():
    receipt = Receipt(exit_code=137, peak_ram=3.9)
    jobs = [
        record(JobState.SUCCEEDED),
        record(JobState.FAILED, failure=why.ExitCode(2, message="no such option")),
        *[record(JobState.FAILED, failure=why.OutOfMemory(), receipt=receipt)] * 2,
        record(JobState.LOST, failure=why.Lost()),
    ]
    assert explain_batch(jobs) == (
        "4 failed: 2 out of memory (asked 4 GiB, peak 3.9; try 8), 1 exit code 2 (no such option), 1 lost."
    )
    assert explain_batch(jobs[:1]) == "Nothing failed."


def test_a_batch_that_is_not_over_has_not_failed_so_far():
    assert explain_batch([record(JobState.SUCCEEDED), record(JobState.RUNNING)]) == "Nothing failed so far."


def test_every_job_that_failed_is_counted_also_where_nothing_says_why():
    jobs = [record(JobState.FAILED), record(JobState.LOST, failure=why.Lost())]
    assert explain_batch(jobs) == "2 failed: 1 failed, cause unknown, 1 lost."


@pytest.mark.parametrize(
    ("code", "said"), [(127, "command not found (exit code 127)"), (126, "command not executable (exit code 126)")]
)
def test_what_a_shell_says_of_the_command_itself_is_said_in_words(code, said):
    assert explain_batch([record(JobState.FAILED, failure=why.ExitCode(code))] * 1200) == f"1,200 failed: 1,200 {said}."
    told = explain_batch([record(JobState.FAILED, failure=why.ExitCode(code, message="fit: not here"))])
    assert told.endswith(f"({said.partition(' (')[2][:-1]}: fit: not here).")


def test_jobs_that_asked_for_different_memory_are_not_taken_for_alike():
    jobs = [record(JobState.FAILED, failure=why.OutOfMemory(), receipt=Receipt(exit_code=137, peak_ram=4.0))]
    attempt = attrs.evolve(jobs[0].attempts[0], resources=Resources(cores=2, ram=16))
    jobs.append(attrs.evolve(jobs[0], attempts=(attempt,)))
    assert explain_batch(jobs) == "2 failed: 2 out of memory (asked 4 to 16 GiB, peak 4.0; try 32)."


def test_memory_that_nobody_asked_for_is_to_be_asked_for():
    killed = record(JobState.FAILED, failure=why.Killed())
    killed = attrs.evolve(killed, attempts=(attrs.evolve(killed.attempts[0], resources=Resources()),))
    assert explain_batch([killed]) == "1 failed: 1 killed (asked the platform's default memory; say ram=)."


def test_an_explanation_is_one_line_without_secrets_whatever_jobs_print():
    message = "\x1b[31mapi_key=k3y\nrefused " + "x" * 5000
    told = explain_batch([record(JobState.FAILED, failure=why.ExitCode(1, message=message))])
    assert told.startswith("1 failed: 1 exit code 1 (api_key=*** refused xxx")
    assert told.endswith("x…).")
    assert len(told) < 250


def test_results_that_are_missing_are_not_kept_silent():
    jobs = [record(JobState.SUCCEEDED, collect_error="no cat/a.cat")]
    assert explain_batch(jobs) == "Nothing failed. 1 result could not be collected (no cat/a.cat)."


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-1, "0.0 s"),
        (0.25, "0.2 s"),
        (42, "42 s"),
        (119.4, "119 s"),
        (120, "2 min"),
        (7140, "119 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_times_are_told_as_people_do(seconds, said):
    assert span(seconds) == span(timedelta(seconds=seconds)) == said


# -- support ----------------------------------------------------------------------------------------------------------


def report(job, **fields):
    return support_report(job, **{"platform": "https://x/skaha/v1", "user": None, "log": "", "events": "", **fields})


def test_a_support_report_says_what_is_not_known():
    told = report(record(JobState.PLANNED, attempts=()))
    assert "none: the platform never gave one" in told
    assert "user unknown" in told
    assert "Exit code:" in told
    assert "please add" in told


def test_a_support_report_shows_the_end_of_the_log():
    told = report(record(JobState.RUNNING), log="\n".join(map(str, range(100))))
    assert told.endswith("End of the log:\n" + "\n".join(map(str, range(70, 100))) + "\n")


@pytest.mark.parametrize(
    "text",
    [
        "fit --token s3cr3t a.fits",
        "fit --api-key=s3cr3t",
        "export MY_PASSWORD='s3cr3t'",
        '{"client_secret": "s3cr3t", "a": 1}',
        "Authorization: Bearer s3cr3t",
        "curl -H 'authorization: basic s3cr3t'",
        "git clone https://me:s3cr3t@host/x",
        "-----BEGIN RSA PRIVATE KEY-----\ns3cr3t\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\ns3cr3t",
    ],
)
def test_what_looks_like_a_secret_is_taken_out(text):
    assert "s3cr3t" not in without_secrets(text)
    assert "***" in without_secrets(text)


@pytest.mark.parametrize(
    "text", ["the token is bad", "no password was given", "keyword: value", "--key 3 --secretive", "https://host/a:b@c"]
)
def test_prose_about_secrets_stays(text):
    assert without_secrets(text) == text


@pytest.mark.timeout(60)  # a pattern that looks back would take hours
@pytest.mark.parametrize("piece", ["token", "-token", "token ", "--", "bearer ", '"', 'token="', "://", "a:"])
def test_secrets_are_looked_for_at_once(piece):
    assert without_secrets(piece * 50_000)
