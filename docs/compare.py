"""Check the README's comparison of the guide's scripts, the official client and this package.

    python3 -m venv official && official/bin/pip install canfar==1.5.2
    python docs/compare.py official/bin/python

Each trial uses a new local platform, which counts requests and containers. The guide's code is shortened, with today's
addresses and names, because its requests as printed reach no service.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

import requests

import canfar_batch as cb
from canfar_batch.local.faults import after, answer, drop

IMAGE = "images.canfar.net/skaha/astroml:latest"
COUNT = 10
SENT = {"words": '-c echo\t"hi"', "env": "-c env\t|\tgrep\t^A=\t||\techo\tnothing"}
SENT_ENV = {"A": "b=c"}


def platform(**settings: object) -> cb.LocalPlatform:
    return cb.LocalPlatform(cores=32, ram=64, **settings)  # type: ignore[arg-type]


def asked(place: cb.LocalPlatform) -> int:
    """Return the number of requests for the status of jobs."""
    return place.requests.counts["list"] + place.requests.counts["show"]


# -- the guide's scripts --------------------------------------------------------------------------------------------


class Guide:
    """The guide's `robust_job_launcher` and `monitor_batch_jobs`, shortened."""

    name = "guide"

    def __init__(self, place: cb.LocalPlatform) -> None:
        self._url = f"{place.url}/session"
        self._headers = {"Authorization": f"Bearer {place.token}"}

    def launch(self, args: str, env: str | None = None) -> str | None:
        form = {"name": "job", "image": IMAGE, "cores": 1, "ram": 1, "cmd": "sh", "args": args, "type": "headless"}
        for _ in range(3):
            try:
                response = requests.post(
                    self._url, headers=self._headers, data=form | ({"env": env} if env else {}), timeout=30
                )
            except requests.RequestException:
                continue  # the guide waits for 30 seconds here
            if response.status_code == 200:
                return response.text.strip()
        return None

    def poll(self, ids: list[str]) -> list[str]:
        statuses = []
        for id_ in ids:
            response = requests.get(f"{self._url}/{id_}", headers=self._headers, timeout=30)
            statuses.append("completed" if response.status_code == 404 else response.json()["status"])
        return statuses


def guide(place: cb.LocalPlatform, trial: str) -> str:
    scripts = Guide(place)
    if trial in SENT:
        env = "=".join(*SENT_ENV.items()) if trial == "env" else None
        return logs_of(place, filter(None, [scripts.launch(SENT[trial], env)]))
    ids = [scripts.launch("-c exit\t3" if trial == "gone" else "-c :") for _ in range(COUNT)]
    known = [id_ for id_ in ids if id_]
    place.wait_idle(30)
    if trial == "gone":
        for id_ in known:
            place.forget(id_)
        return f"reports {scripts.poll(known)[0]!r}"
    if trial == "looks":
        before = asked(place)
        scripts.poll(known)
        return f"{asked(place) - before} requests"
    return f"{len(place.jobs())} containers for {COUNT} jobs, {len(known)} known"


def logs_of(place: cb.LocalPlatform, ids: object) -> str:
    place.wait_idle(30)
    with cb.Session.connect(place.url, token=place.token) as session:
        logs = [session.job(id_).logs().strip() for id_ in ids]  # type: ignore[attr-defined]
    return f"printed {logs}" if logs else "not launched"


# -- the official client, in an environment of its own ---------------------------------------------------------------

OFFICIAL = """
import json, logging, sys
from canfar.sessions import Session

logging.disable(logging.CRITICAL)
trial, count, image = sys.argv[1], int(sys.argv[2]), sys.argv[3]
session = Session()
asks = dict(name="job", image=image, kind="headless", cores=1, ram=1, cmd="sh")
if trial in ("words", "env"):
    args, env = json.loads(sys.argv[4])
    ids = session.create(**asks, args=args, env=env)
elif trial in ("look", "gone-look"):
    ids = json.loads(sys.argv[4])
    print(json.dumps(session.info(ids)))
    raise SystemExit
else:
    ids = session.create(**asks, args="-c exit\\t3" if trial == "gone" else "-c :", replicas=count)
print(json.dumps(ids))
"""


