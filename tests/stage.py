"""A batch on a local platform whose jobs meet what happens in a cluster, at a fraction of the real times.

Its containers see the batch's home, or do not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from waiting import until

import canfar_batch as cb
from canfar_batch.local import LocalPlatform
from canfar_batch.rest import open_platform

IMAGE = "skaha/astroml:latest"
PATIENCE = 60.0  #: seconds until a condition counts as one that never comes
GRACE = 0.8  #: seconds from SIGTERM to SIGKILL

#: each run leaves a line; a second attempt notes whether the first still runs, and ends at once
BEGIN = """
me={trace}/{key}
attempt=$CANFAR_BATCH_ATTEMPT
[ "$attempt" ] || attempt=1
state() { cut -d " " -f 3,22 /proc/$1/stat 2>/dev/null; }  # how it is, and when it began: numbers are used again
born=$(state $$)
echo "$attempt $$ ${{born#* }}" >>$me
if [ "$attempt" != 1 ]; then
  read -r first pid born <$me
  case "$first $(state $pid)" in "1 "[RSD]" $born") echo both >>$me ;; esac  # not a zombie
  touch out.{key}
  exit 0
fi
runs=$(grep -c . $me)
echo up
"""
PLAIN = "exec sleep 60"
SAVES = "trap 'echo saved; exit 0' TERM\nsleep 60 & wait; echo finished"
SAVES_LATE = "trap 'sleep 0.5; echo saved; exit 0' TERM\nsleep 60 & wait; echo finished"
ENDS_LATE = "trap 'sleep 0.5; exit 9' TERM\nsleep 60 & wait"
DEAF = "trap '' TERM\nsleep 60"
UNTIL_GO = "until [ -e $me.go ]; do sleep 0.05; done; echo end; "


class Stage:
    """A platform, and a batch whose jobs meet something on it."""

    def __init__(self, place: Path, name: str, *, visible: bool, retry: Any, **settings: Any) -> None:
        self.visible, self.place = visible, place / f"{name}-{visible}"
        self.trace = self.place / "trace"
        self.trace.mkdir(parents=True)
        usual = {"cores": 64, "ram": 256, "termination_grace": GRACE}
        self.platform = LocalPlatform(**{**usual, **settings.pop("platform", {})}).start()
        self.situations = self.platform.situations
        self._settings, self._name, self._retry = settings, name, retry
        self.session = self.connect()
        self.batch = self.open()
        self.prepared: dict[str, Any] = {}  #: situations that stand before the batch runs, by key
        self.notes: dict[str, Any] = {}

    def connect(self) -> cb.Session:
        link = open_platform(self.platform.url, token=self.platform.token)
        return cb.Session(link, **{"settle": 0.4, "grace": 3.0, **self._settings})

    def open(self) -> cb.Batch:
        batch = self.session.batch(
            self._name, home=self.place / "homes", launch=cb.AtOnce(), monitor=cb.Listing(every=(0.1, 0.2)),
            retry=self._retry,
        )  # fmt: skip
        if not self.visible:
            (Path(batch.home) / "token").write_text("that of another batch\n")
        return batch

    def add(self, key: str, script: str, **more: Any) -> None:
        """Plan a job; if the first line of its script sets a trap, that is done before the run is noted."""
        trap, _, rest = script.rpartition("TERM\n")
        first = f"{trap}TERM\n" if trap else ""
        spec = cb.JobSpec(
            ["sh", "-c", first + BEGIN + rest], image=IMAGE, workdir=str(self.place), **{"cores": 1, "ram": 1, **more}
        )
        self.batch.add(spec, key=key, trace=str(self.trace))

    def runs(self, key: str) -> list[str]:
        """The attempts of the runs that began, in their order."""
        path = self.trace / key
        return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []

    def began(self, key: str, runs: int = 1) -> None:
        """Wait until so many runs of a job have begun."""
        self.until(lambda: len(self.runs(key)) >= runs, f"{key} never began {runs} times: {self.runs(key)}")

    def until(self, condition: Callable[[], object], otherwise: object = "it never came true") -> None:
        until(condition, otherwise, within=PATIENCE)

    def seen(self, key: str, state: cb.JobState) -> None:
        """Wait until the batch knows that a job is in a state."""
        self.until(lambda: self.batch[key].state is state, f"{key} was never seen {state}")

    def go(self, key: str) -> None:
        """Let a job that waits for it go on."""
        (self.trace / f"{key}.go").touch()

    def find(self, key: str) -> Any:
        """The latest container of a job, as the platform has it."""
        id = self.batch[key].id
        return next((one for one in self.platform.jobs() if one.id == id), None)

    def status(self, key: str, *wanted: str) -> None:
        """Wait until the latest container of a job has one of these states."""
        self.until(lambda: (one := self.find(key)) is not None and one.status in wanted, f"{key} never was {wanted}")

    def run(self, plays: dict[str, Callable[[Stage, str], None]]) -> Stage:
        """Run the batch to its end while each job meets what is played on it."""
        with ThreadPoolExecutor(len(plays) + 1) as pool:
            driver = pool.submit(self.batch.run, progress=False, timeout=PATIENCE)
            played = [pool.submit(play, self, key) for key, play in plays.items()]
            for one in played:
                one.result()
            self.report = driver.result()
        return self

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.batch.close()
        self.session.close()
        self.platform.stop()
