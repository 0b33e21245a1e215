"""Situations of a real cluster as a client sees them."""

import threading

import pytest

from canfar_batch.local import Production, cluster, processes

RUN = "trap 'echo told;exit 0' TERM;echo up;while [ ! -e go ];do sleep 0.02;done;echo end"
DEAF = "trap 'echo told' TERM;echo up;while [ ! -e go ];do sleep 0.02;done;echo end"


@pytest.fixture
def platform(start):
    return start(termination_grace=30)


@pytest.fixture
def situations(platform):
    return platform.situations


@pytest.fixture
def running(client, soon):
    """Launch a job that runs until the file `go` exists; its id, once it has begun to print."""

    def launched(script=RUN, **fields):
        id_ = client.sh(script, **fields)
        soon(lambda: client.logs(id_) == "up\n" and client.status(id_) == "Running")
        return id_

    return launched


@pytest.fixture
def events(client):
    """The status of the answer to a question for events, and the reasons."""

    def asked(id_):
        answer = client.ask("GET", f"/session/{id_}?view=events")
        reasons = [line.split()[1] for line in answer.text.splitlines()[1:]] if answer.status == 200 else []
        return answer.status, reasons

    return asked


def end(platform):
    (platform.home / "go").touch()


# Before a job runs


def test_a_failed_pull_may_pass(client, situations, events, soon):
    with situations.pull_error(cause="unauthorized"):
        id_ = client.launch("echo", "hello")
        soon(lambda: "BackOff" in events(id_)[1])
        assert (client.status(id_), "startTime" in client.show(id_)) == ("Pending", True)
        assert "401 Unauthorized" in client.events(id_)
        assert client.logs(id_) == ""
    assert client.wait(id_) == "Completed"
    assert events(id_)[1][-1] == "Started"


def test_a_situation_may_end_by_itself(client, situations):
    situations.pull_error(seconds=0.05)
    assert client.wait(client.launch("true")) == "Completed"


def test_a_pull_may_take_long(client, situations, events, soon):
    pull = situations.slow_pull("slow")
    id_, other = client.launch("true", name="slow"), client.launch("true", name="quick")
    assert client.wait(other) == "Completed"
    soon(lambda: events(id_)[1] == ["Scheduled", "Pulling"])
    assert (client.status(id_), "startTime" in client.show(id_)) == ("Pending", True)
    pull.end()
    pull.end()
    assert client.wait(id_) == "Completed"


def test_there_may_be_no_room(client, situations, events, soon):
    with situations.no_room():
        id_ = client.launch("true")
        soon(lambda: events(id_)[1] == ["FailedScheduling"])
        assert (client.status(id_), "startTime" in client.show(id_)) == ("Pending", True)
        assert client.events(id_).split()[-2:] == ["<nil>", "<nil>"]
    assert client.wait(id_) == "Completed"


def test_a_job_can_be_deleted_while_it_waits_for_its_image(client, platform, situations):
    situations.slow_pull()
    id_ = client.launch("true", name="never")
    client.ask("DELETE", f"/session/{id_}")
    assert platform.wait_idle(30)
    assert platform.starts["never"] == 0


def test_a_node_may_refuse_a_pod(client, situations, events, soon):
    situations.no_room()
    id_ = client.launch("true", name="refused")
    soon(lambda: events(id_)[1])
    situations.refuse_pod("refused")
    assert client.status(id_) == "Failed"
    assert events(id_) == (200, ["FailedScheduling", "OutOfcpu"])
    assert client.logs(id_) == ""


# What ends a running job


def test_a_drained_job_that_ends_with_0_is_completed_without_a_trace(client, situations, running, events, soon):
    id_ = running()
    situations.drain(id_)
    assert client.wait(id_) == "Completed"
    soon(lambda: events(id_) == (404, []))
    assert client.logs(id_) == ""


def test_a_drained_job_that_ends_otherwise_is_failed_without_a_trace(client, situations, running, events, soon):
    id_ = running("echo up;while [ ! -e go ];do sleep 0.02;done")
    situations.delete_pod(id_)
    assert client.wait(id_) == "Failed"
    soon(lambda: events(id_) == (404, []))
    assert client.logs(id_) == ""


