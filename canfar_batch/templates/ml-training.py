#!/usr/bin/env python3
"""Train a random forest and save it, with its scores beside it.

    ml-training.py DATA.npz MODEL.joblib [--trees 100] [--test-size 0.2] [--seed 42]

DATA is an `.npz` with two arrays, `features` (samples x features) and `labels` (one per sample). It cannot be an
`.npy`: that holds one array without a name. Make it with

    np.savez("training_data.npz", features=X, labels=y)

MODEL is written by joblib, and its scores as JSON to `MODEL.json`, which comes first: where there is a model, there are
its scores. Load a model only if you trust who made it. The image needs scikit-learn, and Python 3.8 or newer.
"""

import argparse
import json
import logging
import os
import sys
import zipfile
from pathlib import Path

import joblib
import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

# the platform sets skaha_sessionid; its guide reads SKAHA_SESSION_ID
JOB = os.environ.get("skaha_sessionid") or os.environ.get("SKAHA_SESSION_ID") or "unknown"  # noqa: SIM112
# the job's number of cores, which the platform sets here; n_jobs=-1 would use the whole machine
CORES = int(os.environ.get("OMP_NUM_THREADS") or 1)

log = logging.getLogger("job")


def load(path):
    """Read and check features and labels, so that errors in them are found before the training."""
    try:
        data = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as .npz: {error}") from error
    if isinstance(data, np.ndarray):
        raise ValueError(f"{path} holds one array without a name; save both: np.savez(path, features=X, labels=y)")
    with data:
        missing = [name for name in ("features", "labels") if name not in data.files]
        if missing:
            raise ValueError(f"{path} has no array {' and '.join(missing)}; there are: {', '.join(data.files)}")
        features, labels = data["features"], data["labels"]
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(f"features are {features.shape} and labels {labels.shape}; expected (n, m) and (n,)")
    if not np.issubdtype(features.dtype, np.number) or not np.isfinite(features).all():
        raise ValueError("some features are not finite numbers; replace or drop those samples")
    if len(np.unique(labels)) < 2:
        raise ValueError("all labels are the same: there is nothing to learn")
    return features, labels


def train(features, labels, options):
    """Train the model; return it and its scores."""
    parts = train_test_split(features, labels, test_size=options.test_size, random_state=options.seed)
    train_features, test_features, train_labels, test_labels = parts
    log.info("training %d trees on %d samples with %d cores", options.trees, len(train_labels), CORES)
    model = RandomForestClassifier(n_estimators=options.trees, random_state=options.seed, n_jobs=CORES)
    model.fit(train_features, train_labels)
    scores = {
        "samples": len(labels),
        "train_accuracy": float(model.score(train_features, train_labels)),
        "test_accuracy": float(model.score(test_features, test_labels)),
        "trees": options.trees,
        "seed": options.seed,
        "job": JOB,
    }
    return model, scores


def write_whole(target, write):
    """Let *write* write a temporary file, and rename it, so that there is never half a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name[:40]}.{os.urandom(6).hex()}.part")
    try:
        with part.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        if part.exists():
            part.unlink()


def read_arguments():
    parser = argparse.ArgumentParser(description="Train a random forest on the features and labels of an .npz file.")
    parser.add_argument("data", type=Path, help="an .npz with the arrays features and labels")
    parser.add_argument("model", type=Path, help="the file to write, by joblib; the scores go to MODEL.json")
    parser.add_argument("--trees", type=int, default=100, help="how many (default: %(default)s)")
    parser.add_argument("--test-size", type=float, default=0.2, help="share of the samples (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=42, help="the same one gives the same model (default: %(default)s)")
    options = parser.parse_args()
    if not options.data.is_file():
        parser.error(f"there is no file {options.data}; a path is looked for from {Path.cwd()}")
    if options.model.is_dir():
        parser.error(f"{options.model} is a directory; name a file in it")
    if options.trees < 1:
        parser.error(f"--trees {options.trees}: a forest has at least one")
    if not 0 < options.test_size < 1:
        parser.error(f"--test-size {options.test_size}: it is a share, between 0 and 1")
    return options


def main():
    options = read_arguments()
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s - {JOB} - %(levelname)s - %(message)s")
    log.info("job %s trains on %s", JOB, options.data)
    try:
        model, scores = train(*load(options.data), options)
        text = json.dumps(scores, indent=2) + "\n"
        write_whole(options.model.with_name(options.model.name + ".json"), lambda file: file.write(text.encode()))
        write_whole(options.model, lambda file: joblib.dump(model, file))
    except Exception:
        log.exception("the job failed")
        return 1
    log.info("accuracy: %.3f in training, %.3f in the test", scores["train_accuracy"], scores["test_accuracy"])
    log.info("the model is in %s", options.model)
    return 0


if __name__ == "__main__":
    sys.exit(main())
