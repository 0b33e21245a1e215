"""Patience: refusals that pass, and refusals that stay."""

import itertools

import pytest
from engine import SPEC, always, doubt, raising, states
from fakes import Fate

from canfar_batch import errors, failures
from canfar_batch.records import JobState
from canfar_batch.spec import JobSpec
from canfar_batch.strategies import Window

S = JobState
OTHER = JobSpec("fit {n}", image="skaha/other")
REFUSED = errors.PlatformRefused("The platform refused (400: No authentication provided).", status=400)
NOT_TAKEN = errors.NotMade("jobs.batch not found", status=500, same_again=True)
BROKEN = errors.NotMade("NoClassDefFoundError", status=500)
QUESTIONS = ("containers", "container", "logs", "events", "cancel", "limits")


def refusal(status, text):
    """The error that the client makes of a refused create."""
    if status == 401:
        return errors.CredentialRefused(f"The credential was refused ({text}).", status=401, was_accepted=True)
    if status == 503:
        return errors.PlatformBusy(text, status=503, retry_after=8.0)
    kinds = {403: errors.AccessDenied, 500: errors.NotMade}
    return kinds.get(status, errors.PlatformRefused)(f"The platform refused ({text}).", status=status)


#: one of each kind; every recorded answer is played over HTTP in the integration tests
ANSWERS = [
    (400, "No authentication provided for unknown or private image."),
    (401, "not authenticated"),
    (403, "Not authorized to use the skaha system"),
    (404, "not found"),
    (500, "unexpected exception: java.net.ConnectException: Connection refused"),
    (503, "temporarily unavailable: null"),
]


def outage(world, error, seconds, *, after, calls=("launch",)):
    """Let *calls* fail for *seconds*, as soon as *after* jobs were launched."""
    began = []

    def fail():
        if len(world.platform.launched) >= after and not began:
            began.append(world.clock.seconds)
        if began and world.clock.seconds < began[0] + seconds:
            raise error

    for call in calls:
        world.platform.before[call] = fail


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("seconds", [5, 2400])
@pytest.mark.parametrize("calls", [("launch",), ("launch", *QUESTIONS)], ids=["creates", "everything"])
@pytest.mark.parametrize(("status", "text"), ANSWERS)
def test_no_outage_costs_a_job(world, caplog, status, text, calls, seconds):
    outage(world, refusal(status, text), seconds, after=8, calls=calls)
    batch = world.planned(40, launch=Window(4))
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 40
    assert len(world.platform.launched) == 40
    said = warnings(caplog)
    assert len(said) <= 5
    if calls == ("launch",) and (status, seconds) != (503, 5):  # the first probe is accepted
        assert [text[:60] in line for line in said].count(True) == 1
        assert "going on" in said[-1]


@pytest.mark.parametrize("seconds", [5, 2400])
@pytest.mark.parametrize("jobs", [40, 9])
def test_no_outage_without_answers_costs_a_job(world, jobs, seconds):
    outage(world, doubt(), seconds, after=8)
    batch = world.planned(jobs, launch=Window(4))
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * jobs
    assert len(world.platform.launched) == jobs


def test_the_hour_for_launches_without_answers_begins_again_when_others_are_accepted(world):
    make, clock = world.platform.make, world.clock

    def silent(request):
        return always(doubt())() if "-j1-" in request.name and clock.seconds < 5300 else make(request)

    world.platform.make = silent
    batch = world.planned(2, launch=Window(2))
    world.turn(batch, 2800)
    assert batch.counts[S.SUCCEEDED] == 1
    batch.map(SPEC, key="k{n}", n=range(1))
    batch.run(progress=False)
    assert batch.counts == {S.SUCCEEDED: 3}
    assert len(world.platform.launched) == 3


BUSY = {
    "400": REFUSED,
    "429": errors.PlatformBusy("The platform asks to be tried again later (429: slow down).", status=429),
    "503": errors.PlatformBusy("temporarily unavailable: null.", status=503, retry_after=8.0),
    "refused": errors.NotSent("Connection refused."),
    "no answer": doubt(),
}


@pytest.mark.parametrize("answer", BUSY)
def test_one_job_probes_at_growing_intervals(world, answer):
    asked = []
    outage(world, BUSY[answer], 2400, after=8)
    fail = world.platform.before["launch"]
    world.platform.before["launch"] = lambda: asked.append(world.clock.seconds) or fail()
    world.planned(40, launch=Window(4)).run(progress=False)
    probes = [at for at in asked if asked[8] < at < asked[8] + 2400]
    assert len(set(probes)) == len(probes) < 25
    gaps = [later - earlier for earlier, later in itertools.pairwise(probes)]
    assert max(gaps) > 100
    assert max(gaps) <= 301


@pytest.mark.parametrize("answer", ["429", "503", "refused"])
def test_one_job_probes_a_platform_that_is_busy_from_the_beginning(world, answer):
    outage(world, BUSY[answer], 2400, after=0)
    batch = world.planned(40, launch=Window(4))
    world.turn(batch, 2300)
    assert world.platform.calls["launch"] < 4 + 25
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 40
    assert len(world.platform.launched) == 40


def test_containers_that_polls_find_show_that_launches_work_though_no_answer_comes(world):
    world.platform.after["launch"] = always(doubt())
    batch = world.planned(40, launch=Window(4))
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 40
    assert len(world.platform.launched) == 40
    assert world.clock.seconds < 40 * 20


