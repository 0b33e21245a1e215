"""Inputs are on the platform before the first launch; else nothing is launched."""

import base64
import contextlib
import json

import pytest
from engine import World
from spaces import MemorySpace

import canfar_batch as cb
from canfar_batch import errors
from canfar_batch.records import JobState
from canfar_batch.storage import Storage

SPEC = cb.JobSpec("python calib.py {n}", image="skaha/astroml")
FOLDER = "/home/fake/canfar_batch/test-"


class Laptop:
    """Batches with inputs, on a platform whose containers do not see the driver's files."""

    def __init__(self, root):
        self.world = World(root / "homes")
        self.space = MemorySpace()
        self.storage = self.world.platform.storage = Storage(self.space, sleep=lambda seconds: None)
        self.world.platform.within = lambda seconds: contextlib.nullcontext()
        self.world.platform.before["launch"] = self.note
        self.at_launch = []

    def note(self):
        """What was there when something was launched."""
        self.at_launch.append(self.inputs())

    def inputs(self):
        """The files in the batch's folder, and their content."""
        return {
            path.removeprefix(FOLDER)[7:]: data for path, (data, _) in self.space.files.items()
            if path.startswith(FOLDER)
        }  # fmt: skip

    def batch(self, *patterns, jobs=2, to=None, **given):
        inputs = cb.Inputs(*patterns, to=to) if patterns else None
        batch = self.world.batch(inputs=inputs, **given)
        batch.map(SPEC, key="j{n}", n=range(jobs))
        return batch


@pytest.fixture
def laptop(tmp_path, monkeypatch):
    work = tmp_path / "work"
    (work / "raw").mkdir(parents=True)
    (work / "calib.py").write_text("print()")
    for name in "abc":
        (work / f"raw/{name}.fits").write_text(name * 1000)
    monkeypatch.chdir(work)
    return Laptop(tmp_path)


ALL = {"calib.py": b"print()", "raw/a.fits": b"a" * 1000, "raw/b.fits": b"b" * 1000, "raw/c.fits": b"c" * 1000}


def writes(laptop):
    return [entry for entry in laptop.space.log if entry[0] == "move" and "canfar_batch/test" in entry[2]]


def test_all_inputs_are_there_before_the_first_launch(laptop):
    batch = laptop.batch("calib.py", "raw/*.fits")
    batch.run(progress=False)
    assert laptop.at_launch == [ALL, ALL]
    assert {job.state for job in batch} == {JobState.SUCCEEDED}


def test_a_job_runs_in_the_folder_of_the_inputs(laptop):
    batch = laptop.batch("calib.py", jobs=1)
    batch.run(progress=False)
    (container,) = laptop.world.platform.all.values()
    folder = json.loads((batch.home / "inputs.json").read_text())["folder"]
    assert folder.startswith("/arc/home/fake/canfar_batch/test-")
    assert f"cd \"$cb_root\"'{folder[4:]}'" in script_of(container.request)


def test_the_user_may_name_the_folder(laptop):
    batch = laptop.batch("calib.py", to="/arc/projects/mine/x", jobs=1)
    batch.run(progress=False)
    assert "/projects/mine/x/calib.py" in laptop.space.files
    with pytest.raises(errors.PlanError, match="give the batch another name"):
        laptop.batch("calib.py", to="/arc/projects/mine/y", jobs=2).run(progress=False)


def test_a_resumed_run_brings_only_what_changed(laptop, tmp_path):
    laptop.batch("calib.py", "raw", jobs=1).run(progress=False)
    laptop.space.log.clear()
    laptop.batch("calib.py", "raw", jobs=2).run(progress=False)
    assert writes(laptop) == []
    (tmp_path / "work/raw/b.fits").write_text("new")
    laptop.batch("calib.py", "raw", jobs=3).run(progress=False)
    assert [entry[2].rpartition("/")[2] for entry in writes(laptop)] == ["b.fits"]
    assert laptop.at_launch[-1] == {**ALL, "raw/b.fits": b"new"}


