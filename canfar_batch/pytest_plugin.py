"""A pytest plugin: a platform on this machine for each test, so that a pipeline is tested without CANFAR."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from canfar_batch.local import LocalPlatform
from canfar_batch.session import Session


@pytest.fixture
def canfar_platform_options() -> dict[str, Any]:
    """Arguments of the `LocalPlatform`; override this fixture to change them."""
    return {}


@pytest.fixture
def canfar_platform(
    canfar_platform_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[LocalPlatform]:
    """A platform that runs jobs on this machine, for the length of a test.

    `CANFAR_URL`, `CANFAR_TOKEN` and `CANFAR_BATCH_HOME` are set, so that code which calls `Session.connect()` itself
    finds it, and keeps its batches in the test's temporary directory. It accepts every image, and any job that asks for
    up to 16 cores and 192 GiB; what jobs really use is limited as on CANFAR.
    """
    defaults = {"cores": 16, "ram": 192, "strict_images": False, "metrics_delay": 0.0, "termination_grace": 1.0}
    with LocalPlatform(**{**defaults, **canfar_platform_options}) as platform:
        monkeypatch.setenv("CANFAR_URL", platform.url)
        monkeypatch.setenv("CANFAR_TOKEN", platform.token)
        monkeypatch.setenv("CANFAR_BATCH_HOME", str(tmp_path / "batches"))
        monkeypatch.delenv("CANFAR_CERTIFICATE", raising=False)
        yield platform


@pytest.fixture
def canfar_session(canfar_platform: LocalPlatform) -> Iterator[Session]:
    """A session with the platform of `canfar_platform`."""
    with Session.connect(canfar_platform.url, token=canfar_platform.token) as session:
        yield session
