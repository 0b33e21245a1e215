"""How a batch is planned: secrets, transactions, and plans of several processes."""

import base64

import attrs
import pytest
from engine import SLOW, SPEC, connection_of, ledger_of, states
from fakes import Fate
from ledgers import statements

from canfar_batch import errors
from canfar_batch.records import JobState
from canfar_batch.spec import JobSpec, Secret
from canfar_batch.store import database
from canfar_batch.strategies import Window

# -- shapes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", ["map", "grid", "rows"])
def test_an_empty_plan_is_an_error_unless_allowed(world, plan):
    batch = world.batch()
    given, columns = ([[]], {}) if plan == "rows" else ([], {"n": []})
    with pytest.raises(errors.PlanError, match="nothing to do"):
        getattr(batch, plan)(SPEC, *given, **columns)
    assert getattr(batch, plan)(SPEC, *given, **columns, allow_empty=True) == []


def test_replicas_differ_only_in_their_environment(world):
    batch = world.batch()
    assert batch.replicas(JobSpec("fit", image="i/i"), 3) == ["replica-1", "replica-2", "replica-3"]
    assert dict(batch.records[1].filled.env) == {"REPLICA_ID": "2", "REPLICA_COUNT": "3"}
    with pytest.raises(errors.PlanError, match="at least 1"):
        batch.replicas(SPEC, 0)


# -- again --------------------------------------------------------------------------------------------------------


def test_jobs_no_longer_asked_for_stay_and_are_counted(world, capsys):
    world.planned(3)
    again = world.batch()
    again.map(SPEC, key="j{n}", n=[0, 7])
    again.run()
    assert "3 jobs known, 1 new, 2 no longer asked for" in capsys.readouterr().err


def test_drop_removes_jobs_that_were_never_launched(world):
    batch = world.planned(3)
    batch.drop(["j1", "j1"])
    batch.map(SPEC, key="j{n}", n=[1])
    assert list(batch.results()) == ["j0", "j2", "j1"]
    batch.run(progress=False)
    with pytest.raises(errors.PlanError, match="cancel"):
        batch.drop("j0")
    with pytest.raises(errors.UnknownJob):
        batch.drop("none-such")


# -- many ---------------------------------------------------------------------------------------------------------


def test_thousands_of_jobs_are_planned_in_one_transaction(world):
    batch = world.batch()
    with statements(connection_of(batch)) as written:
        batch.map(SPEC, n=range(10_000))
    assert len(batch) == 10_000
    assert written.count("COMMIT") == written.count("BEGIN IMMEDIATE") == 1


S = JobState

# -- secrets ------------------------------------------------------------------------------------------------------


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


# -- planning without a driver ------------------------------------------------------------------------------------


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


# -- what happened to users ---------------------------------------------------------------------------------------


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


def test_a_cell_that_was_edited_after_a_run_may_define_its_failed_jobs_differently(world):
    world.platform.fate = lambda request: Fate(code=2)
    batch = world.planned(20, launch=Window(2))
    with pytest.raises(errors.BatchPaused):
        batch.run(progress=False)  # some failed, others were never launched
    world.platform.fate = lambda request: Fate()
    stack = JobSpec("stack {n}", image="skaha/x")
    batch.map(stack, key="j{n}", n=range(20))
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 20
    assert {job.spec for job in batch} == {stack}
    with pytest.raises(errors.SpecChanged, match="succeeded"):
        batch.map(JobSpec("other {n}", image="skaha/x"), key="j{n}", n=range(20))


SPEC_ALONE = JobSpec("fit", image="skaha/x")
