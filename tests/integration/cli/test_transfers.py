"""Files go to the platform and come back."""

from __future__ import annotations

from pathlib import Path

import pytest
from integration.cli.conftest import Command

from canfar_batch.local import LocalPlatform


def test_files_go_to_the_platform_and_come_back(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/night1.fits").write_bytes(b"stars")
    with LocalPlatform() as platform:
        monkeypatch.setenv("CANFAR_TOKEN", platform.token)
        connection = ("--url", platform.url)
        assert command("upload", "raw", "/arc/projects/mine/raw", *connection).code == 0
        ended = command("download", "/arc/projects/mine/raw/*.fits", "back", "--json", *connection)
        missing = command("upload", "none", "/arc/projects/mine/", *connection)
    assert ended.json == {"path": "back"}
    assert (tmp_path / "back/night1.fits").read_bytes() == b"stars"
    assert (missing.code, missing.err) == (2, "canfar-batch: error: there is no file or folder none\n")
