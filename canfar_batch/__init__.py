"""Batch jobs on the CANFAR Science Platform: launch thousands, follow them, retry, collect results.

```python
import canfar_batch as cb

with cb.Session.connect() as session:
    job = session.launch("python fit.py 7", image="skaha/astroml:latest", cores=2, ram=4)
    print(job.wait().raise_if_failed().logs())
```

The names below are all that a script needs. Each is imported when it is first used, so that importing the package is
fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from canfar_batch._version import __version__

if TYPE_CHECKING:
    from canfar_batch import errors as errors
    from canfar_batch import failures as failures
    from canfar_batch.batch import Batch as Batch
    from canfar_batch.batch import batches as batches
    from canfar_batch.batch import open as open  # noqa: A004 (read as canfar_batch.open)
    from canfar_batch.errors import BatchBusy as BatchBusy
    from canfar_batch.errors import BatchFailed as BatchFailed
    from canfar_batch.errors import BatchPaused as BatchPaused
    from canfar_batch.errors import CanfarBatchError as CanfarBatchError
    from canfar_batch.errors import CollectError as CollectError
    from canfar_batch.errors import CredentialError as CredentialError
    from canfar_batch.errors import Detached as Detached
    from canfar_batch.errors import HomeError as HomeError
    from canfar_batch.errors import JobFailed as JobFailed
    from canfar_batch.errors import JobNotFound as JobNotFound
    from canfar_batch.errors import LaunchInDoubt as LaunchInDoubt
    from canfar_batch.errors import NotDriven as NotDriven
    from canfar_batch.errors import PlanError as PlanError
    from canfar_batch.errors import PlatformError as PlatformError
    from canfar_batch.errors import SpecChanged as SpecChanged
    from canfar_batch.errors import SpecError as SpecError
    from canfar_batch.errors import StrategyError as StrategyError
    from canfar_batch.errors import UnknownBatch as UnknownBatch
    from canfar_batch.errors import UnknownJob as UnknownJob
    from canfar_batch.errors import WaitTimeout as WaitTimeout
    from canfar_batch.functions import Function as Function
    from canfar_batch.job import Job as Job
    from canfar_batch.local import LocalPlatform as LocalPlatform
    from canfar_batch.records import JobState as JobState
    from canfar_batch.session import Session as Session
    from canfar_batch.spec import JobSpec as JobSpec
    from canfar_batch.spec import Secret as Secret
    from canfar_batch.storage import Inputs as Inputs
    from canfar_batch.strategies import ANY as ANY
    from canfar_batch.strategies import Adaptive as Adaptive
    from canfar_batch.strategies import AtOnce as AtOnce
    from canfar_batch.strategies import Bundle as Bundle
    from canfar_batch.strategies import Chunks as Chunks
    from canfar_batch.strategies import Files as Files
    from canfar_batch.strategies import Json as Json
    from canfar_batch.strategies import LastLine as LastLine
    from canfar_batch.strategies import Listing as Listing
    from canfar_batch.strategies import Logs as Logs
    from canfar_batch.strategies import OneByOne as OneByOne
    from canfar_batch.strategies import Retry as Retry
    from canfar_batch.strategies import Returned as Returned
    from canfar_batch.strategies import Serial as Serial
    from canfar_batch.strategies import Throttle as Throttle
    from canfar_batch.strategies import Window as Window
    from canfar_batch.strategies import never as never
    from canfar_batch.views.report import Report as Report

_NAMES = {
    "batch": ("Batch", "batches", "open"),
    "errors": (
        "BatchBusy", "BatchFailed", "BatchPaused", "CanfarBatchError", "CollectError", "CredentialError", "Detached",
        "HomeError", "JobFailed", "JobNotFound", "LaunchInDoubt", "NotDriven", "PlanError", "PlatformError",
        "SpecChanged", "SpecError", "StrategyError", "UnknownBatch", "UnknownJob", "WaitTimeout",
    ),
    "functions": ("Function",),
    "job": ("Job",),
    "local": ("LocalPlatform",),
    "records": ("JobState",),
    "session": ("Session",),
    "spec": ("JobSpec", "Secret"),
    "storage": ("Inputs",),
    "strategies": (
        "ANY", "Adaptive", "AtOnce", "Bundle", "Chunks", "Files", "Json", "LastLine", "Listing", "Logs", "OneByOne",
        "Retry", "Returned", "Serial", "Throttle", "Window", "never",
    ),
    "views.report": ("Report",),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}
_SUBMODULES = ("errors", "failures")

__all__ = [
    "ANY",
    "Adaptive",
    "AtOnce",
    "Batch",
    "BatchBusy",
    "BatchFailed",
    "BatchPaused",
    "Bundle",
    "CanfarBatchError",
    "Chunks",
    "CollectError",
    "CredentialError",
    "Detached",
    "Files",
    "Function",
    "HomeError",
    "Inputs",
    "Job",
    "JobFailed",
    "JobNotFound",
    "JobSpec",
    "JobState",
    "Json",
    "LastLine",
    "LaunchInDoubt",
    "Listing",
    "LocalPlatform",
    "Logs",
    "NotDriven",
    "OneByOne",
    "PlanError",
    "PlatformError",
    "Report",
    "Retry",
    "Returned",
    "Secret",
    "Serial",
    "Session",
    "SpecChanged",
    "SpecError",
    "StrategyError",
    "Throttle",
    "UnknownBatch",
    "UnknownJob",
    "WaitTimeout",
    "Window",
    "__version__",
    "batches",
    "errors",
    "failures",
    "never",
    "open",
]


if not TYPE_CHECKING:  # otherwise a type checker would accept every misspelt name

    def __getattr__(name: str) -> Any:
        if name in _SUBMODULES:
            return import_module(f"{__name__}.{name}")
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
