"""Batches are planned, run, resumed, and run again."""

from __future__ import annotations

import signal
from pathlib import Path

from integration.cli.conftest import IMAGE, ON_THIS_MACHINE, Command, process
from waiting import until

from canfar_batch import cli
from canfar_batch.local import LocalPlatform
from canfar_batch.rest.transport import Timeouts


def test_one_job_without_fields(command: Command):
    ended = command("run", "one", *IMAGE, *ON_THIS_MACHINE, "--", "echo", "hello  world")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("Batch one: 1 job in ")
    assert command("logs", "one").out == "hello  world\n"


def test_a_command_of_one_word_is_split_and_one_of_several_is_not(command: Command):
    command("run", "split", *IMAGE, *ON_THIS_MACHINE, "--", "printf '%s|' 'a b' c")
    command("run", "whole", *IMAGE, *ON_THIS_MACHINE, "--", "printf", "%s|", "a b", "it's")
    assert command("logs", "split").out == "a b|c|"
    assert command("logs", "whole").out == "a b|it's|"


def test_the_same_command_again_does_nothing_twice(command: Command):
    words = ["run", "once", *IMAGE, *ON_THIS_MACHINE, "--grid", "n=1,2", "--", "sh", "-c", "echo {n} >> runs"]
    assert [command(*words).code, command(*words).code] == [0, 0]
    assert sorted(Path("runs").read_text().split()) == ["1", "2"]


def test_the_name_alone_resumes_a_batch(command: Command):
    command("run", "again", *IMAGE, *ON_THIS_MACHINE, "--", "echo", "hello")
    ended = command("run", "again", *ON_THIS_MACHINE)
    assert ended.code == 0
    assert "1 succeeded" in ended.out


def test_exit_codes_are_retried_only_if_asked(command: Command):
    words = ["--retry", 1, "--", "sh", "-c", "echo x >> tries; exit 3"]
    assert command("run", "no", *IMAGE, *ON_THIS_MACHINE, *words).code == 1
    assert Path("tries").read_text() == "x\n"
    assert command("run", "yes", *IMAGE, *ON_THIS_MACHINE, "--retry-any", *words).code == 1
    assert Path("tries").read_text() == "x\nx\nx\n"


def test_a_batch_whose_first_jobs_fail_alike_stops_with_the_reason(command: Command):
    words = ["--window", 1, "--grid", f"n={','.join(map(str, range(20)))}", "--json"]
    ended = command("run", "alike", *IMAGE, *ON_THIS_MACHINE, *words, "--", "sh", "-c", "exit 3", "{n}")
    assert ended.code == 1
    assert ended.json["counts"]["failed"] in (5, 6)
    assert "all failed alike, so no more are launched: exit code 3" in ended.err


def test_the_report_is_json_if_asked(command: Command):
    ended = command("run", "j", *IMAGE, *ON_THIS_MACHINE, "--json", "--", "true")
    assert (ended.json["ok"], ended.json["counts"], ended.json["attempts"]) == (True, {"succeeded": 1}, 1)


def test_progress_goes_to_standard_error(command: Command):
    ended = command("run", "loud", *IMAGE, "--url", "local", "--json", "--", "true")
    assert ended.json["ok"]
    assert "loud 1/1 | 1 succeeded" in ended.err


def test_failed_jobs_are_retried_with_changed_resources(command: Command):
    words = ["--grid", "n=1,2", "--key", "k{n}", "--", "sh", "-c", "test {n} = 1 || test -e fixed"]
    assert command("run", "again", *IMAGE, *ON_THIS_MACHINE, "--ram", 1, *words).code == 1
    refused = command("retry", "again", *ON_THIS_MACHINE, "--cause", "out of memory")
    assert refused.code == 2
    assert "no job failed for 'out of memory'; the causes are: 'exit code 1' (1)" in refused.err
    Path("fixed").touch()
    ended = command("retry", "again", *ON_THIS_MACHINE, "--cause", "exit code 1", "--ram", 2, "--json")
    assert (ended.code, ended.json["counts"], ended.json["attempts"]) == (0, {"succeeded": 2}, 3)
    assert "1 job opened again" in ended.err
    assert [row["ram"] for row in command("ls", "again", "--json").json] == [1, 2]


