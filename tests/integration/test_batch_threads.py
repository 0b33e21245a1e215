"""A batch on the local platform that is driven by one thread and read by another."""

import asyncio
import threading
import time

import attrs

from canfar_batch import JobSpec, Session

SPEC = JobSpec("echo {n}", image="skaha/astroml:latest", cores=1, ram=1)
JOBS = 20


def read_everything(batch):
    """Read *batch* in every way, and check that each answer is a snapshot."""
    assert sum(batch.counts.values()) == JOBS
    assert sum(batch.report().counts.values()) == JOBS
    assert len(batch.to_rows()) == len(batch.keys()) == JOBS
    assert {line.key for line in batch.history()} <= set(batch.keys())
    assert batch["n1"].refresh().key == "n1"
    assert str(batch)


def test_a_started_batch_is_read_while_it_runs(away_from_home):
    with Session.connect("local") as session:
        batch = session.batch("b")
        batch.map(SPEC, key="n{n}", n=range(JOBS))
        batch.start()
        while not batch.done and batch.driven_by is not None:
            read_everything(batch)
        assert batch.wait(timeout=120).ok
        read_everything(batch)


def test_a_batch_is_read_while_another_thread_runs_it(away_from_home):
    with Session.connect("local") as session:
        batch = session.batch("b")
        batch.map(SPEC, key="n{n}", n=range(JOBS))
        runner = threading.Thread(target=lambda: batch.run(progress=False))
        runner.start()
        while runner.is_alive():
            read_everything(batch)
        assert len(batch.succeeded) == JOBS


def test_jobs_are_waited_for_while_another_thread_runs_the_batch(away_from_home):
    with Session.connect("local") as session:
        batch = session.batch("b")
        batch.map(attrs.evolve(SPEC, cmd="sleep 0.{n}"), key="n{n}", n=range(1, 7))
        runner = threading.Thread(target=lambda: batch.run(progress=False))
        runner.start()
        while batch.driven_by is None:
            time.sleep(0.001)
        waiting = [threading.Thread(target=job.wait, kwargs={"timeout": 30}) for job in batch]
        for thread in waiting:
            thread.start()
        for thread in (*waiting, runner):
            thread.join(30)
        assert not runner.is_alive()
        assert len(batch.succeeded) == 6


def test_a_coroutine_runs_a_batch_in_a_thread(away_from_home):
    with Session.connect("local") as session:
        batch = session.batch("b")
        batch.map(SPEC, key="n{n}", n=range(2))
        assert asyncio.run(asyncio.to_thread(batch.run, False)).ok
