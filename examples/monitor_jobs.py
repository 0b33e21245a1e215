"""The guide's monitor: follow a batch to its end, with a line for each job that ends and the counts of all jobs.

    python examples/monitor_jobs.py parallel-files

This drives the batch, like the script that planned it. While that script runs, use `canfar-batch status` instead.
"""

import sys

import canfar_batch as cb

if len(sys.argv) != 2:
    print("usage: python monitor_jobs.py BATCH", file=sys.stderr)
    sys.exit(2)

with cb.Session.connect() as session:
    batch = session.batch(sys.argv[1])
    for job in batch.as_completed():
        why = f" ({job.failure})" if job.failure else ""
        print(f"{job.key} {job.state}{why}; " + ", ".join(f"{count} {state}" for state, count in batch.counts.items()))

print(batch.explain())
