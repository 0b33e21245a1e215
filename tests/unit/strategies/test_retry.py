"""What deserves another attempt."""

from datetime import timedelta

import attrs
import pytest
from fakes import EPOCH

from canfar_batch import failures as why
from canfar_batch.protocols import Again, Stop
from canfar_batch.records import Attempt, JobRecord, Receipt, Resources
from canfar_batch.spec import JobSpec
from canfar_batch.strategies import ANY, Retry, never

SPEC = JobSpec("fit", image="i/i", ram=8)


def failed(*reasons, ram=8, attempts_before_reopen=0, limit=None):
    attempts = tuple(
        Attempt(
            number=number, launch_name=f"x{number}", resources=Resources(ram=ram), intended_at=EPOCH, succeeded=False,
            failure=reason, receipt=Receipt(exit_code=1, ram_limit=limit),
        )
        for number, reason in enumerate(reasons, 1)
    )  # fmt: skip
    return JobRecord(
        key="a",
        index=0,
        spec=SPEC,
        filled=SPEC.fill(),
        attempts=attempts,
        attempts_before_reopen=attempts_before_reopen,
    )


def ask(policy, *reasons, **more):
    job = failed(*reasons, **more)
    return policy(job, job.failure)


@pytest.mark.parametrize("reason", [why.Lost(), why.Evicted(), why.StuckPending(), why.ImagePull()])
def test_platform_failures_get_two_more_attempts(reason):
    assert isinstance(ask(Retry(), reason), Again)
    assert isinstance(ask(Retry(), reason, reason), Again)
    assert isinstance(ask(Retry(), reason, reason, reason), Stop)


@pytest.mark.parametrize(
    "reason",
    [why.ExitCode(1), why.Killed(), why.Unknown(), why.OutOfMemory(), why.TimedOut(), why.Unwatched(), why.DiskFull(),
     why.StartError(), why.MissingOutput(), why.DeadlineExceeded()],
)  # fmt: skip
def test_jobs_own_failures_are_not_retried_unless_asked(reason):
    assert isinstance(ask(Retry(), reason), Stop)
    assert isinstance(ask(Retry(classes=type(reason)), reason), Again)


def test_budgets_count_by_class_and_all_attempts_up_to_five():
    lost, evicted, stuck = why.Lost(), why.Evicted(), why.StuckPending()
    assert isinstance(ask(Retry(), lost, evicted, lost, evicted), Again)
    assert isinstance(ask(Retry(), lost, evicted, lost, evicted, stuck), Stop)
    assert isinstance(ask(Retry(budgets={why.Lost: 0}), lost), Stop)
    assert isinstance(ask(Retry(at_most=1), lost), Stop)


def test_exit_codes_to_retry_are_named_or_any():
    assert isinstance(ask(Retry(exit_codes=75), why.ExitCode(75)), Again)
    assert isinstance(ask(Retry(exit_codes={75, 76}), why.ExitCode(1)), Stop)
    assert isinstance(ask(Retry(exit_codes=range(70, 80)), why.ExitCode(77)), Again)
    assert isinstance(ask(Retry(exit_codes=ANY), why.ExitCode(1)), Again)


def test_unanswered_launch_gets_three_more_tries_and_a_refusal_none():
    doubt, vain = why.LaunchRefused(again=True, inferred=True), why.LaunchRefused(again=False, inferred=True)
    assert [isinstance(ask(Retry(), *[doubt] * n), Again) for n in (1, 2, 3, 4)] == [True, True, True, False]
    assert [isinstance(ask(Retry(), *[vain] * n), Again) for n in (1, 2)] == [True, False]
    assert isinstance(ask(Retry(), why.LaunchRefused()), Stop)


def test_pauses_double_up_to_ten_minutes():
    policy = Retry(again=20, at_most=30, pause=10.0)
    assert [ask(policy, *[why.Lost()] * n).after for n in (1, 2, 3, 9)] == [10, 20, 40, 600]


def test_memory_grows_from_the_last_attempts_up_to_the_limit():
    grow = Retry(grow_ram=2.0, max_ram=24)
    for reason in (why.OutOfMemory(), why.Killed()):
        assert ask(grow, reason).resources.ram == 16
        assert ask(grow, reason, ram=16).resources.ram == 24
        assert "24 GiB" in ask(grow, reason, ram=24).why
    assert ask(grow, why.OutOfMemory(), ram=None, limit=6.0).resources.ram == 12
    assert ask(grow, why.Lost()).resources is None


def test_attempts_before_a_reopen_do_not_count():
    assert isinstance(ask(Retry(), *[why.Lost()] * 3, attempts_before_reopen=2), Again)


def test_never_means_never():
    assert ask(never, why.Lost()) == Stop("retry=never")


@pytest.mark.parametrize("wrong", [{"again": -1}, {"grow_ram": 1.0}, {"at_most": 0}, {"pause": -1}])
def test_invalid_numbers_are_refused(wrong):
    with pytest.raises(ValueError):
        attrs.evolve(Retry(), **wrong)


def test_function_is_a_retry_policy(tmp_path):
    from engine import World
    from fakes import Fate

    def once_more(job, failure):
        if len(job.attempts) < 2:
            return Again(after=7.0)
        return Stop("twice is enough")

    world = World(tmp_path, lambda request: Fate(code=4))
    batch = world.planned(1, retry=once_more)
    batch.run(progress=False)
    first, second = batch["j0"].attempts
    assert second.intended_at - first.ended_at >= timedelta(seconds=7)
