"""One job from end to end, over the REST layer and the local platform: what its user sees."""

import datetime as dt
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from canfar_batch import JobState, errors, failures
from canfar_batch.local import cluster, processes
from canfar_batch.local.faults import after, answer, cut_short, drop, login_page, rewrite

IMAGE = "skaha/astroml:latest"
UTC = dt.timezone.utc


@pytest.fixture
def platform(local_platform):
    return local_platform()


@pytest.fixture
def session(platform, session_on):
    return session_on(platform)


@pytest.fixture
def run(session):
    """Launch a command and wait for its end."""

    def to_its_end(cmd, **fields):
        return session.launch(cmd, image=IMAGE, **fields).wait(timeout=60, poll=0.1)

    return to_its_end


def until(job, *states):
    """Ask until the job is in one of these states."""
    gate = threading.Event()
    for _ in range(600):
        if job.refresh().state in states:
            return job
        gate.wait(0.05)
    raise AssertionError(f"{job} never was {states}")


# -- how it ends ------------------------------------------------------------------------------------------------------


def test_a_job_that_succeeds_has_exit_code_memory_and_times(run):
    before = dt.datetime.now(UTC)
    measured = "[ $(cat $CANFAR_BATCH_CGROUP/memory.peak) -gt 0 ]"
    job = run(["sh", "-c", f"echo 42; until {measured}; do sleep 0.02; done"], cores=1, ram=2)
    assert job.state is JobState.SUCCEEDED
    assert job.exit_code == 0
    assert job.failure is None
    assert 0 < job.peak_ram < 2
    assert job.cpu_seconds >= 0
    assert job.logs() == "42\n"
    assert job.attempt == 1
    assert job.started_at.utcoffset() == dt.timedelta(0)
    assert before - dt.timedelta(seconds=1) <= job.started_at <= job.finished_at
    assert job.raise_if_failed() is job
    assert repr(job) == f"<Job {job.key} succeeded, exit code 0, id={job.id}>"


def test_a_job_that_fails_says_why_and_shows_the_end_of_its_log(run):
    job = run(["sh", "-c", "echo working; echo 'fatal: no convergence' >&2; exit 3"])
    assert job.state is JobState.FAILED
    assert job.exit_code == 3
    assert job.failure == failures.ExitCode(3, message="fatal: no convergence")
    with pytest.raises(errors.JobFailed, match="exit code 3: fatal: no convergence") as caught:
        job.raise_if_failed()
    assert "  | working\n  | fatal: no convergence" in str(caught.value)
    assert isinstance(caught.value, RuntimeError)


def test_the_jobs_own_bytes_come_back_exactly(run):
    code = "import sys; sys.stdout.buffer.write(bytes(range(256)) + b'no newline at the end')"
    job = run([sys.executable, "-c", code])
    assert job.logs(encoding=None) == bytes(range(256)) + b"no newline at the end"
    assert "\ufffd" in job.logs()


def test_declared_outputs_are_sized_where_they_were_written(run, away_from_home):
    job = run(["sh", "-c", "printf 12345 > a.cat"], outputs=["*.cat"])
    assert job.outputs == {"a.cat": 5}
    assert (away_from_home / "a.cat").read_text() == "12345"


def test_a_job_without_its_declared_output_did_not_succeed(run):
    job = run("true", outputs=["result.fits"])
    assert job.state is JobState.FAILED
    assert job.failure.missing == ("result.fits",)
    assert "result.fits" in job.explain()


def test_without_a_receipt_a_success_is_marked_as_unverified(run):
    good, bad = run("true", receipt=False), run(["sh", "-c", "echo oh no; exit 4"], receipt=False)
    assert good.state is JobState.SUCCEEDED
    assert good.exit_code is None
    assert "no receipt confirms it" in good.explain()
    assert bad.failure == failures.Unknown(message="oh no", inferred=True)


def test_a_job_that_runs_longer_than_its_timeout_is_stopped(run):
    job = run("sleep 60", timeout=0.3)
    assert isinstance(job.failure, failures.TimedOut)
    assert "timeout=" in job.explain()


def test_a_job_that_waits_longer_than_its_pending_timeout_is_removed(platform, session):
    platform.hold()
    job = session.launch("true", image=IMAGE, pending_timeout=0.2).wait(timeout=60, poll=0.1)
    assert isinstance(job.failure, failures.StuckPending)
    assert platform.jobs() == []