def test_a_job_may_be_failed_while_its_process_runs(client, platform, situations, running, events, soon):
    id_ = running(DEAF)
    situations.delete_pod(id_, failed_after=0)
    assert client.status(id_) == "Failed"
    assert events(id_)[1][-1] == "Killing"
    soon(lambda: client.logs(id_) == "up\ntold\n")
    assert platform.job(id_).pid is not None
    end(platform)
    soon(lambda: events(id_) == (404, []))
    assert client.logs(id_) == ""
    assert client.status(id_) == "Failed"


def test_the_schedulers_preemption_is_never_a_success(client, situations, running, events, soon):
    id_ = running()
    situations.preempt_by_scheduler(id_)
    assert client.wait(id_) == "Failed"
    soon(lambda: events(id_) == (404, []))


def test_at_the_deadline_a_job_is_failed_at_once(start, client_of, soon):
    platform = start(termination_grace=30, deadline=0.3)
    client = client_of(platform)
    id_ = client.sh("trap 'echo told;exit 0' TERM;while :;do sleep 0.02;done")
    assert client.wait(id_) == "Failed"
    soon(lambda: client.ask("GET", f"/session/{id_}?view=events").status == 404)
    assert client.logs(id_) == ""


def test_a_deadline_can_be_reached_on_demand(client, situations, running, events, soon):
    id_ = running()
    situations.reach_deadline(id_)
    assert client.status(id_) == "Failed"
    soon(lambda: events(id_) == (404, []))


def test_another_client_may_delete_a_job(client, platform, situations, running):
    id_ = running(name="batch-key7-x")
    situations.delete_job("key7")
    assert client.ask("GET", f"/session/{id_}").text == f"session {id_} not found\n"
    assert platform.wait_idle(30)


@pytest.mark.parametrize("cause", ["memory", "disk", "storage", "own storage"])
def test_an_evicted_job_keeps_its_events(client, situations, running, events, cause):
    id_ = running()
    situations.evict(id_, cause)
    assert client.wait(id_) == "Failed"
    assert events(id_)[0] == 200
    assert "Evicted" in events(id_)[1]


def test_a_killed_job_leaves_no_event(client, situations, running, events):
    id_ = running()
    situations.kill(id_)
    assert client.wait(id_) == "Failed"
    assert events(id_)[1][-1] == "Started"
    assert client.logs(id_) == "up\n"


@pytest.mark.parametrize("end", ["kill", "evict", "node_lost"])
def test_what_ends_a_job_at_the_moment_of_its_start_is_not_lost(client, platform, situations, monkeypatch, soon, end):
    begins, may_go_on = threading.Event(), threading.Event()

    class Slow(processes.JobProcess):
        def __init__(self, *given):
            begins.set()
            assert may_go_on.wait(30)
            super().__init__(*given)

    monkeypatch.setattr(cluster, "JobProcess", Slow)
    id_ = client.launch("sleep", "600")
    assert begins.wait(30)
    lasting = getattr(situations, end)(id_)
    may_go_on.set()
    assert platform.wait_idle(30)
    if lasting is not None:
        lasting.end()
    assert client.status(id_) == "Failed"


def test_a_node_that_restarts_takes_its_jobs_along_without_an_event(client, platform, situations, running, events):
    id_ = running()
    situations.restart_node(id_)
    assert client.wait(id_) == "Failed"
    assert platform.job(id_).exit_code == -9 or platform.job(id_).exit_code == 137
    assert events(id_)[1][-1] == "Started"


# Under the same id


def test_a_preempted_job_begins_again(client, platform, situations, running, events, soon):
    id_ = running("echo up;while [ ! -e go ];do sleep 0.02;done;echo end")
    situations.preempt(id_, hold=True)
    assert client.status(id_) == "Pending"
    assert not {"startTime", "expiryTime"} & client.show(id_).keys()
    assert client.ask("POST", f"/session/{id_}", {"action": "renew"}).status == 400
    soon(lambda: events(id_) == (404, []))
    assert client.logs(id_) == ""
    end(platform)
    situations.resume(id_)
    assert client.wait(id_) == "Completed"
    assert client.logs(id_) == "up\nend\n"
    assert platform.job(id_).starts == 2


def test_exit_code_0_of_a_preempted_job_counts_for_nothing(client, platform, situations, running):
    id_ = running()
    situations.preempt(id_, hold=True)
    assert platform.wait_idle(30)
    assert client.status(id_) == "Pending"


