"""``python -m canfar_batch.local``: a platform on this machine until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading

from canfar_batch.local import IMAGES, LIMIT_RANGE, Image, LocalPlatform, Production
from canfar_batch.local.faults import bad_day, from_text

PARENT_LOOK = 0.2  #: seconds between two checks of whether the parent process still lives


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m canfar_batch.local",
        description="Run the science platform's API on this machine, with jobs as processes.",
    )
    made.add_argument("--port", type=int, default=0, help="listen here (default: any free port)")
    made.add_argument("--token", help="the bearer token to ask for (default: a random one, which is printed)")
    made.add_argument("--user", default="local", help="the user of the token (default: %(default)s)")
    made.add_argument("--cores", type=float, help="cores that jobs share (default: the machine's)")
    made.add_argument("--ram", type=float, help="GiB of RAM that jobs share (default: the machine's)")
    made.add_argument(
        "--forget-after", type=float, default=3600.0, help="seconds that finished jobs are kept (default: %(default)g)"
    )
    images = made.add_mutually_exclusive_group()
    images.add_argument("--image", action="append", default=[], metavar="ID", help="list this headless image too")
    images.add_argument("--any-image", action="store_true", help="accept images that are not listed")
    made.add_argument("--limit-range", action="store_true", help="have the limits of a cluster with a LimitRange")
    made.add_argument(
        "--production",
        action="store_true",
        help="do what CANFAR's cluster does by itself: a quota, and sessions that take the place of jobs now and then",
    )
    made.add_argument("--seed", type=int, default=0, help="the seed of --production (default: %(default)d)")
    made.add_argument("--stats", action="store_true", help="show the use of the cluster (default: answer 503)")
    made.add_argument(
        "--pull", type=float, help="seconds that a job is Pending before it runs (default: 0.05; with --production 1.2)"
    )
    made.add_argument(
        "--faults",
        action="append",
        default=[],
        metavar="TEXT",
        help="let answers go wrong, as 'drop after on=create probability=0.05 seed=7'; may be repeated",
    )
    made.add_argument("--bad-day", type=int, metavar="SEED", help="let answers go wrong in every way, from this seed")
    made.add_argument("--directory", help="keep home directory and logs here (default: a temporary directory)")
    made.add_argument("--arc", help="the directory that stands for /arc (default: arc in the directory)")
    made.add_argument("--tls", metavar="PEM", help="serve HTTPS too, with this certificate and key for localhost")
    made.add_argument("--die-with-parent", action="store_true", help="stop also when the parent process ends")
    return made


def main(argv: list[str] | None = None) -> int:
    """Run a platform until SIGINT or SIGTERM."""
    options = parser().parse_args(argv)
    try:
        faults = [from_text(text) for text in options.faults]
    except ValueError as error:
        parser().error(str(error))
    if options.bad_day is not None:
        faults += bad_day(options.bad_day)
    # asked now, so that a parent that dies while the platform starts is noticed
    parent = os.getppid()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    platform = LocalPlatform(
        options.cores,
        options.ram,
        options.forget_after,
        token=options.token,
        port=options.port,
        user=options.user,
        directory=options.directory,
        images=[*IMAGES, *map(Image, options.image)],
        strict_images=not options.any_image,
        limits=LIMIT_RANGE if options.limit_range else None,
        stats=options.stats,
        production=Production(seed=options.seed) if options.production else False,
        pull=options.pull,
        faults=faults,
        arc=options.arc,
        tls=options.tls,
    )
    with platform:
        announcement = [f"export CANFAR_URL={platform.url}"]
        if options.token is None:
            announcement.append(f"export CANFAR_TOKEN={platform.token}")
        sys.stdout.write("\n".join(announcement) + "\n")
        sys.stdout.flush()
        while not stop.wait(PARENT_LOOK if options.die_with_parent else None):
            if os.getppid() != parent:
                break
    return 0


if __name__ == "__main__":
    sys.exit(main())
