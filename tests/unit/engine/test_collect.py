"""Collecting: results, and results that cannot be fetched."""

import pytest
from engine import raising, states

from canfar_batch import errors
from canfar_batch.records import JobState
from canfar_batch.strategies import Files, Logs, Serial

S = JobState


def test_a_collector_that_raises_leaves_a_success_and_collect_repeats_it(world):
    moody = raising(OSError("no such file \udce9"), ValueError("what"))

    def fetch(job, platform):
        moody()
        return job.key

    batch = world.planned(2, collect=fetch)
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 2
    assert batch.results(missing="-") == {"j0": "-", "j1": "-"}
    assert batch.collect(["j0"]) == {"j0": "j0"}
    assert not batch._ledger.driving
    with pytest.raises(errors.UnknownJob):
        batch.collect(["none-such"])


@pytest.mark.parametrize("value", [{1: 2}, object(), b"x", "x" * 70_000, {"deep": {3}}])
def test_results_that_the_ledger_cannot_keep_are_kept_in_memory_and_fetched_again_later(world, value):
    batch = world.planned(1, collect=lambda job, platform: value)
    batch.run(progress=False)
    assert batch.results()["j0"] is value
    assert world.planned(1, collect=lambda job, platform: value).results()["j0"] is value


def test_a_result_that_cannot_be_fetched_again_is_missing_alone(world):
    world.planned(2, collect=lambda job, platform: {1, 2}).run(progress=False)

    def broken(job, platform):
        raise ValueError("not today")

    assert world.planned(2, collect=broken).results(missing="-") == {"j0": "-", "j1": "-"}


def test_collectors_may_be_several_and_serial(world):
    import threading

    threads = []
    collect = {"log": Logs(), "mine": Serial(lambda job, platform: threads.append(threading.current_thread()))}
    batch = world.planned(2, collect=collect)
    batch.run(progress=False)
    assert set(batch.results()["j0"]) == {"log", "mine"}
    assert set(threads) == {threading.main_thread()}
    assert batch._engine.setup.strategies.collect.serial


def test_a_job_without_declared_outputs_has_no_files(world):
    batch = world.planned(1, collect=Files())
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED]
    assert "declares no outputs" in batch._ledger.jobs["j0"].collect_error