def test_the_old_process_goes_on_while_a_job_is_suspended(client, platform, situations, running, events, soon):
    id_ = running(DEAF)
    situations.preempt(id_, hold=True)
    soon(lambda: client.logs(id_) == "up\ntold\n")
    assert events(id_)[1][-1] == "Killing"
    end(platform)
    soon(lambda: events(id_) == (404, []))


def test_two_pods_of_one_job_may_overlap(client, platform, situations, running, events, soon):
    id_ = running(DEAF)
    situations.preempt(id_, overlap=True)
    soon(lambda: client.status(id_) == "Running")
    assert client.events(id_) == "<none>\n"
    soon(lambda: client.logs(id_) == "up\ntold\nup\n")
    assert platform.job(id_).pods == 2
    end(platform)
    soon(lambda: platform.job(id_).pods == 1)
    assert client.wait(id_) == "Completed"
    assert client.logs(id_) == "up\nend\n"
    assert events(id_)[0] == 200


def test_a_row_may_be_running_without_a_start_time(client, situations, running, soon):
    id_ = running()
    situations.preempt(id_, hold=True, torn=0.3)
    shown = client.show(id_)
    assert (shown["status"], "startTime" in shown) == ("Running", False)
    soon(lambda: client.status(id_) == "Pending")


def test_an_interactive_session_may_take_the_place_of_all_jobs(client, platform, situations, running, soon):
    ids = [running("echo up;while [ ! -e go ];do sleep 0.02;done", name=f"job-{number}") for number in range(3)]
    with situations.preempt_all():
        queued = client.launch("true")
        assert [client.status(id_) for id_ in (*ids, queued)] == ["Pending"] * 4
        assert not any("startTime" in one for one in client.list())
    end(platform)
    assert [client.wait(id_) for id_ in (*ids, queued)] == ["Completed"] * 4
    assert [platform.job(id_).starts for id_ in ids] == [2, 2, 2]


def test_an_interactive_session_takes_the_place_of_as_many_jobs_as_it_needs(start, client_of, soon):
    platform = start(cores=3, ram=64, strict_quota=True, termination_grace=30)
    client = client_of(platform)
    ids = [client.sh(DEAF, cores=1, ram=1) for _ in range(3)]
    for id_ in ids:
        soon(lambda id_=id_: client.status(id_) == "Running")
    with platform.situations.interactive(cores=2):
        assert [client.status(id_) for id_ in ids] == ["Running", "Pending", "Pending"]
        queued = client.launch("true", cores=1, ram=1)
        assert "startTime" not in client.show(queued)
    soon(lambda: client.status(ids[1]) == "Running" and client.events(ids[1]) == "<none>\n")
    end(platform)
    assert [client.wait(id_) for id_ in (*ids, queued)] == ["Completed"] * 4
    assert [platform.job(id_).starts for id_ in ids] == [1, 2, 2]


def test_in_production_sessions_come_and_go_by_themselves(start, client_of, soon):
    habits = Production(seed=3, every=(0.2, 0.4), lasts=(0.2, 0.4), at_most=1, delayed=1.0, admission=(0.1, 0.2))
    platform = start(cores=2, ram=8, production=habits, pull=0.05, pending_at_end=0.05)
    client = client_of(platform)
    first = client.sh("while [ ! -e go ];do sleep 0.02;done", cores=1, ram=1)
    assert "startTime" not in client.show(first)  # admitted later, though there is room
    larger = client.launch("true", cores=3, ram=1)
    soon(lambda: platform.job(first).starts == 2)
    end(platform)
    assert client.wait(first) == "Completed"
    assert (client.status(larger), "startTime" in client.show(larger)) == ("Pending", False)
    assert platform.job(first).starts == 2
    assert client.ask("GET", "/context").json["maxInteractiveSessions"] == 5  # the limits of a LimitRange


def test_by_hand_the_old_start_time_stays(client, platform, situations, running):
    id_ = running()
    before = client.show(id_)["startTime"]
    situations.suspend(id_)
    assert (client.status(id_), client.show(id_)["startTime"]) == ("Pending", before)
    end(platform)
    situations.resume(id_)
    assert client.wait(id_) == "Completed"


def test_a_suspended_job_can_be_deleted(client, platform, situations, running):
    id_ = running()
    situations.preempt(id_, hold=True)
    client.ask("DELETE", f"/session/{id_}")
    assert client.ask("GET", f"/session/{id_}").status == 404
    assert platform.wait_idle(30)
    assert client.list() == []


