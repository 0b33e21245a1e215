"""A platform on this machine for each test, and a session that is connected to it."""

import pytest

from canfar_batch import LocalPlatform, Session
from canfar_batch.rest import open_platform


@pytest.fixture
def away_from_home(monkeypatch, tmp_path):
    """An empty home and working directory, and no credential in the environment."""
    for name in ("CANFAR_URL", "CANFAR_TOKEN", "CANFAR_CERTIFICATE", "CANFAR_BATCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def local_platform(away_from_home):
    """Start platforms that stop with the test."""
    platforms = []

    def started(**settings):
        platforms.append(
            LocalPlatform(**{"cores": 16, "ram": 64, "termination_grace": 0.5, "stats": True, **settings}).start()
        )
        return platforms[-1]

    yield started
    for platform in platforms:
        platform.stop()


@pytest.fixture
def session_on():
    """Connect sessions that close with the test; a container that is absent for half a second counts as gone."""
    sessions = []

    def connected(platform, *, settle=0.5):
        sessions.append(Session(open_platform(platform.url, token=platform.token), settle=settle, grace=1.0))
        return sessions[-1]

    yield connected
    for session in sessions:
        session.close()
