"""The errors of the package: one root, `CanfarBatchError`, and each is also the builtin that it resembles.

``except TimeoutError`` and ``except CanfarBatchError`` both catch a wait that took too long.

```python
try:
    session.job("nosuchid")
except cb.errors.JobNotFound as error:  # a LookupError too
    print(error)
```
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from typing_extensions import Unpack  # of typing, from Python 3.11


class CanfarBatchError(Exception):
    """The root of all errors that this package raises on purpose."""


# -- the user's input ---------------------------------------------------------------------------------------------


class SpecError(CanfarBatchError, ValueError):
    """A job cannot be described like this; raised before anything is sent."""


class PlanError(CanfarBatchError, ValueError):
    """A batch cannot be planned like this: unequal columns, nothing to do, two jobs with one key or one output."""


class SpecChanged(PlanError):
    """The batch knows this key with another command, environment, image, workdir or outputs."""


class StrategyError(CanfarBatchError, TypeError):
    """What was given as a strategy is none, or one of your own returned a value that its role does not allow."""


class AlreadyClosed(CanfarBatchError, ValueError):
    """The batch or session was closed; open it again."""


class ExtraMissing(CanfarBatchError, ImportError):
    """A library is not installed; the message names it, and the extra that installs it."""

    @classmethod
    def of(cls, what: str, *, library: str, extra: str) -> ExtraMissing:
        """Return the error for *what* needs the library."""
        return cls(f'{what} needs {library}: pip install {library} (the extra "{extra}" of canfar_batch installs it)')


# -- credentials --------------------------------------------------------------------------------------------------


class CredentialError(CanfarBatchError, PermissionError):
    """You could not be authenticated; the message names the command that fixes it."""


class CredentialMissing(CredentialError):
    """No credential was found in any of the usual places."""


class CredentialExpired(CredentialError):
    """The credential has expired."""


class CredentialRefused(CredentialError):
    """The platform does not accept this credential, not even after it was renewed.

    A 401 alone does not prove that the credential is bad: an ill login or group service causes the same answer.

    Attributes:
        status: The HTTP status of the refusal, or None if the credential was refused in the TLS handshake.
        server_text: The server's own words, without secrets.
        was_accepted: Whether the platform accepted this credential, or an earlier one of the same login, in this
            session. If so, the refusal may well pass.
    """

    def __init__(
        self, message: str, *, status: int | None = None, server_text: str = "", was_accepted: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.server_text = server_text
        self.was_accepted = was_accepted


# -- talking to the platform --------------------------------------------------------------------------------------


class AddressError(CanfarBatchError, ValueError):
    """This is not the address of a platform, or credentials may not be sent to it."""


class _AnswerFacts(TypedDict, total=False):
    """What is known of the answer to a request that failed; see `PlatformError`."""

    status: int | None
    server_text: str
    retry_after: float | None


class PlatformError(CanfarBatchError):
    """A request to the platform failed.

    Attributes:
        status: The HTTP status of the answer, or None if there was no answer.
        server_text: The server's own words, without secrets; empty if there were none.
        retry_after: Seconds that the server asked to wait, at most 600; None if it did not ask.
    """

    def __init__(
        self, message: str, *, status: int | None = None, server_text: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.server_text = server_text
        self.retry_after = retry_after


class PlatformUnreachable(PlatformError, ConnectionError):
    """No complete answer came: the connection was refused or reset, the host is unknown, or time ran out."""


class NotSent(PlatformUnreachable):
    """The request provably never left this machine, so it had no effect."""


class PlatformBroken(PlatformError, RuntimeError):
    """An answer came, but not a proper one of the service: a proxy's page, a truncated body, a 5xx, a stray 404."""


class PlatformRefused(PlatformError, ValueError):
    """The service refused the request, which had no effect.

    Attributes:
        may_pass: False if the refusal is certainly about the request itself, so that the same request will be refused
            again. True if it may be an outage: a group, login or storage service that is ill makes the platform refuse
            requests with 400, 401, 403 or 404, in words that no list can hold. The answer alone does not show which it
            is; a refusal of a request like one that was accepted earlier is probably an outage.
    """

    def __init__(self, message: str, *, may_pass: bool = True, **answer: Unpack[_AnswerFacts]) -> None:
        super().__init__(message, **answer)
        self.may_pass = may_pass


class AccessDenied(PlatformRefused, PermissionError):
    """The platform knows you, but does not let you do this (403)."""

    # that of ValueError comes first otherwise, and makes no OSError; tblib, which Dask uses to pickle errors, calls it
    __new__ = PermissionError.__new__  # type: ignore[assignment]


class JobNotFound(PlatformRefused, LookupError):
    """The platform knows no job with this id, or has already forgotten it. This will not pass."""

    def __init__(self, message: str, **answer: Unpack[_AnswerFacts]) -> None:
        super().__init__(message, may_pass=False, **answer)


class PlatformBusy(PlatformError, RuntimeError):
    """The request had no effect, and the service asks to be tried again later (409, 429, its own 503)."""


class NotMade(PlatformBusy):
    """A launch failed inside the platform before a container was made (500); a later try may succeed.

    The message quotes the server. Such answers come while one of the platform's own services is down: its queue,
    Redis, Kubernetes, the group or login service.

    Attributes:
        same_again: True if the launch itself may be the cause (its name, its resources, a quota), unless one like it
            was accepted before. False if the cause is certainly the platform's.
    """

    def __init__(self, message: str, *, same_again: bool = False, **answer: Unpack[_AnswerFacts]) -> None:
        super().__init__(message, **answer)
        self.same_again = same_again