def test_environment_values_win_over_those_of_the_platform(run):
    env = {"OMP_NUM_THREADS": "7", "EQUALS": "a=b==", "EMPTY": "", "QUOTES": "'\"$HOME\\", "N": "n"}
    code = "import os, sys, json; print(json.dumps([sys.argv[1:], [os.environ.get(n) for n in sys.argv[1].split()]]))"
    job = run([sys.executable, "-c", code, " ".join(env), "", "two  words", "$(rm x)", '"'], env=env, cores=2)
    assert json.loads(job.logs()) == [[" ".join(env), "", "two  words", "$(rm x)", '"'], list(env.values())]


def test_the_variables_that_the_guides_scripts_read_are_there(run):
    job = run(["sh", "-c", "echo $SKAHA_SESSION_ID $CANFAR_BATCH_KEY $CANFAR_BATCH_ATTEMPT"])
    assert job.logs() == f"{job.id} {job.key} 1\n"


def test_a_name_shows_in_the_portal(platform, run):
    job = run("true", name="M31 field/7")
    assert job.name.startswith("m31-field-7-")
    assert [info.name for info in platform.jobs()] == [job.name]


# -- waiting and following --------------------------------------------------------------------------------------------


def test_a_wait_that_takes_too_long_ends_and_the_job_runs_on(session):
    job = session.launch("sleep 600", image=IMAGE)
    with pytest.raises(TimeoutError, match=r"still (pending|running) after 0\.3 s; it runs on") as caught:
        job.wait(timeout=0.3, poll=0.1)
    assert isinstance(caught.value, errors.WaitTimeout)
    assert not job.refresh().state.final
    job.cancel()


def test_a_wait_ends_when_the_platform_forgets_the_job(platform, session):
    job = until(session.launch("sleep 600", image=IMAGE), JobState.RUNNING)
    platform.forget(job.id)
    job.wait(timeout=60, poll=0.1)
    assert isinstance(job.failure, failures.Deleted)
    assert job.state is JobState.FAILED
    with pytest.raises(errors.JobFailed, match="deleted by somebody else"):
        job.raise_if_failed()


def test_one_missing_answer_says_nothing_about_a_job(platform, session):
    job = session.launch("true", image=IMAGE)
    platform.faults.add(answer(404, f"session {job.id} not found\n"), on="show", first=2)
    assert job.wait(timeout=60, poll=0.1).state is JobState.SUCCEEDED


@pytest.mark.parametrize("trouble", [login_page(), answer(500, "unexpected exception: x"), drop(), cut_short()])
def test_a_wait_outlives_bad_answers(platform, session, trouble):
    job = session.launch("true", image=IMAGE)
    platform.faults.add(trouble, on="show", first=2)
    assert job.wait(timeout=60, poll=0.1).state is JobState.SUCCEEDED


def test_a_log_that_is_not_available_at_first_is_fetched_again(platform, session):
    platform.faults.add(answer(503, "temporarily unavailable: null\n"), on="logs", first=5)
    job = session.launch(["sh", "-c", "echo here; exit 5"], image=IMAGE).wait(timeout=60, poll=0.1)
    assert job.exit_code == 5
    assert job.logs() == "here\n"


def test_an_incomplete_log_is_fetched_again(platform, session):
    job = session.launch(["sh", "-c", "echo here"], image=IMAGE)
    platform.wait_idle(30)
    platform.faults.add(rewrite(lambda body: body[: body.rfind(b"#canfar_batch")]), on="logs", first=1)
    assert job.wait(timeout=60).exit_code == 0


def test_lines_are_followed_as_they_come(session, away_from_home):
    script = "echo one; until [ -e go ]; do sleep 0.02; done; printf 'two\\nthree'"
    lines = session.launch(["sh", "-c", script], image=IMAGE).follow(poll=0.05)
    assert next(lines) == "one"
    (away_from_home / "go").touch()
    assert list(lines) == ["two", "three"]


def test_binary_output_is_followed_line_by_line(session):
    code = r"import sys; sys.stdout.buffer.write(b'10%\r20%\r\nno \xff text\n\x0c\xe2\x80\xa8\n\nlast')"
    lines = list(session.launch([sys.executable, "-c", code], image=IMAGE).follow(poll=0.05))
    assert lines == ["10%\r20%", "no \ufffd text", "\x0c\u2028", "", "last"]


