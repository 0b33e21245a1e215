"""What a production cluster does by itself: a quota, and interactive sessions that take the place of jobs.

`LocalPlatform(production=True)` has it, and `python -m canfar_batch.local --production`. A run with the same seed makes
the same choices; which job they meet depends on what runs at that time.
"""

from __future__ import annotations

import random

import attrs

from canfar_batch.local.cluster import Cluster
from canfar_batch.local.containers import Container

PULL = 1.2  #: seconds from a job's start time to its run
PENDING_AT_END = 0.9  #: seconds for which a job is Pending between its end and its final status
_TORN_CHANCE = 8 / 31  #: how often a suspended job is shown for a moment as Running without a start time
_TORN = 0.6  #: seconds of that at most


@attrs.frozen(kw_only=True)
class Production:
    """The habits of a production cluster. Times in seconds."""

    seed: int = 0
    every: tuple[float, float] = (15.0, 45.0)  #: between two interactive sessions, at least and at most
    lasts: tuple[float, float] = (4.0, 12.0)  #: how long such a session takes the place of jobs
    at_most: int = 2  #: how often one job loses its place, so that every job ends; a real cluster has no such limit
    admission: tuple[float, float] = (0.3, 1.3)  #: delay of an admission that is not immediate
    delayed: float = 1 / 8  #: share of the admissions that are delayed though there is room


class Visitors:
    """Interactive sessions that come now and then, and take the place of jobs."""

    def __init__(self, cluster: Cluster, habits: Production) -> None:
        self._cluster, self._habits = cluster, habits
        self._random = random.Random(habits.seed)  # noqa: S311 - repeatable, not secret

    def start(self) -> None:
        """Let them come from now on."""
        self._cluster.agenda.later(self._random.uniform(*self._habits.every), self._come)

    def admission_delay(self) -> float:
        """Return the seconds for which the next job is not admitted though there may be room."""
        if self._random.random() >= self._habits.delayed:
            return 0.0
        return self._random.uniform(*self._habits.admission)

    def _come(self) -> None:
        with self._cluster.changed:
            running = [one for one in self._cluster.running_containers() if one.runs <= self._habits.at_most]
            if running:
                latest_first = running[::-1]
                self._take_place(latest_first[: self._random.randint(1, len(running))])
        self.start()

    def _take_place(self, of: list[Container]) -> None:
        torn = {one: self._torn() for one in of}
        give_back = self._cluster.take_place(of, torn)
        self._cluster.agenda.later(self._random.uniform(*self._habits.lasts), give_back)

    def _torn(self) -> float:
        return self._random.uniform(0.1, _TORN) if self._random.random() < _TORN_CHANCE else 0.0
