"""Whenever outages come, however they are worded and however long they last: each job runs once, and succeeds."""

import tempfile
from pathlib import Path

import attrs
from engine import World, doubt
from fakes import Fate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from canfar_batch import errors
from canfar_batch.records import JobState
from canfar_batch.strategies import AtOnce, Window

ERRORS = {
    "refused": errors.PlatformRefused("No authentication provided.", status=400),
    "denied": errors.AccessDenied("Not authorized to use the skaha system.", status=403),
    "credential": errors.CredentialRefused("not authenticated.", status=401, was_accepted=True),
    "not made": errors.NotMade("NoClassDefFoundError.", status=500),
    "not taken": errors.NotMade("jobs.batch not found.", status=500, same_again=True),
    "busy": errors.PlatformBusy("temporarily unavailable.", status=503, retry_after=8.0),
    "no answer": doubt(),
}
QUESTIONS = ("containers", "container", "logs", "events")


@attrs.frozen
class Outage:
    """One outage; it begins so long after the first job was launched."""

    begin: float
    seconds: float
    error: str
    everything: bool


outages = st.lists(
    st.builds(
        Outage,
        begin=st.floats(1, 6000),
        seconds=st.floats(1, 800),
        error=st.sampled_from(sorted(ERRORS)),
        everything=st.booleans(),
    ),
    max_size=3,  # 40 minutes in all
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(outages=outages, launch=st.sampled_from([Window(1), Window(4), AtOnce()]), lasts=st.floats(1, 900))
def test_outages_cost_no_job_and_no_second_run(outages, launch, lasts):
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory), lambda request: Fate(lasts=lasts))
        world.platform.forget_after = 1e6

        def fail(call):
            for outage in outages:
                strikes = world.platform.launched and (call == "launch" or outage.everything)
                if strikes and outage.begin <= world.clock.seconds < outage.begin + outage.seconds:
                    if call != "launch" and outage.error in ("no answer", "not made", "not taken"):
                        raise errors.PlatformBroken("a page came")
                    raise ERRORS[outage.error]

        for call in ("launch", *QUESTIONS):
            world.platform.before[call] = lambda call=call: fail(call)
        batch = world.planned(12, launch=launch)
        batch.run(progress=False)
        assert batch.counts == {JobState.SUCCEEDED: 12}
        assert len(world.platform.launched) == 12
        batch.close()
