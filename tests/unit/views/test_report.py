"""The report: its counts, its advice and its text."""

from __future__ import annotations

import copy
import json
import pickle
import time
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import NOON, after, attempt, job

from canfar_batch.errors import BatchFailed
from canfar_batch.failures import Evicted, ExitCode, Killed, Lost, OutOfMemory
from canfar_batch.records import JobRecord, JobState, Limits
from canfar_batch.views.report import Report
from canfar_batch.views.terminal import width

LIMITS = Limits(cores=(1, 2, 4, 8), ram=(1, 2, 4, 6, 8, 16, 32), gpus=(), default_cores=1.5, default_ram=4.0)


def report(*jobs: JobRecord, now: float = 3600.0, limits: Limits | None = LIMITS) -> Report:
    return Report.of("calib", jobs, home=Path("/arc/projects/dust/batches/calib"), now=after(now), limits=limits)


def succeeded(count: int, **how: Any) -> list[JobRecord]:
    return [job(f"obs-{number}", attempt(**how)) for number in range(count)]


def test_a_batch_whose_jobs_all_succeeded_is_ok():
    found = report(*succeeded(3))
    assert found.ok
    assert found.raise_if_failed() is found
    assert found.counts == {JobState.SUCCEEDED: 3}


def test_an_empty_batch_is_ok_and_can_be_printed():
    found = report()
    assert found.ok
    assert str(found).startswith("Batch calib: 0 jobs")


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.LOST, JobState.CANCELLED])
def test_one_job_that_did_not_succeed_raises(state: JobState):
    found = report(*succeeded(3), job("bad", attempt(failure=ExitCode(2)), state=state))
    assert not found.ok
    with pytest.raises(BatchFailed):
        found.raise_if_failed()


def test_an_unfinished_batch_is_not_ok_and_does_not_raise():
    found = report(*succeeded(1), job("runs", attempt(ran=None)), job("planned"))
    assert not found.ok
    assert found.raise_if_failed().unfinished == 2


def test_a_result_that_was_not_collected_raises():
    found = report(job("obs-1", attempt(), collect_error="no cat/obs-1.cat"))
    assert not found.ok
    with pytest.raises(BatchFailed, match="1 result not collected"):
        found.raise_if_failed()
    assert "no cat/obs-1.cat" in str(found)


def test_failures_are_grouped_by_cause_the_most_frequent_first():
    jobs = [job(f"oom-{n}", attempt(failure=OutOfMemory(message="killed"))) for n in range(3)]
    found = report(job("x", attempt(failure=ExitCode(2, message="no such option"))), *jobs)
    assert [(cause.cause, cause.count) for cause in found.failures] == [("out of memory", 3), ("exit code 2", 1)]
    assert found.failures[0].keys == ("oom-0", "oom-1", "oom-2")
    assert "ram=" in found.failures[0].advice


def test_a_group_shows_the_first_message_that_is_not_empty():
    silent, telling = Evicted(), Evicted(message="the node had no memory left")
    found = report(job("a", attempt(failure=silent)), job("b", attempt(failure=telling)))
    assert found.failures[0].message == "the node had no memory left"


def test_the_message_and_log_of_a_group_are_those_of_its_first_key(tmp_path: Path):
    telling = attrs.evolve(attempt(failure=Evicted(message="no room")), log=tmp_path / "b.log")
    found = report(job("a", attempt(failure=Evicted())), job("b", telling), job("c", attempt(failure=Evicted())))
    assert found.failures[0].keys == ("b", "a", "c")
    assert found.failures[0].log == tmp_path / "b.log"


def test_a_job_with_a_saved_log_comes_first(tmp_path: Path):
    saved = attrs.evolve(attempt(failure=Lost()), log=tmp_path / "b.log")
    found = report(job("a", attrs.evolve(saved, log=None)), job("b", saved))
    assert (found.failures[0].keys[0], found.failures[0].log) == ("b", tmp_path / "b.log")


def test_secrets_in_messages_are_masked():
    found = report(job("a", attempt(failure=ExitCode(1, message="api_key=k3y refused"))))
    for shown in (str(found), found._repr_html_(), json.dumps(found.as_dict())):
        assert "refused" in shown
        assert "k3y" not in shown


def test_the_error_names_causes_and_jobs():
    with pytest.raises(BatchFailed, match=r"(?s)1 failed.*exit code 127 \(obs-9\).*command not found") as shown:
        report(job("obs-9", attempt(failure=ExitCode(127, message="fit: command not found")))).raise_if_failed()
    assert isinstance(shown.value, RuntimeError)


def test_wall_time_is_from_the_first_launch_to_the_last_end():
    found = report(job("a", attempt(begun=100, waited=10, ran=50)), job("b", attempt(begun=300, waited=20, ran=80)))
    assert found.wall_time == 300.0


def test_wall_time_runs_until_now_while_a_job_is_unfinished():
    assert report(job("a", attempt()), job("b", attempt(ran=None)), now=5000).wall_time == 5000.0


