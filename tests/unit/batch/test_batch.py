"""A batch: planning, secrets, and use by several people, processes and scripts."""

import base64
import shutil
from datetime import timedelta

import attrs
import pytest
from engine import SLOW, SPEC, connection_of, doubt, engine_of, ledger_of, raising, states
from fakes import Fate
from ledgers import statements

from canfar_batch import errors
from canfar_batch.batch import Batch
from canfar_batch.lifecycle import Cancelled
from canfar_batch.protocols import Again
from canfar_batch.records import JobState
from canfar_batch.spec import JobSpec, Secret
from canfar_batch.store import database, ledger
from canfar_batch.strategies import AtOnce, OneByOne, Throttle, Window, never

S = JobState


# -- secrets ----------------------------------------------------------------------------------------------------------


def test_a_secret_reaches_the_job_and_no_file_of_the_batch(world, monkeypatch):
    monkeypatch.setenv("MY_KEY", "hush-hush")
    batch = world.planned(1, JobSpec("fit {n}", image="skaha/x", env={"A": Secret("MY_KEY")}, receipt=False))
    again = attrs.evolve(batch["j0"].spec, ram=4)  # also the message for a changed spec
    batch.map(again, key="j{n}", n=[0])
    sent, make = [], world.platform.make
    world.platform.make = lambda request: sent.append(request) or make(request)
    batch.run(progress=False)
    (request,) = sent
    assert (request.secrets, "hush" in repr(request)) == (("hush-hush",), False)
    assert ("A", "hush-hush") in request.env
    assert "(the secret $MY_KEY)" in batch.preview() + str(batch["j0"].spec)
    batch.report().to_html()
    texts = [path.read_bytes() for path in batch.home.rglob("*") if path.is_file()]
    assert len(texts) >= 3
    assert not [text for text in texts if b"hush" in text or base64.b64encode(b"hush-hush")[:10] in text]


def test_a_new_value_of_a_secret_does_not_change_the_job(world, monkeypatch):
    spec = JobSpec("fit {n}", image="skaha/x", env={"A": Secret("MY_KEY")})
    for value in ("old", "new"):
        monkeypatch.setenv("MY_KEY", value)
        world.planned(1, spec).run(progress=False)
    assert len(world.platform.launched) == 1


def test_a_missing_secret_is_noticed_before_planning_and_launching(world, monkeypatch):
    spec = JobSpec("fit {n}", image="skaha/x", env={"A": Secret("MY_KEY")})
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(errors.SpecError, match="MY_KEY"):
        world.planned(1, spec)
    monkeypatch.setenv("MY_KEY", "x")
    batch = world.planned(1, spec)
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(errors.SpecError, match="MY_KEY"):
        batch.run(progress=False)
    with pytest.raises(errors.SpecError, match="MY_KEY"):
        next(batch.as_completed())
    assert (states(batch), world.platform.launched) == ([S.PLANNED], [])


# -- planning without a driver ----------------------------------------------------------------------------------------


def test_one_more_job_is_one_transaction(world):
    batch = world.planned(1)
    with statements(connection_of(batch)) as written:
        batch.add(SPEC, key="one-more", n=7)
    assert written.count("COMMIT") == written.count("BEGIN IMMEDIATE") == 1


def test_a_plan_that_cannot_be_written_changes_nothing(world, monkeypatch):
    batch = world.planned(2)
    changed = attrs.evolve(SPEC, ram=8)

    def full(self, events):
        raise errors.HomeError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(type(ledger_of(batch)), "record", full)
        with pytest.raises(errors.HomeError, match="no room"):
            batch.map(changed, key="j{n}", n=range(4))
    assert [job.key for job in batch] == ["j0", "j1"]
    batch.map(changed, key="j{n}", n=range(4))
    assert [job.spec.ram for job in batch] == [8] * 4


def test_jobs_that_another_process_planned_meanwhile_are_kept(world):
    batch, other = world.planned(1), world.batch()
    other.map(SPEC, key="j{n}", n=[1, 2])
    batch.add(SPEC, key="mine", n=3)
    other.add(SPEC, key="theirs", n=4)
    assert [job.key for job in other] == ["j0", "j1", "j2", "mine", "theirs"]
    assert [job.key for job in world.batch()] == ["j0", "j1", "j2", "mine", "theirs"]


