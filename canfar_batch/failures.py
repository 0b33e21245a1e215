"""Why an attempt failed: one small class per cause, from the user's own exit code to a platform that forgot.

A failure is a frozen value that the ledger keeps. Retry policies look at its class, people at its message.

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

_RAISED = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Warning)\b")
_PARTICULAR = re.compile(r"""'[^']*'|"[^"]*"|\S*[/\d]\S*""")  # names, paths and numbers, which differ from job to job


@attrs.frozen(kw_only=True)
class Failure:
    """One reason why an attempt did not succeed.

    Attributes:
        message: What happened, in words for a person, with the platform's or the job's own words where there are any.
        inferred: True where no receipt said so: the cause was read from the log, from events, or from silence.
    """

    message: str = ""
    inferred: bool = False

    #: how a report calls all failures of this kind
    label: ClassVar[str] = "failed"
    #: True where the platform, not the job, is to blame, so that the same job may well succeed next time
    platform: ClassVar[bool] = False

    @property
    def kind(self) -> str:
        """The name of the class, as the ledger stores it: `"OutOfMemory"`."""
        return type(self).__name__

    @property
    def cause(self) -> str:
        """What a report groups by: `"out of memory"`, `"exit code 2"`."""
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

    def __str__(self) -> str:
        return f"{self.cause}: {self.message}" if self.message else self.cause

    def to_json(self) -> dict[str, Any]:
        """What the ledger stores; `from_json` reads it back."""
        return {"kind": self.kind, **attrs.asdict(self)}


@attrs.frozen(kw_only=True)
class ExitCode(Failure):
    """The job's own command ended with a code other than 0; 128 + n means that signal n ended it."""

    code: int = attrs.field(kw_only=False)

    @property
    def cause(self) -> str:
        """What a report groups by: `"exit code 2"`."""
        return f"exit code {self.code}"


@attrs.frozen(kw_only=True)
class OutOfMemory(Failure):
    """The kernel killed a process of the job for want of memory, and the receipt says so."""

    label = "out of memory"


@attrs.frozen(kw_only=True)
class Killed(Failure):
    """The job began and was ended from outside with no word; more memory used than asked is the likely cause.

    Newer Kubernetes kills every process of the container when memory runs out, so that no receipt can be written.
    """

    label = "killed"


@attrs.frozen(kw_only=True)
class TimedOut(Failure):
    """The job ran longer than its `timeout`, and was stopped for it."""

    label = "timed out"


@attrs.frozen(kw_only=True)
class StartError(Failure):
    """The container could not begin the command: no shell, no base64, no such working directory."""

    label = "could not start"


@attrs.frozen(kw_only=True)
class ImagePull(Failure):
    """The container image could not be fetched."""

    label = "image not pulled"
    platform = True


@attrs.frozen(kw_only=True)
class StuckPending(Failure):
    """The job waited longer than its `pending_timeout` and never began."""

    label = "stuck pending"
    platform = True


@attrs.frozen(kw_only=True)
class Evicted(Failure):
    """The platform took the job's place away: node lost, pre-empted, evicted."""

    label = "evicted"
    platform = True


@attrs.frozen(kw_only=True)
class DiskFull(Failure):
    """The job filled a disk, or its share of one."""

    label = "disk full"


@attrs.frozen(kw_only=True)
class DeadlineExceeded(Failure):
    """The platform's own limit on a job's life was reached: 14 days for headless jobs (skaha, launch template)."""

    label = "platform deadline"


@attrs.frozen(kw_only=True)
class Lost(Failure):
    """The platform stopped knowing the job while it was being watched, and nothing says how it ended."""

    label = "lost"
    platform = True


@attrs.frozen(kw_only=True)
class Unwatched(Failure):
    """The job ended while nobody looked, longer ago than the platform remembers, and left no receipt."""

    label = "ended unwatched"


@attrs.frozen(kw_only=True)
class MissingOutput(Failure):
    """The command reported success, but a declared output was not there.

    Attributes:
        missing: The outputs that were not found, as declared.
    """

    missing: tuple[str, ...] = ()

    label = "missing output"


@attrs.frozen(kw_only=True)
class LaunchRefused(Failure):
    """The platform did not take the job.

    Attributes:
        again: False where the same request would be refused again.
    """

    again: bool = False

    label = "launch refused"


@attrs.frozen(kw_only=True)
class Unknown(Failure):
    """The platform says that the job failed, and nothing says why."""

    label = "failed, cause unknown"


KINDS: Mapping[str, type[Failure]] = {
    kind.__name__: kind
    for kind in (
        ExitCode, OutOfMemory, Killed, TimedOut, StartError, ImagePull, StuckPending, Evicted, DiskFull,
        DeadlineExceeded, Lost, Unwatched, MissingOutput, LaunchRefused, Unknown,
    )
}  # fmt: skip


def from_json(data: Mapping[str, Any]) -> Failure:
    """The failure that `Failure.to_json` wrote; one of a kind that this version does not know becomes `Unknown`."""
    values = dict(data)
    kind = KINDS.get(values.pop("kind", ""))
    if kind is None:
        return Unknown(message=str(data.get("message", "")), inferred=True)
    if "missing" in values:
        values["missing"] = tuple(values["missing"])
    return kind(**values)
