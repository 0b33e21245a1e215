"""Why an attempt failed: one small class per cause, from the job's own exit code to a lost container.

A failure is a frozen value that the ledger stores. Retry policies use its class, people its message.

```python
job = session.launch(["sh", "-c", "exit 3"], image="skaha/astroml:latest").wait()
if isinstance(job.failure, cb.failures.ExitCode):
    print(job.failure.code)  # 3
```
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import attrs

from canfar_batch.text import printable, printable_lines

#: in the message of an eviction that the job could have avoided
USED_MORE_MEMORY = "it used more memory than it asked for"

_RAISED = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Warning)\b")
_PARTICULAR = re.compile(r"""'[^']*'|"[^"]*"|\S*[/\d]\S*""")  # names, paths and numbers, which differ from job to job


@attrs.frozen(kw_only=True)
class Failure:
    """One reason why an attempt did not succeed.

    Attributes:
        message: What happened, in words, with those of the platform or the job if there are any.
        inferred: True if the cause is only likely: it was inferred from the log, from events, or from silence, and
            there may be another explanation.
    """

    message: str = attrs.field(default="", converter=printable)
    inferred: bool = False

    #: the name of all failures of this kind in a report
    label: ClassVar[str] = "failed"
    #: True if the platform caused it, not the job, so that the same job may well succeed next time
    platform: ClassVar[bool] = False

    @property
    def kind(self) -> str:
        """The name of the class, which the ledger stores: `"OutOfMemory"`."""
        return type(self).__name__

    @property
    def cause(self) -> str:
        """The text by which a report groups failures: `"out of memory"`, `"exit code 2"`."""
        return self.label

    @property
    def group(self) -> str:
        """The group in which failures are counted: the cause, and if it is a broad one, the kind of the message.

        Exit code 1 may be a missing file in one job and a division by zero in the next. Names, paths and numbers in a
        message make no difference.
        """
        if not isinstance(self, (ExitCode, LaunchRefused, StartError, Unknown)):
            return self.cause
        raised = _RAISED.match(self.message)
        kind = raised[0] if raised else _PARTICULAR.sub("…", self.message)
        return f"{self.cause}: {kind[:200]}"

    @property
    def headline(self) -> str:
        """The first line of the message; only an exception's has more."""
        return self.message.partition("\n")[0]

    def __str__(self) -> str:
        return f"{self.cause}: {self.message}" if self.message else self.cause

    def to_json(self) -> dict[str, Any]:
        """Return the values that the ledger stores; `from_json` reads them back."""
        return {"kind": self.kind, **attrs.asdict(self)}


@attrs.frozen(kw_only=True)
class ExitCode(Failure):
    """The job's own command ended with a code other than 0; 128 + n means that signal n ended it.

    Exit codes are 0 to 255: the system cuts larger ones off, so `sys.exit(256)` is 0, a success.
    """

    code: int = attrs.field(kw_only=False)

    @property
    def cause(self) -> str:
        """The text by which a report groups failures: `"exit code 2"`."""
        return f"exit code {self.code}"


@attrs.frozen(kw_only=True)
class Raised(ExitCode):
    """The Python function that the job called raised an exception.

    Attributes:
        message: The exception in a line, as `ValueError: bad width`, and below it the traceback.
    """

    label = "exception"
    message: str = attrs.field(default="", converter=printable_lines)

    @property
    def cause(self) -> str:
        """The text by which a report groups failures: the exception's type, `"ValueError"`."""
        return self.headline.partition(":")[0] or super().cause

    @property
    def group(self) -> str:
        """The group in which failures are counted: the exception's type."""
        return self.cause

    def __str__(self) -> str:
        return self.headline


@attrs.frozen(kw_only=True)
class OutOfMemory(Failure):
    """The kernel killed a process of the job for lack of memory; the receipt reports it."""

    label = "out of memory"


@attrs.frozen(kw_only=True)
class Killed(Failure):
    """The job began and was killed without a report; the likely cause is that it used more memory than it asked for.

    Newer versions of Kubernetes kill every process of a container that runs out of memory, so there is no receipt.
    """

    label = "killed"


