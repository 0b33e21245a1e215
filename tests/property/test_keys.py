"""Keys that are made of the fields: one for each row, the same in every run."""

import json

from fakes import EPOCH
from hypothesis import given
from hypothesis import strategies as st

from canfar_batch.planning.compare import compared
from canfar_batch.planning.naming import FieldIndex
from canfar_batch.spec import JobSpec

SPEC = JobSpec("fit {n}", image="i/i")


class Plans:
    """What several runs of a script plan, without a ledger."""

    def __init__(self):
        self.jobs = {}
        self.index = FieldIndex()

    def rows(self, rows):
        keys = {key.lower(): key for key in self.jobs}
        plan = compared(
            SPEC, rows, key=None, find=lambda key: self.jobs.get(keys.get(key.lower())), next_place=len(self.jobs),
            at=EPOCH, known=self.jobs.values(), index=self.index.updated(self.jobs),
        )  # fmt: skip
        self.jobs.update({job.key: job for job in plan.fresh})
        return plan.keys


@given(
    rows=st.lists(
        st.sampled_from(["a", "a/b.x", "c/b.y", "B", "b-2", "b", 1, 1.0, "n1", 1.00001]).map(lambda n: {"n": n}),
        min_size=1,
        max_size=12,
    )
)
def test_different_rows_have_different_keys_however_they_are_planned(rows):
    at_once = Plans()
    keys = at_once.rows(rows)
    assert len({key.lower() for key in keys}) == len(rows)
    assert at_once.rows(rows) == keys
    one_by_one = Plans()
    wanted = {json.dumps(row): row for row in rows}.values()
    for row in wanted:
        one_by_one.rows([row])
    assert len(one_by_one.jobs) == len(wanted)
    assert [one_by_one.jobs[key].fields["n"] for row in rows for key in one_by_one.rows([row])] == [
        row["n"] for row in rows
    ]
