"""The engine drives a batch, or a single job: what the layers above may use of it.

`Engine` holds the lease and turns the loop; one module per stage does the work: `launch`, `monitor`, `finish`, `retry`,
`collect`. `verdict` decides how an attempt ended, `planning` turns rows into jobs, `preflight` checks them.
"""

from canfar_batch.engine.attempts import ABSENT_POLLS as ABSENT_POLLS
from canfar_batch.engine.attempts import LaunchContext as LaunchContext
from canfar_batch.engine.background import Background as Background
from canfar_batch.engine.context import Setup as Setup
from canfar_batch.engine.context import Strategies as Strategies
from canfar_batch.engine.engine import Engine as Engine
from canfar_batch.engine.estimate import Estimate as Estimate
from canfar_batch.engine.estimate import estimate_cost as estimate_cost
from canfar_batch.engine.notify import Notifier as Notifier
from canfar_batch.engine.notify import Notify as Notify
from canfar_batch.engine.notify import check_notify as check_notify
from canfar_batch.engine.planning import OutputClaims as OutputClaims
from canfar_batch.engine.planning import Plan as Plan
from canfar_batch.engine.planning import Row as Row
from canfar_batch.engine.planning import changed_identity as changed_identity
from canfar_batch.engine.planning import check_spec as check_spec
from canfar_batch.engine.planning import compared as compared
from canfar_batch.engine.planning import records as records
from canfar_batch.engine.planning import rows_of_columns as rows_of_columns
from canfar_batch.engine.planning import rows_of_grid as rows_of_grid
from canfar_batch.engine.planning import rows_of_table as rows_of_table
from canfar_batch.engine.pool import Pool as Pool
from canfar_batch.engine.pool import ThreadPool as ThreadPool
from canfar_batch.engine.pool import Workers as Workers
from canfar_batch.engine.preflight import Preflight as Preflight
from canfar_batch.engine.reopening import check_changes as check_changes
from canfar_batch.engine.reopening import reopenings as reopenings
from canfar_batch.engine.reopening import with_cause as with_cause
from canfar_batch.engine.retry import ALIKE as ALIKE
from canfar_batch.engine.standalone import Standalone as Standalone
from canfar_batch.engine.standalone import Surroundings as Surroundings
from canfar_batch.engine.standalone import found_on_platform as found_on_platform
from canfar_batch.engine.standalone import newest_events as newest_events
from canfar_batch.engine.standalone import newest_log as newest_log
from canfar_batch.engine.standalone import renew_container as renew_container
from canfar_batch.engine.turns import Turns as Turns