def test_a_job_that_the_platform_restarts_is_followed_from_its_start(platform, session, away_from_home):
    script = "date +%N; echo begun; until [ -e go ]; do sleep 0.02; done; echo done"
    job = session.launch(["sh", "-c", script], image=IMAGE)
    lines = job.follow(poll=0.05)
    first, begun = next(lines), next(lines)
    platform.preempt(job.id)
    second, again = next(lines), next(lines)
    (away_from_home / "go").touch()
    assert begun == again == "begun"
    assert first != second
    assert list(lines) == ["done"]
    assert job.state is JobState.SUCCEEDED
    assert platform.starts == {job.name: 2}


def test_events_show_what_the_platform_noted(session):
    job = until(session.launch("sleep 600", image=IMAGE), JobState.RUNNING)
    assert "Started container" in job.events()
    job.cancel()


# -- cancelling -------------------------------------------------------------------------------------------------------


def test_a_cancelled_job_is_removed_and_its_log_is_kept(platform, session):
    job = session.launch(["sh", "-c", "echo begun; exec sleep 600"], image=IMAGE)
    assert next(job.follow(poll=0.05)) == "begun"
    assert job.cancel().state is JobState.CANCELLED
    assert platform.jobs() == []
    assert job.logs() == "begun\n"
    assert job.wait(timeout=5).state is JobState.CANCELLED
    assert job.explain() == f"Job {job.key} was cancelled."
    with pytest.raises(errors.JobFailed, match="was cancelled"):
        job.raise_if_failed()


def test_a_job_can_be_cancelled_before_it_begins(platform, session):
    platform.hold()
    assert session.launch("true", image=IMAGE).cancel().state is JobState.CANCELLED
    assert platform.jobs() == []


@pytest.mark.parametrize("receipt", [True, False])
def test_cancelling_a_job_that_has_just_ended_changes_nothing(platform, session, receipt):
    job = session.launch("true", image=IMAGE, receipt=receipt)
    platform.wait_idle(30)
    assert not job.state.final
    assert job.cancel().state is JobState.SUCCEEDED
    assert platform.requests.counts["delete"] == 0


def test_a_second_cancel_changes_nothing(session):
    job = session.launch("sleep 600", image=IMAGE).cancel()
    assert job.cancel().state is JobState.CANCELLED


def test_a_job_is_stopped_even_if_its_log_cannot_be_saved(platform, session):
    job = until(session.launch("sleep 600", image=IMAGE), JobState.RUNNING)
    platform.faults.add(answer(500, "unexpected exception: x"), on="logs")
    assert job.cancel().state is JobState.CANCELLED
    assert platform.jobs() == []


def test_a_cancel_that_is_not_confirmed_is_not_believed(platform, session):
    job = until(session.launch("sleep 600", image=IMAGE), JobState.RUNNING)
    with (
        platform.faults.during(answer(200), on="delete"),
        pytest.raises(errors.WaitTimeout, match="still shows"),
    ):
        job.cancel(timeout=0.2)
    assert job.refresh().state is JobState.RUNNING
    assert job.cancel().state is JobState.CANCELLED


# -- why --------------------------------------------------------------------------------------------------------------


def test_the_explanation_of_a_queued_job_says_that_it_waits(platform, session):
    platform.hold()
    text = session.launch("true", image=IMAGE).refresh().explain()
    assert "waits on the platform for" in text
    assert "no events for it yet" in text


def test_an_image_that_cannot_be_fetched_is_named(platform, session):
    platform.hold()
    job = session.launch("true", image=IMAGE).refresh()
    header = "TYPE   REASON   MESSAGE   FIRST-TIME   LAST-TIME\n"
    event = 'Warning   Failed   Failed to pull image "x:no-such-tag": ErrImagePull   <none>   <none>\n'
    platform.faults.add(answer(200, header + event), on="events")
    assert "image cannot be fetched" in job.explain()
    assert "session.images()" in job.explain()


def test_a_missing_command_is_explained(run):
    job = run("no-such-program --fast")
    assert job.exit_code == 127
    assert "No such command in the container" in job.explain()


def test_a_missing_file_is_explained(run):
    job = run("python no_such_script.py")
    assert job.exit_code == 2
    assert "A file was not found" in job.explain()


HOG = [
    sys.executable,
    "-c",
    "block = bytearray(200 << 20)\nfor i in range(0, len(block), 4096): block[i] = 1\nimport time\ntime.sleep(60)",
]


