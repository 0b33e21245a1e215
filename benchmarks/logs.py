"""Measure the memory that large logs cost the driver: 10 jobs end together, each with a log of 150 MB.

    python benchmarks/logs.py           # 10 logs of 150 MB
    python benchmarks/logs.py 4 60      # number of jobs, MB of each log

The local platform runs in a process of its own. Each job writes its log and ends once the last one has written its
own. The figure is the resident memory of the driver at its peak, less that at the beginning of the run; the limit is
50 MB. The run needs twice the size of the logs on disk.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import canfar_batch as cb

LINE = 100  # bytes
JOB = """
import pathlib, sys, time
own, others, lines = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
for _ in range(lines // 10_000):
    sys.stdout.write(("x" * 99 + "\\n") * 10_000)
sys.stdout.flush()
own.touch()
while len(list(own.parent.glob("*.written"))) < others:
    time.sleep(0.2)
"""


def resident() -> float:
    """The resident memory of this process, MB."""
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1000  # type: ignore[index]


class Peak(threading.Thread):
    """Follows the resident memory of this process until `over`."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.highest, self.over = 0.0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.02):
            self.highest = max(self.highest, resident())


def main() -> None:
    jobs, size = (int(word) for word in (sys.argv[1:] or ["10", "150"]))
    command = [sys.executable, "-m", "canfar_batch.local", "--cores", str(jobs), "--ram", str(jobs)]
    with (
        tempfile.TemporaryDirectory() as place,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=place) as platform,
    ):
        try:
            assert platform.stdout is not None
            address = dict(re.findall(r"export (CANFAR_\w+)=(\S+)", "".join(_head(platform.stdout))))
            os.chdir(place)
            script = Path("job.py")
            script.write_text(JOB)
            with cb.Session.connect(address["CANFAR_URL"], token=address["CANFAR_TOKEN"]) as session:
                batch = session.batch("logs", home=Path(place, "home"), launch=cb.AtOnce())
                spec = cb.JobSpec(
                    ["python", "job.py", "{key}.written", str(jobs), str(size * 1_000_000 // LINE)],
                    image="skaha/astroml:latest", cores=1, ram=1,
                )  # fmt: skip
                batch.map(spec, key="j{n}", n=range(jobs))
                before, peak, begun = resident(), Peak(), time.monotonic()
                peak.start()
                report = batch.run(progress=False)
                peak.over.set()
                peak.join()
                saved = sum(job.log.stat().st_size for job in batch if job.log is not None)
            assert report.ok, report
            print(
                f"{jobs} logs of {size} MB ({saved / 1e6:,.0f} MB saved): {peak.highest - before:.0f} MB more "
                f"({before:.0f} MB before, {peak.highest:.0f} MB at most), {time.monotonic() - begun:.0f} s"
            )
        finally:
            platform.terminate()


def _head(lines: object) -> list[str]:
    """The lines that the platform prints at its start, up to the token."""
    found: list[str] = []
    for line in lines:  # type: ignore[attr-defined]
        found.append(line)
        if "CANFAR_TOKEN" in line:
            return found
    return found


if __name__ == "__main__":
    main()
