"""The guide's check before a launch: the resources in use, the limits of a job, and likely problems.

    python examples/check_resources.py python process.py input.fits

Headless jobs wait in a queue until there is room, so this check only informs you.
"""

import sys

import canfar_batch as cb

if len(sys.argv) < 2:
    print("usage: python check_resources.py COMMAND [ARGUMENT...]", file=sys.stderr)
    sys.exit(2)

with cb.Session.connect() as session:
    usage, limits = session.usage(), session.limits()
    print(f"in use: {usage.running} running, {usage.pending} pending, {usage.cores:g} cores, {usage.ram:g} GiB")
    print(f"for one job: up to {max(limits.cores)} cores and {max(limits.ram)} GiB")

    batch = session.batch("check-resources")
    batch.add(cb.JobSpec(sys.argv[1:], image="skaha/astroconda:latest", cores=2, ram=4))
    print(batch.preflight())
    print(batch.preview())
