"""Finishing: evidence, verdicts and cancels."""

import re
from datetime import timedelta

import attrs
import pytest
from engine import SLOW, SPEC, abandon, always, doubt, kinds, raising, states
from fakes import Fate

from canfar_batch import errors, failures
from canfar_batch.records import JobState, Phase
from canfar_batch.setup import GRACE
from canfar_batch.spec import JobSpec, Secret
from canfar_batch.strategies import Listing, OneByOne, Retry, Window, never

S = JobState


# -- ends and their evidence ----------------------------------------------------------------------------------------


def test_a_preempted_container_that_is_restarted_has_not_ended(world):
    world.platform.fate = lambda request: Fate(lasts=500)
    batch = world.planned(1)
    world.turn(batch, 30)
    (container,) = world.platform.all.values()
    world.platform.write_receipts(batch.home, "j0", 1, container.request.name, code=143)
    world.turn(batch, 200)
    assert states(batch) == [S.RUNNING]
    world.platform.write_receipts(batch.home, "j0", 1, container.request.name, code=0)
    batch.run(progress=False)
    assert (states(batch), len(batch["j0"].attempts)) == ([S.SUCCEEDED], 1)


def test_completed_without_a_receipt_is_a_success_and_said_to_be_unverified(world):
    world.platform.fate = lambda request: Fate(receipt=False)
    batch = world.planned(1)
    batch.run(progress=False)
    assert (states(batch), batch["j0"].attempts[-1].verified) == ([S.SUCCEEDED], False)


def test_the_search_for_a_receipt_that_never_came_is_no_part_of_the_run(world):
    world.platform.fate = lambda request: Fate(lasts=600, code=1, receipt=False)
    batch = world.planned(1, monitor=Listing(every=(1, 1)))
    began = world.clock.ticks()
    batch.run(progress=False)
    assert 598 < batch["j0"].run_seconds < 602
    assert world.clock.ticks() - began > 610  # it was searched


def test_a_receipt_file_weighs_more_than_the_log_and_the_platforms_word(world):
    batch = world.planned(1)
    world.turn(batch, 1)
    world.platform.write_receipts(batch.home, "j0", 1, world.platform.launched[0], code=3)
    batch.run(progress=False)
    assert (states(batch), batch["j0"].exit_code) == ([S.FAILED], 3)
    assert isinstance(batch["j0"].failure, failures.ExitCode)


