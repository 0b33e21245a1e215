"""Play histories of batches on a simulated platform, each drawn from a seed, and check every promise in each.

    python tests/simulate.py --histories 10000 --processes 2
    python tests/simulate.py --seed 4711 --tell
    python tests/simulate.py --minutes 60

The engine, the ledger and the strategies are the real ones; the platform, the clock and the drivers' deaths are
simulated (see `docs/explanation/reliability.md`). The seed of a history in which a promise was broken is printed;
`--seed` plays exactly this history again.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import itertools
import logging
import sys
import time

from simulation.history import PromiseBroken, play

CHUNK = 50  #: histories that a process plays before it reports


def main(arguments=None):
    """Run the command, and return the exit code: 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--histories", type=int, default=200, help="how many to play (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the seed of the first; the others follow")
    parser.add_argument("--minutes", type=float, help="play until this time is up, instead of a number of histories")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, help="play only the history of this seed")
    parser.add_argument("--tell", action="store_true", help="print all that happened in it")
    asked = parser.parse_args(arguments)
    if asked.seed is not None:
        return tell(asked.seed, everything=asked.tell)
    begun, total, broken = time.monotonic(), collections.Counter(), []
    last = None if asked.minutes is not None else asked.first + asked.histories
    until = None if asked.minutes is None else begun + 60 * asked.minutes
    for counts, found in outcomes(asked.first, last, until, processes=asked.processes):
        total.update(counts)
        broken += found
        for line in found:
            print(line, flush=True)
    seconds = time.monotonic() - begun
    count = total["histories"] + len(broken)
    print(f"seeds {asked.first} to {asked.first + count - 1}: {len(broken)} with a promise broken")
    print(", ".join(f"{number} {what}" for what, number in sorted(total.items())))
    print(f"{seconds:.0f} s, {count / seconds:.1f} histories a second")
    return int(bool(broken))


def outcomes(first, last, until, *, processes):
    """Yield what came of each chunk of seeds: the counts, and a line for each broken promise."""
    beginnings = itertools.count(first, CHUNK) if last is None else range(first, last, CHUNK)
    chunks = (range(begin, begin + CHUNK if last is None else min(begin + CHUNK, last)) for begin in beginnings)
    if processes == 1:
        for chunk in chunks:
            if until is not None and time.monotonic() >= until:
                return
            yield play_all(chunk)
        return
    with concurrent.futures.ProcessPoolExecutor(processes) as pool:
        waiting = collections.deque(pool.submit(play_all, chunk) for chunk in itertools.islice(chunks, 2 * processes))
        while waiting:
            yield waiting.popleft().result()
            if until is None or time.monotonic() < until:
                waiting.extend(pool.submit(play_all, chunk) for chunk in itertools.islice(chunks, 1))


def play_all(seeds):
    """Play these histories; return the counts, and a line for each broken promise."""
    counts, broken = collections.Counter(), []
    with silence():
        for seed in seeds:
            try:
                counts.update(play(seed).counts)
            except PromiseBroken as error:
                broken.append(str(error).splitlines()[0][:300])
    return counts, broken


@contextlib.contextmanager
def silence():
    """Let the package log nothing inside: every history has hundreds of warnings."""
    log = logging.getLogger("canfar_batch")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def tell(seed, *, everything):
    """Play one history, and print how it went."""
    try:
        with silence():
            history, error = play(seed), None
    except PromiseBroken as broken:
        history, error = broken.history, broken
    if everything:
        print("\n".join(history.lines))
    print(history.scenario)
    print(f"seed {seed}: {history.digest}, {len(history.lines)} events", error or "", sep="\n")
    return int(error is not None)


if __name__ == "__main__":
    sys.exit(main())
