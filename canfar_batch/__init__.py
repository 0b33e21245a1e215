"""Batch jobs on the CANFAR Science Platform: launch thousands, follow them, retry what deserves it, gather results.

```python
import canfar_batch as cb

with cb.Session.connect() as session:
    job = session.launch("python fit.py 7", image="skaha/astroml:latest", cores=2, ram=4)
    print(job.wait().raise_if_failed().logs())
```

The names below are all that a script needs. They are fetched when first used, so that importing the package costs
next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from canfar_batch import errors as errors
    from canfar_batch import failures as failures
    from canfar_batch.job import Job as Job
    from canfar_batch.local import LocalPlatform as LocalPlatform
    from canfar_batch.records import JobState as JobState
    from canfar_batch.session import Session as Session
    from canfar_batch.spec import JobSpec as JobSpec

__version__ = "0.1.0"

_HOMES = {
    "Job": "job",
    "JobSpec": "spec",
    "JobState": "records",
    "LocalPlatform": "local",
    "Session": "session",
    "errors": "",
    "failures": "",
}

__all__ = ["Job", "JobSpec", "JobState", "LocalPlatform", "Session", "__version__", "errors", "failures"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES[name]
    value = getattr(import_module(f"{__name__}.{home}"), name) if home else import_module(f"{__name__}.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