# Nodes that do not report


def test_a_job_on_a_silent_node_is_pending_and_runs_on(client, platform, situations, running, events, soon):
    id_ = running()
    with situations.node_silent(id_):
        assert (client.status(id_), "startTime" in client.show(id_)) == ("Pending", True)
        assert events(id_)[1][-1] == "NodeNotReady"
    assert client.status(id_) == "Running"
    with situations.node_silent(id_):
        end(platform)
        assert platform.wait_idle(30)
        assert client.status(id_) == "Pending"
    assert client.status(id_) == "Completed"


def test_a_job_on_a_lost_node_is_failed_after_a_while(client, platform, situations, running, events):
    id_ = running()
    with situations.node_lost(id_):
        assert platform.wait_idle(30)
        assert (client.status(id_), client.logs(id_)) == ("Running", "")
    assert client.status(id_) == "Failed"
    assert events(id_) == (404, [])
    assert client.logs(id_) == ""


# The answers of the service


def test_a_log_may_be_unavailable(client, situations, running):
    id_ = running()
    with situations.hide_log(id_):
        answer = client.ask("GET", f"/session/{id_}?view=logs")
        assert (answer.status, answer.body) == (200, b"")
    assert client.logs(id_) == "up\n"


def test_a_log_may_be_rotated(client, platform, situations, running):
    id_ = running()
    situations.rotate_log(id_, keep=1)
    end(platform)
    assert client.wait(id_) == "Completed"
    assert client.logs(id_) == "\nend\n"


def test_pending_may_flash_at_an_ordinary_end(client, situations, soon):
    with situations.pending_at_end(60):
        id_ = client.sh("echo up")
        soon(lambda: client.logs(id_))
        soon(lambda: client.status(id_) == "Pending" and client.logs(id_))
        assert "startTime" in client.show(id_)


def test_the_flash_of_pending_passes(client, situations):
    with situations.pending_at_end(0.05):
        assert client.wait(client.sh("exit 3")) == "Failed"


def test_a_job_can_be_deleted_while_its_end_is_not_noticed(client, platform, situations, running, caplog):
    lost, silent = running(name="lost"), running(name="silent")
    with situations.node_lost(lost), situations.node_silent(silent), situations.pending_at_end(0.05):
        flashing = client.launch("true")
        for id_ in (lost, silent, flashing):
            client.ask("DELETE", f"/session/{id_}")
    assert platform.wait_idle(30)
    assert client.list() == []
    assert "failed" not in caplog.text


def test_without_the_controller_nothing_starts_and_no_end_is_noticed(client, platform, situations, running, soon):
    id_ = running()
    with situations.controller_away():
        end(platform)
        queued = client.launch("true")
        soon(lambda: platform.job(id_).pid is None)
        assert client.status(id_) == "Running"
        assert (client.status(queued), "startTime" in client.show(queued)) == ("Pending", False)
    assert client.wait(id_) == "Completed"
    assert client.wait(queued) == "Completed"


def test_the_platform_may_forget_sooner(client, situations, soon):
    kept = client.launch("true")
    client.wait(kept)
    situations.remember(0.0)
    id_ = client.launch("true")
    soon(lambda: client.ask("GET", f"/session/{id_}").status == 404)
    assert client.status(kept) == "Completed"


def test_a_strict_quota_lets_small_jobs_pass_and_large_ones_wait_for_ever(start, client_of):
    client = client_of(start(cores=2, ram=64, strict_quota=True))
    large = client.launch("true", cores=4, ram=4)
    small = [client.launch("true", cores=1, ram=1) for _ in range(3)]
    assert [client.wait(id_) for id_ in small] == ["Completed"] * 3
    assert (client.status(large), "startTime" in client.show(large)) == ("Pending", False)


# How jobs are named


def test_jobs_are_found_by_id_name_or_key(client, platform, situations, running):
    first, second = running(name="calib-m31-x7-1"), running(name="calib-m31-x7-2")
    situations.kill("calib-m31-x7-1")
    assert client.wait(first) == "Failed"
    situations.kill("m31")  # the latest
    assert client.wait(second) == "Failed"
    with pytest.raises(LookupError, match="m33"):
        situations.kill("m33")
    with pytest.raises(ValueError, match="not running"):
        situations.drain(first)