def test_a_plan_is_not_changed_under_another_driver(world):
    batch = world.planned(1)
    world.platform.fate = lambda request: SLOW
    world.turn(batch, 10)
    with pytest.raises(errors.BatchBusy):
        world.batch().add(SPEC, key="more", n=1)
    assert world.batch().keys() == ["j0"]


# -- what happened to users -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refused", [lambda b: b.drop(["typo"]), lambda b: b.retry_failed(["typo"])])
def test_a_refused_change_does_not_hide_what_others_write(world, refused):
    batch = world.planned(4)
    with pytest.raises(LookupError):
        refused(batch)
    with world.planned(4) as other:
        other.run(progress=False)
        other.add(SPEC, key="theirs", n=9)
    batch.add(SPEC, key="mine", n=10)
    batch.run(progress=False)
    assert [job.key for job in batch] == ["j0", "j1", "j2", "j3", "theirs", "mine"]
    assert len(world.platform.launched) == 6


def test_a_stale_plan_fails_loudly_and_overwrites_nothing(world, monkeypatch):
    batch, other = world.planned(1), world.batch()
    other.add(SPEC, key="theirs", n=1)
    monkeypatch.setattr(type(ledger_of(batch)), "reload", lambda self: None)  # as if nothing had happened meanwhile
    with pytest.raises(errors.LedgerError):
        batch.add(SPEC, key="mine", n=2)
    monkeypatch.undo()
    assert [job.key for job in world.batch()] == ["j0", "theirs"]


def test_an_interrupt_while_a_batch_is_read_leaves_no_half_of_it(world, monkeypatch):
    world.planned(19).close()
    batch, read = world.batch(), ledger.pack
    world.batch().add(SPEC, key="theirs", n=19)  # so that the jobs are read again
    monkeypatch.setattr(ledger, "pack", lambda row, *more: interrupt() if row[0] == 7 else read(row, *more))
    with pytest.raises(errors.Detached):
        batch.run(progress=False)
    monkeypatch.undo()
    assert len(batch) == 19
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 20


