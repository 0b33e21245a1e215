"""Checks of a batch before anything is launched."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

import attrs

from canfar_batch.errors import CanfarBatchError, CredentialError, PlatformError, SpecError, add_outage_hint
from canfar_batch.fields.image_names import suggest_image
from canfar_batch.payload import encode
from canfar_batch.planning.estimate import Estimate
from canfar_batch.protocols import LaunchStrategy, Platform, container_resources, storage_of
from canfar_batch.records import JobRecord, JobState, Limits, Resources, resources_of
from canfar_batch.spec import JobSpec, full_image, literal_path
from canfar_batch.storage import Inputs
from canfar_batch.storage.names import is_remote
from canfar_batch.text import count, show_as_printed

T = TypeVar("T")

_SHOWN = 5  #: warnings of one kind that are shown; the others are counted
_ASKED = 200  #: files and folders that are looked for on the storage
_SIZED = 1000  #: jobs whose command is measured: commands of one spec differ little in size


@attrs.frozen
class Preflight:
    """The result of the checks.

    Attributes:
        warnings: What may go wrong, in words; empty if nothing was found.
        jobs: How many jobs were checked.
        checked: What was checked, in words.
        unchecked: What could not be checked, in words.
        estimate: What they will cost; None if that was not asked for.
    """

    warnings: tuple[str, ...]
    jobs: int
    checked: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    estimate: Estimate | None = None

    def __str__(self) -> str:
        found = count(len(self.warnings), "warning") if self.warnings else "all well"
        lines = [f"preflight of {count(self.jobs, 'job')}: {found}", *(f"- {warning}" for warning in self.warnings)]
        if self.checked:
            lines.append(f"Checked: {', '.join(self.checked)}.")
        if self.unchecked:
            lines.append(f"Not checked: {', '.join(self.unchecked)}.")
        if self.estimate is not None and self.estimate.core_hours is not None:
            lines.append(str(self.estimate))
        return "\n".join(lines)

    _repr_pretty_ = show_as_printed


@attrs.define
class _Findings:
    """The checks so far."""

    warnings: list[str] = attrs.field(factory=list)
    checked: list[str] = attrs.field(factory=list)
    unchecked: list[str] = attrs.field(factory=list)

    def warn(self, warnings: Iterable[str]) -> None:
        """Add warnings of one kind; only the first few are shown."""
        found = list(warnings)
        rest = len(found) - _SHOWN
        self.warnings += found[:_SHOWN] + ([f"… and {rest} more of that kind"] if rest > 0 else [])


@attrs.frozen(kw_only=True)
class ComingFiles:
    """The inputs that are brought to the platform before the first launch."""

    paths: frozenset[Path] = frozenset()  #: files and folders, as containers see them
    trouble: str | None = None  #: why that will fail, if it will

    @classmethod
    def of(cls, inputs: Inputs | None, workdir: Path, folder: str | None, *, leave_out: Path) -> ComingFiles:
        """Return the files that *inputs* names in *workdir*, as they will be in *folder*; None if nothing is brought.

        Args:
            inputs: What the user named.
            workdir: The directory of the driver in which it is.
            folder: Where containers see it.
            leave_out: A folder whose files are never inputs.
        """
        if inputs is None:
            return cls()
        try:
            names = inputs.find(workdir, leave_out=leave_out)
        except (CanfarBatchError, OSError) as error:
            return cls(trouble=str(error))
        if folder is None:
            return cls()
        files = [Path(folder, name) for name in names]
        return cls(paths=frozenset({*files, *(parent for file in files for parent in file.parents)}))


def inspect(
    jobs: Sequence[JobRecord],
    platform: Platform,
    *,
    shared: bool,
    now: datetime,
    launch: LaunchStrategy | None = None,
    coming: ComingFiles = ComingFiles(),
) -> Preflight:
    """Check the jobs that are still to be launched.

    Args:
        jobs: The batch's jobs; if *shared*, with their full workdirs.
        platform: The platform on which they are to run.
        shared: Whether this machine sees the files that the containers see.
        now: The time.
        launch: The launch strategy, whose bundles may ask for more than a job does.
        coming: The inputs that will be brought there.

    Raises:
        SpecError: The platform does not offer the resources that a job or bundle asks for, or a command is too large.
        CredentialError: The platform does not accept the credential.
    """
    waiting = [job for job in jobs if job.state in (JobState.PLANNED, JobState.WAITING)]
    specs = list(dict.fromkeys(job.spec for job in waiting))
    findings = _Findings()
    _check_resources(specs, platform, launch, findings)
    _check_images(specs, platform, findings)
    _check_credential(specs, platform, now, findings)
    _check_sizes(waiting, findings)
    findings.warn(dict.fromkeys(doubt for spec in specs for doubt in spec.doubts))
    findings.warn([coming.trouble] if coming.trouble else [])
    _check_files(waiting, _Look(platform, shared=shared, coming=coming.paths), findings)
    findings.unchecked.append("whether the image has the program")
    return Preflight(tuple(findings.warnings), len(waiting), tuple(findings.checked), tuple(findings.unchecked))


def _check_resources(
    specs: Sequence[JobSpec], platform: Platform, launch: LaunchStrategy | None, findings: _Findings
) -> None:
    """Check resources against the platform's limits: raise if they are not offered, warn if the limits are unknown."""
    limits = _answer_to(platform.limits, "whether the platform offers these resources", findings)
    if limits is None:
        return
    for spec in specs:
        limits.check(spec)
        if launch is not None:
            check_container(limits, container_resources(launch, resources_of(spec)))
    findings.checked.append("resources")