class LaunchInDoubt(PlatformError, TimeoutError):
    """A launch was sent and no clear answer came: the job may or may not exist.

    Attributes:
        launch_name: The unique name that was sent; look for it in the platform's list before launching again.
        same_again: True if the answer says that the same request would fail the same way.
    """

    def __init__(
        self,
        message: str,
        *,
        launch_name: str = "",  # unpickling calls this with the message alone, and sets the attributes afterwards
        same_again: bool = False,
        **answer: Unpack[_AnswerFacts],
    ) -> None:
        super().__init__(message, **answer)
        self.launch_name = launch_name
        self.same_again = same_again

    def __reduce__(self) -> tuple[object, ...]:
        # by default, pickle would call the class without its required keyword
        return functools.partial(type(self), launch_name=self.launch_name), self.args, vars(self)


def add_outage_hint(error: CanfarBatchError) -> None:
    """Let the message of a refusal that may pass say so, if nothing like the request was accepted before."""
    may_pass = isinstance(error, (NotMade, CredentialRefused)) or (
        isinstance(error, PlatformRefused) and error.may_pass
    )
    if may_pass and "may be having an outage" not in str(error):
        error.args = (f"{str(error).rstrip('.')}. If this worked before, the platform may be having an outage.",)


# -- waiting for and judging jobs ---------------------------------------------------------------------------------


class WaitTimeout(CanfarBatchError, TimeoutError):
    """The wait took longer than its time-out; the jobs run on.

    Attributes:
        report: The batch's report so far; None for a single job.
    """

    def __init__(self, message: str, *, report: object | None = None) -> None:
        super().__init__(message)
        self.report = report


class JobFailed(CanfarBatchError, RuntimeError):
    """The job did not succeed; the message gives the reason and the end of its log."""


class BatchFailed(CanfarBatchError, RuntimeError):
    """Some jobs of the batch did not succeed; the message groups them by cause."""


class RemoteTraceback(CanfarBatchError, RuntimeError):
    """The traceback, as text, of an exception that a function raised in its container; the cause of that exception."""

    def __str__(self) -> str:
        return f"\n{super().__str__()}"


class CollectError(CanfarBatchError, RuntimeError):
    """The job succeeded, but its result could not be collected.

    Attributes:
        partial: The results of the collectors that did succeed, by name; None if there was one collector.
    """

    def __init__(self, message: str, *, partial: dict[str, object] | None = None) -> None:
        super().__init__(message)
        self.partial = partial


class TransitionError(CanfarBatchError, RuntimeError):
    """An event does not fit the state that the job is in."""


# -- files on the platform's storage ------------------------------------------------------------------------------


class StorageError(CanfarBatchError, OSError):
    """A file could not be brought to the platform's storage, or from it; nothing half is left under its name."""


class RemoteMissing(StorageError, FileNotFoundError):
    """The storage itself answered that it has no such file or folder."""


class LocalMissing(StorageError, FileNotFoundError):
    """There is no such file or folder on this machine."""


class StorageDenied(StorageError, PermissionError):
    """The storage refuses this: the right to the folder is missing, or the file is locked."""


class StorageFull(StorageError):
    """The storage has no room left, or the quota is used up."""


class TransferDamaged(StorageError):
    """What arrived is not what was sent: by its size, by its MD5, or because the file changed meanwhile."""


class NameRefused(StorageError, ValueError):
    """The storage cannot keep a file of this name, or would keep it under another one."""


# -- the batch's home ---------------------------------------------------------------------------------------------


class HomeError(CanfarBatchError, OSError):
    """The batch's home cannot be used: not writable, no room, no locking, not durable."""


class UnknownBatch(CanfarBatchError, LookupError):
    """There is no batch with this name here."""


class UnknownJob(CanfarBatchError, KeyError):
    """The batch has no job with this key; the message names keys that are close to it."""

    __str__ = Exception.__str__  # a KeyError shows the repr of its message


class ReadOnlyBatch(CanfarBatchError, PermissionError):
    """The batch is open for reading; the message names the call that opens it for running."""


class NotDriven(CanfarBatchError, RuntimeError):
    """No process drives the batch, so a wait for its jobs would never end; the message names the call that does."""


class LedgerError(CanfarBatchError, RuntimeError):
    """This version cannot read the ledger, or it belongs to another platform."""


class BatchBusy(CanfarBatchError, RuntimeError):
    """Another driver runs this batch; this process may only read it."""


class LeaseLost(BatchBusy):
    """Another driver took over the batch while this one was away; this one stops."""


class Detached(KeyboardInterrupt):
    """`run()` was interrupted. The jobs run on; run the script again to resume the batch.

    This is not a `CanfarBatchError`, so that ``except Exception`` does not swallow a Ctrl-C.
    """


class BatchPaused(CanfarBatchError, RuntimeError):
    """The first jobs of a batch all failed for the same cause, so the rest were not launched.

    Attributes:
        report: The batch's report so far.
        why: The cause, without what to do about it.
    """

    def __init__(self, message: str, *, report: object | None = None, why: str | None = None) -> None:
        super().__init__(message)
        self.report = report
        self.why = why or message
