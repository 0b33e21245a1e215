"""The guide's collection of results: each file that a batch made, with its size. It needs no connection.

    python examples/collect_results.py parallel-files

The sizes are those that the jobs reported at their end, so this works where the files themselves cannot be seen, too.
"""

import sys

import canfar_batch as cb

if len(sys.argv) != 2:
    print("usage: python collect_results.py BATCH", file=sys.stderr)
    sys.exit(2)

with cb.open(sys.argv[1]) as batch:
    sizes = {file: size for job in batch for file, size in job.outputs.items()}
    failed = batch.failed

print(f"found {len(sizes)} result files:")
for file, size in sorted(sizes.items()):
    print(f"  {file}: {size or 0:,} bytes")
for job in failed:
    print(f"  {job.key} made none: {job.failure}")
