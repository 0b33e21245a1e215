"""The guide's collection of results: list each output file of a batch with its size, without a connection.

    python examples/collect_results.py parallel-files

The jobs reported the sizes at their end, so this also works on a machine that does not see the files.
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
    print(f"  {job.key} made no file: {job.failure}")
