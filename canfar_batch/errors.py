"""Every error of the package: one root, `CanfarBatchError`, and each is also the builtin that it resembles.

So ``except TimeoutError`` and ``except CanfarBatchError`` both catch a wait that took too long.

```python
try:
    session.job("nosuchid")
except cb.errors.JobNotFound as error:  # a LookupError too
    print(error)
```
"""

from __future__ import annotations


class CanfarBatchError(Exception):
    """The root of all errors that this package raises on purpose."""


# -- the user's input ---------------------------------------------------------------------------------------------


class SpecError(CanfarBatchError, ValueError):
    """A job cannot be described like this; raised before anything is sent."""


class PlanError(CanfarBatchError, ValueError):
    """A batch cannot be planned like this: unequal columns, nothing to do, a key that is not one."""


class SpecChanged(PlanError):
    """The batch knows this key with another command, environment, image, workdir or outputs."""


class StrategyError(CanfarBatchError, TypeError):
    """A strategy of your own answered something that no strategy of its role may answer."""


class AlreadyClosed(CanfarBatchError, ValueError):
    """The batch or session was closed; open it again."""


class ExtraMissing(CanfarBatchError, ImportError):
    """This needs a library that is not installed; the message names it, and the extra that brings it."""

    @classmethod
    def of(cls, what: str, *, library: str, extra: str) -> ExtraMissing:
        """The error that says of *what* which library to install."""
        return cls(f'{what} needs {library}: pip install {library} (the extra "{extra}" of canfar_batch brings it)')


# -- credentials --------------------------------------------------------------------------------------------------


class CredentialError(CanfarBatchError, PermissionError):
    """Who you are could not be shown to the platform; the message names the command that mends it."""


class CredentialMissing(CredentialError):
    """No credential was found in any of the places that are looked at."""


class CredentialExpired(CredentialError):
    """The credential was good once; its time is over."""


class CredentialRefused(CredentialError):
    """The platform does not accept this credential."""


# -- talking to the platform --------------------------------------------------------------------------------------


class AddressError(CanfarBatchError, ValueError):
    """This is not the address of a platform, or one that credentials may not be sent to."""


class PlatformError(CanfarBatchError):
    """A conversation with the platform did not give what was asked.

    Attributes:
        status: The HTTP status of the answer, or None where there was none.
        words: What the server said, secrets taken out; empty where it said nothing.
        retry_after: Seconds after which the server asked to be asked again, or None.
    """

    def __init__(
        self, message: str, *, status: int | None = None, words: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.words = words
        self.retry_after = retry_after


class PlatformUnreachable(PlatformError, ConnectionError):
    """No answer came: refused, reset, unknown host, or too slow."""


class NotSent(PlatformUnreachable):
    """The request provably never left this machine, so nothing can have come of it."""


class PlatformBroken(PlatformError, RuntimeError):
    """Something answered, but not as the service would: a proxy's page, a truncated body, a 5xx."""


class PlatformRefused(PlatformError, ValueError):
    """The service said no, and said why."""


class AccessDenied(PlatformRefused, PermissionError):
    """You are known to the platform, but may not do this (403)."""


class JobNotFound(PlatformRefused, LookupError):
    """The platform knows no job with this id, or has already forgotten it."""


class PlatformBusy(PlatformRefused):
    """Not now: the service asks to be tried again later (409, 429, its own 503)."""


class LaunchInDoubt(PlatformError, TimeoutError):
    """A launch was sent and no clear answer came: the job may or may not exist.

    Attributes:
        launch_name: The unique name that was sent; look for it in the platform's list before launching again.
        same_again: True where the answer says that the same request would fail the same way.
    """

    def __init__(
        self,
        message: str,
        *,
        launch_name: str,
        status: int | None = None,
        words: str = "",
        retry_after: float | None = None,
        same_again: bool = False,
    ) -> None:
        super().__init__(message, status=status, words=words, retry_after=retry_after)
        self.launch_name = launch_name
        self.same_again = same_again


# -- waiting for and judging jobs ---------------------------------------------------------------------------------


class WaitTimeout(CanfarBatchError, TimeoutError):
    """What was waited for did not happen in time; the jobs run on.

    Attributes:
        report: The batch's report so far, where a batch was waited for.
    """

    def __init__(self, message: str, *, report: object | None = None) -> None:
        super().__init__(message)
        self.report = report


class JobFailed(CanfarBatchError, RuntimeError):
    """The job is over and did not succeed; the message says why and shows the end of its log."""


class BatchFailed(CanfarBatchError, RuntimeError):
    """Some jobs of the batch did not succeed; the message groups them by cause."""


class CollectError(CanfarBatchError, RuntimeError):
    """The job succeeded, but its result could not be gathered."""


class TransitionError(CanfarBatchError, RuntimeError):
    """An event does not fit the state that the job is in."""


# -- the batch's home ---------------------------------------------------------------------------------------------


class HomeError(CanfarBatchError, OSError):
    """The batch's home cannot be used: not writable, no room, no locking, not durable."""


class UnknownBatch(CanfarBatchError, LookupError):
    """There is no batch of this name here."""


class UnknownJob(CanfarBatchError, KeyError):
    """The batch has no job with this key; the message names keys that are close to it."""

    __str__ = Exception.__str__  # a KeyError shows the repr of its message


class ReadOnlyBatch(CanfarBatchError, RuntimeError):
    """The batch is open for reading; the message names the call that opens it for running."""


class NotDriven(CanfarBatchError, RuntimeError):
    """No process drives the batch, so a wait for its jobs would never end; the message names the call that does."""


class LedgerError(CanfarBatchError, RuntimeError):
    """The ledger is not one that this version can read, or belongs to another platform."""


class BatchBusy(CanfarBatchError, RuntimeError):
    """Another driver runs this batch; this one may read it."""


class LeaseLost(BatchBusy):
    """Another driver took the batch over while this one was away; this one stops."""


class Detached(KeyboardInterrupt):
    """`run()` was interrupted: the jobs run on, and running the script again goes on with them.

    Deliberately no `CanfarBatchError`, so that ``except Exception`` does not swallow a Ctrl-C.
    """


class BatchPaused(CanfarBatchError, RuntimeError):
    """The first jobs of a batch all failed alike, so the rest were not launched.

    Attributes:
        report: The batch's report so far.
    """

    def __init__(self, message: str, *, report: object | None = None) -> None:
        super().__init__(message)
        self.report = report