def test_final_jobs_are_run_again_and_a_batch_is_deleted(command: Command):
    words = ["--grid", "n=1,2", "--key", "k{n}", "--output", "{key}.out", "--", "sh", "-c", "echo {n} >> k{n}.out"]
    assert command("run", "again", *IMAGE, *ON_THIS_MACHINE, *words).code == 0
    assert "name the jobs to run again" in command("rerun", "again", *ON_THIS_MACHINE).err
    assert "has no job to run again" in command("rerun", "again", "--missing-outputs", *ON_THIS_MACHINE).err
    Path("k2.out").unlink()
    assert command("rerun", "again", "--missing-outputs", *ON_THIS_MACHINE).code == 0
    assert command("rerun", "again", "k1", *ON_THIS_MACHINE).code == 0
    assert (Path("k1.out").read_text(), Path("k2.out").read_text()) == ("1\n1\n", "2\n")
    assert command("rerun", "again", "--all", *ON_THIS_MACHINE, "--json").json["attempts"] == 6
    ended = command("rm", "again")
    assert (ended.code, ended.out) == (0, f"deleted {Path('batches/again').absolute()}\n")
    assert not Path("batches/again").exists()
    assert command("rm", "again").code == 2


def test_ctrl_c_on_the_local_platform_ends_the_jobs_until_the_next_run(tmp_path: Path, command: Command):
    words = ["run", "here", *IMAGE, "--url", "local", "--", "sh", "-c", "touch begun; test -e go || exec sleep 600"]
    driver = process(tmp_path, *words)
    until(Path("begun").exists, "the job never ran")
    driver.send_signal(signal.SIGINT)
    said = driver.communicate(timeout=30)[1]
    assert driver.returncode == cli.DETACHED
    assert "its jobs end with this session, and the next run launches them again" in said
    Path("go").touch()
    assert command("run", "here", "--quiet", "--json", "--url", "local").json["counts"] == {"succeeded": 1}


def test_a_job_that_may_wait_for_ever_is_reported_when_the_user_says(
    tmp_path: Path, command: Command, monkeypatch, caplog
):
    with LocalPlatform(cores=1, ram=4, strict_quota=True) as platform:
        monkeypatch.setenv("CANFAR_TOKEN", platform.token)
        asked = ["--home", tmp_path, "--cores", "8", "--pending-timeout", "2", "--retry", "0", "--long-wait", "0.5"]
        ended = command("run", "large", *IMAGE, "--url", platform.url, "--quiet", *asked, "--", "true")
    assert ended.code == cli.SOME_FAILED
    assert "has waited for long" in caplog.text


def test_a_second_driver_is_refused_with_the_first_ones_name(running, command: Command):
    ended = command("run", "slow")
    assert ended.code == 2
    assert "is being run by process" in ended.err


def test_a_first_run_at_a_dead_address_ends(command: Command, monkeypatch):
    monkeypatch.setenv("CANFAR_URL", "http://127.0.0.1:9/skaha")
    monkeypatch.setenv("CANFAR_TOKEN", "x")
    monkeypatch.setattr("canfar_batch.store.home.Home.refuse_if_fleeting", lambda self: None)
    monkeypatch.setattr("canfar_batch.rest.platform.Timeouts", lambda **given: Timeouts(**given, attempts=1))
    ended = command("run", "wrong", *IMAGE, "--quiet", "--", "true")
    assert ended.code == 2
    assert "127.0.0.1:9" in ended.err


def test_inputs_are_named_and_results_brought_as_from_a_script(command: Command):
    Path("calib.py").write_text("print('calibrated')")
    words = ["--input", "calib.py", "--output", "out.txt", "--download", "results"]
    ended = command("run", "inputs", *IMAGE, *ON_THIS_MACHINE, *words, "--", "sh", "-c", "cat calib.py >out.txt")
    assert ended.code == 0
    assert Path("out.txt").read_text() == "print('calibrated')"  # this machine sees it, so nothing is copied
    assert not Path("results").exists()
    ended = command("run", "typo", *IMAGE, *ON_THIS_MACHINE, "--input", "calb.py", "--", "true")
    assert ended.code not in (0, 1)
    assert "the input calb.py does not exist" in ended.err
