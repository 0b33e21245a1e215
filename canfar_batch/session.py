"""`Session`: the user's authenticated connection to one platform."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import attrs

from canfar_batch.batch import Batch, prepare
from canfar_batch.clock import SystemClock
from canfar_batch.engine import ABSENT_POLLS, Setup, Standalone, Strategies, Surroundings, found_on_platform
from canfar_batch.errors import PlatformError, SpecError
from canfar_batch.job import Job
from canfar_batch.protocols import Clock, LaunchStrategy, MonitorStrategy, Platform, ResultCollector, RetryPolicy
from canfar_batch.records import ContainerInfo, Image, Limits, Resources, Usage, resources_of
from canfar_batch.rest import open_platform
from canfar_batch.spec import JobSpec
from canfar_batch.store.home import Home, batches
from canfar_batch.strategies import Listing, Logs, OneByOne, Retry, Window, as_collector
from canfar_batch.views import notebook

if TYPE_CHECKING:
    from canfar_batch.local import LocalPlatform

log = logging.getLogger("canfar_batch")

SETTLE = 120.0  #: seconds for which a launch without an answer is looked for: the create's time-out and 30 s
SETTLE_NEARBY = 3.0  #: likewise on this machine, where nothing is slow and nothing stands between


class Session:
    """A connection to one platform; `connect` makes one. Safe to use from many threads.

    Close it when you are done, or use it in a `with`:

    ```python
    with cb.Session.connect() as session:
        job = session.launch("python fit.py 7", image="skaha/astroml:latest", cores=2, ram=4)
    ```

    Attributes:
        platform: The platform as a role (`protocols.Platform`), for code that needs more than this class offers.
    """

    def __init__(
        self,
        platform: Platform,
        *,
        clock: Clock | None = None,
        local: LocalPlatform | None = None,
        sleep: Callable[[float], None] = time.sleep,
        settle: float | None = None,
    ) -> None:
        self.platform = platform
        self._clock = clock or SystemClock()
        self._local = local
        self._sleep = sleep
        self._settle = settle if settle is not None else SETTLE_NEARBY if self.nearby else SETTLE

    @classmethod
    def connect(
        cls,
        url: str | None = None,
        *,
        token: str | None = None,
        certificate: str | os.PathLike[str] | None = None,
        timeout: float = 30.0,
    ) -> Session:
        """Connect to a platform.

        Credentials are looked for in this order: the arguments; `CANFAR_TOKEN`, `CANFAR_CERTIFICATE` and `CANFAR_URL`;
        the official client's saved login; `~/.ssl/cadcproxy.pem`.

        Args:
            url: The platform's address, with or without its version. `"local"` starts a `LocalPlatform` on this
                machine, which lives as long as the session. Without it: `CANFAR_URL`, the saved login's, or CANFAR.
            token: A bearer token.
            certificate: A PEM file that holds a certificate and its key.
            timeout: Seconds to wait for the answer to a question. A launch waits 90 s.

        Raises:
            CredentialMissing: No credential was found; the message says how to get one.
            CredentialExpired: One was found, and its time is over.
            AddressError: *url* is no address that a credential may be sent to.
        """
        if (url or os.environ.get("CANFAR_URL")) != "local":
            return cls(open_platform(url, token=token, certificate=certificate, timeout=timeout))
        from canfar_batch.local import LocalPlatform  # a fifth of what this module would cost to import

        local = LocalPlatform(token=token, strict_images="typos", metrics_delay=0.0).start()
        try:
            return cls(open_platform(local.url, token=local.token, timeout=timeout), local=local)
        except BaseException:
            local.stop()
            raise

    def close(self) -> None:
        """Close the connections; a platform that `connect("local")` started ends with its jobs."""
        close = getattr(self.platform, "close", None)
        if close is not None:
            close()
        if self._local is not None:
            self._local.stop()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        end = self.platform.expires_at
        until = f", credential until {end:%Y-%m-%d %H:%M} UTC" if end is not None else ""
        where = "local" if self._local is not None else self.platform.url
        return f"<Session {where}, user {self.platform.user or 'not known yet'}{until}>"

    def _repr_html_(self) -> str:
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
    def user(self) -> str | None:
        """Who you are there; None until the platform has answered once."""
        return self.platform.user

    @property
    def nearby(self) -> bool:
        """True where the platform runs on this machine, so that its containers see this machine's files."""
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
        spec = self._spec(cmd, fields)
        self._check(spec)
        source, record = Standalone.launch(self._surroundings, spec)
        return Job(record, source)

    def job(self, id: str) -> Job:
        """The job that runs, or ran within the last hour, in the container *id*.

        Raises:
            JobNotFound: The platform knows none of this id, or has forgotten it.
        """
        job = self._found(self.platform.container(id))
        return job.refresh() if job.state.final else job

    def jobs(self) -> list[Job]:
        """All your headless jobs that the platform knows at this moment, in one question.

        The outcome of one that is over is asked for by its `refresh`.
        """
        return [self._found(info) for info in self.platform.containers()]

    # -- batches --------------------------------------------------------------------------------------------------

    def batch(
        self,
        name: str,
        *,
        launch: LaunchStrategy | None = None,
        monitor: MonitorStrategy | None = None,
        retry: RetryPolicy | None = None,
        collect: ResultCollector | Mapping[str, ResultCollector] | None = None,
        home: str | os.PathLike[str] | None = None,
        settle: float | None = None,
    ) -> Batch:
        """Open the batch *name*, or make it if there is none.

        Args:
            name: Its name; the same name goes on with the same batch.
            launch: Who is launched next; by default `Window(16)`.
            monitor: How to look at the platform; by default `Listing((5, 60))`, and faster on this machine.
            retry: What deserves another attempt; by default `Retry(2)`.
            collect: How to fetch what a job made; a dict of collectors for several; by default `Logs()`.
            home: The directory that holds the batch's own; by default `CANFAR_BATCH_HOME`, else `batches` in the
                working directory.
            settle: Seconds for which a container must be absent to be believed gone; by default 120.

        Raises:
            PlanError: *name* is no name for a batch.
            HomeError: The home is in a place that is emptied, or cannot be written.
            LedgerError: The batch belongs to another platform or user.
        """
        strategies = Strategies(
            launch=launch or Window(16),
            monitor=monitor or (Listing(every=(0.2, 2.0)) if self.nearby else Listing()),
            retry=self._paced(retry or Retry(2)),
            collect=as_collector(collect or Logs()),
        )

        def setup(place: Home) -> Setup:
            return Setup(
                platform=self.platform,
                strategies=strategies,
                clock=self._clock,
                archive=place,
                settle=self._settle if settle is None else settle,
                shared=self._sees(place.path),
            )

        address = "local" if self._local is not None else self.platform.url
        return prepare(name, setup=setup, address=address, home=home)

    @staticmethod
    def batches(home: str | os.PathLike[str] | None = None) -> list[str]:
        """The names of the batches in *home*, as `batch` would find them."""
        return list(batches(home))

    def _paced(self, retry: RetryPolicy) -> RetryPolicy:
        """*retry* with shorter pauses where the platform is this machine, unless it says how long they are."""
        if self.nearby and isinstance(retry, Retry) and retry.pause is None:
            return attrs.evolve(retry, pause=1.0)
        return retry

    # -- details of launching -------------------------------------------------------------------------------------

    def _spec(self, cmd: str | Sequence[Any] | JobSpec, fields: Mapping[str, Any]) -> JobSpec:
        if not isinstance(cmd, JobSpec):
            if "image" not in fields:
                raise SpecError("no image= was given; session.images() lists what there is, as 'skaha/astroml:latest'")
            return JobSpec(cmd, **fields)
        if fields:
            raise SpecError(f"a JobSpec is complete: put {', '.join(sorted(fields))} into it")
        return cmd

    def _check(self, spec: JobSpec) -> None:
        """Hold the resources against what the platform offers. Where it cannot say that now, it will refuse itself."""
        if resources_of(spec) == Resources():
            return
        try:
            limits = self.platform.limits()
        except PlatformError as error:
            log.info("the platform does not say what it offers: %s", error)
            return
        limits.check(spec)

    @property
    def _surroundings(self) -> Surroundings:
        """What single jobs need."""
        return Surroundings(
            platform=self.platform,
            monitor=OneByOne(every=min(5.0, self._settle / ABSENT_POLLS), failures=1),
            clock=self._clock,
            settle=self._settle,
            shared=self._sees(Path.cwd()),
            sleep=self._sleep,
        )

    def _found(self, info: ContainerInfo) -> Job:
        source, record = found_on_platform(self._surroundings, info)
        return Job(record, source)

    def _sees(self, directory: Path) -> bool:
        """True where containers see *directory*: on this machine, or below the storage that every container mounts."""
        return self.nearby or directory.is_relative_to("/arc")

    # -- the platform ---------------------------------------------------------------------------------------------

    def images(self, kind: str | None = "headless") -> list[Image]:
        """The container images that the platform lists: public, labelled, renewed every 30 minutes.

        Args:
            kind: Only images for this kind of session; None for all.
        """
        return self.platform.images(kind)

    def limits(self) -> Limits:
        """What one job may ask for: cores, memory (GiB), GPUs, and what it gets if it asks for nothing."""
        return self.platform.limits()

    def usage(self) -> Usage:
        """What your active containers of every kind take now. It informs: headless jobs queue and need no gate."""
        return Usage.of(self.platform.containers(None), self.platform.limits())

    def stats(self) -> Mapping[str, Any]:
        """The cluster's totals, as the platform gives them.

        Raises:
            PlatformBusy: The platform cannot tell just now, which says nothing about anything else.
        """
        return self.platform.stats()
