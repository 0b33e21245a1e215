"""Launch strategies: who goes next."""

from collections import Counter

import attrs
import pytest
from engine import SPEC
from fakes import EPOCH, Fate
from unit.strategies.asked import ago, view

from canfar_batch import errors
from canfar_batch.failures import Deleted
from canfar_batch.protocols import BatchView, Pick
from canfar_batch.protocols import Bundle as Carried
from canfar_batch.records import JobRecord, JobState, Resources, Usage
from canfar_batch.strategies import Adaptive, AtOnce, Bundle, Chunks, Retry, Throttle, Window


def picked(answer):
    bundles = answer.bundles if isinstance(answer, Pick) else answer
    return [job.index for bundle in bundles for job in bundle.jobs]


def times(world):
    """When each container was made."""
    return [container.born for container in world.platform.all.values()]


def test_at_once_launches_as_many_as_can_be_sent():
    assert picked(AtOnce()(view(range(100), room=7))) == [*range(7)]


def test_window_counts_containers_that_may_exist():
    assert picked(Window(5)(view(range(10), containers=3))) == [0, 1]
    assert picked(Window(5)(view(range(10), containers=9))) == []


def test_chunks_wait_for_the_whole_chunk_and_pause():
    chunks = Chunks(3, pause=30)
    assert picked(chunks(view(range(9)))) == [0, 1, 2]
    assert picked(chunks(view([2, 3, 4], active=[1]))) == [2]
    assert picked(chunks(view([3, 4, 5], active=[1]))) == []
    pause = chunks(view([3, 4, 5], finishes=ago(10)))
    assert (picked(pause), pause.again) == ([], 20)
    assert picked(chunks(view([3, 4, 5], finishes=ago(31)))) == [3, 4, 5]


def test_chunks_wait_for_verdicts_and_retries():
    waiting = {JobState.WAITING: 1, JobState.PLANNED: 3}
    assert picked(Chunks(3)(view([3, 4, 5], counts=waiting))) == []
    assert picked(Chunks(3)(view([3, 4, 5], counts={JobState.RUNNING: 1, JobState.PLANNED: 3}))) == []


def test_chunks_of_many_retries_do_not_wait_for_themselves(world):
    world.platform.fate = lambda request: Fate(code=1)
    batch = world.planned(30, launch=Chunks(4, pause=1.0))
    batch.run(progress=False, stop_alike=None)
    world.platform.fate = lambda request: Fate()
    assert len(batch.retry_failed()) == 30
    batch.run(progress=False, timeout=10_000)
    assert batch.counts == {JobState.SUCCEEDED: 30}


def test_chunks_never_mix_if_jobs_vanish_and_are_retried(world):
    fates = iter([Fate(lasts=1e6), *[Fate(lasts=20)] * 100])
    world.platform.fate = lambda request: next(fates)
    batch = world.planned(9, launch=Chunks(3, pause=10.0), retry=Retry(classes=Deleted))
    world.turn(batch, 60)
    world.platform.all = {id: c for id, c in world.platform.all.items() if c.fate.lasts < 1e6}
    batch.run(progress=False)
    order = [name.split("-")[1] for name in world.platform.launched]
    assert order == ["j0", "j1", "j2", "j0", *(f"j{n}" for n in range(3, 9))]
    assert batch.counts == {JobState.SUCCEEDED: 9}


@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0, 1.5, 3.0, 7.5])
def test_throttle_keeps_its_rate_and_loses_none_of_it(world, rate):
    world.platform.fate = lambda request: Fate(lasts=1e6)
    world.turn(world.planned(60, launch=Throttle(rate)), 30 / rate)
    made = times(world)
    assert 28 <= len(made) <= 40
    span = 10 / rate
    assert all(sum(at <= other < at + span for other in made) <= 10 + rate + 1 for at in made)


def test_throttle_cuts_another_strategys_pick(world):
    world.platform.fate = lambda request: Fate(lasts=50)
    batch = world.planned(12, launch=Throttle(1, then=Window(3)))
    most = []
    world.platform.after["launch"] = lambda: most.append(world.platform.running)
    batch.run(progress=False)
    assert max(most) == 3
    assert min(b - a for a, b in zip(times(world), times(world)[1:], strict=False)) >= 0.99