def check_container(limits: Limits, container: Resources | None) -> None:
    """Check that the platform offers what the container of a bundle asks for; None if there are no bundles.

    Raises:
        SpecError: It does not.
    """
    if container is None:
        return
    try:
        limits.check(container)
    except SpecError as error:
        raise SpecError(
            f"the container of a bundle asks for the resources of all jobs that run in it at a time: {error}; let "
            "fewer run at a time (parallel=), or say what a container asks for (cores=, ram=)"
        ) from error


def _check_images(specs: Sequence[JobSpec], platform: Platform, findings: _Findings) -> None:
    """Warn of images that the platform does not list; they may be private, new, or misspelt."""
    images = _answer_to(lambda: platform.images(None), "the images", findings)
    if images is None:
        return
    listed = {image.id for image in images}
    findings.checked.append("images")
    for image in dict.fromkeys(full_image(spec.image) for spec in specs):
        if image not in listed:
            meant = suggest_image(image, listed)
            guess = f"; {meant}" if meant else ""
            findings.warnings.append(
                f"image {image} is not in the platform's list{guess} (private images, other tags than the first, and "
                "images pushed within the last half hour are not listed either; if this worked before, the platform "
                "may be having an outage)"
            )


def _answer_to(ask: Callable[[], T], asked: str, findings: _Findings) -> T | None:
    """Return the platform's answer; None, and a warning, if there is none.

    Raises:
        CredentialError: The platform does not accept the credential.
    """
    try:
        return ask()
    except CredentialError as error:
        add_outage_hint(error)
        raise
    except PlatformError as error:
        add_outage_hint(error)
        findings.warn([f"{asked} could not be checked: {error}"])
        return None


def _check_credential(specs: Sequence[JobSpec], platform: Platform, now: datetime, findings: _Findings) -> None:
    findings.checked.append("credential")
    end = platform.expires_at
    longest = max((spec.timeout or 0.0 for spec in specs), default=0.0)
    needed = now + timedelta(seconds=max(longest, 3600.0))
    if end is not None and end < needed:
        findings.warnings.append(
            f"the credential ends at {end:%Y-%m-%d %H:%M} UTC, perhaps before the batch; a renewed one is used as soon "
            "as it is there"
        )


