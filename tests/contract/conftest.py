"""Two platforms in one role: in memory, and over REST on this machine."""

import time

import attrs
import pytest
from fakes import FakeClock, FakePlatform, Fate

from canfar_batch import LocalPlatform
from canfar_batch.protocols import Platform
from canfar_batch.records import LaunchRequest, Resources
from canfar_batch.rest import open_platform

IMAGE = "images.canfar.net/skaha/astroml:latest"
FORGET_AFTER = 0.5  #: seconds, for the tests that wait for it


def asking(name, cmd, args=None, resources=None):
    return LaunchRequest(name=name, image=IMAGE, resources=resources or Resources(), cmd=cmd, args=args)


class Scene:
    """A platform, and a way to let its time pass."""

    platform: Platform

    def quick(self, name="quick"):
        """A container that prints hello and succeeds."""
        return asking(name, "echo", "hello")

    def failing(self, name="failing"):
        """A container that fails."""
        return asking(name, "false")

    def lasting(self, name="lasting", resources=None):
        """A container that runs for longer than any test."""
        return asking(name, "sleep", "3600", resources)

    def eventually(self, condition):
        """Let time pass until *condition* is true, and return its value."""
        for _ in range(3000):
            if value := condition():
                return value
            self.pass_time()
        raise AssertionError("this never came true")

    def until(self, id, phase):
        """Return the container once it is in *phase*."""

        def there():
            info = self.platform.container(id)
            return info if info.phase is phase else None

        return self.eventually(there)


@attrs.define
class InMemory(Scene):
    """Time passes only if a test lets it."""

    clock: FakeClock = attrs.field(factory=FakeClock)
    held: bool = False
    forget_after: float = 3600.0
    platform: FakePlatform = attrs.field(init=False)

    def __attrs_post_init__(self):
        self.platform = FakePlatform(self.clock, self._fate, forget_after=self.forget_after)

    def _fate(self, request):
        lasts = 1e9 if request.cmd == "sleep" else 0.2
        says = b"hello\n" if request.cmd == "echo" else b""
        code = 1 if request.cmd == "false" else 0
        return Fate(queue=1e9 if self.held else 0.1, lasts=lasts, code=code, log=says, receipt=False)

    def pass_time(self):
        self.clock.sleep(0.05)

    def hold(self):
        self.held = True


@attrs.define
class OverRest(Scene):
    """Time passes by itself."""

    local: LocalPlatform
    platform: Platform = attrs.field(init=False)

    def __attrs_post_init__(self):
        self.platform = open_platform(self.local.url, token=self.local.token)

    def pass_time(self):
        time.sleep(0.02)

    def hold(self):
        self.local.hold()


@pytest.fixture(params=["in memory", "over REST"])
def scene_that(request):
    """Set the scene for a test, with a platform that forgets ended containers after *forget_after* seconds."""
    scenes = []

    def made(forget_after=3600.0):
        if request.param == "in memory":
            scenes.append(InMemory(forget_after=forget_after))
        else:
            local = LocalPlatform(cores=32, ram=128, termination_grace=0.5, forget_after=forget_after, stats=True)
            scenes.append(OverRest(local.start()))
        return scenes[-1]

    yield made
    for scene in scenes:
        if isinstance(scene, OverRest):
            scene.platform.close()
            scene.local.stop()


@pytest.fixture
def scene(scene_that):
    return scene_that()


@pytest.fixture
def platform(scene):
    return scene.platform
