"""The guide's monitor: follow a batch to its end; a line for each job that is over, with the counts of all.

    python examples/monitor_jobs.py parallel-files

It drives the batch, as the script that planned it did. Where that script still runs, `canfar-batch status` looks on.
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
