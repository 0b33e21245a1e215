"""`Session`: the user's authenticated connection to one platform."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

import attrs

from canfar_batch.clock import SystemClock
from canfar_batch.containers import ContainerInfo, Image, Limits, Resources, Usage
from canfar_batch.errors import (
    LedgerError,
    PlanError,
    PlatformError,
    PlatformRefused,
    SpecError,
    StorageError,
)
from canfar_batch.rest import credential_of, open_platform
from canfar_batch.text import naming_arguments

# Connecting needs none of the following, which take as long to import as everything above: the methods import them.
if TYPE_CHECKING:
    from canfar_batch.batch import Batch
    from canfar_batch.functions import Function
    from canfar_batch.job import Job
    from canfar_batch.local import LocalPlatform
    from canfar_batch.protocols import (
        Clock,
        LaunchStrategy,
        MonitorStrategy,
        Platform,
        ResultCollector,
        RetryPolicy,
    )
    from canfar_batch.setup import Pool, Setup, Strategies
    from canfar_batch.spec import JobSpec
    from canfar_batch.storage import Inputs, Progress, Storage

log = logging.getLogger("canfar_batch")

SETTLE_NEARBY = 3.0  #: seconds to look for one on this machine, which answers at once
GRACE_LOCAL = 2.0  #: seconds for which a container may live on, on the embedded local platform
_MANY_CALLS = 100  #: calls of `Session.map`; more are bundled, since a container takes long to start
_CONTAINERS = 64  #: bundles that many calls make
#: what other programs call the arguments of `Session.batch`
_OTHER_NAMES = {
    "window": "launch", "max_workers": "launch", "workers": "launch", "n_jobs": "launch", "at_once": "launch",
    "retries": "retry", "attempts": "retry", "poll": "monitor", "results": "collect", "collector": "collect",
    "path": "home", "directory": "home",
}  # fmt: skip
_RAISE: Any = object()  #: failed calls of `Session.map` raise
#: threads that single jobs share, for each kind of work
_WORKERS: Mapping[str, int] = {"launch": 32, "poll": 8, "gather": 8, "collect": 1}


class Session:
    """A connection to one platform; `connect` makes one. Safe to use from many threads.

    Close it at the end, or use it in a `with`:

    ```python
    with cb.Session.connect() as session:
        job = session.launch("python fit.py 7", image="skaha/astroml:latest", cores=2, ram=4)
    ```

    Args:
        platform: The platform; `connect` makes it.
        clock: Where times come from.
        local: The local platform to stop at the end.
        pool: Makes the pools of threads that talk to the platform.
        settle: Seconds for which a container must be absent before it counts as gone; by default 120.
        grace: Seconds for which a container may live on after `Failed` or a delete; by default 35.
        memory: Seconds for which the platform remembers ended containers at most; by default 3,600.
            A batch that finds newer ones forgotten believes the platform.
        long_wait: Seconds after which a job that has not begun is reported to wait for long.
        file_system: What `storage` returns; by default a file system for the platform's storage service.

    Attributes:
        platform: The platform as a role (`protocols.Platform`), for code that needs more than this class offers.
    """

    def __init__(
        self,
        platform: Platform,
        *,
        clock: Clock | None = None,
        local: LocalPlatform | None = None,
        pool: Callable[[], Pool] | None = None,
        settle: float | None = None,
        grace: float | None = None,
        memory: float | None = None,
        long_wait: float | None = None,
        file_system: Any = None,
    ) -> None:
        self.platform = platform
        self._file_system = file_system
        self._clock = clock or SystemClock()
        self._local = local
        self._make_pool = pool
        self._workers: Any = None  # those of `Engine.workers`, made for the first job
        self._lock = threading.Lock()
        self._settle = SETTLE_NEARBY if settle is None and self.nearby else settle
        self._grace = GRACE_LOCAL if grace is None and local is not None else grace
        self._memory, self._long_wait = memory, long_wait
        self._began = self._clock.now() if local is not None else None
        self._pid = os.getpid()

    @classmethod
    def connect(
        cls,
        url: str | None = None,
        *,
        token: str | None = None,
        certificate: str | os.PathLike[str] | None = None,
        timeout: float = 30.0,
        storage: Any = None,
        memory: float | None = None,
        long_wait: float | None = None,
    ) -> Session:
        """Connect to a platform.

        Credentials are looked for in this order: the arguments; `CANFAR_TOKEN`, `CANFAR_CERTIFICATE` and `CANFAR_URL`;
        the official client's saved login; `~/.ssl/cadcproxy.pem`.

        Args:
            url: The platform's address, with or without its version. `"local"` starts a `LocalPlatform` on this
                machine, which lives as long as the session. By default `CANFAR_URL`, the saved login's, or CANFAR.
            token: A bearer token.
            certificate: A PEM file that holds a certificate and its key.
            timeout: Seconds to wait for the answer to a question. A launch waits 90 s.
            storage: A file system of fsspec, whose root stands for `/arc`, to be used instead of the platform's storage
                service. By default the service at `CANFAR_STORAGE_URL`, else at `/arc` on the platform's own host.
            memory: Seconds for which the platform remembers ended jobs; by default an hour, as on CANFAR. A job that
                is gone sooner was deleted by somebody; one that is gone later may have ended unwatched.
            long_wait: Seconds after which a job that has not begun is reported, by `explain`, tables and reports, to
                wait for long: it may be larger than the cluster can take. By default an hour. Nothing stops the job
                (see `pending_timeout`).

        Raises:
            CredentialMissing: No credential was found; the message says how to get one.
            CredentialExpired: The credential that was found has expired.
            AddressError: *url* is not an address that a credential may be sent to.
        """
        files = None if storage is None else _storage_of(storage)
        if (url or os.environ.get("CANFAR_URL")) != "local":
            platform = open_platform(url, token=token, certificate=certificate, timeout=timeout, storage=files)
            return cls(platform, file_system=storage, memory=memory, long_wait=long_wait)
        from canfar_batch.local import LocalPlatform  # a fifth of what this module would cost to import

        local = LocalPlatform(token=token, strict_images="typos", metrics_delay=0.0).start()
        try:
            platform = open_platform(local.url, token=local.token, timeout=timeout, storage=files)
            return cls(platform, local=local, file_system=storage, memory=memory, long_wait=long_wait)
        except BaseException:
            local.stop()
            raise

    @classmethod
    def connect_for(cls, batch: Batch, url: str | None = None, *, long_wait: float | None = None) -> Session:
        """Connect to the platform of *batch*, if it is the configured one.

        The address in a batch's ledger decides nothing: a ledger may be another person's, and a credential goes only
        to an address that the user has configured.

        Args:
            batch: The batch.
            url: As for `connect`.
            long_wait: As for `connect`.

        Raises:
            LedgerError: The batch ran on another platform than the configured one.
            CredentialMissing: No credential was found.
        """
        session = cls.connect(url, long_wait=long_wait)
        if session.address == batch.address:
            return session
        session.close()
        raise LedgerError(
            f"batch {batch.name!r} ran on {batch.address}, and the configured platform is {session.address}: no "
            "credential is sent to an address that only a ledger names. If you trust it, set "
            f"CANFAR_URL={batch.address}"
        )

    def close(self) -> None:
        """Close the connections; a platform that `connect("local")` started ends with its jobs.

        In a fork of the process that connected, do nothing.
        """
        if os.getpid() != self._pid:
            return
        from canfar_batch.protocols import close

        close(self.platform)
        with self._lock:
            if self._workers is not None:
                self._workers.close()
        if self._local is not None:
            self._local.stop()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a session holds a credential and connections, so it cannot be pickled or copied: call "
            "canfar_batch.Session.connect() in the other process"
        )

    def __repr__(self) -> str:
        end = self.platform.expires_at
        until = f", credential until {end:%Y-%m-%d %H:%M} UTC" if end is not None else ""
        return f"<Session {self.address}, user {self.platform.user or 'not known yet'}{until}>"

    def _repr_html_(self) -> str:
        from canfar_batch.views import notebook

        return notebook.session(
            self.platform.url,
            self.platform.user,
            until=self.platform.expires_at,
            local=self._local is not None,
            batches=self.batches(),
        )

    @property
    def url(self) -> str:
        """The platform's address."""
        return self.platform.url

    @property
    def address(self) -> str:
        """The platform's address, as ledgers record it; `"local"` for a platform that `connect` started."""
        return "local" if self._local is not None else self.platform.url

    @property
    def user(self) -> str | None:
        """The user's name on the platform; None until the platform has answered once."""
        return self.platform.user

    @property
    def nearby(self) -> bool:
        """True if the platform runs on this machine, so that its containers see this machine's files."""
        return urlsplit(self.platform.url).hostname in ("127.0.0.1", "localhost", "::1")

    # -- jobs -----------------------------------------------------------------------------------------------------

    def launch(self, cmd: str | Sequence[Any] | JobSpec, **fields: Any) -> Job:
        """Launch one job.

        Args:
            cmd: The command, as `JobSpec` takes it; or a whole `JobSpec`.
            fields: The other arguments of `JobSpec`: `image`, `cores`, `ram`, `env`, ...

        Raises:
            SpecError: It cannot be run like this; nothing was sent.
            PlatformRefused: The platform refused it; nothing runs.
            LaunchInDoubt: No clear answer came, and the platform's list could not settle whether the job exists.
        """
        from canfar_batch.job import Job
        from canfar_batch.standalone import Standalone

        spec = self._spec(cmd, fields)
        self._check(spec)
        try:
            source, record = Standalone.launch(self._single_setup, spec)
        except PlatformRefused as error:
            error.args = (f"{error}{self._nearest_image(spec.image)}", *error.args[1:])
            raise
        return Job(record, source)

    def job(self, id: str) -> Job:
        """Return the job that runs, or ran within the last hour, in the container *id*.

        Raises:
            JobNotFound: The platform does not know this id, or has forgotten it.
        """
        job = self._found(self.platform.container(id))
        return job.refresh() if job.state.final else job

    def jobs(self) -> list[Job]:
        """Return all your headless jobs that the platform shows now, by one request.

        The outcome of a job that has ended is fetched by its `refresh`.
        """
        return [self._found(info) for info in self.platform.containers()]

    # -- batches --------------------------------------------------------------------------------------------------

    @naming_arguments("session.batch()", PlanError, _OTHER_NAMES)
    def batch(
        self,
        name: str,
        *,
        launch: LaunchStrategy | int | None = None,
        monitor: MonitorStrategy | None = None,
        retry: RetryPolicy | int | None = None,
        collect: ResultCollector | Mapping[str, ResultCollector] | None = None,
        inputs: Inputs | Sequence[str | os.PathLike[str]] | str | os.PathLike[str] | None = None,
        home: str | os.PathLike[str] | None = None,
        settle: float | None = None,
    ) -> Batch:
        """Open the batch *name*, or make it if there is none.

        ```python
        batch = session.batch("fits", launch=16, retry=3)  # Window(16) and Retry(3)
        ```

        Args:
            name: Its name; the same name goes on with the same batch.
            launch: Which jobs are launched next; by default `Window(16)`. A number is the size of a `Window`.
            monitor: How to poll the platform; by default `Listing((5, 60))`, and faster on this machine.
            retry: Which failures deserve another attempt; by default `Retry(2)`. A number is that of a `Retry`.
            collect: How to fetch a job's result; a dict of collectors for several; by default `Logs()`, and what a
                `Function` returned.
            inputs: Files, folders and patterns that the jobs need, such as `["calib.py", "raw/*.fits"]`; or `Inputs`.
                Where containers do not see this machine's files, they are brought to the platform before the first
                launch, and again only if they change; jobs run in their folder.
            home: The directory that holds the batch's own; by default `CANFAR_BATCH_HOME`, else `batches` in the
                working directory.
            settle: Seconds for which a container must be absent before it counts as gone; by default 120.

        Raises:
            PlanError: *name* cannot be the name of a batch, *inputs* are not files, or there is no such argument.
            StrategyError: *launch*, *monitor*, *retry* or *collect* cannot have its role.
            HomeError: Neither *home* nor `CANFAR_BATCH_HOME` is given, and the working directory is one that is emptied
                from time to time; or the home cannot be written.
            LedgerError: The batch belongs to another platform or user.
        """
        from canfar_batch.batch import prepare
        from canfar_batch.setup import Strategies
        from canfar_batch.storage import as_inputs
        from canfar_batch.strategies import Listing, Logs, Retry, Window, as_collector, check_player

        window = Window(launch) if isinstance(launch, int) and not isinstance(launch, bool) else launch
        policy = Retry(retry) if isinstance(retry, int) and not isinstance(retry, bool) else retry
        paced = check_player(policy, "retry", "Retry(2)") or Retry(2)
        if self.nearby and isinstance(paced, Retry) and paced.pause is None:
            paced = attrs.evolve(paced, pause=1.0)  # the platform is this machine
        strategies = Strategies(
            launch=check_player(window, "launch", "Window(16)") or Window(16),
            monitor=check_player(monitor, "monitor", "Listing(every=(5, 60))")
            or (Listing(every=(0.2, 2.0)) if self.nearby else Listing()),
            retry=paced,
            collect=Logs(),
        )

        wanted = as_inputs(inputs)

        def setup(place: Path) -> Setup:
            collector = as_collector(collect, place)
            made = self._setup(attrs.evolve(strategies, collect=collector), directory=place, settle=settle)
            return attrs.evolve(made, inputs=wanted)

        return prepare(name, setup=setup, address=self.address, home=home, launch=self.launch, nearby=self.nearby)

    def map(
        self,
        function: Callable[..., Any] | Function,
        /,
        *columns: Iterable[Any],
        image: str | None = None,
        missing: Any = _RAISE,
        home: str | os.PathLike[str] | None = None,
        launch: LaunchStrategy | int | None = None,
        inputs: Inputs | Sequence[str | os.PathLike[str]] | str | os.PathLike[str] | None = None,
        progress: bool = True,
        **spec_fields: Any,
    ) -> list[Any]:
        """Call *function* once for each row of the columns, as jobs, and return what it returned, in order.

        The batch is named after the function and its code, so that calling it again goes on where it stopped, and runs
        only what has not run yet. `cb.open` and `session.batch` show it afterwards.

        ```python
        def area(width, height):
            return width * height

        areas = session.map(area, [1, 2, 3], [4, 5, 6], image="skaha/astroml:latest", cores=1, ram=1)
        ```

        Args:
            function: What to call; or a `Function`, which brings its image and resources.
            columns: The values of its first, second, ... argument, of one length.
            image: The container image.
            missing: What stands in the list for calls that failed; without it, they raise.
            home: As for `batch`.
            launch: As for `batch`. By default, more than 100 calls are bundled: about 64 containers carry them.
            inputs: As for `batch`: files that the function reads.
            progress: Whether to show the progress.
            spec_fields: As for `Function`: cores, ram (GiB), timeout (seconds), ...

        Raises:
            BatchFailed: A call raised an exception, which is its cause, or its container failed. The other calls have
                been made: calling `map` again with `missing=None` returns their results.
            SpecError: The function cannot be sent, or needs another version of Python than the image has.
            PlanError: The columns differ in length, or there is none.
        """
        from canfar_batch.functions import Function
        from canfar_batch.strategies import Bundle

        if isinstance(function, Function):
            if image is not None or spec_fields:
                raise SpecError("a Function is complete: give it its image and resources")
            spec = function
        elif image is None:
            raise SpecError("no image= was given; session.images() lists them, such as 'skaha/astroml:latest'")
        else:
            spec = Function(function, image=image, **spec_fields)
        if not columns:
            raise PlanError("map() needs a column of values for each argument, as session.map(fit, [1, 2, 3], image=…)")
        rows = spec.rows_of(columns)
        if launch is None and len(rows) > _MANY_CALLS:
            launch = Bundle(tasks=math.ceil(len(rows) / _CONTAINERS))
        batch = self.batch(spec.name, launch=launch, home=home, inputs=inputs)
        keys = batch.rows(spec, rows, allow_empty=True)
        if again := [key for key in keys if batch[key].failure is not None and not _is_own(batch[key])]:
            batch.retry_failed(again)
        report = batch.run(progress=progress)
        if missing is _RAISE and not all(batch[key].ok and batch[key].record.collect_error is None for key in keys):
            report.raise_if_failed()
        results = batch.results(missing=None if missing is _RAISE else missing)
        return [results[key] for key in keys]

    @staticmethod
    def batches(home: str | os.PathLike[str] | None = None) -> list[str]:
        """Return the names of the batches in *home*, as `batch` finds them.

        Args:
            home: As for `batch`.
        """
        from canfar_batch.batch import batches

        return batches(home)

    # -- details of launching -------------------------------------------------------------------------------------

    def _spec(self, cmd: str | Sequence[Any] | JobSpec, fields: Mapping[str, Any]) -> JobSpec:
        from canfar_batch.spec import JobSpec

        if isinstance(cmd, JobSpec):
            if fields:
                raise SpecError(f"a JobSpec is complete: put {', '.join(sorted(fields))} into it")
            return cmd
        if "image" not in fields:
            raise SpecError("no image= was given; session.images() lists them, such as 'skaha/astroml:latest'")
        return JobSpec(cmd, **fields)

    def _check(self, spec: JobSpec) -> None:
        """Compare the resources with the platform's limits; if these are not available, the platform will refuse."""
        if Resources(cores=spec.cores, ram=spec.ram, gpus=spec.gpus) == Resources():
            return
        try:
            limits = self.platform.limits()
        except PlatformError as error:
            log.info("the platform's limits are not available: %s", error)
            return
        limits.check(spec)

    def _nearest_image(self, image: str) -> str:
        """Return a hint if the platform does not list *image* but one with a similar name; otherwise an empty text."""
        from canfar_batch.fields.image_names import full_image, suggest_image

        try:
            listed = {one.id for one in self.platform.images(None)}
        except PlatformError:
            return ""
        meant = suggest_image(full_image(image), listed)
        return f" {image} is not listed: {meant}" if meant else ""

    def _setup(self, strategies: Strategies, *, directory: Path, settle: float | None = None) -> Setup:
        """Return the setup of an engine whose jobs run in *directory*."""
        from canfar_batch.setup import GRACE, LONG_WAIT, MEMORY, SETTLE, Setup

        if settle is None:
            settle = SETTLE if self._settle is None else self._settle
        return Setup(
            platform=self.platform,
            strategies=strategies,
            clock=self._clock,
            settle=settle,
            grace=GRACE if self._grace is None else self._grace,
            memory=MEMORY if self._memory is None else self._memory,
            long_wait=LONG_WAIT if self._long_wait is None else self._long_wait,
            platform_began=self._began,
            shared=self._sees(directory),
        )

    @property
    def _single_setup(self) -> Setup:
        """The setup of the engines that drive single jobs, which share their threads."""
        from canfar_batch.setup import ABSENT_POLLS, SETTLE
        from canfar_batch.standalone import single_strategies
        from canfar_batch.strategies import OneByOne

        settle = SETTLE if self._settle is None else self._settle
        strategies = single_strategies(OneByOne(every=min(5.0, settle / ABSENT_POLLS), failures=1))
        return attrs.evolve(self._setup(strategies, directory=Path.cwd()), pool=self._make_pool or self._shared_pool)

    def _shared_pool(self) -> Pool:
        """Return a pool of the threads that single jobs share."""
        from canfar_batch.engine import Engine

        with self._lock:
            if self._workers is None:
                self._workers = Engine.workers(_WORKERS)
            pool: Pool = self._workers.pool()
            return pool

    def _found(self, info: ContainerInfo) -> Job:
        from canfar_batch.job import Job
        from canfar_batch.standalone import found_on_platform

        source, record = found_on_platform(self._single_setup, info)
        return Job(record, source)

    def _sees(self, directory: Path) -> bool:
        """Return whether containers see *directory*: on this machine, or in the storage that every container mounts."""
        return self.nearby or directory.is_relative_to("/arc")

    # -- files ----------------------------------------------------------------------------------------------------

    def storage(self) -> Any:
        """Return a file system of fsspec for the platform's storage; its paths have no `/arc`: `/home/you/a.fits`.

        It needs the extra `storage`, which brings `vosfs`, the platform's own file system for fsspec (under the AGPL).
        It does not check what it reads, and leaves half a file if a transfer is cut: use `upload` and `download` for
        what matters. With the platform of `connect("local")` it is the directory that stands for `/arc`.

        Raises:
            StorageError: The extra is missing, or the platform's storage cannot be used like that.
        """
        if self._file_system is None:
            self._file_system = self._new_file_system()
        return self._file_system

    def upload(
        self,
        local: str | os.PathLike[str],
        remote: str | os.PathLike[str],
        *,
        repair: bool = False,
        progress: Callable[[Progress], object] | bool = True,
    ) -> PurePosixPath:
        """Bring a file, a folder, or the files that match a pattern to the platform; return where containers see it.

        Each file is sent under a temporary name, proved by size and MD5, and renamed; it is repeated if that fails.
        Files that are there already are skipped.

        Args:
            local: A file, a folder or a pattern.
            remote: Where to, as containers see it: `/arc/home/you/raw`. A new name, or a folder if it ends in a slash
                or exists. What a folder or a pattern holds is put into the folder *remote*.
            repair: Whether letters in names that the storage cannot keep become underscores; otherwise such names are
                refused before anything is sent.
            progress: Whether a terminal shows a line; or a function that receives a `Progress` for each file.

        Raises:
            LocalMissing: There is nothing of the name *local*.
            NameRefused: The storage cannot keep a name.
            StorageError: A file could not be brought there whole.
        """
        with _shown(progress, "uploading") as report:
            return self._files.upload(local, remote, repair=repair, progress=report)

    def download(
        self,
        remote: str | os.PathLike[str],
        local: str | os.PathLike[str],
        *,
        digest: bool = True,
        progress: Callable[[Progress], object] | bool = True,
    ) -> Path:
        """Bring a file, a folder, or the files that match a pattern from the platform; return where it is here.

        Each file is fetched under a temporary name, proved by size and MD5, and renamed; what failed is resumed, if the
        storage can, and repeated. Files that are here already are skipped.

        Args:
            remote: What, as containers see it: `/arc/home/you/results`. A file, a folder or a pattern.
            local: Where to: a new name, or a folder if it ends in a slash or exists. What a folder or a pattern holds
                is put into the folder *local*.
            digest: Whether the content must have the MD5 that the storage knows; a file of which it knows none, as of
                those that jobs wrote, is read twice. False compares the size alone.
            progress: As for `upload`.

        Raises:
            RemoteMissing: There is nothing of the name *remote*.
            TransferDamaged: A file did not arrive whole.
            StorageError: It cannot be had.
        """
        with _shown(progress, "downloading") as report:
            return self._files.download(remote, local, digest=digest, progress=report)

    @property
    def _files(self) -> Storage:
        from canfar_batch.protocols import storage_of
        from canfar_batch.storage import Storage

        found = storage_of(self.platform)
        if not isinstance(found, Storage):
            raise StorageError("this platform has no storage that can be reached from here")
        return found

    def _new_file_system(self) -> Any:
        try:
            import fsspec
            import vosfs
        except ImportError as error:
            raise StorageError(
                "session.storage() needs fsspec and vosfs: pip install 'canfar_batch[storage]'. "
                "session.upload() and session.download() work without"
            ) from error
        if self._local is not None:
            return fsspec.filesystem("dir", path=str(self._local.arc), target_protocol="file")
        where = self._files.space.where
        try:
            return vosfs.VOSpaceFileSystem(where, **credential_of(self.platform), skip_instance_cache=True)
        except ValueError as error:
            raise StorageError(
                f"vosfs cannot be used with {where}: {error}. Give a file system with storage="
            ) from error

    # -- the platform ---------------------------------------------------------------------------------------------

    def images(self, kind: str | None = "headless") -> list[Image]:
        """Return the container images that the platform lists: public, labelled, updated every 30 minutes.

        Args:
            kind: Only images for this kind of session; None for all.
        """
        return self.platform.images(kind)

    def limits(self) -> Limits:
        """Return what one job may ask for: cores, memory (GiB), GPUs, and the defaults."""
        return self.platform.limits()

    def usage(self) -> Usage:
        """Return what your active containers of every kind take now, for your information: headless jobs are queued."""
        return Usage.of(self.platform.containers(None), self.platform.limits())

    def stats(self) -> Mapping[str, Any]:
        """Return the cluster's totals, as the platform gives them.

        Raises:
            PlatformBusy: The totals are not available now, which has no meaning for anything else.
        """
        return self.platform.stats()


def _storage_of(file_system: Any) -> Storage:
    from canfar_batch.storage import FsspecSpace, Storage

    return Storage(FsspecSpace(file_system))


@contextlib.contextmanager
def _shown(progress: Callable[[Progress], object] | bool, verb: str) -> Iterator[Callable[[Progress], object] | None]:
    """Yield the function that receives the progress of a transfer, if any."""
    if not isinstance(progress, bool):
        yield progress
        return
    from canfar_batch.views.transfer_line import TransferLine

    line = TransferLine(verb)
    try:
        yield line if progress else None
    finally:
        line.end()


def _is_own(job: Job) -> bool:
    """Return whether calling the job's function again would fail again, or the job has not failed."""
    from canfar_batch.failures import Raised

    return not job.done or job.ok or isinstance(job.failure, Raised)
