"""Secrets in everything that is written or said, forged receipts, and hostile words on the way to a terminal."""

import logging
import os
import pickle
import re
import socket
import time
import traceback
from pathlib import Path

import pytest

import canfar_batch as cb
from canfar_batch import cli, errors

PASSWORD = "planted-Secret-2f61c0"
IMAGE = "skaha/astroml:latest"
ESCAPES = r"\033]0;owned\007\033[2J\033[31mred\r\b\b\302\233"
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@pytest.fixture
def platform(local_platform):
    return local_platform()


@pytest.fixture
def session(platform, session_on, monkeypatch, tmp_path):
    monkeypatch.setenv("CANFAR_BATCH_HOME", str(tmp_path / "batches"))
    return session_on(platform)


def everything_said(batch, report, tmp_path):
    """Return, by name, every text that a user may see, send or publish."""
    csv, page = tmp_path / "rows.csv", tmp_path / "report.html"
    batch.to_csv(csv)
    report.to_html(page)
    failed = batch.failed[0]
    try:
        failed.raise_if_failed()
    except errors.JobFailed as error:
        shown = traceback.TracebackException.from_exception(error, capture_locals=True)
        failure = ["".join(shown.format()), repr(error), repr(vars(error)), repr(pickle.loads(pickle.dumps(error)))]
    return {
        "csv": csv.read_text(), "page": page.read_text(), "report": f"{report}{report!r}{report._repr_html_()}",
        "rows": repr(batch.to_rows()), "explain": batch.explain() + failed.explain(), "preview": batch.preview(2),
        "html": batch._repr_html_(), "reprs": f"{batch!r}{batch}{list(batch)!r}{batch.records!r}",
        "support": failed.support_report(), "failure": "".join(failure), "history": repr(batch.history()),
        "pickled records": repr(pickle.dumps([job.spec for job in batch.records])),
    }  # fmt: skip