def official(place: cb.LocalPlatform, trial: str, python: Path) -> str:
    def run(*words: str) -> list:
        with tempfile.TemporaryDirectory() as home:
            kept = {"PATH": os.environ["PATH"], "HOME": home, "CANFAR_URL": place.url, "CANFAR_TOKEN": place.token}
            done = subprocess.run(
                [python, "-c", OFFICIAL, *words], env=kept, capture_output=True, text=True, check=True
            )
        return json.loads(done.stdout.splitlines()[-1])

    sent = (SENT[trial], SENT_ENV if trial == "env" else None) if trial in SENT else ()
    ids = run(trial, str(COUNT), IMAGE, json.dumps(sent))
    if trial in SENT:
        return logs_of(place, ids)
    place.wait_idle(30)
    if trial == "gone":
        for id_ in ids:
            place.forget(id_)
        return f"{len(run('look', '0', IMAGE, json.dumps(ids)))} of {COUNT} are in the answer"
    if trial == "looks":
        before = asked(place)
        run("look", "0", IMAGE, json.dumps(ids))
        return f"{asked(place) - before} requests by info(ids)"
    return f"{len(place.jobs())} containers for {COUNT} jobs, {len(ids)} known, no exception"


# -- this package ---------------------------------------------------------------------------------------------------


def ours(place: cb.LocalPlatform, trial: str) -> str:
    with (
        tempfile.TemporaryDirectory(dir=Path.home()) as home,
        cb.Session.connect(place.url, token=place.token) as session,
    ):
        batch = session.batch("compared", home=home, settle=2.0, launch=cb.AtOnce(), retry=cb.Retry(2, pause=1))
        if trial in SENT:
            env = SENT_ENV if trial == "env" else {}
            batch.add(cb.JobSpec(["sh", *SENT[trial].split(" ")], image=IMAGE, env=env))
        else:
            batch.replicas(cb.JobSpec(["sh", "-c", "exit 3" if trial == "gone" else ":"], image=IMAGE), COUNT)
        if trial in ("gone", "looks"):
            batch.launch()
            place.wait_idle(30)
        if trial == "gone":
            for job in place.jobs():
                place.forget(job.id)
        if trial == "looks":
            before = asked(place)
            batch.observe()
            return f"{asked(place) - before} request"
        batch.run(progress=False, stop_alike=None)
        if trial in SENT:
            return f"printed {[job.logs().strip() for job in batch]}"
        if trial == "gone":
            job = next(iter(batch))
            return f"reports {str(job.state)!r}, {job.failure.cause if job.failure else ''}"
        return f"{len(place.jobs())} containers for {COUNT} jobs, {batch.counts[cb.JobState.SUCCEEDED]} succeeded"


TRIALS = {
    "lost": "the answer to one launch in ten is lost",
    "refused": "one launch in ten gets a 503",
    "words": """a job with the command: sh -c 'echo "hi"'""",
    "env": "a job with A=b=c in its environment, which it prints",
    "gone": "ten jobs fail, and the platform forgets them before the first poll",
    "looks": "one poll of ten jobs",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("official", type=Path, help="the Python of an environment that has the official client")
    options = parser.parse_args()
    players = {"guide": guide, "canfar": lambda *given: official(*given, options.official.absolute()), "ours": ours}
    for trial, words in TRIALS.items():
        print(f"\n{words}")
        for name, player in players.items():
            with platform() as place:
                if trial == "lost":
                    place.faults.add(after(drop()), on="create", nth=5)
                if trial == "refused":
                    place.faults.add(answer(503, "temporarily unavailable", {"Retry-After": "1"}), on="create", nth=5)
                print(f"  {name:7} {player(place, trial)}", flush=True)


if __name__ == "__main__":
    main()