def test_a_process_that_ran_out_of_memory_is_known_by_its_receipt(local_platform, session_on):
    session = session_on(local_platform(ram_scale=0.1))
    job = session.launch(["sh", "-c", '"$@"; exit $?', "sh", *HOG], image=IMAGE, cores=1, ram=1)
    job.wait(timeout=60, poll=0.1)
    assert isinstance(job.failure, failures.OutOfMemory)
    assert "It asked for 1 GiB. Ask for more memory" in job.explain()


def test_a_container_that_was_killed_as_a_whole_probably_lacked_memory(local_platform, session_on):
    session = session_on(local_platform(ram_scale=0.1, oom="group"))
    job = session.launch(HOG, image=IMAGE, cores=1, ram=1).wait(timeout=60, poll=0.1)
    assert isinstance(job.failure, failures.Killed)
    assert job.exit_code is None
    assert "memory beyond what was asked is the likely cause" in job.explain()


def test_an_evicted_job_is_not_to_blame(platform, session):
    job = until(session.launch("sleep 600", image=IMAGE), JobState.RUNNING)
    platform.evict(job.id)
    job.wait(timeout=60, poll=0.1)
    assert isinstance(job.failure, failures.Evicted)
    assert "used more memory than it asked for" in job.explain()


def test_an_eviction_before_the_first_line_of_the_log_is_told_at_once(platform, session, monkeypatch):
    class Mute(processes.JobProcess):
        def __init__(self, words, *given):
            super().__init__(["sleep", "600"], *given)  # it is evicted before its wrapper has printed

    monkeypatch.setattr(cluster, "JobProcess", Mute)
    job = until(session.launch("sleep 600", image=IMAGE), JobState.RUNNING)
    platform.evict(job.id)
    job.wait(timeout=30, poll=0.1)
    assert isinstance(job.failure, failures.Evicted)
    assert "its log was not available" in job.explain()


def test_a_support_report_is_complete_and_contains_no_secret(platform, session):
    words = ["sh", "-c", "echo PASSWORD=hunter2; echo 'Error: no sky'; exit 9", "sh", "--api-key", "k3y-value"]
    env = {"MY_TOKEN": "t0ken-value"}
    job = session.launch(words, image=IMAGE, cores=1, ram=2, env=env).wait(timeout=60, poll=0.1)
    report = job.support_report(expected="a map of the sky", project="mygroup")
    wanted = [
        job.id,
        job.name,
        "images.canfar.net/skaha/astroml:latest",
        "1 core, 2 GiB",
        "mygroup",
        "a map of the sky",
    ]
    wanted += ["Exit code:", "Error: no sky", "exit code 9", "Started:", "Finished:", "sh -c", platform.url]
    assert [text for text in wanted if text not in report] == []
    secrets = ["hunter2", "k3y-value", "t0ken-value", platform.token]
    assert [text for text in secrets if text in report] == []


# -- a create is sent once --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lost", [drop(), answer(504, "Gateway Timeout"), answer(500, "unexpected exception: x"), login_page(), cut_short()]
)
def test_a_launch_whose_answer_is_lost_is_found_by_its_name(platform, session, lost):
    platform.faults.add(after(lost), on="create")
    job = session.launch(["echo", "here"], image=IMAGE)
    assert job.wait(timeout=60, poll=0.1).logs() == "here\n"
    assert platform.requests.counts["create"] == 1
    assert platform.requests.accepted == {job.name: 1}
    assert platform.starts == {job.name: 1}


def test_a_launch_whose_outcome_stays_unknown_is_in_doubt_and_not_repeated(platform, session):
    platform.faults.add(drop(), on="create")
    with pytest.raises(errors.LaunchInDoubt, match=r"session\.jobs\(\)") as caught:
        session.launch("true", image=IMAGE, name="lonely")
    assert caught.value.launch_name.startswith("lonely-")
    assert caught.value.launch_name in str(caught.value)
    assert platform.requests.counts["create"] == 1
    assert platform.requests.counts["list"] >= 3
    assert platform.jobs() == []


def test_a_launch_stays_in_doubt_if_the_list_is_not_available(platform, session_on):
    session = session_on(platform, settle=0.01)
    platform.faults.add(after(drop()), on="create")
    platform.faults.add(answer(403, "Not authorized to list\n"), on="list")
    with pytest.raises(errors.LaunchInDoubt, match="list is not available"):
        session.launch("true", image=IMAGE)
    assert platform.requests.counts["create"] == 1