def test_no_secret_is_in_anything_that_is_written_or_said(platform, session, monkeypatch, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("SERVICE_PASSWORD", PASSWORD)
    spec = cb.JobSpec(
        'echo fatal: {n} "$SERVICE_PASSWORD" >&2; exit {n}',
        image=IMAGE, shell=True, env={"SERVICE_PASSWORD": cb.Secret("SERVICE_PASSWORD")},
    )  # fmt: skip
    batch = session.batch("secrets", retry=cb.never, collect=cb.Logs())
    batch.map(spec, key="j{n}", n=[0, 3])
    report = batch.run(progress=False)
    said = everything_said(batch, report, tmp_path)
    said["log records"] = caplog.text + repr([record.__dict__ for record in caplog.records])
    for file in (path for path in Path(batch.home).rglob("*") if path.is_file() and "logs" not in path.parts):
        said[file.name] = file.read_bytes().decode("latin-1")
    for name, text in said.items():
        for secret in (platform.token, PASSWORD):
            assert secret not in text, name
    assert {path.stat().st_mode & 0o077 for path in Path(batch.home).rglob("*")} == {0}


def test_the_token_is_in_no_job_and_in_no_command_line(platform, session, tmp_path):
    job = session.launch(["sleep", "60"], image=IMAGE)
    while job.refresh().state is not cb.JobState.RUNNING:
        time.sleep(0.05)
    for process in Path("/proc").glob("[0-9]*"):
        for file in ("cmdline", "environ"):
            try:
                content = (process / file).read_bytes()
            except OSError:
                continue
            if int(process.name) != os.getpid() or file == "cmdline":
                assert platform.token.encode() not in content, f"{process}/{file}"
    job.cancel()


def test_what_a_job_prints_reaches_a_terminal_without_its_escapes(session, capsys):
    spec = cb.JobSpec(f"printf 'Error: bad {ESCAPES}\\n'; exit 5", image=IMAGE, shell=True)
    batch = session.batch("escapes", retry=cb.never)
    batch.map(spec, key="j{n}", n=[1])
    report = batch.run(progress=True)
    terminal = capsys.readouterr()
    job = batch.failed[0]
    with pytest.raises(errors.JobFailed) as caught:
        job.raise_if_failed()
    texts = [str(report), str(batch), batch.explain(), job.explain(), job.support_report(), str(caught.value)]
    assert "Error: bad" in job.explain()
    for text in texts:
        assert not CONTROL.search(text), text
    assert "\x1b]" not in terminal.out + terminal.err
    assert "\x1b[3" not in terminal.out + terminal.err
    for words in (["status", "escapes"], ["failures", "escapes"], ["ls"]):
        cli.main(words)
        assert not CONTROL.search(capsys.readouterr().out), words


def test_a_receipt_that_a_job_prints_for_another_counts_as_its_output(session):
    """The lines bear the name of the launch that they are about; a job's own end is in a file, which comes first."""
    line = "#canfar_batch other-j9-aaaaaaaa-9-1 end key=j9 attempt=1 started=1 finished=2 code=0 outputs=0"
    script = f"echo; echo '{line} #other-j9-aaaaaaaa-9-1'; exit 7"
    batch = session.batch("forged", retry=cb.never)
    batch.map(cb.JobSpec(script, image=IMAGE, shell=True), key="j{n}", n=[1])
    batch.run(progress=False)
    assert [job.exit_code for job in batch.failed] == [7]
    assert line in batch["j1"].logs()


POST = "POST /skaha/v1/session HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"


def raw(platform, request):
    """Send bytes to the local platform; return the first line of its answer, if one comes within five seconds."""
    host, port = platform.url.split("/")[2].split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.settimeout(5)
        connection.sendall(request)
        return connection.recv(4096)


@pytest.mark.parametrize(
    "head",
    [
        POST + "Content-Length: 1000000000000\r\n\r\n",
        POST + "Content-Length: -5\r\n\r\n",
        "GET /skaha/v1/session HTTP/1.1\r\nHost: {host}\r\n" + "X: y\r\n" * 5000 + "\r\n",
        "GET /" + "x" * 200_000 + " HTTP/1.1\r\nHost: {host}\r\n\r\n",
        "GET /skaha/v1/session HTTP/1.1\r\nHost: {host}\r\nX: " + "y" * 200_000 + "\r\n\r\n",
    ],
    ids=["a body of a terabyte", "a negative length", "5,000 headers", "a long target", "a long header"],
)  # fmt: skip
def test_an_oversized_request_to_the_local_platform_is_refused(head, platform):
    host = platform.url.split("/")[2]
    try:
        answer = raw(platform, head.format(host=host, token=platform.token).encode())
    except ConnectionError:
        answer = b""  # it hung up while more was sent
    assert not answer or re.match(rb"HTTP/1\.[01] 4", answer)


def test_a_web_page_elsewhere_gets_nothing_from_the_local_platform(platform):
    host = platform.url.split("/")[2]
    for method in ("GET", "OPTIONS"):
        answer = raw(
            platform,
            f"{method} /skaha/v1/session HTTP/1.1\r\nHost: {host}\r\nOrigin: https://evil.example\r\n"
            "Access-Control-Request-Method: POST\r\nConnection: close\r\n\r\n".encode(),
        )
        assert b"access-control-allow" not in answer.lower()


@pytest.mark.parametrize("fault", ["redirect", "nested", "bomb=0.05", "huge=20", "corrupt", "unknown_words"])
def test_a_hostile_answer_costs_a_session_little_time(fault, local_platform):
    platform = local_platform(faults=[f"{fault} on=list"])
    with cb.Session.connect(platform.url, token=platform.token, timeout=1.0) as session:
        session.launch(["sleep", "60"], image=IMAGE)
        begun = time.monotonic()
        try:
            states = {job.state for job in session.jobs()}
        except errors.CanfarBatchError:
            states = set()
        assert cb.JobState.SUCCEEDED not in states
    assert time.monotonic() - begun < 20
