"""The values that strategies return."""

import pytest

from canfar_batch.protocols import Again


@pytest.mark.parametrize("after", [-1.0, float("nan"), float("inf")])
def test_a_pause_is_a_number_of_seconds(after):
    with pytest.raises(ValueError, match="after"):
        Again(after=after)