def test_an_input_that_is_gone_or_empty_on_the_storage_is_brought_again(laptop):
    batch = laptop.batch("raw", jobs=1)
    batch.run(progress=False)
    places = sorted(path for path in laptop.space.files if path.endswith(".fits"))
    del laptop.space.files[places[0]]
    laptop.space.put(places[1], b"")
    laptop.batch("raw", jobs=2).run(progress=False)
    assert laptop.at_launch[-1] == {name: data for name, data in ALL.items() if name != "calib.py"}


def test_what_a_job_made_of_an_input_is_not_overwritten(laptop):
    laptop.batch("raw", jobs=1).run(progress=False)
    (place,) = (path for path in laptop.space.files if path.endswith("a.fits"))
    laptop.space.put(place, b"changed by a job, in its place")
    laptop.batch("raw", jobs=2).run(progress=False)
    assert laptop.space.files[place][0] == b"changed by a job, in its place"


def test_a_batch_whose_jobs_are_final_brings_nothing(laptop, tmp_path):
    laptop.batch("raw", jobs=1).run(progress=False)
    (tmp_path / "work/raw/a.fits").unlink()
    (tmp_path / "work/raw/b.fits").write_text("new")
    laptop.space.log.clear()
    laptop.batch("raw", "gone.txt", jobs=1).run(progress=False)
    assert writes(laptop) == []


def test_a_run_without_inputs_goes_on_in_their_folder(laptop):
    laptop.batch("raw", jobs=1).run(progress=False)
    laptop.batch(jobs=2).run(progress=False)
    first, second = (script_of(each.request) for each in laptop.world.platform.all.values())
    assert [line for line in first.splitlines() if "canfar_batch/test-" in line] == [
        line for line in second.splitlines() if "canfar_batch/test-" in line
    ]


def test_a_failed_transfer_stops_the_run_before_any_launch(laptop):
    def refuse(path, data):
        if "b.fits" in path:
            raise errors.StorageFull("the storage has no room")
        return data

    laptop.space.on_write = refuse
    batch = laptop.batch("calib.py", "raw")
    with pytest.raises(errors.StorageError, match=r"test: nothing was launched, since its inputs .* no room"):
        batch.run(progress=False)
    assert laptop.at_launch == []
    assert {job.state for job in batch} == {JobState.PLANNED}
    laptop.space.on_write = lambda path, data: data
    batch.run(progress=False)
    assert laptop.at_launch == [ALL, ALL]


def test_an_input_that_does_not_exist_stops_the_run_before_any_launch(laptop):
    with pytest.raises(errors.LocalMissing, match=r"nope\.py"):
        laptop.batch("nope.py").run(progress=False)
    assert laptop.at_launch == []


def test_a_storage_that_cannot_be_used_stops_the_run_before_any_launch(laptop):
    def refuse(path, data):
        raise errors.StorageDenied("no right to your home")

    laptop.space.on_write = refuse
    with pytest.raises(errors.StorageError, match=r"cannot be brought .* no right to your home"):
        laptop.batch("calib.py").run(progress=False)
    assert laptop.at_launch == []


def test_a_refused_credential_is_waited_for(laptop):
    refusals = [errors.CredentialRefused("expired"), None]

    def refuse(path, data):
        if "canfar_batch/test" in path and (error := refusals.pop(0) if refusals else None):
            raise error
        return data

    laptop.space.on_write = refuse
    laptop.batch("calib.py", jobs=1).run(progress=False, timeout=3600)
    assert laptop.at_launch == [{"calib.py": b"print()"}]


def test_where_the_files_are_seen_nothing_is_copied(laptop):
    batch = laptop.batch("calib.py", "raw", shared=True)
    batch.run(progress=False)
    assert laptop.at_launch == [{}, {}]
    assert not (batch.home / "inputs.json").exists()
    with pytest.raises(errors.LocalMissing):
        laptop.batch("nope.py", shared=True, jobs=3).run(progress=False)


def test_preflight_expects_the_inputs(laptop):
    assert not [text for text in laptop.batch("calib.py").preflight().warnings if "calib.py" in text]
    assert any("nope.py does not exist" in text for text in laptop.batch("calib.py", "nope.py").preflight().warnings)
    assert any("its script calib.py is not there" in text for text in laptop.batch("raw").preflight().warnings)


def script_of(request):
    """The shell text that a launch carries."""
    return base64.b64decode("".join(request.args.split(" ")[3:])).decode()
