"""Answers of a platform that go wrong by chance, and moments at which a driver dies."""

from __future__ import annotations

import contextlib
from unittest import mock

from canfar_batch import errors
from canfar_batch.store import database

LAUNCHES = ("lost", "late", "never", "not sent", "busy", "refused")
LISTS = ("error", "empty", "stale", "partial")
CALLS = ("error",)

LATEST = 80.0  #: seconds after which a launch without an answer may still make its container: within the settle time
HIDDEN = 60.0  #: seconds for which lists may leave a container out, or be old


class Killed(BaseException):
    """The driver was killed."""


class Points:
    """Moments at which a driver may be killed: before and after each request, and each commit of its ledger."""

    def __init__(self):
        self.left = None  #: how many are passed alive; None for all

    def __call__(self, what):
        if self.left is None:
            return
        self.left -= 1
        if self.left < 0:  # and at all points that follow: a dead process does nothing more
            raise Killed(what)

    @contextlib.contextmanager
    def in_ledgers(self):
        """Pass a point before and after each commit of a ledger."""
        commit = database.commit

        def watched(db):
            self("before a commit")
            commit(db)
            self("after a commit")

        with mock.patch.object(database, "commit", watched):
            yield


class Trouble:
    """What goes wrong between a driver and the simulated platform that this class is mixed into.

    It draws from *rng* with what probability an answer is as it should be (*calm*), and during which times the whole
    platform is out of order (*outages*: the beginning, the end, and how).
    """

    calm = 1.0
    outages = ()
    quiet = False  #: whether all trouble has ended

    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        self.points = Points()
        self.late = []  #: when a container is made whose launch got no answer, and its request
        self.stale, self.hidden = (0.0, []), {}
        self.shown = self.distort

    def draw(self, kinds):
        if self.quiet or self.rng.random() < self.calm:
            return "ok"
        self.troubles += 1
        return self.rng.choice(kinds)

    def happen(self):
        now = self.clock.ticks()
        due = [entry for entry in self.late if entry[0] <= now]
        self.late = [entry for entry in self.late if entry[0] > now]
        for _, request in due:
            self.make(request)
        super().happen()

    def out_of_order(self):
        """Raise if the whole platform is out of order."""
        now = self.clock.ticks()
        for begin, end, how in () if self.quiet else self.outages:
            if begin <= now < end:
                self.troubles += 1
                raise {
                    "broken": errors.PlatformBroken("a proxy's page"),
                    "unreachable": errors.PlatformUnreachable("no route"),
                    "busy": errors.PlatformBusy("not now", retry_after=30.0),
                    "credential": errors.CredentialRefused("expired", status=401),
                }[how]

    # -- requests

    def launch(self, request):
        self.happen()
        self.note_owner(request.name)
        self.points("before a launch")
        if any(begin <= self.clock.ticks() < end and how == "broken" for begin, end, how in self.outages):
            raise errors.LaunchInDoubt("a proxy's page", launch_name=request.name)
        self.out_of_order()
        kind = self.draw(LAUNCHES)
        if kind == "not sent":
            raise errors.NotSent("no route")
        if kind == "busy":
            raise errors.PlatformBusy("not now", retry_after=self.rng.choice((None, 40.0)))
        if kind == "refused":
            raise errors.PlatformRefused("never", status=400)
        if kind == "late":
            self.late.append((self.clock.ticks() + self.rng.uniform(1, LATEST), request))
        if kind in ("ok", "lost"):
            id = super().launch(request)
        if kind != "ok":
            raise errors.LaunchInDoubt("no answer", launch_name=request.name)
        self.points("after a launch")
        return id

    def containers(self, kind=None):
        return self.asked(super().containers)

    def distort(self, infos):
        """Return the list as it is shown to the driver: no container is left out for long."""
        kind, now = self.draw(LISTS), self.clock.ticks()
        if kind == "error":
            raise errors.PlatformBroken("a proxy's page")
        since, old = self.stale
        shown = {"empty": [], "stale": old if now - since < HIDDEN else infos, "partial": infos[::2]}.get(kind, infos)
        self.stale = now, infos
        there = {info.id for info in shown}
        self.hidden = {info.id: self.hidden.get(info.id, now) for info in infos if info.id not in there}
        return [*shown, *(info for info in infos if now - self.hidden.get(info.id, now) > HIDDEN)]

    def container(self, id):
        return self.asked(super().container, id)

    def logs(self, id):
        return self.asked(super().logs, id)

    def events(self, id):
        return self.asked(super().events, id)

    def cancel(self, id):
        self.note_cancel(id)
        return self.asked(super().cancel, id)

    def asked(self, call, *given):
        self.happen()
        self.points(f"before {call.__name__}")
        self.out_of_order()
        if call.__name__ != "containers" and self.draw(CALLS) == "error":
            raise errors.PlatformBroken("not now")
        answer = call(*given)
        self.points(f"after {call.__name__}")
        return answer
