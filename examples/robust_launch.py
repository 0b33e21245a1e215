"""The guide's robust launcher: repeat a command until it succeeds, three times at most.

    python examples/robust_launch.py python fetch.py https://example.org/catalogue.fits

Launches that the platform refuses temporarily, or whose answer is lost, are always handled, and do not count.
"""

import sys

import canfar_batch as cb

if len(sys.argv) < 2:
    print("usage: python robust_launch.py COMMAND [ARGUMENT...]", file=sys.stderr)
    sys.exit(2)

spec = cb.JobSpec(sys.argv[1:], image="skaha/astroconda:latest", cores=2, ram=4, timeout=3600, pending_timeout=7200)
retry = cb.Retry(2, exit_codes=cb.ANY, classes=cb.failures.TimedOut, grow_ram=2.0, pause=1)

with cb.Session.connect() as session:
    batch = session.batch("robust-launch", retry=retry)
    job = batch.add(spec)
    print(batch.run())

print(job.refresh().raise_if_failed().logs())
