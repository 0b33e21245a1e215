"""Following the jobs of running bundles: what they report, how often that is read, and what is tidied up."""

from pathlib import Path

import pytest
from engine import SPEC, World, states
from simulation.bundles import BundleCluster, Steady

from canfar_batch import errors
from canfar_batch.engine.bundles import ended_by_itself
from canfar_batch.payload.receipts import receipt_paths
from canfar_batch.records import JobState, Receipt
from canfar_batch.spec import JobSpec, Secret
from canfar_batch.strategies import Bundle, Listing, Retry

S = JobState


@pytest.fixture(params=[True, False], ids=["visible", "hidden"])
def visible(request):
    """Whether containers see the home."""
    return request.param


@pytest.fixture
def batch(tmp_path, visible):
    """Four jobs in one container, two at a time, of which a look is taken each second."""
    world = World(tmp_path)
    platform = world.platform = BundleCluster(Steady(), visible=visible)
    world.clock = platform.clock
    made = platform.batch = world.batch(
        launch=Bundle(tasks=4, parallel=2), monitor=Listing(every=(1, 1)), retry=Retry(1)
    )
    made.map(SPEC, key="j{n}", n=range(4))
    made.world = world
    return made


def test_each_job_is_followed_by_its_own_reports(batch):
    batch.world.turn(batch, 10)
    assert states(batch) == [S.RUNNING, S.RUNNING, S.PENDING, S.PENDING]
    batch.world.turn(batch, 20)
    assert states(batch) == [S.SUCCEEDED, S.SUCCEEDED, S.RUNNING, S.RUNNING]
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 4
    assert [round(job.run_seconds) for job in batch] == [20] * 4
    assert len(batch.world.platform.launched) == 1


def test_a_log_is_read_once_for_all_jobs_and_not_at_all_if_files_report(batch, visible):
    reads = []
    batch.world.platform.before["logs"] = lambda: reads.append(1)
    batch.world.turn(batch, 10)
    polls = batch.world.platform.calls["containers"]
    assert len(reads) <= (2 if visible else polls)


def test_a_large_log_is_read_rarely(batch, visible):
    platform, usual = batch.world.platform, batch.world.platform.printed
    platform.printed = lambda container: b"x" * 2_000_000 + usual(container)
    reads = []
    platform.before["logs"] = lambda: reads.append(platform.clock.ticks())
    batch.world.turn(batch, 19)
    assert len(reads) <= 3, "2 MB are read every 10 s"


def test_an_answer_that_does_not_come_says_nothing(batch, visible):
    platform = batch.world.platform
    usual, platform.logs = platform.logs, lambda id: (_ for _ in ()).throw(errors.PlatformBroken("not now"))
    batch.world.turn(batch, 30)
    assert set(states(batch)) <= ({S.SUCCEEDED, S.RUNNING} if visible else {S.PENDING})
    platform.logs = usual
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 4


def test_nothing_stays_in_the_home_for_a_bundle_that_has_ended(batch):
    running = Path(batch.home) / "running"
    batch.world.turn(batch, 5)
    batch.cancel(["j3"], wait=False)
    batch.run(progress=False)
    assert not list(running.glob("*.stop"))
    assert not list(running.glob("*.sh"))


def test_a_task_that_is_told_to_stop_has_not_ended_unless_its_user_wanted_that():
    end = Receipt(started_at=None, finished_at=None, exit_code=143, stopped_by="TERM")
    assert not ended_by_itself(end, cancelling=False)
    assert ended_by_itself(end, cancelling=True)
    assert ended_by_itself(Receipt(started_at=None, finished_at=None, exit_code=1), cancelling=False)


def test_one_job_is_cancelled_and_the_others_go_on(batch, visible):
    batch.world.turn(batch, 5)
    batch.cancel(["j0"], wait=False)
    batch.run(progress=False)
    # a container that sees nothing of the driver hears of no cancel: the job runs to its end, and its success counts
    assert states(batch) == [S.CANCELLED if visible else S.SUCCEEDED, *[S.SUCCEEDED] * 3]
    assert len(batch.world.platform.launched) == 1


def test_a_receipt_of_another_launch_in_a_restored_home_says_nothing(batch, visible):
    start, end = receipt_paths(str(batch.home), "j0", 1)
    Path(start).write_text("#canfar_batch other.1 start key=j0 attempt=1 started=1 #other.1\n")
    facts = "key=j0 attempt=1 started=1 finished=2 code=3 told= late= trouble= outputs=0"
    Path(end).write_text(f"#canfar_batch other.1 end {facts} #other.1\n")
    batch.world.turn(batch, 10)
    assert batch["j0"].state in (S.RUNNING, S.PENDING)


def test_a_task_whose_receipt_is_late_while_the_log_is_away_is_not_launched_again(batch, visible):
    """Others of its bundle have reported: that it has not is no proof that it never began."""
    platform, usual = batch.world.platform, batch.world.platform.logs
    batch.world.turn(batch, 5)
    (runs,) = platform.runs.values()
    runs[3].delay = 25.0
    batch.world.turn(batch, 30)
    platform.logs = lambda id: (_ for _ in ()).throw(errors.PlatformBroken("not now"))
    batch.world.turn(batch, 60)
    platform.logs = usual
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 4
    assert len(platform.launched) == 1


# -- bundles that are too large for one launch ------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path):
    """Jobs whose commands do not fit together into one launch, in bundles of four."""
    world = World(tmp_path)
    platform = world.platform = BundleCluster(Steady(), visible=False)
    world.clock = platform.clock

    def made(spec, **given):
        batch = platform.batch = world.batch(launch=Bundle(tasks=4), **given)
        words = {f"w{k}": "x" * 120_000 for k in range(3)}
        batch.map(spec, key="j{n}", n=range(4), **words)
        batch.world = world
        return batch

    return made


WORDS = ["fit", "{n}", *(f"{{w{k}}}" for k in range(3))]


def test_bundles_are_made_smaller_and_that_is_said_once(large, caplog):
    batch = large(JobSpec(WORDS, image="skaha/astroml"))
    batch.run(progress=False)
    assert states(batch) == [S.SUCCEEDED] * 4
    assert len(batch.world.platform.launched) == 2
    said = [text for text in caplog.messages if "made smaller" in text]
    assert said == [
        "test: the commands of 4 jobs are too large for one launch, so bundles are made smaller, of about 2 jobs: "
        "they travel whole, as a file, where containers see the batch's home"
    ]


def test_where_the_home_is_seen_they_travel_as_a_file(large, caplog):
    batch = large(JobSpec(WORDS, image="skaha/astroml"), shared=True)
    batch.run(progress=False)
    assert len(batch.world.platform.launched) == 1
    assert "made smaller" not in caplog.text


def test_a_secret_never_travels_as_a_file_and_that_is_said(large, caplog, monkeypatch):
    monkeypatch.setenv("API_KEY", "hush")
    batch = large(JobSpec(WORDS, image="skaha/astroml", env={"API_KEY": Secret("API_KEY")}), shared=True)
    batch.run(progress=False)
    assert len(batch.world.platform.launched) == 2
    assert "of about 2 jobs: a Secret is never written to a file" in caplog.text
    assert not list((Path(batch.home) / "running").iterdir())
