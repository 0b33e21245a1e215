"""A batch: an ordered set of jobs with a name, a home, a ledger and four strategies.

`recorded` is what can be read of one, `planned` how its plan is made, `driven` how it is run, and `batch` the rest:
opening, cancelling, opening jobs again. Each builds on the one before.
"""

from canfar_batch.batch.batch import Batch as Batch
from canfar_batch.batch.batch import batches as batches
from canfar_batch.batch.batch import open as open  # noqa: A004 (read as canfar_batch.open)
from canfar_batch.batch.batch import prepare as prepare
