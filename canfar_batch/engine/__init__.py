"""The engine drives the jobs of one ledger: `Engine` is all that the layers above use of it.

`Engine` holds the lease and turns the loop, `stages` is one step of it; one module per stage does the work: `launch`,
`monitor`, `finish`, `retry`, `collect`. `verdict` decides how an attempt ended.
"""

from canfar_batch.engine.engine import Engine as Engine