@pytest.mark.parametrize("error", [REFUSED, errors.AccessDenied("no", status=403), NOT_TAKEN])
def test_before_any_success_a_refusal_is_final_and_quick(world, error):
    world.platform.before["launch"] = always(error)
    batch = world.planned(2)
    batch.run(progress=False)
    assert (states(batch), world.platform.calls["launch"]) == ([S.FAILED] * 2, 2)
    assert "may be having an outage" in batch["j0"].failure.message
    assert world.clock.seconds < 1


def test_a_refusal_that_is_certainly_about_the_request_is_final(world):
    certain = errors.PlatformRefused("name can only contain", status=400, may_pass=False)
    world.platform.before["launch"] = raising(None, None, certain)
    batch = world.planned(8, launch=Window(1))
    batch.run(progress=False)
    assert batch.counts == {S.SUCCEEDED: 7, S.FAILED: 1}


def test_another_image_has_no_history(world):
    batch = world.planned(4, launch=Window(1))
    batch.map(OTHER, key="o{n}", n=range(2))
    make = world.platform.make
    world.platform.make = lambda request: always(REFUSED)() if "other" in request.image else make(request)
    batch.run(progress=False)
    assert batch.counts == {S.SUCCEEDED: 4, S.FAILED: 2}
    assert world.clock.seconds < 600


def test_the_history_is_in_the_ledger(world):
    world.planned(4).run(progress=False)
    outage(world, REFUSED, 600, after=4)
    batch = world.planned(8)
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 8


def test_a_job_that_alone_is_refused_is_given_up_after_35_minutes(world):
    make = world.platform.make
    world.platform.make = lambda request: always(REFUSED)() if "-j20-" in request.name else make(request)
    batch = world.planned(40, launch=Window(4))
    batch.run(progress=False)
    assert batch.counts == {S.SUCCEEDED: 39, S.FAILED: 1}
    assert 2100 < world.clock.seconds < 3600
    assert isinstance(batch["j20"].failure, failures.LaunchRefused)
    assert "No authentication provided" in batch["j20"].failure.message
    assert "while other launches were accepted" in batch["j20"].failure.message


def test_an_image_that_was_removed_does_not_hold_up_the_others(world):
    world.platform.fate = lambda request: Fate(lasts=60)
    batch = world.batch(launch=Window(4))
    batch.map(OTHER, key="o{n}", n=range(12))
    batch.map(SPEC, key="j{n}", n=range(100))
    make = world.platform.make

    def gone(request):
        if "other" in request.image and len(world.platform.launched) >= 4:
            raise REFUSED
        return make(request)

    world.platform.make = gone
    batch.run(progress=False)
    assert batch.counts == {S.SUCCEEDED: 104, S.FAILED: 8}
    last = max(batch[f"j{n}"].finished_at for n in range(100))
    assert (last - batch["o0"].attempts[0].intended_at).total_seconds() < 2400
    assert world.clock.seconds < 6000


def test_a_replica_that_fails_costs_no_job_and_no_attempt(world, caplog):
    turns = iter(range(10**6))
    world.platform.before["launch"] = lambda: always(BROKEN)() if next(turns) % 2 else None
    batch = world.planned(24)
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 24
    assert all(len(job.attempts) == 1 for job in batch)
    assert len(warnings(caplog)) <= 2


def test_a_credential_that_is_refused_by_creates_alone_is_waited_for(world, caplog):
    outage(world, errors.CredentialRefused("log in again", status=401), 5, after=0)
    batch = world.planned(3)
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 3
    assert world.clock.seconds < 60
    assert [line for line in warnings(caplog) if "log in again" in line]


def test_a_credential_that_polls_show_to_be_good_again_is_tried_at_once(world):
    world.platform.fate = lambda request: Fate(lasts=20)
    expired = errors.CredentialExpired("log in again")
    outage(world, expired, 10_000, after=4, calls=("launch", *QUESTIONS))
    batch = world.planned(40, launch=Window(8))
    world.turn(batch, 9_000)
    assert len(world.platform.launched) == 4
    assert "log in again" in batch._engine.paused
    while batch._engine.trouble is not None:
        world.turn(batch, 1)
    world.turn(batch, 2)
    assert batch._engine.paused is None
    assert len(world.platform.launched) > 4


def test_a_pause_by_polls_is_lifted_when_no_container_is_left(world):
    batch = world.planned(2, launch=Window(1))
    world.turn(batch, 5)
    batch._engine._stages.context.health.pause_for(errors.CredentialExpired("log in"))
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 2


def test_a_pause_that_polls_cause_ends_no_job(world):
    world.platform.fate = lambda request: Fate(lasts=100)
    outage(world, errors.AccessDenied("not authorized", status=403), 2400, after=4, calls=QUESTIONS)
    batch = world.planned(8, launch=Window(4))
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 8
    assert len(world.platform.launched) == 8


def test_a_launch_that_never_appears_is_reported_with_the_words_of_its_answer(world):
    world.platform.before["launch"] = always(doubt(status=500, server_text="quota webhook", same_again=True))
    batch = world.planned(1)
    batch.run(progress=False)
    assert states(batch) == [S.FAILED]
    assert "no answer" in batch["j0"].failure.message  # the error of the test's own assertion
    assert "the answer to the launch was not clear" in batch["j0"].failure.message


def test_a_launch_that_waits_in_vain_can_be_cancelled(world):
    outage(world, REFUSED, 1e6, after=2)
    batch = world.planned(6, launch=Window(2))
    world.turn(batch, 100)
    assert "refuses launches" in batch._engine.paused
    batch.cancel()
    batch.run(progress=False)
    assert batch.counts == {S.SUCCEEDED: 2, S.CANCELLED: 4}
