"""Whatever bytes reach a parser, it answers in bounded time, fails with errors of its own, and invents no success.

pytest tests/property/test_parsers.py            # a few examples each
pytest -m soak tests/property/test_parsers.py    # ten thousand each
"""

import base64
import contextlib
import functools
import json
import sqlite3
import tempfile
import time
from pathlib import Path

import ledgers
import pytest
from fakes import FakeClock
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from canfar_batch import errors
from canfar_batch.engine.cluster_events import Events
from canfar_batch.engine.log_reasons import telling_line
from canfar_batch.payload.calls import Outcome, OutcomeLines
from canfar_batch.payload.receipts import parse_receipt, split_log
from canfar_batch.payload.wrapper import MARK
from canfar_batch.records import JobState, Phase
from canfar_batch.rest import canfar_login, wire
from canfar_batch.rest.answers import Answer
from canfar_batch.rest.certificates import pem_expiry
from canfar_batch.rest.rows import parse_phase
from canfar_batch.rest.vospace import VOSpace
from canfar_batch.store import schema
from canfar_batch.store.home import Home
from canfar_batch.store.ledger import Ledger

FEW, MANY = 20, 10_000  #: examples of each parser
SECONDS = 2.0  #: of the processor, for what is at most a few times as long as a sample
NAME = "b-fit-7-x1y2z3ab-1-1"

ROW = {
    "id": "abcd1234", "userid": "me", "image": "images.canfar.net/skaha/astroml:24", "type": "headless",
    "status": "Failed", "name": NAME, "startTime": "2026-11-22T12:00:00Z", "expiryTime": "2026-12-06T12:00:00Z",
    "requestedRAM": "4G", "requestedCPUCores": "2", "requestedGPUCores": "0", "ramInUse": "<none>",
}  # fmt: skip
OUTPUTS = base64.b64encode(b"f100@1795349317 a.fits\0n1 *.fits\0").decode()
FACTS = "key=k attempt=1 id=abcd1234 host=n started=1795348800.000000 workdir=own"
LOG = (
    f"working\n{MARK} {NAME} start {FACTS} #{NAME}\nworking\n{MARK} {NAME} outputs {OUTPUTS} #{NAME}\n"
    f"{MARK} {NAME} end {FACTS} finished=1795348900.5 code=3 cpu0=1 cpu=2us oom0=0 oom=0 peak=100 limit=200 quota=1 "
    f"period=2 told= late= trouble= outputs=1 #{NAME}\n"
)
EVENTS = (
    f"{'TYPE':9}{'REASON':18}{'MESSAGE':40}{'FIRST-TIME':23}LAST-TIME\n"
    f"{'Warning':9}{'FailedScheduling':18}{'0/5 nodes are available':40}{'<nil>':23}<nil>\n"
)
LIMITS = {
    "cores": {"default": 1, "options": [1, 2]}, "memoryGB": {"default": 4, "options": [4, 8]}, "gpus": {"options": [1]},
    "maxInteractiveSessions": "3",
}  # fmt: skip
NODE = """<?xml version="1.0"?><vos:node xmlns:vos="http://www.ivoa.net/xml/VOSpace/v2.0"
 xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" uri="vos://cadc.nrc.ca~arc/home/me/a.fits"
 xsi:type="vos:DataNode"><vos:properties><vos:property uri="ivo://ivoa.net/vospace/core#length">12</vos:property>
 <vos:property uri="ivo://ivoa.net/vospace/core#MD5">d41d8cd98f00b204e9800998ecf8427e</vos:property></vos:properties>
 </vos:node>"""
LOGIN = """version: 1
active: {authentication: cadc, server: canfar}
authentication:
  cadc: {mode: oidc, path: null, token: {access: x, refresh: y}, expiry: {access: 1795348800}}
servers:
  canfar: {idp: cadc, url: https://ws-uv.canfar.net/skaha, version: v1}
registry: {url: https://images.canfar.net, username: me, secret: s}
"""
OUTCOME = b'{"name": "f", "launch": "x", "returned": true, "sha256": "%s"}\nabc'


def answer(body, kind="application/json", status=200):
    return Answer(status=status, headers={"content-type": kind}, body=body)


def containers(body):
    for container in wire.read_containers(answer(body)):
        if container.phase is Phase.COMPLETED:
            assert b"ompleted" in body or b"OMPLETED" in body or b"ucceeded" in body or b"UCCEEDED" in body
        assert "\x1b" not in repr(container)


def receipts(body):
    own, _start, end = split_log(body, NAME)
    if end is not None and end["exit_code"] == 0:
        # a line with the launch's name at both ends, of which something said so
        assert f"{MARK} {NAME} end ".encode() in body
        assert b"code=0" in body
    assert len(own) <= len(body)
    parse_receipt(body)


def events(body):
    table = wire.read_events(answer(body, "text/plain"), "abcd1234")
    Events.read(table)


def login(body):
    with tempfile.TemporaryDirectory() as home:
        file = Path(home) / ".canfar" / "config.yaml"
        file.parent.mkdir()
        file.write_bytes(body)
        found = canfar_login.read_login(Path(home), {})
    assert found is not None


