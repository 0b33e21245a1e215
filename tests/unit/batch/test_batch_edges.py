"""The edges of a batch: directories that change, results that are not stored, plans that are nonsense."""

from __future__ import annotations

import base64
import re
import shutil
import sqlite3
from pathlib import Path

import attrs
import pytest
from engine import SPEC, World, connection_of, engine_of
from fakes import EPOCH

from canfar_batch import errors
from canfar_batch.batch import Batch
from canfar_batch.engine.attempts import LaunchContext, request_for
from canfar_batch.records import Attempt, JobRecord, Receipt, Resources
from canfar_batch.spec import JobSpec, Secret
from canfar_batch.strategies import Files

# -- where the home is --------------------------------------------------------------------------------------------


def test_a_home_that_is_named_may_be_in_a_temporary_directory(world, caplog):
    world.batch(address="https://a").close()
    (line,) = [line for line in caplog.messages if "emptied" in line]
    assert str(world.root / "test") in line


def test_a_default_home_in_a_temporary_directory_is_refused(world, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CANFAR_BATCH_HOME", raising=False)
    world.root = None
    with pytest.raises(errors.HomeError, match=r"is emptied without notice.*Name the place with home="):
        world.batch(address="https://a")
    assert list(tmp_path.iterdir()) == []


# -- where jobs run -----------------------------------------------------------------------------------------------


def sent(spec, context):
    """The script that a launch carries, as text."""
    job = JobRecord(key="x", index=0, spec=spec, filled=spec.fill())
    attempt = Attempt(number=1, launch_name="x", resources=Resources(), intended_at=EPOCH)
    request = request_for(attrs.evolve(job, attempts=(attempt,)), context)
    return script(request) if request.cmd == "/bin/sh" else request.cmd


def script(request):
    return base64.b64decode("".join(request.args.split(" ")[3:])).decode()


@pytest.mark.parametrize(
    ("workdir", "entered"), [(None, "/arc/work"), ("deep", "/arc/work/deep"), ("/arc/own", "/arc/own")]
)
def test_without_receipts_jobs_run_in_the_drivers_directory_if_it_is_shared(tmp_path, workdir, entered):
    spec = JobSpec("true", image="a/b", receipt=False, workdir=workdir)
    assert f"cd '{entered}'" in sent(spec, LaunchContext(workdir=Path("/arc/work"), shared=True))


def test_without_receipts_jobs_stay_where_the_container_starts_if_it_is_not():
    assert sent(JobSpec("true", image="a/b", receipt=False), LaunchContext(shared=False)) == "true"


MAKES = JobSpec("fit {n}", image="skaha/astroml", outputs=["out{n}.txt"])


def seeing(world, n=1, spec=MAKES, **given):
    """A batch whose containers see the driver's files, as a script opens and plans it."""
    batch = world.batch(shared=True, **given)
    batch.map(spec, key="j{n}", n=range(n))
    return batch


@pytest.fixture
def made_in(world, tmp_path, monkeypatch):
    """The directory in which a batch of one job was made, and ran."""
    place = tmp_path / "first"
    place.mkdir()
    monkeypatch.chdir(place)
    (place / "out0.txt").touch()
    with seeing(world, collect=Files()) as batch:
        batch.run(progress=False)
        assert batch.results() == {"j0": place / "out0.txt"}
    return place


def test_a_batch_keeps_the_directory_in_which_it_was_made(world, made_in, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (made_in / "out1.txt").touch()
    requests, make = [], world.platform.make
    world.platform.make = lambda request: requests.append(request) or make(request)
    batch = seeing(world, 2, collect=Files())
    batch.run(progress=False)
    both = {"j0": made_in / "out0.txt", "j1": made_in / "out1.txt"}
    assert batch.results() == batch.collect(["j0", "j1"]) == both
    assert [f"cb_driver='{made_in}'" in script(request) for request in requests] == [True]


def test_preflight_and_results_look_in_the_directory_it_was_made_in(world, made_in, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (made_in / "here.fits").touch()
    spec = JobSpec("fit {path}", image="skaha/astroml", outputs=["cat/{index}.txt"])
    batch = seeing(world, collect=lambda job, platform: {job.filled.workdir})
    batch.map(spec, path=["./here.fits", "./gone.fits"])
    told = "\n".join(batch.preflight().warnings)
    assert ("here.fits" in told, "path=./gone.fits is not there" in told) == (False, True)
    batch.run(progress=False)
    with seeing(world, collect=lambda job, platform: {job.filled.workdir}) as closed:
        pass
    assert list(closed.results("missing").values())[1:] == [{str(made_in)}] * 2


@pytest.fixture
def reported(capsys):
    """What a run of a batch reports."""

    def run(batch):
        with batch:
            batch.run()
        return capsys.readouterr().err

    return run


def test_a_run_in_another_directory_reports_where_jobs_run(world, made_in, tmp_path, monkeypatch, reported):
    assert str(made_in) not in reported(seeing(world, 2))
    monkeypatch.chdir(tmp_path)
    assert f"Jobs run in {made_in}" in reported(seeing(world, 3))


def test_a_run_does_not_report_where_jobs_run_if_it_makes_no_difference(
    world, made_in, tmp_path, monkeypatch, reported
):
    monkeypatch.chdir(tmp_path)
    batch = world.batch()  # containers do not see its directory
    batch.add(MAKES, n=7)
    assert "Jobs run in" not in reported(batch)
    own = world.batch("own", shared=True)
    own.add(JobSpec("fit", image="skaha/astroml", workdir="/arc/own"))
    monkeypatch.chdir(made_in)
    assert "Jobs run in" not in reported(own)


def test_a_directory_that_is_gone_gives_way_to_the_present_one(world, made_in, tmp_path, monkeypatch, reported):
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(made_in)
    batch = seeing(world, 2)
    assert engine_of(batch).launch_context.workdir == tmp_path
    assert f"{made_in}, in which the batch was made, no longer exists" in reported(batch)


def test_a_project_that_was_moved_with_its_batches_goes_on_where_it_is(tmp_path, monkeypatch):
    (tmp_path / "old").mkdir()
    monkeypatch.chdir(tmp_path / "old")
    World(tmp_path / "old" / "batches").batch().close()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").rename(tmp_path / "new")
    assert engine_of(World(tmp_path / "new" / "batches").batch()).launch_context.workdir == tmp_path / "new"


def test_every_row_of_the_ledgers_meta_table_is_documented(world):
    """docs/reference/ledger.md names every row of meta, and no others."""
    words = (Path(__file__).parents[3] / "docs" / "reference" / "ledger.md").read_text()
    documented = words.partition("one row for each of")[2].partition("\n\n")[0]
    rows = {row[0] for row in connection_of(world.batch()).execute("SELECT name FROM meta")}
    assert set(re.findall("`([a-z]+)`", documented)) == rows


@pytest.mark.parametrize(
    ("shared", "said", "own", "placed"),
    [
        (True, None, None, "/arc/work"),
        (True, "driver", "deep", "/arc/work/deep"),
        (True, "home", None, None),
        (True, "own", "/arc/own", "/arc/own"),
        (False, None, None, None),
        (False, None, "deep", "deep"),
        (False, "driver", None, "/arc/work"),
    ],
)
def test_a_job_is_placed_where_its_container_ran(world, shared, said, own, placed):
    batch = world.planned(1, JobSpec("fit {n}", image="skaha/astroml", workdir=own))
    batch.run(progress=False)
    job = batch["j0"].record
    attempt = attrs.evolve(job.attempts[0], receipt=Receipt(exit_code=0, ran_in=said))
    around = LaunchContext(workdir=Path("/arc/work"), shared=shared)
    assert around.placed(attrs.evolve(job, attempts=(attempt,))).filled.workdir == placed


# -- results ----------------------------------------------------------------------------------------------------------


def test_results_in_the_home_move_with_it(world):
    with world.planned(1) as batch:
        batch.run(progress=False)
    (world.root / "test").rename(world.root / "moved")
    with Batch.open("moved", world.root) as batch:
        assert batch.results() == {"j0": world.root / "moved" / "logs" / "j0.1.log"}
        assert batch["j0"].result.exists()


@pytest.mark.parametrize("result", [Path("out.txt"), Path("/arc/out.txt"), [{"a": Path("b")}], None, {}, "x"])
def test_other_results_are_read_as_they_were_collected(world, result):
    with world.planned(1, collect=lambda job, platform: result) as batch:
        batch.run(progress=False)
    with Batch.open("test", world.root) as batch:
        assert batch.results("missing") == {"j0": result}


@pytest.mark.parametrize("result", ["x" * 70000, {"$home": "x"}, {"$path": "x"}, {1, 2}])
def test_results_that_are_not_stored_are_missing_without_a_connection(world, result, caplog):
    with world.planned(3, collect=lambda job, platform: result) as batch:
        batch.run(progress=False)
        assert batch.results("missing")["j0"] == result
    with Batch.open("test", world.root) as batch:
        assert set(batch.results("missing").values()) == {"missing"}
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "jobs: 3" in told
    with world.batch(collect=lambda job, platform: result) as again:
        assert again.results("missing")["j0"] == result


# -- plans that make no sense -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields", [{"tok": [Secret("T1")]}, {"n": [1], "tok": Secret("T1")}, {"tok": [[Secret("T1")]]}]
)
def test_a_secret_is_refused_as_the_value_of_a_field(world, monkeypatch, fields):
    monkeypatch.setenv("T1", "hush")
    batch = world.batch()
    for spec, key in ((JobSpec("fit {tok}", image="a/b"), None), (JobSpec("fit", image="a/b"), "k{index}")):
        with pytest.raises(errors.SpecError, match=r"give it in the spec: env=\{'T1': Secret\('T1'\)\}"):
            batch.grid(spec, key=key, **fields)
    assert len(batch) == 0


def test_a_job_cancelled_before_its_launch_runs_if_its_command_changes(world):
    batch = world.planned(1)
    batch.cancel()
    again = world.batch()
    again.map(JobSpec("other {n}", image="skaha/astroml"), key="j{n}", n=[0])
    assert again.run(progress=False).ok
    assert again["j0"].record.filled.argv == ("other", "0")


@pytest.mark.parametrize("spec", ["python x.py", ["python", "x.py"], None, {"cmd": "python x.py"}])
def test_another_type_than_a_spec_is_refused_with_an_example(world, spec):
    batch = world.batch()
    plans = (
        lambda: batch.add(spec, n=1), lambda: batch.map(spec, n=[1]), lambda: batch.grid(spec, n=[1]),
        lambda: batch.rows(spec, [{"n": 1}]), lambda: batch.replicas(spec, 2),
    )  # fmt: skip
    for plan in plans:
        with pytest.raises(errors.SpecError, match=r"give a JobSpec: cb\.JobSpec\('python x\.py', image="):
            plan()


@pytest.mark.parametrize("table", [None, 5, "rows.csv", b"x", ["a"], {"n": 1}, {"n": [1, 2]}])
def test_another_type_than_a_table_is_refused_with_advice(world, table):
    with pytest.raises(
        errors.PlanError, match=r"rows\(\) takes a list of dicts, a pandas DataFrame or an astropy Table"
    ):
        world.batch().rows(SPEC, table)


# -- a ledger that was written to -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mischief",
    [
        "UPDATE job SET filled = '{'",
        "UPDATE job SET state = 'bogus'",
        "UPDATE job SET spec = 99",
        "UPDATE spec SET body = '{}'",
        "UPDATE spec SET body = '[]'",
        "UPDATE attempt SET intended_at = 'never'",
        "UPDATE attempt SET ended_at = 1e300",
        "UPDATE attempt SET failure = '[]'",
        "DELETE FROM meta WHERE name = 'schema'",
    ],
)
def test_a_ledger_with_nonsense_in_it_is_reported_as_damaged(world, mischief):
    batch = world.planned(1)
    batch.run(progress=False)
    batch.close()
    with sqlite3.connect(batch.home / "ledger.db") as db:
        db.execute(mischief)
    with pytest.raises(errors.LedgerError, match="is damaged"):
        Batch.open("test", world.root)


def test_a_drawing_that_cannot_be_saved_names_the_file(world, tmp_path):
    batch = world.planned(1)
    with pytest.raises(errors.HomeError, match="nowhere"):
        batch.timeline(tmp_path / "nowhere" / "a.png")