def test_nothing_was_launched_so_there_is_no_wall_time():
    found = report(job("a"))
    assert found.wall_time is None
    assert "1 planned" in str(found)


def test_waiting_is_from_launch_to_start_and_running_from_start_to_end():
    found = report(*(job(str(n), attempt(waited=w, ran=r)) for n, (w, r) in enumerate([(1, 10), (2, 20), (9, 90)])))
    assert found.waiting is not None
    assert found.running is not None
    assert (found.waiting.median, found.waiting.longest) == (2, 9)
    assert (found.running.median, found.running.longest, found.running.total) == (20, 90, 120)


def test_clocks_that_differ_make_no_negative_times():
    found = report(job("a", attempt(waited=-5.0, ran=10)))
    assert found.waiting is not None
    assert found.waiting.longest == 0.0


@pytest.mark.parametrize("is_suspended", [True, False])
def test_core_hours_count_the_runs_that_the_platform_stopped(is_suspended: bool):
    restarted = attrs.evolve(attempt(ran=None), restarts=1, lost_seconds=1800.0)
    restarted = attrs.evolve(restarted, started_at=None if is_suspended else after(1800))
    found = report(job("x", restarted), now=1800.0)
    assert found.core_hours == pytest.approx(2 * 0.5)


def test_core_hours_count_every_attempt():
    found = report(job("a", attempt(1, ran=1800, failure=Evicted()), attempt(2, begun=2000, ran=3600)))
    assert found.core_hours == pytest.approx(2 * 1.5)
    assert not found.estimated


def test_jobs_without_cores_count_with_the_default_and_are_marked():
    found = report(job("a", attempt(cores=None, ram=None, ran=3600)))
    assert found.core_hours == pytest.approx(1.5)
    assert found.estimated
    assert "estimated" in str(found)


def test_unused_memory_is_reported_with_a_suggestion():
    (use,) = report(*succeeded(4, ram=8, peak=3.1)).uses
    assert use.peak_ram == 3.1
    assert use.suggestion == "ram=4 would do"
    assert "8 GiB asked: peak 3.1 GiB" in str(report(*succeeded(4, ram=8, peak=3.1)))


@pytest.mark.parametrize(
    ("peak", "suggestion"),
    [(7.9, ""), (5.1, ""), (5.0, "ram=6 would do"), (3.5, "ram=6 would do"), (0.1, "ram=1 would do"), (None, "")],
)
def test_a_suggestion_leaves_a_fifth_of_headroom_and_names_what_is_offered(peak: float | None, suggestion: str):
    assert report(*succeeded(2, ram=8, peak=peak)).uses[0].suggestion == suggestion


def test_without_limits_whole_gib_are_suggested():
    assert report(*succeeded(2, ram=8, peak=3.6), limits=None).uses[0].suggestion == "ram=5 would do"


@pytest.mark.parametrize("failure", [OutOfMemory(), Killed()])
def test_jobs_that_ran_out_of_memory_are_advised_to_ask_for_more(failure: OutOfMemory | Killed):
    (use,) = report(*succeeded(9, ram=8, peak=1.0), job("big", attempt(ram=8, failure=failure))).uses
    assert use.suggestion == "try ram=16"
    assert (use.ran_out, use.likely_ran_out) == (1, 0)


def test_likely_and_known_shortages_of_memory_are_counted_apart():
    known = [job(f"k{n}", attempt(failure=OutOfMemory())) for n in range(2)]
    likely = [job(f"l{n}", attempt(failure=Killed(inferred=True))) for n in range(3)]
    (use,) = report(*known, *likely).uses
    assert (use.ran_out, use.likely_ran_out) == (2, 3)
    assert "2 ran out of memory, 3 more likely did" in " ".join(str(report(*known, *likely)).split())
    assert "3 likely ran out of memory" in " ".join(str(report(*likely)).split())
    assert "3 x killed, inferred (l0, l1, l2)" in str(report(*likely))


def test_a_final_batch_with_failures_says_what_to_do_next():
    bad = job("bad", attempt(failure=ExitCode(2)))
    text = " ".join(str(report(bad)).split())
    assert "next fix the cause, then batch.retry_failed() and batch.run() launch it again" in text
    for other in (report(*succeeded(1)), report(bad, job("runs", attempt(ran=None)))):
        assert other.next_steps() == ""


def test_a_written_report_is_a_link_in_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written: list[Path] = []
    made = Report.of("calib", [], home=tmp_path, now=after(0), page=lambda _, path: written.append(path))
    path = made.to_html(tmp_path / "out" / 'a "b" #1.html')
    monkeypatch.chdir(tmp_path)
    assert written == [path] == [tmp_path / "out" / 'a "b" #1.html']
    assert path._repr_html_().startswith('<a href="out/a%20%22b%22%20%231.html" target="_blank">')
    assert path._repr_html_().endswith("/out/a &quot;b&quot; #1.html</a>")
    assert path.parent == tmp_path / "out"
    monkeypatch.chdir(tmp_path / "..")
    assert made.to_html()._repr_html_().startswith(f'<a href="{tmp_path.name}/report.html"')


