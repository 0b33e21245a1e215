"""The figures of a report: gathered in one pass, and in little memory."""

from __future__ import annotations

from collections.abc import Iterator

from made import NOON, after, attempt, job

from canfar_batch.failures import Evicted, ExitCode, Failure, Killed, OutOfMemory
from canfar_batch.records import JobRecord, JobState
from canfar_batch.views.figures import Figures


def figures(*jobs: JobRecord) -> Figures:
    found = Figures(now=after(3600.0), limits=None, gone={})
    for each in jobs:
        found.add(each)
    return found


def failed(key: str, failure: Failure) -> JobRecord:
    return job(key, attempt(failure=failure), state=JobState.FAILED)


def test_no_record_is_kept_but_those_that_explain_a_cause():
    def jobs() -> Iterator[JobRecord]:
        for number in range(50):
            yield failed(f"bad-{number}", ExitCode(2, message="no such option"))

    found = figures(*jobs())
    (cause,) = found.failures.causes()
    assert (cause.count, cause.keys) == (50, ("bad-0", "bad-1", "bad-2", "bad-3", "bad-4"))


def test_the_job_that_explains_most_comes_first_even_if_it_comes_late():
    silent = [failed(f"silent-{number}", Evicted()) for number in range(7)]
    (cause,) = figures(*silent, failed("telling", Evicted(message="drained"))).failures.causes()
    assert cause.message == "drained"
    assert cause.keys == ("telling", "silent-0", "silent-1", "silent-2", "silent-3")


def test_of_jobs_that_explain_as_much_the_first_is_named():
    (cause,) = figures(failed("a", Evicted(message="one")), failed("b", Evicted(message="one"))).failures.causes()
    assert cause.keys == ("a", "b")


def test_causes_that_are_as_frequent_stay_in_plan_order():
    found = figures(failed("a", ExitCode(3)), failed("b", ExitCode(2))).failures.causes()
    assert [cause.cause for cause in found] == ["exit code 3", "exit code 2"]


def test_the_batch_lasts_from_the_first_launch_to_the_last_end():
    found = figures(job("late", attempt(begun=100.0)), job("early", attempt(begun=0.0)))
    assert found.began_at == NOON
    assert found.ended_at == after(100.0 + 10.0 + 600.0)


def test_memory_that_is_known_and_memory_that_is_likely_are_counted_apart():
    (use,) = figures(
        failed("known", OutOfMemory()), failed("likely", Killed(inferred=True)), failed("other", ExitCode(1))
    ).uses()
    assert (use.attempts, use.ran_out, use.likely_ran_out) == (3, 1, 1)