def test_an_interrupt_as_a_transaction_begins_leaves_none_open(world, monkeypatch):
    batch, patiently = world.planned(2), database.patiently

    def begun(db, statement):
        patiently(db, statement)
        if statement.startswith("BEGIN"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(database, "patiently", begun)
        with pytest.raises(errors.Detached):
            batch.run(progress=False)
    world.batch().add(SPEC, key="theirs", n=9)
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 3


def interrupt():
    raise KeyboardInterrupt


def test_a_batch_is_run_by_one_user(world, monkeypatch):
    world.platform.fate = lambda request: SLOW
    monkeypatch.setattr(type(world.platform), "user", None, raising=False)
    with world.planned(2) as batch:
        monkeypatch.setattr(type(world.platform), "user", "alice", raising=False)
        world.turn(batch, 10)
    assert ledger_of(world.batch()).identity.user == "alice"
    monkeypatch.setattr(type(world.platform), "user", None, raising=False)
    theirs = world.planned(2)  # a session does not know its user before the first answer
    monkeypatch.setattr(type(world.platform), "user", "bob", raising=False)
    with pytest.raises(errors.LedgerError, match="is run by alice, and you are bob here"):
        theirs.run(progress=False)
    assert len(world.platform.launched) == 2


def test_cancel_without_keys_stops_only_jobs_planned_so_far(world):
    batch = world.planned(1)
    batch.run(progress=False)
    with Batch.open("test", world.root) as reader:
        assert reader.cancel() == []
    batch.map(SPEC, key="later{n}", n=range(2))
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 3


def test_one_script_may_not_define_a_job_twice(world):
    batch = world.planned(2)
    with pytest.raises(errors.SpecChanged, match="'j0' was planned a moment ago as another job: cmd was"):
        batch.map(JobSpec("stack {n}", image="skaha/x"), key="j{n}", n=range(2))
    batch.replicas(SPEC_ALONE, 3)
    with pytest.raises(errors.SpecChanged, match=r"'replica-1' .* env differs in REPLICA_COUNT"):
        batch.replicas(SPEC_ALONE, 2)
    changed = world.batch()
    changed.map(JobSpec("stack {n}", image="skaha/x"), key="j{n}", n=range(2))  # a script that was edited
    assert [job.spec.words[0] for job in changed][:2] == ["stack", "stack"]


SPEC_ALONE = JobSpec("fit", image="skaha/x")


def test_one_by_one_finds_a_taken_name_too(world):
    world.platform.fate = lambda request: SLOW
    with world.planned(3) as batch:
        world.turn(batch, 10)
    shutil.rmtree(batch.home)
    with pytest.raises(errors.LedgerError, match="already has 3 containers"):
        world.planned(3, monitor=OneByOne()).run(progress=False)
    assert len(world.platform.launched) == 3


def test_one_by_one_removes_a_container_that_appears_late(world):
    held, make = [], world.platform.make
    world.platform.make = lambda request: held.append(request) or "0"
    world.platform.after["launch"] = raising(doubt())
    batch = world.planned(1, monitor=OneByOne(), retry=never)
    world.turn(batch, 200)
    make(held[0])
    batch.run(progress=False)
    assert (states(batch), world.platform.calls["launch"]) == ([S.SUCCEEDED], 1)


def test_a_job_is_not_overdue_because_the_clocks_differ(world):
    spec = JobSpec("fit {n}", image="skaha/x", timeout=300.0)
    world.platform.fate = lambda request: Fate(lasts=200)
    hour = timedelta(hours=1)
    world.platform.shown = lambda shown: [
        attrs.evolve(info, started_at=info.started_at and info.started_at - hour) for info in shown
    ]
    batch = world.planned(2, spec)
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 2


def test_setting_the_clock_back_delays_nothing(world, monkeypatch):
    batch = world.planned(10, launch=Throttle(1.0))
    world.turn(batch, 3)
    now = type(world.clock).now
    monkeypatch.setattr(type(world.clock), "now", lambda clock: now(clock) - timedelta(hours=1))
    began = world.clock.seconds
    batch.run(progress=False)
    assert world.clock.seconds - began < 300


def test_cancel_without_waiting_still_asks_the_platform(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(3)
    world.turn(batch, 30)
    batch.close()
    batch = world.batch()
    batch.cancel(wait=False)
    assert world.platform.calls["cancel"] == 3
    assert batch.driven_by is None


def test_cancel_releases_the_lease_unless_it_was_held_before(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(2)
    batch.cancel(["j0"])
    assert batch.driven_by is None
    world.turn(batch, 10)
    batch.cancel()
    assert batch.driven_by is not None


def test_step_raises_when_the_batch_is_paused(world):
    world.platform.fate = lambda request: Fate(code=1)
    batch = world.planned(20, launch=Window(2))
    with pytest.raises(errors.BatchPaused, match="failed alike"):
        world.turn(batch, 1000)
    for stage in (batch.step, batch.launch, lambda: batch.preflight(trial=True)):
        with pytest.raises(errors.BatchPaused):
            stage()
    world.platform.fate = lambda request: Fate()
    batch.retry_failed()
    while not batch.done:
        engine_of(batch).wait(batch.step())
    assert states(batch) == [S.SUCCEEDED] * 20


def test_as_completed_ends_though_a_yielded_job_is_dropped(world):
    batch = world.planned(3)
    batch.cancel(["j2"])
    told = []
    for job in batch.as_completed():
        told.append(job.key)
        if job.key == "j2":
            batch.retry_failed(["j2"])
            batch.drop(["j2"])
    assert sorted(told) == ["j0", "j1", "j2"]


def test_a_retry_may_have_a_name_of_its_own(world):
    world.platform.fate = lambda request: Fate(code=1)
    batch = world.planned(1)
    batch.run(progress=False)
    batch.retry_failed(name="again-{n}-{key}")
    batch.run(progress=False)
    assert "-again-0-j0-" in world.platform.launched[-1]


@pytest.mark.parametrize(
    ("role", "strategy", "words"),
    [
        ("launch", lambda view: None, r"launch strategy .* returned None; it returns a list of jobs or Bundles"),
        ("launch", lambda view: [1], r"launch strategy .* returned \[1\]"),
        ("retry", lambda job, failure: True, r"retry policy .* returned True; it returns Again\(…\) or Stop\(…\)"),
        ("monitor", lambda platform, view: None, r"monitor strategy .* returned None; it returns an Observation"),
    ],
)
def test_a_strategy_that_returns_nonsense_is_named(world, role, strategy, words):
    world.platform.fate = lambda request: Fate(code=1)
    batch = world.planned(1, **{role: strategy})
    with pytest.raises(errors.StrategyError, match=words):
        batch.run(progress=False)


def test_a_launch_strategy_may_return_jobs(world):
    batch = world.planned(3, launch=lambda view: view.ready(at_most=2))
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 3


@pytest.mark.parametrize("after", [-1.0, float("nan"), float("inf")])
def test_a_pause_is_a_number_of_seconds(after):
    with pytest.raises(ValueError, match="after"):
        Again(after=after)


@pytest.mark.parametrize(
    "use",
    [
        lambda batch: batch.run(), lambda batch: batch.add(SPEC, key="x", n=7), lambda batch: batch.history(),
        lambda batch: batch.driven_by, lambda batch: batch.cancel(),
        lambda batch: batch.step(),
    ],
)  # fmt: skip
def test_a_closed_batch_says_that_it_is(world, use):
    batch = world.planned(1)
    batch.close()
    with pytest.raises(errors.AlreadyClosed, match="was closed; open it again"):
        use(batch)


def test_a_batch_of_a_closed_session_says_so(world):
    batch = world.planned(1)
    world.platform.closed = True
    with pytest.raises(errors.AlreadyClosed, match="the session that batch 'test' belongs to was closed"):
        batch.run(progress=False)


def test_a_fork_of_the_driver_does_not_drive(world, monkeypatch):
    batch = world.planned(1)
    batch.step()
    monkeypatch.setattr("canfar_batch.store.ledger.os.getpid", lambda: -1)
    assert not ledger_of(batch).driving
    assert not ledger_of(batch).still_mine(ledger_of(batch).generation)
    with pytest.raises(errors.BatchBusy):
        ledger_of(batch).record([Cancelled(key="j0", at=world.clock.now())])


def test_the_time_out_of_as_completed_has_a_report(world):
    world.platform.fate = lambda request: SLOW
    with pytest.raises(errors.WaitTimeout) as caught:
        list(world.planned(1).as_completed(timeout=10))
    assert caught.value.report.counts == {S.RUNNING: 1}


def test_finished_jobs_need_no_secret(world, monkeypatch):
    spec = JobSpec("fit {n}", image="skaha/x", env={"A": Secret("MY_KEY")})
    monkeypatch.setenv("MY_KEY", "x")
    world.planned(1, spec).run(progress=False)
    monkeypatch.delenv("MY_KEY")
    assert world.planned(1, spec).run(progress=False).ok


def test_a_batch_whose_jobs_are_all_final_is_not_paused(world):
    world.platform.fate = lambda request: Fate(code=1)
    report = world.planned(8, launch=AtOnce()).run(progress=False)
    assert report.counts == {S.FAILED: 8}


def test_a_pause_says_how_to_go_on(world):
    world.platform.fate = lambda request: Fate(code=1)
    with pytest.raises(errors.BatchPaused, match=r"Fix the cause, then retry_failed\(\) and run\(\)"):
        world.planned(20, launch=Window(2)).run(progress=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"memory": 3}, r"a spec has no memory \(did you mean ram\?\); cores, gpus, name"),
        ({"core": 3}, r"a spec has no core \(did you mean cores\?\)"),
        ({"image": "x"}, r"image is part of the job's identity; cores"),
    ],
)
def test_a_change_that_a_retry_cannot_make_is_refused_by_name(world, change, words):
    with pytest.raises(errors.SpecError, match=words):
        world.planned(1).retry_failed(**change)


def test_an_unknown_batch_is_answered_with_those_that_exist(world):
    world.planned(1, name="sky").close()
    with pytest.raises(errors.UnknownBatch, match=r"no batch in .*skyy; .* has sky\. Batches are looked for"):
        Batch.open("skyy", world.root)


def test_an_interrupt_while_the_engine_gets_ready_leaves_the_batch_free(world):
    batch = world.planned(1, pool=interrupt)
    with pytest.raises(errors.Detached):
        batch.run(progress=False)
    assert batch.driven_by is None
    world.batch().run(progress=False)
    assert len(world.platform.launched) == 1
