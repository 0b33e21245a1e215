"""Which Python an image has: asked by one short job, before many calls are launched that need the same version."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from canfar_batch.errors import CanfarBatchError, SpecError, WaitTimeout
from canfar_batch.failures import ExitCode
from canfar_batch.job import Job
from canfar_batch.payload.calls import programs_of, python_words
from canfar_batch.spec import JobSpec
from canfar_batch.store.files import write_file

log = logging.getLogger("canfar_batch")

PATIENCE = 900.0  #: seconds to wait for the answer: the job may have to wait for room, and for its image
_SHOW_VERSION = 'import sys; print("canfar_batch: Python %d.%d" % sys.version_info[:2])'
_NO_PYTHON = 127  #: exit code of a job whose image has no such program


def check_python(specs: Iterable[JobSpec], *, launch: Callable[[JobSpec], Job], known: Path) -> None:
    """Check that the images of *specs* have the Python that this process has, by one short job for each image.

    If an image does not answer, the calls are launched all the same: each one checks the version before it begins.

    Args:
        specs: Specs that call functions.
        launch: Launches a job.
        known: A file in which the answers are kept.

    Raises:
        SpecError: An image has another version of Python, or none.
    """
    answers = _read(known)
    here = "{}.{}".format(*sys.version_info)
    for image, programs in sorted({(spec.image, programs_of(spec.words)) for spec in specs}):
        name = f"{image} {programs}"
        found = answers.get(name) or _ask(image, programs, launch)
        if found is None:
            continue
        if found != here:
            raise SpecError(
                f"image {image} has {found or 'no Python'}, and this is Python {here}: a function runs only in the "
                f"version that compiled it. Choose an image with Python {here}, drive the batch with the image's "
                "version (on CANFAR, from a notebook of the same image), or name another program of the image "
                "with Function(python='/path/to/python')"
            )
        if name not in answers:
            answers[name] = found
            write_file(known, json.dumps(answers).encode())


def _read(known: Path) -> dict[str, str]:
    try:
        answers = json.loads(known.read_bytes())
    except (OSError, ValueError):
        return {}
    return answers if isinstance(answers, dict) else {}


def _ask(image: str, programs: str, launch: Callable[[JobSpec], Job]) -> str | None:
    """Return the version of Python in *image*, "" if it has none, or None if no clear answer came."""
    log.info("asking image %s for its version of Python, by a job that ends at once", image)
    try:
        job = launch(JobSpec(python_words(programs, ["-c", _SHOW_VERSION]), image=image, name="python-version"))
        try:
            job.wait(timeout=PATIENCE)
        except WaitTimeout:
            job.cancel()
            raise
        if isinstance(job.failure, ExitCode) and job.failure.code == _NO_PYTHON:
            return ""
        found = re.search(r"^canfar_batch: Python ([0-9]+\.[0-9]+)$", job.logs(), re.MULTILINE)
    except SpecError:
        raise
    except CanfarBatchError as error:
        log.warning("image %s was not asked for its version of Python: %s", image, error)
        return None
    if found is None:
        log.warning("image %s gave no version of Python: %s", image, job.explain())
        return None
    return found[1]