def _check_sizes(jobs: Sequence[JobRecord], findings: _Findings) -> None:
    """Check that commands and environments are small enough to be sent."""
    longest = sorted(jobs, key=lambda job: sum(map(len, job.filled.argv)), reverse=True)[:_SIZED]
    for job in longest:
        env = [(name, value) for name, value in job.filled.env if isinstance(value, str)]
        try:
            encode.encode_wrapped(job.filled.argv, env, launch_name="x", key="k", outputs=job.filled.outputs)
        except SpecError as error:
            raise SpecError(f"job {job.key}: {error}") from error
    findings.checked.append("sizes of commands")


# -- files --------------------------------------------------------------------------------------------------------


class _Look:
    """Looks at files as containers see them: on this machine if it sees them too, else on the platform's storage."""

    def __init__(self, platform: Platform, *, shared: bool, coming: frozenset[Path]) -> None:
        self.shared, self._storage, self._coming = shared, storage_of(platform), coming
        self._kinds: dict[Path, bool | None] = {}  # of what is on the storage: whether it is a folder; None: nothing
        self.is_partial = False  #: whether something could not be looked at

    def can_look_at(self, path: Path) -> bool:
        """Return whether there is a way to look at *path*; remember if there is none."""
        can = self.shared or (self._storage is not None and is_remote(path))
        self.is_partial = self.is_partial or not can
        return can

    def exists(self, path: Path) -> bool:
        """Return whether a file or folder is there; True if that is not known."""
        return (self.shared and _exists(path)) or self._is_coming(path) or self._kind(path) is not None

    def is_dir(self, path: Path) -> bool:
        """Return whether a folder is there; True if that is not known."""
        return (self.shared and path.is_dir()) or self._is_coming(path) or self._kind(path) is True

    def _is_coming(self, path: Path) -> bool:
        return path in self._coming or _bare(path) in self._coming

    def _kind(self, path: Path) -> bool | None:
        """Return whether *path* is a folder on the storage, None if nothing is there; True if that is not known."""
        if not is_remote(path):
            return None
        if path not in self._kinds:
            if self._storage is None or len(self._kinds) >= _ASKED:
                self.is_partial = True
                return True
            try:
                found = self._storage.find(_bare(path))
            except (CanfarBatchError, OSError):  # an outage, or a name that the storage cannot use
                self.is_partial = True
                return True
            self._kinds[path] = None if found is None else bool(getattr(found, "is_folder", False))
        return self._kinds[path]


def _check_files(jobs: Sequence[JobRecord], look: _Look, findings: _Findings) -> None:
    """Warn of missing working directories, scripts and inputs, and of output folders that cannot be used."""
    inputs: dict[Path, str] = {}
    scripts: dict[Path, str] = {}
    folders: dict[Path, str] = {}
    workdirs: dict[Path, str] = {}
    for job in jobs:
        directory = Path(job.filled.workdir or "")
        workdirs.setdefault(directory, f"job {job.key}: its workdir {directory} is not there, and nothing makes it")
        inputs.update(_inputs(job, directory))
        scripts.update(_scripts(job, directory))
        for output in job.filled.outputs:
            folder = directory / Path(literal_path(output) or output).parent
            folders.setdefault(folder, f"job {job.key}: the folder of its output {output}")
    workdirs, scripts, inputs, folders = (
        {path: text for path, text in found.items() if look.can_look_at(path)}
        for found in (workdirs, scripts, inputs, folders)
    )
    findings.warn(warning for directory, warning in workdirs.items() if not look.is_dir(directory))
    findings.warn(warning for script, warning in scripts.items() if not look.exists(script))
    findings.warn(
        f"the script {script} has the line ends of Windows, so its first line names no interpreter; dos2unix fixes it"
        for script in scripts
        if _has_foreign_line_ends(script)
    )
    findings.warn(warning for path, warning in inputs.items() if not look.exists(path))
    findings.warn(_folder_warnings(folders, look))
    for found, noun, plural in (
        (workdirs, "working directory", "working directories"),
        (scripts, "script", ""),
        (inputs, "input path", ""),
        (folders, "output folder", ""),
    ):
        if found:
            findings.checked.append(count(len(found), noun, plural))
    if look.is_partial:
        findings.unchecked.append("files and folders (this machine does not see those of the containers)")
    elif not inputs:
        findings.unchecked.append("inputs (no field looks like a path)")