def test_throttle_passes_on_when_the_other_is_to_be_asked():
    assert Throttle(5, then=lambda view: Pick([], again=7.0))(view()) == Pick([], again=7.0)


def test_adaptive_window_grows_and_halves_once_for_several_refusals():
    grown = Adaptive(start=8).window(view(finishes=ago(*range(80, 0, -1))))
    assert grown > 12
    assert Adaptive(start=8).window(view(refusals=ago(3, 2, 1))) == 4
    assert Adaptive(start=8).window(view(refusals=ago(100, 50, 1))) == 1
    assert Adaptive(start=8, lowest=2).window(view(refusals=ago(200, 150, 100, 50, 1))) == 2
    assert Adaptive(start=8, highest=10).window(view(finishes=ago(*range(200, 0, -1)))) == 10


def test_adaptive_window_waits_for_the_queue_and_leaves_others_room():
    assert Adaptive(start=8).window(view(containers=5, counts={JobState.PENDING: 5})) == 5
    usage = Usage(pending=0, running=12, cores=0, ram=0, interactive=2)
    assert Adaptive(start=8, highest=16).window(view(containers=2, usage=usage)) == 6


def test_adaptive_batch_succeeds_on_a_platform_with_little_room(world):
    def refuse_beyond_six():
        if world.platform.running >= 6:
            raise errors.PlatformBusy("not now")

    world.platform.fate = lambda request: Fate(lasts=60)
    world.platform.before["launch"] = refuse_beyond_six
    batch = world.planned(60, launch=Adaptive(start=16))
    batch.run(progress=False)
    assert batch.counts == {JobState.SUCCEEDED: 60}
    assert world.clock.seconds < 60 / 6 * 60 * 3


def sized(answer):
    """The jobs of each bundle."""
    return [[job.index for job in bundle.jobs] for bundle in answer.bundles]


def expecting(seconds, spec=SPEC, **more):
    jobs = [
        JobRecord(key=f"j{n}", index=n, spec=spec, filled=spec.fill({"n": n}), expected=expected)
        for n, expected in enumerate(seconds)
    ]
    longest = sorted(jobs, key=lambda job: (-(job.expected or 0), job.index))
    known = [job.expected for job in jobs if job.expected is not None]
    backlog = more.pop("backlog", sum(known) if len(known) == len(jobs) else None)
    return BatchView(
        now=EPOCH, counts=Counter({JobState.PLANNED: len(jobs)}), containers=more.pop("containers", 0),
        ready=lambda: jobs, longest=lambda: longest, backlog=backlog, **more,
    )  # fmt: skip


def test_a_bundle_carries_many_jobs_and_a_window_counts_containers():
    assert sized(Bundle(tasks=3, then=Window(4))(view(range(20), containers=2))) == [[0, 1, 2], [3, 4, 5]]
    assert sized(Bundle(tasks=3, then=Window(4))(view(range(4), containers=2))) == [[0, 1, 2], [3]]
    assert sized(Bundle(tasks=3, then=Window(2))(view(range(4), containers=2))) == []
    assert len(Bundle()(view(range(70))).bundles[0].jobs) == 50


def test_a_throttled_bundle_is_one_launch():
    bundles = Throttle(1, then=Bundle(tasks=2, then=Window(5)))(view(range(9))).bundles
    assert [[job.index for job in bundle.jobs] for bundle in bundles] == [[0, 1]]


def test_jobs_with_other_images_or_resources_go_into_other_bundles():
    other = attrs.evolve(SPEC, image="skaha/other")
    more = attrs.evolve(SPEC, cores=2)
    alone = attrs.evolve(SPEC, receipt=False)
    jobs = [
        JobRecord(key=f"j{n}", index=n, spec=spec, filled=spec.fill({"n": n}))
        for n, spec in enumerate([SPEC, other, SPEC, more, alone, alone, other, SPEC])
    ]
    seen = BatchView(now=EPOCH, counts={}, containers=0, ready=lambda: jobs)
    assert sized(Bundle(tasks=3)(seen)) == [[0, 2, 7], [1, 6], [3], [4], [5]]