def test_a_refused_launch_runs_nothing(platform, session):
    platform.faults.add(answer(403, "Not authorized to create a headless session\n"), on="create")
    with pytest.raises(errors.AccessDenied, match="Not authorized"):
        session.launch("true", image=IMAGE)
    assert platform.requests.counts["create"] == 1


@pytest.mark.parametrize(
    ("asked", "advice"), [({"cores": 999}, "16"), ({"ram": 5}, "6"), ({"gpus": 99}, "28"), ({"cores": 1.5}, "take 2")]
)
def test_resources_that_are_not_offered_are_refused_before_sending(platform, session, asked, advice):
    with pytest.raises(errors.SpecError, match=advice):
        session.launch("true", image=IMAGE, **asked)
    assert platform.requests.counts["create"] == 0


def test_without_limits_the_platform_decides_about_resources(platform, session):
    platform.faults.add(answer(403, "Not authorized to see that\n"), on="context")
    assert session.launch("true", image=IMAGE, cores=2).wait(timeout=60, poll=0.1).state is JobState.SUCCEEDED


def test_a_launch_without_an_image_says_where_to_find_one(session):
    with pytest.raises(errors.SpecError, match=r"session\.images\(\)"):
        session.launch("true")


def test_sixteen_threads_share_one_session(platform, session):
    def one(number):
        job = session.launch(["sh", "-c", f"echo {number}; exit {number}"], image=IMAGE, name=f"n{number}")
        return job.wait(timeout=90, poll=0.2)

    with ThreadPoolExecutor(16) as pool:
        jobs = list(pool.map(one, range(16)))
    assert [job.exit_code for job in jobs] == list(range(16))
    assert [job.logs() for job in jobs] == [f"{number}\n" for number in range(16)]
    assert platform.requests.counts["create"] == 16
    assert set(platform.starts.values()) == {1}


# -- what exists ------------------------------------------------------------------------------------------------------


def test_jobs_are_found_again_with_their_outcome(platform, session, session_on):
    good = session.launch("echo fine", image=IMAGE).wait(timeout=60, poll=0.1)
    bad = session.launch(["sh", "-c", "exit 6"], image=IMAGE).wait(timeout=60, poll=0.1)
    running = until(session.launch("sleep 600", image=IMAGE, cores=1, ram=2), JobState.RUNNING)

    found = {job.id: job for job in session_on(platform).jobs()}
    states = {good.id: JobState.SUCCEEDED, bad.id: JobState.FAILED, running.id: JobState.RUNNING}
    assert {id: job.state for id, job in found.items()} == states
    assert found[bad.id].wait().exit_code == 6
    assert found[good.id].refresh().logs() == "fine\n"
    assert found[running.id].spec.ram == 2
    assert found[running.id].cancel().state is JobState.CANCELLED


def test_the_listed_outcome_holds_after_the_platform_forgets(platform, session):
    done = session.launch("true", image=IMAGE).wait(timeout=60, poll=0.1)
    (found,) = session.jobs()
    platform.forget(done.id)
    assert found.wait(timeout=60, poll=0.1).state is JobState.SUCCEEDED


def test_a_job_is_found_by_its_id(platform, session):
    done = session.launch(["sh", "-c", "exit 6"], image=IMAGE).wait(timeout=60, poll=0.1)
    found = session.job(done.id)
    assert (found.exit_code, found.key, found.state) == (6, done.key, JobState.FAILED)
    platform.forget(done.id)
    with pytest.raises(errors.JobNotFound, match=done.id):
        session.job(done.id)


def test_images_limits_usage_and_statistics_are_shown(platform, session):
    assert "images.canfar.net/skaha/astroml:latest" in [image.id for image in session.images()]
    assert len(session.images(kind=None)) > len(session.images())
    assert session.limits().default_ram > 0
    assert session.usage().active == 0
    job = session.launch("sleep 600", image=IMAGE, cores=2, ram=4)
    usage = session.usage()
    assert (usage.active, usage.cores, usage.interactive) == (1, 2.0, 0)
    assert usage.ram == pytest.approx(4, abs=0.01)
    assert "cores" in session.stats()
    job.cancel()


def test_a_script_beside_the_driver_is_found_by_its_relative_path(run):
    Path("hello.py").write_text("import sys; print('hello', *sys.argv[1:])")
    assert run("python hello.py 'two words'").logs() == "hello two words\n"
