"""The request that launches an attempt, or the attempts of a bundle in one container."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import attrs

from canfar_batch.engine.remote_home import RemoteHome
from canfar_batch.errors import SpecError, StorageError
from canfar_batch.fields.arguments import files_of
from canfar_batch.fields.keys import file_name
from canfar_batch.payload import encode
from canfar_batch.planning.jobs import launch_name
from canfar_batch.records import JobRecord, LaunchRequest, Resources
from canfar_batch.spec import full_image
from canfar_batch.store.files import write_file
from canfar_batch.store.home import Home


@attrs.frozen(kw_only=True)
class LaunchContext:
    """What the launches of one batch have in common; the defaults are those of a single job."""

    batch: str | None = None
    token: str | None = attrs.field(default=None, repr=False)  #: the batch's; containers that can read it see the home
    home: Home | None = None  #: None for a single job: its receipts are in its log alone
    workdir: Path = attrs.field(factory=Path.cwd)  #: the driver's working directory
    shared: bool = False  #: whether containers are known to see the driver's files
    remote: RemoteHome | None = None  #: where receipts come from if containers do not see the home
    inputs: str | None = None  #: where jobs find the inputs, as containers see it, if they do not see the home

    @property
    def receipt_home(self) -> str | None:
        """The directory in which containers leave their receipts, as they see it."""
        if self.remote is not None:
            return self.remote.folder
        return None if self.home is None else str(self.home.path)

    @property
    def driver_workdir(self) -> str | None:
        """The directory of the driver, which containers may see too; None if they surely do not."""
        return None if self.remote is not None else str(self.workdir)

    def directory(self, own: str | None) -> str | None:
        """Return the directory of a job whose workdir is *own*: in full if *shared*, else *own* unchanged."""
        return str(self.workdir / (own or "")) if self.shared else self.in_inputs(own)

    def in_inputs(self, own: str | None) -> str | None:
        """Return *own*, the workdir of a job, relative to the folder of the inputs if there is one."""
        return own if self.inputs is None else str(PurePosixPath(self.inputs, own or ""))

    def placed(self, job: JobRecord) -> JobRecord:
        """Return *job* with its workdir in full if this machine sees the files of its container, or knows the place."""
        receipt = job.last_attempt.receipt if job.last_attempt else None
        reported = receipt.ran_in if receipt else None
        if reported == "home":
            return job
        workdir = job.filled.workdir
        if reported == "driver" or self.shared:
            workdir = str(self.workdir / (workdir or ""))
        return attrs.evolve(job, filled=attrs.evolve(job.filled, workdir=self.in_inputs(workdir)))

    def launch_name(self, job: JobRecord) -> str:
        """Return the name of *job*'s next launch. The key of a single job is its launch name."""
        if self.batch is None or self.token is None:
            return job.key
        return launch_name(job, batch=self.batch, token=self.token)


def request_for(job: JobRecord, context: LaunchContext, resources: Resources | None = None) -> LaunchRequest:
    """Return the request that launches the newest attempt of *job*; None for the resources of the attempt.

    Raises:
        SpecError: The command and environment are too large to be sent, or a secret is not set.
    """
    attempt, spec, filled = job.attempts[-1], job.spec, job.filled
    env = _environment(job)
    if spec.receipt:
        payload = encode.encode_wrapped(
            filled.argv,
            env,
            launch_name=attempt.launch_name,
            key=job.key,
            file=file_name(job.key),
            attempt=attempt.number,
            batch=context.batch,
            workdir=context.in_inputs(filled.workdir),
            driver_workdir=context.driver_workdir,
            shared=context.shared,
            outputs=filled.outputs,
            timeout=spec.timeout,
            home=context.receipt_home,
            token=context.token,
            files=None if spec.function is None else _function_files(job, context),
        )
    else:
        payload = encode.encode_exec(filled.argv, env, workdir=context.directory(filled.workdir))
    return _request([job], payload, resources or attempt.resources)


