#!/usr/bin/env python3
"""A job that writes a log, reports why it failed, and leaves no incomplete results.

    robust-job.py INPUT OUTPUT [--log-dir DIRECTORY]

Unchanged, it reads numbers from a text file, one per line, and writes their count, mean, smallest and largest as JSON.
Put your own work into `process`. The image needs only Python 3.8 or newer.
"""

import argparse
import json
import logging
import os
import platform
import re
import signal
import sys
import time
from pathlib import Path

# the platform sets skaha_sessionid; its guide reads SKAHA_SESSION_ID
JOB = os.environ.get("skaha_sessionid") or os.environ.get("SKAHA_SESSION_ID") or "unknown"  # noqa: SIM112

log = logging.getLogger("job")


def process(source):
    """Replace this by your own work. An exception is logged, and the job fails."""
    numbers = []
    for place, line in enumerate(source.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            numbers.append(float(line))
        except ValueError:
            raise ValueError(f"{source}, line {place}: {line!r} is not a number") from None
    if not numbers:
        raise ValueError(f"{source} holds no number")
    log.info("read %d numbers", len(numbers))
    return {
        "count": len(numbers),
        "mean": sum(numbers) / len(numbers),
        "smallest": min(numbers),
        "largest": max(numbers),
    }


def write_whole(target, text):
    """Write to a temporary file and rename it, so that there is never half a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name[:40]}.{os.urandom(6).hex()}.part")
    try:
        with part.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        if part.exists():
            part.unlink()


def set_up_logging(directory):
    """Log to the console, and to a new file: job_<id>_<time in UTC>.log."""
    directory.mkdir(parents=True, exist_ok=True)
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", JOB)
    stem = f"job_{safe}_{time.strftime('%Y%m%d_%H%M%S', time.gmtime())}"
    file = directory / f"{stem}.log"
    while True:
        try:
            file.touch(exist_ok=False)
            break
        except FileExistsError:  # this container was started twice within a second, or it runs outside of one
            file = directory / f"{stem}_{os.urandom(3).hex()}.log"
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        level=logging.INFO,
        format=f"%(asctime)s - {safe} - %(levelname)s - %(message)s",
        handlers=[logging.FileHandler(file, encoding="utf-8"), logging.StreamHandler()],
    )
    return file


def stop(number, frame):
    """End the job on a signal, with a line in its log."""
    sys.exit(128 + number)


def main():
    parser = argparse.ArgumentParser(description="Statistics of the numbers in a text file, as JSON.")
    parser.add_argument("input", type=Path, help="a text file with one number per line; lines with # are skipped")
    parser.add_argument("output", type=Path, help="the JSON file to write")
    parser.add_argument(
        "--log-dir", type=Path, default=Path("logs"), help="directory of the log (default: %(default)s)"
    )
    options = parser.parse_args()
    if not options.input.is_file():
        parser.error(f"{options.input} is not a file; relative paths start at {Path.cwd()}")
    if options.output.is_dir():
        parser.error(f"{options.output} is a directory; name a file in it")

    signal.signal(signal.SIGTERM, stop)
    file = set_up_logging(options.log_dir)
    log.info("job %s begins on %s; its log is %s", JOB, platform.node(), file)
    log.info("arguments: %s", sys.argv[1:])
    try:
        result = process(options.input)
        write_whole(options.output, json.dumps(result, indent=2) + "\n")
    except SystemExit as end:
        log.error("the job was stopped by a signal")
        return end.code
    except Exception:
        log.exception("the job failed")
        return 1
    log.info("the job is done: %s", options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