@attrs.frozen(kw_only=True)
class TimedOut(Failure):
    """The job ran longer than its `timeout` and was stopped."""

    label = "timed out"


@attrs.frozen(kw_only=True)
class StartError(Failure):
    """The container could not start the command: no shell, no base64, no such working directory."""

    label = "could not start"


@attrs.frozen(kw_only=True)
class ImagePull(Failure):
    """The container image could not be fetched."""

    label = "image not pulled"
    platform = True


@attrs.frozen(kw_only=True)
class StuckPending(Failure):
    """The job waited longer than its `pending_timeout` and was not started."""

    label = "stuck pending"
    platform = True


@attrs.frozen(kw_only=True)
class Evicted(Failure):
    """The platform removed the job: node lost, pre-empted, evicted."""

    label = "evicted"
    platform = True


@attrs.frozen(kw_only=True)
class Interrupted(Evicted):
    """The job ended with the local platform that its session had started, for instance because of Ctrl-C.

    `Retry` launches it again and does not count the attempt.
    """

    label = "interrupted"


@attrs.frozen(kw_only=True)
class DiskFull(Failure):
    """The job filled a disk, or its share of one."""

    label = "disk full"


@attrs.frozen(kw_only=True)
class DeadlineExceeded(Failure):
    """The job reached the platform's own time limit: 14 days for headless jobs (skaha, launch template)."""

    label = "platform deadline"


@attrs.frozen(kw_only=True)
class ChildKilled(Failure):
    """A process of the job was killed for lack of memory, and the command ended with 0 all the same.

    By default the job is a success with a warning; `Retry(classes=ChildKilled)` launches it again, with more memory if
    `grow_ram` says so.
    """

    label = "child killed for memory"


@attrs.frozen(kw_only=True)
class Deleted(Failure):
    """Somebody else deleted the job: the platform's portal, another client, an administrator.

    The platform forgot it while it should still have known it.
    """

    label = "deleted by somebody else"


@attrs.frozen(kw_only=True)
class Lost(Failure):
    """The platform never showed the job after its launch was accepted, and nothing says how it ended."""

    label = "lost"
    platform = True


@attrs.frozen(kw_only=True)
class Unwatched(Failure):
    """The job ended while no driver was running, longer ago than the platform remembers, and left no receipt."""

    label = "ended unwatched"


@attrs.frozen(kw_only=True)
class MissingOutput(Failure):
    """The command ended with exit code 0, but a declared output was not there.

    Attributes:
        missing: The outputs that were not found, as declared.
    """

    missing: tuple[str, ...] = ()

    label = "missing output"


@attrs.frozen(kw_only=True)
class LaunchRefused(Failure):
    """The platform did not accept the job.

    Attributes:
        again: False if the same request would be refused again.
    """

    again: bool = False

    label = "launch refused"


@attrs.frozen(kw_only=True)
class NotBegun(Failure):
    """The container of a bundle ended before the job's turn came, so that nothing of it has run.

    Such a job is launched again, whatever the retry policy.
    """

    label = "not begun"
    platform = True


@attrs.frozen(kw_only=True)
class Unknown(Failure):
    """The platform reports that the job failed; the reason is unknown."""

    label = "failed, cause unknown"


KINDS: Mapping[str, type[Failure]] = {
    kind.__name__: kind
    for kind in (
        ExitCode, Raised, OutOfMemory, ChildKilled, Killed, TimedOut, StartError, ImagePull, StuckPending, Evicted,
        Interrupted, DiskFull, DeadlineExceeded, Deleted, Lost, Unwatched, MissingOutput, LaunchRefused, NotBegun,
        Unknown,
    )
}  # fmt: skip


def from_json(data: Mapping[str, Any]) -> Failure:
    """Return the failure that `Failure.to_json` stored; a kind that this version does not know becomes `Unknown`."""
    values = dict(data)
    kind = KINDS.get(values.pop("kind", ""))
    if kind is None:
        return Unknown(message=str(data.get("message", "")), inferred=True)
    if "missing" in values:
        values["missing"] = tuple(values["missing"])
    return kind(**values)
