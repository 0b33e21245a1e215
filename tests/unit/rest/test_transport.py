"""How often, and after which pauses, a request is repeated; the network is a list of answers."""

import pytest

from canfar_batch import errors
from canfar_batch.rest import transport as module
from canfar_batch.rest.answers import Answer
from canfar_batch.rest.connections import Connections
from canfar_batch.rest.credentials import Token
from canfar_batch.rest.redaction import Secrets
from canfar_batch.rest.transport import Timeouts, Transport


class Line:
    """A network that gives these answers, and a clock that advances only by sleeping."""

    def __init__(self, monkeypatch, *answers, took=0.0, sleep=None, uniform=lambda low, high: high, **patience):
        self.answers, self.took = list(answers), took
        self.now, self.naps, self.asked = 0.0, [], 0
        monkeypatch.setattr(module, "exchange", self.exchange)
        secrets = Secrets()
        token = Token(lambda: "t0", source="token", remedy="", secrets=secrets)
        self.transport = Transport(
            "http://127.0.0.1:1", token, secrets, user_agent="x", timeouts=Timeouts(**patience),
            sleep=sleep or self.sleep, uniform=uniform, ticks=lambda: self.now,
        )  # fmt: skip

    def exchange(self, *_args, **_more):
        self.asked += 1
        self.now += self.took
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return Answer(status=answer, headers={}, body=b"")

    def sleep(self, seconds):
        self.naps.append(seconds)
        self.now += seconds

    def ask(self, **more):
        return self.transport.ask("GET", "/x", read=self.read, **more)

    @staticmethod
    def read(answer):
        if answer.status != 200:
            raise errors.PlatformBroken("broken", status=answer.status)
        return "fine"


def busy(seconds):
    return errors.PlatformBusy("busy", status=503, retry_after=seconds)


def test_pauses_grow_up_to_a_limit(monkeypatch):
    line = Line(monkeypatch, *[500] * 7, 200, attempts=8)
    assert line.ask() == "fine"
    assert line.naps == [0.5, 1, 2, 4, 8, 10, 10]


def test_pauses_are_drawn_between_zero_and_the_full_pause(monkeypatch):
    drawn = []
    line = Line(monkeypatch, 500, 200, uniform=lambda low, high: drawn.append((low, high)) or low)
    line.ask()
    assert drawn == [(0.0, 0.5)]
    assert line.naps == [0.0]


def test_four_attempts_are_made_by_default(monkeypatch):
    for attempts, made in ((None, 4), (1, 1)):
        line = Line(monkeypatch, *[errors.PlatformUnreachable("no")] * 9)
        with pytest.raises(errors.PlatformUnreachable):
            line.ask(attempts=attempts)
        assert line.asked == made


def test_no_attempt_begins_after_the_overall_time(monkeypatch):
    line = Line(monkeypatch, *[errors.PlatformUnreachable("no")] * 9, took=100.0, overall=240.0)
    with pytest.raises(errors.PlatformUnreachable):
        line.ask()
    assert line.asked == 3


def test_retry_after_is_kept_with_jitter_on_top(monkeypatch):
    line = Line(monkeypatch, busy(60.0), 200)
    assert line.ask() == "fine"
    assert line.naps == [60.5]


def test_longer_retry_after_is_left_to_the_caller(monkeypatch):
    line = Line(monkeypatch, busy(120.1), 200)
    with pytest.raises(errors.PlatformBusy) as caught:
        line.ask()
    assert caught.value.retry_after == 120.1
    assert line.asked == 1


@pytest.mark.parametrize(
    "error", [errors.PlatformRefused("no"), errors.JobNotFound("no"), errors.AccessDenied("no"),
              module.TooLarge("no"), module.Untrusted("no"), errors.PlatformBroken("no", status=302)],
)  # fmt: skip
def test_request_with_a_final_answer_is_not_repeated(error, monkeypatch):
    line = Line(monkeypatch, error, 200)
    with pytest.raises(type(error)):
        line.ask()
    assert line.asked == 1


def test_create_is_never_repeated(monkeypatch):
    for trouble, kind in (
        (errors.PlatformUnreachable("x"), errors.LaunchInDoubt),
        (module.TooLarge("x"), errors.LaunchInDoubt),
        (errors.NotSent("x"), errors.NotSent),
        (module.Untrusted("x"), errors.NotSent),
    ):
        line = Line(monkeypatch, trouble, 200)
        with pytest.raises(kind):
            line.transport.create("/session", b"", {}, launch_name="n")
        assert line.asked == 1


def test_interrupt_is_not_swallowed(monkeypatch):
    def interrupt(_seconds):
        raise KeyboardInterrupt

    line = Line(monkeypatch, 500, sleep=interrupt)
    with pytest.raises(KeyboardInterrupt):
        line.ask()


def test_connections_are_kept_for_questions_and_new_for_creates():
    connections = Connections("http://127.0.0.1:1", None)
    assert connections.manager(None, fresh=False) is connections.manager(None, fresh=False)
    assert connections.manager(None, fresh=True) is not connections.manager(None, fresh=True)


def test_child_of_a_fork_does_not_share_connections(monkeypatch):
    connections = Connections("http://127.0.0.1:1", None)
    mine = connections.manager(None, fresh=False)
    monkeypatch.setattr("canfar_batch.rest.connections.os.getpid", lambda: -1)
    assert connections.manager(None, fresh=False) is not mine
