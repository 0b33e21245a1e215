"""What would go wrong with a batch, looked for before anything is launched."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import attrs

from canfar_batch.engine.estimate import Estimate
from canfar_batch.errors import PlatformError
from canfar_batch.protocols import Platform
from canfar_batch.records import JobRecord, JobState
from canfar_batch.spec import JobSpec, check_against, full_image, literal_path

_ENOUGH = 5  #: warnings of one kind that are told; the rest are counted


@attrs.frozen
class Preflight:
    """What was found.

    Attributes:
        warnings: What may go wrong, in words; empty if all seems well.
        jobs: How many jobs were looked at.
        estimate: What they will cost; None if that was not asked for.
    """

    warnings: tuple[str, ...]
    jobs: int
    estimate: Estimate | None = None

    def __str__(self) -> str:
        looked_at = f"preflight of {self.jobs} job{'s' * (self.jobs != 1)}"
        found = f"{len(self.warnings)} warnings" if self.warnings else "all well"
        cost = [str(self.estimate)] if self.estimate is not None and self.estimate.core_hours is not None else []
        return "\n".join([f"{looked_at}: {found}", *(f"- {warning}" for warning in self.warnings), *cost])


def inspect(jobs: Sequence[JobRecord], platform: Platform, *, shared: bool, now: datetime) -> Preflight:
    """Look at the jobs that are still to be launched.

    Args:
        jobs: The batch's jobs; where *shared*, with their workdirs in full.
        platform: Where they are to run.
        shared: Whether this machine sees the files that the containers see.
        now: The time.

    Raises:
        SpecError: The platform does not offer what a job asks for.
        CredentialError: It no longer accepts who we are.
    """
    waiting = [job for job in jobs if job.state in (JobState.PLANNED, JobState.WAITING)]
    specs = list(dict.fromkeys(job.spec for job in waiting))
    warnings = [*_resources(specs, platform), *_images(specs, platform), *_credential(specs, platform, now)]
    if shared:
        warnings += _few(_files(waiting))
    return Preflight(tuple(warnings), len(waiting))


def _resources(specs: Sequence[JobSpec], platform: Platform) -> Iterator[str]:
    """That the platform offers them could not be checked; where it does not, that is an error."""
    try:
        limits = platform.limits()
    except PlatformError as error:
        yield f"whether the platform offers these resources could not be checked: {error}"
        return
    for spec in specs:
        check_against(spec, cores_options=limits.cores, ram_options=limits.ram, gpu_options=limits.gpus)


def _images(specs: Sequence[JobSpec], platform: Platform) -> Iterator[str]:
    """Images that the platform does not list: perhaps private, new, or misspelt. That blocks nothing."""
    try:
        listed = {image.id for image in platform.images(None)}
    except PlatformError as error:
        yield f"the images could not be checked: {error}"
        return
    for image in dict.fromkeys(full_image(spec.image) for spec in specs):
        if image not in listed:
            near = difflib.get_close_matches(image, listed, n=1, cutoff=0.8)
            guess = f"; did you mean {near[0]}?" if near else ""
            yield (
                f"image {image} is not in the platform's list{guess} (private images, other tags than the first, and "
                "images pushed within the last half hour are not listed either)"
            )


def _credential(specs: Sequence[JobSpec], platform: Platform, now: datetime) -> Iterator[str]:
    end = platform.expires_at
    longest = max((spec.timeout or 0.0 for spec in specs), default=0.0)
    needed = now + timedelta(seconds=max(longest, 3600.0))
    if end is not None and end < needed:
        yield (
            f"the credential ends at {end:%Y-%m-%d %H:%M} UTC, perhaps before the batch; a renewed one is picked up "
            "while it runs"
        )


def _files(jobs: Sequence[JobRecord]) -> Iterator[str]:
    """Inputs that are not there, and folders of outputs that cannot be written."""
    seen: set[Path] = set()
    for job in jobs:
        directory = Path(job.filled.workdir or "")
        for name, value in job.fields.items():
            if isinstance(value, str) and _looks_like_a_path(value) and not (directory / value).exists():
                yield f"job {job.key}: {name}={value} is not there"
        for output in job.filled.outputs:
            folder = directory / Path(literal_path(output) or output).parent
            if folder in seen:
                continue
            seen.add(folder)
            if not folder.is_dir():
                yield f"job {job.key}: the folder of its output {output} is not there, unless the job makes it"
            elif not os.access(folder, os.W_OK):
                yield f"job {job.key}: the folder of its output {output} cannot be written"


def _looks_like_a_path(text: str) -> bool:
    return "/" in text and "://" not in text and "\n" not in text and len(text) < 1024


def _few(warnings: Iterator[str]) -> list[str]:
    found = list(warnings)
    rest = len(found) - _ENOUGH
    return found[:_ENOUGH] + ([f"… and {rest} more of that kind"] if rest > 0 else [])
