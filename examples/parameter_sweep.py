"""The guide's parameter sweep: one job for each combination of threshold, sigma and method, and a table of results.

    python examples/parameter_sweep.py

Without CANFAR_URL=local it runs on CANFAR; then this folder must be below /arc.
"""

from pathlib import Path

import canfar_batch as cb

script = Path(__file__).with_name("analysis_with_params.py").resolve()
analysis = cb.JobSpec(
    f"python {script} --threshold {{threshold}} --sigma {{sigma}} --method {{method}}",
    image="skaha/astroconda:latest",
    cores=1,
    ram=2,
)

with cb.Session.connect() as session:
    batch = session.batch("parameter-sweep", collect=cb.Json())
    batch.grid(analysis, threshold=[0.1, 0.5, 1.0], sigma=[1.0, 2.0, 3.0], method=["gaussian", "tophat"])
    batch.run().raise_if_failed()

for row in batch.to_rows():
    print(f"{row['threshold']:9} {row['sigma']:9} {row['method']:>9} {row['result_peaks']:6} peaks")
print(f"table of all jobs: {batch.to_csv('sweep.csv')}")