class Told:
    """A transport to a storage service that answers with these bytes."""

    url = "https://host/arc"

    def __init__(self, body):
        self.body = body

    def ask(self, method, place, query, *, read, **more):
        return read(answer(self.body, "text/xml"))


def node(body):
    found = VOSpace(Told(body)).find("/home/me/a.fits")
    assert found.size >= 0
    assert found.path == "/home/me/a.fits"


def status_word(body):
    phase = parse_phase(body.decode("utf-8", "replace"))
    if phase is Phase.COMPLETED:
        assert body.strip().lower().startswith((b"complete", b"succeeded"))


def outcome_lines(body):
    lines = OutcomeLines()
    for line in body.decode("utf-8", "replace").splitlines():
        lines.take(line)


def outcome(body):
    assert Outcome.read(body) is None  # the digest of the sample is not that of its body


OURS = (errors.CanfarBatchError,)
#: by name: the parser, the errors that it may raise, and a sample
PARSERS = {
    "lists": (containers, OURS, json.dumps([ROW, {**ROW, "id": "wxyz5678", "status": "Running"}]).encode()),
    "one container": (
        lambda body: wire.read_container(answer(body), "abcd1234"), OURS, json.dumps(ROW).encode(),
    ),
    "launch answers": (lambda body: wire.read_launch(answer(body, "text/plain"), NAME), OURS, b"abcd1234\n"),
    "limits": (lambda body: wire.read_limits(answer(body)), OURS, json.dumps(LIMITS).encode()),
    "images": (
        lambda body: wire.read_images(answer(body)), OURS, b'[{"id": "h/p/i:1", "types": ["headless"]}]',
    ),
    "statistics": (lambda body: wire.read_stats(answer(body)), OURS, b'{"cores": {"requestedCPUCores": 1.0}}'),
    "errors": (
        lambda body: wire.read_containers(answer(body, "text/html", 500)), OURS, b"<html><body><p>unexpected</p>",
    ),
    "logs with receipts": (receipts, (), LOG.encode()),
    "events": (events, OURS, EVENTS.encode()),
    "telling lines": (telling_line, (), LOG.encode()),
    "status words": (status_word, (), b"Completed"),
    "login files": (login, OURS, LOGIN.encode()),
    "storage documents": (node, OURS, NODE.encode()),
    "certificates": (
        pem_expiry, (ValueError,), b"-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIUQ\n-----END CERTIFICATE-----\n",
    ),
    "outcomes in logs": (outcome_lines, (), b"outcome 1/2 YWJj\noutcome 2/2 ZGVm\n"),
    "outcomes in files": (outcome, (), OUTCOME),
}  # fmt: skip

#: pieces that have broken parsers before
NASTY = [
    b"\0", b"\x1b]0;x\x07", b"\xff\xfe", b"\r\n", b"\n", b" ", b"=", b"#", b"&#x1b;", b"<!ENTITY a 'b'>", b"&a;",
    b"NaN", b"Infinity", b"1e999", b"-1", b"9" * 400, b"null", b"[]", b"{}", b"[" * 3000, b'{"a":' * 3000, b'"', b"'",
    b"\\u0000", b"\xf0\x9f\x98\x80", b"\xed\xa0\x80", b"../../etc/passwd", b"!!python/object/apply:os.system ['true']",
    b"&anchor *anchor", b"code=0", b"Completed", b"Succeeded", f"{MARK} {NAME} end ".encode(), MARK.encode(),
    "\u0661\u0662".encode(), "\u202e".encode(), b"2026-99-99T99:99:99Z", b"0001-01-01T00:00:00+14:00",
]  # fmt: skip


@st.composite
def damaged(draw, sample):
    """The sample with pieces left out, repeated, swapped or put in; or bytes that have nothing to do with it."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    body = sample
    for _ in range(draw(st.integers(1, 6))):
        begin = draw(st.integers(0, len(body)))
        end = draw(st.integers(begin, min(len(body), begin + 60)))
        piece = draw(st.sampled_from(NASTY) | st.binary(max_size=8) | st.just(b"") | st.just(body[begin:end] * 3))
        body = body[:begin] + piece + body[end:]
    return body


def check(parse, allowed, body):
    begun = time.process_time()
    with contextlib.suppress(*allowed):
        parse(body)
    assert time.process_time() - begun < SECONDS


def fuzz(name, examples):
    parse, allowed, sample = PARSERS[name]

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(damaged(sample))
    @example(sample)
    @example(b"")
    def run(body):
        check(parse, allowed, body)

    run()


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_takes_anything(name):
    fuzz(name, FEW)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_takes_anything_many_times(name):
    fuzz(name, MANY)


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("piece", [b"[", b"\n", b" ", b"<a>", MARK.encode(), b"\x1b", b"a: ", b"9", b"&"])
def test_a_long_input_takes_no_longer_than_its_length(name, piece):
    parse, allowed, sample = PARSERS[name]
    check(parse, allowed, sample + piece * (300_000 // len(piece)))


TABLES = (schema.META, schema.LEASE, schema.SPEC, schema.JOB, schema.ATTEMPT, schema.EVENT, schema.REQUEST)
#: by parser: what once broke it
BROKE = {
    "outcomes in files": b"[" * 100_000 + b"\n",  # RecursionError
    "login files": b"[" * 18_000,  # 40 s
}


@pytest.mark.parametrize("name", BROKE)
def test_what_once_broke_a_parser_does_not_do_so_again(name):
    check(*PARSERS[name][:2], BROKE[name])


COLUMNS = [(table.name, column) for table in TABLES for column in table.columns]


@functools.cache
def sound_ledger():
    """Return a ledger's file, and the states of its jobs."""
    with tempfile.TemporaryDirectory() as place:
        home = Home(Path(place) / "b")
        with contextlib.closing(Ledger.create(home, ledgers.IDENTITY, clock=FakeClock())) as book:
            book.acquire()
            book.plan([ledgers.record(n) for n in range(3)])
            ledgers.live(book, home)
            book.ask("cancel", ["j2"])
            book.release()
            return home.ledger.read_bytes(), {key: job.state for key, job in book.jobs.items()}