def test_what_vanished_with_a_receipt_file_is_judged_by_it(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(1)
    world.turn(batch, 30)
    world.platform.write_receipts(batch.home, "j0", 1, world.platform.launched[0])
    world.platform.all.clear()
    batch.run(progress=False)
    assert (states(batch), len(world.platform.launched)) == ([S.SUCCEEDED], 1)


def test_what_vanished_without_a_word_was_deleted_and_is_launched_again_only_if_asked(world):
    fates = iter([SLOW, Fate()])
    world.platform.fate = lambda request: next(fates)
    batch = world.planned(1)
    world.turn(batch, 30)
    world.platform.all.clear()
    batch.run(progress=False)
    assert isinstance(batch["j0"].failure, failures.Deleted)
    assert (states(batch), len(world.platform.launched)) == ([S.FAILED], 1)
    batch.retry_failed()
    batch.run(progress=False)
    assert (states(batch), len(batch["j0"].attempts)) == ([S.SUCCEEDED], 2)


def test_how_long_the_platform_remembers_is_seen_by_what_it_forgot(world):
    world.platform.forget_after = 300.0
    fates = {"0": Fate(lasts=1), "1": Fate(lasts=400)}
    world.platform.fate = lambda request: fates[request.name.split("-")[1].removeprefix("j")]
    batch = world.planned(2, retry=always)
    world.turn(batch, 60)
    assert states(batch) == [S.SUCCEEDED, S.RUNNING]
    batch.close()
    world.clock.sleep(1200.0)
    again = world.planned(2, retry=never)
    again.run(progress=False)
    assert isinstance(again["j1"].failure, failures.Unwatched)


def test_a_container_that_is_deleted_while_it_waits_is_not_launched_again(world):
    world.platform.fate = lambda request: Fate(queue=1e6)
    batch = world.planned(1)
    world.turn(batch, 30)
    world.platform.all.clear()
    batch.run(progress=False)
    assert isinstance(batch["j0"].failure, failures.Deleted)
    assert (states(batch), len(world.platform.launched)) == ([S.FAILED], 1)


def test_a_receipt_shows_that_a_container_existed_which_no_list_showed(world):
    world.platform.shown = lambda infos: []
    batch = world.planned(1)
    world.turn(batch, 3)
    world.platform.write_receipts(batch.home, "j0", 1, world.platform.launched[0], code=143)
    end = batch.home / "receipts" / "j0.1.end"
    end.write_text(end.read_text().replace("outputs=0", "told=TERM outputs=0"))
    world.platform.all.clear()
    batch.run(progress=False)
    assert isinstance(batch["j0"].failure, failures.Deleted)
    assert len(world.platform.launched) == 1


def test_the_deadline_is_known_from_a_final_status_alone(world):
    world.platform.fate = lambda request: Fate(lasts=1, code=1, log=b"step 1\n", receipt=False)
    expires_at = world.clock.now() + timedelta(seconds=1)
    world.platform.shown = lambda infos: [attrs.evolve(info, expires_at=expires_at) for info in infos]
    batch = world.planned(1)
    batch.run(progress=False)
    assert isinstance(batch["j0"].failure, failures.DeadlineExceeded)


def test_a_job_that_ended_while_no_driver_ran_is_unwatched_and_not_launched_again(world):
    batch = world.planned(1)
    world.turn(batch, 3)
    batch.close()
    world.clock.sleep(4000)
    again = world.planned(1)
    again.run(progress=False)
    assert states(again) == [S.LOST]
    assert isinstance(again["j0"].failure, failures.Unwatched)
    assert len(world.platform.launched) == 1


def test_a_late_receipt_turns_a_loss_into_a_success(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(1, retry=never)
    world.turn(batch, 30)
    world.platform.all.clear()
    batch.run(progress=False)
    assert states(batch) == [S.FAILED]
    world.platform.write_receipts(batch.home, "j0", 1, world.platform.launched[0])
    batch.run(progress=False)
    assert (states(batch), len(world.platform.launched)) == ([S.SUCCEEDED], 1)
    assert batch.results()["j0"] is None, "the log went with the container"


def test_a_late_receipt_before_the_next_attempt_spares_that_attempt(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(1, retry=Retry(pause=300.0, classes=failures.Deleted))
    world.turn(batch, 30)
    world.platform.all.clear()
    world.turn(batch, 200)
    assert states(batch) == [S.WAITING]
    world.platform.write_receipts(batch.home, "j0", 1, world.platform.launched[0])
    batch.run(progress=False)
    assert (states(batch), len(world.platform.launched)) == ([S.SUCCEEDED], 1)


def test_a_torn_log_is_fetched_again(world):
    batch = world.planned(1)
    whole, times = world.platform.printed, iter(range(100))
    world.platform.printed = lambda c: whole(c) if next(times) >= 2 else whole(c).partition(b" end ")[0]
    batch.run(progress=False)
    assert batch["j0"].attempts[-1].verified
    assert world.platform.calls["logs"] == 3


def test_a_pod_that_is_removed_while_evidence_is_gathered_was_evicted(world):
    world.platform.fate = lambda request: Fate(code=137, log=b"step 1\n")
    whole, answers = world.platform.printed, iter(["", None, None, None, None, None, None])
    world.platform.printed = lambda c: whole(c).partition(b" end ")[0]
    world.platform.events = lambda id: next(answers)
    batch = world.planned(1, retry=never)
    batch.run(progress=False)
    assert isinstance(batch["j0"].failure, failures.Evicted)


def test_logs_that_break_for_hours_do_not_hold_a_verdict_up_for_ever(world):
    world.platform.before["logs"] = always(errors.PlatformBroken("no logs today"))
    batch = world.planned(2)
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 2
    assert not batch["j0"].attempts[-1].verified
    assert 120 < world.clock.seconds < 1800


def test_a_receipt_that_says_what_cannot_be_ends_no_run(world):
    world.platform.printed = lambda container: b"no receipt in the log\n"
    batch = world.planned(1, retry=never)
    world.turn(batch, 1)
    world.platform.write_receipts(batch.home, "j0", 1, world.platform.launched[0], code=7)
    end = batch.home / "receipts" / "j0.1.end"
    whole = end.read_text()
    end.write_text(re.sub(r"finished=\d+", "finished=99999999999999999999", whole))
    assert end.read_text() != whole
    batch.run(progress=False)
    (attempt,) = batch["j0"].attempts
    assert attempt.receipt.exit_code == 7
    assert attempt.receipt.finished_at is None


def test_an_image_that_cannot_be_pulled_is_found_out_and_stopped(world):
    world.platform.fate = lambda request: Fate(queue=1e6)
    world.platform.noted = "Warning   Failed   Failed to pull image   1   2\n"
    batch = world.planned(1, retry=never)
    batch.run(progress=False)
    assert isinstance(batch["j0"].failure, failures.ImagePull)
    assert world.clock.seconds < 600
    assert not world.platform.all


def test_events_that_cannot_be_had_stop_nothing(world):
    world.platform.fate = lambda request: Fate(queue=300)
    world.platform.before["events"] = always(errors.JobNotFound("session x not found."))
    batch = world.planned(2)
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 2


def test_what_pends_too_long_is_stopped_and_launched_again(world):
    fates = iter([Fate(queue=1e6), Fate()])
    world.platform.fate = lambda request: next(fates)
    batch = world.planned(1, JobSpec("fit {n}", image="skaha/astroml", pending_timeout=100))
    batch.run(progress=False)
    assert isinstance(batch["j0"].attempts[0].failure, failures.StuckPending)
    assert (states(batch), len(world.platform.all)) == ([S.SUCCEEDED], 1)


def test_what_pends_too_long_is_not_stopped_while_its_log_cannot_be_read(world):
    world.platform.fate = lambda request: Fate(queue=120)
    world.platform.before["logs"] = always(errors.PlatformBroken("not now"))
    batch = world.planned(1, JobSpec("fit {n}", image="skaha/astroml", pending_timeout=100))
    world.turn(batch, 300)
    del world.platform.before["logs"]
    batch.run(progress=False)
    assert (states(batch), len(batch["j0"].attempts), world.platform.calls["cancel"]) == ([S.SUCCEEDED], 1, 0)


def test_what_failed_unseen_without_the_wrapper_has_its_grace_time(world):
    fates = iter([Fate(queue=20, lasts=1, code=1, log=b"working\n", receipt=False), Fate(receipt=False)])
    world.platform.fate = lambda request: next(fates)
    batch = world.planned(
        1, attrs.evolve(SPEC, receipt=False), monitor=OneByOne(), retry=Retry(1, classes=failures.Unknown, pause=0)
    )
    batch.run(progress=False)
    first, second = batch["j0"].attempts
    assert (second.intended_at - first.ended_at).total_seconds() >= GRACE


def test_what_failed_has_its_grace_time_if_nothing_can_be_learnt_about_it(world):
    fates = iter([Fate(queue=20, lasts=1, code=1, receipt=False), Fate(receipt=False)])
    world.platform.fate = lambda request: next(fates)
    unwrapped = attrs.evolve(SPEC, receipt=False)
    batch = world.planned(1, unwrapped, monitor=OneByOne(), retry=Retry(1, classes=failures.Unknown, pause=0))
    world.platform.before["events"] = always(errors.PlatformBroken("not now"))
    world.turn(batch, 2000)
    first, second = batch["j0"].attempts
    assert (second.intended_at - first.ended_at).total_seconds() >= GRACE


def test_what_was_evicted_unseen_and_in_silence_has_its_grace_time(world):
    fates = iter([Fate(queue=20, lasts=1, code=1, receipt=False), Fate(receipt=False)])
    world.platform.fate = lambda request: next(fates)
    world.platform.noted = (
        "TYPE   REASON   MESSAGE   FIRST-TIME   LAST-TIME\nNormal Evicted  low      <nil>        <nil>\n"
    )
    batch = world.planned(1, attrs.evolve(SPEC, receipt=False), monitor=OneByOne(), retry=Retry(1, pause=0))
    batch.run(progress=False)
    first, second = batch["j0"].attempts
    assert isinstance(first.failure, failures.Evicted)
    assert (second.intended_at - first.ended_at).total_seconds() >= GRACE


def test_a_log_that_comes_late_overrules_no_known_cause(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(1, attrs.evolve(SPEC, receipt=False), retry=never)
    world.turn(batch, 30)
    world.platform.all.clear()
    world.platform.before["logs"] = world.platform.before["events"] = always(errors.PlatformBroken("not now"))
    world.turn(batch, 300)
    assert batch.done
    world.platform.logs = lambda id: b"working\n"
    world.turn(batch, 300)
    assert batch["j0"].logs() == "working\n"
    assert isinstance(batch["j0"].failure, failures.Deleted)


def test_what_runs_beyond_its_timeout_is_stopped_by_the_driver_at_last(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(1, JobSpec("fit {n}", image="skaha/astroml", timeout=100))
    batch.run(progress=False)
    assert isinstance(batch["j0"].failure, failures.TimedOut)
    assert (states(batch), world.platform.all) == ([S.FAILED], {})


# -- cancelling -----------------------------------------------------------------------------------------------------


def test_cancel_stops_what_is_planned_pending_and_running(world):
    world.platform.fate = lambda request: SLOW if "-j0-" in request.name else Fate(queue=1e6)
    batch = world.planned(4, launch=Window(2))
    world.turn(batch, 30)
    assert states(batch) == [S.RUNNING, S.PENDING, S.PLANNED, S.PLANNED]
    assert batch.cancel() == ["j0", "j1", "j2", "j3"]
    assert (states(batch), world.platform.all) == ([S.CANCELLED] * 4, {})
    batch.run(progress=False)
    assert len(world.platform.launched) == 2


def test_cancel_sweeps_a_launch_that_is_in_doubt(world):
    world.platform.fate = lambda request: SLOW
    held, make = [], world.platform.make
    world.platform.make = lambda request: held.append(request) or "0"
    world.platform.after["launch"] = raising(doubt())
    batch = world.planned(1)
    world.turn(batch, 10)
    batch.cancel(wait=False)
    world.turn(batch, 150)
    assert states(batch) == [S.CANCELLED]
    make(held[0])
    batch.run(progress=False)
    assert (states(batch), world.platform.all) == ([S.CANCELLED], {})


@pytest.mark.parametrize(
    "error", [errors.PlatformBusy("later"), errors.NotSent("no"), errors.PlatformRefused("bad", status=400)]
)
def test_cancel_while_a_launch_is_under_way_that_comes_to_nothing(world, error):
    def while_sending():
        batch._ledger.ask("cancel", ["j0"])
        batch.cancel(["j0"], wait=False, timeout=0)
        raise error

    world.platform.before["launch"] = while_sending
    batch = world.planned(1, retry=Retry(classes=failures.LaunchRefused))
    batch.run(progress=False, timeout=4000)
    assert (states(batch), world.platform.calls["launch"]) == ([S.CANCELLED], 1)


def test_a_success_that_is_reported_while_cancelling_wins(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(1)
    world.turn(batch, 30)
    world.platform.write_receipts(batch.home, "j0", 1, world.platform.launched[0])
    batch.cancel()
    assert states(batch) == [S.SUCCEEDED]


def test_a_success_whose_receipt_comes_after_the_cancel_wins_too(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(1)
    world.turn(batch, 30)
    batch.cancel()
    assert states(batch) == [S.CANCELLED]
    world.platform.write_receipts(batch.home, "j0", 1, world.platform.launched[0])  # a network disk took its time
    batch.run(progress=False)
    assert (states(batch), world.platform.calls["launch"]) == ([S.SUCCEEDED], 1)


def test_a_cancel_that_cannot_get_through_says_why(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(1)
    world.turn(batch, 30)
    world.platform.before["containers"] = always(errors.CredentialExpired("your token is over: canfar login"))
    with pytest.raises(errors.WaitTimeout, match="still being stopped after 600 s: your token is over: canfar login"):
        batch.cancel(timeout=600)
    world.platform.before.clear()
    batch.run(progress=False)  # the wish was recorded
    assert (states(batch), world.platform.all) == ([S.CANCELLED], {})


def test_evidence_that_the_first_try_of_a_cancel_found_outlives_its_lost_answer(world):
    world.platform.fate = lambda request: Fate(lasts=31)
    batch = world.planned(1)
    world.turn(batch, 30)
    world.platform.shown = lambda shown: [attrs.evolve(info, phase=Phase.RUNNING) for info in shown]
    world.clock.sleep(5)  # it has ended, which its log shows and the list does not yet
    world.platform.after["cancel"] = raising(errors.PlatformBroken("the answer to DELETE is lost"))
    batch.cancel()
    assert states(batch) == [S.SUCCEEDED]
    assert b"end" not in batch["j0"].attempts[-1].log.read_bytes()


def test_a_container_that_refuses_to_go_for_a_day_ends_no_run(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(1)
    world.turn(batch, 30)
    cancel = world.platform.cancel
    world.platform.cancel = lambda id: None
    batch.cancel(wait=False)
    world.turn(batch, 40_000)
    assert states(batch) == [S.RUNNING]
    world.platform.cancel = cancel
    batch.run(progress=False)
    assert states(batch) == [S.CANCELLED]


def test_another_batch_object_asks_the_driver_to_cancel(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(2)
    world.turn(batch, 30)
    other = world.batch()
    assert other.cancel(["j1"]) == ["j1"]
    world.turn(batch, 60)
    assert states(batch) == [S.RUNNING, S.CANCELLED]
    other.close()


def test_the_ledger_has_no_secret_that_the_log_quotes(world, monkeypatch):
    monkeypatch.setenv("SERVICE", "correct-horse")
    world.platform.fate = lambda request: Fate(code=1, log=b"Error: the archive refused correct-horse\n")
    spec = JobSpec("fetch {n}", image="i", env={"SERVICE": Secret("SERVICE")})
    batch = world.planned(1, spec=spec, retry=never)
    batch.run(progress=False)
    (failed,) = batch.failed
    assert failed.record.failure.message == "Error: the archive refused [secret]"
    ledgers = list(batch.home.glob("ledger.db*"))
    assert ledgers
    assert not [path for path in ledgers if b"correct-horse" in path.read_bytes()]


def test_a_container_that_ended_and_was_forgotten_is_judged_by_its_status(world):
    world.platform.fate = lambda request: Fate(lasts=5)
    batch = world.planned(1, retry=never)
    world.turn(batch, 1)
    world.platform.before["logs"] = lambda: world.platform.all.clear()
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED]
    assert not batch.records[0].attempts[-1].verified


def test_what_cannot_come_is_not_asked_for_again(world):
    world.platform.fate = lambda request: Fate(queue=0, lasts=1e9)
    batch = world.planned(2, retry=Retry(pause=3000.0, classes=failures.Deleted))
    world.turn(batch, 30)
    gone = world.platform.launched[0]
    world.platform.all = {id: one for id, one in world.platform.all.items() if one.request.name != gone}
    world.turn(batch, 2000)
    assert [event.kind for event in batch.history("j0")].count("EvidenceAdded") == 0
    assert isinstance(batch.records[0].attempts[0].failure, failures.Deleted)


def test_an_eviction_before_the_wrapper_printed_a_line_is_told_soon(world):
    world.platform.fate = lambda request: Fate(lasts=30, code=137, receipt=False)
    world.platform.noted = "TYPE      REASON    MESSAGE                   FIRST-TIME   LAST-TIME\n"
    world.platform.noted += "Warning   Evicted   The node was low: memory. <nil>        <nil>\n"
    batch = world.planned(1, retry=never)
    batch.run(progress=False)
    assert isinstance(batch["j0"].failure, failures.Evicted)
    assert world.clock.seconds < 30 + 90  # no log will come


def test_a_log_that_nothing_explains_is_waited_for(world):
    world.platform.fate = lambda request: Fate(lasts=30, code=137, receipt=False)
    world.platform.noted = "TYPE      REASON    MESSAGE                   FIRST-TIME   LAST-TIME\n"
    batch = world.planned(1, retry=never)
    batch.run(progress=False)
    assert isinstance(batch["j0"].failure, failures.Unknown)
    assert world.clock.seconds > 600


def test_a_stop_is_recorded_before_it_is_sent_so_that_the_next_driver_knows_of_it(world):
    """A driver that is killed between the two does not make it look as if somebody else had deleted the job."""
    fates = iter([Fate(queue=1e6), Fate()])
    world.platform.fate = lambda request: next(fates)
    batch = world.planned(1, attrs.evolve(SPEC, pending_timeout=60))

    def killed(*_):
        assert "StopDecided" in kinds(batch)
        raise KeyboardInterrupt

    world.platform.after["cancel"] = killed
    with pytest.raises(KeyboardInterrupt):
        world.turn(batch, 200)
    abandon(batch)
    world.platform.after.clear()
    again = world.planned(1, attrs.evolve(SPEC, pending_timeout=60))
    again.run(progress=False)
    assert [type(attempt.failure) for attempt in again.records[0].attempts] == [failures.StuckPending, type(None)]
    assert states(again) == [S.SUCCEEDED]


def test_what_began_after_a_stop_was_decided_and_not_sent_is_left_alone(world):
    world.platform.fate = lambda request: Fate(queue=100, lasts=500)
    spec = attrs.evolve(SPEC, pending_timeout=60)
    batch = world.planned(1, spec)

    def killed(*_):
        raise KeyboardInterrupt

    world.platform.before["cancel"] = killed
    with pytest.raises(KeyboardInterrupt):
        world.turn(batch, 99)
    abandon(batch)
    world.platform.before.clear()
    world.clock.sleep(30)
    again = world.planned(1, spec)
    world.turn(again, 100)
    assert again["j0"].record.attempts[-1].stopped_for is None
    world.platform.all.clear()
    again.run(progress=False)
    assert isinstance(again["j0"].failure, failures.Deleted)