def test_a_container_asks_for_the_resources_of_the_jobs_that_run_at_a_time():
    bundle = Bundle(tasks=9, parallel=4)
    (one,) = bundle(view(range(9), containers=15)).bundles
    assert one.parallel == 4
    spec = attrs.evolve(SPEC, cores=2, ram=3)
    (asks,) = (each.asks_for for each in bundle(expecting([None] * 9, spec, containers=15)).bundles)
    assert asks == Resources(cores=8, ram=12)
    assert bundle.container_resources(Resources(cores=2, ram=3)) == Resources(cores=8, ram=12)
    picked_one = Bundle(tasks=9, parallel=4, cores=3)(expecting([None] * 9, spec, containers=15)).bundles[0]
    assert picked_one.asks_for == Resources(cores=3, ram=12)
    few = bundle(expecting([None] * 2, spec, containers=15)).bundles[0]
    assert few.asks_for == Resources(cores=4, ram=6)


def test_bundles_are_filled_by_time_and_evenly():
    filled = sized(Bundle(minutes=1, then=Window(3))(expecting([10.0] * 30)))
    assert [len(jobs) for jobs in filled] == [5, 5, 5]  # 300 s in bundles of 60 s at most: 6 for 3 places
    assert [len(jobs) for jobs in sized(Bundle(minutes=20, then=Window(3))(expecting([10.0] * 30)))] == [30]


def test_while_nothing_is_known_a_bundle_fills_its_lanes():
    assert sized(Bundle(minutes=20, parallel=2, then=Window(2))(expecting([None] * 9))) == [[0, 1], [2, 3]]
    known = expecting([None] * 8, typical=60.0, backlog=480.0)
    assert [len(jobs) for jobs in sized(Bundle(minutes=2, then=Window(2))(known))] == [2, 2]


def test_the_longest_jobs_come_first_and_share_out_evenly():
    seconds = [1.0, 9.0, 2.0, 8.0, 3.0, 7.0, 4.0, 6.0]
    assert picked(Window(3, longest_first=True)(expecting(seconds))) == [1, 3, 5]
    filled = Bundle(minutes=1 / 3, then=Window(2, longest_first=True))(expecting(seconds)).bundles
    work = [sum(job.expected for job in bundle.jobs) for bundle in filled]
    assert len(work) == 2
    assert max(work) - min(work) <= 2
    assert filled[0].jobs[0].index == 1


@pytest.mark.parametrize("wrong", [{"tasks": 0}, {"minutes": 0}, {"tasks": 1, "parallel": 0}, {"cores": -1}])
def test_a_bundle_refuses_numbers_that_are_not_positive(wrong):
    with pytest.raises(ValueError):
        Bundle(**wrong)


def one_at_a_time(view):
    """A strategy of a user's own: five lines."""
    if view.containers:
        return []
    return [Carried(job) for job in view.ready(at_most=1)]


def slowly(view):
    """Another: one job every 20 seconds, whatever happens."""
    if view.launches and (view.now - view.launches[-1]).total_seconds() < 20:
        return Pick(again=20 - (view.now - view.launches[-1]).total_seconds())
    return [Carried(job) for job in view.ready(at_most=1)]


@pytest.mark.parametrize("launch", [one_at_a_time, slowly, Throttle(1, then=one_at_a_time)])
def test_function_is_a_launch_strategy(world, launch):
    batch = world.planned(5, launch=launch)
    batch.run(progress=False)
    assert batch.counts == {JobState.SUCCEEDED: 5}
    assert min(b - a for a, b in zip(times(world), times(world)[1:], strict=False)) >= 10


@pytest.mark.parametrize("make", [Window, Chunks, Throttle, lambda n: Adaptive(start=n)])
def test_sizes_are_positive(make):
    with pytest.raises(ValueError):
        make(0)
