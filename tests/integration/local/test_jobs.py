"""Jobs as processes: their surroundings, their ends, and what remains of them."""

import json
import os
import re
import signal
import sys
import threading
from pathlib import Path

import pytest


def alive(pid):
    """Whether a process runs; a zombie, which only waits to be counted, does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        if sys.platform.startswith("linux"):
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True
    return stat.rpartition(")")[2].split()[0] != "Z"


# The surroundings of a job


def test_a_job_finds_the_variables_of_the_platform(client, platform, monkeypatch):
    monkeypatch.setenv("CANFAR_TOKEN", "secret")
    monkeypatch.setenv("SOME_SECRET", "secret")
    id_ = client.python("import json, os; print(json.dumps(dict(os.environ)))", name="Seeing", cores=2)
    assert client.wait(id_) == "Completed"
    seen = json.loads(client.logs(id_))
    assert seen["skaha_sessionid"] == id_
    assert seen["skaha_username"] == "local"
    assert seen["skaha_hostname"] == f"127.0.0.1:{client.port}"
    assert seen["HOME"] == seen["PWD"] == str(platform.home)
    assert seen["OMP_NUM_THREADS"] == "2"
    assert seen["HOSTNAME"] == "seeing"
    assert seen["PATH"].split(":")[0] == str(Path(sys.executable).parent)
    assert "secret" not in "".join(seen.values())
    assert {name for name in seen if name.startswith("CANFAR_")} == {"CANFAR_BATCH_ARC", "CANFAR_BATCH_CGROUP"}


def test_the_platforms_variables_come_after_the_users_and_win(client):
    id_ = client.sh("echo $OMP_NUM_THREADS:$A:$HOSTNAME", env=["OMP_NUM_THREADS=9", "A=two  words ", "HOSTNAME=mine"])
    client.wait(id_)
    assert client.logs(id_) == "1:two words :job\n"


def test_the_kubelet_expands_variables(client):
    id_ = client.launch("echo", "\\$(A) \\$\\$(A) \\$(B) \\$(UNKNOWN)", env=["A=1", "B=<\\$(A)\\$(C)>", "C=3"])
    client.wait(id_)
    assert client.logs(id_) == "1 $(A) <1$(C)> $(UNKNOWN)\n"


def test_output_is_kept_in_order_and_input_is_empty(client):
    id_ = client.sh("echo one;echo two>&2;cat;echo three")
    assert client.wait(id_) == "Completed"
    assert client.logs(id_) == "one\ntwo\nthree\n"


def test_writing_to_the_terminals_names_truncates_nothing(client):
    id_ = client.sh("echo one; echo two > /dev/stderr; echo three | tee /dev/stdout; echo four")
    assert client.wait(id_) == "Completed"
    assert client.logs(id_) == "one\ntwo\nthree\nthree\nfour\n"


def test_a_final_status_means_that_the_log_is_whole(client):
    for _ in range(10):
        id_ = client.sh("head -c 300000 /dev/zero | tr '\\0' x; echo end")
        client.wait(id_)
        assert len(client.logs(id_)) == 300_004


def test_output_need_not_be_text(client):
    id_ = client.python("import sys; sys.stdout.buffer.write(bytes(range(256)))")
    client.wait(id_)
    assert client.ask("GET", f"/session/{id_}?view=logs").body == bytes(range(256))


def test_a_job_begins_in_its_home(client, platform):
    id_ = client.launch("pwd")
    client.wait(id_)
    assert client.logs(id_).strip() == os.path.realpath(platform.home)


def test_arguments_alone_are_a_command_where_images_bring_none(client):
    id_ = client.launch(None, "echo hello")
    assert client.wait(id_) == "Completed"
    assert client.logs(id_) == "hello\n"


def test_a_large_argument_arrives(client):
    text = "x" * 100_000
    id_ = client.sh(f"text={text}; echo ${{#text}}")
    client.wait(id_)
    assert client.logs(id_) == "100000\n"


# How jobs end


@pytest.mark.parametrize(("code", "status"), [(0, "Completed"), (1, "Failed"), (137, "Failed")])
def test_only_exit_code_zero_is_completed(client, platform, code, status):
    id_ = client.sh(f"exit {code}")
    assert client.wait(id_) == status
    assert platform.job(id_).exit_code == code


def test_a_signal_is_128_more(client, platform):
    id_ = client.sh("kill -9 $$")
    assert client.wait(id_) == "Failed"
    assert platform.job(id_).exit_code == 137


@pytest.mark.parametrize(
    ("cmd", "message"),
    [
        ("nosuchprogram", 'exec: "nosuchprogram": executable file not found in $PATH'),
        ("/no/such/program", 'exec: "/no/such/program": stat /no/such/program: no such file or directory'),
        ("python script in", 'exec: "python script in": executable file not found in $PATH'),
        ("/etc/passwd", 'exec: "/etc/passwd": permission denied'),
        ("", 'exec: "": executable file not found in $PATH'),
    ],
)
def test_a_job_that_cannot_start_fails_with_an_event_and_no_log(client, platform, cmd, message):
    id_ = client.launch(cmd)
    assert client.wait(id_) == "Failed"
    assert client.logs(id_) == ""
    last = client.events(id_).splitlines()[-1]
    assert last.startswith("Warning   Failed")
    assert message in last
    assert platform.starts["job"] == 0


def test_a_script_without_interpreter_has_the_wrong_format(client, platform):
    script = platform.home / "script"
    script.write_text("echo hello\n")
    script.chmod(0o755)
    id_ = client.launch("./script")
    assert client.wait(id_) == "Failed"
    assert "exec format error" in client.events(id_)


def test_an_image_without_command_needs_one(client):
    id_ = client.launch()
    assert client.wait(id_) == "Failed"
    assert "no command specified" in client.events(id_)


def test_events_show_the_life_of_the_pod(client):
    id_ = client.launch("true")
    client.wait(id_)
    lines = client.events(id_).splitlines()
    assert lines[0].split() == ["TYPE", "REASON", "MESSAGE", "FIRST-TIME", "LAST-TIME"]
    init = ["Created", "Started", "Pulled", "Created", "Started"]
    reasons = ["Scheduled", "Pulling", "Pulled", *init, "Pulling", "Pulled", "Created", "Started"]
    assert [line.split()[1] for line in lines[1:]] == reasons
    assert lines[1].split()[-2:] == ["<nil>", "<nil>"]


def test_use_is_shown_after_a_delay_and_only_while_a_job_runs(start, client_of, soon):
    client = client_of(start())
    id_ = client.sh("sleep 60")
    client.wait(id_, "Running")
    assert "ramInUse" not in client.show(id_)
    client = client_of(start(metrics_delay=0))
    id_ = client.sh("while :;do :;done")
    soon(lambda: float(client.show(id_).get("cpuCoresInUse", 0)) > 0.3)
    assert re.fullmatch(r"[0-9]+\.[0-9]{2}", client.show(id_)["ramInUse"])
    client.ask("DELETE", f"/session/{id_}")
    done = client.launch("true")
    client.wait(done)
    assert "ramInUse" not in client.show(done)


# The traces of an ended job


def test_nothing_of_a_job_outlives_its_main_process(client, soon):
    id_ = client.sh("sleep 600&echo $!")
    assert client.wait(id_) == "Completed"
    left = int(client.logs(id_))
    soon(lambda: not alive(left))


def test_a_child_that_made_a_session_of_its_own_does_not_outlive_the_job(client, soon):
    code = "import subprocess; print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid, flush=True)"
    id_ = client.python(code)
    client.wait(id_)
    left = int(client.logs(id_))
    soon(lambda: not alive(left))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux shows the environment of processes")
def test_not_even_a_daemon_outlives_the_job(client, soon):
    code = (
        "import os, time\n"
        "if os.fork(): os.wait(); raise SystemExit\n"
        "os.setsid()\n"
        "if os.fork(): os._exit(0)\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(600)\n"
    )
    id_ = client.python(code)
    client.wait(id_)
    left = int(soon(lambda: client.logs(id_)))
    soon(lambda: not alive(left))


def test_deleting_is_at_once_for_the_list_and_gentle_for_the_process(client, platform, soon):
    marker = platform.home / "marker"
    id_ = client.sh("trap 'echo gone>marker;exit 0' TERM;echo ready;while :;do sleep 0.02;done")
    soon(lambda: client.logs(id_))
    assert client.ask("DELETE", f"/session/{id_}").status == 200
    assert client.ask("GET", f"/session/{id_}").status == 404
    soon(marker.exists)


def test_logs_and_events_go_on_until_a_deleted_job_has_ended(start, client_of, soon):
    platform = start(termination_grace=30)
    client = client_of(platform)
    id_ = client.sh("trap 'echo told' TERM;echo ready;while [ ! -e go ];do sleep 0.02;done;echo end")
    soon(lambda: client.logs(id_))
    client.ask("DELETE", f"/session/{id_}")
    assert client.ask("GET", f"/session/{id_}").status == 404
    assert id_ not in [one["id"] for one in client.list()]
    assert "Killing" in client.events(id_)
    assert soon(lambda: "told" in client.logs(id_))
    (platform.home / "go").touch()
    soon(lambda: client.ask("GET", f"/session/{id_}?view=events").status == 404)
    assert client.logs(id_) == ""


def test_only_the_main_process_is_asked_to_end(client, platform, soon):
    # otherwise only the cluster would show whether a wrapper forwards the signal
    code = (
        "import signal, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal, time\\n'\n"
        '    \'signal.signal(15, lambda *_: open("child", "w").close())\\nprint(1, flush=True)\\ntime.sleep(600)\'])\n'
        "signal.signal(15, lambda *_: (open('main', 'w').close(), time.sleep(0.1), sys.exit(0)))\n"
        "time.sleep(600)\n"
    )
    id_ = client.python(code)
    soon(lambda: client.logs(id_))
    client.ask("DELETE", f"/session/{id_}")
    soon((platform.home / "main").exists)
    assert platform.wait_idle(30)
    assert not (platform.home / "child").exists()


def test_a_job_that_ignores_sigterm_is_killed_after_its_grace(client, platform, soon):
    id_ = client.sh("trap '' TERM;echo $$;while :;do sleep 0.02;done")
    pid = int(soon(lambda: client.logs(id_)))
    client.ask("DELETE", f"/session/{id_}")
    soon(lambda: not alive(pid))
    assert platform.wait_idle(30)


def test_a_job_that_is_deleted_in_the_queue_never_starts(client, platform):
    platform.hold()
    id_ = client.launch("true", name="never")
    client.ask("DELETE", f"/session/{id_}")
    platform.release()
    assert platform.wait_idle(30)
    assert platform.starts["never"] == 0


def test_finished_jobs_are_forgotten_with_their_files(start, client_of, soon):
    platform = start(forget_after=0.0)
    client = client_of(platform)
    id_ = client.launch("echo", "hello")
    soon(lambda: client.ask("GET", f"/session/{id_}").status == 404)
    assert client.list() == []
    assert client.logs(id_) == ""
    assert client.ask("GET", f"/session/{id_}?view=events").status == 404
    assert list((platform.directory / "logs").iterdir()) == []
    assert list((platform.directory / "cgroups").iterdir()) == []


# The queue


def test_jobs_wait_for_cores_and_run_first_come_first_served(start, client_of):
    platform = start(cores=2, ram=64)
    client = client_of(platform)
    script = "echo $skaha_sessionid>>order"
    ids = [client.sh(script, cores=2) for _ in range(6)]
    for id_ in ids:
        client.wait(id_)
    assert (platform.home / "order").read_text().split() == ids


def test_queued_jobs_are_pending_without_pod_start_time_or_log(client, platform):
    platform.hold()
    id_ = client.launch("true")
    shown = client.show(id_)
    assert shown["status"] == "Pending"
    assert not {"startTime", "expiryTime"} & shown.keys()
    assert client.logs(id_) == ""
    events = client.ask("GET", f"/session/{id_}?view=events")
    assert (events.status, events.text) == (404, f"session {id_} not found.\n")
    platform.release()
    assert client.wait(id_) == "Completed"


def test_ram_is_shared_out_too(start, client_of, soon):
    platform = start(cores=64, ram=9)
    client = client_of(platform)
    ids = [client.launch("sleep", "600") for _ in range(3)]  # each flexible job asks for 4 GiB
    soon(lambda: [client.status(id_) for id_ in ids] == ["Running", "Running", "Pending"])
    client.ask("DELETE", f"/session/{ids[0]}")
    client.wait(ids[2], "Running")


def test_a_job_larger_than_the_machine_runs_alone(start, client_of, soon):
    client = client_of(start(cores=2, ram=8))
    small = client.sh("while [ ! -e go ];do sleep 0.02;done")
    large = client.launch("sleep", "600", cores=16, ram=192)
    after = client.launch("true")
    client.wait(small, "Running")
    assert (client.status(large), client.status(after)) == ("Pending", "Pending")
    client.ask("DELETE", f"/session/{small}")
    client.wait(large, "Running")
    assert client.status(after) == "Pending"
    client.ask("DELETE", f"/session/{large}")
    assert client.wait(after) == "Completed"


# Actions of the cluster on a job


def test_a_preempted_job_starts_again_under_its_id(client, platform, soon):
    id_ = client.sh("echo x>>runs;wc -l<runs;while [ ! -e go ];do sleep 0.02;done", name="again")
    soon(lambda: client.logs(id_))
    platform.hold()
    platform.preempt(id_)
    assert client.status(id_) == "Pending"
    assert "startTime" not in client.show(id_)
    soon(lambda: client.ask("GET", f"/session/{id_}?view=events").status == 404)
    assert client.logs(id_) == ""
    (platform.home / "go").touch()
    platform.release()
    assert client.wait(id_) == "Completed"
    assert client.logs(id_).strip() == "2"
    assert platform.starts["again"] == platform.job(id_).starts == 2


def test_an_evicted_job_fails(client, platform, soon):
    id_ = client.sh("echo ready;sleep 600")
    soon(lambda: client.logs(id_))
    platform.evict(id_)
    assert client.wait(id_) == "Failed"
    assert "Evicted" in client.events(id_)


def test_a_job_can_vanish_while_it_runs(client, platform, soon):
    id_ = client.sh("echo $$;sleep 600")
    pid = int(soon(lambda: client.logs(id_)))
    platform.forget(id_)
    assert client.ask("GET", f"/session/{id_}").status == 404
    soon(lambda: not alive(pid))


def test_unusable_jobs_are_named(client, platform):
    id_ = client.launch("true")
    client.wait(id_)
    assert platform.wait_idle(30)
    with pytest.raises(ValueError, match="Completed, not running"):
        platform.preempt(id_)
    for knob in (platform.preempt, platform.evict, platform.forget, platform.job):
        with pytest.raises(LookupError, match="nosuch12"):
            knob("nosuch12")


def test_a_signal_from_outside_fails_the_job(client, platform, soon):
    id_ = client.launch("sleep", "600")
    client.wait(id_, "Running")
    os.kill(platform.job(id_).pid, signal.SIGKILL)
    assert client.wait(id_) == "Failed"
    assert platform.job(id_).exit_code == 137


def test_a_job_that_could_not_start_takes_no_cores(start, client_of):
    client = client_of(start(stats=True))
    client.wait(client.launch("nosuchprogram"))
    assert client.ask("GET", "/session?view=stats").json["cores"]["requestedCPUCores"] == 0


def test_lists_stay_answers_while_jobs_are_forgotten(start, client_of):
    platform = start(cores=64, ram=640, forget_after=0.0)
    client = client_of(platform)
    failures = []

    def look():
        while not platform.wait_idle(0):
            answer = client.ask("GET", "/session")
            if answer.status != 200:
                failures.append(answer)

    platform.hold()
    for _ in range(60):
        client.launch("true")
    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    platform.release()
    for thread in threads:
        thread.join()
    assert failures == []
