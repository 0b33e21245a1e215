"""The cost of the jobs that are not launched yet."""

from fakes import Fate

from canfar_batch.batch import Batch


def test_the_estimate_takes_the_given_time_or_the_median_so_far(world):
    batch = world.planned(4, launch=lambda view: view.ready(at_most=2 - len(view.launches)))
    assert "core-hours are unknown until one has run" in batch.preview(0)
    assert batch.preflight(seconds=1800).estimate.core_hours == 2.0
    assert "4 jobs to run: 2 core-hours if each takes 1.8e+03 s (as given)" in str(batch.preflight(seconds=1800))
    world.platform.fate = lambda request: Fate(lasts=360)
    world.turn(batch, 500)
    estimate = batch.preflight().estimate
    assert (estimate.jobs, estimate.seconds, estimate.is_measured) == (2, 360.0, True)
    assert "2 jobs to run: 0.2 core-hours if each takes 360 s (the median so far)" in batch.preview(0)
    batch.close()
    assert "0.2 core-hours" in Batch.open("test", world.root).preview(0)
