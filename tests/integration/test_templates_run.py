"""Every template runs as a batch job on the local platform, on real input, and its results are right."""

import json
import sys
from pathlib import Path

import pytest

import canfar_batch as cb
from canfar_batch import templates

IMAGE = "skaha/astroml:latest"


@pytest.fixture
def session(monkeypatch, tmp_path):
    for name in ("CANFAR_URL", "CANFAR_TOKEN", "CANFAR_CERTIFICATE", "CANFAR_BATCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    with cb.Session.connect("local") as session:
        yield session


def ran(batch):
    """The batch, run to its end; the logs stand in the message if a job failed."""
    batch.run(progress=False, timeout=100)
    assert not batch.failed, "\n".join(job.logs() for job in batch.failed)
    return batch


def leftovers():
    """Hidden files that a script made and did not take away."""
    return [*Path().rglob(".*.part"), *Path().rglob(".job-*")]


def test_basic_processing_runs_a_script_over_each_night(session):
    script = templates.write("basic-processing", "batch_template.sh")
    Path("process.py").write_text(
        "import argparse, pathlib\n"
        "parser = argparse.ArgumentParser()\n"
        "for name in ('--input-dir', '--output-dir', '--job-id'):\n"
        "    parser.add_argument(name, required=True)\n"
        "options = parser.parse_args()\n"
        "for file in pathlib.Path(options.input_dir).iterdir():\n"
        "    total = sum(map(float, file.read_text().split()))\n"
        "    pathlib.Path(options.output_dir, file.name).write_text(f'{total} {options.job_id}')\n"
    )
    for night, numbers in {"night 1": "1 2 3", "night 2": "40 2"}.items():
        Path("data", night).mkdir(parents=True)
        Path("data", night, "counts.txt").write_text(numbers)

    spec = cb.JobSpec(["bash", script, "process.py", "data/{night}", "results/{night}"], image=IMAGE)
    batch = session.batch("basic")
    batch.map(spec, night=["night 1", "night 2"])
    ran(batch)

    for job, total in zip(batch, (6.0, 42.0), strict=True):
        assert Path("results", job.fields["night"], "counts.txt").read_text() == f"{total} {job.id}"
        assert f"[job {job.id}] completed: 1 files" in job.logs()
    assert leftovers() == []


def test_training_gives_a_model_and_scores(session):
    pytest.importorskip("sklearn", reason="scikit-learn (the extra ml) is not installed")
    import joblib
    import numpy as np

    random = np.random.default_rng(7)
    features = random.normal(size=(200, 3))
    labels = (features[:, 0] > 0).astype(int)
    np.savez("training_data.npz", features=features, labels=labels)
    script = templates.write("ml-training", "ml_training_job.py")

    spec = cb.JobSpec(
        [sys.executable, script, "training_data.npz", "models/forest-{trees}.joblib", "--trees", "{trees}"],
        image=IMAGE,
        outputs=["models/forest-{trees}.joblib.json"],
    )
    batch = session.batch("training", collect=cb.Json())
    batch.map(spec, trees=[10, 20])
    ran(batch)

    for job in batch:
        scores, trees = job.result, int(job.fields["trees"])
        model = joblib.load(f"models/forest-{trees}.joblib")
        assert len(model.estimators_) == trees
        assert model.score(features, labels) > 0.9
        assert scores["test_accuracy"] > 0.8
        assert scores["job"] == job.id
        assert f"job {job.id} trains on training_data.npz" in job.logs()
    assert leftovers() == []


def test_the_robust_job_writes_its_result_and_a_log_with_the_jobs_id(session):
    Path("one.txt").write_text("# counts\n1\n2\n6\n")
    Path("two.txt").write_text("4.5\n")
    script = templates.write("robust-job", "robust.py")

    spec = cb.JobSpec([sys.executable, script, "{name}.txt", "{name}.json"], image=IMAGE, outputs=["{name}.json"])
    batch = session.batch("robust", collect=cb.Json())
    batch.map(spec, name=["one", "two"])
    ran(batch)

    assert list(batch.results().values()) == [
        {"count": 3, "mean": 3.0, "smallest": 1.0, "largest": 6.0},
        {"count": 1, "mean": 4.5, "smallest": 4.5, "largest": 4.5},
    ]
    for job in batch:
        (log,) = Path("logs").glob(f"job_{job.id}_*.log")
        assert "the job is done" in log.read_text()
        assert log.read_text() in job.logs()
    assert leftovers() == []


def test_a_failing_job_is_a_failed_job(session):
    Path("bad.txt").write_text("three\n")
    script = templates.write("robust-job", "robust.py")
    batch = session.batch("failing", retry=cb.never)
    batch.add(cb.JobSpec([sys.executable, script, "bad.txt", "bad.json"], image=IMAGE), key="bad")
    batch.run(progress=False, timeout=100)
    assert batch["bad"].state == cb.JobState.FAILED
    assert batch["bad"].exit_code == 1
    assert "'three' is not a number" in batch["bad"].logs()
    assert not Path("bad.json").exists()


def test_the_stack_of_each_filter_is_the_median_of_its_images(session):
    np = pytest.importorskip("numpy")
    fits = pytest.importorskip("astropy.io.fits")
    random = np.random.default_rng(3)
    images = {band: random.normal(size=(3, 16, 12)).astype("f4") for band in "gr"}
    for band, cube in images.items():
        for number, image in enumerate(cube):
            hdu = fits.ImageHDU(image)
            hdu.header["FILTER"] = band
            fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(f"{band}{number}.fits")
    script = templates.write("fits-stack", "stack.py")

    inputs = [f"{{band}}{number}.fits" for number in range(3)]
    spec = cb.JobSpec(
        [sys.executable, script, "stacks/{band}.fits", *inputs], image=IMAGE, outputs=["stacks/{band}.fits"]
    )
    batch = session.batch("stacks", collect=cb.Files())
    batch.map(spec, band=["g", "r"])
    ran(batch)

    for job in batch:
        data, header = fits.getdata(job.result, header=True)
        np.testing.assert_array_equal(data, np.median(images[job.fields["band"]], axis=0))
        assert header["FILTER"] == job.fields["band"]
        assert header["NCOMBINE"] == 3
        assert any(job.id in line for line in header["HISTORY"])
    assert leftovers() == []


def test_a_job_knows_its_identity_and_replicas_share_the_work(session):
    Path("share.py").write_text(
        "import json, sys\n"
        "from canfar_batch import inside\n"
        "index, count = inside.replica()\n"
        "with inside.atomic_write(f'{index}.json') as file:\n"
        "    json.dump({'id': inside.job_id(), 'key': inside.key(), 'attempt': inside.attempt(),\n"
        "               'batch': inside.batch(), 'chunk': inside.chunk(range(10)),\n"
        "               'stripe': inside.stripe(range(10)),\n"
        "               'allowed': inside.describe()['memory_gib']['allowed']}, file)\n"
    )
    spec = cb.JobSpec([sys.executable, "share.py"], image=IMAGE, ram=1, outputs=["{replica}.json"])
    batch = session.batch("shares", collect=cb.Json())
    batch.replicas(spec, 3)
    ran(batch)

    found = [json.loads(Path(f"{index}.json").read_text()) for index in (1, 2, 3)]
    assert [(one["id"], one["key"], one["attempt"]) for one in found] == [(job.id, job.key, 1) for job in batch]
    assert {one["batch"] for one in found} == {"shares"}
    assert [one["chunk"] for one in found] == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert [one["stripe"] for one in found] == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]
    assert {one["allowed"] for one in found} == {1.0}  # GiB: the job's own limit, not the machine's memory