def request_for_bundle(
    jobs: Sequence[JobRecord], context: LaunchContext, *, parallel: int, resources: Resources, files: bool
) -> LaunchRequest:
    """Return the request that launches the newest attempts of *jobs* in one container.

    Args:
        jobs: The jobs, as many as one container carries.
        context: What the launches of the batch have in common.
        parallel: How many run at a time.
        resources: What the container asks for.
        files: Whether the commands may travel as a file in the home, if they are too large to be sent.

    Raises:
        JobNotSendable: The command of one job cannot be sent.
        SpecError: The commands are too large to be sent together.
        HomeError: The file cannot be written.
    """
    name = jobs[0].attempts[-1].launch_name
    home = context.home
    around = encode.Surroundings(
        batch=context.batch,
        driver_workdir=context.driver_workdir,
        shared=context.shared,
        home=context.receipt_home,
        is_far=context.remote is not None,
        token=context.token,
    )
    tasks = [_task(job, context, parallel) for job in jobs]
    script = encode.bundle_script(tasks, around, launch_name=name, parallel=parallel)
    if home is not None and files and len(os.fsencode(script)) > encode.most_in_script():
        path = home.script(name)
        write_file(path, os.fsencode(script))
        payload = encode.encode_file(str(path))
    else:
        payload = encode.encode_bundle(script)
    return _request(jobs, payload, resources)


class JobNotSendable(SpecError):
    """The command of one job of a bundle cannot be sent.

    Attributes:
        key: The job's key.
    """

    def __init__(self, key: str, why: object) -> None:
        super().__init__(f"job {key} cannot be sent: {why}")
        self.key = key


def _task(job: JobRecord, context: LaunchContext, parallel: int) -> encode.Task:
    filled, attempt = job.filled, job.attempts[-1]
    try:
        env = _environment(job)
        cores = attempt.resources.cores
        if parallel > 1 and cores is not None and not any(name == "OMP_NUM_THREADS" for name, _ in env):
            env.append(("OMP_NUM_THREADS", str(cores)))  # the platform sets it to the cores of the whole container
        task = encode.Task(
            argv=filled.argv, env=tuple(env), key=job.key, file=file_name(job.key), attempt=attempt.number,
            workdir=context.in_inputs(filled.workdir), outputs=filled.outputs, timeout=job.spec.timeout,
            files=None if job.spec.function is None else _function_files(job, context),
        )  # fmt: skip
        task.script("", "", None)
    except Exception as error:
        raise JobNotSendable(job.key, error) from error
    return task


def _environment(job: JobRecord) -> list[tuple[str, str]]:
    env = list(job.filled.environment())
    if job.spec.receipt and not any(name == "PYTHONUNBUFFERED" for name, _ in env):
        env.append(("PYTHONUNBUFFERED", "1"))  # else a stopped program takes its last output along
    return env


def _request(jobs: Sequence[JobRecord], payload: encode.Payload, resources: Resources) -> LaunchRequest:
    return LaunchRequest(
        name=jobs[0].attempts[-1].launch_name,
        image=full_image(jobs[0].spec.image),
        resources=resources,
        cmd=payload.cmd,
        args=payload.args,
        env=payload.env,
        secrets=tuple(secret.read() for job in jobs for secret in job.filled.secrets),
    )


def _function_files(job: JobRecord, context: LaunchContext) -> dict[str, bytes]:
    """Return the files that a call of a function needs, unless its container sees the home, which has them.

    If there is a folder on the storage, they are in there; `bring_functions` brings them.

    Raises:
        SpecError: A file is gone.
    """
    if context.shared or context.home is None or context.remote is not None:
        return {}
    try:
        return {name: (context.home.functions / name).read_bytes() for name in _names_of_files(job)}
    except OSError as error:
        raise SpecError(
            f"the function's file {error.filename} cannot be read ({error.strerror}): plan the job again, which "
            "writes it"
        ) from error


def _names_of_files(job: JobRecord) -> list[str]:
    return list(dict.fromkeys((f"{job.spec.function}.zip", *files_of(job.filled.argv))))


def bring_functions(jobs: Iterable[JobRecord], context: LaunchContext) -> None:
    """Bring the files that the calls of functions need to the storage, if that is their way.

    Raises:
        NotSent: The storage does not answer now.
        JobNotSendable: The storage cannot keep them.
    """
    if context.remote is None or context.home is None:
        return
    for job in jobs:
        if job.spec.function is not None:
            try:
                context.remote.bring_functions(_names_of_files(job), context.home)
            except StorageError as error:
                raise JobNotSendable(job.key, error) from error


def size_of(job: JobRecord, context: LaunchContext) -> int:
    """Return the bytes, at most, that the command of *job* takes in the script of a bundle."""
    filled = job.filled
    texts = [*filled.argv, *(f"{name}={value}" for name, value in filled.env), *filled.outputs, *filled.outputs]
    files = {} if job.spec.function is None else _function_files(job, context)
    more = 1024 * len(filled.secrets) + sum(len(content) * 4 // 3 + 256 for content in files.values())
    return 1500 + more + sum(len(text.encode("utf-8", "surrogatepass")) + 3 * text.count("'") + 16 for text in texts)