def test_a_report_can_be_pickled_without_its_page(tmp_path: Path):
    made = Report.of("calib", [job("a", attempt())], home=tmp_path, now=after(0), page=lambda *_: None)
    for again in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
        assert (again, str(again)) == (made, str(made))
        with pytest.raises(TypeError, match="without its jobs"):
            again.to_html()


def test_nothing_larger_than_what_is_offered_is_suggested():
    (use,) = report(job("big", attempt(ram=32, failure=OutOfMemory()))).uses
    assert use.suggestion == "no more is offered: split the work"


def test_idle_cores_are_reported():
    (use,) = report(*succeeded(3, cores=4, ram=8, peak=7.0, ran=100.0, cpu=80.0)).uses
    assert use.cpu_share == pytest.approx(0.2)
    assert use.suggestion == "cores=1 would do"


def test_short_jobs_suggest_no_cores():
    (use,) = report(*succeeded(3, cores=4, ram=8, peak=7.0, ran=9.0, cpu=0.5)).uses
    assert (use.suggestion, use.cpu_share) == ("", pytest.approx(0.5 / 9 / 4))


def test_a_batch_of_a_few_seconds_says_nothing_about_cpu_use():
    (use,) = report(*succeeded(3, ran=2.0, cpu=0.5)).uses
    assert use.cpu_share is None


def test_different_requests_are_reported_separately():
    found = report(job("a", attempt(ram=4, peak=3.9)), *succeeded(2, ram=16, peak=3.0))
    assert [(use.asked.ram, use.attempts) for use in found.uses] == [(16, 2), (4, 1)]


def test_retries_are_counted_by_cause():
    evicted = job("a", attempt(1, failure=Evicted()), attempt(2, begun=700, failure=Lost()), attempt(3, begun=1400))
    found = report(evicted, job("b", attempt(1, failure=Evicted()), attempt(2, begun=700, failure=Evicted())))
    assert found.retries == {"evicted": 2, "lost": 1}
    assert (found.attempts, found.recovered) == (5, 1)
    assert "3 (2 evicted, 1 lost); 1 job succeeded after a retry" in str(found)


def test_successes_without_a_receipt_are_counted():
    found = report(*succeeded(2), job("c", attempt(verified=False)))
    assert found.unverified == 1
    assert "1 success according to the platform" in str(found)


def test_the_dictionary_is_json():
    found = report(*succeeded(2), job("x", attempt(failure=ExitCode(3, message="?"))), job("later"))
    shown = json.loads(json.dumps(found.as_dict()))
    assert shown["counts"] == {"planned": 1, "succeeded": 2, "failed": 1}
    assert shown["failures"][0]["keys"] == ["x"]
    assert shown["began_at"] == NOON.isoformat()
    assert shown["ended_at"] is None


NASTY = st.text(st.characters(codec="utf-8"), max_size=300)


@given(st.lists(st.tuples(NASTY, st.integers(1, 255)), max_size=20))
def test_whatever_jobs_print_the_report_fits_eighty_columns(shown: list[tuple[str, int]]):
    jobs = [job(f"k{'x' * code}"[:100], attempt(failure=ExitCode(code, message=text))) for text, code in shown]
    for line in str(report(*jobs)).splitlines():
        assert width(line) <= 80
        assert line.isprintable()


def test_escape_sequences_of_a_log_do_not_reach_the_terminal():
    text = str(report(job("a", attempt(failure=ExitCode(1, message="\x1b[31mred\x1b[0m and \x07bell")))))
    assert "red and bell" in text
    assert "\x1b" not in text


def test_a_report_on_fifty_thousand_jobs_is_short_and_quick():
    bad = [job(f"bad-{n}", attempt(failure=ExitCode(n % 100 + 1, message=f"no {n}"))) for n in range(5_000)]
    jobs = [*succeeded(45_000), *bad]
    start = time.process_time()
    text = str(report(*jobs))
    assert time.process_time() - start < 5.0
    assert len(text.splitlines()) < 50
    assert "45,000 succeeded, 5,000 failed" in text
    assert "and 45 more" in text
    assert "92 other causes" in text


def test_failures_of_one_exit_code_are_grouped_by_message():
    said = {
        "a": "FileNotFoundError: [Errno 2] No such file or directory: '/x/1.fits'",
        "b": "FileNotFoundError: [Errno 2] No such file or directory: '/x/2.fits'",
        "c": "KeyError: 'FLUX'", "d": "star 7: the fit did not converge", "e": "star 30: the fit did not converge",
        "f": "",
    }  # fmt: skip
    jobs = [job(key, attempt(failure=ExitCode(1, message=words))) for key, words in said.items()]
    found = {cause.keys: (cause.count, cause.message, bool(cause.advice)) for cause in report(*jobs).failures}
    assert found == {
        ("a", "b"): (2, said["a"], True), ("d", "e"): (2, said["d"], False), ("c",): (1, said["c"], False),
        ("f",): (1, "", True),
    }  # fmt: skip