def _folder_warnings(folders: dict[Path, str], look: _Look) -> Iterator[str]:
    for folder, output in folders.items():
        if not look.is_dir(folder):
            yield f"{output} is not there, unless the job makes it"
        elif folder.is_dir() and not os.access(folder, os.W_OK):
            yield f"{output} cannot be written"


#: a value that is a word of its own, and not a part of another path; an option or an extension of CFITSIO may touch it
_ALONE = r"(?<![^\s'\"=:@,(]){}(?![^\s'\",)\[+])"


def _inputs(job: JobRecord, directory: Path) -> Iterator[tuple[Path, str]]:
    """Yield the fields that look like paths and are words of the command, except those of outputs."""
    outputs = {literal_path(output) for output in job.filled.outputs}
    command = " ".join(job.filled.argv)
    for name, value in job.fields.items():
        is_path = isinstance(value, str) and _looks_like_a_path(value) and value not in outputs
        if is_path and re.search(_ALONE.format(re.escape(value)), command):
            yield directory / value, f"job {job.key}: {name}={value} is not there"


_SCRIPT = re.compile(r"(?:[\w.+-]+/)*[\w.+-]+\.(?:py|sh|pl|R|jl|ipynb)|\.{1,2}/[\w./+-]+")
_OPTION_WITH_CODE = ("-c", "-m")


def _scripts(job: JobRecord, directory: Path) -> Iterator[tuple[Path, str]]:
    """Yield the script of the command: its program, or the first argument that looks like one."""
    words = job.filled.argv if not job.spec.shell else ()
    for place, word in enumerate(words[:4]):
        if place and words[place - 1] in _OPTION_WITH_CODE:
            return
        if (place and _SCRIPT.fullmatch(word)) or (not place and word.startswith(("./", "../"))):
            path = directory / word
            if not path.is_absolute() or not str(path).startswith(("/usr/", "/opt/")):  # a directory of the image
                yield path, f"job {job.key}: its script {word} is not there (looked for in {directory.resolve()})"
            return


def _has_foreign_line_ends(script: Path) -> bool:
    try:
        with script.open("rb") as file:
            first = file.readline(256)
    except OSError:
        return False
    return first.startswith(b"#!") and first.endswith(b"\r\n")


_DATA_FILE = re.compile(
    r"[^/\n]+\.(?:fits?|fit|fz|csv|tsv|txt|dat|cat|h5|hdf5?|parquet|npy|npz|json|ya?ml|vot|xml|ms|uvfits|asdf|png|tiff?"
    r"|gz|zip|tar|bz2|xz)(?:\.(?:gz|fz|bz2|xz))?(?:\[[^\]]*\]|\+\d+)*",
    re.IGNORECASE,
)


def _looks_like_a_path(text: str) -> bool:
    if "://" in text or "\n" in text or len(text) >= 1024:
        return False
    return "/" in text or _DATA_FILE.fullmatch(text) is not None


def _exists(path: Path) -> bool:
    """Return whether the file is there, without an extension or filter of CFITSIO: ``img.fits[1]``, ``img.fits+1``."""
    return path.exists() or _bare(path).exists()


def _bare(path: Path) -> Path:
    """Return *path* without an extension or filter of CFITSIO."""
    return path.with_name(re.sub(r"(?:\[[^\]]*\]|\+\d+)+$", "", path.name) or path.name) if path.name else path