def open_torn(page, cut, kind, chance):
    """Read a ledger of which one page was written in part."""
    sound, states = sound_ledger()
    size = int.from_bytes(sound[16:18], "big")
    begin = page % (len(sound) // size) * size
    rest = {"zeros": bytes(size), "noise": chance.randbytes(size), "another page": sound[:size]}[kind]
    torn = sound[: begin + cut] + rest[cut:size] + sound[begin + size :]
    assert len(torn) == len(sound)
    with tempfile.TemporaryDirectory() as place:
        home = Home(Path(place) / "b")
        home.path.mkdir()
        home.ledger.write_bytes(torn)
        with (
            contextlib.suppress(errors.LedgerError, errors.HomeError, errors.UnknownBatch),
            contextlib.closing(ledgers.reopened(home, FakeClock())) as book,
        ):
            succeeded = {key for key, job in book.jobs.items() if job.state is JobState.SUCCEEDED}
            list(book.history())
            assert succeeded <= {key for key, state in states.items() if state is JobState.SUCCEEDED}


TORN = (st.integers(0, 99), st.integers(0, 1024), st.sampled_from(["zeros", "noise", "another page"]))


@settings(max_examples=FEW, deadline=None, suppress_health_check=list(HealthCheck))
@given(*TORN, st.randoms(use_true_random=False))
def test_a_torn_page_of_a_ledger_invents_no_success(page, cut, kind, chance):
    open_torn(page, cut, kind, chance)


@pytest.mark.soak
@settings(max_examples=3_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(*TORN, st.randoms(use_true_random=False))
def test_a_torn_page_of_a_ledger_invents_no_success_many_times(page, cut, kind, chance):
    open_torn(page, cut, kind, chance)


def ledger_with(column, value):
    """Read a ledger in which this value stands in a column of every row."""
    table, name = column
    sound, states = sound_ledger()
    with tempfile.TemporaryDirectory() as place:
        home = Home(Path(place) / "b")
        home.path.mkdir()
        home.ledger.write_bytes(sound)
        with contextlib.closing(sqlite3.connect(home.ledger)) as db:
            db.execute("PRAGMA synchronous = OFF")
            with contextlib.suppress(sqlite3.IntegrityError, OverflowError):  # refused by the table itself
                db.execute(f"UPDATE {table} SET {name} = ?", (value,))
                db.commit()
        with (
            contextlib.suppress(errors.LedgerError, errors.HomeError),
            contextlib.closing(ledgers.reopened(home, FakeClock())) as book,
        ):
            found = {key: job.state for key, job in book.jobs.items()}
            list(book.history())
            book.requests()
            if (table, name) not in (("job", "state"), ("job", "key")):
                succeeded = {key for key, state in found.items() if state is JobState.SUCCEEDED}
                assert succeeded <= {key for key, state in states.items() if state is JobState.SUCCEEDED}


VALUES = st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=40) | st.binary(max_size=40)


@settings(max_examples=FEW, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(COLUMNS), VALUES | st.sampled_from([piece.decode("latin-1") for piece in NASTY]))
def test_a_ledger_with_any_value_in_any_column_is_read_or_refused(column, value):
    ledger_with(column, value)


@pytest.mark.parametrize("moment", [67_768_036_191_676_796, 1e300, -1e17])
def test_a_ledger_with_a_time_that_no_calendar_has_is_refused_as_damaged(moment):
    ledger_with(("event", "at"), moment)
    ledger_with(("attempt", "intended_at"), moment)


@pytest.mark.parametrize("column", [("event", "body"), ("spec", "body"), ("job", "fields"), ("attempt", "receipt")])
def test_a_ledger_with_thousands_of_nested_lists_is_refused_as_damaged(column):
    ledger_with(column, "[" * 30_000)


@pytest.mark.soak
@settings(max_examples=2_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(COLUMNS), VALUES | st.sampled_from([piece.decode("latin-1") for piece in NASTY]))
def test_a_ledger_with_any_value_in_any_column_is_read_or_refused_many_times(column, value):
    ledger_with(column, value)
