"""A batch: opening, closing, cancelling, deleting, and use by several people and scripts."""

from __future__ import annotations

import pickle

import pytest
from engine import SLOW, SPEC, ledger_of, states

import canfar_batch as cb
from canfar_batch import errors
from canfar_batch.batch import Batch
from canfar_batch.records import JobState

S = JobState

# -- what happened to users ---------------------------------------------------------------------------------------


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


def test_an_unknown_batch_is_answered_with_those_that_exist(world):
    world.planned(1, name="sky").close()
    with pytest.raises(errors.UnknownBatch, match=r"no batch in .*skyy; .* has sky\. Batches are looked for"):
        Batch.open("skyy", world.root)


# -- the end ------------------------------------------------------------------------------------------------------


def test_delete_removes_the_home(world):
    batch = world.planned(1)
    batch.run(progress=False)
    assert cb.batches(world.root) == ["test"]
    batch.delete()
    assert (cb.batches(world.root), batch.home.exists()) == ([], False)


def test_delete_is_refused_while_jobs_are_active_or_another_process_drives(world):
    world.platform.fate = lambda request: SLOW
    batch = world.planned(1)
    world.turn(batch, 30)
    other = world.batch()
    with pytest.raises(errors.BatchBusy):
        other.delete()
    with pytest.raises(errors.PlanError, match=r"1 active job, such as 'j0': cancel\(\) before"):
        batch.delete()
    batch.cancel()
    batch.delete()
    assert not batch.home.exists()


def test_renew_asks_for_every_running_job(world, caplog):
    world.platform.fate = lambda request: SLOW
    batch, asked = world.planned(2), []
    world.platform.renew = asked.append
    assert batch.renew() == []
    world.turn(batch, 30)
    assert batch.renew() == ["j0", "j1"]
    batch["j0"].renew()
    assert asked == [batch["j0"].id, batch["j1"].id, batch["j0"].id]

    def refuse(id):
        raise errors.PlatformRefused("not yet")

    world.platform.renew = refuse
    assert batch.renew() == []
    assert "the lifetime of j1 was not extended: not yet" in caplog.text
    batch.cancel()
    with pytest.raises(errors.TransitionError, match="so it has no container"):
        batch["j0"].renew()


# -- two batches of one home in one process -----------------------------------------------------------------------


def test_closing_a_batch_in_a_fork_leaves_the_parent_driving(world, monkeypatch):
    batch = world.planned(1)
    batch.observe()
    with monkeypatch.context() as patch:
        patch.setattr("canfar_batch.batch.batch.os.getpid", lambda: -1)
        batch.close()
    assert batch.run(progress=False).ok


# -- other processes ----------------------------------------------------------------------------------------------


def test_pickling_a_handle_says_what_to_do_instead(world):
    batch = world.planned(1)
    with pytest.raises(TypeError, match=r"open it in the other process with canfar_batch\.open\('test', "):
        pickle.dumps(batch)
    with pytest.raises(TypeError, match=r"send job\.record"):
        pickle.dumps(batch["j0"])
    assert pickle.loads(pickle.dumps(batch["j0"].record)) == batch["j0"].record


# -- where the home is --------------------------------------------------------------------------------------------


def test_a_home_that_is_named_may_be_in_a_temporary_directory(world, caplog):
    world.batch(address="https://a").close()
    (line,) = [line for line in caplog.messages if "emptied" in line]
    assert str(world.root / "test") in line


def test_a_default_home_in_a_temporary_directory_is_refused(world, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CANFAR_BATCH_HOME", raising=False)
    world.root = None
    with pytest.raises(errors.HomeError, match=r"is emptied without notice.*name one with CANFAR_BATCH_HOME or home="):
        world.batch(address="https://a")
    assert list(tmp_path.iterdir()) == []
